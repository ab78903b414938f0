"""The cost curve: what is read from measured points, and that measuring fills it."""

import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import mlx.core as mx
import pytest

from dspark_core import store
from dspark_core.decode import measure as measuring
from dspark_core.decode.cost_curve import CostCurve, Timing, tokens_per_round
from dspark_core.decode.measure import Bench, load_curve, made_of, measure, save_curve
from dspark_core.decode.rounds import Round
from dspark_core.decode.strict import Noise, load_noise, save_noise
from dspark_core.models.info import DrafterInfo
from dspark_core.race.loaded import Models

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
    for bad in ("", "[]", "{}", '{"version": 1}', c.to_json().replace('"version": 2', '"version": 1')):
        with pytest.raises(ValueError, match="Not a cost curve"):
            CostCurve.from_json(bad)
    code = "import sys, dspark_core.decode.cost_curve; sys.exit('mlx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.fixture(scope="module")
def measured(golden_a):
    drafters = {golden_a.drafter.info.method: golden_a.drafter}
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
            assert 0 < t.low <= t.median <= t.high and t.n >= 3
    most = golden_a.drafter.info.max_drafts
    assert set(c.costs[0].draft["DSpark"]) == set(range(most + 1))
    assert c.round_s("DSpark", most, most, 200) > c.plain_s(200)
    assert CostCurve.from_json(c.to_json()) == c


def test_kept_for_the_same_models_only(golden_a, golden_e, measured, tmp_path):
    drafters, _, c = measured
    assert load_curve(golden_a.target, drafters, tmp_path) is None
    save_curve(c, tmp_path)
    assert load_curve(golden_a.target, drafters, tmp_path) == c
    assert load_curve(golden_a.target, {}, tmp_path) is None
    assert load_curve(golden_e.target, {"DSpark": golden_e.drafter}, tmp_path) is None
    next(tmp_path.rglob("*.json")).write_text("cut off")
    assert load_curve(golden_a.target, drafters, tmp_path) is None


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


@pytest.mark.parametrize("quick", [True, False])
def test_time_runs_out(golden_a, monkeypatch, tmp_path, quick):
    """Then there are fewer points, and none of fewer than three samples."""
    for limit in ("QUICK_S", "FULL_S"):
        monkeypatch.setattr(measuring, limit, 1e-9)
    drafters = {"DSpark": golden_a.drafter}
    *_, c = measure(golden_a.target, drafters, quick)
    timings = [t for k in c.costs for t in (k.plain, *k.verify.values(), *k.draft["DSpark"].values())]
    assert {t.n for t in timings} == {3} and len(timings) < 10
    assert c.verify_s(5, 64) > 0 and c.look_s("DSpark", 64) > 0 and c.draft_s("DSpark", 7, 2000) > 0
    assert made_of(golden_a.target, {})["mlx"] and mx.default_device()
    save_curve(c, tmp_path)
    assert load_curve(golden_a.target, drafters, tmp_path) == c


def timed(monkeypatch, seconds):
    """In place of the machine: `seconds(kind, tokens, how many times it was asked before)`. Returns what was run."""
    runs = Counter()

    def run(self, kind, n):
        runs[self.context, kind, n] += 1
        return seconds(kind, n, runs[self.context, kind, n] - 1)

    monkeypatch.setattr(Bench, "run", run)
    return runs


@pytest.mark.parametrize("quick", [True, False])
def test_the_first_run_of_a_point_is_no_sample(golden_a, monkeypatch, quick):
    """On every device: a kernel is compiled, memory is touched. 0.793 s where 0.060 is right."""
    timed(monkeypatch, lambda kind, n, before: 0.060 if before else 0.793)
    *_, c = measure(golden_a.target, {"DSpark": golden_a.drafter}, quick)
    for k in c.costs:
        assert {t.high for t in (k.plain, *k.verify.values(), *k.draft["DSpark"].values())} == {0.060}


@pytest.mark.parametrize("slow", [{1}, {2}, {3}, {1, 2}, {2, 3}, {1, 3}])
@pytest.mark.parametrize("limit", [1e-9, 60.0])
def test_a_disturbed_sample_rules_nothing(golden_a, monkeypatch, slow, limit):
    """One sample of three, or two, while something else had the machine, with and without time for more."""
    monkeypatch.setattr(measuring, "QUICK_S", limit)
    timed(monkeypatch, lambda kind, n, before: 0.793 if before in slow else 0.060 + before / 1e4)
    *_, c = measure(golden_a.target, {"DSpark": golden_a.drafter}, quick=True)
    assert c.look_s("DSpark", 64) == pytest.approx(0.060, rel=0.02)
    assert c.costs[0].draft["DSpark"][0].n >= 3


def test_a_timing_needs_three_samples_and_takes_those_that_agree_with_the_fastest():
    assert Timing.of([0.06, 0.064, 0.062]) == Timing(0.062, 0.06, 0.064, 3)
    assert Timing.of([0.793, 0.06, 0.8]) == Timing(0.06, 0.06, 0.06, 3)
    assert Timing.of([0.05, 0.793, 0.06, 0.07]) == Timing(0.06, 0.05, 0.07, 4)
    for few in ([], [0.06], [0.06, 0.06]):
        with pytest.raises(ValueError, match="3 are needed"):
            Timing.of(few)


class Block:
    """A stand-in for a drafter with any number of drafts, as far as planning and timing ask."""

    taps = (0,)

    def __init__(self, most):
        self.info = DrafterInfo(
            id="dspark", method="DSpark", title="b", name="block", block=most, max_drafts=most, has_look=True
        )
        self.info = replace(self.info, has_confidence=True)

    def begin(self):
        return SimpleNamespace(extend=lambda ids, features: None, state=[])


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("most", [1, 5, 7, 15, 16, 17, 31, 32, 63])
def test_blocks_of_any_length_are_timed_at_their_true_width(golden_a, monkeypatch, tmp_path, most, quick):
    """The target gets as many rows as the point says, and its context stays as long as it was."""
    widths, verify, forward = set(), Bench.verify, golden_a.target.forward
    monkeypatch.setattr(measuring, "QUICK_S" if quick else "FULL_S", 0.3)
    monkeypatch.setattr(Bench, "draft", lambda self, method, rows: 0.001 * (rows + 1))
    monkeypatch.setattr(Bench, "whole", lambda self, method, rows, mode: 0.002 * (rows + 1))

    def checked(self, width):
        before, rows = self.cache[0].offset, []
        monkeypatch.setattr(self.target, "forward", lambda ids, *more: rows.append(ids.size) or forward(ids, *more))
        took = verify(self, width)
        assert rows == [width] and self.cache[0].offset == before == self.context
        widths.add(width)
        return took

    monkeypatch.setattr(Bench, "verify", checked)
    drafters = {"DSpark": Block(most)}
    *_, c = measure(golden_a.target, drafters, quick)
    assert {n for k in c.costs for n in k.verify} == widths and {1, 2, most + 1} <= set(c.costs[0].verify)
    assert {0, most} <= set(c.costs[0].draft["DSpark"]) and max(c.costs[0].draft["DSpark"]) == most
    assert CostCurve.from_json(c.to_json()) == c
    save_curve(c, tmp_path)
    assert load_curve(golden_a.target, drafters, tmp_path) == c
    assert load_curve(golden_a.target, {"DSpark": Block(most + 1)}, tmp_path) is None


def test_a_bench_refuses_more_tokens_than_it_has(golden_a):
    bench = Bench(golden_a.target, {"DSpark": golden_a.drafter}, 64)
    with pytest.raises(ValueError, match="18 tokens"):
        bench.verify(18)


def test_costs_beyond_the_last_point_never_fall():
    falling = curve({1: 10, 7: 16, 8: 13})
    assert falling.verify_s(40, 100) == pytest.approx(0.013)


# ---- damaged files ------------------------------------------------------------------------------------------


def damages(whole: dict):
    """(name, text or bytes) of cost files with one thing wrong."""
    text = json.dumps(whole)

    def with_(path, value):
        broken = json.loads(text)
        at = broken
        for step in path[:-1]:
            at = at[step]
        if value is None:
            del at[path[-1]]
        else:
            at[path[-1]] = value
        return json.dumps(broken)

    point = ("costs", 0, "verify", "8")
    for number in (0, -1.0, float("nan"), float("inf"), 1e400, 10**400, True, "0.1", [0.1], {}, 1e-320, 1e99, None):
        for field in ("median", "low", "high"):
            yield f"verify {field} {number!r:.20}", with_((*point, field), number)
        yield f"plain {number!r:.20}", with_(("costs", 0, "plain", "median"), number)
        yield f"draft {number!r:.20}", with_(("costs", 0, "draft", "DSpark", "0", "median"), number)
        yield f"long {number!r:.20}", with_(("costs", 1, "plain", "low"), number)
    for n in (1, 2, 0, -3, 3.0, True, "3", 10**400, None):
        yield f"n {n!r:.20}", with_((*point, "n"), n)
    yield "low above median", with_((*point, "low"), whole["costs"][0]["verify"]["8"]["median"] * 2)
    yield "high below median", with_((*point, "high"), whole["costs"][0]["verify"]["8"]["median"] / 2)
    good = whole["costs"][0]["verify"]["8"]
    for width in ("0", "-1", "1.5", "08", "+9", " 9", "9 ", "\u0669", "", "x", "99999", "1" * 5000):
        yield f"width {width[:9]!r}", with_(("costs", 0, "verify", width), good)
    slots = ("draft", "DSpark")
    for path in (("verify", "1"), ("verify", "8"), (*slots, "0"), (*slots, "7"), slots):
        yield f"without {path}", with_(("costs", 0, *path), None)
    yield "another method", with_(("costs", 0, "draft", "Other"), {"1": good})
    yield "a method of one context only", with_(("costs", 1, "draft"), {})
    for name in ("verify", "draft", "plain", "context"):
        yield f"no {name}", with_(("costs", 0, name), None)
        for value in ([], "", 7, True):
            if not (name == "context" and value == 7):
                yield f"{name} is {value!r}", with_(("costs", 0, name), value)
    yield "no verification", with_(("costs", 0, "verify"), {})
    for context in (0, -64, 64.0, "64", True, 10**30):
        yield f"context {context!r}", with_(("costs", 0, "context"), context)
    yield "contexts fall", with_(("costs",), whole["costs"][::-1])
    yield "one context twice", with_(("costs",), [whole["costs"][0]] * 2)
    for costs in ([], {}, "x", [[]], [1], None, whole["costs"] * 2000):
        yield f"costs {str(costs)[:9]}", with_(("costs",), costs)
    for when in ("", "yesterday", 5, ["2026-01-01"], "2026-13-01T00:00:00", None):
        yield f"when {when!r}", with_(("when",), when)
    for took in (-1, "1", True, float("nan"), 10**400, None):
        yield f"took {took!r:.9}", with_(("took_s",), took)
    for made in ({}, [], "x", {"target": 5}, None):
        yield f"made of {made!r}", with_(("made_of",), made)
    for version in (0, 1, 3, "2", 2.0, True, None, [2]):
        yield f"version {version!r}", with_(("version",), version)
    yield "one key more", with_(("more",), 1)
    yield "a key twice", text.replace('"version"', '"when": "2026-01-01", "version"', 1)
    yield "a width twice", text.replace('"8": {', '"8": ' + json.dumps(good) + ', "8": {', 1)
    yield "empty", ""
    yield "blank", " \n"
    yield "cut off", text[: len(text) // 2]
    yield "followed by more", text + "{}"
    yield "not an object", "[1, 2]"
    yield "null", "null"
    yield "nested deeply", "[" * 100_000 + "]" * 100_000
    yield "nested deeply inside", with_(("when",), "X").replace('"X"', '{"a":' * 50_000 + "1" + "}" * 50_000)
    yield "not UTF-8", text.encode("utf-16")
    yield "bytes", b"\xff\xfe\x00" * 100
    yield "zeros", b"\0" * 1000
    yield "huge", text + " " * 2_000_000


@pytest.fixture(scope="module")
def kept(golden_a, measured, tmp_path_factory):
    """A measured curve, the directory with its file, and the file."""
    drafters, _, c = measured
    directory = tmp_path_factory.mktemp("costs")
    return c, directory, save_curve(c, directory), drafters


def test_a_damaged_file_is_as_none(golden_a, kept):
    c, directory, file, drafters = kept
    tried = 0
    for name, data in damages(json.loads(c.to_json())):
        file.write_bytes(data if isinstance(data, bytes) else data.encode())
        assert load_curve(golden_a.target, drafters, directory) is None, name
        tried += 1
    assert tried > 120
    save_curve(c, directory)
    assert load_curve(golden_a.target, drafters, directory) == c


def test_what_is_no_file_is_as_none(golden_a, kept):
    c, directory, file, drafters = kept
    file.unlink()
    pipe, loop, endless = (
        (lambda: os.mkfifo(file)),
        (lambda: file.symlink_to(file)),
        (lambda: file.symlink_to("/dev/zero")),
    )
    for make in (file.mkdir, pipe, loop, endless):
        make()
        assert load_curve(golden_a.target, drafters, directory) is None
        save_curve(c, directory)
        assert load_curve(golden_a.target, drafters, directory) == c, "it is replaced"
        file.unlink()
    (file / "full").mkdir(parents=True)
    assert load_curve(golden_a.target, drafters, directory) is None
    with pytest.raises(OSError):
        save_curve(c, directory)
    assert [*file.parent.iterdir()] == [file], "nothing half written stays"
    (file / "full").rmdir()
    save_curve(c, directory)


def test_a_lane_measures_anew_where_the_file_is_damaged(golden_a, kept, monkeypatch):
    c, directory, file, drafters = kept
    monkeypatch.setattr(store, "cache_directory", lambda: directory)
    for _, data in itertools.islice(damages(json.loads(c.to_json())), 0, None, 25):
        file.write_bytes(data if isinstance(data, bytes) else data.encode())
        models = Models(golden_a.target, dict(drafters))
        assert models.known_curve() is None
        models.curve = c
        save_curve(models.curve)
        assert load_curve(golden_a.target, drafters) == c


def test_a_damaged_noise_file_is_as_none(golden_a, tmp_path):
    noise = Noise(0.5, 0.25, 0.25, 1.0)
    file = save_noise(golden_a.target, noise, tmp_path)
    assert load_noise(golden_a.target, tmp_path) == noise
    whole = json.loads(file.read_text())
    wrong = [{}, [], "x", None, 5, whole | {"more": 1}, whole | {"made_of": {}}, whole | {"largest": 0.1}]
    for number in (-1, float("nan"), float("inf"), -float("inf"), 10**400, True, "0.5", [0.5], {}, None, 1e300):
        wrong += [whole | {"largest": number}, whole | {"alone": number}, whole | {"largest": number, "alone": number}]
        wrong += [whole | {"limit": number}] + [whole | {"own": number}] * (number is not None)
    texts = [json.dumps(w) for w in wrong] + ["", "{", "[" * 100_000, file.read_text() + "x", " " * 2_000_000 + "{}"]
    twice = file.read_text().replace('"largest"', '"alone": 0, "largest"')
    for data in [*(t.encode() for t in [*texts, twice]), b"\xff\xfe", file.read_bytes().decode().encode("utf-16")]:
        file.write_bytes(data)
        assert load_noise(golden_a.target, tmp_path) is None, data[:80]
    file.unlink()
    file.mkdir()
    assert load_noise(golden_a.target, tmp_path) is None
    save_noise(golden_a.target, noise, tmp_path)
    assert load_noise(golden_a.target, tmp_path) == noise
