"""The socket that the page is served on, and the server on its own thread.

A server of this machine is asked by everything that runs on it, well or ill: connections that never say what they want
are closed, the oldest first, so that they take no place from the page.
"""

import asyncio
import contextlib
import errno
import os
import socket
import threading
from typing import Any, ClassVar

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import Refused

ADDRESS = "127.0.0.1"
FIRST_PORT, PORTS = 7860, 100
MAX_UNFINISHED = 64  # requests that have begun to arrive, and connections without one: a browser opens some in advance
HEAD_S, BODY_S = 10.0, 60.0  # how long the two parts of a request may take
START_S = 30.0


def listening_socket(port: int | None) -> socket.socket:
    """A socket that listens on this machine only: on the port, a free one if it is 0, or without one the first free
    one from FIRST_PORT. Raises Refused, in one sentence."""
    if port is not None:
        return _bound(port)
    for candidate in range(FIRST_PORT, FIRST_PORT + PORTS):
        with contextlib.suppress(Refused):
            return _bound(candidate)
    return _bound(0)


def _bound(port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise Refused(f"There is no port {port}: choose one from 1024 to 65535, or 0 for any that is free.")
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # a port whose last server has just ended is free
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((ADDRESS, port))
        listener.listen(512)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise Refused(f"Port {port} is in use by another program: choose another one with --port.") from None
        if error.errno in (errno.EACCES, errno.EPERM):
            raise Refused(f"Port {port} is for the administrator: choose one from 1024 to 65535.") from None
        raise Refused(f"Port {port} cannot be opened on {ADDRESS} ({error.strerror}).") from None
    return listener


class PatientProtocol(H11Protocol):
    """HTTP/1.1 with limits on requests that have not arrived as a whole, on time and on their number."""

    unfinished: ClassVar[dict["PatientProtocol", tuple[Any, asyncio.TimerHandle]]] = {}  # of all, the oldest first

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def _should_upgrade(self) -> bool:
        """There are no WebSockets here; Java's client asks for HTTP/2 with every request, which is no news."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Begin, go on or end to wait for the rest of a request."""
        state = self.conn.their_state
        if state not in (h11.IDLE, h11.SEND_BODY):
            self._unwatch()
        elif self.unfinished.get(self, (None,))[0] is not state:
            self._unwatch()
            seconds = HEAD_S if state is h11.IDLE else BODY_S
            self.unfinished[self] = state, self.loop.call_later(seconds, self._give_up)
            if len(self.unfinished) > MAX_UNFINISHED:
                next(iter(self.unfinished))._give_up()

    def _unwatch(self) -> None:
        _, timer = self.unfinished.pop(self, (None, None))
        if timer:
            timer.cancel()

    def _give_up(self) -> None:
        self._unwatch()
        if not self.transport.is_closing():
            self.transport.abort()


class PageServer(uvicorn.Server):
    """A server on a thread of its own. gradio's `Blocks.close` closes it."""

    def __init__(self, app: Any, listener: socket.socket):
        # Every option that uvicorn would else take from the environment or from what is installed.
        options = {"loop": "asyncio", "http": PatientProtocol, "ws": "none", "lifespan": "on", "workers": 1}
        super().__init__(uvicorn.Config(app, log_level="warning", proxy_headers=False, server_header=False, **options))
        self.listener = listener
        self.thread = threading.Thread(target=self.run, args=([listener],), name="page-server", daemon=True)

    def start(self) -> None:
        """Returns when it answers. Raises Refused if it does not come up."""
        self.thread.start()
        self.thread.join(0.01)
        for _ in range(int(START_S / 0.01)):
            if self.started:
                return
            if not self.thread.is_alive():
                break
            self.thread.join(0.01)
        raise Refused("The page's server did not start: see above for the reason.")

    def close(self) -> None:
        self.should_exit = True
        self.thread.join(timeout=5)
