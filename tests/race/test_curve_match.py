"""A cost curve judges races of what it was measured with, and says in one sentence why it does not judge others."""

import json
from dataclasses import replace

import pytest

from dspark_core.playground.tabs.cost_tab import advice_on, cost_updates, race_judged
from dspark_core.race.curve_match import difference
from dspark_core.race.records import CAP, PLAIN, LaneSpec
from dspark_core.race.trace import Trace

from .forecasts import TAXI_CURVE, good_and_bad, lane, race

MADE_OF = {
    "target": "SmolLM2-135M, 0123456789ab",
    "precision": "bf16",
    "device": "CPU",
    "processor": "AMD EPYC",
    "cores": "2",
    "mlx": "0.32.4",
    "mlx-lm": "0.32.2",
    "drafters": "dflash: flash-b16, 8-bit, 00ff00ff00ff; dspark: spark-b7, 8-bit, ff00ff00ff00",
}
CURVE = replace(TAXI_CURVE, made_of=MADE_OF)
MACHINE = {"system": "Linux 6", "processor": "AMD EPYC", "cores": "2", "memory": "24 GiB", "device": "CPU"}
STREAMS = {"cpu_streams": "4 CPU streams from 2 rows on"}
DRAFTERS = {"DSpark": "spark-b7, block 7, 8-bit", "DFlash": "flash-b16, block 16, 8-bit"}
VERSIONS = {"python": "3.11.7", "mlx": "0.32.4", "mlx-lm": "0.32.2", "transformers": "5"}


def kept(**other) -> Trace:
    ids = list(range(1, 9))
    plain = lane(LaneSpec(PLAIN), ids, [()] * 7, [0] * 7, [0.11 * (k + 1) for k in range(7)])
    r = race(plain, good_and_bad())
    r.target, r.precision = other.pop("target", "SmolLM2-135M"), other.pop("precision", "bf16")
    return replace(Trace(r, {}, drafters=DRAFTERS, machine=MACHINE, versions=VERSIONS), **other)


def without(facts, *names):
    return {k: v for k, v in facts.items() if k not in names}


def test_what_is_loaded_is_judged():
    trace = kept()
    assert difference(CURVE, trace) == ""
    assert race_judged(CURVE, trace.race, trace) == (trace.race, "")
    assert advice_on(CURVE, trace.race, trace)[0].startswith("DSpark · full block")
    values = cost_updates(CURVE, *race_judged(CURVE, trace.race, trace))
    assert len(json.loads(values["table lanes"])["rows"]) == 2 and "Predicted against measured" in str(
        values["forecast"]
    )
    spread = replace(CURVE, made_of=MADE_OF | STREAMS)
    assert difference(spread, kept(machine=MACHINE | STREAMS)) == ""
    assert "on CPU, bf16, layers on 4 CPU streams from 2 rows on;" in str(cost_updates(spread, None)["about"])
    assert "layers on" not in str(cost_updates(CURVE, None)["about"])
    # what changes no cost
    assert not difference(CURVE, kept(versions=VERSIONS | {"python": "3.13", "transformers": "6"}))
    assert not difference(CURVE, kept(machine=MACHINE | {"memory": "8 GiB", "system": "Linux 7"}))
    assert not difference(CURVE, kept(drafters=without(DRAFTERS, "DFlash"))), "it did not race"


GPU = replace(CURVE, made_of=MADE_OF | {"device": "CUDA, NVIDIA H200"})


@pytest.mark.parametrize(
    ("curve", "trace", "words"),
    [
        (CURVE, kept(target="Qwen3-4B"), "ran on Qwen3-4B and the cost curve is of SmolLM2-135M"),
        (CURVE, kept(target="SmolLM2-135M, 0123456789ab"), "ran on SmolLM2-135M, 0123456789ab and"),
        (CURVE, kept(precision="4-bit"), "ran in 4-bit and the cost curve is of bf16"),
        (
            CURVE,
            kept(drafters=DRAFTERS | {"DSpark": "spark-b7, block 7, bf16"}),
            "drafted with spark-b7, block 7, bf16",
        ),
        (CURVE, kept(drafters=DRAFTERS | {"DSpark": "other, block 7, 8-bit"}), "drafted with other, block 7, 8-bit"),
        (CURVE, kept(drafters=DRAFTERS | {"DSpark": "no such directory."}), "drafted with no such directory."),
        (CURVE, kept(drafters={}), "does not say with which DSpark drafter it ran"),
        (replace(CURVE, made_of=MADE_OF | {"drafters": ""}), kept(), "is of no DSpark drafter"),
        (CURVE, kept(machine=MACHINE | {"device": "Metal, Apple M4 Pro"}), "another device (Metal, Apple M4 Pro)"),
        (CURVE, kept(machine=MACHINE | {"device": "CUDA, NVIDIA H200"}), "another device (CUDA, NVIDIA H200)"),
        (CURVE, kept(machine=MACHINE | {"processor": "Intel Xeon"}), "another device (CPU, Intel Xeon)"),
        (CURVE, kept(machine=MACHINE | {"cores": "16"}), "had 16 cores and the cost curve was measured with 2"),
        (
            CURVE,
            kept(machine=MACHINE | STREAMS),
            "its layers on 4 CPU streams from 2 rows on and the cost curve on one",
        ),
        (replace(CURVE, made_of=MADE_OF | STREAMS), kept(), "its layers on one CPU stream and the cost curve on 4 CPU"),
        (CURVE, kept(machine=without(MACHINE, "cores")), "an unknown number of cores"),
        (CURVE, kept(machine=without(MACHINE, "device")), "does not say on which device it ran"),
        (CURVE, kept(machine={}), "does not say on which device it ran"),
        (CURVE, kept(versions=VERSIONS | {"mlx": "0.31.0"}), "ran with mlx 0.31.0"),
        (CURVE, kept(versions=VERSIONS | {"mlx-lm": "0.31.0"}), "ran with mlx-lm 0.31.0"),
        (CURVE, kept(versions={}), "ran with mlx of unknown version"),
        (GPU, kept(), "another device (CPU, AMD EPYC)"),
        (GPU, kept(machine=MACHINE | {"device": "CUDA, NVIDIA H100"}), "another device (CUDA, NVIDIA H100)"),
        (CURVE, kept(target="x" * 5000), "x…"),
    ],
)
def test_a_race_of_anything_else_is_not_judged_and_says_why(curve, trace, words):
    fits, why = race_judged(curve, trace.race, trace)
    assert fits is None and words in why
    assert why.startswith("No predictions: this race ") and why.endswith(".") and len(why) < 600 and "\n" not in why
    assert advice_on(curve, trace.race, trace) == [why]
    values = cost_updates(curve, fits, why)
    assert why in str(values["forecast"]) or json.dumps(why)[1:-1] in str(values["forecast"])
    assert json.loads(values["table lanes"])["rows"] == [] and json.loads(values["table prospects"])["rows"] == []
    assert json.loads(values["table curve"])["rows"], "the curve itself is drawn"


def test_the_same_gpu_is_the_same_device():
    assert not difference(GPU, kept(machine=MACHINE | {"device": "CUDA, NVIDIA H200"}))


def test_a_race_that_is_not_kept_yet_is_not_judged():
    trace, other = kept(), kept()
    for curve, seen, known in ((None, trace.race, trace), (CURVE, None, None), (CURVE, trace.race, None)):
        assert race_judged(curve, seen, known) == (None, "")
    assert race_judged(CURVE, trace.race, other) == (None, "") and advice_on(CURVE, trace.race, other) == []


def test_a_drafter_whose_lane_failed_stands_in_no_ones_way():
    trace = kept(drafters=DRAFTERS | {"DFlash": "it does not fit."})
    trace.race.lanes.append(lane(LaneSpec("DFlash", CAP, cap=2), [1], [], [], []))
    assert not difference(CURVE, trace)
