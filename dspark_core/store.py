"""Small JSON files that a program keeps for itself: read with suspicion, written whole or not at all.

Such a file may be cut off, edited, from another version, or no file at all. Whatever it is, reading it gives a value
or raises one of two errors, and whoever reads it can do without.
"""

import json
import math
import os
import stat
from pathlib import Path
from typing import Any

MAX_BYTES = 1_000_000


def read_json(path: Path, max_bytes: int = MAX_BYTES) -> Any:
    """The value in a file of at most `max_bytes`. Raises OSError if there is no such regular file to read, ValueError
    if it holds anything but strict JSON (see `parse_json`)."""
    if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
        raise OSError(f"{path} is no regular file.")
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"{path} has more than {max_bytes:,} bytes.")
    return parse_json(data.decode("utf-8"))


def parse_json(text: str) -> Any:
    """The value of strict JSON: no NaN or infinity, no key twice in one object, nothing nested beyond reason. Raises
    ValueError."""
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def write_json(path: Path, value: Any) -> None:
    """Put a file in place of what is there in one step, so that no reader finds half of it. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        part.write_text(json.dumps(value, indent=1), encoding="utf-8")
        if path.is_dir() and not path.is_symlink():
            path.rmdir()  # somebody's slip; one that is not empty stays, and is an OSError
        part.replace(path)
    except OSError:
        if part.is_file():
            part.unlink()
        raise


def is_number(value: Any, least: float, most: float) -> bool:
    """A number between both, and no boolean, infinity or NaN."""
    return type(value) in (int, float) and least <= value <= most and math.isfinite(value)


def is_count(value: Any, least: int, most: int) -> bool:
    """A whole number between both, and no boolean."""
    return type(value) is int and least <= value <= most


def _no_constant(name: str):
    raise ValueError(f"{name} is no number in JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return found
