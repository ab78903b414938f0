"""The bench as a command: its fields, and alternation with another engine over the line protocol."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PEER = Path(__file__).parents[1] / "fixtures" / "line_peer.py"


def bench(*arguments: str) -> list[dict]:
    command = [sys.executable, "-m", "dspark_core.bench", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=300)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.long
def test_one_object_a_line(tmp_path):
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"prompt": "Hi"}\n{"prompt": "never reached"}\n')
    rows = bench("--prompts", str(prompts), "--limit", "1", "--tokens", "4", "--cap", "2", "--profile")
    assert [r["engine"] for r in rows] == ["plain", "dspark", "dflash"]
    assert len({tuple(r["ids"]) for r in rows}) == 1
    for r in rows:
        assert r["prompt"] == 0 and r["tokens"] == len(r["ids"]) == 4
        assert r["tok_s"] > 0 and 1 <= r["tokens_per_round"] <= 3
        assert abs(sum(r["shares"].values()) - 1) < 1e-3
    assert rows[0]["tokens_per_round"] == 1


@pytest.mark.long
def test_against_another_engine(tmp_path):
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


def test_errors_are_one_line(tmp_path):
    command = [sys.executable, "-m", "dspark_core.bench", "--target", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=300)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: ") and "Traceback" not in done.stderr
