"""A real Chromium against the served page. Without a browser these tests skip, but not in CI."""

import os
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "playground"))

from replay import ReplayEngine, three_lanes  # noqa: E402
from serving import served  # noqa: E402

ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
# The page's policy blocks gradio's own inline scripts, which it does without; nothing else may be reported.
ALLOWED = "Executing inline script violates the following Content Security Policy directive"


def _missing(why):
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


@pytest.fixture(scope="session")
def chromium():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _missing("playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as play:
        try:
            browser = play.chromium.launch(executable_path=path, args=ARGS)
        except Exception as error:
            _missing(f"no browser can be started: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


class Tab:
    """A page with what it asked for, said and threw."""

    def __init__(self, browser, url, **options):
        self.context = browser.new_context(viewport={"width": 1440, "height": 1000}, **options)
        self.page = self.context.new_page()
        self.url, self.outside, self.complaints = url, [], []
        self.page.on("request", self._request)
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(url)
        self.page.wait_for_selector("#race")
        self.page.wait_for_function("document.querySelector('.board .panes')")

    def _request(self, request):
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.outside.append(request.url)

    def _console(self, message):
        if message.type == "error" and ALLOWED not in message.text:
            self.complaints.append(message.text)

    def settings(self, **values):
        """Set the numbers of the settings by element id."""
        self.page.get_by_role("button", name="Lanes and settings").click()
        for name, value in values.items():
            box = self.page.locator(f"#{name.replace('_', '-')} input[type=number]")
            box.fill(str(value))
            box.blur()

    def race(self, prompt="Say hello."):
        self.page.fill("#prompt textarea", prompt)
        self.page.click("#race")

    def until(self, state, seconds=60):
        self.page.wait_for_function(f"document.body.dataset.race === '{state}'", timeout=1000 * seconds)

    def answer(self, lane):
        """What stands in a pane: every token that was not rejected, without the stop token's mark."""
        script = """i => [...document.querySelectorAll(`.pane[data-lane="${i}"] .text :is(span.tok:not(.e), .tail)`)]
                    .map(node => node.textContent).join('')"""
        return self.page.evaluate(script, lane)


@pytest.fixture
def open_tab(chromium):
    tabs = []

    def open_(url, **options):
        tabs.append(Tab(chromium, url, **options))
        return tabs[-1]

    yield open_
    for tab in tabs:
        tab.context.close()


@pytest.fixture(scope="session")
def recorded():
    """A served page whose engine each test sets by `recorded.worker.engine = ...`."""
    with served(lambda progress: replay()) as page:
        page.until_idle()
        yield page


def replay(tokens=None, **kwargs):
    pieces, rounds = three_lanes(tokens or [f" word{k}" for k in range(40)])
    return ReplayEngine(pieces, rounds, **kwargs)


@pytest.fixture(scope="session")
def embedded():
    """The product as it starts: the embedded model."""
    from dspark_core.playground.engine import PresetEngine
    from dspark_core.presets import load_presets

    preset = load_presets()[0]
    if not preset.target.exists():
        pytest.skip(f"{preset.target} is not here")
    with served(lambda progress: PresetEngine(preset, "auto", progress)) as page:
        yield page
