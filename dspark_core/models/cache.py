"""Key/value caches that can drop their newest positions at any time.

Full-attention layers use mlx-lm's `KVCache`, which trims exactly. Its sliding-window cache is a ring
and cannot be trimmed once it wrapped (the rows that a trim would bring back are overwritten), so
sliding layers use `WindowCache`, for every lane alike.
"""

from typing import Any

import mlx.core as mx
from mlx_lm.models.base import create_causal_mask
from mlx_lm.models.cache import KVCache

from .backbone_config import MAX_ROLLBACK


class WindowCache:
    """Keys and values of a sliding-window layer, appended in place and compacted now and then.

    The buffers are [1, H, rows, D]; row 0 holds absolute position `start`, and `offset` is the next
    position to come. Compaction keeps the last window - 1 + MAX_ROLLBACK positions, so memory is bounded
    by that plus `step` rows (or one prefill chunk) and a trim that stays within MAX_ROLLBACK of the highest
    position reached always finds the rows that come back into view.
    """

    step = 256

    def __init__(self, window: int):
        self.window = window
        self.keys: Any = None  # arrays, once anything is there
        self.values: Any = None
        self.start = 0
        self.offset = 0

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append n rows [1, H, n, D]; returns the last min(window - 1, offset) + n rows, in order."""
        n = keys.shape[2]
        used = self.offset - self.start
        if self.keys is None or used + n > self.keys.shape[2]:
            keep = min(used, self.window - 1 + MAX_ROLLBACK)
            room = keep + (n + self.step - 1) // self.step * self.step
            self.keys = self._moved(self.keys, keys, used - keep, used, room)
            self.values = self._moved(self.values, values, used - keep, used, room)
            self.start, used = self.offset - keep, keep
        self.keys[..., used : used + n, :] = keys
        self.values[..., used : used + n, :] = values
        first = max(0, used - (self.window - 1))
        self.offset += n
        return self.keys[..., first : used + n, :], self.values[..., first : used + n, :]

    @staticmethod
    def _moved(buffer: Any, like: mx.array, first: int, last: int, rows: int) -> mx.array:
        """A buffer of `rows` rows that begins with rows first..last of the old one."""
        new = mx.zeros((*like.shape[:2], rows, like.shape[3]), like.dtype)
        if buffer is not None:
            new[..., : last - first, :] = buffer[..., first:last, :]
        return new

    def make_mask(self, N: int, return_array: bool = False, window_size: int | None = None) -> mx.array | str | None:
        """Mask for N new queries over the rows that `update_and_fetch` will return.

        None (all visible), "causal", or a boolean array [N, rows]; the query at position p sees the
        keys in (p - window, p].
        """
        before = min(self.window - 1, self.offset)
        if before + N <= self.window and not return_array:
            return None if N == 1 else "causal"
        if N == 1:
            return None
        return create_causal_mask(N, before, window_size=self.window)

    def trim(self, n: int) -> int:
        """Drop the newest n positions. Raises ValueError if they, or rows then in view, are gone."""
        new = self.offset - n
        if n > MAX_ROLLBACK or new < self.start or (self.start > 0 and new - (self.window - 1) < self.start):
            raise ValueError(f"cannot drop {n} positions: {MAX_ROLLBACK} below the highest one reached is the limit")
        self.offset = new
        return n

    def is_trimmable(self) -> bool:
        return True

    @property
    def state(self) -> tuple[Any, Any]:
        return self.keys, self.values

    @property
    def nbytes(self) -> int:
        return 0 if self.keys is None else int(self.keys.nbytes + self.values.nbytes)


def trim(caches: list[KVCache | WindowCache], n: int) -> None:
    """Drop the newest n positions of every layer."""
    if n:
        for cache in caches:
            cache.trim(n)
