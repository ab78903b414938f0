"""The thread that owns MLX, and the queue of jobs in front of it.

MLX streams belong to the thread that made them, so everything that imports MLX is imported, loaded and run here. A page
makes a `Job` and follows it with `Worker.events`; a Stop ends it within a round.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..errors import ModelError
from ..models.info import DrafterInfo
from ..race.inspection import Inspection
from ..race.records import Failed, RaceRecord, RaceRequest

MAX_WAITING = 8  # pages that may wait for the engine
LAST_MOMENT_S = 1.0  # in which a job that has shown its result may still be at work


class Engine(Protocol):
    """Loaded models, as the page needs them. Only the owner thread may call `race` and `inspect`; the record that a
    race begins with has a `source`."""

    name: str
    precision: str
    drafters: dict[str, str]  # how each runs, or why it does not: loaded.Models.descriptions
    infos: tuple[DrafterInfo, ...]  # of those that run

    def race(self, request: RaceRequest, cancelled: Callable[[], bool]) -> Iterator[tuple[int, Any]]: ...

    def inspect(
        self,
        record: RaceRecord,
        lane: int,
        index: int,
        cancelled: Callable[[], bool],
        progress: Callable[[int, int], None],
    ) -> Inspection | None: ...


class NoEngine:
    """Stands in the engine's place until one is loaded, and for good where none can be: every job on it fails.

    problem: why there is none, in a sentence
    """

    name = precision = ""

    def __init__(self, problem: str):
        self.problem = problem
        self.drafters: dict[str, str] = {}
        self.infos: tuple[DrafterInfo, ...] = ()

    def race(self, request: RaceRequest, cancelled: Callable[[], bool]) -> Iterator[tuple[int, Any]]:
        raise ModelError(self.problem)

    def inspect(self, *asked: Any) -> Inspection | None:
        raise ModelError(self.problem)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why nothing has come of a job yet, in a sentence."""

    words: str


@dataclass(frozen=True, slots=True)
class Busy(Failed):
    """The page has a job already, so this one was not queued."""


BUSY = Busy("This page is busy: wait for its race or proof, or stop it.")


@dataclass(eq=False)
class Job:
    """Something that a page asks of the engine.

    name: what it is, in a word whose plural ends in s: "race", "proof"
    work: yields (lane, event) pairs, lane -1 where it is no lane's; it runs on the owner thread and ends soon after the
          job was cancelled
    """

    session: str
    name: str
    work: Callable[[Any, "Job"], Iterator[tuple[int, Any]]]
    _events: queue.SimpleQueue = field(default_factory=queue.SimpleQueue)
    _cancelled: threading.Event = field(default_factory=threading.Event)
    over: bool = False  # its last event was read

    def cancel(self) -> None:
        self._cancelled.set()

    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def post(self, event: Any) -> None:
        """Send an event that is no lane's, from inside a call that `work` makes."""
        self._events.put((-1, event))

    def run(self, engine: Engine) -> None:
        """For the owner thread: do the work, unless it was cancelled. Whatever is raised is sent as Failed."""
        try:
            if not self.cancelled():
                if isinstance(engine, NoEngine):
                    raise ModelError(engine.problem)
                for pair in self.work(engine, self):
                    self._events.put(pair)
        except ModelError as error:
            self.post(Failed(str(error)))
        except Exception as error:
            logging.exception("a %s failed", self.name)
            self.post(Failed(f"The {self.name} failed: {type(error).__name__}: {error}"))

    def end(self) -> None:
        """For the owner thread: nothing comes any more."""
        self._events.put(None)

    def read(self, seconds: float) -> list[tuple[int, Any]]:
        """What came within the next `seconds`; sooner if the job is over then."""
        deadline, batch = time.monotonic() + seconds, []
        while not self.over and (left := deadline - time.monotonic()) > 0:
            try:
                pair = self._events.get(timeout=left)
            except queue.Empty:
                break
            if pair is None:
                self.over = True
            else:
                batch.append(pair)
        return batch


def race_job(session: str, request: RaceRequest) -> Job:
    """A race: its RaceRecord, then the lanes' events, last the verdict."""
    return Job(session, "race", lambda engine, job: engine.race(request, job.cancelled))


class Worker:
    """Loads an engine in the background, then runs jobs one at a time, in order.

    ready:    the load has ended, well or not: `engine` is an Engine, or a NoEngine that says why there is none
    progress: of the load, in words
    """

    def __init__(self, load: Callable[[Callable[[str], None]], Engine]):
        self.engine: Engine = NoEngine("No model is loaded yet.")
        self.ready = False
        self.progress = "starting"
        self._load = load
        self._jobs: list[Job] = []  # the first one is running
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="mlx-owner", daemon=True).start()

    @property
    def error(self) -> str:
        """Why no engine could be loaded; empty while it loads and once it is there."""
        return self.engine.problem if self.ready and isinstance(self.engine, NoEngine) else ""

    # ---- following a job -----------------------------------------------------------------------------

    def events(self, job: Job, to_the_end: bool = False) -> Generator[tuple[int, Any], None, None]:
        """Queue `job` and yield its (lane, event) pairs as they come.

        Until something comes, a Waiting whenever there is another reason for it; a single Busy if the page has a job
        already. Ends with the job or, unless `to_the_end`, soon after a Stop. Closing it cancels the job.
        """
        for batch in self.batches(job, 0.1, to_the_end):
            yield from batch

    def batches(
        self, job: Job, seconds: float, to_the_end: bool = False
    ) -> Generator[list[tuple[int, Any]], None, None]:
        """The same, together what came within `seconds`: an empty list at once, then one each time, empty or not."""
        if not self.submit(job):
            yield [(-1, BUSY)]
            return
        words, began = "", False
        try:
            yield []
            while not job.over and (to_the_end or not job.cancelled()):
                batch = job.read(seconds)
                began = began or bool(batch) or job.over
                if not began and (now := self._waiting(job)) != words:
                    words = now
                    batch = [(-1, Waiting(words))]
                yield batch
        finally:
            job.cancel()

    def submit(self, job: Job) -> bool:
        """Queue a job; False if the same page already has one that it did not cancel.

        A job has shown its result a moment before it is over, so a click right after it waits for that moment.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: not self._occupied(job.session), timeout=LAST_MOMENT_S):
                return False
            self._jobs.append(job)
            self._changed.notify_all()
            return True

    def _occupied(self, session: str) -> bool:
        return any(j.session == session and not j.cancelled() for j in self._jobs)

    def _waiting(self, job: Job) -> str:
        """Why nothing has come of a job."""
        if not self.ready:
            return f"Loading: {self.progress} …"
        with self._changed:
            before = self._jobs[: self._jobs.index(job)] if job in self._jobs else []
        if not before:
            return "Starting …"
        names = {j.name for j in before}
        name = names.pop() if len(names) == 1 else "job"
        return f"Waiting: {len(before)} {name}{'s' * (len(before) > 1)} before this one."

    # ---- what pages do with their jobs ---------------------------------------------------------------

    def stop(self, session: str) -> None:
        """Cancel every job of a page."""
        with self._changed:
            for job in self._jobs:
                if job.session == session:
                    job.cancel()

    def busy(self, session: str) -> bool:
        """Has a page a job that it did not cancel?"""
        with self._changed:
            return self._occupied(session)

    @property
    def idle(self) -> bool:
        with self._changed:
            return not self._jobs

    # ---- the owner thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self.engine = self._load(self._note)
        except Exception as error:  # the page must come up and say so
            logging.exception("the models cannot be loaded")
            self.engine = NoEngine(str(error))
        self.ready = True
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs)
                job = self._jobs[0]
            try:
                job.run(self.engine)
            finally:
                with self._changed:
                    self._jobs.remove(job)
                    self._changed.notify_all()
                job.end()

    def _note(self, progress: str) -> None:
        self.progress = progress
