"""The board under load: 3 x 4,096 tokens from recorded rounds, 20 updates a second. Prints the figures.

    python tests/scripts/board_load.py [TOKENS] [SECONDS]

The recording is fed at its own pace, TOKENS a lane in SECONDS (4096 in 60; 4096 in 13.65 are 300 tok/s a lane);
pace_kept is SECONDS over the seconds the engine took with the browser connected.

Latency is from the moment the server yields an update to the first animation frame in which its last round is
in the page. A long task is what Chromium reports as one (50 ms and more), counted from after the page has loaded.
"""

import json
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from playwright.sync_api import sync_playwright

from dspark_core.decode.rounds import Start
from dspark_core.playground import race_request
from dspark_core.playground.tabs import race_tab
from tests.browser.tab import ARGS, Tab, replay
from tests.playground.serving import served

WATCH = """() => {
  window.seen = []; window.long = []; let last = -1;
  new PerformanceObserver(list => { for (const e of list.getEntries()) window.long.push(e.duration); })
    .observe({ type: 'longtask' });
  const look = () => {
    const newest = document.querySelector('.pane .text')?.lastElementChild?.lastElementChild;
    const n = Number(newest?.dataset.round ?? -1) + 1;
    if (n !== last) { window.seen.push([Date.now(), n]); last = n; }
    requestAnimationFrame(look);
  };
  look();
}"""


def main():
    tokens = int(sys.argv[1]) if len(sys.argv) > 1 else 4096
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 60.0
    race_request.MAX_TOKENS = max(race_request.MAX_TOKENS, tokens)
    engine = replay([f" w{k}" + "\n" * (k % 11 == 0) for k in range(tokens)], pace=1.0)
    for lane in engine.rounds:  # the whole recording in `seconds`, every lane at its own even pace
        span = lane[-1].time_s
        lane[1:] = [replace(event, time_s=seconds * event.time_s / span) for event in lane[1:]]
    sent, ran = [], []
    updates, race = race_tab.board_updates, engine.race

    def clocked(request, cancelled):
        events, began = race(request, cancelled), None
        for lane, event in events:
            began = began or (time.perf_counter() if isinstance(event, Start) else None)
            yield lane, event
        ran.append(time.perf_counter() - began)

    engine.race = clocked

    def timed(worker, request, session):
        for value, raced in updates(worker, request, session):
            newest = value.rfind("\x1eD\x1f0\x1f")  # the plain lane's newest round; its index is the next field
            if newest >= 0:
                sent.append((1000 * time.time(), int(value[newest + 5 :].split("\x1f", 1)[0]) + 2))
            yield value, raced

    race_tab.board_updates = timed
    with served(lambda progress: engine) as page, sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=ARGS)
        tab = Tab(browser, page.url)
        tab.page.wait_for_timeout(3000)
        tab.page.evaluate(WATCH)
        tab.settings(max_tokens=512)
        began = time.time()
        tab.race()
        tab.until("done", 300)
        took = time.time() - began
        seen, long = tab.page.evaluate("[window.seen, window.long]")
        text = len(tab.answer(0))
        browser.close()
    latencies, at, before = [], 0, 0
    for when, count in sent:
        while at < len(seen) and seen[at][1] < count:
            at += 1
        if count > before and at < len(seen):
            latencies.append(seen[at][0] - when)
        before = count
    q = statistics.quantiles(latencies, n=100)
    print(json.dumps({
        "tokens_per_lane": tokens, "updates": len(sent), "seconds": round(took, 1),
        "pace_kept": round(seconds / ran[0], 3),
        "characters": text,
        "latency_ms": {"p50": round(q[49]), "p95": round(q[94]), "max": round(max(latencies))},
        "long_tasks": {"count": len(long), "longest_ms": round(max(long, default=0))},
    }))  # fmt: skip


if __name__ == "__main__":
    main()
