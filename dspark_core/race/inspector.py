"""Recomputes one round of a finished race from its prefix: the distributions behind every slot.

A greedy race keeps no probabilities (they cost time), and a sampled one keeps those of the drafted tokens only. The
recorded tokens fix everything else: the prefix goes through the target once more, the drafter drafts along the
recorded block, and the target verifies it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from ..decode.rounds import Round, Settings
from ..decode.sampling import (
    Uniforms,
    accept_greedy,
    accept_sampled,
    as_float,
    countable,
    draw,
    probabilities,
    residual,
    take,
)
from ..errors import DecodeError
from ..models.cache import trim
from ..models.drafter import Pick, calibrated
from .inspection import (
    ACCEPTED,
    MOST,
    REJECTED,
    TOP,
    Block,
    Candidate,
    Inspection,
    OwnToken,
    Slot,
    fates,
    fates_of,
    piece,
)
from .loaded import Models
from .records import LaneRecord, RaceRecord

DRAFT_LOGIT = 16.0  # of the best drafts, about
CHUNK = 128  # tokens of the prefix between two looks at `cancelled`


@dataclass(frozen=True)
class Numbers:
    """The random numbers of one round, as `draw` takes them: of its drafts [n], acceptances [m] and own token [1]."""

    drafts: mx.array
    accept: mx.array
    own: mx.array


@dataclass(frozen=True)
class Judged:
    """A block of n drafts, m of them sent, with every distribution, float32.

    ids [n]; q [n, V] of the drafter; p [m + 1, V] of the target; q_x [n], p_x [m], accept [m] = min(1, p/q) of the
    drafts; residual [m, V] = max(p - q, 0) normalised (p where nothing is left), with its mass [m] before that.
    """

    ids: mx.array
    q: mx.array
    p: mx.array
    q_x: mx.array
    p_x: mx.array
    accept: mx.array
    residual: mx.array
    mass: mx.array


def reading(settings: Settings) -> Settings:
    """At which settings probabilities are read: greedy decoding has none of its own, so temperature 1."""
    return replace(settings, temperature=1.0, top_k=0, top_p=1.0) if settings.greedy else settings


def judged(ids: mx.array, q: mx.array, target_logits: mx.array, settings: Settings) -> Judged:
    """ids [n], the drafter's distributions q [n, V], target logits [m + 1, V] with m <= n."""
    m = target_logits.shape[0] - 1
    p = probabilities(target_logits, settings)
    q_x = mx.take_along_axis(q, ids[:, None], axis=-1)[:, 0]
    p_x = mx.take_along_axis(p[:-1], ids[:m, None], axis=-1)[:, 0]
    accept = mx.minimum(1.0, p_x / mx.maximum(q_x[:m], 1e-30))
    mass = mx.maximum(p[:m] - q[:m], 0).sum(axis=-1)
    left = residual(p[:m], q[:m])
    return Judged(ids, q, p, q_x, p_x, accept, left / left.sum(axis=-1, keepdims=True), mass)


def inspect(
    models: Models | None,
    record: RaceRecord,
    lane: int,
    index: int,
    cancelled: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Inspection | None:
    """Round `index` of a race's lane, recomputed; None if it was cancelled.

    Raises DecodeError, in one sentence, if the race ran on other models than the loaded ones.
    """
    if models is None:
        raise DecodeError(f"This race ran on {record.target}, {record.precision}; no model is loaded.")
    target = models.target
    if (target.name, target.precision) != (record.target, record.precision):
        raise DecodeError(
            f"This race ran on {record.target}, {record.precision}; loaded is {target.name}, {target.precision}."
        )
    prompt = target.encode_chat(record.request.messages, **record.request.switches)
    if len(prompt) != record.prompt_tokens:
        raise DecodeError("The loaded tokenizer reads this race's prompt in another way.")
    for _ in models.read([record.lanes[lane].spec.drafter_id]):
        models.kept = None
    if not isinstance(models.kept, Inspector):
        models.kept = Inspector(models)
    settings = record.request.settings
    return models.kept.inspect(prompt, record.lanes[lane], index, settings, cancelled, progress=progress)


class Inspector:
    """Inspects rounds of races on one set of loaded models, on the thread that owns MLX.

    It keeps the caches of the last prefix, so that a neighbouring round, or the same place in another lane, costs
    its own passes only. `forget` drops them.
    """

    def __init__(self, models: Models):
        self._models = models
        self._drafters = models.loaded
        self._taps = tuple(sorted({t for d in self._drafters.values() for t in d.taps}))
        self.forget()

    def forget(self) -> None:
        """Drop what is kept of the last prefix."""
        self._known: list[int] = []
        self._cache = self._models.target.new_cache()
        self._contexts = {id_: d.begin() for id_, d in self._drafters.items()}

    def inspect(
        self,
        prompt: Sequence[int],
        lane: LaneRecord,
        index: int,
        settings: Settings,
        cancelled: Callable[[], bool] = lambda: False,
        uniforms: Uniforms | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Inspection | None:
        """Round `index` of a lane that ran under `settings` on `prompt`; None if it was cancelled.

        `uniforms` takes the place of `settings.seed`; `progress` is told tokens of the prefix, done and in all. Raises
        DecodeError if the lane's drafter is not loaded or the record does not fit it.
        """
        began = time.perf_counter()
        round_ = lane.rounds[index]
        text = [*prompt, *lane.output]
        if text[round_.position : round_.position + 1] != [round_.anchor_id]:
            raise DecodeError("The recorded round does not fit the recorded answer.")
        self._require_ids([*text, *round_.draft_ids])
        drafter_id = self._drafter_id(lane, round_)
        numbers = None if settings.greedy else _round_numbers(lane, index, uniforms or Uniforms(settings.seed))
        tail = [round_.anchor_id, *round_.draft_ids[: round_.proposed]]
        try:
            reused = self._walk(text[: round_.position], cancelled, progress)
            if reused is None:
                return None
            verified = self._read(text[len(self._known) : round_.position], tail)
            block, without, agrees = self._round(drafter_id, round_, verified, settings, numbers)
        except Exception:
            self.forget()
            raise
        shown, drafter = reading(settings), self._drafters.get(drafter_id)
        return Inspection(
            round_.index,
            round_.position,
            round_.anchor_id,
            self._text(round_.anchor_id),
            settings.greedy,
            shown.temperature,
            block,
            len(round_.committed),
            without,
            True,
            agrees,
            round_.position,
            reused,
            time.perf_counter() - began,
            bias=drafter.info.bias if drafter else "",
            candidates=drafter.info.candidates if drafter else 0,
        )

    def _require_ids(self, ids: Sequence[int]) -> None:
        """Ids of a race may come from a file; MLX reads past a table's end without a word. Raises DecodeError."""
        size = self._models.target.vocab_size
        if (foreign := next((i for i in ids if not 0 <= i < size), None)) is not None:
            raise DecodeError(
                f"This race has the token id {foreign}, and the vocabulary of the loaded "
                f"{self._models.target.name} ends at {size - 1}: it cannot be recomputed here."
            )

    def _drafter_id(self, lane: LaneRecord, round_: Round) -> str:
        """Of the loaded drafter that drafted a round; empty if none did. Raises DecodeError."""
        if not round_.draft_ids:
            return ""
        name = lane.spec.drafter or lane.spec.method
        drafter = self._drafters.get(lane.spec.drafter_id)
        if drafter is None:
            raise DecodeError(f"The {name} drafter that drafted this round is not loaded.")
        if len(round_.draft_ids) > drafter.info.max_drafts:
            raise DecodeError(
                f"{len(round_.draft_ids)} tokens were drafted; the loaded {name} drafter drafts "
                f"{drafter.info.max_drafts} at most."
            )
        return lane.spec.drafter_id

    # ---- the prefix ------------------------------------------------------------------------------------------

    def _walk(
        self, prefix: list[int], cancelled: Callable[[], bool], progress: Callable[[int, int], None]
    ) -> int | None:
        """Bring every cache to all of `prefix` but its last CHUNK tokens at most. Returns how many of them were there
        already; None if cancelled."""
        kept = next((i for i, (a, b) in enumerate(zip(self._known, prefix, strict=False)) if a != b), None)
        kept = min(len(self._known), len(prefix)) if kept is None else kept
        try:
            self._drop(len(self._known) - kept)
        except ValueError:  # a sliding window has moved on: it cannot come back
            self.forget()
        kept = len(self._known)
        while not cancelled():
            progress(len(self._known), len(prefix))
            if len(prefix) - len(self._known) <= CHUNK:
                return kept
            chunk = prefix[len(self._known) : len(self._known) + CHUNK]
            self._read(chunk, [])
            mx.eval([c.state for c in self._cache], [context.state for context in self._contexts.values()])
        return None

    def _read(self, chunk: list[int], tail: list[int]) -> mx.array:
        """Add `chunk` to every cache, and in the same pass of the target the `tail` to its cache alone. Returns the
        target's logits [n, V] along the tail."""
        target, n = self._models.target, len(chunk)
        ids = mx.array([*chunk, *tail], dtype=mx.int32)
        hidden, features = target.forward(ids, self._cache, self._taps)
        for id_, context in self._contexts.items() if n else ():
            context.extend(ids[:n], self._tapped(features, n, self._drafters[id_].taps))
        self._known += chunk
        return target.head(hidden[n:]) if tail else hidden[n:]

    def _drop(self, n: int) -> None:
        """Forget the newest n tokens. Raises ValueError if a window cannot go back that far."""
        if not n:
            return
        trim(self._cache, n)
        for context in self._contexts.values():
            context.rollback(n)
        del self._known[len(self._known) - n :]

    def _tapped(self, features: mx.array | None, n: int, taps: tuple[int, ...]) -> mx.array | None:
        """The first n rows of those columns [n, m*d] of all taps that one drafter looks at, in its order."""
        if features is None or not taps:
            return None
        if taps == self._taps:
            return features[:n]
        layers = mx.split(features[:n], len(self._taps), axis=-1)
        return mx.concatenate([layers[self._taps.index(t)] for t in taps], axis=-1)

    # ---- the round -------------------------------------------------------------------------------------------

    def _round(
        self,
        drafter_id: str,
        round_: Round,
        verified: mx.array,
        settings: Settings,
        numbers: Numbers | None,
    ) -> tuple[Block, Block | None, bool]:
        """The recorded block, the one whose drafts do not see each other, and whether the recorded outcome came
        again.

        `verified` [m + 1, V] are the target's logits along anchor and sent drafts, which are in its cache.
        """
        ids, q, redrawn, confidence, base = self._drafted_again(
            drafter_id, round_, verified.shape[-1], settings, numbers
        )
        recorded = judged(ids, q, verified, reading(settings))
        accepted, next_id, _ = self._fate(recorded, verified, settings, numbers)
        agrees = (redrawn, accepted, next_id) == (list(round_.draft_ids), round_.accepted, round_.next_id)
        agrees = agrees and self._same_confidence(drafter_id, confidence, round_.confidence)
        most = min(max(TOP, self._drafters[drafter_id].info.candidates), MOST) if drafter_id else TOP
        block = self._block(recorded, fates_of(round_), round_.next_id, numbers, confidence, most)
        without = None if base is None else self._unbiased(base, round_, verified, settings, numbers, most)
        trim(self._cache, 1 + round_.proposed)
        return block, without, agrees

    def _drafted_again(
        self, drafter_id: str, round_: Round, vocabulary: int, settings: Settings, numbers: Numbers | None
    ) -> tuple[mx.array, mx.array, list[int], list[float] | None, mx.array | None]:
        """The recorded drafts [n], the drafter's distributions along them [n, V], the drafts that it gives now, their
        confidences, and their logits [n, V] from before they see each other, if they do; None for what is not there."""
        ids = mx.array(round_.draft_ids, dtype=mx.int32)
        if not drafter_id:
            return ids, mx.zeros((0, vocabulary)), [], None, None
        info, anchor = self._drafters[drafter_id].info, mx.array([round_.anchor_id], dtype=mx.int32)
        proposal = self._contexts[drafter_id].propose(anchor, ids.shape[0], _along(ids), True)
        if proposal.logits is None:  # what a drafter is certain of shows as such
            q, redrawn = proposal.distribution(vocabulary), proposal.ids
        else:
            q, redrawn = probabilities(proposal.logits, reading(settings)), _redrawn(proposal.logits, settings, numbers)
        missing = mx.zeros((ids.shape[0] - q.shape[0], vocabulary))  # where another one drafted the recorded round
        confidence = None
        if proposal.confidence is not None:
            confidence = calibrated(proposal.confidence, info.calibration).tolist()
        base = proposal.base if info.has_bias else None
        return ids, mx.concatenate([q, missing]), redrawn.tolist(), confidence, base

    def _same_confidence(self, drafter_id: str, again: list[float] | None, recorded: tuple[float, ...] | None) -> bool:
        """Are these the recorded probabilities, but for rounding? A race that asked for none wrote none down."""
        if recorded is None:
            return True
        if again is None or len(again) != len(recorded):
            return not drafter_id and not recorded
        rounding = max(1e-3, 4 * mx.finfo(self._models.target.dtype).eps)  # of the logit, which is then divided
        info = self._drafters[drafter_id].info
        if not info.has_look:  # by the margin of logits that are larger than it, and round off as coarsely
            rounding *= DRAFT_LOGIT / 4  # the steepest slope of a probability is a quarter of its logit's
        temperatures = info.calibration.temperatures or (1.0,) * len(again)
        return all(abs(a - b) <= rounding / min(t, 1.0) for a, b, t in zip(again, recorded, temperatures, strict=False))

    def _unbiased(
        self,
        base: mx.array,
        round_: Round,
        verified: mx.array,
        settings: Settings,
        numbers: Numbers | None,
        most: int,
    ) -> Block:
        """The block that the base logits [n, V] alone propose. The cache holds the recorded one, `verified` [m + 1, V]
        are the target's logits along it, and both hold up to the first difference. Only if the drafts that differ
        are accepted does the target look further."""
        sent, shown = round_.proposed, reading(settings)
        ids = _redrawn(base, settings, numbers)
        own = ids.tolist()[:sent]
        q = probabilities(base, shown)
        same = next((k for k, (a, b) in enumerate(zip(round_.draft_ids, own, strict=False)) if a != b), sent)
        block = judged(ids, q, verified[: same + 2], shown)  # a last row is needed for its shape alone
        accepted, next_id, bonus = self._fate(block, verified[: same + 2], settings, numbers)
        if same < sent and accepted > same:
            trim(self._cache, sent - same)
            verified = mx.concatenate([verified[: same + 1], self._read([], own[same:])])
            block = judged(ids, q, verified, shown)
            accepted, next_id, bonus = self._fate(block, verified, settings, numbers)
        fate = fates(ids.tolist(), sent, accepted, bonus, next_id)
        return self._block(block, fate, next_id, numbers, None, most)

    def _fate(
        self, block: Judged, verified: mx.array, settings: Settings, numbers: Numbers | None
    ) -> tuple[int, int, bool]:
        """Accepted count, next token, and whether nothing that was sent is rejected."""
        n = verified.shape[0] - 1
        drafts = block.ids[:n]
        stops = self._models.target.stop_ids if settings.stop_ids is None else settings.stop_ids
        end = countable(drafts, sorted(stops))
        if numbers is None:
            accepted, next_token = accept_greedy(drafts, verified, end)
        else:
            u = numbers.accept[:n]
            accepted, next_token, _, _ = accept_sampled(drafts, block.q[:n], block.p, u, numbers.own, end)
        return accepted.item(), next_token.item(), accepted.item() == end.item()

    def _block(
        self,
        block: Judged,
        fate: tuple[list[str], str],
        next_id: int,
        numbers: Numbers | None,
        confidence: list[float] | None,
        most: int,
    ) -> Block:
        """most: tokens shown of the drafter's distributions."""
        known, ids, (outcomes, kind) = block.accept.shape[0], block.ids.tolist(), fate
        q_x, p_x, accept = block.q_x.tolist(), block.p_x.tolist(), block.accept.tolist()
        drawn = as_float(numbers.accept).tolist() if numbers else None
        q, p = np.array(block.q), np.array(block.p)
        slots = tuple(
            Slot(
                token,
                self._text(token),
                outcomes[k],
                q_x[k],
                p_x[k] if k < known else None,
                accept[k] if k < known else None,
                drawn[k] if drawn and k < known else None,
                confidence[k] if confidence else None,
                self._top(q[k], most),
                self._top(p[k]) if k < known else (),
            )
            for k, token in enumerate(ids)
        )
        accepted = outcomes.count(ACCEPTED)
        rejected = REJECTED in outcomes
        source = np.array(block.residual[accepted]) if rejected else p[accepted]
        mass = block.mass[accepted].item() if rejected else None
        own = OwnToken(next_id, self._text(next_id), kind, self._top(source), mass)
        return Block(slots, accepted, own)

    def _top(self, row: np.ndarray, most: int = TOP) -> tuple[Candidate, ...]:
        """The most probable tokens of a distribution [V]; ties go to the lowest id."""
        best = np.argpartition(-row, min(most, row.size - 1))[:most]
        best = sorted((-float(row[i]), int(i)) for i in best if row[i] > 0)
        return tuple(Candidate(i, self._text(i), -p) for p, i in best)

    def _text(self, token_id: int) -> str:
        return piece(self._models.target.token_bytes(token_id)) if self._models.target.text else str(token_id)


def _round_numbers(lane: LaneRecord, index: int, uniforms: Uniforms) -> Numbers:
    """What the decode loops drew in a round: one number before the first, then drafts, acceptances, own token."""
    take(uniforms, 1 + sum(len(r.draft_ids) + r.proposed + 1 for r in lane.rounds[:index]))
    r = lane.rounds[index]
    return Numbers(take(uniforms, len(r.draft_ids)), take(uniforms, r.proposed), take(uniforms, 1))


def _along(ids: mx.array) -> Pick:
    """A pick that follows the recorded ids [n] whatever the logits say."""

    def pick(logits: mx.array, first: int = 0) -> tuple[mx.array, None]:
        return ids[first : first + logits.shape[0]], None

    return pick


def _redrawn(logits: mx.array, settings: Settings, numbers: Numbers | None) -> mx.array:
    """Ids [n] that logits [n, V] give: the largest, or what the round's numbers draw."""
    if not logits.shape[0]:
        return mx.zeros((0,), dtype=mx.int32)
    if numbers is None:
        return mx.argmax(logits, axis=-1).astype(mx.int32)
    return draw(probabilities(logits, settings), numbers.drafts)
