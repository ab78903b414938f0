"""The cost curve: what is read from measured points, and that measuring fills it."""

import subprocess
import sys
from dataclasses import replace

import mlx.core as mx
import pytest

from dspark_core.decode import measure as measuring
from dspark_core.decode.cost import CostCurve, tokens_per_round
from dspark_core.decode.measure import Bench, load, made_of, measure, save
from dspark_core.decode.rounds import Round

from .curves import curve

BUS = {1: 6.0, 2: 11.5, 4: 12.0, 8: 12.4}


def test_measured_points_stand_and_steps_are_kept():
    c = curve(BUS)
    assert [c.verify_s(w, 100) for w in (1, 2, 4, 8)] == pytest.approx([0.006, 0.0115, 0.012, 0.0124])
    assert c.verify_s(3, 100) == pytest.approx(0.01175)
    assert c.verify_s(10, 100) == pytest.approx(0.0126)  # along the last two
    assert c.draft_s("DSpark", 0, 100) == 0 and c.look_s("DSpark", 100) == pytest.approx(0.010)


def test_the_longer_context_adds_its_difference():
    c = curve(BUS, {1: 7.0, 8: 20.4})
    assert c.verify_s(1, 600) == pytest.approx(0.0065) and c.plain_s(600) == pytest.approx(0.0065)
    assert c.verify_s(8, 1100) == pytest.approx(0.0204) and c.verify_s(8, 2100) == pytest.approx(0.0284)
    assert c.verify_s(2, 1100) == pytest.approx(0.0115 + 0.001 + 0.001)  # between +1 ms at 1 and +8 ms at 8
    assert c.verify_s(8, 10) == pytest.approx(0.0124)  # never below the short context


def test_what_follows_from_a_curve():
    c = curve({w: 10.0 * w for w in range(1, 9)}, draft=0, row=0)  # a taxi: every token costs the same
    for p in (0.3, 0.9, 1.0):
        speeds = [c.speed("DSpark", [p] * 7, cap, 100) for cap in range(8)]
        assert speeds == pytest.approx([sum(p**k for k in range(cap + 1)) / (0.010 * (cap + 1)) for cap in range(8)])
        assert c.best_cap("DSpark", [p] * 7, 100) == 0
    assert c.ceiling(7, 100)[0] == pytest.approx(1)
    bus = curve(BUS, draft=3.0, row=0.2)
    assert bus.best_cap("DSpark", [0.9] * 7, 100) == 7
    assert bus.break_even("DSpark", 7, 100) == pytest.approx((3 + 1.4 + 12.4) / 6)
    assert bus.ceiling(7, 100) == (pytest.approx(8 * 6 / 12.4), 7)


def test_tokens_per_round():
    assert tokens_per_round([]) == 1
    assert tokens_per_round([0.5, 0.5]) == 1.75


def test_recorded_rounds():
    c = curve(BUS)
    a_round = Round(0, 100, 5, (1, 2, 3, 4), 1, 1, 7, True, (1, 7), 0.1)
    plain = replace(a_round, draft_ids=(), proposed=0, accepted=0, committed=(7,))
    assert c.seconds("DSpark", [a_round, plain]) == pytest.approx(0.018 + 0.0115 + 0.006)
    assert c.seconds("DSpark", [replace(plain, looked=True)]) == pytest.approx(0.006 + 0.010)


def test_json_round_trip_needs_no_mlx():
    c = curve(BUS, {1: 7.0, 8: 20.4})
    assert CostCurve.from_json(c.to_json()) == c
    for bad in ("", "[]", "{}", '{"version": 1}', c.to_json().replace('"version": 1', '"version": 0')):
        with pytest.raises(ValueError, match="Not a cost curve"):
            CostCurve.from_json(bad)
    code = "import sys, dspark_core.decode.cost; sys.exit('mlx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.fixture(scope="module")
def measured(golden_a):
    drafters = {golden_a.drafter.method: golden_a.drafter}
    *progress, result = measure(golden_a.target, drafters)
    return drafters, progress, result


def test_measuring_fills_every_point(golden_a, measured):
    _, progress, c = measured
    assert [k.context for k in c.costs] == sorted({k.context for k in c.costs})
    shares = [p.share for p in progress]
    assert shares == sorted(shares) and shares[0] >= 0 and shares[-1] < 1
    for costs in c.costs:
        assert set(costs.verify) == set(range(1, 18))
        for t in (costs.plain, *costs.verify.values(), *costs.draft["DSpark"].values()):
            assert 0 < t.low <= t.median <= t.high and t.n >= 1
    most = golden_a.drafter.max_drafts
    assert set(c.costs[0].draft["DSpark"]) == set(range(most + 1))
    assert c.round_s("DSpark", most, most, 200) > c.plain_s(200)
    assert CostCurve.from_json(c.to_json()) == c


def test_kept_for_the_same_models_only(golden_a, golden_e, measured, tmp_path):
    drafters, _, c = measured
    assert load(golden_a.target, drafters, tmp_path) is None
    save(c, tmp_path)
    assert load(golden_a.target, drafters, tmp_path) == c
    assert load(golden_a.target, {}, tmp_path) is None
    assert load(golden_e.target, {"DSpark": golden_e.drafter}, tmp_path) is None
    next(tmp_path.glob("*.json")).write_text("cut off")
    assert load(golden_a.target, drafters, tmp_path) is None


def test_points_are_taken_in_mixed_order_and_stop_when_closed(golden_a, monkeypatch):
    taken = []
    monkeypatch.setattr(Bench, "verify", lambda self, width: taken.append((self.context, width)) or 1e-3)
    events = measure(golden_a.target, {"DSpark": golden_a.drafter})
    for _ in range(30):
        next(events)
    events.close()
    widths = [w for _, w in taken]
    assert 5 < len(widths) <= 30 and widths != sorted(widths) and len({c for c, _ in taken}) > 1


def test_synthetic_contexts_leave_the_cache_as_it_was(golden_e):
    bench = Bench(golden_e.target, {"DSpark": golden_e.drafter}, 100)
    for act in (bench.plain, lambda: bench.verify(17), lambda: bench.draft("DSpark", 3)):
        assert act() > 0
        assert {c.offset for c in bench.cache} == {c.offset for c in bench.drafts["DSpark"][0].cache} == {100}


def test_time_runs_out(golden_a, monkeypatch):
    monkeypatch.setattr(measuring, "QUICK_S", 1e-9)
    *_, c = measure(golden_a.target, {"DSpark": golden_a.drafter}, quick=True)
    assert all(t.n == 1 for t in c.costs[0].verify.values())
    assert c.verify_s(5, 64) > 0
    assert made_of(golden_a.target, {})["mlx"] and mx.default_device()
