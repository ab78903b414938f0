"""The replay under load: a race of 3 x 4,096 tokens, opened, played and scrubbed. Prints the figures.

    python tests/scripts/replay_load.py [TOKENS] [SECONDS]

It is played at 1 x for SECONDS of its 300, which is 20 updates a second; latency is from the tick that shows a moment
until the frame after it has been drawn. Then the scrubber is set to 40 moments from a fixed seed,
to and fro: the time until the frame after, and whether every pane shows what the file says of that moment (text and
figures, worked out from it in Python). A long task is what Chromium reports as one (50 ms and more), after the file
was opened.
"""

import json
import random
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from playwright.sync_api import sync_playwright

from dspark_core.race.trace import dumps
from tests.browser.steps import expected, open_file, said, standing
from tests.browser.tab import ARGS, Tab, replay
from tests.playground.serving import served
from tests.race.long_trace import long_trace

SPAN = 300.0

WATCH = """() => {
  window.long = [];
  new PerformanceObserver(list => { for (const e of list.getEntries()) window.long.push(e.duration); })
    .observe({ type: 'longtask' });
}"""

# Each tick writes the clock; from there until the frame after it has been drawn.
PLAY = """seconds => new Promise(resolve => {
  const waits = [], button = document.querySelector('.replay-play');
  const watching = new MutationObserver(() => {
    const told = performance.now();
    requestAnimationFrame(() => { const drawn = new MessageChannel();
      drawn.port1.onmessage = () => waits.push(performance.now() - told); drawn.port2.postMessage(0); });
  });
  watching.observe(document.querySelector('.replay-clock'), { childList: true });
  button.click();
  setTimeout(() => { button.click(); watching.disconnect(); resolve(waits); }, 1000 * seconds);
})"""

SEEK = """moment => new Promise(resolve => {
  const slider = document.querySelector('.replay-at'), began = performance.now();
  slider.value = moment;
  slider.dispatchEvent(new Event('input'));
  requestAnimationFrame(() => { const drawn = new MessageChannel();
    drawn.port1.onmessage = () => resolve(performance.now() - began); drawn.port2.postMessage(0); });
})"""


def main():
    tokens = int(sys.argv[1]) if len(sys.argv) > 1 else 4096
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 30.0
    trace = long_trace(tokens, seconds=SPAN)
    dice = random.Random(4)
    moments = [dice.uniform(0, SPAN) for _ in range(38)] + [0.0, SPAN]
    with served(lambda progress: replay()) as server, sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=ARGS)
        tab = Tab(browser, server.url)
        page = tab.page
        open_file(tab, dumps(trace))
        said(tab, "Opened")
        tab.until("done", 120)
        page.wait_for_timeout(3000)
        page.evaluate(WATCH)
        page.evaluate(SEEK, SPAN / 2)  # in the middle, where much stands on the page
        waits = page.evaluate(PLAY, seconds)
        seeks, right = [page.evaluate(SEEK, moment) for moment in moments], 0
        long = page.evaluate("window.long")
        for moment in moments:  # again, for reading the whole page takes longer than showing it
            page.evaluate(SEEK, moment)
            shown, meant = standing(page), expected(trace, float(page.input_value(".replay-at")))
            right += shown == meant
            for a, b in zip(shown, meant, strict=True):
                if a != b:
                    print(f"at {moment}: {a[0], a[2:]} is shown, not {b[0], b[2:]}", file=sys.stderr)
        browser.close()
    q = statistics.quantiles(waits, n=100)
    print(json.dumps({
        "tokens_per_lane": tokens, "played_s": seconds, "updates_per_s": round(len(waits) / seconds, 1),
        "latency_ms": {"p50": round(q[49]), "p95": round(q[94]), "max": round(max(waits))},
        "scrubs": len(seeks), "right": right,
        "scrub_ms": {"median": round(statistics.median(seeks)), "max": round(max(seeks))},
        "long_tasks": {"count": len(long), "longest_ms": round(max(long, default=0))},
    }))  # fmt: skip


if __name__ == "__main__":
    main()
