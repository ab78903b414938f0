"""What a config.json and the tensor headers beside it say, without weights and without MLX.

So a page's thread can tell a target from a drafter and check whether two fit while the thread that owns MLX is
busy; loading runs the same checks. A drafter's config is a copy of its target's with a few fields added, so shapes
are taken from the tensors where they agree among themselves.

What a drafter's directory says about its acceptance on held-out text: calibration.json, beside the weights.

`temperatures` (one a slot) calibrate the confidence head (sequential temperature scaling); `survival`[k] is the share
of held-out rounds whose first k + 1 drafts were all accepted; `margin_weights` and `margin_biases` are for a drafter
without that head (info.py). Any may be missing, but of the last two both or none; other fields are not read.

What it may draft, where that is not all that its weights could: draft_vocab.json, whose `ids` are the target's, in
ascending order. Of the heads, the target's or its own, these rows are taken at load; the weights have them all.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from ..errors import ModelError
from . import drafters
from .backbone_config import MAX_ROLLBACK, BackboneConfig, read_backbone
from .fields import Fields, is_number, is_whole, shown
from .files import read_object
from .formats import format_of, inner_names, is_drafter
from .formats.heads import MAX_RANK
from .headers import TensorInfo
from .info import Calibration
from .inner import Headers, Inner
from .quantization import Quantization
from .target_config import MAX_VOCABULARY, read_target
from .targets import family_of

PRECISIONS = ("auto", "stored", "bf16", "8-bit", "4-bit")  # of weights, converted at load (weights.py)
GROUP_SIZE = 64  # of weights that are quantized at load
MARKOV_TYPES = ("vanilla", "gated", "rnn")
D2T = "d2t"  # the tensor of a reduced draft vocabulary: draft id j is the target's j + d2t[j]
DRAFT_VOCABULARY = "draft_vocab.json"  # or a list beside weights that have rows for the whole vocabulary


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
    @property
    def family(self) -> str: ...


def target_shape(
    directory: Path, config: dict[str, Any], tensors: Mapping[str, TensorInfo] | None = None
) -> TargetShape:
    """The shape of the target that `config` describes. Raises ModelError if it cannot be loaded; see `read_target`."""
    read = read_target(directory, config, tensors or {})
    return TargetShape(directory.name, read.family.TITLE, read.hidden_size, read.vocab_size, len(read.layers))


@dataclass(frozen=True)
class DrafterConfig:
    """A drafter's checkpoint, in the field's terms, whatever it was packaged in (formats/).

    draft_vocab_size: rows V_d of its own vocabulary, a part of the target's; 0: it drafts from all of the target's
    listed:           that part is a list beside the weights (draft_vocab.json); these have the rows of all V tokens
    selector:         (rank, candidates) of DFlash 2's; None without
    successors:       rows of its successor codebook: V, by the target's ids, or V_d, by draft ids
    target_type:      model type of the target that it was made for; empty if that is not said
    target_class:     transformers' class of it; files name Qwen3's for others, too, but not a dense one for experts
    others:           as in Inner
    """

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
    draft_vocab_size: int = 0
    listed: bool = False
    selector: tuple[int, int] | None = None
    successors: int = 0
    embedding_scale: float = 1.0
    multiplier: float = 1.0
    raw_embedding: bool = False
    taps_name: str = "target_layer_ids"
    made_for: str = ""
    target_type: str = ""
    target_class: str = ""

    @property
    def max_drafts(self) -> int:
        """Drafts a round."""
        return self.block_size - self.first_slot

    @property
    def head_rows(self) -> int:
        """Tokens that it can draft."""
        return self.draft_vocab_size or self.vocab_size

    @property
    def stored_rows(self) -> int:
        """Rows that its head and its Markov head's second table have in the files."""
        return self.vocab_size if self.listed else self.head_rows

    @property
    def bias(self) -> str:
        """What lets its drafts see each other, in the page's words; empty if they don't."""
        return "Markov bias" if self.markov_rank else "selector" if self.selector else ""

    @property
    def has_bias(self) -> bool:
        """Do its drafts see each other?"""
        return bool(self.bias)

    @property
    def candidates(self) -> int:
        """Tokens that a slot's draft is settled among; 0: all that it can draft."""
        return self.selector[1] if self.selector else 0


def parse_config(directory: Path, raw: dict[str, Any], tensors: Headers) -> DrafterConfig:
    """The checkpoint's configuration, from config.json and the shapes its tensors declare. Raises ModelError for a
    format that is not supported, and for every field that is of a wrong type, out of range or not understood."""
    where = directory / "config.json"
    try:
        Quantization(directory, raw, {name: info for name, info in tensors.items() if info is not None}).check()
        form = format_of(where, raw, tensors)
        renamed = {inner: tensors[name] for name, inner in inner_names(where, form, tensors).items()}
        return _drafter_config(where, form.translate(where, raw, renamed))
    except (TypeError, ValueError, AttributeError, KeyError, ArithmeticError) as e:  # a field of an odd type
        raise ModelError(f"{where} cannot be read as a drafter's configuration ({e}).") from None


def method_of(directory: Path, raw: dict[str, Any], tensors: Mapping[str, TensorInfo]) -> str:
    """The method that a model drafts by: what a drafter's config.json says; a target's is the one whose checkpoints are
    targets. Raises ModelError for what is neither."""
    small = next(iter(drafters.marked("OF_TARGETS")), "")
    if is_drafter(raw) or not small or "model_type" not in raw:
        return parse_config(directory, raw, tensors).method
    read_target(directory, raw, tensors)
    return small


def _drafter_config(where: Path, inner: Inner) -> DrafterConfig:
    fields, tensors = inner.fields, inner.tensors
    rank = fields.whole("markov_rank", 0, MAX_RANK, 0)
    confidence = fields.flag("enable_confidence_head")
    with_markov = fields.flag("confidence_head_with_markov") and confidence
    if with_markov and not rank:
        raise ModelError(f"{where} asks for a confidence head with Markov features but has markov_rank 0.")
    markov_type = fields.text("markov_head_type", MARKOV_TYPES, MARKOV_TYPES[0])
    vocab_size = fields.whole("vocab_size", 1, MAX_VOCABULARY)
    listed = len(read_draft_ids(where.parent, vocab_size))
    reduced = _reduced(where, fields, tensors, vocab_size)
    if listed and reduced:
        raise ModelError(f"{where}: a draft vocabulary is in {DRAFT_VOCABULARY} and, another one, in the tensor {D2T}.")
    successors = tensors.get("candidate_selector.successor_codebook.weight")
    method = drafters.of_heads(*(head for head, has in {"markov": rank, "selector": inner.selector}.items() if has))
    if not method:
        raise ModelError(f"{where} has a Markov head (markov_rank {rank}) beside a selector: no method has both.")
    config = DrafterConfig(
        method=drafters.constants(method)["METHOD"],
        backbone=read_backbone(
            fields,
            tensors,
            inner.visibility,
            len(inner.taps),
            gemma=inner.gemma,
            convolution=inner.convolution,
            interleaved=inner.interleaved,
        ),
        block_size=fields.whole("block_size", 2, MAX_ROLLBACK - 1 + inner.first_slot),
        vocab_size=vocab_size,
        mask_token_id=fields.whole("mask_token_id", 0, MAX_VOCABULARY),
        taps=inner.taps,
        target_layers=inner.target_layers,
        first_slot=inner.first_slot,
        own_embedding="embed_tokens.weight" in tensors,
        own_head="lm_head.weight" in tensors or bool(reduced),
        softcap=inner.softcap,
        markov_rank=rank,
        markov_type=markov_type if rank else None,
        confidence=confidence,
        confidence_with_markov=with_markov,
        draft_vocab_size=listed or reduced,
        listed=bool(listed),
        selector=inner.selector,
        successors=successors.shape[0] if successors is not None else reduced or vocab_size,
        embedding_scale=inner.embedding_scale,
        multiplier=inner.multiplier,
        raw_embedding=inner.raw_embedding,
        taps_name=inner.taps_name,
        made_for=inner.made_for,
        target_type=str(fields.get("target_text_model_type") or fields.get("target_model_type") or ""),
        target_class=str(fields.get("target_class") or ""),
    )
    if inner.selector and inner.selector[1] > config.head_rows:
        raise ModelError(f"{where}: selector_top_k {inner.selector[1]} is more than its vocabulary has.")
    tied = fields.flag("tie_word_embeddings") and not reduced  # a head over a part of the vocabulary is its own
    if tied and config.own_embedding != config.own_head:
        raise ModelError(
            f"{where}: tie_word_embeddings is true, but only one of embedding and head is the drafter's own."
        )
    fields.read |= {"quantization", "quantization_config"}  # by checkpoint.py, where tensors are quantized
    usual = {"target_hidden_size": (config.backbone.hidden_size,), "sliding_window_non_causal": (False,)}
    usual["num_speculative_tokens"] = (config.max_drafts,)
    fields.refuse_others(usual | inner.neutral)
    return config


def _reduced(where: Path, fields: Fields, tensors: Headers, vocab_size: int) -> int:
    """Rows of a draft vocabulary that leaves tokens out; 0 if the target's whole vocabulary can be drafted."""
    info = tensors.get(D2T)
    rows = info.shape[0] if info is not None and len(info.shape) == 1 else vocab_size
    size = fields.whole("draft_vocab_size", 1, MAX_VOCABULARY, rows)
    if size != vocab_size and (D2T not in tensors or size > vocab_size):
        raise ModelError(
            f"{where}: draft_vocab_size {size} beside vocab_size {vocab_size} needs a smaller draft vocabulary and the "
            f"tensor {D2T}, which says its tokens."
        )
    if info is not None and info.shape != (size,):
        raise ModelError(f"{info.file}: tensor {D2T} has shape {list(info.shape)}, expected {[size]}.")
    return size if D2T in tensors else 0


def read_draft_ids(directory: Path, vocab_size: int) -> tuple[int, ...]:
    """The target's ids that draft_vocab.json lists; () where there is no such file. Raises ModelError."""
    path = directory / DRAFT_VOCABULARY
    if not path.exists():
        return ()
    ids = read_object(path).get("ids")
    ids = ids if isinstance(ids, list) and all(map(is_whole, ids)) else []
    if not ids or ids[0] < 0 or ids[-1] >= vocab_size or any(a >= b for a, b in pairwise(ids)):
        raise ModelError(f"{path} must list `ids`, ascending ones of a vocabulary of {vocab_size}; it does not.")
    return tuple(ids)


def check_fit(directory: Path, c: DrafterConfig, target: ShapeOf) -> None:
    """Raises ModelError if the drafter was not made for this target."""
    where = directory / "config.json"

    def need(ok: object, what: str) -> None:
        if not ok:
            raise ModelError(f"{where}: {what}.")

    made_for = f" (it was made for {c.made_for})" if c.made_for else ""
    d, V, n = target.hidden_size, target.vocab_size, target.num_layers
    hidden = c.backbone.hidden_size
    need(hidden == d, f"the drafter's hidden_size is {hidden}, that of the target {target.name} is {d}{made_for}")
    need(
        c.vocab_size == V,
        f"the drafter's vocab_size is {c.vocab_size}, that of the target {target.name} is {V}{made_for}",
    )
    family = family_of(c.target_type)
    need(
        family is None or target.family == family.TITLE,
        f"the drafter was made for a target of type {shown(c.target_type)}, {target.name} is a {target.family} model",
    )
    experts = "moe" in c.target_class.lower(), target.family.endswith("MoE")
    need(
        not c.target_class or len({*experts}) == 1,
        f"the drafter was made for a {shown(c.target_class)}, {target.name} is a {target.family} model{made_for}",
    )
    layers = c.target_layers or n
    need(layers == n, f"num_target_layers: the drafter was made for a target of {layers} layers, {target.name} has {n}")
    need(
        c.taps and list(c.taps) == sorted(set(c.taps)),
        f"{c.taps_name} {shown(list(c.taps))} must be strictly increasing",
    )
    need(
        all(-1 <= t < n - 1 for t in c.taps),
        f"{c.taps_name} {shown(list(c.taps))} must lie between -1 and {n - 2}: the last layer of {n} cannot be tapped"
        f"{made_for}",
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
        survival = _slot_numbers(raw, "survival", drafts, 0.0, 1.0)
        weights = _slot_numbers(raw, "margin_weights", drafts, 0.0, 1e3)  # a drafter surer of it is no less often right
        biases = _slot_numbers(raw, "margin_biases", drafts, -1e3, 1e3)
        if bool(weights) != bool(biases):
            raise ValueError("margin_weights and margin_biases belong together, and one of them is missing")
        return Calibration(temperatures, survival, tuple(zip(weights, biases, strict=True)))
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
