"""A small hub on 127.0.0.1: the HTTP API that huggingface_hub 2.4 speaks, with faults on demand.

Large files (all but .json, .txt and .jinja) are stored as the hub stores them: the address redirects to another
origin, with the linked file's checksum and size in the headers of the redirect, and a listing gives their SHA-256.
"""

import hashlib
import json
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

SMALL = (".json", ".txt", ".jinja", ".py", ".md")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_sha(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Repo:
    files: dict[str, bytes]
    gated: str | bool = False
    private: bool = False
    needs: str | None = None  # the token that may read it

    @property
    def commit(self) -> str:
        return hashlib.sha1(repr(sorted((n, sha256(d)) for n, d in self.files.items())).encode()).hexdigest()


@dataclass
class Fault:
    """What goes wrong with the next `times` requests for a file (or "api" for a listing)."""

    status: int = 0
    headers: dict = field(default_factory=dict)
    drop_after: int | None = None  # bytes of the body, then the connection breaks
    corrupt: bool = False
    ignore_range: bool = False
    times: int = 1


class FakeHub:
    def __init__(self):
        self.repos: dict[str, Repo] = {}
        self.faults: dict[str, list[Fault]] = {}
        self.sizes: dict[str, int] = {}  # (wrong) sizes for the listing
        self.moved = ""  # a commit that still resolves, to files which are no longer those it listed
        self.pace: float = 0.0  # seconds between pieces of a body
        self.instead: dict[str, Callable] = {}  # what answers in the place of this hub: "api" or a file -> (handler)
        self.requests: list[tuple[str, str, str]] = []  # method, path, Range
        self.sent = 0  # body bytes of files
        self.lock = threading.Lock()

    def fail(self, what: str, **fault) -> None:
        self.faults.setdefault(what, []).append(Fault(**fault))

    def take(self, what: str) -> Fault | None:
        with self.lock:
            queue = self.faults.get(what, [])
            if not queue:
                return None
            queue[0].times -= 1
            return queue.pop(0) if queue[0].times == 0 else queue[0]

    def gets(self, file: str) -> list[str]:
        """The Range of every GET that reached the bytes of `file`."""
        return [r for m, p, r in self.requests if m == "GET" and p.endswith(file) and "/api/" not in p]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub
    cdn: str
    of_file = False

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self._route()

    def do_GET(self):
        self._route()

    def _route(self):
        path = unquote(urlsplit(self.path).path)
        with self.hub.lock:
            self.hub.requests.append((self.command, path, self.headers.get("Range", "")))
        parts = path.strip("/").split("/")
        if answer := self.hub.instead.get("api" if parts[0] == "api" else parts[-1]):
            answer(self)
            return
        self.of_file = parts[0] != "api"
        if parts[0] == "cdn":
            assert "Authorization" not in self.headers, "the token left the hub"
            repo = self.hub.repos["/".join(parts[1:3])]
            self._file(parts[-1], repo.files["/".join(parts[3:])])
            return
        api = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if api else parts[:2])
        repo = self.hub.repos.get(name)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token == "wrong":
            self._error(401, "Invalid credentials in Authorization header")
        elif repo is None or (repo.private and token != repo.needs):
            self._error(404 if token else 401, "Repository not found", {"X-Error-Code": "RepoNotFound"})
        elif api:
            self._listing(name, repo, parts[5] if len(parts) > 5 else "main")
        else:
            self._resolve(name, repo, parts[3], "/".join(parts[4:]), token)

    def _listing(self, name, repo, revision):
        if fault := self.hub.take("api"):
            self._error(fault.status, "told to", fault.headers)
            return
        if revision not in ("main", repo.commit):
            self._error(404, "Invalid rev id", {"X-Error-Code": "RevisionNotFound"})
            return
        siblings = []
        for file, data in repo.files.items():
            entry = {"rfilename": file, "size": self.hub.sizes.get(file, len(data)), "blobId": git_sha(data)}
            if not file.endswith(SMALL):
                entry["lfs"] = {"sha256": sha256(data), "size": len(data), "pointerSize": 135}
            siblings.append(entry)
        info = {"_id": "0", "id": name, "modelId": name, "sha": repo.commit, "gated": repo.gated}
        info |= {"private": repo.private, "tags": [], "downloads": 1, "likes": 0, "siblings": siblings}
        self._answer(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

    def _resolve(self, name, repo, revision, file, token):
        if repo.gated and token != repo.needs:
            self._error(403 if token else 401, "Access is restricted", {"X-Error-Code": "GatedRepo"})
            return
        if revision not in ("main", repo.commit, self.hub.moved):
            self._error(404, "Invalid rev id", {"X-Error-Code": "RevisionNotFound"})
            return
        if file not in repo.files:
            self._error(404, "Entry not found", {"X-Error-Code": "EntryNotFound"})
            return
        data = repo.files[file]
        if file.endswith(SMALL):
            self._file(file, data, {"ETag": f'"{git_sha(data)}"', "X-Repo-Commit": repo.commit})
            return
        linked = {"X-Linked-Etag": f'"{sha256(data)}"', "X-Linked-Size": str(len(data)), "X-Repo-Commit": repo.commit}
        xet = {"X-Xet-Hash": sha256(data), "Link": f'<{self.cdn}/xet>; rel="xet-auth"'}
        self._answer(302, b"", linked | xet | {"Location": f"{self.cdn}/cdn/{name}/{file}"})

    def _file(self, file, data, headers=None):
        fault = (self.hub.take(file) if self.command == "GET" else None) or Fault()
        if fault.status:
            self._error(fault.status, "told to", fault.headers)
            return
        if fault.corrupt:
            data = bytes([data[0] ^ 1]) + data[1:]
        start, status, headers = 0, 200, dict(headers or {})
        wanted = self.headers.get("Range", "")
        if wanted.startswith("bytes=") and not fault.ignore_range:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or len(data) - 1), len(data) - 1)
            if start >= len(data):
                self._error(416, "out of range")
                return
            status = 206
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            data = data[start : end + 1]
        self._answer(status, data, headers, fault.drop_after)

    def _answer(self, status, body, headers=None, drop_after=None):
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        whole = body if drop_after is None else body[:drop_after]
        step = 65536
        try:
            for i in range(0, len(whole), step):
                self.wfile.write(whole[i : i + step])
                self.hub.sent += len(whole[i : i + step]) if self.of_file else 0
                if self.hub.pace:
                    time.sleep(self.hub.pace)
        except OSError:
            self.close_connection = True
        if drop_after is not None:
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()

    def _error(self, status, words, headers=None):
        body = json.dumps({"error": words}).encode()
        self._answer(status, body, {"X-Error-Message": words, "Content-Type": "application/json"} | (headers or {}))


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass  # broken connections are part of the tests


@contextmanager
def serving(hub: FakeHub):
    """Yields (address of the hub, address of its store): two origins of one machine."""
    handler = type("Bound", (Handler,), {"hub": hub, "cdn": ""})
    store, front = Server(("127.0.0.1", 0), handler), Server(("127.0.0.1", 0), handler)
    handler.cdn = f"http://localhost:{store.server_port}"
    for server in (store, front):
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{front.server_port}"
    finally:
        for server in (store, front):
            server.shutdown()
            server.server_close()
