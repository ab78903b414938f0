"""Strict mode: plain decoding's output on a target whose numbers depend on the width."""

import mlx.core as mx
import pytest

from dspark_core.decode.adaptive import HardwareAware
from dspark_core.decode.rounds import Settings
from dspark_core.decode.schedule import FixedCap, FullBlock
from dspark_core.decode.speculative import Options, speculative
from dspark_core.decode.strict import Noise, Strict, load_noise, measure_noise, save_noise
from dspark_core.errors import DecodeError
from dspark_core.models.drafter import gaps

from .curves import BUS, TAXI
from .helpers import NEVER, Turns, output, plain_output, rounds
from .noisy import NoisyTarget

LENGTH = 32
LOUD = {"D": 2.5, "E": 2.5}  # their logits lie further apart


def decoded(target, golden, schedule, strict=0.0):
    settings = Settings(LENGTH, stop_ids=NEVER)
    prompt = golden.trace["prompt_ids"]
    return list(speculative(target, golden.drafter, prompt, settings, schedule, Options(strict=strict)))


def schedules(drafter):
    """Whole blocks, short ones, parked most of the time, and by turns, with a plain step on its way at each end."""
    return [
        FullBlock(),
        HardwareAware(TAXI, drafter.info.method, (), drafter.info.has_confidence),
        Turns([3, 0, 1, 5, 2], drafter.info.max_drafts, False),
        FixedCap(2),
        HardwareAware(BUS, drafter.info.method, (), drafter.info.has_confidence),
    ]


@pytest.mark.long
def test_strict_equals_plain_where_widths_differ(golden):
    """Seeded noise on logits and on cache entries: speculation leaves plain's output, strict mode never does."""
    prompt, left, again = golden.trace["prompt_ids"], 0, []
    for seed, schedule in enumerate(schedules(golden.drafter)):
        loud = LOUD.get(golden.name, 1.0)
        target = NoisyTarget(golden.target, seed, loud, loud / 10)
        noise = measure_noise(target)
        assert noise.largest > noise.alone > 0.9 * loud
        expected = plain_output(target, prompt, LENGTH)
        left += output(decoded(target, golden, schedule)) != expected
        events = decoded(target, golden, schedule, noise.largest)
        assert output(events) == expected, (seed, schedule)
        again += [r.again for r in rounds(events) if r.again]
    assert left >= 2
    assert any(a.changed for a in again) and not all(a.changed for a in again)


@pytest.mark.parametrize(("on_logits", "on_cache"), [(0.4, 0.0), (0.0, 0.2)])
def test_noise_of_either_kind(golden_a, on_logits, on_cache):
    """Small noise: some positions are close, and those settle it."""
    prompt, left, settled = golden_a.trace["prompt_ids"], 0, 0
    for seed in range(6):
        target = NoisyTarget(golden_a.target, seed, on_logits, on_cache)
        expected = plain_output(target, prompt, LENGTH)
        left += output(decoded(target, golden_a, FullBlock())) != expected
        events = decoded(target, golden_a, FullBlock(), measure_noise(target).largest)
        assert output(events) == expected, seed
        settled += sum(r.again.positions for r in rounds(events) if r.again)
    assert left >= 1
    assert 0 < settled < 6 * LENGTH


def test_without_noise_it_is_not_needed(golden_a):
    """Where widths agree bit for bit the noise is exactly 0, and nothing is kept or decided again."""
    assert measure_noise(golden_a.target) == Noise(0.0, 0.0)
    once, strict = (decoded(golden_a.target, golden_a, FullBlock(), strict) for strict in (0.0, 1e-9))
    assert output(once) == output(strict)
    assert not any(r.again for r in rounds(once))


def test_what_a_round_says_of_it(golden_a):
    """Positions decided again, and steps: one for each token since the cache was last clean."""
    target = NoisyTarget(golden_a.target, 3, on_logits=1.0, on_cache=0.1)
    held = rounds(decoded(target, golden_a, FullBlock(), strict=1.0))
    since, before = 0, 0.0
    for r in held:
        lost = r.again.steps - since - r.accepted - 1 if r.again else 0  # drafts that plain decoding did not confirm
        since += r.accepted + 1
        if r.again:
            assert 0 <= lost < golden_a.drafter.info.max_drafts and (lost == 0 or r.again.changed)
            assert 1 <= r.again.positions <= r.accepted + 1
            assert 0 < r.again.seconds < r.time_s - before
            since = 0
        before = r.time_s
    assert any(r.again for r in held) and any(r.again is None for r in held)


def test_the_cache_is_plains_own_after_a_close_call(golden):
    """Written wide twice, then settled: the next step from there gives plain decoding's logits, bit for bit."""
    prompt, noisy = golden.trace["prompt_ids"], NoisyTarget(golden.target, 0, 0.5, 0.5)
    text = plain_output(noisy, prompt, 9)
    own, wide = noisy.new_cache(), noisy.new_cache()
    for cache in (own, wide):
        noisy.forward(mx.array(prompt), cache)
    for token in text[:7]:
        noisy.forward(mx.array([token]), own)
    strict = Strict(noisy, wide, 0.1)
    wrong = [*text[4:7], (text[7] + 1) % 7, 5]
    for anchor, chosen, close in ((text[0], text[1:4], []), (text[3], wrong, [9.0, 0.1, 9.0, 9.0, 9.0])):
        strict.before(len(chosen))
        noisy.forward(mx.array([anchor, *chosen[:-1]]), wide)
        settled, again = strict.settle(anchor, chosen, close)
        assert (again is None) == (settled == chosen)
    assert settled == text[4:8] and (again.positions, again.changed, again.steps) == (3, True, 8)
    rows = [noisy.head(noisy.forward(mx.array([text[7]]), cache)[0]) for cache in (own, wide)]
    assert mx.array_equal(*rows)


def test_gaps():
    logits = mx.array([[1.0, 3.0, 2.5, -1.0], [2.0, 2.0, 0.0, 1.0], [-5.0, -9.0, -8.0, -7.0]])
    assert gaps(logits).tolist() == [0.5, 0.0, 2.0]


def test_sampling_refuses_it(golden_a):
    settings = Settings(4, temperature=1.0)
    with pytest.raises(DecodeError, match="greedy"):
        next(speculative(golden_a.target, golden_a.drafter, [1, 2], settings, FullBlock(), Options(strict=0.1)))


def test_the_noise_is_kept(golden_a, golden_e, tmp_path):
    assert load_noise(golden_a.target, tmp_path) is None
    file = save_noise(golden_a.target, Noise(0.25, 0.125, limit=1.0), tmp_path)
    assert load_noise(golden_a.target, tmp_path) == Noise(0.25, 0.125, limit=1.0)
    assert load_noise(golden_e.target, tmp_path) is None
    file.write_text(file.read_text().replace("0.25", '"much"'))
    assert load_noise(golden_a.target, tmp_path) is None
