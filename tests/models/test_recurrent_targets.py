"""Targets with recurrent layers or experts: what of their files cannot run is refused in one sentence; their drafters,
in any packaging, run; drafters of another target do not."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import pytest
from mlx_lm.models.switch_layers import SwitchGLU
from mlx_lm.utils import load_model, quantize_model, save_config, save_model

from dspark_core.decode.cost_curve import BLIND, WAITED
from dspark_core.decode.measure import Bench
from dspark_core.decode.rounds import Settings
from dspark_core.decode.schedule import FullBlock
from dspark_core.decode.speculative import speculative
from dspark_core.models.cache import RecurrentCache
from dspark_core.models.checkpoint import load_drafter
from dspark_core.models.target import Target, load_target
from tests.decode.helpers import NEVER, output, plain_output, rounds

from .build import edit_config, edit_weights, random_drafter, refusal
from .families import saved

LINEAR, FULL = "linear_attention", "full_attention"
# family; changes of config.json; what the sentence names
BAD = [
    ("qwen3_5", {"layer_types": [LINEAR, FULL, FULL, LINEAR]}, "layer_types"),
    ("qwen3_5", {"layer_types": [LINEAR] * 4}, "layer_types"),
    ("qwen3_5", {"layer_types": [FULL] * 4}, "layer_types"),
    ("qwen3_5", {"layer_types": [LINEAR] * 3}, "layer_types"),
    ("qwen3_5", {"layer_types": ["conv", LINEAR, LINEAR, FULL]}, "layer_types"),
    ("qwen3_5", {"layer_types": [LINEAR, FULL] * 2}, "layer_types"),
    ("qwen3_5", {"linear_num_value_heads": 3}, "linear_num_value_heads"),
    ("qwen3_5", {"linear_num_key_heads": 4}, "linear_num_key_heads"),
    ("qwen3_5", {"linear_key_head_dim": 16}, "linear_key_head_dim"),
    ("qwen3_5", {"linear_value_head_dim": "8"}, "linear_value_head_dim"),
    ("qwen3_5", {"linear_conv_kernel_dim": 1}, "linear_conv_kernel_dim"),
    ("qwen3_5", {"linear_conv_kernel_dim": 3}, "conv1d"),
    ("qwen3_5", {"head_dim": 8}, "head_dim"),
    ("qwen3_5", {"attn_output_gate": False}, "attn_output_gate"),
    ("qwen3_5", {"hidden_act": "gelu"}, "hidden_act"),
    ("qwen3_5", {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.1}}, "partial_rotary_factor"),
    ("qwen3_5", {"rope_parameters": {"rope_theta": 1e4, "rope_type": "longrope"}}, "longrope"),
    ("lfm2", {"layer_types": ["conv", "conv", "linear_attention", "conv"]}, "layer_types"),
    ("lfm2", {"layer_types": ["conv"] * 4}, "layer_types"),
    ("lfm2", {"layer_types": ["conv", FULL, "conv", "conv"]}, "layer_types"),
    ("lfm2", {"full_attn_idxs": [1]}, "full_attn_idxs"),
    ("lfm2", {"full_attn_idxs": [9]}, "full_attn_idxs"),
    ("lfm2", {"conv_L_cache": 1}, "conv_L_cache"),
    ("lfm2", {"conv_L_cache": 4}, "conv"),
    ("lfm2", {"block_multiple_of": 100}, "intermediate_size"),
    ("lfm2", {"tie_word_embeddings": False}, "tie_word_embeddings"),
    ("lfm2", {"rope_parameters": {"rope_theta": 1e6, "rope_type": "linear", "factor": 2.0}}, "linear"),
    ("lfm2_moe", {"num_dense_layers": 0}, "feed_forward"),
    ("lfm2_moe", {"num_dense_layers": 4}, "feed_forward"),
    ("lfm2_moe", {"use_expert_bias": False}, "expert_bias"),
    ("lfm2_moe", {"layer_types": ["conv", FULL, "conv", "conv"]}, "layer_types"),
    ("qwen3_5_moe", {"layer_types": [LINEAR, FULL] * 2}, "layer_types"),
    ("qwen3_5_moe", {"num_experts": 5}, "num_experts"),
    ("qwen3_5_moe", {"shared_expert_intermediate_size": 8}, "shared_expert_intermediate_size"),
    ("qwen3_moe", {"num_experts": 5}, "num_experts"),
    ("qwen3_moe", {"num_local_experts": 7}, "num_experts"),
    ("qwen3_moe", {"num_experts_per_tok": 7}, "num_experts_per_tok"),
    ("qwen3_moe", {"layer_types": ["sliding_attention"] * 4}, "layer_types"),
    ("qwen3_moe", {"mlp_only_layers": [0, 1, 2, 3]}, "mlp_only_layers"),
    ("qwen3_moe", {"mlp_only_layers": [1]}, "config.json"),
    ("qwen3_moe", {"moe_intermediate_size": 8}, "moe_intermediate_size"),
]


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    pytest.importorskip("torch")
    names = ("qwen3_5", "lfm2", "lfm2_moe", "qwen3_moe", "qwen3_5_moe", "ministral3 wrapped")
    return {name: saved(name, tmp_path_factory.mktemp("saved") / name) for name in names}


@pytest.fixture(scope="module")
def hybrid(directories) -> Target:
    return load_target(directories["qwen3_5"], "stored")


def test_bad_files_are_refused_in_one_sentence(directories):
    for family, changes, words in BAD:
        path = directories[family] / "config.json"
        before = path.read_text()
        edit_config(directories[family], **changes)
        try:
            message = refusal(lambda d=directories[family]: load_target(d, "stored"))
        finally:
            path.write_text(before)
        assert words in message, (changes, message)
    wrapped = directories["ministral3 wrapped"] / "config.json"
    config = json.loads(wrapped.read_text())
    for kind in ("mistral", "mistral4", None):  # without a type it is a Mistral to transformers
        edit_config(wrapped.parent, text_config=config["text_config"] | {"model_type": kind})
        assert f"of type {kind!r}" in refusal(lambda: load_target(wrapped.parent, "stored")).replace("null", "None")
    edit_config(wrapped.parent, **config)
    load_target(wrapped.parent, "stored")


def test_a_missing_tensor_of_a_recurrent_layer_is_named(directories, tmp_path):
    directory = saved("qwen3_5", tmp_path)
    edit_weights(directory, lambda w: w.pop("model.layers.1.linear_attn.A_log"))
    assert "A_log" in refusal(lambda: load_target(directory, "stored"))
    for name in ("qwen3_5", "qwen3_moe", "lfm2_moe"):
        directory, layer = saved(name, tmp_path / name), 2 if name == "lfm2_moe" else 3
        edit_weights(directory, lambda w, at=layer: w.pop(f"model.layers.{at}.self_attn.q_proj.weight"))
        assert f"layers.{layer}.self_attn.q_proj" in refusal(lambda d=directory: load_target(d, "stored"))


def test_experts_in_one_tensor_are_those_of_one_each(directories, tmp_path):
    """As published files have them, and as transformers 5 saves them."""
    ids = mx.arange(9)
    for family in ("qwen3_moe", "qwen3_5_moe"):
        directory = saved(family, tmp_path / family)

        def join(weights):
            for i in range(4):
                at = f"model.layers.{i}.mlp.experts"
                each = [[weights.pop(f"{at}.{e}.{p}_proj.weight") for e in range(6)] for p in ("gate", "up", "down")]
                gate, up, down = map(mx.stack, each)
                weights[f"{at}.gate_up_proj"], weights[f"{at}.down_proj"] = mx.concatenate([gate, up], axis=1), down

        before = load_target(directory, "stored").model(ids[None])
        edit_weights(directory, join)
        assert mx.array_equal(before, load_target(directory, "stored").model(ids[None]))


def drafter_config(**more) -> dict:
    """DeepSpec's, with what its trainer copies from a Qwen3.5 target's config."""
    own = {"architectures": ["Qwen3DSparkModel"], "block_size": 5, "mask_token_id": 63, "target_layer_ids": [0, 2]}
    own |= {"num_target_layers": 4, "markov_rank": 8, "enable_confidence_head": True, "num_hidden_layers": 2}
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    sizes |= {"head_dim": 16, "vocab_size": 64, "rms_norm_eps": 1e-6, "layer_types": [FULL] * 2}
    copied = {
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
    }
    copied |= {"linear_num_value_heads": 4, "full_attention_interval": 4, "mamba_ssm_dtype": "float32"}
    copied |= {"mtp_num_hidden_layers": 1, "mtp_use_dedicated_embeddings": False, "attn_output_gate": True}
    rope = {"rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": 0.25}
    rope |= {"mrope_section": [1, 1, 1], "mrope_interleaved": True}
    return own | sizes | copied | {"rope_parameters": rope, "partial_rotary_factor": 0.25} | more


def decoded(target: Target, drafter) -> list:
    events = list(speculative(target, drafter, [3, 1, 4, 1, 5], Settings(40, stop_ids=NEVER), FullBlock()))
    assert output(events) == plain_output(target, [3, 1, 4, 1, 5], 40)
    return [(r.draft_ids, r.accepted) for r in rounds(events)]


def test_deepspec_and_speculators_heads_of_a_hybrid_target(hybrid, directories, tmp_path):
    """The same weights in both packagings draft the same: taps are the outputs of a hybrid target's layers, whatever
    kind these are, and numbers of speculators are one higher."""
    deepspec = random_drafter(tmp_path / "deepspec", drafter_config())
    speculators = tmp_path / "speculators"
    speculators.mkdir()
    (speculators / "model.safetensors").write_bytes((deepspec / "model.safetensors").read_bytes())
    config = drafter_config()
    heads = {
        name: config.pop(name) for name in ("block_size", "mask_token_id", "markov_rank", "enable_confidence_head")
    }
    for name in ("architectures", "target_layer_ids", "num_target_layers"):
        del config[name]
    methods = [{"proposal_type": "greedy", "speculative_tokens": 5}]
    outer = {"speculators_model_type": "dspark", "aux_hidden_state_layer_ids": [1, 3], "draft_vocab_size": 64}
    outer |= {"transformer_layer_config": config | {"model_type": "qwen3"}, "confidence_head_with_markov": False}
    outer |= {"speculators_config": {"algorithm": "dspark", "proposal_methods": methods}}
    (speculators / "config.json").write_text(json.dumps(heads | outer))
    drafters = [load_drafter(d, hybrid, "stored") for d in (deepspec, speculators)]
    assert drafters[0].taps == drafters[1].taps == (0, 2)
    dense, experts = (load_target(directories[n], "stored") for n in ("qwen3_5", "qwen3_5_moe"))
    for name, fits, other in (("Qwen3_5ForCausalLM", dense, experts), ("Qwen3_5MoeForCausalLM", experts, dense)):
        outer["speculators_config"]["verifier"] = {"architectures": [name], "name_or_path": "tiny"}
        (speculators / "config.json").write_text(json.dumps(heads | outer))
        load_drafter(speculators, fits, "stored")
        assert f"made for a '{name}'" in refusal(lambda t=other: load_drafter(speculators, t, "stored"))
    assert decoded(hybrid, drafters[0]) == decoded(hybrid, drafters[1])


def test_heads_that_cannot_run_here_are_refused(hybrid, directories, tmp_path):
    directory = random_drafter(tmp_path / "d", drafter_config())
    experts = load_target(directories["qwen3_5_moe"], "stored")
    edit_config(directory, target_model_type="qwen3_5")
    load_drafter(directory, hybrid, "stored")
    assert "Qwen3.5-MoE" in refusal(lambda: load_drafter(directory, experts, "stored"))
    edit_config(directory, architectures=["Qwen35DSparkModel"])
    assert "Qwen3.5's own layers" in refusal(lambda: load_drafter(directory, hybrid, "stored"))


PEER = """
import sys
import mlx.core as mx
from mlx_dspark.load import load_drafter

model, _ = load_drafter(sys.argv[1], quantize=False)
given = mx.load(sys.argv[2])
context = model.make_ctx_cache()
model.update_context(given["taps"][None], ctx_offset=0, ctx_caches=context)
mx.savez(sys.argv[2], hidden=model.backbone(given["block"][None], given["taps"].shape[0], context)[0])
"""


def liquid_drafter(to: Path) -> Path:
    """A drafter in Liquid AI's packaging."""
    directory = random_drafter(to, drafter_config(confidence_head_with_markov=True))
    edit_weights(directory, lambda w: [w.pop(name) for name in ("embed_tokens.weight", "lm_head.weight")])
    config = json.loads((directory / "config.json").read_text())
    inside = {name: config.pop(name) for name in ("target_layer_ids", "mask_token_id", "num_target_layers")}
    for name in ("enable_confidence_head", "confidence_head_with_markov", "rope_parameters", "partial_rotary_factor"):
        del config[name]
    config = {n: v for n, v in config.items() if not n.startswith(("linear_", "mtp_", "full_", "mamba_"))}
    own = {"architectures": ["Lfm2DSparkDraftModel"], "model_type": "qwen3", "rope_is_neox_style": False}
    own |= {"dflash_config": inside, "rope_theta": 1e4, "conv_L_cache": 3, "conv_bias": False}
    (directory / "config.json").write_text(json.dumps(config | own))
    return directory


@pytest.mark.sweep  # that engine takes seconds to import
def test_liquid_ai_s_heads_compute_what_another_engine_computes(directories, tmp_path):
    """mlx-dspark is an independent engine that runs these heads."""
    pytest.importorskip("mlx_dspark")
    target = load_target(directories["lfm2"], "stored")
    directory = liquid_drafter(tmp_path / "drafter")
    drafter = load_drafter(directory, target, "stored")
    assert drafter.config.backbone.interleaved and drafter.config.markov_rank == 8 and drafter.config.first_slot == 0
    assert drafter.config.confidence and len(decoded(target, drafter)) > 3
    ids, context, file = mx.array([3, 1, 4, 1, 5]), drafter.begin(), tmp_path / "arrays.npz"
    _, taps = target.forward(ids, target.new_cache(), drafter.taps)
    block = drafter.embed(mx.array([9, 63, 63, 63, 63]))
    mx.savez(str(file), taps=taps, block=block)
    context.extend(ids, taps)
    ours = drafter.weights.block(block, context.cache)
    run = [sys.executable, "-c", PEER, directory, file]
    done = subprocess.run(run, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert mx.abs(ours - mx.load(str(file))["hidden"]).max().item() < 1e-4
    edit_config(directory, rope_is_neox_style=True)
    other = load_drafter(directory, target, "stored")
    context = other.begin()
    context.extend(ids, taps)
    assert mx.abs(other.weights.block(block, context.cache) - ours).max().item() > 0.01


# ---- what a step costs depends on its rows: experts, and states that are replayed -------------------------


class Stubborn:
    """A drafter of one token, again and again, as one may be on noise."""

    info, taps = SimpleNamespace(max_drafts=7, has_confidence=True, has_look=False, block=8), ()

    def begin(self):
        return self

    def extend(self, ids, features):
        self.state = ids

    def propose(self, anchor, n, pick, confidence=False):
        return SimpleNamespace(ids=mx.full((n,), 3, mx.int32), confidence=mx.ones((n,)), logits=None)

    def rollback(self, n):
        pass


def test_rows_wake_as_many_experts_as_a_text_does(tmp_path, monkeypatch):
    """The measurement's rows are as different as a text's: equal rows would wake half as many."""
    pytest.importorskip("torch")
    woken, of = [], SwitchGLU.__call__

    def counted(self, x, indices):
        woken.append(len({*indices.flatten().tolist()}))
        return of(self, x, indices)

    sizes = {"num_experts": 64, "num_experts_per_tok": 4, "vocab_size": 512, "hidden_size": 64}
    target = load_target(saved("qwen3_moe", tmp_path, **sizes))
    bench = Bench(target, {"stubborn": Stubborn()}, 64)
    assert {c.offset for c in bench.cache} == {64}
    monkeypatch.setattr(SwitchGLU, "__call__", counted)

    def awake(run):
        woken.clear()
        run()
        return sum(woken) / len(woken)

    measured = {w: awake(lambda w=w: bench.verify(w)) for w in (1, 2, 4, 8, 16)}
    assert list(measured.values()) == sorted(measured.values()) and measured[1] == 4
    mx.random.seed(0)
    text = mx.random.randint(0, 512, (80,))
    cache = target.new_cache()
    target.forward(text[:64], cache)
    real = awake(lambda: mx.eval(target.forward(text[64:72], cache)[0]))
    assert measured[8] > 0.75 * real
    for mode in (BLIND, WAITED):
        assert awake(lambda mode=mode: bench.whole("stubborn", 7, mode)) == measured[8]
    bench.ids = mx.zeros_like(bench.ids)
    assert awake(lambda: bench.verify(8)) < measured[8], "or this test could not fail"


def test_the_replay_behind_a_rejection_is_part_of_a_verification(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    target = load_target(saved("qwen3_5", tmp_path))
    replayed, of = [], RecurrentCache._roll_back
    monkeypatch.setattr(RecurrentCache, "_roll_back", lambda self, new: replayed.append(new) or of(self, new))
    since = Bench._since
    monkeypatch.setattr(Bench, "_since", lambda self, began: replayed.append("timed") or since(self, began))
    bench = Bench(target, {"stubborn": Stubborn()}, 64)
    linear = sum(isinstance(c, RecurrentCache) for c in bench.cache)
    for run in (lambda: bench.verify(8), lambda: bench.whole("stubborn", 7, BLIND)):
        replayed.clear()
        assert run() > 0 and replayed == [*[68] * linear, "timed", *[64] * linear]
        assert {c.offset for c in bench.cache} == {64}
    replayed.clear()
    assert bench.verify(1) > 0 and replayed == ["timed", *[64] * linear]


def test_a_quantized_head_in_a_wrapper_that_says_nothing_of_tying_is_the_head(tmp_path):
    """As mlx-lm converts larger Ministrals, whose configs leave it out: to transformers such a wrapper ties."""
    pytest.importorskip("torch")
    source, directory, ids = saved("ministral3 wrapped", tmp_path / "whole"), tmp_path / "quantized", mx.arange(9)
    model, config = quantize_model(*load_model(source, lazy=True), group_size=32, bits=8)
    save_model(directory, model)
    own = model(ids[None])
    for text in (False, None):
        inner = config["text_config"] | {"tie_word_embeddings": text}
        save_config(config | {"tie_word_embeddings": None, "text_config": inner}, directory / "config.json")
        assert mx.array_equal(load_target(directory, "stored").model(ids[None]), own)
    save_config(config | {"tie_word_embeddings": True}, directory / "config.json")
    assert not mx.array_equal(load_target(directory, "stored").model(ids[None]), own)
