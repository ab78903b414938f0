"""Each lesson from its question to its answer, on one page with tiny models: the answer is read off the page and held
against the race that was run, and what it opens can be seen."""

import re

import pytest

from dspark_core.playground import lessons
from dspark_core.race.trace import loads

from .steps import save, violations
from .tab import Tab

ORDER = [lesson.id for lesson in lessons.LESSONS]


@pytest.fixture(scope="module")
def tab(tiny, chromium):
    tab = Tab(chromium, tiny.url)
    tab.page.set_viewport_size({"width": 1440, "height": 790})
    yield tab
    tab.context.close()


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(lessons, "DRAWS", 500)


def asked(tab, id_):
    """The lesson's question, opened from the list of all."""
    page = tab.page
    if not page.is_visible(".lesson"):
        page.click(".lessons-start")
    if page.is_visible(".lesson-all"):
        page.click(".lesson-all")
    page.locator(".lesson-choices button").nth(ORDER.index(id_)).click()
    page.wait_for_selector(".lesson[data-state=asked]")
    return page.inner_text(".lesson h2")


def told(tab, option):
    """The answer, once the visitor has chosen an option."""
    tab.page.locator(".lesson-choices button").nth(option).click()
    tab.page.wait_for_selector(".lesson[data-state=told]")
    return tab.page.inner_text(".lesson-words")


def race_of(tab):
    tab.page.mouse.wheel(0, 1)  # as who scrolls down to the button: what the lesson opened is not held at the top
    return loads(save(tab, "json")[1]).race


def in_view(tab, selector):
    """What is marked is that, and as much of it as fits stands between the window's upper edge and the strip."""
    tab.page.wait_for_function(
        """selector => {
            const node = document.querySelector('.lesson-here');
            if (!node?.matches(selector)) return false;
            const { top, bottom } = node.getBoundingClientRect();
            const edge = document.querySelector('.lesson').getBoundingClientRect().top;
            return top >= 0 && top < 40 && edge > 300 && (bottom <= edge || bottom - top > edge - 60);
        }""",
        arg=selector,
    )


def test_a_link_to_a_lesson_that_there_is_not_says_so(tab):
    tab.load(f"{tab.url}/?lesson=no+such")
    tab.page.wait_for_selector(".lesson-words:has-text('There is no lesson “no such”')")
    assert tab.page.locator(".lesson-choices button").all_inner_texts() == [x.title for x in lessons.LESSONS]
    assert tab.page.evaluate("document.body.dataset.race") == "idle", "a link starts nothing"


def test_later_drafts_opens_the_inspector_without_the_bias(tab):
    assert "fourth place" in asked(tab, "later-drafts")
    words = told(tab, 1)
    in_view(tab, ".inspector")
    spark, flash = race_of(tab).lanes[1:]
    kept = [sum(r.accepted >= k for r in spark.rounds for k in range(4, 8)), sum(r.accepted >= 4 for r in flash.rounds)]
    assert "You said “about as many”; here it is “fewer than of DSpark’s”" in words
    assert f"in places 4 to 7, {kept[0]} of" in words and kept[1] == 0
    page = tab.page
    page.wait_for_function("document.querySelector('.inspector .bias')?.getAttribute('aria-checked') === 'false'")
    counts = page.inner_text(".inspector-bias p")
    assert re.match(r"With it \d of 7 drafts are kept, without it \d of 7\. Now no slot", counts)
    page.wait_for_function("w => document.querySelector('.lesson-words').innerText.includes(w)", arg=counts)


def test_when_it_does_not_pay_is_told_on_the_pane(tab):
    asked(tab, "does-not-pay")
    words = told(tab, 0)
    in_view(tab, ".pane[data-lane='1']")
    times = tab.page.inner_text(".pane[data-lane='1'] .figure-times dd").split()[0]
    assert f"DSpark · full block: {times} ×" in words
    assert ("You said “slower”: so it is here." in words) == (float(times) < 0.95)
    assert tab.page.input_value("#prompt textarea").startswith("It is a rainy Sunday")


def test_cheats_are_drawn_side_by_side(tab):
    asked(tab, "cheat")
    words = told(tab, 2)
    in_view(tab, "#samplers")
    cards = tab.page.locator(".samplers article")
    caught = cards.locator(".outcome").all_inner_texts()
    assert len(caught) == 5 and caught[0] == "Exact"
    assert f"{caught.count('Caught')} of 4 cheats were caught with 500 of 500 draws each" in words
    assert all("500 of 500 draws" in card for card in cards.all_inner_texts())
    assert tab.page.inner_text("#draw-time").count("by the last proof on this machine") == 1


def test_many_users_are_told_of_as_the_simulation_shows_them(tab):
    asked(tab, "many-users")
    words = told(tab, 0)
    in_view(tab, "#many-users")
    tab.page.wait_for_function("document.querySelector('#many-users output').textContent.includes('32')")
    ratio = float(re.search(r"32 users together ([\d.]+) ×", words)[1])
    assert ("You said “more”: so it is here." in words) == (ratio > 1.05)
    assert "Simulated on the page’s races (seed 1)" in words


def test_how_long_a_block_names_the_fastest_lane(tab):
    asked(tab, "block-length")
    words = told(tab, 3)
    in_view(tab, "#what-if")
    tab.page.get_by_role("tab", name="Race", exact=True).click()
    lanes = race_of(tab).lanes
    plain, *speeds = [sum(len(r.committed) for r in x.rounds) / x.rounds[-1].time_s for x in lanes]
    for lane, speed in zip(lanes[1:], speeds, strict=True):
        assert f"{lane.spec.label}: {speed / plain:.2f} ×" in words
    best = ("1 draft a round", "3 drafts", "the whole block")[speeds.index(max(speeds))]
    assert max(speeds) > plain and f"here it is “{best}”" in words.replace("” or “", "”; here it is “")


def test_a_guess_is_told_after_the_race_by_keyboard_alone(tab):
    page = tab.page
    asked(tab, "guess")
    page.focus(".lesson input")
    for _ in range(10):
        page.keyboard.press("ArrowLeft")
    assert page.inner_text(".lesson output") == "40"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector(".lesson[data-state=told]")
    in_view(tab, ".pane")
    drafted = [lane for lane in race_of(tab).lanes if lane.spec.speculative]
    kept, sent = (sum(getattr(r, part) for x in drafted for r in x.rounds) for part in ("accepted", "proposed"))
    words = page.inner_text(".lesson-words")
    assert words.startswith(f"{kept} of {sent} ({100 * kept / sent:.0f} %)") and "You guessed 40 of 100" in words
    stored = page.evaluate("JSON.stringify(localStorage)")
    assert "lesson" not in stored and "guess" not in stored


def test_the_strip_is_accessible_fits_every_width_and_is_left_by_escape(tab, axe):
    page = tab.page
    if not page.locator(".lesson[data-state=told]").count() or not page.locator(".pane .tok").count():
        asked(tab, "does-not-pay")
        told(tab, 0)
    page.evaluate(axe)
    assert violations(tab, "a lesson told", narrow=True) == []
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.querySelector('.lesson').getBoundingClientRect().top") > 390
    page.select_option(".pick-size", "projector", force=True)
    page.set_viewport_size({"width": 1440, "height": 790})
    assert page.evaluate("document.querySelector('.lesson').getBoundingClientRect().top") > 300
    page.select_option(".pick-size", "normal")
    # The pointer lies on a token, as it may after a window has changed its size: Escape is still the strip's.
    page.locator(".pane .tok").first.hover()
    page.wait_for_selector(".token-card:not([hidden])")
    page.focus(".lesson h2")
    page.keyboard.press("Escape")
    assert page.is_hidden(".token-card")
    assert page.is_hidden(".lesson") and page.evaluate("document.activeElement.className") == "lessons-start"
    assert not tab.complaints
