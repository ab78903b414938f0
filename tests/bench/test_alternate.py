"""Lanes in alternation, mlx-lm's own loop among them: the same tokens, and figures that are what they say."""

import statistics
from dataclasses import replace

import pytest

from dspark_core.bench import run
from dspark_core.bench.alternate import alternate
from dspark_core.bench.plan import plan_lanes
from dspark_core.decode.rounds import Settings
from dspark_core.errors import DecodeError
from dspark_core.race.loaded import Models

SETTINGS = Settings(12, stop_ids=frozenset())


@pytest.fixture
def models(golden_a):
    return Models(golden_a.target, {"dspark": golden_a.drafter})


def test_every_lane_decodes_the_same_and_is_measured_as_often(models, golden_a, monkeypatch):
    runs, decode = [], run.decode_lane

    def recorded(models, peers, lane, *rest):
        result = decode(models, peers, lane, *rest)
        runs.append((lane.name, result["tok_s"]))
        return result

    monkeypatch.setattr("dspark_core.bench.alternate.decode_lane", recorded)
    lanes = plan_lanes("plain,mlx-lm,dspark:full")
    prompt = golden_a.trace["prompt_ids"]
    rows = list(alternate(models, lanes, [prompt, prompt[:9]], SETTINGS, 3))
    names = ["plain", "mlx-lm", "dspark:full"]

    measured = runs[-18:]  # the others warm up
    assert len(runs) > 18 and all([n for n, _ in measured].count(name) == 6 for name in names)
    assert [n for n, _ in measured[:9:3]] == names, "each comes first once"

    prompts = [r for r in rows if "engine" in r]
    assert [(r["engine"], r["prompt"]) for r in prompts] == [(n, k) for k in (0, 1) for n in names]
    assert all(r["ids"] == golden_a.trace["greedy_output_ids"][:12] and r["tokens"] == 12 for r in prompts[:3])

    whole = {r["lane"]: r for r in rows if "alternations" in r}
    for name in names:
        speeds = [speed for n, speed in measured if n == name]
        expected = {"tok_s": statistics.median(speeds), "low": min(speeds), "high": max(speeds)}
        assert {k: whole[name][k] for k in expected} == pytest.approx(expected, abs=1e-3)
        assert (whole[name]["prompts"], whole[name]["alternations"]) == (2, 3)

    ratios = {(r["lane"], r["over"]): r for r in rows if "over" in r}
    assert set(ratios) == {(a, b) for a in names for b in names[:2] if a != b}
    assert all(r["low"] <= r["ratio"] <= r["high"] and r["same_ids"] == 1.0 for r in ratios.values())
    both = ratios["plain", "mlx-lm"], ratios["mlx-lm", "plain"]
    assert both[0]["low"] == pytest.approx(1 / both[1]["high"], rel=1e-2)


@pytest.mark.parametrize("once", [False, True])
def test_mlx_lm_ends_where_plain_decoding_does(golden, once):
    """At the limit, at a stop token (its own loop knows none), and at the end of the context."""
    models, prompt = Models(golden.target, {}), golden.trace["prompt_ids"]
    expected = golden.trace["greedy_output_ids"]
    for settings in (SETTINGS, replace(SETTINGS, stop_ids=frozenset([expected[4]])), replace(SETTINGS, max_tokens=1)):
        prefilled = run.prepare(models, prompt) if once else None
        theirs = run.decode_mlx_lm(golden.target, prompt, settings, prefilled)
        ours = run.decode_lane(models, None, plan_lanes("plain")[0], prompt, settings, prefilled)
        assert theirs["ids"] == ours["ids"]
        assert (theirs["tok_s"] > 0) == (len(ours["ids"]) > 1)


def test_mlx_lm_ends_with_the_context(golden_a):
    prompt = (golden_a.trace["prompt_ids"] * 30)[:505]
    assert len(run.decode_mlx_lm(golden_a.target, prompt, replace(SETTINGS, max_tokens=50))["ids"]) == 7


def test_mlx_lm_is_greedy_only(golden_a):
    with pytest.raises(DecodeError, match="greedily"):
        run.decode_mlx_lm(golden_a.target, [1, 2], Settings(4, temperature=1.0))
