"""Many users at once: one of them is the race itself, and what many come to is worked out apart."""

import random
from dataclasses import replace

import pytest

from dspark_core.decode.batch_rows import BatchRows
from dspark_core.decode.bundled_curve import bundled_curve
from dspark_core.models.info import DrafterInfo
from dspark_core.race.many_users import USERS, BatchCosts, ManyUsers, Recording, Replayed
from dspark_core.race.metrics import metrics, plain_metrics
from dspark_core.race.records import CAP, HARDWARE, LaneSpec
from dspark_core.race.what_if import RACE, Line, RoundCosts, WhatIf

from .forecasts import TAXI_CURVE, curve, good_and_bad, lane
from .real_races import engine, race_record, shipped

INFOS = [
    DrafterInfo(id="dspark", method="DSpark", title="DSpark", block=7, max_drafts=7),
    DrafterInfo(id="dflash", method="DFlash", title="DFlash", block=16, max_drafts=15, first_slot=1),
]


def crowds(race, costs):
    """(lane, the simulation of its rounds at the speeds of its race) of every lane that drafted."""
    costs = costs.refined([(x.spec.drafter_id, x.rounds) for x in race.lanes])
    for k, one in enumerate(race.lanes):
        if recordings := Recording.together([(one, race.request.settings.greedy)] if one.spec.speculative else []):
            spec, most = one.spec, len(recordings[0].rounds[0].reached)
            line = Line(spec.name, spec.drafter_id, spec.method, k, most, ())
            start = next(s for s in WhatIf.of(costs, race, INFOS, lines=(line,)).starts if s.id == RACE)
            yield one, ManyUsers(recordings, BatchCosts(start.rounds[0], start.passes))


def agrees(race, costs):
    """One user is the race: plain, what the race sent, a fixed length that it ran by, and nearly one by confidences."""
    found = [*crowds(race, costs)]
    for one, crowd in found:
        measured = metrics(one).tok_s
        assert crowd.plain(1).tok_s == pytest.approx(plain_metrics(race.lanes).tok_s, rel=0.05)
        assert crowd.as_raced(1).tok_s == pytest.approx(measured, rel=0.05), one.spec.name
        if one.spec.schedule == HARDWARE:  # Algorithm 1 alone pays for no first plain step, and learns nothing
            assert 0.95 * measured <= crowd.schedule(1).tok_s <= 1.1 * measured
        elif one.spec.schedule in ("full", CAP):
            assert crowd.fixed(1, crowd.drafts).tok_s == pytest.approx(measured, rel=0.05)
    return found


@pytest.mark.parametrize("name", shipped())
def test_one_user_comes_to_what_a_recorded_race_came_to(name):
    """On the proportions of another machine, corrected by the race's own rounds as the page corrects them."""
    costs = bundled_curve({"device": "CPU"}, {i.id: i for i in INFOS})
    assert agrees(shipped()[name], costs)


def test_one_user_comes_to_what_a_race_of_the_moment_came_to():
    race = race_record("greedy")
    costs = bundled_curve({"device": "CPU"}, {i.id: i for i in engine().infos})
    # Not a lane that waits for confidences after every draft: how long that takes here is not what is simulated.
    assert agrees(replace(race, lanes=[x for x in race.lanes if x.spec.schedule in ("full", CAP)]), costs)


def test_fixed_lengths_by_hand():
    """Half of the rounds are right for two drafts, the others for none: tokens by length are 1, 1.5, 2, 2, ..."""
    crowd = taxi_crowd()
    for users in (1, 4, 10):
        for n, tokens in ((1, 1.5), (2, 2.0), (7, 2.0)):
            verify = 0.08 + 0.02 * users * (n + 1)
            draft = 0.02 * (0.08 + 0.02 * users * 7) / (0.08 + 0.02 * 7)
            assert crowd.fixed(users, n).tok_s == pytest.approx(users * tokens / (draft + verify))
        served = crowd.plain(users)
        assert served.tok_s == pytest.approx(users / (0.08 + 0.02 * users)) and served.each == served.tok_s / users


def taxi_crowd(confidence=None, seed=0, costs=TAXI_CURVE):
    x = good_and_bad()
    if confidence:
        x.rounds = [replace(r, confidence=confidence(r)) for r in x.rounds]
    rounds = RoundCosts.of(costs, "dspark", 7, 64)
    return ManyUsers(Recording.together([(x, True)]), BatchCosts(rounds, BatchRows.of(costs, 64, {})), seed)


def right(r):
    """A drafter that knows which of its drafts are right."""
    return (0.99, 0.99, *[0.01] * 5) if r.accepted else (0.01,) * 7


def test_a_fixed_block_helps_one_and_hurts_many_where_confidences_help_on_and_never_hurt():
    costs = curve(lambda w: 0.08 + 0.02 * w, draft=0.005)
    crowd = taxi_crowd(right, costs=costs)
    times = [crowd.fixed(users, 2).tok_s / crowd.plain(users).tok_s for users in USERS]
    sure = [crowd.schedule(users).tok_s / crowd.plain(users).tok_s for users in USERS]
    assert times[0] > 1.1 and times[-1] < 0.8 and times == sorted(times, reverse=True)
    assert all(a > b for a, b in zip(sure, times, strict=True)) and min(sure) >= 1
    sent = [crowd.schedule(users).sent for users in USERS]
    assert sent[0] == pytest.approx(1, abs=0.1) and sent == sorted(sent, reverse=True)


@pytest.mark.parametrize("seed", range(40))
def test_the_schedule_never_falls_below_plain(seed):
    """On costs of any shape, with confidences that are right, off or made up, and rounds in any order."""
    rng = random.Random(seed)
    first, each = rng.uniform(0.01, 0.2), rng.choice((0.0, rng.uniform(0, 0.05)))
    jump = rng.choice((0.0, 0.1))
    costs = curve(lambda w: first + each * w + (jump if w > 1 else 0.0), plain=first + each, draft=rng.uniform(0, 0.2))
    made_up = rng.choice((right, lambda r: tuple(rng.random() for _ in range(7)), None))
    crowd = taxi_crowd(made_up, seed, costs)
    for users in (1, 2, 5, 16, 64):
        served, plain = crowd.schedule(users), crowd.plain(users)
        assert served.tok_s >= 0.99 * plain.tok_s, (users, served, plain)
        assert served.parked == (served.tok_s == plain.tok_s and not served.sent)


def test_the_same_seed_is_the_same_simulation_and_another_is_not():
    def some(r):
        return tuple(random.Random(r.index).uniform(0.3, 1) for _ in range(7))

    stairs = curve(lambda w: 0.1 + 0.05 * (w // 6), draft=0.005)
    mixed = {seed: taxi_crowd(some, seed, stairs).schedule(3) for seed in range(4)}
    assert mixed == {seed: taxi_crowd(some, seed, stairs).schedule(3) for seed in range(4)}
    assert len({served.tok_s for served in mixed.values()}) > 1
    assert taxi_crowd(seed=1).fixed(3, 2) == taxi_crowd(seed=2).fixed(3, 2), "all send the same: order changes nothing"


def test_what_a_race_left_open_is_the_mean_and_what_it_cut_is_not_in_the_answer():
    """Three rounds: all three drafts sent, one of them, and none drafted; then one that the answer's end cuts."""
    drafts, ids = [(2, 3, 4), (6,), (), (8, 9, 10)], [1, 2, 3, 4, 5, 6, 7, 70, 8, 9]
    x = lane(LaneSpec("DSpark"), ids, drafts, [3, 1, 0, 3], [0.1, 0.2, 0.3, 0.4])
    last = replace(x.rounds[-1], accepted=3, next_id=10, committed=(8, 9), finish="length")
    x.rounds[0] = replace(x.rounds[0], confidence=(0.9, 0.8, 0.7))
    x.rounds[-1] = last
    (recording,) = Recording.together([(x, True)])
    whole, one, none, cut = recording.rounds
    assert recording.sure == 1 and whole == Replayed((0.9, 0.8, 0.7), (1, 1, 1), 3, 3)
    assert one.reached == (1, 1, 1) and one.confidence == (1, 1, 1) and (one.drafted, one.sent) == (1, 1)
    assert none.reached == (1, 1, 1) and none.drafted == 0, "nothing is known of it but the mean of the others"
    assert cut.reached == (1, 0, 0) and cut.tokens(3) == 2 == len(last.committed)
    assert Recording.together([(lane(LaneSpec("DSpark"), [1, 2], [()], [0], [0.1]), True)]) == ()


def test_lanes_of_one_drafter_are_replayed_together_as_far_as_either_drafted():
    short = lane(LaneSpec("DSpark", CAP, cap=1), [1, 2, 3, 4, 5], [(2,), (4,)], [1, 1], [0.1, 0.2])
    recordings = Recording.together([(good_and_bad(), True), (short, True)])
    rounds = RoundCosts.of(TAXI_CURVE, "dspark", 7, 64)
    crowd = ManyUsers(recordings, BatchCosts(rounds, BatchRows.of(TAXI_CURVE, 64, {})))
    assert crowd.drafts == 7 and [len(r.rounds) for r in recordings] == [30, 2]
    assert 0 < recordings[1].rounds[0].reached[1] < 1, "what the short one never drafted is the mean of both"
    assert crowd.fixed(2, 2).tok_s > 0
