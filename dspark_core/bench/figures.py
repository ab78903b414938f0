"""Rows in, figures out: pure arithmetic, nothing is timed or dropped here.

A ratio of two lanes on a prompt is the median, over the alternations, of the ratio within one alternation, so that
drift of the machine from one to the next cancels. A set's figure is the median over its prompts, with the interval that
resampling the prompts gives (percentile bootstrap).
"""

import random
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..decode.cost_curve import CostCurve
from ..race.forecast import draft_outcomes, middle_position, slot_acceptance
from .log import Log, Row
from .plan import PLAIN, BestCapLane, PeerLane, PlannedLane, SpecLane

RESAMPLES = 2000
LOSS_RATIO, SLOWER_RATIO = 0.95, 0.97  # ratios below these are counted
ALL = "all"
Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Interval:
    """A median over n values, with its bootstrap 95 % interval."""

    median: float
    low: float
    high: float
    n: int


def bootstrap(values: Sequence[float], resamples: int = RESAMPLES, seed: int = 0) -> Interval | None:
    """The median of `values` and the 2.5th and 97.5th percentile of medians of resamples; None without values."""
    if not values:
        return None
    draw = random.Random(seed)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(resamples))
    low, high = (medians[min(resamples - 1, int(q * resamples))] for q in (0.025, 0.975))
    return Interval(statistics.median(values), low, high, len(values))


@dataclass(frozen=True, slots=True)
class PromptFigures:
    """One lane on one prompt.

    times_plain: its tok/s over plain decoding's
    predicted:   tok/s as the cost curve has it for the rounds it went through; None for engines without rounds
    predicted_times: the same over what the curve has for plain decoding of this prompt
    scheduler:   share of its time spent in the schedule
    same:        the output is plain decoding's
    best_cap:    the best fixed cap in hindsight, from every draft of this drafter whose fate is known on this prompt,
                 and the curve
    of_best:     predicted tok/s over the predicted tok/s at that cap
    """

    set: str
    prompt: int
    lane: str
    turns: int
    tokens: int
    tok_s: float
    times_plain: float
    tokens_per_round: float
    same: bool
    predicted: float | None = None
    predicted_times: float | None = None
    scheduler: float | None = None
    best_cap: int | None = None
    of_best: float | None = None

    @property
    def error(self) -> float | None:
        """Of the predicted speed, relative: 0.05 is 5 % too fast."""
        return None if self.predicted is None else self.predicted / self.tok_s - 1

    @property
    def times_error(self) -> float | None:
        """Of the predicted × plain."""
        return None if self.predicted_times is None else self.predicted_times / self.times_plain - 1


@dataclass(frozen=True, slots=True)
class LaneFigures:
    """One lane over one set (or several together). Medians over prompts unless said otherwise.

    below_95, below_97: how many prompts were slower than these shares of plain decoding
    error, times_error: median of the sizes of the prompts' prediction errors
    different:          how many outputs are not plain decoding's
    """

    set: str
    lane: str
    prompts: int
    tok_s: float
    times_plain: Interval
    worst: float
    below_95: int
    below_97: int
    tokens_per_round: float
    different: int
    error: float | None
    times_error: float | None
    scheduler: float | None
    of_best: Interval | None


@dataclass(frozen=True, slots=True)
class Versus:
    """A lane's tok/s over another's; `other` may be several, of which the fastest counts prompt by prompt."""

    set: str
    lane: str
    other: str
    ratio: Interval


@dataclass(frozen=True, slots=True)
class SlotFigures:
    """Drafts in slot `slot` (1 is the first) over all prompts: of `reached` rounds in which every draft before it was
    right, `accepted` had it right. Greedy drafts that were not sent are judged by the output."""

    lane: str
    slot: int
    accepted: int
    reached: int


@dataclass(frozen=True, slots=True)
class Figures:
    prompts: list[PromptFigures]
    lanes: list[LaneFigures]
    versus: list[Versus]
    slots: list[SlotFigures]
    undecoded: int  # prompts whose answer was a single token: there is no speed to measure
    uncounted: int = 0  # alternations of every prompt that were left out, the first ones


def figures(
    log: Log, lanes: Sequence[PlannedLane], together: Sequence[Sequence[str]] = (), uncounted: int = 0
) -> Figures:
    """Everything the report says. `together` are groups of sets that get figures of their own; all sets together always
    do. The first `uncounted` alternations of every prompt are left out."""
    cells = _Cells(log, lanes, uncounted)
    prompts = [
        cells.prompt_figures(key, lane)
        for key in cells.decoded
        for lane in lanes
        if cells.has(key, lane) and set(cells.turns(key, lane)) & set(cells.plain(key))
    ]
    groups: list[tuple[str, tuple[str, ...]]] = [(name, (name,)) for name in cells.sets]
    groups += [(" + ".join(g), tuple(g)) for g in together]
    if len(cells.sets) > 1:
        groups.append((ALL, tuple(cells.sets)))
    return Figures(
        prompts,
        [row for name, members in groups for row in _figures_of_set(name, members, prompts, lanes)],
        [row for name, members in groups for row in cells.versus(name, members)],
        [slot for lane in lanes for slot in cells.slot_figures(lane)],
        cells.undecoded,
        uncounted,
    )


def best_cap(curve: CostCurve, drafter_id: str, outcomes: Sequence[tuple[int, int]], context: int) -> tuple[int, float]:
    """The best fixed cap for what was accepted (forecast.draft_outcomes), 0 for plain decoding; its predicted tok/s."""
    accepted = slot_acceptance(outcomes)
    cap = curve.best_cap(drafter_id, accepted, context)
    return cap, curve.speed(drafter_id, accepted, cap, context)


class _Cells:
    """The rows that count, by prompt, lane and turn. A key is a prompt's (set, number)."""

    def __init__(self, log: Log, lanes: Sequence[PlannedLane], uncounted: int):
        self.lanes, self.curve, self.greedy = lanes, log.curve, log.header.temperature < 1e-5
        self.sets = list(dict.fromkeys(row.set for row in log.rows.values()))
        self._cells: dict[tuple[Key, str], dict[int, Row]] = {}
        for row in log.rows.values():
            if row.turn >= uncounted:
                self._cells.setdefault(((row.set, row.prompt), row.lane), {})[row.turn] = row
        keys = sorted({key for key, _ in self._cells}, key=lambda k: (self.sets.index(k[0]), k[1]))
        measured = [k for k in keys if (k, PLAIN) in self._cells]
        self.decoded = [k for k in measured if all(len(r.ids) > 1 for r in self.plain(k).values())]
        self.undecoded = len(measured) - len(self.decoded)

    def _spec_lanes(self) -> list[SpecLane]:
        return [lane for lane in self.lanes if isinstance(lane, SpecLane)]

    def has(self, key: Key, lane: PlannedLane) -> bool:
        return (key, lane.name) in self._cells

    def turns(self, key: Key, lane: PlannedLane) -> dict[int, Row]:
        return self._cells[key, lane.name]

    def plain(self, key: Key) -> dict[int, Row]:
        return self._cells[key, PLAIN]

    def first(self, key: Key, lane: PlannedLane) -> Row:
        """Of the first counted alternation; a greedy decode has the same rounds in every one."""
        turns = self.turns(key, lane)
        return turns[min(turns)]

    def outcomes(self, key: Key, lane: SpecLane) -> list[tuple[int, int]]:
        return draft_outcomes(self.first(key, lane).record(lane.spec), self.greedy)

    def prompt_figures(self, key: Key, lane: PlannedLane) -> PromptFigures:
        turns, plain, first = self.turns(key, lane), self.plain(key), self.first(key, lane)
        plain_first, times_plain = plain[min(plain)], self._ratio(turns, plain)
        assert times_plain is not None, "plain decoded more than one token, so it has a speed"
        return PromptFigures(
            *key,
            lane.name,
            len(turns),
            len(first.ids),
            statistics.median(r.tok_s for r in turns.values()),
            times_plain,
            first.tokens_per_round,
            all(row.ids == plain_first.ids for row in turns.values()),
            **self._predictions(key, lane, plain_first),
        )

    def _predictions(self, key: Key, lane: PlannedLane, plain: Row) -> dict:
        """The fields of `PromptFigures` that the cost curve gives; none for engines without rounds."""
        if not isinstance(lane, SpecLane):
            return {}
        rows, curve = list(self.turns(key, lane).values()), self.curve
        first = self.first(key, lane)
        seconds = [curve.seconds(lane.spec.drafter_id, row.rounds) for row in rows]
        predicted = statistics.median((len(first.ids) - 1) / s for s in seconds)
        out = {
            "predicted": predicted,
            "predicted_times": predicted * curve.seconds(PLAIN, plain.rounds) / (len(plain.ids) - 1),
            "scheduler": statistics.median(r.scheduler_s / r.seconds for r in rows),
        }
        if lane.spec.speculative and self.greedy:
            same = [other for other in self._spec_lanes() if other.spec.drafter_id == lane.spec.drafter_id]
            outcomes = [x for other in same if self.has(key, other) for x in self.outcomes(key, other)]
            cap, speed = best_cap(curve, lane.spec.drafter_id, outcomes, middle_position(first.rounds))
            out |= {"best_cap": cap, "of_best": predicted / speed}
        return out

    def slot_figures(self, lane: PlannedLane) -> list[SlotFigures]:
        """Of the first alternation: a greedy decode drafts the same in every one."""
        if not isinstance(lane, SpecLane) or not lane.spec.speculative:
            return []
        outcomes = [x for key in self.decoded if self.has(key, lane) for x in self.outcomes(key, lane)]
        out = []
        for k in range(1, max((drafts for drafts, _ in outcomes), default=0) + 1):
            reached = sum(drafts >= k and right >= k - 1 for drafts, right in outcomes)
            if reached:
                out.append(SlotFigures(lane.name, k, sum(right >= k for _, right in outcomes), reached))
        return out

    def versus(self, name: str, members: Sequence[str]) -> list[Versus]:
        """This project's drafting lanes against every lane that is not its own, and those with the best cap."""
        out = []
        foreign = [lane for lane in self.lanes if not isinstance(lane, SpecLane)]
        peers: list[PlannedLane] = [lane for lane in foreign if isinstance(lane, PeerLane)]
        best = [lane for lane in self._spec_lanes() if isinstance(lane, BestCapLane)]
        for lane in self._spec_lanes():
            if not lane.spec.speculative or lane in best:
                continue
            others: list[list[PlannedLane]] = [[other] for other in foreign]
            others += [peers] if len(peers) > 1 else []
            others += [[o] for o in best if o.spec.drafter_id == lane.spec.drafter_id]
            for group in others:
                ratio = bootstrap(self._ratios_to_fastest(lane, group, members))
                if ratio is not None:
                    names = ", ".join(o.name for o in group)
                    other = names if len(group) == 1 else f"the fastest of {names}"
                    out.append(Versus(name, lane.name, other, ratio))
        return out

    def _ratios_to_fastest(
        self, lane: PlannedLane, group: Sequence[PlannedLane], members: Sequence[str]
    ) -> list[float]:
        """The lane's speed over that of the fastest of the group, of every prompt that all of them decoded."""
        out = []
        for key in self.decoded:
            if key[0] in members and self.has(key, lane) and all(self.has(key, o) for o in group):
                pairs = [self._ratio(self.turns(key, lane), self.turns(key, o)) for o in group]
                ratios = [ratio for ratio in pairs if ratio is not None]
                if len(ratios) == len(group):
                    out.append(min(ratios))
        return out

    @staticmethod
    def _ratio(a: Mapping[int, Row], b: Mapping[int, Row]) -> float | None:
        pairs = [a[t].tok_s / b[t].tok_s for t in a if t in b and b[t].tok_s]
        return statistics.median(pairs) if pairs else None


def _figures_of_set(
    name: str, members, prompts: list[PromptFigures], lanes: Sequence[PlannedLane]
) -> list[LaneFigures]:
    out = []
    for lane in lanes:
        of = [p for p in prompts if p.set in members and p.lane == lane.name]
        ratios = [p.times_plain for p in of]
        times_plain = bootstrap(ratios)
        if times_plain is None:
            continue
        out.append(
            LaneFigures(
                name,
                lane.name,
                len(of),
                statistics.median(p.tok_s for p in of),
                times_plain,
                min(ratios),
                sum(r < LOSS_RATIO for r in ratios),
                sum(r < SLOWER_RATIO for r in ratios),
                statistics.median(p.tokens_per_round for p in of),
                sum(not p.same for p in of),
                _median(abs(p.error) for p in of if p.error is not None),
                _median(abs(p.times_error) for p in of if p.times_error is not None),
                _median(p.scheduler for p in of if p.scheduler is not None),
                bootstrap([p.of_best for p in of if p.of_best is not None]),
            )
        )
    return out


def _median(values: Iterable[float]) -> float | None:
    values = list(values)
    return statistics.median(values) if values else None
