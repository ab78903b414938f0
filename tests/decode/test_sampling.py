"""Sampling is exact: enumerated where it can be, against float64 where it cannot."""

import itertools

import mlx.core as mx
import numpy as np
import pytest

from dspark_core.decode.rounds import Settings
from dspark_core.decode.sampling import Uniforms, accept_probability, accept_sampled, draw, probabilities, residual

V = 4


def f32(rows):
    return mx.array(rows, dtype=mx.float32)


def truncated(logits, **settings):
    return probabilities(f32(logits), Settings(temperature=1.0, **settings))


LOGITS_P = [[0.3, -0.2, 1.0, 0.1], [2.0, 0.0, -1.0, 0.5], [0.0, 0.1, 0.2, 0.3]]
LOGITS_Q = [[1.0, 0.0, -0.5, 0.2], [-1.0, 1.5, 0.3, 0.0]]
CASES = {
    "p differs from q": (truncated(LOGITS_P), truncated(LOGITS_Q)),
    "p equals q": (truncated(LOGITS_P), truncated(LOGITS_P[:2])),
    "q is 0 where p is not": (truncated(LOGITS_P), f32([[0.5, 0.5, 0, 0], [0, 0, 0.25, 0.75]])),
    "q is a point mass": (truncated(LOGITS_P), f32([[0, 0, 1, 0], [0, 1, 0, 0]])),
    "top-k 2": (truncated(LOGITS_P, top_k=2), truncated(LOGITS_Q, top_k=2)),
    "top-p 0.7": (truncated(LOGITS_P, top_p=0.7), truncated(LOGITS_Q, top_p=0.7)),
    "disjoint": (f32([[0, 0, 0.4, 0.6], [0, 1, 0, 0], [0.25] * 4]), f32([[0.5, 0.5, 0, 0], [1, 0, 0, 0]])),
}


def accepted_masses(p, q, drafts):
    """Probability of each number of accepted drafts, and the distribution of the next token after it."""
    out, reached = [], 1.0
    for k, x in enumerate(drafts):
        a = accept_probability(q[k, x], p[k, x]).item()
        r = residual(p[k : k + 1], q[k : k + 1])[0]
        out.append((reached * (1 - a), np.array(r / r.sum(), dtype=np.float64)))
        reached *= a
    return [*out, (reached, np.array(p[len(drafts)], dtype=np.float64))]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("proposed", [0, 1, 2])
def test_round_distribution_equals_the_targets(case, proposed):
    """Sum over every draft sequence and every acceptance outcome of a round, then let the target go on alone to
    length 3: the joint distribution of the three tokens is the target's (here p depends on the position only)."""
    p, q = CASES[case]
    joint = np.zeros((V, V, V))
    target = [np.array(row, dtype=np.float64) for row in p]
    for drafts in itertools.product(range(V), repeat=proposed):
        drawn = np.prod([q[k, x].item() for k, x in enumerate(drafts)])
        if drawn == 0:
            continue
        for kept, (mass, following) in enumerate(accepted_masses(p, q, drafts)):
            parts = [np.eye(V)[x] for x in drafts[:kept]] + [following] + target[kept + 1 :]
            joint += drawn * mass * np.einsum("i,j,k->ijk", *parts)
    expected = np.einsum("i,j,k->ijk", *target)
    assert np.abs(joint - expected).max() < 1e-6


@pytest.mark.parametrize("case", CASES)
def test_accept_sampled_follows_the_enumerated_masses(case):
    """The function the loop calls, over a grid of uniforms: its outcome frequencies are the masses above."""
    p, q = CASES[case]
    drafts = [int(x) for x in np.array(q).argmax(axis=1)]
    grid = (np.arange(40) + 0.5) / 40
    counts = np.zeros((3, V))
    for u1, u2 in itertools.product(grid, grid):
        accepted, _, q_x, p_x = accept_sampled(mx.array(drafts), q, p, f32([u1, u2]), f32([0.5]), mx.array(2))
        counts[accepted.item()] += 1 / 1600
    assert q_x.tolist() == [q[k, x].item() for k, x in enumerate(drafts)]
    assert p_x.tolist() == [p[k, x].item() for k, x in enumerate(drafts)]
    for kept, (mass, following) in enumerate(accepted_masses(p, q, drafts)):
        assert abs(counts[kept, 0] - mass) < 0.03
        if mass > 1e-6:
            source = p[kept : kept + 1] if kept == 2 else residual(p[kept : kept + 1], q[kept : kept + 1])
            fine = (np.arange(4000) + 0.5) / 4000
            drawn = draw(mx.broadcast_to(source, (4000, V)), f32(fine))
            shares = np.bincount(np.array(drawn), minlength=V) / 4000
            assert np.abs(shares - following).max() < 1e-3


def test_a_stop_token_ends_the_countable_drafts():
    p = q = f32([[0.25] * 4] * 3)
    accepted, _, _, _ = accept_sampled(mx.array([1, 2]), q[:2], p, f32([0, 0]), f32([0.5]), mx.array(1))
    assert accepted.item() == 1


def test_draw_against_float64():
    """First i with cumulative mass above u times the total, for a vocabulary of 50,000 and odd sizes."""
    rng = np.random.default_rng(0)
    for size in (5, 256, 257, 50_000):
        p = rng.dirichlet(np.full(size, 0.02)).astype(np.float32)
        p[rng.random(size) < 0.3] = 0
        u = rng.random(500).astype(np.float32)
        cumulative = np.cumsum(p.astype(np.float64))
        expected = np.searchsorted(cumulative, u.astype(np.float64) * cumulative[-1], side="right")
        got = np.array(draw(mx.broadcast_to(mx.array(p), (500, size)), mx.array(u)))
        off = got != expected
        # float32 may differ from float64 only where u falls on an edge between two tokens
        edges = np.abs(cumulative[np.minimum(got, expected)] - u * cumulative[-1])
        assert off.mean() < 0.01 and (edges[off] < 1e-5).all()
        assert (p[got] > 0).all(), "a token of probability 0 was drawn"


def test_draw_at_the_ends():
    p = f32([[0, 0.5, 0, 0.5, 0]])
    assert draw(p, f32([0.0])).item() == 1
    assert draw(p, f32([0.99999994])).item() == 3


def test_truncation():
    logits = f32([[1.0, 3.0, 2.0, 0.0]])
    full = np.array(probabilities(logits, Settings(temperature=1.0)))[0]
    assert np.allclose(full, np.exp([1, 3, 2, 0]) / np.exp([1, 3, 2, 0]).sum(), atol=1e-7)
    two = np.array(probabilities(logits, Settings(temperature=1.0, top_k=2)))[0]
    assert np.allclose(two, [0, full[1], full[2], 0] / (full[1] + full[2]), atol=1e-6)
    nucleus = np.array(probabilities(logits, Settings(temperature=1.0, top_p=float(full[1]) + 1e-3)))[0]
    assert np.allclose(nucleus, two, atol=1e-6)
    alone = np.array(probabilities(logits, Settings(temperature=1.0, top_p=1e-6)))[0]
    assert alone.tolist() == [0, 1, 0, 0]
    hot = np.array(probabilities(logits, Settings(temperature=2.0)))[0]
    assert hot.max() < full.max()


def test_ties_at_the_edge_of_a_truncation_are_kept():
    p = np.array(probabilities(f32([[1.0, 2.0, 1.0, 0.0]]), Settings(temperature=1.0, top_k=2)))[0]
    assert p[0] == p[2] > 0 and p[3] == 0


def test_seed_fixes_the_numbers():
    assert Uniforms(3).take(5).tolist() == Uniforms(3).take(5).tolist() != Uniforms(4).take(5).tolist()
    u = np.array(Uniforms(0).take(10_000))
    assert u.dtype == np.float32 and u.min() >= 0 and u.max() < 1


def test_the_likeliest_token_stays_at_any_top_p():
    for top_p in (1e-300, 1e-12, 2.0**-32, 1e-9):
        kept = np.array(
            probabilities(mx.array([[1.0, 3.0, 2.0], [0.0, 0.0, 5.0]]), Settings(temperature=1.0, top_p=top_p))
        )
        assert (kept > 0).sum(axis=-1).tolist() == [1] * len(kept) and kept.sum() == len(kept), top_p
