"""Figures from hand-made rounds, checked against sums done by hand."""

from dataclasses import replace

import pytest

from dspark_core.decode.rounds import Round, Spent, Start
from dspark_core.race.metrics import lengths, metrics, positions, speed_over_time, spent, times_plain
from dspark_core.race.records import LaneRecord, LaneSpec


def rounds(*counts, seconds=0.5):
    """Rounds from (proposed, accepted) pairs, `seconds` apart."""
    return [
        Round(k, 10, 1, tuple(range(n)), n, a, 9, a == n, (*range(a), 9), (k + 1) * seconds)
        for k, (n, a) in enumerate(counts)
    ]


def lane(rounds):
    return LaneRecord(LaneSpec("DSpark"), Start(5, 10, 0.25), rounds)


def test_figures():
    m = metrics(lane(rounds((4, 4), (4, 0), (4, 2))))
    assert (m.tokens, m.rounds, m.first_token_s) == (9, 3, 0.25)
    assert m.tok_s == pytest.approx(9 / 1.5)  # the token from the prompt does not count, nor does its time
    assert m.tokens_per_round == pytest.approx(3)
    assert m.acceptance == pytest.approx(6 / 12)


def test_nothing_yet_is_none_not_zero():
    m = metrics(LaneRecord(LaneSpec("DSpark")))
    assert m.tok_s is m.tokens_per_round is m.acceptance is m.first_token_s is None


def test_times_plain():
    fast, slow = metrics(lane(rounds((3, 3)))), metrics(lane(rounds((0, 0))))
    assert times_plain(fast, slow) == pytest.approx(4)
    assert times_plain(fast, None) is None


def test_lengths_count_accepted_plus_one():
    assert lengths(rounds((4, 4), (4, 0), (4, 2), (4, 0))) == {1: 2, 3: 1, 5: 1}


@pytest.mark.parametrize(
    ("accepted", "committed", "finish", "length"),
    [
        (2, (0, 1), "stop", 2),  # the second accepted draft is the stop token
        (4, (0, 1, 2, 3), "stop", 4),  # the last one
        (1, (0,), "stop", 1),  # the first
        (2, (0, 1, 9), "stop", 3),  # the target's own token is
        (0, (9,), "stop", 1),
        (3, (0, 1), "length", 4),  # a limit takes nothing away
        (3, (0, 1, 2, 9), "context", 4),
        (3, (0, 1, 2, 9), None, 4),
    ],
)
def test_a_round_that_a_stop_token_ends_inside_the_draft(accepted, committed, finish, length):
    r = Round(0, 10, 1, tuple(range(4)), 4, accepted, 9, False, committed, 0.5, finish)
    assert r.acceptance_length == length
    assert metrics(lane([r])).tokens_per_round == length and lengths([r]) == {length: 1}


def test_acceptance_by_position():
    first, second, third = positions(rounds((3, 3), (3, 1), (3, 0), (1, 1)))
    assert (first.conditional, first.reached) == (3 / 4, 4)
    assert (second.conditional, second.reached) == (1 / 2, 2)  # the round that sent only one does not count
    assert (second.cumulative, second.sent) == (1 / 3, 3)
    assert (third.conditional, third.cumulative) == (1, 1 / 3)


def test_a_position_nobody_reached_has_no_share():
    assert positions(rounds((2, 0)))[1].conditional is None


def test_speed_over_time_begins_after_enough_tokens():
    steady = rounds(*[(3, 3)] * 10)  # 4 tokens every half second
    points = speed_over_time(steady, tokens=8)
    assert points[0][0] == 1.0
    assert all(s == pytest.approx(8) for _, s in points)
    at_once = replace(steady[-1], index=10, time_s=steady[-1].time_s + 0.0008)  # nothing was left to prepare behind it
    assert speed_over_time([*steady, at_once], tokens=8) == points


def test_spent_adds_up_profiled_rounds():
    plain = rounds((2, 1))
    assert spent(plain) is None
    profiled = [Round(0, 1, 1, (1,), 1, 1, 2, True, (1, 2), 0.4, spent=Spent(0.1, 0.2, 0.1))] * 2
    assert spent(profiled) == Spent(0.2, 0.4, 0.2)
