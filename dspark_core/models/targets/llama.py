"""Llama, and what is built like it (SmolLM2, Mistral without a window)."""

from collections.abc import Iterator
from typing import Any

TITLE = "Llama"
TYPES = ()


def walk(body: Any, ids: Any, cache: list[Any]) -> Iterator[Any]:
    from mlx_lm.models.base import create_attention_mask

    h = body.embed_tokens(ids)
    yield h
    full = create_attention_mask(h, cache[body.fa_idx])
    if body.swa_idx is not None:
        sliding = create_attention_mask(h, cache[body.swa_idx], window_size=body.sliding_window)
    for layer, c in zip(body.layers, cache, strict=True):
        h = layer(h, sliding if layer.use_sliding else full, cache=c)
        yield h
