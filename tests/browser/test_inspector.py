"""The round inspector on the page, over the tiny models of golden sets A (DSpark) and C (DFlash)."""

import json

import pytest

from dspark_core.race.inspection import recorded
from dspark_core.race.trace import dumps, loads
from tests.playground.serving import served
from tests.race.long_trace import long_trace

from .steps import at_rest, look, open_file, said, save, shown, violations
from .tab import replay


def tops(page):
    """The tables of the chosen slot: caption -> probabilities."""
    return page.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll('.top')].map(table => [
            table.caption.textContent, [...table.querySelectorAll('td:not(.across)')].map(n => n.textContent)]))"""
    )


def rounds_of(lane):
    """Places on the board of a round with a rejection and of one that was accepted whole; None where there is none."""
    rejection = next((k for k, r in enumerate(lane.rounds, 1) if 0 < r.accepted < r.proposed), None)
    whole = next((k for k, r in enumerate(lane.rounds, 1) if r.accepted == r.proposed), None)
    return rejection, whole


def rounded(x):
    if x >= 0.9995 or x < 0.0005:
        return "1" if x > 0.5 else "<.001" if x > 0 else "0"
    return f"{x:.2f}" if 0.01 <= x < 0.995 else f"{x:.3f}"


def agrees_with(slots, seen):
    """The cells stand for the numbers of an inspection."""
    for cell, slot in zip(slots, seen.block.slots, strict=False):
        assert cell["text"].strip("·") == slot.text.strip()
        assert cell["fate"] == slot.outcome
        for name, value in (("q drafter", slot.q), ("p target", slot.p), ("min(1, p/q)", slot.accept)):
            assert cell[name] == rounded(value), (cell, slot)
        if slot.confidence is not None:
            assert cell["confidence"] == rounded(slot.confidence)
    assert len(slots) == len(seen.block.slots) + 1 and slots[-1]["fate"] == seen.block.own.kind


@pytest.mark.parametrize("temperature", ["0", "1"])
def test_a_rejection_a_full_acceptance_and_the_bias_at_temperature(after_race, temperature):
    tab, trace = after_race(temperature)
    page = tab.page
    lane = trace.race.lanes[1]
    rejection, whole = rounds_of(lane)
    assert rejection and whole, "this race must have both"

    look(page, 1, rejection)
    slots = shown(page)
    assert f"round {rejection}" in page.inner_text(".inspector h2")
    known = page.inner_text(".inspector-known")
    assert f"Recomputed from the {lane.rounds[rejection - 1].position} tokens before this round" in known
    assert ("Greedy keeps a draft" if temperature == "0" else "At temperature 1, with the race’s own") in known
    assert ("drawn" in slots[0]) == (temperature == "1")
    fates = [slot["fate"] for slot in slots]
    kept, n = lane.rounds[rejection - 1].accepted, len(slots) - 1
    assert fates == ["accepted"] * kept + ["rejected"] + ["discarded"] * (n - kept - 1) + ["correction"]
    assert page.get_attribute(f"#slot-{kept}", "aria-selected") == "true", "the rejected slot is what one looks for"
    tables = tops(page)
    told = [name.split(": top ") for name in tables]
    assert [t for t, _ in told] == [f"{x}, slot {kept + 1}" for x in ("Drafter", "Target")] + ["Residual max(p − q, 0)"]
    assert [n for _, n in told][:2] == ["5", "5"] and "1" <= told[2][1] <= "5"  # p may have more than q in a few only
    story = page.inner_text(".slot-story")
    assert story.endswith("rejected.") and ("min(1, p/q)" in story) == (temperature == "1")

    # without the Markov bias: the base logits' block in its place, and back
    bias = page.get_by_role("switch", name="Markov bias")
    assert bias.get_attribute("aria-checked") == "true"
    bias.click()
    assert bias.get_attribute("aria-checked") == "false"
    without = shown(page)
    changed = [k for k, (a, b) in enumerate(zip(slots[:-1], without, strict=False)) if a["text"] != b["text"]]
    assert [k for k, slot in enumerate(without) if slot["was"]] == changed
    words = page.inner_text(".inspector-bias p")
    assert f"With it {kept} of {n} drafts are kept" in words and "Now no slot knows" in words
    accepted = [s["fate"] for s in without].count("accepted")
    assert f"without it {accepted} of {n}" in words
    bias.click()
    assert shown(page) == slots

    look(page, 1, whole)
    page.wait_for_function("n => document.querySelector('.inspector h2').textContent.endsWith('round ' + n)", arg=whole)
    slots = shown(page)
    assert [slot["fate"] for slot in slots] == ["accepted"] * (len(slots) - 1) + ["bonus"]
    assert list(tops(page)) == ["Target, after the block: top 5"]

    # what was seen stands in the file that is saved, number by number
    held = loads(save(tab, "json")[1]).race.lanes[1]
    agrees_with(slots, held.inspection(whole - 1))
    assert all(s.recomputed and s.agrees for s in held.inspections)
    assert not tab.complaints


def test_a_drafter_without_the_bias_says_so_and_the_same_place_is_found_in_it(after_race):
    tab, trace = after_race()
    page = tab.page
    look(page, 1, 3)
    shown(page)
    page.get_by_role("button", name=trace.race.lanes[2].spec.name, exact=True).click()
    page.wait_for_function("document.querySelector('.inspector h2').textContent.startsWith('DFlash')")
    shown(page)
    place = trace.race.lanes[1].rounds[2].position
    told = int(page.inner_text(".inspector h2").rsplit(" ", 1)[1])
    there = trace.race.lanes[2].rounds[told - 1]
    assert there.position <= place < there.position + len(there.committed)
    assert "no Markov bias" in page.inner_text(".inspector-bias")
    assert not page.get_by_role("switch", name="Markov bias").is_visible()
    assert not tab.complaints


def test_a_pass_is_found_in_the_text_and_opened_by_pointer_and_by_keyboard(after_race):
    tab, trace = after_race()
    page, rounds = tab.page, trace.race.lanes[1].rounds
    assert trace.race.costs.draft.keys() == {"dspark", "dflash"} and not trace.race.costs.machine
    assert page.locator("#passes .passes-row [tabindex='0']").count() == len(trace.race.lanes), "one stop a lane"
    track = page.locator("#passes .passes-row[data-lane='1'] .passes-track")
    track.scroll_into_view_if_needed()
    box, clock = track.bounding_box(), max(lane.rounds[-1].time_s for lane in trace.race.lanes)
    middle = (rounds[1].time_s + rounds[2].time_s) / 2
    page.mouse.move(box["x"] + box["width"] * middle / clock, box["y"] + 5)
    page.wait_for_selector(".pane[data-lane='1'] .round[data-round='3'].lit")
    words = page.inner_text(".board-details")
    assert "round 3, " in words and "Drafting " in words and "split as the cost curve has it" in words
    assert page.locator("#passes .passes-lit:not([width='0'])").count() == len(trace.race.lanes)
    page.mouse.down()
    page.mouse.up()
    shown(page)
    assert page.inner_text(".inspector h2").endswith("round 3")
    page.click(".look-close")
    track.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert track.get_attribute("aria-valuenow") == "2" and "round 2, " in track.get_attribute("aria-valuetext")
    assert page.locator(".pane[data-lane='1'] .round[data-round='2'].lit").count()
    page.keyboard.press("Enter")
    shown(page)
    assert page.inner_text(".inspector h2").endswith("round 2")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.className") == "passes-track"
    assert not tab.complaints


def test_alternatives_of_every_slot_and_a_card_that_knows_what_was_computed(after_race):
    tab, trace = after_race()
    page = tab.page
    rejection, _ = rounds_of(trace.race.lanes[1])
    look(page, 1, rejection)
    shown(page)
    chosen = trace.race.lanes[1].rounds[rejection - 1].accepted + 1
    titles = page.locator(".slot-panel .other caption").all_inner_texts()
    assert titles == [f"Drafter, slot {chosen}, without Markov bias: top 5"]
    page.click(".alternatives summary")
    rows = page.evaluate(
        """() => [...document.querySelectorAll('.alternatives tr')].map(row => [row.querySelector('th').textContent,
            row.querySelectorAll('td').length, row.querySelectorAll('.drafted').length])"""
    )
    n = trace.race.lanes[1].rounds[rejection - 1].proposed
    names = [f"slot {k}, {how}" for k in range(1, n + 1) for how in ("with Markov bias", "without")]
    assert rows == [[name, 5, 1] for name in names], "a greedy drafter takes the first"
    page.click(".alternatives summary")
    page.click(".look-close")
    page.locator(f".pane[data-lane='1'] .round[data-round='{rejection}']").first.focus()
    page.wait_for_selector(".token-card:not([hidden])")
    card = page.inner_text(".token-card")
    assert ", rejected" in card and "q, drafter" in card and "computed after the race" in card
    page.keyboard.press("Shift+ArrowRight")  # from token to token
    label = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert page.evaluate("document.activeElement.matches('.tok')") and ", draft 1 of " in label
    page.keyboard.press("Escape")
    page.wait_for_selector(".token-card", state="hidden")
    assert not tab.complaints


def test_by_keyboard_alone_through_a_round(after_race):
    tab, _ = after_race()
    page = tab.page
    page.locator(".pane[data-lane='1'] .text").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    shown(page)
    assert page.evaluate("document.activeElement.className") == "inspector"
    reached = {}

    def tab_to(name, limit=14):
        for _ in range(limit):
            page.keyboard.press("Tab")
            at = page.evaluate("(document.activeElement.id || document.activeElement.className).split(' ')[0]")
            reached[at] = True
            if at.startswith(name):
                return
        raise AssertionError(f"{name} is not reached: {list(reached)}")

    tab_to("look-next")
    before = page.inner_text(".inspector h2")
    page.keyboard.press("Enter")
    page.wait_for_function("h => document.querySelector('.inspector h2').textContent !== h", arg=before)
    shown(page)
    tab_to("bias")
    page.keyboard.press("Space")
    assert page.get_attribute(".bias", "aria-checked") == "false"
    page.keyboard.press("Space")
    assert page.get_attribute(".bias", "aria-checked") == "true"
    tab_to("slot-")
    page.keyboard.press("Home")
    assert page.evaluate("document.activeElement.id") == "slot-0"
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "slot-1"
    assert "slot 2" in page.inner_text(".top >> nth=0") and page.get_attribute("#slot-1", "aria-selected") == "true"
    tab_to("slot-panel")
    page.locator(".pane[data-lane='0'] .tok").first.hover()  # its card does not take the key from the panel
    page.wait_for_selector(".token-card:not([hidden])")
    page.keyboard.press("Escape")
    assert page.is_hidden(".inspector")
    assert page.evaluate("document.activeElement.classList.contains('round')"), "the focus is back on the round"
    assert not tab.complaints


def test_no_serious_violation_in_inspector_and_tour(after_race, axe):
    """axe-core over both, open, in both themes; nothing excluded."""
    tab, _ = after_race()
    page = tab.page
    page.evaluate(axe)
    look(page, 1, 2)
    shown(page)
    page.click(".alternatives summary")
    page.locator(".pane[data-lane='1'] .round[data-round='2']").first.focus()
    page.wait_for_selector(".token-card:not([hidden])")
    assert violations(tab, "inspector", narrow=True) == []
    page.click(".alternatives summary")
    page.get_by_role("switch", name="Markov bias").click()
    page.click(".tour-start")
    for _ in range(2):
        page.click(".tour-next")
    page.wait_for_selector(".tour-here.inspector-scroll")
    shown(page)
    at_rest(page)
    assert violations(tab, "third step of the tour", narrow=True) == []
    page.click(".tour-leave")
    page.get_by_role("switch", name="Markov bias").click()


def test_an_opened_race_replays_and_inspects_what_it_holds_with_no_model_loaded(open_tab):
    def no_model(progress):
        raise RuntimeError("There is no model here.")

    trace = long_trace(40, sampled=True)
    lane = trace.race.lanes[1]
    with served(no_model) as page_of:
        tab = open_tab(page_of.url)
        page = tab.page
        open_file(tab, dumps(trace))
        said(tab, "Opened")
        tab.until("done")
        page.click(".replay-previous")
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        page.keyboard.press("End")
        look(page, 1, 1)
        slots = shown(page, "failed")
        assert "Below stands what the race wrote down." in page.inner_text(".inspector-known")
        agrees_with(slots, recorded(lane.rounds[0], 0.7, lambda t: trace.tokens[t]))
        assert page.is_hidden(".inspector-bias")
        assert not tab.complaints


def test_an_opened_race_of_another_model_shows_its_own_words(recorded, tab):
    """The texts come from the file, whatever is loaded; a round that was looked at before is there as it was."""
    recorded.worker.engine = replay(["other"])
    trace = long_trace(40)
    open_file(tab, dumps(trace))
    said(tab, "Opened")
    tab.until("done")
    look(tab.page, 1, 2)
    told = [slot["text"] for slot in shown(tab.page, "failed")]
    drafted = [trace.tokens[t].decode() for t in trace.race.lanes[1].rounds[1].draft_ids]
    assert [t.strip("·") for t in told[:-1]] == [t.strip().replace("\n", "↵") for t in drafted]
    assert not tab.complaints


def test_a_round_that_was_looked_at_is_kept_with_the_race(after_race, recorded, tab):
    raced, _ = after_race()
    raced.page.bring_to_front()
    look(raced.page, 1, 2)
    slots = shown(raced.page)
    document = save(raced, "json")[1]
    recorded.worker.engine, other = replay(["other"]), tab
    other.page.bring_to_front()
    open_file(other, document)
    said(other, "Opened")
    other.until("done")
    look(other.page, 1, 2)
    assert shown(other.page) == slots
    assert "Recomputed from" in other.page.inner_text(".inspector-known")
    other.page.get_by_role("switch", name="Markov bias").click()
    assert "without it" in other.page.inner_text(".inspector-bias")
    hostile = json.loads(document)
    text = "<img src=x onerror=alert(1)>${alert(2)}{{z}}"
    for seen in hostile["race"]["lanes"][1]["inspections"]:
        for slot in [*seen["block"]["slots"], *seen["without"]["slots"]]:
            for place in (slot, *slot["drafter"], *slot.get("target", [])):
                place["text"] = hostile["tokens"][str(place["token_id"])] = text
    open_file(other, json.dumps(hostile))
    said(other, "Opened")
    other.until("done")  # what is clicked before is drawn anew under the pointer
    assert other.page.is_hidden(".inspector")
    look(other.page, 1, 2)
    assert shown(other.page)[0]["text"] == text and other.page.locator(".inspector img").count() == 0
    other.page.click("#slot-0")
    assert other.page.locator(".top th").first.inner_text().startswith("<img")
    assert not raced.complaints and not other.complaints
