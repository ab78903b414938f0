"""A real Chromium against the served page. Without a browser these tests skip, but not in CI."""

import json
import os
import shutil
import subprocess
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.playground.serving import served

from .steps import FULL, raced
from .tab import ARGS, WINDOW, Tab, missing, replay

HERE = Path(__file__).parent
CACHES = os.environ.get("XDG_CACHE_HOME", "")  # the user's; empty is none


@pytest.fixture(scope="session")
def node_modules():
    """The directory of what package.json pins, installed if it is not there in those versions."""
    where = HERE / "node_modules"
    pinned = json.loads((HERE / "package.json").read_text())["devDependencies"]

    def version(name):
        about = where / name / "package.json"
        return json.loads(about.read_text("utf-8"))["version"] if about.exists() else None

    if {name: version(name) for name in pinned} != pinned:
        npm = shutil.which("npm") or missing("npm is not installed")
        done = subprocess.run([npm, "ci", "--no-audit", "--no-fund"], cwd=HERE, capture_output=True, timeout=300)
        if done.returncode:
            missing(f"{', '.join(pinned)} cannot be installed")
    return where


@pytest.fixture(scope="session")
def playwright():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is not installed")
    with pytest.MonkeyPatch.context() as patched:  # which looks for its browsers in the user's cache
        patched.setenv("XDG_CACHE_HOME", CACHES)
        play = sync_playwright().start()
    yield play
    play.stop()


def launched(launch, **options):
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    try:
        return launch(executable_path=path, args=ARGS, **options)
    except Exception as error:
        missing(f"no browser can be started: {str(error).splitlines()[0]}")


@pytest.fixture(scope="session")
def chromium(playwright):
    browser = launched(playwright.chromium.launch)
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def profile(playwright, tmp_path_factory):
    """A context that lives on, with the page's scripts compiled: half the work of opening a page."""
    where = tmp_path_factory.mktemp("profile")
    context = launched(partial(playwright.chromium.launch_persistent_context, where), viewport=WINDOW)
    yield context
    context.close()


@pytest.fixture
def open_tab(request):
    tabs = []

    def open_(url, script="", **options):
        where = request.getfixturevalue("chromium" if options else "profile")
        tabs.append(Tab(where, url, script, **options))
        return tabs[-1]

    yield open_
    for tab in tabs:
        tab.close()


@pytest.fixture(scope="session")
def recorded():
    """A served page whose engine each test sets by `recorded.worker.engine = ...`."""
    with served(lambda progress: replay()) as page:
        page.until_idle()
        yield page


@pytest.fixture(scope="module")
def open_tabs(recorded, profile):
    """At most one: the page that the tests of a file share."""
    tabs = []
    yield tabs
    for tab in tabs:
        tab.close()


@pytest.fixture
def tab(open_tabs, recorded, profile, request):
    """A page of `recorded` that is done with whatever the file's earlier tests raced or opened on it; its settings and
    its tab are as they were at first, or the test that changed them puts them back. One that failed takes it along."""
    if not open_tabs:
        recorded.worker.engine = replay()
        open_tabs.append(Tab(profile, recorded.url))
    tab, failed = open_tabs[0], request.session.testsfailed
    tab.page.bring_to_front()
    tab.page.mouse.move(0, 0)  # off whatever the last test pointed at
    for heard in (tab.outside, tab.complaints, tab.dialogs):
        heard.clear()
    yield tab
    if request.session.testsfailed > failed:
        open_tabs.remove(tab)
        tab.close()
    recorded.until_idle()


@pytest.fixture(scope="session")
def tiny():
    """A served page with tiny models that compute everything, their costs measured, as they are by the time that a
    visitor has read the page: what a race goes by is the same for whichever test comes first."""
    from tests.playground.tiny import TinyEngine

    def load(progress):
        engine = TinyEngine()
        with quickly_measured():
            for _ in engine.models.measure_curve():
                pass
        return engine

    with served(load) as page:
        page.until_ready()
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


@contextmanager
def quickly_measured():
    """Costs are measured at the points and with the samples that are needed, no more."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("dspark_core.decode.measure.FULL_S", 0.5)
        yield


@pytest.fixture(scope="module")
def quick_costs():
    with quickly_measured():
        yield


@pytest.fixture(scope="session")
def axe(node_modules):
    return (node_modules / "axe-core" / "axe.min.js").read_text("utf-8")


@pytest.fixture(scope="module")
def after_race(tiny, chromium):
    """Temperature -> (tab with a finished race, its trace); raced once, left with the inspector closed."""
    made = {}

    def of(temperature="0"):
        if temperature not in made:
            tab = Tab(chromium, f"{tiny.url}{FULL}&temperature={temperature}&seed=3")
            made[temperature] = tab, raced(tab)
        tab = made[temperature][0]
        tab.page.mouse.move(0, 0)
        if tab.page.is_visible(".look-close"):
            tab.page.click(".look-close")
        return made[temperature]

    yield of
    for tab, _ in made.values():
        tab.close()
