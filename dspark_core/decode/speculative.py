"""The one speculative loop: draft a block, verify it in one pass of the target, keep what it would have said.

DeepSpec's reference evaluator, batch 1. At the start of a round the target's cache and the drafter's context hold
everything before the anchor; the anchor goes through the target as the first row of the verification.
"""

import time
from collections.abc import Callable, Iterator

import mlx.core as mx

from ..models.cache import trim
from ..models.drafter import Drafter
from ..models.target import Target
from .accept import accept_greedy, accept_probability, accept_sampled, countable
from .request import check, picker, prefill, require_finite
from .rounds import DecodeError, Detail, Prefill, Round, Settings, Spent, Start
from .sampling import Uniforms
from .schedule import Schedule


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
) -> Iterator[Prefill | Start | Round]:
    """Decode with a drafter. The output is the target's own: token for token when greedy, in distribution otherwise.

    `uniforms` takes the place of `settings.seed`; they are used in this order: the first token; then per round
    the drafts in slot order, the acceptances of all proposed drafts, the correction or bonus. `clock` returns
    seconds of own time; `confidence` fills `Round.confidence`; `profile` times draft and verification
    separately (one synchronisation more a round). Raises DecodeError.

    A greedy round whose length is known before it is drafted is one graph with one synchronisation.
    """
    if schedule.needs_confidence and not drafter.has_confidence:
        raise DecodeError(f"{drafter.name} has no confidence head, which this schedule needs.")
    request = check(target, prompt, settings)
    uniforms = uniforms or Uniforms(settings.seed)
    pick = picker(settings, uniforms)
    with_confidence = drafter.has_confidence and (confidence or schedule.needs_confidence)
    began = clock()
    cache, context = target.new_cache(), drafter.begin()

    def extend(features):
        context.extend(features)
        return context.state

    logits = yield from prefill(request, cache, drafter.taps, extend)
    anchor, _ = pick(logits)
    anchor_id = anchor.item()
    _, finish = request.cut([anchor_id], 0)
    position = len(request.prompt)
    yield Start(anchor_id, position, clock() - began, finish)

    stop_ids = sorted(request.stop_ids)
    began, index, produced = clock(), 0, 1
    while not finish:
        stamp = clock()
        n = schedule.drafts(drafter.max_drafts)
        block = context.propose(anchor, n, pick.block(n), with_confidence)
        confident = None
        if with_confidence:
            confident = mx.sigmoid(block.confidence.astype(mx.float32))
        optional = [confident] if with_confidence else []
        if schedule.needs_confidence or profile:
            mx.eval(block.ids, optional)
        if schedule.needs_confidence:
            n = schedule.proposed(n, confident.tolist())
        drafted = clock()

        hidden, features = target.forward(mx.concatenate([anchor, block.ids[:n]]), cache, drafter.taps)
        logits = target.head(hidden)
        peaks = logits.max(axis=-1)
        if profile:
            mx.eval(logits, features)
        verified = clock()

        drafts = block.ids[:n]
        end = countable(drafts, stop_ids)
        if settings.greedy:
            accepted, next_token = accept_greedy(drafts, logits, end)
            numbers = []
        else:
            p = pick.distribution(logits)
            u_accept, u_next = uniforms.take(n), uniforms.take(1)
            accepted, next_token, q, p = accept_sampled(drafts, block.q[:n], p, u_accept, u_next, end)
            numbers = [q, p, accept_probability(q, p)]
        draft_peaks = block.logits.max(axis=-1)
        mx.eval(accepted, end, next_token, block.ids, peaks, draft_peaks, numbers, optional)

        require_finite(peaks, position)
        _require_finite_drafts(draft_peaks, position)
        kept, next_id, draft_ids = accepted.item(), next_token.item(), block.ids.tolist()
        trim(cache, n - kept)
        context.extend(features[: kept + 1])
        committed, finish = request.cut([*draft_ids[:kept], next_id], produced)
        now = clock()
        yield Round(
            index,
            position,
            anchor_id,
            tuple(draft_ids),
            n,
            kept,
            next_id,
            kept == end.item(),
            tuple(committed),
            now - began,
            finish,
            tuple(confident.tolist()) if with_confidence else None,
            Detail(*(tuple(x.tolist()) for x in numbers)) if numbers else None,
            Spent(drafted - stamp, verified - drafted, now - verified) if profile else None,
        )
        anchor, anchor_id = next_token, next_id
        position += kept + 1
        produced += len(committed)
        index += 1


def _require_finite_drafts(peaks: mx.array, position: int) -> None:
    for k, bad in enumerate((~mx.isfinite(peaks)).tolist()):
        if bad:
            raise DecodeError(
                f"The drafter's logits are not finite at slot {k + 1} of the block at position {position}: "
                "decoding stops here."
            )
