"""Checksums of files from the hub, before their first use.

The Hugging Face cache names a file's content by what the hub says of it: the SHA-256 of a large file, git's SHA-1 of
a small one. So a snapshot can be checked without a network; files that were checked are noted by size and time.
"""

import hashlib
import re
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from ..errors import Cancelled, ModelError, in_one_line
from ..models.files import TEMPLATES
from ..store import Store, is_count, read_json, write_json

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
    def of_file(cls, file: Path, name: str, listed: Mapping[str, tuple[int, str]]) -> "Checksum | None":
        """The one that a snapshot's file is to have: that of the hub's listing, where that is known, or the one that
        the cache's name for its content holds; None for a file that did not come from the hub."""
        blob = file.resolve()
        _, digest = listed.get(name, (0, blob.name))
        if name not in listed and blob.parent.name != "blobs":
            return None
        return cls(digest, file.stat().st_size) if cls.DIGEST.fullmatch(digest) else None

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
        return self.entries().get(str(path.resolve())) == self.entry(path, digest)

    def add(self, path: Path, digest: str) -> None:
        """Note that a file has this digest. A note that cannot be written only costs a check later."""
        with self._lock, suppress(OSError):
            write_json(self.file, self.entries() | {str(path.resolve()): self.entry(path, digest)})

    def entry(self, path: Path, digest: str) -> list[Any]:
        stat = path.stat()
        return [digest, stat.st_size, stat.st_mtime_ns]

    def entries(self) -> dict[str, list[Any]]:
        try:
            value = read_json(self.file, self.MAX_BYTES)
        except (OSError, ValueError):
            return {}
        entries = value.items() if isinstance(value, dict) else ()
        return {path: e for path, e in entries if type(e) is list and [*map(type, e)] == [str, int, int]}


class Listings:
    """What the hub listed of the snapshots that were downloaded here: {name: (bytes, digest)} of each.

    record: beside it, as CheckedFiles has it. What cannot be written is known until the program ends.
    """

    KIND = "listings"
    _unwritten: ClassVar[dict[str, dict[str, tuple[int, str]]]] = {}  # of all of them, by the snapshot's directory

    def __init__(self, record: Path | None = None) -> None:
        self._store = Store(record.parent if record else None)

    def of(self, snapshot: Path) -> dict[str, tuple[int, str]]:
        """Empty for any other directory, and for what another program downloaded."""
        value = self._store.load(self.KIND, {"snapshot": str(snapshot.resolve())})
        if isinstance(value, dict) and all(self._is_entry(name, e) for name, e in value.items()):
            return {name: (size, digest) for name, (size, digest) in value.items()}
        return self._unwritten.get(str(snapshot.resolve()), {})

    def add(self, snapshot: Path, files: Mapping[str, tuple[int, str]]) -> None:
        try:
            self._store.save(
                self.KIND, {"snapshot": str(snapshot.resolve())}, {name: [*entry] for name, entry in files.items()}
            )
        except OSError:
            self._unwritten[str(snapshot.resolve())] = dict(files)

    @staticmethod
    def _is_entry(name: str, entry: Any) -> bool:
        whole = isinstance(entry, list) and len(entry) == 2 and is_count(entry[0], 0, 1 << 60)
        return whole and isinstance(entry[1], str) and ".." not in name and not name.startswith("/")


def unchecked(directory: Path, record: Path | None = None) -> dict[Path, Checksum]:
    """The files of a cache snapshot that have a checksum and were not checked. Raises OSError."""
    checked, listed = CheckedFiles(record), Listings(record).of(directory)
    files = sorted([*directory.glob("*"), *directory.glob(f"{TEMPLATES}/*")])
    named = [
        (f, c) for f in files if f.is_file() and (c := Checksum.of_file(f, f.relative_to(directory).as_posix(), listed))
    ]
    known = checked.entries() if named else {}
    return {f: c for f, c in named if known.get(str(f.resolve())) != checked.entry(f, c.digest)}


def verify(
    directory: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
    cancelled: Callable[[], bool] = lambda: False,
    record: Path | None = None,
) -> int:
    """Check every file of a cache snapshot that was not checked before; returns how many were read.

    progress:  takes the bytes read so far, and those to be read
    record:    see CheckedFiles

    A directory that is no cache snapshot has no checksums: 0. Raises ModelError at the first file that is wrong or
    cannot be read, Cancelled.
    """
    checked, done = CheckedFiles(record), 0
    try:
        todo = unchecked(directory, record)
        total = sum(f.stat().st_size for f in todo)
    except OSError as error:
        raise ModelError(f"{error.filename or directory} cannot be read ({in_one_line(error)}).") from None

    def count(arrived: int) -> None:
        nonlocal done
        done += arrived
        progress(done, total)

    for file, checksum in todo.items():
        try:
            checksum.add_file(file, count, cancelled)
        except OSError as error:
            raise ModelError(f"{file} cannot be read ({in_one_line(error)}).") from None
        if not checksum.is_right:
            raise ModelError(f"{file} does not have the checksum that the hub gives for it: download it again.")
        checked.add(file, checksum.digest)
    return len(todo)
