"""What the board lets the inspector and the tour read of a race."""

from .tab import replay

FROZEN = """() => {
    const view = document.querySelector('.board').view(), thawed = [];
    const walk = (value, place) => {
        if (typeof value !== 'object' || value === null) return;
        if (!Object.isFrozen(value) || value instanceof Node) thawed.push(place);
        for (const [name, part] of Object.entries(value)) walk(part, place + '.' + name);
    };
    walk(view, 'view');
    return thawed;
}"""
COUNTS = """() => document.querySelector('.board').view().lanes.map(
    (lane) => [lane.rounds.length, lane.committed, lane.seconds])"""
STATES = """window.states = []; new MutationObserver(() => window.states.push(document.body.dataset.race))
    .observe(document, { subtree: true, attributes: true, attributeFilter: ['data-race'] });"""
PLACES = """() => {
    const view = document.querySelector('.board').view(), lane = view.lanes[1], last = lane.rounds.at(-1);
    const node = view.round(1, last.at);
    return [view.pane(1).dataset.lane, view.figures(1).className, node.dataset.round === String(last.at)];
}"""


def test_it_is_plain_data_that_nobody_can_change_and_whole_during_a_replay(recorded, open_tab):
    recorded.worker.engine = replay()
    tab = open_tab(recorded.url, STATES)
    tab.until("idle")
    # A preview of lanes is no running race, also not between its start and its first records, drawn a frame later.
    assert set(tab.page.evaluate("window.states")) == {"idle"}
    tab.race()
    tab.until("done")
    assert tab.page.evaluate(FROZEN) == []
    whole = tab.page.evaluate(COUNTS)
    assert [tokens for _, tokens, _ in whole] == [39, 39, 39], "40 tokens, without the one that the prompt gives"
    assert whole[0][0] == 40, "the prompt's own and a round for each"
    tab.page.evaluate("""() => { const slider = document.querySelector('.replay-at');
        slider.value = 1; slider.dispatchEvent(new Event('input')); }""")
    assert "round" in tab.page.inner_text(".pane[data-lane='0'] .note")
    assert tab.page.evaluate(COUNTS) == whole
    assert tab.page.evaluate(PLACES) == ["1", "figures", True]
    assert not tab.complaints
