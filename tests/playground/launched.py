"""The program under `mlx.launch` on this machine, with ways to hurt it."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class LaunchedApp:
    """`mlx.launch -n ranks app.py`, in a session of its own, until `end`."""

    def __init__(self, ranks: int):
        self.port, start = free_ports(1)[0], free_ports(1)[0] - ranks
        launch = [str(Path(sys.executable).with_name("mlx.launch")), "-n", str(ranks), "-p", str(start)]
        launch += ["--env", "PYTHONUNBUFFERED=1", "--", sys.executable, "app.py", "--no-browser"]
        self.url = f"http://127.0.0.1:{self.port}"
        self.output = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [*launch, "--no-token", "--port", str(self.port)],
            cwd=ROOT,
            stdin=subprocess.PIPE,  # it reads without end where that is at its end
            stdout=self.output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def said(self) -> str:
        self.output.seek(0)
        return self.output.read()

    def wait_until_served(self, seconds: float = 240.0) -> None:
        until = time.monotonic() + seconds
        while "runs on" not in self.said():
            assert time.monotonic() < until and self.process.poll() is None, self.said()
            time.sleep(0.2)

    def processes(self) -> list[int]:
        """Of all ranks, the parents first."""
        listed = subprocess.run(["ps", "-eo", "pid=,pgid="], capture_output=True, text=True).stdout.split()
        return [
            int(pid) for pid, group in zip(listed[::2], listed[1::2], strict=True) if int(group) == self.process.pid
        ]

    def apps(self) -> list[int]:
        """app.py by rank."""
        return self._children(self.process.pid)

    def rank_process(self, rank: int, seconds: float = 60.0) -> int:
        """What computes on a rank."""
        until, app = time.monotonic() + seconds, self.apps()[rank]
        while time.monotonic() < until:
            for child in self._children(app):
                if b"shard_process" in Path(f"/proc/{child}/cmdline").read_bytes():
                    return child
            time.sleep(0.05)
        raise AssertionError(f"rank {rank} has no process")

    @staticmethod
    def _children(parent: int) -> list[int]:
        asked = ["ps", "-o", "pid=", "--ppid", str(parent), "--sort", "pid"]
        return [int(pid) for pid in subprocess.run(asked, capture_output=True, text=True).stdout.split()]

    def end(self, number: int = signal.SIGINT, seconds: float = 20.0) -> list[int]:
        """As Ctrl+C does; the processes that are left."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)
        until = time.monotonic() + seconds
        while self.processes() and time.monotonic() < until:
            self.process.poll()
            time.sleep(0.1)
        left = self.processes()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        return left
