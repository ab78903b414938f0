"""What a race runs on: one loaded target, its drafters, and what is known of this machine.

The costs of a step and the noise of the logits are measured once: `known_...` looks in this run and on disk, and what
is measured now is written there. A race waits for no measurement of costs: it goes by what is known when it begins.
Everything here is for the thread that owns MLX.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from ..decode.adaptive import logit
from ..decode.bundled_curve import bundled_curve
from ..decode.confidence import ConfidenceFit
from ..decode.cost_curve import BUSY, CostCurve
from ..decode.measure import Measurement, Measuring, load_curve, made_of, save_curve
from ..decode.prefixes import Prefixes
from ..decode.rounds import Round
from ..decode.strict import Noise, load_noise, measure_noise, save_noise
from ..errors import ModelError
from ..machine import CPU_STREAMS, machine, versions
from ..models.checkpoint import read_drafter
from ..models.cpu_streams import Spread, join, settle, usable_cores
from ..models.drafter import Drafter
from ..models.drafters import constants
from ..models.info import DrafterInfo, named
from ..models.target import Target
from .passes import costs_by
from .records import BLOCK, CAP, HARDWARE, LaneSpec, PassCosts, RaceRecord, RaceRequest, RaceSource
from .reliability import judged_drafts


class Warmth(NamedTuple):
    """What decides which operations a lane runs, and so what has to be done once before it is timed."""

    spec: LaneSpec
    greedy: bool
    top_k: bool
    top_p: bool
    profile: bool
    strict: bool

    @staticmethod
    def of(spec: LaneSpec, request: RaceRequest, strict: float) -> "Warmth":
        s = request.settings
        return Warmth(spec, s.greedy, s.top_k > 0, s.top_p < 1, request.profile, spec.speculative and strict > 0)

    def within(self, other: "Warmth") -> bool:
        """Has a lane of the `other` kind done all that this one does? A hardware-aware one has, but for the width of a
        cap, for which a GPU may compile kernels."""
        mine, theirs = self.spec, other.spec
        if self[1:] != other[1:] or mine.drafter_id != theirs.drafter_id:
            return False
        alike = (mine.schedule, mine.cap) == (theirs.schedule, theirs.cap) or not mine.speculative
        return alike or (theirs.schedule == HARDWARE and (mine.schedule not in (CAP, BLOCK) or exact_device()))


@dataclass
class Models:
    """A target with its drafters.

    drafters: by id (see `drafter_ids`); a sentence in place of one says why it cannot run
    unread:   those whose weights are read when a lane first names them
    warm:     lanes that have run before, so that nothing compiles on the clock
    fits:     how far confidences by margin are off here, by drafter
    kept:     what the inspector keeps of the last round it looked at; a race drops it
    curve:    what a step costs here, once that is measured
    before:   the curve of those that were there before the last one was read
    measuring: the measurement that will tell, while it is under way
    raced:    (drafter's id, rounds) of the lanes of each race meanwhile
    noise:    how far logits move with the width here, once that is known
    settled:  it is decided whether layers are computed in parts, on several CPU streams
    spread:   in how many, where they are
    read_s:   seconds that a token of the last prompt took to read; 0 before there was one
    prefixes: the conversations that requests may go on from
    """

    target: Target
    drafters: dict[str, Drafter | str]
    unread: dict[str, Drafter] = field(default_factory=dict)
    warm: set[Warmth] = field(default_factory=set)
    fits: dict[str, ConfidenceFit] = field(default_factory=dict)
    kept: object | None = None
    curve: CostCurve | None = None
    before: CostCurve | None = None
    measuring: Measurement | None = None
    raced: list[list[tuple[str, Sequence[Round]]]] = field(default_factory=list)
    noise: Noise | None = None
    settled: bool = False
    spread: Spread | None = None
    read_s: float = 0.0
    prefixes: Prefixes = field(default_factory=Prefixes)

    @property
    def loaded(self) -> dict[str, Drafter]:
        """The drafters that can run, by id."""
        return {id_: d for id_, d in self.drafters.items() if not isinstance(d, str)}

    @property
    def infos(self) -> tuple[DrafterInfo, ...]:
        """What is known of the drafters that can run, without MLX; those that are still to be read among them."""
        return named((id_, d.info) for id_, d in (self.loaded | self.unread).items())

    def read(self, ids: Iterable[str]) -> Iterator[str]:
        """Read those of these drafters whose weights are not read yet. Before each, what comes, in a sentence. One that
        cannot be read leaves the reason."""
        for id_ in [id_ for id_ in dict.fromkeys(ids) if id_ in self.unread]:
            yield f"Loading {self.unread[id_].info.title} …"
            self.before, drafter = self.known_curve() or self.before, self.unread[id_]
            read: Drafter | str = drafter
            try:
                read_drafter(drafter)
                if self.spread and isinstance(weights := getattr(drafter, "weights", None), nn.Module):
                    join([weights], self.spread)
            except ModelError as error:
                read = str(error)
            # Other threads read both: each is replaced, and the drafter is in one of them at any time.
            self.drafters = {**self.drafters, id_: read}
            self.unread = {key: d for key, d in self.unread.items() if key != id_}

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
        return RaceSource(token_bytes, self.target.stop_ids, self.descriptions, machine() | self.streams, versions())

    def is_warm(self, warmth: Warmth) -> bool:
        return any(warmth.within(done) for done in self.warm)

    @property
    def streams(self) -> dict[str, str]:
        """In how many parts layers are computed, as a fact of this machine; none where they are whole."""
        return {CPU_STREAMS: self.target.cpu_streams} if self.target.cpu_streams else {}

    def settle_streams(self) -> Generator[None, None, None]:
        """Have layers computed in parts where that pays (models/cpu_streams.py). A step is an operation on the device.
        Before the costs are asked for: they depend on it."""
        if not (self.settled or self.target.cpu_streams) and self.target.machines == 1:
            modules = [getattr(d, "weights", None) for d in self.loaded.values()]
            modules = [self.target.model, *(m for m in modules if isinstance(m, nn.Module))]
            self.spread = yield from settle(modules, usable_cores())
            self.target.cpu_streams = str(self.spread or "")
        self.settled = True

    # ---- costs ---------------------------------------------------------------------------------------

    def known_curve(self) -> CostCurve | None:
        """The cost curve of these models, from this run or from disk; None if it was never measured to the end."""
        if self.curve is None or self.curve.made_of != made_of(self.target, self.loaded):
            self.curve = load_curve(self.target, self.loaded)
        return self.curve

    def measure_curve(self, quick: bool = False) -> Generator[Measuring | CostCurve, None, None]:
        """Measure it now and use it from here on; what is known by then serves meanwhile. Yields progress after every
        operation, then the curve."""
        self.measuring = measuring = Measurement(self.target, self.loaded, quick)
        try:
            for event in measuring.run():
                self.measuring = self.measuring or measuring  # another one may have been begun and left
                if isinstance(event, CostCurve):
                    self.curve = event = self._refined(event)
                    self.raced.clear()
                    with suppress(OSError):  # a cache that cannot be written costs a measurement at the next start
                        save_curve(event)
                yield event
        finally:
            if self.measuring is measuring:
                self.measuring = None

    def usable_curve(self, drafter: str = "") -> CostCurve:
        """The curve of these models; before there is one, that of the points measured by now, or another machine's
        shape, as for a `drafter` that cannot be measured."""
        curve = self.known_curve()
        if curve is None and self.before and (not drafter or self.before.knows(drafter)):
            return self.before
        if curve is None and self.measuring:
            curve = self._refined(self.measuring.curve())
        if curve is None or (drafter and not curve.knows(drafter)):
            hosted = [id_ for id_, d in self.loaded.items() if d.info.has_preview]
            curve = bundled_curve(made_of(self.target, self.loaded), self.loaded, hosted=hosted)
        return curve

    def pass_costs(self, request: RaceRequest, prompt: int) -> PassCosts | None:
        """What the parts of a pass cost in the middle of a race on so many prompt tokens; None of plain lanes alone."""
        raced = {spec.drafter_id for spec in request.lanes}
        most = {id_: d.info.max_drafts for id_, d in self.loaded.items() if id_ in raced}
        if not most:
            return None
        curve = self.usable_curve()
        foreign = next((id_ for id_ in most if not curve.knows(id_)), "")
        curve = self.usable_curve(foreign) if foreign else curve
        return costs_by(curve, most, prompt + request.settings.max_tokens // 2)

    def _refined(self, curve: CostCurve) -> CostCurve:
        """With what races taught while it was measured."""
        for lanes in self.raced:
            curve = curve if curve.borrowed else curve.refined(lanes)
        return curve

    def doubt_of_costs(self) -> str:
        """What a visitor should know of the costs that a race begins with, in a sentence; empty if they are sound."""
        curve = self.usable_curve()
        if curve is self.before:
            return "What the drafter loaded last costs is not measured here yet, so another machine's costs serve."
        if curve.borrowed:
            return f"Costs are not measured here yet, so another machine's serve ({curve.borrowed})."
        if curve.busy >= BUSY:
            return "The costs were measured while this machine was busy with something else, so they may be off."
        return ""

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
        curve, request = self.known_curve(), record.request
        if request.profile or request.strict or not request.settings.greedy:
            return
        lanes: list[tuple[str, Sequence[Round]]] = [(lane.spec.drafter_id, lane.rounds) for lane in record.lanes]
        if curve is None:
            self.raced += [lanes] if self.measuring else []
            return
        self.curve = curve.refined(lanes)
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
