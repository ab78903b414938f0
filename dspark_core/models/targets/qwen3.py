"""Qwen3, dense; all of its layers may slide, or those from one on."""

from collections.abc import Iterator
from typing import Any

from ...errors import ModelError
from ..backbone_config import MAX_HEAD_DIM, MAX_HEADS, MAX_WINDOW, SLIDING
from ..target_config import MAX_TARGET_LAYERS, SILU, LayerShape, TargetConfig, TargetFields
from ..target_rope import RopeFields

TITLE = "Qwen3"
TYPES = ()
WRAPPERS = ()


def defaults(model_type: str) -> dict[str, Any]:
    sizes = {"hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32, "num_attention_heads": 32}
    more = {"vocab_size": 151936, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "hidden_act": "silu"}
    switches = dict.fromkeys(("attention_bias", "tie_word_embeddings", "use_sliding_window"), False)
    return sizes | more | switches | {"head_dim": 128, "max_window_layers": 28}


def read(fields: TargetFields) -> tuple[list[LayerShape], int]:
    raw, heads = fields.raw, fields.mlx["num_attention_heads"]
    n, head_dim = fields.size("num_hidden_layers", MAX_TARGET_LAYERS), fields.size("head_dim", MAX_HEAD_DIM)
    kv_heads = fields.size("num_key_value_heads", MAX_HEADS, heads if "num_key_value_heads" in raw else 32)
    rope = RopeFields.flat(fields, head_dim, fields.mlx["max_position_embeddings"]).read()
    window, first = None, n
    if fields.flag("use_sliding_window") and raw.get("sliding_window", 0) is not None:
        window = fields.whole("sliding_window", 1, MAX_WINDOW, 4096)
        first = fields.whole("max_window_layers", 0, MAX_WINDOW)
    types = fields.layer_types([SLIDING if i >= first else "full_attention" for i in range(n)])
    if SLIDING in types and window is None:
        raise ModelError(
            f"{fields.where}: layer_types has {SLIDING}, but use_sliding_window is false or no window given."
        )
    fields.one_of("hidden_act", SILU)
    fields.know_spellings(head_dim, rope.theta, SILU)
    fields.neutral |= {"query_pre_attn_scalar": (head_dim,), "use_qk_norm": (True,), "qk_norm": (True,)}
    fields.mlx |= {"rope_theta": rope.theta, "rope_scaling": rope.scaling, "rope_parameters": None}
    return [LayerShape(head_dim, kv_heads, window if t == SLIDING else None) for t in types], rope.context


def walk(body: Any, ids: Any, cache: list[Any]) -> Iterator[Any]:
    from mlx_lm.models.base import create_attention_mask

    h = body.embed_tokens(ids)
    yield h
    masks: dict[int | None, Any] = {}
    for layer, c in zip(body.layers, cache, strict=True):
        window = getattr(layer, "window", None)  # which `complete` sets
        if window not in masks:
            masks[window] = create_attention_mask(h, c, window_size=window)
        h = layer(h, masks[window], c)
        yield h


def complete(model_class: Any, config: TargetConfig) -> Any:
    """mlx-lm's Qwen3 has no sliding layers. A class whose layers take a mask and a cache, as its do, gets them here."""
    if not any(shape.window for shape in config.layers):
        return model_class
    from mlx_lm.models.cache import KVCache, RotatingKVCache

    def forward(body: Any, inputs: Any, cache: Any = None, input_embeddings: Any = None) -> Any:
        for h in walk(body, inputs, cache or [None] * len(body.layers)):
            last = h
        return body.norm(last)

    class Windowed(model_class):
        model: Any

        def __init__(self, args: Any):
            super().__init__(args)
            self.model = type("Body", (type(self.model),), {"__call__": forward})(args)
            for layer, shape in zip(self.model.layers, config.layers, strict=True):
                layer.window = shape.window

        def make_cache(self) -> list[Any]:
            return [RotatingKVCache(shape.window) if shape.window else KVCache() for shape in config.layers]

    return Windowed
