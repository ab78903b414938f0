"""Sequential temperature scaling of a confidence head, on held-out rounds (DSpark paper, calibration section).

K slots. A round gives the head's logits z [K] and y [K]: y_k = 1 if the first k drafts were all accepted. Slot by
slot, the temperature T_k is the one that brings the survival prod_i sigmoid(z_i / T_i), i <= k, closest to y_k in
expected calibration error, those before it fixed.

A drafter without such a head gives the margin m of its two best draft logits instead, and each slot gets a logistic fit
of its own, sigmoid(w m + b), to the rounds that reach it (as vLLM's acceptance estimator has it).
"""

import numpy as np

from . import TrainingError

GRID = np.round(np.exp(np.linspace(np.log(0.2), np.log(5.0), 129)), 4)
BINS = 20
EDGE = 1e-8
FEWEST = 200  # rounds that must reach a slot for a fit of its own; a later one is as the one before it
RIDGE = 1e-3


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


def reached(values: np.ndarray, labels: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Slot by slot, of the rounds in which all before it were accepted: `values` [N, K] there, and whether the slot's
    own draft was accepted."""
    alive = np.concatenate([np.ones((len(labels), 1)), labels[:, :-1]], axis=1) > 0
    return [(values[alive[:, k], k], labels[alive[:, k], k]) for k in range(labels.shape[1])]


def logistic_fit(m: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """(w, b), w at least 0, of the most likely sigmoid(w m + b), m [N], for outcomes y [N], by Newton steps."""
    x, theta = np.stack([m, np.ones_like(m)]), np.zeros(2)
    for _ in range(50):
        p = sigmoid(theta @ x)
        step = np.linalg.solve((x * (p * (1 - p))) @ x.T + RIDGE * np.eye(2), x @ (y - p) - RIDGE * theta)
        theta += np.clip(step, -1, 1)
    if theta[0] >= 0:
        return float(theta[0]), float(theta[1])
    share = min(max(float(y.mean()), 1e-4), 1 - 1e-4)
    return 0.0, float(np.log(share / (1 - share)))


def calibrate_margins(
    fit_margins: np.ndarray, fit_labels: np.ndarray, margins: np.ndarray, labels: np.ndarray, bins: int = BINS
) -> dict:
    """What calibration.json holds for a drafter without a confidence head: a fit of each slot's margin to one set of
    rounds, judged on another, and how often each prefix survived."""
    if not len(fit_labels) or not len(labels):
        raise TrainingError("There are no held-out rounds to calibrate on.")
    fits: list[tuple[float, float]] = []
    for m, y in reached(fit_margins, fit_labels):
        fits.append(fits[-1] if fits and len(m) < FEWEST else logistic_fit(m, y))
    weights, biases = (np.array(column).round(4) for column in zip(*fits, strict=True))
    slots = reached(sigmoid(weights * margins + biases), labels)
    p, y = (np.concatenate(column) for column in zip(*slots, strict=True))
    return {
        "method": "logistic fit of the margin",
        "margin_weights": weights.tolist(),
        "margin_biases": biases.tolist(),
        "bins": bins,
        "rounds": len(labels),
        "fit_rounds": len(fit_labels),
        "slots": len(y),
        "ece": round(ece(p, y, bins), 5),
        "ece_noise_floor": round(noise_floor(p), 5),
        "auc": round(auc(p, y), 5),
        "survival": [round(float(x), 5) for x in np.concatenate([fit_labels, labels]).mean(0)],
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
