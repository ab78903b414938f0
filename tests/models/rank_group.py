"""A group of ranks on this machine, as `mlx.launch -n` makes one, led by the test's own process."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import patch

from dspark_core.models.group import Group
from dspark_core.models.ranks import Rank, RankProcess

ROOT = Path(__file__).resolve().parents[2]


class Followers:
    """The other ranks. homes: where the home directory of each is, under its number."""

    def __init__(self, size: int, hostfile: Path, homes: Path):
        self.homes = homes
        run = "from dspark_core.models.group import take_place; take_place()"
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-c", run],
                cwd=ROOT,
                env=os.environ | {"MLX_HOSTFILE": str(hostfile), "MLX_RANK": str(rank), "HOME": str(homes / str(rank))},
            )
            for rank in range(1, size)
        ]

    def rank_process(self, rank: int, seconds: float = 60.0) -> int:
        """The id of the process that computes on a rank."""
        until, parent = time.monotonic() + seconds, self.processes[rank - 1].pid
        while time.monotonic() < until:
            asked = ["ps", "-o", "pid=", "--ppid", str(parent)]
            if found := subprocess.run(asked, capture_output=True, text=True).stdout.split():
                return int(found[0])
            time.sleep(0.05)
        raise AssertionError(f"rank {rank} has no process")

    def end(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()


@contextmanager
def ranks(size: int, directory: Path) -> Iterator[tuple[Group, Followers]]:
    """A group of `size` ranks, which `spread` finds; what it writes goes into `directory`."""
    hostfile, sockets = directory / "hosts.json", [socket.socket() for _ in range(size)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    hostfile.write_text(json.dumps([[f"127.0.0.1:{s.getsockname()[1]}"] for s in sockets]))
    for s in sockets:
        s.close()
    followers = Followers(size, hostfile, directory)
    with patch.dict(os.environ, {"MLX_HOSTFILE": str(hostfile), "MLX_RANK": "0"}):
        group = Group(Rank(0, size, "ring"))
        try:
            with patch.object(Group, "here", staticmethod(lambda: group)):
                yield group, followers
        finally:
            group.end()
            followers.end()
            RankProcess.kill_all()
