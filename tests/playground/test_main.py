"""The program itself: its command line, and what it serves."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest

from dspark_core.playground import access, environment, serve
from dspark_core.playground.access import chosen_token
from tests.conftest import as_here
from tests.playground.replay import ReplayEngine, three_lanes
from tests.scripts.odd_environments import ENVIRONMENTS, outcome, without_a_directory, without_privileges


def test_it_serves_the_page_as_the_command_line_says(monkeypatch):
    served = []
    monkeypatch.setattr(serve, "PresetEngine", lambda *asked: ReplayEngine(*three_lanes([" a", " b"])))
    monkeypatch.setattr(serve, "launch", lambda page, port, browser, ready: served.append((page, port, browser)))
    serve.main(["--port", "7861", "--no-browser"])
    serve.main([])
    assert [(port, browser) for _, port, browser in served] == [(7861, False), (None, True)]
    assert all(isinstance(page, gr.Blocks) for page, _, _ in served)


def test_without_a_preset_it_ends_and_says_why(monkeypatch, capsys):
    monkeypatch.setattr(serve, "ModelSources", lambda: SimpleNamespace(presets={}, bad=("x.toml: no target.",)))
    with pytest.raises(SystemExit) as end:
        serve.main([])
    assert end.value.code == 1 and capsys.readouterr().err == "No preset can be used: x.toml: no target.\n"


def hears_of_sigterm(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        time.sleep(1)
        return True
    (caught,) = (line.split()[1] for line in status.read_text().splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


@pytest.fixture
def hangs_up():
    """Under nohup a program hears nothing of SIGHUP, nor do those that it starts."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangs_up")
@pytest.mark.parametrize(
    ("state", "number", "status"),
    [("importing", signal.SIGINT, 130), ("importing", signal.SIGHUP, 129), ("loading", signal.SIGTERM, 143)],
)
def test_it_ends_at_once_and_in_one_sentence(tmp_path, state, number, status):
    """And leaves no file behind. tests/scripts/ends_of_life.py does the same in every state."""
    program = [sys.executable, "-P", "app.py", "--no-browser"]  # -P, or PYTHONSAFEPATH: no directory goes on the path
    where = {"cwd": Path(__file__).parents[2], "env": os.environ | {"GRADIO_TEMP_DIR": str(tmp_path)}}
    with subprocess.Popen(program, stdout=-1, stderr=-1, text=True, **where) as app:
        if state == "importing":
            while not hears_of_sigterm(app.pid):
                time.sleep(0.01)
        else:
            app.stdout.readline()  # it runs, and its model is being loaded
        began = time.monotonic()
        app.send_signal(number)
        said = app.communicate(timeout=120)[1]
        took = time.monotonic() - began
    how = "Ctrl+C" if number == signal.SIGINT else signal.Signals(number).name
    assert (app.returncode, said) == (status, f"\nDSpark Playground has ended ({how}).\n") and took < as_here(2)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("port", "words"),
    [
        ("99999", "There is no port 99999: choose one from 1024 to 65535, or 0 for any that is free.\n"),
        ("-1", "There is no port -1: choose one from 1024 to 65535, or 0 for any that is free.\n"),
        ("web", "--port takes a number from 0 to 65535, not 'web'.\n"),
        ("", "--port takes a number from 0 to 65535, not ''.\n"),
        ("used", "Port {used} is in use by another program: choose another one with --port.\n"),
        ("80", "Port 80 is for the administrator: choose one from 1024 to 65535.\n"),
    ],
)
def test_a_port_that_cannot_be_had_is_one_sentence_before_anything_is_loaded(monkeypatch, capsys, port, words):
    monkeypatch.setattr(serve, "Worker", lambda load: pytest.fail("loads"))
    if port == "80":  # as it is for who is no administrator
        monkeypatch.setattr(socket.socket, "bind", lambda *given: (_ for _ in ()).throw(PermissionError(13, "no")))
    with socket.socket() as taken:
        if port == "used":
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = str(taken.getsockname()[1])
            words = words.format(used=port)
        with pytest.raises(SystemExit) as end:
            serve.main(["--port", port, "--no-browser"])
    assert end.value.code == 2 and capsys.readouterr().err == words


def test_port_0_is_any_that_is_free(monkeypatch):
    asked = []
    monkeypatch.setattr(serve, "PresetEngine", lambda *asked: ReplayEngine(*three_lanes([" a", " b"])))
    monkeypatch.setattr(serve, "launch", lambda page, port, browser, ready: asked.append(port))
    serve.main(["--port", "0", "--no-browser"])
    assert asked == [0]


def test_a_token_is_asked_for_where_others_use_the_machine(monkeypatch):
    def answer(*users):
        listed = SimpleNamespace(stdout="".join(f"{uid:>5}\n" for uid in users))
        monkeypatch.setattr(access.subprocess, "run", lambda *command, **options: listed)

    monkeypatch.setattr(access.os, "getuid", lambda: 1000)
    answer(0, 1, 1000, 65534)
    assert not chosen_token(None) and not chosen_token(False)
    assert len(chosen_token(True)) >= 32 and chosen_token(True) != chosen_token(True)
    answer(0, 1000, 1001)
    assert chosen_token(None) and not chosen_token(False)
    monkeypatch.setenv(access.VARIABLE, "mine-is-long-enough")
    assert chosen_token(None) == chosen_token(True) == "mine-is-long-enough"
    monkeypatch.setenv(access.VARIABLE, "short")
    with pytest.raises(ValueError, match="must be 16 to 200"):
        chosen_token(None)


def test_without_a_place_for_temporary_files_it_ends_in_a_sentence(monkeypatch):
    """A container whose disk is only for reading, for one."""

    def refuse(**how):
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr("dspark_core.store.tempfile.mkdtemp", refuse)
    monkeypatch.setattr(environment.os, "environ", dict(environment.os.environ))
    with pytest.raises(SystemExit, match=r"^There is no directory for temporary files"):
        environment._own_directory()


def test_in_a_directory_whose_name_is_no_text_it_ends_in_a_sentence(monkeypatch):
    monkeypatch.setattr(environment, "__file__", "/caf\udce9/dspark_core/playground/environment.py")
    with pytest.raises(SystemExit, match=r"^/caf\\ufffd: .* rename it, or set PYTHONUTF8=1\.$"):
        environment._need_utf8_path()


@pytest.mark.long
def test_it_starts_and_races_whatever_the_environment_says():
    """All of it at once; tests/scripts/odd_environments.py tries them one by one."""
    together = {}
    for name, variables in ENVIRONMENTS.items():
        if name not in ("no HOME", "a proxy that is no address"):
            together |= variables

    def before():
        without_a_directory()
        os.close(0)
        without_privileges(1024)()

    assert outcome(together, before) == "races"
