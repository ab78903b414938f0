"""The proof of exactness: it is the loop's own drawing, it passes the right sampler and it catches wrong ones."""

from dataclasses import replace

import mlx.core as mx
import pytest

from dspark_core.decode.rounds import DecodeError, Settings
from dspark_core.decode.sampling import Uniforms
from dspark_core.race import proof
from dspark_core.race.evidence import ALWAYS, FROM_P, NO_BIAS, RIGHT, DrawEvidence, DrawRequest, Step
from dspark_core.race.goodness import compare

SEEDS, N = range(100), 1000


def request(sampler=RIGHT, n=N, **settings):
    settings = {"temperature": 1.0, "top_k": 8} | settings
    return DrawRequest("x", "DSpark", Settings(3, stop_ids=frozenset(), **settings), sampler, n)


def asked(golden, wanted):
    asking = proof._Returning(
        proof.ask(golden.target, golden.drafter, golden.trace["prompt_ids"], wanted, lambda: False)
    )
    assert all(isinstance(step, Step) for step in asking)
    return asking.value


def evidence(golden, wanted):
    events = [e for _, e in proof.prove(golden.target, golden.drafter, golden.trace["prompt_ids"], wanted)]
    assert [s.share for s in events[:-1]] == sorted(s.share for s in events[:-1])
    return events[-1]


@pytest.fixture(scope="module")
def flags(golden_e):
    """How many of 100 seeds are flagged at 0.1 %, by sampler: 1,000 draws each."""
    numbers = mx.concatenate([Uniforms(seed).take(N * proof.NUMBERS).reshape(N, -1) for seed in SEEDS])
    found = {}
    for sampler in (RIGHT, ALWAYS, FROM_P, NO_BIAS):
        said = asked(golden_e, request(sampler))
        exact, first, rare = proof.table(said)
        pairs, _ = proof.draw_pairs(said, proof.ACCEPT[sampler], numbers)
        found[sampler] = 0
        for seed in SEEDS:
            counts, others = proof.counted(pairs[seed * N : (seed + 1) * N], first, exact.shape[1])
            found[sampler] += compare(exact, counts, (rare, others)).flagged
    return found


def test_the_right_sampler_is_flagged_at_most_once_in_100_seeds(flags):
    assert flags[RIGHT] <= 1


@pytest.mark.parametrize("sampler", [ALWAYS, FROM_P, NO_BIAS])
def test_each_wrong_sampler_is_flagged_at_least_99_times_in_100_seeds(flags, sampler):
    assert flags[sampler] >= 99


@pytest.mark.parametrize("settings", [{}, {"top_k": 0}, {"top_p": 0.8, "top_k": 0, "temperature": 1.5}])
def test_draws_are_the_loops_own(golden, settings, monkeypatch):
    """Every one of 40 draws, repeated by the decode loop with the same numbers, gives the same two tokens."""
    monkeypatch.setattr(proof, "REPEATS", 40)
    if not settings and golden.name in ("C", "D"):
        settings = {"top_k": 3}
    found = evidence(golden, request(n=400, **settings))
    assert found.repeated == found.same > 20
    assert 0 < found.kept <= 1


def test_the_exact_table_is_a_distribution(golden):
    exact, first, rare = proof.table(asked(golden, request(top_k=0)))
    assert exact.sum() + rare == pytest.approx(1, abs=1e-9)
    assert len(set(first)) == len(first) == exact.shape[0]


def test_first_tokens_that_are_not_followed_are_counted_together(golden_a):
    """With few draws only likely first tokens are worth following; the rest is one cell, and still exact."""
    found = evidence(golden_a, request(n=3000, temperature=2.0, top_k=0))
    assert found.prefixes < 100 and found.followed < 0.95
    assert not found.comparison.flagged
    assert found.comparison.n == 3000


def test_evidence_shows_the_likeliest_pairs(golden_e):
    found = evidence(golden_e, request(n=2000))
    probabilities = [pair.probability for pair in found.pairs]
    assert probabilities == sorted(probabilities, reverse=True)
    for pair in found.pairs[:5]:
        assert pair.drawn == pytest.approx(2000 * pair.probability, abs=5 * (2000 * pair.probability) ** 0.5)
    assert found.comparison.distance < found.comparison.noise_high


def test_the_same_seed_gives_the_same_evidence(golden_e):
    one, two = (replace(evidence(golden_e, request(n=300, seed=4)), seconds=0.0) for _ in range(2))
    assert one == two


def test_a_proof_ends_when_its_time_is_up(golden_e):
    ticks = iter(range(0, 10**6, 5))
    wanted = replace(request(n=100_000), seconds=60.0)
    events = proof.prove(
        golden_e.target, golden_e.drafter, golden_e.trace["prompt_ids"], wanted, clock=lambda: next(ticks)
    )
    *_, (_, found) = events
    assert isinstance(found, DrawEvidence) and found.comparison.n < 100_000


def test_a_cancelled_proof_gives_no_evidence(golden_e):
    seen = []
    for _, event in proof.prove(
        golden_e.target, golden_e.drafter, golden_e.trace["prompt_ids"], request(n=5000), lambda: len(seen) > 4
    ):
        seen.append(event)
    assert not any(isinstance(e, DrawEvidence) for e in seen) and len(seen) < 8


def test_nothing_is_drawn_at_temperature_0(golden_a):
    with pytest.raises(DecodeError, match="temperature 0"):
        evidence(golden_a, request(temperature=0.0))
