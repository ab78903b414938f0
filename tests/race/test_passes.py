"""Where the time of a lane's passes goes: parts that add up to its clock, timed apart or split by a cost curve."""

import json
import random
from dataclasses import replace

import pytest

from dspark_core.decode.cost_curve import CostCurve, Costs, Timing
from dspark_core.decode.rounds import Again, Round, Spent
from dspark_core.errors import TraceError
from dspark_core.paths import assets
from dspark_core.playground.saved import board_of
from dspark_core.playground.stream import FIELD, RECORD
from dspark_core.race.passes import PassParts, costs_by, costs_elsewhere
from dspark_core.race.records import LaneRecord, PassCosts
from dspark_core.race.trace import dumps, loads
from tests.race.long_trace import long_trace

COSTS = PassCosts((1.0, 1.25, 1.5, 2.0), {"dspark": (0.4, 0.5, 0.5, 0.75)}, {"dspark": (0.125, 0.375)})


def timed(seconds):
    return Timing(seconds, seconds, seconds, 3)


def round_of(drafts=2, sent=2, **more):
    return Round(0, 9, 1, (5,) * drafts, sent, 0, 6, not sent, (6,), 3.0, **more)


@pytest.mark.parametrize(
    ("r", "draft", "verify", "wait"),
    [
        (round_of(2, 2), 0.5, 1.5, 0.125),
        (round_of(3, 1), 0.75, 1.25, 0.125),
        (round_of(2, 2, confidence=(0.5, 0.5)), 0.5, 1.5, 0.375),  # the host waited for them
        (round_of(2, 2, confidence=(0.5, 0.5), looked=True), 0.5, 1.5, 0.625),
        (round_of(0, 0, looked=True), 0.4, 1.0, 0.375),  # a look, and nothing drafted
    ],
)
def test_a_round_that_was_not_timed_apart_is_split_as_the_curve_has_its_parts(r, draft, verify, wait):
    parts = PassParts.of(r, 3.0, "dspark", COSTS)
    whole = draft + verify + wait
    assert parts.how == PassParts.SPLIT and parts.again == 0
    assert [parts.draft, parts.verify, parts.wait] == pytest.approx([3 * x / whole for x in (draft, verify, wait)])


def test_what_nothing_tells_apart_is_one_pass():
    for r, drafter, costs in (
        (round_of(0, 0), "dspark", COSTS),
        (round_of(2, 2), "dspark", None),
        (round_of(2, 2), "another", COSTS),
        (round_of(4, 4), "dspark", COSTS),  # more than the curve was asked for
        (round_of(2, 2), "dspark", PassCosts((0.0,) * 4, {"dspark": (0.0,) * 4})),
    ):
        assert PassParts.of(r, 3.0, drafter, costs) == PassParts(0.0, 3.0, 0.0, 0.0, PassParts.WHOLE)


def test_times_that_were_measured_are_taken_as_they_are_and_close_calls_are_apart():
    r = round_of(spent=Spent(0.5, 1.5, 1.0), again=Again(1, False, 1, 0.75))
    assert PassParts.of(r, 3.0, "dspark", COSTS) == PassParts(0.5, 1.5, 0.75, 0.25, PassParts.TIMED)
    r = round_of(again=Again(1, False, 1, 1.0))
    split = PassParts.of(r, 4.0, "dspark", replace(COSTS, wait={}))
    assert split == PassParts(0.75, 2.25, 1.0, 0.0, PassParts.SPLIT)
    late = round_of(spent=Spent(2.5, 1.5, 0.0))  # two readings of a clock
    assert PassParts.of(late, 3.0, "dspark", COSTS) == PassParts(2.5, 0.5, 0.0, 0.0, PassParts.TIMED)


def test_parts_add_up_to_the_clock_of_every_lane():
    """Bars and waiting, on the board as in the record, whatever the race."""
    dice = random.Random(5)
    profiled = long_trace(60)
    for lane in profiled.race.lanes:
        before = 0.0
        for k, r in enumerate(lane.rounds):
            took, shares = r.time_s - before, sorted(dice.random() for _ in range(2))
            spent = Spent(took * shares[0], took * (shares[1] - shares[0]), took * (0.99 - shares[1]))
            before, lane.rounds[k] = r.time_s, replace(r, spent=spent)
    profiled.race.request = replace(profiled.race.request, profile=True)
    files = sorted((assets() / "races").glob("*.json"))
    for trace in (profiled, long_trace(60, sampled=True), *(loads(file.read_bytes()) for file in files)):
        shown = [[0.0, 0.0] for _ in trace.race.lanes]  # seconds in parts, the clock
        more, hows = {}, set()
        for kind, lane, *fields in (r.split(FIELD) for r in board_of(trace).split(RECORD) if r[:1] in ("Q", "D")):
            i = int(lane)
            if kind == "Q":
                more[i] = [float(x) for x in fields[1:4]]
                hows.add(fields[0])
                continue
            took = float(fields[1]) - shown[i][1]
            parts = more.pop(i, [0.0, took, 0.0])
            assert sum(parts) <= took * 1.001
            shown[i] = [shown[i][0] + sum(parts) + max(0.0, took - sum(parts)), float(fields[1])]
        for lane, (seconds, clock) in zip(trace.race.lanes, shown, strict=True):
            assert seconds == pytest.approx(lane.rounds[-1].time_s, rel=0.01) and clock == lane.rounds[-1].time_s
            parts = list(PassParts.of_lane(lane.rounds, lane.spec.drafter_id, COSTS))
            total = sum(p.draft + p.verify + p.again + p.wait for p in parts)
            assert total == pytest.approx(lane.rounds[-1].time_s) and min(min(p.draft, p.wait) for p in parts) >= 0
        assert hows <= ({"timed"} if trace is profiled else {"split"})


def test_a_curve_gives_its_parts_as_measured_and_another_machine_has_a_shape():
    at = {n: timed(s) for n, s in ((0, 0.4), (1, 0.5), (4, 0.8))}
    costs = Costs(
        1, timed(1.0), {1: timed(1.0), 5: timed(3.0)}, {"a": at}, {"a": {"blind": timed(4), "waited": timed(5)}}
    )
    curve = CostCurve({}, "2026-01-01T00:00:00", 0.0, (costs,))
    found = costs_by(curve, {"a": 4, "unknown": 7}, 100)
    assert found == PassCosts((1.0, 1.5, 2.0, 2.5, 3.0), {"a": (0.4, 0.5, 0.6, 0.7, 0.8)}, {"a": (0.2, 1.2)})
    for device in ("CPU", "Metal", "CUDA, NVIDIA H100", "", "abacus"):
        shape = costs_elsewhere(device, {"dspark"})
        assert shape.machine and min(shape.draft["dspark"]) > 0 and shape.split(round_of(200, 15), "dspark")


def test_a_race_keeps_its_costs_and_older_files_open():
    trace = long_trace(12)
    old = dumps(trace)
    assert "costs" not in json.loads(old)["race"] and loads(old).race.costs is None
    trace.race.costs = PassCosts((0.1, 0.2), {"dspark": (0.0, 0.05)}, {"dspark": (0.0, 0.1)}, "another one")
    assert loads(dumps(trace)).race.costs == trace.race.costs
    assert "another machine: another one" in board_of(trace)
    for wrong in (
        {"verify": [-1.0]},
        {"verify": [1e9]},
        {"verify": [0.1], "draft": {"dspark": [float("1e8")]}},
        {"verify": [0.1], "machine": "a\nb"},
        {"verify": [0.1], "wait": {f"{k}": [0.1, 0.2] for k in range(99)}},
        {"verify": [0.1] * 5000},
        {"draft": {}},
    ):
        document = json.loads(old)
        document["race"]["costs"] = wrong
        with pytest.raises(TraceError, match=r"race\.costs"):
            loads(json.dumps(document))


def test_a_lane_that_was_never_run_has_no_passes():
    assert list(PassParts.of_lane(LaneRecord(long_trace(2).race.lanes[0].spec).rounds, "plain", COSTS)) == []
