"""Heads and layers that no golden set holds, against their formulas; and every combination stays exact."""

import mlx.core as mx
import numpy as np
import pytest

from dspark_core.decode.rounds import Settings
from dspark_core.decode.schedule import ConfidenceThreshold, FullBlock
from dspark_core.decode.speculative import speculative
from dspark_core.models.checkpoint import load_drafter
from dspark_core.models.drafters.dspark import GatedMarkov, RnnMarkov
from tests.decode.helpers import NEVER, output, plain_output

from .build import random_drafter

QWEN = {
    "architectures": ["Qwen3DSparkModel"],
    "hidden_size": 64,
    "vocab_size": 256,
    "num_hidden_layers": 2,
    "num_target_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "intermediate_size": 80,
    "block_size": 5,
    "mask_token_id": 255,
    "target_layer_ids": [-1, 2],
    "rope_theta": 10000.0,
    "markov_rank": 12,
    "markov_head_type": "vanilla",
    "enable_confidence_head": True,
    "confidence_head_with_markov": True,
}
GEMMA = QWEN | {
    "architectures": ["Gemma4DSparkModel"],
    "hidden_size": 48,
    "num_target_layers": 6,
    "global_head_dim": 20,
    "num_global_key_value_heads": 3,
    "attention_k_eq_v": False,
    "rope_theta": None,
    "rope_parameters": {
        "full_attention": {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.5},
        "rope_theta": None,
        "rope_type": "default",
    },
    "final_logit_softcapping": 30.0,
}
ZLAB = {k: v for k, v in QWEN.items() if "markov" not in k and "confidence" not in k} | {
    "architectures": ["DFlashDraftModel"],
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 6,
    "block_size": None,
    "target_layer_ids": None,
    "mask_token_id": None,
    "dflash_config": {"block_size": 8, "target_layer_ids": [0, 1], "mask_token_id": 250},
}
COMBINATIONS = {
    "vanilla": ("A", QWEN),
    "gated": ("A", QWEN | {"markov_head_type": "gated"}),
    "rnn, confidence without Markov features": (
        "A",
        QWEN | {"markov_head_type": "rnn", "confidence_head_with_markov": False},
    ),
    "no confidence head": ("A", QWEN | {"enable_confidence_head": False}),
    "confidence head without Markov head": ("A", QWEN | {"markov_rank": 0, "confidence_head_with_markov": False}),
    "attention bias": ("A", QWEN | {"attention_bias": True}),
    "z-lab with sliding layers": ("A", ZLAB),
    "Gemma-4 with value projection, gated": ("E", GEMMA | {"markov_head_type": "gated"}),
    "Gemma-4 with keys as values": ("E", GEMMA | {"attention_k_eq_v": True, "num_global_key_value_heads": 1}),
    "z-lab's Qwen3 layers on a Gemma-4 target": (
        "E",
        ZLAB | {"hidden_size": 48, "num_target_layers": 6, "final_logit_softcapping": 30.0},
    ),
}


@pytest.mark.parametrize("name", COMBINATIONS)
def test_every_combination_is_exact(name, tmp_path, request):
    which, config = COMBINATIONS[name]
    golden = request.getfixturevalue(f"golden_{which.lower()}")
    drafter = load_drafter(random_drafter(tmp_path / "d", config), golden.target)
    assert drafter.info.max_drafts == (7 if "z-lab" in name else 5)
    prompt = golden.trace["prompt_ids"]
    expected = plain_output(golden.target, prompt, 60)
    schedules = [FullBlock()] + ([ConfidenceThreshold(0.5)] if drafter.info.has_confidence else [])
    for schedule in schedules:
        settings = Settings(60, stop_ids=NEVER)
        assert output(speculative(golden.target, drafter, prompt, settings, schedule)) == expected


def test_zlab_on_gemma_uses_the_scaled_embedding_the_head_and_its_own_softcap(tmp_path, golden_e):
    config = COMBINATIONS["z-lab's Qwen3 layers on a Gemma-4 target"][1]
    drafter = load_drafter(random_drafter(tmp_path / "d", config), golden_e.target)
    ids = mx.array([5, 9])
    rows = golden_e.target.model.model.embed_tokens.weight[ids]
    assert mx.allclose(drafter.embed(ids), rows * 48**0.5)
    h = mx.random.normal((2, 48)) * 4
    z = h @ golden_e.target.model.model.embed_tokens.weight.T
    assert mx.allclose(drafter.head(h), 30 * mx.tanh(z / 30), atol=1e-5)
    bare = load_drafter(random_drafter(tmp_path / "b", config | {"final_logit_softcapping": None}), golden_e.target)
    assert mx.allclose(bare.head(h), z, atol=1e-5)


def test_sliding_layers_are_causal_in_the_block_and_see_the_window(tmp_path, golden_a):
    """Both layers sliding, against attention written out with all keys and an explicit mask."""
    config = ZLAB | {"layer_types": ["sliding_attention"] * 2}
    drafter = load_drafter(random_drafter(tmp_path / "d", config), golden_a.target)
    W, n, B, window = drafter.weights, 40, 8, 6
    taps = mx.random.normal((n, 128))
    context = drafter.begin()
    for start in range(0, n, 11):  # grows in pieces, past the window
        context.extend(mx.arange(11), taps[start : start + 11])
    embeddings = drafter.embed(mx.arange(B))
    got = W.block(embeddings, context.cache)

    fused, x = W.fuse(taps), embeddings
    positions = np.arange(n + B)
    visible = (positions[None] <= positions[n:, None]) & (positions[None] > positions[n:, None] - window)
    for layer in W.layers:
        a = layer.input_layernorm(x)
        attn = layer.self_attn
        rows = mx.concatenate([fused, a])
        heads = lambda y, m: y.reshape(y.shape[0], m, -1).swapaxes(0, 1)[None]  # noqa: E731
        q = mx.fast.rope(attn.q_norm(heads(attn.q_proj(a), 6)), 24, traditional=False, base=1e4, scale=1, offset=n)
        k = mx.fast.rope(attn.k_norm(heads(attn.k_proj(rows), 2)), 24, traditional=False, base=1e4, scale=1, offset=0)
        v = heads(attn.v_proj(rows), 2)
        scores = (q @ mx.repeat(k, 3, axis=1).swapaxes(-1, -2)) * 24**-0.5
        weights = mx.softmax(mx.where(mx.array(visible), scores, -1e9), axis=-1)
        out = (weights @ mx.repeat(v, 3, axis=1))[0].swapaxes(0, 1).reshape(B, -1)
        x = x + attn.o_proj(out)
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    assert mx.abs(got - W.norm(x)).max().item() < 1e-4


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_gated_head_formula():
    mx.random.seed(1)
    head = GatedMarkov(50, 6, 10)
    w1, w2 = np.array(head.markov_w1.weight), np.array(head.markov_w2.weight)
    wg, bg = np.array(head.gate_proj.weight), np.array(head.gate_proj.bias)
    h = mx.random.normal((1, 10))
    bias, _ = head.bias(mx.array([7]), h, head.start())
    e = w1[7]
    expected = w2 @ (sigmoid(wg @ np.concatenate([np.array(h)[0], e]) + bg) * e)
    assert np.allclose(np.array(bias)[0], expected, atol=1e-5)


def test_rnn_head_formula_over_three_slots():
    mx.random.seed(2)
    r, head = 6, RnnMarkov(50, 6, 10)
    w1, w2 = np.array(head.markov_w1.weight), np.array(head.markov_w2.weight)
    wj, bj = np.array(head.joint_proj.weight), np.array(head.joint_proj.bias)
    state, s = head.start(), np.zeros(r)
    for token in (3, 8, 21):
        h = mx.random.normal((1, 10))
        bias, state = head.bias(mx.array([token]), h, state)
        gate, cand, out = np.split(wj @ np.concatenate([s, w1[token], np.array(h)[0]]) + bj, 3)
        assert np.allclose(np.array(bias)[0], w2 @ np.tanh(out), atol=1e-5)
        s = sigmoid(gate) * s + (1 - sigmoid(gate)) * np.tanh(cand)


def test_default_taps_of_zlab(tmp_path, golden_a):
    config = ZLAB | {
        "dflash_config": {"block_size": 8, "mask_token_id": 250},
        "num_hidden_layers": 1,
        "layer_types": None,
    }
    drafter = load_drafter(random_drafter(tmp_path / "d", config), golden_a.target)
    assert drafter.taps == (2,)
