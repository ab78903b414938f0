"""axe-core (pinned in package.json) over both tabs and both themes, nothing excluded."""

import shutil
import subprocess
from pathlib import Path

import pytest

from dspark_core.race.trace import dumps
from tests.race.long_trace import long_trace

from .tab import missing, replay
from .test_keep import open_file, said

HERE = Path(__file__).parent
AXE = HERE / "node_modules" / "axe-core" / "axe.min.js"


@pytest.fixture(scope="session")
def axe():
    if not AXE.exists():
        npm = shutil.which("npm") or missing("npm is not installed")
        done = subprocess.run([npm, "ci", "--no-audit", "--no-fund"], cwd=HERE, capture_output=True, timeout=120)
        if done.returncode:
            missing("axe-core cannot be installed")
    return AXE.read_text("utf-8")


def violations(tab, axe):
    tab.page.evaluate(axe)
    found = tab.page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
    return [
        f"{v['impact']} {v['id']}: {node['html'][:120]} {node['failureSummary'][:260]}"
        for v in found
        if v["impact"] in ("serious", "critical")
        for node in v["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_violation(recorded, open_tab, axe, scheme):
    recorded.worker.engine = replay(["word ", "and\n", "\t"] * 12, fails={2: 9})
    tab = open_tab(recorded.url, color_scheme=scheme)
    assert tab.page.evaluate("document.body.classList.contains('dark')") == (scheme == "dark")
    assert violations(tab, axe) == []
    tab.page.get_by_role("button", name="Lanes and settings").click()
    tab.race()
    tab.until("done")
    tab.page.click("#take")
    tab.page.click("#talk summary")
    tab.page.locator(".pane[data-lane='1'] .round").nth(2).hover()
    tab.page.wait_for_timeout(300)
    tab.page.click(".replay-previous")
    open_file(tab, dumps(long_trace(20)))
    said(tab, "Opened")
    tab.page.wait_for_selector(".keep-races select")
    assert violations(tab, axe) == []
    tab.page.get_by_role("tab", name="Compare").click()
    tab.page.wait_for_selector(".compared table")
    assert violations(tab, axe) == []
    tab.page.get_by_role("tab", name="Charts").click()
    tab.page.wait_for_selector("#plot-time .js-plotly-plot .main-svg", timeout=20000)
    for summary in tab.page.locator(".chart summary").all():
        summary.click()
    tab.page.wait_for_timeout(300)
    assert violations(tab, axe) == []
