"""The statistics of the proof, against closed forms and simulated draws."""

import math

import numpy as np
import pytest
from scipy.stats import chi2

from dspark_core.proof.chi_squared import MIN_EXPECTED, chi2_tail, compare_table


@pytest.mark.parametrize("freedom", [1, 2, 3, 7, 15, 128, 1001, 20_000])
def test_chi2_tail_is_scipys(freedom):
    """From far below the mean to far above it, over both ways of computing it and where they meet (x = freedom + 2)."""
    xs = freedom * np.array([1e-3, 0.1, 0.5, 0.9, 0.99, 1.0, 1.01, 1.1, 2.0, 5.0])
    for x in [*xs, freedom + 2 - 1e-9, freedom + 2 + 1e-9, *np.random.default_rng(freedom).chisquare(freedom, 20)]:
        assert chi2_tail(float(x), freedom) == pytest.approx(chi2.sf(x, freedom), rel=1e-8, abs=1e-12), x


@pytest.mark.parametrize("x", [1e-3, 0.5, 3.0, 10.0, 40.0, 300.0])
def test_chi2_tail_is_the_closed_form_where_there_is_one(x):
    """One degree of freedom: erfc; two more each time: + (x/2)^(k/2) e^(-x/2) / gamma(k/2 + 1)."""
    for tail, k in ((math.erfc(math.sqrt(x / 2)), 1), (math.exp(-x / 2), 2)):
        while k < 60:
            assert chi2_tail(x, k) == pytest.approx(tail, rel=1e-9, abs=1e-12), k
            tail += math.exp(k / 2 * math.log(x / 2) - x / 2 - math.lgamma(k / 2 + 1))
            k += 2


def test_chi2_tail_at_its_ends():
    assert chi2_tail(0, 5) == chi2_tail(3, 0) == 1
    assert chi2_tail(1e6, 3) == 0


def exact_draws(p, n, seed):
    return np.random.default_rng(seed).multinomial(n, p.ravel()).reshape(p.shape)


def test_exact_draws_give_uniform_p_values_and_the_noise_that_was_foretold():
    p = np.random.default_rng(1).dirichlet(np.full(400, 0.1)).reshape(20, 20)
    results = [compare_table(p, exact_draws(p, 3000, seed)) for seed in range(400)]
    values = np.array([r.p_value for r in results])
    for q in (0.05, 0.25, 0.5, 0.75):
        assert abs((values < q).mean() - q) < 4 * math.sqrt(q * (1 - q) / 400)
    distances = np.array([r.distance for r in results])
    assert distances.mean() == pytest.approx(results[0].noise, rel=0.03)
    assert (distances > results[0].noise_high).sum() <= 3
    assert results[0].cells == results[0].freedom + 1


def test_rare_cells_are_pooled_and_nothing_is_lost():
    p = np.array([[0.5, 0.2, 0.001], [0.001, 0.001, 0.001]])
    rest = 1 - p.sum()
    drawn = np.array([[250, 100, 1], [0, 2, 0]])
    c = compare_table(p, drawn, (rest, 147))
    assert (c.n, c.cells, c.impossible) == (500, 3, 0)
    assert c.p_value > 0.5
    few = compare_table(p, np.array([[4, 1, 0], [0, 0, 0]]), (rest, 3))
    assert few.cells == 1 and few.p_value == 1 and MIN_EXPECTED > 8


def test_a_wrong_distribution_is_flagged():
    p = np.full((4, 4), 1 / 16)
    other = p.copy()
    other[0] *= 1.3
    c = compare_table(p, exact_draws(other / other.sum(), 4000, 0))
    assert c.flagged and c.distance > c.noise_high


def test_what_cannot_be_drawn_is_no_matter_of_chance():
    p = np.array([[0.5, 0.5, 0.0]])
    c = compare_table(p, np.array([[500, 499, 1]]))
    assert c.impossible == 1 and c.p_value == 0 and c.flagged


def test_no_draws():
    with pytest.raises(ValueError, match="no draws"):
        compare_table(np.full((2, 2), 0.25), np.zeros((2, 2), dtype=int))
