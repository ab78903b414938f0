"""A drafter's directory (config.json + model*.safetensors) -> Drafter.

Formats: DeepSpec (`Qwen3DSparkModel`, `Gemma4DSparkModel`; with Markov rank 0 they are DeepSpec's DFlash) and z-lab
(`DFlashDraftModel`). What the config says is read in config.py; here every name and shape is checked and weights read.
"""

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..errors import ModelError
from .config import check_fit, parse_config, read_calibration
from .drafter import DFlash, Drafter, DSpark, Weights
from .fields import is_whole, shown
from .headers import TensorInfo, read_config, read_headers
from .target import Progress, Target
from .weights import check_precision, convert, read_weights

BITS, GROUPS = (2, 3, 4, 5, 6, 8), (32, 64, 128)
FLOATS = ("F32", "F16", "BF16")


def load_drafter(
    directory: str | Path, target: Target, precision: str = "auto", progress: Progress = lambda _: None
) -> Drafter:
    """Load a drafter for `target`.

    Everything is checked against the file headers before weights are read. Raises ModelError, in one
    sentence, if the format is unknown, a tensor is missing, unexpected or of another shape, or the
    drafter's hidden size, vocabulary or taps don't fit the target.
    """
    drafter = open_drafter(directory, target, precision)
    progress("reading weights")
    read_weights(drafter.weights, drafter.name)
    return drafter


def open_drafter(directory: str | Path, target: Target, precision: str = "auto") -> Drafter:
    """A drafter whose files are checked, but whose weights are not read yet: `read_weights(drafter.weights, ...)`
    follows. Raises ModelError."""
    directory = Path(directory)
    check_precision(precision)
    raw = read_config(directory)
    tensors = read_headers(directory)
    config = parse_config(directory, raw, tensors)
    check_fit(directory, config, target)
    calibration = read_calibration(directory, config.info(directory.name).max_drafts)
    weights = Weights(config)
    _declare_quantized(directory, weights, raw, tensors)
    check_tensors(directory, weights, tensors)
    for file in sorted({t.file for t in tensors.values()}):
        weights.load_weights(list(mx.load(str(file)).items()), strict=False)
    words = convert(weights, precision)
    kind = DSpark if config.markov_rank else DFlash
    return kind(config, weights, target, directory.name, words, calibration)


def _declare_quantized(directory: Path, weights: Weights, raw: dict, tensors: dict[str, TensorInfo]) -> None:
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


def _one_of(value, choices: tuple[int, ...]) -> bool:
    return is_whole(value) and value in choices


def check_tensors(directory: Path, weights: Weights, tensors: dict[str, TensorInfo]) -> None:
    """Raises ModelError at the first tensor that is missing, unexpected, or of another shape or kind."""
    expected = dict(tree_flatten(weights.parameters()))
    file = next(iter(tensors.values())).file
    for name, like in expected.items():
        if name not in tensors:
            raise ModelError(f"{file} has no tensor {name}, expected with shape {list(like.shape)}.")
        info = tensors[name]
        if info.shape != like.shape:
            raise ModelError(f"{info.file}: tensor {name} has shape {list(info.shape)}, expected {list(like.shape)}.")
        kinds = ("U32",) if like.dtype == mx.uint32 else FLOATS
        if info.dtype not in kinds:
            raise ModelError(f"{info.file}: tensor {name} has dtype {info.dtype}, expected {' or '.join(kinds)}.")
    for name in tensors:
        if name not in expected:
            raise ModelError(
                f"{tensors[name].file} has a tensor {name} that a drafter of this configuration does not have."
            )
