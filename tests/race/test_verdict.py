"""The verdict under attack: a broken verification brings no yardstick of its own, and a true tie is still one."""

import random
from dataclasses import replace

import mlx.core as mx
import pytest

from dspark_core.decode import speculative
from dspark_core.decode.rounds import Settings
from dspark_core.decode.strict import Noise, measure_noise
from dspark_core.models.checkpoint import load_drafter
from dspark_core.models.target import load_target
from dspark_core.race import loaded as race_noise
from dspark_core.race.loaded import Models
from dspark_core.race.race import race
from dspark_core.race.records import CAP, PLAIN, Difference, LaneSpec, RaceRecord, RaceRequest
from dspark_core.race.verdict import judge, next_logits

from ..conftest import GOLDEN, golden_paths, load_golden
from ..decode.helpers import worst
from ..decode.noisy import NoisyTarget
from .broken import NoMask, Off, Rope, Stale

PROMPTS, TOKENS = 3, 20
LANES = LaneSpec(PLAIN), LaneSpec("DSpark"), LaneSpec("DSpark", CAP, cap=2)
BROKEN = {
    "no causal mask": NoMask,
    "hidden states off by 5 %": lambda target: Off(target, 0.05),
    "hidden states off by 20 %": lambda target: Off(target, 0.2),
    "rope one further": Rope,
    "a stale entry": Stale,
}


@pytest.fixture(autouse=True)
def nothing_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("dspark_core.store.cache_directory", lambda: tmp_path)


def models_of(target, drafter) -> Models:
    """The lanes name DSpark; here that is whatever drafter the set has."""
    return Models(target, {"dspark": drafter})


def verdicts(models, prompts=PROMPTS, strict=False):
    """Records of races over seeded random prompts."""
    dice = random.Random(7)
    for _ in range(prompts):
        ids = [dice.randrange(1, 250) for _ in range(dice.randint(4, 30))]
        models.target.__dict__["encode_chat"] = lambda messages, ids=ids: ids
        asked = RaceRequest("x", LANES, Settings(TOKENS, stop_ids=frozenset()), together=False, strict=strict)
        yield next(event for event in list(race(models, asked)) if isinstance(event[1], RaceRecord))[1]


def check_none_is_excused(records):
    differing = 0
    for record in records:
        outputs = {tuple(lane.output) for lane in record.lanes}
        assert not any(lane.error for lane in record.lanes)
        assert (record.verdict.kind == "identical") == (len(outputs) == 1)
        if len(outputs) > 1:
            differing += 1
            assert record.verdict.kind == "divergence", record.verdict.words
            assert not any(d.tie for d in record.verdict.differences)
    return differing


@pytest.mark.parametrize("fault", BROKEN)
def test_no_race_of_a_broken_verification_is_called_a_tie(fault):
    sets = [load_golden(path) for path in golden_paths()]
    models = [models_of(BROKEN[fault](g.target), g.drafter) for g in sets]
    prompts = PROMPTS if fault == "hidden states off by 5 %" else 2  # which changes few outputs
    assert sum(check_none_is_excused(verdicts(m, prompts)) for m in models) > 4


def test_no_race_of_a_rollback_one_off_is_called_a_tie(golden_a, monkeypatch):
    trim = speculative.trim
    monkeypatch.setattr(speculative, "trim", lambda cache, n: trim(cache, max(0, n - 1)))
    assert check_none_is_excused(verdicts(models_of(golden_a.target, golden_a.drafter))) > 0


def test_the_width_moves_nothing_on_the_cpu(golden):
    measured = measure_noise(golden.target)
    assert (measured.largest, measured.alone, measured.own, measured.rounding) == (0.0, 0.0, 0.0, 0.0)
    assert 0 < measured.limit < 1e-3 and not measured.fault


@pytest.mark.parametrize("fault", ["no causal mask", "hidden states off by 5 %"])
def test_measuring_the_noise_with_a_broken_verification_excuses_nothing(golden_a, fault):
    """A strict race measures the noise; what it then allows is mlx-lm's own, 0 here."""
    broken = BROKEN[fault](golden_a.target)
    models = models_of(broken, golden_a.drafter)
    models.noise = measure_noise(broken)
    assert models.noise.largest > models.noise.limit > 0 == models.noise.own == models.noise.rounding
    assert "at fault" in models.noise.fault
    assert check_none_is_excused(verdicts(models, 4)) > 0
    check_none_is_excused(verdicts(models, 4, strict=True))


@pytest.fixture(scope="module")
def golden_bf16():
    target = load_target(GOLDEN / "A" / "target", "bf16")
    return target, load_drafter(GOLDEN / "A" / "drafter", target)


@pytest.mark.parametrize("fault", BROKEN)
def test_the_same_in_bfloat16_where_equal_logits_are_common(golden_bf16, fault):
    target, drafter = golden_bf16
    assert check_none_is_excused(verdicts(models_of(BROKEN[fault](target), drafter))) > 0


def test_a_tie_on_a_noisy_device_is_still_called_one(golden_bf16):
    """Rounding as a GPU has it: lanes part at near ties, and what the device does with the width explains that."""
    target, drafter = golden_bf16
    noisy = NoisyTarget(target, 1, on_logits=0.06, on_cache=0.0)
    models = models_of(noisy, drafter)
    models.noise = measure_noise(noisy)
    assert 0.05 < models.noise.rounding == models.noise.own <= models.noise.limit and not models.noise.fault
    ties = 0
    for record in verdicts(models, 16):
        for d in record.verdict.differences:
            assert d.noise == models.noise.own and d.tie == (d.needed <= d.noise + 2 * d.ulp)
            assert d.needed <= 0.2, "only near ties fall differently"
            ties += d.tie
        kinds = {d.tie for d in record.verdict.differences}
        assert record.verdict.kind == ("identical" if not kinds else "tie" if kinds == {True} else "divergence")
    assert ties > 1


def test_noise_that_rounding_cannot_be_is_a_fault_and_excuses_nothing(golden_a):
    noisy = NoisyTarget(golden_a.target, 1, on_logits=1.0, on_cache=0.0)
    models = models_of(noisy, golden_a.drafter)
    models.noise = measure_noise(noisy)
    assert models.noise.own > 0.9 > models.noise.limit and models.noise.rounding == 0
    records = list(verdicts(models, 6))
    assert check_none_is_excused(records) > 0
    assert any("at fault" in r.verdict.words for r in records)


def test_an_unknown_device_is_measured_only_when_lanes_differ(golden_a, monkeypatch):
    """A GPU: nothing is known, the lanes part, and the verdict waits for the measurement."""
    calls = []
    monkeypatch.setattr(race_noise, "exact_device", lambda: False)
    monkeypatch.setattr(race_noise, "measure_noise", lambda t: calls.append(t) or Noise(0.0, 0.0, 0.0, 1.0))
    sound = models_of(golden_a.target, golden_a.drafter)
    assert check_none_is_excused(verdicts(sound, 2)) == 0 and not calls
    broken = models_of(NoMask(golden_a.target), golden_a.drafter)
    assert check_none_is_excused(verdicts(broken, 3)) > 0 and len(calls) == 1
    assert broken.verdict_noise().own == 0.0


@pytest.mark.parametrize(
    ("noise", "needed", "tie"),
    [
        (None, 0.0, True),  # nothing known: equal logits only
        (None, 1e-7, False),
        (0.0, 0.0, False),  # every lane sees these two equal logits and takes the lower id
        (0.0, 1e-7, False),
        (0.5, 0.5 + 2 * 0.125, True),
        (0.5, 0.76, False),
    ],
)
def test_what_rounding_decides(noise, needed, tie):
    assert Difference(1, 3, needed, needed, noise, 0.125, False).rounding_decides is tie


def test_a_verdict_without_a_known_device_says_so(golden_a):
    record = next(verdicts(models_of(NoMask(golden_a.target), golden_a.drafter), 1))
    other = replace(record.lanes[1], rounds=[replace(record.lanes[1].rounds[0], committed=(0,))])
    found = judge(golden_a.target, [1, 2, 3], replace(record, lanes=[record.lanes[0], other], noise=None))
    assert found.kind == "divergence" and "not known" in found.words


def test_the_yardstick_is_mlx_lms_own(golden):
    """Logits that the verdict goes by are plain decoding's, and no forward of ours makes them. Bit for bit, but for
    mlx-lm's ring in sliding layers, which adds in another order."""
    prompt = golden.trace["prompt_ids"]
    golden.target.forward(mx.array(prompt[:-1]), cache := golden.target.new_cache())
    row = golden.target.head(golden.target.forward(mx.array(prompt[-1:]), cache)[0])[0]
    own = next_logits(golden.target, prompt)
    assert mx.array_equal(row, own) or (golden.name == "E" and worst(row, own) < 1e-5)
