"""What the page shows before any race: a recording that stands in the HTML and plays by itself, once."""

import pytest

from dspark_core.paths import assets
from dspark_core.playground.recordings import recordings
from dspark_core.race.trace import loads
from tests.playground.serving import served

from .tab import replay

PICTURES = """
    window.pictures = [];
    new MutationObserver(() => {
        const round = document.querySelector('.pane .round'), ours = document.querySelector('#board .pane .round');
        if (round && !window.pictures.length) window.pictures.push(Boolean(ours));
    }).observe(document, { subtree: true, childList: true });
"""
PLAYS = "localStorage.setItem('dspark-replay-auto', 'on');"
RUNS = "[aria-label=Pause]"


@pytest.fixture(scope="module")
def opening():
    with served(lambda progress: replay(), recorded=True) as page:
        yield page


def test_a_recording_plays_at_once_and_makes_room_for_a_race(opening, open_tab, axe):
    tab = open_tab(opening.url, PLAYS + PICTURES)
    page = tab.page
    page.wait_for_selector(f"#board .replay-play{RUNS}")
    assert page.evaluate("window.pictures") == [False], "it stands in the page before gradio's scripts have made theirs"
    assert page.locator(".board").count() == 1 and page.evaluate("document.body.dataset.race") == "idle"
    said = page.inner_text(".board-status")
    assert said.startswith("A recording, made on CPU") and "hardware-aware" in said
    assert "binary search" in page.input_value("#prompt textarea")
    page.click(".replay-auto")  # no more of it: the recording stands there as a whole
    assert page.inner_text(".board-outcome").startswith("DSpark first: 96 tokens in ")
    page.click(".tour-start")
    page.wait_for_function(
        "document.querySelector('.tour-words').textContent.includes('asks the target for one token')"
    )
    page.click(".tour-leave")
    page.get_by_role("button", name="Rainy Sunday (CPU, does not pay)").click()
    assert page.inner_text(".board-outcome").startswith("Drafting did not pay here")
    page.evaluate(axe)
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
    assert not [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")]
    page.click("#race")
    tab.until("done")
    assert tab.board_in_view() and not page.is_visible(".recordings")
    assert tab.answer(0).startswith(" word0") and "hardware-aware" in page.inner_text(".pane[data-lane='1'] h3")
    assert not tab.complaints


def test_who_wants_less_motion_sees_it_whole_and_other_lanes_take_its_place(opening, open_tab):
    tab = open_tab(opening.url, PLAYS, reduced_motion="reduce")
    page = tab.page
    page.wait_for_selector("#board .board-outcome:not(:empty)")
    assert not page.locator(f".replay-play{RUNS}").count() and "def" in tab.answer(1)
    page.get_by_role("button", name="Lanes and settings").click()
    drafter = page.get_by_role("combobox", name="Lane 4").or_(page.get_by_label("Lane 4", exact=True)).first
    drafter.click()
    page.get_by_role("option", name="DSpark", exact=True).click()
    page.wait_for_function("document.querySelectorAll('.pane').length === 4 && !document.querySelector('.pane .round')")
    assert not tab.complaints


def test_a_race_that_was_too_quick_to_read_plays_again_by_itself(opening, open_tab):
    engine = replay()
    for rounds in engine.rounds:
        for event in rounds[1:]:
            object.__setattr__(event, "time_s", event.time_s / 20)
    opening.worker.engine = engine
    tab = open_tab(opening.url, PLAYS)
    tab.race()
    tab.page.wait_for_selector(f"body[data-race=done] .replay-play{RUNS}")
    assert float(tab.page.input_value(".replay-speed")) <= 0.1
    tab.page.click(".replay-play")
    assert not tab.page.locator(f".replay-play{RUNS}").count()


def test_recordings_are_small_races_of_this_format():
    files = sorted((assets() / "races").glob("*.json"))
    assert len(recordings()) == len(files) >= 2
    for file in files:
        trace = loads(file.read_bytes())
        assert file.stat().st_size < 60_000 and trace.machine["device"] and trace.race.verdict.kind == "identical"
