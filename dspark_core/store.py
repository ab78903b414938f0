"""What this program writes down for itself: cost curves, a device's noise, checksums of files that were checked.

All of it lies in one directory, the cache directory of this platform, as small JSON files. They are caches: what is
lost costs a measurement or a check, and places where earlier versions had theirs are not looked at. A file may be cut
off, edited, from another version, or no file at all. Whatever it is, reading it gives a value or none, and whoever
reads it checks what the value says before believing it.
"""

import atexit
import errno
import glob
import hashlib
import json
import math
import os
import platform
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

MAX_BYTES = 1_000_000
PART_S = 3600.0  # after which nobody is writing a file any more


def cache_directory() -> Path:
    """~/Library/Caches/dspark-playground on a Mac; elsewhere the same in $XDG_CACHE_HOME, or in ~/.cache."""
    base = home_directory() / "Library" / "Caches"
    if platform.system() != "Darwin":
        chosen = Path(os.environ.get("XDG_CACHE_HOME", ""))
        base = chosen if chosen.is_absolute() else home_directory() / ".cache"  # a relative one is to be ignored
    return base / "dspark-playground"


def home_directory() -> Path:
    """The user's; one of this run alone where the user has none, as in a container that runs under any number."""
    try:
        return Path.home()
    except RuntimeError:
        return Path(RunDirectories.home())


class RunDirectories:
    """Directories of this run alone, which only this user can open. They go when the program ends."""

    made: ClassVar[list[str]] = []

    @classmethod
    def new(cls, parent: str | None = None) -> str:
        """Raises OSError."""
        cls.made.append(tempfile.mkdtemp(prefix="dspark-playground-", dir=parent))
        return cls.made[-1]

    @classmethod
    @cache
    def home(cls) -> str:
        return cls.new()

    @classmethod
    def remove(cls) -> None:
        while cls.made:
            shutil.rmtree(cls.made.pop(), ignore_errors=True)


atexit.register(RunDirectories.remove)


class Store:
    """JSON values, each in a file of its own, found by its kind and by what it depends on.

    directory: by default the cache directory of this platform
    """

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory or cache_directory()

    def file(self, kind: str, key: Mapping[str, str] | None = None) -> Path:
        """Where the value of a kind is; without a key there is one of that kind."""
        if key is None:
            return self.directory / f"{kind}.json"
        return self.directory / kind / f"{short_digest(json.dumps(dict(key), sort_keys=True))}.json"

    def load(self, kind: str, key: Mapping[str, str] | None = None) -> Any:
        """The value, for the caller to check; None if there is none that can be read."""
        try:
            return read_json(self.file(kind, key))
        except (OSError, ValueError):
            return None

    def save(self, kind: str, key: Mapping[str, str] | None, value: Any) -> Path:
        """Put a value in place of the one there was; its file. Raises OSError."""
        file = self.file(kind, key)
        write_json(file, value)
        return file


def short_digest(text: str) -> str:
    """Twelve digits that stand for a text in a file's name or a description."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def read_bytes(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """A regular file of at most `max_bytes`. Raises OSError if there is none to read, ValueError if it is longer."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for ever
        raise OSError(errno.EINVAL, "no regular file", str(path))
    with path.open("rb") as file:
        data = file.read(min(found.st_size, max_bytes + 1))  # not to the end: reports of the system may have none
    if len(data) > max_bytes:
        raise ValueError(f"{path} has more than {max_bytes:,} bytes.")
    return data


def read_json(path: Path, max_bytes: int = MAX_BYTES) -> Any:
    """The value in a file of at most `max_bytes`. Raises OSError if there is no such regular file to read, ValueError
    if it holds anything but strict JSON (see `parse_json`)."""
    return parse_json(read_bytes(path, max_bytes).decode("utf-8"))


def parse_json(text: str) -> Any:
    """The value of strict JSON: no NaN or infinity, no key twice in one object, nothing nested beyond reason. Raises
    ValueError."""

    def constant(name: str) -> None:
        raise ValueError(f"{name} is no number in JSON")

    def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key stands twice in one object")
        return found

    try:
        return json.loads(text, parse_constant=constant, object_pairs_hook=table)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def write_json(path: Path, value: Any) -> None:
    """Put a file in place of what is there in one step, so that no reader finds half of it. Halves that a killed
    program or a full disk left go. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for part in path.parent.glob(f"{glob.escape(path.stem)}.*.*.part"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > PART_S:
                part.unlink()
    new = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.part")
    try:
        new.write_text(json.dumps(value, indent=1), encoding="utf-8")
        if path.is_dir() and not path.is_symlink():
            path.rmdir()  # somebody's slip; one that is not empty stays, and is an OSError
        new.replace(path)
    except BaseException:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise


def in_range(value: Any, least: float, most: float) -> bool:
    """A number between both, and no boolean, infinity or NaN."""
    return type(value) in (int, float) and least <= value <= most and math.isfinite(value)


def is_count(value: Any, least: int, most: int) -> bool:
    """A whole number between both, and no boolean."""
    return type(value) is int and least <= value <= most
