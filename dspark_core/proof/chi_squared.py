"""Do draws come from a given distribution? Pearson's chi-squared and total variation, without MLX.

Rare outcomes are pooled until every cell expects at least MIN_EXPECTED draws, so that the chi-squared
distribution describes the statistic well far into its tail.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

MIN_EXPECTED = 10.0
ALPHA = 0.001  # a right sampler is flagged once in 1,000 proofs
NOISE_DRAWS = 400
MOST_BINS = 16


@dataclass(frozen=True, slots=True)
class Comparison:
    """n draws against the distribution they should have.

    chi2, freedom: Pearson's statistic over the pooled cells, and its degrees of freedom
    p_value:       how often exact draws would give as large a chi2; 0 if something impossible was drawn
    distance:      total variation, half the sum of |share drawn - probability| over the pooled cells
    noise:         its mean for n exact draws
    noise_high:    what only one in a thousand sets of n exact draws exceeds (normal approximation of its tail)
    impossible:    draws of probability 0
    cells:         how many cells were compared
    """

    n: int
    chi2: float
    freedom: int
    p_value: float
    distance: float
    noise: float
    noise_high: float
    impossible: int
    cells: int

    @property
    def flagged(self) -> bool:
        """True if exact draws would look like this less than once in 1 / ALPHA times."""
        return self.p_value < ALPHA


def compare_table(probability: np.ndarray, drawn: np.ndarray, other: tuple[float, int] = (0.0, 0)) -> Comparison:
    """Compare counts with probabilities.

    `probability` and `drawn` are [K, V]: outcome (row, column). Cells that expect fewer than MIN_EXPECTED draws
    are pooled within their row, then over the rows. `other` is the probability and count of everything outside
    the table. Raises ValueError without draws.
    """
    probability = np.asarray(probability, dtype=np.float64)
    n = int(drawn.sum()) + other[1]
    if n == 0:
        raise ValueError("There are no draws to compare.")
    impossible = int(drawn[probability == 0].sum()) + (other[1] if other[0] == 0 else 0)
    p, k = _pooled(probability, drawn, other, n)
    expected = n * p
    chi2 = float(((k - expected) ** 2 / expected).sum())
    freedom = len(p) - 1
    exact_draws = np.random.default_rng(0).multinomial(n, p, size=NOISE_DRAWS)
    noise = np.abs(exact_draws / n - p).sum(axis=1) / 2
    return Comparison(
        n=n,
        chi2=chi2,
        freedom=freedom,
        p_value=0.0 if impossible else chi2_tail(chi2, freedom),
        distance=float(np.abs(k / n - p).sum() / 2),
        noise=float(noise.mean()),
        noise_high=float(noise.mean() + 3.09 * noise.std()),
        impossible=impossible,
        cells=len(p),
    )


def compare_count(n: int, count: int, expected: float, variance: float) -> Comparison:
    """Compare how many of n independent events happened with the number expected, by the normal approximation."""
    chi2, deviation = (count - expected) ** 2 / variance, math.sqrt(variance) / n
    noise = math.sqrt(2 / math.pi) * deviation
    return Comparison(
        n, chi2, 1, chi2_tail(chi2, 1), abs(count - expected) / n, noise, 3.29 * deviation, impossible=0, cells=2
    )


def compare_places(places: np.ndarray, impossible: int = 0) -> Comparison | None:
    """Compare places [n] in [0, 1) with a uniform distribution, in at most MOST_BINS equal cells; `impossible` draws
    had none. None without draws."""
    if len(places) + impossible == 0:
        return None
    bins = int(np.clip(len(places) / (2 * MIN_EXPECTED), 1, MOST_BINS))
    counts = np.bincount(np.minimum((places * bins).astype(int), bins - 1), minlength=bins)
    if not len(places):  # nothing but impossible draws
        return Comparison(impossible, 0.0, 0, 0.0, 1.0, 0.0, 0.0, impossible, 1)
    found = compare_table(np.full((1, bins), 1 / bins), counts[None])
    if not impossible:
        return found
    return replace(found, n=found.n + impossible, p_value=0.0, impossible=impossible)


def _pooled(
    probability: np.ndarray, drawn: np.ndarray, other: tuple[float, int], n: int
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [m] and counts [m] of cells that expect enough draws; together they are everything."""
    large = n * probability >= MIN_EXPECTED
    p, k = list(probability[large]), list(drawn[large])
    rest_p, rest_k = other
    for row_p, row_k in zip(np.where(large, 0, probability).sum(1), np.where(large, 0, drawn).sum(1), strict=True):
        if n * row_p >= MIN_EXPECTED:
            p.append(row_p)
            k.append(row_k)
        else:
            rest_p, rest_k = rest_p + row_p, rest_k + row_k
    if n * rest_p >= MIN_EXPECTED or not p:
        p.append(rest_p)
        k.append(rest_k)
    else:
        least = int(np.argmin(p))
        p[least] += rest_p
        k[least] += rest_k
    p = np.array(p)
    return p / p.sum(), np.array(k)


def chi2_tail(x: float, freedom: int) -> float:
    """P(chi-squared with `freedom` degrees of freedom > x): the upper incomplete gamma function Q(freedom/2, x/2),
    by its series below the mean and by Lentz's continued fraction above. Accurate to about 1e-12."""
    if freedom == 0 or x <= 0:
        return 1.0
    a, z = freedom / 2, x / 2
    front = math.exp(a * math.log(z) - z - math.lgamma(a))
    if z < a + 1:
        term = total = 1 / a
        k = a
        while term > 1e-16 * total:
            k += 1
            term *= z / k
            total += term
        return max(0.0, 1 - front * total)
    b, c = z + 1 - a, 1e300
    d = h = 1 / b
    for i in range(1, 10_000):
        step = -i * (i - a)
        b += 2
        d = 1 / (step * d + b)
        c = b + step / c
        h *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return front * h
