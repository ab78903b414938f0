"""Was a race made with what a cost curve was measured with? Only then does the curve say anything about it.

Both wrote down what they ran on, by the one description of a machine (machine.py): the race in its trace, which may
come from a file, the curve in `made_of`. No MLX.
"""

from collections.abc import Mapping

from ..decode.cost_curve import CostCurve
from ..machine import CPU_STREAMS, device_of
from .trace import Trace

VERSIONS = ("mlx", "mlx-lm")
MAX_RAN = 200  # characters of what a file gives as what it ran on


def difference(curve: CostCurve, trace: Trace) -> str:
    """Why `curve` says nothing about the race of `trace`, in one sentence; empty if it does. What the race does not
    name counts as different."""
    made, race = curve.made_of, trace.race
    target = made.get("target", "").rpartition(", ")[0]
    if race.target != target:
        return _mismatch(f"ran on {race.target}", f"is of {target}", "load that model to have it judged")
    if race.precision != made.get("precision"):
        measured = made.get("precision", "another precision")
        return _mismatch(f"ran in {race.precision}", f"is of {measured}", "load the target so to have it judged")
    if words := _other_drafter(made.get("drafters", ""), trace):
        return words

    def device_words(machine: Mapping[str, str]) -> str:
        """Of what computes on a CPU the processor counts, too."""
        device, processor = device_of(machine), machine.get("processor", "")
        return f"{device}, {processor}" if device == "CPU" and processor else device

    theirs, ours = device_words(trace.machine), device_words(made)
    if not theirs:
        return _mismatch("does not say on which device it ran", f"is of {ours}", "race here again")
    if theirs != ours:
        return _mismatch(f"ran on another device ({theirs})", f"is of {ours}", "race here to have it judged")
    cores, timed = trace.machine.get("cores"), made.get("cores")
    if cores != timed:
        had = f"had {cores or 'an unknown number of'} cores"
        return _mismatch(had, f"was measured with {timed}", "race here again")
    theirs, ours = trace.machine.get(CPU_STREAMS, ""), made.get(CPU_STREAMS, "")
    one = "one CPU stream"
    if theirs != ours:
        return _mismatch(f"had its layers on {theirs or one}", f"on {ours or one}", "race here again")
    for name in VERSIONS:
        ran, timed = trace.versions.get(name), made.get(name)
        if ran != timed:
            return _mismatch(f"ran with {name} {ran or 'of unknown version'}", f"with {timed}", "race here again")
    return ""


def _mismatch(race: str, curve: str, advice: str) -> str:
    """The sentence, from what the race did, what the curve has, and what to do."""
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
        described = ours.get(spec.drafter_id, "").rpartition(", ")[0]
        if not theirs or described != f"{name}, {precision.partition(', ')[2]}":
            ran = f"drafted with {theirs}" if theirs else f"does not say with which {drafter} drafter it ran"
            return _mismatch(ran, f"is of {described or f'no {drafter} drafter'}", "load that pair to have it judged")
    return ""
