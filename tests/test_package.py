"""Installed by pip and started from another directory, the program finds its models and races."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RACE = """
import sys
from pathlib import Path

import dspark_core
from dspark_core.decode.rounds import Settings
from dspark_core.models.checkpoint import load_drafter
from dspark_core.models.target import load_target
from dspark_core.paths import assets
from dspark_core.presets import load_presets, load_prompts
from dspark_core.playground.widgets import script
from dspark_core.race.loaded import Models
from dspark_core.race.race import race
from dspark_core.race.records import LaneSpec, RaceRecord, RaceRequest

assert Path(dspark_core.__file__).is_relative_to(sys.argv[1]), dspark_core.__file__
assert assets().is_relative_to(sys.argv[1]) and load_prompts() and script("board")
preset = load_presets()[0]
target = load_target(preset.target)
first = preset.drafters[0]
models = Models(target, {first.method.lower(): load_drafter(first.path, target)})
request = RaceRequest("Hi.", (LaneSpec("plain"), LaneSpec(first.method)), Settings(4))
record = [event for _, event in race(models, request) if isinstance(event, RaceRecord)][0]
print(record.verdict.kind)
"""


@pytest.mark.long
def test_installed_by_pip_it_races_from_another_directory(tmp_path):
    where, elsewhere, source = tmp_path / "installed", tmp_path / "elsewhere", tmp_path / "source"
    elsewhere.mkdir()
    # A copy, since building leaves files where it builds.
    left_out = shutil.ignore_patterns(".*", "node_modules", "tests", "__pycache__", "dflash-*")
    shutil.copytree(ROOT, source, ignore=left_out)
    (source / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "requirements.txt", source / "tests")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(where), str(source)]
    pip += ["--no-compile", "--config-settings=--build-option=--compression=stored"]  # neither is what is looked at
    done = subprocess.run(pip, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (where / "bin" / "dspark-playground").exists()
    environment = {**os.environ, "PYTHONPATH": str(where), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    run = [sys.executable, "-c", RACE, str(where)]
    done = subprocess.run(run, cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "identical", done.stderr
