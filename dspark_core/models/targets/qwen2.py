"""Qwen2 and Qwen2.5, dense."""

from collections.abc import Iterator
from typing import Any

from ...errors import ModelError
from ..backbone_config import MAX_HEAD_DIM, MAX_HEADS
from ..fields import same, shown
from ..target_config import MAX_TARGET_LAYERS, SILU, LayerShape, TargetFields
from ..target_rope import RopeFields
from . import llama

TITLE = "Qwen2"
TYPES = ()
WRAPPERS = ()


def defaults(model_type: str) -> dict[str, Any]:
    sizes = {"hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32, "num_attention_heads": 32}
    more = {"vocab_size": 151936, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "hidden_act": "silu"}
    return sizes | more | dict.fromkeys(("tie_word_embeddings", "use_sliding_window", "rope_traditional"), False)


def read(fields: TargetFields) -> tuple[list[LayerShape], int]:
    """Its queries, keys and values always have biases, whatever attention_bias says."""
    heads, width = fields.mlx["num_attention_heads"], fields.mlx["hidden_size"]
    head_dim = fields.whole("head_dim", 1, MAX_HEAD_DIM, width // heads)
    if head_dim * heads != width:
        raise fields.error("hidden_size", width, f"num_attention_heads {heads} times head_dim {head_dim}")
    given = "num_key_value_heads" in fields.raw
    kv_heads = fields.size("num_key_value_heads", MAX_HEADS, heads if given else 32)
    types = ["full_attention"] * fields.size("num_hidden_layers", MAX_TARGET_LAYERS)
    if fields.flag("use_sliding_window") or not same(fields.layer_types(types), types):
        layers = shown(fields.get("layer_types"))
        raise ModelError(f"{fields.where}: use_sliding_window and layer_types {layers} are not supported for Qwen2.")
    rope = RopeFields.flat(fields, head_dim, fields.mlx["max_position_embeddings"]).read()
    fields.one_of("hidden_act", SILU)
    fields.know_spellings(head_dim, rope.theta, SILU)
    fields.neutral |= {"query_pre_attn_scalar": (head_dim,), "use_qk_norm": (False,), "qk_norm": (False,)}
    fields.mlx |= {"rope_theta": rope.theta, "rope_scaling": rope.scaling, "rope_traditional": False}
    return [LayerShape(head_dim, kv_heads) for _ in types], rope.context


def walk(body: Any, ids: Any, cache: list[Any]) -> Iterator[Any]:
    return llama.walk(body, ids, cache)
