"""A job that is no race, followed on the page's thread: its events, and why there are none yet."""

import queue
from collections.abc import Iterator
from typing import Any

from ..proof.evidence import Step
from ..race.records import Failed
from .worker import Job, Worker

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
