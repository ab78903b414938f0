"""What the parity tests share."""

import mlx.core as mx

TOLERANCE = 1e-4


def greedy(logits, first):
    return mx.argmax(logits, axis=-1).astype(mx.int32), None
