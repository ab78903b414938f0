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
DSPARK, DFLASH_7, DFLASH_16 = "dspark-smollm2-135m-b7", "dflash-smollm2-135m-b7", "dflash-smollm2-135m-b16"
# Tokens per round, at least: mt-bench, gsm8k, humaneval, mbpp, math500.
FLOORS = {DSPARK: (2.4, 3.2, 3.3, 3.7, 3.0), DFLASH_16: (1.9, 2.4, 2.4, 2.8, 2.3)}
SETS = ("mt-bench", "gsm8k", "humaneval", "mbpp", "math500")


@pytest.fixture(scope="module")
def torch_target():
    torch.set_num_threads(1)
    return TorchTarget.load(ASSETS / "models" / "smollm2-135m-instruct", dtype=torch.bfloat16)


def record(drafter, name):
    return json.loads((ASSETS / "models" / drafter / f"{name}.json").read_text())


@pytest.mark.parametrize("drafter", [DSPARK, DFLASH_7, DFLASH_16])
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


def test_the_two_of_block_7_are_on_equal_terms():
    one, two = record(DSPARK, "run"), record(DFLASH_7, "run")
    assert all(one[k] == two[k] for k in ("plan", "data", "steps", "seconds", "command"))
    shared = ("block", "first_slot", "layers", "taps", "anchors", "lr", "optimizer", "start", "gamma")
    assert all(one["recipe"][k] == two["recipe"][k] for k in shared)
    assert two["recipe"]["rank"] == 0 and not two["recipe"]["confidence"]
    texts = [[record(d, "evaluation")["sets"][s]["tokens"] for s in SETS] for d in (DSPARK, DFLASH_7, DFLASH_16)]
    assert texts[0] == texts[1] == texts[2]


def test_the_confidence_head_is_calibrated():
    found = record(DSPARK, "calibration")
    assert found["bins"] == 20 and found["rounds"] >= 20_000 and found["prompts"] > 0
    assert max(found["ece_after"]) <= 0.02
    assert all(len(found[k]) == 7 for k in ("temperatures", "ece_before", "ece_after", "ece_noise_floor", "auc"))


@pytest.mark.parametrize(("drafter", "slots"), [(DFLASH_7, 7), (DFLASH_16, 15)])
def test_the_margin_of_dflash_is_calibrated(drafter, slots):
    found, margins = record(drafter, "calibration"), read_calibration(ASSETS / "models" / drafter, slots).margins
    assert len(margins) == slots and all(w > 0.3 for w, _ in margins), "surer is more often right"
    assert found["slots"] >= 20_000 and found["auc"] >= 0.84 and found["fit_rounds"] > 1000


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
