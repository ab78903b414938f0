"""Text of foreign models: the same as in this process, within limits that hold whatever its files do."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dspark_core.errors import Cancelled
from dspark_core.models import text_process
from dspark_core.models.text import Text
from dspark_core.models.text_process import ForeignText, TextProcess, interruptible, is_foreign, open_text
from dspark_core.presets import load_presets
from tests.conftest import as_here
from tests.models.build import QWEN, QWEN_TOKENS, refusal, write_tokenizer

LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
TALK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi <|im_end|> \ud83d é"}]


def model(path, template=QWEN, **changes):
    """A directory with a tokenizer, `changes` made to its tokenizer.json."""
    path.mkdir(exist_ok=True)
    write_tokenizer(path, QWEN_TOKENS, template, eos_token="<|im_end|>")
    file = path / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return path


def test_a_foreign_text_is_what_it_is_in_this_process(tmp_path):
    path = model(tmp_path)
    foreign, own = open_text(path, 251), Text(path, 251)
    assert isinstance(foreign, ForeignText) and foreign.encode_chat(TALK) == own.encode_chat(TALK)
    assert foreign.encode("a <think>") == own.encode("a <think>")
    assert foreign.openings[0] == own.openings[0] == "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert foreign.stop_ids == own.stop_ids and foreign.special == own.special and foreign.is_special(251)
    for how in ("__call__", "at_start"):
        mine, theirs = getattr(own.token_bytes, how), getattr(foreign.token_bytes, how)
        assert [theirs(i) for i in range(256)] == [mine(i) for i in range(256)]


def test_the_process_imports_nothing_that_takes_a_device(tmp_path, monkeypatch):
    """transformers looks for them. MLX for CUDA reserves more addresses than the process may have, and half an import
    of it ends a process at the next try."""
    for name in ("mlx", "torch"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
        (tmp_path / name / "core.py").write_text("import os\nos.abort()\n")
    (tmp_path / "torch" / "__init__.py").write_text("import os\nos.abort()\n")
    monkeypatch.syspath_prepend(tmp_path)
    process = TextProcess()
    try:
        assert ForeignText(process, model(tmp_path / "model"), 251).encode_chat(TALK)
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"template": LOOP}, r"did not come to an end within 1 s of computing\.$"),
        (
            {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAAAAAA////"}},
            r"tokenizer\.json: the tokenizer cannot be loaded \(Precompiled: .*\)\.$",
        ),
    ],
    ids=["a template without end", "a library that panics"],
)
def test_what_does_harm_is_refused_in_one_sentence(tmp_path, monkeypatch, changes, words):
    monkeypatch.setattr(text_process, "CALL_S", 1)
    monkeypatch.setattr(text_process, "LOAD_S", 1)
    path = model(tmp_path / "bad", **changes)
    message = refusal(lambda: open_text(path, None))
    assert str(path) in message and re.search(words, message), message


def test_a_stop_ends_what_has_no_end_and_the_model_goes_on(tmp_path):
    text = open_text(model(tmp_path, "{% if messages[0].content|length > 40 %}" + LOOP + "{% endif %}" + QWEN), None)
    began = time.monotonic()
    with interruptible(lambda: time.monotonic() > began + 0.2), pytest.raises(Cancelled):
        text.encode_chat([{"role": "user", "content": "x" * 50}])
    assert time.monotonic() - began < as_here(5)
    assert text.encode_chat(TALK) == Text(tmp_path, None).encode_chat(TALK)
    assert text.token_bytes(65) == Text(tmp_path, None).token_bytes(65)


def test_a_stop_is_heard_while_the_process_is_suspended_from_outside(tmp_path):
    """Also where the question is larger than a pipe holds."""
    text = open_text(model(tmp_path), None)
    os.kill(TextProcess.shared()._process.pid, signal.SIGSTOP)
    began = time.monotonic()
    with interruptible(lambda: time.monotonic() > began + 0.2), pytest.raises(Cancelled):
        text.encode("x" * 1_000_000)
    assert text.encode_chat(TALK) == Text(tmp_path, None).encode_chat(TALK)
    TextProcess.shared().kill()
    assert text.encode("x" * 100_000) == Text(tmp_path, None).encode("x" * 100_000)


def test_it_ends_with_the_process_that_started_it():
    """Also where that one was killed and this one is at work."""
    script = (
        "from dspark_core.models.text_process import TextProcess\nprint(TextProcess.shared()._process.pid)\ninput()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=-1, stdout=-1, cwd=Path(__file__).parents[2]) as parent:
        child = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 60
    while running(child):
        assert time.monotonic() < deadline, "it is still there"
        time.sleep(0.02)


def running(pid):
    try:
        os.kill(pid, 0)
        state = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True).stdout
        return bool(state.strip()) and state.strip() != "Z"
    except ProcessLookupError:
        return False


def test_where_no_process_can_be_started_nothing_limits_it_and_that_is_said(tmp_path, monkeypatch):
    def popen(*args, **more):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(subprocess, "Popen", popen)
    monkeypatch.setattr(TextProcess, "_shared", None)
    text = open_text(model(tmp_path), None)
    assert isinstance(text, Text) and text.encode_chat(TALK)
    assert text.unlimited.startswith("No process could be started for its tokenizer (PermissionError: ")


def test_this_packages_own_models_need_no_process(tmp_path):
    assert not is_foreign(load_presets()[0].target) and is_foreign(tmp_path)
