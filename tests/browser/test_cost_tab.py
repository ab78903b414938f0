"""The Cost model tab in the browser: it judges races of what is loaded, and says why it does not judge others; what
if, and many users, follow their sliders."""

import json
import re

import pytest

from .steps import open_file, said, save
from .tab import Tab

LINK = "/?lanes=plain,dspark:full&tokens=24&prompt=Say%20hello."
AGAIN = """() => {
    const told = document.querySelector('#measuring');
    new MutationObserver(() => { window.again = told.innerText.includes('Measured'); })
        .observe(told, { subtree: true, childList: true, characterData: true });
}"""
MEASURED = "document.querySelector('#measuring')?.innerText.includes('Measured')"


@pytest.fixture(scope="module")
def raced_tab(tiny, chromium, quick_costs):
    """A tab in which a race was run, and that race as a document that the curve judges."""
    tab = Tab(chromium, tiny.url + LINK)
    try:
        tab.page.wait_for_function("document.querySelector('#prompt textarea').value === 'Say hello.'")
        tab.page.click("#race")
        tab.until("done")
        race = json.loads(save(tab, "json")[1])
        race["machine"]["device"], race["drafters"]["DSpark"] = "CPU", "drafter, block 7, f32"
        yield tab, race
    finally:
        tab.context.close()


def opened(tab, race):
    """The race on the board, and the Cost model tab, measured, in front."""
    tab.page.get_by_role("tab", name="Race").first.click()
    open_file(tab, json.dumps(race))
    said(tab, "Opened")
    tab.page.get_by_role("tab", name="Cost model").first.click()
    if not tab.page.evaluate(MEASURED):
        tab.page.click("#measure")
        tab.page.wait_for_function(MEASURED)


def forecast(tab, words):
    tab.page.wait_for_function("words => document.querySelector('#forecast')?.textContent.includes(words)", arg=words)
    return tab.page.locator("#forecast").text_content()


def test_only_a_race_of_what_is_loaded_is_judged(raced_tab):
    tab, race = raced_tab
    for change, words in (
        ({}, "Predicted against measured"),
        ({"precision": "4-bit"}, "No predictions: this race ran in 4-bit"),
    ):
        opened(tab, race | {"race": race["race"] | change})
        shown = forecast(tab, words)
        tab.page.get_by_role("tab", name="Race").click()
        advice = tab.page.locator("#advice").inner_text()
        assert ("No predictions" in shown) == ("No predictions" in advice) == bool(change), (shown, advice)
    tab.page.get_by_role("tab", name="Cost model").click()
    tab.page.evaluate(AGAIN)
    tab.page.click("#measure")
    tab.page.wait_for_function("window.again")
    assert "Predicted" not in forecast(tab, "No predictions"), "measuring again judges it no more than before"
    assert "draft, DSpark" in tab.page.locator("#plot-curve .legend").text_content(), "a drafter by its name"
    assert not tab.complaints


def shown_in(tab, part, selector, words):
    """The text of what a part shows, once it has these words."""
    tab.page.wait_for_function(
        "([part, selector, w]) => document.querySelector(`#${part} ${selector}`)?.textContent.includes(w)",
        arg=[part, selector, words],
    )
    return tab.page.locator(f"#{part} {selector}").text_content()


# Milliseconds from a slider's event to another picture, in order.
FRAMES = """async () => {
    const took = [], slider = document.querySelector('#knob-accept');
    const plot = document.querySelector('#what-if .plot-times');
    slider.value = slider.min;
    slider.dispatchEvent(new Event('input', { bubbles: true }));
    for (let k = 0; k < 60; k += 1) {
        const before = plot.innerHTML;
        slider.stepUp();
        const began = performance.now();
        slider.dispatchEvent(new Event('input', { bubbles: true }));
        while (plot.innerHTML === before && performance.now() < began + 5000) await new Promise(requestAnimationFrame);
        took.push(performance.now() - began);
    }
    return took.sort((a, b) => a - b);
}"""


def test_what_if_begins_at_the_race_and_moves_with_the_keys(raced_tab):
    tab, race = raced_tab
    page = tab.page
    if "what-if=" in page.url:  # where another test left it
        tab.load(tab.url)
    opened(tab, race)
    shown_in(tab, "what-if", ".part-starts [aria-pressed=true]", "this race")
    page.locator("#what-if summary").click()
    page.wait_for_selector("#what-if tbody tr")
    rows = [row.split("\t") for row in page.locator("#what-if tbody tr").all_inner_texts()]
    chart = page.evaluate(
        "JSON.parse([...document.querySelectorAll('#cost table')].map(t => "
        "t.caption?.textContent.startsWith('Speed by cap') && JSON.stringify([...t.rows].map(r => "
        "[...r.cells].map(c => c.textContent)))).find(Boolean))"
    )
    assert [float(row[4]) for row in rows] == pytest.approx([float(row[3]) for row in chart[1:]], rel=0.01)
    known, words = len(rows) - 1, page.inner_text("#what-if")
    assert (f"Of more than {known} nothing is known." in words) == (
        known < len(race["race"]["lanes"][1]["rounds"][0]["draft_ids"])
    )
    before = page.locator("#what-if .plot-times").inner_html()
    page.focus("#knob-further")
    page.keyboard.press("Home")
    assert shown_in(tab, "what-if", ".knob:nth-child(3) output", "0 ms") == "0 ms, 0\xa0% of a step"
    assert page.get_attribute("#knob-further", "aria-valuetext") == "0 ms, 0\xa0% of a step"
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowLeft")
    assert page.locator("#what-if .plot-times").inner_html() != before
    most = len(rows) - 1
    assert f"further:0,cap:{most - 1}" in page.evaluate("location.search")
    assert f"{most - 1} sent" in page.inner_text("#what-if [role=status]"), "read out once a slider rests"
    page.click("#what-if .part-starts button >> text=M4 Pro")
    assert "published" in page.inner_text("#what-if .part-source")
    assert page.inner_text("#what-if .knob:nth-child(3) output") == "14 ms, 26\xa0% of a step"
    assert "further" not in page.evaluate("location.search"), "a start point is as it is"
    took = page.evaluate(FRAMES)
    assert len(took) == 60 and took[30] < 100, "the middle one: a busy machine delays some"
    assert not tab.complaints


# Drawings in which two texts are drawn over each other.
OVERLAPS = """() => [...document.querySelectorAll('.plot')].filter(plot => {
    const texts = [...plot.querySelectorAll('text')].map(node => node.getBoundingClientRect());
    return texts.some((a, k) => texts.slice(k + 1).some(b =>
        a.left < b.right && b.left < a.right && a.top < b.bottom - 2 && b.top < a.bottom - 2));
}).map(plot => plot.parentNode.innerText + [...plot.querySelectorAll('text')].map(node => node.textContent))"""


def test_many_users_are_simulated_and_a_link_opens_both_parts_as_they_stand(raced_tab):
    tab, race = raced_tab
    page = tab.page
    opened(tab, race)
    assert "simulation" in shown_in(tab, "many-users", "h3", "Many users")
    assert "lanes of finished races" in shown_in(tab, "many-users", ".part-source", "DSpark on tiny")
    assert "One user who sends what the race sent" in page.inner_text("#many-users .part-note")
    page.select_option("#many-users .users-start", label="M4 Pro with Gemma-4 12B (published)")
    point = shown_in(tab, "many-users", ".part-source", "mlx-dspark 0.0.1") and page.inner_text(".users-point")
    assert "The confidence schedule never falls below plain decoding." in point
    page.focus("#knob-users")
    page.keyboard.press("End")
    shown_in(tab, "many-users", "[role=status]", "schedule")
    lines = page.inner_text("#many-users .part-words")
    totals = dict(re.findall(r"^(\w+ \w+).*?: ([\d.]+) tok/s in all", lines, re.MULTILINE))
    assert float(totals["confidence schedule"]) >= float(totals["plain decoding"]) > float(totals["fixed block"])
    page.fill(".users-seed", "7")
    page.keyboard.press("Enter")
    page.locator(".users-table summary").click()
    shown_in(tab, "many-users", "caption", "seed 7")
    page.click("#what-if .part-starts button >> text=verification free")
    here = page.evaluate("location.search")
    assert "what-if=start:free" in here and "users=start:m4pro-gemma4-12b,group:dspark,seed:7,users:64" in here
    tab.load(f"{tab.url.split('/?')[0]}/{here}&open=many-users")
    page.wait_for_selector("#many-users .part:not([hidden])")
    assert "seed 7" in shown_in(tab, "many-users", "caption", "seed 7")
    assert (
        page.input_value(".users-start") == "m4pro-gemma4-12b" and page.inner_text("#many-users output") == "64 users"
    )
    shown_in(tab, "what-if", ".part-starts [aria-pressed=true]", "verification free")
    assert "open=" not in page.evaluate("location.search"), "a reload stays where its visitor is"
    assert page.evaluate(OVERLAPS) == []
    assert not tab.complaints
