"""Was a race made with what a cost curve was measured with? Only then does the curve say anything about it.

Both wrote down what they ran on: the race in its trace, which may come from a file, the curve in `made_of`. No MLX.
"""

from collections.abc import Mapping

from ..decode.cost_curve import CostCurve
from .trace import Trace

VERSIONS = ("mlx", "mlx-lm")
MAX_RAN = 200  # characters of what a file says that it ran on
BARE = {"x86_64", "aarch64", "arm64", "amd64"}  # what stands for a processor whose name the system does not tell


def difference(curve: CostCurve, trace: Trace) -> str:
    """Why `curve` says nothing about the race of `trace`, in one sentence; empty if it does. What the race does not
    tell counts as different."""
    made, race = curve.made_of, trace.race
    target = made.get("target", "").rpartition(", ")[0]
    if race.target != target:
        return _sentence(f"ran on {race.target}", f"is of {target}", "load that model to have it judged")
    if race.precision != made.get("precision"):
        measured = made.get("precision", "another precision")
        return _sentence(f"ran in {race.precision}", f"is of {measured}", "load the target so to have it judged")
    if words := _other_drafter(made.get("drafters", ""), trace):
        return words
    if words := _other_device(made.get("device", ""), trace.machine):
        return words
    cores, threads = trace.machine.get("cores"), made.get("threads")
    if cores != threads:
        return _sentence(
            f"had {cores or 'an unknown number of'} cores", f"was measured with {threads}", "race here again"
        )
    for name in VERSIONS:
        ran, measured = trace.versions.get(name), made.get(name)
        if ran != measured:
            return _sentence(f"ran with {name} {ran or 'of unknown version'}", f"with {measured}", "race here again")
    return ""


def _sentence(race: str, curve: str, advice: str) -> str:
    race = race if len(race) <= MAX_RAN else race[: MAX_RAN - 1] + "…"
    return f"No predictions: this race {race} and the cost curve {curve}; {advice}."


def _other_drafter(measured: str, trace: Trace) -> str:
    """`measured` is "drafter's id: name, precision, digest" for every drafter, with "; " between them; a race describes
    one as "name, block B, precision"."""
    ours = dict(d.split(": ", 1) for d in measured.split("; ") if ": " in d)
    for spec in dict.fromkeys(lane.spec for lane in trace.race.lanes if lane.spec.speculative and lane.rounds):
        drafter = spec.drafter or spec.method
        theirs = trace.drafters.get(drafter, "")
        name, _, precision = theirs.rpartition(", block ")
        known = ours.get(spec.drafter_id, "").rpartition(", ")[0]
        if not theirs or known != f"{name}, {precision.partition(', ')[2]}":
            ran = f"drafted with {theirs}" if theirs else f"does not say with which {drafter} drafter it ran"
            return _sentence(ran, f"is of {known or f'no {drafter} drafter'}", "load that pair to have it judged")
    return ""


def _other_device(measured: str, machine: Mapping[str, str]) -> str:
    """`measured` is "cpu, name" or "gpu, name"; a race's machine has "CPU" or "kind of GPU, name", and a processor."""
    device, processor = machine.get("device", ""), machine.get("processor", "")
    kind, _, name = measured.partition(", ")
    if not device:
        return _sentence("does not say on which device it ran", f"is of {measured}", "race here again")
    cpu = device == "CPU"
    where = processor if cpu else device.partition(", ")[2]
    if cpu != (kind == "cpu") or (name and where not in BARE and where not in name and name not in where) or not where:
        ran = f"{device}, {processor}" if cpu and processor else device
        return _sentence(f"ran on another device ({ran})", f"is of {measured}", "race here to have it judged")
    return ""
