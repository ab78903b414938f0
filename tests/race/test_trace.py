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
from dspark_core.race import trace as module
from dspark_core.race.record import Difference, LaneRecord, LaneSpec, RaceRecord, RaceRequest, Verdict
from dspark_core.race.trace import Trace, TraceError, dumps, loads, trace_of

text = st.text(max_size=12)
share = st.floats(0, 1)
token_ids = st.integers(0, 40)


@st.composite
def lanes(draw, spec, finished):
    if draw(st.integers(0, 9)) == 0:
        return LaneRecord(spec, error=draw(text))
    start = Start(draw(token_ids), draw(st.integers(0, 50)), draw(st.floats(0, 9)))
    count = draw(st.integers(0, 5))
    rounds, position, anchor, now = [], start.position, start.token_id, 0.0
    for k in range(count):
        drafts = tuple(draw(st.lists(token_ids, max_size=5))) if spec.speculative else ()
        proposed = draw(st.integers(0, len(drafts)))
        accepted = draw(st.integers(0, proposed))
        gained = (*drafts[:accepted], draw(token_ids))
        finish = draw(st.sampled_from(["stop", "length", "context"])) if finished and k == count - 1 else None
        kept = draw(st.integers(1, len(gained))) if finish else len(gained)
        now += draw(st.floats(0, 2))
        shares = [tuple(draw(st.lists(share, min_size=n, max_size=n))) for n in (len(drafts), *[proposed] * 3)]
        rounds.append(
            Round(
                *(k, position, anchor, drafts, proposed, accepted, gained[-1], accepted == proposed, gained[:kept]),
                *(now, finish),
                shares[0] if draw(st.booleans()) else None,
                Detail(*shares[1:]) if draw(st.booleans()) else None,
                Spent(*draw(st.tuples(share, share, share))) if draw(st.booleans()) else None,
                again=Again(1, draw(st.booleans()), draw(st.integers(1, 9)), draw(share)) if accepted else None,
            )
        )
        position, anchor = position + accepted + 1, gained[-1]
    return LaneRecord(spec, start, rounds, draw(st.none() | text))


@st.composite
def traces(draw):
    specs = draw(
        st.lists(
            st.builds(LaneSpec, st.sampled_from(["plain", "DSpark", "DFlash"]), label=text, threshold=share),
            min_size=1,
            max_size=4,
        )
    )
    how = draw(
        st.builds(Settings, st.integers(1, 4096), st.floats(0, 2), stop_ids=st.none() | st.frozensets(token_ids))
    )
    verdict = Verdict(draw(st.sampled_from(module.VERDICTS)), draw(text), (Difference(0, 3, 0.5, 1.0, 0.1, 0.2, True),))
    race = RaceRecord(
        draw(text),
        "bf16",
        RaceRequest(
            *(draw(text), tuple(specs), how, draw(st.booleans()), draw(st.booleans())),
            system=draw(text),
            earlier=tuple(draw(st.lists(st.tuples(text, text), max_size=2))),
            strict=draw(st.booleans()),
        ),
        draw(st.integers(0, 500)),
        [draw(lanes(spec, draw(st.booleans()))) for spec in specs],
        draw(st.booleans()),
        draw(st.none() | st.just(verdict)),
        draw(st.none() | share),
    )
    pieces = draw(st.lists(st.binary(max_size=6) | text.map(str.encode), min_size=41, max_size=41))
    notes = draw(st.dictionaries(text, text, max_size=3))
    return trace_of(race, pieces.__getitem__, frozenset({2, 3}), notes, notes, notes)


@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(traces())
def test_what_is_written_is_read_again(trace):
    document = dumps(trace)
    assert loads(document) == trace == loads(document.encode())
    assert dumps(loads(document)) == document


def small() -> Trace:
    """Two lanes with a rejection, a full acceptance and recorded numbers."""
    rounds = [
        Round(
            0, 9, 1, (2, 3), 2, 1, 4, False, (2, 4), 0.5, None, (0.9, 0.2), Detail((0.5, 0.5), (0.5, 0.0), (1.0, 0.0))
        ),
        Round(1, 11, 4, (5, 6), 1, 1, 7, True, (5, 7), 1.0, "length"),
    ]
    plain = [Round(k, 9 + k, a, (), 0, 0, b, True, (b,), 0.3 * (k + 1)) for k, (a, b) in enumerate([(1, 2), (2, 4)])]
    specs = LaneSpec("plain"), LaneSpec("DSpark", "cap", 2, label="cap 2")
    race = RaceRecord(
        "a target",
        "bf16",
        RaceRequest("hi", specs, Settings(5)),
        9,
        [LaneRecord(specs[0], Start(1, 9, 0.1), plain), LaneRecord(specs[1], Start(1, 9, 0.1), rounds)],
        verdict=Verdict("identical", "Same."),
    )
    trace = trace_of(race, lambda i: b"\xf0\x9f" if i == 3 else f"<{i}>".encode(), frozenset({7}), {}, {}, {})
    return replace(trace, made="2026-05-01T12:00:00+00:00")


def changed(path: str, value) -> str:
    """The small trace with the value at `path` replaced; `del` takes it out."""
    document = json.loads(dumps(small()))
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
    (f"{LANE}/rounds/0/finish", "stop", "rounds[1] comes after the lane had ended"),
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
    lane = wide.race.lanes[0]
    lane.rounds = [Round(k, 9 + k, 1, (), 0, 0, 1, True, (1,), 0.0) for k in range(20_000)]
    with pytest.raises(TraceError, match="more text than a page can show"):
        loads(dumps(wide))


def test_a_race_that_json_cannot_hold_is_not_written():
    trace = small()
    trace.race.lanes[0].start = Start(1, 9, float("nan"))
    with pytest.raises(TraceError, match="cannot be kept"):
        dumps(trace)


def test_two_thousand_mutated_files_are_loaded_or_refused_in_a_sentence():
    """In a process of its own that may take 500 MB; mutants.py says what it does to each file."""
    script = Path(__file__).with_name("mutants.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout)
    assert figures["files"] == 2000 and figures["loaded"] + figures["refused"] == 2000
    assert figures["loaded"] > 100 and figures["sentences"] > 50  # the mutations are not all the same
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
