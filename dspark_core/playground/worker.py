"""The thread that owns MLX, and the queue of jobs in front of it.

MLX streams belong to the thread that made them, so everything that imports MLX is imported, loaded and run here. A page
makes a `Job` and follows it with `Worker.events`; a Stop ends it within a round.
"""

import atexit
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..errors import Cancelled, ModelError, RankLost, reason
from ..models.info import DrafterInfo
from ..models.text_process import interruptible
from ..race.inspection import Inspection
from ..race.records import Failed, RaceRecord, RaceRequest, Waiting

MAX_WAITING = 8  # jobs that may wait for the engine behind the one that runs
LOST = "The engine's thread ended{}, so no model is loaded any more: load one on the Models tab."
LAST_MOMENT_S = 1.0  # in which a job that has shown its result may still be at work
LAST_STEP_S = 10.0  # that the end of the program waits for a step of idle work
BREATH_S = 0.03  # between two steps of idle work, for all else that this machine does


class Engine(Protocol):
    """Loaded models, as the page needs them. Only the owner thread may call `race` and `inspect`; the record that a
    race begins with has a `source`."""

    name: str
    precision: str

    @property
    def drafters(self) -> dict[str, str]: ...  # how each runs, or why it does not: loaded.Models.descriptions

    @property
    def infos(self) -> tuple[DrafterInfo, ...]: ...  # of those that run

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
class Busy(Failed):
    """Why a job was not queued: the page has another one already, or too many wait."""


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
    refusal: str = ""  # why it was not queued

    def cancel(self) -> None:
        self._cancelled.set()

    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def post(self, event: Any) -> None:
        """Send an event that is no lane's, from inside a call that `work` makes."""
        self._events.put((-1, event))

    def run(self, engine: Engine) -> None:
        """For the owner thread: do the work, unless it was cancelled. Whatever is raised is sent as Failed: also what
        is no Exception, as the panics of libraries in Rust are."""
        try:
            with interruptible(self.cancelled):
                if not self.cancelled():
                    if isinstance(engine, NoEngine):
                        raise ModelError(engine.problem)
                    for pair in self.work(engine, self):
                        self._events.put(pair)
        except Cancelled:
            pass
        except ModelError as error:
            self.post(Failed(str(error)))
        except BaseException as error:
            self.post(Failed(f"The {self.name} failed: {reason(error)}"))
            logging.exception("a %s failed", self.name)

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

    While no job is there, `idle(engine)` is called again and again: each time it does a short step of work and returns
    what that is a part of, in words, until it returns none. A job waits for the one step under way at most.

    ready:    the load has ended, well or not: `engine` is an Engine, or a NoEngine that says why there is none
    progress: of the load, in words
    idling:   what idle work is for, in words; empty if there is none
    may_lose: what is loaded may be lost while nobody does anything, so pages go on looking
    """

    def __init__(self, load: Callable[[Callable[[str], None]], Engine], idle: Callable[[Any], str] = lambda engine: ""):
        self.engine: Engine = NoEngine("No model is loaded yet.")
        self.ready = False
        self.progress = "starting"
        self.idling = ""
        self.may_lose = False
        self._load = load
        self._idle: Callable[[Any], str] | None = idle
        self._resting = False  # the owner thread waits for a job, and for nothing else
        self._jobs: list[Job] = []  # the first one is running
        self._running: Job | None = None
        self._changed = threading.Condition()
        threading.Thread(target=self._keep_owner, name="mlx-owner-watch", daemon=True).start()
        if idle is not None:
            atexit.register(self.rest)  # Python's end and MLX at work in another thread do not go together

    @property
    def error(self) -> str:
        """Why no engine could be loaded; empty while it loads and once it is there."""
        return self.engine.problem if self.ready and isinstance(self.engine, NoEngine) else ""

    # ---- following a job -----------------------------------------------------------------------------

    def events(self, job: Job, to_the_end: bool = False) -> Generator[tuple[int, Any], None, None]:
        """Queue `job` and yield its (lane, event) pairs as they come.

        Until something comes, a Waiting whenever there is another reason for it; a single Busy if it is refused.
        Ends with the job or, unless `to_the_end`, soon after a Stop. Closing it cancels the job.
        """
        for batch in self.batches(job, 0.1, to_the_end):
            yield from batch

    def batches(
        self, job: Job, seconds: float, to_the_end: bool = False
    ) -> Generator[list[tuple[int, Any]], None, None]:
        """The same, together what came within `seconds`: an empty list at once, then one each time, empty or not."""
        if not self.submit(job):
            yield [(-1, Busy(job.refusal))]
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
        """Queue a job; False, with the reason in `job.refusal`, if the same page already has one that it did not
        cancel, or too many wait.

        A job has shown its result a moment before it is over, so a click right after it waits for that moment.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._occupied(job.session), timeout=LAST_MOMENT_S)
            for gone in [j for j in self._jobs[1:] if j.cancelled()]:  # they take no place from who still waits
                self._jobs.remove(gone)
                gone.end()
            own = next((j for j in self._jobs if j.session == job.session and not j.cancelled()), None)
            waiting = len(self._jobs) - 1
            if own:
                job.refusal = f"This page is busy: wait for its {own.name}, or stop it."
            elif waiting >= MAX_WAITING:
                job.refusal = f"{waiting} jobs of other pages wait for the engine already: try again in a while."
            else:
                self._jobs.append(job)
                self._changed.notify_all()
            return not job.refusal

    def _occupied(self, session: str, name: str = "") -> bool:
        return any(j.session == session and j.name.startswith(name) and not j.cancelled() for j in self._jobs)

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

    def runs(self, session: str, name: str) -> bool:
        """Has a page a job of this name that it did not cancel, and which does not end within LAST_MOMENT_S?"""
        with self._changed:
            return not self._changed.wait_for(lambda: not self._occupied(session, name), timeout=LAST_MOMENT_S)

    def busy(self, session: str) -> bool:
        """Has a page a job that it did not cancel?"""
        with self._changed:
            return self._occupied(session)

    @property
    def idle(self) -> bool:
        with self._changed:
            return not self._jobs

    @property
    def running(self) -> dict[str, str | int]:
        """What the engine does, in a word that is empty for nothing, and how many wait."""
        with self._changed:
            names = [j.name for j in self._jobs if not j.cancelled()]
        return {"running": names[0] if names else "", "waiting": len(names[1:])}

    # ---- the owner thread ----------------------------------------------------------------------------

    def _keep_owner(self) -> None:
        """For a thread that does nothing else: start the owner thread, and another one should it end, which it never
        does by itself: the job that ran then fails, and nothing is loaded any more."""
        begin = self._load_first
        while True:
            owner = threading.Thread(target=self._run, args=(begin,), name="mlx-owner", daemon=True)
            owner.start()
            task = f"/proc/self/task/{owner.native_id}"  # a thread that ended in C is alive to Python
            listed = os.path.exists(task)
            while owner.is_alive() and os.path.exists(task) >= listed:
                owner.join(1.0)
            logging.error("the thread that owns MLX has ended")
            begin = self._unload if self.ready else self._load_first
            if running := self._running:
                running.post(Failed(LOST.format(f" in the middle of this {running.name}")))
                self._end(running)

    def _run(self, begin: Callable[[], Engine]) -> None:
        self.engine = begin()
        self._idle_step()  # so that its words are there with the engine
        self.ready = True
        while True:
            job = self._next_job()
            job.run(self.engine)
            self._end(job)

    def _next_job(self) -> Job:
        """The first in the queue; until there is one, idle work, if there is any: a job may have brought some."""
        seconds: float | None = 0.0
        while True:
            with self._changed:
                self._resting = seconds is None
                self._changed.notify_all()
                if self._changed.wait_for(lambda: self._jobs, seconds):
                    self._running, self._resting = self._jobs[0], False
                    return self._running
            seconds = BREATH_S if self._idle_step() else None

    def _idle_step(self) -> bool:
        """One step of idle work; is there more?"""
        words, idle = "", self._idle
        try:
            if idle is not None and not isinstance(self.engine, NoEngine):
                words = idle(self.engine)
        except RankLost:  # which the group tells
            pass
        except BaseException:  # nobody asked for it: whoever needs what it was for meets what is wrong
            logging.exception("idle work failed")
        self.idling = words
        return bool(words)

    def rest(self) -> None:
        """No idle work from here on. Returns once the step under way is over."""
        self._idle = None
        with self._changed:
            self._changed.wait_for(lambda: self._resting or self._running or not self.ready, LAST_STEP_S)

    def _end(self, job: Job) -> None:
        """Take a job off the queue, and let who follows it know."""
        with self._changed:
            if job in self._jobs:
                self._jobs.remove(job)
            self._running = None
            self._changed.notify_all()
        job.end()

    def _load_first(self) -> Engine:
        try:
            return self._load(self._note)
        except BaseException as error:  # the page must come up and say so
            logging.exception("the models cannot be loaded")
            return NoEngine(str(error) or reason(error))

    def _unload(self) -> Engine:
        """The engine without its model, or what stands in the place of one that has no `unload`."""
        engine = self.engine
        try:
            engine.unload(LOST.format(""))  # type: ignore[attr-defined]
            return engine
        except BaseException:
            logging.exception("the engine cannot be used any more")
            return NoEngine(LOST.format(""))

    def _note(self, progress: str) -> None:
        self.progress = progress
