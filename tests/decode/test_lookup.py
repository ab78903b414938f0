"""Text lookup: it finds what a search through the whole text finds, and is as exact as any drafter."""

import random

import mlx.core as mx
import pytest

from dspark_core.decode import speculative as loop
from dspark_core.decode.confidence import ConfidenceFit
from dspark_core.decode.cost_curve import CostCurve, Costs
from dspark_core.decode.previewing import FIRST, PreviewAware
from dspark_core.decode.rounds import Round, Settings
from dspark_core.decode.schedule import ConfidenceThreshold, CumulativeThreshold, FixedCap, FullBlock
from dspark_core.decode.speculative import Options, speculative
from dspark_core.models.checkpoint import load_drafter
from dspark_core.models.drafters.lookup import LONGEST, MAX_DRAFTS, SHORTEST, PairIndex
from dspark_core.race.inspector import Inspector
from dspark_core.race.loaded import Models
from dspark_core.race.records import HARDWARE, LaneRecord, LaneSpec

from .curves import at
from .helpers import NEVER, output, plain_output, rounds

REPEATING = [3, 9, 4, 17, 3, 9, 4, 22, 3, 9]


def searched(text: list[int]) -> tuple[int, int]:
    """End and length of the longest earlier occurrence of the newest tokens of `text`, the latest of several."""
    best = (-1, 0)
    for end in range(len(text) - 1):
        n = 0
        while n < LONGEST and n <= end and text[end - n] == text[-1 - n]:
            n += 1
        if n >= max(SHORTEST, best[1]):
            best = end, n
    return best


def indexed(ids: list[int]) -> PairIndex:
    index = PairIndex()
    index.extend(mx.array(ids, dtype=mx.int32), None)
    return index


@pytest.mark.parametrize("letters", [2, 3, 20])
def test_it_finds_the_longest_earlier_occurrence(letters):
    rng = random.Random(letters)
    for _ in range(60):
        text = [rng.randrange(letters) for _ in range(rng.randrange(1, 90))]
        at, length = indexed(text[:-1]).longest(text[-1])
        assert (at, length) == searched(text), text


def test_what_followed_goes_on_where_it_reaches_the_newest_tokens():
    found = indexed([1, 2, 3, 1, 2]).preview(3)
    assert found.ids == [1, 2, 3] * (MAX_DRAFTS // 3) and len(found.confidence) == len(found.ids)
    assert found.confidence == sorted(found.confidence)  # every draft that is right makes the next one surer
    assert indexed([5, 6, 7, 8, 5]).preview(6).ids[:4] == [7, 8, 5, 6]
    assert indexed([5, 6, 7]).preview(6).ids == indexed([]).preview(6).ids == []


def test_a_rollback_leaves_what_was_there_before():
    rng, ids = random.Random(7), []
    index = PairIndex()
    for _ in range(200):
        if ids and rng.random() < 0.4:
            n = rng.randrange(len(ids) + 1)
            index.rollback(n)
            del ids[len(ids) - n :]
        more = [rng.randrange(3) for _ in range(rng.randrange(12))]
        index.extend(mx.array(more, dtype=mx.int32), None)
        ids += more
        assert vars(index) == vars(indexed(ids))
    with pytest.raises(ValueError, match="cannot drop"):
        index.rollback(len(ids) + 1)


@pytest.fixture(scope="module")
def lookup(golden_a):
    return load_drafter(None, golden_a.target, method="lookup")


def hardware(width_cost: float, alone: float = 0.0) -> PreviewAware:
    """On a machine where every further row costs a part of a plain step, and so does a step that is not pipelined."""
    widths = {n: at(100 * (1 + alone + width_cost * (n - 1))) for n in range(1, MAX_DRAFTS + 2)}
    costs = Costs(100, at(100), widths, {"lookup": {1: at(0.01), MAX_DRAFTS: at(0.01)}})
    return PreviewAware(CostCurve({"target": "t"}, "2026-01-01T00:00:00+00:00", 1.0, (costs,)), "lookup")


SCHEDULES = {
    "full": FullBlock(),
    "cap": FixedCap(3),
    "none": FixedCap(0),
    "confidence": ConfidenceThreshold(0.5),
    "cumulative": CumulativeThreshold(0.3),
    "free": hardware(0.01),
    "dear": hardware(0.5),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_greedy_output_is_the_targets_under_every_schedule(golden_a, lookup, schedule):
    target = golden_a.target
    expected = plain_output(target, REPEATING, 80)
    events = [*speculative(target, lookup, REPEATING, Settings(80, stop_ids=NEVER), SCHEDULES[schedule])]
    assert output(events) == expected
    sent = [r.proposed for r in rounds(events)]
    assert max(sent) <= {"cap": 3, "none": 0}.get(schedule, MAX_DRAFTS)
    if schedule in ("full", "cap", "free"):
        assert any(r.accepted for r in rounds(events)) and 0 in sent


def test_sampled_drafts_are_a_point_mass(golden_a, lookup):
    """q is 1, and a draft is accepted with the target's own probability of it (the residual: test_sampling.py)."""
    target, settings = golden_a.target, Settings(40, temperature=1.0, top_k=2, stop_ids=NEVER, seed=1)
    repeating = [*REPEATING, *plain_output(target, REPEATING, 60)]
    done = rounds(speculative(target, lookup, repeating, settings, FullBlock()))
    details = [r.detail for r in done if r.draft_ids]
    assert any(r.accepted for r in done) and any(r.accepted < r.proposed for r in done)
    assert all({*d.q} == {1.0} and d.accept == tuple(min(1.0, p) for p in d.p) for d in details)
    again = rounds(speculative(target, lookup, repeating, settings, FullBlock()))
    assert [r.committed for r in again] == [r.committed for r in done]


def test_it_parks_without_a_wait_and_stays_pipelined(golden_a, lookup, monkeypatch):
    """Where nothing is sent, the next step is put on the device before this one is read."""
    ahead = []

    class Watched(loop.Speculation):
        def verify(self, draft):
            out = super().verify(draft)
            ahead.append(self.ahead is not None)
            return out

    monkeypatch.setattr(loop, "Speculation", Watched)
    text = [1, 2, 3, 4, 5]
    done = rounds(speculative(golden_a.target, lookup, text, Settings(24, stop_ids=NEVER), hardware(0.5)))
    assert sum(not r.draft_ids for r in done) > 3
    assert ahead[:-1] == [not r.draft_ids for r in done[:-1]]  # no draft of it is worth sending


def adversary(chooser, cost: list[float], alone: float, rng: random.Random, steps: int) -> float:
    """Seconds lost against plain steps, of a text that rejects whatever is sent and confirms whatever is not. `alone`:
    of a plain step that was not on the device when its round began."""
    lost, position, ahead = 0.0, 100, True
    for index in range(steps):
        confidence = [rng.uniform(-2, 6) for _ in range(MAX_DRAFTS)]
        chooser.preview([7] * MAX_DRAFTS, confidence, position)
        n = 0 if ahead else chooser.drafts(MAX_DRAFTS, position)
        next_id = 8 if n else 7
        drafts = (7,) * n
        lost += 0.0 if ahead or n else alone
        ahead = not n and chooser.parked()
        chooser.observe(Round(index, position, 1, drafts, n, 0, next_id, not n, (next_id,), 0.0))
        lost += cost[n] - cost[0]
        position += 1
    return lost


@pytest.mark.parametrize(("width_cost", "alone"), [(0.02, 0.0), (0.2, 0.0), (0.8, 0.0), (0.02, 0.05), (0.2, 0.05)])
def test_whatever_the_text_it_loses_no_more_than_it_may(width_cost, alone):
    plan = hardware(width_cost, alone)
    plain = plan.curve.plain_s(100)
    cost = [plain, *(plan.curve.round_s("lookup", n, n, 100, "waited") for n in range(1, MAX_DRAFTS + 1))]
    for seed in range(5):
        lost = adversary(plan.begin(MAX_DRAFTS), cost, alone * plain, random.Random(seed), 300)
        assert lost <= FIRST * plain + 0.01 * (300 * plain + lost) + 1e-9


def test_what_was_not_sent_teaches_too():
    """Confidences that are wrong on this text are seen through before anything is sent."""
    chooser = hardware(0.45).begin(MAX_DRAFTS)

    def first_sent(right: bool) -> int:
        for index in range(40):
            chooser.preview([7] * 2, [-1.0, -1.0], 100 + index)
            n = chooser.drafts(MAX_DRAFTS, 100 + index)
            token = 7 if right and not n else 8
            if n:
                return index
            chooser.observe(Round(index, 100 + index, 1, (), 0, 0, token, True, (token,), 0.0))
        return -1

    assert first_sent(False) == -1
    assert first_sent(True) > 0


def test_the_fit_learns_from_it():
    fit = ConfidenceFit(MAX_DRAFTS)
    chooser = PreviewAware(hardware(0.9).curve, "lookup", fit).begin(MAX_DRAFTS)
    for index in range(220):
        chooser.preview([7], [0.0], 100)
        chooser.drafts(MAX_DRAFTS, 100)
        chooser.observe(Round(index, 100, 1, (), 0, 0, 8, True, (8,), 0.0))
    assert chooser._fit.logits([0.0])[0] < -0.5 and fit.logits([0.0]) == [0.0]


def test_strict_mode_and_a_profile_take_it_as_it_is(golden_a, lookup):
    expected = plain_output(golden_a.target, REPEATING, 40)
    for options in (Options(strict=0.5), Options(profile=True), Options(confidence=True)):
        events = speculative(golden_a.target, lookup, REPEATING, Settings(40, stop_ids=NEVER), hardware(0.05), options)
        assert output(events) == expected


def test_every_round_of_it_can_be_recomputed(golden_a, lookup):
    """Confidences follow from the text alone: the inspector finds the recorded ones again."""
    settings, record = Settings(60, stop_ids=NEVER), LaneRecord(LaneSpec("Lookup", HARDWARE))
    for event in speculative(golden_a.target, lookup, REPEATING, settings, hardware(0.01)):
        record.add(event)
    inspector = Inspector(Models(golden_a.target, {"lookup": lookup}))
    drafted = [i for i, r in enumerate(record.rounds) if r.confidence]
    assert drafted and all(inspector.inspect(REPEATING, record, i, settings).agrees for i in drafted)
