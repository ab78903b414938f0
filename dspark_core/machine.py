"""Where a race or a measurement ran: what an expert asks first when two figures differ. Names no user and no host.

The one description of this machine: a saved race, a report and `bench exact` write it down as it stands here, and
Compare and an interrupted report hold two of them against each other. Only `machine` and `mlx_device` ask MLX, and
only when they are called: on the thread that owns it.
"""

import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("mlx", "mlx-metal", "mlx-cuda-12", "mlx-cuda-13", "mlx-lm", "transformers")
DEVICE = "device"
CPU_STREAMS = "cpu_streams"  # in how many parts the layers of what is loaded are computed: models/cpu_streams.py


@dataclass(frozen=True)
class Device:
    """What MLX computes on. kind: "Metal", "CUDA" or "CPU"; name: the GPU's or the chip's; memory: bytes that a
    program may use of it, 0 if that is not known."""

    kind: str
    name: str
    memory: int

    def __str__(self) -> str:
        """The processor's name stands beside it, so a CPU is just that."""
        return "CPU" if self.kind == "CPU" else f"{self.kind}, {self.name}"


def mlx_device() -> Device:
    """MLX's default device."""
    import mlx.core as mx

    default = mx.default_device()
    info = mx.device_info(default)
    name = str(info.get("device_name") or info.get("architecture") or "of unknown name")
    if default.type == mx.DeviceType.cpu:
        return Device("CPU", _processor() or name, physical_memory())
    if mx.metal.is_available():
        return Device("Metal", name, int(info.get("max_recommended_working_set_size", 0)))
    return Device("CUDA", name, int(info.get("total_memory") or info.get("memory_size") or 0))


def machine() -> dict[str, str]:
    """System, processor, cores that this process may use, memory, and the device that MLX computes on."""
    return _host() | {DEVICE: str(mlx_device())}


def device_of(facts: Mapping[str, str]) -> str:
    """The device that a description names; empty for one that was written before devices were."""
    return facts.get(DEVICE, "")


@cache
def versions() -> dict[str, str]:
    """Of Python and of the packages that do the computing."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def physical_memory(cgroup: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """Bytes of memory of this machine, or of the container that it runs in."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(total, int(cgroup.read_text()))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return total


@cache
def _host() -> dict[str, str]:
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor() or platform.machine(),
        "cores": str(threads),
        "memory": f"{physical_memory() / 2**30:.0f} GiB",
    }


@cache
def _processor() -> str:
    """The processor's name as its maker writes it; empty where the system does not tell."""
    try:
        if platform.system() == "Darwin":
            answer = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, timeout=5)
            return answer.stdout.decode(errors="replace").strip()
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    except (OSError, subprocess.SubprocessError):
        return ""
