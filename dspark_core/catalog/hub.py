"""Models on the hub: what one of them holds, before anything of it is downloaded, and what of it is here.

Headers, tokens, addresses and the meaning of a refusal are huggingface_hub's, and so is the client that asks (httpx2,
by its `get_session`). Its own requests are not used: they wait for as long as a hub asks, be it ten minutes, read
answers of any length, and no visitor can stop them. So requests are made here (transfer.py), within limits, and
nothing that a hub answers is believed before its type and size are.

No request is made unless a method of `Hub` is called. Any thread may call it.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
from huggingface_hub import HfApi, constants, get_token, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, parse_ratelimit_headers

from ..errors import Cancelled, HubError, ModelError, in_one_line
from ..models.files import INDEX, MAX_CONFIG_BYTES, MAX_JSON_BYTES, TEMPLATES, TEXT_FILES, WEIGHTS, parse_object
from ..models.headers import MAX_FILE_BYTES, TensorInfo, parse_header
from ..store import is_count, parse_json, read_bytes
from .checksums import Checksum, Listings, unchecked
from .facts import Facts, check_weight_files, lacks_tokenizer
from .local import cache_folder, lm_studio_models
from .names import HubName
from .transfer import LOOK_S, TIMEOUT_S, TooSlow, Transfer

TEMPLATE_FILE = re.compile(rf"{TEMPLATES}/[A-Za-z0-9._-]{{1,80}}\.jinja")
COMMIT = re.compile(r"[0-9a-f]{40}")
TRIES = 5  # in a row without a new byte
BACKOFF_S = 1.0  # before the first new attempt; doubled up to 8 s
MAX_WAIT_S = 300  # that a hub may ask us to wait
RETRIED = (408, 429, 500, 502, 503, 504)
MAX_LISTING_BYTES = 20_000_000
MAX_REMOTE_HEADER = 25_000_000
FIRST_BYTES = 100_000  # of a safetensors file; most headers are shorter
SMALL_S = 60.0  # for a listing, a header or a small file
Cancelling = Callable[[], bool]


def never() -> bool:
    return False


@dataclass(frozen=True)
class HubFile:
    """One file of a repository. `digest`: SHA-256 of a large file (64 digits), git's SHA-1 of a small one (40)."""

    name: str
    bytes: int
    digest: str

    @classmethod
    def listed(cls, repo: str, name: str, entry: dict[str, Any]) -> "HubFile":
        """One entry of the hub's listing. Raises HubError if it has no size or checksum."""
        lfs, size = entry.get("lfs"), entry.get("size", -1)
        digest: Any = lfs.get("sha256") if isinstance(lfs, dict) else entry.get("blobId")
        if (
            not is_count(size, 0, MAX_FILE_BYTES)
            or not isinstance(digest, str)
            or not Checksum.DIGEST.fullmatch(digest)
        ):
            raise HubError(f"The hub gives no size or checksum for {repo}/{name}.")
        return cls(name, size, digest)


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

    token:      as huggingface_hub takes it (None: the one that `hf auth login` stored)
    record:     where checked files are noted (see checksums.CheckedFiles)
    lm_studio:  LM Studio's models folder
    """

    def __init__(
        self,
        endpoint: str | None = None,
        cache: Path | None = None,
        token: str | bool | None = None,
        record: Path | None = None,
        lm_studio: Path | None = None,
    ) -> None:
        self.api = HfApi(endpoint=endpoint, token=token, library_name="dspark-playground")
        self.cache = Path(cache or constants.HF_HUB_CACHE)
        self.record = record
        self.listings = Listings(record)
        self.lm_studio = lm_studio or lm_studio_models()

    # ---- before anything is downloaded ---------------------------------------------------------------

    def plan(self, name: HubName, cancelled: Cancelling = never) -> Plan:
        """Ask the hub what `name` holds. Raises HubError, also where a gated model is not open to this token, and
        Cancelled."""
        listing = self._listing(name, cancelled)
        commit, siblings = listing.get("sha"), listing.get("siblings")
        if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
            raise HubError(f"The hub gives no revision of {name.repo}.")
        entries = siblings if isinstance(siblings, list) else []
        named = {e["rfilename"]: e for e in entries if isinstance(e, dict) and isinstance(e.get("rfilename"), str)}
        # weights in safetensors, configuration, tokenizer, templates; never code, never pickles, no other folder
        wanted = {
            n: e for n, e in named.items() if n in TEXT_FILES or WEIGHTS.fullmatch(n) or TEMPLATE_FILE.fullmatch(n)
        }
        files = {n: HubFile.listed(name.repo, n, entry) for n, entry in wanted.items()}
        if "config.json" not in files:
            raise HubError(f"{name.repo} has no config.json: it is not a model that can be loaded here.")
        if not any(WEIGHTS.fullmatch(n) for n in files):
            raise HubError(f"{name.repo} has no model*.safetensors, and no other format of weights is loaded.")
        if (size := files["config.json"].bytes) > MAX_CONFIG_BYTES:
            raise HubError(f"{name.repo}: config.json has {size:,} bytes, which no model configuration has.")
        gated = listing.get("gated") not in (None, False)
        if gated:
            self._ask(name, cancelled, self.url(name.repo, "config.json", commit), method="HEAD")
        here = sum(self.here(name.repo, f, commit) for f in files.values())
        return Plan(name, commit, tuple(files.values()), gated, here)

    def facts(self, plan: Plan, cancelled: Cancelling = never) -> Facts:
        """Config and tensor headers of a model, a few requests, no weights. Raises ModelError, Cancelled."""
        if (directory := self.local(plan.name)) and not unchecked(directory, self.record):
            return Facts.read(directory, plan.name.repo)
        repo, where = plan.name.repo, Path(plan.name.repo)
        files = {f.name: f for f in plan.files}

        def small(file: str) -> dict[str, Any]:
            return parse_object(where / file, self._small(plan, files[file], cancelled)) if file in files else {}

        weights = [f for f in files if WEIGHTS.fullmatch(f)]
        check_weight_files(where, small(INDEX), weights)
        tensors: dict[str, TensorInfo] = {}
        for file in weights:
            tensors |= self._header(plan, files[file], where / file, cancelled)
        templates = [
            f for f in files if f in ("chat_template.jinja", "chat_template.json") or TEMPLATE_FILE.fullmatch(f)
        ]
        has_template = bool(templates) or "chat_template" in small("tokenizer_config.json")
        return Facts(repo, where, small("config.json"), tensors, has_template)

    def _listing(self, name: HubName, cancelled: Cancelling) -> dict[str, Any]:
        repo, revision = quote(name.repo), quote(name.revision, safe="")
        url = f"{self.api.endpoint}/api/models/{repo}/revision/{revision}?blobs=true"
        data = self._ask(name, cancelled, url, MAX_LISTING_BYTES)
        if len(data) > MAX_LISTING_BYTES:
            raise HubError(f"The hub's listing of {name.repo} is longer than {MAX_LISTING_BYTES // 1_000_000} MB.")
        try:
            listing = parse_json(data.decode("utf-8"))
        except ValueError as error:
            raise HubError(f"The hub's listing of {name.repo} is not valid JSON ({in_one_line(error)}).") from None
        if not isinstance(listing, dict):
            raise HubError(f"The hub's listing of {name.repo} is no listing of a model.")
        return listing

    def _header(self, plan: Plan, file: HubFile, where: Path, cancelled: Cancelling) -> dict[str, TensorInfo]:
        """The tensors of a weight file, from its first bytes."""
        url = self.url(plan.name.repo, file.name, plan.revision)
        begin = self._ask(plan.name, cancelled, url, FIRST_BYTES, {"Range": f"bytes=0-{FIRST_BYTES}"})
        length = int.from_bytes(begin[:8], "little")
        if len(begin) < 8 or length > min(MAX_REMOTE_HEADER, file.bytes - 8):
            raise ModelError(f"{where} is not a whole safetensors file: its header is cut off.")
        if len(begin) < 8 + length:
            begin = self._ask(plan.name, cancelled, url, 8 + length, {"Range": f"bytes=0-{7 + length}"})
        return parse_header(where, begin[8 : 8 + length], file.bytes)

    # ---- what is here --------------------------------------------------------------------------------

    def local(self, name: HubName) -> Path | None:
        """The directory of a model that is wholly on this machine, in the cache or in LM Studio's folder; None
        otherwise. No network."""
        return self.find(name)[0]

    def find(self, name: HubName, more: tuple[Path, ...] = ()) -> tuple[Path | None, str]:
        """The same, also looked for at `more` places, and why it is not usable where there is a part of it."""
        why = ""
        try:
            places = [*self._snapshots(name), *more]
        except OSError as error:
            places, why = [*more], f"{self.folder(name.repo)} cannot be read ({in_one_line(error)})."
        for directory in places:
            try:
                if (directory / "config.json").exists() or directory.is_relative_to(self.cache):
                    self.check_whole(directory)
                    return directory, ""
            except ModelError as error:
                why = why or str(error)
            except OSError as error:
                why = why or f"{directory} cannot be read ({in_one_line(error)})."
        return None, why

    def _snapshots(self, name: HubName) -> Iterator[Path]:
        """Where the cache and LM Studio may have it. Raises OSError."""
        folder, commit = self.folder(name.repo), name.revision
        with suppress(OSError, ValueError):
            commit = read_bytes(folder / "refs" / name.revision, 1000).decode().strip()
        with suppress(FileNotFoundError, NotADirectoryError):
            there = {d.name: d for d in (folder / "snapshots").iterdir() if COMMIT.fullmatch(d.name)}
            if commit in there:
                yield there[commit]
            elif name.revision == "main":  # a cache in which no ref could be written
                yield from sorted(there.values(), key=lambda d: d.stat().st_mtime, reverse=True)
        if name.revision == "main":
            yield self.lm_studio / name.repo

    def check_whole(self, directory: Path) -> None:
        """Raises ModelError unless every file that loading needs is there: those that the hub listed when it was
        downloaded, or else what its own files ask for. Checksums are another matter (checksums.py)."""
        facts = Facts.read(directory)
        for name, (size, _) in (listed := self.listings.of(directory)).items():
            path = directory / name
            if not path.exists() or (has := path.stat().st_size) != size:
                what = f"has {has:,} of {size:,} bytes" if path.exists() else "is not there"
                raise ModelError(f"{path} {what}: download the model again.")
        if not listed and directory.is_relative_to(self.cache) and lacks_tokenizer(facts):
            raise ModelError(f"{directory / 'tokenizer.json'} is not there: download the model again.")

    def folder(self, repo: str) -> Path:
        """Where the cache has a model."""
        return cache_folder(self.cache, repo)

    def here(self, repo: str, file: HubFile, revision: str) -> int:
        """Bytes of a file that are on this machine, whole or not."""
        folder = self.folder(repo)
        blob = folder / "blobs" / file.digest
        for path in (blob, folder / "snapshots" / revision / file.name, blob.with_name(f"{file.digest}.incomplete")):
            with suppress(OSError):
                if path == blob or not path.is_symlink():
                    return min(path.stat().st_size, file.bytes)
        return 0

    def fetched(self, name: HubName) -> int:
        """Bytes of a model that is not whole that are here, without asking what all of it is."""
        with suppress(OSError):
            return sum(f.stat().st_size for f in (self.folder(name.repo) / "blobs").iterdir() if f.is_file())
        return 0

    # ---- requests ------------------------------------------------------------------------------------

    def url(self, repo: str, file: str, revision: str) -> str:
        return str(hf_hub_url(repo, file, revision=revision, endpoint=self.api.endpoint))

    def headers(self) -> dict[str, str]:
        return dict(build_hf_headers(token=self.api.token, library_name="dspark-playground"))

    def wait_of(self, error: Exception, attempt: int) -> float | None:
        """Seconds until a request is worth its next attempt (the first one failing is 1); None if it is not."""
        backoff = BACKOFF_S * min(8, 2 ** (attempt - 1))
        if not isinstance(error, HfHubHTTPError):
            return backoff if isinstance(error, httpx2.TransportError) and not self._leads_nowhere(error) else None
        if error.response.status_code not in RETRIED:
            return None
        wait, asked = backoff, error.response.headers.get("Retry-After", "").strip()
        with suppress(ValueError, OverflowError):  # of numbers that are too long to read
            limit = parse_ratelimit_headers(error.response.headers)
            digits = asked.isascii() and asked.isdecimal()
            wait = float(asked) if digits else float(limit.reset_in_seconds) if limit else backoff
        return wait if wait <= MAX_WAIT_S else None

    def _ask(
        self,
        name: HubName,
        cancelled: Cancelling,
        url: str,
        limit: int = 0,
        more: dict[str, str] | None = None,
        method: str = "GET",
    ) -> bytes:
        """The answer to one request, or a little more than `limit` bytes of it, tried a few times where the hub is
        busy. Raises HubError, Cancelled."""
        attempt = 1
        while True:
            try:
                with Transfer(url, self.headers() | (more or {}), cancelled, SMALL_S, method) as answer:
                    return answer.read(limit)
            except Cancelled:
                raise
            except Exception as error:
                wait = self.wait_of(error, attempt) if isinstance(error, HfHubHTTPError) else None
                if wait is None or wait > TIMEOUT_S or attempt == TRIES:
                    raise HubError(self.sentence(error, name)) from error
            until = time.monotonic() + wait
            while (left := until - time.monotonic()) > 0:
                if cancelled():
                    raise Cancelled
                time.sleep(min(left, LOOK_S))
            attempt += 1

    def _small(self, plan: Plan, file: HubFile, cancelled: Cancelling) -> bytes:
        """A small file's content, checked, without touching the disk; never more bytes than the listing gives."""
        if file.bytes > MAX_JSON_BYTES:
            raise HubError(f"{plan.name.repo}/{file.name} has {file.bytes:,} bytes, which no such file has.")
        content = self._ask(plan.name, cancelled, self.url(plan.name.repo, file.name, plan.revision), file.bytes)
        checksum = Checksum(file.digest, len(content))
        checksum.add(content)
        if not checksum.is_right:
            raise HubError(f"{plan.name.repo}/{file.name} does not have the checksum that the hub gives for it.")
        return content

    # ---- what went wrong, in one sentence ------------------------------------------------------------

    def sentence(self, error: Exception, name: HubName) -> str:
        """What went wrong between here and the hub, and what to do about it."""
        repo = name.repo
        if isinstance(error, OfflineModeIsEnabled):
            return f"The hub is not asked for {repo} because HF_HUB_OFFLINE is set."
        if isinstance(error, HfHubHTTPError):
            return self._refusal(error, name)
        if isinstance(error, httpx2.ConnectError | httpx2.ProxyError):
            return f"The hub cannot be reached for {repo}: this machine seems to have no network."
        if self._leads_nowhere(error):
            return f"The hub sends the request for {repo} to an address that is not followed ({in_one_line(error)})."
        if isinstance(error, TooSlow):
            return f"The hub's answer about {repo} did not end within {SMALL_S:.0f} s: try again later."
        if isinstance(error, httpx2.TimeoutException):
            return f"The hub does not answer for {repo} (waited {TIMEOUT_S:.0f} s)."
        if isinstance(error, httpx2.TransportError):
            return f"The connection to the hub broke {TRIES} times in a row; what has arrived of {repo} is kept."
        return f"The hub's answer about {repo} cannot be read ({in_one_line(error)})."

    @staticmethod
    def _leads_nowhere(error: Exception) -> bool:
        """Does it come of a redirect that cannot be followed? One to an address that is none is a protocol error."""
        odd = isinstance(error, httpx2.RemoteProtocolError) and "location header" in str(error)
        return odd or isinstance(error, httpx2.UnsupportedProtocol | httpx2.TooManyRedirects | httpx2.InvalidURL)

    def _refusal(self, error: Any, name: HubName) -> str:
        """What the hub's answer with an error's status means. error: an HfHubHTTPError"""
        repo, status, token = name.repo, error.response.status_code, self.api.token
        signed_in = token is not False and (isinstance(token, str) or get_token() is not None)
        if isinstance(error, GatedRepoError):
            how = "then try again" if signed_in else "then sign in on this machine with `hf auth login`"
            return f"{repo} is gated: accept its terms at {name.link}, {how}."
        if isinstance(error, RevisionNotFoundError):
            return f"{repo} has no revision {name.revision!r}."
        if isinstance(error, RemoteEntryNotFoundError):
            return f"{repo} does not have a file that its own listing names."
        if isinstance(error, RepositoryNotFoundError):
            may_not = "the token on this machine may not read it"
            who = may_not if signed_in else "this machine has no token (`hf auth login`)"
            return f"{repo} is not on the hub, or it is private and {who}."
        if status == 429:
            wait = self.wait_of(error, 1)
            when = f"in {wait:.0f} s" if wait is not None else "in some minutes"
            return f"The hub has had too many requests from here: try again {when}."
        return {
            401: "The hub does not accept the token on this machine: sign in again with `hf auth login`.",
            403: f"The hub refuses access to {repo} with the token on this machine (403).",
            404: f"{repo} is not on the hub.",
        }.get(status, f"The hub has trouble of its own ({status}): try again later.")
