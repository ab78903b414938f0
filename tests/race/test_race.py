"""Races over the tiny golden models: verdict, exactness of what the lanes say, cancel, warm-up."""

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest

from dspark_core.bench.run import compare_raced_and_alone
from dspark_core.decode.rounds import Prefill, Round, Settings, Start
from dspark_core.errors import ModelError
from dspark_core.models.checkpoint import load_drafter
from dspark_core.models.target import load_target
from dspark_core.race import race as module
from dspark_core.race.race import Models, race
from dspark_core.race.records import (
    CAP,
    CONFIDENCE,
    CUMULATIVE,
    HARDWARE,
    PLAIN,
    Failed,
    LaneRecord,
    LaneSpec,
    RaceRecord,
    RaceRequest,
    Waiting,
    WarmUp,
)
from dspark_core.race.verdict import judge, next_logits
from dspark_core.race.verdict_words import first_difference

from ..decode.curves import BUS

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
PROMPT = list(range(1, 20))


@pytest.fixture(scope="module")
def models():
    target = load_target(GOLDEN / "A" / "target")
    target.encode_chat = lambda messages: PROMPT  # the golden targets have no tokenizer
    return Models(target, {"dspark": load_drafter(GOLDEN / "A" / "drafter", target), "dflash": "it was not found."})


def request(*lanes, tokens=24, **settings):
    settings = Settings(max_tokens=tokens, stop_ids=frozenset(), **settings)
    return RaceRequest("hello", lanes, settings)


def run(models, request, cancelled=lambda: False):
    record, events = None, []
    for i, event in race(models, request, cancelled):
        if isinstance(event, RaceRecord):
            record = event
        else:
            events.append((i, event))
    return record, events


def test_lanes_agree_and_the_verdict_says_so(models):
    lanes = LaneSpec(PLAIN), LaneSpec("DSpark"), LaneSpec("DSpark", CAP, cap=2)
    record, events = run(models, request(*lanes))
    assert [len(lane.output) for lane in record.lanes] == [24] * 3
    assert record.lanes[0].output == record.lanes[1].output == record.lanes[2].output
    assert record.verdict.kind == "identical"
    assert all(r.proposed <= 2 for r in record.lanes[2].rounds)
    assert [e for i, e in events if i == 1 and isinstance(e, Round)] == record.lanes[1].rounds


def test_a_lane_without_its_drafter_says_why_and_the_rest_is_judged(models):
    record, _ = run(models, request(LaneSpec(PLAIN), LaneSpec("DFlash"), LaneSpec("DSpark"), LaneSpec("EAGLE")))
    assert record.lanes[1].error == "DFlash is not running: it was not found."
    assert record.lanes[3].error.startswith("EAGLE is not running: no EAGLE drafter")
    assert record.verdict.kind == "identical"
    assert "2 lanes failed" in record.verdict.words


def test_a_schedule_the_drafter_cannot_follow_is_the_lanes_error(models, monkeypatch):
    drafter = models.drafters["dspark"]
    monkeypatch.setattr(drafter, "info", replace(drafter.info, has_confidence=False))
    record, _ = run(models, request(LaneSpec(PLAIN), LaneSpec("DSpark", CONFIDENCE, threshold=0.5)))
    assert "gives no confidence" in record.lanes[1].error


def test_sampling_claims_a_distribution_not_a_text(models):
    record, _ = run(models, request(LaneSpec(PLAIN), LaneSpec("DSpark"), tokens=8, temperature=1.0))
    assert record.verdict.kind == "sampled"
    assert "distribution" in record.verdict.words


def test_cancel_ends_within_an_event_and_claims_nothing(models):
    seen = []

    def cancelled():
        return len(seen) > 6

    record = None
    for i, event in race(models, request(LaneSpec(PLAIN), LaneSpec("DSpark"), tokens=200), cancelled):
        record = event if isinstance(event, RaceRecord) else record
        seen.append((i, event))
    assert record.stopped and record.verdict is None
    assert len(seen) <= 8


def test_the_second_race_needs_no_warm_up(models):
    lanes = request(LaneSpec(PLAIN), LaneSpec("DSpark", CAP, cap=3), tokens=4)
    run(models, lanes)
    _, events = run(models, lanes)
    assert {type(e).__name__ for _, e in events} <= {"Waiting", "Prefill", "Start", "Round", "Verdict"}


def test_a_race_waits_for_no_measurement_and_says_what_it_goes_by(models, tmp_path, monkeypatch):
    """Costs that nobody measured are another machine's; then those of the points that are measured by now; then all."""
    monkeypatch.setattr("dspark_core.store.cache_directory", lambda: tmp_path)
    monkeypatch.setattr("dspark_core.decode.measure.FULL_S", 1e-9)  # no more than is needed
    models = Models(models.target, models.drafters)
    asked = request(LaneSpec(PLAIN), LaneSpec("DSpark", HARDWARE), LaneSpec("DSpark", CUMULATIVE, threshold=0.2))

    def raced():
        record, events = run(models, asked)
        assert record.verdict.kind == "identical" and [lane.error for lane in record.lanes] == [None] * 3
        return " ".join(e.words for _, e in events if isinstance(e, Waiting))

    borrowed = "Costs are not measured here yet, so another machine's serve"
    assert borrowed in raced() and models.known_curve() is None and not list(tmp_path.rglob("*.json"))
    measuring = models.measure_curve()
    while models.usable_curve().borrowed:
        assert borrowed in raced(), "until every point is known that no curve can do without"
        for _ in range(15):
            if models.usable_curve().borrowed:
                next(measuring)
    assert borrowed not in raced() and models.known_curve() is None and not list(tmp_path.rglob("*.json"))
    assert len(models.raced) > 1, "the races meanwhile"
    models.raced = [[(i, [replace(r, time_s=k / 100) for k, r in enumerate(rs, 1)]) for i, rs in models.raced[0]]]
    assert models.usable_curve().learned, "they have taught it something"
    *_, curve = measuring
    assert curve.learned and len(curve.costs[0].verify) >= 3 and not models.raced
    assert borrowed not in raced()
    (kept,) = tmp_path.rglob("*.json")
    curve, models.curve = models.curve, None
    assert models.known_curve() == curve and curve.made_of["drafters"].startswith("dspark")
    kept.unlink()
    run(models, asked)
    assert not list(tmp_path.rglob("*.json")), "it was written again"
    models.curve = replace(curve, made_of={**curve.made_of, "cores": "another machine's"})
    assert models.known_curve() is None


def test_one_prefill_serves_every_lane_and_counts_as_each_ones(models, monkeypatch):
    """Each lane's rounds are what they would be alone, in a sliding window's ring too; none holds the prompt twice."""
    forwards, forward = [], models.target.forward

    def counted(ids, *more):
        forwards.append(ids.shape[0])
        return forward(ids, *more)

    lanes = LaneSpec(PLAIN), LaneSpec("DSpark"), LaneSpec("DSpark", CAP, cap=2), LaneSpec("DFlash")
    run(models, request(*lanes))  # warm
    alone = [run(models, request(spec))[0].lanes[0] for spec in lanes[:3]]
    monkeypatch.setattr(models.target, "forward", counted)
    record, events = run(models, request(*lanes))
    assert forwards.count(len(PROMPT)) == 1
    for lane, own in zip(record.lanes, alone, strict=False):
        assert [replace(r, time_s=0.0) for r in lane.rounds] == [replace(r, time_s=0.0) for r in own.rounds]
    kinds = [type(e).__name__ for _, e in events]
    assert kinds[0] == "Failed", "a lane that cannot run says so before anybody waits"
    reading = [i for i, e in events[: kinds.index("Start")] if isinstance(e, Prefill)]
    assert set(reading) == {0, 1, 2}, "every pane shows it"
    shared = models.read_s * len(PROMPT)
    assert all(shared <= lane.start.prefill_s < shared + 1 for lane in record.lanes[:3])


def test_a_prefill_that_fails_is_each_lanes_own_affair(models, monkeypatch):
    calls = []

    def failing(*args):
        calls.append(args)
        raise MemoryError("out of memory")
        yield

    monkeypatch.setattr(module, "prefill_shared", failing)
    record, _ = run(models, request(LaneSpec(PLAIN), LaneSpec("DSpark")))
    assert calls and record.verdict.kind == "identical"


def test_first_difference():
    assert first_difference([1, 2, 3], [1, 2, 3]) is None
    assert first_difference([1, 2, 3], [1, 5, 3]) == 1
    assert first_difference([1, 2, 3], [1, 2]) == 2


def _judged(models, output, other):
    def lane(spec, ids):
        start = Start(ids[0], len(PROMPT), 0.1)
        rounds = [Round(k, 0, 0, (), 0, 0, t, True, (t,), k + 1.0) for k, t in enumerate(ids[1:])]
        return LaneRecord(spec, start, rounds)

    lanes = [lane(LaneSpec(PLAIN), output), lane(LaneSpec("DSpark"), other)]
    asked = request(*(x.spec for x in lanes))
    return judge(models.target, PROMPT, RaceRecord("tiny", "f32", asked, len(PROMPT), lanes))


def test_a_real_divergence_is_named_with_its_gap(models):
    record, _ = run(models, request(LaneSpec(PLAIN), LaneSpec("DSpark"), tokens=8))
    output = record.lanes[0].output
    logits = next_logits(models.target, [*PROMPT, *output[:5]])
    worst = mx.argmin(logits).item()
    verdict = _judged(models, output, [*output[:5], worst, *output[6:]])
    assert verdict.kind == "divergence"
    (difference,) = verdict.differences
    assert (difference.lane, difference.index) == (1, 5)
    order = sorted(logits.tolist())
    assert difference.gap == pytest.approx(order[-1] - order[-2], abs=1e-5)
    assert difference.needed == pytest.approx(order[-1] - order[0], abs=1e-5)
    assert "token 6" in verdict.words and "real divergence" in verdict.words


def test_a_difference_within_rounding_is_a_tie(models):
    record, _ = run(models, request(LaneSpec(PLAIN), LaneSpec("DSpark"), tokens=4))
    output = record.lanes[0].output
    head = models.target.head
    logits = next_logits(models.target, [*PROMPT, *output[:2]])
    best, second = output[2], mx.argsort(logits)[-2].item()

    def flat(hidden):  # lift the runner-up to half a unit in the last place below the best
        z = head(hidden)
        z[..., second] = z[..., best] - 1e-8
        return z

    models.target.head = flat
    try:
        verdict = _judged(models, output, [*output[:2], second, *output[3:]])
    finally:
        models.target.head = head
    assert verdict.kind == "tie"
    assert "numerical tie" in verdict.words


def test_an_output_that_only_ends_earlier_is_no_tie(models):
    record, _ = run(models, request(LaneSpec(PLAIN), LaneSpec("DSpark"), tokens=6))
    output = record.lanes[0].output
    assert _judged(models, output, output[:4]).kind == "divergence"


def test_failed_is_an_event(models):
    _, events = run(models, request(LaneSpec(PLAIN), LaneSpec("DFlash"), tokens=4))
    assert any(i == 1 and isinstance(e, Failed) for i, e in events)


def test_raced_and_alone_gives_every_lane_both_speeds(models):
    rows = list(compare_raced_and_alone(models, [request(LaneSpec(PLAIN), LaneSpec("DSpark"), tokens=6)] * 2))
    assert [row["lane"] for row in rows] == ["plain", "DSpark"] * 3
    assert all(row["raced_tok_s"] > 0 and row["alone_tok_s"] > 0 for row in rows[:4])
    assert all(row["raced_over_alone"] > 0 for row in rows[4:])
    with pytest.raises(RuntimeError, match="not running"):
        list(compare_raced_and_alone(models, [request(LaneSpec(PLAIN), LaneSpec("DFlash"))]))


def test_the_conversation_so_far_and_the_system_turn_reach_the_template(models, monkeypatch):
    seen = []
    monkeypatch.setattr(models.target, "encode_chat", lambda messages: seen.append(messages) or PROMPT)
    lanes = LaneSpec(PLAIN), LaneSpec("DSpark")
    settings = Settings(max_tokens=4, stop_ids=frozenset())
    run(models, RaceRequest("And now?", lanes, settings, system="Be brief.", earlier=(("Hi", "Hello."),)))
    assert [(m["role"], m["content"]) for m in seen[0]] == [
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "Hello."),
        ("user", "And now?"),
    ]
    monkeypatch.setattr(models.target, "encode_chat", lambda messages: [1] * models.target.context_length)
    with pytest.raises(ModelError, match=r"^The conversation with this prompt has .* tokens; .*: start over\.$"):
        run(models, RaceRequest("And now?", lanes, settings, earlier=(("Hi", "Hello."),)))
    with pytest.raises(ModelError, match=r"^The prompt has .* tokens; the context of \S+ holds [0-9,]+\.$"):
        run(models, RaceRequest("At the click, in one sentence, not in every lane.", lanes, settings))
    assert RaceRequest("Hi", lanes, settings, system="  ").messages == [{"role": "user", "content": "Hi"}]


def test_truncation_is_warm_before_a_clock_runs(models):
    """top-k and top-p are operations of their own: a race that is the first to use one warms its lanes up."""
    plain, models = LaneSpec(PLAIN), Models(models.target, models.drafters)
    asked = [request(plain, tokens=4, temperature=1.0, **more) for more in ({}, {"top_k": 5}, {"top_p": 0.9})]
    for wanted in asked:
        assert any(isinstance(e, WarmUp) for _, e in run(models, wanted)[1])
    for wanted in asked:
        assert not any(isinstance(e, WarmUp) for _, e in run(models, wanted)[1])


@pytest.mark.parametrize("schedule", [{"schedule": CONFIDENCE, "threshold": 0.999}, {"schedule": HARDWARE}])
def test_an_adaptive_lane_has_done_everything_before_its_clock_runs(models, monkeypatch, schedule):
    """Whatever such a schedule decides later: whole blocks, confidences, a look that ends a draft, parked steps."""
    spec, done = LaneSpec("DSpark", **schedule), []
    inner = module.speculative

    def followed(*args, **more):
        for event in inner(*args, **more):
            done.append(event)
            yield event

    monkeypatch.setattr(module, "speculative", followed)
    monkeypatch.setattr(models, "known_curve", lambda: BUS)
    models = Models(models.target, models.drafters)
    events = race(models, request(spec))
    for _, event in events:
        if isinstance(event, Start):
            break
    events.close()
    warm = [e for e in done if isinstance(e, Round)]
    most = models.drafters["dspark"].info.max_drafts
    looked = schedule["schedule"] == HARDWARE
    assert [r.proposed for r in warm] == [most, 0 if looked else most, 0, 0, most]
    assert all(r.confidence for r in warm if r.draft_ids) and warm[1].looked == looked


class Failing:
    """A drafter that raises `error` wherever its `where` is called."""

    def __init__(self, drafter, where, error):
        self._drafter, self._where, self._error = drafter, where, error

    def __getattr__(self, name):
        return getattr(self._drafter, name)

    def begin(self):
        context = self._drafter.begin()
        setattr(context if self._where != "begin" else self, self._where, self._fail)
        return context if self._where != "begin" else self._fail()

    def _fail(self, *args, **more):
        raise self._error


class Panic(BaseException):
    """As the panics of libraries in Rust are: no Exception."""


ERRORS = {"begin": MemoryError(), "extend": RuntimeError("out\nof memory"), "propose": Panic("no"), "look": Panic("no")}


@pytest.mark.parametrize("where", ERRORS)
def test_an_error_of_one_drafter_costs_its_own_lane_alone(models, tmp_path, monkeypatch, where):
    """Wherever it comes up: as its lane warms up, as the cost curve is measured, in the prefill or in a round."""
    monkeypatch.setattr("dspark_core.store.cache_directory", lambda: tmp_path)
    monkeypatch.setattr("dspark_core.decode.measure.QUICK_S", 0.01)
    sound = models.drafters["dspark"]
    both = Models(models.target, {"dspark": Failing(sound, where, ERRORS[where]), "dspark-2": sound})
    schedule = {"schedule": HARDWARE} if where == "look" else {}
    lanes = LaneSpec("DSpark", **schedule), LaneSpec(PLAIN), LaneSpec("DSpark", **schedule, drafter="dspark-2")
    record, events = run(both, request(*lanes, tokens=8))
    error = record.lanes[0].error
    assert type(ERRORS[where]).__name__ in error and "\n" not in error
    assert [lane.error for lane in record.lanes[1:]] == [None, None]
    assert [len(lane.output) for lane in record.lanes[1:]] == [8, 8] and record.verdict.kind == "identical"
    assert sum(isinstance(e, Failed) for _, e in events) == 1
    assert both.loaded.keys() == {"dspark", "dspark-2"}, "it may go better the next time"
