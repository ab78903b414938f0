"""OLMo 2: a Llama whose norms stand behind attention and MLP, with norms over all queries and keys of a position."""

from collections.abc import Iterator
from typing import Any

from ..backbone_config import MAX_HEAD_DIM, MAX_HEADS
from ..target_config import MAX_TARGET_LAYERS, SILU, LayerShape, TargetFields
from ..target_rope import RopeFields
from . import llama

TITLE = "OLMo 2"
TYPES = ()
WRAPPERS = ()


def defaults(model_type: str) -> dict[str, Any]:
    sizes = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
    more = {"vocab_size": 50304, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "hidden_act": "silu"}
    return sizes | more | dict.fromkeys(("attention_bias", "tie_word_embeddings"), False)


def read(fields: TargetFields) -> tuple[list[LayerShape], int]:
    heads, n = fields.mlx["num_attention_heads"], fields.size("num_hidden_layers", MAX_TARGET_LAYERS)
    head_dim = fields.size("head_dim", MAX_HEAD_DIM, fields.mlx["hidden_size"] // heads)
    kv_heads = fields.size("num_key_value_heads", MAX_HEADS, heads)
    rope = RopeFields.flat(fields, head_dim, fields.mlx["max_position_embeddings"]).read()
    fields.one_of("hidden_act", SILU)
    fields.know_spellings(head_dim, rope.theta, SILU)
    fields.neutral |= {"query_pre_attn_scalar": (head_dim,), "use_qk_norm": (True,), "qk_norm": (True,)}
    fields.neutral |= {"layer_types": (["full_attention"] * n,), "use_sliding_window": (False,), "sliding_window": ()}
    fields.tensors = {"q_norm": "none", "input_layernorm.weight": "post_attention_layernorm.weight"}
    fields.rows += [
        ("num_attention_heads", heads, heads * head_dim, f"layers.{i}.self_attn.q_norm.weight") for i in range(n)
    ]
    fields.mlx |= {
        "rope_theta": rope.theta,
        "rope_scaling": rope.scaling,
        "attention_bias": fields.flag("attention_bias"),
    }
    fields.mlx |= dict.fromkeys(("mlp_bias", "rope_traditional"), False)
    return [LayerShape(head_dim, kv_heads)] * n, rope.context


def walk(body: Any, ids: Any, cache: list[Any]) -> Iterator[Any]:
    return llama.walk(body, ids, cache)
