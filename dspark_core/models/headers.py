"""Reads what a safetensors file declares, without reading its weights.

Loading checks names, shapes and the file's length from here first, so that a wrong or half-written
file is refused in one sentence before any memory is spent on it.
Format: https://huggingface.co/docs/safetensors (8 bytes little-endian header length, JSON, data).
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ModelError, in_one_line
from .files import MAX_CONFIG_BYTES, check_files, read_object

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
MAX_FILE_BYTES = 1 << 50
DTYPE_BITS = {
    **{"F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16},
    **{"U16": 16, "I8": 8, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8},
}
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
        return parse_header(path, f.read(length), size)


def parse_header(path: Path, data: bytes, size: int) -> dict[str, TensorInfo]:
    """The same from the header's JSON, of a file of `size` bytes. Raises ModelError."""
    try:
        header = json.loads(data)
        notes = header.pop("__metadata__", None)  # null where MLX wrote the file
        if notes is not None and not (isinstance(notes, dict) and all(isinstance(v, str) for v in notes.values())):
            raise TypeError("__metadata__ must be text by name")
        found = {name: _tensor(path, name, entry, 8 + len(data)) for name, entry in header.items()}
    except RecursionError:
        raise ModelError(f"{path} has a safetensors header that is nested too deeply.") from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, ArithmeticError) as e:
        raise ModelError(f"{path} has a safetensors header that cannot be read ({in_one_line(e)}).") from None
    whole = max((info.span.stop for info in found.values()), default=8 + len(data))
    if size != whole:
        raise ModelError(f"{path} is not whole: its header asks for {whole:,} bytes, it has {size:,}.")
    return found


def _tensor(path: Path, name: str, entry: Any, first: int) -> TensorInfo:
    """One entry of a header. Raises ValueError."""
    fields = entry if isinstance(entry, dict) else {}
    dtype: Any = fields.get("dtype")
    shape: Any = fields.get("shape")
    offsets: Any = fields.get("data_offsets")
    numbers = [*shape, *offsets] if isinstance(shape, list) and isinstance(offsets, list) else [None]
    whole = all(type(n) is int and 0 <= n < MAX_FILE_BYTES for n in numbers)
    if not isinstance(dtype, str) or not whole or len(offsets) != 2:
        raise ValueError(f"tensor {name[:80]} has no dtype, shape and offsets")
    start, end = offsets
    if start > end or (dtype in DTYPE_BITS and math.prod(shape) * DTYPE_BITS[dtype] != (end - start) * 8):
        raise ValueError(f"the data of tensor {name[:80]} are not as long as its shape says")
    return TensorInfo(path, dtype, tuple(shape), range(first + start, first + end))


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
    """config.json of a model directory. Raises ModelError if it is missing or not a JSON object, or if the directory
    holds anything that cannot be opened (see `check_files`)."""
    path = directory / "config.json"
    if directory.is_dir():
        check_files(directory)
    if not path.exists():
        if gguf := next((f.name for f in sorted(directory.glob("*.gguf"))), ""):
            raise ModelError(f"{directory} holds {gguf[:80]} and no config.json: GGUF files are not loaded.")
        raise ModelError(f"{path} does not exist: {directory} is not a model directory.")
    return read_object(path, MAX_CONFIG_BYTES)
