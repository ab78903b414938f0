"""The greedy report: verdicts with their gaps, over the tiny golden models."""

import mlx.core as mx
import pytest

from dspark_core.models.checkpoint import load_drafter
from dspark_core.models.target import load_target
from dspark_core.playground.tabs.prove_tab import agreement_verdict
from dspark_core.proof.agreement import agreement
from dspark_core.proof.evidence import Agreement, AgreementRequest, Step
from dspark_core.race.race import Models
from dspark_core.race.verdict import next_logits
from tests.conftest import GOLDEN

PROMPTS = ("one", "two two", "three three three")


@pytest.fixture
def models():
    target = load_target(GOLDEN / "A" / "target")
    target.stop_ids = frozenset()
    target.encode_chat = lambda messages: list(range(1, 6 + len(messages[-1]["content"])))
    return Models(target, {"dspark": load_drafter(GOLDEN / "A" / "drafter", target), "dflash": "it was not found."})


def rows(models, tokens=20):
    events = [e for _, e in agreement(models, AgreementRequest(PROMPTS, tokens))]
    shares = [e.share for e in events if isinstance(e, Step)]
    assert shares == sorted(shares) and shares[-1] <= 1
    return [e for e in events if isinstance(e, Agreement)]


def test_every_prompt_is_identical_and_says_how_near_a_tie_it_came(models):
    found = rows(models)
    assert [r.prompt for r in found] == list(PROMPTS)
    for r in found:
        assert (r.kind, r.tokens, r.differences, r.lanes) == ("identical", 20, (), ("plain", "DSpark · full block"))
    prompt = models.target.encode_chat([{"content": PROMPTS[0]}])
    gaps, ids = [], list(prompt)
    for _ in range(20):
        logits = next_logits(models.target, ids)
        best = mx.sort(logits)[-2:].tolist()
        gaps.append(best[1] - best[0])
        ids.append(mx.argmax(logits).item())
    assert found[0].closest == pytest.approx(min(gaps), abs=1e-4)
    assert found[0].tied == 0


def test_a_wide_forward_that_lies_is_a_real_divergence(models):
    head = models.target.head

    def biased(hidden):
        z = head(hidden)
        return z if hidden.shape[0] == 1 else mx.roll(z, 1, axis=-1)

    models.target.head = biased
    found = rows(models)
    assert {r.kind for r in found} == {"divergence"}
    assert all(d.needed > 0 and d.lane == 1 for r in found for d in r.differences)


def equal(z, a, b):
    """Logits where ids a and b share the better of their values."""
    both = mx.maximum(z[:, a], z[:, b])
    ids = mx.arange(z.shape[-1])
    return mx.where((ids == a) | (ids == b), both[:, None], z)


@pytest.mark.parametrize("higher", [False, True])
def test_it_says_what_each_lane_did_at_exact_ties(models, higher):
    """The answer's second token gets an equal; a verification that takes the higher of the two is named."""
    first = rows(models, 4)[0]
    prompt = models.target.encode_chat([{"content": PROMPTS[0]}])
    text = []
    for _ in range(4):
        text.append(mx.argmax(next_logits(models.target, [*prompt, *text])).item())
    a, b = text[1], (text[1] + 1) % 256
    head, width = models.target.head, models.drafters["dspark"].info.max_drafts + 1

    def tied(hidden):
        z = equal(head(hidden), a, b)
        if higher and hidden.shape[0] == width:  # a verification
            z = mx.where(mx.arange(256) == max(a, b), z + 1e-4, z)
        return z

    models.target.head = tied
    found = [r for r in rows(models, 4) if r.tied]
    assert first.tied == 0 and first.lower == ((0, 0), (0, 0)) and found
    reached, lower = zip(*(r.lower[0] for r in found), strict=True)
    assert reached == lower == tuple(r.tied for r in found), "plain takes the lower id"
    reached, lower = (sum(r.lower[1][part] for r in found) for part in (0, 1))
    assert reached > lower if higher else reached == lower
    kind, words = agreement_verdict(found, 3)
    assert "plain took the lower id at all" in words
    if higher:
        assert kind == "divergence" and f"DSpark · full block took the lower id at {lower} of {reached}" in words
    else:
        assert kind == "identical" and "DSpark · full block took the lower id at all" in words


def test_cancel_ends_it(models):
    seen = []
    for _, event in agreement(models, AgreementRequest(PROMPTS, 20), lambda: len(seen) > 3):
        seen.append(event)
    assert len(seen) <= 5 and not any(isinstance(e, Agreement) for e in seen)
