"""DFlash 2: block diffusion whose slots hear their neighbour twice: through two-tap convolutions around every sublayer,
and through a selector that settles each slot among its candidates, given the token before.

Sources: z-lab/dflash 0.1.0 and vllm-project/speculators 0.9.0, which agree.
"""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from ..backbone import QwenLayer
from ..backbone_config import BackboneConfig
from ..cache import KVCache, WindowCache
from ..config import DrafterConfig
from ..drafter import BlockDrafter, Pick, Weights

METHOD = "DFlash2"
TITLE = "DFlash 2"
HEADS = ("selector",)
BY = "z-lab"
ABOUT = (
    "Drafts a block at once, each slot hearing the one before it; a selector then picks every token among a few "
    "candidates by the token before. A single step of the target checks the whole block."
)


class GroupedConvolution(nn.Module):
    """A causal convolution along the block whose kernel is learned and then moved, group by group of channels, by the
    row that receives. It stands on both sides of a sublayer, and both sides' kernels come from the sublayer's input.

    y[t, c] = sum over tau of (base[side, tau, c] + D[t, side, tau, c // group]) * u[t - tau, c], D = kernel_projection
    of a; rows before the block's first are zero.
    """

    def __init__(self, width: int, taps: int, group: int):
        super().__init__()
        self._taps, self._group = taps, group
        self.base_kernel = mx.zeros((2, taps, width))
        self.kernel_projection = nn.Linear(width, 2 * taps * (width // group), bias=False)

    def __call__(self, a: mx.array, sublayer: Callable[[mx.array], mx.array]) -> mx.array:
        """The sublayer's output [1, B, d] for its normed input a [1, B, d], convolved before and after."""
        rows = a.shape[1]
        moved = self.kernel_projection(a).reshape(rows, 2, self._taps, -1)
        kernel = self.base_kernel + mx.repeat(moved, self._group, axis=-1)  # [B, 2, taps, d]

        def mix(u: mx.array, side: int) -> mx.array:
            earlier = [mx.pad(u, [(0, 0), (tau, 0), (0, 0)])[:, :rows] for tau in range(self._taps)]
            return sum((kernel[:, side, tau] * e for tau, e in enumerate(earlier)), start=mx.zeros_like(u))

        return mix(sublayer(mix(a, 0)), 1)


class ConvolvedLayer(QwenLayer):
    """A Qwen3 layer with a convolution around attention and one around the MLP: on the block's rows, never on the
    context's, whose keys and values are made of the taps alone."""

    def __init__(self, c: BackboneConfig, index: int):
        super().__init__(c, index)
        taps, group = c.convolution or (1, 1)
        self.attention_conv = GroupedConvolution(c.hidden_size, taps, group)
        self.mlp_conv = GroupedConvolution(c.hidden_size, taps, group)

    def __call__(self, x: mx.array, cache: KVCache | WindowCache) -> mx.array:
        x = x + self.attention_conv(self.input_layernorm(x), lambda a: self.self_attn(a, cache))
        return x + self.mlp_conv(self.post_attention_layernorm(x), self.mlp)


class Selector(nn.Module):
    """score(b) = U[b] + sum over r of A[previous] * (P h) * B[b], for candidates b of a slot with hidden state h."""

    def __init__(self, vocab_size: int, rows: int, rank: int, width: int):
        super().__init__()
        self.predecessor_codebook = nn.Embedding(vocab_size, rank)
        self.successor_codebook = nn.Embedding(rows, rank)
        self.hidden_projection = nn.Linear(width, rank, bias=False)


class DFlash2Weights(Weights):
    layer_type = ConvolvedLayer

    def __init__(self, c: DrafterConfig):
        super().__init__(c)
        rank = c.selector[0] if c.selector else 0
        self.candidate_selector = Selector(c.vocab_size, c.successors, rank, c.backbone.hidden_size)


class DFlash2(BlockDrafter):
    """Every draft is the best of its slot's candidates after the draft before it."""

    weights: DFlash2Weights
    weights_type = DFlash2Weights

    def candidates(self, base: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """Rows [n, K] of the head with the largest base logits [n, V_d], the target's ids [n, K] of these tokens, and
        their logits [n, K]."""
        count = self.config.selector[1] if self.config.selector else 0
        rows = mx.argpartition(-base, count - 1, axis=-1)[:, :count].astype(mx.int32)
        return rows, self.draft_ids[rows], mx.take_along_axis(base, rows, axis=-1)

    def chain(
        self, anchor: mx.array, base: mx.array, hidden: mx.array, pick: Pick
    ) -> tuple[mx.array, mx.array | None, mx.array, mx.array]:
        select = self.weights.candidate_selector
        rows, candidates, unary = self.candidates(base)
        own_rows = self.config.successors == self.config.head_rows
        successors = select.successor_codebook(rows if own_rows else candidates)  # [n, K, r]
        projected = select.hidden_projection(hidden[self.config.first_slot :])  # [n, r]
        previous = anchor
        ids, qs, logits = [], [], []
        for k in range(base.shape[0]):
            gate = select.predecessor_codebook(previous) * projected[k : k + 1]
            scores = unary[k : k + 1] + gate @ successors[k].T
            logits.append(self.spread(scores, candidates[k : k + 1]))
            previous, q = pick(logits[-1], k)
            ids.append(previous)
            qs.append(q)
        q = None if qs[0] is None else mx.concatenate(qs)
        return mx.concatenate(ids), q, mx.concatenate(logits), mx.concatenate([anchor, *ids[:-1]])


KIND = DFlash2
