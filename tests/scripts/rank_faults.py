"""Ranks lost while the page does one thing or another, and what it shows: `python -m tests.scripts.rank_faults`.

    python -m tests.scripts.rank_faults [--faults race:KILL:1 load:STOP:1 ...] [--times N]

A fault is what the page does, a signal, and the rank whose process gets it. On tiny models over two ranks, in a real
browser. After each, the page has to say within 10 s what was lost, to load the model again by its own button, and to
race on it. Ends with status 1 where it did not.
"""

import argparse
import http.client
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from dspark_core.models.group import Group
from dspark_core.playground.engine import PresetEngine, unload_lost
from dspark_core.playground.selection import ModelSources
from dspark_core.presets import Preset, PresetDrafter, PresetTarget
from tests.browser.tab import ARGS, Tab
from tests.models.build import GOLDEN, talking_target
from tests.models.rank_group import Followers, ranks
from tests.playground.serving import Served, served

FAULTS = [f"{what}:KILL:1" for what in ("race", "load", "measure", "idle", "proof", "endpoint")]
FAULTS += ["race:STOP:1", "idle:STOP:1", "load:STOP:1", "race:KILL:0", "idle:KILL:0", "race:STOP:0"]
LOADED = "document.querySelector('#models').innerText.includes(', on 2 machines')"
BROWSERS = "chromium", "chromium-browser", "google-chrome"
SOON_S, LATE_S = 10.0, 300.0


class Faults:
    """A page over two ranks, and what is done to them."""

    def __init__(self, page: Served, tab: Tab, group: Group, followers: Followers):
        self.page, self.tab, self.group, self.followers = page, tab, group, followers

    def wait(self, script: str, seconds: float = LATE_S) -> float:
        """Seconds until a condition held in the browser."""
        began = time.monotonic()
        self.tab.page.wait_for_function(script, timeout=1000 * seconds)
        return time.monotonic() - began

    def go_to(self, name: str) -> None:
        self.tab.page.get_by_role("tab", name=name, exact=True).click()

    def begin(self, what: str) -> None:
        """Bring the page to where the fault comes."""
        page = self.tab.page
        self.wait(LOADED)
        if what == "race":
            self.go_to("Race")
            self.race(480)
            while self.page.worker.running["running"] != "race":
                time.sleep(0.01)
            time.sleep(0.5)
        elif what == "load":
            self.go_to("Models")
            page.click("#unload")
            self.wait("document.querySelector('#models').innerText.includes('No model is loaded')")
            page.click("#load")
            self.wait("document.querySelector('#shelf-progress').innerText.length > 12")
        elif what == "measure":
            self.go_to("Cost model")
            page.click("#measure")
            time.sleep(0.5)
        elif what == "proof":
            self.go_to("Prove it")
            page.click("#draw-row")
            time.sleep(1.5)
        elif what == "endpoint":
            self.answer: list[str] = []
            threading.Thread(target=self._ask, daemon=True).start()
            while not self.answer:
                time.sleep(0.05)

    def _ask(self) -> None:
        """A long answer, streamed; what came last."""
        asked = {"messages": [{"role": "user", "content": "Hello"}], "stream": True, "max_tokens": 3000}
        asked |= {"model": "dspark", "ignore_eos": True}
        connection = http.client.HTTPConnection("127.0.0.1", self.page.port, timeout=60)
        connection.request("POST", "/v1/chat/completions", json.dumps(asked), {"Content-Type": "application/json"})
        for line in connection.getresponse():
            if line.strip():
                self.answer.append(line.decode().strip())

    def race(self, tokens: int) -> None:
        """Sets the length by a link's words, and presses Race."""
        page = self.tab.page
        box = page.locator("#max-tokens input[type=number]")
        if not box.is_visible():
            page.get_by_role("button", name="Lanes and settings").click()
        box.fill(str(tokens))
        box.blur()
        page.evaluate("document.body.dataset.race = ''")
        self.tab.race("Tell me a story.")

    def strike(self, number: str, rank: int) -> None:
        process = self.group._process
        pid = self.followers.rank_process(rank) if rank else process.process.pid if process else 0
        os.kill(pid, getattr(signal, f"SIG{number}"))

    def run(self, fault: str) -> str:
        """What came of it, in words. Raises AssertionError, and playwright's timeouts."""
        what, number, rank = fault.split(":")
        self.begin(what)
        shown = self.tab.page.evaluate("document.querySelectorAll('.round').length")
        self.strike(number, int(rank))
        lost = "document.querySelector('#models').innerText.includes('is lost: load it')"
        if what == "load":
            # In the answer to the click, or in the head where the load was over sooner.
            lost = f"{lost} || document.querySelector('#shelf-verdict').innerText.includes('is lost: load it')"
        said = self.wait(lost)
        if what == "race":
            said += self.wait("document.querySelector('#board').innerText.includes('is lost: load it')")
            assert self.tab.page.evaluate("document.querySelectorAll('.round').length") >= shown
        if what == "endpoint":
            assert "is lost: load it" in self.answer[-1], self.answer[-1]
        self.go_to("Models")
        self.tab.page.click("#load")
        loaded = self.wait(LOADED)
        self.go_to("Race")
        self.race(8)
        began = self.wait("['running', 'done'].includes(document.body.dataset.race)")
        done = self.wait("document.body.dataset.race === 'done'")
        assert "Identical output" in self.tab.page.inner_text(".board-verdict")
        good = "" if said < SOON_S else "  LATE"
        return f"said {said:.1f} s, loaded {loaded:.1f} s, race began {began:.1f} s, done {done:.1f} s{good}"


@contextmanager
def a_page(place: Path) -> Iterator[Faults]:
    from playwright.sync_api import sync_playwright

    target = talking_target(place / "talking")
    drafters = tuple(PresetDrafter(m, GOLDEN / d / "drafter") for m, d in (("DSpark", "A"), ("DFlash", "C")))
    preset = Preset("tiny", "Tiny", target, drafters, targets=(PresetTarget("bf16", target),))
    with ranks(2, place) as (group, followers), sync_playwright() as play:
        start: Callable[[Any], PresetEngine] = partial(PresetEngine, preset, "auto")
        with served(start, ModelSources([preset])) as page:
            page.worker._idle = lambda engine: engine.prepare()
            page.worker.may_lose = True
            group.lost = partial(unload_lost, page.worker)
            browser = play.chromium.launch(
                executable_path=next(filter(None, map(shutil.which, BROWSERS)), None), args=ARGS
            )
            try:
                tab = Tab(browser, page.url)
                faults = Faults(page, tab, group, followers)
                faults.wait(LOADED)
                yield faults
            finally:
                browser.close()


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--faults", nargs="+", default=FAULTS)
    p.add_argument("--times", type=int, default=1)
    a = p.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory() as place, a_page(Path(place)) as faults:
        for fault in a.faults * a.times:
            words = ""
            try:
                words = faults.run(fault)
            except Exception as error:
                words = f"FAILED {error!r:.400} at line {error.__traceback__.tb_next.tb_lineno}"
                with suppress(Exception):
                    faults.tab.page.screenshot(path=f"/tmp/rank-fault-{fault.replace(':', '-')}.png")
            bad += "FAILED" in words or "LATE" in words
            print(f"{fault}: {words}", flush=True)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
