"""What a race runs on: one loaded target, its drafters, and what is known of this machine.

The costs of a step and the noise of the logits are measured once: `known_...` looks in this run and on disk, and what
is measured now is written there. Everything here is for the thread that owns MLX.
"""

from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass, field

import mlx.core as mx

from ..decode.adaptive import logit
from ..decode.bundled_curve import bundled_curve
from ..decode.confidence import ConfidenceFit
from ..decode.cost_curve import CostCurve
from ..decode.measure import Measuring, load_curve, made_of, measure, save_curve
from ..decode.strict import Noise, load_noise, measure_noise, save_noise
from ..machine import machine, versions
from ..models.drafter import Drafter
from ..models.drafters import constants
from ..models.info import DrafterInfo, named
from ..models.target import Target
from .records import RaceRecord, RaceSource
from .reliability import judged_drafts


@dataclass
class Models:
    """A target with its drafters.

    drafters: by id (see `drafter_ids`); a sentence in place of one says why it cannot run
    warm:     lanes that have run before, so that nothing compiles on the clock
    fits:     how far confidences by margin are off here, by drafter
    kept:     what the inspector keeps of the last round it looked at; a race drops it
    curve:    what a step costs here, once that is known
    noise:    how far logits move with the width here, once that is known
    """

    target: Target
    drafters: dict[str, Drafter | str]
    warm: set[tuple[object, ...]] = field(default_factory=set)
    fits: dict[str, ConfidenceFit] = field(default_factory=dict)
    kept: object | None = None
    curve: CostCurve | None = None
    noise: Noise | None = None

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
            if isinstance(d, str):
                method, words = constants(id_).get("METHOD", id_), d
            else:
                method, words = d.info.method, f"{d.info.name}, block {d.info.block}"
                if d.info.newest:
                    words = f"{d.info.name}, newest {d.info.newest} rows, block {d.info.block}"
                words += f", {d.info.precision}" if d.info.precision else ""
            described[method if id_ == method.lower() else id_] = words
        return described

    def source(self) -> RaceSource:
        """What a race that begins now runs on."""
        text = self.target.text
        token_bytes = text.token_bytes if text else lambda token_id: b""
        opening = getattr(text, "opening", "")
        return RaceSource(token_bytes, self.target.stop_ids, self.descriptions, machine(), versions(), opening)

    # ---- costs ---------------------------------------------------------------------------------------

    def known_curve(self) -> CostCurve | None:
        """The cost curve of these models, from this run or from disk; None if it was never measured."""
        if self.curve is None or self.curve.made_of != made_of(self.target, self.loaded):
            self.curve = load_curve(self.target, self.loaded)
        return self.curve

    def measure_curve(self, quick: bool = False) -> Generator[Measuring | CostCurve, None, None]:
        """Measure it now and use it from here on. Yields progress, then the curve."""
        for event in measure(self.target, self.loaded, quick):
            if isinstance(event, CostCurve):
                self.curve = event
                with suppress(OSError):  # a cache that cannot be written costs a measurement at the next start
                    save_curve(event)
            yield event

    def usable_curve(self) -> CostCurve:
        """The curve of these models, or before there is one another machine's shape."""
        infos = {id_: d.info for id_, d in self.loaded.items()}
        return self.known_curve() or bundled_curve(made_of(self.target, self.loaded), infos)

    def fit(self, drafter_id: str) -> ConfidenceFit | None:
        """What is known of the confidences of a drafter that takes them from its logits' margin; None of another one:
        a confidence head was trained on outcomes."""
        drafter = self.loaded.get(drafter_id)
        if drafter is None or drafter.info.has_look or not drafter.info.has_confidence:
            return None
        return self.fits.setdefault(drafter_id, ConfidenceFit(drafter.info.max_drafts))

    def learn_confidences(self, record: RaceRecord) -> None:
        """Refine the fits with the rounds of a finished race; not with sampled ones, whose drafts are accepted by
        chance, too."""
        for lane in record.lanes if record.request.settings.greedy else ():
            if fit := self.fit(lane.spec.drafter_id):
                for r in lane.rounds:
                    if judged := judged_drafts(r):
                        fit.observe([logit(c) for c, _ in judged], r.accepted)

    def learn(self, record: RaceRecord) -> None:
        """Refine the curve, here and on disk, with the rounds of a finished race. Not with sampled ones, nor with those
        of strict mode or a profile, which do more than decode."""
        curve, request = self.curve, record.request
        if curve is None or request.profile or request.strict or not request.settings.greedy:
            return
        self.curve = curve.refined([(lane.spec.drafter_id, lane.rounds) for lane in record.lanes])
        if self.curve is not curve and load_curve(self.target, self.loaded):  # a cache that was emptied stays so
            with suppress(OSError):
                save_curve(self.curve)

    # ---- noise ---------------------------------------------------------------------------------------

    def known_noise(self) -> Noise | None:
        """How far logits move with the width here, from this run or from disk; None if it was never measured."""
        if self.noise is None:
            self.noise = load_noise(self.target)
        return self.noise

    def measured_noise(self) -> Noise:
        """Known, or measured now (some seconds)."""
        noise = self.known_noise()
        if noise is None:
            self.noise = noise = measure_noise(self.target)
            with suppress(OSError):
                save_noise(self.target, noise)
        return noise

    def verdict_noise(self) -> Noise:
        """What a verdict goes by: known, or measured now; none where the width cannot change a logit."""
        if exact_device() and self.known_noise() is None:
            return Noise(0.0, 0.0)
        return self.measured_noise()


def exact_device() -> bool:
    """True where logits do not depend on how many rows are computed together: MLX's CPU backend."""
    return bool(mx.default_device() == mx.Device(mx.cpu))
