"""How long a visitor waits for the first token, in a real browser, each time from a fresh start without a cost curve.

    python tests/scripts/first_token.py [--tree DIRECTORY] [--times 5] [--wait SECONDS ...]

Prints a JSON object for each start: seconds from the click on Race, once models are loaded, to the
first token of each pane and to the end, for two races; the program's own CPU seconds up to the first token; and the
machine's load average, without which none of these says anything. `--wait`: how long after loading the click comes,
in turn: during it the program prepares what a race needs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "Implement binary search over a sorted list in Python, with type hints and a short docstring."
ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
WATCH = """() => {
    const began = performance.now(), first = {}, said = [], watched = { first, said };
    window.watched = watched;
    const since = () => Math.round(performance.now() - began) / 1000;
    const look = () => {
        const state = document.body.dataset.race;
        watched.running ||= state === 'running';
        if (watched.running) {
            document.querySelectorAll('.pane').forEach(pane => {
                if (pane.querySelector('.text span.tok')) first[pane.dataset.lane] ??= since();
            });
            if (state === 'done' || state === 'stopped') watched.done ??= since();
        }
        const words = document.querySelector('.board-status')?.textContent.trim();
        if (words && words !== said.at(-1)?.[1]) said.push([since(), words]);
        requestAnimationFrame(look);
    };
    look();
    document.querySelector('#race').click();
}"""


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def race(page: Page, pid: int, stop: bool) -> dict[str, object]:
    """One race, from the click on, to its end or until every pane has a token."""
    before, load = cpu_seconds(pid), os.getloadavg()[0]
    page.evaluate(WATCH)
    page.wait_for_function("Object.keys(window.watched.first).length", timeout=200_000)
    spent = cpu_seconds(pid) - before
    panes = "document.querySelectorAll('.pane').length"
    page.wait_for_function(f"Object.keys(window.watched.first).length === {panes}", timeout=200_000)
    if stop:
        page.click("#stop")
    page.wait_for_function("window.watched.done", timeout=400_000)
    seen = page.evaluate("window.watched")
    return {
        "load": round(load, 1),
        "first": list(seen["first"].values()),
        "cpu_to_first": round(spent, 1),
        "end": seen["done"],
        "said": seen["said"],
    }


def fresh_start(browser, tree: Path, wait: float, stop: bool) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"XDG_CACHE_HOME": cache, "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "app.py", "--no-browser", "--port", "0", "--no-token"]
        server = subprocess.Popen(command, cwd=tree, env=environment, stdout=subprocess.PIPE, text=True)
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        try:
            url = next(w for line in server.stdout for w in line.split() if w.startswith("http"))
            page = context.new_page()
            page.goto(url)
            page.wait_for_selector("#race")
            page.wait_for_function(
                "/^smollm2/.test(document.querySelector('#models')?.innerText.trim())", timeout=100_000
            )
            time.sleep(wait)
            page.fill("#prompt textarea", PROMPT)
            first = race(page, server.pid, stop)
            time.sleep(1.5)  # until gradio has heard of the end
            return {"wait": wait, "race": first, "second": race(page, server.pid, stop)}
        finally:
            context.close()
            server.terminate()
            server.wait(20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", type=Path, default=ROOT)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--wait", type=float, nargs="+", default=[0.0])
    parser.add_argument("--stop", action="store_true", help="stop each race once every pane has a token")
    args = parser.parse_args()
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=ARGS)
        for i in range(args.times):
            print(json.dumps(fresh_start(browser, args.tree, args.wait[i % len(args.wait)], args.stop)), flush=True)


if __name__ == "__main__":
    main()
