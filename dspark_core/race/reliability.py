"""How sure was the drafter, and was it right: a reliability diagram of the drafts whose fate is known."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..decode.rounds import Round

BINS = 10  # of equal width; a race has some hundred drafts


@dataclass(frozen=True, slots=True)
class Bin:
    """Drafts of about one confidence: those from `low` on up to `high`, their mean `confidence`, how many of these `n`
    were `accepted`."""

    low: float
    high: float
    confidence: float
    accepted: int
    n: int


def judged_drafts(r: Round) -> list[tuple[float, bool]]:
    """Confidence, and whether it was accepted, of each draft of a round whose fate is known: all before it accepted,
    and itself sent. None of a round whose confidences were not asked for."""
    known = r.accepted + (not r.bonus and r.accepted < r.proposed)
    return [(c, k < r.accepted) for k, c in enumerate((r.confidence or ())[:known])]


class Reliability:
    """Of some rounds: the bins that have drafts, and the expected calibration error, |confidence - share accepted| of
    each bin weighed by its drafts; None without any."""

    def __init__(self, rounds: Sequence[Round]):
        drafts = [pair for r in rounds for pair in judged_drafts(r)]
        self.bins: list[Bin] = []
        for i in range(BINS):
            held = [(c, right) for c, right in drafts if min(int(c * BINS), BINS - 1) == i]
            if n := len(held):
                mean, right = sum(c for c, _ in held) / n, sum(right for _, right in held)
                self.bins.append(Bin(i / BINS, (i + 1) / BINS, mean, right, n))
        gaps = sum(abs(b.n * b.confidence - b.accepted) for b in self.bins)
        self.error = gaps / len(drafts) if drafts else None
