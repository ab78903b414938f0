"""The program itself: its command line, and what it serves."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest

from dspark_core.playground import serve
from tests.playground.replay import ReplayEngine, three_lanes


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


@pytest.mark.parametrize(
    ("state", "number", "status"), [("importing", signal.SIGINT, 130), ("loading", signal.SIGTERM, 143)]
)
def test_it_ends_at_once_and_in_one_sentence(state, number, status):
    """tests/scripts/ends_of_life.py does the same in every state."""
    program = [sys.executable, "app.py", "--no-browser"]
    with subprocess.Popen(program, cwd=Path(__file__).parents[2], stdout=-1, stderr=-1, text=True) as app:
        if state == "importing":
            while not hears_of_sigterm(app.pid):
                time.sleep(0.01)
        else:
            app.stdout.readline()  # it runs, and its model is being loaded
        began = time.monotonic()
        app.send_signal(number)
        said = app.communicate(timeout=20)[1]
        took = time.monotonic() - began
    how = "Ctrl+C" if number == signal.SIGINT else "SIGTERM"
    assert (app.returncode, said) == (status, f"\nDSpark Playground has ended ({how}).\n") and took < 2
