"""Every field of a drafter's config.json is read, known to change nothing, or refused by name: copies of golden
drafters with one thing changed."""

import json
from dataclasses import replace

import pytest

from dspark_core.models.backbone_config import MAX_ROLLBACK
from dspark_core.models.checkpoint import load_drafter, open_drafter
from dspark_core.models.config import parse_config
from dspark_core.models.headers import TensorInfo, read_headers

from .build import GOLDEN, copy, edit_config, edit_weights, refusal
from .published import TARGETS, drafters

HUGE, NAN, INFINITY = 10**400, float("nan"), float("inf")
SPECULATORS = {"speculators_model_type": "dflash", "transformer_layer_config": {"hidden_size": 64}}


@pytest.fixture
def changed(tmp_path, golden_a, golden_e):
    """The message that refuses a golden drafter so changed, or None if it opens."""

    def change(which, changes, nested=None):
        directory = copy("drafter", which, tmp_path / str(len(list(tmp_path.iterdir()))))
        path = directory / "config.json"
        config = json.loads(path.read_text()) | changes
        if nested:
            config["dflash_config"] = config["dflash_config"] | nested
        path.write_text(json.dumps(config))
        target = golden_e.target if which == "E" else golden_a.target

        def load():
            return open_drafter(directory, target)

        try:
            load()
        except Exception:  # of whatever kind: it must be one sentence
            message = refusal(load)
            assert "config.json" in message, message
            return message
        return None

    return change


NUMBERS = {
    "block_size": [1, 0, -7, MAX_ROLLBACK, 100_000],
    "num_hidden_layers": [0, 3, 1000],
    "num_target_layers": [0, 5, -4],
    "num_attention_heads": [0, 4, 5000],
    "num_key_value_heads": [0, 3, -2],
    "head_dim": [0, 15, 17, 1_000_000],
    "hidden_size": [0, 65, 10**9],
    "intermediate_size": [0, 95, 10**12],
    "vocab_size": [0, 255, 10**12],
    "mask_token_id": [-1, 256],
    "markov_rank": [-1, 10**9],
    "rms_norm_eps": [0, -1e-6, 1, NAN, INFINITY],
    "rope_theta": [0, -1, NAN, INFINITY, 1e300],
}


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_is_of_its_kind_and_in_its_range(name, changed):
    rope = {"rope_parameters": None} if name == "rope_theta" else {}
    for value in [*NUMBERS[name], True, False, "7", [7], {}, HUGE, -HUGE, NAN, INFINITY]:
        message = changed("A", rope | {name: value})
        assert message and name in message, (name, value, message)
    if name not in ("rms_norm_eps", "rope_theta"):
        assert name in changed("A", {name: 7.0})


@pytest.mark.parametrize("which", ["A", "D"])
def test_the_longest_block_is_what_a_window_can_roll_back(which, changed):
    """Anchor and drafts are verified at once, and a sliding window takes back so many rows."""
    longest = MAX_ROLLBACK - 1 if which == "A" else MAX_ROLLBACK
    assert changed(which, {"block_size": longest}) is None
    assert f"block_size is {longest + 1}; it must be a whole number from 2 to {longest}" in changed(
        which, {"block_size": longest + 1}
    )


@pytest.mark.parametrize("value", [0, -1, True, "12", 1.5, NAN, HUGE])
def test_a_window(value, changed):
    sliding = {"layer_types": ["sliding_attention", "full_attention"], "use_sliding_window": True}
    assert changed("D", sliding | {"sliding_window": 12}) is None
    assert "sliding_window" in changed("D", sliding | {"sliding_window": value})


@pytest.mark.parametrize("taps", [[], [0, 0], [2, 1], [0, 3], [-2, 0], [True, 2], [0.0, 1], ["0"], "012", [HUGE], None])
def test_taps(taps, changed):
    assert "target_layer_ids" in changed("A", {"target_layer_ids": taps})
    if taps is not None:
        assert "target_layer_ids" in changed("D", {}, {"target_layer_ids": taps})


def test_taps_of_zlab_have_no_embedding(changed):
    assert "-1" in changed("D", {}, {"target_layer_ids": [-1, 0, 1]})


FLAGS = ["enable_confidence_head", "confidence_head_with_markov", "attention_bias", "use_sliding_window"]


@pytest.mark.parametrize("name", [*FLAGS, "tie_word_embeddings"])
def test_every_flag_is_true_or_false(name, changed):
    for value in (1, 0, "false", [], 0.0):
        assert f"{name} is {value!r}; it must be true or false" in changed("A", {name: value})


# golden set, changes at the top, changes under dflash_config, words of the refusal
REFUSED = [
    ("D", {"jetspec_config": {"causal_head": True}}, {}, "jetspec_config: JetSpec drafters are not supported"),
    ("D", {}, {"jetspec_config": {}}, "jetspec_config"),
    ("A", SPECULATORS, {}, "transformer_layer_config.num_hidden_layers is 32"),
    ("D", {"speculators_config": {"algorithm": "eagle3"}}, {}, "speculators_config"),
    ("D", {}, {"conv_kernel_size": 2}, "conv_kernel_size: DFlash 2"),
    ("D", {}, {"selector_top_k": 16}, "selector_top_k: DFlash 2"),
    ("A", {"architectures": ["DSparkHeadModel"]}, {}, "'DSparkHeadModel'"),
    ("A", {"architectures": "Qwen3DSparkModel, DFlashDraftModel"}, {}, "architecture"),
    ("A", {"architectures": ["Qwen3DSparkModel", "DFlashDraftModel"]}, {}, "architecture"),
    ("A", {"architectures": [["Qwen3DSparkModel"]]}, {}, "architecture"),
    ("A", {"is_causal": True}, {}, "is_causal True"),
    ("A", {"dflash_config": {"block_size": 16}}, {}, "dflash_config"),
    ("D", {"dflash_config": [1]}, {}, "dflash_config must be an object"),
    ("A", {"layer_types": ["sliding_attention"] * 2, "sliding_window": 8}, {}, "sliding_attention"),
    ("E", {"layer_types": ["sliding_attention"] * 2}, {}, "sliding_attention"),
    ("D", {}, {"layer_types": ["sliding_attention"] * 2}, "dflash_config.layer_types"),
    ("D", {}, {"hidden_size": 32}, "dflash_config.hidden_size"),
    ("D", {}, {"rope_theta": 1e4}, "dflash_config.rope_theta"),
    ("D", {"use_swa": True}, {}, "use_swa True"),
    ("D", {}, {"use_swa": True}, "dflash_config.use_swa True"),
    ("D", {"hidden_act": "gelu"}, {}, "hidden_act 'gelu'"),
    ("E", {"hidden_activation": "gelu"}, {}, "hidden_activation 'gelu'"),
    ("D", {}, {"input_embedding_scale": 1.25}, "input_embedding_scale 1.25"),
    ("D", {"output_multiplier": 0.75}, {}, "output_multiplier 0.75"),
    ("A", {"final_logit_softcapping": 30.0}, {}, "final_logit_softcapping 30.0"),
    ("D", {}, {"final_logit_softcapping": "30"}, "final_logit_softcapping is '30'"),
    ("D", {"final_logit_softcapping": True}, {}, "final_logit_softcapping is True"),
    ("E", {"final_logit_softcapping": 0}, {}, "final_logit_softcapping is 0"),
    ("E", {"final_logit_softcapping": INFINITY}, {}, "final_logit_softcapping"),
    ("A", {"draft_vocab_size": 96}, {}, "draft_vocab_size 96"),
    ("D", {"draft_vocab_size": 96}, {}, "draft_vocab_size 96"),
    ("A", {"num_speculative_tokens": 6}, {}, "num_speculative_tokens 6"),
    ("A", {"attention_sink_bias": True}, {}, "attention_sink_bias: attention sinks"),
    ("A", {"sample_from_anchor": False}, {}, "sample_from_anchor False"),
    ("D", {"sample_from_anchor": True}, {}, "sample_from_anchor True"),
    ("A", {"projector_type": "domino"}, {}, "projector_type 'domino'"),
    ("D", {}, {"projector_type": "dspark"}, "projector_type 'dspark'"),
    ("D", {}, {"shift_label": True}, "shift_label True"),
    ("D", {}, {"pure_draft_prefix_len": 2}, "pure_draft_prefix_len 2"),
    ("A", {"dspark_backbone_conv_enabled": True}, {}, "dspark_backbone_conv_enabled True"),
    ("A", {"sliding_window_non_causal": True}, {}, "sliding_window_non_causal True"),
    ("A", {"target_hidden_size": 128}, {}, "target_hidden_size 128"),
    ("A", {"markov_head_type": "trigram"}, {}, "markov_head_type is 'trigram'"),
    ("A", {"markov_head_type": 3}, {}, "markov_head_type is 3"),
    ("D", {"markov_rank": 16}, {}, "markov_rank 16"),
    ("D", {"enable_confidence_head": True}, {}, "confidence head"),
    ("D", {}, {"markov_rank": 16}, "markov_rank 16"),
    ("A", {"partial_rotary_factor": 0.5}, {}, "partial_rotary_factor 0.5"),
    ("E", {"num_kv_shared_layers": 1}, {}, "num_kv_shared_layers 1"),
    ("E", {"enable_moe_block": True}, {}, "enable_moe_block True"),
    ("E", {"hidden_size_per_layer_input": 64}, {}, "hidden_size_per_layer_input 64"),
    ("E", {"use_double_wide_mlp": True}, {}, "use_double_wide_mlp True"),
    ("E", {"use_bidirectional_attention": "all"}, {}, "use_bidirectional_attention 'all'"),
    ("E", {"attention_k_eq_v": 1}, {}, "attention_k_eq_v is 1"),
    ("E", {"per_layer_config": {"0": {}}}, {}, "per_layer_config"),
    ("A", {"something_new": 0.5}, {}, "something_new 0.5 may change what the drafter computes"),
    ("D", {}, {"something_new": False}, "dflash_config.something_new False"),
    ("A", {"text_config": {"hidden_size": 64}}, {}, "text_config"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: f"{case[0]} {case[3][:40]}")
def test_what_would_change_the_drafter_is_refused_by_name(case, changed):
    which, changes, nested, words = case
    message = changed(which, changes, nested)
    assert message and words in message, message


OPENED = [
    ("A", {"is_causal": False, "sample_from_anchor": True, "projector_type": "dspark", "draft_vocab_size": 256}, {}),
    ("A", {"use_sliding_window": True, "sliding_window": 4096}, {}),  # of the target, whose config was copied
    (
        "A",
        {"torch_dtype": "bfloat16", "_name_or_path": "x", "auto_map": {"AutoModel": "x.Y"}, "something_new": None},
        {},
    ),
    (
        "D",
        {"is_causal": None, "use_swa": False, "output_multiplier": 1},
        {"input_embedding_scale": 1.0, "block_size": 9},
    ),
    ("A", {"num_speculative_tokens": 7, "attention_sink_bias": False}, {}),
    ("D", {"num_speculative_tokens": 15}, {"attention_sink_bias": False}),
    ("D", {"final_logit_softcapping": 0}, {"layer_types": ["full_attention"] * 2, "hidden_size": 64}),
    ("E", {"use_bidirectional_attention": "vision", "num_experts": 8, "head_dim": 99}, {}),
]


@pytest.mark.parametrize("case", range(len(OPENED)))
def test_what_changes_nothing_opens(case, changed):
    assert changed(*OPENED[case]) is None


# What `to_dict` of transformers 4.50's configurations has beside a model's own fields, most of it about generation.
OLD_DEFAULTS = {
    **{"use_bfloat16": False, "tf_legacy_loss": False, "pruned_heads": {}, "cross_attention_hidden_size": None},
    **{"add_cross_attention": False, "tie_encoder_decoder": False, "max_length": 20, "min_length": 0},
    **{"do_sample": False, "early_stopping": False, "num_beams": 1, "num_beam_groups": 1, "diversity_penalty": 0.0},
    **{"temperature": 1.0, "top_k": 50, "top_p": 1.0, "typical_p": 1.0, "repetition_penalty": 1.0},
    **{"length_penalty": 1.0, "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0, "bad_words_ids": None},
    **{"num_return_sequences": 1, "output_scores": False, "return_dict_in_generate": False, "suppress_tokens": None},
    **{"forced_bos_token_id": None, "remove_invalid_values": False, "finetuning_task": None, "prefix": None},
    **{"task_specific_params": None, "return_dict": True, "output_attentions": False, "is_decoder": False},
    **{"_attn_implementation_autoset": True, "cache_implementation": "hybrid", "use_return_dict": True},
}
# Of targets whose configuration was copied (with a vision tower, with experts that it has none of), and of tools.
COPIED = {
    **{"image_token_id": 9, "vision_start_token_id": 9, "boi_token_id": 9, "eoa_token_index": 9},
    **{"use_mrope": False, "mlp_only_layers": [], "decoder_sparse_step": 1, "norm_topk_prob": True},
    **{"num_experts_per_tok": 8, "num_local_experts": 8, "output_router_logits": False, "router_aux_loss_coef": 0.001},
    **{"sliding_window_pattern": 6, "unsloth_fixed": True, "unsloth_version": "2025.1", "embd_pdrop": 0.0},
    **{"gradient_checkpointing": False, "transformers_weights": "model.safetensors", "model_max_length": 4096},
}


@pytest.mark.parametrize("which", ["A", "D", "E"])
def test_what_libraries_write_beside_it_opens(which, changed):
    assert changed(which, OLD_DEFAULTS | COPIED) is None
    for name in ("use_mrope", "fused_qkv", "qkv_bias", "num_nextn_predict_layers"):
        assert name in changed(which, {name: 1})


@pytest.mark.parametrize("shape", TARGETS, ids=lambda shape: shape.name)
def test_a_published_drafter_that_transformers_saved_again_parses(shape, tmp_path):
    """As somebody does who publishes it anew. For Gemma-4 transformers 5 moves the sizes of full layers."""
    from transformers import Gemma4TextConfig, Qwen3Config

    for checkpoint in drafters(shape).values():
        gemma = "Gemma4" in checkpoint.config["architectures"][0]
        own = {"hidden_size_per_layer_input": 0} if gemma else {}  # the class's default is of another model
        again = (Gemma4TextConfig if gemma else Qwen3Config)(**checkpoint.config | own)
        again.save_pretrained(tmp_path / checkpoint.name)
        tensors = {n: TensorInfo(tmp_path, "BF16", s) for n, s in checkpoint.tensors.items()}
        wanted = parsed(tmp_path, checkpoint.config, tensors)
        short = json.loads((tmp_path / checkpoint.name / "config.json").read_text())
        for config in (short, again.to_dict(), short | OLD_DEFAULTS):
            assert parsed(tmp_path, config, tensors) == wanted


def parsed(directory, config, tensors):
    """Where the default rope is spelled out, as if it were not."""
    made = parse_config(directory, config, tensors)
    scaling = made.backbone.rope_scaling
    plain = scaling if scaling and scaling["rope_type"] != "default" else None
    return replace(made, backbone=replace(made.backbone, rope_scaling=plain))


def test_sizes_of_full_layers_that_are_not_understood(changed):
    sizes = {"head_dim": 32, "num_key_value_heads": 1}
    own = json.loads((GOLDEN / "E" / "drafter" / "config.json").read_text())
    assert (own["global_head_dim"], own["num_global_key_value_heads"]) == (32, 1)
    moved = {"global_head_dim": None, "num_global_key_value_heads": None, "num_key_value_heads": 2}
    assert changed("E", moved | {"per_layer_config": {"0": sizes, "1": sizes}}) is None
    assert changed("E", {"per_layer_config": {"00": sizes, "01": sizes}}) is None
    for value in (
        [sizes, sizes],
        {"0": sizes},
        {"0": sizes, "2": sizes},
        {"0": sizes, "one": sizes},
        {"0": sizes, "1": {"head_dim": 16}},
        {"0": sizes | {"sliding_window": 8}, "1": sizes | {"sliding_window": 8}},
        {"0": 1, "1": 1},
        "01",
    ):
        assert "per_layer_config" in changed("E", moved | {"per_layer_config": value}), value
    assert "global_head_dim" in changed("E", {"global_head_dim": 16, "per_layer_config": {"0": sizes, "1": sizes}})


def rope(**changes):
    return {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"} | changes}


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
ROPES = [
    (rope(rope_type="linear"), "factor of its linear rope"),
    (rope(rope_type="linear", factor=0), "factor of its linear rope"),
    (rope(rope_type="linear", factor="2"), "factor of its linear rope"),
    (rope(rope_type="linear", factor=True), "factor of its linear rope"),
    (rope(factor=2.0), "factor 2.0 of its default rope"),
    (rope(rope_type="dynamic", factor=2.0), "rope_type 'dynamic'"),
    (rope(rope_type="longrope", factor=2.0), "rope_type 'longrope'"),
    (rope(rope_type="mrope", mrope_section=[1, 2, 3]), "rope_type 'mrope'"),
    (rope(rope_type="proportional"), "rope_type 'proportional'"),
    (rope(rope_type=3), "rope_type 3"),
    (rope(type="linear"), "contradict"),
    (rope(partial_rotary_factor=0.5), "partial_rotary_factor 0.5"),
    (rope(**YARN | {"original_max_position_embeddings": None}), "original_max_position_embeddings of its yarn rope"),
    (rope(**YARN, attention_factor=1.0), "attention_factor 1.0"),
    (rope(**YARN, mscale=0.7), "mscale 0.7"),
    (rope(**YARN, truncate=False), "truncate False"),
    (rope(**YARN, beta_fast=0), "beta_fast"),
    (rope(**YARN) | {"rope_scaling": YARN | {"factor": 8.0}}, "contradict"),
    (rope() | {"rope_scaling": {"type": "linear", "factor": 2.0}}, "contradict"),
    (rope() | {"rope_theta": 1e4}, "contradict"),
    (rope(rope_theta="1e6"), "rope_theta is '1e6'"),
    (rope(rope_theta=None), "no rope_theta"),
    ({"rope_parameters": [1e6]}, "rope_parameters is [1000000.0]"),
    ({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}, "no rope_theta"),
]


@pytest.mark.parametrize("case", range(len(ROPES)))
def test_a_rope_that_is_not_whole(case, changed):
    changes, words = ROPES[case]
    message = changed("A", changes)
    assert message and words in message, message


def test_a_rope_of_a_gemma(changed):
    for full, words in (
        ({"rope_type": "proportional", "rope_theta": 1e6}, "partial_rotary_factor"),
        ({"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 2}, "partial_rotary_factor"),
        ({"rope_type": "yarn", "rope_theta": 1e6, "factor": 2}, "rope_type 'yarn'"),
        ({"partial_rotary_factor": 0.25}, "no rope_theta"),
        ([], "rope_parameters.full_attention"),
    ):
        message = changed("E", {"rope_parameters": {"full_attention": full}})
        assert message and words in message, message


@pytest.mark.parametrize(
    "changes",
    [
        rope(rope_type="linear", factor=2),
        rope(**YARN),
        rope(**YARN) | {"rope_scaling": YARN},
        rope(**YARN, truncate=True, attention_factor=1.1386294361119891, attn_factor=0.5),
    ],
)
def test_a_rope_that_is_whole_opens(changes, changed):
    assert changed("A", changes) is None
    flat = {"rope_parameters": None, "rope_theta": 1e6}
    older = {("type" if k == "rope_type" else k): v for k, v in changes["rope_parameters"].items() if k != "rope_theta"}
    assert changed("A", flat | {"rope_scaling": older}) is None


def test_ropes_are_those_of_transformers():
    """Queries at far positions, turned by mlx-lm's rope and by transformers' own, for what rope.py lets through."""
    torch = pytest.importorskip("torch")
    import mlx.core as mx
    from mlx_lm.models.rope_utils import initialize_rope
    from transformers import Qwen3Config
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding, apply_rotary_pos_emb

    llama3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    for head_dim, scaling in (
        (12, YARN),
        (128, YARN | {"factor": 8.0, "original_max_position_embeddings": 32768}),
        (64, YARN | {"factor": 40.0, "original_max_position_embeddings": 4096, "beta_fast": 16, "beta_slow": 2}),
        (128, {"rope_type": "linear", "factor": 2.0}),
        (64, {"rope_type": "llama3", "factor": 8.0} | llama3),
    ):
        made = Qwen3Config(head_dim=head_dim, rope_parameters=scaling | {"rope_theta": 1e6})
        q = torch.randn(1, 2, 9, head_dim)
        turned, _ = apply_rotary_pos_emb(q, q, *Qwen3RotaryEmbedding(made)(q, torch.arange(300, 309)[None]))
        ours = initialize_rope(head_dim, 1e6, False, dict(scaling))(mx.array(q.numpy()), offset=300)
        assert mx.abs(ours - mx.array(turned.numpy())).max().item() < 5e-4, scaling


def test_a_head_that_the_config_ties_to_an_embedding_of_its_own(tmp_path, golden_a):
    directory = copy("drafter", "A", tmp_path)
    edit_config(directory, tie_word_embeddings=True)
    edit_weights(directory, lambda w: w.pop("lm_head.weight"))
    assert "tie_word_embeddings is true" in refusal(lambda: load_drafter(directory, golden_a.target))


@pytest.mark.parametrize(
    "quantization",
    [
        {"bits": True, "group_size": 64},
        {"bits": 8.0, "group_size": 64},
        {"bits": 8, "group_size": "64"},
        {"bits": 8, "group_size": 64, "mode": "mxfp8"},
        {"bits": 8, "group_size": 64, "fc": {"bits": 4, "group_size": 64}},
    ],
)
def test_quantization_that_is_not_understood(quantization, tmp_path, golden_a):
    directory = copy("drafter", "A", tmp_path)
    edit_config(directory, quantization=quantization)

    def quantize(w):
        import mlx.core as mx

        q, scales, biases = mx.quantize(w["fc.weight"], 64, 8)
        w |= {"fc.weight": q, "fc.scales": scales, "fc.biases": biases}

    edit_weights(directory, quantize)
    assert "quantiz" in refusal(lambda: open_drafter(directory, golden_a.target))
    edit_config(directory, quantization={"bits": 8, "group_size": 64, "mode": "affine"})
    open_drafter(directory, golden_a.target)


def test_every_drafter_that_is_here_or_published_still_parses(tmp_path):
    for directory in [*GOLDEN.glob("*/drafter"), *GOLDEN.parents[1].glob("assets/models/d*")]:
        parse_config(directory, json.loads((directory / "config.json").read_text()), read_headers(directory))
    for shape in TARGETS:
        for checkpoint in drafters(shape).values():
            own = {n: None for n in ("embed_tokens.weight", "lm_head.weight") if n in checkpoint.tensors}
            parse_config(tmp_path, checkpoint.config, own)


@pytest.mark.parametrize(
    "values", ["1234567", [1.0] * 6, [True] * 7, ["1"] * 7, [NAN] * 7, [0.0] * 7, [HUGE] * 7, 7, {}]
)
def test_a_calibration_is_a_list_of_numbers(values, tmp_path, golden_a):
    directory = copy("drafter", "A", tmp_path)
    (directory / "calibration.json").write_text(json.dumps({"temperatures": values}))
    message = refusal(lambda: open_drafter(directory, golden_a.target))
    assert "calibration.json cannot be used: temperatures must be 7 numbers" in message
