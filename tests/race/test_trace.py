"""The race as a document: what is written is read again, everything else is refused in one sentence."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dspark_core.decode.rounds import Again, Detail, Round, Settings, Spent, Start
from dspark_core.errors import TraceError
from dspark_core.race.records import Difference, LaneRecord, LaneSpec, RaceRecord, RaceRequest, Verdict
from dspark_core.race.trace import Trace, dumps, loads, trace_of
from dspark_core.race.verdict_words import kind_of, parted, verdict_words

from .long_trace import long_trace

text = st.text(max_size=12)
share = st.floats(0, 1)
token_ids = st.integers(0, 40)


@st.composite
def rounds_after(draw, start, spec, how, strict, profile, stops):
    """Rounds as a decode makes them: cut at a stop token and at max_tokens, with the numbers that explain them."""
    rounds, position, anchor, now, produced = [], start.position, start.token_id, 0.0, 1
    for k in range(draw(st.integers(0, 5)) if start.finish is None else 0):
        drafts = tuple(draw(st.lists(token_ids, max_size=5))) if spec.speculative else ()
        proposed = len(drafts) if spec.schedule == "full" else draw(st.integers(0, len(drafts)))
        end = next((i + 1 for i, t in enumerate(drafts[:proposed]) if t in stops), proposed)
        accepted = draw(st.integers(0, end))
        decided = strict and spec.speculative and draw(st.booleans())
        following = draw(token_ids)
        while accepted < end and following == drafts[accepted] and not decided:
            following = (following + 1) % 41
        gained = (*drafts[:accepted], following)
        stop = next((i + 1 for i, t in enumerate(gained) if t in stops), 99)
        room = how.max_tokens - produced
        committed, finish = gained, None
        if stop <= room:
            committed, finish = gained[:stop], "stop" if stop < 99 else None
        elif len(gained) >= room:
            committed, finish = gained[:room], "length"
        seconds = draw(st.floats(0.01, 2))
        now += seconds
        q = tuple(draw(st.lists(st.floats(0.1, 1), min_size=proposed, max_size=proposed)))
        p = tuple(x if i < accepted else x / 2 for i, x in enumerate(q))
        detail = Detail(q, p, tuple(b / a for a, b in zip(q, p, strict=True))) if spec.speculative else None
        confidence = tuple(draw(st.lists(share, min_size=len(drafts), max_size=len(drafts))))
        rounds.append(
            Round(
                *(k, position, anchor, drafts, proposed, accepted, following, accepted == end, committed, now, finish),
                confidence if spec.speculative and draw(st.booleans()) else None,
                None if how.greedy else detail,
                Spent(seconds / 2, seconds / 4, 0.0) if profile and draw(st.booleans()) else None,
                again=Again(1, True, 1, draw(st.floats(0, 0.01))) if decided else None,
            )
        )
        position, anchor, produced = position + accepted + 1, following, produced + len(committed)
        if finish:
            break
    return rounds


@st.composite
def lanes(draw, spec, request, prompt_tokens, stops):
    if draw(st.integers(0, 9)) == 0:
        return LaneRecord(spec, error=draw(text))
    how, token = request.settings, draw(token_ids)
    finish = "stop" if token in stops else "length" if how.max_tokens == 1 else None
    start = Start(token, prompt_tokens, draw(st.floats(0, 9)), finish)
    rounds = draw(rounds_after(start, spec, how, request.strict, request.profile, stops))
    lane = LaneRecord(spec, start, rounds)
    lane.error = draw(st.none() | text) if lane.finish is None else None
    return lane


SPECS = [
    LaneSpec("plain"),
    LaneSpec("DSpark"),
    LaneSpec("DSpark", "full", 5, label="full block"),
    LaneSpec("DFlash", "hardware", label="hardware-aware"),
]


@st.composite
def traces(draw):
    specs = draw(st.lists(st.sampled_from(SPECS), min_size=1, max_size=4))
    overriding = draw(st.none() | st.frozensets(token_ids, max_size=9))
    how = draw(st.builds(Settings, st.integers(1, 12), st.floats(0, 2), stop_ids=st.just(overriding)))
    strict = how.greedy and draw(st.booleans())
    request = RaceRequest(
        *(draw(text), tuple(specs), how, draw(st.booleans()), draw(st.booleans())),
        system=draw(text),
        earlier=tuple(draw(st.lists(st.tuples(text, text), max_size=2))),
        strict=strict,
    )
    prompt_tokens, own_stops = draw(st.integers(0, 500)), frozenset({2, 3})
    stops = own_stops if overriding is None else overriding
    race = RaceRecord(
        *(draw(text), "bf16", request, prompt_tokens),
        [draw(lanes(spec, request, prompt_tokens, stops)) for spec in specs],
        noise=1.0 if strict else draw(st.sampled_from([None, 1.0])),
    )
    if all(lane.finish or lane.error is not None for lane in race.lanes) and draw(st.booleans()):
        parts = parted(race.lanes) if how.greedy else {}
        found = tuple(Difference(i, at, 0.5, 1.5, 0.1, 0.2, False) for i, at in parts.items())
        kind = kind_of(race.lanes, how, found)
        race.verdict = Verdict(kind, verdict_words(kind, found, race.lanes, how), found)
    else:
        race.stopped = draw(st.booleans())
    pieces = draw(st.lists(st.binary(max_size=6) | text.map(str.encode), min_size=41, max_size=41))
    notes = draw(st.dictionaries(text, text, max_size=3))
    return trace_of(race, pieces.__getitem__, own_stops, notes, notes, notes)


@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(traces())
def test_what_is_written_is_read_again(trace):
    document = dumps(trace)
    assert loads(document) == trace == loads(document.encode())
    assert dumps(loads(document)) == document


def small(sampled: bool = False, strict: bool = False) -> Trace:
    """Two lanes with a rejection, an unsent draft and the numbers that explain them."""
    detail = [Detail((0.5, 0.5), (0.5, 0.0), (1.0, 0.0)), Detail((0.5,), (0.25,), (0.5,))]
    again = Again(2, False, 2, 0.1) if strict else None
    one, two = detail if sampled else (None, None)
    rounds = [
        Round(0, 9, 1, (2, 3), 2, 1, 4, False, (2, 4), 0.5, None, (0.9, 0.2), one, again=again),
        Round(1, 11, 4, (5, 6), 1, 1, 7, True, (5, 7), 1.0, "length", (0.5, 0.05), two),
    ]
    output = (1, 2, 4, 5, 7)
    plain = [Round(k, 9 + k, output[k], (), 0, 0, t, True, (t,), 0.3 * (k + 1)) for k, t in enumerate(output[1:])]
    plain[-1] = replace(plain[-1], finish="length")
    specs = LaneSpec("plain"), LaneSpec("DSpark", "confidence", threshold=0.1, label="confidence ≥ 0.10")
    how = Settings(5, 1.0 if sampled else 0.0)
    lanes = [LaneRecord(spec, Start(1, 9, 0.1), r) for spec, r in zip(specs, (plain, rounds), strict=True)]
    kind = "sampled" if sampled else "identical"
    race = RaceRecord(
        *("a target", "bf16", RaceRequest("hi", specs, how, strict=strict), 9, lanes),
        verdict=Verdict(kind, verdict_words(kind, (), lanes, how)),
        noise=0.5 if strict else None,
    )
    trace = trace_of(race, lambda i: b"\xf0\x9f" if i == 3 else f"<{i}>".encode(), frozenset({8}), {}, {}, {})
    return replace(trace, made="2026-05-01T12:00:00+00:00")


def changed(path: str, value) -> str:
    """The small trace with the value at `path` replaced; `del` takes it out."""
    document = json.loads(dumps(small(sampled="/detail" in path, strict="/again" in path)))
    *way, last = path.split("/")
    place = document
    for step in way:
        place = place[int(step) if isinstance(place, list) else step]
    if value == "del":
        del place[last]
    else:
        place[last] = value
    return json.dumps(document)


LANE = "race/lanes/1"
REFUSALS = [
    ("race/noise", -0.1, "race.noise is negative"),
    (
        f"{LANE}/rounds/0/again",
        {"positions": 3, "changed": False, "steps": 4, "seconds": 0.1},
        "rounds[0].again.positions is not between 1 and the tokens",
    ),
    (
        f"{LANE}/rounds/0/again",
        {"positions": 2, "changed": True, "steps": 1, "seconds": 0.1},
        "rounds[0].again.steps is less than the positions",
    ),
    ("version", 2, "format version 2 by a newer DSpark Playground; this one reads version 1."),
    ("version", "1", "no format version that is known"),
    ("version", True, "no format version"),
    ("format", "other", "not a race"),
    ("race", "del", "race is missing"),
    ("extra", 1, "extra is not a field that is known here"),
    ("race/target", "del", "race.target is missing"),
    ("race/target", 5, "race.target must be text, not 5"),
    ("race/target", "x" * 300, "race.target is too long"),
    ("race/request/prompt", "x" * 100_001, "race.request.prompt has 100,001 characters"),
    ("race/request/system", "x" * 10_001, "race.request.system has more than 10,000 characters."),
    ("race/request/system", None, "race.request.system must be text, not null"),
    ("race/request/earlier", [["a", "b"]] * 17, "race.request.earlier has more than 16 exchanges"),
    ("race/request/earlier", [["a" * 60_000, "b" * 60_000]], "race.request.earlier has more than 16 exchanges or"),
    ("race/request/earlier", [["a"]], "race.request.earlier[0] must be a list of 2"),
    ("race/request/earlier", [["a", 3]], "race.request.earlier[0][1] must be text, not 3"),
    ("race/request/settings/max_tokens", 0, "race.request.settings cannot be: max_tokens must be at least 1"),
    ("race/request/lanes", [], "race.request.lanes does not name the lanes that ran"),
    ("race/lanes", [], "race.lanes must have 1 to 4 lanes"),
    (f"{LANE}/rounds/0/next_id", "del", "race.lanes[1].rounds[0].next_id is missing"),
    (f"{LANE}/rounds/0/bonus", 1, "rounds[0].bonus must be true or false, not 1"),
    (f"{LANE}/rounds/0/bonus", True, "rounds[0].bonus is true after a rejection"),
    (f"{LANE}/rounds/0/draft_ids", [2, 2.5], "rounds[0].draft_ids[1] must be a whole number, not 2.5"),
    (f"{LANE}/rounds/0/draft_ids", [2, 10**20], "must be a whole number"),
    (f"{LANE}/rounds/0/proposed", 3, "rounds[0].proposed is not between 0 and the number of drafts"),
    (f"{LANE}/rounds/0/accepted", 2, "rounds[0].committed are not the accepted drafts and the next token"),
    (f"{LANE}/rounds/0/accepted", -1, "rounds[0].accepted is not between"),
    (f"{LANE}/rounds/0/confidence", [0.5], "rounds[0].confidence is not one number a draft"),
    (f"{LANE}/rounds/0/detail/p", [0.5, 2], "rounds[0].detail.p is not between 0 and 1"),
    (f"{LANE}/rounds/0/detail/q", [0.5], "rounds[0].detail.q is not one number a proposed draft"),
    (f"{LANE}/rounds/0/finish", "bored", "rounds[0].finish is no known reason"),
    (f"{LANE}/rounds/0/finish", "stop", "rounds[0].finish does not fit the last token"),
    (f"{LANE}/rounds/0/finish", "context", "rounds[1] comes after the lane had ended"),
    (f"{LANE}/rounds/1/time_s", 0.4, "rounds[1].time_s is before the round before"),
    (f"{LANE}/rounds/1/anchor_id", 2, "rounds[1].anchor_id is not the token that the round before ended with"),
    (f"{LANE}/rounds/1/position", 12, "rounds[1].position is not 11"),
    (f"{LANE}/rounds/1/index", 7, "rounds[1].index is not 1"),
    (f"{LANE}/start", "del", "race.lanes[1].rounds come without a start"),
    ("race/lanes/0/rounds/0/draft_ids", [1], "race.lanes[0].rounds[0].draft_ids are drafts in a plain lane"),
    ("race/verdict/kind", "fine", "race.verdict.kind is no known verdict"),
    ("tokens", {}, "has no text in tokens"),
    ("tokens/6", "del", "race.lanes[1].rounds[1] has a token without a text in tokens"),
    ("tokens/-1", "x", "tokens has the text '-1' in place of a token id"),
    ("tokens/6", [256], "tokens.6 must be text or a list of bytes"),
    ("tokens/6", "x" * 2000, "tokens.6 must be text or a list of bytes, at most 1024"),
    ("tokens/6", "\ud800", "tokens.6 must be text"),
    ("race/target", "\ud800", "race.target is not valid Unicode"),
    ("machine", {str(k): "" for k in range(60)}, "machine has 60 entries"),
    ("made", "x" * 300, "made has 300 characters"),
]


@pytest.mark.parametrize(("path", "value", "words"), REFUSALS)
def test_what_does_not_fit_is_refused_with_its_place(path, value, words):
    assert loads(dumps(small())) == small()
    with pytest.raises(TraceError) as refusal:
        loads(changed(path, value))
    assert words in str(refusal.value)


def test_a_race_saved_before_there_were_conversations_is_still_read():
    request = json.loads(dumps(small()))["race"]["request"]
    assert not request.keys() & {"system", "earlier"}
    talked = loads(changed("race/request", request | {"system": "Be brief.", "earlier": [["Hi", "Hello."]]}))
    assert talked.race.request == replace(small().race.request, system="Be brief.", earlier=(("Hi", "Hello."),))
    assert [m["role"] for m in talked.race.request.messages] == ["system", "user", "assistant", "user"]


WHOLE = dumps(small())
FILES = [
    ("", "This file is empty."),
    (" \n", "This file is empty."),
    (b"\xff\xfe\x00", "not text in UTF-8"),
    (WHOLE[: len(WHOLE) // 2], "cut off"),
    (WHOLE[:-1], "cut off"),
    ("<html></html>", "not JSON"),
    ("[]", "not a race"),
    ("null", "not a race"),
    ("[" * 100_000, "nested too deeply"),
    ("[" * 3_000_000, "more parts than any race"),
    (WHOLE.replace("0.5", "NaN", 1), "NaN is no number in JSON"),
    (WHOLE.replace('"time_s":0.5', '"time_s":1e999', 1), "must be a finite number"),
    (WHOLE.replace('"time_s":0.5', '"time_s":' + "9" * 5000, 1), "not JSON as it should be"),
    ("x" * 50_000_000, "50.0 MB; a race has at most 20 MB"),
    (b"\x00" * 50_000_000, "50.0 MB"),
]


@pytest.mark.parametrize(("document", "words"), FILES, ids=[words for _, words in FILES])
def test_files_that_are_no_race(document, words):
    with pytest.raises(TraceError, match=words):
        loads(document)


def test_a_byte_order_mark_is_no_obstacle():
    assert loads("\ufeff" + WHOLE) == loads(b"\xef\xbb\xbf" + WHOLE.encode()) == small()


def test_what_a_page_cannot_show_is_refused():
    wide = replace(small(), tokens={i: b"x" * 1024 for i in range(8)})
    wide.race.lanes[0].rounds = [Round(k, 9 + k, 1, (), 0, 0, 1, True, (1,), 0.0) for k in range(20_000)]
    wide.race.lanes[1].rounds, wide.race.verdict = [], None
    wide.race.request = replace(wide.race.request, settings=Settings(30_000))
    with pytest.raises(TraceError, match="more text than a page can show"):
        loads(dumps(wide))


def test_a_race_that_json_cannot_hold_is_not_written():
    trace = small()
    trace.race.lanes[0].start = Start(1, 9, float("nan"))
    with pytest.raises(TraceError, match="cannot be kept"):
        dumps(trace)


def test_a_further_drafter_of_a_method_may_have_the_longer_block():
    """It is held against its own block, not against that of the first one of its method."""
    specs = LaneSpec("plain"), LaneSpec("DFlash2", cap=7), LaneSpec("DFlash2", cap=15, drafter="dflash2-2")
    made = long_trace(40, specs=specs)
    made.drafters.update({"DFlash2": "short, block 8, bf16", "dflash2-2": "long, block 16, bf16"})
    assert loads(dumps(made)).race == made.race
    made.drafters["dflash2-2"] = "long, block 12, bf16"
    with pytest.raises(TraceError, match=r"lanes\[2\].*more than the drafter's block of 12"):
        loads(dumps(made))


@pytest.mark.parametrize("files", [700, pytest.param(2000, marks=pytest.mark.sweep)])
def test_mutated_files_are_loaded_or_refused_in_a_sentence(files):
    """In a process of its own that may take 500 MB; mutants.py says what it does to each file."""
    script = Path(__file__).with_name("mutants.py")
    done = subprocess.run([sys.executable, script, str(files)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout)
    assert figures["files"] == files == figures["loaded"] + figures["refused"]
    assert figures["loaded"] > files / 20 and figures["sentences"] > 50  # the mutations are not all the same
    assert figures["slowest_s"] < 2


def test_a_token_that_begins_an_answer_without_its_space_comes_back_so():
    """As Llama-2's decoder has it; everywhere else the token has its space."""
    trace = small()
    first = trace.race.lanes[0].start.token_id

    class Bytes(dict):
        __call__ = dict.__getitem__

        def at_start(self, token_id):
            return self[token_id].removeprefix(b" ")

    told = Bytes({i: b" word" for i in trace.tokens})
    again = loads(dumps(trace_of(trace.race, told, trace.stop_ids, {}, {}, {})))
    assert again.token_text(first) == b" word" and again.token_text.at_start(first) == b"word"
    plain = json.loads(
        dumps(trace_of(trace.race, dict.fromkeys(trace.tokens, b" a").__getitem__, frozenset(), {}, {}, {}))
    )
    assert "at_start" not in plain
    edited = json.loads(dumps(again)) | {"at_start": {str(first): "another"}}
    with pytest.raises(TraceError, match="at_start"):
        loads(json.dumps(edited))


def test_how_a_decoder_reads_its_tokens_comes_back():
    """A run of bytes as a whole, and with or without spaces before punctuation."""
    trace = small()
    first = trace.race.lanes[0].start.token_id

    class Bytes(dict):
        __call__ = dict.__getitem__
        clean_up = True

        def is_byte(self, token_id):
            return token_id == first

    texts = Bytes(dict.fromkeys(trace.tokens, b" !") | {first: b"\xf0"})
    again = loads(dumps(trace_of(trace.race, texts, trace.stop_ids, {}, {}, {})))
    assert again.byte_tokens == {first} and again.token_text.is_byte(first) and again.token_text.clean_up
    for wrong in ([first, 999_999], [next(i for i in trace.tokens if i != first)], ["1"], 5):
        with pytest.raises(TraceError, match="byte_tokens"):
            loads(json.dumps(json.loads(dumps(again)) | {"byte_tokens": wrong}))
    assert not {"byte_tokens", "clean_up"} & json.loads(dumps(trace)).keys()
