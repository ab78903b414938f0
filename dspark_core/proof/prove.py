"""Does speculation draw from the target's own distribution? The first tokens of an answer, drawn many times.

Half of the draws send one draft a round, half send two (draws.py). They are compared with distributions that are
computed apart, from the logits of one row at a time (conditionals.py, exact.py, tallies.py). And because draws made
many at once could be right where the decode loop is wrong, the loop itself repeats some of every kind with the same
random numbers, and must come to the same tokens.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import mlx.core as mx
import numpy as np

from ..decode.prefill import Prefilled, prefill_once
from ..decode.rounds import DecodeError, Round, Settings, Start
from ..decode.sampling import Uniforms, draw
from ..decode.schedule import FixedCap
from ..decode.speculative import Options, speculative
from ..models.drafter import Drafter
from ..models.target import Target
from ..race.loaded import exact_device
from .chi_squared import compare_table
from .conditionals import DRAFTS, Conditionals, ask_models
from .draws import NUMBERS, PairSampler, draw_each
from .evidence import NO_BIAS, RIGHT, Check, DrawEvidence, DrawRequest, Pace, Step
from .samplers import ACCEPT
from .tallies import Acceptances, Bonuses, PairCounts

START_EVERY = 4  # draws; the answer's first token is one of few, and needs no more
FOLLOW_SHARE, DRAW_SHARE = 0.35, 0.7  # of the time: prefixes until here, draws until there, then repeats
REPEATS = 15

Kind = tuple[int, int]  # drafts sent, accepted
Repeat = tuple[int, np.ndarray, list[int]]  # drafts sent, random numbers, tokens with the answer's first


def prove(
    target: Target,
    drafter: Drafter,
    prompt: list[int],
    request: DrawRequest,
    cancelled: Callable[[], bool] = lambda: False,
    samplers: Sequence[str] = (),
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[tuple[int, Step | DrawEvidence]]:
    """Yields (-1, Step) while it works and (-1, DrawEvidence) for each of `samplers`, by default for the request's own,
    unless it was cancelled. All of them draw with the same random numbers from what the models were asked once.

    Raises DecodeError for a prompt that cannot be decoded, and at temperature 0, where nothing is drawn.
    """
    if request.settings.greedy:
        raise DecodeError("At temperature 0 nothing is drawn: choose a higher one.")
    each = [replace(request, sampler=s) for s in samplers or (request.sampler,)]
    began = clock()

    def beyond(share: float) -> bool:
        return cancelled() or clock() - began > share * request.seconds

    yield -1, Step(0.0, f"reading the prompt of {len(prompt)} tokens")
    prefilled = prefill_once(target, prompt, drafter.taps)
    asked = next((one for one in each if one.sampler == NO_BIAS), request)
    for found in ask_models(target, drafter, prefilled, asked, lambda: beyond(FOLLOW_SHARE), clock):
        if cancelled():
            return
        if isinstance(found, Step):
            yield -1, found
        else:
            conditionals = found
    loop = LoopDraws(target, drafter, prefilled, conditionals, request.settings)
    asking, drawing, repeating, repeated_share, drawn = clock() - began, 0.0, 0.0, 0.0, 0
    for i, one in enumerate(each):
        draws = CountedDraws(conditionals if one.sampler == NO_BIAS else conditionals.honest(), one)
        until = FOLLOW_SHARE + (DRAW_SHARE - FOLLOW_SHARE) * (i + 1) / len(each)
        of = f" each, sampler {i + 1} of {len(each)}" if len(each) > 1 else ""
        start = clock()
        while draws.done < one.n and not (draws.done and beyond(until)):
            draws.more()
            done = i + draws.share
            left = (drawing + clock() - start) * (len(each) - done) / done
            share = 0.35 + 0.5 * done / len(each) + 0.15 * repeated_share
            yield -1, Step(share, f"{draws.done:,} of {one.n:,} draws{of}", left)
            if cancelled():
                return
        drawing += clock() - start
        # A wrong sampler is none of the loop's, so there is nothing that the loop could repeat.
        wanted, repeated, start = draws.repeats() if one.sampler == RIGHT else [], list[bool](), clock()
        for repeat in wanted:
            if repeated and beyond(1 - (1 - DRAW_SHARE) / 2):
                break
            repeated.append(loop.agrees(*repeat))
            repeated_share = len(repeated) / len(wanted)
            words = f"repeating draws in the decode loop: {len(repeated)} of {len(wanted)}"
            share = 0.35 + 0.5 * (i + 1) / len(each) + 0.15 * repeated_share
            yield -1, Step(share, words, (clock() - start) * (1 / repeated_share - 1))
            if cancelled():
                return
        repeating += clock() - start
        drawn += draws.done
        yield -1, draws.evidence(repeated, clock() - began, Pace(asking, drawing / drawn, repeating))


class CountedDraws:
    """The draws of a proof, counted as they come; `done` of them, in `accepted` of which the first draft was."""

    def __init__(self, conditionals: Conditionals, request: DrawRequest):
        self._given, self._request = conditionals, request
        self.sampler = PairSampler(conditionals, ACCEPT[request.sampler])
        self._uniforms = Uniforms(request.settings.seed)
        self.pairs = PairCounts(conditionals)
        self._starts = np.zeros(len(conditionals.start.exact), dtype=np.int64)
        self.bonuses = {drafts: Bonuses(conditionals, drafts, request.settings.seed) for drafts in (1, DRAFTS)}
        self._acceptances = Acceptances(conditionals)
        self.done = self.accepted = 0
        self._kinds: dict[Kind, list[Repeat]] = {}

    @property
    def share(self) -> float:
        return self.done / self._request.n

    def more(self) -> None:
        """A tenth of the draws, half of them with one draft a round."""
        n = min(max(64, self._request.n // 10), self._request.n - self.done)
        numbers = self._uniforms.take(n * (NUMBERS + 1)).reshape(n, NUMBERS + 1)
        starts = draw_each(self._given.start.sampled, numbers[::START_EVERY, NUMBERS:])
        self._starts += np.bincount(starts, minlength=len(self._starts))
        for drafts, at in ((1, slice(0, n // 2)), (DRAFTS, slice(n // 2, n))):
            part = numbers[at]
            if not len(part):
                continue
            tokens, accepted = self.sampler.draw(part[:, :NUMBERS], drafts)
            self.pairs.add(tokens)
            self.accepted += int((accepted > 0).sum())
            self.bonuses[drafts].add(tokens, accepted)
            self._acceptances.add(drafts, tokens, accepted)
            self._choose(drafts, part, tokens, accepted)
        self.done += n

    def _choose(self, drafts: int, numbers: mx.array, tokens: np.ndarray, accepted: np.ndarray) -> None:
        """Some whole draws of every kind, for the loop to repeat."""
        for k in range(drafts + 1):
            kind = self._kinds.setdefault((drafts, k), [])
            for i in np.flatnonzero((accepted == k) & (tokens[:, 1] >= 0))[: REPEATS - len(kind)].tolist():
                after = [t for t in tokens[i].tolist() if t >= 0]
                start = draw(self._given.start.sampled, numbers[i, NUMBERS:]).item()
                kind.append((drafts, np.array(numbers[i]), [start, *after]))

    def repeats(self) -> list[Repeat]:
        """REPEATS draws, the kinds by turns, those with a bonus first."""
        kinds = [self._kinds[kind] for kind in sorted(self._kinds, key=lambda kind: (kind[0] - kind[1], kind))]
        turns = [kind[i] for i in range(REPEATS) for kind in kinds if i < len(kind)]
        return turns[:REPEATS]

    def checks(self) -> list[Check]:
        """The comparison of the pairs, then all others."""
        start = Check("the answer's first token", compare_table(self._given.start.exact[None], self._starts[None]))
        bonuses = [check for b in self.bonuses.values() for check in b.checks()]
        return [self.pairs.check(), start, *self._acceptances.checks(), *bonuses]

    def evidence(self, repeated: Sequence[bool], seconds: float, pace: Pace) -> DrawEvidence:
        """`repeated`: of each draw that the loop repeated, did it come to the same tokens?"""
        checks = self.checks()
        return DrawEvidence(
            request=self._request,
            anchor=self._given.anchor,
            prefixes=len(self._given.after),
            followed=float(self.pairs.exact.sum()),
            pairs=self.pairs.likeliest(),
            comparison=checks[0].comparison,
            checks=tuple(checks),
            kept=self.accepted / self.done,
            bonuses=sum(b.n for b in self.bonuses.values()),
            repeated=len(repeated),
            same=sum(repeated),
            steady=exact_device(),
            seconds=seconds,
            pace=pace,
        )


class LoopDraws:
    """The decode loop itself, from given random numbers; the prompt is read once."""

    def __init__(
        self,
        target: Target,
        drafter: Drafter,
        prefilled: Prefilled,
        conditionals: Conditionals,
        settings: Settings,
    ):
        self._target, self._drafter, self._prefilled = target, drafter, prefilled
        self._given, self._settings = conditionals, settings

    def agrees(self, drafts: int, numbers: np.ndarray, tokens: list[int]) -> bool:
        """Does the loop come to the same tokens from the same numbers?"""
        start, after = self.start(numbers[NUMBERS]), self.after_anchor(drafts, numbers[:NUMBERS], len(tokens) - 1)
        return [start, *after] == tokens

    def after_anchor(self, drafts: int, numbers: np.ndarray, n: int) -> list[int]:
        """The n tokens after the anchor, with rounds that send so many drafts."""
        tokens = self._decode(1 + n, FixedCap(drafts), [self._given.anchor_number, *numbers])
        return tokens[1:] if tokens[0] == self._given.anchor else tokens

    def start(self, number: float) -> int:
        """The answer's first token."""
        return self._decode(1, FixedCap(0), [number])[0]

    def _decode(self, n: int, schedule: FixedCap, numbers: Sequence[float]) -> list[int]:
        s, tokens = self._settings, list[int]()
        settings = Settings(n, s.temperature, s.top_k, s.top_p, stop_ids=frozenset())
        for event in speculative(
            self._target,
            self._drafter,
            list(self._prefilled.prompt),
            settings,
            schedule,
            Options(prefilled=self._prefilled),
            uniforms=GivenUniforms(numbers),
        ):
            if isinstance(event, Start):
                tokens.append(event.token_id)
            elif isinstance(event, Round):
                tokens.extend(event.committed)
        return tokens


class GivenUniforms(Uniforms):
    """Given uniform numbers, in order, instead of a seed's."""

    def __init__(self, numbers: Sequence[float]):
        self._upper_given = np.asarray(numbers, dtype=np.float32)

    def _next(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        taken, self._upper_given = self._upper_given[:n], self._upper_given[n:]
        return taken, np.zeros_like(taken)
