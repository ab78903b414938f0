"""What a target's layers hold of the text, in caches that can drop their newest positions at any time.

Full-attention layers use mlx-lm's `KVCache`, which trims exactly. Its sliding-window cache is a ring
and cannot be trimmed once it wrapped (the rows that a trim would bring back are overwritten), so
sliding layers use `WindowCache`, for every lane alike. Its cache of recurrent layers cannot be trimmed at all: these
use `RecurrentCache`, which replays the recurrence.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
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


# (state after the rows before, inputs [1, n, ...] of n rows) -> the state after them
Replay = Callable[[Any, tuple[mx.array, ...]], Any]


@dataclass(eq=False)
class Stretch:
    """The rows of one forward: start, their first position; inputs [1, n, ...] of the recurrence; before, the state
    before them, where `whole` says that it is there (None at the beginning of the text)."""

    start: int
    inputs: tuple[mx.array, ...]
    before: Any
    whole: bool = True


class RecurrentCache:
    """What a layer with a short convolution and maybe a recurrent state holds.

    Going back to a position needs the state there, and a state cannot be undone. So the inputs of the recurrence stay
    (a few thousand numbers a row, where a state has a million), and the state before the newest forward: a rollback
    into that forward runs the recurrence, and nothing else of the layer, over its accepted rows. For a rollback
    further back, two older states stay, the older at least MAX_ROLLBACK below the highest position reached: four
    states in all, however long the text.

    Arrays in here are never written into, so copies share them.
    """

    def __init__(self) -> None:
        self.offset = 0
        self.rows: Any = None  # [1, up to tail + MAX_ROLLBACK, C]: newest inputs of the convolution
        self.recurrent: Any = None  # the state after `offset` rows
        self._tail = 0
        self._stretches: list[Stretch] = []
        self._whole: list[Stretch] = []  # those of them whose state before is there: two old ones and the newest
        self._replay: Replay | None = None

    def extend_rows(self, rows: mx.array, tail: int) -> mx.array:
        """Append the convolution's inputs [1, n, C]; the same with the `tail` rows before them, zeros before the
        text: [1, tail + n, C]. Moves `offset` on."""
        n = rows.shape[1]
        before = mx.zeros((1, tail, rows.shape[2]), rows.dtype) if self.rows is None else self.rows
        longer = mx.concatenate([before, rows], axis=1)
        self.rows = longer[:, -(tail + MAX_ROLLBACK) :]
        self._tail = tail
        self.offset += n
        return longer[:, -(tail + n) :]

    def extend_state(self, state: Any, inputs: tuple[mx.array, ...], replay: Replay) -> None:
        """The state after the newest n rows, whose inputs [1, n, ...] gave it; `extend_rows` had them before."""
        stretches, whole = self._stretches, self._whole
        newest = Stretch(self.offset - inputs[0].shape[1], inputs, self.recurrent)
        stretches.append(newest)
        whole.append(newest)
        self.recurrent, self._replay = state, replay
        while len(whole) > 1 and whole[1].start <= self.offset - MAX_ROLLBACK:
            del stretches[: stretches.index(whole[1])], whole[0]
        while len(whole) > 3:
            whole[2].before, whole[2].whole = None, False
            del whole[2]

    def start_from(self, state: Any) -> None:
        """The state in the middle of a forward; nothing before it can be rolled back to."""
        self._stretches.clear()
        self._whole.clear()
        self.recurrent = state

    def trim(self, n: int) -> int:
        """Drop the newest n positions. Raises ValueError if the rows that this needs are gone."""
        if n == 0:
            return 0
        new = self.offset - n
        room = 0 if self.rows is None else self.rows.shape[1] - self._tail
        if n > room or (self._stretches and new < self._stretches[0].start):
            raise ValueError(f"cannot drop {n} positions: {MAX_ROLLBACK} below the highest one reached is the limit")
        self.rows = self.rows[:, : self.rows.shape[1] - n]
        self.offset = new
        if self._stretches:
            self._roll_back(new)
        return n

    def _roll_back(self, new: int) -> None:
        """The state after `new` rows, from the newest one that was kept before them."""
        stretches = self._stretches
        while stretches[-1].start > new or (stretches[-1].start == new and not stretches[-1].whole):
            stretches.pop()
        newest = stretches[-1]
        first = max(i for i, s in enumerate(stretches) if s.whole)
        state = stretches[first].before
        newest.inputs = tuple(x[:, : new - newest.start] for x in newest.inputs)
        replayed = [s for s in stretches[first:] if s.inputs[0].shape[1]]
        if replayed:
            assert self._replay is not None
            columns = zip(*(s.inputs for s in replayed), strict=True)
            state = self._replay(state, tuple(c[0] if len(c) == 1 else mx.concatenate(c, axis=1) for c in columns))
        else:
            stretches.pop()
        self._whole = [s for s in stretches if s.whole]
        self.recurrent = state

    def is_trimmable(self) -> bool:
        return True

    def make_mask(self, N: int) -> None:
        """As mlx-lm asks for it: with one text in the batch all rows count."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "RecurrentCache":
        other = copy.copy(self)
        other._stretches = [replace(s) for s in self._stretches]
        other._whole = [s for s in other._stretches if s.whole]
        return other

    @property
    def state(self) -> tuple[Any, Any]:
        return self.rows, self.recurrent

    @property
    def nbytes(self) -> int:
        held = [self.rows, self.recurrent, *(x for s in self._stretches for x in (s.before, *s.inputs))]
        return sum(x.nbytes for x in {id(x): x for x in held if x is not None}.values())


Cache = list[KVCache | WindowCache | RecurrentCache]


def trims_at_will(entry: Any) -> bool:
    """Can an entry of a cache drop any number of positions?"""
    return type(entry) is KVCache or getattr(entry, "exact", False)


def trim(caches: Cache, n: int) -> None:
    """Drop the newest n positions of every layer."""
    if n:
        for cache in caches:
            cache.trim(n)


def copy_cache(caches: Cache) -> Cache:
    """Caches of the same text that go their own way from here. It costs nothing now: the copies share their arrays'
    memory until one of them is written into."""
    return copy.deepcopy(caches)
