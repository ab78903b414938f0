"""From a slider's event to another picture, in the browser: python tests/scripts/slider_latency.py

Prints the machine's load average and, for every slider of What if and of Many users, milliseconds of 60 moves: the
median and the 95th of 100. Tiny models and the recorded races serve: what is drawn does not depend on them.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from playwright.sync_api import sync_playwright

from tests.browser.tab import ARGS, Tab
from tests.playground.serving import served
from tests.playground.tiny import TinyEngine

MOVES = """async id => {
    const took = [], slider = document.querySelector(id);
    const plot = slider.closest('.part').querySelector('figure:last-child .plot');
    const least = Number(slider.min), most = Number(slider.max);
    for (let k = 0; k < 60; k += 1) {
        const before = plot.innerHTML;
        slider.value = String(least + (most - least) * (k % 2 ? 0.1 : 0.9));
        const began = performance.now();
        slider.dispatchEvent(new Event('input', { bubbles: true }));
        while (plot.innerHTML === before && performance.now() < began + 5000) await new Promise(requestAnimationFrame);
        took.push(performance.now() - began);
    }
    return took.sort((a, b) => a - b);
}"""


def main() -> None:
    with served(TinyEngine) as server, sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=ARGS)
        tab = Tab(browser, server.url + "/?open=what-if&what-if=start:h200-smollm2,accept:0.8,batch:2")
        for part in ("what-if", "many-users"):
            tab.page.wait_for_selector(f"#{part} .part:not([hidden])", timeout=120_000)
        print(f"load {os.getloadavg()[0]:.1f}")
        for knob in ("accept", "draft", "further", "cap", "batch", "users"):
            took = tab.page.evaluate(MOVES, f"#knob-{knob}")
            print(f"{knob}: median {took[30]:.0f} ms, p95 {took[56]:.0f} ms", flush=True)
        browser.close()


if __name__ == "__main__":
    main()
