"""How many of a block's drafts to send to verification. All schedules are lossless.

A schedule first says how many drafts are worth head logits, then, once they are drafted, how many are sent. The
second decision may look at the confidence of slot k only to decide about slots k and later (non-anticipating): it
uses x_1..x_{k-1}, never the fate of x_k itself, which is what keeps sampling exact. What earlier rounds came to may
be used freely. Here are the schedules that learn nothing; adaptive.py has the one that does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .rounds import Round


class Schedule:
    """What the loop asks. A schedule that learns gives every decode an object of its own in `begin`.

    needs_confidence: `proposed` wants the confidences, so the drafter must give some
    looks:            `look` wants the first slot's confidence before any head row is computed, of a drafter that
                      knows it by then (`has_look`)
    previews:         `preview` wants the drafts and their confidences at the start of every round, of a drafter that
                      has them on the host (`has_preview`)
    """

    needs_confidence: bool = False
    looks: bool = False
    previews: bool = False

    def begin(self, max_drafts: int) -> "Schedule":
        """The schedule of one decode with a drafter of at most `max_drafts` drafts a round."""
        return self

    def preview(self, ids: Sequence[int], confidence: Sequence[float], position: int) -> None:
        """What would be drafted with the anchor at `position`, and the logit of each draft being accepted. Called
        before `drafts`, and in a round whose plain step is on the device already in its place."""

    def drafts(self, max_drafts: int, position: int) -> int:
        """How many tokens to draft with the anchor at `position`, at most `max_drafts`; 0 is a plain step."""
        raise NotImplementedError

    def look(self, first: float, drafts: int) -> int:
        """How many tokens to draft after all, instead of `drafts`, given the first slot's confidence (a probability);
        at most the drafter's most, and 0 sends nothing."""
        return drafts

    def parked(self) -> bool:
        """After `drafts` gave 0: is the next round to be a plain step too, whatever this one brings?"""
        return False

    def proposed(self, drafted: int, confidence: Sequence[float] | None) -> int:
        """How many of the drafted tokens to send, given the confidence per slot (if it was asked for)."""
        return drafted

    def observe(self, r: Round) -> None:
        """What a round came to, before the next one is scheduled."""


@dataclass(frozen=True)
class FullBlock(Schedule):
    """Send everything."""

    def drafts(self, max_drafts: int, position: int) -> int:
        return max_drafts


@dataclass(frozen=True)
class FixedCap(Schedule):
    """Send the first `cap` drafts. An effective block length L is a cap of L - the drafter's first slot."""

    cap: int

    def drafts(self, max_drafts: int, position: int) -> int:
        return min(max(self.cap, 0), max_drafts)

    def parked(self) -> bool:
        return True


@dataclass(frozen=True)
class ConfidenceThreshold(Schedule):
    """Send up to the first slot whose own confidence is below `threshold` (DeepSpec's --confidence-threshold)."""

    threshold: float
    needs_confidence = True

    def drafts(self, max_drafts: int, position: int) -> int:
        return max_drafts

    def proposed(self, drafted: int, confidence: Sequence[float] | None) -> int:
        return next((k for k, c in enumerate(confidence or ()) if c < self.threshold), drafted)


@dataclass(frozen=True)
class CumulativeThreshold(Schedule):
    """Send up to the first slot where the product of the confidences so far is below `threshold`."""

    threshold: float
    needs_confidence = True

    def drafts(self, max_drafts: int, position: int) -> int:
        return max_drafts

    def proposed(self, drafted: int, confidence: Sequence[float] | None) -> int:
        survival = 1.0
        for k, c in enumerate(confidence or ()):
            survival *= c
            if survival < self.threshold:
                return k
        return drafted
