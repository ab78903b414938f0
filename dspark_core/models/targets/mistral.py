"""Mistral; all of its layers have one window, or none (from 0.2 on). mlx-lm takes its Llama for it."""

from collections.abc import Iterator
from typing import Any

from ..backbone_config import MAX_HEAD_DIM, MAX_HEADS, MAX_WINDOW, SLIDING
from ..target_config import MAX_TARGET_LAYERS, SILU, LayerShape, TargetConfig, TargetFields
from ..target_rope import RopeFields
from . import qwen3

TITLE = "Mistral"
TYPES = ()
WRAPPERS = ()
MLX = "llama"
WINDOW = "sliding_window"


def defaults(model_type: str) -> dict[str, Any]:
    sizes = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
    more = {"vocab_size": 32000, "max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "hidden_act": "silu"}
    return sizes | more | {"tie_word_embeddings": False, WINDOW: 4096}


def read(fields: TargetFields) -> tuple[list[LayerShape], int]:
    """A window that the file has not is 4096, and one that it says is null is none."""
    raw, heads = fields.raw, fields.mlx["num_attention_heads"]
    n = fields.size("num_hidden_layers", MAX_TARGET_LAYERS)
    head_dim = fields.size("head_dim", MAX_HEAD_DIM, fields.mlx["hidden_size"] // heads)
    kv_heads = fields.size("num_key_value_heads", MAX_HEADS, heads if "num_key_value_heads" in raw else 8)
    window = None if raw.get(WINDOW, 0) is None else fields.whole(WINDOW, 1, MAX_WINDOW)
    rope = RopeFields.flat(fields, head_dim, fields.mlx["max_position_embeddings"]).read()
    fields.one_of("hidden_act", SILU)
    fields.know_spellings(head_dim, rope.theta, SILU)
    fields.neutral |= {"query_pre_attn_scalar": (head_dim,), "use_qk_norm": (False,), "qk_norm": (False,)}
    fields.neutral |= {"attention_bias": (False,), "use_sliding_window": (window is not None,)}
    fields.neutral |= {"layer_types": ([SLIDING if window else "full_attention"] * n,)}
    fields.mlx |= {"rope_theta": rope.theta, "rope_scaling": rope.scaling}
    fields.mlx |= dict.fromkeys(("rope_parameters", "layer_types", WINDOW))
    fields.mlx |= dict.fromkeys(("attention_bias", "mlp_bias", "rope_traditional"), False)
    return [LayerShape(head_dim, kv_heads, window)] * n, rope.context


def walk(body: Any, ids: Any, cache: list[Any]) -> Iterator[Any]:
    return qwen3.walk(body, ids, cache)


def complete(model_class: Any, config: TargetConfig) -> Any:
    """mlx-lm's Llama has no model whose layers all slide."""
    return qwen3.complete(model_class, config)
