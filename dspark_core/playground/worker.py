"""The thread that owns MLX, and the queue of jobs in front of it.

MLX streams belong to the thread that made them, so everything that imports MLX is imported, loaded and run
here. The page puts a `Job` in and reads its events from a queue; setting `cancelled` ends it within a round.

A job that is no race, followed on the page's thread: its events, and why there are none yet.
"""

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..errors import ModelError
from ..models.info import DrafterInfo
from ..proof.evidence import Step
from ..race.inspection import Inspection
from ..race.records import Failed, RaceRecord, RaceRequest


class Engine(Protocol):
    """Loaded models, as the page needs them. Only the owner thread may call `race` and `inspect`; the record that a
    race begins with has a `source`."""

    name: str
    precision: str
    drafters: dict[str, str]  # method -> how it runs, or why it does not
    drafter_info: dict[str, DrafterInfo]  # of those that run

    def race(self, request: RaceRequest, cancelled: Callable[[], bool]) -> Iterator[tuple[int, Any]]: ...

    def inspect(
        self,
        record: RaceRecord,
        lane: int,
        index: int,
        cancelled: Callable[[], bool],
        progress: Callable[[int, int], None],
    ) -> Inspection | None: ...

    def token_bytes(self, token_id: int) -> bytes: ...


@dataclass(eq=False)
class Job:
    """Something that a page asked of the engine: a race, or `work(engine, cancelled)`, a generator too.

    `events` carries what it yields ((lane, event) pairs for a race; (-1, Failed) if it ends in an error) and ends
    with None.
    """

    request: RaceRequest | None
    session: str
    work: Callable[[Engine, Callable[[], bool]], Iterator] | None = None
    events: queue.SimpleQueue = field(default_factory=queue.SimpleQueue)
    cancel: threading.Event = field(default_factory=threading.Event)


class Worker:
    """Loads an engine in the background, then runs jobs one at a time, in order."""

    def __init__(self, load: Callable[[Callable[[str], None]], Engine]):
        self.engine: Engine | None = None
        self.error: str | None = None
        self.progress = "starting"
        self._load = load
        self._jobs: list[Job] = []  # the first one is running
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="mlx-owner", daemon=True).start()

    @property
    def ready(self) -> bool:
        return self.engine is not None or self.error is not None

    def submit(self, job: Job) -> bool:
        """Queue a job; False if the same page already has one that it did not cancel."""
        with self._changed:
            if any(j.session == job.session and not j.cancel.is_set() for j in self._jobs):
                return False
            self._jobs.append(job)
            self._changed.notify_all()
            return True

    def ahead(self, job: Job) -> int:
        """How many jobs run before this one; 0 if it runs or is over."""
        with self._changed:
            return self._jobs.index(job) if job in self._jobs else 0

    def stop(self, session: str) -> None:
        """Cancel every job of a page."""
        with self._changed:
            for job in self._jobs:
                if job.session == session:
                    job.cancel.set()

    def busy(self, session: str) -> bool:
        """Has a page a job that it did not cancel?"""
        with self._changed:
            return any(j.session == session and not j.cancel.is_set() for j in self._jobs)

    @property
    def idle(self) -> bool:
        with self._changed:
            return not self._jobs

    def _run(self) -> None:
        try:
            self.engine = self._load(self._tell)
        except Exception as error:  # the page must come up and say so
            logging.exception("the models cannot be loaded")
            self.error = str(error)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs)
                job = self._jobs[0]
            try:
                self._do(job)
            except ModelError as error:
                job.events.put((-1, Failed(str(error))))
            except Exception as error:
                logging.exception("a race failed")
                job.events.put((-1, Failed(f"The race failed: {type(error).__name__}: {error}")))
            finally:
                with self._changed:
                    self._jobs.remove(job)
                job.events.put(None)

    def _do(self, job: Job) -> None:
        if job.cancel.is_set():
            return
        if self.engine is None:
            job.events.put((-1, Failed(self.error)))
            return
        work = job.work or (lambda engine, cancelled: engine.race(job.request, cancelled))
        events = work(self.engine, job.cancel.is_set)
        try:
            for item in events:
                job.events.put(item)
        finally:
            events.close()

    def _tell(self, progress: str) -> None:
        self.progress = progress


LOOK_S = 0.25  # how often a Stop and the queue are looked at


def watch(worker: Worker, job: Job) -> Iterator[Any]:
    """The events of `job` as they come, without their lane; a Step says what it waits for.

    Ends with the job or within LOOK_S of a Stop. Closing it cancels the job. Yields one Failed if the page has
    a job already.
    """
    if not worker.submit(job):
        yield Failed("This page is busy: wait for its race or proof, or stop it.")
        return
    said = None
    try:
        while not job.cancel.is_set():
            try:
                item = job.events.get(timeout=LOOK_S)
            except queue.Empty:
                words = _waiting(worker, job)
                if words and words != said:
                    said = words
                    yield Step(0.0, words)
                continue
            if item is None:
                return
            yield item[1]
    finally:
        job.cancel.set()


def _waiting(worker: Worker, job: Job) -> str:
    if not worker.ready:
        return f"Loading: {worker.progress} …"
    ahead = worker.ahead(job)
    return f"Waiting: {ahead} job{'s' * (ahead > 1)} before this one." if ahead else ""
