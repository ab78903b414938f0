"""What the decode loop sees of a drafter: a context that is extended with taps, and blocks it proposes.

DSpark and DFlash share the backbone and differ in which slots predict and how a block becomes tokens. A new
method is one more subclass of `Drafter` here and one name in checkpoint.py.
"""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from .backbone import Backbone
from .config import Calibration, DrafterConfig
from .heads import MARKOV_HEADS, ConfidenceHead
from .info import DrafterInfo
from .target import Target
from .weights import wide_product

# logits [n, V], number of the first of these drafts -> their token ids [n] and the distribution q [n, V]
# (float32) they were drawn from, or None for greedy drafts.
Pick = Callable[[mx.array, int], tuple[mx.array, mx.array | None]]


@dataclass(frozen=True)
class Proposal:
    """One drafted block, still on the device. n drafts.

    ids:        [n] draft tokens
    q:          [n, V] float32 distributions they were drawn from, None if greedy
    logits:     [n, V] draft logits, Markov bias included
    base:       [n, V] draft logits without it
    hidden:     [n, d] block hidden states that predict
    confidence: [n] logits of the confidence head, None without one
    """

    ids: mx.array
    q: mx.array | None
    logits: mx.array
    base: mx.array
    hidden: mx.array
    confidence: mx.array | None


@dataclass(frozen=True)
class Look:
    """A block before any of its tokens is drafted: hidden states [max_drafts, d] that predict, and the confidence
    logit [1] of the first draft (it depends on the anchor alone), None without a confidence head."""

    hidden: mx.array
    confidence: mx.array | None


class Weights(Backbone):
    """Every tensor a drafter's checkpoint may hold, under the names it has there."""

    def __init__(self, c: DrafterConfig):
        super().__init__(c.backbone)
        d, V, r = c.backbone.hidden_size, c.vocab_size, c.markov_rank
        if c.own_embedding:
            self.embed_tokens = nn.Embedding(V, d)
        if c.own_head:
            self.lm_head = nn.Linear(d, V, bias=False)
        if r:
            self.markov_head = MARKOV_HEADS[c.markov_type](V, r, d)
        if c.confidence:
            self.confidence_head = ConfidenceHead(d + r if c.confidence_with_markov else d)


class Drafter:
    """A loaded drafter. It holds no state of a decode: `begin` does."""

    def __init__(
        self,
        config: DrafterConfig,
        weights: Weights,
        target: Target,
        name: str,
        precision: str,
        calibration: Calibration | None = None,
    ):
        self.config = config
        self.weights = weights
        self.target = target
        self.name = name
        self.precision = precision
        self.calibration = calibration or Calibration()
        self.method = config.method
        self.taps = config.taps
        self.block_size = config.block_size
        self.max_drafts = self.info.max_drafts
        self.has_confidence = config.confidence
        self._masks = mx.full((config.block_size - 1,), config.mask_token_id, dtype=mx.int32)

    @property
    def info(self) -> DrafterInfo:
        return self.config.info(self.name)

    def begin(self) -> "DraftContext":
        """An empty context for one decode."""
        return DraftContext(self, self.weights.new_cache())

    def embed(self, ids: mx.array) -> mx.array:
        """Input embeddings [n, d] of ids [n], from the checkpoint if it holds them, else the target's."""
        if not self.config.own_embedding:
            return self.target.embed(ids)
        h = self.weights.embed_tokens(ids)
        return h * self.config.backbone.hidden_size**0.5 if self.config.backbone.gemma else h

    def head(self, hidden: mx.array) -> mx.array:
        """Base logits [n, V], softcapped where the checkpoint says so."""
        z = wide_product(self.weights.lm_head, hidden) if self.config.own_head else self.target.raw_head(hidden)
        cap = self.config.softcap
        return z if cap is None else mx.tanh(z / cap) * cap

    def calibrated(self, confidence: mx.array) -> mx.array:
        """Probabilities [n] float32 of the first n slots' confidence logits [n], at the checkpoint's temperatures."""
        z, t = confidence.astype(mx.float32), self.calibration.temperatures[: confidence.shape[0]]
        return mx.sigmoid(z / mx.array(t) if t else z)

    def chain(self, anchor: mx.array, base: mx.array, hidden: mx.array, pick: Pick):
        """Tokens [n], q, logits [n, V] and previous tokens [n] from base logits: here all slots at once."""
        ids, q = pick(base, 0)
        return ids, q, base, mx.concatenate([anchor, ids[:-1]])


class DFlash(Drafter):
    """Block diffusion: every slot is drafted in parallel."""


class DSpark(Drafter):
    """Semi-autoregressive: the base logits come in parallel, the Markov bias token by token."""

    def chain(self, anchor, base, hidden, pick):
        head = self.weights.markov_head
        state, previous = head.start(), anchor
        ids, qs, logits = [], [], []
        for k in range(base.shape[0]):
            bias, state = head.bias(previous, hidden[k : k + 1], state)
            logits.append(base[k : k + 1] + bias)
            previous, q = pick(logits[-1], k)
            ids.append(previous)
            qs.append(q)
        ids = mx.concatenate(ids)
        q = None if qs[0] is None else mx.concatenate(qs)
        return ids, q, mx.concatenate(logits), mx.concatenate([anchor, ids[:-1]])


class DraftContext:
    """A drafter's keys and values of the committed positions of one decode."""

    def __init__(self, drafter: Drafter, cache):
        self.drafter = drafter
        self.cache = cache

    @property
    def length(self) -> int:
        """Committed positions in the context."""
        return self.cache[0].offset

    def extend(self, taps: mx.array) -> None:
        """Append n newly committed positions from the target's taps [n, m*d]."""
        self.drafter.weights.extend(taps, self.cache)

    def look(self, anchor: mx.array) -> "Look":
        """The block after `anchor` [1], without any head row. The whole block is always computed (it is
        bidirectional, so a shorter one would change every logit)."""
        d = self.drafter
        embeddings = d.embed(mx.concatenate([anchor, d._masks]))
        first = d.config.first_slot
        hidden = d.weights.block(embeddings, self.cache)[first : first + d.max_drafts]
        return Look(hidden, self._confidence(hidden[:1], anchor) if d.has_confidence else None)

    def propose(
        self, anchor: mx.array, n: int, pick: Pick, confidence: bool = False, look: "Look | None" = None
    ) -> Proposal:
        """Draft n tokens after `anchor` [1], from the block of `look` if that is given. Only n slots get head
        logits and tokens."""
        d = self.drafter
        if n == 0:
            rows = mx.zeros((0, d.config.vocab_size))
            return Proposal(mx.zeros((0,), dtype=mx.int32), rows, rows, rows, rows, mx.zeros((0,)))
        hidden = (look or self.look(anchor)).hidden[:n]
        base = d.head(hidden)
        ids, q, logits, previous = d.chain(anchor, base, hidden, pick)
        c = self._confidence(hidden, previous) if confidence and d.has_confidence else None
        return Proposal(ids, q, logits, base, hidden, c)

    def _confidence(self, hidden: mx.array, previous: mx.array) -> mx.array:
        """Logits [n] of the confidence head for slots of hidden states [n, d] after the tokens `previous` [n]."""
        weights, features = self.drafter.weights, hidden
        if self.drafter.config.confidence_with_markov:
            features = mx.concatenate([hidden, weights.markov_head.markov_w1(previous)], axis=-1)
        return weights.confidence_head(features)

    @property
    def state(self):
        """Arrays to evaluate after `extend`."""
        return [c.state for c in self.cache]
