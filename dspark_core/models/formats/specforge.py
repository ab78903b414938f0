"""SpecForge's packaging of DSpark: `DSparkDraftModel` without speculators' fields, a flat Qwen3-style config.json, the
heads' fields under `dflash_config`. Embedding and head are the target's, as they are stored (assumed where a target
scales its embedding).

The anchor's slot predicts, as its training labels have it (its own generation reads the slots behind it, and accepts
half as much). Sliding layers are causal in the block. Early files put `logit_head.` before the heads' names. Sources:
sgl-project/SpecForge 0.2.0.
"""

from pathlib import Path
from typing import Any

from ..backbone_config import GELU, SLIDING, Visibility, layer_count, layer_types
from ..drafters import of_heads
from ..fields import NESTED, NESTED_FIRST, Fields
from ..inner import Headers, Inner
from .heads import MAX_TARGET_LAYERS, architecture, window_of
from .zlab import nested

ARCHITECTURE = "DSparkDraftModel"
HEAD_FIELDS = ("markov_head_type", "confidence_head_with_markov", "confidence_head_alpha", "projector_type")


def reads(raw: dict[str, Any]) -> bool:
    return architecture(raw) == ARCHITECTURE


def renamed(name: str) -> str:
    return name.removeprefix("logit_head.")


def translate(where: Path, raw: dict[str, Any], tensors: Headers) -> Inner:
    fields = Fields(where, raw, nested(where, raw), first=NESTED_FIRST | {*HEAD_FIELDS})
    if fields.get("enable_confidence_head") is None and fields.get("confidence_head_alpha") is not None:
        trained = fields.number("confidence_head_alpha", 0, 1e9) > 0
        fields.nested = fields.nested | {"enable_confidence_head": trained}
    method = of_heads("markov")
    for place in (fields, Fields(where, raw)):  # one that stands at the top beside another is heard, too
        place.text("projector_type", (method,), method)
    layers = layer_count(fields, tensors)
    types = layer_types(fields, layers)
    window = window_of(fields, types)
    fields.read.add(NESTED)
    named = fields.get("num_target_layers") is not None
    return Inner(
        fields=fields,
        tensors=tensors,
        layers=layers,
        visibility=Visibility(types, tuple(t == SLIDING for t in types), window),
        taps=fields.wholes("target_layer_ids"),
        first_slot=0,
        target_layers=fields.whole("num_target_layers", 1, MAX_TARGET_LAYERS) if named else None,
        raw_embedding=True,
        neutral={"hidden_act": ("silu", GELU), "hidden_activation": ("silu",), "sample_from_anchor": (True,)},
    )
