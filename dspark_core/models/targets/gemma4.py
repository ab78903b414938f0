"""Gemma-4, as a text model or in a model that wraps it; without per-layer embeddings and shared layers (12B, 31B)."""

from collections.abc import Iterator
from typing import Any

TITLE = "Gemma-4"
TYPES = ("gemma4_text", "gemma4_unified", "gemma4_unified_text")
_ABSENT = {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0}


def refuse(text: dict[str, Any]) -> str:
    """The walk knows neither of them."""
    if not any(text.get(name) for name in _ABSENT):
        return ""
    return "Gemma-4 models with per-layer embeddings or shared key/value layers (E2B, E4B) are not supported."


def config_for_mlx(config: dict[str, Any]) -> dict[str, Any]:
    """A unified Gemma-4 has neither, and its config need not say so; mlx-lm would take it for an E2B then."""
    if config["model_type"] != "gemma4_unified":
        return {}
    return {"text_config": _ABSENT | (config.get("text_config") or {})}


def walk(body: Any, ids: Any, cache: list[Any]) -> Iterator[Any]:
    from mlx_lm.models.base import create_attention_mask

    h = body.embed_tokens(ids) * body.embed_scale
    yield h
    masks: dict[str, Any] = {}
    for layer, c in zip(body.layers, cache, strict=True):
        if layer.layer_type not in masks:
            window = body.window_size if layer.layer_type == "sliding_attention" else None
            masks[layer.layer_type] = create_attention_mask(h, c, window_size=window)
        h, _, _ = layer(h, masks[layer.layer_type], c)
        yield h
