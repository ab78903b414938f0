"""The conversation that is kept: what a race leaves for the next one, and what the next one makes of it."""

from dataclasses import replace
from itertools import pairwise

import pytest

from dspark_core.decode.rounds import Round, Settings, Start
from dspark_core.errors import DecodeError
from dspark_core.models.checkpoint import load_drafter
from dspark_core.models.target import load_target
from dspark_core.models.text import Text
from dspark_core.models.thoughts import Thought
from dspark_core.playground.conversation import conversation_after, conversation_json
from dspark_core.playground.tabs.compare_tab import ComparedRaces
from dspark_core.race.inspector import inspect
from dspark_core.race.race import Models, race
from dspark_core.race.records import FULL, PLAIN, LaneRecord, LaneSpec, RaceRecord, RaceRequest, Verdict
from dspark_core.race.trace import dumps, loads, trace_of
from tests.conftest import GOLDEN
from tests.models.build import talking_target

PIECES = {1: b"<end>", 2: b" Blue", 3: b", because", 4: b" of \xc3", 5: b"<think>Hm.</think>", 6: b"  "}
SPECS = LaneSpec("DSpark", FULL, 7, label="full block"), LaneSpec(PLAIN)


def finished(*output, finish="stop", earlier=(), specs=SPECS, **how):
    """A race whose plain lane answered with these tokens, and the other one with something else."""

    def lane(spec, ids):
        rounds = [Round(k, 9 + k, a, (), 0, 0, b, True, (b,), 0.1 * (k + 1)) for k, (a, b) in enumerate(pairwise(ids))]
        rounds[-1] = replace(rounds[-1], finish=finish)
        return LaneRecord(spec, Start(ids[0], 9, 0.1), rounds)

    request = RaceRequest("Why is the sky blue?", specs, Settings(8), earlier=earlier)
    lanes = [lane(spec, output if spec.method == PLAIN else (3, 3, 1)) for spec in specs]
    record = RaceRecord("a target", "bf16", request, 9, lanes, verdict=Verdict("identical", "Same."), **how)
    return trace_of(record, PIECES.__getitem__, frozenset({1}), {}, {}, {})


def test_the_plain_answer_is_kept_without_its_stop_token():
    talk = conversation_after(finished(2, 3, 1))
    assert talk.earlier == (("Why is the sky blue?", "Blue, because"),) and talk.tokens == 12 and not talk.cut
    assert "1 exchange, about 12 tokens." in conversation_json(talk)
    again = conversation_after(finished(2, 3, 1, earlier=talk.earlier))
    assert again.earlier == talk.earlier * 2 and "2 exchanges" in conversation_json(again)


def test_without_a_plain_lane_it_is_the_first_one_s():
    assert conversation_after(finished(2, 1, specs=SPECS[:1] * 2)).earlier[0][1] == ", because, because"


def test_thoughts_and_half_characters_are_left_out():
    talk = conversation_after(finished(5, 2, 4, finish="length"))
    assert talk.earlier[0][1] == "Blue of" and talk.cut and "cut off at its token limit" in conversation_json(talk)


TALK = dict(enumerate([b"<think>", b"</think>", b" Hm.", b" Blue", b" and <think>", b" </think> red", b"\n"], start=10))
TALK |= dict(enumerate([b"<|channel>", b"thought", b"<channel|>", b"<think>Hm.", b"m</think>"], start=20))
OPEN, CLOSE, HM, BLUE, SPELLED, ENDED, LINE, CHANNEL, THOUGHT, CLOSED = *range(10, 17), 20, 21, 22
THOUGHTS = {  # tokens of an answer, what is kept of it
    "a thought": ((OPEN, HM, CLOSE, LINE, BLUE), "Blue"),
    "the closing token alone": ((HM, HM, CLOSE, BLUE), "Blue"),
    "blanks before it": ((LINE, OPEN, HM, CLOSE, BLUE), "Blue"),
    "tags spelled in the answer": ((BLUE, SPELLED, BLUE, ENDED), "Blue and <think> Blue </think> red"),
    "tags spelled behind a thought": ((OPEN, HM, CLOSE, BLUE, SPELLED, HM, ENDED), "Blue and <think> Hm. </think> red"),
    "tags spelled in a thought": ((OPEN, SPELLED, ENDED, HM, CLOSE, BLUE), "Blue"),
    "the tokens behind a thought": ((OPEN, HM, CLOSE, BLUE, CLOSE, HM, OPEN, BLUE), "Blue</think> Hm.<think> Blue"),
    "a closing token behind one alone": ((HM, CLOSE, BLUE, CLOSE), "Blue</think>"),
    "an opening token in the answer": ((BLUE, OPEN, HM), "Blue<think> Hm."),
    "a thought behind a word": ((BLUE, OPEN, HM, CLOSE, BLUE), "Blue Blue"),
    "a channel": ((CHANNEL, THOUGHT, LINE, HM, CLOSED, BLUE), "Blue"),
    "two channels": ((CHANNEL, THOUGHT, CLOSED, BLUE, CHANNEL, THOUGHT, HM, CLOSED, BLUE), "Blue Blue"),
    "a channel without its end": ((BLUE, CHANNEL, THOUGHT, HM), "Blue"),
    "the end of a channel alone": ((HM, CLOSED, BLUE), "Blue"),
    "no such tokens": ((23, 24, BLUE), "Blue"),
    "no such tokens, a mention": ((BLUE, 23, 24, BLUE), "Blue<think>Hm.m</think> Blue"),
}


@pytest.mark.parametrize("case", THOUGHTS)
def test_thoughts_are_known_by_their_tokens(case, monkeypatch):
    output, answer = THOUGHTS[case]
    monkeypatch.setitem(globals(), "PIECES", PIECES | TALK)
    assert conversation_after(finished(*output, 1)).earlier[0][1] == answer


@pytest.mark.parametrize("output", [(OPEN, HM, BLUE), (LINE, OPEN, HM), (CHANNEL, THOUGHT), (23, HM)])
def test_a_thought_that_was_cut_off_is_no_answer(output, monkeypatch):
    monkeypatch.setitem(globals(), "PIECES", PIECES | TALK)
    with pytest.raises(ValueError, match="The answer is empty"):
        conversation_after(finished(*output, finish="length"))


def test_a_thought_that_the_prompt_began_is_one(monkeypatch):
    """Templates of models that always think end with the opening tag."""
    monkeypatch.setitem(globals(), "PIECES", PIECES | TALK)
    for opening in ("<|im_start|>assistant\n<think>\n", "<think>\n\n</think>\n\n<think>"):
        thought = Thought.begun(opening, ())
        for output in ((HM, BLUE), (BLUE, 23)):
            with pytest.raises(ValueError, match="The answer is empty"):
                conversation_after(finished(*output, finish="length", thought=thought))
        for output in ((HM, CLOSE, BLUE), (HM, 24, BLUE)):
            assert conversation_after(finished(*output, thought=thought)).earlier[0][1] == "Blue"
    assert Thought.begun("<|im_start|>assistant\n<think>\n\n</think>\n\n", ()) is None
    assert conversation_after(finished(HM, BLUE)).earlier[0][1] == "Hm. Blue"


def failed(trace):
    trace.race.lanes[1].error = "It broke."
    return trace


LONG = (("x" * 50_000, "y" * 49_990),)
REFUSED = {
    "no race": (None, "no finished race"),
    "stopped": (finished(2, 3, finish=None, stopped=True), "stopped before its end"),
    "stopped when the plain lane was done": (finished(2, 3, 1, stopped=True), "stopped before its end"),
    "failed": (failed(finished(2, 3, 1)), "The plain lane failed"),
    "empty": (finished(6, 1), "The answer is empty"),
    "too many": (finished(2, 3, 1, earlier=(("a", "b"),) * 16), "at most 16 exchanges here: start over"),
    "too long": (finished(2, 3, 1, earlier=LONG), "at most 100,000 characters here: start over"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_exchange_is_not_conversation_after(case):
    trace, words = REFUSED[case]
    with pytest.raises(ValueError, match=words):
        conversation_after(trace)


def test_compared_races_show_their_conversations():
    one, two = finished(2, 3, 1), finished(2, 3, 1, earlier=(("Hi", "Hello."),))
    two.race.request = replace(two.race.request, system="Be brief.")
    said = ComparedRaces(one, two).value()
    assert "The prompts differ" in said and "Hi\\n\\nHello." in said and "Be brief." in said


def test_a_second_turn_has_the_template_s_ids_and_the_inspector_reads_them_too(tmp_path):
    """Verdict and inspector recompute prefixes: with another prompt they would not find the race again."""
    target = load_target(talking_target(tmp_path))
    models = Models(target, {"dspark": load_drafter(GOLDEN / "A" / "drafter", target)})
    specs = LaneSpec(PLAIN), LaneSpec("DSpark", FULL, 7, label="full block")

    def ran(request):
        for _, event in race(models, request):
            if isinstance(event, RaceRecord):
                record = event
        return record

    request = RaceRequest("Say hello.", specs, Settings(24), system="Be brief.")
    first = trace_of(ran(request), target.token_bytes, target.stop_ids, {}, {}, {})
    talk = conversation_after(first)
    second = ran(replace(request, prompt="And goodbye?", earlier=talk.earlier))
    text = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nSay hello.<|im_end|>\n<|im_start|>assistant\n"
        f"{talk.earlier[0][1]}<|im_end|>\n<|im_start|>user\nAnd goodbye?<|im_end|>\n<|im_start|>assistant\n"
        "<think>\n\n</think>\n\n"
    )
    ids = Text(tmp_path / "target", None).tokenizer.encode(text, add_special_tokens=False)
    assert target.encode_chat(second.request.messages) == ids and second.prompt_tokens == len(ids)
    assert second.verdict.kind == "identical" and second.lanes[0].start.position == len(ids)

    again = loads(dumps(trace_of(second, target.token_bytes, target.stop_ids, {}, {}, {}))).race
    assert again.request == second.request
    seen = inspect(models, again, 1, 0)
    assert seen.agrees and seen.prefix == len(ids)
    again.request = replace(again.request, earlier=())
    with pytest.raises(DecodeError, match="in another way"):
        inspect(models, again, 1, 0)
