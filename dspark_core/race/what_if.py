"""What if acceptance, drafting or verification were other than they are here? The inputs, from measured and published
costs; assets/page/what_if.js draws what follows from them while a slider moves, with the figures of forecast.py.

A start point is a machine: what a plain step, a verification and a draft take on it. A line is a drafter with what was
accepted of its drafts, as the last race shows it or else as it was calibrated. Pure arithmetic on records; no MLX.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from ..decode.batch_rows import BatchRows
from ..decode.cost_curve import FEWEST, CostCurve, Costs, Timing
from ..decode.machine_links import Split
from ..models.info import DrafterInfo
from ..paths import assets
from ..store import read_json
from .forecast import Prospect, draft_outcomes, middle_position, raced_prospects, slot_acceptance
from .lane_spec import find
from .metrics import metrics, plain_metrics, times_plain
from .records import LaneRecord, RaceRecord

MACHINE, RACE, FREE = "machine", "race", "free"
THIS_MACHINE = "This machine, as measured."
BORROWED = "Not measured here yet: until then the proportions of {machine}."
THIS_RACE = "This machine at the speed that it had in the last race, with what was accepted in it."
NOTHING_MORE = "The same machine, were a pass over any number of tokens to take as long as one over a single token."


@dataclass(frozen=True, slots=True)
class RoundCosts:
    """Seconds of one drafter's rounds.

    plain:  a step of plain decoding
    verify: by drafts sent, from 0 on: the verification's part; that of none is a plain step
    draft:  by drafts sent: all else, which is drafting
    known:  are drafting's times known? They are 0 where they are not
    """

    plain: float
    verify: tuple[float, ...]
    draft: tuple[float, ...]
    known: bool = True

    @staticmethod
    def of(curve: CostCurve, drafter: str, most: int, context: int) -> "RoundCosts":
        """Of rounds of up to `most` drafts, each as `CostCurve.round_s` has it. What a decode adds to measured parts is
        shared between both in proportion."""
        plain, known = curve.plain_s(context), curve.knows(drafter)
        bare = curve.as_measured()
        verify, draft = [plain], [0.0]
        for n in range(1, most + 1):
            checked = bare.verify_s(n + 1, context)
            whole = curve.round_s(drafter, n, n, context) if known else checked
            ratio = whole / bare.round_s(drafter, n, n, context) if known else 1.0
            verify.append(checked * ratio)
            draft.append(max(0.0, whole - checked * ratio))
        return RoundCosts(plain, tuple(verify), tuple(draft), known)

    def raced(self, options: Sequence[Prospect]) -> "RoundCosts":
        """At the speeds of a race, as `raced_prospects` has them; longer rounds as the longest of these."""
        factors = [p.tokens / p.tok_s / (self.verify[p.cap] + self.draft[p.cap]) for p in options[: len(self.verify)]]
        return self.times(factors + [factors[-1]] * (len(self.verify) - len(factors)))

    def times(self, factors: Sequence[float]) -> "RoundCosts":
        """With the rounds of each number of drafts so many times as long."""
        verify, draft = (tuple(map(math.prod, zip(s, factors, strict=True))) for s in (self.verify, self.draft))
        return replace(self, plain=verify[0], verify=verify, draft=draft)

    def free(self) -> "RoundCosts":
        """Were verification free."""
        return replace(self, verify=(self.plain,) * len(self.verify))

    def over(self, split: Split) -> "RoundCosts":
        """Were the target on several machines, and the drafter on one."""
        verify = tuple(split.seconds(n + 1, s) for n, s in enumerate(self.verify))
        return replace(self, plain=verify[0], verify=verify)


@dataclass(frozen=True, slots=True)
class StartPoint:
    """A machine to start from.

    id:     in links
    source: where its figures are from, in a sentence
    plain:  seconds of a plain step
    passes: what a pass over so many tokens takes
    rounds: of each line
    """

    id: str
    title: str
    source: str
    plain: float
    passes: BatchRows
    rounds: tuple[RoundCosts, ...]

    @property
    def further(self) -> float:
        """Seconds that a verified token adds to a plain step, on average up to the longest round."""
        widest = max((len(r.verify) for r in self.rounds), default=2)
        return max(0.0, self.passes.seconds(widest) - self.plain) / (widest - 1)

    def over(self, split: Split) -> "StartPoint":
        """Several machines such as this one."""
        passes = {rows: split.seconds(rows, s) for rows, s in self.passes.points.items()}
        words = split.source if self.source == THIS_MACHINE else f"{split.source} {self.source}"
        rounds, plain = tuple(r.over(split) for r in self.rounds), split.seconds(1, self.plain)
        id_ = f"{split.machines}-{split.link.id}"
        return StartPoint(id_, split.title, words, plain, replace(self.passes, points=passes), rounds)


@dataclass(frozen=True, slots=True)
class Line:
    """A drafter that is drawn.

    place:    which colour it has, as a lane of the board
    drafts:   a round at most
    accepted: of each slot given the ones before it; empty where nothing is known
    raced:    is that from the last race? Else it is the drafter's calibration
    measured: mean number of drafts sent, tokens per round and x plain in that race, where there is a plain lane
    """

    name: str
    drafter: str
    method: str
    place: int
    drafts: int
    accepted: tuple[float, ...]
    raced: bool = False
    measured: tuple[float, ...] = ()


@dataclass(frozen=True)
class WhatIf:
    """Lines, and start points that have the costs of each of them."""

    lines: tuple[Line, ...] = ()
    starts: tuple[StartPoint, ...] = ()
    options: tuple[tuple[LaneRecord, list[Prospect]], ...] = field(default=(), repr=False)
    replayed: bool = False

    @staticmethod
    def of(
        curve: CostCurve | None,
        race: RaceRecord | None,
        infos: Sequence[DrafterInfo],
        judged: bool = True,
        rows: Mapping[int, Timing] | None = None,
        lines: tuple[Line, ...] = (),
        splits: Sequence[Split] = (),
    ) -> "WhatIf":
        """`race` gives the acceptance, and where it is `judged` by the curve the start point "this race", too; `rows`:
        see `BatchRows`. Without `lines` there is one for every lane of the race that drafted, or for every drafter;
        with them, of drafters whose rounds are to be replayed, rounds of this race take what they took on average.
        `splits`: several of this machine, from which one can start, too."""
        options = tuple(raced_prospects(curve, race)) if curve and race and judged else ()
        replayed, lines = bool(lines), lines or (raced_lines(race, infos) if race else ())
        if not lines:
            lines = tuple(
                Line(info.title, info.id, info.method, place, info.max_drafts, info.calibration.acceptance)
                for place, info in enumerate(infos, start=1)
            )
        made = WhatIf(lines, options=options, replayed=replayed)
        if not lines:
            return made
        here = [made._machine(curve, rows or {})] if curve else []
        several = [here[0].over(split) for split in splits if here]
        if curve and options:
            here.append(made._race(curve, rows or {}))
        published = [made._published(file) for file in sorted((assets() / "machines").glob("*.json"))]
        like = [*published[:1], *here][-1]
        rounds = tuple(r.free() for r in like.rounds)
        free = StartPoint(FREE, "verification free", NOTHING_MORE, like.plain, BatchRows({1: like.plain}, 0), rounds)
        return replace(made, starts=(*here[::-1], *several, *published, free))

    def _machine(self, curve: CostCurve, rows: Mapping[int, Timing]) -> StartPoint:
        context = curve.costs[0].context
        source = BORROWED.format(machine=curve.borrowed) if curve.borrowed else THIS_MACHINE
        rounds = tuple(RoundCosts.of(curve, line.drafter, line.drafts, context) for line in self.lines)
        passes = BatchRows.of(curve, context, rows)
        return StartPoint(MACHINE, "this machine", source, curve.plain_s(context), passes, rounds)

    def _race(self, curve: CostCurve, rows: Mapping[int, Timing]) -> StartPoint:
        """The figures of the chart "speed by cap", which go by expected tokens, or of rounds to be replayed the times
        that they took; a drafter that did not race is as much faster or slower as plain decoding was."""
        first, options = self.options[0]
        context, plain = middle_position(first.rounds), 1 / options[0].tok_s
        factor, rounds = plain / curve.plain_s(context), []
        for line in self.lines:
            ran = [o for o in self.options if o[0].spec.drafter_id == line.drafter]
            if not ran:
                rounds.append(RoundCosts.of(curve.scaled(factor), line.drafter, line.drafts, context))
                continue
            lane, found = next((o for o in ran if o[0].spec.name == line.name), ran[0])
            costs = RoundCosts.of(curve, line.drafter, line.drafts, middle_position(lane.rounds))
            if not self.replayed:
                rounds.append(costs.raced(found))
                continue
            took = sum(metrics(lane).seconds for lane, _ in ran)
            slower = took / sum(curve.seconds(line.drafter, lane.rounds) for lane, _ in ran)
            rounds.append(costs.times([1 / found[0].tok_s / costs.plain, *[slower] * line.drafts]))
        passes = BatchRows.of(curve, context, rows).times(factor)
        return StartPoint(RACE, "this race", THIS_RACE, plain, passes, tuple(rounds))

    def _published(self, file: Path) -> StartPoint:
        title, source, curve = published_machine(file)
        context = curve.costs[0].context
        rounds = tuple(RoundCosts.of(curve, line.method.lower(), line.drafts, context) for line in self.lines)
        passes = BatchRows.of(curve, context, {})
        return StartPoint(file.stem.partition("-")[2], title, source, curve.plain_s(context), passes, rounds)

    def value(self) -> dict[str, Any]:
        """For what_if.js: JSON of both, with what follows from a start point."""
        starts = [asdict(s) | {"further": s.further} for s in self.starts]
        return {"lines": [asdict(line) for line in self.lines], "starts": starts}


def raced_lines(race: RaceRecord, infos: Sequence[DrafterInfo]) -> tuple[Line, ...]:
    """One for every lane of a race of whose drafts something is known."""
    out, plain = [], plain_metrics(race.lanes)
    for place, lane in enumerate(race.lanes):
        accepted = slot_acceptance(draft_outcomes(lane, race.request.settings.greedy)) if lane.spec.speculative else []
        if not accepted:
            continue
        info, m = find(infos, lane.spec.drafter_id), metrics(lane)
        most = max(len(accepted), info.max_drafts if info else 0)
        times, per_round = times_plain(m, plain), m.tokens_per_round
        measured: tuple[float, ...] = ()
        if times and per_round:
            measured = sum(r.proposed for r in lane.rounds) / len(lane.rounds), per_round, times
        spec = lane.spec
        out.append(Line(spec.name, spec.drafter_id, spec.method, place, most, tuple(accepted), True, measured))
    return tuple(out)


@cache
def published_machine(file: Path) -> tuple[str, str, CostCurve]:
    """Title, source and costs of a file of assets/machines: milliseconds as [median, fastest, slowest] by number of
    tokens, of drafting by method."""
    data = read_json(file)

    def timing(ms: Sequence[float]) -> Timing:
        median, low, high = (t / 1000 for t in ms)
        return Timing(median, low, high, max(FEWEST, data["samples"]))

    def timings(points: Mapping[str, Sequence[float]]) -> dict[int, Timing]:
        return {int(at): timing(ms) for at, ms in points.items()}

    draft = {method: timings(points) for method, points in data["draft_ms"].items()}
    costs = Costs(data["context"], timing(data["plain_ms"]), timings(data["verify_ms"]), draft)
    return data["title"], data["source"], CostCurve({}, "", 0.0, (costs,), borrowed=data["title"])
