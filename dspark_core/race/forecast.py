"""What this machine's cost curve says about a race: predicted against measured speed, the best setting, the ceiling.

Pure arithmetic on records; no MLX. The number of drafts a round sends is its cap; cap 0 is plain decoding.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..decode.cost_curve import CostCurve, tokens_per_round
from ..decode.rounds import Round
from ..models import drafters
from .metrics import metrics
from .records import BLOCK, CAP, FULL, LaneRecord, RaceRecord

TAXI, BUS, BETWEEN = "taxi", "bus", "between"
TAXI_FROM, BUS_TO = 0.12, 0.03  # of a plain step, for each further token
SAME = 0.03  # gains below this are within the error of the prediction
FEW = 4.0  # outcomes that the slot before weighs where a slot was rarely reached


# ---- the machine -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Transport:
    """What kind of transport a verification is.

    further:  cost of each further verified token beyond width 2, in plain steps
    entrance: a verification of 2 over a plain step
    ceiling:  the best × plain of any drafter with at most `drafts` drafts a round: free, every draft accepted
    """

    kind: str
    further: float
    entrance: float
    ceiling: float
    drafts: int

    @classmethod
    def of(cls, curve: CostCurve, context: int, max_drafts: int) -> "Transport":
        curve = curve.as_measured()  # a verification and a plain step, both by themselves
        plain, last = curve.plain_s(context), max(max_drafts, 2) + 1
        second = curve.verify_s(2, context)
        further = max(0.0, (curve.verify_s(last, context) - second) / (last - 2) / plain)
        kind = TAXI if further >= TAXI_FROM else BUS if further <= BUS_TO else BETWEEN
        best, drafts = curve.ceiling(max_drafts, context)
        return cls(kind, further, second / plain, best, drafts)


def further_token_costs(curve: CostCurve, context: int, widest: int) -> list[tuple[int, float]]:
    """(width, seconds that its last token adds) from width 2 on. Where another kernel makes a wider step cheaper, its
    last token adds nothing."""
    seconds = [curve.verify_s(w, context) for w in range(1, widest + 1)]
    return [(w, max(0.0, seconds[w - 1] - seconds[w - 2])) for w in range(2, widest + 1)]


# ---- what was accepted -------------------------------------------------------------------------------------


def draft_outcomes(lane: LaneRecord, greedy: bool) -> list[tuple[int, int]]:
    """(drafts whose fate is certain, how many of them were right before the first wrong one) of every round that
    drafted.

    Greedy output is what the target would have chosen, so drafts that were never sent can be held against it too. A
    schedule that sends only likely drafts would otherwise make every slot look better than it is.
    """
    output, at, out = lane.output, 1, []
    for r in lane.rounds:
        drafted, following = r.draft_ids, output[at : at + len(r.draft_ids)]
        at += len(r.committed)
        if not greedy:
            drafted, following = drafted[: r.proposed], list(drafted[: r.accepted])
        if not drafted:
            continue
        pairs = enumerate(zip(drafted, following, strict=False))
        right = next((k for k, (draft, token) in pairs if draft != token), len(following))
        ended = greedy and right == len(following) < len(drafted)  # the output ends before these drafts are decided
        out.append((right if ended else len(drafted), right))
    return out


def slot_acceptance(outcomes: Sequence[tuple[int, int]]) -> list[float]:
    """Acceptance of each slot given the ones before it, from `draft_outcomes`; a slot that was rarely reached leans on
    the one before it, and slots that were never reached are left out."""
    out: list[float] = []
    for k in range(1, max((certain for certain, _ in outcomes), default=0) + 1):
        reached = sum(certain >= k and right >= k - 1 for certain, right in outcomes)
        accepted = sum(right >= k for _, right in outcomes)
        if not reached:
            break
        lean = FEW if out else 0.0
        out.append((accepted + lean * (out[-1] if out else 0.0)) / (reached + lean))
    return out


# ---- predicted and measured --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Prediction:
    """A lane's tok/s as the curve has it for the rounds it went through, and as measured."""

    lane: str
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """Relative: 0.05 is 5 % too fast."""
        return self.predicted / self.measured - 1


def anchored(curve: CostCurve, race: RaceRecord) -> CostCurve:
    """The curve at the speed that the machine had in this race: every time is scaled by what the race's own plain lane
    took over what the curve has for it. Without a plain lane it is the curve as it is."""
    lanes = [lane for lane in race.lanes if not lane.spec.speculative and metrics(lane).tok_s]
    foretold = sum(curve.plain_s(r.position) for lane in lanes for r in lane.rounds)
    return curve.scaled(sum(metrics(lane).seconds for lane in lanes) / foretold) if foretold else curve


def predictions(curve: CostCurve, race: RaceRecord) -> list[Prediction]:
    """One for every lane that decoded and whose costs are known, from the curve as it is (see `anchored`)."""
    out = []
    for lane in race.lanes:
        m = metrics(lane)
        if m.tok_s and (not lane.spec.speculative or curve.knows(lane.spec.drafter_id)):
            seconds = curve.seconds(lane.spec.drafter_id, lane.rounds)
            out.append(Prediction(lane.spec.name, m.tokens / seconds, m.tok_s))
    return out


@dataclass(frozen=True, slots=True)
class Prospect:
    """A lane's drafter at a fixed cap, as predicted from the acceptance of its rounds.

    tokens:     per round, expected
    break_even: tokens per round at which it is as fast as plain decoding
    """

    cap: int
    tok_s: float
    times_plain: float
    tokens: float
    break_even: float


def prospects(curve: CostCurve, lane: LaneRecord, greedy: bool) -> list[Prospect]:
    """By cap, from 0 on, at the context of the middle round; empty if nothing was drafted or its costs are unknown, and
    of a drafter that drafts in some rounds only: how it does in these says nothing of the others."""
    if not drafters.constants(lane.spec.method).get("EVERY_ROUND", True):
        return []
    drafter, rounds = lane.spec.drafter_id, lane.rounds
    accepted = slot_acceptance(draft_outcomes(lane, greedy)) if rounds else []
    if not accepted or not curve.knows(drafter):
        return []
    context = middle_position(rounds)
    plain = 1 / curve.plain_s(context)
    out = []
    for cap in range(len(accepted) + 1):
        speed = curve.speed(drafter, accepted, cap, context)
        even = curve.break_even(drafter, cap, context) if cap else 1.0
        out.append(Prospect(cap, speed, speed / plain, tokens_per_round(accepted[:cap]), even))
    return out


def middle_position(rounds: Sequence[Round]) -> int:
    """The context of the middle round, for costs of a whole decode."""
    return rounds[len(rounds) // 2].position


# ---- advice ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Suggestion:
    """The best cap for one drafter on this text, and what it is predicted to gain over the setting that was raced.

    drafter: its id
    cap:   0 if no cap is faster than plain decoding; then `best` is the cap that comes nearest
    tok_s: predicted at `cap`, at the speed that the machine had in the race
    gain:  that over what the lane came to, minus 1; 0 where `cap` is what the lane ran
    times: predicted × plain at `best`
    known: the longest length that the race tells of, as nothing longer was drafted; None after whole blocks
    """

    lane: str
    drafter: str
    cap: int
    best: int
    tok_s: float
    gain: float
    times: float
    known: int | None = None


def raced_prospects(curve: CostCurve, race: RaceRecord) -> list[tuple[LaneRecord, list[Prospect]]]:
    """`prospects` of every lane that drafted, in order, at the speeds of the race, so that nothing contradicts what was
    measured: plain decoding is as fast as the race's plain lane was, a cap as much faster or slower than what the lane
    ran as the curve says, and the cap that it ran as fast as it was."""
    out, greedy, curve = [], race.request.settings.greedy, anchored(curve, race)
    raced_plain = any(not lane.spec.speculative and metrics(lane).tok_s for lane in race.lanes)
    for lane in race.lanes:
        options = prospects(curve, lane, greedy) if lane.spec.speculative else []
        if not options:
            continue
        foretold = metrics(lane).tokens / curve.seconds(lane.spec.drafter_id, lane.rounds)
        measured = metrics(lane).tok_s or foretold
        plain = options[0].tok_s * (1 if raced_plain else measured / foretold)
        ran, found = fixed_cap(lane), []
        for p in options:
            own = measured if p.cap == ran else p.tok_s * measured / foretold
            tok_s = own if p.cap else plain
            found.append(replace(p, tok_s=tok_s, times_plain=tok_s / plain, break_even=p.tokens * plain / tok_s))
        out.append((lane, found))
    return out


def fixed_cap(lane: LaneRecord) -> int | None:
    """The cap that a lane with rounds ran throughout; None where it varied."""
    return max(r.proposed for r in lane.rounds) if lane.spec.schedule in (FULL, CAP, BLOCK) else None


def suggest(curve: CostCurve, race: RaceRecord) -> list[Suggestion]:
    """For every lane that drafted, in order, by `raced_prospects`."""
    out, greedy = [], race.request.settings.greedy
    for lane, options in raced_prospects(curve, race):
        best = max(options[1:], key=lambda p: p.tok_s)
        fastest = best if best.tok_s > options[0].tok_s else options[0]
        ran = fastest.cap == fixed_cap(lane)
        gain = 0.0 if ran else fastest.tok_s / (metrics(lane).tok_s or fastest.tok_s) - 1
        name, drafter = lane.spec.name, lane.spec.drafter_id
        told = max(len(r.draft_ids) if greedy else r.proposed for r in lane.rounds)
        longest = told if lane.spec.schedule != FULL and told == options[-1].cap else None
        out.append(Suggestion(name, drafter, fastest.cap, best.cap, fastest.tok_s, gain, best.times_plain, longest))
    return out
