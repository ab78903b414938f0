"""Checksums of files from the hub, before their first use.

The Hugging Face cache names a file's content by what the hub says of it: the SHA-256 of a large file, git's SHA-1 of
a small one. So a snapshot can be checked without a network; files that were checked are noted by size and time.
"""

import hashlib
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import Cancelled, ModelError
from ..store import Store, read_json, write_json

CHUNK = 1 << 22


class Checksum:
    """The hash of some content while it arrives, and the one that the hub gives for it.

    digest:  SHA-256 (64 digits), or git's SHA-1 of a blob (40 digits)
    size:    bytes of the whole content, which git's hash begins with
    """

    DIGEST = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")

    def __init__(self, digest: str, size: int) -> None:
        self.digest = digest
        header = b"blob %d\0" % size
        self._hash = hashlib.sha256() if len(digest) == 64 else hashlib.sha1(header, usedforsecurity=False)

    @classmethod
    def of_blob(cls, file: Path) -> "Checksum | None":
        """The one that the cache's name for a file holds; None for a file that did not come from the hub."""
        blob = file.resolve()
        if blob.parent.name != "blobs" or not cls.DIGEST.fullmatch(blob.name):
            return None
        return cls(blob.name, blob.stat().st_size)

    @property
    def is_right(self) -> bool:
        return self._hash.hexdigest() == self.digest

    def add(self, piece: bytes) -> None:
        self._hash.update(piece)

    def add_file(self, path: Path, progress: Callable[[int], None], cancelled: Callable[[], bool]) -> None:
        """All of a file; `progress` takes the bytes of each piece. Raises Cancelled."""
        left = path.stat().st_size
        with open(path, "rb") as f:
            while left > 0 and (piece := f.read(min(left, CHUNK))):
                if cancelled():
                    raise Cancelled
                left -= len(piece)
                self.add(piece)
                progress(len(piece))


class CheckedFiles:
    """The files on this machine that were checked, with size and time of change: {path: [digest, bytes, ns]}.

    file: where that stands; by default in the store. Entries of any other form, and whole files, count as not there.
    """

    MAX_BYTES = 20_000_000
    _lock = threading.Lock()

    def __init__(self, file: Path | None = None) -> None:
        self.file = file or Store().file("checksums")

    def __contains__(self, found: tuple[Path, str]) -> bool:
        """Is it known that this file, as it is now, has this digest?"""
        path, digest = found
        return self._entries().get(str(path.resolve())) == self._entry(path, digest)

    def add(self, path: Path, digest: str) -> None:
        """Note that a file has this digest. A note that cannot be written only costs a check later."""
        with self._lock, suppress(OSError):
            write_json(self.file, self._entries() | {str(path.resolve()): self._entry(path, digest)})

    def _entry(self, path: Path, digest: str) -> list[Any]:
        stat = path.stat()
        return [digest, stat.st_size, stat.st_mtime_ns]

    def _entries(self) -> dict[str, list[Any]]:
        try:
            value = read_json(self.file, self.MAX_BYTES)
        except (OSError, ValueError):
            return {}
        entries = value.items() if isinstance(value, dict) else ()
        return {path: e for path, e in entries if type(e) is list and [*map(type, e)] == [str, int, int]}


def verify(
    directory: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
    cancelled: Callable[[], bool] = lambda: False,
    record: Path | None = None,
) -> int:
    """Check every file of a cache snapshot that was not checked before; returns how many were read.

    progress:  takes the bytes read so far, and those to be read
    record:    see CheckedFiles

    A directory that is no cache snapshot has no checksums: 0. Raises ModelError at the first wrong file, Cancelled.
    """
    checked = CheckedFiles(record)
    files = [f for f in sorted(directory.iterdir()) if f.is_file()] if directory.is_dir() else []
    todo = {f: c for f in files if (c := Checksum.of_blob(f)) and (f, c.digest) not in checked}
    total, done = sum(f.stat().st_size for f in todo), 0

    def count(arrived: int) -> None:
        nonlocal done
        done += arrived
        progress(done, total)

    for file, checksum in todo.items():
        checksum.add_file(file, count, cancelled)
        if not checksum.is_right:
            raise ModelError(f"{file} does not have the checksum that the hub gives for it: download it again.")
        checked.add(file, checksum.digest)
    return len(todo)
