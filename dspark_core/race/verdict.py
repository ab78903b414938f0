"""Are the lanes' outputs the same, and if not, is it a numerical tie?

Kernels round differently with the number of rows they are given, so two near-equal logits may swap places
between verify widths. Where greedy lanes part, mlx-lm's own forward says how far apart the two tokens lie, and what the
device is known to do with the width says whether rounding can bridge that: then it is a tie, else a real divergence.
Nothing that the lanes computed, and no forward that they used, is part of that yardstick: a verification that is broken
would excuse itself.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from ..decode.noise import Noise
from ..models.target import Target
from .record import Difference, RaceRecord, Verdict

CHUNK = 256
MANTISSA_BITS = {mx.bfloat16: 7, mx.float16: 10, mx.float32: 23}


def first_difference(a: Sequence[int], b: Sequence[int]) -> int | None:
    """Index of the first token in which two outputs differ (a missing token differs); None if they agree."""
    common = min(len(a), len(b))
    at = next((i for i in range(common) if a[i] != b[i]), common)
    return at if at < max(len(a), len(b)) else None


def judge(
    target: Target, prompt: list[int], record: RaceRecord, measured: Callable[[], Noise] | None = None
) -> Verdict:
    """The verdict of a race that ran to its end. The reference is the first plain lane, else the first.

    `measured` gives the device's noise and is asked only where greedy lanes differ; without it the noise is what the
    record says.
    """
    lanes = [(i, lane) for i, lane in enumerate(record.lanes) if lane.error is None]
    failed = len(record.lanes) - len(lanes)
    note = f" {failed} lane{'s' * (failed > 1)} failed and took no part." if failed else ""
    if len(lanes) < 2:
        return Verdict("none", "Nothing to compare: fewer than two lanes finished." + note)
    if not record.request.settings.greedy:
        return Verdict(
            "sampled",
            f"Sampled at temperature {record.request.settings.temperature:g}: each lane draws its own "
            "tokens, so the outputs may differ; the distribution they are drawn from is the same." + note,
        )
    reference = next((lane for _, lane in lanes if not lane.spec.speculative), lanes[0][1])
    parted = [(i, at) for i, lane in lanes if (at := first_difference(reference.output, lane.output)) is not None]
    if not parted:
        n = len(reference.output)
        words = f"Identical output: {len(lanes)} lanes, {n} token{'s' * (n > 1)} each, compared one by one."
        return Verdict("identical", words + note)
    noise = measured() if measured else None
    rounding, fault = (noise.rounding, noise.fault) if noise else (record.noise, "")
    differences = []
    for i, at in parted:
        chosen = [out[at] for out in (reference.output, record.lanes[i].output) if at < len(out)]
        differences.append(_examine(target, [*prompt, *reference.output[:at]], i, at, chosen, rounding))
    kind = "tie" if all(d.tie for d in differences) else "divergence"
    words = " ".join(_words(d, record.lanes[d.lane].spec.name) for d in differences)
    return Verdict(kind, words + (f" {fault}" if fault else "") + note, tuple(differences))


def _words(d: Difference, name: str) -> str:
    where = f"{name} first differs at token {d.index + 1}: the target's two best logits are {d.gap:.3g} apart"
    if d.tie:
        return f"{where} there, within rounding ({d.rounding:.3g}): a numerical tie."
    if d.noise == 0:
        explained = "rounding explains nothing on this device"
    elif d.noise is None:
        explained = "how far the width moves logits on this device is not known"
    else:
        explained = f"rounding explains {d.rounding:.3g}"
    return f"{where} there, the choice needed {d.needed:.3g}, {explained}: a real divergence."


def _examine(
    target: Target, prefix: list[int], lane: int, index: int, chosen: list[int], noise: float | None
) -> Difference:
    logits = _next_logits(target, prefix)
    second, best = mx.sort(logits)[-2:].tolist()
    needed = best - min(logits[t].item() for t in chosen)
    ulp = 2.0 ** (math.floor(math.log2(max(abs(best), 1e-30))) - MANTISSA_BITS[target.dtype])
    found = Difference(lane, index, best - second, needed, noise, ulp, False)
    both = len(chosen) == 2  # an output that only ends earlier is no matter of rounding
    return replace(found, tie=both and found.rounding_decides)


def _next_logits(target: Target, prefix: list[int], width: int = 1) -> mx.array:
    """Float32 logits [V] of the token after `prefix` by mlx-lm's own forward, its last `width` tokens together."""
    cache, ids = make_prompt_cache(target.model), mx.array(prefix, dtype=mx.int32)
    for start in range(0, len(prefix) - width, CHUNK):
        hidden = target.own_hidden(ids[start : min(start + CHUNK, len(prefix) - width)], cache)
        mx.eval(hidden, [c.state for c in cache])
    return target.head(target.own_hidden(ids[-width:], cache)[-1:])[0].astype(mx.float32)
