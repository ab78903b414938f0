"""Does speculation draw from the target's own distribution? The first tokens of an answer, drawn many times.

Half of the draws send one draft a round, half send two (draws.py). They are compared with distributions that are
computed apart, from the logits of one row at a time (conditionals.py, exact.py, tallies.py). And because draws made
many at once could be right where the decode loop is wrong, the loop itself repeats some of every kind with the same
random numbers, and must come to the same tokens.
"""

import time
from collections.abc import Callable, Iterator, Sequence

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
from .evidence import RIGHT, Check, DrawEvidence, DrawRequest, Step
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
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[tuple[int, Step | DrawEvidence]]:
    """Yields (-1, Step) while it works and (-1, DrawEvidence) at its end, unless it was cancelled.

    Raises DecodeError for a prompt that cannot be decoded, and at temperature 0, where nothing is drawn.
    """
    if request.settings.greedy:
        raise DecodeError("At temperature 0 nothing is drawn: choose a higher one.")
    began = clock()

    def beyond(share: float) -> bool:
        return cancelled() or clock() - began > share * request.seconds

    yield -1, Step(0.0, f"reading the prompt of {len(prompt)} tokens")
    prefilled = prefill_once(target, prompt, drafter.taps)
    for found in ask_models(target, drafter, prefilled, request, lambda: beyond(FOLLOW_SHARE)):
        if cancelled():
            return
        if isinstance(found, Step):
            yield -1, found
        else:
            conditionals = found
    draws = CountedDraws(conditionals, request)
    while draws.done < request.n and not (draws.done and beyond(DRAW_SHARE)):
        draws.more()
        yield -1, Step(0.35 + 0.5 * draws.done / request.n, f"{draws.done:,} of {request.n:,} draws")
        if cancelled():
            return
    # A wrong sampler is none of the loop's, so there is nothing that the loop could repeat.
    wanted = draws.repeats() if request.sampler == RIGHT else []
    loop = LoopDraws(target, drafter, prefilled, conditionals, request.settings)
    repeated = same = 0
    for drafts, numbers, tokens in wanted:
        if repeated and beyond(1 - (1 - DRAW_SHARE) / 2):
            break
        start, after = loop.start(numbers[NUMBERS]), loop.after_anchor(drafts, numbers[:NUMBERS], len(tokens) - 1)
        same += [start, *after] == tokens
        repeated += 1
        yield -1, Step(0.85 + 0.15 * repeated / len(wanted), f"repeating draws in the decode loop: {repeated}")
        if cancelled():
            return
    checks = draws.checks()
    yield (
        -1,
        DrawEvidence(
            request=request,
            anchor=conditionals.anchor,
            prefixes=len(conditionals.after),
            followed=float(draws.pairs.exact.sum()),
            pairs=draws.pairs.likeliest(),
            comparison=checks[0].comparison,
            checks=tuple(checks),
            kept=draws.accepted / draws.done,
            bonuses=sum(b.n for b in draws.bonuses.values()),
            repeated=repeated,
            same=same,
            steady=exact_device(),
            seconds=clock() - began,
        ),
    )


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
