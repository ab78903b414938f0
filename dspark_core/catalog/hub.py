"""Models on the hub: what one of them holds, before anything of it is downloaded, and what of it is here.

Metadata, headers, tokens and addresses are huggingface_hub's, and so is the client that asks (httpx2, by its
`get_session`). Its `http_backoff` is not used: it waits for as long as a hub asks, be it ten minutes, and no visitor
can stop it. So requests are tried again here, within limits.

No request is made unless a method of `Hub` is called. Any thread may call it.
"""

import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

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
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status, parse_ratelimit_headers

from ..errors import HubError, ModelError
from ..models.files import INDEX, MAX_CONFIG_BYTES, MAX_JSON_BYTES, parse_object
from ..models.headers import TensorInfo
from .checksums import Checksum
from .facts import Facts, check_weight_files
from .local import cache_folder, lm_studio_models
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
RETRIED = (408, 429, 500, 502, 503, 504)

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class HubFile:
    """One file of a repository. `digest`: SHA-256 of a large file (64 digits), git's SHA-1 of a small one (40)."""

    name: str
    bytes: int
    digest: str

    @classmethod
    def listed(cls, repo: str, sibling: Any) -> "HubFile":
        """One entry of huggingface_hub's listing. Raises HubError if it has no size or checksum."""
        digest = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
        if not isinstance(sibling.size, int) or not isinstance(digest, str) or not Checksum.DIGEST.fullmatch(digest):
            raise HubError(f"The hub gives no size or checksum for {repo}/{sibling.rfilename}.")
        return cls(sibling.rfilename, sibling.size, digest)


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
        self.lm_studio = lm_studio or lm_studio_models()

    # ---- before anything is downloaded ---------------------------------------------------------------

    def plan(self, name: HubName) -> Plan:
        """Ask the hub what `name` holds. Raises HubError, also where a gated model is not open to this token."""
        info = self._ask(
            name, lambda: self.api.model_info(name.repo, revision=name.revision, files_metadata=True, timeout=TIMEOUT_S)
        )
        if not isinstance(info.sha, str) or not COMMIT.fullmatch(info.sha):
            raise HubError(f"The hub gives no revision of {name.repo}.")
        # weights in safetensors, configuration, tokenizer; never code, never pickles, nothing in folders
        wanted = (s for s in info.siblings or [] if s.rfilename in TEXT_FILES or WEIGHTS.fullmatch(s.rfilename))
        files = {f.name: f for f in (HubFile.listed(name.repo, s) for s in wanted)}
        if "config.json" not in files:
            raise HubError(f"{name.repo} has no config.json: it is not a model that can be loaded here.")
        if not any(WEIGHTS.fullmatch(n) for n in files):
            raise HubError(f"{name.repo} has no model*.safetensors, and no other format of weights is loaded.")
        if (size := files["config.json"].bytes) > MAX_CONFIG_BYTES:
            raise HubError(f"{name.repo}: config.json has {size:,} bytes, which no model configuration has.")
        if info.gated:
            url = self.url(name.repo, "config.json", info.sha)
            token, endpoint = self.api.token, self.api.endpoint
            self._ask(name, lambda: get_hf_file_metadata(url, token=token, timeout=TIMEOUT_S, endpoint=endpoint))
        here = sum(self.here(name.repo, f) for f in files.values())
        return Plan(name, info.sha, tuple(files.values()), bool(info.gated), here)

    def facts(self, plan: Plan) -> Facts:
        """Config and tensor headers of a model, a few requests, no weights. Raises ModelError."""
        if directory := self.local(plan.name):
            return Facts.read(directory, plan.name.repo)
        repo, where = plan.name.repo, Path(plan.name.repo)
        files = {f.name: f for f in plan.files}

        def small(file: str) -> dict[str, Any]:
            return parse_object(where / file, self._small(plan, files[file])) if file in files else {}

        def header(file: str) -> Any:
            parse = self.api.parse_safetensors_file_metadata
            return self._ask(plan.name, lambda: parse(repo, file, revision=plan.revision, timeout=TIMEOUT_S))

        weights = [f for f in files if WEIGHTS.fullmatch(f)]
        check_weight_files(where, small(INDEX), weights)
        tensors: dict[str, TensorInfo] = {}
        for file in weights:
            found = header(file).tensors.items()
            tensors |= {n: TensorInfo(where / file, t.dtype, tuple(t.shape)) for n, t in found}
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
                Facts.read(directory)
                return directory
        return None

    def folder(self, repo: str) -> Path:
        """Where the cache has a model."""
        return cache_folder(self.cache, repo)

    def here(self, repo: str, file: HubFile) -> int:
        """Bytes of a file that are on this machine, whole or not."""
        blob = self.folder(repo) / "blobs" / file.digest
        for path in (blob, blob.with_name(f"{file.digest}.incomplete")):
            with suppress(OSError):
                return min(path.stat().st_size, file.bytes)
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
            return backoff if isinstance(error, httpx2.TransportError) else None
        if error.response.status_code not in RETRIED:
            return None
        asked = error.response.headers.get("Retry-After", "").strip()
        limit = parse_ratelimit_headers(error.response.headers)
        wait = float(asked) if asked.isdigit() else float(limit.reset_in_seconds) if limit else backoff
        return wait if wait <= MAX_WAIT_S else None

    def _ask(self, name: HubName, request: Callable[[], Answer]) -> Answer:
        """One request, a few times where the hub is busy. Raises HubError."""
        attempt = 1
        while True:
            try:
                return request()
            except Exception as error:
                wait = self.wait_of(error, attempt) if isinstance(error, HfHubHTTPError) else None
                if wait is None or wait > TIMEOUT_S or attempt == TRIES:
                    raise HubError(self.sentence(error, name)) from error
            time.sleep(wait)
            attempt += 1

    def _small(self, plan: Plan, file: HubFile) -> bytes:
        """A small file's content, checked, without touching the disk; never more bytes than the listing gives."""
        if file.bytes > MAX_JSON_BYTES:
            raise HubError(f"{plan.name.repo}/{file.name} has {file.bytes:,} bytes, which no such file has.")

        def get() -> bytes:
            url, content = self.url(plan.name.repo, file.name, plan.revision), b""
            with get_session().stream("GET", url, headers=self.headers(), timeout=TIMEOUT_S) as response:
                hf_raise_for_status(response)
                for piece in response.iter_bytes():
                    content += piece
                    if len(content) > file.bytes:
                        break  # the checksum refuses it
            return content

        content = self._ask(plan.name, get)
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
        if isinstance(error, httpx2.TimeoutException):
            return f"The hub does not answer for {repo} (waited {TIMEOUT_S:.0f} s)."
        if isinstance(error, httpx2.TransportError):
            return f"The connection to the hub broke {TRIES} times in a row; what has arrived of {repo} is kept."
        return f"The hub's answer about {repo} cannot be read ({type(error).__name__}: {str(error)[:200]})."

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
