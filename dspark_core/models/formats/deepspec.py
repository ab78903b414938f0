"""DeepSpec's own packaging, which is the inner schema: `Qwen3DSparkModel` and `Gemma4DSparkModel`, every field at the
top of config.json, a copy of the target's. With `markov_rank` 0 it is DeepSpec's DFlash.

The anchor's slot predicts; every layer sees the whole block. Embedding and head may be in the file or the target's
(openbmb/MiniCPM5-2B-DSpark leaves them out, on a Llama target; its config was read by others, never opened here).
"""

from pathlib import Path
from typing import Any

from ...errors import ModelError
from ..backbone_config import GELU, SLIDING, Visibility, full_layer_sizes, layer_count, layer_types
from ..drafters import of_heads
from ..fields import Fields
from ..inner import Headers, Inner
from .heads import MAX_TARGET_LAYERS, architecture, softcap

ARCHITECTURES = {"Qwen3DSparkModel": False, "Gemma4DSparkModel": True}  # -> Gemma-4 layers?


def reads(raw: dict[str, Any]) -> bool:
    return architecture(raw) in ARCHITECTURES


def renamed(name: str) -> str:
    return name


def translate(where: Path, raw: dict[str, Any], tensors: Headers) -> Inner:
    gemma = ARCHITECTURES[architecture(raw)]
    fields = Fields(where, full_layer_sizes(where, raw) if gemma else raw)
    layers = layer_count(fields, tensors)
    types = layer_types(fields, layers)
    if SLIDING in types:
        raise ModelError(f"{where}: layer_types has {SLIDING}, which DeepSpec's drafters do not have.")
    fields.read.add("sliding_window")  # of the target, whose config was copied
    named = fields.get("num_target_layers") is not None
    with_head, without = of_heads("markov"), of_heads()
    return Inner(
        fields=fields,
        tensors=tensors,
        layers=layers,
        visibility=Visibility(types, (False,) * layers),
        taps=fields.wholes("target_layer_ids"),
        first_slot=0,
        target_layers=fields.whole("num_target_layers", 1, MAX_TARGET_LAYERS) if named else None,
        gemma=gemma,
        softcap=softcap(fields, may_be_off=False) if gemma else None,
        neutral={
            "hidden_act": (GELU,) if gemma else ("silu",),
            "hidden_activation": (GELU,) if gemma else ("silu",),
            "projector_type": (with_head,) if fields.get("markov_rank") else (with_head, without),
            "sample_from_anchor": (True,),
            "is_causal": (False,),
        },
    )
