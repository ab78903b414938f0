"""Layers that carry a state in place of keys and values, computed so that their cache can roll back.

mlx-lm's own layers give their cache the new state alone. These compute the same with the same modules, and give
`RecurrentCache` what a replay needs.
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.gated_delta import gated_delta_update, normalize_qk

from .backbone_config import MAX_ROLLBACK
from .cache import RecurrentCache


def gated_delta_net(net: Any, x: mx.array, cache: RecurrentCache) -> mx.array:
    """Output [1, n, d] of a gated delta net (Qwen3.5's) for n positions x [1, n, d] after those in `cache`.

    The recurrence of a long prefill runs in two parts, so that the state MAX_ROLLBACK positions before its end is
    known and nothing that is kept grows with it.
    """
    n, tail = x.shape[1], net.conv_kernel_size - 1
    rows = cache.extend_rows(net.in_proj_qkv(x), tail)
    a, b = net.in_proj_a(x), net.in_proj_b(x)

    def run(q: mx.array, state: Any, inputs: tuple[mx.array, ...]) -> tuple[mx.array, mx.array]:
        k, v, a, b = inputs
        y, state = gated_delta_update(q, k, v, a, b, net.A_log, net.dt_bias, state)
        return y, state

    def replay(state: Any, inputs: tuple[mx.array, ...]) -> mx.array:
        return run(inputs[0], state, inputs)[1]  # what is read with does not change the state

    outputs, at = [], max(0, n - MAX_ROLLBACK)
    for first, last in [(0, at), (at, n)] if at else [(0, n)]:
        q, k, v = _convolved(net, rows[:, first : last + tail])
        inputs = (k, v, a[:, first:last], b[:, first:last])
        y, state = run(q, cache.recurrent, inputs)
        outputs.append(y)
        if last == n:
            cache.extend_state(state, inputs, replay)
        else:
            cache.start_from(state)
    y = outputs[0] if len(outputs) == 1 else mx.concatenate(outputs, axis=1)
    z = net.in_proj_z(x).reshape(y.shape)
    y = net.out_proj(net.norm(y, z).reshape(1, n, -1))
    return y if net.sharding_group is None else mx.distributed.all_sum(y, group=net.sharding_group)


def _convolved(net: Any, rows: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    """Queries, keys [1, n, Hk, Dk] and values [1, n, Hv, Dv] from the convolution's inputs [1, tail + n, C]."""
    x = nn.silu(net.conv1d(rows))
    q, k, v = mx.split(x, [net.key_dim, 2 * net.key_dim], axis=-1)
    q, k = (t.reshape(*t.shape[:2], net.num_k_heads, net.head_k_dim) for t in (q, k))
    q, k = normalize_qk(q, k, inv_scale=net.head_k_dim**-0.5, eps=1e-6)
    # A copy, as the kernel would make one, so that what is kept of it does not hold all of x.
    return q, k, mx.contiguous(v.reshape(*v.shape[:2], net.num_v_heads, net.head_v_dim))


def short_convolution(layer: Any, x: mx.array, cache: RecurrentCache) -> mx.array:
    """Output [1, n, d] of a gated short convolution (LFM2's) for n positions x [1, n, d] after those in `cache`. All
    its state are the last rows that went in."""
    before, after, x = mx.split(layer.in_proj(x), 3, axis=-1)
    return layer.out_proj(after * layer.conv(cache.extend_rows(before * x, layer.L_cache - 1)))
