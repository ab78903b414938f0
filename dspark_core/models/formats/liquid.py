"""Liquid AI's packaging of DSpark for LFM2 targets: `Lfm2DSparkDraftModel`, a flat Qwen3-style config.json with taps,
mask and number of target layers under `dflash_config`, which names no projector_type.

Qwen3 layers, whose rope turns neighbouring pairs where `rope_is_neox_style` is false. The anchor's slot predicts, and
every layer sees the whole block. Embedding and head are the target's. What heads there are shows in the tensors: the
config says nothing of them. Source: mlx-dspark 0.20.3, an engine that runs these; no published file was opened here.
"""

from pathlib import Path
from typing import Any

from ...errors import ModelError
from ..backbone_config import SLIDING, Visibility, layer_count, layer_types
from ..drafters import of_heads
from ..fields import NESTED, Fields
from ..inner import Headers, Inner
from .heads import MAX_TARGET_LAYERS, architecture
from .zlab import nested

ARCHITECTURES = ("Lfm2DSparkDraftModel",)
RANK = 256  # where the tensors' shapes are not known
# Of the target, whose config was copied.
OF_TARGET = {
    "conv_bias",
    "conv_L_cache",
    "conv_dim",
    "conv_dim_out",
    "conv_use_xavier_init",
    "full_attn_idxs",
    "norm_eps",
}
OF_TARGET |= {"block_dim", "block_ff_dim", "block_multiple_of", "block_ffn_dim_multiplier", "block_auto_adjust_ff_dim"}
OF_TARGET |= {
    "block_mlp_init_scale",
    "block_norm_eps",
    "block_out_init_scale",
    "block_use_swiglu",
    "block_use_xavier_init",
}


def reads(raw: dict[str, Any]) -> bool:
    return architecture(raw) in ARCHITECTURES


def renamed(name: str) -> str:
    return name


def translate(where: Path, raw: dict[str, Any], tensors: Headers) -> Inner:
    inside = nested(where, raw)
    fields = Fields(where, _heads(raw, tensors) | raw, inside)
    layers = layer_count(fields, tensors)
    types = layer_types(fields, layers)
    if SLIDING in types:
        raise ModelError(f"{where}: layer_types has {SLIDING}, which Liquid AI's drafters do not have.")
    fields.read |= {NESTED, "sliding_window", "rope_is_neox_style", *OF_TARGET}
    method, named = of_heads("markov"), fields.get("num_target_layers") is not None
    return Inner(
        fields=fields,
        tensors=tensors,
        layers=layers,
        visibility=Visibility(types, (False,) * layers),
        taps=fields.wholes("target_layer_ids"),
        first_slot=0,
        target_layers=fields.whole("num_target_layers", 1, MAX_TARGET_LAYERS) if named else None,
        interleaved=not fields.flag("rope_is_neox_style", True),
        raw_embedding=True,
        neutral={
            "hidden_act": ("silu",),
            "hidden_activation": ("silu",),
            "projector_type": (method,),
            "sample_from_anchor": (True,),
            "is_causal": (False,),
            "causal": (False,),
        },
    )


def _heads(raw: dict[str, Any], tensors: Headers) -> dict[str, Any]:
    """DeepSpec's fields of the heads that these tensors make."""
    markov, confidence = (tensors.get(f"{n}.weight") for n in ("markov_head.markov_w1", "confidence_head.proj"))
    has = "markov_head.markov_w1.weight" in tensors
    rank = 0 if not has else markov.shape[-1] if markov and markov.dtype != "U32" else RANK
    width = raw.get("hidden_size")
    wide = confidence is None or confidence.shape[-1] != width
    sure = "confidence_head.proj.weight" in tensors
    return {
        "markov_rank": rank,
        "enable_confidence_head": sure,
        "confidence_head_with_markov": bool(sure and wide and rank),
    }
