"""Golden sets for every test that compares with the reference, and the embedded model for the rest."""

import gc
import json
import os
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
import pytest

from dspark_core.models.checkpoint import load_drafter
from dspark_core.models.drafter import Drafter
from dspark_core.models.target import Target, load_target
from dspark_core.presets import load_presets

GOLDEN = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class Golden:
    """One golden set, loaded: models, expected tensors by name, traces."""

    name: str
    path: Path
    target: Target
    drafter: Drafter
    expected: dict[str, mx.array]
    trace: dict


def golden_paths(further: bool = False) -> list[Path]:
    """Every set in tests/golden and, if GOLDEN_DIR names a directory, there; `further`: those of the formats beyond
    DeepSpec's and z-lab's first DFlash, whose traces have another form."""
    roots = [GOLDEN / "formats" if further else GOLDEN]
    roots += [Path(os.environ["GOLDEN_DIR"])] if os.environ.get("GOLDEN_DIR") else []
    found = [p for root in roots for p in sorted(root.glob("*/trace.json"))]
    return [p.parent for p in found if ("speculative" not in json.loads(p.read_text())) == further]


_loaded: dict[Path, Golden] = {}
_targets: dict[bytes, Target] = {}  # by their weights, which most sets share


def load_golden(path: Path) -> Golden:
    if path not in _loaded:
        place = path / "target" if (path / "target").exists() else GOLDEN / "zlab_causal" / "target"
        weights = (place / "model.safetensors").read_bytes()
        target = _targets.get(weights) or load_target(place)
        _targets[weights] = target
        drafter = load_drafter(path / "drafter", target)
        expected = mx.load(str(path / "expected.safetensors"))
        _loaded[path] = Golden(
            path.name, path, target, drafter, expected, json.loads((path / "trace.json").read_text())
        )
    return _loaded[path]


@pytest.fixture(params=golden_paths(), ids=lambda p: p.name)
def golden(request) -> Golden:
    return load_golden(request.param)


@pytest.fixture(params=golden_paths(further=True), ids=lambda p: p.name)
def further(request) -> Golden:
    """A golden set of a further format."""
    return load_golden(request.param)


@pytest.fixture(scope="session")
def golden_a() -> Golden:
    return load_golden(GOLDEN / "A")


def as_here(seconds: float) -> float:
    """How long what takes `seconds` on a quiet machine may take on this one now: a thread at work may not get a core
    all the time."""
    began, worked = time.monotonic(), time.thread_time()
    while time.thread_time() < worked + 0.05:
        pass
    return seconds * (time.monotonic() - began) / 0.05


TEMPERATURES = (0.5, 0.7, 1.3, 2.0, 0.9, 3.0, 1.6)


@pytest.fixture(scope="session")
def golden_calibrated(golden_a, tmp_path_factory) -> Golden:
    """Golden set A with a calibration.json beside its drafter, whose temperatures are far from 1."""
    directory = tmp_path_factory.mktemp("calibrated") / "drafter"
    shutil.copytree(golden_a.path / "drafter", directory)
    (directory / "calibration.json").write_text(json.dumps({"temperatures": TEMPERATURES}))
    drafter = load_drafter(directory, golden_a.target)
    return replace(golden_a, name="A, calibrated", path=directory.parent, drafter=drafter)


@pytest.fixture(scope="session")
def golden_e() -> Golden:
    return load_golden(GOLDEN / "E")


@dataclass(frozen=True)
class Embedded:
    target: Target
    drafters: dict[str, Drafter]

    def chat(self, text: str) -> list[int]:
        return self.target.encode_chat([{"role": "user", "content": text}])


@pytest.fixture(scope="session")
def embedded() -> Embedded:
    preset = load_presets()[0]
    target = load_target(preset.target)
    return Embedded(target, {d.method: load_drafter(d.path, target) for d in preset.first_drafters.values()})


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """What the program writes down lies in a directory of this process: neither an earlier run nor the worker beside it
    decides what a test finds. (On a Mac the variable is not looked at.)"""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def pytest_collection_finish():
    """What was imported stays: no later collection, and every model that goes asks for one, searches through it."""
    gc.freeze()


def pytest_collection_modifyitems(items):
    """The files that take longest first, so that workers, which take whole files, end at the same time."""
    long = {"browser", "training", "test_package.py"}
    items.sort(key=lambda item: long.isdisjoint((item.path.parent.name, item.path.name)))
