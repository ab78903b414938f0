"""Does a drafter fit a target? From configs and tensor headers, before any weights are read."""

import re
from dataclasses import dataclass

from ..errors import ModelError
from ..models.config import DrafterConfig, check_fit, parse_config, target_shape
from .facts import DRAFTER, TARGET, Facts, sort_of

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
class Warning:
    """Something that works, but not well. `link` leads to what would work better; empty if that is not known."""

    words: str
    link: str = ""


def check(target: Facts, drafter: Facts) -> DrafterConfig:
    """The drafter's configuration if it fits the target. Raises ModelError, in one sentence, if it does not.

    Tensor by tensor the drafter is checked when it is opened (models/checkpoint.py).
    """
    for facts, kind in ((target, TARGET), (drafter, DRAFTER)):
        sort = sort_of(facts)
        if sort.kind != kind:
            wanted = sort.words if not sort.family else f"{facts.where} is a {sort.kind}, not a {kind}."
            raise ModelError(wanted)
    config = parse_config(drafter.where, drafter.config, drafter.tensors)
    check_fit(drafter.where, config, target_shape(target.where, target.config))
    return config


def base_warning(target: Facts) -> Warning | None:
    """A warning if the target is a base model: drafters are trained on what the instruct model writes."""
    if is_base_name(target.name):
        why = f"{target.name} is named as a base model"
    elif not target.has_template:
        why = f"{target.name} has no chat template, so it is a base model"
    else:
        return None
    shape = target_shape(target.where, target.config)
    right = INSTRUCT.get((shape.hidden_size, shape.num_layers), "")
    words = (
        f"{why}, and drafters are trained on the instruct model: fewer drafts will be accepted "
        "(47 % instead of 82 % as mlx-dspark measured)"
    )
    return Warning(words + (f"; use {right}." if right else "."), f"https://huggingface.co/{right}" if right else "")


def is_base_name(name: str) -> bool:
    last = name.rsplit("/", 1)[-1]
    if BASE_NAME.search(last):
        return True
    return last.lower().startswith("gemma") and not INSTRUCT_NAME.search(last)
