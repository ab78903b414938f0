"""The program itself: its command line, and what it serves."""

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
