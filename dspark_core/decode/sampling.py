"""From logits to tokens: greedy, or a draw from the truncated softmax. Probabilities are float32.

Draws are inverse-CDF draws from given uniforms, so that a seed (or a recorded list) fixes a whole decode. Cumulative
masses are integers: their sums are exact in any order, so they never fall, and a draw from the same probabilities is
the same on every device.

Which drafts are accepted, and the target's token after them. Pure functions on arrays.

Rejection sampling of speculative decoding (Leviathan et al. 2023, Chen et al. 2023): accept x_k with probability
min(1, p(x_k) / q(x_k)); at the first rejection draw from the residual max(p - q, 0); if all n are accepted, draw the
bonus from p_n. The result is distributed as the target alone would have it. Greedy is its limit at temperature 0.
"""

from functools import cache

import mlx.core as mx
import numpy as np

from .rounds import Settings

CDF_BLOCK = 256
UNITS = 2**31  # the mass of a whole row, or of a block of it, in the integers that are summed
HALF = 24  # bits of a float32 in [0, 1) on an even grid, and half of those of a fixed-point number
LOWER = 2**HALF - 1


class Uniforms:
    """Uniform numbers in [0, 1), in the order a decode uses them, from a seed.

    A number has 48 bits. `take` gives the upper 24, which is what float32 holds: too few where a token's probability
    is a few units of 2^-24, so decodes use `take_fixed`.
    """

    def __init__(self, seed: int):
        self._upper = np.random.Generator(np.random.PCG64(seed))
        self._lower = np.random.Generator(np.random.PCG64([seed, HALF]))

    def take(self, n: int) -> mx.array:
        """The next n numbers rounded down to 24 bits, [n] float32."""
        return mx.array(self._next(n)[0])

    def take_fixed(self, n: int) -> mx.array:
        """The next n numbers times 2^48, [n] uint64."""
        upper, lower = ((x * 2.0**HALF).astype(np.uint64) for x in self._next(n))
        return mx.array((upper << np.uint64(HALF)) | lower)

    def _next(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        return self._upper.random(n, dtype=np.float32), self._lower.random(n, dtype=np.float32)


def take(uniforms: Uniforms, n: int) -> mx.array:
    """The next n numbers of anything that has `take`, as fine as it gives them: [n] uint64 or float32."""
    return getattr(uniforms, "take_fixed", uniforms.take)(n)


def as_fixed(u: mx.array) -> mx.array:
    """Numbers in [0, 1) as multiples of 2^-48, uint64, of those or of float32."""
    if u.dtype == mx.uint64:
        return u
    upper = mx.floor(u.astype(mx.float32) * 2.0**HALF)
    lower = (u.astype(mx.float32) * 2.0**HALF - upper) * 2.0**HALF
    return (upper.astype(mx.uint64) << HALF) + lower.astype(mx.uint64)


def as_float(u: mx.array) -> mx.array:
    """Numbers in [0, 1) as float32, of those or of multiples of 2^-48: never rounded up to 1."""
    return mx.minimum(u.astype(mx.float32) * 2.0 ** (-2 * HALF), 1 - 2.0**-HALF) if u.dtype == mx.uint64 else u


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
        # In integers as in `draw`: a float32 sum over a large vocabulary is off by more than its tokens.
        units = mx.round(falling * UNITS).astype(mx.uint32)
        before = mx.cumsum(units, axis=-1) - units
        share = mx.array(max(1, round(settings.top_p * UNITS)), dtype=mx.uint32)  # the likeliest token stays
        least = mx.where(before < share, falling, mx.inf).min(axis=-1, keepdims=True)
        p = mx.where(p >= least, p, 0)
        p = p / p.sum(axis=-1, keepdims=True)
    return p


def draw(p: mx.array, u: mx.array) -> mx.array:
    """Ids [n] int32: the first i whose cumulative mass exceeds u times the total, row by row.

    `p` [n, V] float32 need not be normalised; `u` [n] is float32 in [0, 1) or uint64 in multiples of 2^-48. A block of
    256 is chosen first and a token in it then, each by its mass in multiples of 2^-31 of what it is part of: what
    comes out differs from `p` by some 1e-7 in total variation, and only tokens below 2^-32 are never drawn.
    """
    n, V = p.shape
    p = mx.pad(p, [(0, 0), (0, -V % CDF_BLOCK)]).reshape(n, -1, CDF_BLOCK)
    u = as_fixed(u)[:, None]
    sums = p.sum(axis=-1)
    units, upto = _cumulative(sums)
    total = upto[:, -1:].astype(mx.uint64)
    place = total * (u >> HALF) + (total * (u & LOWER) >> HALF)  # u * total, in multiples of 2^-24 of a unit
    block = _first_above(upto, place >> HALF, sums)
    width = mx.take_along_axis(units, block, axis=-1)
    rest = place - ((mx.take_along_axis(upto, block, axis=-1) - width).astype(mx.uint64) << HALF)
    width = mx.maximum(width, 1).astype(mx.uint64)  # 0 in a row of nothing or of NaN, which is refused elsewhere
    inside = mx.take_along_axis(p, block[:, :, None], axis=1)[:, 0]
    _, upto = _cumulative(inside)
    # rest / width is where in the block u falls; in two steps, so that no product leaves 64 bits
    total, whole = upto[:, -1:].astype(mx.uint64), rest // width
    wanted = (whole * total + (rest - whole * width) * total // width) >> HALF
    return (block * CDF_BLOCK + _first_above(upto, wanted, inside))[:, 0].astype(mx.int32)


def _cumulative(mass: mx.array) -> tuple[mx.array, mx.array]:
    """Masses [n, m] in units, and their cumulative sums, uint32. The total is UNITS up to rounding."""
    share = mass / mx.maximum(mass.sum(axis=-1, keepdims=True), 1e-37)
    units = mx.round(share * UNITS).astype(mx.uint32)
    return units, mx.cumsum(units, axis=-1)


def _first_above(cumulative: mx.array, wanted: mx.array, mass: mx.array) -> mx.array:
    """[n, 1]: the first column that has mass and cumulative > wanted; if there is none, the last one that has mass."""
    falling, rising = _ranks(mass.shape[-1])
    rank = mx.where(mass > 0, mx.where(cumulative > wanted, falling, rising), 0)
    return mx.argmax(rank, axis=-1, keepdims=True)


@cache
def _ranks(m: int) -> tuple[mx.array, mx.array]:
    """2m, 2m - 1, ..., m + 1 and 1, 2, ..., m: int32 [m] each."""
    column = np.arange(m, dtype=np.int32)
    return mx.array(2 * m - column), mx.array(column + 1)


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
        u = take(self.uniforms, n) if self.numbers is None else self.numbers[first : first + n]
        p = self.distribution(logits)
        return draw(p, u), p

    def distribution(self, logits: mx.array) -> mx.array:
        """The truncated softmax [n, V] of logits [n, V]."""
        return probabilities(logits, self.settings)

    def block(self, n: int) -> "Sampled":
        """The picker of one block of n drafts: its numbers are taken at once, in slot order."""
        return Sampled(self.settings, self.uniforms, take(self.uniforms, n))


RESIDUAL_FLOOR = 1e-8  # below this mass p and q are equal up to rounding: draw from p


def countable(drafts: mx.array, stop_ids: list[int]) -> mx.array:
    """How many of drafts [n] can be accepted, []: up to and including the first stop token."""
    n = drafts.shape[0]
    if not n or not stop_ids:
        return mx.array(n)
    stops = (drafts[:, None] == mx.array(stop_ids)[None]).any(axis=-1)
    return mx.where(stops, mx.arange(1, n + 1), n).min()


def accept_greedy(drafts: mx.array, logits: mx.array, end: mx.array) -> tuple[mx.array, mx.array]:
    """Accepted count [] and next id [1] int32.

    drafts [n]; target logits [n + 1, V] (ties: lowest id); at most `end` [] drafts are accepted.
    """
    best = mx.argmax(logits, axis=-1).astype(mx.int32)
    accepted = mx.minimum(mx.cumprod((drafts == best[:-1]).astype(mx.int32)).sum(), end)
    return accepted, best[accepted[None]]


def accept_sampled(
    drafts: mx.array, q: mx.array, p: mx.array, u_accept: mx.array, u_next: mx.array, end: mx.array
) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """Accepted count [], next id [1], and q [n], p [n] of the drafts.

    drafts [n]; q [n, V] they were drawn from; p [n + 1, V] the target's; u_accept [n] and u_next [1] as `draw` takes
    them; at most `end` [] drafts are accepted.
    """
    at = drafts[:, None]
    q_x = mx.take_along_axis(q, at, axis=-1)[:, 0]
    p_x = mx.take_along_axis(p[:-1], at, axis=-1)[:, 0]
    # u < min(1, p/q) without the division: u < 1, and q > 0 for a token drawn from q. With u in steps of 2^-24 it holds
    # up to 2^-24 too often, which is all that a p/q below that gets; in steps of 2^-48 it is as exact as p/q.
    passed = as_float(u_accept) * q_x < p_x
    accepted = mx.minimum(mx.cumprod(passed.astype(mx.int32)).sum(), end)
    last = accepted[None]
    rejected_q = mx.concatenate([q, mx.zeros_like(p[:1])])[last]
    rejected_q = mx.where(accepted < end, rejected_q, 0)  # after full acceptance the residual is p itself
    return accepted, draw(residual(p[last], rejected_q), u_next), q_x, p_x


def accept_probability(q_x: mx.array, p_x: mx.array) -> mx.array:
    """min(1, p/q) of draft tokens with q > 0."""
    return mx.minimum(1.0, p_x / q_x)


def residual(p: mx.array, q: mx.array) -> mx.array:
    """max(p - q, 0), not normalised; p itself where nothing is left of it. [n, V] float32."""
    r = mx.maximum(p - q, 0)
    return mx.where(r.sum(axis=-1, keepdims=True) > RESIDUAL_FLOOR, r, p)
