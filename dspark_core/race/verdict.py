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
from .record import Difference, RaceRecord, Verdict, exact

CHUNK = 256
MOST_ROUNDING = 1 / 8  # of the best logit: what moves logits further is no rounding but a fault of the wide forward
MANTISSA_BITS = {mx.bfloat16: 7, mx.float16: 10, mx.float32: 23}


def first_difference(a: Sequence[int], b: Sequence[int]) -> int | None:
    """Index of the first token in which two outputs differ (a missing token differs); None if they agree."""
    common = min(len(a), len(b))
    at = next((i for i in range(common) if a[i] != b[i]), common)
    return at if at < max(len(a), len(b)) else None


def judge(target: Target, prompt: list[int], record: RaceRecord) -> Verdict:
    """The verdict of a race that ran to its end. The reference is the first plain lane, else the first."""
    lanes = [(i, lane) for i, lane in enumerate(record.lanes) if lane.error is None]
    failed = len(record.lanes) - len(lanes)
    note = f" {failed} lane{'s' * (failed > 1)} failed and took no part." if failed else ""
    if len(lanes) < 2:
        return Verdict("none", "Nothing to compare: fewer than two lanes finished." + note)
    if not record.request.settings.greedy:
        return Verdict(
            "sampled",
            f"Sampled at temperature {exact(record.request.settings.temperature)}: each lane draws its own "
            "tokens, so the outputs may differ; the distribution they are drawn from is the same." + note,
        )
    reference = next((lane for _, lane in lanes if not lane.spec.speculative), lanes[0][1])
    known = record.noise or 0.0
    width = 1 + max((r.proposed for _, lane in lanes for r in lane.rounds), default=0)
    differences = []
    for i, lane in lanes:
        at = first_difference(reference.output, lane.output)
        if at is not None:
            chosen = [out[at] for out in (reference.output, lane.output) if at < len(out)]
            differences.append(_examine(target, [*prompt, *reference.output[:at]], i, at, chosen, width, known))
    if not differences:
        n = len(reference.output)
        words = f"Identical output: {len(lanes)} lanes, {n} token{'s' * (n > 1)} each, compared one by one."
        return Verdict("identical", words + note)
    kind = "tie" if all(d.tie for d in differences) else "divergence"
    told = " ".join(_words(d, record.lanes[d.lane].spec.name) for d in differences)
    return Verdict(kind, told + note, tuple(differences))


def _words(d: Difference, name: str) -> str:
    where = f"{name} first differs at token {d.index + 1}: the target's two best logits are {d.gap:.3g} apart"
    rounding = max(d.noise, d.ulp)
    if d.tie:
        return f"{where} there, within rounding ({rounding:.3g}): a numerical tie."
    needed = f"the choice needed {d.needed:.3g}, rounding explains {rounding:.3g}"
    return f"{where} there, {needed}: a real divergence."


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
