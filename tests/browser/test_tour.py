"""The guided tour: five steps on the visitor's own race, each pointing at the real thing."""

from .steps import FULL, raced, shown

STEPS = ("One token at a time", "A block is drafted", "One pass verifies it", "What is kept", "When it pays")


def at_step(page, n):
    page.wait_for_function("t => document.querySelector('.tour h2').textContent === t", arg=STEPS[n - 1])
    assert page.inner_text(".tour-count") == f"Guided tour, step {n} of 5"
    return page.inner_text(".tour-words")


def here(page):
    """The one thing that is highlighted: what it is, and whether it can be seen."""
    return page.evaluate(
        """() => [...document.querySelectorAll('.tour-here')].map(node => {
            const box = node.getBoundingClientRect();
            const words = node.id || node.className.replace(/\\s*(tour-here|lit|looked)/g, '').trim();
            return [words, node.closest('.pane')?.dataset.lane ?? null, node.dataset.round ?? null,
                box.height > 0 && box.bottom > 0 && box.top < innerHeight];
        })"""
    )


def shown_round(lane):
    """The round that the tour shows: the most accepted of those that also have a rejection (see found in tour.js)."""
    both = [r for r in lane.rounds if 0 < r.accepted < r.proposed]
    return max(both, key=lambda r: (r.accepted, -r.index))


def test_the_tour_tells_of_the_race_on_the_board_and_points_at_it(tiny, open_tab):
    tab = open_tab(tiny.url + FULL)
    page = tab.page
    # Before any race the board says what the loaded drafters do.
    page.wait_for_function("document.querySelector('.board').innerText.includes('filling in blanks')")
    about = page.inner_text(".board")
    assert "measured against it" in about and "a small head then settles it" in about
    page.click(".tour-start")
    assert "goes through a race of yours" in at_step(page, 1)
    assert here(page)[0][0] == "race" and page.is_disabled(".tour-next")
    trace = raced(tab)
    text = lambda ids: b"".join(trace.tokens[t] for t in ids).decode()  # noqa: E731
    plain, lane = trace.race.lanes[:2]
    r = shown_round(lane)
    at = str(r.index + 1)

    words = at_step(page, 1)
    assert f"{len(plain.rounds)} passes for {len(plain.rounds)} tokens" in words
    assert [x[:2] for x in here(page)] == [["pane plain", "0"]]
    page.click(".tour-next")
    words = at_step(page, 2)
    assert f"In round {r.index + 1} it wrote {len(r.draft_ids)} tokens ahead" in words
    assert f"“{text(r.draft_ids)}”" in words
    assert [x[1:3] for x in here(page)] == [["1", at]]
    page.click(".tour-next")
    words = at_step(page, 3)
    assert f"goes over all {r.proposed} drafts at once" in words
    shown(page)
    assert f"round {r.index + 1}" in page.inner_text(".inspector h2")
    page.wait_for_function("document.querySelector('.tour-here')?.classList.contains('inspector-scroll')")
    page.wait_for_function(  # the scrolling is smooth
        """() => { const { height, bottom, top } = document.querySelector('.tour-here').getBoundingClientRect();
            return height > 0 && bottom > 0 && top < innerHeight; }"""
    )
    page.click(".tour-next")
    words = at_step(page, 4)
    own = trace.tokens[r.next_id].decode()
    assert f"The first {r.accepted} draft" in words and f"the correction “{own}”" in words
    assert f"this round gave {r.accepted + 1} tokens" in words
    page.click(".tour-next")
    words = at_step(page, 5)
    per_round = page.inner_text(".pane[data-lane='1'] .figure-perRound dd")
    cost = lane.rounds[-1].time_s / len(lane.rounds) / (plain.rounds[-1].time_s / len(plain.rounds))
    gave = sum(len(r.committed) for r in lane.rounds) / len(lane.rounds)  # what it cost goes into that, × plain times
    assert f"gave {gave:.2f} tokens" in words and f"as long as {cost:.2f} plain steps" in words
    assert (f"{gave:.2f}" == per_round) or f"(the pane counts {per_round}, with what the end" in words
    times = page.inner_text(".pane[data-lane='1'] .figure-times dd")
    assert f"here {times} × plain" in words, "the tour and the board tell the same"
    assert ("it pays with" in words) == (float(times) > 1)
    assert here(page)[0][:2] == ["figures", "1"]
    page.click(".tour-next")
    assert page.is_hidden(".tour") and not here(page)
    assert page.inner_text(".tour-start") == "Guided tour"
    assert not tab.complaints


def test_the_tour_is_left_and_resumed_by_keyboard_also_after_a_reload(tiny, open_tab):
    tab = open_tab(f"{tiny.url}{FULL}&temperature=1&seed=3")
    page = tab.page
    raced(tab)
    page.focus(".tour-start")
    page.keyboard.press("Enter")
    for n in (1, 2, 3):
        at_step(page, n)
        if n < 3:
            page.focus(".tour-next")
            page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    assert page.is_hidden(".tour") and not here(page)
    assert page.evaluate("document.activeElement.className") == "tour-start"
    assert page.inner_text(".tour-start") == "Go on with the tour (step 3 of 5)"
    page.keyboard.press("Enter")
    at_step(page, 3)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # Back
    at_step(page, 2)
    page.get_by_role("button", name="Leave").click()
    tab.load()
    assert page.inner_text(".tour-start") == "Go on with the tour (step 2 of 5)"
    page.click(".tour-start")
    assert "goes through a race of yours" in at_step(page, 2)
    raced(tab)
    assert "In round" in at_step(page, 2) and here(page)[0][1] == "1"
    for _ in range(2):
        page.click(".tour-next")
    words = at_step(page, 4)
    assert "each one drawn as the target alone would draw it" in words and "the same as without a drafter" not in words
    page.evaluate("localStorage.setItem('dspark-tour', '99')")
    tab.load()
    page.click(".tour-start")
    at_step(page, 1)
    assert not tab.complaints
