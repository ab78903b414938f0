"""A drafter's directory (config.json + model*.safetensors), or the name of a method that needs none -> Drafter.

Formats: DeepSpec (`Qwen3DSparkModel`, `Gemma4DSparkModel`; with Markov rank 0 they are DeepSpec's DFlash) and z-lab
(`DFlashDraftModel`). What the config says is read in config.py; here every name and shape is checked and weights read.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..errors import ModelError, in_one_line
from .config import check_fit, parse_config, read_calibration
from .drafter import BlockDrafter, Drafter, Weights, method_module
from .fields import is_whole, shown
from .headers import TensorInfo, read_config, read_headers
from .info import DrafterInfo
from .target import Progress, Target
from .weights import check_precision, convert, read_weights

BITS, GROUPS = (2, 3, 4, 5, 6, 8), (32, 64, 128)
FLOATS = ("F32", "F16", "BF16")


def load_drafter(
    place: str | Path | None,
    target: Target,
    precision: str = "auto",
    progress: Progress = lambda _: None,
    method: str | None = None,
) -> Drafter:
    """Load a drafter for `target`: of a directory, or of a `method` that needs none, whose place is None.

    Everything is checked against the file headers before weights are read. Raises ModelError, in one
    sentence, if the format is unknown, a tensor is missing, unexpected or of another shape, or the
    drafter's hidden size, vocabulary or taps don't fit the target.
    """
    drafter = open_drafter(place, target, precision, method)
    progress("reading weights")
    read_drafter(drafter)
    return drafter


def open_drafter(
    place: str | Path | None, target: Target, precision: str = "auto", method: str | None = None
) -> Drafter:
    """A drafter whose files are checked, but whose weights are not read yet: `read_drafter` follows. `method` is what
    the directory's config.json says, if it is not given. Raises ModelError."""
    check_precision(precision)
    place = None if place is None else Path(place)
    if method is None:
        if place is None:
            raise ModelError("A drafter without a directory must name its method.")
        method = parse_config(place, read_config(place), read_headers(place)).method
    drafter: Drafter = method_module(method).open_drafter(place, target, precision)
    return drafter


def read_drafter(
    drafter: Drafter,
    progress: Callable[[int, int], None] = lambda done, total: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> None:
    """Read the weights of an opened drafter, if it has any; see `read_weights`."""
    if drafter.info.needs_weights:
        read_weights(getattr(drafter, "weights"), drafter.info.name, progress, cancelled)  # noqa: B009


def read_checkpoint(
    directory: Path | None, target: Target, precision: str, kind: type[BlockDrafter], method: str, about: str
) -> BlockDrafter:
    """A block drafter of a directory, everything checked, its weights not read yet. Raises ModelError."""
    if directory is None:
        raise ModelError(f"A {method} drafter needs a directory with its weights.")
    raw = read_config(directory)
    tensors = read_headers(directory)
    config = parse_config(directory, raw, tensors)
    if config.method != method:
        raise ModelError(f"{directory / 'config.json'} is of a {config.method} drafter, not of a {method} drafter.")
    check_fit(directory, config, target)
    calibration = read_calibration(directory, config.max_drafts)
    weights = kind.weights_type(config)
    _declare_quantized(directory, weights, raw, tensors)
    check_tensors(directory, weights, tensors)
    for file in sorted({t.file for t in tensors.values()}):
        try:
            weights.load_weights(list(mx.load(str(file)).items()), strict=False)
        except (RuntimeError, ValueError) as e:
            raise ModelError(f"{file} cannot be read ({in_one_line(e)}).") from None
    info = DrafterInfo(
        id=method.lower(),
        method=method,
        title=method,
        about=about,
        name=directory.name,
        precision=convert(weights, precision),
        block=config.block_size,
        first_slot=config.first_slot,
        max_drafts=config.max_drafts,
        has_confidence=config.confidence,
        has_bias=config.markov_rank > 0,
        calibration=calibration,
        shapes=repr(config),
    )
    return kind(config, weights, target, info)


def _declare_quantized(directory: Path, weights: Weights, raw: dict[str, Any], tensors: dict[str, TensorInfo]) -> None:
    """Make the layers that are stored quantized (those with `.scales`) quantized layers."""
    quantized = {n.removesuffix(".scales") for n in tensors if n.endswith(".scales")}
    if not quantized:
        return
    where, q = directory / "config.json", raw.get("quantization")
    if not isinstance(q, dict) or not _one_of(q.get("bits"), BITS) or not _one_of(q.get("group_size"), GROUPS):
        raise ModelError(f"{where}: quantized tensors need quantization with bits and group_size.")
    if raw.get("quantization_config") not in (None, q):
        raise ModelError(f"{where}: quantization and quantization_config contradict each other.")
    for name, value in q.items():
        if name not in ("bits", "group_size") and (name, value) != ("mode", "affine"):
            raise ModelError(f"{where}: quantization with {name[:80]} {shown(value)} is not supported for a drafter.")
    nn.quantize(weights, q["group_size"], q["bits"], class_predicate=lambda path, _: path in quantized)


def _one_of(value: Any, choices: tuple[int, ...]) -> bool:
    return is_whole(value) and value in choices


def check_tensors(directory: Path, weights: Weights, tensors: dict[str, TensorInfo]) -> None:
    """Raises ModelError at the first tensor that is missing, unexpected, or of another shape or kind."""
    expected = dict(tree_flatten(weights.parameters()))
    file, where = next(iter(tensors.values())).file, directory / "config.json"
    for name, like in expected.items():
        if name not in tensors:
            raise ModelError(f"{file} has no tensor {name}, expected with shape {list(like.shape)} by {where}.")
        info = tensors[name]
        if info.shape != like.shape:
            raise ModelError(
                f"{info.file}: tensor {name} has shape {list(info.shape)}, expected {list(like.shape)} by {where}."
            )
        kinds = ("U32",) if like.dtype == mx.uint32 else FLOATS
        if info.dtype not in kinds:
            raise ModelError(f"{info.file}: tensor {name} has dtype {info.dtype}, expected {' or '.join(kinds)}.")
    for name in tensors:
        if name not in expected:
            raise ModelError(f"{tensors[name].file} has a tensor {name} that a drafter of {where} does not have.")
