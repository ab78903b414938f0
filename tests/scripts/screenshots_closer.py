"""Screenshots of the inspector, the tour, the replay and the comparison, with the embedded model:

    python tests/scripts/screenshots_closer.py [DIRECTORY] [TOKENS]

One race, each state in light and in dark; a second, shorter one to compare it with.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from playwright.sync_api import sync_playwright

from dspark_core.playground.engine import PresetEngine
from dspark_core.presets import load_presets
from tests.browser.steps import open_file, said, save, seek
from tests.browser.tab import ARGS, Tab
from tests.playground.serving import served

LANES, CAPPED = "?lanes=plain,dspark:full,dflash:block=16", "?lanes=plain,dspark:cap=3"


class Camera:
    """Takes the page as it stands, light and dark."""

    def __init__(self, page, where):
        self.page, self.where = page, where

    def take(self, name, of=None):
        for dress in ("light", "dark"):
            self.page.evaluate("dark => document.body.classList.toggle('dark', dark)", dress == "dark")
            self.page.wait_for_timeout(500)
            path = self.where / f"{dress}-{name}.png"
            self.page.locator(of).screenshot(path=path) if of else self.page.screenshot(path=path)


def main():
    where = Path(sys.argv[1] if len(sys.argv) > 1 else "assets/screenshots")
    tokens = sys.argv[2] if len(sys.argv) > 2 else "48"
    where.mkdir(parents=True, exist_ok=True)
    preset = load_presets()[0]
    with served(lambda progress: PresetEngine(preset, "auto", progress)) as server, sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=ARGS)
        tab = Tab(browser, f"{server.url}/{LANES}&tokens={tokens}", color_scheme="light")
        page, camera = tab.page, Camera(tab.page, where)
        page.wait_for_function("document.querySelector('#models').innerText.includes('bf16')", timeout=120_000)
        race(tab)
        inspector(page, camera)
        tour(page, camera)
        page.click(".look-close")
        replay(page, camera)
        comparison(tab, camera, f"{server.url}/{CAPPED}&tokens={tokens}")
        browser.close()


def race(tab):
    tab.page.get_by_role("button", name="Binary search").click()
    tab.page.wait_for_function("document.querySelector('#prompt textarea').value.includes('binary search')")
    tab.page.click("#race")
    tab.until("done", 600)
    tab.page.wait_for_timeout(500)


def inspector(page, camera):
    """A rejection, the same round without the bias, and DFlash at the same place."""
    page.locator(".pane[data-lane='1'] .round[data-round='2'] .tok").first.click()
    known(page)
    camera.take("inspector", ".inspector")
    page.get_by_role("switch", name="Markov bias").click()
    camera.take("inspector-without-bias", ".inspector")
    page.get_by_role("switch", name="Markov bias").click()
    page.locator(".look-other[data-lane='2']").click()
    known(page)
    camera.take("inspector-dflash", ".inspector")
    page.set_viewport_size({"width": 760, "height": 1000})
    camera.take("inspector-narrow")
    page.set_viewport_size({"width": 1440, "height": 1000})
    page.click(".look-close")


def known(page):
    page.wait_for_selector(".inspector[data-state=done] .slot", timeout=120_000)


def tour(page, camera):
    page.click(".tour-start")
    for step in range(1, 6):
        if step == 3:
            known(page)
        page.wait_for_timeout(1200)  # it scrolls
        camera.take(f"tour-{step}")
        page.click(".tour-next")


def replay(page, camera):
    length = float(page.get_attribute(".replay-at", "max"))
    seek(page, length / 3)
    page.click(".replay-next")
    page.evaluate("document.querySelector('.board').scrollIntoView()")
    camera.take("replay")
    seek(page, length)


def comparison(tab, camera, link):
    """That race against one with at most 3 drafts a round."""
    first = save(tab, "json")[1]
    tab.page.goto(link)
    tab.page.wait_for_function("document.querySelector('#settings-summary')?.innerText.includes('cap 3')")
    race(tab)
    open_file(tab, first)
    said(tab, "Opened")
    tab.page.get_by_role("tab", name="Compare").click()
    tab.page.wait_for_selector(".compared table")
    camera.take("compare")


if __name__ == "__main__":
    main()
