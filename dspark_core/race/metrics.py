"""Rounds in, figures out. Every figure is defined in the README's vocabulary; nothing here is timed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ..decode.rounds import Round, Spent, tau
from .records import LaneRecord

MIN_SAMPLES = 10  # a share of fewer rounds than this means little, and the page greys it


@dataclass(frozen=True, slots=True)
class Position:
    """Acceptance at draft slot `slot` (1 is the first).

    conditional: share accepted of the `reached` rounds in which the slot was sent and every slot before
                 it was accepted
    cumulative:  share of the `sent` rounds that sent the slot in which it was accepted
    Either is None where its count is 0.
    """

    slot: int
    accepted: int
    reached: int
    sent: int

    @property
    def conditional(self) -> float | None:
        return self.accepted / self.reached if self.reached else None

    @property
    def cumulative(self) -> float | None:
        return self.accepted / self.sent if self.sent else None


@dataclass(frozen=True, slots=True)
class Metrics:
    """A lane's figures. `None` means that there is nothing yet to divide by.

    tokens:           committed after the token that the prompt gives
    seconds:          own time from that token to the last commit
    tok_s:            tokens / seconds
    tokens_per_round: mean of Round.acceptance_length
    acceptance:       accepted / proposed
    first_token_s:    own time of the prefill, which is the time to first token
    """

    tokens: int
    seconds: float
    rounds: int
    tok_s: float | None
    tokens_per_round: float | None
    acceptance: float | None
    first_token_s: float | None


def metrics(lane: LaneRecord) -> Metrics:
    rounds = lane.rounds
    tokens = sum(len(r.committed) for r in rounds)
    seconds = rounds[-1].time_s if rounds else 0.0
    accepted, proposed = sum(r.accepted for r in rounds), sum(r.proposed for r in rounds)
    return Metrics(
        tokens=tokens,
        seconds=seconds,
        rounds=len(rounds),
        tok_s=tokens / seconds if seconds > 0 else None,
        tokens_per_round=tau(rounds),
        acceptance=accepted / proposed if proposed else None,
        first_token_s=lane.start.prefill_s if lane.start else None,
    )


@dataclass(frozen=True, slots=True)
class Strictness:
    """What strict mode did in a lane: output `positions` decided again by plain decoding's own numbers, `changed` of
    them differently; `steps` steps of width 1 and `seconds` of own time that this took, a `share` of the lane's."""

    positions: int
    changed: int
    steps: int
    seconds: float
    share: float


def strictness(rounds: Sequence[Round]) -> Strictness:
    """All zero where nothing was close, or without strict mode."""
    again = [r.again for r in rounds if r.again]
    seconds, total = sum(a.seconds for a in again), rounds[-1].time_s if rounds else 0.0
    return Strictness(
        positions=sum(a.positions for a in again),
        changed=sum(a.changed for a in again),
        steps=sum(a.steps for a in again),
        seconds=seconds,
        share=seconds / total if total > 0 else 0.0,
    )


def times_plain(lane: Metrics, plain: Metrics | None) -> float | None:
    """× plain: this lane's tok/s over the plain lane's in the same run."""
    return lane.tok_s / plain.tok_s if plain and plain.tok_s and lane.tok_s else None


def plain_metrics(lanes: Sequence[LaneRecord]) -> Metrics | None:
    """The figures of the first plain lane, if there is one."""
    return next((metrics(lane) for lane in lanes if not lane.spec.speculative), None)


def lengths(rounds: Sequence[Round]) -> dict[int, int]:
    """Acceptance lengths and how many rounds had each."""
    return dict(sorted(Counter(r.acceptance_length for r in rounds).items()))


def positions(rounds: Sequence[Round]) -> list[Position]:
    """Acceptance by draft slot, for every slot that any round sent."""
    widest = max((r.proposed for r in rounds), default=0)
    return [
        Position(
            slot=k,
            accepted=sum(r.accepted >= k for r in rounds),
            reached=sum(r.proposed >= k and r.accepted >= k - 1 for r in rounds),
            sent=sum(r.proposed >= k for r in rounds),
        )
        for k in range(1, widest + 1)
    ]


def speed_over_time(rounds: Sequence[Round], tokens: int = 16) -> list[tuple[float, float]]:
    """(own time, tok/s) after each round, over the shortest stretch of rounds with `tokens` tokens.

    Begins with the first round that has such a stretch behind it: earlier points are noise. So is one that comes at
    once after another, as the last plain step does, behind which none was prepared.
    """
    points: list[tuple[float, float]] = []
    first, stretch, before, last = 0, 0, 0.0, 0.0
    least = 0.1 * rounds[-1].time_s / len(rounds) if rounds else 0.0
    for r in rounds:
        stretch += len(r.committed)
        while stretch - len(rounds[first].committed) >= tokens:
            stretch -= len(rounds[first].committed)
            before = rounds[first].time_s
            first += 1
        if stretch >= tokens and r.time_s > before and r.time_s - last >= least:
            points.append((r.time_s, stretch / (r.time_s - before)))
        last = r.time_s
    return points


def spent(rounds: Sequence[Round]) -> Spent | None:
    """Seconds in draft, verify and rest over all profiled rounds; None if none was profiled."""
    profiled = [r.spent for r in rounds if r.spent]
    if not profiled:
        return None
    return Spent(
        draft=sum(s.draft for s in profiled),
        verify=sum(s.verify for s in profiled),
        rest=sum(s.rest for s in profiled),
    )
