"""The embedded drafters and the records beside them: small enough, judged as promised, compared on equal terms."""

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from dspark_core.models.config import read_calibration  # noqa: E402
from dspark_core.training.torch_drafter import TorchDrafter  # noqa: E402
from dspark_core.training.torch_target import TorchTarget  # noqa: E402

from ..scripts.rounds_agree import compare  # noqa: E402

ASSETS = Path(__file__).resolve().parents[2] / "assets"
DSPARK, DFLASH = "dspark-smollm2-135m-b7", "dflash-smollm2-135m-b16"
DFLASH2, DFLASH2_8 = "dflash2-smollm2-135m-b16", "dflash2-smollm2-135m-b8"
ALL = DSPARK, DFLASH, DFLASH2, DFLASH2_8
# Tokens per round, at least: mt-bench, gsm8k, humaneval, mbpp, math500.
FLOORS = {DSPARK: (2.9, 4.0, 4.9, 4.8, 4.0), DFLASH: (2.6, 3.8, 5.0, 5.0, 3.6), DFLASH2: (2.6, 3.8, 5.0, 5.0, 3.6)}
SETS = ("mt-bench", "gsm8k", "humaneval", "mbpp", "math500")


@pytest.fixture(scope="module")
def torch_target():
    torch.set_num_threads(1)
    return TorchTarget.load(ASSETS / "models" / "smollm2-135m-instruct", dtype=torch.bfloat16)


def record(drafter, name):
    return json.loads((ASSETS / "models" / drafter / f"{name}.json").read_text())


@pytest.mark.parametrize("drafter", ALL)
def test_size_and_records(drafter):
    files = [f for f in (ASSETS / "models" / drafter).iterdir() if f.is_file()]
    assert sum(f.stat().st_size for f in files) <= 30e6
    run, evaluation = record(drafter, "run"), record(drafter, "evaluation")
    assert run["steps"] > 0 and run["losses"][-1]["step"] <= run["steps"] and run["versions"]["torch"]
    assert run["seconds"] > 0 and run["data"]["written_by"] and run["plan"]["seed"] is not None and run["command"]
    assert set(evaluation["sets"]) == set(SETS) and evaluation["new_tokens"] == 128
    for name, floor in zip(SETS, FLOORS.get(drafter, ()), strict=False):
        assert evaluation["sets"][name]["tokens_per_round"] >= floor


def test_assets_in_all():
    assert sum(f.stat().st_size for f in ASSETS.rglob("*") if f.is_file()) <= 200e6
    assert {d.name for d in (ASSETS / "models").iterdir()} == {*ALL, "smollm2-135m-instruct"}


def test_all_four_are_on_the_same_batches_and_steps():
    first, *others = (record(d, "run") for d in ALL)
    for other in others:
        assert all(first[k] == other[k] for k in ("plan", "data", "steps"))
        shared = ("layers", "taps", "lr", "optimizer", "labels", "dpace")
        assert all(first["recipe"][k] == other["recipe"][k] for k in shared)
    texts = [[record(d, "evaluation")["sets"][s]["tokens"] for s in SETS] for d in ALL]
    assert all(text == texts[0] for text in texts)


def test_packing_costs_less_than_a_hundredth():
    for drafter in ALL:
        both = record(drafter, "evaluation")
        for name in SETS:
            whole, packed = (both[k][name]["tokens_per_round"] for k in ("sets", "packed"))
            assert packed >= 0.99 * whole, (drafter, name)


def test_the_confidence_head_is_calibrated():
    found = record(DSPARK, "calibration")
    assert found["bins"] == 20 and found["rounds"] >= 20_000 and found["prompts"] > 0
    assert max(found["ece_after"]) <= 0.02
    assert all(len(found[k]) == 7 for k in ("temperatures", "ece_before", "ece_after", "ece_noise_floor", "auc"))


@pytest.mark.parametrize(("drafter", "slots"), [(DFLASH, 15), (DFLASH2, 15), (DFLASH2_8, 7)])
def test_the_margin_is_calibrated(drafter, slots):
    found, margins = record(drafter, "calibration"), read_calibration(ASSETS / "models" / drafter, slots).margins
    assert len(margins) == slots and all(w > 0.3 for w, _ in margins), "surer is more often right"
    assert found["slots"] >= 20_000 and found["auc"] >= 0.82 and found["ece"] <= 0.02 and found["fit_rounds"] > 1000


@pytest.mark.long
@pytest.mark.parametrize("method", ["DSpark", "DFlash"])
def test_the_engine_speculates_as_the_walk_does(embedded, torch_target, method):
    """The packed files through both implementations, in the bf16 that the engine runs in; near ties may fall
    differently in one round. `tests/scripts/rounds_agree.py` does this at length."""
    drafter = embedded.drafters[method]
    walking = TorchDrafter.load(ASSETS / "models" / drafter.info.name)
    prompt = embedded.chat("Write a Python function that adds two numbers.")
    found = compare(embedded.target, drafter, torch_target, walking, prompt, 16)
    assert sum(found.engine) == found.tokens - 1 == 15
    assert found.agree >= len(found.engine) - 1 and len(found.engine) < 9
