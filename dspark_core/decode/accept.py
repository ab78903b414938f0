"""Which drafts are kept, and the target's own token after them. Pure functions on arrays.

Rejection sampling of speculative decoding (Leviathan et al. 2023, Chen et al. 2023): accept x_k with probability
min(1, p(x_k) / q(x_k)); at the first rejection draw from the residual max(p - q, 0); if all n are accepted, draw the
bonus from p_n. The result is distributed as the target alone would have it. Greedy is its limit at temperature 0.
"""

import mlx.core as mx

from .sampling import as_float, draw

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
    kept = as_float(u_accept) * q_x < p_x
    accepted = mx.minimum(mx.cumprod(kept.astype(mx.int32)).sum(), end)
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
