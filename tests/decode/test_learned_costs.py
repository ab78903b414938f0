"""What makes a cost curve one to trust: pooled points, real falls, waits, what races teach, and one to begin with."""

import json
import random
from dataclasses import replace

import pytest

from dspark_core.decode import measure as measuring
from dspark_core.decode.bundled_curve import SHAPES, bundled_curve
from dspark_core.decode.cost_curve import BLIND, WAITED, CostCurve, Costs, Learned, Timing, pooled
from dspark_core.decode.measure import Bench, Measurement
from dspark_core.decode.rounds import Round

from ..conftest import GOLDEN
from .curves import at, curve


def spread(ms: float, low: float, high: float, n: int = 3) -> Timing:
    return Timing(ms / 1e3, low / 1e3, high / 1e3, n)


def test_a_fall_within_the_spread_is_pooled_by_samples():
    found = pooled({1: at(10), 2: spread(16, 12, 19, 3), 3: spread(13, 11, 17, 9), 4: at(20)})
    assert found[2] == found[3] == pytest.approx((3 * 0.016 + 9 * 0.013) / 12)
    assert (found[1], found[4]) == (0.010, 0.020)


def test_a_fall_beyond_both_spreads_is_real():
    raw = json.loads((GOLDEN / "curves" / "h200_qwen3_4b_8bit.json").read_text())["verify"]
    points = {int(w): spread(t["median_ms"], t["median_ms"], t["median_ms"], 5) for w, t in raw.items()}
    found = pooled(points)
    assert found[7] == pytest.approx(0.01618) and found[8] < 0.0135
    assert found[8] == pytest.approx(found[16], rel=0.02), "a plateau stays one"


def test_pooling_never_leaves_a_fall_within_the_spread():
    rng = random.Random(0)
    for _ in range(200):
        medians = [rng.uniform(5, 15) for _ in range(12)]
        found = pooled({w: spread(m, m * 0.5, m * 2) for w, m in enumerate(medians, 1)})
        assert [*found.values()] == sorted(found.values())
        assert sum(found.values()) == pytest.approx(sum(medians) / 1e3)


def test_plain_is_never_dearer_than_one_row_nor_a_look_than_a_draft():
    noisy = Costs(64, at(375), {1: at(210), 2: at(345)}, {"dspark": {0: at(793), 1: at(71), 7: at(101)}})
    c = CostCurve({}, "2026-01-01", 1.0, (noisy,))
    assert c.plain_s(64) == pytest.approx(0.210) and c.look_s("dspark", 64) == pytest.approx(0.071)


def test_a_round_in_one_piece_prices_the_wait():
    c = curve({1: 4, 2: 7, 8: 8}, draft=2, row=0.1, rows=7)
    whole = {"DSpark": {BLIND: at(9.7), WAITED: at(11.2)}}
    c = replace(c, costs=(replace(c.costs[0], whole=whole),))
    assert c.wait_s("DSpark") == pytest.approx(0.0015)
    assert c.round_s("DSpark", 7, 7, 100) == pytest.approx(0.0097)
    assert c.round_s("DSpark", 7, 3, 100, WAITED) == pytest.approx(0.0027 + c.verify_s(4, 100) - 0.001 + 0.0015)
    a_round = Round(0, 100, 5, (1,) * 7, 7, 1, 7, False, (1, 7), 0.1)
    assert c.recorded_s("DSpark", a_round) == pytest.approx(0.0097)
    assert c.recorded_s("DSpark", replace(a_round, confidence=(0.5,) * 7)) == pytest.approx(0.0112)


def decoded(n: int, took, drafted: int = 0, confidence=None) -> list[Round]:
    """Rounds that take `took(i)` seconds."""
    ends, out = 0.0, []
    for i in range(n):
        ends += took(i)
        out.append(Round(i, 100, 0, (0,) * drafted, drafted, 0, 0, False, (0,), ends, confidence=confidence))
    return out


def test_races_teach_what_rounds_take_relative_to_plain_steps():
    c = curve({1: 100, 8: 200}, draft=30, row=0, rows=7)  # a round of 7 should take 230 ms
    for _ in range(6):  # a machine that is 1.3 times slower at everything, and at rounds once more
        noise = random.Random(1)
        plain = decoded(40, lambda i, r=noise: 0.130 * r.uniform(0.98, 1.02))
        drafted = decoded(30, lambda i, r=noise: 0.230 * 1.3 * 1.2 * r.uniform(0.98, 1.02), 7)
        c = c.refined([("plain", plain), ("DSpark", drafted)])
    assert c.plain_s(100) == pytest.approx(0.130, rel=0.02)
    assert c.round_s("DSpark", 7, 7, 100) / c.plain_s(100) == pytest.approx(2.3 * 1.2, rel=0.02)
    assert 1.1 < c.round_s("DSpark", 3, 3, 100) / c.plain_s(100) / 1.7286 < 1.25, "other rounds lean on those"
    assert CostCurve.from_json(c.to_json()) == c


def test_parked_steps_in_pairs_do_not_pass_for_a_disturbance():
    """The first of two pays for both, where building a step takes as long as computing it."""
    c = curve({1: 100, 8: 200}, draft=30, row=0, rows=7)
    drafted, parked = decoded(12, lambda i: 0.253, 7), decoded(60, lambda i: 0.01 if i % 2 else 0.19)
    ends = drafted[-1].time_s
    lane = [*drafted, *(replace(r, time_s=ends + r.time_s) for r in parked)]
    learned = c.refined([("plain", decoded(40, lambda i: 0.1)), ("DSpark", lane)])
    assert learned.plain_s(100) == pytest.approx(0.1) and learned.round_s("DSpark", 7, 7, 100) > 0.24


def test_old_races_are_forgotten():
    c = curve({1: 100, 8: 200}, draft=30, row=0, rows=7)
    for factor in (1.5, 1.5, 1.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0):
        c = c.refined([("plain", decoded(30, lambda i: 0.1)), ("DSpark", decoded(20, lambda i, f=factor: 0.23 * f, 7))])
    assert c.round_s("DSpark", 7, 7, 100) == pytest.approx(0.23, rel=0.05)


@pytest.mark.parametrize(
    ("plain", "why"),
    [
        (decoded(40, lambda i: 0.1 if i % 3 else 0.3), "every third step was disturbed"),
        (decoded(40, lambda i: 0.1 if i < 20 else 0.2), "half of it was"),
        (decoded(5, lambda i: 0.1), "too short"),
        ([], "nothing was decoded"),
    ],
)
def test_a_disturbed_race_teaches_nothing(plain, why):
    c = curve({1: 100, 8: 200})
    assert c.refined([("plain", plain)]) is c, why
    assert c.refined([("unknown", decoded(40, lambda i: 0.1, 3))]) is c


@pytest.mark.parametrize("broken", [{"plain": {"": {"ratio": 0, "weight": 1}}}, {"a": 1}, {"a": {"b": {"ratio": 1}}}])
def test_what_races_taught_is_checked_when_it_is_read(broken):
    c = replace(curve({1: 100}), learned={"DSpark": {"7 7 blind": Learned(1.2, 8.0)}})
    assert CostCurve.from_json(c.to_json()) == c
    with pytest.raises(ValueError, match="learned"):
        CostCurve.of(json.loads(c.to_json()) | {"learned": broken})


@pytest.mark.parametrize("device", ["CPU", "CUDA, NVIDIA H200", "Metal, Apple M4 Pro", ""])
def test_a_bundled_curve_serves_any_drafter(device, golden_a):
    info = golden_a.drafter.info
    c = bundled_curve({"device": device}, {"dspark": info, "other": info}, 0.05)
    shape = SHAPES[device.partition(",")[0] or "CPU"]
    assert c.borrowed == shape.machine and c.plain_s(500) == pytest.approx(0.05)
    assert c.wait_s("other") == pytest.approx(shape.wait * 0.05)
    for n in range(1, 16):
        assert c.plain_s(9) < c.round_s("dspark", n, n, 9) <= c.round_s("dspark", n, n, 9, WAITED)


def test_before_enough_is_measured_another_shape_serves(golden_a, monkeypatch):
    monkeypatch.setattr(Bench, "run", lambda self, kind, n: 0.002 if kind == "plain" else 0.003)
    under_way = Measurement(golden_a.target, {"dspark": golden_a.drafter}, quick=True)
    assert under_way.curve().borrowed
    curves = [under_way.curve() for _ in under_way.run()]
    scaled = [c for c in curves if c.borrowed and c.plain_s(64) == pytest.approx(0.002)]
    assert scaled and not curves[-1].borrowed and curves[-1].verify_s(2, 64) == pytest.approx(0.003)


def test_a_busy_machine_is_recognised(golden_a, monkeypatch):
    """By samples that do not agree, and where MLX computes on a CPU by the time this process did not have."""
    rng = random.Random(2)
    monkeypatch.setattr(Bench, "run", lambda self, kind, n: rng.choice((0.002, 0.005)))
    *_, c = measuring.measure(golden_a.target, {"dspark": golden_a.drafter}, quick=True)
    assert c.busy > 0.25
    monkeypatch.setattr(Bench, "run", lambda self, kind, n: 0.002)
    *_, c = measuring.measure(golden_a.target, {"dspark": golden_a.drafter}, quick=True)
    assert c.busy == 0
    bench = Bench(golden_a.target, {}, 64)
    bench.on_cpu = True
    monkeypatch.setattr(bench, "_clocks", lambda: (3.0, 1.0))
    assert bench._since((0.0, 0.0)) == 1.0 and bench.spent == (3.0, 1.0)
    bench.on_cpu = False
    assert bench._since((0.0, 0.0)) == 3.0
