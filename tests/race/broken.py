"""Targets whose verification is wrong on purpose. One row alone, and a prompt's prefill, are computed as ever."""

from contextlib import contextmanager

import mlx.core as mx
import mlx_lm.models.base as masks

from dspark_core.models.target import Target


class BrokenTarget:
    """`target` with a fault wherever several rows follow what a cache holds."""

    def __init__(self, target: Target):
        self._target = target

    def __getattr__(self, name):
        return getattr(self._target, name)

    def forward(self, ids, cache, taps=()):
        if ids.shape[0] == 1 or cache[0].offset == 0:
            return self._target.forward(ids, cache, taps)
        return self.wide(ids, cache, taps)


class NoMask(BrokenTarget):
    """Every row of a verification sees those after it."""

    def wide(self, ids, cache, taps):
        mask, masks.create_attention_mask = masks.create_attention_mask, lambda *_, **__: None
        try:
            return self._target.forward(ids, cache, taps)
        finally:
            masks.create_attention_mask = mask


class Off(BrokenTarget):
    """Hidden states of a verification are off by a share of their length, in a fixed random direction a position."""

    def __init__(self, target, share):
        super().__init__(target)
        self.share = share

    def wide(self, ids, cache, taps):
        at = cache[0].offset
        hidden, features = self._target.forward(ids, cache, taps)
        noise = mx.random.normal(hidden.shape, key=mx.random.key(at))
        size = mx.linalg.norm(hidden, axis=-1, keepdims=True) / mx.linalg.norm(noise, axis=-1, keepdims=True)
        return (hidden + self.share * size * noise).astype(hidden.dtype), features


class Rope(BrokenTarget):
    """Rows of a verification are rotated as if they stood one position further."""

    def wide(self, ids, cache, taps):
        with _shifted([layer.self_attn for layer in self._body.layers]):
            return self._target.forward(ids, cache, taps)


class Stale(BrokenTarget):
    """The last entry a verification writes is that of the row before it."""

    def wide(self, ids, cache, taps):
        out = self._target.forward(ids, cache, taps)
        for c in cache:
            end = c.offset - getattr(c, "start", 0)
            for rows in (c.keys, c.values):
                rows[..., end - 1 : end, :] = rows[..., end - 2 : end - 1, :]
        return out


@contextmanager
def _shifted(attentions):
    ropes = [a.rope for a in attentions]
    for a, rope in zip(attentions, ropes, strict=True):
        a.rope = lambda x, offset=0, rope=rope: rope(x, offset=offset + 1)
    try:
        yield
    finally:
        for a, rope in zip(attentions, ropes, strict=True):
            a.rope = rope
