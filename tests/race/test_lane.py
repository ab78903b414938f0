"""The fair clock: who runs next, what counts as own time, and what a failing lane leaves behind."""

import pytest

from dspark_core.decode.rounds import Prefill, Round, Start
from dspark_core.errors import DecodeError
from dspark_core.race.race import Clock, Lane
from dspark_core.race.records import Failed


class Wall:
    """A clock that moves only when told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def round_at(index, time_s, finish=None):
    return Round(index, 10 + index, 1, (), 0, 0, 2, True, (2,), time_s, finish)


def lane(wall, costs, prefill=0.0, fails_at=None, closed=None):
    """A lane whose k-th round takes costs[k] seconds of the wall clock."""

    def decode(clock):
        try:
            yield Prefill(0, 4)
            wall.now += prefill
            yield Prefill(4, 4)
            began = clock()
            yield Start(1, 4, began)
            for k, cost in enumerate(costs):
                if k == fails_at:
                    raise DecodeError("The logits are not finite.")
                wall.now += cost
                yield round_at(k, clock() - began, "length" if k == len(costs) - 1 else None)
        finally:
            if closed is not None:
                closed.append(True)

    return Lane(decode, lambda: None, Clock(wall))


def interleaved(lanes, together=True):
    from dspark_core.race.race import interleave

    return interleave(lanes, together)


def test_a_clock_runs_only_while_its_lane_does():
    wall = Wall()
    clock = Clock(wall)
    wall.now += 5
    assert clock() == 0
    clock.resume()
    wall.now += 2
    assert clock() == 2
    clock.pause()
    wall.now += 7
    assert clock() == 2


def test_own_time_is_untouched_by_the_other_lanes():
    wall = Wall()
    lanes = [lane(wall, [0.1] * 30), lane(wall, [0.5] * 6, prefill=2.0)]
    last = {}
    for i, event in interleaved(lanes):
        last[i] = event
    assert last[0].time_s == pytest.approx(3.0)
    assert last[1].time_s == pytest.approx(3.0)


def test_lanes_never_differ_by_more_than_a_slice_and_a_round():
    wall = Wall()
    lanes = [lane(wall, [0.03] * 200), lane(wall, [0.3] * 20), lane(wall, [0.11] * 60, prefill=1.0)]
    started = set()
    for i, event in interleaved(lanes):
        if isinstance(event, Round):
            started.add(i)
        if len(started) == 3 and not any(x.done for x in lanes):
            clocks = [x.clock() for x in lanes]
            assert max(clocks) - min(clocks) <= 0.2 + 0.3 + 1e-9


def test_a_slice_holds_at_least_one_round_and_about_its_seconds():
    wall = Wall()
    runner = lane(wall, [0.5, *[0.0625] * 6])
    list(runner.slice())  # prefill, start and the long round
    assert [e.index for e in runner.slice()] == [1, 2, 3, 4]


def test_one_after_another_runs_the_first_lane_to_its_end():
    wall = Wall()
    order = [i for i, _ in interleaved([lane(wall, [1.0] * 3), lane(wall, [0.1] * 3)], together=False)]
    assert order == sorted(order)


def test_a_failing_lane_says_so_and_the_others_finish():
    wall = Wall()
    events = list(interleaved([lane(wall, [0.1] * 5, fails_at=2), lane(wall, [0.1] * 5)]))
    assert (0, Failed("The logits are not finite.")) in events
    assert [e for i, e in events if i == 1][-1].finish == "length"
    assert not any(i == 0 and isinstance(e, Round) and e.index >= 2 for i, e in events)


def test_closing_a_race_closes_every_lane():
    wall, closed = Wall(), []
    race = interleaved([lane(wall, [0.1] * 50, closed=closed), lane(wall, [0.1] * 50, closed=closed)])
    for _ in range(12):
        next(race)
    race.close()
    assert len(closed) == 2
