"""A race, as the board sees it: the worker's events become the board's value, 20 times a second."""

import itertools
import queue
import time
from collections.abc import Iterator
from dataclasses import replace

from ..race.records import DeviceNoise, LaneRecord, RaceRecord, Verdict, WarmUp
from .stream import BoardText, announcement
from .worker import Job, Worker

UPDATE_S = 0.05  # the board is sent 20 times a second
SEEN_S = 1.0  # and charts are drawn at most once in this time
RUNS = itertools.count(1)


def follow(worker: Worker, job: Job) -> Iterator[tuple[str, RaceRecord | None]]:
    """(board value, None) at most every UPDATE_S; with a copy of what was seen of the race in place of None when
    lanes have ended, at most every SEEN_S; last of all (board value, what was seen of the whole race).

    Closing it cancels the job. After a Stop it ends at once; the engine follows at its next event. Nothing at
    all is yielded if the page has a race already.
    """
    board, seen, said = BoardText(next(RUNS), job.request), None, None
    if not worker.submit(job):
        return
    try:
        yield board.value, None
        over = failed = False
        ended, shown = 0, time.monotonic() - SEEN_S
        while not over:
            deadline, size = time.monotonic() + UPDATE_S, len(board.records)
            while not over and (left := deadline - time.monotonic()) > 0:
                try:
                    item = job.events.get(timeout=left)
                except queue.Empty:
                    break
                if item is None:
                    over = True
                    break
                lane, event = item
                if isinstance(event, RaceRecord):
                    seen = replace(event, lanes=[LaneRecord(lane.spec) for lane in event.lanes])
                    board.begin(seen.source.token_bytes, seen.source.stop_ids, len(seen.lanes))
                elif isinstance(event, Verdict):
                    seen.verdict = event
                    board.verdict(event)
                elif isinstance(event, DeviceNoise):
                    seen.noise = event.largest
                elif isinstance(event, WarmUp):
                    board.warm_up(lane)
                else:
                    board.add(lane, event)
                    failed |= lane < 0
                    if lane >= 0:
                        seen.lanes[lane].add(event)
            over |= job.cancel.is_set()
            words = _doing(worker, job, seen)
            if words != said and not over:
                board.status(words)
                said = words
            now, news = time.monotonic(), _ended(seen)
            if news > ended and now - shown >= SEEN_S and not over:
                ended, shown = news, now
                yield board.value, _copy(seen)
            elif len(board.records) > size and not over:
                yield board.value, None
        stopped = job.cancel.is_set() and not (seen and seen.verdict)
        if seen:
            seen.stopped = stopped
            board.strict(seen)
        how = "failed" if failed else "stopped" if stopped else "done"
        board.over(how, announcement(seen) if seen else f"Race {how}.")
        yield board.whole, seen
    finally:
        job.cancel.set()


def _ended(seen: RaceRecord | None) -> int:
    """How many lanes will not go on."""
    return sum(bool(lane.finish or lane.error) for lane in seen.lanes) if seen else 0


def _copy(seen: RaceRecord) -> RaceRecord:
    return replace(seen, lanes=[replace(lane, rounds=[*lane.rounds]) for lane in seen.lanes])


def _doing(worker: Worker, job: Job, seen: RaceRecord | None) -> str:
    if not worker.ready:
        return f"Loading: {worker.progress} …"
    if ahead := worker.ahead(job):
        return f"Waiting: {ahead} race{'s' * (ahead > 1)} before this one."
    if seen is None:
        return "Starting …"
    context = f", {len(job.request.earlier)} earlier exchanges in it" if job.request.earlier else ""
    return f"Racing on {seen.target}, {seen.precision}, prompt of {seen.prompt_tokens} tokens{context}."


def models_status(worker: Worker) -> Iterator[str]:
    """What is loaded, line by line, while it loads and once it is there."""
    said = None
    while not worker.ready:
        if worker.progress != said:
            said = worker.progress
            yield f"Loading {said} …"
        time.sleep(0.1)
    if worker.error:
        yield f"No race can be run: {worker.error}"
        return
    yield loaded_words(worker)


def loaded_words(worker: Worker) -> str:
    """What is loaded, in lines."""
    engine = worker.engine
    if not engine.name:
        return getattr(engine, "problem", "") or "No model is loaded: load one on the Models tab."
    lines = [f"{engine.name}, {engine.precision}"]
    return "\n".join(lines + [f"{method}: {how}" for method, how in engine.drafters.items()])
