"""The download of a model from the hub, on a thread of its own.

huggingface_hub's own download starts a broken file from the beginning the next time and cannot be stopped in between,
so the bytes are fetched here: into `blobs/<digest>.incomplete` of its cache, going on where it stopped, hashed on the
way, and given their name only when size and checksum are those of the hub's metadata. A snapshot appears when all of
its files are whole. Locks, lock files and the cache's layout are huggingface_hub's, so both may run at the same time;
also where a disk has no symbolic links, and a snapshot holds the files themselves.
"""

import errno
import logging
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import httpx2
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import WeakFileLock

from ..errors import Cancelled, HubError, ModelError, in_one_line
from .checksums import CheckedFiles, Checksum
from .hub import TRIES, Hub, HubFile, Plan
from .transfer import Transfer

SPEED_WINDOW_S = 3.0


class PartialFile:
    """A half-fetched file and the running checksum of what it holds."""

    def __init__(self, path: Path, file: HubFile) -> None:
        self.path, self.file = path, file
        self.have, self._checksum = 0, Checksum(file.digest, file.bytes)

    def open(self, cancelled: Callable[[], bool]) -> None:
        """Take up what an earlier download left. Raises Cancelled."""
        self.path.touch()
        if self.path.stat().st_size > self.file.bytes:
            self.clear()
        self._checksum.add_file(self.path, lambda n: None, cancelled)
        self.have = self.path.stat().st_size

    def append(self, piece: bytes) -> None:
        with open(self.path, "ab", buffering=0) as out:
            while piece:
                n = out.write(piece)
                self._checksum.add(piece[:n])
                self.have += n
                piece = piece[n:]

    def clear(self) -> None:
        self.path.write_bytes(b"")
        self.have, self._checksum = 0, Checksum(self.file.digest, self.file.bytes)

    def rename(self, blob: Path) -> None:
        """Give the whole, checked file its name, once it is on the disk."""
        with open(self.path, "rb") as f:
            os.fsync(f.fileno())
        self.path.replace(blob)

    @property
    def is_right(self) -> bool:
        return self.have == self.file.bytes and self._checksum.is_right


class Download:
    """One download, shared by every page that looks at it; its fields may be read at any time.

    state:  "running", "done", "failed" or "cancelled"
    words:  what it is doing, or how it ended, in one sentence
    done:   bytes that are on this machine, of `plan.bytes`
    placed: files that were not in the snapshot as they should be
    copy:   a directory outside the cache that has the model; if it is as the hub's, nothing comes
    """

    def __init__(self, hub: Hub, plan: Plan, copy: Path | None = None) -> None:
        self.hub, self.plan, self.copy = hub, plan, copy
        self.state, self.words, self.done, self.placed = "running", "Starting.", 0, 0
        self.directory: Path | None = None
        self._checked = CheckedFiles(hub.record)
        self._cancel, self._end = threading.Event(), threading.Event()
        self._received = 0
        self._samples: deque[tuple[float, int]] = deque(maxlen=100)  # (time, bytes received), 20 a second

    @property
    def over(self) -> bool:
        return self._end.is_set()

    @property
    def received(self) -> int:
        """Bytes that came from the hub."""
        return self._received

    @property
    def stopping(self) -> bool:
        return self._cancel.is_set()

    @property
    def speed(self) -> float:
        """Bytes per second over the last seconds."""
        now = time.monotonic()
        recent = [(t, n) for t, n in list(self._samples) if now - t < SPEED_WINDOW_S]
        return (self._received - recent[0][1]) / max(now - recent[0][0], 0.1) if recent and not self.over else 0.0

    def cancel(self) -> None:
        """Stop for everyone. What has arrived is kept, and a new download goes on from there."""
        self._cancel.set()

    def wait(self, seconds: float | None = None) -> bool:
        return self._end.wait(seconds)

    def run(self) -> None:
        """The download, on a thread of its own."""
        repo = self.plan.name.repo
        try:
            self._run()
            self.state, self.words = "done", f"{repo} is on this machine, sizes and checksums as the hub gives them."
        except Cancelled:
            self.state = "cancelled"
            self.words = "Stopped; what has arrived is kept, and a download goes on from there."
        except ModelError as error:
            self.state, self.words = "failed", str(error)
        except OSError as error:
            self.state, self.words = "failed", self._disk_sentence(error)
        except Exception as error:
            logging.exception("a download failed")
            self.state, self.words = "failed", f"The download of {repo} failed ({in_one_line(error)})."
        finally:
            self._end.set()

    def _run(self) -> None:
        plan, folder = self.plan, self.hub.folder(self.plan.name.repo)
        snapshot = folder / "snapshots" / plan.revision
        small_first = sorted(plan.files, key=lambda f: f.bytes)  # they show early if access fails
        places = [place for place in (self.copy, snapshot) if place]
        whole = (place for place in places if all(self._is_right(place / f.name, f) for f in small_first))
        self.directory = next(whole, None)  # also in a cache that may only be read
        if self.directory is None:
            (folder / "blobs").mkdir(parents=True, exist_ok=True)
            self._need_room(folder)
            for file in small_first:
                before = self.done
                self._fetch(file, snapshot)
                self.done = before + file.bytes
            self._place_all(snapshot)
            self.directory = snapshot
        self.done = plan.bytes
        if self.directory == snapshot:
            self.hub.listings.add(snapshot, {f.name: (f.bytes, f.digest) for f in plan.files})
            self._note_revision(folder / "refs" / plan.name.revision)

    def _note_revision(self, ref: Path) -> None:
        """What a branch or a tag stands for. Where it cannot be written, as in a cache of another user's, the snapshot
        is found without it."""
        if self.plan.name.revision != self.plan.revision:
            with suppress(OSError):
                ref.parent.mkdir(exist_ok=True)
                ref.write_text(self.plan.revision)

    def _place_all(self, snapshot: Path) -> None:
        ordered = sorted(self.plan.files, key=lambda f: f.name == "config.json")  # last: without it there is no model
        last = {file.digest: file for file in ordered}
        for file in ordered:
            self._place(file, snapshot, last[file.digest] is file)
        for left in snapshot.glob("*.new"):
            left.unlink(missing_ok=True)  # of a download that was killed

    def _place(self, file: HubFile, snapshot: Path, last: bool) -> None:
        """Put a file into the snapshot, in place of whatever is there, in one step: as a link to its content or, on a
        disk without links, as the content itself. last: no other file of the snapshot has the same content."""
        place = snapshot / file.name
        blob = self.hub.folder(self.plan.name.repo) / "blobs" / file.digest
        if not blob.exists() or (place.is_symlink() and os.path.realpath(place) == os.path.realpath(blob)):
            return  # the content stands in its place already
        self.placed += 1
        place.parent.mkdir(parents=True, exist_ok=True)
        new = place.with_name(f"{place.name}.{os.getpid()}.new")
        try:
            if place.is_dir() and not place.is_symlink():
                place.rmdir()  # somebody's slip
            new.symlink_to(Path(os.path.relpath(blob, place.parent)))
            new.replace(place)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOTEMPTY):
                raise
            new.unlink(missing_ok=True)
            self.words = f"Placing {file.name}; this disk has no links."
            if last:
                blob.replace(place)
            else:
                shutil.copyfile(blob, new)
                new.replace(place)
            self._checked.add(place, file.digest)

    def _need_room(self, folder: Path) -> None:
        missing = sum(f.bytes - self.hub.here(self.plan.name.repo, f, self.plan.revision) for f in self.plan.files)
        free = shutil.disk_usage(folder).free
        if missing > free:
            needs, has = (
                f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:.0f} MB" if n >= 1e7 else f"{n / 1e6:.1f} MB"
                for n in (missing, free)
            )
            raise HubError(
                f"{self.plan.name.repo} needs {needs} more, and the disk of {self.hub.cache} has {has} free."
            )

    def _fetch(self, file: HubFile, snapshot: Path) -> None:
        """Bring one file to its blob, checked. Only one download writes a blob at a time, on this whole machine."""
        folder = self.hub.folder(self.plan.name.repo)
        blob, place = folder / "blobs" / file.digest, snapshot / file.name
        with self._locked(self.hub.cache / ".locks" / folder.name / f"{file.digest}.lock"):
            if blob.exists():
                if self._is_right(blob, file):
                    return
                blob.unlink()
            elif not place.is_symlink() and self._is_right(place, file):
                return  # of a disk without links
            part = PartialFile(folder / "blobs" / f"{file.digest}.incomplete", file)
            self._complete(part)
            part.rename(blob)
            self._checked.add(blob, file.digest)

    @contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(WeakFileLock(path, timeout=0.5))
                    break
                except TimeoutError:
                    self.words = "Waiting for another download of the same file."
                    self._check_cancel()
            yield

    def _is_right(self, blob: Path, file: HubFile) -> bool:
        if not blob.is_file() or blob.stat().st_size != file.bytes:
            return False
        if (blob, file.digest) not in self._checked:
            self.words = f"Checking {file.name}, which is here already."
            checksum = Checksum(file.digest, file.bytes)
            checksum.add_file(blob, lambda n: None, self._cancel.is_set)
            if not checksum.is_right:
                return False
            self._checked.add(blob, file.digest)
        return True

    def _complete(self, part: PartialFile) -> None:
        """Append what is missing to a half-fetched file, through dropped connections, and check the whole."""
        file, before, failures = part.file, self.done, 0
        self.words = f"Going on with {file.name}."
        part.open(self._cancel.is_set)
        self.done = before + part.have
        while part.have < file.bytes:
            self._check_cancel()
            at = part.have
            try:
                with closing(self._receive(part)) as pieces:
                    for arrived in pieces:
                        self._count(arrived)
                        self.done = before + part.have
                        self._check_cancel()
                if part.have < file.bytes:
                    raise httpx2.RemoteProtocolError("the answer ended early")
            except (httpx2.HTTPError, OfflineModeIsEnabled) as error:
                failures = 1 if part.have > at else failures + 1
                wait = self.hub.wait_of(error, failures)
                if wait is None or failures >= TRIES:
                    raise HubError(self.hub.sentence(error, self.plan.name)) from error
                busy = isinstance(error, HfHubHTTPError)
                self.words = f"The hub asks to wait {wait:.0f} s." if busy else "The connection broke; trying again."
                self._cancel.wait(wait)
        if not part.is_right:
            part.clear()
            self.done = before
            raise HubError(
                f"{self.plan.name.repo}/{file.name} arrived with a wrong checksum and was deleted: download it "
                "again; if that does not help, the copy on the hub is damaged."
            )

    def _receive(self, part: PartialFile) -> Generator[int, None, None]:
        """One request for the bytes that are missing; yields how many each piece has, once it is on the disk."""
        headers = self.hub.headers()
        if part.have:
            headers["Range"] = f"bytes={part.have}-"
        url = self.hub.url(self.plan.name.repo, part.file.name, self.plan.revision)
        with Transfer(url, headers, self._cancel.is_set) as answer:
            begins = answer.response.headers.get("Content-Range", "")
            if part.have and answer.response.status_code != 206:
                part.clear()  # a server that does not know ranges sends the whole file
            elif part.have and not begins.startswith(f"bytes {part.have}-"):
                raise httpx2.RemoteProtocolError("the answer begins elsewhere")
            self.words = f"Downloading {part.file.name}."
            for piece in answer:
                if part.have + len(piece) > part.file.bytes:
                    raise HubError(f"{self.plan.name.repo}/{part.file.name} is longer than the hub's metadata says.")
                part.append(piece)
                yield len(piece)

    def _count(self, arrived: int) -> None:
        now = time.monotonic()
        if not self._samples or now - self._samples[-1][0] >= 0.05:
            self._samples.append((now, self._received))
        self._received += arrived

    def _check_cancel(self) -> None:
        if self._cancel.is_set():
            raise Cancelled

    def _disk_sentence(self, error: OSError) -> str:
        repo, where = self.plan.name.repo, error.filename or self.hub.cache
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"The disk is full; what has arrived of {repo} is kept, and a download goes on from there."
        if error.errno == errno.EFBIG:
            return (
                f"{where} cannot be written: this disk takes no file of that size, so choose another by HF_HUB_CACHE."
            )
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return f"{where} cannot be written ({in_one_line(error)}): choose a cache of your own by HF_HUB_CACHE."
        return f"{where} cannot be written ({in_one_line(error)})."


class Downloads:
    """The newest download of every model since the program started."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self._newest: dict[tuple[str, str], Download] = {}
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Download]:
        with self._lock:
            return iter([*self._newest.values()])

    def start(self, plan: Plan, copy: Path | None = None) -> Download:
        """Download in the background; a model that is being downloaded already is shared, not fetched twice."""
        key = plan.name.repo, plan.revision
        with self._lock:
            running = self._newest.get(key)
            if running is None or running.over or running.stopping:
                running = self._newest[key] = Download(self.hub, plan, copy)
                threading.Thread(target=running.run, name=f"download {plan.name.repo}", daemon=True).start()
            return running
