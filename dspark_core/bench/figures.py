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
from ..race.forecast import acceptance, judged, middle
from .log import Log, Row
from .plan import MLX_LM, PEER, Lane

RESAMPLES = 2000
LOSS, SLOWER = 0.95, 0.97  # ratios below these are counted
ALL = "all"


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
class Slot:
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
    slots: list[Slot]
    undecoded: int  # prompts whose answer was a single token: there is no speed to measure
    uncounted: int = 0  # alternations of every prompt that were left out, the first ones


def figures(log: Log, lanes: Sequence[Lane], together: Sequence[Sequence[str]] = (), uncounted: int = 0) -> Figures:
    """Everything the report says. `together` are groups of sets that get figures of their own; all sets together always
    do. The first `uncounted` alternations of every prompt are left out."""
    cells = _cells(row for row in log.rows.values() if row.turn >= uncounted)
    keys = sorted({key for key, _ in cells}, key=lambda k: (list(_sets(log)).index(k[0]), k[1]))
    known = [k for k in keys if (k, "plain") in cells]
    decoded = [k for k in known if all(len(r.ids) > 1 for r in cells[k, "plain"].values())]
    prompts = [
        _prompt(key, lane, cells, lanes, log.curve, log.header.temperature)
        for key in decoded
        for lane in lanes
        if (key, lane.name) in cells and set(cells[key, lane.name]) & set(cells[key, "plain"])
    ]
    sets = list(_sets(log))
    groups = [(name, (name,)) for name in sets]
    groups += [(" + ".join(g), tuple(g)) for g in together]
    if len(sets) > 1:
        groups.append((ALL, tuple(sets)))
    return Figures(
        prompts,
        [row for name, members in groups for row in _lanes(name, members, prompts, lanes)],
        [row for name, members in groups for row in _versus(name, members, decoded, cells, lanes)],
        [slot for lane in lanes for slot in _slots(lane, decoded, cells, log.header.temperature < 1e-5)],
        len(known) - len(decoded),
        uncounted,
    )


def _sets(log: Log) -> dict[str, None]:
    return {row.set: None for row in log.rows.values()}


def _cells(rows: Iterable[Row]) -> dict:
    """Rows by ((set, prompt), lane) and turn."""
    cells: dict = {}
    for row in rows:
        cells.setdefault(((row.set, row.prompt), row.lane), {})[row.turn] = row
    return cells


def _ratio(a: Mapping[int, Row], b: Mapping[int, Row]) -> float | None:
    pairs = [a[t].tok_s / b[t].tok_s for t in a if t in b and b[t].tok_s]
    return statistics.median(pairs) if pairs else None


def _prompt(key, lane: Lane, cells, lanes, curve: CostCurve, temperature: float) -> PromptFigures:
    turns, plain = cells[key, lane.name], cells[key, "plain"]
    first = _first(turns)
    told = {}
    if lane.spec is not None:
        seconds = [_seconds(curve, lane, row) for row in turns.values()]
        told["predicted"] = statistics.median((len(first.ids) - 1) / s for s in seconds)
        beside = curve.seconds("plain", _first(plain).rounds)
        told["predicted_times"] = told["predicted"] * beside / (len(_first(plain).ids) - 1)
        told["scheduler"] = statistics.median(r.scheduler_s / r.seconds for r in turns.values())
        if lane.spec.speculative and temperature < 1e-5:
            told |= _hindsight(key, lane, cells, lanes, curve, told["predicted"])
    return PromptFigures(
        *key,
        lane.name,
        len(turns),
        len(first.ids),
        statistics.median(r.tok_s for r in turns.values()),
        _ratio(turns, plain),
        first.tokens_per_round,
        all(row.ids == _first(plain).ids for row in turns.values()),
        **told,
    )


def _first(turns: dict[int, Row]) -> Row:
    """Of the first counted alternation; a greedy decode has the same rounds in every one."""
    return turns[min(turns)]


def _seconds(curve: CostCurve, lane: Lane, row: Row) -> float:
    return curve.seconds(lane.spec.drafter_id, row.rounds)


def _hindsight(key, lane: Lane, cells, lanes, curve: CostCurve, predicted: float) -> dict:
    same = [other for other in lanes if other.spec and other.spec.method == lane.spec.method]
    seen = [cells[key, o.name] for o in same if (key, o.name) in cells]
    outcomes = [x for turns in seen for x in judged(_first(turns).record(lane.spec), True)]
    cap, speed = best_cap(curve, lane.spec.drafter_id, outcomes, middle(_first(cells[key, lane.name]).rounds))
    return {"best_cap": cap, "of_best": predicted / speed}


def best_cap(curve: CostCurve, method: str, outcomes: Sequence[tuple[int, int]], context: int) -> tuple[int, float]:
    """The best fixed cap for what was accepted (see race.advice.judged), 0 for plain decoding; its predicted tok/s."""
    accepted = acceptance(outcomes)
    cap = curve.best_cap(method, accepted, context)
    return cap, curve.speed(method, accepted, cap, context)


def _slots(lane: Lane, keys, cells, greedy: bool) -> list[Slot]:
    """Of the first alternation: a greedy decode drafts the same in every one."""
    if lane.spec is None or not lane.spec.speculative:
        return []
    turns = [cells[key, lane.name] for key in keys if (key, lane.name) in cells]
    outcomes = [x for rows in turns for x in judged(_first(rows).record(lane.spec), greedy)]
    out = []
    for k in range(1, max((known for known, _ in outcomes), default=0) + 1):
        reached = sum(known >= k and right >= k - 1 for known, right in outcomes)
        if reached:
            out.append(Slot(lane.name, k, sum(right >= k for _, right in outcomes), reached))
    return out


def _lanes(name: str, members, prompts: list[PromptFigures], lanes: Sequence[Lane]) -> list[LaneFigures]:
    out = []
    for lane in lanes:
        of = [p for p in prompts if p.set in members and p.lane == lane.name]
        if not of:
            continue
        ratios = [p.times_plain for p in of]
        out.append(
            LaneFigures(
                name,
                lane.name,
                len(of),
                statistics.median(p.tok_s for p in of),
                bootstrap(ratios),
                min(ratios),
                sum(r < LOSS for r in ratios),
                sum(r < SLOWER for r in ratios),
                statistics.median(p.tokens_per_round for p in of),
                sum(not p.same for p in of),
                _median(abs(p.error) for p in of if p.error is not None),
                _median(abs(p.times_error) for p in of if p.times_error is not None),
                _median(p.scheduler for p in of if p.scheduler is not None),
                bootstrap([p.of_best for p in of if p.of_best is not None]),
            )
        )
    return out


def _versus(name: str, members, keys, cells, lanes: Sequence[Lane]) -> list[Versus]:
    """This project's drafting lanes against every lane that is not its own, and those with the best cap."""
    out = []
    foreign = [lane for lane in lanes if lane.engine in (PEER, MLX_LM)]
    peers = [lane for lane in foreign if lane.engine == PEER]
    for lane in lanes:
        if lane.spec is None or not lane.spec.speculative or lane.best:
            continue
        others = [[other] for other in foreign]
        others += [peers] if len(peers) > 1 else []
        others += [[o] for o in lanes if o.best and o.spec.method == lane.spec.method]
        for group in others:
            ratios = []
            for key in keys:
                pairs = [
                    _ratio(cells[key, lane.name], cells[key, o.name])
                    for o in group
                    if key[0] in members and (key, lane.name) in cells and (key, o.name) in cells
                ]
                if len(pairs) == len(group) and None not in pairs:
                    ratios.append(min(pairs))
            if ratios:
                told = group[0].name if len(group) == 1 else "the fastest of " + ", ".join(o.name for o in group)
                out.append(Versus(name, lane.name, told, bootstrap(ratios)))
    return out


def _median(values: Iterable[float]) -> float | None:
    values = list(values)
    return statistics.median(values) if values else None
