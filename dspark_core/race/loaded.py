"""What a race runs on: one loaded target, its drafters, and what is known of this machine.

The cost curve that belongs to loaded models: known, kept on disk, or measured now.

The width noise of a target on this device: known, kept on disk, or measured now.
"""

from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass, field

import mlx.core as mx

from ..decode.bundled_curve import bundled_curve
from ..decode.cost_curve import CostCurve
from ..decode.measure import Measuring, load_curve, made_of, measure, save_curve
from ..decode.strict import Noise, load_noise, measure_noise, save_noise
from ..errors import ModelError
from ..machine import machine, versions
from ..models.drafter import Drafter, method_module
from ..models.info import DrafterInfo, named
from ..models.target import Target
from .records import RaceRecord, RaceSource


@dataclass
class Models:
    """A target and its drafters by id (see `drafter_ids`); a sentence in place of a drafter says why it cannot run."""

    target: Target
    drafters: dict[str, Drafter | str]
    warm: set[tuple[object, ...]] = field(
        default_factory=set
    )  # lanes that have run before, so that nothing compiles on the clock
    kept: object | None = None  # what the inspector keeps of the last round it looked at; a race drops it
    curve: CostCurve | None = None  # what a step costs here, once that is known
    noise: Noise | None = None  # how far logits move with the width here, once that is known

    @property
    def loaded(self) -> dict[str, Drafter]:
        """The drafters that can run, by id."""
        return {id_: d for id_, d in self.drafters.items() if not isinstance(d, str)}

    @property
    def infos(self) -> tuple[DrafterInfo, ...]:
        """What is known of the drafters that can run, without MLX."""
        return named((id_, d.info) for id_, d in self.loaded.items())

    @property
    def problems(self) -> dict[str, str]:
        """Id -> why a drafter does not run."""
        return {id_: d for id_, d in self.drafters.items() if isinstance(d, str)}

    @property
    def descriptions(self) -> dict[str, str]:
        """Name, block and precision of each drafter, or why it does not run: by method, by id where it is not the
        first of its method. So `spec.drafter or spec.method` of a lane finds its drafter."""
        described = {}
        for id_, d in self.drafters.items():
            method = method_of(id_) if isinstance(d, str) else d.info.method
            words = d if isinstance(d, str) else describe(d.info)
            described[method if id_ == method.lower() else id_] = words
        return described

    def source(self) -> RaceSource:
        """What a race that begins now runs on. For the thread that owns MLX."""
        text = self.target.text
        token_bytes = text.token_bytes if text else lambda token_id: b""
        return RaceSource(token_bytes, self.target.stop_ids, self.descriptions, machine(), versions())


def method_of(drafter_id: str) -> str:
    """The method of a drafter's id as it is written: "DSpark" of "dspark-2"."""
    for name in (drafter_id, drafter_id.rpartition("-")[0]):
        with suppress(ModelError):
            return getattr(method_module(name), "METHOD", name)
    return drafter_id


def describe(info: DrafterInfo) -> str:
    """Name, block and precision, if it has one."""
    return ", ".join(filter(None, (info.name, f"block {info.block}", info.precision)))


def known(models: Models) -> CostCurve | None:
    """The curve of these models, from this run or from disk; None if it was never measured."""
    if models.curve is None or models.curve.made_of != made_of(models.target, models.loaded):
        models.curve = load_curve(models.target, models.loaded)
    return models.curve


def usable(models: Models) -> CostCurve:
    """The curve of these models, or before there is one another machine's shape."""
    infos = {id_: d.info for id_, d in models.loaded.items()}
    return known(models) or bundled_curve(made_of(models.target, models.loaded), infos)


def learn(models: Models, record: RaceRecord) -> None:
    """Refine the curve, here and on disk, with the rounds of a finished race. Not with sampled ones, nor with those of
    strict mode or a profile, which do more than decode."""
    curve, request = models.curve, record.request
    if curve is None or request.profile or request.strict or not request.settings.greedy:
        return
    models.curve = curve.refined([(lane.spec.drafter_id, lane.rounds) for lane in record.lanes])
    if models.curve is not curve and load_curve(models.target, models.loaded):  # a cache that was emptied stays so
        with suppress(OSError):
            save_curve(models.curve)


def measured(models: Models, quick: bool = False) -> Generator[Measuring | CostCurve, None, None]:
    """Measure the curve now, keep it, and use it from here on. Yields progress, then the curve."""
    for event in measure(models.target, models.loaded, quick):
        if isinstance(event, CostCurve):
            models.curve = event
            with suppress(OSError):  # a cache that cannot be written costs a measurement at the next start
                save_curve(event)
        yield event


def known_noise(models: Models) -> Noise | None:
    """From this run or from disk; None if it was never measured."""
    if models.noise is None:
        models.noise = load_noise(models.target)
    return models.noise


def rounding_noise(models: Models) -> Noise:
    """What a verdict goes by: known, or measured now; on MLX's CPU backend, where the width changes no logit, none."""
    if known_noise(models) is None and exact_device():
        return Noise(0.0, 0.0)
    return measured_noise(models)


def exact_device() -> bool:
    """True where logits do not depend on how many rows are computed together: MLX's CPU backend."""
    return bool(mx.default_device() == mx.Device(mx.cpu))


def measured_noise(models: Models) -> Noise:
    """Known, or measured now (some seconds) and kept."""
    noise = known_noise(models)
    if noise is None:
        models.noise = noise = measure_noise(models.target)
        with suppress(OSError):  # a cache that cannot be written costs a measurement at the next start
            save_noise(models.target, noise)
    return noise
