"""Draws from large vocabularies: every token can be drawn, as often as it should, also where sums are out of order."""

import mlx.core as mx
import numpy as np
import pytest

from dspark_core.decode import sampling
from dspark_core.decode.rounds import Settings
from dspark_core.decode.sampling import Sampled, Uniforms, accept_sampled, draw, probabilities, take

LARGE = 262_144
ONE = 2**48


class Given:
    """Numbers that a test chooses, as fine as a decode's own."""

    def __init__(self, numbers):
        self.numbers = mx.array(np.asarray(numbers, dtype=np.uint64))

    def take_fixed(self, n):
        return self.numbers[:n]

    take = take_fixed


def drawn(p: np.ndarray, u: np.ndarray, at_once: int = 4096) -> np.ndarray:
    """Ids of one distribution [V] at many numbers, in multiples of 2^-48."""
    row = mx.array(p.astype(np.float32))[None]
    many = mx.vmap(draw, in_axes=(None, 0))
    parts = np.array_split(u.astype(np.uint64), max(1, len(u) // at_once))
    return np.concatenate([np.array(many(row, mx.array(part)[:, None]))[:, 0] for part in parts])


def probability(p: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Of each id: the measure of the numbers that draw it, by bisection of both ends."""

    def first_at_least(wanted):
        low, high = np.zeros(len(ids), dtype=np.int64), np.full(len(ids), ONE)
        while (low < high).any():
            middle = (low + high) // 2
            above = drawn(p, np.minimum(middle, ONE - 1)) >= wanted
            low, high = np.where(above | (low == high), low, middle + 1), np.where(above, middle, high)
        return low

    return (first_at_least(ids + 1) - first_at_least(ids)) / ONE


def test_every_token_of_a_large_flat_vocabulary_can_be_drawn():
    centres = (np.arange(LARGE) * 2 + 1) * (ONE // LARGE // 2)
    assert (drawn(np.full(LARGE, 1 / LARGE), centres) == np.arange(LARGE)).all()


@pytest.mark.parametrize("size", [LARGE, 151_936, 200_003])
def test_a_flat_vocabulary_is_drawn_evenly(size):
    """Total variation, from the exact probabilities of blocks' ends and of tokens in between."""
    ids = np.unique(np.concatenate([[0, 1, 255, 256, size - 2, size - 1], np.linspace(0, size - 1, 250).astype(int)]))
    off = np.abs(probability(np.full(size, 1 / size), ids) * size - 1)
    assert off.max() / 2 < 1e-5


def test_rare_tokens_beside_likely_ones_are_drawn_as_often_as_they_should():
    """Far below 2^-24, the step of a float32 number: in blocks of their own and beside the likely token."""
    p = np.full(LARGE, 8e-9)
    p[100_000] = 1 - p.sum() + p[100_000]
    ids = np.array([0, 1, 99_999, 100_001, LARGE - 1])
    assert probability(p, ids) == pytest.approx(8e-9, rel=0.05)
    assert probability(p, np.array([100_000]))[0] == pytest.approx(p[100_000], abs=1e-6)


def test_tokens_that_are_all_but_impossible_are_not_drawn_more_often():
    p = np.full(LARGE, 1e-30)
    p[100_000] = 1
    assert probability(p, np.array([100_000]))[0] == 1


def test_random_distributions_are_drawn_as_they_are():
    rng = np.random.default_rng(3)
    logits = mx.array(rng.normal(size=(1, 50_000)).astype(np.float32) * 2)
    p = np.array(probabilities(logits, Settings(temperature=1.0)))[0].astype(np.float64)
    ids = np.sort(rng.choice(50_000, 300, replace=False))
    assert probability(p, ids) == pytest.approx(p[ids] / p.sum(), rel=1e-3)


def test_a_decode_draws_with_all_digits():
    """Neighbouring numbers within one step of float32 draw different tokens, for a draft as for the own token."""
    logits = mx.zeros((2, LARGE))
    step = ONE >> 24
    u = [ONE // 2 + step // 8, ONE // 2 + step // 8 + step // 2]
    p = np.full(LARGE, 1.0)
    p[: LARGE // 2] = 2.0**-20
    logits = mx.array(np.log(p).astype(np.float32))[None]
    ids = [Sampled(Settings(temperature=1.0), Given([x]))(logits)[0].item() for x in u]
    assert ids == drawn(p, np.array(u)).tolist()
    assert take(Uniforms(1), 3).dtype == mx.uint64


def test_both_forms_of_a_number_agree():
    fine, coarse = Uniforms(5), Uniforms(5)
    upper = np.concatenate([np.array(fine.take_fixed(n)) >> np.uint64(24) for n in (1, 7, 300)])
    whole = np.concatenate([np.array(coarse.take(n)) for n in (300, 7, 1)])
    assert (upper == (whole * 2.0**24).astype(np.uint64)).all()
    lower = np.array(Uniforms(5).take_fixed(4000)) & np.uint64(2**24 - 1)
    assert abs(lower.mean() / 2**24 - 0.5) < 0.03 and len(set(lower.tolist())) > 3990


@pytest.mark.parametrize("ratio", [2.0**-26, 3e-9, 0.3, 1 - 2.0**-24, 1.0])
def test_acceptance_is_as_likely_as_p_over_q(ratio):
    q = mx.array([[0.5, 0.5]])
    p = mx.array([[0.5 * ratio, 1 - 0.5 * ratio]] * 2)

    def accepted(u):
        number = mx.array([u], dtype=mx.uint64)
        return accept_sampled(mx.array([0]), q, p, number, mx.array([0.5]), mx.array(1))[0].item()

    low, high = 0, ONE
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if middle < ONE and accepted(middle) else (low, middle)
    assert low / ONE == pytest.approx(ratio, rel=1e-5)


# ---- sums in another order ------------------------------------------------------------------------------


def tree_cumsum(a, axis=-1):
    """A scan as a GPU does it: each half alone, then the sum of the left one is added to the right one, in floats."""
    x = np.array(a, dtype=np.float32)

    def scan(x):
        if x.shape[-1] == 1:
            return x
        half = x.shape[-1] // 2
        left, right = scan(x[..., :half]), scan(x[..., half:])
        return np.concatenate([left, right + x[..., :half].sum(axis=-1, keepdims=True, dtype=np.float32)], axis=-1)

    return mx.array(scan(x)).astype(a.dtype)


def test_no_token_without_mass_is_drawn_where_sums_fall(monkeypatch):
    """A cumulative sum that is not monotone, as in a tree of floats, also where nothing of it exceeds the number."""
    monkeypatch.setattr(sampling.mx, "cumsum", tree_cumsum)
    rng = np.random.default_rng(0)
    for kept in (1, 2, 8, 40):
        p = np.zeros((64, 5000), dtype=np.float32)
        for row in p:
            row[rng.choice(5000, kept, replace=False)] = rng.dirichlet(np.ones(kept))
        numbers = np.concatenate([rng.integers(0, ONE, 60), [0, 1, ONE - 2, ONE - 1]]).astype(np.uint64)
        ids = np.array(draw(mx.array(p), mx.array(numbers)))
        assert (p[np.arange(64), ids] > 0).all()


@pytest.mark.parametrize("wanted", [0.0, 0.25, 0.4999999, 0.5, 0.7, 0.99, 1.0, 1.1])
def test_the_first_above_has_mass(wanted):
    mass = mx.array([[0.0, 0.5, 0.0, 0.0, 0.5, 0.0]])
    for cumulative in ([0.1, 0.5, 0.50001, 0.4999, 1.0, 1.001], [0, 0.5, 0.5, 0.5, 0.99, 1.2], [0.3] * 6):
        at = sampling._first_above(mx.array([cumulative]), mx.array([[wanted]]), mass).item()
        above = [i for i in (1, 4) if np.float32(cumulative[i]) > np.float32(wanted)]
        assert at == (above[0] if above else 4)


def test_rows_that_are_nothing_or_not_a_number_draw_some_id():
    p = mx.array([[0.0] * 300, [float("nan")] * 300, [float("inf")] * 300])
    assert all(0 <= i < 300 for i in draw(p, mx.array([0.5, 0.5, 0.999])).tolist())


def test_top_p_of_a_large_flat_vocabulary():
    """The nucleus of tokens that are almost alike holds as many as it should: their sum in float32 does not."""
    logits = np.linspace(0, 1e-3, LARGE).astype(np.float32)
    p = np.exp(logits.astype(np.float64))
    expected = np.searchsorted(np.cumsum(np.sort(p / p.sum())[::-1]), 0.9) + 1
    got = (np.array(probabilities(mx.array(logits)[None], Settings(temperature=1.0, top_p=0.9))) > 0).sum()
    assert abs(got - expected) <= 300  # tokens within one unit in the last place of the last one are kept with it
