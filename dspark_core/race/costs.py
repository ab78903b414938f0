"""The cost curve that belongs to loaded models: known, kept on disk, or measured now."""

from collections.abc import Iterator
from contextlib import suppress

from ..decode.cost_curve import CostCurve
from ..decode.measure import Measuring, load, made_of, measure, save
from .models import Models


def known(models: Models) -> CostCurve | None:
    """The curve of these models, from this run or from disk; None if it was never measured."""
    if models.curve is None or models.curve.made_of != made_of(models.target, models.loaded):
        models.curve = load(models.target, models.loaded)
    return models.curve


def measured(models: Models, quick: bool = False) -> Iterator[Measuring | CostCurve]:
    """Measure the curve now, keep it, and use it from here on. Yields progress, then the curve."""
    for event in measure(models.target, models.loaded, quick):
        if isinstance(event, CostCurve):
            models.curve = event
            with suppress(OSError):  # a cache that cannot be written costs a measurement at the next start
                save(event)
        yield event
