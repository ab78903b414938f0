"""How many of a block's drafts to send to verification. All schedules are lossless.

A schedule first says how many drafts are worth head logits, then, once they are drafted, how many are sent. The
second decision may look at the confidence of slot k only to decide about slots k and later (non-anticipating): it
uses x_1..x_{k-1}, never the fate of x_k itself, which is what keeps sampling exact.
"""

from dataclasses import dataclass
from typing import Protocol


class Schedule(Protocol):
    needs_confidence: bool

    def drafts(self, max_drafts: int) -> int:
        """How many tokens to draft, at most `max_drafts`."""

    def proposed(self, drafted: int, confidence: list[float] | None) -> int:
        """How many of the drafted tokens to send, given the confidence per slot (if it was asked for)."""


@dataclass(frozen=True)
class FullBlock:
    """Send everything."""

    needs_confidence = False

    def drafts(self, max_drafts: int) -> int:
        return max_drafts

    def proposed(self, drafted: int, confidence: list[float] | None) -> int:
        return drafted


@dataclass(frozen=True)
class FixedCap:
    """Send the first `cap` drafts. An effective block length L is a cap of L - 1."""

    cap: int
    needs_confidence = False

    def drafts(self, max_drafts: int) -> int:
        return min(max(self.cap, 0), max_drafts)

    def proposed(self, drafted: int, confidence: list[float] | None) -> int:
        return drafted


@dataclass(frozen=True)
class ConfidenceThreshold:
    """Send up to the first slot whose own confidence is below `threshold` (DeepSpec's --confidence-threshold)."""

    threshold: float
    needs_confidence = True

    def drafts(self, max_drafts: int) -> int:
        return max_drafts

    def proposed(self, drafted: int, confidence: list[float] | None) -> int:
        return next((k for k, c in enumerate(confidence) if c < self.threshold), drafted)
