"""What a drafter's directory says about its acceptance on held-out text: calibration.json, beside the weights.

`temperatures` (one a slot) calibrate the confidence head (sequential temperature scaling); `survival`[k] is the share
of held-out rounds whose first k + 1 drafts were all accepted. Either may be missing; other fields are not read.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from ..errors import ModelError
from .fields import is_number

FILE = "calibration.json"


@dataclass(frozen=True, slots=True)
class Calibration:
    """Per slot; empty where nothing is known."""

    temperatures: tuple[float, ...] = ()
    survival: tuple[float, ...] = ()

    @property
    def acceptance(self) -> tuple[float, ...]:
        """Acceptance of each slot given that those before it were accepted."""
        before = (1.0, *self.survival)
        return tuple(s / b if b > 0 else 0.0 for b, s in zip(before, self.survival, strict=False))


def read_calibration(directory: Path, drafts: int) -> Calibration:
    """Of a drafter with `drafts` drafts a block. Raises ModelError, in one sentence, if the file cannot be used."""
    path = directory / FILE
    if not path.exists():
        return Calibration()
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        temperatures = _numbers(raw, "temperatures", drafts, 1e-3, 1e3)
        return Calibration(temperatures, _numbers(raw, "survival", drafts, 0.0, 1.0))
    except (OSError, ValueError, TypeError, AttributeError) as e:
        raise ModelError(f"{path} cannot be used: {str(e).rstrip('.')}.") from None


def _numbers(raw: dict, name: str, drafts: int, low: float, high: float) -> tuple[float, ...]:
    values = raw.get(name)
    if values is None:
        return ()
    if (
        not isinstance(values, list)
        or len(values) != drafts
        or not all(is_number(v) and low <= v <= high for v in values)
    ):
        raise ValueError(f"{name} must be {drafts} numbers between {low:g} and {high:g}")
    return tuple(map(float, values))
