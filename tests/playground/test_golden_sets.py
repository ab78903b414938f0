"""The golden sets, loaded as the page loads a preset: what the reference implementations gave, token for token."""

import json

import pytest

from dspark_core.decode.rounds import Settings
from dspark_core.machine import mlx_device
from dspark_core.models.checkpoint import load_drafter
from dspark_core.playground.engine import Choice, PresetEngine
from dspark_core.playground.saved import traced
from dspark_core.race.records import CONFIDENCE, PLAIN, LaneSpec, RaceRequest
from dspark_core.race.trace import dumps, loads

from ..conftest import GOLDEN, Golden
from ..decode import test_traces as traces
from .tiny import TinyEngine

METHODS = {"A": "DSpark", "C": "DFlash", "D": "DFlash", "E": "DSpark"}


@pytest.fixture(scope="module", params=METHODS)
def loaded(request) -> Golden:
    path, method = GOLDEN / request.param, METHODS[request.param]
    engine = PresetEngine.__new__(PresetEngine)  # without a first preset
    engine.machine = mlx_device()
    engine._clear()
    engine.load(Choice(request.param, path / "target", {method.lower(): path / "drafter"}))
    trace = json.loads((path / "trace.json").read_text())
    models = engine.models
    return Golden(request.param, path, models.target, models.drafters[method.lower()], {}, trace)


def test_plain_output_and_every_greedy_round(loaded):
    traces.test_plain(loaded)
    traces.test_greedy(loaded)
    traces.test_tokens_per_round(loaded)


@pytest.mark.sweep  # decode/test_traces.py does it with the same weights, loaded the other way
def test_stop_tokens_and_recorded_uniforms(loaded):
    traces.test_stop_tokens(loaded)
    traces.test_recorded_uniforms(loaded)


def test_a_calibrated_confidence_is_the_same_in_race_trace_and_inspector(golden_calibrated):
    """The page, a saved race and the inspector show the probability that the schedule compared."""
    engine = TinyEngine()
    engine.models.drafters["dspark"] = load_drafter(golden_calibrated.path / "drafter", engine.models.target)
    lanes = LaneSpec(PLAIN), LaneSpec("DSpark", CONFIDENCE, threshold=0.6, label="confidence ≥ 0.60")
    events = list(engine.race(RaceRequest("x", lanes, Settings(24, stop_ids=frozenset())), lambda: False))
    record = events[0][1]
    saved = loads(dumps(traced(record))).race.lanes[1]
    for r, round_ in enumerate(record.lanes[1].rounds):
        seen = engine.inspect(record, 1, r, lambda: False, lambda done, total: None)
        shown = [s.confidence for s in seen.block.slots]
        assert seen.agrees and shown == pytest.approx(round_.confidence, abs=1e-4)
        assert shown == pytest.approx(saved.rounds[r].confidence, abs=1e-4)
        below = [k for k, c in enumerate(shown) if c < 0.6]
        assert round_.proposed == (below[0] if below else 7)
