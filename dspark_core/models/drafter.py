"""What the decode loop sees of a drafter: a context that is extended with what was committed, and blocks it proposes.

A method is a file of drafters/, found by its name. The published methods are `BlockDrafter`s: they share a backbone and
differ in how a block becomes tokens. Their files have

    METHOD  the name, such as "DSpark"
    TITLE   the same for the visitor, where it is another
    HEADS   what of "markov" and "selector" a checkpoint of this method has
    ABOUT   one or two sentences for somebody who has not seen a race
    KIND    the BlockDrafter

A method of another kind has `open_drafter(place, target, precision)` in their stead, which returns what follows
`Drafter`, checked, its weights unread. Such a file may have more constants:

    EVERYWHERE   True: it needs no weights and is there on every target, without a preset's line
    OF_TARGETS   True: its checkpoints are targets
    EVERY_ROUND  False: it drafts in some rounds only

All these but KIND are literals: they are also read without MLX.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import mlx.core as mx
import mlx.nn as nn

from ..errors import ModelError
from . import drafters
from .backbone import Backbone
from .cache import trim
from .config import DrafterConfig
from .info import MOST_MARGIN, USUAL_MARGIN, Calibration, DrafterInfo
from .target import Cache, Target
from .weights import rows_of, wide_product

# logits [n, V], number of the first of these drafts -> their token ids [n] and the distribution q [n, V]
# (float32) they were drawn from, or None for greedy drafts.
Pick = Callable[[mx.array, int], tuple[mx.array, mx.array | None]]


@dataclass(frozen=True)
class Proposal:
    """Drafted tokens, still on the device: n of them, which may be fewer than were asked for, or none.

    ids:        [n] draft tokens, int32
    q:          [n, V] float32 distributions they were drawn from. None if greedy, or if the drafter is certain of its
                tokens, which is a distribution with all mass on each
    logits:     [n, V] draft logits, Markov bias or selector's score included; minus infinity for what it cannot draft:
                tokens outside a reduced vocabulary, or outside the selector's candidates. None where there are none
    base:       [n, V] draft logits without bias or selector; None likewise
    hidden:     [n, d] block hidden states that predict; None likewise
    confidence: [n] logits of each draft being accepted given those before it: a confidence head's, to be divided by
                its temperatures, or calibrated ones of the margin between the two best logits; None where it is not
                known, or was not asked for
    """

    ids: mx.array
    q: mx.array | None = None
    logits: mx.array | None = None
    base: mx.array | None = None
    hidden: mx.array | None = None
    confidence: mx.array | None = None

    def distribution(self, vocab_size: int) -> mx.array:
        """q [n, V], of a drafter that is certain of its tokens too."""
        if self.q is not None:
            return self.q
        return (mx.arange(vocab_size) == self.ids[:, None]).astype(mx.float32)


@dataclass(frozen=True)
class Preview:
    """What would be drafted, on the host and before anything is on the device: token ids, and the logit of each being
    accepted given those before it."""

    ids: list[int]
    confidence: list[float]


@dataclass(frozen=True)
class Look:
    """A block before any of its tokens is drafted: hidden states [B, d] of all its slots (of another method, whatever
    its `propose` can use), and the confidence logit [1] of the first draft, which depends on the anchor alone;
    None without `has_look`."""

    hidden: Any
    confidence: mx.array | None


@runtime_checkable
class Context(Protocol):
    """What a drafter keeps of the committed positions of one decode."""

    def extend(self, ids: mx.array, taps: mx.array | None) -> None:
        """Append n newly committed positions: ids [n] and the target's taps [n, m*d], None where it needs none."""

    def look(self, anchor: mx.array) -> Look:
        """The block after `anchor` [1] and its first confidence. Called only where `has_look`."""
        raise NotImplementedError

    def preview(self, anchor_id: int) -> Preview:
        """What `propose` would draft after this anchor at most. Called only where `has_preview`."""
        raise NotImplementedError

    def propose(
        self, anchor: mx.array, n: int, pick: Pick, confidence: bool = False, look: Look | None = None
    ) -> Proposal:
        """At most n drafts after `anchor` [1], which is committed but not in the context; fewer, or none, are fine.
        With `confidence` theirs too, where there is any; `look` is what `look` returned for this anchor."""
        raise NotImplementedError

    def rollback(self, n: int) -> None:
        """Forget the newest n positions. Raises ValueError if it cannot go back that far."""

    @property
    def state(self) -> list[mx.array]:
        """Arrays to evaluate after `extend`."""
        raise NotImplementedError


class Unasked:
    """For contexts that are asked for no look, or for no preview."""

    def look(self, anchor: mx.array) -> Look:
        raise NotImplementedError

    def preview(self, anchor_id: int) -> Preview:
        raise NotImplementedError


@runtime_checkable
class Drafter(Protocol):
    """A loaded drafter. It holds no state of a decode: `begin` does.

    taps:    layers of the target whose hidden states its context is extended with; () if it needs none
    weights: where `info.needs_weights`, an nn.Module whose parameters are read once everything is checked
    prove:   optional; called once they are read. Raises ModelError if what they compute is wrong
    """

    info: DrafterInfo
    taps: tuple[int, ...]

    def begin(self) -> Context:
        """An empty context for one decode."""
        raise NotImplementedError


def method_module(method: str) -> ModuleType:
    """The file of a method, "DSpark" say. Raises ModelError, with the methods there are, if it has none."""
    name = method.lower()
    if name not in drafters.names():
        there_are = ", ".join(drafters.names())
        raise ModelError(f"There is no drafting method {method[:80]!r}; there are {there_are}.")
    return importlib.import_module(drafters.module_name(name))


def calibrated(confidence: mx.array, calibration: Calibration) -> mx.array:
    """Probabilities [n] float32 of the first n slots' confidence logits [n], at the checkpoint's temperatures."""
    z, t = confidence.astype(mx.float32), calibration.temperatures[: confidence.shape[0]]
    return mx.sigmoid(z / mx.array(t) if t else z)


def gaps(logits: mx.array) -> mx.array:
    """Best minus second best logit, float32 [n], of logits [n, V]; 0 where two are equally good."""
    z = logits.astype(mx.float32)
    best = mx.argmax(z, axis=-1, keepdims=True)
    others = mx.where(mx.arange(z.shape[-1]) == best, -mx.inf, z)
    return z.max(axis=-1) - others.max(axis=-1)


def confidence_by_margin(logits: mx.array, calibration: Calibration) -> mx.array:
    """Logits [n] float32 of drafts being accepted, by the margin of the two best of their draft logits [n, V]: what was
    drawn from these plays no part. (The acceptance estimator of vllm-project/vllm goes by the same.)"""
    n, fits = logits.shape[0], calibration.margins
    w, b = mx.array([*fits[:n], *[fits[-1] if fits else USUAL_MARGIN] * (n - len(fits))]).T
    return w * mx.minimum(gaps(logits), MOST_MARGIN) + b


class ConfidenceHead(nn.Module):
    """c_k = sigmoid(w [h_k ; W1[x_{k-1}]] + b), or from h_k alone: P(x_k accepted | x_1..x_{k-1} accepted)."""

    def __init__(self, features: int):
        super().__init__()
        self.proj = nn.Linear(features, 1)

    def __call__(self, features: mx.array) -> mx.array:
        """Logits [n] (before the sigmoid) of features [n, d] or [n, d + r]."""
        return self.proj(features)[:, 0]


class Weights(Backbone):
    """Every tensor that a block drafter's checkpoint may hold, under the names it has there."""

    def __init__(self, c: DrafterConfig):
        super().__init__(c.backbone)
        d, V = c.backbone.hidden_size, c.vocab_size
        if c.own_embedding:
            self.embed_tokens = nn.Embedding(V, d)
        if c.own_head:
            self.lm_head = nn.Linear(d, c.stored_rows, bias=False)
        if c.draft_vocab_size and not c.listed:
            self.d2t = mx.zeros((c.draft_vocab_size,), dtype=mx.int64)
        if c.confidence:
            self.confidence_head = ConfidenceHead(d + c.markov_rank if c.confidence_with_markov else d)

    def reduce(self, ids: mx.array, target: Target) -> None:
        """Have it draft no other tokens than `ids` [V_d], ascending: what has a row for each of the target's tokens
        and is multiplied as a whole keeps these rows. A head that is the target's becomes a copy of them."""
        self.lm_head = rows_of(self.lm_head if "lm_head" in self else target.head_layer, ids)
        self.d2t = ids - mx.arange(ids.size)


class BlockDrafter:
    """A drafter that computes a block of slots in one pass over keys and values made of the target's taps.

    Every slot is drafted in parallel; a method whose drafts see each other overrides `chain`. V_d: tokens of its own
    vocabulary, which may be a part of the target's V; ids are the target's everywhere outside the head.
    """

    weights_type: type[Weights] = Weights

    def __init__(self, config: DrafterConfig, weights: Weights, target: Target, info: DrafterInfo):
        self.config = config
        self.weights = weights
        self.target = target
        self.info = info
        self.taps = config.taps
        self.masks = mx.full((config.block_size - 1,), config.mask_token_id, dtype=mx.int32)

    def begin(self) -> BlockContext:
        return BlockContext(self, self.weights.new_cache(self.info.newest))

    def embed(self, ids: mx.array) -> mx.array:
        """Input embeddings [n, d] of ids [n], from the checkpoint if it holds them, else the target's."""
        c, scale = self.config, self.config.embedding_scale
        if c.own_embedding:
            h, scale = self.weights.embed_tokens(ids), scale * (c.backbone.hidden_size**0.5 if c.backbone.gemma else 1)
        else:
            h, scale = self.target.embed(ids), scale / (self.target.embed_scale if c.raw_embedding else 1)
        return h if scale == 1 else h * scale

    def head(self, hidden: mx.array) -> mx.array:
        """Base logits [n, V_d], scaled and softcapped where the checkpoint says so."""
        z = wide_product(self.weights.lm_head if "lm_head" in self.weights else self.target.head_layer, hidden)
        z = z if self.config.multiplier == 1 else z * self.config.multiplier
        cap = self.config.softcap
        return z if cap is None else mx.tanh(z / cap) * cap

    @cached_property
    def draft_ids(self) -> mx.array:
        """The target's ids [V_d] int32 of the tokens that can be drafted, ascending."""
        ids = mx.arange(self.config.head_rows, dtype=mx.int32)
        return ids + self.weights.d2t.astype(mx.int32) if self.config.draft_vocab_size else ids

    def spread(self, logits: mx.array, ids: mx.array | None = None) -> mx.array:
        """Logits [n, V] from those [n, m] of the target's `ids` [n, m] (all that can be drafted); others get minus
        infinity, so that a softmax gives them nothing and an argmax never finds them."""
        if ids is None:
            if not self.config.draft_vocab_size:
                return logits
            ids = mx.broadcast_to(self.draft_ids, logits.shape)
        nothing = mx.full((logits.shape[0], self.config.vocab_size), -mx.inf, logits.dtype)
        return mx.put_along_axis(nothing, ids, logits, axis=-1)

    def chain(
        self, anchor: mx.array, base: mx.array, hidden: mx.array, pick: Pick
    ) -> tuple[mx.array, mx.array | None, mx.array, mx.array]:
        """Tokens [n], q, logits [n, V] and previous tokens [n] from base logits [n, V_d] and the hidden states
        [first_slot + n, d] of all slots up to the last of them: here all slots at once."""
        logits = self.spread(base)
        ids, q = pick(logits, 0)
        return ids, q, logits, mx.concatenate([anchor, ids[:-1]])

    def confidence(self, hidden: mx.array, previous: mx.array) -> mx.array:
        """Logits [n] of the confidence head for slots of hidden states [n, d] after the tokens `previous` [n]."""
        return self.weights.confidence_head(hidden)


class BlockContext(Unasked):
    """A block drafter's keys and values of the committed positions of one decode."""

    def __init__(self, drafter: BlockDrafter, cache: Cache):
        self.drafter = drafter
        self.cache = cache

    @property
    def length(self) -> int:
        """Committed positions in the context."""
        return self.cache[0].offset

    def extend(self, ids: mx.array, taps: mx.array | None) -> None:
        self.drafter.weights.extend(taps, self.cache)

    def look(self, anchor: mx.array) -> Look:
        """The block after `anchor` [1], without any head row. The whole block is always computed (it is
        bidirectional, so a shorter one would change every logit)."""
        d, first = self.drafter, self.drafter.config.first_slot
        hidden = d.weights.block(d.embed(mx.concatenate([anchor, d.masks])), self.cache)
        return Look(hidden, d.confidence(hidden[first : first + 1], anchor) if d.info.has_look else None)

    def propose(
        self, anchor: mx.array, n: int, pick: Pick, confidence: bool = False, look: Look | None = None
    ) -> Proposal:
        """n drafts, from the block of `look` if that is given. Only n slots get head logits and tokens."""
        d = self.drafter
        if n == 0:
            rows = mx.zeros((0, d.config.vocab_size))
            return Proposal(mx.zeros((0,), dtype=mx.int32), rows, rows, rows, rows, mx.zeros((0,)))
        first = d.config.first_slot
        slots = (look or self.look(anchor)).hidden[: first + n]
        hidden = slots[first:]
        base = d.head(hidden)
        ids, q, logits, previous = d.chain(anchor, base, slots, pick)
        c = None
        if confidence and d.info.has_confidence:
            c = d.confidence(hidden, previous) if d.info.has_look else confidence_by_margin(logits, d.info.calibration)
        return Proposal(ids, q, logits, d.spread(base), hidden, c)

    def rollback(self, n: int) -> None:
        trim(self.cache, n)

    @property
    def state(self) -> list[mx.array]:
        return [c.state for c in self.cache]
