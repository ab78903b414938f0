"""What a race runs on: one loaded target, its drafters, and what is known of this machine."""

from dataclasses import dataclass, field

from ..decode.cost_curve import CostCurve
from ..decode.noise import Noise
from ..machine import machine, versions
from ..models.drafter import Drafter
from ..models.info import DrafterInfo
from ..models.target import Target
from .records import RaceSource


@dataclass
class Models:
    """A target and its drafters by method; a sentence in place of a drafter says why it cannot run."""

    target: Target
    drafters: dict[str, Drafter | str]
    warm: set = field(default_factory=set)  # lanes that have run before, so that nothing compiles on the clock
    kept: object | None = None  # what the inspector keeps of the last round it looked at; a race drops it
    curve: CostCurve | None = None  # what a step costs here, once that is known (costs.py)
    noise: Noise | None = None  # how far logits move with the width here, once that is known (noise.py)

    @property
    def loaded(self) -> dict[str, Drafter]:
        """The drafters that can run."""
        return {method: d for method, d in self.drafters.items() if isinstance(d, Drafter)}

    @property
    def descriptions(self) -> dict[str, str]:
        """Method -> name, block and precision of its drafter, or why it does not run."""
        return {
            method: d if isinstance(d, str) else f"{d.name}, block {d.block_size}, {d.precision}"
            for method, d in self.drafters.items()
        }

    @property
    def info(self) -> dict[str, DrafterInfo]:
        """What is known of them, without MLX."""
        return {method: d.info for method, d in self.loaded.items()}

    def source(self) -> RaceSource:
        """What a race that begins now runs on. For the thread that owns MLX."""
        text = self.target.text
        token_bytes = text.token_bytes if text else lambda token_id: b""
        return RaceSource(token_bytes, self.target.stop_ids, self.descriptions, machine(), versions())
