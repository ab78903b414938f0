"""The sampler that the decode loop uses, and wrong ones to hold against it. Each takes what `accept_sampled` takes."""

import mlx.core as mx

from ..decode.sampling import accept_sampled, draw
from .evidence import ALWAYS, BONUS, FROM_P, NO_BIAS, RIGHT

# What `accept_sampled` returns: accepted count [], next id [1], q [n] and p [n] of the drafts.
Accepted = tuple[mx.array, mx.array, mx.array, mx.array]


def accept_always(
    drafts: mx.array, q: mx.array, p: mx.array, u_accept: mx.array, u_next: mx.array, end: mx.array
) -> Accepted:
    """Wrong: keep every draft, whatever the target gives it. What comes out is the drafter's text."""
    accepted, _, q_x, p_x = accept_sampled(drafts, q, p, u_accept, u_next, end)
    accepted = mx.maximum(accepted, end)
    return accepted, draw(p[accepted[None]], u_next), q_x, p_x


def resample_from_p(
    drafts: mx.array, q: mx.array, p: mx.array, u_accept: mx.array, u_next: mx.array, end: mx.array
) -> Accepted:
    """Wrong: after a rejection draw from p itself. Tokens that the drafter likes get a second chance."""
    accepted, _, q_x, p_x = accept_sampled(drafts, q, p, u_accept, u_next, end)
    return accepted, draw(p[accepted[None]], u_next), q_x, p_x


def bonus_a_row_early(
    drafts: mx.array, q: mx.array, p: mx.array, u_accept: mx.array, u_next: mx.array, end: mx.array
) -> Accepted:
    """Wrong: after full acceptance draw the bonus from the target's row before the last draft, not after it."""
    accepted, token, q_x, p_x = accept_sampled(drafts, q, p, u_accept, u_next, end)
    early = draw(p[mx.maximum(accepted - 1, 0)[None]], u_next)
    return accepted, mx.where(accepted == end, early, token), q_x, p_x


ACCEPT = {
    RIGHT: accept_sampled,
    ALWAYS: accept_always,
    FROM_P: resample_from_p,
    NO_BIAS: accept_sampled,
    BONUS: bonus_a_row_early,
}
