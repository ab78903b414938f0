"""The one speculative loop: draft a block, verify it in one pass of the target, keep what it would have said.

DeepSpec's reference evaluator, batch 1. At the start of a round the target's cache and the drafter's context hold
everything before the anchor; the anchor goes through the target as the first row of the verification.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import mlx.core as mx

from ..errors import DecodeError
from ..models.cache import trim
from ..models.drafter import Drafter, Look, Proposal, calibrated, gaps
from ..models.target import Target
from .prefill import PREFILL_CHUNK, Prefilled, Request, check, picker, prefill, require_finite
from .prefixes import Prefix
from .rounds import Again, Detail, Prefill, Round, Settings, Spent, Start
from .sampling import (
    Sampled,
    Uniforms,
    accept_greedy,
    accept_probability,
    accept_sampled,
    countable,
    probabilities,
    take,
)
from .schedule import Schedule
from .strict import Strict


@dataclass(frozen=True)
class Options:
    """How a decode runs, whatever it decodes.

    confidence: fill `Round.confidence`, where the drafter gives any
    profile:    time draft and verification apart (one synchronisation more a round)
    prefilled:  the prompt's prefill, done before, or that of its beginning, with the drafter's context
    strict:     how far the device moves logits with the width; above 0, greedy choices that this could have turned are
                decided again by plain decoding's own numbers (strict.py)
    """

    confidence: bool = False
    profile: bool = False
    prefilled: Prefilled | Prefix | None = None
    strict: float = 0.0


def speculative(
    target: Target,
    drafter: Drafter,
    prompt: list[int],
    settings: Settings,
    schedule: Schedule,
    options: Options = Options(),
    *,
    uniforms: Uniforms | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Prefill | Start | Round]:
    """Decode with a drafter. The output is the target's own: token for token when greedy, in distribution otherwise.

    `uniforms` takes the place of `settings.seed`; they are used in this order: the first token; then per round one
    for each draft in slot order (also of a drafter that draws none), the acceptances of all proposed drafts, the
    correction or bonus. `clock` returns seconds of own time. Raises DecodeError.

    A greedy round whose length is known before it is drafted has one synchronisation. While the schedule drafts
    nothing, rounds are plain steps, pipelined as `plain` does; their positions reach the drafter's context when it
    drafts again. Everything that is read of a round was put on the device as a part of it, before the round that
    follows.
    """
    if schedule.needs_confidence and not drafter.info.has_confidence:
        raise DecodeError(f"{drafter.info.name} gives no confidence, which this schedule needs.")
    if options.strict and not settings.greedy:
        raise DecodeError("Strict mode decides between the two best tokens again, so it is for greedy decoding only.")
    began = clock() - (options.prefilled.seconds if options.prefilled else 0.0)
    request = check(target, prompt, settings)
    decode = Speculation(request, drafter, settings, schedule, options, Tape(uniforms, settings.seed), clock)
    logits = yield from prefill(request, decode.cache, drafter.taps, decode.extend, options.prefilled)
    yield decode.start(logits, began)
    try:
        while not decode.finish:
            draft = decode.draft()
            verified = decode.verify(draft)
            settled = decode.settle(draft, verified)
            yield decode.commit(draft, verified, settled)
    except GeneratorExit:
        decode.leave()
        raise
    decode.leave()


class Tape(Uniforms):
    """Uniform numbers in the order of their use. What a block did not need goes back and is used next."""

    def __init__(self, uniforms: Uniforms | None, seed: int):
        self._source = uniforms or Uniforms(seed)
        self._back: mx.array | None = None

    def take_fixed(self, n: int) -> mx.array:
        """The next n numbers, [n] uint64 or float32, as the source gives them."""
        back, self._back = self._back, None
        if back is None:
            return take(self._source, n)
        if n < back.shape[0]:
            self._back = back[n:]
            return back[:n]
        return mx.concatenate([back, take(self._source, n - back.shape[0])])

    take = take_fixed

    def give_back(self, numbers: mx.array) -> None:
        """Numbers [n] that were the last to be taken and were not used."""
        self._back = numbers if self._back is None else mx.concatenate([numbers, self._back])


@dataclass(frozen=True)
class Draft:
    """What a round drafted. Arrays are on their way, not waited for.

    proposal:   n drafts; None where nothing was drafted
    sent:       the first so many of them go to verification
    idle:       the schedule asked for nothing, not even a look
    looked:     the block was computed and its first confidence asked before any draft
    confidence: [n] calibrated probabilities; None if they were not asked for
    peaks:      [n] largest draft logits; None where there are none
    began, ended: the clock
    """

    proposal: Proposal | None
    sent: int
    idle: bool
    looked: bool
    confidence: mx.array | None
    peaks: mx.array | None
    began: float
    ended: float


@dataclass(frozen=True)
class Verified:
    """One verification on its way: accepted drafts [], how many could be [], next id [1], largest logits [n + 1],
    taps [n + 1, m*d] (None without taps), q, p and accept probability of the drafts where sampled, and in strict mode
    the gap of the two best logits [n + 1], empty otherwise. `ended`: the clock at its end, where that is profiled."""

    accepted: mx.array
    end: mx.array
    following: mx.array
    peaks: mx.array
    features: mx.array | None
    numbers: list[mx.array]
    gaps: mx.array
    ended: float = 0.0


@dataclass(frozen=True)
class Settled:
    """What a round came to, on the host: every token drafted; the accepted drafts and the target's own token; and
    what strict mode decided again."""

    draft_ids: list[int]
    chosen: list[int]
    again: Again | None


class Speculation:
    """One decode under way: the target's cache, the drafter's context, and the anchor that is in neither.

    The host waits for the device in three places and in no other: `wait_for_look`, `wait_for_confidences`,
    `wait_for_verification` (and, profiled, at the end of `draft` and of `verify`).
    """

    def __init__(
        self,
        request: Request,
        drafter: Drafter,
        settings: Settings,
        schedule: Schedule,
        options: Options,
        tape: Tape,
        clock: Callable[[], float],
    ):
        self.request, self.target = request, request.target
        self.drafter, self.settings, self.options = drafter, settings, options
        self.tape, self.clock = tape, clock
        self.pick = picker(settings, tape)
        self.schedule = schedule.begin(drafter.info.max_drafts)
        self.with_confidence = drafter.info.has_confidence and (options.confidence or schedule.needs_confidence)
        self.stop_ids = sorted(request.stop_ids)
        self.cache, self.context = self.target.new_cache(), drafter.begin()
        self.strict = Strict(self.target, self.cache, options.strict, clock) if options.strict else None
        self.ahead: Verified | None = None  # a plain step that is on the device already
        # Committed positions that the drafter's context lacks. Their ids are plain numbers: sliced from a step's own
        # arrays they would stand behind the step that follows.
        self.behind_ids: list[int] = []
        self.behind_taps: list[mx.array] = []
        self.anchor, self.anchor_id = mx.zeros((1,), dtype=mx.int32), 0
        self.position, self.index, self.produced = len(request.prompt), 0, 1
        self.started = 0.0
        self.nothing = Proposal(mx.zeros((0,), dtype=mx.int32))  # the drafts of a plain step
        self.finish: str | None = None

    def extend(self, ids: mx.array, taps: mx.array | None) -> list[mx.array]:
        """Append committed positions to the drafter's context; returns arrays to evaluate."""
        self.context.extend(ids, taps)
        return self.context.state

    def start(self, logits: mx.array, began: float) -> Start:
        """The first token, from the logits [1, V] of the prompt's last position."""
        self.anchor, _ = self.pick(logits)
        self.anchor_id = self.anchor.item()
        _, self.finish = self.request.cut([self.anchor_id], 0)
        self.started = self.clock()
        return Start(self.anchor_id, self.position, self.started - began, self.finish)

    # ---- draft ----

    def draft(self) -> Draft:
        """As many drafts as the schedule asks for, or as the drafter has; decides how many of them are sent."""
        began, info, schedule = self.clock(), self.drafter.info, self.schedule
        if schedule.previews:
            self.catch_up()
            foreseen = self.context.preview(self.anchor_id)
            schedule.preview(foreseen.ids, foreseen.confidence, self.position)
        n = asked = 0 if self.ahead else schedule.drafts(info.max_drafts, self.position)
        look: Look | None = None
        if n:
            self.catch_up()
            if schedule.looks and info.has_look:
                look = self.context.look(self.anchor)
                n = schedule.look(self.wait_for_look(look), n)
        proposal = self.propose(n, look) if n else None
        if proposal is None:
            return Draft(None, 0, not asked, look is not None, None, None, began, self.clock())
        with_confidence = self.with_confidence and proposal.confidence is not None
        confidence = calibrated(proposal.confidence, info.calibration) if with_confidence else None
        peaks = None if proposal.logits is None else proposal.logits.max(axis=-1)
        # The drafter works while the verification's graph is built.
        mx.async_eval([x for x in (proposal.ids, peaks, confidence) if x is not None])
        if self.options.profile:
            mx.eval([x for x in (proposal.ids, peaks) if x is not None])
        sent = proposal.ids.shape[0]
        if schedule.needs_confidence:
            sent = schedule.proposed(sent, self.wait_for_confidences(confidence))
        return Draft(proposal, sent, False, look is not None, confidence, peaks, began, self.clock())

    def propose(self, n: int, look: Look | None) -> Proposal | None:
        """At most n drafts after the anchor; None if the drafter has none. Raises DecodeError if it has more."""
        pick = self.pick.block(n)
        proposal = self.context.propose(self.anchor, n, pick, self.with_confidence, look)
        drafts = proposal.ids.shape[0]
        if drafts > n:
            raise DecodeError(f"{self.drafter.info.name} drafted {drafts} tokens where {n} were asked for.")
        numbers = pick.numbers if isinstance(pick, Sampled) else None
        if numbers is not None and drafts < n:  # so that a round's numbers follow from what it records
            self.tape.give_back(numbers[drafts:])
        return proposal if drafts else None

    def catch_up(self) -> list[mx.array]:
        """Bring the drafter's context up to the anchor; returns arrays to evaluate."""
        if not self.behind_ids:
            return []
        taps = mx.concatenate(self.behind_taps) if self.drafter.taps else None
        state = self.extend(mx.array(self.behind_ids, dtype=mx.int32), taps)
        self.behind_ids, self.behind_taps = [], []
        return state

    def leave(self) -> None:
        """At the end: what was decoded is for somebody else to go on from, if the prompt was given as a Prefix."""
        if isinstance(self.options.prefilled, Prefix):
            self.catch_up()

    def wait_for_look(self, look: Look) -> float:
        """The first draft's probability of being accepted: known before any head row is computed."""
        return float(calibrated(look.confidence, self.drafter.info.calibration).item())

    def wait_for_confidences(self, confidence: mx.array | None) -> list[float]:
        """Of every draft. It costs a synchronisation in mid-round, so it is done for schedules that need it alone."""
        return [] if confidence is None else confidence.tolist()

    # ---- verify ----

    def verify(self, draft: Draft) -> Verified:
        """The target on the anchor and the drafts that are sent: the one of this round, and behind it, while drafting
        is parked, that of the next one."""
        verified = self.ahead or self.pass_target(self.anchor, draft.proposal or self.nothing, draft.sent)
        self.ahead = None
        # A next step may only be begun where this round can end in no other way than with the token that the step
        # starts from, and where nothing will be drafted from it.
        profile, more = self.options.profile, self.produced + 1 < self.request.limit
        if draft.idle and more and not profile and self.schedule.parked():
            self.ahead = self.pass_target(verified.following, self.nothing, 0)
        if not profile:
            return verified
        mx.eval(verified.peaks, [] if verified.features is None else verified.features)
        return replace(verified, ended=self.clock())

    def pass_target(self, anchor: mx.array, proposal: Proposal, n: int) -> Verified:
        """The target on an anchor [1] and n drafts, and what is kept: on its way, not waited for."""
        drafts = proposal.ids[:n]
        if self.strict:
            self.strict.before(n + 1)
        tokens = mx.concatenate([anchor, drafts]) if n else anchor
        hidden, features = self.target.forward(tokens, self.cache, self.drafter.taps)
        logits = self.target.head(hidden)
        end = countable(drafts, self.stop_ids)
        numbers: list[mx.array] = []
        if not n:  # a plain step
            accepted, (following, p) = end, self.pick(logits)
            numbers = [] if p is None else [mx.array([])] * 3
        elif self.settings.greedy:
            accepted, following = accept_greedy(drafts, logits, end)
        else:
            p = probabilities(logits, self.settings)
            q = proposal.distribution(p.shape[-1])[:n]
            u_accept, u_next = self.tape.take(n), self.tape.take(1)
            accepted, following, q, p = accept_sampled(drafts, q, p, u_accept, u_next, end)
            numbers = [q, p, accept_probability(q, p)]
        close = gaps(logits) if self.strict else mx.array([])
        peaks = logits.max(axis=-1)
        # All that the host will read of this round goes onto the device here, with the round itself: an array that is
        # built later stands behind the next step in the device's queue, and waiting for it is waiting for that step.
        mx.async_eval(accepted, end, following, peaks, [] if features is None else features, numbers, close)
        return Verified(accepted, end, following, peaks, features, numbers, close)

    # ---- settle and commit ----

    def wait_for_verification(self, draft: Draft, verified: Verified) -> tuple[list[int], int, int]:
        """Draft ids, accepted count, and the target's own token. Raises DecodeError for logits that are not finite."""
        require_finite(verified.peaks.tolist(), self.position)
        if draft.peaks is not None:
            bad = next((k for k, peak in enumerate(draft.peaks.tolist(), 1) if not math.isfinite(peak)), None)
            if bad:
                raise DecodeError(
                    f"The drafter's logits are not finite at slot {bad} of the block at position {self.position}: "
                    "decoding stops here."
                )
        draft_ids = draft.proposal.ids.tolist() if draft.proposal else []
        return draft_ids, verified.accepted.item(), verified.following.item()

    def settle(self, draft: Draft, verified: Verified) -> Settled:
        """Wait for the verification; drop from the cache what it rejected; decide close calls again in strict mode."""
        draft_ids, accepted, next_id = self.wait_for_verification(draft, verified)
        trim(self.cache, draft.sent - accepted)
        chosen, again = [*draft_ids[:accepted], next_id], None
        if self.strict:
            counted = len(self.request.cut(chosen, self.produced)[0])
            chosen, again = self.strict.settle(self.anchor_id, chosen, verified.gaps.tolist()[:counted])
            if again:  # the step ahead went on from a cache that has been replaced
                self.ahead = None
        return Settled(draft_ids, chosen, again)

    def commit(self, draft: Draft, verified: Verified, settled: Settled) -> Round:
        """The round as it stands in the output, and everything ready for the next one."""
        chosen, accepted = settled.chosen, len(settled.chosen) - 1
        self.behind_ids += [self.anchor_id, *chosen[:-1]]
        if verified.features is not None:
            self.behind_taps.append(verified.features[: accepted + 1])
        if len(self.behind_ids) >= PREFILL_CHUNK:  # while parked: neither memory nor the next catching-up grows
            mx.async_eval(self.catch_up())
        committed, self.finish = self.request.cut(chosen, self.produced)
        now = self.clock()
        spent = Spent(draft.ended - draft.began, verified.ended - draft.ended, now - verified.ended)
        done = Round(
            index=self.index,
            position=self.position,
            anchor_id=self.anchor_id,
            draft_ids=tuple(settled.draft_ids),
            proposed=draft.sent,
            accepted=accepted,
            next_id=chosen[-1],
            bonus=accepted == verified.end.item(),
            committed=tuple(committed),
            time_s=now - self.started,
            finish=self.finish,
            confidence=None if draft.confidence is None else tuple(draft.confidence.tolist()),
            detail=Detail(*(tuple(x.tolist()) for x in verified.numbers)) if verified.numbers else None,
            spent=spent if self.options.profile else None,
            looked=draft.looked,
            again=settled.again,
        )
        self.schedule.observe(done)
        # The anchor stays on the device: a round ahead was built on it. Strict mode's own token came from the host.
        self.anchor = mx.array(chosen[-1:], dtype=mx.int32) if settled.again else verified.following
        self.anchor_id = chosen[-1]
        self.position += accepted + 1
        self.produced += len(committed)
        self.index += 1
        return done
