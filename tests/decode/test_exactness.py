"""Speculation changes nothing but the speed."""

import random

import mlx.core as mx
import pytest

from dspark_core.decode.rounds import Settings
from dspark_core.decode.schedule import ConfidenceThreshold, FixedCap, FullBlock
from dspark_core.decode.speculative import speculative
from dspark_core.models.cache import trim

from .helpers import NEVER, output, plain_output, worst

LENGTH = 320


def test_greedy_equals_plain_over_320_tokens(golden):
    prompt = golden.trace["prompt_ids"]
    length = min(LENGTH, golden.target.context_length - len(prompt))
    expected = plain_output(golden.target, prompt, length)
    assert len(expected) == length
    schedules = [FullBlock(), FixedCap(0), FixedCap(1), FixedCap(3)]
    if golden.drafter.has_confidence:
        schedules.append(ConfidenceThreshold(0.6))
    for schedule in schedules:
        settings = Settings(length, stop_ids=NEVER)
        assert output(speculative(golden.target, golden.drafter, prompt, settings, schedule)) == expected, schedule


def plain_logits(target, prompt, n):
    """Greedy continuation [n] and the logits [n, V] that each token was picked from, with mlx-lm's own cache (a
    ring in sliding layers), which is exact as long as nothing is dropped."""
    cache = target.model.make_cache()
    logits = target.model(mx.array(prompt)[None], cache=cache)[0, -1:]
    tokens, rows = [], []
    for _ in range(n):
        rows.append(logits)
        tokens.append(mx.argmax(logits, axis=-1).item())
        logits = target.model(mx.array([[tokens[-1]]]), cache=cache)[0]
    return tokens, mx.concatenate(rows)


@pytest.fixture(scope="module")
def plain_e(golden_e):
    return plain_logits(golden_e.target, golden_e.trace["prompt_ids"], 330)


@pytest.mark.parametrize("seed", range(10))
def test_rollback_past_the_window(golden_e, plain_e, seed):
    """Sliding window 16, 300 tokens, 0 to 7 of 7 drafts wrong in every round: every row is plain decoding's."""
    target, prompt = golden_e.target, golden_e.trace["prompt_ids"]
    tokens, expected = plain_e
    chance = random.Random(seed)
    cache = target.new_cache()
    target.forward(mx.array(prompt), cache)
    at = 0  # index of the anchor in `tokens`
    while at < 300:
        kept = 7 - chance.randint(0, 7)
        drafts = tokens[at + 1 : at + 1 + kept]
        wrong = [(t + chance.randint(1, 255)) % 256 for t in tokens[at + 1 + kept : at + 8]]
        hidden, _ = target.forward(mx.array([tokens[at], *drafts, *wrong]), cache)
        rows = target.head(hidden)[: kept + 1]
        assert worst(rows, expected[at + 1 : at + kept + 2]) < 1e-4, f"anchor {at}"
        trim(cache, 7 - kept)
        at += kept + 1


@pytest.mark.long
def test_embedded_model_in_bf16(embedded):
    """Zero differences on the CPU: widths 1 to 16 give bit-equal logits there."""
    ids = embedded.chat("Name three colours.")
    expected = plain_output(embedded.target, ids, 20)
    for drafter in embedded.drafters.values():
        settings = Settings(20, stop_ids=NEVER)
        assert output(speculative(embedded.target, drafter, ids, settings, FullBlock())) == expected, drafter.method


@pytest.mark.long
def test_embedded_widths_are_bit_equal(embedded):
    ids = embedded.chat("Hi")
    cache = embedded.target.new_cache()
    embedded.target.forward(mx.array(ids), cache)
    rows = list(range(1000, 1016))
    wide = None
    for width in (16, 8, 3, 1):
        hidden, _ = embedded.target.forward(mx.array(rows[:width]), cache)
        logits = embedded.target.head(hidden)
        mx.eval(logits)
        trim(cache, width)
        wide = logits if wide is None else wide
        assert mx.array_equal(logits, wide[:width]), width
