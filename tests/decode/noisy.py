"""A target whose kernels depend on the number of rows, as a GPU's do: seeded noise on logits and on cache entries."""

import mlx.core as mx

from dspark_core.models.target import Target


class NoisyTarget:
    """`target` with noise wherever several rows are computed together; one row alone is computed as ever.

    The noise depends on the seed, the position and the width only: the same forward gives the same numbers.
    mlx-lm's own forward (`model`) runs on the same device and is as noisy.
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
        self._disturb(cache, width)
        return out

    def head(self, hidden):
        return self._disturbed(self._target.head(hidden))

    def own_hidden(self, ids, cache):
        self._at = cache[0].offset
        hidden = self._target.own_hidden(ids, cache)
        self._disturb(cache, ids.shape[0])
        return hidden

    @property
    def model(self):
        return NoisyModel(self)

    def _disturb(self, cache, width):
        """Noise on the newest `width` entries of a cache."""
        if width == 1 or not self._on_cache:
            return
        for i, c in enumerate(cache):
            end = c._idx if hasattr(c, "_idx") else c.offset - getattr(c, "start", 0)
            for part, rows in enumerate((c.keys, c.values)):
                new = rows[..., end - width : end, :]
                noise = self._on_cache * mx.random.normal(new.shape, key=self._key(width, 2 * i + part))
                rows[..., end - width : end, :] = new + noise.astype(new.dtype)

    def _disturbed(self, logits):
        """Noise on logits [n, V] of several rows."""
        width = logits.shape[0]
        if width == 1 or not self._on_logits:
            return logits
        noise = mx.random.uniform(-self._on_logits, self._on_logits, logits.shape, key=self._key(width, 63))
        return logits + noise.astype(logits.dtype)


class NoisyModel:
    """mlx-lm's model of a noisy target."""

    def __init__(self, noisy: NoisyTarget):
        self._noisy, self._model = noisy, noisy._target.model

    def __getattr__(self, name):
        return getattr(self._model, name)

    def __repr__(self):
        return repr(self._model)

    def __call__(self, ids, cache):
        self._noisy._at = cache[0].offset
        logits = self._model(ids, cache=cache)[0]
        self._noisy._disturb(cache, ids.shape[1])
        return self._noisy._disturbed(logits)[None]
