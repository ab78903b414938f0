"""What a race needs is got ready in small steps while nothing is asked for, and a race never waits for it."""

from contextlib import suppress
from pathlib import Path

import pytest

from dspark_core.decode.rounds import Settings
from dspark_core.models.checkpoint import load_drafter
from dspark_core.models.target import load_target
from dspark_core.race.loaded import Models
from dspark_core.race.preparation import COSTS, KERNELS, prepare
from dspark_core.race.race import race
from dspark_core.race.records import CAP, HARDWARE, PLAIN, LaneSpec, RaceRecord, RaceRequest, WarmUp

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
LANES = (
    LaneSpec(PLAIN),
    LaneSpec("DSpark", HARDWARE, label="hardware-aware"),
    LaneSpec("DSpark", label="full block"),
    LaneSpec("DFlash", CAP, cap=3, label="up to 3"),
)


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.setattr("dspark_core.store.cache_directory", lambda: tmp_path)
    monkeypatch.setattr("dspark_core.decode.measure.FULL_S", 0.2)
    target = load_target(GOLDEN / "A" / "target")
    target.encode_chat = lambda messages: list(range(1, 20))
    return Models(
        target, {i: load_drafter(GOLDEN / s / "drafter", target) for i, s in (("dspark", "A"), ("dflash", "C"))}
    )


def raced(models):
    events = list(race(models, RaceRequest("hello", LANES, Settings(12, stop_ids=frozenset()))))
    record = next(e for _, e in events if isinstance(e, RaceRecord))
    return record, [i for i, e in events if isinstance(e, WarmUp)]


def test_it_warms_every_way_of_decoding_then_measures_and_is_done(models):
    words = list(prepare(models))
    first, *rest = dict.fromkeys(words)
    assert first == KERNELS and rest[0] == COSTS.format(left="") and "s or so" in rest[-1]
    assert models.known_curve() and models.measuring is None
    record, warmed = raced(models)
    assert warmed == [] and record.verdict.kind == "identical"
    assert list(prepare(models)) == [], "all is ready"
    again = Models(models.target, models.drafters)
    assert set(prepare(again)) == {KERNELS}, "the curve is on disk"


def test_a_race_may_come_between_any_two_steps_and_a_measurement_by_hand_ends_it(models):
    steps, words = prepare(models), KERNELS
    for _ in range(6):
        for _ in range(7):
            words = next(steps)
        record, _ = raced(models)
        assert record.verdict.kind == "identical"
    assert words.startswith(COSTS.partition("{")[0]) and models.measuring
    *_, curve = models.measure_curve()
    assert list(steps) == [] and models.known_curve() == curve


def test_a_measurement_by_hand_that_was_left_changes_nothing(models):
    steps = prepare(models)
    while models.usable_curve().borrowed:
        next(steps)
    by_hand = models.measure_curve()
    next(by_hand)
    assert models.usable_curve().borrowed
    by_hand.close()
    next(steps)
    assert not models.usable_curve().borrowed, "what was measured before it is there again"
    list(steps)
    assert models.known_curve()


def test_every_step_is_a_single_operation(models, monkeypatch):
    """No step runs the target twice: a round of a drafting lane, or one forward of the measurement (plain steps go by
    three, pipelined)."""
    forwards, forward = [], models.target.forward

    def counted(ids, *more):
        forwards.append(ids.shape[0])
        return forward(ids, *more)

    monkeypatch.setattr(models.target, "forward", counted)
    most = max(d.info.max_drafts for d in models.loaded.values()) + 1
    for _ in prepare(models):
        assert len(forwards) <= 3 and sum(forwards) <= max(17, most), forwards
        forwards.clear()


def test_a_drafter_that_cannot_be_measured_costs_only_its_own_curve(models, monkeypatch):
    broken = models.drafters["dflash"]
    begin = broken.begin

    class Context:
        def __init__(self):
            self.inner = begin()

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def propose(self, *args, **more):
            raise RuntimeError("no kernel")

    monkeypatch.setattr(broken, "begin", Context)
    list(prepare(models))
    curve = models.known_curve()
    assert curve.knows("dspark") and not curve.knows("dflash") and not curve.borrowed
    assert models.usable_curve("dspark") is curve and models.usable_curve("dflash").borrowed
    record, _ = raced(models)
    assert [bool(lane.error) for lane in record.lanes] == [False, False, False, True]


def test_a_target_that_fails_ends_it(models, monkeypatch):
    def forward(*args):
        raise MemoryError("out of memory")

    monkeypatch.setattr(models.target, "forward", forward)
    with suppress(MemoryError):
        list(prepare(models))
    assert models.known_curve() is None and models.usable_curve().borrowed
