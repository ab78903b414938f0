"""The ranks of a target on several machines, seen from the process that leads them: the page's, or a command's; no MLX.

It keeps the process of rank 0 running, and asks it. What is on the ranks ends with the group: each new one begins with
nothing, and whoever asks for what was there meets RankLost.
"""

import atexit
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from types import FrameType
from typing import Any

from ..errors import Cancelled, ModelError, RankLost, in_one_line
from .ranks import AGAIN_S, Beats, Rank, RankProcess

FORM_S = 180.0  # that a load waits for the other machines
END_S = 3.0  # for the other ranks to take leave
LATER = "load it again on the Models tab, which waits for the other machines."


class Group:
    """The ranks, seen from the page's process, which keeps the process of rank 0 running.

    lost: called, on a thread of the group's own, with a sentence when a rank was lost
    """

    def __init__(self, rank: Rank) -> None:
        self.rank, self.size, self.backend = rank, rank.size, rank.backend
        self.hosts: list[str] = []
        self.problem = ""  # why the last group ended
        self.obstacle = ""  # why no group can form, as the process of rank 0 last met it
        self.lost: Callable[[str], object] = lambda sentence: None
        self.generation = 0  # of the group: what is on its ranks ends with it
        self.formed = threading.Event()
        self._changed = threading.Condition()
        self._process: RankProcess | None = None
        self._ended = self._absent = False  # absent: MLX here has no such backend
        self._later: list[list[Any]] = []  # operations without an answer, to be sent with the next one that has one
        self._numbers = itertools.count(1)
        threading.Thread(target=self._keep, name="rank-watch", daemon=True).start()

    @staticmethod
    @cache
    def here() -> "Group | None":
        """The one of this interpreter; None where it runs alone, or does not lead. Raises ModelError."""
        try:
            rank = Rank.here()
        except (OSError, ValueError) as error:
            raise ModelError(f"What mlx.launch says of this group cannot be read ({in_one_line(error)}).") from error
        if rank is None or rank.rank:
            return None
        group = Group(rank)
        atexit.register(group.end)
        return group

    # ---- the process of rank 0 -------------------------------------------------------------------------

    def _keep(self) -> None:
        """For a thread of its own: start it, and the next one after each end."""
        while not self._ended and not self._absent:
            try:
                process = RankProcess(self.rank)
            except OSError as error:
                self.problem = f"No process can be started for rank 0 ({in_one_line(error)})."
                time.sleep(AGAIN_S)
                continue
            with self._changed:
                self._process, self._later = process, []
            threading.Thread(target=self._await_forming, args=(process,), daemon=True).start()
            status = process.wait()
            with self._changed:
                was, self.generation = self.formed.is_set(), self.generation + 1
                self.formed.clear()
                self._process = None
                if was:
                    self.problem = self._why(process, status)
            if was and not self._ended:  # on a thread of its own, for it may wait
                threading.Thread(target=self.lost, args=(self.problem,), daemon=True).start()
            time.sleep(AGAIN_S)

    def _await_forming(self, process: RankProcess) -> None:
        with suppress(EOFError, OSError):
            kind, found = process.requests.recv()
            with self._changed:
                if kind == "formed" and self._process is process:
                    self.hosts, self.obstacle, self._absent = found, "", False
                    self.formed.set()
                elif kind in ("absent", "failed"):
                    self.obstacle, self._absent = found, kind == "absent"

    def _why(self, process: RankProcess, status: int) -> str:
        others = [f"rank {k} ({host})" for k, host in enumerate(self.hosts) if k]
        who = others[0].capitalize() if len(others) == 1 else f"One of {' and '.join(others)}"
        what = f"{who} has ended, or has not answered for some seconds"
        if process.stalled:
            what = "The process of rank 0 has stalled"
        elif status != Beats.LOST:
            what = f"The process of rank 0 has ended ({f'signal {-status}' if status < 0 else f'status {status}'})"
        return f"{what}, so the model that was on {self.size} machines is lost: {LATER}"

    # ---- asking ----------------------------------------------------------------------------------------

    def number(self) -> int:
        """One that no target and no cache of this group has yet."""
        return next(self._numbers)

    def join(self, progress: Callable[[str], None], cancelled: Callable[[], bool] = lambda: False) -> int:
        """Wait until all ranks are there; the group's generation. Raises ModelError, Cancelled."""
        progress(f"waiting for the other machines, {self.size} in all")
        until = time.monotonic() + FORM_S * Beats.patience()
        while True:
            with self._changed:
                if self.formed.is_set():
                    return self.generation
                if self._absent:
                    raise ModelError(self.obstacle)
            if cancelled():
                raise Cancelled
            if time.monotonic() > until:
                met = f" (rank 0: {self.obstacle})" if self.obstacle else ""
                raise ModelError(
                    f"The {self.size} machines of this group do not find each other within {FORM_S:.0f} s{met}: see "
                    "that mlx.launch still runs on this one, and that the addresses of its hostfile are theirs."
                )
            self.formed.wait(0.1)

    def later(self, generation: int, *operation: Any) -> None:
        """Have something done that gives no answer, before what is asked next or at `flush`."""
        with self._changed:
            if generation == self.generation:
                self._later.append([*operation])

    def flush(self) -> None:
        """What was to be done later is done now."""
        with self._changed, suppress(OSError):
            waiting, self._later = self._later, []
            if waiting and self._process:
                self._process.requests.send(waiting)

    def end(self) -> None:
        """Let the other ranks end as well, in peace."""
        self._ended = True
        process = self._process
        if self.formed.is_set() and process:
            self.later(self.generation, "end")
            self.flush()
            with suppress(Exception):
                process.process.wait(END_S)
        RankProcess.kill_all()

    def ask(
        self,
        generation: int,
        *operation: Any,
        progress: Callable[[int, int], None] = lambda done, total: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Any:
        """Have something done on every rank; rank 0's answer. Raises RankLost, ModelError as a rank met it, ValueError
        of a cache, Cancelled."""
        with self._changed:
            process = self._process
            if generation != self.generation or process is None or not self.formed.is_set():
                raise RankLost(self.problem or f"The group of {self.size} machines has not formed yet.")
            waiting, self._later = self._later, []
            with suppress(OSError):  # which the loop meets again
                process.requests.send([*waiting, [*operation]])
        stopped = False
        try:
            while True:
                while not process.requests.poll(0.2):
                    if cancelled() and not stopped:
                        process.requests.send("stopped")
                        stopped = True
                kind, answer = process.requests.recv()
                if kind == "failed":
                    raise EOFError
                if kind == "done":
                    return answer
                if kind == "progress":
                    progress(*answer)
                elif stopped:
                    raise Cancelled
                else:
                    raise (ModelError if kind == "refused" else ValueError)(answer)
        except (EOFError, OSError):
            until = time.monotonic() + END_S
            while self.generation == generation and time.monotonic() < until:
                time.sleep(0.02)  # the thread that keeps it knows why, in a moment
            raise RankLost(self.problem) from None


def _leave_with(parent: int) -> None:
    """For a thread: end this process as `kill` does once `mlx.launch` is gone, for then nobody else will."""
    while os.getppid() == parent:
        time.sleep(AGAIN_S)
    os.kill(os.getpid(), signal.SIGTERM)


def take_place() -> None:
    """What a program does first of all. Alone, nothing; on the first rank, it begins to look for the others. On these
    it never returns: it keeps a rank process running, until this one is ended or the first rank has come to its end.
    That is never in error."""
    try:
        rank = Rank.here()
    except (OSError, ValueError):  # of which the first rank speaks
        rank = None
    if rank is not None:
        threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    if rank is None or not rank.rank:
        with suppress(ModelError):  # which a load meets again
            Group.here()
        return

    def end(number: int, frame: FrameType | None) -> None:
        RankProcess.kill_all()
        os._exit(0)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    while True:
        try:
            if RankProcess(rank).wait() == Beats.ENDED:
                break
        except OSError as error:
            print(f"Rank {rank.rank} cannot start its process ({in_one_line(error)}).", file=sys.stderr, flush=True)
        time.sleep(AGAIN_S)
    os._exit(0)
