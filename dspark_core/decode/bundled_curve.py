"""A cost curve for a machine on which nothing has been measured yet but a plain step: the shape of another machine's.

What a verification of n rows costs in plain steps depends on the kind of device more than on the model, so this is
good enough to begin with; `CostCurve.borrowed` names the machine, and the page says so.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from .cost_curve import BLIND, FEWEST, WAITED, CostCurve, Costs, Timing

NOTHING_S = 1e-5  # for drafts that are on the host


@dataclass(frozen=True)
class DeviceShape:
    """As measured on `machine`, in plain steps. plain_s: one of them; verify: by width; draft: by drafts, a look at 0;
    wait: for the confidences."""

    machine: str
    plain_s: float
    verify: Mapping[int, float]
    draft: Mapping[int, float]
    wait: float


SHAPES = {
    "CPU": DeviceShape(
        "two cores of a shared server, MLX's CPU backend, SmolLM2 135M",
        0.142,
        {1: 1.0, 2: 1.28, 4: 1.63, 8: 2.48, 16: 4.23},
        {0: 0.42, 1: 0.5, 2: 0.5, 4: 0.58, 7: 0.71},
        0.0,
    ),
    "CUDA": DeviceShape(
        "an NVIDIA H200, SmolLM2 135M",
        0.0039,
        {1: 1.02, 2: 1.9, 4: 2.05, 16: 2.05},
        {0: 0.44, 1: 0.49, 2: 0.55, 7: 0.59},
        0.37,  # 1.5 ms on Qwen3-4B's shapes
    ),
    "Metal": DeviceShape(  # verification as published for mlx-dspark 0.0.1; drafting was not, so it is a guess
        "an Apple M4 Pro, Gemma-4 12B, as published",
        0.0543,
        {1: 1.0, 2: 1.258, 16: 4.87},
        {0: 0.25, 1: 0.3, 7: 0.4},
        0.02,
    ),
}


def bundled_curve(
    made_of: Mapping[str, str], drafters: Collection[str], plain_s: float = 0.0, hosted: Collection[str] = ()
) -> CostCurve:
    """For what `made_of` says and drafters by id, of which the `hosted` cost the device nothing; `plain_s` is a plain
    step here, if it was measured: the other machine's own step without."""
    shape = SHAPES.get(made_of.get("device", "").partition(",")[0], SHAPES["CPU"])
    step = plain_s or shape.plain_s

    def points(steps: Mapping[int, float]) -> dict[int, Timing]:
        return {n: Timing(s * step, s * step, s * step, FEWEST) for n, s in steps.items()}

    verify, draft, most = points(shape.verify), points(shape.draft), max(shape.draft)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    nothing = {1: Timing(NOTHING_S, NOTHING_S, NOTHING_S, FEWEST)}
    drafts = {id_: nothing if id_ in hosted else draft for id_ in drafters}
    costs = Costs(1, points({1: 1.0})[1], verify, drafts)
    curve = CostCurve(dict(made_of), now, 0.0, (costs,), borrowed=shape.machine)
    parts = draft[most].median / step + curve.verify_s(most + 1, 1) / step
    blind, waited = points({0: parts, 1: parts + shape.wait}).values()
    whole = {id_: {BLIND: blind, WAITED: waited} for id_ in drafters if id_ not in hosted}
    return replace(curve, costs=(replace(costs, whole=whole),))
