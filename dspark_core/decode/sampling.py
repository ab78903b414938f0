"""From logits to tokens: greedy, or a draw from the truncated softmax. Everything here is float32.

Draws are inverse-CDF draws from given uniforms, so that a seed (or a recorded list) fixes a whole decode.
"""

import mlx.core as mx
import numpy as np

from .rounds import Settings

CDF_BLOCK = 256


class Uniforms:
    """Uniform numbers in [0, 1), in the order a decode uses them, from a seed."""

    def __init__(self, seed: int):
        self._generator = np.random.Generator(np.random.PCG64(seed))

    def take(self, n: int) -> mx.array:
        """The next n numbers, [n] float32."""
        return mx.array(self._generator.random(n, dtype=np.float32))


def probabilities(logits: mx.array, settings: Settings) -> mx.array:
    """softmax(logits / T) after top-k, then top-p: float32 [n, V] from [n, V].

    Tokens that tie with the last one kept are kept too, so the result doesn't depend on their order.
    """
    z = logits.astype(mx.float32) / settings.temperature
    if 0 < settings.top_k < z.shape[-1]:
        least = mx.topk(z, settings.top_k, axis=-1).min(axis=-1, keepdims=True)
        z = mx.where(z >= least, z, -mx.inf)
    p = mx.softmax(z, axis=-1)
    if settings.top_p < 1:
        falling = -mx.sort(-p, axis=-1)
        before = mx.cumsum(falling, axis=-1) - falling
        least = mx.where(before < settings.top_p, falling, mx.inf).min(axis=-1, keepdims=True)
        p = mx.where(p >= least, p, 0)
        p = p / p.sum(axis=-1, keepdims=True)
    return p


def draw(p: mx.array, u: mx.array) -> mx.array:
    """Ids [n] int32: the first i whose cumulative mass exceeds u times the total, row by row.

    `p` [n, V] float32 need not be normalised. Summed in two levels, so that rounding stays of the order of
    one unit in the last place of a block of 256 and not of the whole row.
    """
    n, V = p.shape
    p = mx.pad(p, [(0, 0), (0, -V % CDF_BLOCK)]).reshape(n, -1, CDF_BLOCK)
    sums = p.sum(axis=-1)
    upto = mx.cumsum(sums, axis=-1)
    wanted = u[:, None] * upto[:, -1:]
    block = _first_above(upto, wanted, sums)
    before = mx.where(block > 0, mx.take_along_axis(upto, mx.maximum(block - 1, 0), axis=-1), 0)
    inside = mx.take_along_axis(p, block[:, :, None], axis=1)[:, 0]
    index = _first_above(mx.cumsum(inside, axis=-1), wanted - before, inside)
    return (block * CDF_BLOCK + index)[:, 0].astype(mx.int32)


def _first_above(cumulative: mx.array, wanted: mx.array, mass: mx.array) -> mx.array:
    """[n, 1]: first column with cumulative > wanted; if rounding left none, the last one with any mass."""
    above = cumulative > wanted
    last = mass.shape[-1] - 1 - mx.argmax(mass[:, ::-1] > 0, axis=-1, keepdims=True)
    found = mx.argmax(above, axis=-1, keepdims=True)
    return mx.where(above.any(axis=-1, keepdims=True), found, last).astype(mx.int32)


class Greedy:
    """Argmax; ties go to the lowest id."""

    def __call__(self, logits: mx.array, first: int = 0) -> tuple[mx.array, None]:
        """Ids [n] int32 of logits [n, V]."""
        return mx.argmax(logits, axis=-1).astype(mx.int32), None

    def block(self, n: int) -> "Greedy":
        """The picker of one block of n drafts."""
        return self


class Sampled:
    """Draws from softmax(logits / T), truncated, with the numbers of `uniforms`."""

    def __init__(self, settings: Settings, uniforms: Uniforms, numbers: mx.array | None = None):
        self.settings, self.uniforms, self.numbers = settings, uniforms, numbers

    def __call__(self, logits: mx.array, first: int = 0) -> tuple[mx.array, mx.array]:
        """Ids [n] int32 and the distributions [n, V] they were drawn from; `first` is the first draft's number."""
        n = logits.shape[0]
        u = self.uniforms.take(n) if self.numbers is None else self.numbers[first : first + n]
        p = self.distribution(logits)
        return draw(p, u), p

    def distribution(self, logits: mx.array) -> mx.array:
        """The truncated softmax [n, V] of logits [n, V]."""
        return probabilities(logits, self.settings)

    def block(self, n: int) -> "Sampled":
        """The picker of one block of n drafts: its numbers are taken at once, in slot order."""
        return Sampled(self.settings, self.uniforms, self.uniforms.take(n))
