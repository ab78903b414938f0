"""Phi-3 and Phi-4 (14B), whose queries, keys and values come of one product; all layers have one window, or none."""

from collections.abc import Iterator
from typing import Any

from ...errors import ModelError
from ..backbone_config import MAX_HEAD_DIM, MAX_HEADS, MAX_WINDOW
from ..target_config import MAX_TARGET_LAYERS, SILU, LayerShape, TargetConfig, TargetFields
from ..target_rope import RopeFields
from . import qwen3

TITLE = "Phi-3"
TYPES = ()
WRAPPERS = ()


def defaults(model_type: str) -> dict[str, Any]:
    sizes = {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32, "num_attention_heads": 32}
    more = {"vocab_size": 32064, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "hidden_act": "silu"}
    return sizes | more | {"tie_word_embeddings": False, "sliding_window": None}


def read(fields: TargetFields) -> tuple[list[LayerShape], int]:
    heads, width, inner = (fields.mlx[n] for n in ("num_attention_heads", "hidden_size", "intermediate_size"))
    n = fields.size("num_hidden_layers", MAX_TARGET_LAYERS)
    head_dim = fields.whole("head_dim", 1, MAX_HEAD_DIM, width // heads)
    if head_dim * heads != width:
        raise fields.error("hidden_size", width, f"num_attention_heads {heads} times head_dim {head_dim}")
    kv_heads = fields.size("num_key_value_heads", MAX_HEADS, heads)
    window = fields.get("sliding_window") and fields.whole("sliding_window", 1, MAX_WINDOW)
    rope, part = RopeFields.flat(fields, head_dim, fields.mlx["max_position_embeddings"]).partial(1.0)
    turned = rope.read()
    if turned.scaling != {"rope_type": "default"}:
        raise ModelError(f"{fields.where}: a rope of type {turned.scaling['rope_type']} is not supported for Phi-3.")
    fields.one_of("hidden_act", SILU)
    fields.know_spellings(head_dim, turned.theta, SILU)
    fields.neutral |= {"rotary_dim": (rope.head_dim,), "query_pre_attn_scalar": (head_dim,), "attention_bias": (False,)}
    fields.neutral |= dict.fromkeys(("use_qk_norm", "qk_norm", "lm_head_bias"), (False,))
    fields.neutral |= {"use_sliding_window": (window is not None,), "layer_types": (["full_attention"] * n,)}
    fields.tensors = {"q_norm": "none", "mlp.gate_proj.weight": "none"}
    three, two = (heads + 2 * kv_heads) * head_dim, 2 * inner  # rows of q, k and v, and of gate and up
    for i in range(n):
        fields.rows += [
            ("num_key_value_heads", kv_heads, three, f"layers.{i}.self_attn.qkv_proj.weight"),
            ("intermediate_size", inner, two, f"layers.{i}.mlp.gate_up_proj.weight"),
        ]
    fields.mlx |= {"rope_theta": turned.theta, "rope_scaling": None, "partial_rotary_factor": part}
    fields.mlx |= {"rope_traditional": False, "original_max_position_embeddings": fields.mlx["max_position_embeddings"]}
    return [LayerShape(head_dim, kv_heads, window)] * n, turned.context


def walk(body: Any, ids: Any, cache: list[Any]) -> Iterator[Any]:
    return qwen3.walk(body, ids, cache)


def complete(model_class: Any, config: TargetConfig) -> Any:
    """mlx-lm's has no windows."""
    return qwen3.complete(model_class, config)
