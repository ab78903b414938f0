"""Wrong samplers that the page does not offer, for the proof to catch. Each takes what `accept_sampled` takes."""

import mlx.core as mx

from dspark_core.decode.sampling import accept_sampled, draw, residual


def rule(kept=None, residual_q=None, bonus=None, reuse=False, flat=1.0):
    """`accept_sampled` with one part replaced.

    kept(u, q_x, p_x): which drafts are accepted; residual_q(q, k): the q subtracted at slot k [1]; bonus(p, q, u): the
    token after full acceptance; reuse: the number that decided the last acceptance also draws the next token; flat: p
    is raised to this power.
    """

    def accept(drafts, q, p, u_accept, u_next, end):
        if flat != 1.0:
            p = p**flat / (p**flat).sum(axis=-1, keepdims=True)
        if kept is None:
            accepted, _, q_x, p_x = accept_sampled(drafts, q, p, u_accept, u_next, end)
        else:
            _, _, q_x, p_x = accept_sampled(drafts, q, p, u_accept, u_next, end)
            passed = kept(u_accept, q_x, p_x)
            accepted = mx.minimum(mx.cumprod(passed.astype(mx.int32)).sum(), end)
        last = accepted[None]
        n = q.shape[0]
        u = u_accept[mx.minimum(last, n - 1)] if reuse else u_next
        subtracted = residual_q(q, last) if residual_q else mx.concatenate([q, q[:1]])[last]
        corrected = draw(residual(p[last], subtracted), u)
        full = bonus(p, q, u) if bonus else draw(p[n : n + 1], u)
        return accepted, mx.where(accepted == end, full, corrected), q_x, p_x

    return accept


WRONG = {
    "ratio p/q times 1.5": rule(kept=lambda u, q, p: u * q < 1.5 * p),
    "ratio p/q halved": rule(kept=lambda u, q, p: u * q < 0.5 * p),
    "ratio squared": rule(kept=lambda u, q, p: u * q * q < p * p),
    "ratio q/p": rule(kept=lambda u, q, p: u * p < q),
    "accepted where p is above q": rule(kept=lambda u, q, p: q < p),
    "one acceptance number for all slots": rule(kept=lambda u, q, p: u[0] * q < p),
    "residual not subtracted": rule(residual_q=lambda q, k: mx.zeros_like(q[:1])),
    "residual from the other slot": rule(residual_q=lambda q, k: mx.concatenate([q[::-1], q[:1]])[k]),
    "half of q subtracted": rule(residual_q=lambda q, k: 0.5 * mx.concatenate([q, q[:1]])[k]),
    "bonus from the first row": rule(bonus=lambda p, q, u: draw(p[:1], u)),
    "bonus from the row before": rule(bonus=lambda p, q, u: draw(p[-2:-1], u)),
    "bonus from the second row": rule(bonus=lambda p, q, u: draw(p[1:2], u)),
    "bonus by argmax": rule(bonus=lambda p, q, u: mx.argmax(p[-1:], axis=-1).astype(mx.int32)),
    "bonus from q": rule(bonus=lambda p, q, u: draw(q[-1:], u)),
    "bonus from the residual": rule(bonus=lambda p, q, u: draw(residual(p[-1:], q[-1:]), u)),
    "one number for acceptance and the next token": rule(reuse=True),
    "temperature twice for p": rule(flat=1 / 0.7),
}
