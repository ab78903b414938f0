"""What several packagings read alike: the one architecture, a head's softcap, a window, DFlash 2's sizes."""

from typing import Any

from ...errors import ModelError
from ..backbone_config import MAX_WIDTH, MAX_WINDOW, SLIDING
from ..fields import Fields

MAX_TARGET_LAYERS, MAX_RANK, MAX_CANDIDATES, MAX_KERNEL = 1000, 1 << 14, 1024, 16
MIN_SOFTCAP, MAX_SOFTCAP = 1e-3, 1e6


def architecture(raw: dict[str, Any]) -> str:
    """The one architecture that a config.json names; empty if it does not name one."""
    named = raw.get("architectures")
    named = named[0] if isinstance(named, list) and len(named) == 1 else named
    return named if isinstance(named, str) else ""


def softcap(fields: Fields, may_be_off: bool) -> float | None:
    """z-lab's files switch it off with a number that is not above 0, too."""
    if fields.get("final_logit_softcapping") is None:
        return None
    cap = fields.number("final_logit_softcapping", -MAX_SOFTCAP if may_be_off else MIN_SOFTCAP, MAX_SOFTCAP)
    return cap if cap > 0 else None


def window_of(fields: Fields, types: tuple[str, ...]) -> int | None:
    """Rows of the sliding layers' window; None without such layers, where a copy of the target's config may say what it
    will. Raises ModelError where the window is switched off."""
    fields.read.add("sliding_window")
    if SLIDING not in types:
        return None
    if fields.get("use_sliding_window") is False:
        raise ModelError(
            f"{fields.where}: layer_types has {SLIDING}, but use_sliding_window is false; readers of this format do "
            "not agree what that means."
        )
    return fields.whole("sliding_window", 1, MAX_WINDOW)


def convolution(fields: Fields, **usual: int) -> tuple[int, int]:
    """(taps, group size) of DFlash 2's convolutions; a field without a usual value is needed."""
    return (
        fields.whole("conv_kernel_size", 1, MAX_KERNEL, usual.get("conv_kernel_size")),
        fields.whole("conv_group_size", 1, MAX_WIDTH, usual.get("conv_group_size")),
    )


def selector(fields: Fields, **usual: int) -> tuple[int, int]:
    """(rank, candidates) of DFlash 2's selector; a field without a usual value is needed."""
    return (
        fields.whole("selector_rank", 1, MAX_RANK, usual.get("selector_rank")),
        fields.whole("selector_top_k", 1, MAX_CANDIDATES, usual.get("selector_top_k")),
    )
