"""The sampler that the decode loop uses, and wrong ones to hold against it. Each takes what `accept_sampled` takes."""

import mlx.core as mx

from ..decode.sampling import accept_sampled, draw
from .evidence import ALWAYS, BONUS, FROM_P, NO_BIAS, RIGHT


def accept_always(drafts, q, p, u_accept, u_next, end):
    """Wrong: keep every draft, whatever the target thinks of it. What comes out is the drafter's text."""
    accepted, _, q_x, p_x = accept_sampled(drafts, q, p, u_accept, u_next, end)
    accepted = mx.maximum(accepted, end)
    return accepted, draw(p[accepted[None]], u_next), q_x, p_x


def resample_from_p(drafts, q, p, u_accept, u_next, end):
    """Wrong: after a rejection draw from p itself. Tokens that the drafter likes get a second chance."""
    accepted, _, q_x, p_x = accept_sampled(drafts, q, p, u_accept, u_next, end)
    return accepted, draw(p[accepted[None]], u_next), q_x, p_x


def bonus_a_row_early(drafts, q, p, u_accept, u_next, end):
    """Wrong: after full acceptance draw the bonus from what the target said before the last draft, not after it."""
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
