"""The Cost model tab in the browser: it judges races of what is loaded, and says why it does not judge others."""

import json

from .steps import open_file, said, save

LINK = "/?lanes=plain,dspark:full&tokens=24&prompt=Say%20hello."


def forecast(tab, words):
    tab.page.wait_for_function(
        "words => document.querySelector('#forecast')?.textContent.includes(words)", arg=words, timeout=60000
    )
    return tab.page.locator("#forecast").text_content()


def test_only_a_race_of_what_is_loaded_is_judged(tiny, open_tab):
    tab = open_tab(tiny.url + LINK)
    tab.page.wait_for_function("document.querySelector('#prompt textarea').value === 'Say hello.'")
    tab.page.click("#race")
    tab.until("done")
    race = json.loads(save(tab, "json")[1])
    race["machine"]["device"], race["drafters"]["DSpark"] = "CPU", "drafter, block 7, f32"
    tab.page.get_by_role("tab", name="Cost model").click()
    for change, words in (
        ({}, "Predicted against measured"),
        ({"precision": "4-bit"}, "No predictions: this race ran in 4-bit"),
    ):
        tab.page.get_by_role("tab", name="Race").click()
        open_file(tab, json.dumps(race | {"race": race["race"] | change}))
        said(tab, "Opened")
        tab.page.get_by_role("tab", name="Cost model").click()
        if not tab.page.evaluate("document.querySelector('#measuring').innerText.includes('Measured')"):
            tab.page.click("#measure")
            tab.page.wait_for_function(
                "document.querySelector('#measuring').innerText.includes('Measured')", timeout=60000
            )
        shown = forecast(tab, words)
        tab.page.get_by_role("tab", name="Race").click()
        advice = tab.page.locator("#advice").inner_text()
        assert ("No predictions" in shown) == ("No predictions" in advice) == bool(change), (shown, advice)
    tab.page.get_by_role("tab", name="Cost model").click()
    tab.page.click("#measure")
    tab.page.wait_for_function("document.querySelector('#measuring').innerText.includes('measuring')", timeout=60000)
    tab.page.wait_for_function("document.querySelector('#measuring').innerText.includes('Measured')", timeout=60000)
    assert "Predicted" not in forecast(tab, "No predictions"), "measuring again judges it no more than before"
    assert "draft, DSpark" in tab.page.locator("#plot-curve .legend").text_content(), "a drafter by its name"
    assert not tab.complaints
