"""The command in the terminal: text, marks, figures, JSON, a conversation, and errors in one sentence."""

import errno
import io
import json
import os
import sys

import pytest

from dspark_core import generate
from dspark_core.decode.rounds import Settings
from dspark_core.race.answer import Piece
from dspark_core.race.lane_spec import read_lane
from dspark_core.race.loaded import Models
from tests.playground.talking import plain_ids, talking_models


class Screen(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def command(monkeypatch, capsys):
    """Run the command on tiny models: (standard output, standard error)."""
    target, drafters = talking_models()
    models = Models(target, dict(drafters))

    def run(*words, given="", screen=False):
        monkeypatch.setattr(
            generate, "load", lambda preset, lane: (models, read_lane(lane or "dspark", models.infos).spec)
        )
        monkeypatch.setattr(sys, "stdin", io.StringIO(given) if isinstance(given, str) else given)
        if screen:
            monkeypatch.setattr(sys, "stdout", out := Screen() if screen is True else screen)
            generate.main([*words, "--tokens", "12"])
            return out.getvalue(), capsys.readouterr().err
        generate.main([*words, "--tokens", "12"])
        return tuple(capsys.readouterr())

    run.models = models
    return run


def expected(models, *texts):
    target = models.target
    return plain_ids(target, target.encode_chat([{"role": "user", "content": t} for t in texts]), Settings(12))


@pytest.mark.parametrize("lane", ["plain", "dspark:cap=2"])
def test_an_answer_as_json_as_text_and_from_standard_input(command, lane):
    out, err = command("Say it.", "--lane", lane, "--json")
    document = json.loads(out)
    assert document["lane"] == lane and document["tokens"] == len(expected(command.models, "Say it.")) and not err
    assert (document["proposed"] > 0) == (lane != "plain") and document["cached_tokens"] == 0
    again, figures = command("-", "--lane", lane, given="Say it.")
    assert again == document["text"] + "\n"
    assert figures.startswith(f"[{lane}, ") and "tok/s" in figures and "known)" in figures
    assert json.loads(command("Say it.", "--lane", lane, "--json", "--stop", document["text"][3:5])[0])["text"] in again


def test_accepted_drafts_are_bold_on_a_terminal_which_obeys_no_model(command, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    marked, _ = command("Say it.", "--lane", "dspark", screen=True)
    plain, _ = command("Say it.", "--lane", "dspark", "--plain", screen=True)
    assert generate.BOLD in marked and "\x1b" not in plain
    assert marked.replace(generate.BOLD, "").replace(generate.REGULAR, "") == plain
    for name, value in (("TERM", "dumb"), ("NO_COLOR", "1")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(name, value)
            assert command("Say it.", "--lane", "dspark", screen=True)[0] == plain, name
    screen = Screen()
    out = generate.Terminal(screen, marked=True, silent=False)
    out.write(Piece((("\x1b]0;x\x07\x9b2J", False), ("a\tb\n", True)), (1, 2)))
    assert screen.getvalue() == f"\ufffd]0;x\ufffd\ufffd2J{generate.BOLD}a\tb\n{generate.REGULAR}"


def test_a_conversation_goes_on_from_what_is_there(command):
    lines = [json.loads(line) for line in command("--chat", "--json", given="One.\n\nTwo.\n")[0].splitlines()]
    assert [line["cached_tokens"] > 0 for line in lines] == [False, True]
    assert lines[1]["prompt_tokens"] > lines[0]["prompt_tokens"] + lines[0]["tokens"]
    out, err = command("--chat", "--json", given=f"{'long ' * 200}\nTwo.\n")
    assert "error: The prompt has" in err and json.loads(out)["tokens"], "the conversation goes on without that turn"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["x", "--lane", "nope"], "error: There is no lane 'nope'; there are plain, dspark, dflash, dflash2, "),
        (["x", "--preset", "nope"], "error: There is no preset 'nope'; there are smollm2-135m, "),
        (["x", "--tokens", "0"], "error: max_tokens must be at least 1, not 0."),
        (["x", "--temperature", "-1"], "error: temperature must be between 0 and 100, not -1.0."),
    ],
)
def test_what_cannot_be_done_is_one_sentence(words, sentence):
    with pytest.raises(SystemExit) as end:
        generate.main(words)
    assert str(end.value.code).startswith(sentence) and "\n" not in str(end.value.code)


@pytest.mark.parametrize("given", [b"", b" \n\n", None])
def test_nothing_to_answer_is_said_before_anything_is_loaded(monkeypatch, given):
    monkeypatch.setattr(generate, "load", lambda *asked: pytest.fail("loads"))
    monkeypatch.setattr(sys, "stdin", None if given is None else io.TextIOWrapper(io.BytesIO(given), "utf-8"))
    for words in (["-"], [""], ["  "]):
        with pytest.raises(SystemExit) as end:
            generate.main(words)
        assert str(end.value.code).startswith("error: There is nothing to answer"), words


def test_input_that_is_no_text_is_read_all_the_same(command):
    given = io.TextIOWrapper(io.BytesIO(b"caf\xe9 \xff\x00"), "utf-8")
    out, _ = command("-", "--json", given=given)
    own = expected(command.models, "caf\ufffd \ufffd\0")
    assert json.loads(out)["tokens"] == len(own)


def test_strict_mode_can_be_asked_for(command):
    strict, normal = (json.loads(command("Say it.", "--json", *more)[0])["text"] for more in (["--strict"], []))
    assert strict == normal
    with pytest.raises(SystemExit, match=r"error: Strict mode is for greedy answers"):
        command("Say it.", "--strict", "--temperature", "1")


@pytest.mark.parametrize(("number", "end"), [(errno.EPIPE, 141), (errno.ENOSPC, "error: No space left on device.")])
def test_an_output_that_takes_no_more_ends_it(command, number, end):
    screen = Screen()
    screen.flush = lambda: (_ for _ in ()).throw(OSError(number, os.strerror(number)))
    with pytest.raises(SystemExit) as ended:
        command("Say it.", screen=screen)
    assert ended.value.code == end


def test_without_a_standard_output_it_ends_well(command, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(generate, "load", lambda *asked: (command.models, read_lane("plain", ()).spec))
    generate.main(["Say it.", "--tokens", "3"])


def test_a_thought_is_faint_on_a_terminal_and_apart_elsewhere(capsys):
    pieces = [Piece((), (1,), (("Hm", False),)), Piece((("Blue", False),), (2,), ((".", True),))]
    screen, pipe = Screen(), io.StringIO()
    for out in (generate.Terminal(screen, True, False), generate.Terminal(pipe, True, False)):
        for piece in pieces:
            out.write(piece)
        assert (out.text, out.thought) == ("Blue", "Hm.")
    faint = "".join(f"{generate.FAINT}{text}{generate.REGULAR}" for text in ("Hm", "."))
    assert screen.getvalue() == f"{faint}\n\nBlue"
    assert pipe.getvalue() == "Blue" and capsys.readouterr().err == "Hm.\n\n"
