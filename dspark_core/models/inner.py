"""The inner schema: DeepSpec's configuration, and beside it the facts that it has no field for.

Every packaging of a drafter is translated to this by a file of formats/; config.py reads it, and nothing else knows in
what form a checkpoint was published. What differs between checkpoints of one class (first slot, causality, numbering of
the taps, draft vocabulary) is a fact here, never a consequence of the class. No MLX.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .backbone_config import Visibility
from .fields import Fields
from .headers import TensorInfo

Headers = Mapping[str, TensorInfo | None]  # by name; None where a caller knows only that a tensor is there


@dataclass(frozen=True, kw_only=True)
class Inner:
    """A checkpoint in DeepSpec's terms.

    fields:           its fields under DeepSpec's names, which config.py goes on reading
    tensors:          headers under DeepSpec's names (`renamed` of its format), without those that are left out
    layers:           of the backbone
    visibility:       what a slot sees in each of them
    taps:             0-based layers whose outputs are tapped, -1 for the embedding
    taps_name:        how the file names them
    first_slot:       0: the anchor's slot predicts; 1: its output is discarded
    target_layers:    of the target it was made for; None if that is not said
    made_for:         the target's name; empty if that is not said
    gemma:            Gemma-4 layers
    interleaved:      the rope turns neighbouring pairs of a head's numbers, not its halves
    raw_embedding:    a target's embedding enters as it is stored, without the target's own scale
    embedding_scale:  of the block's input embeddings
    multiplier:       of the head's logits, before the softcap
    softcap:          of the head's logits; None: off
    convolution:      (taps, group size) of DFlash 2's convolutions; None without
    selector:         (rank, candidates) of DFlash 2's selector; None without
    neutral:          values of further fields that change nothing
    """

    fields: Fields
    tensors: Headers
    layers: int
    visibility: Visibility
    taps: tuple[int, ...]
    first_slot: int
    taps_name: str = "target_layer_ids"
    target_layers: int | None = None
    made_for: str = ""
    gemma: bool = False
    interleaved: bool = False
    raw_embedding: bool = False
    embedding_scale: float = 1.0
    multiplier: float = 1.0
    softcap: float | None = None
    convolution: tuple[int, int] | None = None
    selector: tuple[int, int] | None = None
    neutral: dict[str, tuple[Any, ...]] = field(default_factory=dict)
