"""The inspector's numbers against the golden tensors, and its records against the races they come from."""

import json
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from dspark_core.decode.plain import plain
from dspark_core.decode.rounds import Round, Settings, Start
from dspark_core.decode.sampling import probabilities
from dspark_core.decode.schedule import ConfidenceThreshold, CumulativeThreshold, FixedCap, FullBlock
from dspark_core.decode.speculative import speculative
from dspark_core.errors import DecodeError
from dspark_core.models.drafter import calibrated
from dspark_core.models.info import MOST_MARGIN, USUAL_MARGIN
from dspark_core.race.inspection import recorded
from dspark_core.race.inspection_checks import InspectionChecks
from dspark_core.race.inspector import Inspector, judged, reading
from dspark_core.race.race import Models
from dspark_core.race.records import PLAIN, LaneRecord, LaneSpec
from tests.conftest import GOLDEN, TEMPERATURES, load_golden
from tests.decode.helpers import NEVER, Recorded, worst

TOLERANCE = 1e-4
SCHEDULES = {"full": FullBlock(), "cap": FixedCap(3), "confidence": ConfidenceThreshold(0.5)}


def ran(golden, settings, schedule=None, uniforms=None):
    """A lane of a golden set's models: speculative with a schedule, plain without."""
    lane = LaneRecord(LaneSpec(golden.drafter.info.method if schedule else PLAIN))
    prompt = golden.trace["prompt_ids"]
    more = {"uniforms": uniforms} if uniforms else {}
    if schedule:
        events = speculative(golden.target, golden.drafter, prompt, settings, schedule, **more)
    else:
        events = plain(golden.target, prompt, settings, **more)
    for event in events:
        if isinstance(event, Start | Round):
            lane.add(event)
    return lane


def inspector(golden):
    return Inspector(Models(golden.target, {golden.drafter.info.id: golden.drafter}))


def softmax(z, temperature=1.0):
    z = np.array(z, dtype=np.float64) / temperature
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def close(a, b):
    return np.abs(np.array(a, dtype=np.float64) - np.array(b, dtype=np.float64)).max() < TOLERANCE


def same_top(candidates, row):
    """The candidates are the most probable ones of a distribution [V], with its probabilities."""
    best = sorted(row, reverse=True)[: len(candidates)]
    return close([c.probability for c in candidates], best) and all(
        abs(row[c.token_id] - c.probability) < TOLERANCE for c in candidates
    )


@pytest.fixture(params=["A", "C", "D"])
def golden_acd(request):
    return load_golden(GOLDEN / request.param)


def test_every_greedy_round_shows_the_expected_tensors(golden_acd):
    """q, p, min(1, p/q), confidence, the top of every distribution and the residual after the rejection."""
    e, settings = golden_acd.expected, Settings(golden_acd.trace["max_new_tokens"] + 1, stop_ids=NEVER)
    lane, look = ran(golden_acd, settings, FullBlock()), inspector(golden_acd)
    draft_logits = e["rounds.draft_logits"] if "rounds.draft_logits" in e else e["rounds.base_logits"]
    assert len(lane.rounds) == e["rounds.start"].size
    for r in range(len(lane.rounds)):
        seen = look.inspect(golden_acd.trace["prompt_ids"], lane, r, settings)
        q, p = softmax(draft_logits[r]), softmax(e["rounds.target_logits"][r])
        ids, accepted = e["rounds.tokens"][r].tolist(), e["rounds.accepted"][r].item()
        at = np.arange(len(ids))
        slots = seen.block.slots
        assert [s.token_id for s in slots] == ids and seen.block.accepted == accepted
        assert close([s.q for s in slots], q[at, ids])
        assert close([s.p for s in slots], p[at, ids])
        assert close([s.accept for s in slots], np.minimum(1, p[at, ids] / q[at, ids]))
        assert all(same_top(s.drafter, q[k]) and same_top(s.target, p[k]) for k, s in enumerate(slots))
        if "rounds.confidence_logits" in e:
            assert close([s.confidence for s in slots], 1 / (1 + np.exp(-np.array(e["rounds.confidence_logits"][r]))))
        else:
            best = np.sort(draft_logits[r], -1)
            sure = USUAL_MARGIN[0] * np.minimum(best[:, -1] - best[:, -2], MOST_MARGIN) + USUAL_MARGIN[1]
            assert close([s.confidence for s in slots], 1 / (1 + np.exp(-sure)))
        assert seen.block.own.token_id == e["rounds.next"][r].item()
        source = p[accepted]
        if accepted < len(ids):
            left = np.maximum(p[accepted] - q[accepted], 0)
            source = left / left.sum()
            assert abs(seen.block.own.rejected - left.sum()) < TOLERANCE
        assert same_top(seen.block.own.candidates, source)
        assert seen.agrees and seen.prefix == e["rounds.start"][r].item()


def test_whole_distributions_of_the_first_round(golden_acd):
    """accept_prob and residual_probs as the reference computed them, every entry (set D holds none of these)."""
    e = golden_acd.expected
    draft_logits = e["rounds.draft_logits"] if "rounds.draft_logits" in e else e["rounds.base_logits"]
    settings = Settings(temperature=1.0)
    seen = judged(
        e["rounds.tokens"][0],
        probabilities(draft_logits[0], settings),
        e["rounds.target_logits"][0],
        Settings(temperature=1.0),
    )
    assert close(seen.q, softmax(draft_logits[0])) and close(seen.p, softmax(e["rounds.target_logits"][0]))
    left = np.maximum(softmax(e["rounds.target_logits"][0])[:-1] - softmax(draft_logits[0]), 0)
    assert close(seen.residual, left / left.sum(axis=-1, keepdims=True))
    if "t1.accept_prob" in e:
        assert worst(seen.accept, e["t1.accept_prob"]) < TOLERANCE
        assert worst(seen.residual, e["t1.residual_probs"]) < TOLERANCE
        assert worst(1 - seen.mass, e["t1.overlap"]) < TOLERANCE


@pytest.mark.parametrize("name", ["A", "C"])
def test_sampled_rounds_honour_the_recorded_draws(name):
    golden = load_golden(GOLDEN / name)
    for reference in golden.trace["sampled"]:
        numbers = [u for _, values in reference["uniforms"] for u in values]
        threshold, temperature = reference["confidence_threshold"], reference["temperature"]
        schedule = ConfidenceThreshold(threshold) if threshold else FullBlock()
        settings = Settings(reference["max_new_tokens"] + 1, temperature, stop_ids=NEVER)
        lane, look = ran(golden, settings, schedule, Recorded(numbers)), inspector(golden)
        for r, (round_, expected) in enumerate(zip(lane.rounds, reference["rounds"], strict=True)):
            seen = look.inspect(golden.trace["prompt_ids"], lane, r, settings, uniforms=Recorded(numbers))
            slots = seen.block.slots[: round_.proposed]
            assert seen.agrees, "the same numbers must draw, keep and correct the same tokens"
            assert [s.token_id for s in seen.block.slots] == expected["drafted"]
            assert close([s.q for s in slots], round_.detail.q) if slots else not round_.proposed
            assert close([s.p for s in slots], round_.detail.p) if slots else True
            assert close([s.accept for s in slots], round_.detail.accept) if slots else True
            assert [s.outcome for s in slots[: round_.accepted]] == ["accepted"] * round_.accepted
            for s in slots[: round_.accepted + 1]:
                assert (s.drawn < s.accept) == (s.outcome == "accepted")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("schedule", [None, *SCHEDULES])
def test_seeds_and_schedules_on_dspark(golden_a, schedule, temperature):
    """From the seed alone, in any order of rounds, every outcome comes again; truncated distributions too."""
    settings = Settings(24, temperature, top_k=20, top_p=0.9, seed=7, stop_ids=NEVER)
    lane, look = ran(golden_a, settings, SCHEDULES.get(schedule)), inspector(golden_a)
    order = [*range(len(lane.rounds) - 1, -1, -2), *range(0, len(lane.rounds), 2)]
    for r in order:
        seen, fresh = (i.inspect(golden_a.trace["prompt_ids"], lane, r, settings) for i in (look, inspector(golden_a)))
        assert seen.agrees and fresh.reused == 0
        assert seen.block == fresh.block or close(_numbers(seen), _numbers(fresh))
        assert [s.outcome for s in seen.block.slots].count("unsent") == len(seen.block.slots) - lane.rounds[r].proposed
        assert (seen.without is None) == (schedule is None)
    assert look.inspect(golden_a.trace["prompt_ids"], lane, order[-1], settings).reused == seen.prefix


@pytest.mark.parametrize("schedule", [ConfidenceThreshold(0.5), CumulativeThreshold(0.3)])
def test_the_confidence_is_the_calibrated_one_that_the_schedule_saw(golden_calibrated, schedule):
    e, settings = golden_calibrated.expected, Settings(40, stop_ids=NEVER)
    lane, look, apart = ran(golden_calibrated, settings, schedule), inspector(golden_calibrated), 0.0
    for r, round_ in enumerate(lane.rounds):
        seen = look.inspect(golden_calibrated.trace["prompt_ids"], lane, r, settings)
        shown = [s.confidence for s in seen.block.slots]
        assert seen.agrees and close(shown, round_.confidence)
        raw = inspector(load_golden(GOLDEN / "A")).inspect(golden_calibrated.trace["prompt_ids"], lane, r, settings)
        apart = max(apart, *(abs(a - s.confidence) for a, s in zip(shown, raw.block.slots, strict=True)))
        assert not raw.agrees, "another calibration is not what this race ran with"
    assert apart > 0.05
    z = e["rounds.confidence_logits"][0]
    first = look.inspect(golden_calibrated.trace["prompt_ids"], lane, 0, settings).block.slots
    assert close([s.confidence for s in first], 1 / (1 + np.exp(-np.array(z) / np.array(TEMPERATURES))))
    assert (
        worst(calibrated(z, golden_calibrated.drafter.info.calibration), mx.sigmoid(z / mx.array(TEMPERATURES))) < 1e-6
    )


@pytest.mark.parametrize("change", [lambda c: (*c[:-1], c[-1] + 0.05), lambda c: c[:-1], lambda c: (0.5,) * len(c)])
def test_a_recorded_confidence_that_was_edited_does_not_agree(golden_calibrated, change):
    settings = Settings(20, stop_ids=NEVER)
    lane = ran(golden_calibrated, settings, ConfidenceThreshold(0.5))
    lane.rounds[1] = replace(lane.rounds[1], confidence=change(lane.rounds[1].confidence))
    look = inspector(golden_calibrated)
    agrees = [look.inspect(golden_calibrated.trace["prompt_ids"], lane, r, settings).agrees for r in (0, 1, 2)]
    assert agrees == [True, False, True]


def _numbers(seen):
    return [x for s in seen.block.slots for x in (s.q, s.p or 0)] or [0]


def test_without_the_markov_bias_it_is_the_base_logits_block(golden_a):
    e, settings = golden_a.expected, Settings(golden_a.trace["max_new_tokens"] + 1, stop_ids=NEVER)
    lane, look, changed = ran(golden_a, settings, FullBlock()), inspector(golden_a), 0
    for r in range(len(lane.rounds)):
        without = look.inspect(golden_a.trace["prompt_ids"], lane, r, settings).without
        base = e["rounds.base_logits"][r]
        bare = mx.argmax(base, axis=-1).tolist()
        assert [s.token_id for s in without.slots] == bare
        assert close([s.q for s in without.slots], softmax(base)[np.arange(len(bare)), bare])
        # its fate is that of these tokens in one clean pass of the target
        start = e["rounds.start"][r].item()
        cache = golden_a.target.new_cache()
        golden_a.target.forward(mx.array([*golden_a.trace["prompt_ids"], *lane.output][:start]), cache)
        hidden, _ = golden_a.target.forward(mx.array([lane.rounds[r].anchor_id, *bare]), cache)
        target = golden_a.target.head(hidden)
        best = mx.argmax(target, axis=-1).tolist()
        kept = next((k for k, t in enumerate(bare) if t != best[k]), len(bare))
        assert (without.accepted, without.own.token_id) == (kept, best[kept])
        expected = softmax(target)[np.arange(len(bare)), bare]
        assert all(abs(s.p - p) < TOLERANCE for s, p in zip(without.slots, expected, strict=True) if s.p is not None)
        assert all(s.p is not None for s in without.slots[: kept + 1])
        changed += tuple(bare) != lane.rounds[r].draft_ids
    assert changed > 2, "the bias must matter somewhere"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_selector_s_candidates_are_shown_before_and_after_it_chose(temperature):
    """All 8 of a slot, by what the selector makes of them and by the base logits alone; a saved race has them, too."""
    golden = load_golden(GOLDEN / "formats" / "S6_dflash2_zlab")
    settings = Settings(24, temperature=temperature, stop_ids=NEVER)
    lane, look = ran(golden, settings, FullBlock()), inspector(golden)
    e, changed = golden.expected, 0
    for r, round_ in enumerate(lane.rounds):
        seen = look.inspect(golden.trace["prompt_ids"], lane, r, settings)
        assert (seen.bias, seen.candidates, seen.agrees) == ("selector", 8, True)
        for k, (slot, bare) in enumerate(zip(seen.block.slots, seen.without.slots, strict=True)):
            assert len(slot.drafter) == 8 and abs(sum(c.probability for c in slot.drafter) - 1) < 1e-5
            assert {c.token_id for c in slot.drafter} == {c.token_id for c in bare.drafter}
            if temperature == 0 and r < len(e["rounds.candidates"]):
                assert {c.token_id for c in slot.drafter} == set(e["rounds.candidates"][r][k].tolist())
        changed += [s.token_id for s in seen.without.slots] != list(round_.draft_ids)
        tokens = {t: b"x" for s in (*seen.block.slots, *seen.without.slots) for t in (s.token_id,)}
        tokens |= {t: b"x" for t in (round_.anchor_id, round_.next_id, *(s.own.token_id for s in (seen.without,)))}
        assert InspectionChecks(round_, settings, tokens, frozenset()).checked(seen).agrees
    assert changed > 1, "the selector must matter somewhere"


def test_window_caches_that_cannot_go_back_start_anew(golden_e):
    settings = Settings(100, stop_ids=NEVER)
    lane, look = ran(golden_e, settings, FullBlock()), inspector(golden_e)
    last = len(lane.rounds) - 1
    for r in (last, 0, last // 2):
        seen = look.inspect(golden_e.trace["prompt_ids"], lane, r, settings)
        fresh = inspector(golden_e).inspect(golden_e.trace["prompt_ids"], lane, r, settings)
        assert seen.agrees and close(_numbers(seen), _numbers(fresh))


def test_a_stop_token_inside_the_block(golden_a):
    """Behind an accepted stop token drafts are discarded, not rejected, and the own token is not written."""
    reference = golden_a.trace["stop"][0]
    settings = Settings(500, stop_ids=frozenset(reference["stop_token_ids"]))
    lane, look = ran(golden_a, settings, FullBlock()), inspector(golden_a)
    seen = look.inspect(golden_a.trace["prompt_ids"], lane, len(lane.rounds) - 1, settings)
    assert seen.agrees and seen.written == len(lane.rounds[-1].committed)
    if lane.rounds[-1].bonus and lane.rounds[-1].accepted < lane.rounds[-1].proposed:
        assert {s.outcome for s in seen.block.slots[seen.block.accepted :]} == {"discarded"}


def test_cancelled_while_it_reads_the_prefix(golden_a):
    settings = Settings(30, stop_ids=NEVER)
    lane, look = ran(golden_a, settings, FullBlock()), inspector(golden_a)
    assert look.inspect(golden_a.trace["prompt_ids"], lane, 1, settings, cancelled=lambda: True) is None
    assert look.inspect(golden_a.trace["prompt_ids"], lane, 1, settings).agrees


def test_what_does_not_fit_is_refused(golden_a):
    settings = Settings(30, stop_ids=NEVER)
    lane, look = ran(golden_a, settings, FullBlock()), inspector(golden_a)
    with pytest.raises(DecodeError, match="does not fit"):
        look.inspect([1, 2, 3], lane, 2, settings)
    other = LaneRecord(LaneSpec("DFlash"), lane.start, lane.rounds)
    with pytest.raises(DecodeError, match="not loaded"):
        look.inspect(golden_a.trace["prompt_ids"], other, 2, settings)


@pytest.mark.parametrize("foreign", [100_000_000, 300, 256, -1])
@pytest.mark.parametrize("field", ["draft_ids", "anchor", "next_id", "start", "prompt"])
def test_ids_outside_the_vocabulary_never_reach_the_model(golden_a, field, foreign):
    """A race file may hold any: id 100,000,000 was a segmentation fault, id 300 of 256 read past the table."""
    settings, prompt = Settings(30, stop_ids=NEVER), list(golden_a.trace["prompt_ids"])
    lane, index = ran(golden_a, settings, FullBlock()), 1
    first, second, *rest = lane.rounds
    if field == "draft_ids":
        second = replace(second, draft_ids=(*second.draft_ids[:-1], foreign))
    elif field == "anchor":
        first = replace(first, next_id=foreign, committed=(*first.committed[:-1], foreign))
        second = replace(second, anchor_id=foreign)
    elif field == "next_id":
        second = replace(second, next_id=foreign, committed=(*second.committed[:-1], foreign))
    elif field == "start":
        lane.start, first, index = replace(lane.start, token_id=foreign), replace(first, anchor_id=foreign), 0
    else:
        prompt[3] = foreign
    lane.rounds = [first, second, *rest]
    with pytest.raises(DecodeError, match=f"has the token id {foreign}, and the vocabulary of the loaded .* at 255"):
        inspector(golden_a).inspect(prompt, lane, index, settings)


def test_recorded_rounds_show_what_they_hold_without_a_model(golden_a):
    for temperature in (0.0, 1.0):
        settings = Settings(30, temperature, stop_ids=NEVER)
        lane = ran(golden_a, settings, FullBlock())
        seen = recorded(lane.rounds[0], temperature, lambda t: b"\xe2\x82" if t == 5 else f"t{t}".encode())
        known = inspector(golden_a).inspect(golden_a.trace["prompt_ids"], lane, 0, settings)
        assert [s.outcome for s in seen.block.slots] == [s.outcome for s in known.block.slots]
        assert (seen.block.slots[0].p is None) == (temperature == 0)
        assert not seen.recomputed and seen.block.own.token_id == known.block.own.token_id
        assert json.loads(json.dumps(seen.plain()))["block"]["accepted"] == lane.rounds[0].accepted


def test_greedy_rounds_are_read_at_temperature_one():
    assert reading(Settings(temperature=0.0, top_k=3, top_p=0.5)) == Settings(temperature=1.0)
    assert reading(Settings(temperature=0.7, top_k=3)) == Settings(temperature=0.7, top_k=3)


def test_a_confidence_by_margin_comes_again_and_an_edited_one_does_not():
    golden, settings = load_golden(GOLDEN / "C"), Settings(24, stop_ids=NEVER)
    assert golden.drafter.info.has_confidence and not golden.drafter.info.has_look
    lane, look = ran(golden, settings, CumulativeThreshold(0.1)), inspector(golden)
    for r, round_ in enumerate(lane.rounds):
        seen = look.inspect(golden.trace["prompt_ids"], lane, r, settings)
        assert seen.agrees and close([s.confidence for s in seen.block.slots], round_.confidence)
    lane.rounds[1] = replace(lane.rounds[1], confidence=tuple(c / 2 for c in lane.rounds[1].confidence))
    assert not look.inspect(golden.trace["prompt_ids"], lane, 1, settings).agrees
