"""A sliding window that can be rolled back, in bounded memory."""

import random

import mlx.core as mx
import pytest

from dspark_core.models.cache import MAX_ROLLBACK, WindowCache


def rows(values):
    return mx.array(values, dtype=mx.float32).reshape(1, 1, -1, 1)


def test_rows_in_view_follow_the_sequence():
    """Random appends of 1 to 40 rows and drops down to MAX_ROLLBACK below the highest position reached: the view is
    always the last window - 1 rows before the append, then the append."""
    chance = random.Random(1)
    window, cache, sequence, highest = 9, WindowCache(9), [], 0
    for step in range(2000):
        new = [float(1000 * step + i) for i in range(chance.randint(1, 40))]
        keys, values = cache.update_and_fetch(rows(new), -rows(new))
        assert keys.flatten().tolist() == sequence[-(window - 1) :] + new
        assert (values == -keys).all().item()
        sequence += new
        highest = max(highest, len(sequence))
        length = chance.randint(max(0, highest - MAX_ROLLBACK), len(sequence))
        cache.trim(len(sequence) - length)
        del sequence[length:]
        assert cache.offset == len(sequence)


def test_memory_is_bounded_by_window_and_slack():
    cache = WindowCache(32)
    for _ in range(3000):
        cache.update_and_fetch(rows([0.0]), rows([0.0]))
    most = 32 - 1 + MAX_ROLLBACK + WindowCache.step
    assert cache.nbytes <= 2 * 4 * most
    cache.update_and_fetch(rows([0.0] * 2000), rows([0.0] * 2000))  # one large prefill chunk...
    for _ in range(300):
        cache.update_and_fetch(rows([0.0]), rows([0.0]))
    assert cache.nbytes <= 2 * 4 * most  # ...does not stay


def test_dropping_too_much_is_refused():
    cache = WindowCache(4)
    for _ in range(1000):
        cache.update_and_fetch(rows([1.0]), rows([1.0]))
    with pytest.raises(ValueError, match="cannot drop"):
        cache.trim(MAX_ROLLBACK + 1)


@pytest.mark.parametrize("before", [0, 3, 8, 30])
@pytest.mark.parametrize("n", [1, 2, 9, 20])
def test_mask(before, n):
    """Position p sees the keys in (p - window, p]."""
    window, cache = 9, WindowCache(9)
    if before:
        cache.update_and_fetch(rows([0.0] * before), rows([0.0] * before))
    mask = cache.make_mask(n, window_size=window)
    keys, _ = cache.update_and_fetch(rows([0.0] * n), rows([0.0] * n))
    first = before + n - keys.shape[2]
    expected = [[p - window < k <= p for k in range(first, before + n)] for p in range(before, before + n)]
    if mask is None:
        assert n == 1 and all(expected[0])
    elif isinstance(mask, str):
        assert expected == [[k <= p for k in range(first, before + n)] for p in range(before, before + n)]
    else:
        assert mask.tolist() == expected
