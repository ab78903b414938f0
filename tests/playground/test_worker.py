"""The owner thread's queue: any kind of work, one at a time, with its failure said to who asked."""

import ctypes
import json
import threading
import time
from types import SimpleNamespace

import pytest

from dspark_core.errors import ModelError
from dspark_core.playground.stream import models_status
from dspark_core.playground.tabs.cost_tab import curve_of
from dspark_core.playground.worker import MAX_WAITING, Busy, Job, NoEngine, Waiting, Worker
from dspark_core.race.records import Failed


def worker_of(engine=None) -> Worker:
    worker = Worker(lambda tell: engine or SimpleNamespace(name="an engine"))
    until(lambda: worker.ready)
    return worker


def until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Held:
    """A job that runs until `gate` is opened or it is cancelled."""

    def __init__(self, name="proof", session="holder"):
        self.gate, self.running = threading.Event(), threading.Event()
        self.job = Job(session, name, self.work)

    def work(self, engine, job):
        self.running.set()
        while not self.gate.wait(0.005) and not job.cancelled():
            pass
        yield -1, "stopped" if job.cancelled() else "done"


def test_any_work_runs_on_the_owner_thread_with_the_engine():
    worker = worker_of()

    def work(engine, job):
        job.post("halfway")
        yield 2, (engine.name, threading.current_thread().name, job.cancelled())

    assert list(worker.events(Job("a page", "proof", work))) == [
        (-1, "halfway"),
        (2, ("an engine", "mlx-owner", False)),
    ]
    until(lambda: worker.idle)


def test_a_model_error_is_passed_on_as_it_is():
    def work(engine, job):
        yield -1, 1
        raise ModelError("This model has no chat template.")

    job = Job("a page", "proof", work)
    assert list(worker_of().events(job)) == [(-1, 1), (-1, Failed("This model has no chat template."))]


@pytest.mark.parametrize("name", ["race", "load", "proof", "measurement"])
def test_a_failure_says_what_failed(name):
    def work(engine, job):
        raise RuntimeError("out of memory")
        yield

    ((lane, failed),) = worker_of().events(Job("a page", name, work))
    assert lane == -1 and failed == Failed(f"The {name} failed: RuntimeError: out of memory")


def test_a_page_has_one_job_at_a_time():
    worker, held = worker_of(), Held(session="a page")
    assert worker.submit(held.job) and worker.busy("a page") and not worker.busy("another")
    busy = Busy("This page is busy: wait for its proof, or stop it.")
    assert list(worker.events(Job("a page", "race", held.work))) == [(-1, busy)]
    assert isinstance(busy, Failed) and not held.job.cancelled()
    held.gate.set()


def test_more_jobs_than_may_wait_are_refused_in_words():
    worker = worker_of()
    held = [Held(session=f"page {k}") for k in range(MAX_WAITING + 1)]  # one of them runs
    assert all(worker.submit(h.job) for h in held)
    ((_, refused),) = worker.events(Held(session="one more").job)
    assert refused == Busy("8 jobs of other pages wait for the engine already: try again in a while.")
    for h in held:
        h.job.cancel()
    until(lambda: worker.idle)


def panic():
    """One of the tokenizers library's, which is no Exception."""
    from tokenizers import Tokenizer, models

    broken = json.loads(Tokenizer(models.BPE()).to_str())
    broken["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAAAAAA////"}
    Tokenizer.from_str(json.dumps(broken))


def recursion():
    recursion()


def raising(error):
    def do():
        raise error

    return do


ENDS = {
    panic: "PanicException: ",
    recursion: "RecursionError: maximum recursion depth exceeded",
    raising(MemoryError()): "MemoryError",
    raising(SystemExit(3)): "SystemExit: 3",
    raising(KeyboardInterrupt()): "KeyboardInterrupt",
    raising(GeneratorExit()): "GeneratorExit",
    raising(OSError("two\nlines")): "OSError: two lines",
}


@pytest.mark.parametrize("do", ENDS, ids=lambda do: ENDS[do].split(":")[0])
def test_whatever_a_job_raises_ends_that_job_alone(do):
    worker = worker_of()

    def work(engine, job):
        yield -1, "begun"
        do()

    *_, (_, failed) = worker.events(Job("a page", "proof", work))
    assert failed.message.startswith(f"The proof failed: {ENDS[do]}") and "\n" not in failed.message
    ((_, name),) = worker.events(Job("a page", "race", lambda engine, job: [(-1, engine.name)]))
    assert name == "an engine"


class Unloading:
    """An engine that can be unloaded, as PresetEngine can."""

    name, problem = "an engine", ""

    def unload(self, problem):
        self.name, self.problem, self.thread = "", problem, threading.current_thread()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_owner_thread_that_was_killed_is_replaced_and_the_page_hears_of_it():
    worker, race, owners = worker_of(Unloading()), Job("a page", "race", None), []

    def stand(engine):
        """In the place of Job.run, which would catch what ends the thread."""
        owners.append(threading.current_thread())
        while True:
            time.sleep(0.005)

    race.run = stand
    events = worker.events(race)
    next(events)
    until(lambda: owners)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(owners[0].ident), ctypes.py_object(SystemExit))
    lost = "so no model is loaded any more: load one on the Models tab."
    assert [e for _, e in events if isinstance(e, Failed)] == [
        Failed(f"The engine's thread ended in the middle of this race, {lost}")
    ]
    until(lambda: worker.engine.problem == f"The engine's thread ended, {lost}")
    assert not owners[0].is_alive() and worker.engine.thread is not owners[0] and worker.idle
    ((_, name),) = worker.events(Job("a page", "load", lambda engine, job: [(-1, threading.current_thread().name)]))
    assert name == "mlx-owner"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["race"], "Waiting: 1 race before this one."),
        (["proof", "proof"], "Waiting: 2 proofs before this one."),
        (["load", "race"], "Waiting: 2 jobs before this one."),
    ],
)
def test_a_job_says_what_it_waits_for_once(names, words):
    worker, held = worker_of(), [Held(name, f"page {k}") for k, name in enumerate(names)]
    for other in held:
        worker.submit(other.job)
    mine = Held()
    events = worker.events(mine.job)
    assert next(events) == (-1, Waiting(words))
    for other in held:
        other.gate.set()
    rest = []
    for _, event in events:
        rest.append(event)
        if event == Waiting("Starting …"):
            mine.gate.set()
    assert rest[-1] == "done" and len({str(event) for event in rest}) == len(rest)
    assert all(isinstance(event, Waiting) for event in rest[:-1])


def test_a_job_says_that_models_load():
    gate = threading.Event()
    worker = Worker(lambda progress: (progress("reading weights"), gate.wait(), SimpleNamespace())[-1])
    held = Held()
    events = worker.events(held.job)
    words = next(events)[1].words
    while "reading" not in words:
        words = next(events)[1].words
    assert words == "Loading: reading weights …"
    gate.set()
    held.gate.set()
    assert list(events)[-1] == (-1, "done")


def test_a_stop_ends_it_at_once_and_to_the_end_means_the_last_word():
    worker = worker_of()
    for to_the_end, last in ((False, []), (True, ["last word"])):
        gate, running = threading.Event(), threading.Event()

        def work(engine, job, gate=gate, running=running):
            running.set()
            gate.wait(5)  # slow to hear of the Stop
            yield -1, "last word"

        def stop(gate=gate, running=running, to_the_end=to_the_end):
            running.wait(5)
            worker.stop("a page")
            if to_the_end:
                gate.set()

        threading.Thread(target=stop).start()
        events = worker.events(Job("a page", "load", work), to_the_end)
        assert [e for _, e in events if not isinstance(e, Waiting)] == last
        assert worker.idle == to_the_end
        gate.set()
        until(lambda: worker.idle)


def test_closing_it_cancels_the_job():
    worker, held = worker_of(), Held()
    events = worker.batches(held.job, 0.05)
    assert next(events) == []
    held.running.wait(5)
    events.close()
    assert held.job.cancelled()
    until(lambda: worker.idle)


def test_a_job_that_was_stopped_while_it_waited_never_runs():
    worker, held, mine = worker_of(), Held(), Held(session="mine")
    worker.submit(held.job)
    worker.submit(mine.job)
    worker.stop("mine")
    held.gate.set()
    until(lambda: worker.idle)
    assert not mine.running.is_set()


def test_without_an_engine_every_job_fails_with_the_reason():
    def load(progress):
        raise RuntimeError("config.json does not exist.")

    worker = Worker(load)
    assert worker.error == "" or worker.ready
    until(lambda: worker.ready)
    assert isinstance(worker.engine, NoEngine) and worker.error == "config.json does not exist."
    assert list(worker.events(Held().job)) == [(-1, Failed("config.json does not exist."))]


def test_a_curve_that_is_looked_up_keeps_its_page_free():
    worker, held = worker_of(SimpleNamespace(name="an engine", models=SimpleNamespace(curve=None))), Held()
    assert worker.submit(held.job)
    lookup = threading.Thread(target=curve_of, args=(worker, "a page"), daemon=True)
    lookup.start()
    until(lambda: len(worker._jobs) == 2)
    try:
        assert not worker.busy("a page") and worker.submit(Job("a page", "race", lambda engine, job: ()))
    finally:
        held.gate.set()
    lookup.join(5)
    assert curve_of(worker, "a page") is None
    until(lambda: worker.idle)


def test_a_click_right_after_a_result_is_not_refused(monkeypatch):
    """A job has shown its last event before its generator has ended."""
    ending = threading.Event()

    def slow_to_end(engine, job):
        yield -1, "the result"
        ending.wait(5)

    worker = Worker(lambda progress: SimpleNamespace(name="an engine"))
    first = Job("a page", "race", slow_to_end)
    assert worker.submit(first)
    threading.Timer(0.2, ending.set).start()
    assert worker.submit(Job("a page", "race", lambda engine, job: ())), "it waits for the last moment"


# ---- idle work ----------------------------------------------------------------------------------------------


class Idle:
    """`steps` of idle work, each of which lasts until `go` is released once."""

    def __init__(self, steps):
        self.left, self.done, self.go, self.engines = steps, 0, threading.Semaphore(0), []

    def __call__(self, engine):
        self.engines.append((engine, threading.current_thread().name))
        if self.left:
            self.go.acquire(timeout=5)
            self.left, self.done = self.left - 1, self.done + 1
        return "measuring" if self.left else ""


def test_a_job_waits_for_the_one_idle_step_under_way_and_for_no_other():
    idle, seen = Idle(9), []
    worker = Worker(lambda tell: "an engine", idle)
    until(lambda: idle.engines)
    job = Job("a page", "race", lambda engine, job: [(-1, seen.append(idle.done))])
    assert worker.submit(job) and not worker.idle
    for done in (1, 2, 3):
        idle.go.release()
        until(lambda: worker.ready and worker.idle)
        assert seen == [*range(1, done + 1)], "it came right after the step"
        until(lambda n=done: len(idle.engines) == n + 1)  # and the next step begins after it
        worker.submit(Job("a page", "race", job.work))
    assert worker.idling == "measuring" and set(idle.engines) == {("an engine", "mlx-owner")}
    for _ in range(9):
        idle.go.release()
    until(lambda: not worker.idling and worker.idle)


def test_idle_work_ends_and_is_asked_for_again_after_a_job():
    idle = Idle(1)
    idle.go.release()
    worker = Worker(lambda tell: "an engine", idle)
    until(lambda: worker.ready)
    assert worker.idling == "" and idle.done == 1
    before = len(idle.engines)
    list(worker.events(Job("a page", "load", lambda engine, job: [(-1, "loaded")])))
    until(lambda: len(idle.engines) == before + 1)  # a load may have brought some


def test_idle_work_has_ended_when_the_program_does():
    idle = Idle(9)
    idle.go.release()
    worker = Worker(lambda tell: "an engine", idle)
    until(lambda: worker.ready and len(idle.engines) == 2)
    threading.Timer(0.05, idle.go.release).start()
    worker.rest()
    assert idle.done == 2 and not worker.idling, "the step under way was waited for"
    assert list(worker.events(Job("a page", "race", lambda engine, job: [(-1, engine)])))[-1] == (-1, "an engine")
    assert len(idle.engines) == 2, "and no other was begun"


def test_idle_work_that_fails_costs_nobody_anything():
    def broken(engine):
        raise MemoryError

    worker = Worker(lambda tell: "an engine", broken)
    for _ in range(2):
        assert list(worker.events(Job("a page", "race", lambda engine, job: [(-1, engine)])))[-1] == (-1, "an engine")
    assert worker.idling == ""


def test_a_page_hears_what_the_engine_does_meanwhile_and_when_it_is_ready():
    idle = Idle(3)
    worker = Worker(lambda tell: SimpleNamespace(name="a target", precision="bf16", drafters={}), idle)
    for _ in range(2):
        idle.go.release()
    until(lambda: worker.idling)
    status = models_status(worker)
    assert next(status).splitlines()[-2:] == ["Target: a target, bf16", "measuring"]
    idle.go.release()
    assert list(status) == ["Target: a target, bf16"]
