"""Qwen3, dense."""

from collections.abc import Iterator
from typing import Any

TITLE = "Qwen3"
TYPES = ()


def walk(body: Any, ids: Any, cache: list[Any]) -> Iterator[Any]:
    from mlx_lm.models.base import create_attention_mask

    h = body.embed_tokens(ids)
    yield h
    mask = create_attention_mask(h, cache[0])
    for layer, c in zip(body.layers, cache, strict=True):
        h = layer(h, mask, c)
        yield h
