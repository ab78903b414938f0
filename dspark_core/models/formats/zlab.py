"""z-lab's packaging of DFlash and DFlash 2 (published by z-lab and incoai): a Qwen3-style config.json, the drafter's
own fields at its top or under `dflash_config`, which goes first.

The anchor's slot discards its output, so slot k predicts the token k places after the anchor. `is_causal` says for all
layers whether a slot sees the slots behind it; without it, sliding layers are causal and full ones are not. Embedding
and head are the target's (a packed file may bring a head over a reduced vocabulary). Sources: z-lab/dflash 0.1.0.
"""

from pathlib import Path
from typing import Any

from ...errors import ModelError
from ..backbone_config import MAX_ROLLBACK, SLIDING, Visibility, layer_count, layer_types
from ..drafters import constants, of_heads
from ..fields import NESTED, NESTED_FIRST, Fields, shown
from ..inner import Headers, Inner
from .heads import MAX_RANK, MAX_TARGET_LAYERS, architecture, convolution, selector, softcap, window_of

ARCHITECTURES = {"DFlashDraftModel": False, "DFlash2DraftModel": True}  # -> DFlash 2?
DFLASH_2_FIELDS = ("conv_kernel_size", "conv_group_size", "selector_rank", "selector_top_k")
SCALES = ("input_embedding_scale", "output_multiplier")
MAX_SCALE = 1e6


def reads(raw: dict[str, Any]) -> bool:
    return architecture(raw) in ARCHITECTURES


def renamed(name: str) -> str:
    return name + ".weight" if name.endswith("_codebook") else name  # plain arrays there


def translate(where: Path, raw: dict[str, Any], tensors: Headers) -> Inner:
    second = ARCHITECTURES[architecture(raw)]
    own = (*DFLASH_2_FIELDS, *SCALES) if second else ()
    fields = Fields(where, raw, nested(where, raw), first=NESTED_FIRST | {*own})
    for name in () if second else DFLASH_2_FIELDS:
        if raw.get(name) is not None or fields.nested.get(name) is not None:
            raise ModelError(f"{where} has {name}: DFlash 2 drafters are of architecture DFlash2DraftModel.")
    method = of_heads("selector") if second else of_heads()
    title = constants(method).get("TITLE", constants(method)["METHOD"])
    if rank := fields.whole("markov_rank", 0, MAX_RANK, 0):
        raise ModelError(f"{where}: a {title} drafter with a Markov head (markov_rank {rank}) is not supported.")
    if fields.flag("enable_confidence_head"):
        raise ModelError(f"{where}: a z-lab {title} drafter with a confidence head is not supported.")
    layers = layer_count(fields, tensors)
    target_layers = fields.whole("num_target_layers", 1, MAX_TARGET_LAYERS)
    # Where the config names no taps:
    spread = [round(1 + i * (target_layers - 4) / (layers - 1)) for i in range(layers)] if layers > 1 else None
    taps = fields.wholes("target_layer_ids", spread or [target_layers // 2])
    if -1 in taps:
        raise ModelError(
            f"{where}: target_layer_ids {shown(list(taps))} count from 0 in z-lab's format; there is no -1."
        )
    fields.read.add(NESTED)
    return Inner(
        fields=fields,
        tensors=tensors,
        layers=layers,
        visibility=_causality(fields, layers),
        taps=taps,
        first_slot=1,
        target_layers=target_layers,
        embedding_scale=fields.number(SCALES[0], -MAX_SCALE, MAX_SCALE, 1.0) if second else 1.0,
        multiplier=fields.number(SCALES[1], -MAX_SCALE, MAX_SCALE, 1.0) if second else 1.0,
        softcap=softcap(fields, may_be_off=True),
        convolution=convolution(fields) if second else None,
        selector=selector(fields) if second else None,
        neutral={
            "hidden_act": ("silu",),
            "hidden_activation": ("silu",),
            "projector_type": (method,),
            "sample_from_anchor": (False,),
        },
    )


def nested(where: Path, raw: dict[str, Any]) -> dict[str, Any]:
    """The fields under dflash_config. Raises ModelError if it is no object."""
    inside = raw.get(NESTED)
    if inside is not None and not isinstance(inside, dict):
        raise ModelError(f"{where}: {NESTED} must be an object.")
    return inside or {}


def _causality(fields: Fields, layers: int) -> Visibility:
    types = layer_types(fields, layers)
    window = window_of(fields, types)
    given: dict[str, bool] = {}
    names = ("is_causal", "causal", "dflash_query_causal")
    for prefix, values in (("", fields.raw), (f"{NESTED}.", fields.nested)):
        place = Fields(fields.where, values, prefix=prefix)
        given |= {prefix + name: place.flag(name) for name in names if values.get(name) is not None}
    fields.read |= {*names}
    if len(set(given.values())) > 1:
        raise ModelError(f"{fields.where}: {' and '.join(given)} contradict each other.")
    causal, block = next(iter(given.values()), None), fields.whole("block_size", 2, MAX_ROLLBACK)
    if causal is False and window is not None and window < block:
        raise ModelError(
            f"{fields.where}: {' and '.join(given)} is false and sliding_window is below block_size {block}; readers "
            "of this format do not agree what that means."
        )
    return Visibility(types, tuple(t == SLIDING if causal is None else causal for t in types), window)
