"""The probe at load: it tells a first slot that is read wrongly from one that is read well, by the target's text."""

import json
import shutil

import pytest

from dspark_core.machine import mlx_device
from dspark_core.models import probe
from dspark_core.models.checkpoint import load_drafter
from dspark_core.models.probe import FEWEST, doubts
from dspark_core.playground.engine import Choice, PresetEngine
from tests.conftest import GOLDEN, load_golden

from .build import QWEN, QWEN_TOKENS, edit_config, write_tokenizer

FORMATS = GOLDEN / "formats"


def proposal(algorithm, tokens):
    return {"speculators_config": {"algorithm": algorithm, "proposal_methods": [{"speculative_tokens": tokens}]}}


# Golden set -> what makes its config.json name the other first slot.
WRONG = {
    "S1_dspark_slot0": proposal("dspark", 7),
    "S5_dflash": proposal("dflash", 8),
    "S7_dflash2_speculators": proposal("dflash2", 8),
    "S4_dspark_swa_noncausal_rnn": proposal("dspark", 7),
}


def wrong(which, to):
    shutil.copytree(FORMATS / which / "drafter", to)
    edit_config(to, **WRONG[which])
    return to


@pytest.mark.parametrize("which", WRONG)
def test_the_other_slot_is_named_where_it_fits_and_only_there(which, tmp_path):
    golden = load_golden(FORMATS / which)
    prompt = golden.trace["prompt_ids"]
    drafter = load_drafter(wrong(which, tmp_path / "drafter"), golden.target)
    found = doubts(golden.target, {"dspark": golden.drafter, "dspark-2": drafter}, prompt, lambda: 0.0)
    slot, other = drafter.config.first_slot, golden.drafter.config.first_slot
    assert list(found) == ["dspark-2"] and slot != other
    assert f"slot {other} predicted first, not slot {slot}" in found["dspark-2"] and "\n" not in found["dspark-2"]


def test_nothing_is_said_of_what_was_measured_or_of_too_little(tmp_path):
    which = "S5_dflash"
    golden = load_golden(FORMATS / which)
    directory = wrong(which, tmp_path / "drafter")
    drafter = load_drafter(directory, golden.target)
    ticks = iter(range(10**6))
    # A clock of which half the time is over after a few tokens.
    assert doubts(golden.target, {"d": drafter}, golden.trace["prompt_ids"], lambda: next(ticks) * 2 / FEWEST) == {}
    (directory / "calibration.json").write_text(json.dumps({"survival": [0.5] * drafter.config.max_drafts}))
    assert doubts(golden.target, {"d": load_drafter(directory, golden.target)}, [1], lambda: 0.0) == {}


def test_the_page_says_it_when_the_models_are_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "SECONDS", 1e6)  # however busy this machine is
    target = shutil.copytree(GOLDEN / "zlab_causal" / "target", tmp_path / "target")
    write_tokenizer(target, QWEN_TOKENS, QWEN, eos_token="<|endoftext|>")
    engine = PresetEngine.__new__(PresetEngine)  # without a first preset
    engine.machine = mlx_device()
    engine._clear()
    which = "S4_dspark_swa_noncausal_rnn"
    engine.load(Choice("misread", target, {"dspark": wrong(which, tmp_path / "misread")}, notice="A base model."))
    assert engine.notice.startswith("A base model. misread may be read wrongly:") and engine.infos
    engine.load(Choice("right", target, {"dspark": FORMATS / which / "drafter"}))
    assert engine.notice == ""
