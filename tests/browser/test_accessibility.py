"""axe-core (pinned in package.json) over every tab, both themes, wide and narrow; nothing excluded."""

import pytest

from dspark_core.race.trace import dumps
from tests.playground.serving import served
from tests.playground.tiny import TinyEngine
from tests.race.long_trace import long_trace

from .steps import open_file, said, violations

LINK = "/?lanes=plain,dspark:full,dspark:cap=2,dflash:block=16&tokens=24&prompt=Say%20hello."


class Offering(TinyEngine):
    infos = ()  # set: what is offered stays, whatever becomes of a drafter


@pytest.fixture(scope="module")
def tiny(quick_costs):
    """Tiny models that compute everything, so that every tab has something to show; DFlash's lane fails."""

    def load(progress):
        engine = Offering()
        engine.infos = engine.models.infos
        engine.models.drafters["dflash"] = "it was not found."
        return engine

    with served(load) as page:
        yield page


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
    tab.until("done")
    tab.page.locator(".pane[data-lane='1'] .round").nth(2).click()
    tab.page.wait_for_selector(".inspector[data-state=done] .slot")


def on_charts(tab):
    tab.page.wait_for_selector("#plot-time .js-plotly-plot .main-svg")
    tab.page.click("#profile")
    tab.page.wait_for_function("document.querySelector('#profiled').innerText.includes('Measured')")
    for summary in tab.page.locator("#plot-time, .chart").locator("summary:visible").all():
        summary.click()


def on_cost(tab):
    tab.page.click("#measure")
    tab.page.wait_for_function("document.querySelector('#measuring').innerText.includes('Measured')", timeout=300000)


def on_compare(tab):
    tab.page.wait_for_selector(".compared table")


def on_proof(tab):
    tab.page.get_by_label("Draws").first.fill("500")
    tab.page.click("#draw")
    tab.page.wait_for_function("document.querySelector('#proof-verdict').innerText.length > 9", timeout=300000)
    tab.page.locator("#agree-tokens input[type=number]").fill("8")
    tab.page.locator("#agree-tokens input[type=number]").blur()
    tab.page.click("#agree")
    tab.page.wait_for_function(
        "/\\b(\\d+) of \\1\\b/.test(document.querySelector('#greedy-verdict').innerText)", timeout=300000
    )


def on_models(tab):
    tab.page.wait_for_selector(".model-card")
    tab.page.locator(".model-card summary").nth(1).click()
    tab.page.wait_for_selector(".model-card details[open] code")


VISITS = {"Race": on_race, "Charts": on_charts, "Cost model": on_cost, "Compare": on_compare, "Prove it": on_proof}
VISITS["Models"] = on_models


def test_no_serious_violation_on_any_tab(tiny, open_tab, axe):
    tab = open_tab(tiny.url + LINK, color_scheme="light")
    tab.page.wait_for_function("document.querySelector('#prompt textarea').value === 'Say hello.'")
    tab.page.evaluate(axe)
    found = violations(tab, "Race, idle", narrow=True)
    tab.page.get_by_role("button", name="Lanes and settings").click()
    tab.page.click("#race")
    tab.until("done")
    tabs = tab.page.locator("#tabs > .tab-wrapper [role=tablist]").get_by_role("tab")
    names = tabs.all_inner_texts()
    assert set(VISITS) <= set(names)
    for name in names:
        tabs.get_by_text(name, exact=True).click()
        VISITS.get(name, lambda tab: None)(tab)
        found += violations(tab, name, narrow=name == "Race")
    assert tabs.all_inner_texts() == names
    assert not found, "\n".join(found)
