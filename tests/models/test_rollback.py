"""Every family's caches go back: after any verification, however much of it was rejected, the target goes on as if
the text had been all that it ever read."""

import copy
import random

import mlx.core as mx
import numpy as np
import pytest

from dspark_core.models.backbone_config import MAX_ROLLBACK
from dspark_core.models.cache import RecurrentCache, copy_cache, trim
from dspark_core.models.checkpoint import load_drafter
from dspark_core.models.target import Target, load_target

from .build import refusal
from .families import SWEPT, saved

TOLERANCE = 1e-4
VOCABULARY = 64


def logits(target: Target, ids: list[int], cache) -> np.ndarray:
    return np.array(target.head(target.forward(mx.array(ids), cache)[0]))


def plain(target: Target, prompt: list[int], text: list[int]) -> np.ndarray:
    """The logits [n, V] after each token of a text, read one by one behind a prompt."""
    cache = target.new_cache()
    logits(target, prompt, cache)
    return np.concatenate([logits(target, [token], cache) for token in text])


def differences(target: Target, cache, ids: list[int]) -> float:
    """The largest difference of the numbers in the caches from those of a fresh read of the same text."""
    fresh, worst = target.new_cache(), 0.0
    logits(target, ids, fresh)
    for mine, other in zip(cache, fresh, strict=True):
        assert mine.offset == other.offset == len(ids)
        if isinstance(mine, RecurrentCache):
            n = min(mine.rows.shape[1], other.rows.shape[1])
            pairs = [(mine.rows[:, -n:], other.rows[:, -n:]), (mine.recurrent, other.recurrent)]
        else:
            views = [c.update_and_fetch(*(x[..., :1, :] for x in (c.keys, c.values))) for c in (mine, other)]
            mine.trim(1)
            pairs = [(a[..., :-1, :], b[..., :-1, :]) for a, b in zip(*views, strict=True)]
        worst = max([worst, *(mx.abs(a - b).max().item() for a, b in pairs if a is not None)])
    return worst


@pytest.fixture(scope="module", params=SWEPT)
def target(request, tmp_path_factory) -> Target:
    pytest.importorskip("torch")
    return load_target(saved(request.param, tmp_path_factory.mktemp("family")), "stored")


LONGER = [(1, 50, 1), (300, 50, 300), *((70, 400, seed) for seed in range(10))]


@pytest.mark.parametrize(
    ("prompt", "n", "seed"), [(70, 50, 70), *(pytest.param(*case, marks=pytest.mark.sweep) for case in LONGER)]
)
def test_rows_and_state_after_any_rejection(target, prompt, n, seed):
    chance = random.Random(seed)
    draw = lambda n: [chance.randrange(VOCABULARY) for _ in range(n)]  # noqa: E731
    start, text = draw(prompt), draw(n)
    wanted, cache, at = plain(target, start, text), target.new_cache(), 0
    logits(target, start, cache)
    while at < len(text) - 17:
        sent, wrong = chance.choice([0, 0, 1, 3, 7, 16]), chance.randint(0, 16)
        good = max(0, sent - wrong)
        rows = logits(target, [*text[at : at + 1 + good], *draw(sent - good)], cache)
        assert np.abs(rows[: good + 1] - wanted[at : at + 1 + good]).max() < TOLERANCE
        trim(cache, sent - good)
        at += 1 + good
    assert differences(target, cache, start + text[:at]) < TOLERANCE


def test_back_over_several_forwards_and_no_further_than_there_is_room(target):
    ids = [random.Random(4).randrange(VOCABULARY) for _ in range(400)]
    cache = target.new_cache()
    for width in (150, 1, 1, 17, 1, 5, 1, 1, 9, *[1] * 20):
        logits(target, ids[cache[0].offset : cache[0].offset + width], cache)
    end = cache[0].offset
    for n in (1, 3, 30, MAX_ROLLBACK - 34):
        trim(cache, n)
        end -= n
        assert differences(target, cache, ids[:end]) < TOLERANCE
    for c in (c for c in cache if isinstance(c, RecurrentCache)):
        with pytest.raises(ValueError, match="cannot drop"):
            c.trim(1)
    cache = target.new_cache()
    logits(target, ids[:3], cache)
    trim(cache, 3)  # to the beginning of the text
    logits(target, ids[:5], cache)
    assert differences(target, cache, ids[:5]) < TOLERANCE


def test_copies_go_their_own_way(target):
    ids = list(range(1, 21))
    cache = target.new_cache()
    logits(target, ids[:12], cache)
    first, second = copy_cache(cache), copy.deepcopy(cache)
    a = logits(target, ids[12:], first)
    trim(first, 6)
    b = logits(target, [3, 3, 3], second)
    trim(second, 10)
    trim(cache, 2)
    assert differences(target, cache, ids[:10]) < TOLERANCE
    assert differences(target, second, ids[:5]) < TOLERANCE
    assert differences(target, first, ids[:14]) < TOLERANCE
    assert np.abs(a[:1] - plain(target, ids[:12], ids[12:13])).max() < TOLERANCE
    assert np.abs(b[:1] - plain(target, ids[:12], [3])).max() < TOLERANCE


def test_a_model_that_does_not_go_back_says_so_and_has_no_drafters(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    directory = saved("lfm2", tmp_path)
    assert load_target(directory, "stored").no_rollback == ""
    monkeypatch.setattr(RecurrentCache, "trim", lambda self, n: n)
    target = load_target(directory, "stored")
    assert "only plain decoding" in target.no_rollback and target.no_rollback.endswith(".")
    assert refusal(lambda: load_drafter(None, target, method="Lookup")) == target.no_rollback


def test_memory_does_not_grow_with_the_text():
    """What a recurrent layer holds, with all that a rollback may need, after rows in forwards of every width."""
    cache, sizes, chance = RecurrentCache(), [], random.Random(0)

    def advance(state, inputs):
        return (mx.zeros((1, 100, 100)) if state is None else state) + inputs[0][..., 0].sum()

    while cache.offset < 3000:
        width = chance.choice([1, 1, 1, 1, 2, 8, 17])
        cache.extend_rows(mx.ones((1, width, 8)), 3)
        cache.extend_state(advance(cache.recurrent, (mx.ones((1, width, 8)),)), (mx.ones((1, width, 8)),), advance)
        assert cache.recurrent.max().item() == cache.offset
        cache.trim(chance.randint(0, width - 1))
        assert cache.recurrent is None or cache.recurrent.max().item() == cache.offset
        sizes.append(cache.nbytes)
    states, rows = 4 * 100 * 100 * 4, (3 + MAX_ROLLBACK + 2 * MAX_ROLLBACK + 2 * 17) * 8 * 4
    assert max(sizes) <= states + rows
