"""The same pair in another engine: the command that runs it in mlx-dspark."""

import shlex
from pathlib import Path

from ..catalog.local import name_of
from ..catalog.names import HubName
from ..models.drafters import constants
from ..presets import Place
from ..race.lane_spec import method_name
from .engine import Choice

DRAFTER_BITS = {"4-bit": [], "8-bit": ["--drafter-bits", "8"]}  # 4 is its default; 0 leaves them as they are stored


def mlx_dspark_command(target: Place, drafter: Place, method: str, drafter_precision: str, cap: int = 0) -> str:
    """In one line for a shell; empty for a method that it does not have. cap: drafts a round at most; 0: its own
    choice, which it measures."""

    def named(place: Place) -> str:
        if isinstance(place, HubName):
            return place.repo
        name = name_of(place)
        return name if name != place.name else str(place)

    if "HEADS" not in constants(method):
        return ""
    mode = method.lower().rstrip("0123456789")  # a method's second version has no mode of its own there
    words = ["mlx-dspark", "generate", "--mode", mode, "--model", named(target), "--drafter", named(drafter)]
    words += ["--max-draft", str(cap)] if cap else []
    return shlex.join([*words, *DRAFTER_BITS.get(drafter_precision, ["--drafter-bits", "0"])])


def loaded_command(choice: Choice | None, drafter: str, cap: int) -> str:
    """That of what is loaded, with a drafter (its id) and a cap; empty where there is none."""
    place = choice.drafters.get(drafter) if choice else None
    if choice is None or not isinstance(place, Path):
        return ""
    return mlx_dspark_command(choice.target, place, method_name(drafter), choice.drafter_precision, cap)
