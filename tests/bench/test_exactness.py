"""`bench exact`: outputs of every lane against plain decoding's, in normal and in strict mode."""

from dataclasses import replace

import pytest

from dspark_core.bench.exactness import exactness
from dspark_core.bench.plan import SetPrompt, plan_lanes
from dspark_core.race.loaded import Models

from ..decode.noisy import NoisyTarget

LANES = plan_lanes("plain,dspark:full,dspark:cap=2")
PROMPTS = [SetPrompt("set", 0, "a"), SetPrompt("set", 1, "b")]


@pytest.fixture
def target(golden_a, tmp_path, monkeypatch):
    monkeypatch.setattr("dspark_core.store.cache_directory", lambda: tmp_path)
    prompts = {"a": golden_a.trace["prompt_ids"], "b": list(range(1, 30))}
    monkeypatch.setattr(golden_a.target, "encode_chat", lambda messages: prompts[messages[-1]["content"]])
    return golden_a.target


def test_normal_mode_differs_and_strict_does_not(golden_a, target):
    models = Models(NoisyTarget(target, 1, on_logits=1.0, on_cache=0.2), {"dspark": golden_a.drafter})
    device, *rows = exactness(models, PROMPTS, LANES, 32)
    assert device["noise"] > device["noise_alone"] > 0.9
    rows, summaries = rows[:8], rows[8:]
    assert [(r["prompt"], r["mode"], r["lane"]) for r in rows[:5]] == [
        (0, "normal", "dspark:full"),
        (0, "normal", "dspark:cap=2"),
        (0, "strict", "dspark:full"),
        (0, "strict", "dspark:cap=2"),
        (1, "normal", "dspark:full"),
    ]
    normal, strict = ([r for r in rows if r["mode"] == mode] for mode in ("normal", "strict"))
    assert any(r["kind"] != "identical" for r in normal) and all(r["kind"] == "identical" for r in strict)
    for r in normal:
        assert (r["kind"] == "identical") == (r["first_difference"] is None) == (r["gap"] is None)
        assert r["again"] == r["changed"] == 0 and r["closest"] >= 0
    assert any(r["again"] for r in strict) and any(r["changed"] for r in strict)
    assert [(s["mode"], s["lane"], s["prompts"]) for s in summaries] == [
        (mode, lane.name, 2) for mode in ("normal", "strict") for lane in LANES[1:]
    ]
    for s in summaries:
        assert s["identical"] + s["tie"] + s["divergence"] == 2
    assert summaries[2]["again"] == sum(r["again"] for r in strict if r["lane"] == "dspark:full")


def test_without_noise_strict_mode_is_not_run(golden_a, target):
    _, *rows, last = exactness(Models(target, {"dspark": golden_a.drafter}), PROMPTS[:1], LANES, 12)
    assert {r["mode"] for r in rows} == {"normal"} and "not needed" in last["words"]
    assert [r["kind"] for r in rows[:2]] == ["identical"] * 2


def test_a_lane_that_cannot_run_is_an_error(golden_a, target):
    lanes = [LANES[0], replace(LANES[1], spec=replace(LANES[1].spec, method="DFlash"))]
    with pytest.raises(ValueError, match="DFlash"):
        list(exactness(Models(target, {"dspark": golden_a.drafter}), PROMPTS[:1], lanes, 4))
