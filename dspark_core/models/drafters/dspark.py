"""DSpark: the base logits come in parallel, the Markov bias token by token; a confidence head says what to send.

x_0 is the anchor and h_k the block hidden state that predicts x_k. A Markov head turns (x_{k-1}, h_k) into a
bias that is added to the base logits of slot k (paper section 3; DeepSpec's markov_head.py). x_{k-1} is the target's
id also where the head has a vocabulary of its own.
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..config import DrafterConfig
from ..drafter import BlockDrafter, Pick, Weights
from ..target import Target
from ..weights import rows_of, wide_product

METHOD = "DSpark"
HEADS = ("markov",)
BY = "DeepSeek"
ABOUT = (
    "Drafts a block at once; a small head then settles it token by token, each one seeing the one before. "
    "A single step of the target checks the whole block."
)


class VanillaMarkov(nn.Module):
    """b_k = W2 W1[x_{k-1}]: a low-rank bigram table."""

    def __init__(self, vocab_size: int, rank: int, hidden_size: int, rows: int = 0) -> None:
        """rows: V_d, of a reduced draft vocabulary; W1 goes by the target's ids, W2 gives a bias to draft ids."""
        super().__init__()
        self.markov_w1 = nn.Embedding(vocab_size, rank)
        self.markov_w2 = nn.Linear(rank, rows or vocab_size, bias=False)

    def start(self) -> mx.array | None:
        """State before the first slot of a block; None where the head has none."""
        return None

    def bias(self, previous: mx.array, hidden: mx.array, state: Any) -> tuple[mx.array, Any]:
        """Bias [1, V_d] of one slot from the previous token id [1] and its hidden state [1, d], and the new state."""
        return wide_product(self.markov_w2, self.markov_w1(previous)), state


class GatedMarkov(VanillaMarkov):
    """b_k = W2 (sigmoid(Wg [h_k ; e] + bg) * e), e = W1[x_{k-1}]."""

    def __init__(self, vocab_size: int, rank: int, hidden_size: int, rows: int = 0) -> None:
        super().__init__(vocab_size, rank, hidden_size, rows)
        self.gate_proj = nn.Linear(hidden_size + rank, rank)

    def bias(self, previous: mx.array, hidden: mx.array, state: Any) -> tuple[mx.array, Any]:
        e = self.markov_w1(previous)
        gate = mx.sigmoid(self.gate_proj(mx.concatenate([hidden, e], axis=-1)))
        return wide_product(self.markov_w2, gate * e), state


class RnnMarkov(VanillaMarkov):
    """One gated recurrent step a slot; the bias is W2 tanh(out).

    z = joint_proj [s ; e ; h_k], in three r-chunks gate, cand, out; s' = g s + (1 - g) tanh(cand), g = sigmoid(gate).
    The bias uses the state before the slot (through z); s' serves the next one.
    """

    def __init__(self, vocab_size: int, rank: int, hidden_size: int, rows: int = 0) -> None:
        super().__init__(vocab_size, rank, hidden_size, rows)
        self._rank = rank
        self.joint_proj = nn.Linear(2 * rank + hidden_size, 3 * rank)

    def start(self) -> mx.array:
        return mx.zeros((1, self._rank))

    def bias(self, previous: mx.array, hidden: mx.array, state: Any) -> tuple[mx.array, Any]:
        e = self.markov_w1(previous)
        state = state.astype(e.dtype)
        gate, cand, out = mx.split(self.joint_proj(mx.concatenate([state, e, hidden], axis=-1)), 3, axis=-1)
        gate = mx.sigmoid(gate)
        return wide_product(self.markov_w2, mx.tanh(out)), gate * state + (1 - gate) * mx.tanh(cand)


MARKOV_HEADS: dict[str | None, type[VanillaMarkov]] = {"vanilla": VanillaMarkov, "gated": GatedMarkov, "rnn": RnnMarkov}


class DSparkWeights(Weights):
    def __init__(self, c: DrafterConfig):
        super().__init__(c)
        head = MARKOV_HEADS[c.markov_type]
        self.markov_head = head(c.vocab_size, c.markov_rank, c.backbone.hidden_size, c.stored_rows)

    def reduce(self, ids: mx.array, target: Target) -> None:
        super().reduce(ids, target)
        self.markov_head.markov_w2 = rows_of(self.markov_head.markov_w2, ids)


class DSpark(BlockDrafter):
    """Semi-autoregressive: every draft sees the one before it."""

    weights: DSparkWeights
    weights_type = DSparkWeights

    def chain(
        self, anchor: mx.array, base: mx.array, hidden: mx.array, pick: Pick
    ) -> tuple[mx.array, mx.array | None, mx.array, mx.array]:
        head = self.weights.markov_head
        state, previous = head.start(), anchor
        ids, qs, logits = [], [], []
        for k in range(self.config.first_slot):  # a slot without a draft moves the state on, too
            _, state = head.bias(anchor, hidden[k : k + 1], state)
        hidden = hidden[self.config.first_slot :]
        for k in range(base.shape[0]):
            bias, state = head.bias(previous, hidden[k : k + 1], state)
            logits.append(self.spread(base[k : k + 1] + bias))
            previous, q = pick(logits[-1], k)
            ids.append(previous)
            qs.append(q)
        q = None if qs[0] is None else mx.concatenate(qs)
        return mx.concatenate(ids), q, mx.concatenate(logits), mx.concatenate([anchor, *ids[:-1]])

    def confidence(self, hidden: mx.array, previous: mx.array) -> mx.array:
        if self.config.confidence_with_markov:
            hidden = mx.concatenate([hidden, self.weights.markov_head.markov_w1(previous)], axis=-1)
        return self.weights.confidence_head(hidden)


KIND = DSpark
