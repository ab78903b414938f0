"""Checksums of files from the hub, before their first use.

The Hugging Face cache names a file's content by what the hub says of it: the SHA-256 of a large file, git's SHA-1 of
a small one. So a snapshot can be checked without a network; what was checked is remembered by size and time.
"""

import hashlib
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from huggingface_hub import cached_assets_path

from ..errors import ModelError
from ..store import read_json, write_json

Progress = Callable[[int, int], None]
DIGEST = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")
CHUNK = 1 << 22
MAX_RECORD = 20_000_000  # bytes
_lock = threading.Lock()


class Stopped(Exception):
    """The visitor cancelled."""


def hasher(digest: str, size: int):
    """The running hash whose result `digest` is, for content of `size` bytes."""
    return hashlib.sha256() if len(digest) == 64 else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def add_file(running, path: Path, progress: Callable[[int], None], cancelled: Callable[[], bool]) -> None:
    """Feed a file into a running hash; `progress` takes the bytes of each piece. Raises Stopped."""
    left = path.stat().st_size
    with open(path, "rb") as f:
        while left > 0 and (piece := f.read(min(left, CHUNK))):
            if cancelled():
                raise Stopped
            left -= len(piece)
            running.update(piece)
            progress(len(piece))


def digest_of(path: Path) -> str | None:
    """What the cache's file name says the content's hash is; None for a file that did not come from the hub."""
    blob = path.resolve()
    return blob.name if blob.parent.name == "blobs" and DIGEST.fullmatch(blob.name) else None


def verify(
    directory: Path,
    progress: Progress = lambda done, total: None,
    cancelled: Callable[[], bool] = lambda: False,
    record: Path | None = None,
) -> int:
    """Check every file of a cache snapshot that was not checked before; returns how many were read.

    A directory that is no cache snapshot has no checksums: 0. Raises ModelError at the first wrong file, Stopped.
    """
    files = sorted(directory.iterdir()) if directory.is_dir() else []
    expected = {p: d for p in files if p.is_file() and (d := digest_of(p))}
    if not expected:
        return 0
    record = record or default_record()
    checked = _read(record)
    todo = {p: d for p, d in expected.items() if checked.get(str(p.resolve())) != [d, *_stamp(p)]}
    total, done = sum(p.stat().st_size for p in todo), 0

    def tell(n):
        nonlocal done
        done += n
        progress(done, total)

    for path, digest in todo.items():
        running = hasher(digest, path.stat().st_size)
        add_file(running, path, tell, cancelled)
        if running.hexdigest() != digest:
            raise ModelError(f"{path} does not have the checksum that the hub gives for it: download it again.")
        remember(path, digest, record)
    return len(todo)


def is_verified(path: Path, digest: str, record: Path | None = None) -> bool:
    return _read(record or default_record()).get(str(path.resolve())) == [digest, *_stamp(path)]


def remember(path: Path, digest: str, record: Path | None = None) -> None:
    """Note that a file has the checksum `digest`. A record that cannot be written only costs a check later."""
    record = record or default_record()
    with _lock:
        checked = _read(record) | {str(path.resolve()): [digest, *_stamp(path)]}
        with suppress(OSError):
            write_json(record, checked)


def default_record() -> Path:
    return cached_assets_path("dspark-playground", "models") / "verified.json"


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _read(record: Path) -> dict[str, list]:
    """Path -> digest, size and time of change; entries of any other form, and whole files, count as not there."""
    try:
        value = read_json(record, MAX_RECORD)
    except (OSError, ValueError):
        return {}
    entries = value.items() if isinstance(value, dict) else ()
    return {path: seen for path, seen in entries if type(seen) is list and [*map(type, seen)] == [str, int, int]}
