"""Sequential temperature scaling of a confidence head, on held-out rounds (DSpark paper, calibration section).

K slots. A round gives the head's logits z [K] and y [K]: y_k = 1 if the first k drafts were all accepted. Slot by
slot, the temperature T_k is the one that brings the survival prod_i sigmoid(z_i / T_i), i <= k, closest to y_k in
expected calibration error, those before it fixed.
"""

import numpy as np

from . import TrainingError

GRID = np.round(np.exp(np.linspace(np.log(0.2), np.log(5.0), 129)), 4)
BINS = 20
EDGE = 1e-8


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def ece(p: np.ndarray, y: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error of predictions p [N] for outcomes y [N], equal bins over [0, 1]."""
    p = np.clip(p, EDGE, 1 - EDGE)
    index = np.minimum((p * bins).astype(int), bins - 1)
    gap = np.bincount(index, p - y, bins)
    return float(np.abs(gap).sum() / len(p))


def survival(logits: np.ndarray, temperatures: np.ndarray | None = None) -> np.ndarray:
    """Prefix survival [N, K] of confidence logits [N, K]."""
    t = np.ones(logits.shape[1]) if temperatures is None else np.asarray(temperatures)
    return np.cumprod(sigmoid(logits / t), axis=1)


def fit_temperatures(logits: np.ndarray, labels: np.ndarray, grid: np.ndarray = GRID, bins: int = BINS) -> np.ndarray:
    """Temperatures [K]; a tie goes to the smallest of the grid."""
    before, out = np.ones(len(logits)), []
    for k in range(logits.shape[1]):
        errors = [ece(before * sigmoid(logits[:, k] / t), labels[:, k], bins) for t in grid]
        out.append(float(grid[int(np.argmin(errors))]))
        before = before * sigmoid(logits[:, k] / out[-1])
    return np.array(out)


def auc(p: np.ndarray, y: np.ndarray) -> float:
    """Area under the ROC curve, ties counted half."""
    _, inverse, counts = np.unique(p, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    positive = int(y.sum())
    if positive in (0, len(y)):
        return float("nan")
    return float((ranks[y > 0].sum() - positive * (positive + 1) / 2) / (positive * (len(y) - positive)))


def noise_floor(p: np.ndarray, draws: int = 20, seed: int = 0) -> float:
    """Mean ECE of a perfectly calibrated head that predicts p [N]: outcomes drawn from p itself."""
    rng = np.random.default_rng(seed)
    return float(np.mean([ece(p, rng.random(len(p)) < p) for _ in range(draws)]))


def acceptance_by_position(labels: np.ndarray) -> dict:
    """What calibration.json holds for a drafter without a confidence head: how often each prefix survived."""
    if not len(labels):
        raise TrainingError("There are no held-out rounds to calibrate on.")
    return {
        "method": "acceptance by position",
        "rounds": len(labels),
        "survival": [round(float(x), 5) for x in labels.mean(0)],
    }


def calibrate(
    fit_logits: np.ndarray, fit_labels: np.ndarray, logits: np.ndarray, labels: np.ndarray, bins: int = BINS
) -> dict:
    """Fit on one set of rounds, judge on another; what calibration.json holds."""
    if not len(fit_logits) or not len(logits):
        raise TrainingError("There are no held-out rounds to calibrate on.")
    temperatures = fit_temperatures(fit_logits, fit_labels, bins=bins)
    before, after = survival(logits), survival(logits, temperatures)
    K = range(logits.shape[1])

    def each(f):
        return [round(f(k), 5) for k in K]

    return {
        "method": "sequential temperature scaling",
        "temperatures": temperatures.tolist(),
        "bins": bins,
        "rounds": len(logits),
        "fit_rounds": len(fit_logits),
        "ece_before": each(lambda k: ece(before[:, k], labels[:, k], bins)),
        "ece_after": each(lambda k: ece(after[:, k], labels[:, k], bins)),
        "ece_noise_floor": each(lambda k: noise_floor(after[:, k])),
        "auc": each(lambda k: auc(after[:, k], labels[:, k])),
        "survival": each(lambda k: float(labels[:, k].mean())),
    }
