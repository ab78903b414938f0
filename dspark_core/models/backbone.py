"""The block backbone that every drafter shares: Qwen3 layers or Gemma-4 layers over a fused context.

Only the block's B slots have queries. The context enters as keys and values computed from the fused
target hidden states H alone, the same H in every layer, so its cache grows by appending and never changes
(DeepSpec, DSpark model files; z-lab/dflash).
"""

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.base import create_causal_mask
from mlx_lm.models.cache import KVCache
from mlx_lm.models.rope_utils import initialize_rope

from .backbone_config import SLIDING, BackboneConfig
from .cache import WindowCache, trim

Cache = list[KVCache | WindowCache]


class Attention(nn.Module):
    """Queries of the block over context and block keys."""

    def __init__(self, c: BackboneConfig, layer: int):
        super().__init__()
        self.window = c.window if c.layer_types[layer] == SLIDING else None
        self._causal, self._by_block = c.causal[layer], c.by_block
        self._heads, self._kv_heads, self._eps = c.num_heads, c.num_kv_heads, c.rms_norm_eps
        self._v_norm = c.gemma
        self._scale = 1.0 if c.gemma else c.head_dim**-0.5
        d, bias = c.hidden_size, c.attention_bias
        self.q_proj = nn.Linear(d, c.num_heads * c.head_dim, bias=bias)
        self.k_proj = nn.Linear(d, c.num_kv_heads * c.head_dim, bias=bias)
        if not c.k_eq_v:
            self.v_proj = nn.Linear(d, c.num_kv_heads * c.head_dim, bias=bias)
        self.o_proj = nn.Linear(c.num_heads * c.head_dim, d, bias=bias)
        self.q_norm = nn.RMSNorm(c.head_dim, eps=c.rms_norm_eps)
        self.k_norm = nn.RMSNorm(c.head_dim, eps=c.rms_norm_eps)
        self._rope = initialize_rope(c.head_dim, c.rope_theta, c.interleaved, c.rope_scaling)

    def _split(self, x: mx.array, heads: int) -> mx.array:
        return x.reshape(*x.shape[:2], heads, -1)

    def append(self, x: mx.array, cache: KVCache | WindowCache) -> tuple[mx.array, mx.array]:
        """Add keys and values of rows x [1, n, d] to the cache; returns the rows in view."""
        k = self._split(self.k_proj(x), self._kv_heads)
        v = self._split(self.v_proj(x), self._kv_heads) if "v_proj" in self else k
        if self._v_norm:
            v = mx.fast.rms_norm(v, None, self._eps)
        k = self._rope(self.k_norm(k).swapaxes(1, 2), offset=cache.offset)
        return cache.update_and_fetch(k, v.swapaxes(1, 2))

    def __call__(self, x: mx.array, cache: KVCache | WindowCache) -> mx.array:
        """Attention of the block rows x [1, B, d], which join the cache."""
        B = x.shape[1]
        q = self.q_norm(self._split(self.q_proj(x), self._heads)).swapaxes(1, 2)
        q = self._rope(q, offset=cache.offset)
        k, v = self.append(x, cache)
        out = mx.fast.scaled_dot_product_attention(q, k, v, scale=self._scale, mask=self._mask(B, k.shape[2] - B))
        return self.o_proj(out.swapaxes(1, 2).reshape(1, B, -1))

    def _mask(self, B: int, before: int) -> mx.array | None:
        """Which of `before` context rows and B block rows each of B slots sees, [B, before + B]; None: all. A window
        counts back from the slot itself, unless it is the block's; without causality it does not reach into the
        block."""
        window = None if self._by_block else self.window  # the cache shows the rows of a block's window alone
        if window is None and not self._causal:
            return None
        mask = create_causal_mask(B, before, window_size=window)
        return mask if self._causal else mask | (mx.arange(before + B) >= before)


class MLP(nn.Module):
    def __init__(self, c: BackboneConfig):
        super().__init__()
        self._act = nn.gelu_approx if c.gelu else nn.silu
        self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(self._act(self.gate_proj(x)) * self.up_proj(x))


class QwenLayer(nn.Module):
    """Pre-norm layer, two norms."""

    def __init__(self, c: BackboneConfig, index: int):
        super().__init__()
        self.self_attn = Attention(c, index)
        self.mlp = MLP(c)
        self.input_layernorm = nn.RMSNorm(c.hidden_size, eps=c.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(c.hidden_size, eps=c.rms_norm_eps)

    def __call__(self, x: mx.array, cache: KVCache | WindowCache) -> mx.array:
        x = x + self.self_attn(self.input_layernorm(x), cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class GemmaLayer(nn.Module):
    """Gemma-4 layer: norms before and after each sublayer, then a learned scalar."""

    def __init__(self, c: BackboneConfig, index: int):
        super().__init__()
        self.self_attn = Attention(c, index)
        self.mlp = MLP(c)
        self.input_layernorm = nn.RMSNorm(c.hidden_size, eps=c.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(c.hidden_size, eps=c.rms_norm_eps)
        self.pre_feedforward_layernorm = nn.RMSNorm(c.hidden_size, eps=c.rms_norm_eps)
        self.post_feedforward_layernorm = nn.RMSNorm(c.hidden_size, eps=c.rms_norm_eps)
        self.layer_scalar = mx.ones((1,))

    def __call__(self, x: mx.array, cache: KVCache | WindowCache) -> mx.array:
        x = x + self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), cache))
        x = x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))
        return x * self.layer_scalar


class Backbone(nn.Module):
    """fc and hidden_norm fuse the taps; the layers run the block; norm ends it."""

    layer_type: type[nn.Module] = QwenLayer

    def __init__(self, c: BackboneConfig):
        super().__init__()
        layer = GemmaLayer if c.gemma else self.layer_type
        self._by_block = c.by_block
        self.fc = nn.Linear(c.num_taps * c.hidden_size, c.hidden_size, bias=False)
        self.hidden_norm = nn.RMSNorm(c.hidden_size, eps=c.rms_norm_eps)
        self.layers = [layer(c, i) for i in range(len(c.layer_types))]
        self.norm = nn.RMSNorm(c.hidden_size, eps=c.rms_norm_eps)

    def new_cache(self, newest: int = 0) -> Cache:
        """`newest`: of the context's rows no more than so many are seen in any layer; 0 leaves it to the checkpoint."""
        # A WindowCache counts a query's own row: it shows one row of context less than its window.
        windows = [w and w + self._by_block for w in (layer.self_attn.window for layer in self.layers)]
        if newest:
            windows = [min(newest + 1, w or newest + 1) for w in windows]
        return [KVCache() if w is None else WindowCache(w) for w in windows]

    def fuse(self, taps: mx.array) -> mx.array:
        """H [n, d] of tapped hidden states [n, m*d]."""
        return self.hidden_norm(self.fc(taps))

    def extend(self, taps: mx.array, cache: Cache) -> None:
        """Append the keys and values of n newly committed positions, from their taps [n, m*d]."""
        fused = self.fuse(taps)[None]
        for layer, c in zip(self.layers, cache, strict=True):
            layer.self_attn.append(fused, c)

    def block(self, embeddings: mx.array, cache: Cache) -> mx.array:
        """Block hidden states [B, d], after the final norm, of input embeddings [B, d].

        The block's own keys and values leave the cache again: only committed positions stay.
        """
        x = embeddings[None]
        for layer, c in zip(self.layers, cache, strict=True):
            x = layer(x, c)
        trim(cache, embeddings.shape[0])
        return self.norm(x)[0]
