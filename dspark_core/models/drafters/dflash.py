"""DFlash: block diffusion. Every slot is drafted in parallel, and no draft sees what its neighbours became."""

from pathlib import Path

from ..checkpoint import read_checkpoint
from ..drafter import BlockDrafter, Drafter
from ..target import Target

METHOD = "DFlash"
KIND = BlockDrafter
ABOUT = (
    "Drafts a block at once, like filling in blanks; no token sees what its neighbours became. "
    "A single step of the target checks the whole block."
)


def open_drafter(place: Path, target: Target, precision: str) -> Drafter:
    """From a directory, checked, its weights unread. Raises ModelError."""
    return read_checkpoint(place, target, precision, KIND, METHOD, ABOUT)
