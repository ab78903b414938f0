"""Tiny random models of every family, as transformers itself saves them."""

from pathlib import Path
from typing import Any

import pytest

SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "max_position_embeddings": 4096}
DENSE = {"intermediate_size": 48}
LINEAR = {"head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4}
LINEAR |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
GEMMA = {"head_dim": 8, "global_head_dim": 16, "num_global_key_value_heads": 1, "final_logit_softcapping": 10.0}
GEMMA |= {"sliding_window": 9, "hidden_size_per_layer_input": 0}
GEMMA |= {"layer_types": ["sliding_attention", "full_attention"] * 2}
SMALL = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 64, "num_kv_shared_layers": 2}
SMALL |= {"use_double_wide_mlp": True}
GEMMA_EXPERTS = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16}
GEMMA_EXPERTS |= {"attention_k_eq_v": True}
MINISTRAL = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 16}
MINISTRAL |= {"mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1, "max_position_embeddings": 256}
MINISTRAL = {"head_dim": 8, "rope_parameters": MINISTRAL}
PIXTRAL = {"model_type": "pixtral", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
PIXTRAL |= {"num_attention_heads": 2, "head_dim": 8}
NO_IDS = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))  # the usual ones are beyond the vocabulary
# name -> (transformers' model class, its config's fields, those of a text model inside it)
FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "qwen3_5": ("Qwen3_5ForCausalLM", SIZES | DENSE | LINEAR, {}),
    "qwen3_5 wrapped": (
        "Qwen3_5ForConditionalGeneration",
        {"vision_config": {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2}},
        SIZES | DENSE | LINEAR,
    ),
    "qwen3_5_moe": ("Qwen3_5MoeForCausalLM", SIZES | LINEAR | EXPERTS | {"shared_expert_intermediate_size": 24}, {}),
    "qwen3_moe": ("Qwen3MoeForCausalLM", SIZES | DENSE | EXPERTS | {"head_dim": 8, "norm_topk_prob": True}, {}),
    "qwen2": ("Qwen2ForCausalLM", SIZES | DENSE, {}),
    "mistral": ("MistralForCausalLM", SIZES | DENSE | {"sliding_window": 9}, {}),
    "olmo2": ("Olmo2ForCausalLM", SIZES | DENSE | NO_IDS, {}),
    "phi3": ("Phi3ForCausalLM", SIZES | DENSE | NO_IDS | {"sliding_window": 9}, {}),
    "smollm3": ("SmolLM3ForCausalLM", SIZES | DENSE | NO_IDS, {}),
    "gemma4 E2B": ("Gemma4ForCausalLM", SIZES | DENSE | GEMMA | SMALL, {}),
    "gemma4 26B": ("Gemma4ForCausalLM", SIZES | DENSE | GEMMA | GEMMA_EXPERTS, {}),
    "lfm2_moe": (
        "Lfm2MoeForCausalLM",
        SIZES | DENSE | EXPERTS | {"layer_types": ["conv", "conv", "full_attention", "conv"], "num_dense_layers": 1},
        {},
    ),
    "ministral3": ("Ministral3ForCausalLM", SIZES | DENSE | MINISTRAL, {}),
    "ministral3 wrapped": (
        "Mistral3ForConditionalGeneration",
        {"vision_config": PIXTRAL, "tie_word_embeddings": False},
        SIZES | DENSE | MINISTRAL | {"model_type": "ministral3"},
    ),
    "lfm2": ("Lfm2ForCausalLM", SIZES | DENSE | {"layer_types": ["conv", "conv", "full_attention", "conv"]}, {}),
}


QUICK = ("qwen3_5", "lfm2", "gemma4 E2B")  # of every kind of cache one; the others are swept
SWEPT = [name if name in QUICK else pytest.param(name, marks=pytest.mark.sweep) for name in FAMILIES]


def build(name: str, **changes: Any) -> Any:
    """A transformers model of random weights; `changes` are of its text model's fields."""
    import torch
    import transformers

    class_name, fields, text = FAMILIES[name]
    model_class = getattr(transformers, class_name)
    fields = fields | ({"text_config": text | changes} if text else changes)
    model = model_class(model_class.config_class(**fields))
    torch.manual_seed(0)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            norm = "norm" in key or "scal" in key  # of which some are offsets from 1
            torch.nn.init.normal_(weight, float(weight.mean()) if norm else 0.0, 0.1 if norm else 0.3)
    return model.eval()


def saved(name: str, directory: Path, **changes: Any) -> Path:
    """A directory that transformers wrote."""
    build(name, **changes).save_pretrained(directory)
    return directory
