"""Every number of a target's config.json is of its kind, in its range and what the tensors' headers say, before
anything is built from it: when a model is looked up as when it is loaded."""

import json

import mlx.core as mx
import pytest

from dspark_core.catalog import facts, memory
from dspark_core.decode.rounds import Settings
from dspark_core.decode.schedule import FullBlock
from dspark_core.decode.speculative import speculative
from dspark_core.machine import Device
from dspark_core.models.checkpoint import load_drafter
from dspark_core.models.headers import read_header
from dspark_core.models.target import load_target
from tests.decode.helpers import output, plain_output, rounds

from .build import GOLDEN, copy, edit_config, edit_weights, refusal
from .published import TARGETS, target, write_hollow

CPU = Device("CPU", "this processor", 16 * 10**9)
ODD = [-1, 0, 10**9, 10**400, -(10**400), True, "8", "8" * 10_000, 2.5, float("nan"), float("inf"), [8], {"a": 8}]
COMMON = ["hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads", "num_key_value_heads"]
COMMON += ["vocab_size", "head_dim"]
NUMBERS = [("A", name) for name in COMMON]
NUMBERS += [("E", name) for name in [*COMMON, "global_head_dim", "num_global_key_value_heads"]]
RANGES = [("A", "rms_norm_eps"), ("A", "max_position_embeddings"), ("E", "sliding_window")]
RANGES += [("E", "final_logit_softcapping"), ("E", "max_position_embeddings")]


def changed(which: str, **changes) -> facts.Facts:
    read = facts.Facts.read(GOLDEN / which / "target")
    return facts.Facts(read.name, read.where, read.config | changes, read.tensors, True)


def why_not(model: facts.Facts) -> str:
    """The sentence that Look up gives in a target's place; an estimate of it gives the same."""
    sort = facts.sort_of(model)
    assert sort.kind == facts.OTHER, sort
    assert sort.words == refusal(lambda: memory.estimate(model, [], CPU, 100)), sort
    return sort.words


@pytest.mark.parametrize(("which", "name"), NUMBERS)
def test_a_size_that_the_tensors_do_not_have(which, name):
    used = changed(which).config[name]
    for value in [*ODD, used + 2, used * 2]:
        words = why_not(changed(which, **{name: value}))
        assert name in words and "config.json" in words, words


@pytest.mark.parametrize(("which", "name"), RANGES)
def test_a_number_that_no_tensor_shows(which, name):
    for value in (v for v in ODD if not (name in ("rms_norm_eps", "final_logit_softcapping") and v in (0, 2.5))):
        if value == 10**9 and name in ("max_position_embeddings", "sliding_window"):
            continue
        assert name in why_not(changed(which, **{name: value}))


def test_a_size_that_is_missing_is_transformers_default():
    for name in COMMON:
        config = {k: v for k, v in changed("A").config.items() if k != name}
        read = changed("A")
        words = why_not(facts.Facts(read.name, read.where, config, read.tensors, True))
        assert name in words and "none is given" in words, words


def test_nothing_is_built_before_the_sizes_are_checked(tmp_path):
    """The tensors of a thousand layers' names, and a config of any number of them."""
    directory = copy("target", "A", tmp_path)
    before = mx.get_active_memory()
    for changes in ({"num_hidden_layers": 10**9}, {"num_hidden_layers": 1000}, {"vocab_size": 10**7}):
        edit_config(directory, **changes)
        assert next(iter(changes)) in refusal(lambda: load_target(directory))
    assert mx.get_active_memory() - before < 1_000_000


ODD_TYPES = [
    {"model_type": ["qwen3"]},
    {"model_type": {"a": 1}},
    {"model_type": None},
    {"text_config": [1]},
    {"text_config": "x"},
    {"model_file": ["x.py"]},
    {"layer_types": "full_attention"},
    {"layer_types": {"0": "full_attention"}},
    {"layer_types": [["full_attention"]] * 4},
    {"layer_types": [None] * 4},
    {"rope_parameters": "x"},
    {"rope_parameters": {"rope_type": ["yarn"]}},
    {"rope_parameters": {"rope_theta": "1e6"}},
    {"rope_parameters": {"rope_theta": 10**400}},
    {"rope_scaling": {"type": {"a": 1}}},
    {"rope_parameters": {"rope_theta": 1e6, "a\nb\ud800": 1}},
    {"rope_scaling": {"type": "yarn", "factor": float("inf"), "rope_theta": 1e6}},
    {"attention_bias": "false"},
    {"tie_word_embeddings": 1},
    {"hidden_act": ["silu"]},
    {"hidden_act": {"a\nb": 1}},
    {"per_layer_config": 7},
    {"per_layer_config": {"x": {}}},
    {"per_layer_config": {"0": 7}},
    {"per_layer_config": {"0": {"a\nb": 7}}},
    {"per_layer_config": {"\u0660": {"head_dim": 16}, "9" * 5000: {}}},
]


@pytest.mark.parametrize("changes", ODD_TYPES, ids=str)
def test_odd_types_are_one_sentence_about_the_config(changes):
    for which in "AE":
        if which == "E" and next(iter(changes)) in ("rope_scaling", "hidden_act", "rope_parameters"):
            changes = {"rope_parameters": {"full_attention": changes}}
        assert "config.json" in why_not(changed(which, **changes))


@pytest.mark.parametrize("text", ["[1]", "7", "{", '{"eos_token_id": ', "[" * 100_000, "\xff"])
def test_a_damaged_generation_config_is_named(text, tmp_path):
    directory = copy("target", "A", tmp_path)
    (directory / "generation_config.json").write_bytes(text.encode("latin-1"))
    assert "generation_config.json" in refusal(lambda: load_target(directory))


@pytest.mark.parametrize("eos", [None, 7.5, "7", {"a": 1}, [[1]], [None, 7], 7, True, -1])
@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_stop_ids_are_ids(eos, file, tmp_path):
    directory = copy("target", "A", tmp_path)
    (directory / "generation_config.json").write_text("{}")
    edit_config(directory, eos_token_id=None)
    fields = json.loads((directory / file).read_text())
    (directory / file).write_text(json.dumps(fields | {"eos_token_id": eos}))
    if eos is None or (eos in (7, [None, 7]) and eos is not True):
        assert load_target(directory).stop_ids == ({7} if eos else set())
    else:
        assert f"{file}: eos_token_id" in refusal(lambda: load_target(directory))


@pytest.mark.parametrize(
    "quantization", [7, {"bits": 4}, {"bits": "4", "group_size": 32}, {"bits": 4, "group_size": 7}]
)
def test_an_error_without_a_tensor_s_name_is_the_config_s(quantization, tmp_path):
    directory = copy("target", "A", tmp_path)
    edit_config(directory, quantization=quantization)
    edit_weights(directory, lambda w: w.update({"model.layers.0.mlp.up_proj.scales": mx.zeros((96, 2))}))
    assert "config.json" in refusal(lambda: load_target(directory)) or "scales" in refusal(
        lambda: load_target(directory)
    )


@pytest.mark.parametrize("shape", TARGETS, ids=lambda s: s.name)
def test_published_targets_are_looked_up_and_loaded(shape, tmp_path):
    model = facts.Facts.read(write_hollow(tmp_path / "target", target(shape)))
    assert facts.sort_of(model).kind == facts.TARGET
    windows = memory.Layers.of_target(model).windows
    assert [w is not None for w in windows] == [t == "sliding_attention" for t in shape.layer_types]


def test_speculation_over_sliding_layers_is_exact(tmp_path):
    """Qwen3's: rounds of every length, past windows that a ring could not roll back."""
    directory = copy("target", "A", tmp_path)
    edit_config(directory, layer_types=None, use_sliding_window=True, sliding_window=9, max_window_layers=1)
    sliding, drafter_at = load_target(directory), GOLDEN / "A" / "drafter"
    assert [type(c).__name__ for c in sliding.new_cache()] == ["KVCache"] + ["WindowCache"] * 3
    drafter = load_drafter(drafter_at, sliding)
    prompt = [7919 * i % 250 for i in range(40)]
    expected = plain_output(sliding, prompt, 48)
    found = list(speculative(sliding, drafter, prompt, Settings(48, stop_ids=frozenset()), FullBlock()))
    assert output(found) == expected and any(r.accepted < r.proposed for r in rounds(found))
    ids = mx.array([prompt + expected[:-1]])
    assert mx.argmax(sliding.model(ids)[0, len(prompt) - 1 :], axis=-1).tolist() == expected
    assert expected != plain_output(load_target(GOLDEN / "A" / "target"), prompt, 48)


def test_a_header_of_odd_types(tmp_path):
    path = tmp_path / "model.safetensors"
    odd = [
        '{"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}',
        '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 1e999]}}',
        '{"a": {"dtype": "F32", "shape": ["1"], "data_offsets": [0, 4]}}',
        '{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
        '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
        '{"a": {"dtype": "F32", "shape": 1, "data_offsets": [0, 4]}}',
        '{"a": {"dtype": "F32", "shape": [1], "data_offsets": 4}}',
        '{"a": 1}',
        "[1]",
        "[" * 100_000,
    ]
    for text in odd:
        path.write_bytes(len(text).to_bytes(8, "little") + text.encode() + bytes(4))
        assert str(path) in refusal(lambda: read_header(path))
    path.unlink()
    path.mkdir()
    assert str(path) in refusal(lambda: read_header(path))


def test_quantized_targets_are_held_against_their_rows(tmp_path):
    """Columns are packed, rows are not."""
    import mlx.nn as nn
    from mlx.utils import tree_flatten

    directory = copy("target", "A", tmp_path)
    loaded = load_target(directory, "stored")
    nn.quantize(loaded.model, 32, 4)
    edit_config(directory, quantization={"group_size": 32, "bits": 4})
    edit_weights(directory, lambda w: (w.clear(), w.update(tree_flatten(loaded.model.parameters()))))
    assert load_target(directory, "stored").precision == "4-bit"
    edit_config(directory, num_key_value_heads=4)
    assert "num_key_value_heads" in refusal(lambda: load_target(directory))
