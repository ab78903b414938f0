"""A race file that somebody has edited: it is refused with its place, or what is shown is what its rounds say."""

import json
import random
import re
import time

import pytest

from dspark_core.errors import TraceError
from dspark_core.playground.saved import board_of, title
from dspark_core.playground.stream import announcement
from dspark_core.playground.tabs.compare_tab import ComparedRaces
from dspark_core.race.trace import dumps, loads
from dspark_core.race.verdict_words import parted, verdict_words
from tests.race.real_races import REQUESTS, document, edited, race_record, rounds

LIE = "Identical output, and 9.9 times plain."


@pytest.mark.parametrize("name", REQUESTS)
def test_races_that_ran_are_read_as_they_were_written(name):
    trace = loads(document(name))
    assert trace.race == race_record(name) and dumps(trace) == document(name)
    assert "again" not in name and trace.machine["device"]


def first(name, holds):
    """Path of the first round for which `holds`, of a real race."""
    lane, index, _ = next(found for found in rounds(name) if holds(found[2]))
    return f"race/lanes/{lane}/rounds/{index}"


def refused_round(name):
    return first(name, lambda r: r.accepted < r.proposed and not r.bonus)


def kept_round(name):
    return first(name, lambda r: r.accepted > 0)


def other_output():
    """Lane 1's last token is another one, so outputs that were identical differ."""
    (last,) = (r for lane, index, r in rounds("greedy") if lane == 0 and r.finish)
    place = f"race/lanes/0/rounds/{last.index}"
    new = next(t for t in sorted(map(int, json.loads(document("greedy"))["tokens"])) if t != last.next_id)
    return (f"{place}/next_id", new), (f"{place}/committed", [new]), ("race/lanes/0/inspections", [])


DIFFERENCE = {"lane": 1, "index": 3, "gap": 0.1, "needed": 0.2, "noise": 1.0, "ulp": 0.01, "tie": True}
IDENTICAL = {"kind": "identical", "words": LIE}
SEEN = "race/lanes/1/inspections/0"
REFUSED = [
    # the verdict
    ("greedy", other_output(), "race.verdict.differences are not where the outputs part: lane 2 at token 24, lane 3"),
    ("greedy", [("race/verdict/kind", "tie")], "verdict.kind is 'tie', and the lanes' outputs make it 'identical'"),
    ("greedy", [("race/verdict/kind", "divergence")], "verdict.kind is 'divergence'"),
    ("greedy", [("race/verdict/kind", "none")], "verdict.kind is 'none'"),
    ("greedy", [("race/verdict/kind", "sampled")], "verdict.kind is 'sampled'"),
    ("greedy", [("race/verdict/kind", "certified")], "verdict.kind is no known verdict"),
    ("greedy", [("race/verdict/differences", [DIFFERENCE])], "name a difference, and there is none"),
    ("sampled", [("race/verdict/kind", "identical")], "verdict.kind is 'identical', .* make it 'sampled'"),
    ("sampled", [("race/verdict/differences", [DIFFERENCE])], "name a difference, and there is none to be judged"),
    ("stopped", [("race/verdict", IDENTICAL)], "race.verdict is of a race that was stopped"),
    ("stopped", [("race/verdict", IDENTICAL), ("race/stopped", ...)], "lane 1 did not come to its end"),
    ("greedy", [("race/stopped", True)], "race.verdict is of a race that was stopped"),
    ("failed", [("race/lanes/0/error", "It broke.")], "error is of a lane that came to its end"),
    ("failed", [("race/lanes/1/error", ...)], "lane 2 did not come to its end"),
    ("noisy", [("race/verdict/kind", "identical")], "verdict.kind is 'identical'"),
    ("noisy", [("race/verdict", IDENTICAL)], "are not where the outputs part"),
    ("noisy", [("race/verdict/differences/0/index", lambda i: i + 1)], "are not where the outputs part"),
    ("noisy", [("race/verdict/differences/0/lane", 0)], "are not where the outputs part"),
    ("noisy", [("race/verdict/differences", lambda ds: ds * 2)], "are not where the outputs part"),
    ("noisy", [("race/verdict/differences/0/\ud83d", 1)], r"differences\[0\]\.\\ud83d… is not a field that is known"),
    ("noisy", [("race/verdict/differences/0/needed", 0.0)], "needed is less than the gap"),
    ("noisy", [("race/verdict/differences/0/needed", -1.0)], "needed is negative"),
    ("noisy", [("race/verdict/differences/0/ulp", 1000.0)], "ulp is no unit in the last place"),
    # the request
    ("failed", [("race/request/settings/temperature", 0.7)], "detail is missing, and this race was sampled"),
    ("greedy", [("race/request/settings/temperature", 0.7)], "is not that of the round"),
    ("sampled", [("race/request/settings/temperature", 0.0)], "is not that of the round"),
    ("failed", [(f"{first('failed', lambda r: r.proposed)}/detail", {"q": [], "p": [], "accept": []})], "is greedy"),
    ("greedy", [("race/request/settings/max_tokens", 23)], "make 24 tokens, and at most 23 were asked for"),
    ("greedy", [("race/request/settings/max_tokens", 25)], "finish is 'length' at token 24 of 25"),
    ("stops", [("race/request/settings/stop_ids", [])], "stop_ids are not those that the race stopped at"),
    ("greedy", [("race/request/settings/stop_ids", [race_record("greedy").lanes[0].output[5]])], "finish is missing"),
    (
        "stops",
        [("stop_ids", lambda ids: [*ids, race_record("stops").lanes[0].output[2]])],
        "are not those that the race",
    ),
    ("greedy", [("race/request/settings/seed", -1)], "seed must be 0 or more"),
    ("sampled", [("race/request/strict", True)], "strict is for greedy decoding only"),
    ("strict", [("race/request/strict", ...)], "again is of a strict lane"),
    ("strict", [("race/noise", 0.0)], "again is of a strict lane with a drafter on a device with noise"),
    ("profiled", [("race/request/profile", ...)], "spent is of a profiled race"),
    ("greedy", [("race/prompt_tokens", lambda n: n + 1)], "position is not 1?[0-9]+, the number of prompt tokens"),
    ("greedy", [("race/lanes/1/start/position", 1)], "start.position is not"),
    # rounds
    ("greedy", [(f"{refused_round('greedy')}/bonus", True)], "bonus is true after a rejection"),
    ("greedy", [(f"{first('greedy', lambda r: r.bonus and r.proposed)}/bonus", False)], "bonus is false, though"),
    ("greedy", [("race/lanes/0/rounds/3/bonus", False)], "bonus is false, though nothing was rejected"),
    ("greedy", [(f"{kept_round('greedy')}/accepted", lambda n: n - 1)], "committed are not|index|position"),
    ("greedy", [("race/lanes/0/rounds/2/finish", "length")], "finish is 'length' at token"),
    ("greedy", [("race/lanes/0/rounds/2/finish", "context")], "comes after the lane had ended"),
    ("greedy", [("race/lanes/0/rounds/22/finish", "context")], "finish is 'context' at token 24 of 24"),
    ("greedy", [("race/lanes/0/rounds/22/finish", "stop")], "finish does not fit the last token"),
    ("greedy", [("race/lanes/1/rounds/0/looked", True)], "looked is true, and this schedule does not look"),
    ("greedy", [("race/lanes/2/rounds/0/proposed", 1), ("race/lanes/2/rounds/0/accepted", 0)], "proposed|committed"),
    ("greedy", [("race/lanes/2/spec/cap", 3), ("race/request/lanes/2/cap", 3)], "are more than the cap of 3"),
    ("greedy", [("race/lanes/3/rounds/0/confidence", ...)], "confidence is missing, and the schedule decides by it"),
    ("greedy", [("race/lanes/3/rounds/0/confidence/0", 0.01)], "proposed is not 0, which the lane's schedule sends"),
    (
        "greedy",
        [("race/lanes/3/spec/threshold", 0.999), ("race/request/lanes/3/threshold", 0.999)],
        "proposed is not 0, which the lane's schedule sends",
    ),
    ("greedy", [(f"race/{place}/schedule", "magic") for place in ("lanes/1/spec", "request/lanes/1")], "no known sch"),
    ("sampled", [("race/lanes/1/rounds/0/detail/p/0", 7.5)], "p is not between 0 and 1"),
    ("sampled", [("race/lanes/1/rounds/0/detail/accept/0", lambda a: a / 2)], "is not min"),
    ("sampled", [("race/lanes/1/rounds/0/detail/q", lambda q: [x / 2 + 0.25 for x in q])], "is not min"),
    ("profiled", [("race/lanes/1/rounds/0/spent/verify", 9.0)], "spent is more than the round took"),
    ("profiled", [("race/lanes/1/rounds/0/spent/rest", -0.5)], "spent is no time"),
    ("strict", [(f"{first('strict', lambda r: r.again)}/again/seconds", 99.0)], "seconds is more than the round took"),
    ("strict", [(f"{first('strict', lambda r: r.again)}/again/steps", 400)], "steps is more than there were tokens"),
    ("strict", [(f"{first('strict', lambda r: r.again)}/again/positions", 60)], "positions is not between 1 and"),
    # inspections
    ("greedy", [(f"{SEEN}/block/slots/0/p", 7.5)], "inspections\\[0\\].block.slots\\[0\\].p is not between 0 and 1"),
    ("greedy", [(f"{SEEN}/block/slots/0/p", lambda p: (p + 0.4) % 1)], "block.slots\\[0\\].(accept|p) is not"),
    ("greedy", [(f"{SEEN}/block/slots/0/token_id", 9)], "block.slots are not the drafts of the round"),
    ("greedy", [(f"{SEEN}/block/slots", [])], "block.slots are not the drafts of the round"),
    ("greedy", [(f"{SEEN}/block/slots/0/outcome", "unsent")], "outcome is not 'accepted', what became of it"),
    ("greedy", [(f"{SEEN}/block/slots/0/drawn", 0.5)], "drawn is of a sampled round"),
    ("greedy", [(f"{SEEN}/block/accepted", lambda n: (n + 1) % 3)], "block is not what the round came to"),
    ("greedy", [(f"{SEEN}/block/own/token_id", 1)], "block is not what the round came to"),
    ("greedy", [(f"{SEEN}/block/own/kind", "own")], "own.kind is not"),
    ("greedy", [(f"{SEEN}/block/slots/0/target", lambda c: c[::-1])], "target is not in order of probability"),
    ("greedy", [(f"{SEEN}/block/slots/0/target/0/probability", 1.0)], "target are no probabilities|p is not the token"),
    ("greedy", [(f"{SEEN}/block/slots/0/drafter", ...)], "drafter is missing"),
    ("greedy", [(f"{SEEN}/position", 3)], "position is not that of the round"),
    ("greedy", [(f"{SEEN}/index", 99)], "index is no round of this lane"),
    ("greedy", [(f"{SEEN}/index", 1)], "is not that of the round|are not the drafts"),
    ("greedy", [("race/lanes/1/inspections", lambda seen: [seen[0]] * 2)], "inspections has one round twice"),
    ("greedy", [(f"{SEEN}/temperature", 0.5)], "temperature is not that of the round"),
    ("greedy", [(f"{SEEN}/greedy", False)], "greedy is not that of the round"),
    ("greedy", [(f"{SEEN}/recomputed", ...)], "recomputed is not that of the round"),
    ("greedy", [(f"{SEEN}/written", 99)], "written is not that of the round"),
    ("greedy", [(f"{SEEN}/reused", 9999)], "reused is not between 0 and the prefix"),
    ("greedy", [(f"{SEEN}/without/accepted", lambda n: n + 1)], "without"),
    ("greedy", [(f"{SEEN}/without/own/token_id", 1)], "without is not what its numbers give"),
    ("sampled", [(f"{SEEN}/block/slots/0/p", lambda p: p / 2)], "p is not|accept is not"),
]


def in_both(key, value, lane=1):
    """A lane's setting stands in the lane and in the request."""
    return [(f"race/{place}/{key}", value) for place in (f"lanes/{lane}/spec", f"request/lanes/{lane}")]


def inspected(name, kind):
    """Path of the first inspection whose round ended with a token of this kind."""
    return next(
        f"race/lanes/{i}/inspections/{k}"
        for i, lane in enumerate(race_record(name).lanes)
        for k, inspection in enumerate(lane.inspections)
        if inspection.block.own.kind == kind
    )


def halved(candidates):
    return [{**c, "probability": c["probability"] / 2} for c in candidates]


def at_once(lane):
    """Its rounds in no time."""
    return f"race/lanes/{lane}/rounds", lambda rounds: [{**r, "time_s": 1e-12 * k} for k, r in enumerate(rounds)]


GPU = ("machine/device", "CUDA, a GPU")
CAND = [{"token_id": 3, "text": "x", "probability": 0.9}]
FAR = 10**12
SAMPLED, GREEDY = inspected("sampled", "correction"), inspected("greedy", "correction")
NOISE = "race/verdict/differences/0/noise"
ZERO = {"draft": 0.0, "verify": 0.0, "rest": 0.0}
REFUSED += [
    # the machine, its noise and the drafters
    ("noisy", [(NOISE, 0.1), ("race/verdict/differences/0/ulp", 0.01)], "is not 0, and the width changes no logit"),
    ("noisy", [GPU, (NOISE, 50.0)], "noise is more than rounding can move a logit by"),
    ("noisy", [GPU, (NOISE, 0.9)], "noise is more than rounding can move a logit by"),
    ("noisy", [GPU, (NOISE, 1e6), ("race/noise", 1e6)], "noise is more than rounding can move a logit by"),
    ("noisy", [("race/verdict/differences/0/ulp", 8.0)], "ulp is no unit in the last place"),
    ("greedy", [("drafters/DSpark", "a drafter, block 3, bf16")], "are more than the drafter's block of 3"),
    ("greedy", [("drafters/DFlash", "one, block 1, of 9, block 2, 4-bit")], "are more than the drafter's block of 2"),
    # lanes that read like others
    ("failed", in_both("method", "Plain"), "method is not 'plain', and reads like it"),
    ("failed", in_both("method", "plain "), "method is not 'plain', and reads like it"),
    ("failed", in_both("method", "plain\u200b"), "method is not 'plain', and reads like it"),
    ("failed", in_both("method", "\u0440lain"), "method is not 'plain', and reads like it"),
    ("failed", in_both("method", "pla\u00efn"), "method is not 'plain', and reads like it"),
    ("failed", in_both("method", "\uff50lain\n"), "method is not 'plain', and reads like it"),
    ("failed", in_both("method", "\u202enialp"), "method is not 'plain', and reads like it"),
    ("failed", in_both("method", ""), "method is empty or too long"),
    ("greedy", in_both("label", "x" * 201), "label is too long"),
    (
        "greedy",
        [*in_both("schedule", "hardware", 0), ("race/lanes/0/rounds/0/looked", True)],
        "is true, and this schedule does not look",
    ),
    # numbers of rounds
    (
        "short",
        [("race/prompt_tokens", FAR), *((f"race/lanes/{i}/start/position", FAR) for i in (0, 1))],
        "prompt_tokens is more than the conversation has text for",
    ),
    ("noisy", [at_once(1)], "rounds took less time than any machine needs"),
    ("failed", [at_once(0)], "rounds took less time than any machine needs"),
    ("profiled", [("race/lanes/1/rounds/0/spent", ZERO)], "spent leaves out most of what the round took"),
    (
        "sampled",
        [
            (f"{kept_round('sampled')}/detail/{name}/0", value)
            for name, value in (("q", 0.0), ("p", 0.5), ("accept", 1.0))
        ],
        "q\\[0\\] is 0, and the drafter drew it",
    ),
    ("stops", [("race/request/settings/max_tokens", 1e3)], "must be a whole number, not 1000.0"),
    ("sampled", [("race/request/settings/seed", 2**53 + 1)], "seed must be a whole number"),
    ("greedy", [("race/lanes/0/rounds/0/proposed", -0.0)], "proposed must be a whole number, not -0.0"),
    ("greedy", [("race/source", None)], "race.source is not a field"),
    # inspections
    ("sampled", [(f"{SAMPLED}/block/own/rejected", lambda mass: mass / 3)], "rejected is not what p and q beside it"),
    ("sampled", [(f"{SAMPLED}/block/own/rejected", 1.0)], "rejected is not what p and q beside it"),
    ("sampled", [(f"{SAMPLED}/block/own/candidates", halved)], "probability is not what p and q beside it leave"),
    ("greedy", [(f"{GREEDY}/block/own/rejected", 0.01)], "rejected is not what p and q beside it leave"),
    ("greedy", [(f"{GREEDY}/block/own/candidates", CAND)], "probability is not what p and q beside it leave"),
    ("greedy", [("race/lanes/2/inspections/0/block/slots/0/confidence", None)], "a confidence for some drafts"),
    ("greedy", [(f"{SEEN}/without/slots/0/drafter", lambda c: c[1:])], "without"),
    ("greedy", [(f"{SEEN}/block/verified", True)], "block.verified is not a field"),
    # texts of tokens
    ("short", [("tokens", lambda texts: {**texts, "0" + next(iter(texts)): LIE})], "in place of a token id"),
    ("short", [("tokens", lambda texts: {key: [True] for key in texts})], "must be text or a list of bytes"),
    ("short", [("tokens", lambda texts: {key: [72.0] for key in texts})], "must be text or a list of bytes"),
]


@pytest.mark.parametrize(("name", "changes", "words"), REFUSED, ids=[f"{n}-{w[:50]}" for n, _, w in REFUSED])
def test_what_the_rounds_refute_is_refused_with_its_place(name, changes, words):
    assert edited(name) != edited(name, *changes)
    with pytest.raises(TraceError, match=words) as refusal:
        loads(edited(name, *changes))
    said = str(refusal.value)
    assert said.startswith("This race cannot be read: ") and said.endswith(".") and "\n" not in said


TWICE = {
    "a number of a round": ('"accepted":', '"accepted":9,"accepted":'),
    "when it was made": ('"made":', '"made":"yesterday","made":'),
    "the device": ('"device":', '"device":"CUDA, a GPU","device":'),
    "the verdict": ('"verdict":', '"verdict":null,"verdict":'),
    "a name that is spelled otherwise": ('"stop_ids":', '"stop\\u005fids":[],"stop_ids":'),
}


@pytest.mark.parametrize(("before", "after"), TWICE.values(), ids=TWICE)
def test_what_stands_twice_is_refused(before, after):
    """Two readers would take two of them."""
    text = document("greedy")
    assert before in text
    with pytest.raises(TraceError, match="a key stands twice in one object"):
        loads(text.replace(before, after, 1))


def test_a_file_of_a_million_unknown_fields_is_refused_at_the_first():
    fields = ",".join(f'"f{k}":0' for k in range(1_000_000))
    began = time.process_time()
    with pytest.raises(TraceError, match="f0 is not a field that is known here"):
        loads(document("short").replace('"race":{', '"race":{' + fields + ",", 1))
    assert time.process_time() - began < 3


def test_a_file_s_own_words_stay_inside_their_sentence():
    """They close no quotation marks, end no line and turn no direction."""
    trace = loads(edited("failed", ("race/lanes/1/error", f"it” {LIE} “"), ("race/target", f"a\n\u202e{LIE}")))
    reason = re.search("gives as the reason: (“[^\x1e]*”)", board_of(trace))[1]
    assert reason.count("“") == reason.count("”") == 1 and LIE in reason
    assert title(trace).isprintable()


def test_a_lane_that_failed_without_a_word_has_failed():
    trace = loads(edited("failed", ("race/lanes/1/error", "")))
    assert announcement(trace.race).startswith("Race finished.") and "failed." in announcement(trace.race)


def test_no_number_is_less_than_nothing():
    (d,) = loads(edited("noisy", ("race/verdict/differences/0/gap", -0.0))).race.verdict.differences
    assert str(d.gap) == "0.0"


REWORDED = [
    ("greedy", [("race/verdict/words", LIE)]),
    ("noisy", [("race/verdict/words", LIE)]),
    ("sampled", [("race/verdict/words", LIE)]),
    ("failed", [("race/verdict/words", LIE)]),
    ("noisy", [("race/verdict/differences/0/tie", True), ("race/verdict/kind", "tie")]),
    ("greedy", [(f"race/{place}/label", LIE) for place in ("lanes/1/spec", "request/lanes/1")]),
    ("greedy", [(f"race/{place}/label", "block 16") for place in ("lanes/1/spec", "request/lanes/1")]),
    ("greedy", [(f"race/{place}/label", "cap 1") for place in ("lanes/2/spec", "request/lanes/2")]),
    ("greedy", [(f"race/{place}/label", LIE) for place in ("lanes/0/spec", "request/lanes/0")]),
    ("greedy", in_both("label", "full\u0000block")),
    ("greedy", in_both("label", "block 08")),
    ("greedy", in_both("label", "block \u0668")),
    ("greedy", [(f"{SEEN}/agrees", False)]),
    ("greedy", [(f"{SEEN}/anchor", LIE), (f"{SEEN}/block/slots/0/text", LIE), (f"{SEEN}/block/own/text", LIE)]),
    ("greedy", [("race/lanes/3/inspections/0/block/slots/0/confidence", 0.12345678)]),
]


@pytest.mark.parametrize(("name", "changes"), REWORDED, ids=range(len(REWORDED)))
def test_words_and_conclusions_are_worked_out_again(name, changes):
    """Whatever the file says: board, Compare and a file that is saved anew show what the rounds of it say."""
    trace, race = loads(edited(name, *changes)), race_record(name)
    lies = LIE, "\u0000", "block 08", "\u0668", '"label":"block 16"', '"label":"cap 1"', "0.12345678"
    for shown in (board_of(trace), ComparedRaces(trace, trace).value(), announcement(trace.race), dumps(trace)):
        assert not any(lie in shown for lie in lies)
    assert trace.race.verdict.kind == race.verdict.kind
    v = trace.race.verdict
    assert v.words == verdict_words(v.kind, v.differences, trace.race.lanes, trace.race.request.settings)
    assert [d.tie for d in v.differences] == [d.tie for d in race.verdict.differences]
    for ours, theirs in zip(trace.race.lanes, race.lanes, strict=True):
        assert [i.agrees for i in ours.inspections] == [i.agrees for i in theirs.inspections]


def test_no_more_noise_is_believed_than_the_device_is_known_to_have():
    """Where it is known to have none, nothing is a tie."""
    place = "race/verdict/differences/0"
    (d,) = loads(edited("noisy", (f"{place}/noise", 50.0), ("race/noise", 2.0))).race.verdict.differences
    assert d.noise == 2.0 and d.tie == (d.needed <= 2.0 + 2 * d.ulp)
    far = [(f"{place}/needed", 9.0), (f"{place}/noise", 50.0), (f"{place}/tie", True), ("race/verdict/kind", "tie")]
    assert loads(edited("noisy", *far, ("race/noise", 2.0))).race.verdict.kind == "divergence"
    none = [(f"{place}/needed", 0.0), (f"{place}/gap", 0.0), (f"{place}/tie", True), ("race/noise", 0.0)]
    assert loads(edited("noisy", *none, ("race/verdict/kind", "tie"))).race.verdict.kind == "divergence"


def test_an_inspection_says_that_it_agrees_only_if_its_numbers_do():
    """An accepted draft that is not the target's best token there: computed again, the round came out differently."""
    place, slot = f"{SEEN}/block/slots/0", race_record("greedy").lanes[1].inspections[0].block.slots[0]
    assert slot.outcome == "accepted" and race_record("greedy").lanes[1].inspections[0].agrees
    best, second, *more = slot.target
    ids = {best.token_id: second.token_id, second.token_id: best.token_id}
    swapped = [{**vars_of(c), "token_id": ids.get(c.token_id, c.token_id)} for c in (best, second, *more)]
    changes = [(f"{place}/target", swapped), (f"{place}/p", second.probability)]
    changes += [(f"{place}/accept", min(1.0, second.probability / slot.q))]
    assert loads(edited("greedy", *changes)).race.lanes[1].inspections[0].agrees is False


def vars_of(candidate):
    return {"token_id": candidate.token_id, "text": candidate.text, "probability": candidate.probability}


def test_a_race_that_no_lane_came_to_the_end_of_is_called_stopped():
    """Whether the file says so or not."""
    trace = loads(edited("stopped", ("race/stopped", ...)))
    assert announcement(trace.race).startswith("Race stopped.") and "Race finished" not in board_of(trace)
    assert "was stopped before its end" in ComparedRaces(trace, trace).value()


def test_an_error_s_words_are_the_file_s_and_are_given_as_such():
    trace = loads(edited("failed", ("race/lanes/1/error", LIE)))
    assert f"the saved race gives as the reason: “{LIE}”" in board_of(trace)


@pytest.mark.parametrize("name", REQUESTS)
def test_any_number_or_word_that_changes_is_refused_or_changes_no_conclusion(name):
    """Random edits of single values: what opens has a verdict that follows from its outputs, lanes whose rounds add up
    and inspections of rounds that were."""
    dice, data = random.Random(name), json.loads(document(name))
    opened = refused = 0
    for _ in range(150):
        text = json.dumps(data)
        changed = json.loads(text)
        places = list(leaves(changed["race"]))
        container, key = dice.choice(places)
        container[key] = other(container[key], dice)
        try:
            trace = loads(json.dumps(changed))
        except TraceError as refusal:
            refused += 1
            assert str(refusal).endswith(".")
            continue
        opened += 1
        race, v = trace.race, trace.race.verdict
        if v is not None:
            assert not race.stopped and all(lane.finish or lane.error for lane in race.lanes)
            parts = parted(race.lanes) if race.request.settings.greedy else {}
            assert {d.lane: d.index for d in v.differences} == parts and (v.kind == "identical") <= (not parts)
            assert v.words == verdict_words(v.kind, v.differences, race.lanes, race.request.settings)
        for lane in race.lanes:
            assert len(lane.output) <= race.request.settings.max_tokens
            for seen in lane.inspections:
                r = lane.rounds[seen.index]
                assert [s.token_id for s in seen.block.slots] == list(r.draft_ids)
                assert all(0 <= (s.p or 0) <= 1.001 and 0 <= s.q <= 1.001 for s in seen.block.slots)
        assert board_of(trace) and announcement(race)
    assert refused > 30 and opened + refused == 150


def leaves(value):
    for key in value if isinstance(value, dict) else range(len(value)):
        if isinstance(value[key], dict | list):
            yield from leaves(value[key])
        else:
            yield value, key


def other(value, dice):
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + dice.choice((-1, 1, 5))
    if isinstance(value, float):
        return dice.choice((value / 2, value * 2, value + 0.3, 7.5, -value))
    return dice.choice(("identical", "stop", "length", LIE, None))
