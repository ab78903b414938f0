"""Answers for who wants the text alone: exact on every lane, cut where they were asked to end, and going on from what
earlier ones left behind."""

import random
from dataclasses import replace
from types import SimpleNamespace

import pytest

from dspark_core.decode.prefixes import OPENING, Prefixes
from dspark_core.decode.rounds import Settings
from dspark_core.decode.strict import Noise
from dspark_core.errors import DecodeError, LaneError, ModelError
from dspark_core.models.target import load_target
from dspark_core.models.thoughts import Thought
from dspark_core.models.token_bytes import TextStream
from dspark_core.race.answer import AnswerRequest, AnswerText, Began, ChatText, Ended, Piece
from dspark_core.race.completion import complete
from dspark_core.race.lane_spec import read_lane
from dspark_core.race.loaded import Models
from tests.conftest import GOLDEN, load_golden
from tests.decode.noisy import NoisyTarget
from tests.models.families import saved
from tests.playground.talking import USUAL, plain_ids, talking_models

LANES = ("plain", "dspark", "dspark:cap=2", "dflash:block=4")
SHORT = Settings(10)


@pytest.fixture
def models():
    target, drafters = talking_models()
    return Models(target, dict(drafters))


def answer(models, prompt, lane="plain", settings=USUAL, cancelled=lambda: False, **more):
    """(Began, text, token ids, Ended) of a request."""
    spec = read_lane(lane, models.infos).spec
    events = [*complete(models, AnswerRequest(prompt, spec, settings, **more), cancelled)]
    pieces = [e for e in events if isinstance(e, Piece)]
    assert isinstance(events[0], Began) and isinstance(events[-1], Ended)
    return events[0], "".join(p.text for p in pieces), [i for p in pieces for i in p.token_ids], events[-1]


def user(text):
    return {"role": "user", "content": text}


@pytest.mark.parametrize("lane", LANES)
def test_a_conversation_is_the_plain_lanes_and_prefills_only_what_is_new(models, lane):
    talk, held = [user("Say something, in as many words as you like.")], 0
    for turn in range(3):
        prompt = models.target.encode_chat(talk)
        began, text, ids, ended = answer(models, talk, lane, SHORT)
        assert ids == plain_ids(models.target, prompt, SHORT) and ended.finish in ("stop", "length")
        assert list(began.prompt_ids) == prompt and began.cached == held
        talk += [{"role": "assistant", "content": text}, user(f"And {turn}?")]
        following, whole = models.target.encode_chat(talk), [*prompt, *ids]
        held = next((i for i, (a, b) in enumerate(zip(whole, following, strict=False)) if a != b), len(whole))
        assert held > OPENING


def test_a_conversation_keeps_its_cache_to_the_last_token(models):
    """Where the next prompt repeats all of the answer, only the anchor's position is computed again."""
    for lane in LANES:
        first = [5, 17, 80, 3, 99, 120, 44, 8, 61, 7, 200, 31]
        _, _, ids, _ = answer(models, first, lane, Settings(8, stop_ids=frozenset()))
        following = [*first, *ids, 77, 78, 79]
        began, _, more, _ = answer(models, following, lane, Settings(8, stop_ids=frozenset()))
        assert more == plain_ids(models.target, following, Settings(8, stop_ids=frozenset()))
        assert len(first) + len(ids) - began.cached <= 1, lane


@pytest.mark.parametrize("name", ["E", "formats/S4_dspark_swa_noncausal_rnn"])
def test_wrapped_windows_go_back_by_snapshots(name, monkeypatch):
    golden = load_golden(GOLDEN / name)
    monkeypatch.setattr(golden.target, "text", SimpleNamespace(token_bytes=lambda token_id: b"x"))
    models = Models(golden.target, {golden.drafter.info.method.lower(): golden.drafter})
    rng, free = random.Random(4), frozenset()
    for lane in ("plain", golden.drafter.info.method.lower() + ":full"):
        ids = [rng.randrange(3, golden.target.vocab_size) for _ in range(120)]
        _, _, out, _ = answer(models, ids, lane, Settings(70, stop_ids=free))
        for cut, extra in ((len(ids) + len(out), 5), (len(ids) - 3, 9), (len(ids) - 3, 12), (40, 30)):
            prompt = [*ids, *out][:cut] + [rng.randrange(3, golden.target.vocab_size) for _ in range(extra)]
            began, _, got, _ = answer(models, prompt, lane, Settings(6, stop_ids=free))
            assert got == plain_ids(golden.target, prompt, Settings(6, stop_ids=free)), (lane, cut)
            if cut == len(ids) - 3:
                assert began.cached >= len(ids) - OPENING, "the snapshot before the answer"


@pytest.mark.parametrize("name", ["qwen3_5", "lfm2"])
def test_recurrent_layers_go_back_a_little_or_by_snapshots(name, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    target = load_target(saved(name, tmp_path / "target"))
    monkeypatch.setattr(target, "text", SimpleNamespace(token_bytes=lambda token_id: b"x"))
    models, rng, free = Models(target, {}), random.Random(4), frozenset()
    ids = [rng.randrange(3, target.vocab_size) for _ in range(150)]
    _, _, out, _ = answer(models, ids, "plain", Settings(90, stop_ids=free))
    cuts = (len(ids) + len(out), 5), (len(ids) + 60, 4), (len(ids) - 3, 9), (len(ids) - 3, 12), (40, 30)
    for cut, extra in cuts:
        prompt = [*ids, *out][:cut] + [rng.randrange(3, target.vocab_size) for _ in range(extra)]
        began, _, got, _ = answer(models, prompt, "plain", Settings(6, stop_ids=free))
        assert got == plain_ids(target, prompt, Settings(6, stop_ids=free)), cut
        if cut >= len(ids) - 3:
            assert began.cached >= len(ids) - OPENING, cut


def test_another_conversation_branches_off_and_leaves_the_first_as_it_was(models):
    rng = random.Random(2)
    common = [rng.randrange(240) for _ in range(60)]
    one, two = common + [1] * 30, common + [2] * 30
    answer(models, [*one, *[3] * 380], "dspark:full", Settings(2))
    size = models.prefixes.nbytes
    answer(models, two[:64], "dspark:full", Settings(2))
    assert models.prefixes.nbytes - size < 0.7 * size, "no more is copied than what both begin with"
    models.prefixes = Prefixes()
    for prompt, cached in ((one, 0), (two, 60), (one, 89), (two, 89)):
        began, _, ids, _ = answer(models, prompt, "dspark:full", Settings(8, stop_ids=frozenset()))
        assert began.cached == cached
        assert ids == plain_ids(models.target, prompt, Settings(8, stop_ids=frozenset()))


def test_a_sampled_answer_is_the_same_with_and_without_a_prefix(models):
    settings = Settings(12, temperature=0.9, top_p=0.9, top_k=40, seed=5)
    for lane in ("plain", "dspark:full"):
        texts = {answer(models, [user("Draw.")], lane, settings)[1] for _ in range(2)}
        assert len(texts) == 1
        assert len(models.prefixes)


def test_a_strict_answer_is_plain_decodings_own_whatever_was_left_behind(models):
    models.target, models.noise = NoisyTarget(models.target, 1, on_logits=1.0, on_cache=0.2), Noise(2.0, 2.0)
    free, right = Settings(30, stop_ids=frozenset()), []
    for seed in range(3):
        prompt = [(seed * 7 + i * 3) % 200 for i in range(20)]
        own = plain_ids(models.target, prompt, free)
        normal = answer(models, prompt, "dspark:full", free)[2]
        began, _, ids, ended = answer(models, prompt, "dspark:full", free, strict=True)
        assert ids == own and began.cached == 0 and any(r.again for r in ended.lane.rounds)
        right.append(normal == own)
    assert not all(right), "it would be so without strict mode"
    with pytest.raises(DecodeError, match="Strict mode is for greedy answers"):
        answer(models, [5] * 9, "dspark:full", Settings(3, temperature=1.0), strict=True)
    assert answer(models, [5] * 9, "plain", free, strict=True)[3].finish == "length"


def test_memory_is_bounded(models):
    models.prefixes = Prefixes(budget=3_000_000)
    for n in range(6):
        answer(models, [n] * (60 + 40 * n), "dspark:cap=1", Settings(4))
        assert models.prefixes.nbytes <= 3_000_000 and len(models.prefixes) <= 4
    assert len(models.prefixes)
    models.prefixes = Prefixes(budget=10)
    answer(models, [5] * 40, "plain", Settings(4))
    assert not len(models.prefixes)


@pytest.mark.parametrize("lane", ["plain", "dspark:full"])
def test_a_stop_ends_the_decode_within_a_round_and_what_is_there_is_kept(models, lane):
    prompt, free = [9] * 300, Settings(30, stop_ids=frozenset())
    whole = plain_ids(models.target, prompt, free)
    for after in (1, 2, 4):
        calls = iter(range(1000))
        _, _, ids, ended = answer(models, prompt, lane, free, lambda: next(calls) >= after)  # noqa: B023
        assert ended.finish == "cancelled" and ids == whole[: len(ids)] and len(ids) < 30
    began, _, ids, _ = answer(models, prompt, lane, free)
    assert began.cached >= 256 and ids == whole


def test_what_does_not_fit_is_refused_in_a_sentence(models):
    with pytest.raises(DecodeError, match="the context of talking holds 512"):
        answer(models, [5] * 512)
    with pytest.raises(DecodeError, match="outside the vocabulary"):
        answer(models, [5, 256])
    models.drafters["dspark"] = "it is broken."
    with pytest.raises(LaneError, match="DSpark is not running: it is broken"):
        spec = replace(read_lane("dflash", models.infos).spec, method="DSpark")
        [*complete(models, AnswerRequest([5] * 9, spec, Settings(3)))]
    assert answer(models, [5] * 510)[3].finish == "length"


def test_thinking_where_the_template_has_a_switch(models):
    off, on = (answer(models, [user("Hm.")], thinking=thinking)[0].prompt_ids for thinking in (False, True))
    assert len(on) < len(off) and off[: len(on)] == on, "Qwen3's template closes the thought where it is off"
    models.target.text.tokenizer, before = _without_switch(models.target.text.tokenizer)
    try:
        with pytest.raises(ModelError, match="no switch for thinking"):
            answer(models, [user("Hm.")], thinking=True)
    finally:
        models.target.text.tokenizer.chat_template = before


def _without_switch(tokenizer):
    before = tokenizer.chat_template
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    return tokenizer, before


class Pieces:
    """A vocabulary of strings of bytes, where a tokenizer would be."""

    def __init__(self, pieces):
        self.pieces = pieces

    def __call__(self, token_id):
        return self.pieces[token_id]


def reference(text, stops):
    """The text up to the stop string that is complete first."""
    for end in range(len(text) + 1):
        if found := [s for s in stops if s and text[:end].endswith(s)]:
            return text[: end - max(map(len, found))], True
    return text, False


def test_stop_strings_end_a_text_wherever_tokens_begin_and_end():
    rng = random.Random(7)
    for _ in range(1500):
        letters = rng.choice(["ab", "abé", "a😀b", "aé漢"])
        text = "".join(rng.choice(letters) for _ in range(rng.randrange(24)))
        data, pieces = text.encode(), []
        while data:
            n = rng.randrange(1, 5)
            pieces.append(data[:n])
            data = data[n:]
        stops = ["".join(rng.choice(letters) for _ in range(rng.randrange(1, 5))) for _ in range(rng.randrange(4))]
        out, sent = AnswerText(Pieces(pieces), stops), ""
        expected, stopped = reference(text, stops)
        for token in range(len(pieces)):
            sent += "".join(t for t, _ in out.add(token, bool(token % 2)))
            assert expected.startswith(sent), "nothing is sent that a stop string takes back"
        sent += "".join(t for t, _ in out.end())
        assert (sent, out.stopped) == (expected, stopped), (text, stops, pieces)


def test_half_a_character_is_never_sent():
    whole = "é漢😀".encode()
    for cut in range(len(whole)):
        out = AnswerText(Pieces([bytes([b]) for b in whole[:cut]]))
        sent = "".join(t for token in range(cut) for t, _ in out.add(token, False))
        sent += "".join(t for t, _ in out.end())
        assert sent == whole[:cut].decode(errors="ignore")


@pytest.mark.parametrize("lane", ["dspark:full", "dflash:block=5"])
def test_stop_strings_and_ids_of_an_answer(models, lane):
    prompt, free = [*range(40, 70)], Settings(24, stop_ids=frozenset())
    ids = plain_ids(models.target, prompt, free)
    stream = TextStream(models.target.token_bytes)
    text = "".join(map(stream.add, ids)) + stream.end()
    for size in (1, 3):
        for at in range(size, len(text) - size, 13):
            stop = text[at : at + size]
            _, got, some, ended = answer(models, prompt, lane, free, stop=(stop, "never to be found"))
            assert got == text[: text.index(stop)] and ended.finish == "stop" and some == ids[: len(some)]
    _, got, some, ended = answer(models, prompt, lane, free, stop_ids=frozenset([ids[7], 2**70]))
    at = ids.index(ids[7])
    assert some == ids[: at + 1] and ended.finish == "stop"
    began, got, some, _ = answer(models, prompt, lane, free)
    assert got.rstrip("\ufffd") == text.rstrip("\ufffd") and some == ids and began.cached == len(prompt) - 1


@pytest.mark.parametrize("begun", [None, Thought("<think>", spelled=True)])
def test_a_thought_is_apart_from_the_answer_wherever_tokens_begin_and_end(begun):
    rng = random.Random(3)
    for _ in range(400):
        thought = "".join(rng.choice("a< /\n>") for _ in range(rng.randrange(12)))
        answer = "".join(rng.choice("b< \n>") for _ in range(rng.randrange(8)))
        data = ("" if begun else "\n<think>") + thought + "</think>" + answer
        pieces = []
        while data:
            n = rng.randrange(1, 6)
            pieces.append(data[:n].encode())
            data = data[n:]
        out, sent, thoughts = ChatText(Pieces(pieces), ["a", "bb"], begun), "", ""
        for token in range(len(pieces)):
            sent += "".join(t for t, _ in out.add(token, False))
            thoughts += "".join(t for t, _ in out.take_thought())
        sent += "".join(t for t, _ in out.end())
        thoughts += "".join(t for t, _ in out.take_thought())
        assert (sent, thoughts) == (answer.lstrip().partition("bb")[0], thought.strip()), pieces


def test_an_answer_without_a_thought_is_all_there():
    for text in ("", "\n ", "<", "<thin", " <html> <think> x</think>", "[THIN", "Hi </think>"):
        out = ChatText(Pieces([c.encode() for c in text]))
        sent = "".join(t for token in range(len(text)) for t, _ in out.add(token, False))
        assert sent + "".join(t for t, _ in out.end()) == text and not out.take_thought()
    cut = ChatText(Pieces([b"Hm <", b"/th"]), begun=Thought("<think>", spelled=True))
    assert [cut.add(0, False), cut.add(1, False), cut.end()] == [[], [], []]
    assert "".join(t for t, _ in cut.take_thought()) == "Hm </th"
