"""DSpark's heads: the Markov head that makes a parallel block semi-autoregressive, and the confidence head.

x_0 is the anchor and h_k the block hidden state that predicts x_k. A Markov head turns (x_{k-1}, h_k) into a
bias [V] that is added to the base logits of slot k (paper section 3; DeepSpec's markov_head.py).
"""

import mlx.core as mx
import mlx.nn as nn

from .weights import wide_product


class VanillaMarkov(nn.Module):
    """b_k = W2 W1[x_{k-1}]: a low-rank bigram table."""

    def __init__(self, vocab_size: int, rank: int, hidden_size: int):
        super().__init__()
        self.markov_w1 = nn.Embedding(vocab_size, rank)
        self.markov_w2 = nn.Linear(rank, vocab_size, bias=False)

    def start(self):
        """State before the first slot of a block; None where the head has none."""
        return None

    def bias(self, previous: mx.array, hidden: mx.array, state):
        """Bias [1, V] of one slot from the previous token id [1] and its hidden state [1, d], and the new state."""
        return wide_product(self.markov_w2, self.markov_w1(previous)), state


class GatedMarkov(VanillaMarkov):
    """b_k = W2 (sigmoid(Wg [h_k ; e] + bg) * e), e = W1[x_{k-1}]."""

    def __init__(self, vocab_size: int, rank: int, hidden_size: int):
        super().__init__(vocab_size, rank, hidden_size)
        self.gate_proj = nn.Linear(hidden_size + rank, rank)

    def bias(self, previous, hidden, state):
        e = self.markov_w1(previous)
        gate = mx.sigmoid(self.gate_proj(mx.concatenate([hidden, e], axis=-1)))
        return wide_product(self.markov_w2, gate * e), state


class RnnMarkov(VanillaMarkov):
    """One gated recurrent step a slot; the bias is W2 tanh(out).

    z = joint_proj [s ; e ; h_k], in three r-chunks gate, cand, out; s' = g s + (1 - g) tanh(cand), g = sigmoid(gate).
    The bias uses the state before the slot (through z); s' serves the next one.
    """

    def __init__(self, vocab_size: int, rank: int, hidden_size: int):
        super().__init__(vocab_size, rank, hidden_size)
        self._rank = rank
        self.joint_proj = nn.Linear(2 * rank + hidden_size, 3 * rank)

    def start(self):
        return mx.zeros((1, self._rank))

    def bias(self, previous, hidden, state):
        e = self.markov_w1(previous)
        state = state.astype(e.dtype)
        gate, cand, out = mx.split(self.joint_proj(mx.concatenate([state, e, hidden], axis=-1)), 3, axis=-1)
        gate = mx.sigmoid(gate)
        return wide_product(self.markov_w2, mx.tanh(out)), gate * state + (1 - gate) * mx.tanh(cand)


MARKOV_HEADS = {"vanilla": VanillaMarkov, "gated": GatedMarkov, "rnn": RnnMarkov}


class ConfidenceHead(nn.Module):
    """c_k = sigmoid(w [h_k ; W1[x_{k-1}]] + b), or from h_k alone: P(x_k accepted | x_1..x_{k-1} accepted)."""

    def __init__(self, features: int):
        super().__init__()
        self.proj = nn.Linear(features, 1)

    def __call__(self, features: mx.array) -> mx.array:
        """Logits [n] (before the sigmoid) of features [n, d] or [n, d + r]."""
        return self.proj(features)[:, 0]
