"""What earlier decodes left behind: caches that hold the beginning of a prompt, so that only the rest is prefilled.

A conversation's next prompt repeats what went before as the chat template renders it: mostly to the last token, at
times (a thought that is dropped, an answer that is tokenized anew) only up to a turn's border. Full attention goes
back to any position. Wrapped windows and recurrent layers cannot, so a copy of those is taken shortly before the end of
each prompt; where no copy reaches back far enough, the prompt is prefilled as if nothing were known of it.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import mlx.core as mx
from mlx_lm.models.cache import KVCache

from ..machine import physical_memory
from ..models.cache import trims_at_will
from ..models.drafter import BlockContext, Context, Drafter, Look, Pick, Preview, Proposal
from ..models.target import Cache, Target

MAX_KEPT = 4  # conversations
MEMORY_SHARE = 16  # all of them together take at most a part of the memory: one in so many bytes
MIN_KEPT = 8  # tokens: a shorter beginning is prefilled as fast as it is found
OPENING = 16  # tokens with which a template opens an answer, at most; another turn may render them otherwise
MAX_SNAPSHOTS = 3  # of one conversation


class CountedContext:
    """A drafter's context that knows how many positions it holds. It is the `Drafter` of a single decode, too."""

    def __init__(self, drafter: Drafter):
        self.drafter, self.info, self.taps = drafter, drafter.info, drafter.taps
        self.inner, self.length = drafter.begin(), 0

    def begin(self) -> Context:
        return self

    def extend(self, ids: mx.array, taps: mx.array | None) -> None:
        self.inner.extend(ids, taps)
        self.length += ids.shape[0]

    def look(self, anchor: mx.array) -> Look:
        return self.inner.look(anchor)

    def preview(self, anchor_id: int) -> Preview:
        return self.inner.preview(anchor_id)

    def propose(
        self, anchor: mx.array, n: int, pick: Pick, confidence: bool = False, look: Look | None = None
    ) -> Proposal:
        return self.inner.propose(anchor, n, pick, confidence, look)

    def rollback(self, n: int) -> None:
        self.inner.rollback(n)
        self.length -= n

    @property
    def state(self) -> list[mx.array]:
        return self.inner.state


@dataclass
class Prefix:
    """A target's cache and a drafter's context, which a decode begins with and goes on writing.

    cache:     one entry a layer
    context:   None for plain decoding
    ids:       of the positions that both hold
    length:    positions in the cache when that was noted: a recurrent layer does not say
    snapshots: position -> what of `entries` cannot go back at will as it was there, by its place
    """

    seconds: ClassVar[float] = 0.0  # of the prefill before a decode: what is known costs it none

    cache: Cache
    context: CountedContext | None
    ids: list[int] = field(default_factory=list)
    length: int = 0
    snapshots: dict[int, dict[int, Any]] = field(default_factory=dict)

    @property
    def entries(self) -> list[Any]:
        """Of the target's layers, then of the drafter's, where it is made of such entries."""
        inner = self.context and self.context.inner
        return [*self.cache, *(inner.cache if isinstance(inner, BlockContext) else [])]

    def borders(self, total: int) -> Iterator[int]:
        """Where the prefill of a prompt of `total` tokens stops: at its end, and before it for a snapshot."""
        if total - OPENING > len(self.ids) and not all(map(trims_at_will, self.entries)):
            yield total - OPENING
        yield total

    def note(self, position: int) -> None:
        """Take a snapshot: the entries hold exactly `position` positions."""
        inexact = {i: entry for i, entry in enumerate(self.entries) if not trims_at_will(entry)}
        self.snapshots[position] = copy.deepcopy(inexact)
        while len(self.snapshots) > MAX_SNAPSHOTS:
            del self.snapshots[min(self.snapshots)]

    def shared(self, prompt: Sequence[int]) -> int:
        """How many positions a prompt has in common with this. Its last token is never one: it gives the logits."""
        most = min(len(self.ids), len(prompt) - 1)
        return next((i for i in range(most) if self.ids[i] != prompt[i]), most)

    def go_back(self, position: int) -> int:
        """Drop what is behind `position`, or a little more where only a snapshot reaches back that far. Returns the
        position that it holds now. Raises ValueError if none of them does; then this is of no use any more."""
        try:
            self._trim(position, {})
        except ValueError:
            position = max((p for p in self.snapshots if p <= position), default=0)
            if not position:
                raise
            self._trim(position, self.snapshots[position])
        self.ids, self.length = self.ids[:position], position
        self.snapshots = {p: entries for p, entries in self.snapshots.items() if p <= position}
        return position

    def _trim(self, position: int, restored: dict[int, Any]) -> None:
        """Bring every entry to `position`, or a copy into its place. Raises ValueError."""
        inner = self.context and self.context.inner
        drafted: list[Any] = inner.cache if isinstance(inner, BlockContext) else []
        for i, entry in enumerate(self.entries):
            place, at = (self.cache, i) if i < len(self.cache) else (drafted, i - len(self.cache))
            if i in restored:
                place[at] = copy.deepcopy(restored[i])
                continue
            back = getattr(entry, "offset", self.length) - position
            if back > 0:
                entry.trim(back)
        if self.context is not None and isinstance(inner, BlockContext):
            self.context.length = position
        elif self.context is not None and self.context.length > position:
            self.context.rollback(self.context.length - position)

    def branch(self, position: int) -> "Prefix | None":
        """A copy of the first positions, so that this one stays as it is; None where the drafter's context is of an
        unknown kind."""

        def copied(entry: Any) -> Any:
            if type(entry) is not KVCache:  # of bounded size
                return copy.deepcopy(entry)
            twin, rows = KVCache(), min(entry.offset, position)
            twin.keys, twin.values = (mx.contiguous(x[..., :rows, :]) for x in (entry.keys, entry.values))
            twin.offset = rows
            return twin

        twin = Prefix([copied(entry) for entry in self.cache], None, [*self.ids], self.length, dict(self.snapshots))
        if self.context is None:
            return twin
        if not isinstance(self.context.inner, BlockContext):
            return None
        twin.context = CountedContext(self.context.drafter)
        twin.context.inner.cache = [copied(entry) for entry in self.context.inner.cache]  # type: ignore[attr-defined]
        twin.context.length = self.context.length
        return twin

    def hold(self, ids: Sequence[int]) -> None:
        """Note what the caches hold after a decode of which `ids` are the prompt and the output."""
        self.length = max(getattr(entry, "offset", 0) for entry in self.cache)
        self.ids = list(ids[: self.length if self.context is None else min(self.length, self.context.length)])
        mx.eval([entry.state for entry in self.entries])

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        copies = [entry for entries in self.snapshots.values() for entry in entries.values()]
        inner = self.context and self.context.inner
        own = [] if isinstance(inner, BlockContext) else getattr(inner, "cache", [])
        return sum(int(entry.nbytes) for entry in [*self.entries, *copies, *own])


class Prefixes:
    """The conversations that are kept for one loaded target, the newest last. For the thread that owns MLX."""

    def __init__(self, budget: int | None = None):
        self.budget = physical_memory() // MEMORY_SHARE if budget is None else budget
        self._kept: list[tuple[Prefix, int]] = []  # with the length of its last prompt

    def begin(self, target: Target, drafter: Drafter | None, prompt: Sequence[int]) -> Prefix:
        """What a decode of `prompt` begins with: the longest beginning that is known for this drafter, or nothing.
        A conversation that goes on is taken out of here, and one that another prompt branches off from is copied."""
        fitting = [k for k in self._kept if (k[0].context and k[0].context.drafter) is drafter]
        best, asked = max(fitting, key=lambda k: k[0].shared(prompt), default=(None, 0))
        shared = best.shared(prompt) if best else 0
        if best is not None and shared >= MIN_KEPT:
            branched = best.branch(shared) if shared < asked - OPENING else None
            if branched is None:
                self._kept = [k for k in self._kept if k[0] is not best]
            prefix = branched or best
            try:
                prefix.go_back(shared)
                return prefix
            except ValueError:
                pass
        return Prefix(target.new_cache(), CountedContext(drafter) if drafter is not None else None)

    def keep(self, prefix: Prefix, ids: Sequence[int], prompt: int) -> None:
        """Keep what a decode that ended well, or was stopped, leaves: `ids` are the prompt, `prompt` tokens long, and
        the output."""
        prefix.hold(ids)
        self._kept.append((prefix, prompt))
        while self._kept and (len(self._kept) > MAX_KEPT or self.nbytes > self.budget):
            del self._kept[0]

    @property
    def nbytes(self) -> int:
        return sum(prefix.nbytes for prefix, _ in self._kept)

    def __len__(self) -> int:
        return len(self._kept)
