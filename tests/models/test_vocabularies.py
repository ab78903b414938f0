"""Published vocabularies, cut small (see vocabularies/NOTICE): what the page streams is what they decode to."""

import random
from itertools import pairwise

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from dspark_core.decode.rounds import Round, Settings, Start
from dspark_core.models.text import Text
from dspark_core.models.token_bytes import TextStream, TokenBytes
from dspark_core.playground.stream import LaneText
from dspark_core.race.records import PLAIN, LaneRecord, LaneSpec, RaceRecord, RaceRequest
from dspark_core.race.trace import TokenText, dumps, loads, trace_of

from .build import VOCABULARIES
from .build import VOCABULARY_NAMES as NAMES
from .conversations import random_text


def streamed(token_bytes, ids) -> str:
    """What the page shows of an answer of these tokens."""
    text = LaneText(token_bytes, frozenset())
    return "".join([text.committed(i, "p")[1:] for i in ids]) + text.tail()


def decoded(tokenizer, ids) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("name", NAMES)
def test_the_page_streams_what_the_vocabulary_decodes_to(name):
    text, rng = Text(VOCABULARIES / name, None), random.Random(name)
    for _ in range(2000):
        words = random_text(rng)
        ids = text.tokenizer.encode(words, add_special_tokens=rng.random() < 0.5)
        assert streamed(text.token_bytes, ids) == decoded(text.tokenizer, ids), (words, ids)


@pytest.mark.parametrize("name", NAMES)
def test_every_token_alone_and_any_order_of_tokens(name):
    text, rng = Text(VOCABULARIES / name, None), random.Random(name)
    size = len(text.tokenizer)
    whole = [i for i in range(size) if b"\xff" not in text.token_bytes(i) and _whole(text.token_bytes(i))]
    assert len(whole) > size / 2
    for _ in range(500):
        ids = rng.sample(whole, 8)
        assert streamed(text.token_bytes, ids) == decoded(text.tokenizer, ids), ids
    assert text.token_bytes(size + 1000) == b"" == text.token_bytes.at_start(size + 1000)  # padding of the weights


@pytest.mark.parametrize("name", NAMES)
def test_answers_that_end_or_go_wrong_inside_a_character(name):
    """Cut off anywhere, and in any order of tokens; the same from a saved race."""
    streams_as_decoded(name, 80)


def streams_as_decoded(name: str, count: int) -> None:
    text, rng = Text(VOCABULARIES / name, None), random.Random(name)
    emoji = [text.encode("👩‍🔬😀é"), text.encode("\U00020000A한")]
    parts = [i for i in range(len(text.tokenizer)) if not _whole(text.token_bytes(i)) or text.token_bytes.is_byte(i)]
    for k in range(count):
        ids = text.encode(random_text(rng)) + rng.choice(emoji)
        wrong = [rng.choice([rng.choice(parts or [0]), rng.randrange(len(text.tokenizer))]) for _ in range(8)]
        for answer in (ids[: rng.randrange(len(ids) + 1)], wrong, ids[:3] + wrong + ids[3:]):
            stream = TextStream(text.token_bytes)
            pieces = [stream.add(i) for i in answer]
            whole = decoded(text.tokenizer, answer)
            assert "".join(pieces) + stream.end() == whole == text.tokenizer.decode(answer), answer
            if k < 20:
                assert streamed(saved(text.token_bytes, answer), answer) == whole


def saved(token_bytes: TokenBytes, ids: list[int]) -> TokenText:
    """What a race of this answer keeps of them in its file."""
    spec = LaneSpec(PLAIN)
    rounds = [Round(n, 1 + n, a, (), 0, 0, b, True, (b,), 0.1 + n) for n, (a, b) in enumerate(pairwise(ids))]
    lanes = [LaneRecord(spec, Start(ids[0], 1, 0.1), rounds)] * 2 if ids else []
    race = RaceRecord("a target", "bf16", RaceRequest("Hi", (spec, spec), Settings(5000)), 1, lanes, stopped=True)
    trace = trace_of(race, token_bytes, frozenset(), {}, {}, {})
    return loads(dumps(trace)).token_text if ids else trace.token_text


def _whole(data: bytes) -> bool:
    return data.decode(errors="replace").encode() == data


@pytest.mark.parametrize("name", ["gemma3", "gemma4", "llama2"])
def test_a_letter_that_byte_level_vocabularies_use_is_a_letter_here(name):
    text = Text(VOCABULARIES / name, None)
    letter = text.tokenizer.convert_tokens_to_ids("\u0120")
    assert letter not in (None, text.tokenizer.unk_token_id) and text.token_bytes(letter) == "\u0120".encode()
    words = "Two  spaces,\n\na line\nand café"
    assert streamed(text.token_bytes, text.encode(words)) == words


def test_a_first_space_is_left_out_as_the_decoder_does_even_of_drafts():
    text = Text(VOCABULARIES / "llama2", None)
    ids = text.encode("the sky")
    assert text.token_bytes(ids[0])[:1] == b" " and text.token_bytes.at_start(ids[0])[:1] != b" "
    lane = LaneText(text.token_bytes, frozenset())
    assert "".join(t[1:] for t in lane.rejected(tuple(ids))) == "the sky"  # nothing is committed yet
    assert lane.committed(ids[0], "p")[1:2] != " " and lane.committed(ids[0], "a")[1:2] == " "
    saved = TokenText({i: text.token_bytes(i) for i in ids}, {ids[0]: text.token_bytes.at_start(ids[0])})
    assert streamed(saved, ids) == "the sky"


def test_bytes_of_a_run_wait_for_its_end_and_drafts_beside_them_do_not():
    text = Text(VOCABULARIES / "llama2", None)
    run, (word, *_) = text.encode("😀")[1:], text.encode("sky")
    assert len(run) == 4 and all(map(text.token_bytes.is_byte, run)) and not text.token_bytes.is_byte(word)
    lane = LaneText(text.token_bytes, frozenset({2}))
    assert [lane.committed(i, "a") for i in [word, *run]] == ["a" + text.tokenizer.decode([word]), *["a"] * 4]
    drafts = ["r" + text.token_bytes(word).decode(), "d", "d\ufffd"]
    assert lane.rejected((word, *run[:2])) == drafts == lane.rejected((word, *run[:2]))
    assert lane.committed(2, "p") == "e</s>" and lane.tail() == "😀"
    other = LaneText(text.token_bytes, frozenset())
    assert [other.committed(i, "a") for i in run[:2]] == ["a", "a"]
    assert other.rejected(tuple(run[2:])) == ["r", "d😀"] and other.tail() == "\ufffd\ufffd"


# ---- decoders that no vocabulary above has ------------------------------------------------------------------


def fast(model, decoder, pre_tokenizer=None, normalizer=None, added=()):
    whole = Tokenizer(model)
    if decoder is not None:
        whole.decoder = decoder
    if pre_tokenizer is not None:
        whole.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        whole.normalizer = normalizer
    whole.add_tokens(list(added))
    return PreTrainedTokenizerFast(tokenizer_object=whole, unk_token="<unk>")


SPM = {"<unk>": 0} | {f"<0x{b:02X}>": b + 1 for b in range(256)} | {c: i for i, c in enumerate("▁abcdeĠé", start=257)}
LETTERS = {c: i for i, c in enumerate(sorted(ByteLevel.alphabet()))} | {"<unk>": 256}
ADDED = [
    AddedToken("<|two words|>", normalized=False),
    AddedToken("<思考>", special=True),
    AddedToken("é!", normalized=False),
    AddedToken("\n\n", normalized=False),
    AddedToken("▁▁", normalized=False),
]
BPE = {"merges": [], "byte_fallback": True, "unk_token": "<unk>"}
DECODERS = {
    "byte level": (models.BPE(LETTERS, []), decoders.ByteLevel(), ByteLevel(add_prefix_space=False)),
    "byte level in a sequence": (
        models.BPE(LETTERS, []),
        decoders.Sequence([decoders.ByteLevel(), decoders.Fuse()]),
        ByteLevel(add_prefix_space=False),
    ),
    "metaspace": (models.BPE(SPM, **BPE), decoders.Metaspace(), pre_tokenizers.Metaspace()),
    "metaspace without a first": (
        models.BPE(SPM, **BPE),
        decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="never")]),
        pre_tokenizers.Metaspace(prepend_scheme="never"),
    ),
    "wordpiece": (
        models.WordPiece({"<unk>": 0, "a": 1, "bc": 2, "##d": 3, "##e": 4, "!": 5}, unk_token="<unk>"),
        decoders.WordPiece(cleanup=False),
        pre_tokenizers.BertPreTokenizer(),
    ),
    "strip": (
        models.BPE(SPM, **BPE),
        decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        ),
        None,
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
    ),
    "none": (models.WordLevel({"<unk>": 0, "a": 1, "bc": 2}, unk_token="<unk>"), None, None),
    "none but joined": (models.WordLevel({"<unk>": 0, "a": 1, "bc": 2}, unk_token="<unk>"), decoders.Fuse(), None),
}


@pytest.mark.parametrize("name", DECODERS)
def test_decoders_of_every_kind(name):
    tokenizer, rng = fast(*DECODERS[name], added=ADDED), random.Random(name)
    token_bytes = TokenBytes(tokenizer)
    parts = [*"abcde", " ", "  ", "a bc", "bcd", "é", "Ġ", "你", "\n\n", "!", *(t.content for t in ADDED)]
    for _ in range(500):
        words = "".join(rng.choices(parts, k=rng.randrange(10)))
        ids = tokenizer.encode(words, add_special_tokens=False)
        assert streamed(token_bytes, ids) == decoded(tokenizer, ids), (words, ids)


CLEANED = {
    "unigram": (
        models.Unigram(
            [("<unk>", 0.0), *((c, -5.0) for c in "▁abnmtsverl'.,?!"), ("▁.", -4.0), ("n't", -4.0)], unk_id=0
        ),
        decoders.Metaspace(),
        pre_tokenizers.Metaspace(),
    ),
    "wordpiece": (
        models.WordPiece(
            {c: i for i, c in enumerate(["<unk>", *"abntsv'.,?!", "##a", "##b", "##'"])}, unk_token="<unk>"
        ),
        decoders.WordPiece(cleanup=True),
        pre_tokenizers.BertPreTokenizer(),
    ),
    "bpe": DECODERS["byte level"],  # whose spaces transformers leaves alone
    "bpe, forced": DECODERS["byte level"],
}


@pytest.mark.parametrize("name", CLEANED)
def test_spaces_that_a_tokenizer_cleans_up(name):
    tokenizer, rng = fast(*CLEANED[name]), random.Random(name)
    tokenizer.clean_up_tokenization_spaces = True
    tokenizer.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output = name == "bpe, forced"
    token_bytes, changed = TokenBytes(tokenizer), 0
    for _ in range(300):
        ids = [rng.randrange(len(tokenizer)) for _ in range(rng.randrange(16))]
        words = "".join(rng.choices([" ", " ", "'", ".", ",", "a", " n't", " 've", " ' ", "n", "r", "v"], k=12))
        for answer in (ids, tokenizer.encode(words, add_special_tokens=False)):
            assert streamed(token_bytes, answer) == tokenizer.decode(answer), answer
            changed += tokenizer.decode(answer) != decoded(tokenizer, answer)
    assert (changed > 0) == (name in ("unigram", "bpe, forced", "wordpiece"))
