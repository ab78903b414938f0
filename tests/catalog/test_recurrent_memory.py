"""Targets of today at their true shapes, as far as these are known: their headers open, and the estimate has their
recurrent states and experts in it. What a state takes is measured on narrow models."""

import json
from pathlib import Path

import mlx.core as mx
import pytest

from dspark_core.catalog import memory
from dspark_core.catalog.facts import Facts
from dspark_core.machine import Device
from dspark_core.models.cache import RecurrentCache, trim
from dspark_core.models.headers import TensorInfo
from dspark_core.models.target import load_target
from dspark_core.models.target_config import read_target
from tests.models.families import saved

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

MAC = Device("Metal", "a Mac", 64 * 10**9)
# Qwen3.8-27B's and 35B-A3B's hidden size, layers, vocabulary and kinds of layers are published; head counts and inner
# sizes are those of transformers' Qwen3.5 classes and of models of that size (assumed): the sum of all is as named.
SHAPES = {
    "qwen3_5": (
        *("Qwen3_5", 26.9e9, 3.1e9, 0.87e9),
        {"hidden_size": 5120, "num_hidden_layers": 64, "intermediate_size": 17408, "num_attention_heads": 24},
        {"linear_num_value_heads": 48},
    ),
    "qwen3_5_moe": ("Qwen3_5Moe", 34.7e9, 1.1e9, 0.38e9, {}, {}),
    "lfm2": (
        *("Lfm2", 1.17e9, 0.42e9, 0.004e9),
        {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8},
        {"full_attn_idxs": [2, 5, 8, 10, 12, 14]},
    ),
}


def true_shape(name: str, directory: Path) -> Facts:
    class_name, *_, sizes, more = SHAPES[name]
    text = "" if class_name == "Lfm2" else "Text"
    config = getattr(transformers, f"{class_name}{text}Config")(**sizes, **more)
    with torch.device("meta"):
        model = getattr(transformers, f"{class_name}ForCausalLM")(config)
    model.config.save_pretrained(directory)
    tied = config.tie_word_embeddings
    tensors = {
        n: TensorInfo(directory / "model.safetensors", "BF16", tuple(w.shape))
        for n, w in model.state_dict().items()
        if not (tied and n == "lm_head.weight")
    }
    return Facts(name, directory, json.loads((directory / "config.json").read_text()), tensors, True)


@pytest.mark.parametrize("name", SHAPES)
def test_true_shapes_open_and_are_estimated(name, tmp_path):
    _, numbers, cache, state, *_ = SHAPES[name]
    facts = true_shape(name, tmp_path)
    read = read_target(facts.where, facts.config, facts.tensors)
    found = memory.estimate(facts, [], MAC, 32768, "stored")
    assert abs(found.target / 2 / numbers - 1) < 0.03
    held = sum(shape.fixed_bytes(2) for shape in read.layers)
    assert 0.8 * state < held < state and 0.8 * cache < found.cache < cache, (held, found.cache)


@pytest.mark.parametrize("family", ["qwen3_5", "lfm2"])
def test_what_a_narrow_model_holds_is_what_is_estimated(family, tmp_path):
    target = load_target(saved(family, tmp_path), "stored")
    facts = Facts.read(tmp_path)
    cache, most = target.new_cache(), 0
    for width in (80, *[17] * 8, *[1] * 140):
        target.forward(mx.zeros((width,), dtype=mx.int32), cache)
        trim(cache, width // 2 if width < 80 else 0)
        mx.eval([c.state for c in cache])
        most = max(most, sum(c.nbytes for c in cache if isinstance(c, RecurrentCache)))
    estimated = sum(s.fixed_bytes(4) for s in read_target(facts.where, facts.config, facts.tensors).layers)
    assert 0.6 * estimated < most < 1.1 * estimated, (most, estimated)
