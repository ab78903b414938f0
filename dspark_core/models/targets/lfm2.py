"""LFM2 and LFM2.5, dense: short convolutions, and full attention in some layers."""

from collections.abc import Iterator
from typing import Any

from ...errors import ModelError
from ..backbone_config import MAX_HEAD_DIM, MAX_HEADS, MAX_WIDTH, MAX_WINDOW
from ..fields import is_whole, same, shown
from ..target_config import MAX_TARGET_LAYERS, LayerShape, TargetFields
from ..target_rope import RopeFields

TITLE = "LFM2"
TYPES = ()
WRAPPERS = ()
FULL, CONVOLUTION = "full_attention", "conv"


def defaults(model_type: str) -> dict[str, Any]:
    sizes = {"hidden_size": 2560, "intermediate_size": 12288, "num_hidden_layers": 32, "num_attention_heads": 32}
    heads = {"num_key_value_heads": 8, "vocab_size": 65536, "max_position_embeddings": 128_000, "norm_eps": 1e-5}
    blocks = {"block_multiple_of": 256, "block_ffn_dim_multiplier": 1.0, "block_auto_adjust_ff_dim": True}
    return sizes | heads | blocks | {"conv_bias": False, "conv_L_cache": 3, "tie_word_embeddings": True}


def read(fields: TargetFields) -> tuple[list[LayerShape], int]:
    inner = _inner(fields)
    names = [f"layers.{i}.feed_forward.w1.weight" for i in range(fields.mlx["num_hidden_layers"])]
    fields.rows += [("intermediate_size", fields.mlx["intermediate_size"], inner, name) for name in names]
    return read_layers(fields)


def read_layers(fields: TargetFields) -> tuple[list[LayerShape], int]:
    """All but the feed-forward layers."""
    n, heads = fields.size("num_hidden_layers", MAX_TARGET_LAYERS), fields.mlx["num_attention_heads"]
    width = fields.mlx["hidden_size"]
    head_dim = fields.whole("head_dim", 1, MAX_HEAD_DIM, width // heads)
    if head_dim * heads != width:
        raise fields.error("hidden_size", width, f"num_attention_heads {heads} times head_dim {head_dim}")
    kv_heads = fields.size("num_key_value_heads", MAX_HEADS)
    types = _types(fields, n)
    rope = RopeFields.flat(fields, head_dim, fields.mlx["max_position_embeddings"], theta=1e6).read()
    if rope.scaling != {"rope_type": "default"}:
        raise ModelError(f"{fields.where}: a rope of type {rope.scaling['rope_type']} is not supported for LFM2.")
    if not all(fields.flag(name, True) for name in ("tie_word_embeddings", "tie_embedding")):
        raise ModelError(
            f"{fields.where}: an LFM2 with a head of its own (tie_word_embeddings false) is not supported."
        )
    if fields.size("conv_L_cache", MAX_WINDOW) < 2:
        raise fields.error("conv_L_cache", 1, "2 or more")
    fields.know_spellings(head_dim, rope.theta, ())
    fields.neutral |= {"hidden_act": ("silu", "swish"), "conv_dim": (width,), "conv_dim_out": (width,)}
    fields.neutral |= {"use_sliding_window": (False,), "conv_use_xavier_init": (True, False)}
    fields.tensors = {"norm.weight": "embedding_norm.weight", "input_layernorm.weight": "operator_norm.weight"}
    fields.tensors |= {"q_norm": "q_layernorm", "mlp.gate_proj.weight": "none"}
    full = [i for i, t in enumerate(types) if t == FULL]
    fields.mlx |= {"rope_theta": rope.theta, "rope_parameters": None, "layer_types": types, "full_attn_idxs": full}
    fields.mlx |= {"conv_bias": fields.flag("conv_bias")}
    convolution = LayerShape(0, 0, row=width)
    return [LayerShape(head_dim, kv_heads) if t == FULL else convolution for t in types], rope.context


def _types(fields: TargetFields, n: int) -> list[str]:
    """layer_types, or what the older full_attn_idxs says: without either all layers have attention."""
    places = fields.get("full_attn_idxs")
    if places is not None and not (isinstance(places, list) and all(is_whole(i) and 0 <= i < n for i in places)):
        raise fields.error("full_attn_idxs", places, f"a list of layers from 0 to {n - 1}")
    usual = [FULL if places is None or i in places else CONVOLUTION for i in range(n)]
    types = fields.layer_types(usual, (CONVOLUTION, FULL))
    if places is not None and not same(types, usual):
        raise ModelError(f"{fields.where}: layer_types and full_attn_idxs contradict each other.")
    if len(set(types)) != 2:
        raise ModelError(f"{fields.where}: layer_types {shown(types)} is not supported: both kinds must be there.")
    return types


def _inner(fields: TargetFields) -> int:
    """The width inside a feed-forward layer, which is not the one that is given."""
    name = "block_ff_dim" if fields.get("block_ff_dim") is not None else "intermediate_size"
    inner = fields.mlx["intermediate_size"] = fields.whole(name, 1, MAX_WIDTH)
    multiple = fields.whole("block_multiple_of", 1, MAX_WIDTH)
    factor = fields.number("block_ffn_dim_multiplier", 1e-3, 1e3)
    if fields.flag("block_auto_adjust_ff_dim"):
        inner = int(factor * int(2 * inner / 3))
        inner = multiple * ((inner + multiple - 1) // multiple)
    fields.mlx |= {"block_dim": fields.mlx["hidden_size"], "block_ff_dim": inner, "block_multiple_of": multiple}
    fields.mlx |= {"block_ffn_dim_multiplier": 1.0, "block_auto_adjust_ff_dim": False}
    fields.neutral["block_dim"] = (fields.mlx["hidden_size"],)
    return inner


def walk(body: Any, ids: Any, cache: list[Any]) -> Iterator[Any]:
    from mlx_lm.models.base import create_attention_mask

    from ..recurrent import short_convolution

    h = body.embed_tokens(ids)
    yield h
    mask = create_attention_mask(h, cache[body.fa_idx])
    for layer, c in zip(body.layers, cache, strict=True):
        x = layer.operator_norm(h)
        h = h + (layer.self_attn(x, mask, c) if layer.is_attention_layer else short_convolution(layer.conv, x, c))
        h = h + layer.feed_forward(layer.ffn_norm(h))
        yield h
