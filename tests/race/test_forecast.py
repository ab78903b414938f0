"""Advice from a cost curve: worked by hand on curves and rounds whose figures are known."""

import random
from dataclasses import replace

import pytest

from dspark_core.race.forecast import (
    BETWEEN,
    BUS,
    TAXI,
    Transport,
    anchored,
    draft_outcomes,
    further_token_costs,
    predictions,
    prospects,
    slot_acceptance,
    suggest,
)
from dspark_core.race.metrics import metrics
from dspark_core.race.records import CAP, HARDWARE, PLAIN, LaneRecord, LaneSpec

from .forecasts import BUS_CURVE, TAXI_CURVE, curve, good_and_bad, lane, race

CAPPED, AWARE = LaneSpec("DSpark", schedule=CAP, cap=2), LaneSpec("DSpark", schedule=HARDWARE)


def test_kinds_of_machine():
    taxi, bus = Transport.of(TAXI_CURVE, 64, 7), Transport.of(BUS_CURVE, 64, 7)
    assert (taxi.kind, bus.kind) == (TAXI, BUS)
    assert taxi.further == pytest.approx(0.2) and taxi.entrance == pytest.approx(1.2)
    assert bus.further == pytest.approx(0) and bus.entrance == pytest.approx(1.9)
    assert Transport.of(curve(lambda w: 0.1 + 0.007 * (w - 1)), 64, 7).kind == BETWEEN


def test_the_ceiling_takes_every_draft_as_accepted_and_drafting_as_free():
    assert Transport.of(TAXI_CURVE, 64, 7).ceiling == pytest.approx(8 * 0.1 / 0.24)
    assert Transport.of(BUS_CURVE, 64, 7).ceiling == pytest.approx(8 * 0.1 / 0.19)


def test_a_step_in_the_curve_stays_a_step():
    added = dict(further_token_costs(BUS_CURVE, 64, 5))
    assert added == pytest.approx({2: 0.09, 3: 0, 4: 0, 5: 0})


def test_greedy_drafts_that_were_not_sent_are_judged_by_the_output():
    ids = [1, 2, 3, 4, 5, 6, 7, 8]
    x = lane(LaneSpec("DSpark"), ids, [(2, 3, 4, 9), (4, 5, 9, 9), (5, 6, 7, 8)], [1, 0, 3], [0.1, 0.2, 0.3])
    assert [r.accepted for r in x.rounds] == [1, 0, 3] and x.output == ids
    outcomes = draft_outcomes(x, greedy=True)
    assert outcomes[0] == (4, 3)  # three of four right, though one was sent
    assert outcomes[1:] == [(4, 2), (4, 4)]
    assert draft_outcomes(x, greedy=False) == [(1, 1), (3, 3)]


def test_drafts_beyond_the_end_of_the_output_are_not_judged():
    x = lane(LaneSpec("DSpark"), [1, 2, 3], [(2, 3, 4, 5)], [4], [0.1])
    assert draft_outcomes(x, greedy=True) == [(2, 2)]


def test_acceptance_by_slot_given_the_ones_before():
    outcomes = [(3, 3)] * 6 + [(3, 1)] * 2 + [(3, 0)] * 2
    assert slot_acceptance(outcomes)[0] == pytest.approx(0.8)
    second = (6 + 4 * 0.8) / (8 + 4)
    assert slot_acceptance(outcomes)[1] == pytest.approx(second)
    assert len(slot_acceptance([(3, 0)] * 4)) == 1  # later slots were never reached
    assert slot_acceptance([]) == []


def test_predicted_against_measured():
    ids = list(range(1, 9))
    plain = lane(LaneSpec(PLAIN), ids, [()] * 7, [0] * 7, [0.11 * (k + 1) for k in range(7)])
    drafted = lane(LaneSpec("DSpark", CAP, cap=2), ids, [(2, 3), (5, 0), (7, 8)], [2, 2, 2], [0.2, 0.4, 0.6])
    one, two = predictions(TAXI_CURVE, race(plain, drafted))
    assert one.predicted == pytest.approx(10) and one.error == pytest.approx(0.1)
    assert two.predicted == pytest.approx(7 / (3 * (0.02 + 0.14))) and two.measured == pytest.approx(7 / 0.6)
    assert [p.lane for p in predictions(TAXI_CURVE, race(lane(LaneSpec("DFlash"), ids, [(2,)], [1], [0.2])))] == []


def test_prospects_by_cap():
    x = good_and_bad()
    options = prospects(TAXI_CURVE, x, greedy=True)
    assert options[0].tok_s == pytest.approx(10) and options[0].times_plain == 1
    assert options[1].tokens == pytest.approx(1.5)
    assert options[1].tok_s == pytest.approx(1.5 / (0.02 + 0.12))
    assert options[1].break_even == pytest.approx(0.14 / 0.1)
    assert prospects(TAXI_CURVE, LaneRecord(LaneSpec("DSpark")), True) == []


def test_the_suggested_cap_is_the_fastest_and_its_gain_is_over_what_was_raced():
    x = good_and_bad()
    (s,) = suggest(TAXI_CURVE, race(x))
    fastest = max(prospects(TAXI_CURVE, x, True), key=lambda p: p.tok_s)
    assert s.cap == s.best == fastest.cap == 2
    raced = 60 / (30 * (0.02 + 0.24))
    assert s.gain == pytest.approx(fastest.tok_s / raced - 1)
    assert s.times == pytest.approx(fastest.times_plain)


@pytest.mark.parametrize(("spec", "drafted", "known"), [(LaneSpec("DSpark"), 7, None), (CAPPED, 2, 2), (AWARE, 7, 7)])
def test_of_lengths_that_were_never_drafted_a_race_tells_nothing(spec, drafted, known):
    ids = list(range(1, 10 * (drafted + 1) + 2))
    drafts = [tuple(ids[k * (drafted + 1) + 1 :][:drafted]) for k in range(10)]
    x = lane(spec, ids, drafts, [drafted] * 10, [0.3 * (k + 1) for k in range(10)])
    (s,) = suggest(TAXI_CURVE, race(x))
    assert s.known == known and s.cap <= (known or 7)


def test_where_no_cap_pays_plain_is_suggested():
    x = lane(LaneSpec("DSpark"), list(range(1, 22)), [(0,) * 7] * 20, [7] * 20, [0.3 * (k + 1) for k in range(20)])
    (s,) = suggest(TAXI_CURVE, race(x))
    assert s.cap == 0 and s.best == 1 and s.times < 1
    assert s.gain == pytest.approx(10 / (1 / 0.26) - 1)


# ---- anchored on the race's own plain lane ------------------------------------------------------------------


def plain_lane(step, tokens=40):
    ids = list(range(1, tokens + 2))
    return lane(LaneSpec(PLAIN), ids, [()] * tokens, [0] * tokens, [step * (k + 1) for k in range(tokens)])


def timed(x, seconds):
    """The same rounds, `seconds` each."""
    return replace(x, rounds=[replace(r, time_s=seconds * (k + 1)) for k, r in enumerate(x.rounds)])


@pytest.mark.parametrize("step", [0.05, 0.1, 0.37])
def test_every_prediction_is_at_the_speed_that_the_plain_lane_had(step):
    drafted = timed(good_and_bad(), 0.26 * step / 0.1)
    raced = race(plain_lane(step), drafted)
    here = anchored(TAXI_CURVE, raced)
    plain, own = predictions(here, raced)
    assert plain.error == pytest.approx(0) and own.error == pytest.approx(0), "all is as much slower as plain is"
    assert here.verify_s(8, 64) == pytest.approx(0.24 * step / 0.1)
    assert here.round_s("dspark", 7, 7, 64) == pytest.approx(0.26 * step / 0.1)
    assert prospects(here, drafted, True)[0].tok_s == pytest.approx(1 / step)
    alone = race(drafted)
    assert anchored(TAXI_CURVE, alone) is TAXI_CURVE, "no plain lane to go by"


@pytest.mark.parametrize("seed", range(40))
def test_no_advice_contradicts_the_board_or_is_what_ran(seed):
    """Races at any speed, curves that are off by up to three times in each of their parts."""
    rng = random.Random(seed)
    each, first, draft = rng.uniform(0, 0.1), rng.uniform(0.05, 0.3), rng.uniform(0.005, 0.1)
    costs = curve(lambda w: first + each * w, plain=rng.uniform(0.05, 0.3), draft=draft)
    cap = rng.choice((1, 2, 4, 7))
    ids, drafts = [1], []
    for k in range(30):
        right = rng.randint(0, cap)
        drafts.append((*(100 * k + 10 + j for j in range(right)), *[999] * (7 - right)))
        ids += [*drafts[-1][:right], 100 * k + 99]
    spec = LaneSpec("DSpark", CAP, cap=cap) if rng.random() < 0.7 else LaneSpec("DSpark", HARDWARE)
    drafted = timed(lane(spec, ids, drafts, [cap] * 30, [0.0] * 30), rng.uniform(0.1, 0.6))
    step = rng.uniform(0.05, 0.3)
    (s,) = suggest(costs, race(plain_lane(step), drafted))
    measured, plain = metrics(drafted).tok_s, 1 / step
    if s.cap == 0:
        assert s.tok_s == pytest.approx(plain) and s.gain == pytest.approx(plain / measured - 1), "the board has both"
    else:
        assert s.tok_s > plain or s.tok_s == pytest.approx(plain)
        assert s.gain == pytest.approx(0 if spec.schedule == CAP and s.cap == cap else s.tok_s / measured - 1)
    if spec.schedule == CAP and s.best == cap:
        assert s.times == pytest.approx(measured / plain), "what ran is known, not foretold"
