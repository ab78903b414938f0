"""What a pass over many tokens at once costs here: the cost curve's further end, for several requests in one batch.

Read without MLX; only `measure_rows` needs it.
"""

import json
import random
from collections.abc import Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from ..store import Store
from .cost_curve import FEWEST, CostCurve, Points, Timing, between

if TYPE_CHECKING:
    from ..models.drafter import Drafter
    from ..models.target import Target

WIDTHS = (8, 16, 24, 32, 48, 64)  # tokens in one pass
KIND = "rows"  # of what the store holds


@dataclass(frozen=True)
class BatchRows:
    """points: seconds of one pass by its tokens, whatever requests they are of; measured: the most that were timed
    (0: none was; it is made up). Between points it is linear, and beyond them as steep as their upper half."""

    points: Mapping[int, float]
    measured: int

    @staticmethod
    def of(curve: CostCurve, context: int, rows: Mapping[int, Timing]) -> "BatchRows":
        """The curve's verifications, and behind them `rows`, timed apart and scaled to agree with it where both are."""
        bare, last = curve.as_measured().plain_s(context), max(curve.costs[0].verify)
        points = {1: bare} | {n: curve.verify_s(n, context) for n in range(2, last + 1)}
        if common := [n for n in rows if n <= last]:
            scale = points[max(common)] / rows[max(common)].median
            for n in sorted(rows):
                if n > last:  # more tokens never take less time
                    points[n] = max(points[max(points)], rows[n].median * scale)
        return BatchRows(points, max(points)).times(curve.plain_s(context) / bare)  # at the speed of a decode

    def seconds(self, rows: int) -> float:
        widest = max(self.points)
        if rows <= widest or widest == 1:
            return between(self.points, min(rows, widest))
        half = widest // 2
        steep = max(0.0, self.points[widest] - between(self.points, half)) / (widest - half)
        return self.points[widest] + steep * (rows - widest)

    def times(self, factor: float) -> "BatchRows":
        return replace(self, points={n: s * factor for n, s in self.points.items()})


@cache
def _rows_adapter() -> TypeAdapter[Points]:
    return TypeAdapter(Points)


def load_rows(made_of: Mapping[str, str], store: Store | None = None) -> Points:
    """Those on disk for what a cost curve was measured with; none where there are none."""
    found = (store or Store()).load(KIND, made_of)
    try:
        return _rows_adapter().validate_json(json.dumps(found))
    except ValidationError:
        return {}


def measure_rows(
    target: "Target", drafters: Mapping[str, "Drafter"], store: Store | None = None
) -> Generator[float, None, Points]:
    """Time passes of WIDTHS tokens, as far as the target's context has room, in mixed order, and put them on disk.
    Yields the share done after every operation. On the thread that owns MLX."""
    import mlx.core as mx

    from .measure import SHORT, Bench, made_of

    widths = [w for w in WIDTHS if SHORT + w < target.context_length] or [1]
    bench, order = Bench(target, {}, SHORT, later=True), random.Random(0)
    bench.taps = max((d.taps for d in drafters.values()), key=len, default=())
    bench.ids = mx.arange(max(widths), dtype=mx.int32) % target.vocab_size
    for _ in bench.set_up():
        yield 0.0
    seconds: dict[int, list[float]] = {w: [] for w in widths}
    for k in range(FEWEST + 1):  # the first pass is off the clock: kernels compile, memory is touched
        for w in order.sample(widths, len(widths)):
            seconds[w].append(bench.verify(w))
            yield (k * len(widths) + len([s for s in seconds.values() if len(s) > k])) / (len(widths) * (FEWEST + 1))
    rows = {w: Timing.of(s[1:]) for w, s in seconds.items()}
    with suppress(OSError):
        (store or Store()).save(KIND, made_of(target, dict(drafters)), _rows_adapter().dump_python(rows, mode="json"))
    return rows
