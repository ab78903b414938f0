"""What the page, the bench and the report know of a drafter. No MLX: it crosses from the thread that owns it."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DrafterInfo:
    """One loaded drafter.

    title:      its name, for the visitor
    block:      slots that it computes, the anchor's among them
    first_slot: the first one that predicts: 0 is the anchor's own, 1 the one after it
    has_bias:   its drafts see each other (a Markov head); without it a length is set as a block of slots
    """

    method: str
    title: str
    block: int
    first_slot: int
    has_confidence: bool
    has_bias: bool

    @property
    def max_drafts(self) -> int:
        """Drafts a round."""
        return self.drafts(self.block)

    @property
    def by_block(self) -> bool:
        """Is its length set as an effective block length, not as a cap on its drafts?"""
        return not self.has_bias

    @property
    def shortest(self) -> int:
        """The block length of a single draft."""
        return self.length(1)

    def drafts(self, length: int) -> int:
        """Drafts that an effective block length sends."""
        return length - self.first_slot

    def excess(self, asked: float, as_block: bool) -> str:
        """A clause that says so if a block length, or else a cap, is more than there is; empty if it is not."""
        if as_block and asked > self.block:
            return f"block {asked:g} was asked for; {self.title} has a block of {self.block}"
        if not as_block and asked > self.max_drafts:
            return f"a cap of {asked:g} was asked for; {self.title} drafts {self.max_drafts} at most"
        return ""

    def length(self, drafts: int) -> int:
        """The effective block length that sends so many drafts."""
        return drafts + self.first_slot


def drafter_ids(methods: Iterable[str]) -> list[str]:
    """Ids of drafters of these methods, in this order: "dspark", "dflash", "dspark-2"."""
    ids: list[str] = []
    counts: dict[str, int] = {}
    for method in map(str.lower, methods):
        counts[method] = n = counts.get(method, 0) + 1
        ids.append(method if n == 1 else f"{method}-{n}")
    return ids
