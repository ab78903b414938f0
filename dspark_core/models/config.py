"""What a config.json and the tensor headers beside it say, without weights and without MLX.

So a page's thread can tell a target from a drafter and check whether two fit while the thread that owns MLX is
busy; loading runs the same checks. A drafter's config is a copy of its target's with a few fields added, so shapes
are taken from the tensors where they agree among themselves.

What a drafter's directory says about its acceptance on held-out text: calibration.json, beside the weights.

`temperatures` (one a slot) calibrate the confidence head (sequential temperature scaling); `survival`[k] is the share
of held-out rounds whose first k + 1 drafts were all accepted. Either may be missing; other fields are not read.
"""

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from ..errors import ModelError
from .backbone_config import MAX_LAYERS, MAX_ROLLBACK, BackboneConfig, full_layer_sizes, read_backbone
from .fields import FOREIGN, NESTED, Fields, is_number, is_whole, shown
from .files import read_object
from .headers import TensorInfo
from .info import Calibration
from .targets import families, family_of

PRECISIONS = ("auto", "stored", "bf16", "8-bit", "4-bit")  # of weights, converted at load (weights.py)
GROUP_SIZE = 64  # of weights that are quantized at load
MARKOV_TYPES = ("vanilla", "gated", "rnn")
DEEPSPEC = {"Qwen3DSparkModel": False, "Gemma4DSparkModel": True}  # -> Gemma-4 layers?
ZLAB = "DFlashDraftModel"
MAX_TARGET_LAYERS, MAX_RANK, MAX_VOCABULARY = 1000, 1 << 14, 1 << 23
MIN_SOFTCAP, MAX_SOFTCAP = 1e-3, 1e6
GEMMA_ACT = "gelu_pytorch_tanh"


@dataclass(frozen=True)
class TargetShape:
    """What a drafter must know of its target."""

    name: str
    family: str
    hidden_size: int
    vocab_size: int
    num_layers: int


class ShapeOf(Protocol):
    """A TargetShape, or the loaded Target itself."""

    @property
    def name(self) -> str: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def num_layers(self) -> int: ...


def target_shape(directory: Path, config: dict[str, Any]) -> TargetShape:
    """The shape of the target that `config` describes. Raises ModelError if its family is not supported or a
    field is missing."""
    family = check_family(directory, config)
    text = config.get("text_config") or config

    def whole(name: str) -> int:
        value = text.get(name)
        if not is_whole(value) or value < 1:
            raise ModelError(f"{directory / 'config.json'}: {name} must be a whole number above 0, not {value!r}.")
        return value

    return TargetShape(
        directory.name, family.TITLE, whole("hidden_size"), whole("vocab_size"), whole("num_hidden_layers")
    )


def check_family(directory: Path, config: dict[str, Any]) -> ModuleType:
    """The family of a target. Raises ModelError if it is not a supported one, or if it wants code of its own to run."""
    where = directory / "config.json"
    kind, text = config.get("model_type"), config.get("text_config") or config
    if not isinstance(text, dict):
        raise ModelError(f"{where}: text_config must be an object.")
    family = family_of(kind)
    if family is None:
        titles = [f.TITLE for f in families()]
        there_are = f"{', '.join(titles[:-1])} and {titles[-1]}"
        raise ModelError(f"{where} has model_type {kind!r}; targets of the {there_are} families are supported.")
    if config.get("model_file"):
        raise ModelError(f"{where} asks to run code from {config['model_file']!r}; code of a model is never run.")
    if why := getattr(family, "refuse", lambda text: "")(text):
        raise ModelError(f"{where}: {why}")
    return family


@dataclass(frozen=True)
class DrafterConfig:
    """A drafter's checkpoint, in the field's terms; see spec of each format in checkpoint.py."""

    method: str
    backbone: BackboneConfig
    block_size: int
    vocab_size: int
    mask_token_id: int
    taps: tuple[int, ...]
    target_layers: int | None  # of the target it was made for; None if that is not said
    first_slot: int  # 0: the anchor's slot predicts; 1: its output is discarded
    own_embedding: bool
    own_head: bool
    softcap: float | None
    markov_rank: int = 0
    markov_type: str | None = None
    confidence: bool = False
    confidence_with_markov: bool = False

    @property
    def max_drafts(self) -> int:
        """Drafts a round."""
        return self.block_size - self.first_slot


def parse_config(directory: Path, raw: dict[str, Any], tensors: dict[str, TensorInfo]) -> DrafterConfig:
    """The checkpoint's configuration, from config.json and the shapes its tensors declare. Raises ModelError for a
    format that is not supported, and for every field that is of a wrong type, out of range or not understood."""
    where = directory / "config.json"
    try:
        return _drafter_config(where, raw, tensors)
    except (TypeError, ValueError, AttributeError, KeyError, ArithmeticError) as e:  # a field of an odd type
        raise ModelError(f"{where} cannot be read as a drafter's configuration ({e}).") from None


def _drafter_config(where: Path, raw: dict[str, Any], tensors: dict[str, TensorInfo]) -> DrafterConfig:
    architecture = _architecture(where, raw)
    zlab, gemma = architecture == ZLAB, DEEPSPEC.get(architecture, False)
    raw = full_layer_sizes(where, raw) if gemma else raw
    fields = Fields(where, raw, _nested(where, raw) if zlab else {})
    rank = fields.whole("markov_rank", 0, MAX_RANK, 0)
    if zlab and rank:
        raise ModelError(f"{where}: a DFlash drafter with a Markov head (markov_rank {rank}) is not supported.")
    confidence = fields.flag("enable_confidence_head")
    if zlab and confidence:
        raise ModelError(f"{where}: a z-lab DFlash drafter with a confidence head is not supported.")
    with_markov = fields.flag("confidence_head_with_markov") and confidence
    if with_markov and not rank:
        raise ModelError(f"{where} asks for a confidence head with Markov features but has markov_rank 0.")
    markov_type = fields.text("markov_head_type", MARKOV_TYPES, MARKOV_TYPES[0])
    layers = fields.whole("num_hidden_layers", 1, MAX_LAYERS)
    named = zlab or fields.get("num_target_layers") is not None
    target_layers = fields.whole("num_target_layers", 1, MAX_TARGET_LAYERS) if named else None
    usual = _default_taps(target_layers, layers) if zlab and target_layers else None
    taps = fields.wholes("target_layer_ids", usual)
    if zlab and -1 in taps:
        raise ModelError(
            f"{where}: target_layer_ids {shown(list(taps))} count from 0 in z-lab's format; there is no -1."
        )
    first_slot = 1 if zlab else 0
    block = fields.whole("block_size", 2, MAX_ROLLBACK - 1 + first_slot)
    vocab_size = fields.whole("vocab_size", 1, MAX_VOCABULARY)
    config = DrafterConfig(
        method="DSpark" if rank else "DFlash",
        backbone=read_backbone(fields, tensors, gemma, zlab, layers, len(taps)),
        block_size=block,
        vocab_size=vocab_size,
        mask_token_id=fields.whole("mask_token_id", 0, MAX_VOCABULARY),
        taps=taps,
        target_layers=target_layers,
        first_slot=first_slot,
        own_embedding="embed_tokens.weight" in tensors,
        own_head="lm_head.weight" in tensors,
        softcap=_softcap(fields, zlab) if gemma or zlab else None,
        markov_rank=rank,
        markov_type=markov_type if rank else None,
        confidence=confidence,
        confidence_with_markov=with_markov,
    )
    if fields.flag("tie_word_embeddings") and config.own_embedding != config.own_head:
        raise ModelError(
            f"{where}: tie_word_embeddings is true, but only one of embedding and head is the drafter's own."
        )
    fields.read |= {"quantization", "quantization_config"}  # by checkpoint.py, where tensors are quantized
    if zlab:
        fields.read.add(NESTED)
    fields.refuse_others(
        {
            "hidden_act": (GEMMA_ACT,) if gemma else ("silu",),
            "hidden_activation": (GEMMA_ACT,) if gemma else ("silu",),
            "draft_vocab_size": (vocab_size,),
            "target_hidden_size": (config.backbone.hidden_size,),
            "projector_type": ("dflash",) if zlab else ("dspark",) if rank else ("dspark", "dflash"),
            "sample_from_anchor": (not zlab,),
            "sliding_window_non_causal": (False,),
            "is_causal": () if zlab else (False,),
        }
    )
    return config


def _architecture(where: Path, raw: dict[str, Any]) -> str:
    """The one architecture that the checkpoint is of, if it is supported."""
    for name, what in FOREIGN.items():
        if raw.get(name) is not None or (isinstance(raw.get(NESTED), dict) and raw[NESTED].get(name) is not None):
            raise ModelError(f"{where} has {name}: {what} are not supported.")
    named = raw.get("architectures")
    architecture = named[0] if isinstance(named, list) and len(named) == 1 else named
    if architecture == "DFlash2DraftModel":
        raise ModelError(f"{where}: DFlash 2 drafters ({architecture}) are not supported.")
    if not isinstance(architecture, str) or (architecture not in DEEPSPEC and architecture != ZLAB):
        known = ", ".join([*DEEPSPEC, ZLAB])
        raise ModelError(f"{where} has architecture {shown(architecture)}; drafters of {known} are supported.")
    return architecture


def _nested(where: Path, raw: dict[str, Any]) -> dict[str, Any]:
    nested = raw.get(NESTED)
    if nested is not None and not isinstance(nested, dict):
        raise ModelError(f"{where}: {NESTED} must be an object.")
    return nested or {}


def _softcap(fields: Fields, zlab: bool) -> float | None:
    """z-lab's files switch it off with a number that is not above 0, too."""
    if fields.get("final_logit_softcapping") is None:
        return None
    cap = fields.number("final_logit_softcapping", -MAX_SOFTCAP if zlab else MIN_SOFTCAP, MAX_SOFTCAP)
    return cap if cap > 0 else None


def _default_taps(n: int, k: int) -> list[int]:
    """z-lab's taps where the config names none: n target layers, k draft layers."""
    return [n // 2] if k == 1 else [round(1 + i * (n - 4) / (k - 1)) for i in range(k)]


def check_fit(directory: Path, c: DrafterConfig, target: ShapeOf) -> None:
    """Raises ModelError if the drafter was not made for this target."""
    where = directory / "config.json"

    def need(ok: object, what: str) -> None:
        if not ok:
            raise ModelError(f"{where}: {what}.")

    d, V, n = target.hidden_size, target.vocab_size, target.num_layers
    hidden = c.backbone.hidden_size
    need(hidden == d, f"the drafter's hidden_size is {hidden}, that of the target {target.name} is {d}")
    need(
        c.vocab_size == V,
        f"the drafter's vocab_size is {c.vocab_size}, that of the target {target.name} is {V}",
    )
    layers = c.target_layers or n
    need(layers == n, f"num_target_layers: the drafter was made for a target of {layers} layers, {target.name} has {n}")
    need(
        c.taps and list(c.taps) == sorted(set(c.taps)),
        f"target_layer_ids {shown(list(c.taps))} must be strictly increasing",
    )
    need(
        all(-1 <= t < n - 1 for t in c.taps),
        f"target_layer_ids {shown(list(c.taps))} must lie between -1 and {n - 2}: the last layer of {n} cannot be "
        "tapped",
    )
    need(c.mask_token_id < V, f"mask_token_id {c.mask_token_id} is not in the vocabulary of {V}")


FILE = "calibration.json"


def read_calibration(directory: Path, drafts: int) -> Calibration:
    """Of a drafter with `drafts` drafts a block. Raises ModelError, in one sentence, if the file cannot be used."""
    path = directory / FILE
    if not path.exists():
        return Calibration()
    raw = read_object(path)
    try:
        temperatures = _slot_numbers(raw, "temperatures", drafts, 1e-3, 1e3)
        return Calibration(temperatures, _slot_numbers(raw, "survival", drafts, 0.0, 1.0))
    except ValueError as e:
        raise ModelError(f"{path} cannot be used: {str(e).rstrip('.')}.") from None


def _slot_numbers(raw: dict[str, Any], name: str, drafts: int, low: float, high: float) -> tuple[float, ...]:
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
