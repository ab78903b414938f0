"""What the target's distribution is, computed apart from the sampler's own code: NumPy in float64, without MLX."""

import numpy as np

from ..decode.rounds import Settings

EDGE = 1e-5  # a float32 sum decides on which side of top-p a token falls that is nearer to it


def exact_distribution(logits: np.ndarray, settings: Settings, drawn_from: np.ndarray) -> np.ndarray:
    """softmax(logits / temperature) after top-k, then top-p, float64 [V], of logits [V].

    Tokens that tie with the last one kept are kept too. `drawn_from` [V] is the sampler's distribution: it is asked
    only for tokens so near to the edge of a truncation that float32 decides.
    """
    z = logits.astype(np.float64) / settings.temperature
    keep = np.ones(len(z), dtype=bool)
    if 0 < settings.top_k < len(z):
        keep = z >= np.partition(z, -settings.top_k)[-settings.top_k] - 1e-6 * np.abs(z).max()
        near = keep & (z < np.partition(z, -settings.top_k)[-settings.top_k])
        keep &= ~near | (drawn_from > 0)
    p = np.where(keep, np.exp(z - z.max()), 0)
    p /= p.sum()
    if settings.top_p < 1:
        falling = np.sort(p)[::-1]
        before = np.searchsorted(-falling, -p, side="left")  # how many are likelier
        before = np.concatenate([[0], np.cumsum(falling)])[before]
        keep = before < settings.top_p - EDGE
        keep |= (np.abs(before - settings.top_p) <= EDGE) & (drawn_from > 0)
        keep |= p == p.max()
        p = np.where(keep, p, 0)
    return p / p.sum()


def places(probability: np.ndarray, tokens: np.ndarray, spread: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where in a distribution [V] drawn tokens [n] fall: cumulative mass before each plus `spread` [n] (uniform in
    [0, 1)) times its mass, in the order of ids and from the likeliest on.

    Exact draws fall uniformly in both, whatever the distribution, so draws from many distributions can be counted
    together (Rosenblatt 1952).
    """
    mass = probability[tokens]
    falling = np.argsort(-probability, kind="stable")
    rank = np.empty(len(probability), dtype=int)
    rank[falling] = np.arange(len(probability))
    by_id = np.cumsum(probability) - probability
    by_rank = np.cumsum(probability[falling]) - probability[falling]
    return by_id[tokens] + spread * mass, by_rank[rank[tokens]] + spread * mass
