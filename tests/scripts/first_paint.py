"""First contentful paint of the page, the server warm and models loading behind it. Prints one JSON object.

    python tests/scripts/first_paint.py [TIMES]

The embedded model is loaded again and again all the while, so that every page is opened during a load. Each of TIMES
(5) pages is a new browser context, with nothing cached; one before them warms the server and is not counted.
`race_button_ms` is when the Race button could be pressed. Times are the browser's own, from navigation.
"""

import json
import statistics
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from playwright.sync_api import sync_playwright

from dspark_core.playground.engine import PresetEngine
from dspark_core.presets import load_presets
from tests.browser.tab import ARGS
from tests.playground.serving import served

LIMIT_MS = 1500
PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


def opened(browser, url):
    """(first contentful paint, the Race button) of a fresh page, in ms; and what it says is loaded."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    page = context.new_page()
    page.goto(url, wait_until="commit")
    page.wait_for_selector("#race")
    button = page.evaluate("performance.now()")
    page.wait_for_function(PAINT)
    paint = page.evaluate(PAINT)
    page.wait_for_function("document.querySelector('#models')?.innerText.includes('Loading')")
    context.close()
    return round(paint), round(button)


def main():
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    preset, over, loads = load_presets()[0], threading.Event(), []

    def load(progress):
        while True:
            engine = PresetEngine(preset, "auto", progress)
            loads.append(engine.name)
            if over.is_set():
                return engine
            engine.unload()

    with served(load) as server, sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=ARGS)
        _, *seen = [opened(browser, server.url) for _ in range(times + 1)]
        browser.close()
        over.set()
        while not server.worker.ready:  # the last load ends
            time.sleep(0.1)
    paints, buttons = zip(*seen, strict=True)
    median = statistics.median(paints)
    print(json.dumps({
        "first_contentful_paint_ms": paints, "median_ms": median, "under_1500_ms": median < LIMIT_MS,
        "race_button_ms": statistics.median(buttons), "loads_meanwhile": len(loads),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
