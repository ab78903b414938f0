"""Speculation changes nothing but the speed."""

import random

import mlx.core as mx
import pytest

from dspark_core.decode.adaptive import HardwareAware
from dspark_core.decode.rounds import Settings
from dspark_core.decode.sampling import Greedy, Uniforms, probabilities
from dspark_core.decode.schedule import (
    ConfidenceThreshold,
    CumulativeThreshold,
    FixedCap,
    FullBlock,
)
from dspark_core.decode.speculative import speculative
from dspark_core.models.cache import trim

from .curves import BUS, TAXI
from .helpers import NEVER, Turns, output, plain_output, rounds, worst

LENGTH = 320


def test_greedy_equals_plain_over_320_tokens(golden):
    """A quarter of that where only the heads differ from set A's."""
    prompt = golden.trace["prompt_ids"]
    length = min(LENGTH if golden.name in ("A", "E") else LENGTH // 4, golden.target.context_length - len(prompt))
    expected = plain_output(golden.target, prompt, length)
    assert len(expected) == length
    schedules = [FullBlock(), FixedCap(0), FixedCap(1), FixedCap(3)]
    if golden.drafter.info.has_confidence:
        schedules += [ConfidenceThreshold(0.6), CumulativeThreshold(0.4)]
    schedules += [hardware(golden.drafter, costs) for costs in (TAXI, BUS)]
    for at, schedule in enumerate(schedules):
        n = length if at in (0, 3, len(schedules) - 2) else min(length, LENGTH // 4)  # whole blocks, cap 3, the taxi
        settings = Settings(n, stop_ids=NEVER)
        assert output(speculative(golden.target, golden.drafter, prompt, settings, schedule)) == expected[:n], schedule


def hardware(drafter, costs) -> HardwareAware:
    return HardwareAware(costs, drafter.info.method, (), True, drafter.info.has_look)


@pytest.mark.parametrize("looks", [False, True])
def test_the_drafter_keeps_up_while_it_is_parked(golden, looks):
    """After any number of plain steps a block is the one that a context built in one go drafts at that position."""
    target, drafter, prompt = golden.target, golden.drafter, golden.trace["prompt_ids"]
    n, looks = drafter.info.max_drafts, looks and drafter.info.has_look
    settings = Settings(60, stop_ids=NEVER)
    events = list(speculative(target, drafter, prompt, settings, Turns([3, 0, 1, 7, 2], n, looks)))
    text = [*prompt, *output(events)]
    assert text[len(prompt) :] == plain_output(target, prompt, 60)
    drafted = [r for r in rounds(events) if r.draft_ids]
    assert len(drafted) > 4 and len(drafted) < len(rounds(events))
    _, taps = target.forward(mx.array(text), target.new_cache(), drafter.taps)
    for r in drafted:
        context = drafter.begin()
        context.extend(mx.array(text[: r.position]), taps[: r.position])
        block = context.propose(mx.array([r.anchor_id]), n, Greedy())
        assert (r.draft_ids, r.looked) == (tuple(block.ids.tolist()), looks), r.position


@pytest.mark.parametrize(
    "schedule", ["cumulative", "hardware, taxi", pytest.param("hardware, bus", marks=pytest.mark.sweep), "turns"]
)
def test_sampled_tokens_follow_the_target(golden_a, schedule):
    """Three tokens drawn 400 times under a schedule, top-k 2: their joint distribution is the target's exact one."""
    target, drafter, prompt = golden_a.target, golden_a.drafter, golden_a.trace["prompt_ids"]
    chosen = {
        "cumulative": CumulativeThreshold(0.3),
        "hardware, taxi": HardwareAware(TAXI, "DSpark", (0.9,) * 7, True),
        "hardware, bus": HardwareAware(BUS, "DSpark", (0.9,) * 7, True),
        "turns": Turns([1, 0, 0], 2, True),
    }[schedule]
    counts, lengths, n = {}, set(), 400
    numbers = Uniforms(11)
    for _ in range(n):
        settings = Settings(4, temperature=1.0, top_k=2, stop_ids=NEVER)
        events = list(speculative(target, drafter, prompt, settings, chosen, uniforms=numbers))
        lengths |= {r.proposed for r in rounds(events)}
        key = tuple(output(events))
        counts[key] = counts.get(key, 0) + 1
    assert len(lengths) > 1
    exact = joint(target, prompt, settings, 4)
    assert set(counts) <= set(exact)
    statistic = sum((counts.get(k, 0) - n * p) ** 2 / (n * p) for k, p in exact.items())
    assert statistic < 41.3  # chi-squared, 15 degrees of freedom, 0.03 %


def joint(target, prompt, settings, depth, mass=1.0):
    """Exact probability of every sequence of `depth` tokens."""
    if depth == 0:
        return {(): mass}
    hidden, _ = target.forward(mx.array(prompt), target.new_cache())
    p = probabilities(target.head(hidden[-1:]), settings)[0].tolist()
    out = {}
    for token, chance in enumerate(p):
        if chance > 0:
            rest = joint(target, [*prompt, token], settings, depth - 1, mass * chance)
            out |= {(token, *key): value for key, value in rest.items()}
    return out


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


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(n, marks=pytest.mark.sweep) for n in range(4, 10))])
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
    expected = plain_output(embedded.target, ids, 5)
    for drafter in embedded.drafters.values():
        settings = Settings(5, stop_ids=NEVER)
        assert output(speculative(embedded.target, drafter, ids, settings, FullBlock())) == expected, (
            drafter.info.method
        )


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
