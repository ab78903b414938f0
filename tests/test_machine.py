"""One description of the machine for saved races, reports and `bench exact`; it names the device."""

import mlx.core as mx
import pytest

from dspark_core import machine
from dspark_core.bench.exactness import exactness
from dspark_core.bench.log import MUST_AGREE, Header, Log
from dspark_core.decode.measure import made_of
from dspark_core.machine import Device, device_of, mlx_device, physical_memory
from dspark_core.race.loaded import Models
from dspark_core.race.records import LaneSpec, RaceRecord, RaceRequest
from dspark_core.race.trace import dumps, loads
from tests.playground.tiny import TinyEngine

GPUS = [
    ("Metal", True, {"device_name": "Apple M2 Max", "max_recommended_working_set_size": 7 * 10**9}, "Apple M2 Max"),
    ("CUDA", False, {"device_name": "NVIDIA H100 80GB HBM3", "total_memory": 85 * 10**9}, "NVIDIA H100 80GB HBM3"),
    ("CUDA", False, {"architecture": "sm_90", "memory_size": 5}, "sm_90"),
    ("CUDA", False, {}, "of unknown name"),
]


@pytest.mark.parametrize(("kind", "metal", "info", "name"), GPUS)
def test_a_gpu_is_named(monkeypatch, kind, metal, info, name):
    class Gpu:
        type = mx.DeviceType.gpu

    monkeypatch.setattr(mx, "default_device", Gpu)
    monkeypatch.setattr(mx, "device_info", lambda device: info)
    monkeypatch.setattr(mx.metal, "is_available", lambda: metal)
    device = mlx_device()
    assert (device.kind, device.name) == (kind, name) and str(device) == f"{kind}, {name}"
    assert device_of(machine.machine()) == f"{kind}, {name}"


def test_a_cpu_is_named_by_its_processor():
    if mx.default_device().type != mx.DeviceType.cpu:
        pytest.skip("MLX computes on a GPU here")
    facts = machine.machine()
    assert facts["device"] == "CPU" and facts["processor"] and facts["memory"] and facts["system"]
    assert mlx_device().name and str(Device("CPU", "some chip", 1)) == "CPU"


def test_bench_exact_names_the_device(golden_a, tmp_path, monkeypatch):
    monkeypatch.setattr("dspark_core.store.cache_directory", lambda: tmp_path)
    first = next(exactness(Models(golden_a.target, {"dspark": golden_a.drafter}), [], [], 4))
    assert first["device"] == machine.machine()["device"] != ""


def test_a_race_takes_its_source_down_as_it_begins():
    """Whatever the engine holds afterwards, the trace is of the models that ran, on the device that they ran on."""
    from dspark_core.decode.rounds import Settings
    from dspark_core.playground.saved import traced

    engine = TinyEngine()
    request = RaceRequest("hi", (LaneSpec("plain"), LaneSpec("DSpark")), Settings(6, stop_ids=frozenset()))
    events = engine.race(request, lambda: False)
    record = next(e for _, e in events if isinstance(e, RaceRecord))
    for _ in events:
        pass
    engine.unload()
    trace = loads(dumps(traced(record)))
    assert set(record.lanes[1].output) <= trace.tokens.keys() and all(trace.tokens.values())
    assert "DSpark" in trace.drafters and trace.machine == machine.machine() and trace.machine["device"]
    assert traced(record).tokens == trace.tokens  # and once more, from the record alone


def test_a_report_does_not_go_on_upon_another_device():
    assert "machine" in MUST_AGREE
    facts = {"target": "t", "precision": "bf16", "drafters": {}, "tokens": 1, "temperature": 0.0, "seed": 0}
    here = Header(**facts, machine={"device": "CPU"}, versions={}, when="")
    there = Header(**facts, machine={"device": "CUDA, NVIDIA H100"}, versions={}, when="")
    with pytest.raises(ValueError, match=r"another machine .*H100"):
        Log(None, here, None).require_same(there)


def test_memory_is_that_of_the_container(tmp_path):
    device = mlx_device()
    assert device.kind in ("CPU", "Metal", "CUDA") and device.memory > 10**9 and device.name
    assert machine.machine()["memory"] == f"{physical_memory() / 2**30:.0f} GiB"
    limit = tmp_path / "memory.max"
    limit.write_text("1000000000\n")
    assert physical_memory(limit) == 10**9
    limit.write_text("max\n")
    assert physical_memory(limit) == physical_memory(tmp_path / "none") > 10**9


def test_a_cost_curve_is_of_the_machine_that_a_race_names(golden_a):
    here, made = machine.machine(), made_of(golden_a.target, {})
    assert {fact: made[fact] for fact in ("device", "processor", "cores")}.items() <= here.items()
    assert {package: made[package] for package in ("mlx", "mlx-lm")}.items() <= machine.versions().items()
