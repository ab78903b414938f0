"""A target computes what transformers' own torch model computes from the same directory, whatever a field of its
config.json says; or it is refused in one sentence.

The fields are those that transformers' classes have, so that a new one has to be thought of here. Models are random,
with two layers, and saved by transformers; the differences that a dropped field makes are above 0.1.
"""

import dataclasses
import importlib
import inspect
import logging

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache

from dspark_core.errors import ModelError
from dspark_core.models.headers import read_config, read_headers
from dspark_core.models.target import Target, load_target
from dspark_core.models.target_config import read_target

from .build import edit_config, edit_weights, refusal

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-4
IDS = [(7 * i) % 61 + 1 for i in range(14)]
FULL, SLIDING = "full_attention", "sliding_attention"
SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64}
GEMMA = SIZES | {"global_head_dim": 16, "num_global_key_value_heads": 1, "hidden_size_per_layer_input": 0}
GEMMA |= {"sliding_window": 5, "layer_types": [SLIDING, FULL], "final_logit_softcapping": 3.0}
GEMMA |= {"vocab_size_per_layer_input": 64}
MINISTRAL = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 4}
MINISTRAL |= {"mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.3}
LFM2 = {name: size for name, size in SIZES.items() if name != "head_dim"} | {"layer_types": ["conv", "full_attention"]}
LFM2 |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "num_dense_layers": 1}
BASES = {"Llama": SIZES, "Qwen3": SIZES, "Gemma4": GEMMA, "Gemma4Unified": GEMMA, "Lfm2Moe": LFM2}
BASES["Ministral3"] = SIZES | {"rope_parameters": MINISTRAL}
BASES |= {"Mistral": SIZES | {"sliding_window": 5}}
NO_IDS = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))
BASES |= {"SmolLM3": SIZES | NO_IDS}
BASES |= dict.fromkeys(("Olmo2", "Phi3"), {name: size for name, size in SIZES.items() if name != "head_dim"} | NO_IDS)
EXPERTS = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16}

# transformers' model with shared layers needs embeddings for each layer.
SHARED = {"hidden_size_per_layer_input": 8, "num_hidden_layers": 3, "layer_types": [SLIDING, FULL, FULL]}

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
PARTIAL = {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}
PROPORTIONAL = {"rope_type": "proportional", "partial_rotary_factor": 0.45}
ROPES = [
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 3.0},
    {"rope_type": "dynamic", "factor": 3.0},
    LLAMA3 | {"original_max_position_embeddings": 16},
    LLAMA3,
    YARN,
    {"rope_type": "yarn", "factor": 4.0},
    YARN | {"attention_factor": 0.7},
    YARN | {"mscale": 0.5, "mscale_all_dim": 2.0},
    YARN | {"mscale": 0.5, "beta_fast": 2.0, "beta_slow": 0.3},
    YARN | {"factor": None},
    YARN | {"attn_factor": 0.8782488562869419},
    PROPORTIONAL,
    PROPORTIONAL | {"factor": 2.0},
]
REFUSED_ROPES = [
    YARN | {"truncate": False},
    {"rope_type": "default", "partial_rotary_factor": 0.5},
    {"rope_type": "default", "factor": 3.0},
    {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "factor": 2.0},
]
SEVERAL = {"layer_types", "sliding_window", "use_sliding_window", "max_window_layers"}  # fields that act together
WINDOWS = [
    {"layer_types": [SLIDING, FULL], "sliding_window": 4, "use_sliding_window": True},
    {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 0},
    {"use_sliding_window": True, "sliding_window": None, "max_window_layers": 0},
    {"use_sliding_window": True, "sliding_window": 4},
]
# name -> what is unusual of it; one dict: together with other fields. A field that is not here gets what its type and
# default suggest.
UNUSUAL = {
    "vocab_size": [70],
    "hidden_size": [48],
    "intermediate_size": [20],
    "num_hidden_layers": [1, 3],
    "num_attention_heads": [2],
    "num_key_value_heads": [1, 4],
    "head_dim": [12, 16],
    "max_position_embeddings": [9],
    "hidden_act": ["swish", "gelu"],
    "hidden_activation": ["gelu_new", "gelu_fast", "gelu", "silu"],
    "rms_norm_eps": [0.3],
    "pad_token_id": [3],
    "bos_token_id": [5],
    "eos_token_id": [5, [5, 6]],
    "pretraining_tp": [2],
    "transformers_version": ["4.40.0"],
    "architectures": [["Odd"]],
    "dtype": ["bfloat16"],
    "id2label": [{0: "a", 1: "b", 2: "c"}],
    "label2id": [{"a": 0}],
    "problem_type": ["regression"],
    "final_logit_softcapping": [None, 1.5],
    "use_bidirectional_attention": ["vision", "all"],
    "hidden_size_per_layer_input": [8],
    "num_kv_shared_layers": [SHARED | {"num_kv_shared_layers": 1}],
    "use_double_wide_mlp": [True, SHARED | {"num_kv_shared_layers": 1, "use_double_wide_mlp": True}],
    "enable_moe_block": [EXPERTS],
    "num_experts": [EXPERTS | {"num_experts": 3}],
    "top_k_experts": [EXPERTS | {"top_k_experts": 3}],
    "moe_intermediate_size": [EXPERTS | {"moe_intermediate_size": 24}],
    "vocab_size_per_layer_input": [70],
}
OF_FAMILY = {
    "Llama": {"num_key_value_heads": [1, None], "head_dim": [12, None]},
    "Qwen3": {name: WINDOWS for name in SEVERAL} | {"num_key_value_heads": [1, None]},
    "Ministral3": {"num_key_value_heads": [1, 4], "head_dim": [12], "sliding_window": [6]},
    "Mistral": {"num_key_value_heads": [1, 4], "head_dim": [12, None], "sliding_window": [None, 1, 7, 64]},
    "Olmo2": {"num_key_value_heads": [1, None], "tie_word_embeddings": [True]},
    "Phi3": {"num_key_value_heads": [1, None], "sliding_window": [1, 5, 64]},
    "SmolLM3": {
        "num_key_value_heads": [1, None],
        "no_rope_layers": [[0, 1], [1, 1], [0, 0], None],
        "no_rope_layer_interval": [1, 2],
        "layer_types": [[FULL, FULL]],
        "sliding_window": [7, {"sliding_window": 6, "use_sliding_window": True, "no_rope_layers": [0, 1]}],
        "num_hidden_layers": [5],
    },
    "Lfm2Moe": {
        "num_hidden_layers": [{"num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"]}],
        "layer_types": [["full_attention", "conv"]],
        "conv_L_cache": [2, 4],
        "num_dense_layers": [0, 2],
        "num_experts": [3],
        "num_experts_per_tok": [3],
        "tie_word_embeddings": [True],
        "norm_eps": [0.3],
        "moe_intermediate_size": [24],
    },
    "Gemma4": {"num_hidden_layers": [{"num_hidden_layers": 3, "layer_types": [SLIDING, SLIDING, FULL]}]},
}
OF_FAMILY["Gemma4"] |= {
    "layer_types": [[FULL, FULL], [SLIDING, SLIDING], {"layer_types": None, "num_hidden_layers": 7}]
}
OF_FAMILY["Gemma4"] |= {
    "sliding_window": [1, 2],
    "attention_k_eq_v": [True, {"attention_k_eq_v": True, "head_dim": 12}],
}
REFUSED = {
    *(("hidden_act", "gelu"), ("hidden_activation", "gelu"), ("hidden_activation", "silu")),
    *(("use_bidirectional_attention", "all"), ("sliding_window", 6)),
}


SWEPT = [
    pytest.param(name, marks=pytest.mark.sweep)
    for name in ("Ministral3", "Lfm2Moe", "Mistral", "SmolLM3", "Olmo2", "Phi3")
]


@pytest.fixture(autouse=True)
def one_thread():
    """Of torch, for which these are too small to share out; and without its warnings."""
    threads, level = torch.get_num_threads(), logging.root.manager.disable
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(level)
    torch.set_num_threads(threads)


def build(family: str, fields: dict):
    """A model of random weights."""
    text = "Text" if family.startswith("Gemma") else ""
    config = getattr(transformers, f"{family}{text}Config")(**(BASES[family] | fields))
    return randomized(getattr(transformers, f"{family}ForCausalLM")(config))


def randomized(model):
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            norm = "norm" in name or "scale" in name
            torch.nn.init.normal_(weight, float(norm), 0.1 if norm else 0.3)
    return model.eval()


def torch_logits(model) -> np.ndarray:
    model.config.return_dict = True  # or a half of transformers' own modules breaks
    with torch.no_grad():
        return model(torch.tensor([IDS]), use_cache=False).logits[0].float().numpy()


def reference(directory) -> np.ndarray:
    """What transformers computes from the directory as it is."""
    return torch_logits(transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval())


def worst(target: Target, logits: np.ndarray) -> float:
    """The largest difference of a target's logits [T, V]: in one pass, in two with a cache between, and by
    mlx-lm's own forward."""
    ids, cache = mx.array(IDS), target.new_cache()
    parts = [target.forward(part, cache)[0] for part in (ids[:9], ids[9:])]
    whole, _ = target.forward(ids, target.new_cache())
    found = [target.head(whole), target.head(mx.concatenate(parts)), target.model(ids[None])[0]]
    cache = make_prompt_cache(target.model)
    found.append(target.head(mx.concatenate([target.own_hidden(part, cache) for part in (ids[:9], ids[9:])])))
    return max(float(np.abs(np.array(f) - logits).max()) for f in found)


def wrong(directory, family: str, fields: dict, refused: bool) -> str:
    """What is wrong with a target of these fields; empty if it is equal, or refused as it should be."""
    model = build(family, fields)
    model.save_pretrained(directory)
    try:
        target = load_target(directory, "stored")
    except ModelError as e:
        message = str(e)
        plain = message.endswith(".") and "\n" not in message and "config.json" in message
        return "" if refused and plain else f"{fields}: {message}"
    difference = worst(target, torch_logits(model))
    return f"{fields}: it is not refused" if refused else "" if difference < TOLERANCE else f"{fields}: {difference}"


def unusual(family: str, field: dataclasses.Field, names: set[str]) -> list[dict]:
    """Settings of the field, one or more of each."""
    values = OF_FAMILY[family].get(field.name) or UNUSUAL.get(field.name)
    if values is None:
        default = field.default
        assert type(default) in (bool, int, float), f"{family}: say what is unusual of {field.name}"
        values = [not default if isinstance(default, bool) else default + (1 if isinstance(default, int) else 0.5)]
    return [v if isinstance(v, dict) and v.keys() <= names else {field.name: v} for v in values]


def is_refused(fields: dict) -> bool:
    return any((name, value) in REFUSED for name, value in fields.items() if isinstance(value, (str, int)))


@pytest.mark.parametrize("family", ["Llama", "Qwen3", "Gemma4", *SWEPT])
def test_every_field_of_transformers_class(family, tmp_path):
    text = "Text" if family.startswith("Gemma") else ""
    fields = {f.name: f for f in dataclasses.fields(getattr(transformers, f"{family}{text}Config"))}
    del fields["rope_parameters"]  # below
    common = {f.name for f in dataclasses.fields(transformers.PreTrainedConfig)}  # of every class: all at once
    at_once = {name: value for n in common for name, value in unusual(family, fields[n], set(fields))[0].items()}
    own = [case for name in fields.keys() - common for case in unusual(family, fields[name], set(fields))]
    cases = [{}, at_once, *own]
    assert not [w for i, case in enumerate(cases) if (w := wrong(tmp_path / str(i), family, case, is_refused(case)))]


@pytest.mark.parametrize("family", ["Llama", "Qwen3", "Gemma4", SWEPT[0], *SWEPT[2:5]])
def test_every_rope_of_transformers(family, tmp_path):
    for i, given in enumerate(ROPES + REFUSED_ROPES):
        refused = given in REFUSED_ROPES
        rope: dict = {"rope_theta": 500.0} | given
        if family == "Gemma4":
            if None in given.values() or {"truncate", "long_factor"} & given.keys():  # transformers' Gemma breaks there
                continue
            refused = refused or given["rope_type"] == "dynamic"
            rope.setdefault("original_max_position_embeddings", 32)
            rope = {FULL: rope, SLIDING: {"rope_theta": 50.0, "rope_type": "linear", "factor": 2.0}}
        if family == "Ministral3":
            if None in given.values():
                continue
            rope = {"original_max_position_embeddings": 4, "llama_4_scaling_beta": 0.3} | rope
        assert not wrong(tmp_path / str(i), family, {"rope_parameters": rope}, refused)


# family, of the model; what is then changed in config.json, as others spell it; None: removed
SPELLED = [
    ("Llama", {}, {"tie_word_embeddings": None}),
    ("Llama", {"num_key_value_heads": 4}, {"num_key_value_heads": None, "head_dim": None, "hidden_act": None}),
    ("Llama", {"rms_norm_eps": 1e-6}, {"rms_norm_eps": None, "max_position_embeddings": None, "mlp_bias": None}),
    ("Llama", {}, {"rope_parameters": None}),
    ("Llama", {}, {"rope_parameters": None, "rope_theta": 500.0, "dtype": None, "torch_dtype": "float32"}),
    ("Llama", {}, {"rope_parameters": None, "rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.0}}),
    ("Qwen3", {}, {"rope_parameters": None, "rope_theta": 500.0, "rope_scaling": YARN}),
    ("Qwen3", {}, {"rope_theta": 500.0, "rope_scaling": YARN, "rope_parameters": {"rope_theta": 500.0}}),
    ("Qwen3", {}, {"rope_scaling": YARN, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}),
    ("Llama", {}, {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}, "original_max_position_embeddings": 16}),
    ("Llama", {}, {"rope_scaling": {}, "rope_theta": 500, "rope_parameters": {"type": "linear", "factor": 2}}),
    ("Qwen3", {}, {"layer_types": None, "use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}),
    ("Qwen3", {}, {"layer_types": ["attention", "full_attention"], "sliding_window": 4}),
    ("Qwen3", {}, {"layer_types": None, "use_sliding_window": None, "max_window_layers": None}),
    ("Qwen3", {}, {"text_config": {"hidden_size": 32, "eos_token_id": 5}}),
    ("Gemma4", {}, {"num_kv_shared_layers": None, "use_double_wide_mlp": None, "attention_k_eq_v": None}),
    ("Gemma4", {}, {"per_layer_config": None, "global_head_dim": 16, "num_global_key_value_heads": 1}),
    ("Gemma4", {"attention_k_eq_v": True}, {"per_layer_config": {"01": {"head_dim": 16, "num_key_value_heads": 1}}}),
    ("Gemma4", {"rope_parameters": None}, {"rope_parameters": None}),
    ("Phi3", {"rope_parameters": PARTIAL, "pad_token_id": 0}, {"bos_token_id": 1}),
    ("Gemma4", {"final_logit_softcapping": None}, {"final_logit_softcapping": None}),
    ("Gemma4Unified", {}, {"model_type": "gemma4_unified_text", "use_bidirectional_attention": None}),
]


@pytest.mark.parametrize("case", range(len(SPELLED)))
def test_other_spellings_mean_what_they_mean_to_transformers(case, tmp_path):
    family, fields, changes = SPELLED[case]
    build(family, fields).save_pretrained(tmp_path)
    expected = reference(tmp_path) if "text_config" in changes else None  # over which transformers stumbles
    edit_config(tmp_path, **changes)
    expected = reference(tmp_path) if expected is None else expected
    assert worst(load_target(tmp_path, "stored"), expected) < TOLERANCE


REFUSED_SPELLINGS = [
    ("Ministral3", {"rope_parameters": MINISTRAL | {"llama_4_scaling_beta": None}}, "llama_4_scaling_beta of its"),
    ("Ministral3", {"rope_parameters": MINISTRAL | {"original_max_position_embeddings": "4"}}, "original_max_position"),
    ("Phi3", {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}}, "longrope"),
    ("Phi3", {"num_key_value_heads": 4}, "num_key_value_heads must be"),
    ("Phi3", {"intermediate_size": 40}, "intermediate_size must be"),
    ("Ministral3", {"sliding_window": 6}, "sliding_window 6"),
    ("Ministral3", {"layer_types": [SLIDING, FULL]}, "layer_types"),
    ("Ministral3", {"attention_bias": True}, "attention_bias True"),
    ("Lfm2Moe", {"num_experts": 5}, "num_experts"),
    ("Lfm2Moe", {"num_experts_per_tok": 9}, "num_experts_per_tok"),
    ("Lfm2Moe", {"moe_intermediate_size": 24}, "config.json"),
    ("Lfm2Moe", {"tie_word_embeddings": False}, "tie_word_embeddings"),
    ("Llama", {"rope_scaling": YARN, "rope_parameters": {"rope_theta": 500.0}}, "contradict each other"),
    ("Llama", {"rope_theta": 500.0}, "rope_theta contradict"),
    ("Llama", {"rope_scaling": YARN, "rope_parameters": LLAMA3}, "contradict each other"),
    ("Llama", {"rope_parameters": {"rope_type": "linear"}}, "factor of its rope is None"),
    ("Llama", {"rope_parameters": {"rope_type": "ntk", "factor": 2.0}}, "rope_type 'ntk'"),
    ("Llama", {"rope_parameters": {"rope_type": "linear", "type": "dynamic", "factor": 2.0}}, "type and rope_type"),
    ("Llama", {"rope_parameters": {"full_attention": {"rope_theta": 500.0}}}, "full_attention {"),
    ("Llama", {"rope_parameters": [1]}, "rope_parameters is [1]"),
    ("Llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
    ("Llama", {"layer_types": [SLIDING, FULL], "sliding_window": 4}, "layer_types"),
    ("Llama", {"sliding_window": 4}, "sliding_window 4"),
    ("Llama", {"is_causal": False}, "is_causal False"),
    ("Gemma4", {"is_causal": None}, "is_causal None"),
    ("Llama", {"logits_scaling": 8.0}, "logits_scaling 8.0"),
    ("Llama", {"rotary_emb_base": 500}, "rotary_emb_base 500"),
    ("Llama", {"hidden_activation": "gelu"}, "hidden_activation 'gelu'"),
    ("Llama", {"per_layer_config": {"0": {"intermediate_size": 24}}}, "per_layer_config"),
    ("Llama", {"text_config": {"hidden_size": 64}}, "text_config"),
    ("Llama", {"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no'"),
    ("Qwen3", {"layer_types": [SLIDING, FULL], "sliding_window": 4}, "layer_types has sliding_attention"),
    ("Qwen3", {"layer_types": [SLIDING, FULL], "use_sliding_window": True}, "window"),
    ("Qwen3", {"layer_types": [FULL, "chunked_attention"]}, "layer_types is"),
    ("Qwen3", {"layer_types": [FULL]}, "layer_types is"),
    ("Gemma4", {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}, "of rope_parameters is None"),
    ("Gemma4", {"rope_parameters": {FULL: {"rope_theta": 500.0}, SLIDING: None}}, "sliding_attention of rope"),
    ("Gemma4", {"rope_scaling": {"type": "linear", "factor": 8.0}}, "rope_scaling"),
    ("Gemma4", {"rope_theta": 500.0}, "rope_theta 500.0"),
    ("Gemma4", {"per_layer_config": {"1": {"head_dim": 16, "sliding_window": 2}}}, "'sliding_window': 2"),
    ("Gemma4", {"per_layer_config": {"7": {"head_dim": 16}}}, "per_layer_config"),
    ("Gemma4", {"per_layer_config": {"1": {"head_dim": 16, "num_key_value_heads": 1}}}, "attention_k_eq_v"),
    ("Gemma4", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping 50.0"),
    ("Gemma4", {"query_pre_attn_scalar": 256}, "query_pre_attn_scalar 256"),
    ("Gemma4", {"final_logit_softcapping": 0.0}, "final_logit_softcapping"),
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A directory of each family."""
    root = tmp_path_factory.mktemp("saved")
    for family in BASES:
        build(family, {}).save_pretrained(root / family)
    return root


def test_what_contradicts_itself_or_is_not_known_is_refused_by_name(saved, tmp_path):
    for family, changes, words in REFUSED_SPELLINGS:
        config, tensors = read_config(saved / family), read_headers(saved / family)
        message = refusal(lambda c=config | changes, t=tensors: read_target(tmp_path, c, t))
        assert words in message and "config.json" in message, message


@pytest.mark.parametrize("family", ["Gemma4", "Gemma4Unified"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_text_model_in_a_wrapper(family, tied, tmp_path):
    """The vocabulary stands under text_config only; the wrapper ties; its text model's other fields are honoured."""
    whole = getattr(transformers, f"{family}Config")
    more = {"rope_parameters": {FULL: {"rope_theta": 500.0, "rope_type": "default"}, SLIDING: {"rope_theta": 50.0}}}
    config = whole(text_config=GEMMA | more | {"attention_bias": True}, tie_word_embeddings=tied)
    randomized(getattr(transformers, f"{family}ForConditionalGeneration")(config)).save_pretrained(tmp_path)
    assert "vocab_size" not in read_config(tmp_path)
    target = load_target(tmp_path, "stored")
    assert (target.vocab_size, hasattr(target.model.language_model, "lm_head")) == (64, not tied)
    model = getattr(transformers, f"{family}ForConditionalGeneration").from_pretrained(tmp_path, dtype=torch.float32)
    assert worst(target, torch_logits(model.eval())) < TOLERANCE


@pytest.mark.parametrize("family", ["Llama", "Qwen3", "Gemma4"])
def test_a_head_beside_an_embedding_that_the_config_ties(family, tmp_path):
    """transformers ties the two only where they are equal."""
    build(family, {"tie_word_embeddings": False}).save_pretrained(tmp_path)
    edit_config(tmp_path, tie_word_embeddings=True)
    target = load_target(tmp_path, "stored")
    assert "lm_head" in target.model and worst(target, reference(tmp_path)) < TOLERANCE
    edit_weights(tmp_path, lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"]}))
    target = load_target(tmp_path, "stored")
    assert "lm_head" not in target.model and worst(target, reference(tmp_path)) < TOLERANCE
    edit_weights(tmp_path, lambda w: w.update({"lm_head.scales": mx.zeros((64, 1))}))  # of a quantized one: mlx-lm's
    edit_weights(tmp_path, lambda w: w.update({"lm_head.weight": mx.zeros((64, 4), mx.uint32)}))
    assert "lm_head" not in load_target(tmp_path, "stored").model
    edit_weights(tmp_path, lambda w: w.pop("lm_head.scales"))
    edit_weights(tmp_path, lambda w: w.pop("lm_head.weight"))
    edit_config(tmp_path, tie_word_embeddings=False)
    assert "tie_word_embeddings must be true" in refusal(lambda: load_target(tmp_path))


CONTEXTS = [
    ({"rope_parameters": YARN | {"rope_theta": 1e4}}, 64),
    ({"rope_parameters": YARN | {"rope_theta": 1e4, "factor": 8.0}}, 128),
    ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}, 256),
    ({"rope_scaling": {"type": "yarn", "factor": 8.0}, "original_max_position_embeddings": 32}, 256),
    ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}, 128),
    ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, 64),
    ({"rope_parameters": LLAMA3 | {"rope_theta": 1e4, "original_max_position_embeddings": 16}}, 64),
    ({"max_position_embeddings": 40}, 40),
]


@pytest.mark.parametrize("family", ["Llama", "Qwen3"])
def test_the_context_that_a_rope_stretches_to(saved, family):
    config, tensors = read_config(saved / family), read_headers(saved / family)
    for changes, context in CONTEXTS:
        assert read_target(saved / family, config | changes, tensors).context_length == context, changes
    gemma = {"rope_parameters": {FULL: YARN | {"rope_theta": 1e4, "factor": 8.0}, SLIDING: {"rope_theta": 1e4}}}
    config, tensors = read_config(saved / "Gemma4"), read_headers(saved / "Gemma4")
    assert read_target(saved / "Gemma4", config | gemma, tensors).context_length == 128


@pytest.mark.parametrize("family", BASES)
def test_mlx_lm_is_given_all_that_its_arguments_hold(saved, family):
    """So that none of its own defaults, and no field of the file, reaches a model unread."""
    read = read_target(saved / family, read_config(saved / family), read_headers(saved / family))
    module = importlib.import_module(f"mlx_lm.models.{read.text['model_type']}")
    left_out = set(inspect.signature(module.ModelArgs).parameters) - set(read.for_mlx(True))
    # These say nothing where layer_types is given, or nothing is computed by them.
    assert left_out <= {"sliding_window_pattern", "pad_token_id", "partial_rotary_factor"} | {
        *("global_partial_rotary_factor", "vocab_size_per_layer_input"),
        *("num_experts", "top_k_experts", "moe_intermediate_size"),
    }
