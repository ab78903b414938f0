"""Sampling stays exact where a drafter cannot draft every token: with a reduced vocabulary of its own, or with a
selector's candidates alone."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from dspark_core.decode.prefill import prefill_once
from dspark_core.decode.rounds import Settings
from dspark_core.decode.sampling import Sampled, Uniforms, accept_probability, probabilities, residual
from dspark_core.models.checkpoint import load_drafter
from dspark_core.proof.chi_squared import ALPHA
from dspark_core.proof.evidence import ALWAYS, FROM_P, NO_BIAS
from dspark_core.proof.prove import prove
from tests.conftest import GOLDEN, load_golden

from ..models.build import list_vocabulary
from ..scripts.prove_sweep import request

# Golden set -> tokens that can be drafted in a slot, of 256.
SETS = {"S1_dspark_slot0": 96, "S5_dflash": 96, "S6_dflash2_zlab": 8}


@pytest.fixture(params=SETS)
def golden(request):
    return load_golden(GOLDEN / "formats" / request.param)


def test_one_round_enumerated(golden):
    assert enumerated(golden) == SETS[golden.name]


@pytest.mark.parametrize(("which", "tokens"), [("A", 128), ("D", 128), ("formats/S6_dflash2_zlab", 8)])
def test_one_round_of_a_listed_vocabulary_enumerated(which, tokens, tmp_path):
    """As the embedded drafters have it: a Markov bias, nothing and a selector over every second token."""
    whole = load_golden(GOLDEN / which)
    place = list_vocabulary(whole, tmp_path / "drafter", list(range(0, 256, 2)))
    assert enumerated(replace(whole, drafter=load_drafter(place, whole.target))) == tokens


def enumerated(golden):
    """How many tokens can be drafted. Every first draft, accepted or not, with what follows a rejection: together the
    target's own distribution."""
    settings = Settings(1, temperature=1.0)
    prefilled = prefill_once(golden.target, golden.trace["prompt_ids"], golden.drafter.taps)
    anchor = mx.argmax(prefilled.logits, axis=-1).astype(mx.int32)
    cache = golden.target.new_cache()
    prefilled.into(cache)
    p = probabilities(golden.target.head(golden.target.forward(anchor, cache)[0]), settings)
    context = golden.drafter.begin()
    context.extend(mx.array(prefilled.prompt), prefilled.features(golden.drafter.taps))
    q = context.propose(anchor, 2, Sampled(settings, Uniforms(0))).q[:1]
    drafts = np.flatnonzero(np.array(q[0]))
    assert p.shape == q.shape
    left_out = 1 - np.array(p[0])[drafts].sum()
    assert left_out > 1e-4, "everything likely can be drafted: this proves nothing"
    at = mx.array(drafts)
    accepted = np.zeros(p.shape[-1])
    accepted[drafts] = np.array(q[0, at] * accept_probability(q[0, at], p[0, at]))
    rest = np.array(residual(p, q)[0], dtype=np.float64)
    outcome = accepted + (1 - accepted.sum()) * rest / rest.sum()
    assert np.abs(outcome - np.array(p[0])).max() < 1e-6
    return len(drafts)


def proven(golden, **wanted):
    *_, (_, found) = prove(golden.target, golden.drafter, golden.trace["prompt_ids"], request(**wanted, top_k=0))
    assert found.steady
    return found


def test_the_loop_s_own_draws_pass(golden):
    found = proven(golden, n=3000)
    assert found.same == found.repeated >= 10 and found.p_value >= ALPHA and not found.flagged


def test_wrong_samplers_do_not_pass():
    """Those that a proof of so few draws can tell from the right one on these models."""
    for name in SETS:
        assert proven(load_golden(GOLDEN / "formats" / name), sampler=ALWAYS, n=3000).flagged, name
    for sampler in (FROM_P, NO_BIAS):
        assert proven(load_golden(GOLDEN / "formats" / "S6_dflash2_zlab"), sampler=sampler, n=3000).flagged, sampler
