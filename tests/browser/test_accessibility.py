"""axe-core (pinned in package.json) over every tab, both themes, wide and narrow; nothing excluded."""

import pytest

from dspark_core.race.trace import dumps
from tests.playground.serving import served
from tests.playground.tiny import TinyEngine
from tests.race.long_trace import long_trace

from .test_saved import open_file, said

LINK = "/?lanes=plain,dspark:full,dspark:cap=2,dflash:block=16&tokens=24&prompt=Say%20hello."
WIDTHS = (1440, 760, 390)


@pytest.fixture(scope="session")
def axe(node_modules):
    return (node_modules / "axe-core" / "axe.min.js").read_text("utf-8")


@pytest.fixture(scope="module")
def tiny():
    """Tiny models that compute everything, so that every tab has something to show; DFlash's lane fails."""

    def load(progress):
        engine = TinyEngine()
        engine.models.drafters["dflash"] = "it was not found."
        return engine

    with served(load) as page:
        yield page


# Colours are looked at as they stay: on a busy machine they are still on their way when axe comes.
SETTLED = "*, *::before, *::after { transition: none !important; animation: none !important; }"


def violations(tab, where):
    """What axe finds in light at every width and in dark (a width changes no colour), and anything that makes the
    page wider than the window. axe has to be there."""
    found = []
    for theme, widths in (("dark", WIDTHS[:1]), ("light", WIDTHS)):
        tab.page.evaluate("document.querySelector('.pick-theme').click()")
        tab.page.wait_for_function("dark => document.body.classList.contains('dark') === dark", arg=theme == "dark")
        found += _found(tab, f"{where}, {theme}", widths)
    return found


def _found(tab, where, widths):
    found = []
    for width in widths:
        tab.page.set_viewport_size({"width": width, "height": 1000})
        tab.page.wait_for_timeout(300)  # charts fit themselves to the new width
        if (wide := tab.page.evaluate("document.documentElement.scrollWidth")) > width:
            found.append(f"{where} is {wide} pixels wide in a window of {width}")
        for v in tab.page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]:
            if v["impact"] in ("serious", "critical"):
                found += [
                    f"{where}, {width}: {v['impact']} {v['id']}: {node['html'][:120]} {node['failureSummary'][:260]}"
                    for node in v["nodes"]
                ]
    tab.page.set_viewport_size({"width": WIDTHS[0], "height": 1000})  # in a narrow one, tabs are in a menu
    tab.page.wait_for_function("document.querySelectorAll('#tabs > .tab-wrapper [role=tablist] [role=tab]').length > 5")
    return found


# ---- what a visitor does on each tab, so that all of it is there to be looked at ---------------------------


def on_race(tab):
    tab.page.click("#take")
    tab.page.click("#talk summary")
    tab.page.locator(".pane[data-lane='1'] .round").nth(2).hover()
    tab.page.click(".replay-previous")
    open_file(tab, dumps(long_trace(20)))
    said(tab, "Opened")
    tab.page.select_option(".keep-races select", index=0)  # the race that was run stands on the board again
    tab.page.wait_for_function("document.querySelectorAll('.pane').length === 4")
    tab.page.locator(".pane[data-lane='1'] .round").nth(2).click()
    tab.page.wait_for_selector(".inspector[data-state=done] .slot")


def on_charts(tab):
    tab.page.wait_for_selector("#plot-time .js-plotly-plot .main-svg", timeout=20000)
    tab.page.click("#profile")
    tab.page.wait_for_function("document.querySelector('#profiled').innerText.includes('Measured')")
    for summary in tab.page.locator("#plot-time, .chart").locator("summary:visible").all():
        summary.click()


def on_cost(tab):
    tab.page.click("#measure")
    tab.page.wait_for_function("document.querySelector('#measuring').innerText.includes('Measured')", timeout=120000)


def on_compare(tab):
    tab.page.wait_for_selector(".compared table")


def on_proof(tab):
    tab.page.get_by_label("Draws").first.fill("1000")
    tab.page.click("#draw")
    tab.page.wait_for_function("document.querySelector('#proof-verdict').innerText.length > 9", timeout=120000)
    tab.page.click("#agree")
    tab.page.wait_for_function(
        "document.querySelector('#greedy-verdict').innerText.includes('12 of 12')", timeout=120000
    )


VISITS = {"Race": on_race, "Charts": on_charts, "Cost model": on_cost, "Compare": on_compare, "Prove it": on_proof}


def test_no_serious_violation_on_any_tab(tiny, open_tab, axe):
    tab = open_tab(tiny.url + LINK, color_scheme="light")
    tab.page.wait_for_function("document.querySelector('#prompt textarea').value === 'Say hello.'")
    tab.page.add_style_tag(content=SETTLED)
    tab.page.evaluate(axe)
    found = violations(tab, "Race, idle")
    tab.page.get_by_role("button", name="Lanes and settings").click()
    tab.page.click("#race")
    tab.until("done")
    tabs = tab.page.locator("#tabs > .tab-wrapper [role=tablist]").get_by_role("tab")
    names = tabs.all_inner_texts()
    assert set(VISITS) <= set(names)
    for name in names:
        tabs.get_by_text(name, exact=True).click()
        VISITS.get(name, lambda tab: None)(tab)
        found += violations(tab, name)
    assert not found, "\n".join(found)
