"""Ministral 3, as a text model or in its multimodal wrapper. Queries are scaled up as the text grows longer than the
rope's original positions (Llama-4's attention scaling)."""

from collections.abc import Iterator
from typing import Any

from ...errors import ModelError
from ..backbone_config import MAX_HEAD_DIM, MAX_HEADS
from ..fields import is_number, shown
from ..target_config import MAX_TARGET_LAYERS, SILU, LayerShape, TargetFields
from ..target_rope import MAX_CONTEXT, RopeFields

TITLE = "Ministral 3"
MLX = TEXT = "ministral3"
TYPES = (TEXT,)
WRAPPERS = ("mistral3",)
BETA, ORIGINAL = "llama_4_scaling_beta", "original_max_position_embeddings"


def defaults(model_type: str) -> dict[str, Any]:
    sizes = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 34, "num_attention_heads": 32}
    heads = {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 131072, "max_position_embeddings": 262144}
    rope = {"type": "yarn", "rope_theta": 1e6, "factor": 16.0, ORIGINAL: 16384, "beta_fast": 32.0, "beta_slow": 1.0}
    rope |= {"mscale_all_dim": 1.0, "mscale": 1.0, BETA: 0.1}
    more = {"rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": model_type in WRAPPERS}
    return sizes | heads | more | {"rope_parameters": rope}


def read(fields: TargetFields) -> tuple[list[LayerShape], int]:
    kind = fields.raw.get("model_type")
    if kind != TEXT:  # without a type it is a Mistral to transformers
        raise ModelError(f"{fields.where}: a text model of type {shown(kind)} in this wrapper is not supported.")
    n = fields.size("num_hidden_layers", MAX_TARGET_LAYERS)
    head_dim, kv_heads = fields.size("head_dim", MAX_HEAD_DIM), fields.size("num_key_value_heads", MAX_HEADS)
    fields.one_of("hidden_act", SILU)
    rope = RopeFields.flat(fields, head_dim, fields.mlx["max_position_embeddings"])
    beta, original = rope.given.pop(BETA, None), rope.given.get(ORIGINAL)
    rope.given.pop("max_position_embeddings", None)  # of which nothing is computed
    for name, value, low, high in ((BETA, beta, 0, 100), (ORIGINAL, original, 1, MAX_CONTEXT)):
        if not is_number(value) or not low <= value <= high:
            raise fields.error(f"{name} of its rope", value, f"a number from {low} to {high:g}")
    read = rope.read()
    fields.know_spellings(head_dim, read.theta, SILU)
    fields.neutral |= {"attention_bias": (False,), "layer_types": (["full_attention"] * n,), "sliding_window": ()}
    fields.neutral |= {"query_pre_attn_scalar": (head_dim,), "use_qk_norm": (False,), "qk_norm": (False,)}
    scaling = {"rope_theta": read.theta, BETA: beta, ORIGINAL: original}
    fields.mlx |= {"rope_parameters": read.scaling | scaling}
    fields.mlx |= {"layer_types": None, "sliding_window": None}
    return [LayerShape(head_dim, kv_heads) for _ in range(n)], read.context


def walk(body: Any, ids: Any, cache: list[Any]) -> Iterator[Any]:
    import mlx.core as mx
    from mlx_lm.models.base import create_attention_mask

    h = body.embed_tokens(ids)
    yield h
    mask, rope = create_attention_mask(h, cache[0]), body.args.rope_parameters
    steps = mx.floor((mx.arange(ids.shape[1]) + cache[0].offset) / rope[ORIGINAL])
    scale = (1 + rope[BETA] * mx.log(1 + steps))[:, None].astype(h.dtype)
    for layer, c in zip(body.layers, cache, strict=True):
        h = layer(h, scale, mask, cache=c)
        yield h
