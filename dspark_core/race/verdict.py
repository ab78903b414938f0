"""Are the lanes' outputs the same, and if not, is it a numerical tie?

Kernels round differently with the number of rows they are given, so two near-equal logits may swap places
between verify widths. Where greedy lanes part, the target is asked again at width 1 on a clean cache: if
the two tokens lie no further apart than rounding moves logits here, it is a tie; anything else is a real
divergence.
"""

import math
from collections.abc import Sequence

import mlx.core as mx

from ..models.target import Target
from .record import Difference, RaceRecord, Verdict
from .verdict_words import compared, first_difference, kind_of, parted, verdict_words

__all__ = ["first_difference", "judge"]

CHUNK = 256
MOST_ROUNDING = 1 / 8  # of the best logit: what moves logits further is no rounding but a fault of the wide forward
MANTISSA_BITS = {mx.bfloat16: 7, mx.float16: 10, mx.float32: 23}


def judge(target: Target, prompt: list[int], record: RaceRecord) -> Verdict:
    """The verdict of a race that ran to its end. The reference is the first plain lane, else the first."""
    lanes, settings = record.lanes, record.request.settings
    differences = ()
    if settings.greedy and len(compared(lanes)[0]) > 1:
        known = record.noise or 0.0
        width = 1 + max((r.proposed for i in compared(lanes)[0] for r in lanes[i].rounds), default=0)
        reference = compared(lanes)[1].output
        differences = tuple(
            _examine(target, [*prompt, *reference[:at]], i, at, _chosen(reference, lanes[i].output, at), width, known)
            for i, at in parted(lanes).items()
        )
    kind = kind_of(lanes, settings, differences)
    return Verdict(kind, verdict_words(kind, differences, lanes, settings), differences)


def _chosen(a: Sequence[int], b: Sequence[int], at: int) -> list[int]:
    """What two outputs have at `at`: one token where the other has ended."""
    return [output[at] for output in (a, b) if at < len(output)]


def _examine(
    target, prefix: list[int], lane: int, index: int, chosen: list[int], width: int, known: float
) -> Difference:
    logits = _next_logits(target, prefix, 1)
    widths = {width, max(2, width // 2)}
    noise = max(known, *(abs(_next_logits(target, prefix, w) - logits).max().item() for w in widths))
    order = mx.sort(logits)[-2:].tolist()
    best = order[1]
    noise = min(noise, MOST_ROUNDING * abs(best))
    needed = best - min(logits[t].item() for t in chosen)
    ulp = 2.0 ** (math.floor(math.log2(max(abs(best), 1e-30))) - MANTISSA_BITS[target.dtype])
    both = len(chosen) == 2  # an output that only ends earlier is no matter of rounding
    return Difference(lane, index, best - order[0], needed, noise, ulp, both and needed <= max(noise, ulp))


def _next_logits(target: Target, prefix: list[int], width: int) -> mx.array:
    """Float32 logits [V] of the token after `prefix`, with its last `width` tokens run as one forward."""
    cache, ids = target.new_cache(), mx.array(prefix, dtype=mx.int32)
    width = min(width, len(prefix))
    for start in range(0, len(prefix) - width, CHUNK):
        hidden, _ = target.forward(ids[start : min(start + CHUNK, len(prefix) - width)], cache)
        mx.eval(hidden, [c.state for c in cache])
    hidden, _ = target.forward(ids[-width:], cache)
    return target.head(hidden)[-1].astype(mx.float32)
