"""The golden sets, loaded as the page loads a preset: what the reference implementations gave, token for token."""

import json

import pytest

from dspark_core.catalog import memory
from dspark_core.playground.engine import Choice, PresetEngine

from ..conftest import GOLDEN, Golden
from ..decode import test_traces as traces

METHODS = {"A": "DSpark", "C": "DFlash", "D": "DFlash", "E": "DSpark"}


@pytest.fixture(scope="module", params=METHODS)
def loaded(request) -> Golden:
    path, method = GOLDEN / request.param, METHODS[request.param]
    engine = PresetEngine.__new__(PresetEngine)  # without a first preset
    engine.machine = memory.this_machine()
    engine._clear()
    engine.load(Choice(request.param, path / "target", {method: path / "drafter"}))
    trace = json.loads((path / "trace.json").read_text())
    models = engine.models
    return Golden(request.param, path, models.target, models.drafters[method], {}, trace)


def test_plain_output_and_every_greedy_round(loaded):
    traces.test_plain(loaded)
    traces.test_greedy(loaded)
    traces.test_tokens_per_round(loaded)


def test_stop_tokens_and_recorded_uniforms(loaded):
    traces.test_stop_tokens(loaded)
    traces.test_recorded_uniforms(loaded)
