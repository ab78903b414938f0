"""A target family is a file of this package, found by the `model_type` of a config.json, its own or its text model's.

A file has, besides what it needs to compute with:

    TITLE     the family's name for the visitor
    TYPES     model types, beside the file's own name, that are of the family
    WRAPPERS  those of them whose text model is described under text_config
    defaults  (model type) -> the fields that it computes with -> what transformers takes where one is missing
    read      (fields) -> the shape of each layer, and the positions that its rope is made for; see TargetFields of
              target_config.py. It puts into `fields.mlx` every field that mlx-lm's argument class takes, and refuses
              what cannot run here
    walk      (body, ids [1, T], cache) -> the hidden states [1, T, d] of the embeddings, then of each layer
    complete  (mlx-lm's Model class, the TargetConfig) -> a class that computes what mlx-lm's leaves out
    NESTED    True where mlx-lm's classes have a text model inside a wrapper, whatever the file has
    MLX       the name of mlx-lm's text model, where it is not the file's own

The last three are optional. The catalog reads configs on a thread without MLX, so MLX is imported in `walk` and
`complete`.
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


def mlx_name(family: ModuleType) -> str:
    """Of mlx-lm's text model."""
    return str(getattr(family, "MLX", family.__name__.rpartition(".")[2]))
