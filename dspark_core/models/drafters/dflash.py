"""DFlash: block diffusion. Every slot is drafted in parallel, and no draft sees what its neighbours became."""

from ..drafter import BlockDrafter

METHOD = "DFlash"
KIND = BlockDrafter
HEADS = ()
BY = "z-lab"
ABOUT = (
    "Drafts a block at once, like filling in blanks; no token sees what its neighbours became. "
    "A single step of the target checks the whole block."
)
