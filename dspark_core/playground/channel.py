"""Streams for pages that may not hold a connection: what came of one since it was last asked for.

A browser has six connections to a host, for all its tabs together, and every page of gradio's would hold one or two of
them for good: with a few tabs open nothing gets through any more, Stop included. So assets/page/channel.js asks for the
streams of most pages again and again, under a name of its own making in the header ASK, and here the stream itself is
read on, as if by one client that stays.

A stream of events that a page does hold has a name, too: whoever asks for another event is told whether it had ended by
then, for such an event comes by the next one (header OVER).
"""

import asyncio
import contextlib
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

ASK, OVER = b"x-stream", "x-stream-over"
JOIN = "/gradio_api/queue/join"
LAST = b'data: {"msg":"close_stream"'  # how gradio's last message begins
SCRIPT = "/channel.js"
TAG = f'<head><script src="{SCRIPT}"></script>'.encode()
# How long a stream goes on that nobody asks for, in seconds. Timers of hidden tabs run once a minute; a tab may be put
# to sleep for longer, and the end of its heartbeat lets its session go.
PATIENCE = {"/gradio_api/queue/data": 90.0, "/gradio_api/heartbeat/": 300.0}
FIRST_S = 0.5  # how long a stream may take to begin
MAX_STREAMS = 400
MAX_BUFFER = 64_000_000  # bytes of one stream that nobody has fetched: of a page that is gone


class Stream:
    """One answer of `app`, which is read in the background."""

    def __init__(self, app: ASGIApp, scope: Scope, patience: float):
        self.patience = patience
        self.status = 200
        self.over = False
        self.asked = asyncio.get_running_loop().time()
        self._data = bytearray()
        self._gone, self._begun, self._asking = asyncio.Event(), asyncio.Event(), True
        self.task = asyncio.create_task(self._read(app, scope))

    async def take(self) -> bytes:
        """What came since the last time."""
        self.asked = asyncio.get_running_loop().time()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._begun.wait(), FIRST_S)
        data, self._data = bytes(self._data), bytearray()
        return data

    def leave(self) -> None:
        """As if the client had closed its connection."""
        self._gone.set()

    async def _read(self, app: ASGIApp, scope: Scope) -> None:
        reading = asyncio.create_task(app(scope, self._receive, self._send))
        try:
            while not reading.done():
                await asyncio.wait([reading], timeout=1.0)
                silent = asyncio.get_running_loop().time() - self.asked
                if silent > self.patience or len(self._data) > MAX_BUFFER:
                    self.leave()
            reading.exception()  # was logged where it happened, if there is one
        except asyncio.CancelledError:
            reading.cancel()
            raise
        finally:
            self.over = True
            self._begun.set()

    async def _receive(self) -> dict[str, Any]:
        if self._asking:
            self._asking = False
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._begun.set()
        else:
            self._data += message.get("body", b"")


class Streams:
    """Answers requests for streams that have the header ASK, whose value is "NAME" or, to end one, "NAME leave";
    "NAME held" is passed on. Puts the script that sends them in front of all others of the page: gradio's open their
    first stream at once."""

    def __init__(self, app: ASGIApp):
        self.app = app
        self.open: dict[tuple[str, bytes], Stream] = {}
        self.ended: dict[bytes, None] = {}  # the names of the newest that were held, and are over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = dict(scope["headers"]).get(ASK, b"") if scope["type"] == "http" else b""
        if asked and scope["path"] == JOIN:
            await self.app(scope, receive, self._saying_whether_over(asked, send))
            return
        patience = next((s for path, s in PATIENCE.items() if asked and scope["path"].startswith(path)), None)
        if patience is None or scope["method"] != "GET" or not 0 < len(asked) < 100:
            first = scope["type"] == "http" and (scope["method"], scope["path"]) == ("GET", "/")
            await self._hand_on(scope, receive, self._with_script(send) if first else send)
            return
        name, _, wish = asked.partition(b" ")
        if wish == b"held":
            try:
                await self._hand_on(scope, receive, self._noting_the_end(name, send))
            finally:
                self._end(name)
            return
        key = scope["path"], name
        stream = self.open.get(key)
        if wish or (stream is None and len(self.open) >= MAX_STREAMS):
            if stream:
                stream.leave()
            await Response(status_code=204 if wish else 503)(scope, receive, send)
            return
        if stream is None:
            stream = self.open[key] = Stream(self.app, scope, patience)
            # What came last of a stream that has ended may still be asked for, for a while.
            stream.task.add_done_callback(
                lambda _: asyncio.get_running_loop().call_later(5.0, self.open.pop, key, None)
            )
        data = await stream.take()
        headers = {"cache-control": "no-store", "content-type": "text/event-stream"}
        if stream.over:
            headers[OVER] = "1"
            self.open.pop(key, None)
        await Response(data, stream.status, headers)(scope, receive, send)

    def _noting_the_end(self, name: bytes, send: Send) -> Send:
        async def send_noted(message: dict[str, Any]) -> None:
            if message.get("body", b"").startswith(LAST):  # the moment at which gradio takes no more into it
                self._end(name)
            await send(message)

        return send_noted

    def _end(self, name: bytes) -> None:
        self.ended[name] = None
        if len(self.ended) > MAX_STREAMS:
            del self.ended[next(iter(self.ended))]

    def _saying_whether_over(self, name: bytes, send: Send) -> Send:
        async def send_told(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start" and name in self.ended:
                message = {**message, "headers": [*message["headers"], (OVER.encode(), b"1")]}
            await send(message)

        return send_told

    async def _hand_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """gradio ends a stream of an event or a page that it does not know by an error, behind having said so in it."""
        try:
            await self.app(scope, receive, send)
        except RuntimeError as error:
            if not isinstance(error.__cause__, HTTPException):
                raise
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    @staticmethod
    def _with_script(send: Send) -> Send:
        """Adds the script's tag to the page, which comes in one piece."""
        start: dict[str, Any] = {}

        async def send_changed(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
                return
            body = message.get("body", b"").replace(b"<head>", TAG, 1)
            sized = [(k, str(len(body)).encode() if k == b"content-length" else v) for k, v in start["headers"]]
            await send({**start, "headers": sized})
            await send({**message, "body": body})

        return send_changed
