"""Plain decoding: one token a step, the next step already on the device while this one is read.

What is read of a step are outputs of its own graph. An operation that is built of them later stands behind the next
step in the device's queue, and waiting for it is waiting for that step.
"""

import time
from collections.abc import Callable, Iterator

import mlx.core as mx

from ..models.target import Target
from .prefill import Prefilled, check, picker, prefill, require_finite
from .prefixes import Prefix
from .rounds import Prefill, Round, Settings, Spent, Start
from .sampling import Uniforms


def plain(
    target: Target,
    prompt: list[int],
    settings: Settings,
    *,
    uniforms: Uniforms | None = None,
    clock: Callable[[], float] = time.perf_counter,
    profile: bool = False,
    prefilled: Prefilled | Prefix | None = None,
) -> Iterator[Prefill | Start | Round]:
    """Decode with the target alone. Every round proposes nothing and commits the target's token.

    `uniforms` takes the place of `settings.seed`; `clock` returns seconds of own time; `profile` ends the
    pipelining and fills `Round.spent`; `prefilled` is this prompt's prefill, done before, or that of its
    beginning. Raises DecodeError.
    """
    request = check(target, prompt, settings)
    pick = picker(settings, uniforms)
    began = clock() - (prefilled.seconds if prefilled else 0.0)
    cache = target.new_cache()
    logits = yield from prefill(request, cache, prefilled=prefilled)

    def step(token: mx.array) -> tuple[mx.array, mx.array]:
        hidden, _ = target.forward(token, cache)
        logits = target.head(hidden)
        following, _ = pick(logits)
        peak = logits.max(axis=-1)
        mx.async_eval(following, peak)
        return following, peak

    token, _ = pick(logits)
    mx.async_eval(token)
    ahead = None if profile or request.limit == 1 else step(token)
    token_id = token.item()
    _, finish = request.cut([token_id], 0)
    position = len(request.prompt)
    started = clock()
    yield Start(token_id, position, started - began, finish)
    index = 0
    while not finish:
        stamp = clock()
        following, peak = ahead or step(token)
        # The limit is known ahead, a stop token is not: at a stop one step has run in vain.
        more = request.limit - index > 2
        ahead = step(following) if more and not profile else None
        next_id, peaks = following.item(), peak.tolist()
        verified = clock()
        require_finite(peaks, position + index)
        committed, finish = request.cut([next_id], index + 1)
        now = clock()
        spent = Spent(0.0, verified - stamp, now - verified) if profile else None
        yield Round(
            index,
            position + index,
            token_id,
            (),
            0,
            0,
            next_id,
            True,
            tuple(committed),
            now - started,
            finish,
            spent=spent,
        )
        token, token_id = following, next_id
        index += 1
