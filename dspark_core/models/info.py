"""What the page, the bench and the report know of a drafter. No MLX: it crosses from the thread that owns that."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from . import drafters

MOST_MARGIN = 40.0  # of two logits; more says nothing more
USUAL_MARGIN = (0.9, -0.7)  # of a drafter that was never calibrated


@dataclass(frozen=True, slots=True)
class Calibration:
    """What is known of a drafter's acceptance on held-out text, a number a slot; empty where nothing is known.

    temperatures: of the confidence head (sequential temperature scaling)
    survival:     share of rounds whose first k + 1 drafts were all accepted
    margins:      (w, b) of a drafter without such a head: a draft is accepted with the probability sigmoid(w m + b),
                  where m is how far the best of its draft logits is above the second best
    """

    temperatures: tuple[float, ...] = ()
    survival: tuple[float, ...] = ()
    margins: tuple[tuple[float, float], ...] = ()

    @property
    def acceptance(self) -> tuple[float, ...]:
        """Acceptance of each slot given that those before it were accepted."""
        before = (1.0, *self.survival)
        return tuple(s / b if b > 0 else 0.0 for b, s in zip(before, self.survival, strict=False))


@dataclass(frozen=True, slots=True, kw_only=True)
class DrafterInfo:
    """One drafter: all that the loop, the page, the bench and the report go by.

    id:             in lanes, links and scripts: the method in lower case, "dspark-2" for a second one of a method
    method:         its name, such as "DSpark"
    title:          its name for the visitor
    about:          one or two sentences for somebody who has not seen a race
    name:           of its directory or repository; its title where there is none
    precision:      of its weights
    block:          slots B that it computes; of a method without slots, the most drafts
    first_slot:     the first one that predicts: 0 is the anchor's own, 1 the one after it
    max_drafts:     drafts a round at most; a round may bring fewer, or none
    has_confidence: it gives each draft's logit of being accepted: of its confidence head, or else of its logits' margin
    has_look:       it knows that of the first draft before any head row is computed: it has a confidence head
    has_preview:    it knows its drafts and their confidences on the host, and they cost the device nothing
    has_bias:       its drafts see each other (a Markov head, a selector)
    bias:           what lets them, as a sentence names it: "Markov bias"; empty without
    candidates:     tokens that a slot's draft is settled among in the end; 0: all that it can draft
    needs_taps:     its context is made of the target's hidden states
    needs_weights:  it is read from a directory
    everywhere:     it comes with every target, whether or not it was asked for
    on_request:     its weights are read when a lane first names it, and no race has it for which none was chosen
    newest:         rows of its context that it looks at, the newest ones; 0: all that it was made to look at. Text that
                    is much longer than what it was trained on is drafted better so
    calibration:    where it was measured
    shapes:         what else decides what a draft costs, in any words
    """

    id: str
    method: str
    title: str
    about: str = ""
    name: str = ""
    precision: str = ""
    block: int
    first_slot: int = 0
    max_drafts: int
    has_confidence: bool = False
    has_look: bool = False
    has_preview: bool = False
    has_bias: bool = False
    bias: str = ""
    candidates: int = 0
    needs_taps: bool = True
    needs_weights: bool = True
    everywhere: bool = False
    on_request: bool = False
    newest: int = 0
    calibration: Calibration = field(default_factory=Calibration)
    shapes: str = ""

    def __post_init__(self) -> None:
        if not self.name:  # of a method that is read from nowhere
            object.__setattr__(self, "name", self.title)
        if self.has_bias and not self.bias:
            object.__setattr__(self, "bias", "bias")

    @property
    def waits(self) -> bool:
        """Are its confidences on the device, so that to decide by them is to wait for it?"""
        return self.has_confidence and not self.has_preview

    @property
    def lane_drafter(self) -> str:
        """How a lane names it: empty for the first of its method, its id for a further one."""
        return "" if self.id == self.method.lower() else self.id

    def drafts(self, length: int) -> int:
        """Drafts that an effective block length sends."""
        return length - self.first_slot

    def excess(self, asked: float, as_block: bool) -> str:
        """A clause that says so if a block length, or else a cap, is more than there is; empty if it is not."""
        if as_block and asked > self.block:
            return f"block {asked:g} was asked for; {self.name} has a block of {self.block}"
        if not as_block and asked > self.max_drafts:
            return f"a cap of {asked:g} was asked for; {self.name} drafts {self.max_drafts} at most"
        return ""


def drafter_ids(methods: Iterable[str]) -> list[str]:
    """Ids of drafters of these methods, in this order: "dspark", "dflash", "dspark-2"."""
    ids: list[str] = []
    counts: dict[str, int] = {}
    for method in map(str.lower, methods):
        counts[method] = n = counts.get(method, 0) + 1
        ids.append(method if n == 1 else f"{method}-{n}")
    return ids


def first_of_each(infos: Iterable[DrafterInfo]) -> list[str]:
    """Ids of the drafters of a race for which none was chosen: the first of each method. Those that come with every
    target are there where there is no other."""
    firsts = [info for info in infos if info.id == info.method.lower() and not info.on_request]
    return [i.id for i in firsts if not i.everywhere] or [i.id for i in firsts]


def named(infos: Iterable[tuple[str, DrafterInfo]]) -> tuple[DrafterInfo, ...]:
    """Drafters under the ids that they were loaded by. No two have one title: further ones of a title are numbered."""
    out: list[DrafterInfo] = []
    given = list(infos)
    # A second DFlash is no "DFlash 2": that is a method, whether or not a drafter of it is here.
    methods = {info.title for _, info in given} | {drafters.title(name) for name in drafters.names()}
    titles: list[str] = []
    for id_, info in given:
        titles.append(info.title)
        n = titles.count(info.title)
        taken = info.title[-1:].isdecimal() or any(m.startswith(f"{info.title} ") for m in methods)
        numbered = f"{info.title} {'#' * taken}{n}"
        out.append(replace(info, id=id_, title=info.title if n == 1 else numbered))
    return tuple(out)
