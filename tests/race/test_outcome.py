"""What came of a race in a sentence, from hand-made rounds."""

from dataclasses import replace

import pytest

from dspark_core.decode.rounds import Round, Settings, Start
from dspark_core.race.outcome import outcome
from dspark_core.race.records import LaneRecord, LaneSpec, RaceRecord, RaceRequest, Verdict


def lane(method, counts, seconds, label=""):
    """Rounds from (drafted, accepted) pairs, `seconds` each; the last one ends the answer."""
    rounds = [
        Round(k, 10, 1, tuple(range(n)), n, a, 9, a == n, (*range(a), 9), (k + 1) * seconds)
        for k, (n, a) in enumerate(counts)
    ]
    last = rounds[-1]
    rounds[-1] = Round(**{f: getattr(last, f) for f in Round.__dataclass_fields__} | {"finish": "length"})
    return LaneRecord(LaneSpec(method, label=label), Start(5, 10, 0.25), rounds)


def race(*lanes, kind="identical", stopped=False):
    request = RaceRequest("hi", tuple(x.spec for x in lanes), Settings(max_tokens=9))
    return RaceRecord("t", "bf16", request, 10, list(lanes), stopped, None if stopped else Verdict(kind, ""))


PLAIN = lane("plain", [(0, 0)] * 8, 0.5)  # 8 tokens in 4 s, and the one that the prompt gives


def test_the_winner_is_named_with_its_times():
    found = outcome(race(PLAIN, lane("DSpark", [(3, 3), (3, 3)], 1.0), lane("DFlash", [(3, 1)] * 4, 0.75)))
    assert found.words == "DSpark first: 9 tokens in 2.0 s, plain 4.0 s: 2.00 ×, word for word the same."
    assert found.paid is True and found.idle == -1


def test_two_lanes_of_a_method_are_told_apart():
    twice = lane("DSpark", [(3, 3), (3, 3)], 1.0, "cap 3"), lane("DSpark", [(7, 3), (7, 3)], 1.5, "full block")
    assert outcome(race(PLAIN, *twice)).words.startswith("DSpark · cap 3 first: ")


@pytest.mark.parametrize("kind", ["sampled", "tie", "divergence"])
def test_other_texts_are_not_called_the_same(kind):
    found = outcome(race(PLAIN, lane("DSpark", [(3, 3), (3, 3)], 1.0), kind=kind))
    assert found.words == "DSpark was fastest: 4.0 tok/s, plain 2.0: 2.00 ×." and found.paid


def test_where_it_did_not_pay_it_says_why():
    found = outcome(race(PLAIN, lane("DSpark", [(4, 1)] * 4, 1.25)))
    assert found.paid is False
    assert found.words == (
        "Drafting did not pay here: plain was first, 9 tokens in 4.0 s, DSpark 5.0 s: 0.80 ×. "
        "25 % of the drafts sent were right, so a round gave 2.00 tokens and took as long as 2.50 plain steps."
    )
    cut = lane("DSpark", [(4, 1)] * 3 + [(4, 4)], 1.5)  # at the limit, in the midst of the last round
    cut.rounds[-1] = replace(cut.rounds[-1], committed=(0,))
    words = outcome(race(PLAIN, cut)).words
    assert "0.58 ×. " in words and "a round gave 1.75 tokens (the pane counts 2.75, with what the end" in words
    assert words.endswith("and took as long as 3.00 plain steps."), "what it gave over what it cost is × plain"


def test_a_lane_that_never_drafted_is_pointed_at():
    found = outcome(race(PLAIN, lane("DSpark", [(0, 0)] * 8, 0.505)))
    assert found.idle == 1 and found.paid is False
    assert found.words.startswith("No lane won: DSpark 9 tokens in 4.0 s, plain 4.0 s: 0.99 ×. In 8 of its 8 rounds")


def test_nothing_is_said_of_a_stopped_race_or_one_without_plain():
    fast = lane("DSpark", [(3, 3), (3, 3)], 1.0)
    unended = LaneRecord(fast.spec, fast.start, fast.rounds[:1])
    for found in (race(PLAIN, fast, stopped=True), race(fast), race(PLAIN), race(PLAIN, unended)):
        assert outcome(found).words == ""
