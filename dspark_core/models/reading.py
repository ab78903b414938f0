"""Reads the weights of an opened model, piece by piece, so that loading shows its progress and can be stopped."""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..errors import ModelError


class Stopped(Exception):
    """Loading was cancelled."""


def read_weights(
    module: nn.Module,
    name: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> None:
    """Evaluate every parameter. `progress` takes bytes done and in all, in the precision that was asked for.

    One at a time and the largest first: a conversion holds a weight in both precisions for a moment, which costs
    least while little else is there. Raises ModelError if a file cannot be read, Stopped.
    """
    arrays = sorted((w for _, w in tree_flatten(module.parameters())), key=lambda w: w.nbytes, reverse=True)
    total, done = sum(w.nbytes for w in arrays), 0
    progress(0, total)
    for array in arrays:
        if cancelled():
            raise Stopped
        try:
            mx.eval(array)
        except (RuntimeError, OSError, ValueError) as e:
            raise ModelError(f"The weights of {name} cannot be read ({str(e)[:200].rstrip('.')}).") from None
        done += array.nbytes
        progress(done, total)
