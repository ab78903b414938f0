"""Llama, and what is built like it (SmolLM2, Mistral without a window)."""

from collections.abc import Iterator
from typing import Any

from ..backbone_config import MAX_HEAD_DIM, MAX_HEADS
from ..target_config import MAX_TARGET_LAYERS, SILU, LayerShape, TargetFields
from ..target_rope import RopeFields

TITLE = "Llama"
TYPES = ()
WRAPPERS = ()


def defaults(model_type: str) -> dict[str, Any]:
    sizes = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
    more = {"vocab_size": 32000, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "hidden_act": "silu"}
    switches = dict.fromkeys(("attention_bias", "mlp_bias", "tie_word_embeddings", "rope_traditional"), False)
    return sizes | more | switches


def read(fields: TargetFields) -> tuple[list[LayerShape], int]:
    """mlx-lm's Llama may have windows, transformers' has none: a file that asks for them means another model."""
    heads = fields.mlx["num_attention_heads"]
    head_dim = fields.size("head_dim", MAX_HEAD_DIM, fields.mlx["hidden_size"] // heads)
    kv_heads = fields.size("num_key_value_heads", MAX_HEADS, heads)
    rope = RopeFields.flat(fields, head_dim, fields.mlx["max_position_embeddings"]).read()
    types = ["full_attention"] * fields.size("num_hidden_layers", MAX_TARGET_LAYERS)
    fields.one_of("hidden_act", SILU)
    fields.know_spellings(head_dim, rope.theta, SILU)
    fields.neutral |= {"query_pre_attn_scalar": (head_dim,), "use_qk_norm": (False,), "qk_norm": (False,)}
    fields.neutral |= {"layer_types": (types,), "use_sliding_window": (False,)}
    if fields.get("use_sliding_window") is None:
        fields.neutral["sliding_window"] = ()
    fields.mlx |= {"rope_theta": rope.theta, "rope_scaling": rope.scaling, "rope_parameters": None}
    fields.mlx |= {"layer_types": None, "sliding_window": None, "rope_traditional": fields.flag("rope_traditional")}
    fields.mlx |= {name: fields.flag(name) for name in ("attention_bias", "mlp_bias")}
    return [LayerShape(head_dim, kv_heads) for _ in types], rope.context


def walk(body: Any, ids: Any, cache: list[Any]) -> Iterator[Any]:
    from mlx_lm.models.base import create_attention_mask

    h = body.embed_tokens(ids)
    yield h
    mask = create_attention_mask(h, cache[0])
    for layer, c in zip(body.layers, cache, strict=True):
        h = layer(h, mask, cache=c)
        yield h
