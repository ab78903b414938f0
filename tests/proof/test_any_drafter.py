"""The proof with drafters that are no block drafters: certain of their drafts, with fewer than asked for, or none."""

import mlx.core as mx
import numpy as np
import pytest

from dspark_core.decode.rounds import Settings
from dspark_core.models.drafter import Proposal
from dspark_core.models.info import DrafterInfo
from dspark_core.proof.chi_squared import ALPHA
from dspark_core.proof.evidence import ALWAYS, FROM_P, RIGHT, DrawRequest
from dspark_core.proof.prove import prove


class Toy:
    """Drafts by `rule(ids so far, n, pick) -> Proposal`, of token ids alone."""

    taps = ()

    def __init__(self, rule, max_drafts=4):
        self.rule = rule
        self.info = DrafterInfo(
            id="toy", method="Toy", title="Toy", block=max_drafts, max_drafts=max_drafts, needs_taps=False
        )

    def begin(self):
        return ToyContext(self.rule)


class ToyContext:
    def __init__(self, rule):
        self.rule, self.ids, self.state = rule, [], []

    def extend(self, ids, taps):
        assert taps is None
        self.ids += ids.tolist()

    def rollback(self, n):
        del self.ids[len(self.ids) - n :]

    def propose(self, anchor, n, pick, confidence=False, look=None):
        return self.rule([*self.ids, anchor.item()], n, pick)


def certain(count):
    """Sure of `count(newest id)` drafts: ids that follow the newest one in a fixed order of the target's favourites."""

    def rule(ids, n, pick):
        n = min(n, count(ids[-1]))
        return Proposal(mx.array([FAVOURITES[(ids[-1] + k) % len(FAVOURITES)] for k in range(n)], dtype=mx.int32))

    return rule


def chained(ids, n, pick):
    """A bigram model: each draft is drawn given the one before, and its info says nothing of that."""
    drafts, qs, previous = [], [], ids[-1]
    for k in range(n):
        logits = mx.array(np.random.default_rng(previous).normal(0, 2, VOCABULARY).astype(np.float32))[None]
        logits = logits + 4 * (mx.arange(VOCABULARY)[None] == FAVOURITES[0])
        token, q = pick(logits, k)
        previous = token.item()
        drafts.append(token)
        qs.append(q)
    return Proposal(mx.concatenate(drafts), mx.concatenate(qs))


VOCABULARY = 256
FAVOURITES: list[int] = []
RULES = {
    "two drafts, certain": certain(lambda newest: 2),
    "one draft at most": certain(lambda newest: 1),
    "no draft ever": certain(lambda newest: 0),
    "as many as the text says": certain(lambda newest: newest % 3),
    "a chain of bigrams": chained,
}


@pytest.fixture
def favourites(golden_e):
    """The target's likeliest tokens after the prompt and its likeliest anchor, so that drafts are often accepted."""
    target, prompt = golden_e.target, golden_e.trace["prompt_ids"]
    assert target.vocab_size == VOCABULARY
    anchor = None
    for _ in range(2):
        ids = prompt if anchor is None else [*prompt, anchor]
        logits = target.head(target.forward(mx.array(ids), target.new_cache())[0][-1:])[0]
        order = mx.argsort(-logits).tolist()
        anchor = order[0]
    FAVOURITES[:] = order[:3]


def evidence(golden, rule, sampler=RIGHT, n=4000, max_drafts=4):
    settings = Settings(3, temperature=1.0, top_k=8, stop_ids=frozenset())
    wanted = DrawRequest("x", "toy", settings, sampler, n)
    *_, (_, found) = prove(golden.target, Toy(RULES[rule], max_drafts), golden.trace["prompt_ids"], wanted)
    return found


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("max_drafts", [1, 4])
def test_the_right_sampler_passes_and_the_loop_draws_the_same(golden_e, favourites, rule, max_drafts):
    found = evidence(golden_e, rule, max_drafts=max_drafts)
    assert found.steady and found.same == found.repeated >= 10
    assert found.p_value >= ALPHA and found.comparison.n == 4000
    assert (found.kept == 0) == (rule == "no draft ever" or (rule.startswith("as many") and found.anchor % 3 == 0))


@pytest.mark.parametrize("rule", ["two drafts, certain", "one draft at most", "a chain of bigrams"])
@pytest.mark.parametrize("sampler", [ALWAYS, FROM_P])
def test_wrong_samplers_are_flagged(golden_e, favourites, rule, sampler):
    assert evidence(golden_e, rule, sampler).flagged


def test_without_drafts_no_acceptance_rule_matters(golden_e, favourites):
    found = evidence(golden_e, "no draft ever", ALWAYS)
    assert not found.flagged and found.bonuses == 0
