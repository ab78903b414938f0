"""A target family is a file of this package, found by the `model_type` of a config.json, its own or its text model's.

A file has, besides what it needs to compute with:

    TITLE    the family's name for the visitor
    TYPES    model types, beside the file's own name, that are of the family
    walk     (body, ids [1, T], cache) -> the hidden states [1, T, d] of the embeddings, then of each layer
    refuse   (config of the text model) -> a sentence why such a one cannot run here; empty if it can
    config_for_mlx  (config) -> fields that mlx-lm is given in the place of the config's

The last two are optional. The catalog reads titles and types on a thread without MLX, so MLX is imported in `walk`.
"""

import importlib
import pkgutil
from types import ModuleType


def families() -> list[ModuleType]:
    """Every family there is, by alphabet."""
    return [
        importlib.import_module(f"{__name__}.{name}") for name in sorted(m.name for m in pkgutil.iter_modules(__path__))
    ]


def family_of(model_type: object) -> ModuleType | None:
    """The family of a model type, None if it is of none."""
    for family in families():
        if model_type in (family.__name__.rpartition(".")[2], *family.TYPES):
            return family
    return None
