"""The bench as a command: its fields, and alternation with another engine over the line protocol."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dspark_core.bench.__main__ import CommandLine, main

from .made_models import models_of

PEER = Path(__file__).parents[1] / "fixtures" / "line_peer.py"


@pytest.fixture
def bench(tiny, capsys):
    """Runs the command with these arguments, on tiny models; what it printed."""

    def run(*arguments: str) -> list[dict]:
        main([*models_of(tiny), *arguments])
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


def parsed(*words: str) -> dict:
    return vars(CommandLine().build_parser()[0].parse_args(words))


@pytest.mark.parametrize("words", [[], ["--cap", "3", "--profile", "--limit", "2"], ["--raced", "--limit", "6"]])
def test_speed_is_what_is_meant_without_a_subcommand(words, monkeypatch):
    asked = []
    monkeypatch.setattr("dspark_core.bench.speed.measure_speed", lambda a: asked.append(vars(a)))
    main(words)
    main(["speed", *words])
    assert asked[0] == asked[1] and asked[0]["command"] == "speed"
    assert asked[0]["schedule"] == ("cap" if "--cap" in words else "full")
    assert asked[0]["lanes"] == "plain,dspark,dflash" and asked[0]["raced"] == ("--raced" in words)


def test_every_subcommand_has_its_defaults():
    speed, fair, exact, report = parsed("speed"), parsed("fair"), parsed("exact"), parsed("report", "--out", "x")
    assert [c["tokens"] for c in (speed, fair, exact, report)] == [64, 64, 64, 96]
    assert (exact["lanes"], exact["schedule"]) == ("dspark,dflash", "full")
    assert (report["lanes"], report["schedule"]) == ("plain,mlx-lm,dspark,dflash", "hardware")
    assert fair | {"do": 0, "command": 0, "repeat": 0} == speed | {"raced": True, "do": 0, "command": 0, "repeat": 0}


@pytest.mark.parametrize("words", [["--help"], ["speed", "--help"], ["fair", "-h"], ["exact", "-h"], ["report", "-h"]])
def test_every_subcommand_explains_itself(words, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(words)
    shown = capsys.readouterr().out
    assert f"usage: python -m dspark_core.bench {'' if words[0] == '--help' else words[0]}".rstrip() in shown
    assert words[0] != "--help" or all(f"\n    {name} " in shown for name in ("speed", "fair", "exact", "report"))


@pytest.mark.parametrize("words", [["reprot"], ["report"], ["exact", "--raced"], ["fair", "--against", "x"]])
def test_words_that_make_no_sense_are_refused(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert "Traceback" not in capsys.readouterr().err


def test_one_object_a_line_from_a_process_of_its_own(tiny, tmp_path):
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"prompt": "Hi"}\n{"prompt": "never reached"}\n')
    asked = ["--prompts", str(prompts), "--limit", "1", "--tokens", "4", "--cap", "2", "--profile"]
    command = [sys.executable, "-m", "dspark_core.bench", *models_of(tiny), *asked]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [r["engine"] for r in rows] == ["plain", "dspark", "dflash"]
    assert len({tuple(r["ids"]) for r in rows}) == 1
    for r in rows:
        assert r["prompt"] == 0 and r["tokens"] == len(r["ids"]) == 4
        assert r["tok_s"] > 0 and 1 <= r["tokens_per_round"] <= 3
        assert abs(sum(r["shares"].values()) - 1) < 1e-3
    assert rows[0]["tokens_per_round"] == 1


def test_against_another_engine(bench, tmp_path):
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"prompt": "Hi"}\n')
    rows = bench(
        *("--prompts", str(prompts), "--tokens", "3", "--lanes", "plain", "--repeat", "2"),
        *("--pair", "plain:theirs", "--against", f"{sys.executable} {PEER}"),
    )
    engines = [r["engine"] for r in rows if "engine" in r]
    assert engines == ["plain", "peer theirs"]
    assert rows[1]["tok_s"] == 2.0
    assert rows[2]["value"] == pytest.approx(rows[0]["tok_s"] / 2.0, rel=1e-3)
    assert rows[3]["median_ratio"] == "plain / peer theirs"


def test_lanes_in_alternation_with_mlx_lm(bench, tmp_path):
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"prompt": "Hi"}\n')
    rows = bench("--prompts", str(prompts), "--tokens", "4", "--lanes", "plain,mlx-lm", "--repeat", "2")
    assert [r["engine"] for r in rows[:2]] == ["plain", "mlx-lm"] and rows[0]["ids"] == rows[1]["ids"]
    assert all(len(r["ids"]) == 4 for r in rows[:2])
    assert all(r["low"] <= r["tok_s"] <= r["high"] for r in rows[:4])
    assert [(r["lane"], r["over"], r["same_ids"]) for r in rows[4:]] == [
        ("mlx-lm", "plain", 1.0),
        ("plain", "mlx-lm", 1.0),
    ]


@pytest.mark.parametrize(
    "asked", [["--repeat", "0"], ["--repeat", "2", "--profile"], ["--lanes", "mlx-lm", "--temperature", "1"]]
)
def test_what_does_not_go_together_is_refused(asked):
    with pytest.raises(SystemExit, match=r"^error: .+$") as end:
        main(asked)
    assert "\n" not in end.value.code


def test_errors_are_one_line(tmp_path):
    command = [sys.executable, "-m", "dspark_core.bench", "--target", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=300)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: ") and "Traceback" not in done.stderr
