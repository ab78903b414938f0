"""Screenshots of the page with the embedded model: python tests/browser/screenshots.py [DIRECTORY] [TOKENS]

Light, dark, narrow (760 px) and projector; idle, mid-race and finished. Only the light ones race anew; the
others show the same race again in another dress.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from playwright.sync_api import sync_playwright

from dspark_core.playground.engine import PresetEngine
from dspark_core.presets import load_presets
from tests.browser.tab import ARGS, Tab
from tests.playground.serving import served


def dress(page, name, where, state):
    sizes = {"light": (1440, 1000), "dark": (1440, 1000), "narrow": (760, 1000), "projector": (1920, 1080)}
    width, height = sizes[name]
    page.set_viewport_size({"width": width, "height": height})
    page.evaluate("dark => document.body.classList.toggle('dark', dark)", name == "dark")
    page.select_option(".pick-size", "projector" if name == "projector" else "normal")
    if state == "finished":  # what is off screen is not drawn, so the window is made as tall as the page
        page.set_viewport_size({"width": width, "height": page.evaluate("document.documentElement.scrollHeight")})
    page.wait_for_timeout(400)
    page.screenshot(path=where / f"{name}-{state}.png", full_page=state == "finished")


def main():
    where = Path(sys.argv[1] if len(sys.argv) > 1 else "assets/screenshots")
    tokens = sys.argv[2] if len(sys.argv) > 2 else "64"
    where.mkdir(parents=True, exist_ok=True)
    preset = load_presets()[0]
    names = ("light", "dark", "narrow", "projector")
    with served(lambda progress: PresetEngine(preset, "auto", progress)) as server, sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=ARGS)
        tab = Tab(browser, server.url, color_scheme="light")
        page = tab.page
        page.wait_for_function("document.querySelector('#models').innerText.includes('bf16')", timeout=120_000)
        for name in names:
            dress(page, name, where, "idle")
        tab.settings(max_tokens=tokens)
        page.get_by_role("button", name="Lanes and settings").click()
        page.get_by_role("button", name="Binary search").click()
        page.click("#race")
        page.wait_for_function("document.querySelectorAll('.pane[data-lane=\"1\"] .round').length > 5", timeout=120_000)
        for name in names:
            dress(page, name, where, "racing")
        tab.until("done", 300)
        page.locator(".pane[data-lane='1'] .round").nth(4).hover()
        for name in names:
            dress(page, name, where, "finished")
        page.get_by_role("tab", name="Charts").click()
        page.wait_for_selector("#plot-time .js-plotly-plot .main-svg")
        page.wait_for_timeout(1500)
        for name in names:
            dress_charts(page, name, where)
        browser.close()


def dress_charts(page, name, where):
    sizes = {"narrow": (760, 1000), "projector": (1920, 1080)}
    width, height = sizes.get(name, (1440, 1000))
    page.set_viewport_size({"width": width, "height": height})
    page.evaluate("dark => document.body.classList.toggle('dark', dark)", name == "dark")
    page.wait_for_timeout(800)
    page.screenshot(path=where / f"{name}-charts.png", full_page=True)


if __name__ == "__main__":
    main()
