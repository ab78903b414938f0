"""What a connected browser costs a race with the embedded model. Prints one row a pair, then the medians.

    python tests/scripts/race_cost.py [--pairs 5] [--tokens 40] [--engine-cores 2,3] [--browser-cores 0,1]

The same race runs with its page open in Chromium and with no page at all (its events are only counted), in turns;
each lane's tok/s are compared by pairs; cpu_s is the process's CPU time for the race. The engine and the server share
one process on the engine's cores, the browser has its own, as far as the machine can pin threads (Linux).
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from playwright.sync_api import sync_playwright

from dspark_core.playground.engine import PresetEngine
from dspark_core.playground.worker import race_job
from dspark_core.presets import load_presets, load_prompts
from dspark_core.race.metrics import metrics
from dspark_core.race.records import RaceRecord
from tests.browser.tab import ARGS, Tab
from tests.playground.serving import served


class Recorded:
    """The engine, with the record and the request of its last race kept."""

    def __init__(self, engine):
        self.engine = engine

    def __getattr__(self, name):
        return getattr(self.engine, name)

    def race(self, request, cancelled):
        self.request = request
        for lane, event in self.engine.race(request, cancelled):
            if isinstance(event, RaceRecord):
                self.record = event
            yield lane, event

    def speeds(self):
        return [metrics(lane).tok_s for lane in self.record.lanes]


def pin(cores):
    """This thread, and the threads and processes that it starts from now on."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
        return sorted(os.sched_getaffinity(0))


def cores(text):
    return [int(core) for core in text.split(",")] if text else []


def alone(server, request):
    """The same race with no page: its events are taken and dropped."""
    for _ in server.worker.events(race_job("nobody", request)):
        pass
    server.until_idle()


def in_page(server, tab):
    tab.page.click("#race")
    tab.until("running", 10)
    tab.until("done", 300)
    server.until_idle()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--pairs", type=int, default=5)
    p.add_argument("--tokens", type=int, default=40)
    p.add_argument("--engine-cores", type=cores, default=[])
    p.add_argument("--browser-cores", type=cores, default=[])
    a = p.parse_args()
    preset, kept = load_presets()[0], []

    def load(progress):
        kept.append(Recorded(PresetEngine(preset, "auto", progress)))
        return kept[0]

    with sync_playwright() as play:
        pinned = {"browser_cores": pin(a.browser_cores)}
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=ARGS)
        pinned["engine_cores"] = pin(a.engine_cores)
        with served(load) as server:
            tab = Tab(browser, server.url)
            tab.page.wait_for_function("document.querySelector('#models').innerText.includes('bf16')", timeout=120_000)
            tab.settings(max_tokens=a.tokens)
            tab.page.fill("#prompt textarea", load_prompts()[0].text)
            in_page(server, tab)  # warm-up; and the request that the page makes
            engine, ratios = kept[0], []
            request = engine.request
            for k in range(a.pairs):
                speeds, spent = {}, {}
                for how in ("page", "alone") if k % 2 == 0 else ("alone", "page"):
                    if how == "alone":
                        tab.page.goto("about:blank")  # no page is connected
                    began = time.process_time()
                    in_page(server, tab) if how == "page" else alone(server, request)
                    spent[how] = time.process_time() - began
                    speeds[how] = engine.speeds()
                    if how == "alone":
                        tab = reopen(tab, server, a.tokens)
                ratios.append([p / q for p, q in zip(speeds["page"], speeds["alone"], strict=True)])
                row = {how: [round(speed, 3) for speed in lanes] for how, lanes in speeds.items()}
                print(json.dumps(row | {"cpu_s": {how: round(s, 2) for how, s in spent.items()}}), flush=True)
            browser.close()
    lanes = [lane.spec.name for lane in engine.record.lanes]
    medians = {name: round(statistics.median(r[i] for r in ratios), 4) for i, name in enumerate(lanes)}
    whole = statistics.median(statistics.mean(r) for r in ratios)
    print(json.dumps({"with_page_over_without": medians, "all_lanes": round(whole, 4), "pairs": a.pairs} | pinned))


def reopen(tab, server, tokens):
    tab.page.goto(server.url)
    tab.page.wait_for_function("document.querySelector('#models')?.innerText.includes('bf16')", timeout=30_000)
    tab.settings(max_tokens=tokens)
    tab.page.fill("#prompt textarea", load_prompts()[0].text)
    time.sleep(1)
    return tab


if __name__ == "__main__":
    main()
