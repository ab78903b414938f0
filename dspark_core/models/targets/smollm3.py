"""SmolLM3: a Llama some of whose layers have no rope, by default every fourth."""

from collections.abc import Iterator
from typing import Any

from ..backbone_config import MAX_HEAD_DIM, MAX_HEADS
from ..target_config import MAX_TARGET_LAYERS, SILU, LayerShape, TargetFields
from ..target_rope import RopeFields
from . import llama

TITLE = "SmolLM3"
TYPES = ()
WRAPPERS = ()
EACH, EVERY = "no_rope_layers", "no_rope_layer_interval"


def defaults(model_type: str) -> dict[str, Any]:
    sizes = {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16}
    more = {"vocab_size": 128256, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "hidden_act": "silu"}
    switches = dict.fromkeys(("attention_bias", "mlp_bias", "use_sliding_window"), False)
    return sizes | more | switches | {"tie_word_embeddings": True, EACH: None, EVERY: 4}


def read(fields: TargetFields) -> tuple[list[LayerShape], int]:
    """mlx-lm's has no windows."""
    heads, n = fields.mlx["num_attention_heads"], fields.size("num_hidden_layers", MAX_TARGET_LAYERS)
    head_dim = fields.size("head_dim", MAX_HEAD_DIM, fields.mlx["hidden_size"] // heads)
    kv_heads = fields.size("num_key_value_heads", MAX_HEADS, heads if "num_key_value_heads" in fields.raw else 4)
    rope = RopeFields.flat(fields, head_dim, fields.mlx["max_position_embeddings"], 2e6).read()
    every = fields.whole(EVERY, 1, MAX_TARGET_LAYERS)
    turned = [int((i + 1) % every != 0) for i in range(n)]
    if fields.get(EACH) is not None:
        turned = list(fields.wholes(EACH))
        if len(turned) != n or not {*turned} <= {0, 1}:
            raise fields.error(EACH, turned, f"a list of {n} numbers, each 0 or 1")
    types = fields.layer_types(["full_attention"] * n, ("full_attention",))
    fields.one_of("hidden_act", SILU)
    if fields.flag("use_sliding_window"):  # without it a window is of no effect
        fields.one_of("sliding_window", (None,))
    fields.know_spellings(head_dim, rope.theta, SILU)
    fields.neutral |= {"query_pre_attn_scalar": (head_dim,), "use_qk_norm": (False,), "qk_norm": (False,)}
    fields.mlx |= {"rope_theta": rope.theta, "rope_scaling": rope.scaling, EACH: turned, EVERY: every}
    fields.mlx |= dict.fromkeys(("rope_parameters", "layer_types", "sliding_window")) | {"rope_traditional": False}
    fields.mlx |= {name: fields.flag(name) for name in ("attention_bias", "mlp_bias")}
    return [LayerShape(head_dim, kv_heads) for _ in types], rope.context


def walk(body: Any, ids: Any, cache: list[Any]) -> Iterator[Any]:
    return llama.walk(body, ids, cache)
