"""A small model as drafter: any target of a supported family writes a few tokens ahead, if its vocabulary is the same.

Speculative decoding as it began (Leviathan et al. 2023, Chen et al. 2023). The small model has a cache of its own. The
rows of its drafts stay there until it is known which of them the target accepted: those need no second pass.
"""

from itertools import takewhile
from pathlib import Path

import mlx.core as mx

from ...errors import ModelError
from ..cache import trim
from ..drafter import Look, Pick, Proposal, Unasked, confidence_by_margin
from ..info import DrafterInfo
from ..target import Cache, Target, open_target

METHOD = "Small-Model"
TITLE = "Small model"
OF_TARGETS = True
ABOUT = (
    "A smaller language model with the same vocabulary writes a few tokens ahead, one after the other. "
    "A single step of the target checks them all."
)
MAX_DRAFTS = 7
CHUNK = 256  # positions of a pass
SHORT = 8  # committed positions that wait for the next draft, in whose first pass they go along


def open_drafter(place: Path | None, target: Target, precision: str) -> "SmallModel":
    """Raises ModelError, also where its vocabulary is not the target's."""
    if place is None:
        raise ModelError("A small model as drafter needs a directory with its weights.")
    model = open_target(place, precision)
    if words := vocabularies_differ(target, model):
        raise ModelError(f"{place} cannot draft for {target.name}: {words}.")
    model.text = None  # whose process holds a few only
    return SmallModel(model, target)


def vocabularies_differ(target: Target, model: Target) -> str:
    """Where the model's tokens and their ids are not the target's, in a clause; empty where they are the same. Rows of
    padding, which no token has, may be more or fewer."""
    if target.text is None or model.text is None:
        if target.text is not model.text:
            lacks = model if model.text is None else target
            return f"{lacks.name} has no tokenizer files, so their vocabularies cannot be compared"
        sizes = model.vocab_size, target.vocab_size
        return "" if sizes[0] == sizes[1] else f"its vocabulary has {sizes[0]} tokens, the target's {sizes[1]}"
    theirs, own = ({i: token for token, i in m.text.vocabulary().items()} for m in (target, model))  # type: ignore[union-attr]
    if theirs == own:
        return ""
    first = min(i for i in theirs.keys() | own.keys() if theirs.get(i) != own.get(i))
    there, here = (repr(v[first])[:60] if first in v else "none" for v in (theirs, own))
    return f"their vocabularies differ, first at id {first}, which is {there} to the target and {here} to the drafter"


class SmallModel:
    taps = ()

    def __init__(self, model: Target, target: Target):
        self.model, self.vocab_size = model, target.vocab_size
        self.weights = model.model
        self.info = DrafterInfo(
            id=METHOD.lower(),
            method=METHOD,
            title=TITLE,
            about=ABOUT,
            name=model.name,
            precision=model.precision,
            block=MAX_DRAFTS,
            max_drafts=MAX_DRAFTS,
            has_confidence=True,
            bias="earlier drafts",
            needs_taps=False,
            shapes=repr(model.model),
        )

    def prove(self) -> None:
        self.model.prove_taps()
        if self.model.no_rollback:
            raise ModelError(f"{self.model.name} cannot draft: after a rollback its logits are not those without one.")

    def begin(self) -> "SmallContext":
        return SmallContext(self)


class SmallContext(Unasked):
    """The small model's cache. It holds committed positions, `_waiting` the newest ones that it lacks, and `_ahead` the
    anchor and drafts behind them whose rows are there already."""

    def __init__(self, drafter: SmallModel):
        self.drafter, self.model = drafter, drafter.model
        self.cache: Cache = self.model.new_cache()
        self.length = 0  # committed positions
        self._waiting: list[int] = []
        self._ahead: list[mx.array] = []

    def extend(self, ids: mx.array, taps: mx.array | None) -> None:
        new: list[int] = ids.tolist()
        self.length += len(new)
        if self._ahead:  # by now the round is over, so that no drafts are waited for
            drafted = [int(i.item()) for i in self._ahead]
            right = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(drafted, new, strict=False)))
            trim(self.cache, len(drafted) - right)
            self._ahead, new = [], new[right:]
        self._waiting += new
        if self.length <= self.model.context_length:
            self._read(SHORT)

    def rollback(self, n: int) -> None:
        if n > self.length:
            raise ValueError(f"cannot drop {n} of {self.length} positions")
        self._forget_drafts()
        waiting = min(n, len(self._waiting))
        trim(self.cache, n - waiting)
        del self._waiting[len(self._waiting) - waiting :]
        self.length -= n

    def propose(
        self, anchor: mx.array, n: int, pick: Pick, confidence: bool = False, look: Look | None = None
    ) -> Proposal:
        """None behind the end of the small model's own context."""
        self._forget_drafts()
        n = min(n, self.model.context_length - self.length)
        if n < 1:
            return Proposal(mx.zeros((0,), dtype=mx.int32))
        self._read(CHUNK)
        waiting = mx.array(self._waiting, dtype=mx.int32)
        token, ids, qs, logits = anchor, [], [], []
        for k in range(n):
            hidden = self._forward(mx.concatenate([waiting, token]) if k == 0 and self._waiting else token)
            logits.append(self._spread(self.model.head(hidden[-1:])))
            self._ahead.append(token)
            token, q = pick(logits[-1], k)
            ids.append(token)
            qs.append(q)
        self._waiting = []
        rows = mx.concatenate(logits)
        sure = confidence_by_margin(rows, self.drafter.info.calibration) if confidence else None
        q = None if qs[0] is None else mx.concatenate(qs)
        return Proposal(mx.concatenate(ids), q, rows, rows, confidence=sure)

    @property
    def state(self) -> list[mx.array]:
        return [c.state for c in self.cache if c.offset]

    def _read(self, most: int) -> None:
        """Put waiting positions into the cache until no more than `most` wait."""
        while len(self._waiting) > most:
            chunk, self._waiting = self._waiting[:CHUNK], self._waiting[CHUNK:]
            self._forward(chunk)

    def _forget_drafts(self) -> None:
        trim(self.cache, len(self._ahead))
        self._ahead = []

    def _forward(self, ids: "mx.array | list[int]") -> mx.array:
        """Final hidden states of ids behind what the cache holds. An id of the target's padding has no row here."""
        return self.model.forward(mx.minimum(mx.array(ids), self.model.vocab_size - 1), self.cache)[0]

    def _spread(self, logits: mx.array) -> mx.array:
        """Logits [1, V] of the target's vocabulary from those of the model's, whose padding has other rows."""
        more = self.drafter.vocab_size - logits.shape[-1]
        if more > 0:
            return mx.concatenate([logits, mx.full((1, more), -mx.inf, logits.dtype)], axis=-1)
        return logits[:, : self.drafter.vocab_size]
