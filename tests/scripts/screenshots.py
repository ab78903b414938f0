"""Screenshots of the page with the embedded model: python tests/scripts/screenshots.py DIRECTORY [TOKENS]

The Race tab in light, dark, narrow (760 px) and projector; idle, mid-race and finished; every other tab in light,
dark and narrow, with something in it. The three in README go to assets/screenshots, all others to DIRECTORY. Only one
race is run for the Race tab; the dresses show the same one.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from playwright.sync_api import sync_playwright

from dspark_core.paths import assets
from dspark_core.playground.engine import PresetEngine
from dspark_core.presets import load_presets
from tests.browser.tab import ARGS, Tab
from tests.playground.serving import served

ASSETS = assets() / "screenshots"
README = {"light-finished", "dark-finished", "light-charts"}
MOST_BYTES = 250_000  # of a picture in the repository
DRESSES = {"light": (1280, 900), "dark": (1280, 900), "narrow": (760, 900), "projector": (1920, 1080)}


class Studio:
    def __init__(self, tab, where):
        self.tab, self.page, self.where, self.too_large = tab, tab.page, where, []
        # What is off screen is not drawn otherwise, and would be missing from a picture of the whole page.
        self.page.add_style_tag(content=".board .block { content-visibility: visible !important; }")

    def dress(self, name):
        width, height = DRESSES[name]
        self.page.set_viewport_size({"width": width, "height": height})
        wanted = "'dark' === name !== document.body.classList.contains('dark')".replace("name", repr(name))
        self.page.evaluate(f"{wanted} && document.querySelector('.pick-theme').click()")
        self.page.evaluate(
            """size => { const pick = document.querySelector('.pick-size');
                pick.value = size; pick.dispatchEvent(new Event('change')); }""",
            "projector" if name == "projector" else "normal",
        )

    def take(self, state, names, whole=False):
        for name in names:
            self.dress(name)
            if f"{name}-{state}" == "light-charts":
                self.page.set_viewport_size({"width": 1040, "height": 900})  # hatched bars make large files
            self.page.wait_for_timeout(250 if state == "racing" else 900)
            shot = f"{name}-{state}"
            path = (ASSETS if shot in README else self.where) / f"{shot}.png"
            if state == "charts":  # the charts alone: they are many
                self.page.locator("#tabs").screenshot(path=path)
            else:
                self.page.screenshot(path=path, full_page=whole)
            size = path.stat().st_size
            print(f"{path} {size // 1000} kB", flush=True)
            if shot in README and size > MOST_BYTES:
                self.too_large.append(path.name)

    def says(self, selector, words, seconds=300):
        self.page.wait_for_function(
            "([s, w]) => document.querySelector(s)?.innerText.includes(w)",
            arg=[selector, words],
            timeout=1000 * seconds,
        )

    def race(self):
        self.page.click("#race")
        self.tab.until("running", 20)


# ---- what is done on each tab before its picture is taken ---------------------------------------------------


def on_charts(studio):
    studio.page.wait_for_selector("#plot-time .js-plotly-plot .main-svg")
    studio.page.click("#profile")
    studio.says("#profiled", "Measured")


def on_compare(studio):
    """A second race on the same prompt, sampled."""
    settings = studio.page.get_by_role("button", name="Lanes and settings")
    settings.click()
    studio.page.locator("#temperature input[type=number]").fill("0.8")
    studio.page.locator("#temperature input[type=number]").blur()
    studio.says("#settings-summary", "temperature 0.8")
    settings.click()
    studio.page.evaluate("document.body.dataset.race = ''")  # what the race before left there
    studio.race()
    studio.tab.until("done", 600)
    studio.page.wait_for_selector(".compared table")


def on_proof(studio):
    studio.page.locator("#prove").get_by_role("spinbutton", name="Draws").fill("2000")
    studio.page.click("#draw")
    studio.says("#proof-verdict", "draws")
    tokens = studio.page.locator("#prove").get_by_role("spinbutton", name="Tokens each")
    tokens.fill("8")
    tokens.blur()
    studio.page.click("#agree")
    studio.says("#greedy-verdict", "2 of 12")
    studio.page.click("#stop-agree")


ON = {"Charts": on_charts, "Compare": on_compare, "Prove it": on_proof}


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    where, tokens = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "96"
    where.mkdir(parents=True, exist_ok=True)
    preset = load_presets()[0]
    with served(lambda progress: PresetEngine(preset, "auto", progress)) as server, sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=ARGS)
        tab = Tab(browser, server.url, color_scheme="light")
        studio, page = Studio(tab, where), tab.page
        studio.says("#models", "bf16")
        studio.take("idle", DRESSES)
        tab.settings(max_tokens=tokens)
        page.get_by_role("button", name="Lanes and settings").click()
        page.get_by_role("button", name="Binary search").click()
        page.mouse.move(5, 5)
        studio.race()
        page.wait_for_function("document.querySelectorAll('.pane[data-lane=\"1\"] .round').length > 5", timeout=120_000)
        studio.take("racing", DRESSES)
        tab.until("done", 600)
        page.focus(".pane[data-lane='1'] .text")
        for key in ("Home", *["ArrowRight"] * 4):  # a round is being read
            page.keyboard.press(key)
        studio.take("finished", DRESSES, whole=True)
        tabs = page.locator("#tabs > .tab-wrapper [role=tablist]").get_by_role("tab")
        for name in tabs.all_inner_texts():
            if name == "Race":
                continue
            studio.dress("light")
            tabs.get_by_text(name, exact=True).click()
            ON.get(name, lambda studio: None)(studio)
            page.mouse.move(5, 5)
            studio.take(name.lower().replace(" ", "-"), [n for n in DRESSES if n != "projector"], whole=True)
        browser.close()
    if studio.too_large:
        sys.exit(f"larger than {MOST_BYTES // 1000} kB: {', '.join(studio.too_large)}")


if __name__ == "__main__":
    main()
