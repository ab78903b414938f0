"""A model before its weights are read: its config.json and its tensors' names, types and shapes.

Does a drafter fit a target? From configs and tensor headers, before any weights are read.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..models import drafters
from ..models.config import DrafterConfig, check_fit, parse_config, target_shape
from ..models.files import INDEX, TEMPLATES, WEIGHTS, read_object
from ..models.formats import is_drafter
from ..models.headers import TensorInfo, read_config, read_headers
from ..models.quantization import DTYPE_BYTES, Quantization

TOKENIZERS = ({"tokenizer.json"}, {"tokenizer.model"}, {"vocab.json", "merges.txt"})  # any of them
MOST_PADDING = 4096  # rows of a vocabulary's table that no token has
TARGET, DRAFTER, OTHER = "target", "drafter", "other"

PART = re.compile(r"(.{1,80})-(\d{1,9})-of-(\d{1,9})\.safetensors")

# The instruct models that the published drafters were trained on, by (hidden size, layers) of the target.
INSTRUCT = {
    (2560, 36): "Qwen/Qwen3-4B",
    (4096, 36): "Qwen/Qwen3-8B",
    (5120, 40): "Qwen/Qwen3-14B",
    (3840, 48): "google/gemma-4-12B-it",
}
# "-Base" and "-pt" are how the families name a base model; Gemma's instruct models are the ones with "-it".
BASE_NAME = re.compile(r"(^|[-_.])(base|pt)($|[-_.])", re.IGNORECASE)
INSTRUCT_NAME = re.compile(r"(^|[-_.])(it|instruct|chat)($|[-_.])", re.IGNORECASE)


@dataclass(frozen=True)
class Facts:
    """A model without its weights.

    name:           "owner/name" on the hub, else the directory's name
    where:          its directory, or its hub name as a path; begins the sentences about it
    has_template:   whether it brings a chat template
    """

    name: str
    where: Path
    config: dict[str, Any]
    tensors: dict[str, TensorInfo]
    has_template: bool

    @classmethod
    def read(cls, directory: Path, name: str = "") -> "Facts":
        """Those of a model directory. Raises ModelError if a file is missing, cut off or points elsewhere."""
        config = read_config(directory)
        index, settings = directory / INDEX, directory / "tokenizer_config.json"
        weights = {f.name for f in directory.glob("*") if WEIGHTS.fullmatch(f.name)}
        check_weight_files(directory, read_object(index) if index.exists() else None, weights)
        templates = ("chat_template.jinja", "chat_template.json")
        has_template = any((directory / t).exists() for t in templates) or any(directory.glob(f"{TEMPLATES}/*.jinja"))
        has_template = has_template or (settings.exists() and bool(read_object(settings).get("chat_template")))
        return cls(name or directory.name, directory, config, read_headers(directory), has_template)

    @property
    def text(self) -> dict[str, Any]:
        """The configuration of the text model, where that is a part of the whole."""
        text = self.config.get("text_config")
        return text if isinstance(text, dict) else self.config

    def size(self, name: str) -> int:
        """A size in the text model's configuration. Raises ModelError if it is not there."""
        value = self.text.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ModelError(f"{self.where / 'config.json'}: {name} must be a whole number above 0, not {value!r}.")
        return value

    @property
    def bytes(self) -> int:
        """Bytes of all tensors as stored."""
        return sum(math.prod(t.shape) * DTYPE_BYTES.get(t.dtype, 1) for t in self.tensors.values())


@dataclass(frozen=True)
class Sort:
    """What a model is to this program. `family` is a target's family or a drafter's method; empty for neither."""

    kind: str
    family: str
    words: str


def check_weight_files(where: Path, index: dict[str, Any] | None, present: Iterable[str]) -> None:
    """Raises ModelError if the index of a sharded model names a file outside its directory or one that is missing."""
    wanted = (index or {}).get("weight_map", {})
    if not isinstance(wanted, dict) or not all(isinstance(f, str) for f in wanted.values()):
        raise ModelError(f"{where / INDEX}: weight_map must name a file for every tensor.")
    files = sorted(set(wanted.values()))
    for file in files:
        if "/" in file or "\\" in file or file.startswith("."):
            raise ModelError(f"{where / INDEX} names {file[:200]!r}, which is not a file of its own directory.")
    missing = [f for f in files if f not in present]
    if missing:
        raise ModelError(
            f"{where / missing[0][:200]} is not there, though {where / INDEX} names it: {len(missing)} of {len(files)} "
            "weight files are missing."
        )
    parts = {tuple(p.groups()) for f in present if (p := PART.fullmatch(f))}
    for stem, _, count in sorted(parts):
        there = len({n for s, n, c in parts if (s, c) == (stem, count)})
        if there != int(count):
            raise ModelError(f"{where} is not whole: {there} of the {int(count)} files {stem}-*.safetensors are there.")


def sort_of(facts: Facts) -> Sort:
    """Target, drafter or neither, in one sentence."""
    try:
        if is_drafter(facts.config):
            c = parse_config(facts.where, facts.config, facts.tensors)
            part = f"drafts {c.head_rows:,} of {c.vocab_size:,} tokens, " if c.draft_vocab_size else ""
            return Sort(DRAFTER, c.method, f"{c.method} drafter, block {c.block_size}, {part}{stored(facts)}.")
        Quantization(facts.where, facts.config, facts.tensors).check(awq=True)
        shape = target_shape(facts.where, facts.config, facts.tensors)
        return Sort(TARGET, shape.family, f"{shape.family} target of {shape.num_layers} layers, {stored(facts)}.")
    except ModelError as error:
        return Sort(OTHER, "", str(error))


def lacks_tokenizer(facts: Facts) -> bool:
    """Is it a directory's target that has no files to make text of its tokens?"""
    there = {f.name for f in facts.where.iterdir()}
    return sort_of(facts).kind == TARGET and not any(names <= there for names in TOKENIZERS)


def stored(facts: Facts) -> str:
    """The precision that most of the weights are stored in: "8-bit", "bf16", ..."""
    return Quantization(facts.where, facts.config, facts.tensors).words


@dataclass(frozen=True)
class BaseModelWarning:
    """A target that works, but not well. `link` leads to what would work better; empty if that is not known."""

    words: str
    link: str = ""


def check_pair(target: Facts, drafter: Facts) -> DrafterConfig:
    """The drafter's configuration if it fits the target. Raises ModelError, in one sentence, if it does not.

    Tensor by tensor the drafter is checked when it is opened (models/checkpoint.py).
    """
    for facts, kind in ((target, TARGET), (drafter, DRAFTER)):
        sort = sort_of(facts)
        if sort.kind != kind:
            wanted = sort.words if not sort.family else f"{facts.where} is a {sort.kind}, not a {kind}."
            raise ModelError(wanted)
    config = parse_config(drafter.where, drafter.config, drafter.tensors)
    check_fit(drafter.where, config, target_shape(target.where, target.config, target.tensors))
    return config


def drafting(facts: Facts) -> Sort:
    """What a model is as a drafter: a target drafts too, for a larger one with the same vocabulary."""
    sort, small = sort_of(facts), next(iter(drafters.marked("OF_TARGETS")), "")
    if sort.kind != TARGET or not small:
        return sort
    return Sort(DRAFTER, small, f"{drafters.title(small)} as drafter: {sort.words}")


def check_small(target: Facts, small: Facts) -> None:
    """Raises ModelError if a target cannot have another one as its drafter, as far as their sizes tell. Whether their
    tokens are the same is looked at when both are opened."""
    for facts in (target, small):
        if sort_of(facts).kind != TARGET:
            raise ModelError(sort_of(facts).words)
    sizes = [target_shape(f.where, f.config, f.tensors).vocab_size for f in (small, target)]
    if abs(sizes[0] - sizes[1]) > MOST_PADDING:
        raise ModelError(
            f"{small.where} cannot draft for {target.name}: its vocabulary has {sizes[0]:,} tokens, the target's "
            f"{sizes[1]:,}, and they have to be the same."
        )


def base_warning(target: Facts) -> BaseModelWarning | None:
    """A warning if the target is a base model: drafters are trained on what the instruct model writes."""
    if is_base_name(target.name):
        why = f"{target.name} is named as a base model"
    elif not target.has_template:
        why = f"{target.name} has no chat template, so it is a base model"
    else:
        return None
    shape = target_shape(target.where, target.config, target.tensors)
    right = INSTRUCT.get((shape.hidden_size, shape.num_layers), "")
    words = (
        f"{why}, and drafters are trained on the instruct model: fewer drafts will be accepted "
        "(47 % instead of 82 % as mlx-dspark measured)"
    )
    if right:
        return BaseModelWarning(f"{words}; use {right}.", f"https://huggingface.co/{right}")
    return BaseModelWarning(f"{words}.")


def is_base_name(name: str) -> bool:
    last = name.rsplit("/", 1)[-1]
    if BASE_NAME.search(last):
        return True
    return last.lower().startswith("gemma") and not INSTRUCT_NAME.search(last)
