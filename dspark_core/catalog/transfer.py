"""One request to the hub, which may be left at any moment.

Nothing wakes a thread that waits for a name server or a socket, and a hub that sends a byte every few seconds never
runs into a time limit between two bytes. So a request runs on a thread of its own; whoever asked takes what arrives
from a short queue and looks up ten times a second. A thread that was left ends with its next byte or time limit, and
writes nothing.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
from huggingface_hub.utils import get_session, hf_raise_for_status

from ..errors import Cancelled

TIMEOUT_S = 10.0  # without a byte
LOOK_S = 0.1
QUEUED = 16  # pieces that wait to be taken


class TooSlow(httpx2.TransportError):
    """An answer that did not end within its time."""


class Transfer:
    """A request as a context manager: entered, it has `response` (status and headers); iterated, the body's pieces.

    limit_s: seconds for the whole of it; none for a file of any size

    Raises Cancelled, TooSlow, and what huggingface_hub and httpx2 raise: HfHubHTTPError for a status that is an error.
    The token goes to the hub alone: httpx2 takes it off where a redirect leads to another origin.
    """

    def __init__(
        self,
        url: str,
        headers: dict[str, str],
        cancelled: Callable[[], bool] = lambda: False,
        limit_s: float | None = None,
        method: str = "GET",
    ) -> None:
        self.request = method, url, headers | {"Accept-Encoding": "identity"}
        self.cancelled = cancelled
        self.ends = None if limit_s is None else time.monotonic() + limit_s
        self._arrived: queue.Queue[Any] = queue.Queue(QUEUED)
        self._left = threading.Event()

    def __enter__(self) -> "Transfer":
        threading.Thread(target=self._run, name="a request to the hub", daemon=True).start()
        try:
            self.response: httpx2.Response = self._take()
        except BaseException:
            self._left.set()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._left.set()

    def __iter__(self) -> Iterator[bytes]:
        while (piece := self._take()) is not None:
            yield piece

    def read(self, limit: int) -> bytes:
        """The body, or a little more than `limit` of it if it is longer."""
        body = bytearray()
        for piece in self:
            body += piece
            if len(body) > limit:
                break
        return bytes(body)

    def _take(self) -> Any:
        while True:
            if self.cancelled():
                raise Cancelled
            if self.ends is not None and time.monotonic() > self.ends:
                raise TooSlow("the answer did not end")
            try:
                item = self._arrived.get(timeout=LOOK_S)
            except queue.Empty:
                continue
            if isinstance(item, BaseException):
                raise item
            return item

    def _put(self, item: Any) -> bool:
        while not self._left.is_set():
            try:
                self._arrived.put(item, timeout=LOOK_S)
                return True
            except queue.Full:
                pass
        return False

    def _run(self) -> None:
        method, url, headers = self.request
        try:
            with get_session().stream(method, url, headers=headers, timeout=TIMEOUT_S) as response:
                if response.status_code >= 400:  # with its headers alone: a body may be of any length
                    bare = httpx2.Headers({k: v for k, v in response.headers.items() if not k.startswith("content-")})
                    bare.pop("transfer-encoding", None)
                    hf_raise_for_status(httpx2.Response(response.status_code, headers=bare, request=response.request))
                if self._put(response):
                    for piece in response.iter_bytes():
                        if not self._put(piece):
                            return
                self._put(None)
        except BaseException as error:
            self._put(error)
