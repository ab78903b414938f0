"""The processes of one target on several machines, as `mlx.launch` starts them; no MLX.

    mlx.launch --hostfile hosts.json python app.py
      rank 0    app.py: the page, the drafters, the schedule, the races    -> its rank process
      rank 1    app.py: nothing but `take_place`                          -> its rank process
      ...

`mlx.launch` ends every rank once one exits with an error, and a collective operation whose other side is gone may never
return. So what computes on a rank is a process of its own (shard_process.py), which may be lost; what `mlx.launch`
started outlives it (group.py) and starts the next one. These find each other again by themselves, once all are there.
"""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import ClassVar

BEAT_S = 0.5  # between two signs of life of a rank process
STALL_S = 7.0  # without a step forward, after which a rank is given up
CROWD = 3.0  # programs that want each core, on average, from which on it is waited longer
START_S = 300.0  # until the first sign of life: a busy machine is slow
AGAIN_S = 0.5  # between the end of a rank process and the next one


@dataclass(frozen=True, slots=True)
class Rank:
    """One of the processes that `mlx.launch` started. backend: as `mx.distributed.init` takes it."""

    rank: int
    size: int
    backend: str

    @classmethod
    def here(cls) -> "Rank | None":
        """This process's; None where it was started alone. Raises ValueError if the environment contradicts itself."""
        rank = os.environ.get("MLX_RANK", os.environ.get("OMPI_COMM_WORLD_RANK"))
        if rank is None:
            return None
        size, backend = 1, ""
        for name, of in (("MLX_HOSTFILE", "ring"), ("MLX_IBV_DEVICES", "jaccl")):
            if (place := os.environ.get(name)) and (text := Path(place).read_text("utf-8").strip()):
                size, backend = len(json.loads(text)), of
        for name, of in (("MLX_WORLD_SIZE", "nccl"), ("OMPI_COMM_WORLD_SIZE", "mpi")):
            if not backend and (text := os.environ.get(name, "")):
                size, backend = int(text), of
        if not 0 <= int(rank) < max(size, 1):
            raise ValueError(f"rank {rank} of {size}")
        return cls(int(rank), size, backend) if size > 1 else None


class RankProcess:
    """The process that computes on this rank. It ends when this one does, or closes its end of `requests`.

    requests: to and from it; used on rank 0 alone
    """

    alive: ClassVar[set["RankProcess"]] = set()

    def __init__(self, rank: Rank) -> None:
        """Starts it. Raises OSError."""
        self.requests, there = Pipe()
        self._beats, beats = Pipe(duplex=False)
        handles = there.fileno(), beats.fileno()
        arguments = f"{handles[0]}, {handles[1]}, {os.getpid()}, {rank.rank}, {rank.size}, {rank.backend!r}"
        run = f"import sys; sys.path[:] = {sys.path!r}; from {__package__}.shard_process import follow"
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", f"{run}; follow({arguments})"], pass_fds=handles, stdin=subprocess.DEVNULL
            )
        finally:
            there.close()
            beats.close()
        self.stalled, self.rank = False, rank.rank
        self.alive.add(self)

    def wait(self) -> int:
        """Until it has ended: by itself, or where it gave no sign of life. Its exit status, as subprocess has it."""
        seconds = START_S * Beats.patience()
        with suppress(EOFError, OSError):
            while self._beats.poll(seconds):
                self._beats.recv_bytes()
                seconds = STALL_S * Beats.patience()
            self.stalled = True
            print(f"The process of rank {self.rank} gave no sign of life for {seconds:.0f} s.", file=sys.stderr)
        self.kill()
        return self.process.wait()

    def kill(self) -> None:
        with suppress(OSError):
            self.process.kill()
        self.alive.discard(self)

    @classmethod
    def kill_all(cls) -> None:
        """For the end of the program, in whatever state a process is."""
        while cls.alive:
            cls.alive.pop().kill()


class Beats:
    """For a rank process: signs of life, and the end of it where its work does not come on or its parent is gone."""

    LOST, ENDED = 75, 76  # exit statuses of a process: its group is lost; all of it has come to its end

    def __init__(self, beats: Connection, parent: int) -> None:
        self._beats, self._parent = beats, parent
        self.limit(START_S)

    @contextmanager
    def waiting(self, seconds: float) -> Iterator[None]:
        """For a call that may wait for ever and lets no other thread of Python's run meanwhile, as MLX's does that has
        ranks find each other: the system ends this process after so many seconds. There is no sign of life before."""
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(math.ceil(seconds * self.patience()))
        if os.getppid() != self._parent:
            os._exit(self.LOST)
        yield
        signal.alarm(0)

    def limit(self, seconds: float = STALL_S) -> None:
        """The work has come on; the next time is at most so many seconds from now."""
        self._since, self._seconds = time.monotonic(), seconds

    @staticmethod
    def patience() -> float:
        """How many times as long as usual is waited: a machine with too much to do is slow, and no rank lost."""
        with suppress(OSError):
            return max(1.0, os.getloadavg()[0] / (CROWD * (os.cpu_count() or 1)))
        return 1.0

    def begin(self) -> None:
        """Signs of life from here on, by a thread of their own."""
        self.limit(START_S)
        threading.Thread(target=self._keep, daemon=True).start()

    def _keep(self) -> None:
        while (time.monotonic() - self._since) / self.patience() < self._seconds and os.getppid() == self._parent:
            try:
                self._beats.send_bytes(b"1")
            except OSError:
                break
            time.sleep(BEAT_S)
        if os.getppid() == self._parent:
            print(f"A rank's work has not come on for {time.monotonic() - self._since:.0f} s.", file=sys.stderr)
        os._exit(self.LOST)
