"""Models on the hub: what a download would bring, and the download itself.

Metadata, headers, tokens, addresses and the cache's layout are huggingface_hub's. Its own download starts a broken
file from the beginning the next time and cannot be stopped in between, so the bytes are fetched here: into
`blobs/<digest>.incomplete`, going on where it stopped, hashed on the way, and given its name only when size and
checksum are those of the hub's metadata. A snapshot appears when all of its files are whole.

No request is made unless a method of `Hub` is called. Any thread may call it.
"""

import errno
import logging
import os
import re
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, constants, get_hf_file_metadata, get_token, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import (
    WeakFileLock,
    build_hf_headers,
    get_session,
    hf_raise_for_status,
    parse_ratelimit_headers,
)

from ..errors import ModelError
from ..models.headers import MAX_CONFIG_BYTES, TensorInfo
from .checksums import DIGEST, Stopped, add_file, hasher, is_verified, remember
from .facts import INDEX, MAX_JSON_BYTES, Facts, check_weight_files, object_of, read
from .local import lm_studio_models
from .names import HubName

WEIGHTS = re.compile(r"model[A-Za-z0-9._-]*\.safetensors")
TEXT_FILES = {
    "config.json",
    "generation_config.json",
    INDEX,
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
}
COMMIT = re.compile(r"[0-9a-f]{40}")
TIMEOUT_S = 10.0
TRIES = 5  # in a row without a new byte
BACKOFF_S = 1.0  # before the first new attempt; doubled up to 8 s
MAX_WAIT_S = 300  # that a hub may ask us to wait
SPEED_WINDOW_S = 3.0
RETRIED = (408, 429, 500, 502, 503, 504)


class HubError(ModelError):
    """A hub that cannot be reached, or a download that cannot go on; one sentence."""


@dataclass(frozen=True)
class HubFile:
    """One file of a repository. `digest`: SHA-256 of a large file (64 digits), git's SHA-1 of a small one (40)."""

    name: str
    bytes: int
    digest: str


@dataclass(frozen=True)
class Plan:
    """What downloading a model brings. `revision` is the commit that `name.revision` stood for; `here` are the
    bytes that are on this machine already, those of half-fetched files included."""

    name: HubName
    revision: str
    files: tuple[HubFile, ...]
    gated: bool
    here: int

    @property
    def bytes(self) -> int:
        return sum(f.bytes for f in self.files)

    @property
    def missing(self) -> int:
        return self.bytes - self.here


class Hub:
    """The hub behind `endpoint`, with a cache on this machine; the defaults are huggingface_hub's.

    token: as huggingface_hub takes it (None: the one that `hf auth login` stored)
    """

    def __init__(
        self,
        endpoint: str | None = None,
        cache: Path | None = None,
        token: str | bool | None = None,
        record: Path | None = None,
        lm_studio: Path | None = None,
    ):
        self.api = HfApi(endpoint=endpoint, token=token, library_name="dspark-playground")
        self.cache = Path(cache or constants.HF_HUB_CACHE)
        self.record = record
        self.lm_studio = lm_studio or lm_studio_models()
        self._downloads: dict[tuple[str, str], Download] = {}
        self._lock = threading.Lock()

    # ---- before anything is downloaded ---------------------------------------------------------------

    def plan(self, name: HubName) -> Plan:
        """Ask the hub what `name` holds. Raises HubError, also where a gated model is not open to this token."""
        info = self._ask(
            name, lambda: self.api.model_info(name.repo, revision=name.revision, files_metadata=True, timeout=TIMEOUT_S)
        )
        if not isinstance(info.sha, str) or not COMMIT.fullmatch(info.sha):
            raise HubError(f"The hub gives no revision of {name.repo}.")
        files = tuple(_hub_file(name, s) for s in info.siblings or [] if _needed(s.rfilename))
        names = {f.name for f in files}
        if "config.json" not in names:
            raise HubError(f"{name.repo} has no config.json: it is not a model that can be loaded here.")
        if not any(WEIGHTS.fullmatch(n) for n in names):
            raise HubError(f"{name.repo} has no model*.safetensors, and no other format of weights is loaded.")
        for f in files:
            if f.name == "config.json" and f.bytes > MAX_CONFIG_BYTES:
                raise HubError(f"{name.repo}: config.json has {f.bytes:,} bytes, which no model configuration has.")
        if info.gated:
            self._ask(
                name,
                lambda: get_hf_file_metadata(
                    self.url(name.repo, "config.json", info.sha),
                    token=self.api.token,
                    timeout=TIMEOUT_S,
                    endpoint=self.api.endpoint,
                ),
            )
        return Plan(name, info.sha, files, bool(info.gated), sum(self.here(name.repo, f) for f in files))

    def facts(self, plan: Plan) -> Facts:
        """Config and tensor headers of a model, a few requests, no weights. Raises ModelError."""
        if directory := self.local(plan.name):
            return read(directory, plan.name.repo)
        repo, where = plan.name.repo, Path(plan.name.repo)
        files = {f.name: f for f in plan.files}

        def small(file: str) -> dict:
            return object_of(where / file, self._small(plan, files[file])) if file in files else {}

        weights = [f for f in files if WEIGHTS.fullmatch(f)]
        check_weight_files(where, small(INDEX), weights)
        tensors = {}
        for file in weights:
            header = self._ask(
                plan.name,
                lambda file=file: self.api.parse_safetensors_file_metadata(
                    repo, file, revision=plan.revision, timeout=TIMEOUT_S
                ),
            )
            tensors |= {n: TensorInfo(where / file, t.dtype, tuple(t.shape)) for n, t in header.tensors.items()}
        templates = {"chat_template.jinja", "chat_template.json"} & files.keys()
        has_template = bool(templates) or "chat_template" in small("tokenizer_config.json")
        return Facts(repo, where, small("config.json"), tensors, has_template)

    # ---- what is here --------------------------------------------------------------------------------

    def local(self, name: HubName) -> Path | None:
        """The directory of a model that is wholly on this machine, in the cache or in LM Studio's folder; None
        otherwise. No network."""
        folder = self.folder(name.repo)
        commit = name.revision
        with suppress(OSError):
            commit = (folder / "refs" / name.revision).read_text().strip()
        places = [folder / "snapshots" / commit] if COMMIT.fullmatch(commit) else []
        if name.revision == "main":
            places.append(self.lm_studio / name.repo)
        for directory in places:
            with suppress(ModelError, OSError):
                read(directory)
                return directory
        return None

    # ---- the download --------------------------------------------------------------------------------

    def start(self, plan: Plan) -> "Download":
        """Download in the background; a model that is being downloaded already is shared, not fetched twice."""
        key = plan.name.repo, plan.revision
        with self._lock:
            running = self._downloads.get(key)
            if running is None or running.over or running.stopping:
                running = self._downloads[key] = Download(self, plan)
                threading.Thread(target=running.run, name=f"download {plan.name.repo}", daemon=True).start()
            return running

    @property
    def downloads(self) -> list["Download"]:
        """The newest download of every model since the program started."""
        with self._lock:
            return list(self._downloads.values())

    # ---- inside --------------------------------------------------------------------------------------

    def folder(self, repo: str) -> Path:
        return self.cache / repo_folder_name(repo_id=repo, repo_type="model")

    def here(self, repo: str, file: HubFile) -> int:
        """Bytes of a file that are on this machine, whole or not."""
        blob = self.folder(repo) / "blobs" / file.digest
        for path in (blob, blob.with_name(f"{file.digest}.incomplete")):
            with suppress(OSError):
                return min(path.stat().st_size, file.bytes)
        return 0

    def url(self, repo: str, file: str, revision: str) -> str:
        return hf_hub_url(repo, file, revision=revision, endpoint=self.api.endpoint)

    def headers(self) -> dict[str, str]:
        return build_hf_headers(token=self.api.token, library_name="dspark-playground")

    def _small(self, plan: Plan, file: HubFile) -> bytes:
        """A small file's content, checked, without touching the disk; never more bytes than the listing gives."""
        if file.bytes > MAX_JSON_BYTES:
            raise HubError(f"{plan.name.repo}/{file.name} has {file.bytes:,} bytes, which no such file has.")

        def get():
            url, content = self.url(plan.name.repo, file.name, plan.revision), b""
            with get_session().stream("GET", url, headers=self.headers(), timeout=TIMEOUT_S) as response:
                hf_raise_for_status(response)
                for piece in response.iter_bytes():
                    content += piece
                    if len(content) > file.bytes:
                        break  # the checksum refuses it
            return content

        content = self._ask(plan.name, get)
        running = hasher(file.digest, len(content))
        running.update(content)
        if running.hexdigest() != file.digest:
            raise HubError(f"{plan.name.repo}/{file.name} does not have the checksum that the hub gives for it.")
        return content

    def _ask(self, name: HubName, request: Callable):
        """One request, a few times where the hub is busy. Raises HubError."""
        for attempt in range(1, TRIES + 1):
            try:
                return request()
            except Exception as error:
                wait = wait_of(error, attempt) if isinstance(error, HfHubHTTPError) else None
                if wait is None or wait > TIMEOUT_S or attempt == TRIES:
                    raise HubError(sentence(error, name, self.api.token)) from error
                time.sleep(wait)


class Download:
    """One download, shared by every page that looks at it; its fields may be read at any time.

    state:  "running", "done", "failed" or "cancelled"
    words:  what it is doing, or how it ended, in one sentence
    done:   bytes that are on this machine, of `plan.bytes`
    """

    def __init__(self, hub: Hub, plan: Plan):
        self.hub, self.plan = hub, plan
        self.state, self.words, self.done = "running", "Starting.", 0
        self.directory: Path | None = None
        self._cancel, self._end = threading.Event(), threading.Event()
        self._received = 0
        self._samples: deque[tuple[float, int]] = deque(maxlen=100)  # (time, bytes received), 20 a second

    @property
    def over(self) -> bool:
        return self._end.is_set()

    @property
    def stopping(self) -> bool:
        return self._cancel.is_set()

    @property
    def speed(self) -> float:
        """Bytes per second over the last seconds."""
        now = time.monotonic()
        recent = [(t, n) for t, n in list(self._samples) if now - t < SPEED_WINDOW_S]
        return (self._received - recent[0][1]) / max(now - recent[0][0], 0.1) if recent and not self.over else 0.0

    @property
    def seconds_left(self) -> float | None:
        speed = self.speed
        return (self.plan.bytes - self.done) / speed if speed else None

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
        except Stopped:
            self.state = "cancelled"
            self.words = "Stopped; what has arrived is kept, and a download goes on from there."
        except ModelError as error:
            self.state, self.words = "failed", str(error)
        except OSError as error:
            self.state, self.words = "failed", disk_sentence(error, repo)
        except Exception as error:
            logging.exception("a download failed")
            self.state, self.words = "failed", f"The download of {repo} failed: {type(error).__name__}: {error}."
        finally:
            self._end.set()

    def _run(self) -> None:
        hub, plan = self.hub, self.plan
        folder = hub.folder(plan.name.repo)
        (folder / "blobs").mkdir(parents=True, exist_ok=True)
        self._need_room(folder)
        for file in sorted(plan.files, key=lambda f: f.bytes):  # small ones first: they show early if access fails
            before = self.done
            self._fetch(file)
            self.done = before + file.bytes
        snapshot = folder / "snapshots" / plan.revision
        snapshot.mkdir(parents=True, exist_ok=True)
        for file in sorted(plan.files, key=lambda f: f.name == "config.json"):  # last: without it there is no model
            _link(Path("../../blobs") / file.digest, snapshot / file.name)
        if plan.name.revision != plan.revision:
            ref = folder / "refs" / plan.name.revision
            ref.parent.mkdir(exist_ok=True)
            ref.write_text(plan.revision)
        self.directory = snapshot

    def _need_room(self, folder: Path) -> None:
        missing = sum(f.bytes - self.hub.here(self.plan.name.repo, f) for f in self.plan.files)
        free = shutil.disk_usage(folder).free
        if missing > free:
            raise HubError(
                f"{self.plan.name.repo} needs {size(missing)} more, and the disk of {self.hub.cache} has "
                f"{size(free)} free."
            )

    def _fetch(self, file: HubFile) -> None:
        """Bring one file to its blob, checked. Only one download writes a blob at a time, on this whole machine."""
        folder = self.hub.folder(self.plan.name.repo)
        blob = folder / "blobs" / file.digest
        with self._locked(self.hub.cache / ".locks" / folder.name / f"{file.digest}.lock"):
            if blob.exists():
                if self._is_right(blob, file):
                    return
                blob.unlink()
            part = Part(folder / "blobs" / f"{file.digest}.incomplete", file)
            self._complete(part)
            part.name_it(blob)
            remember(blob, file.digest, self.hub.record)

    @contextmanager
    def _locked(self, path: Path):
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
        if blob.stat().st_size != file.bytes:
            return False
        if not is_verified(blob, file.digest, self.hub.record):
            self.words = f"Checking {file.name}, which is here already."
            running = hasher(file.digest, file.bytes)
            add_file(running, blob, lambda n: None, self._cancel.is_set)
            if running.hexdigest() != file.digest:
                return False
            remember(blob, file.digest, self.hub.record)
        return True

    def _complete(self, part: "Part") -> None:
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
                wait = wait_of(error, failures)
                if wait is None or failures >= TRIES:
                    raise HubError(sentence(error, self.plan.name, self.hub.api.token)) from error
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

    def _receive(self, part: "Part") -> Iterator[int]:
        """One request for the bytes that are missing; yields how many each piece has, once it is on the disk."""
        headers = self.hub.headers() | {"Accept-Encoding": "identity"}
        if part.have:
            headers["Range"] = f"bytes={part.have}-"
        url = self.hub.url(self.plan.name.repo, part.file.name, self.plan.revision)
        with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_S) as response:
            hf_raise_for_status(response)
            if part.have and response.status_code != 206:
                part.clear()  # a server that does not know ranges sends the whole file
            elif part.have and not response.headers.get("Content-Range", "").startswith(f"bytes {part.have}-"):
                raise httpx2.RemoteProtocolError("the answer begins elsewhere")
            self.words = f"Downloading {part.file.name}."
            for piece in response.iter_bytes():
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
            raise Stopped


class Part:
    """A half-fetched file and the running hash of what it holds."""

    def __init__(self, path: Path, file: HubFile):
        self.path, self.file = path, file
        self.have, self._hash = 0, hasher(file.digest, file.bytes)

    def open(self, cancelled: Callable[[], bool]) -> None:
        """Take up what an earlier download left. Raises Stopped."""
        self.path.touch()
        if self.path.stat().st_size > self.file.bytes:
            self.clear()
        add_file(self._hash, self.path, lambda n: None, cancelled)
        self.have = self.path.stat().st_size

    def append(self, piece: bytes) -> None:
        with open(self.path, "ab", buffering=0) as out:
            while piece:
                n = out.write(piece)
                self._hash.update(piece[:n])
                self.have += n
                piece = piece[n:]

    def clear(self) -> None:
        self.path.write_bytes(b"")
        self.have, self._hash = 0, hasher(self.file.digest, self.file.bytes)

    def name_it(self, blob: Path) -> None:
        """Give the whole, checked file its name, once it is on the disk."""
        with open(self.path, "rb") as f:
            os.fsync(f.fileno())
        self.path.replace(blob)

    @property
    def is_right(self) -> bool:
        return self.have == self.file.bytes and self._hash.hexdigest() == self.file.digest


# ---- what the hub says, in one sentence --------------------------------------------------------------------


def wait_of(error: Exception, attempt: int) -> float | None:
    """Seconds until a request is worth trying again; None if it is not."""
    backoff = BACKOFF_S * min(8, 2 ** (attempt - 1))
    if not isinstance(error, HfHubHTTPError):
        return backoff if isinstance(error, httpx2.TransportError) else None
    if error.response.status_code not in RETRIED:
        return None
    asked = error.response.headers.get("Retry-After", "").strip()
    limit = parse_ratelimit_headers(error.response.headers)
    wait = float(asked) if asked.isdigit() else float(limit.reset_in_seconds) if limit else backoff
    return wait if wait <= MAX_WAIT_S else None


def sentence(error: Exception, name: HubName, token: str | bool | None) -> str:
    """What went wrong between here and the hub, and what to do about it."""
    repo, status = name.repo, error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    signed_in = token is not False and (isinstance(token, str) or get_token() is not None)
    if isinstance(error, OfflineModeIsEnabled):
        return f"The hub is not asked for {repo} because HF_HUB_OFFLINE is set."
    if isinstance(error, GatedRepoError):
        how = "then try again" if signed_in else "then sign in on this machine with `hf auth login`"
        return f"{repo} is gated: accept its terms at {name.link}, {how}."
    if isinstance(error, RevisionNotFoundError):
        return f"{repo} has no revision {name.revision!r}."
    if isinstance(error, RemoteEntryNotFoundError):
        return f"{repo} does not have a file that its own listing names."
    if isinstance(error, RepositoryNotFoundError):
        who = (
            "the token on this machine may not read it" if signed_in else "this machine has no token (`hf auth login`)"
        )
        return f"{repo} is not on the hub, or it is private and {who}."
    if status == 401:
        return "The hub does not accept the token on this machine: sign in again with `hf auth login`."
    if status == 403:
        return f"The hub refuses access to {repo} with the token on this machine (403)."
    if status == 404:
        return f"{repo} is not on the hub."
    if status == 429:
        wait = wait_of(error, 1)
        when = f"in {wait:.0f} s" if wait is not None else "in some minutes"
        return f"The hub has had too many requests from here: try again {when}."
    if status:
        return f"The hub has trouble of its own ({status}): try again later."
    if isinstance(error, httpx2.ConnectError | httpx2.ProxyError):
        return f"The hub cannot be reached for {repo}: this machine seems to have no network."
    if isinstance(error, httpx2.TimeoutException):
        return f"The hub does not answer for {repo} (waited {TIMEOUT_S:.0f} s)."
    if isinstance(error, httpx2.TransportError):
        return f"The connection to the hub broke {TRIES} times in a row; what has arrived of {repo} is kept."
    return f"The hub's answer about {repo} cannot be read ({type(error).__name__}: {str(error)[:200]})."


def disk_sentence(error: OSError, repo: str) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk is full; what has arrived of {repo} is kept, and a download goes on from there."
    return f"{error.filename or 'The cache'} cannot be written ({error.strerror})."


def size(n: int) -> str:
    """Bytes in words: "12.3 GB", "840 MB"."""
    return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:.0f} MB" if n >= 1e7 else f"{n / 1e6:.1f} MB"


def _needed(file: str) -> bool:
    """Weights in safetensors, configuration, tokenizer; never code, never pickles, nothing in folders."""
    return file in TEXT_FILES or WEIGHTS.fullmatch(file) is not None


def _hub_file(name: HubName, sibling) -> HubFile:
    digest = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
    if not isinstance(sibling.size, int) or not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise HubError(f"The hub gives no size or checksum for {name.repo}/{sibling.rfilename}.")
    return HubFile(sibling.rfilename, sibling.size, digest)


def _link(to: Path, at: Path) -> None:
    """A relative symbolic link at `at`, in place of whatever is there."""
    new = at.with_name(f"{at.name}.{os.getpid()}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(to)
    new.replace(at)
