"""Reads what a safetensors file declares, without reading its weights.

Loading checks names, shapes and the file's length from here first, so that a wrong or half-written
file is refused in one sentence before any memory is spent on it.
Format: https://huggingface.co/docs/safetensors (8 bytes little-endian header length, JSON, data).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
MAX_CONFIG_BYTES = 10_000_000
OTHER_FORMATS = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".h5", ".msgpack", ".gguf", ".npz")


@dataclass(frozen=True)
class TensorInfo:
    file: Path
    dtype: str
    shape: tuple[int, ...]


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Name, dtype and shape of every tensor in one file. Raises ModelError if it is not whole."""
    size = path.stat().st_size
    with open(path, "rb") as f:
        length = int.from_bytes(f.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise ModelError(f"{path} is not a whole safetensors file: its header is cut off.")
        try:
            header = json.loads(f.read(length))
            tensors = {k: v for k, v in header.items() if k != "__metadata__"}
            end = max((int(v["data_offsets"][1]) for v in tensors.values()), default=0)
            infos = {k: TensorInfo(path, v["dtype"], tuple(map(int, v["shape"]))) for k, v in tensors.items()}
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as e:
            raise ModelError(f"{path} has a safetensors header that cannot be read ({e}).") from None
    if size != 8 + length + end:
        raise ModelError(f"{path} is not whole: its header asks for {8 + length + end} bytes, it has {size}.")
    return infos


def read_headers(directory: Path) -> dict[str, TensorInfo]:
    """The tensors of all `model*.safetensors` files of a directory. Raises ModelError if there are none."""
    files = sorted(directory.glob("model*.safetensors"))
    if not files:
        other = next((f.name for f in sorted(directory.glob("*")) if f.suffix in OTHER_FORMATS), "")
        more = f", and {other} is of a format that is not loaded" if other else ""
        raise ModelError(f"{directory} holds no model*.safetensors file{more}.")
    tensors: dict[str, TensorInfo] = {}
    for file in files:
        tensors |= read_header(file)
    return tensors


def read_config(directory: Path) -> dict[str, Any]:
    """config.json of a model directory. Raises ModelError if it is missing or not a JSON object."""
    path = directory / "config.json"
    if not path.is_file():
        if gguf := next((f.name for f in sorted(directory.glob("*.gguf"))), ""):
            raise ModelError(f"{directory} holds {gguf[:80]} and no config.json: GGUF files are not loaded.")
        raise ModelError(f"{path} does not exist: {directory} is not a model directory.")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ModelError(f"{path} is larger than {MAX_CONFIG_BYTES // 1_000_000} MB, which no model configuration is.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as e:
        raise ModelError(f"{path} is not valid JSON ({e}).") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path} must hold a JSON object.")
    return config
