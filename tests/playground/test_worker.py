"""The owner thread's queue: any kind of work, one at a time, with its failure said to who asked."""

import threading
from types import SimpleNamespace

from dspark_core.errors import ModelError
from dspark_core.playground.worker import Job, Worker
from dspark_core.race.records import Failed


def events_of(job: Job) -> list:
    return list(iter(lambda: job.events.get(timeout=5), None))


def test_any_work_runs_on_the_owner_thread_with_the_engine():
    engine = SimpleNamespace(name="an engine")
    worker = Worker(lambda tell: engine)

    def work(engine, cancelled):
        yield engine.name, threading.current_thread().name, cancelled()

    job = Job(None, "a page", work)
    assert worker.submit(job)
    assert events_of(job) == [("an engine", "mlx-owner", False)]


def test_a_model_error_is_passed_on_as_it_is():
    worker = Worker(lambda tell: SimpleNamespace())

    def work(engine, cancelled):
        yield 1
        raise ModelError("This model has no chat template.")

    job = Job(None, "a page", work)
    worker.submit(job)
    assert events_of(job) == [1, (-1, Failed("This model has no chat template."))]
