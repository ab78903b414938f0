"""Packagings of drafters: a file each, found in the table below. No MLX here.

A file says in its first lines what it reads, and has

    reads(raw)                       is this config.json of its packaging?
    renamed(name)                    DeepSpec's name of a tensor; "" for one that is left out
    translate(where, raw, tensors)   -> Inner (models/inner.py); raises ModelError naming the field

What belongs to none of them is refused here, by name where it has one.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ...errors import ModelError
from ..drafters import heads_by_method
from ..fields import NESTED, shown
from . import deepspec, liquid, specforge, speculators, zlab
from .speculators import CONFIG, LAYER

# The first that reads a config.json has it: speculators' files may name any of the others' classes.
FORMATS: tuple[ModuleType, ...] = (speculators, deepspec, zlab, liquid, specforge)
# Fields that drafters' configs alone have.
SIGNS = (
    *("block_size", "target_layer_ids", NESTED, "jetspec_config", "draft_vocab_size", "markov_rank"),
    *("speculators_model_type", "speculators_config", "transformer_layer_config"),
    *("conv_kernel_size", "conv_group_size", "selector_rank", "selector_top_k"),
)
# Methods that have a name and no file here, by a part of an architecture, a field's or tensor's name, or a
# projector_type in lower case; the first that is found names it.
OTHERS = {
    "jetspec": "JetSpec drafters",
    "peagle": "P-EAGLE drafters",
    "eagle3": "Eagle3 drafters",
    "eagle": "Eagle drafters",
    "xpress": "xPress drafters",
    "refiner_head": "xPress drafters",
    "lilicorr": "LiLiCorr drafters",
    "deepseekv4": "DeepSeek-V4's heads, which are a part of their target,",
    "deepseek_v4": "DeepSeek-V4's heads, which are a part of their target,",
    ".sinks": "attention sinks, as Nemotron's drafters have them,",
    "attention_sink": "attention sinks, as Nemotron's drafters have them,",
    "qwen35dspark": "drafters with Qwen3.5's own layers",
    "qwen2dspark": "drafters with Qwen2's layers",
    "domino": "Domino drafters",
    "dfly": "DFly drafters",
    "dspine": "DSpine drafters",
    "dflare": "DFlare drafters",
    "'mtp'": "MTP heads",
    "a tensor mtp.": "MTP heads, which are a part of their target,",
}
WRAPPERS = ("module.", "_orig_mod.", "draft_model.", "model.")  # what trainers' wrappers put before every name


def is_drafter(raw: Mapping[str, Any]) -> bool:
    """Is this config.json a drafter's, supported or not?"""
    named = str(raw.get("architectures")).lower()
    return (
        any(name in raw for name in SIGNS)
        or any(str(name).startswith("dspark_") for name in raw)
        or any(part in named for part in ("eagle", "draftmodel", "speculator", *heads_by_method()))
    )


def format_of(where: Path, raw: Mapping[str, Any], tensors: Iterable[str] = ()) -> ModuleType:
    """The packaging of a drafter's config.json. Raises ModelError for what has none here, by its name if it has one."""
    nested, packaged, layer = (v if isinstance(v, dict) else {} for v in map(raw.get, (NESTED, CONFIG, LAYER)))
    architectures = raw.get("architectures")
    architectures = architectures if isinstance(architectures, list) else [architectures]
    values = [("architecture", a) for a in architectures]
    values += [(name, raw.get(name)) for name in ("model_type", "projector_type", "speculators_model_type")]
    values += [(f"{NESTED}.projector_type", nested.get("projector_type"))]
    values += [(f"{CONFIG}.algorithm", packaged.get("algorithm"))]
    named = [f"{name} {shown(value)}" for name, value in values if value is not None]
    given = (item for fields in (raw, nested, layer) for item in fields.items())
    named += [str(name) for name, value in given if value not in (None, False)]
    named += [f"a tensor {name}" for name in tensors]
    for words in named:
        what = next((what for part, what in OTHERS.items() if part in words.lower()), None)
        if what:
            raise ModelError(f"{where} has {words[:120]}: {what} are not supported.")
    found = next((f for f in FORMATS if f.reads(raw)), None)
    if found is None:
        known = ", ".join([*deepspec.ARCHITECTURES, *zlab.ARCHITECTURES, *liquid.ARCHITECTURES, specforge.ARCHITECTURE])
        architecture = shown(architectures[0] if len(architectures) == 1 else architectures)
        raise ModelError(
            f"{where} has architecture {architecture}; drafters of {known} and those packaged by "
            "speculators are supported."
        )
    return found


def inner_names(where: Path, form: ModuleType, names: Iterable[str]) -> dict[str, str]:
    """Tensors' names -> DeepSpec's, without those that are left out. Raises ModelError where two are the same one."""
    found: dict[str, str] = {}
    stored: dict[str, str] = {}
    for name in names:
        bare = name
        while wrapper := next(filter(bare.startswith, WRAPPERS), ""):
            bare = bare.removeprefix(wrapper)
        inner = form.renamed(bare)
        if inner in stored:
            raise ModelError(f"{where}: the tensors {stored[inner][:80]} and {name[:80]} are one of a drafter's.")
        if inner:
            found[name], stored[inner] = inner, name
    return found
