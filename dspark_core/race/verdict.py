"""Are the lanes' outputs the same, and if not, is it a numerical tie?

Kernels round differently with the number of rows they are given, so two near-equal logits may swap places between
verify widths. Where greedy lanes part, mlx-lm's own forward shows how far apart the two tokens lie, and what the device
was measured to do with the width decides whether rounding can bridge that: then it is a tie, else a real divergence.
Nothing that the lanes computed, and no forward that they used, is part of that yardstick: a verification that is broken
would excuse itself.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from ..decode.prefill import walk_prefix
from ..decode.strict import Noise
from ..models.drafter import gaps
from ..models.target import Target
from .records import Difference, RaceRecord, Verdict
from .verdict_words import kind_of, parted, participants, verdict_words

MANTISSA_BITS = {mx.bfloat16: 7, mx.float16: 10, mx.float32: 23}


def judge(
    target: Target, prompt: list[int], record: RaceRecord, measured: Callable[[], Noise] | None = None
) -> Verdict:
    """The verdict of a race that ran to its end. The reference is the first plain lane, else the first.

    `measured` gives the device's noise and is called only where greedy lanes differ; without it the noise is the
    record's.
    """
    lanes, settings = record.lanes, record.request.settings
    differences: list[Difference] = []
    fault = ""
    if settings.greedy and (places := parted(lanes)):
        reference = lanes[participants(lanes)[0]].output
        noise = measured() if measured else None
        rounding, fault = (noise.rounding, noise.fault) if noise else (record.noise, "")
        for i, at in places.items():
            chosen = [output[at] for output in (reference, lanes[i].output) if at < len(output)]
            differences.append(_measure_difference(target, [*prompt, *reference[:at]], i, at, chosen, rounding))
    kind = kind_of(lanes, settings, differences)
    words = verdict_words(kind, differences, lanes, settings)
    return Verdict(kind, f"{words} {fault}".rstrip(), tuple(differences))


def _measure_difference(
    target: Target, prefix: list[int], lane: int, index: int, chosen: list[int], noise: float | None
) -> Difference:
    logits = next_logits(target, prefix)
    gap, best = gaps(logits[None]).item(), logits.max().item()
    needed = best - min(logits[t].item() for t in chosen)
    ulp = 2.0 ** (math.floor(math.log2(max(abs(best), 1e-30))) - MANTISSA_BITS[target.dtype])
    found = Difference(lane, index, gap, needed, noise, ulp, False)
    both = len(chosen) == 2  # an output that only ends earlier is no matter of rounding
    return replace(found, tie=both and found.rounding_decides)


def next_logits(target: Target, prefix: list[int]) -> mx.array:
    """Float32 logits [V] of the token after `prefix` by mlx-lm's own forward, the last token by itself as plain
    decoding has it."""
    cache, ids = make_prompt_cache(target.model), mx.array(prefix, dtype=mx.int32)
    for _ in walk_prefix(lambda chunk, cache: (target.own_hidden(chunk, cache), []), ids[:-1], cache):
        pass
    return target.head(target.own_hidden(ids[-1:], cache))[0].astype(mx.float32)
