"""Strict races over a tiny golden model with numbers that depend on the width, as on a GPU."""

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest

from dspark_core.decode.rounds import Round, Settings, Start
from dspark_core.decode.strict import Noise, Strict
from dspark_core.models.checkpoint import load_drafter
from dspark_core.models.target import load_target
from dspark_core.race.metrics import Strictness, metrics, strictness
from dspark_core.race.race import Models, race
from dspark_core.race.records import CAP, PLAIN, LaneRecord, LaneSpec, RaceRecord, RaceRequest, WarmUp
from dspark_core.race.verdict import judge, next_logits

from ..decode.noisy import NoisyTarget

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
LANES = LaneSpec(PLAIN), LaneSpec("DSpark"), LaneSpec("DSpark", CAP, cap=2)
NORMAL = RaceRequest("hello", LANES, Settings(40, stop_ids=frozenset()))
STRICT = replace(NORMAL, strict=True)


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.setattr("dspark_core.store.cache_directory", lambda: tmp_path)
    target = load_target(GOLDEN / "A" / "target")
    target.encode_chat = lambda messages: list(range(1, 20))
    return Models(target, {"dspark": load_drafter(GOLDEN / "A" / "drafter", target)})


def run(models, request) -> tuple[RaceRecord, list]:
    events = list(race(models, request))
    return events[0][1], events


def test_a_strict_race_is_identical_where_a_normal_one_is_not(models, tmp_path):
    models.target = NoisyTarget(models.target, 1, on_logits=1.0, on_cache=0.2)
    normal, _ = run(models, NORMAL)
    assert normal.verdict.kind != "identical" and normal.noise is None and not list(tmp_path.iterdir())

    strict, events = run(models, STRICT)
    assert strict.verdict.kind == "identical"
    assert strict.noise == models.noise.largest > 1.0
    assert sum(isinstance(e, WarmUp) for _, e in events) >= 1
    told = [strictness(lane.rounds) for lane in strict.lanes]
    assert told[0] == Strictness(0, 0, 0, 0.0, 0.0)
    for lane, s in zip(strict.lanes[1:], told[1:], strict=True):
        assert 0 < s.positions <= metrics(lane).tokens and s.positions <= s.steps and 0 < s.share < 1
    assert any(s.changed for s in told)

    models.noise = None  # as after a new start
    again, _ = run(models, NORMAL)
    assert again.noise == strict.noise, "it was kept"


def test_what_is_known_of_the_device_explains_a_tie(models):
    """Two lanes that part at a close call: rounding there, if this device is known to move logits that far."""
    record, _ = run(models, NORMAL)
    prompt, output = models.target.encode_chat([]), record.lanes[0].output
    calls = []
    for at in range(len(output)):
        logits = next_logits(models.target, [*prompt, *output[:at]])
        second, best = mx.argsort(logits)[-2:].tolist()
        calls.append(((logits[best] - logits[second]).item(), at, second))
    gap, at, second = min(calls)
    other = LaneRecord(LANES[1], Start(output[0], len(prompt), 0.1), [])
    ids = [*output[:at], second, *output[at + 1 :]]
    other.rounds = [Round(k, 0, 0, (), 0, 0, t, True, (t,), k + 1.0) for k, t in enumerate(ids[1:])]
    kinds = []
    for noise in (None, 0.9 * gap, 1.1 * gap):
        shown = replace(record, lanes=[record.lanes[0], other], noise=noise)
        kinds.append(judge(models.target, prompt, shown).kind)
    assert kinds == ["divergence", "divergence", "tie"]


def test_without_noise_a_strict_race_is_a_normal_one(models):
    strict, _ = run(models, STRICT)
    assert models.noise == Noise(0.0, 0.0) and strict.noise == 0.0
    assert strict.verdict.kind == "identical"
    assert not any(r.again for lane in strict.lanes for r in lane.rounds)


def test_a_sampled_race_has_no_strict_mode(models):
    asked = replace(STRICT, settings=Settings(6, temperature=1.0))
    record, _ = run(models, asked)
    assert record.verdict.kind == "sampled" and record.noise is None
    assert [lane.error for lane in record.lanes] == [None] * 3


def test_a_strict_lane_is_warm_before_its_clock_runs(models, monkeypatch):
    """Whatever a strict lane does on its clock it has done before: gaps, the copied cache, steps of width 1."""
    models.target = NoisyTarget(models.target, 1, on_logits=1.0, on_cache=0.2)
    decided, settle = [], Strict.settle

    def settled(keeper, *round_):
        chosen, again = settle(keeper, *round_)
        decided.append(again)
        return chosen, again

    def before_the_clocks(request) -> tuple[list[int], int]:
        """Lanes that are warmed up, and how often a round was decided again between that and their first token."""
        warmed, again, events = [], 0, race(models, request)
        starting = {*range(len(request.lanes))}
        for lane, event in events:
            if isinstance(event, WarmUp):
                warmed.append(lane)
                decided.clear()
            elif isinstance(event, Start):
                starting.discard(lane)
                again += sum(x is not None for x in decided) if warmed[-1:] == [lane] else 0
            if not starting:
                break
        events.close()
        return warmed, again

    monkeypatch.setattr(Strict, "settle", settled)
    run(models, STRICT)  # measures the noise too
    models.warm.clear()
    run(models, NORMAL)
    assert before_the_clocks(STRICT) == ([1, 2], 4), "two rounds of each drafting lane; plain is warm"
    assert before_the_clocks(STRICT) == ([], 0)
    assert before_the_clocks(NORMAL) == ([], 0)
