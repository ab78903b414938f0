"""Qwen3.5 and what is built like it (3.6, 3.8), dense: gated delta nets, and full attention in every fourth layer.

As a text model or in its multimodal wrapper, whose positions in a text are the text's own.
"""

from collections.abc import Iterator
from typing import Any

from ...errors import ModelError
from ..backbone_config import MAX_HEAD_DIM, MAX_HEADS, MAX_WINDOW
from ..fields import shown
from ..target_config import MAX_TARGET_LAYERS, SILU, LayerShape, TargetFields
from ..target_rope import RopeFields

TITLE = "Qwen3.5"
TYPES = ("qwen3_5_text",)
WRAPPERS = ("qwen3_5",)
NESTED = True
FULL, LINEAR = "full_attention", "linear_attention"


def defaults(model_type: str) -> dict[str, Any]:
    sizes = {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 32, "num_attention_heads": 16}
    heads = {"num_key_value_heads": 4, "head_dim": 256, "vocab_size": 248320}
    more = {"max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "hidden_act": "silu"}
    linear = {"linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_value_head_dim": 128}
    linear |= {"linear_num_key_heads": 16, "linear_num_value_heads": 32}
    return sizes | heads | more | linear | dict.fromkeys(("attention_bias", "tie_word_embeddings"), False)


def read(fields: TargetFields) -> tuple[list[LayerShape], int]:
    """mlx-lm knows a pattern by how often a full layer comes; transformers any list of types."""
    fields.gated = True
    n, head_dim = fields.size("num_hidden_layers", MAX_TARGET_LAYERS), fields.size("head_dim", MAX_HEAD_DIM)
    kv_heads = fields.size("num_key_value_heads", MAX_HEADS)
    every = fields.size("full_attention_interval", MAX_TARGET_LAYERS, 4)
    types = fields.layer_types([LINEAR if (i + 1) % every else FULL for i in range(n)], (LINEAR, FULL))
    every = fields.mlx["full_attention_interval"] = types.index(FULL) + 1 if FULL in types else n + 1
    if every > n or every < 2 or types != [LINEAR if (i + 1) % every else FULL for i in range(n)]:
        raise ModelError(
            f"{fields.where}: layer_types {shown(types)} is not supported: one layer in every so many has full "
            "attention, the others have linear attention, and the first is one of these."
        )
    rope, part = RopeFields.flat(fields, head_dim, fields.mlx["max_position_embeddings"]).partial(0.25)
    for name in ("mrope_section", "mrope_interleaved"):  # how the positions of a picture are told apart
        rope.given.pop(name, None)
    turned = rope.read()
    fields.one_of("hidden_act", SILU)
    fields.know_spellings(head_dim, turned.theta, SILU)
    fields.neutral |= {"rotary_dim": (rope.head_dim,), "rotary_pct": (part,), "rope_pct": (part,)}
    fields.neutral |= {"attn_output_gate": (True,), "mamba_ssm_dtype": ("float32",), "use_sliding_window": (False,)}
    fields.neutral |= {"use_qk_norm": (True,), "qk_norm": (True,), "query_pre_attn_scalar": (head_dim,)}
    rope_parameters = {**turned.scaling, "rope_theta": turned.theta, "partial_rotary_factor": part}
    fields.mlx |= {"rope_parameters": rope_parameters, "attention_bias": fields.flag("attention_bias")}
    linear = _linear(fields, [i for i, t in enumerate(types) if t == LINEAR])
    return [LayerShape(head_dim, kv_heads) if t == FULL else linear for t in types], turned.context


def _linear(fields: TargetFields, places: list[int]) -> LayerShape:
    """The gated delta net, which stands in the layers of these places."""
    keys, values = (fields.size(f"linear_num_{name}_heads", MAX_HEADS) for name in ("key", "value"))
    key_dim, value_dim = (fields.size(f"linear_{name}_head_dim", MAX_HEAD_DIM) for name in ("key", "value"))
    if fields.size("linear_conv_kernel_dim", MAX_WINDOW) < 2:
        raise fields.error("linear_conv_kernel_dim", 1, "2 or more")
    if values % keys:
        raise fields.error("linear_num_value_heads", values, f"a multiple of linear_num_key_heads {keys}")
    width = 2 * keys * key_dim + values * value_dim
    for i in places:
        name = f"layers.{i}.linear_attn."
        fields.rows += [("linear_num_value_heads", values, values, f"{name}in_proj_b.weight")]
        fields.rows += [("linear_value_head_dim", value_dim, values * value_dim, f"{name}in_proj_z.weight")]
        both = "linear_num_key_heads or linear_key_head_dim"
        fields.rows += [
            (both, key_dim, width, f"{name}in_proj_qkv.weight"),
            (both, key_dim, width, f"{name}conv1d.weight"),
        ]
    inputs = keys * key_dim + values * value_dim + 2 * values
    return LayerShape(0, 0, row=width, state=values * key_dim * value_dim, inputs=inputs)


def walk(body: Any, ids: Any, cache: list[Any]) -> Iterator[Any]:
    from mlx_lm.models.base import create_attention_mask

    from ..recurrent import gated_delta_net

    h = body.embed_tokens(ids)
    yield h
    mask = create_attention_mask(h, cache[body.fa_idx])
    for layer, c in zip(body.layers, cache, strict=True):
        x = layer.input_layernorm(h)
        h = h + (gated_delta_net(layer.linear_attn, x, c) if layer.is_linear else layer.self_attn(x, mask, c))
        h = h + layer.mlp(layer.post_attention_layernorm(h))
        yield h
