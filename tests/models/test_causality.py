"""z-lab's DFlash with `is_causal` absent, false and true: one set of weights, three references."""

import json

import mlx.core as mx
import pytest

from dspark_core.decode.rounds import Settings
from dspark_core.decode.schedule import FullBlock
from dspark_core.decode.speculative import speculative
from dspark_core.models.checkpoint import load_drafter
from dspark_core.models.target import load_target
from tests.decode.helpers import NEVER, output, rounds, worst

from .build import GOLDEN, copy, edit_config, refusal
from .parity import TOLERANCE, greedy

SET = "zlab_causal"
CAUSAL = {"absent": {}, "false": {"is_causal": False}, "true": {"is_causal": True}}


@pytest.fixture(scope="module")
def target():
    return load_target(GOLDEN / SET / "target")


def drafter_of(tmp_path, target, **changes):
    directory = copy("drafter", SET, tmp_path)
    edit_config(directory, **changes)
    return load_drafter(directory, target)


@pytest.mark.parametrize("name", CAUSAL)
def test_every_round_is_the_reference_s(name, target, tmp_path):
    """Hidden states and logits of every round, and the whole greedy run; the window is shorter than the prompt."""
    d, e = drafter_of(tmp_path, target, **CAUSAL[name]), mx.load(str(GOLDEN / SET / f"{name}.safetensors"))
    context, before = d.begin(), 0
    for r, start in enumerate(e["rounds.start"].tolist()):
        context.extend(e["greedy_ids"][before:start], e["full_tapped_hidden"][before:start])
        block = context.propose(e["rounds.anchor"][r : r + 1], d.info.max_drafts, greedy)
        assert worst(block.hidden, e["rounds.block_hidden"][r][1:]) < TOLERANCE
        if r < len(e["rounds.base_logits"]):
            assert worst(block.base, e["rounds.base_logits"][r][1:]) < TOLERANCE
        assert block.ids.tolist() == e["rounds.tokens"][r].tolist()
        before = start
    prompt, whole = e["prompt_ids"].tolist(), e["greedy_ids"].tolist()
    events = list(speculative(target, d, prompt, Settings(len(whole) - len(prompt), stop_ids=NEVER), FullBlock()))
    assert output(events) == whole[len(prompt) :]
    assert [r.accepted for r in rounds(events)][:-1] == e["rounds.accepted"].tolist()[: len(rounds(events)) - 1]


@pytest.mark.parametrize("other", ["causal", "dflash_query_causal"])
def test_other_exporters_names_for_it(other, target, tmp_path):
    nested = json.loads((GOLDEN / SET / "drafter" / "config.json").read_text())["dflash_config"]
    config = drafter_of(tmp_path, target, dflash_config=nested | {other: True}).config
    assert config.backbone.causal == (True, True)
    edit_config(tmp_path / "drafter", is_causal=False)
    assert "contradict" in refusal(lambda: load_drafter(tmp_path / "drafter", target))
    edit_config(tmp_path / "drafter", dflash_config=nested | {"is_causal": True})
    assert "is_causal and dflash_config.is_causal contradict" in refusal(
        lambda: load_drafter(tmp_path / "drafter", target)
    )


def test_what_readers_of_the_format_do_not_agree_on(target, tmp_path):
    for i, (changes, words) in enumerate(
        [
            ({"is_causal": 1}, "is_causal is 1; it must be true or false"),
            ({"is_causal": False, "sliding_window": 7}, "below block_size 8"),
            ({"use_sliding_window": False}, "use_sliding_window is false"),
            ({"layer_types": None}, "use_sliding_window is true without layer_types"),
        ]
    ):
        assert words in refusal(lambda i=i, c=changes: drafter_of(tmp_path / str(i), target, **c))
