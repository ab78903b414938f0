"""Cost curves and races whose figures can be worked out by hand."""

from dspark_core.decode.cost_curve import CostCurve, Costs, Timing
from dspark_core.decode.rounds import Round, Settings, Start
from dspark_core.race.records import LaneRecord, LaneSpec, RaceRecord, RaceRequest


def timing(seconds):
    return Timing(seconds, seconds, seconds, 3)


def curve(verify, plain=0.1, draft=0.02):
    costs = Costs(
        64,
        timing(plain),
        {w: timing(verify(w)) for w in range(1, 18)},
        {"dspark": {n: timing(draft) for n in range(8)}},
    )
    return CostCurve({}, "now", 1.0, (costs,))


TAXI_CURVE = curve(lambda w: 0.08 + 0.02 * w)


BUS_CURVE = curve(lambda w: 0.1 if w == 1 else 0.19)


def lane(spec, ids, drafts, proposed, times):
    """Rounds that commit `ids` [from the second on] with the given drafts; acceptance follows from both."""
    rounds, at = [], 1
    for k, (draft, n, time_s) in enumerate(zip(drafts, proposed, times, strict=True)):
        right = 0
        while right < n and at + right < len(ids) and draft[right] == ids[at + right]:
            right += 1
        committed = tuple(ids[at : at + right + 1])
        rounds.append(
            Round(k, 63 + at, ids[at - 1], tuple(draft), n, right, committed[-1], right == n, committed, time_s)
        )
        at += len(committed)
    return LaneRecord(spec, Start(ids[0], 63, 0.5), rounds)


def race(*lanes, **settings):
    specs = tuple(x.spec for x in lanes)
    return RaceRecord("t", "bf16", RaceRequest("p", specs, Settings(20, **settings)), 63, list(lanes))


def good_and_bad(rounds=30):
    """Half of the rounds are right for two drafts, the others for none."""
    ids, drafts = [1], []
    for k in range(rounds):
        right = 2 if k % 2 else 0
        following = [100 + 10 * k + j for j in range(right + 1)]
        drafts.append((*following[:right], *[999] * (7 - right)))
        ids += following
    return lane(
        LaneSpec("DSpark", label="full block"), ids, drafts, [7] * rounds, [0.3 * (k + 1) for k in range(rounds)]
    )
