"""A target whose kernels depend on the number of rows, as a GPU's do: seeded noise on logits and on cache entries."""

import mlx.core as mx

from dspark_core.models.target import Target


class NoisyTarget:
    """`target` with noise wherever several rows are computed together; one row alone is computed as ever.

    The noise depends on the seed, the position and the width only: the same forward gives the same numbers.
    `on_logits` is its largest value there, in logits; `on_cache` its standard deviation on keys and values.
    """

    def __init__(self, target: Target, seed: int, on_logits: float, on_cache: float):
        self._target, self._seed, self._on_logits, self._on_cache = target, seed, on_logits, on_cache
        self._at = 0

    def __getattr__(self, name):
        return getattr(self._target, name)

    def _key(self, width: int, part: int) -> mx.array:
        return mx.random.key(((self._seed * 1009 + self._at) * 64 + width) * 64 + part)

    def forward(self, ids, cache, taps=()):
        self._at, width = cache[0].offset, ids.shape[0]
        out = self._target.forward(ids, cache, taps)
        if width > 1 and self._on_cache:
            for i, c in enumerate(cache):
                end = c.offset - getattr(c, "start", 0)
                for part, rows in enumerate((c.keys, c.values)):
                    new = rows[..., end - width : end, :]
                    noise = self._on_cache * mx.random.normal(new.shape, key=self._key(width, 2 * i + part))
                    rows[..., end - width : end, :] = new + noise.astype(new.dtype)
        return out

    def head(self, hidden):
        logits, width = self._target.head(hidden), hidden.shape[0]
        if width == 1 or not self._on_logits:
            return logits
        noise = mx.random.uniform(-self._on_logits, self._on_logits, logits.shape, key=self._key(width, 63))
        return logits + noise.astype(logits.dtype)
