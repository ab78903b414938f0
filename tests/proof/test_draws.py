"""The proof of exactness: it is the loop's own drawing, it passes the right sampler and it catches wrong ones."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from dspark_core.decode.rounds import Settings
from dspark_core.decode.sampling import Uniforms, probabilities
from dspark_core.errors import DecodeError
from dspark_core.playground.tabs.prove_tab import draw_verdict
from dspark_core.proof import prove as proving
from dspark_core.proof.conditionals import Conditionals, Continuation, Drafted, Targeted
from dspark_core.proof.draws import NUMBERS, PairSampler
from dspark_core.proof.evidence import (
    ALWAYS,
    BONUS,
    FROM_P,
    NO_BIAS,
    RIGHT,
    SAMPLERS,
    DrawEvidence,
)
from dspark_core.proof.exact import exact_distribution, places
from dspark_core.proof.prove import prove
from dspark_core.proof.samplers import ACCEPT
from dspark_core.proof.tallies import PairCounts

from ..scripts.prove_sweep import asked, flagged, flagged_when_offered, request
from .wrong_samplers import WRONG

SEEDS, N = range(100), 1000
SOME, FEW = range(3), range(1)
DRAWN = 6_000


def evidence(golden, wanted):
    events = [e for _, e in prove(golden.target, golden.drafter, golden.trace["prompt_ids"], wanted)]
    assert [s.share for s in events[:-1]] == sorted(s.share for s in events[:-1])
    return events[-1]


@pytest.fixture(scope="module")
def flags(golden_e):
    """How many of 100 seeds are flagged at 0.1 %, by sampler: 1,000 draws each."""
    numbers = mx.concatenate([Uniforms(seed).take(N * NUMBERS).reshape(N, -1) for seed in SEEDS])
    found = {}
    for sampler in (RIGHT, ALWAYS, FROM_P, NO_BIAS):
        said = asked(golden_e, request(sampler, N))
        tokens, _ = PairSampler(said, ACCEPT[sampler]).draw(numbers)
        found[sampler] = 0
        for seed in SEEDS:
            pairs = PairCounts(said)
            pairs.add(tokens[seed * N : (seed + 1) * N])
            found[sampler] += pairs.check().comparison.flagged
    return found


def test_the_right_sampler_is_flagged_at_most_once_in_100_seeds(flags):
    assert flags[RIGHT] <= 1


@pytest.mark.parametrize("sampler", [ALWAYS, FROM_P, NO_BIAS])
def test_each_wrong_sampler_is_flagged_at_least_99_times_in_100_seeds(flags, sampler):
    assert flags[sampler] >= 99


@pytest.mark.parametrize("settings", [{}, {"top_k": 0}, {"top_p": 0.8, "top_k": 0, "temperature": 1.5}])
def test_draws_are_the_loops_own(golden, settings, monkeypatch):
    """Every one of 24 draws, repeated by the decode loop with the same numbers, gives the same two tokens."""
    monkeypatch.setattr(proving, "REPEATS", 24)
    if not settings and golden.name in ("C", "D"):
        settings = {"top_k": 3}
    found = evidence(golden, request(n=400, **settings))
    assert found.repeated == found.same > 12
    assert 0 < found.kept <= 1


def test_the_exact_table_is_a_distribution(golden):
    pairs = PairCounts(asked(golden, request(top_k=0)))
    assert pairs.exact.sum() + pairs.other[0] == pytest.approx(1, abs=1e-9)
    assert len(set(pairs.first)) == len(pairs.first) == pairs.exact.shape[0]


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


def test_samplers_in_a_row_draw_what_each_draws_alone_and_the_models_are_asked_once(golden_e, monkeypatch):
    calls, forward = [], golden_e.target.forward
    monkeypatch.setattr(golden_e.target, "forward", lambda *asked: calls.append(1) or forward(*asked))
    alone = {s: evidence(golden_e, request(s, n=150)) for s in (FROM_P, NO_BIAS)}
    once = len(calls) / len(alone)
    calls.clear()
    events = prove(golden_e.target, golden_e.drafter, golden_e.trace["prompt_ids"], request(n=150), samplers=[*alone])
    steps, found = [], []
    for _, event in events:
        (found if isinstance(event, DrawEvidence) else steps).append(event)
    assert len(calls) == once
    assert [s.share for s in steps] == sorted(s.share for s in steps)
    assert [replace(e, seconds=0.0) for e in found] == [replace(e, seconds=0.0) for e in alone.values()]
    assert all(s.left_s >= 0 for s in steps[1:]) and steps[-1].left_s < max(s.left_s for s in steps[1:])
    pace = found[-1].pace
    assert 0 < pace.seconds(150, 2) <= found[-1].seconds * 1.01


def test_a_proof_ends_when_its_time_is_up(golden_e):
    ticks = iter(range(0, 10**6, 5))
    wanted = replace(request(n=100_000), seconds=60.0)
    events = prove(golden_e.target, golden_e.drafter, golden_e.trace["prompt_ids"], wanted, clock=lambda: next(ticks))
    *_, (_, found) = events
    assert isinstance(found, DrawEvidence) and found.comparison.n < 100_000


def test_a_cancelled_proof_gives_no_evidence(golden_e):
    seen = []
    for _, event in prove(
        golden_e.target, golden_e.drafter, golden_e.trace["prompt_ids"], request(n=5000), lambda: len(seen) > 4
    ):
        seen.append(event)
    assert not any(isinstance(e, DrawEvidence) for e in seen) and len(seen) < 8


def test_nothing_is_drawn_at_temperature_0(golden_a):
    with pytest.raises(DecodeError, match="temperature 0"):
        evidence(golden_a, request(temperature=0.0))


# ---- the whole proof: every comparison of it ---------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_proof_flags_each_wrong_sampler_it_offers_and_never_the_right_one(golden_e, sampler):
    """3 seeds of each; python -m tests.scripts.prove_sweep takes 100."""
    assert flagged_when_offered(golden_e, sampler, SOME) == (0 if sampler == RIGHT else len(SOME))


@pytest.fixture(scope="module")
def said_e(golden_e):
    return asked(golden_e, request(n=DRAWN))


@pytest.mark.parametrize(
    "name", [name for name in WRONG if name not in ("one acceptance number for all slots", "bonus from the residual")]
)
def test_wrong_samplers_that_are_not_offered_are_flagged_too(said_e, name):
    """Two are left out: with this target and prompt they draw what the right one draws."""
    assert flagged(said_e, WRONG[name], DRAWN, FEW) == len(FEW)


def two_slots(p1, q1, p2, q2, p3=(0.25, 0.25, 0.25, 0.25)):
    """What the models of four tokens say: the second slot does not depend on the first."""
    p1, q1, p2, q2, p3 = (np.array([row], dtype=np.float64) for row in (p1, q1, p2, q2, p3))
    first, second, third = (Targeted(mx.array(p.astype(np.float32)), p[0]) for p in (p1, p2, p3))
    once, twice = (Drafted(q, q) for q in (mx.array(x.astype(np.float32)) for x in (q1, q2)))
    after = {a: Continuation(second, twice, twice, {b: third for b in range(4)}) for a in range(4)}
    return Conditionals(0, 0.1, first, first, once, after)


PLAIN_SLOTS = two_slots((0.4, 0.3, 0.2, 0.1), (0.1, 0.2, 0.3, 0.4), (0.1, 0.5, 0.2, 0.2), (0.5, 0.1, 0.1, 0.3))


@pytest.mark.parametrize("name", WRONG)
def test_every_wrong_sampler_is_flagged_where_both_slots_reject(name):
    assert flagged(PLAIN_SLOTS, WRONG[name], DRAWN, FEW) == len(FEW)


def test_the_right_sampler_passes_there():
    assert flagged(PLAIN_SLOTS, ACCEPT[RIGHT], DRAWN, SOME) == 0


@pytest.mark.parametrize("wrong", ["argmax", "twice as hot", "uniform"])
def test_a_wrong_first_token_is_flagged(said_e, wrong):
    exact = said_e.start.exact
    hot = np.sqrt(exact)
    start = {
        "argmax": np.eye(len(hot))[exact.argmax()],
        "twice as hot": hot / hot.sum(),
        "uniform": np.full(len(hot), 1 / len(hot)),
    }[wrong]
    said = replace(said_e, start=Targeted(mx.array(start[None].astype(np.float32)), exact))
    assert flagged(said, ACCEPT[RIGHT], DRAWN, FEW) == len(FEW)


@pytest.mark.parametrize("part", ["p", "q"])
def test_a_truncation_of_p_or_of_q_alone_is_flagged(golden_e, monkeypatch, part):
    """The comparison does not use the sampler's own softmax, so what that does wrong shows: here with top-k 3."""
    said = asked(golden_e, request(n=DRAWN))

    def cut(row):
        kept = mx.where(row >= mx.topk(row, 3, axis=-1).min(), row, 0)
        return kept / kept.sum()

    for a, after in list(said.after.items()):
        if part == "p":
            said.after[a] = replace(after, second=Targeted(cut(after.second.sampled), after.second.exact))
        else:  # drafts come from a cut q that the acceptance does not know of
            wrong = Drafted(cut(after.draft.q), after.draft.believed)
            said.after[a] = replace(after, draft=wrong, further=replace(after.further, q=wrong.q))
    assert flagged(said, ACCEPT[RIGHT], DRAWN, FEW) == len(FEW)


def test_the_loop_itself_is_held_to_the_same_numbers(golden_e, monkeypatch):
    """A fault in the decode loop that the batched draws do not share: its bonus comes from the row before."""
    monkeypatch.setattr("dspark_core.decode.speculative.accept_sampled", ACCEPT[BONUS])
    found = evidence(golden_e, request(n=400))
    assert found.same < found.repeated and found.steady and found.loop_differs and found.flagged
    kind, words = draw_verdict(found, golden_e.drafter.info)
    assert kind == "divergence" and f"{found.repeated - found.same} of {found.repeated} draws" in words


def test_repeats_are_of_every_kind(golden_e):
    found = evidence(golden_e, request(n=1000))
    assert found.repeated == found.same == proving.REPEATS and not found.flagged
    names = [check.name for check in found.checks]
    assert names[:2] == ["pairs of tokens", "the answer's first token"]
    for words in ("acceptances of draft 1", "after 1 accepted draft, by", "after 2 accepted drafts, by"):
        assert any(words in name for name in names), words
    kind, words = draw_verdict(found, golden_e.drafter.info)
    assert kind == "identical"
    for check in found.checks:
        assert f"{check.name} ({check.comparison.freedom})" in words


def test_with_nothing_to_compare_it_says_so(golden_e):
    """One token is all that top-k 1 leaves: exact draws come out in one way only."""
    found = evidence(golden_e, request(n=500, top_k=1))
    assert found.freedom == 0 and not found.flagged
    kind, words = draw_verdict(found, golden_e.drafter.info)
    assert kind == "" and words.startswith("Nothing to compare") and "Exact," not in words


def test_the_wrong_bonus_is_caught_in_words(golden_e):
    kind, words = draw_verdict(evidence(golden_e, request(BONUS, 4000)), golden_e.drafter.info)
    assert kind == "divergence" and words.startswith("Caught.") and "row before" in words


@pytest.mark.parametrize("settings", [{}, {"top_k": 5}, {"top_p": 0.7}, {"top_k": 9, "top_p": 0.9, "temperature": 0.6}])
def test_the_exact_distribution_is_the_samplers(settings):
    wanted = Settings(3, **({"temperature": 1.3} | settings))
    for seed in range(20):
        logits = np.random.default_rng(seed).normal(0, 3, 50).astype(np.float32)
        logits[3] = logits[4]
        drawn_from = np.array(probabilities(mx.array(logits[None]), wanted)[0])
        exact = exact_distribution(logits, wanted, drawn_from)
        assert np.abs(exact - drawn_from).max() < 1e-6 and ((exact > 0) == (drawn_from > 0)).all()
        assert exact.sum() == pytest.approx(1, abs=1e-12)


def test_places_of_exact_draws_are_uniform():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(30, 0.2))
    tokens = rng.choice(30, size=20_000, p=p)
    for found in places(p, tokens, rng.random(20_000)):
        counts, _ = np.histogram(found, bins=20, range=(0, 1))
        assert ((counts - 1000) ** 2 / 1000).sum() < 45  # chi-squared, 19 degrees of freedom, 0.07 %
    likeliest = np.full(100, p.argmax())
    by_id, by_rank = places(p, likeliest, np.full(100, 0.5))
    assert by_rank[0] == pytest.approx(p.max() / 2) and by_id[0] == pytest.approx(p[: p.argmax()].sum() + p.max() / 2)
