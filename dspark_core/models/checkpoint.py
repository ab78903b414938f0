"""A drafter's directory (config.json + model*.safetensors), or the name of a method that needs none -> Drafter.

What the config says is read in config.py, whatever packaging it is of (formats/); here every name and shape is checked
and weights read.
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from ..errors import ModelError, in_one_line
from .config import D2T, DrafterConfig, check_fit, method_of, parse_config, read_calibration, read_draft_ids
from .drafter import BlockDrafter, Drafter, Weights, method_module
from .formats import format_of, inner_names
from .headers import TensorInfo, read_config, read_headers
from .info import DrafterInfo
from .quantization import FLOATS, Quantization
from .target import Progress, Target
from .weights import check_precision, convert, read_weights

STORED = {mx.uint32: ("U32",), mx.uint8: ("U8",), mx.int64: ("I64", "I32")}  # kinds that a tensor may be stored in


def load_drafter(
    place: str | Path | None,
    target: Target,
    precision: str = "auto",
    progress: Progress = lambda _: None,
    method: str | None = None,
    newest: int = 0,
) -> Drafter:
    """Load a drafter for `target`: of a directory, or of a `method` that needs none, whose place is None. `newest`: see
    DrafterInfo; a drafter that is no block drafter has no such setting.

    Everything is checked against the file headers before weights are read. Raises ModelError, in one
    sentence, if the format is unknown, a tensor is missing, unexpected or of another shape, or the
    drafter's hidden size, vocabulary or taps don't fit the target.
    """
    drafter = open_drafter(place, target, precision, method, newest)
    progress("reading weights")
    read_drafter(drafter)
    return drafter


def open_drafter(
    place: str | Path | None, target: Target, precision: str = "auto", method: str | None = None, newest: int = 0
) -> Drafter:
    """A drafter whose files are checked, but whose weights are not read yet: `read_drafter` follows. `method` is what
    the directory's config.json says, if it is not given. Raises ModelError."""
    check_precision(precision)
    if target.no_rollback:
        raise ModelError(target.no_rollback)
    place = None if place is None else Path(place)
    if method is None:
        if place is None:
            raise ModelError("A drafter without a directory must name its method.")
        method = method_of(place, read_config(place), read_headers(place))
    module = method_module(method)
    if not hasattr(module, "open_drafter"):
        drafter = read_checkpoint(place, target, precision, module)
        if newest:
            drafter.info = replace(drafter.info, newest=newest, shapes=f"{drafter.info.shapes}, newest {newest}")
        return drafter
    opened: Drafter = module.open_drafter(place, target, precision)
    return opened


def read_drafter(
    drafter: Drafter,
    progress: Callable[[int, int], None] = lambda done, total: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> None:
    """Read the weights of an opened drafter, if it has any; see `read_weights`. Raises ModelError, also where what they
    compute is wrong."""
    if drafter.info.needs_weights:
        read_weights(getattr(drafter, "weights"), drafter.info.name, progress, cancelled)  # noqa: B009
        getattr(drafter, "prove", lambda: None)()


def read_checkpoint(directory: Path | None, target: Target, precision: str, module: ModuleType) -> BlockDrafter:
    """A block drafter of a directory, everything checked, its weights not read yet; `module` is its method's file.
    Raises ModelError."""
    method, kind = module.METHOD, module.KIND
    if directory is None:
        raise ModelError(f"A {method} drafter needs a directory with its weights.")
    raw = read_config(directory)
    stored = read_headers(directory)
    config = parse_config(directory, raw, stored)
    where = directory / "config.json"
    names = inner_names(where, format_of(where, raw), stored)
    tensors = {inner: stored[name] for name, inner in names.items()}
    if config.method != method:
        raise ModelError(f"{where} is of a {config.method} drafter, not of a {method} drafter.")
    check_fit(directory, config, target)
    calibration = read_calibration(directory, config.max_drafts)
    weights = kind.weights_type(config)
    _declare_quantized(directory, weights, raw, tensors)
    check_tensors(directory, weights, tensors)
    for file in sorted({t.file for t in tensors.values()}):
        try:
            arrays = [(names[name], array) for name, array in mx.load(str(file)).items() if name in names]
            weights.load_weights(arrays, strict=False)
        except (RuntimeError, ValueError) as e:
            raise ModelError(f"{file} cannot be read ({in_one_line(e)}).") from None
    check_draft_ids(directory, weights, config)
    words = convert(weights, precision)
    if config.listed:
        weights.reduce(mx.array(read_draft_ids(directory, config.vocab_size)), target)
    info = DrafterInfo(
        id=method.lower(),
        method=method,
        title=getattr(module, "TITLE", method),
        about=module.ABOUT,
        name=directory.name,
        precision=words,
        block=config.block_size,
        first_slot=config.first_slot,
        max_drafts=config.max_drafts,
        has_confidence=True,
        has_look=config.confidence,
        has_bias=config.has_bias,
        bias=config.bias,
        candidates=config.candidates,
        calibration=calibration,
        shapes=repr(config),
    )
    drafter: BlockDrafter = kind(config, weights, target, info)
    return drafter


def _declare_quantized(directory: Path, weights: Weights, raw: dict[str, Any], tensors: dict[str, TensorInfo]) -> None:
    """Make the layers that are stored quantized (those with `.scales`) quantized layers, each as its tensors are."""
    quantization = Quantization(directory, raw, tensors)

    def settings(path: str, layer: nn.Module) -> bool | dict[str, Any]:
        if f"{path}.scales" not in tensors or not hasattr(layer, "to_quantized"):
            return False
        return asdict(quantization.packing(path, layer.weight.shape[-1]))

    nn.quantize(weights, class_predicate=settings)


def check_tensors(directory: Path, weights: Weights, tensors: dict[str, TensorInfo]) -> None:
    """Raises ModelError at the first tensor that is missing, unexpected, or of another shape or kind."""
    expected = dict(tree_flatten(weights.parameters()))
    file = next((info.file for info in tensors.values()), directory / "model*.safetensors")
    where = directory / "config.json"
    for name, like in expected.items():
        if name not in tensors:
            raise ModelError(f"{file} has no tensor {name}, expected with shape {list(like.shape)} by {where}.")
        info = tensors[name]
        if info.shape != like.shape:
            raise ModelError(
                f"{info.file}: tensor {name} has shape {list(info.shape)}, expected {list(like.shape)} by {where}."
            )
        kinds = STORED.get(like.dtype, FLOATS)
        if info.dtype not in kinds:
            raise ModelError(f"{info.file}: tensor {name} has dtype {info.dtype}, expected {' or '.join(kinds)}.")
    for name in tensors:
        if name not in expected:
            raise ModelError(f"{tensors[name].file} has a tensor {name} that a drafter of {where} does not have.")


def check_draft_ids(directory: Path, weights: Weights, config: DrafterConfig) -> None:
    """Raises ModelError unless the offsets of a reduced vocabulary name tokens of the target's, in ascending order."""
    if not config.draft_vocab_size or config.listed:
        return
    try:
        offsets = np.array(weights.d2t).astype(np.int64)
    except (RuntimeError, OSError, ValueError) as e:
        raise ModelError(f"{directory}: the tensor {D2T} cannot be read ({str(e)[:200].rstrip('.')}).") from None
    ids = np.arange(config.draft_vocab_size) + offsets
    if (np.diff(ids) <= 0).any() or ids[0] < 0 or ids[-1] >= config.vocab_size:
        raise ModelError(
            f"{directory}: the tensor {D2T} must hold offsets from draft ids to ascending ids of a vocabulary of "
            f"{config.vocab_size}; it does not."
        )
