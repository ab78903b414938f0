"""The one speculative loop: draft a block, verify it in one pass of the target, keep what it would have said.

DeepSpec's reference evaluator, batch 1. At the start of a round the target's cache and the drafter's context hold
everything before the anchor; the anchor goes through the target as the first row of the verification.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import mlx.core as mx

from ..models.cache import trim
from ..models.drafter import Drafter
from ..models.target import Target
from .prefill import PREFILL_CHUNK, Prefilled, check, picker, prefill, require_finite
from .rounds import DecodeError, Detail, Prefill, Round, Settings, Spent, Start
from .sampling import Uniforms, accept_greedy, accept_probability, accept_sampled, countable, take
from .schedule import Schedule
from .strict import Strict, gaps


def speculative(
    target: Target,
    drafter: Drafter,
    prompt: list[int],
    settings: Settings,
    schedule: Schedule,
    *,
    uniforms: Uniforms | None = None,
    clock: Callable[[], float] = time.perf_counter,
    confidence: bool = False,
    profile: bool = False,
    prefilled: Prefilled | None = None,
    strict: float = 0.0,
) -> Iterator[Prefill | Start | Round]:
    """Decode with a drafter. The output is the target's own: token for token when greedy, in distribution otherwise.

    `uniforms` takes the place of `settings.seed`; they are used in this order: the first token; then per round
    the drafts in slot order, the acceptances of all proposed drafts, the correction or bonus. `clock` returns
    seconds of own time; `confidence` fills `Round.confidence`; `profile` times draft and verification
    separately (one synchronisation more a round); `prefilled` is this prompt's prefill, done before; `strict` is how
    far the device moves logits with the width (noise.py): above 0, greedy choices that this could have turned are
    decided again by plain decoding's own numbers (strict.py). Raises DecodeError.

    A greedy round whose length is known before it is drafted has one synchronisation. While the schedule drafts
    nothing, rounds are plain steps, pipelined as `plain` does; their taps reach the drafter's context when it drafts
    again. Everything that is read of a round was put on the device as a part of it, before the round that follows.
    """
    if schedule.needs_confidence and not drafter.has_confidence:
        raise DecodeError(f"{drafter.name} has no confidence head, which this schedule needs.")
    if strict and not settings.greedy:
        raise DecodeError("Strict mode decides between the two best tokens again, so it is for greedy decoding only.")
    request = check(target, prompt, settings)
    uniforms = uniforms or Uniforms(settings.seed)
    pick = picker(settings, uniforms)
    with_confidence = drafter.has_confidence and (confidence or schedule.needs_confidence)
    schedule = schedule.begin(drafter.max_drafts)
    began = clock()
    cache, context = target.new_cache(), drafter.begin()

    def extend(features):
        context.extend(features)
        return context.state

    logits = yield from prefill(request, cache, drafter.taps, extend, prefilled)
    anchor, _ = pick(logits)
    anchor_id = anchor.item()
    _, finish = request.cut([anchor_id], 0)
    position = len(request.prompt)
    yield Start(anchor_id, position, clock() - began, finish)

    stop_ids = sorted(request.stop_ids)
    keeper = Strict(target, cache, strict, clock) if strict else None
    nothing = context.propose(anchor, 0, pick)

    def catch_up():
        """Bring the drafter's context up to the anchor; returns arrays to evaluate."""
        context.extend(mx.concatenate(behind))
        behind.clear()
        return context.state

    def verify(anchor, block, n):
        """The target on the anchor and the first n drafts, and what is kept: on its way, not waited for."""
        drafts = block.ids[:n]
        if keeper:
            keeper.before(n + 1)
        hidden, features = target.forward(mx.concatenate([anchor, drafts]) if n else anchor, cache, drafter.taps)
        logits = target.head(hidden)
        end, numbers = countable(drafts, stop_ids), []
        if not n:  # a plain step
            accepted, (following, p) = end, pick(logits)
            numbers = [] if p is None else [mx.array([])] * 3
        elif settings.greedy:
            accepted, following = accept_greedy(drafts, logits, end)
        else:
            p = pick.distribution(logits)
            u_accept, u_next = take(uniforms, n), take(uniforms, 1)
            accepted, following, q, p = accept_sampled(drafts, block.q[:n], p, u_accept, u_next, end)
            numbers = [q, p, accept_probability(q, p)]
        close = gaps(logits) if keeper else mx.array([])
        peaks = logits.max(axis=-1)
        mx.async_eval(accepted, end, following, peaks, features, numbers, close)
        return _Verified(accepted, end, following, peaks, features, numbers, close)

    began, index, produced = clock(), 0, 1
    ahead, behind = None, []  # a plain step already on the device; taps that the drafter's context lacks
    while not finish:
        stamp = clock()
        n = 0 if ahead else schedule.drafts(drafter.max_drafts, position)
        block, look, confident, draft_peaks = nothing, None, None, None
        if n:
            if behind:
                catch_up()
            if schedule.looks:
                look = context.look(anchor)
                n = schedule.look(drafter.calibrated(look.confidence).item(), n)
        if n:
            block = context.propose(anchor, n, pick.block(n), with_confidence, look)
            confident = drafter.calibrated(block.confidence) if with_confidence else None
            draft_peaks = block.logits.max(axis=-1)
            # The drafter works while the verification's graph is built.
            mx.async_eval(block.ids, draft_peaks, [] if confident is None else confident)
            if profile:
                mx.eval(block.ids, draft_peaks)
            if schedule.needs_confidence:
                n = schedule.proposed(n, confident.tolist())
        drafted = clock()

        v = ahead or verify(anchor, block, n)
        ahead = None
        if block is nothing and look is None and not profile and produced + 1 < request.limit and schedule.parked():
            ahead = verify(v.following, nothing, 0)
        if profile:
            mx.eval(v.peaks, v.features)
        verified = clock()

        require_finite(v.peaks.tolist(), position)
        if draft_peaks is not None:
            _require_finite_drafts(draft_peaks.tolist(), position)
        kept, next_id = v.accepted.item(), v.following.item()
        draft_ids = [] if block is nothing else block.ids.tolist()
        trim(cache, n - kept)
        chosen, again = [*draft_ids[:kept], next_id], None
        if keeper:
            counted = len(request.cut(chosen, produced)[0])
            chosen, again = keeper.settle(anchor_id, chosen, v.gaps.tolist()[:counted])
            kept, next_id = len(chosen) - 1, chosen[-1]
            ahead = None if again else ahead  # it went on from a cache that has been replaced
        behind.append(v.features[: kept + 1])
        if len(behind) == PREFILL_CHUNK:
            mx.async_eval(catch_up())
        committed, finish = request.cut(chosen, produced)
        now = clock()
        done = Round(
            index,
            position,
            anchor_id,
            tuple(draft_ids),
            n,
            kept,
            next_id,
            kept == v.end.item(),
            tuple(committed),
            now - began,
            finish,
            tuple(confident.tolist()) if confident is not None else None,
            Detail(*(tuple(x.tolist()) for x in v.numbers)) if v.numbers else None,
            Spent(drafted - stamp, verified - drafted, now - verified) if profile else None,
            look is not None,
            again,
        )
        schedule.observe(done)
        yield done
        anchor = mx.array([next_id], dtype=mx.int32) if again else v.following
        anchor_id = next_id
        position += kept + 1
        produced += len(committed)
        index += 1


@dataclass(frozen=True)
class _Verified:
    """One verification on its way: accepted drafts [], how many could be [], next id [1], largest logits [n + 1],
    taps [n + 1, m*d], q, p and accept probability of the drafts where sampled, and in strict mode the gap of the two
    best logits [n + 1], empty otherwise."""

    accepted: mx.array
    end: mx.array
    following: mx.array
    peaks: mx.array
    features: mx.array
    numbers: list[mx.array]
    gaps: mx.array


def _require_finite_drafts(peaks: list[float], position: int) -> None:
    for k, peak in enumerate(peaks):
        if not math.isfinite(peak):
            raise DecodeError(
                f"The drafter's logits are not finite at slot {k + 1} of the block at position {position}: "
                "decoding stops here."
            )
