"""Reads what a safetensors file declares, without reading its weights.

Loading checks names, shapes and the file's length from here first, so that a wrong or half-written
file is refused in one sentence before any memory is spent on it.
Format: https://huggingface.co/docs/safetensors (8 bytes little-endian header length, JSON, data).
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ModelError

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
MAX_CONFIG_BYTES = 10_000_000
PIECE = 1 << 20  # bytes that are read at once
OTHER_FORMATS = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".h5", ".msgpack", ".gguf", ".npz")


@dataclass(frozen=True)
class TensorInfo:
    """span: where its numbers lie in the file, in bytes; empty where that is not known."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    span: range = field(default=range(0), compare=False)

    def same_data(self, other: "TensorInfo") -> bool:
        """Have both the same numbers in the same form? Reads them; False where it is not known."""
        if (self.dtype, self.shape) != (other.dtype, other.shape) or not self.span or len(self.span) != len(other.span):
            return False
        with open(self.file, "rb") as a, open(other.file, "rb") as b:
            a.seek(self.span.start)
            b.seek(other.span.start)
            pieces = range(0, len(self.span), PIECE)
            return all(a.read(min(PIECE, len(self.span) - i)) == b.read(min(PIECE, len(self.span) - i)) for i in pieces)


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Name, dtype and shape of every tensor in one file. Raises ModelError if it is not whole."""
    if not path.is_file():
        raise ModelError(f"{path} is not a file that holds weights.")
    size = path.stat().st_size
    with open(path, "rb") as f:
        length = int.from_bytes(f.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise ModelError(f"{path} is not a whole safetensors file: its header is cut off.")
        try:
            header = json.loads(f.read(length))
            infos = {k: _tensor(path, v, 8 + length) for k, v in header.items() if k != "__metadata__"}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            words = " ".join(str(e).split())[:200]
            raise ModelError(f"{path} has a safetensors header that cannot be read ({words}).") from None
    end = max((info.span.stop for info in infos.values()), default=8 + length)
    if size != end:
        raise ModelError(f"{path} is not whole: its header asks for {end} bytes, it has {size}.")
    return infos


def _tensor(path: Path, raw: dict[str, Any], start: int) -> TensorInfo:
    dtype, shape, (first, last) = raw["dtype"], raw["shape"], raw["data_offsets"]
    numbers = [first, *shape, last - first]
    if not isinstance(dtype, str) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise ValueError("a tensor's dtype, shape or place is none")
    return TensorInfo(path, dtype, tuple(shape), range(start + first, start + last))


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
    return read_object(path)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a small file of a model. Raises ModelError if it is not one."""
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ModelError(
                f"{path} is larger than {MAX_CONFIG_BYTES // 1_000_000} MB, which no model configuration is."
            )
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise ModelError(f"{path} is not valid JSON ({e}).") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} must hold a JSON object.")
    return value
