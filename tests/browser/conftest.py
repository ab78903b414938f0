"""A real Chromium against the served page. Without a browser these tests skip, but not in CI."""

import shutil

import pytest

from tests.playground.serving import served

from .tab import ARGS, Tab, missing, replay


@pytest.fixture(scope="session")
def chromium():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as play:
        try:
            browser = play.chromium.launch(executable_path=path, args=ARGS)
        except Exception as error:
            missing(f"no browser can be started: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


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


@pytest.fixture(scope="session")
def tiny():
    """A served page with tiny models that compute everything."""
    from tests.playground.tiny import TinyEngine

    with served(TinyEngine) as page:
        yield page


@pytest.fixture(scope="session")
def product():
    """The product as it starts: the embedded model."""
    from dspark_core.playground.engine import PresetEngine
    from dspark_core.presets import load_presets

    preset = load_presets()[0]
    if not preset.target.exists():
        pytest.skip(f"{preset.target} is not here")
    with served(lambda progress: PresetEngine(preset, "auto", progress)) as page:
        yield page
