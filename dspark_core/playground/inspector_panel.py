"""The round inspector's place on the page: a visitor picks a round, the worker recomputes it, the panel shows it.

The panel's value is one JSON document a step (assets/page/inspector.js reads it):

    {"n": the request's number, "state": "busy" | "done" | "failed", "words": ..., "round": an Inspection or null}

A request shows at once what the race itself wrote down, then waits in the worker's queue like a race.
"""

import json
import queue
from collections.abc import Callable, Iterator

import gradio as gr

from ..errors import DecodeError
from ..race.inspection import Inspection, recorded
from ..race.records import Failed, RaceRecord
from ..race.trace import Trace
from .widgets import page_file, script
from .worker import Job, Worker

POLL_S = 0.1


def inspector_panel(worker: Worker, last: gr.State, trace: gr.State) -> None:
    """Put the panel here. `last` holds the race that stands on the board, `trace` the same race as a Trace once it is
    kept. The panel's script triggers `select` with {n, lane, index} to ask for a round and `clear` to give the asked
    one up."""
    panel = gr.HTML(
        "",
        html_template=page_file("inspector.html"),
        js_on_load=script("inspector"),
        apply_default_css=False,
        elem_id="inspector",
    )

    def look(held, kept, event: gr.EventData, visitor: gr.Request):
        n, lane, index = (whole(getattr(event, name, None)) for name in ("n", "lane", "index"))
        texts = texts_of(held, kept)
        for step in steps(worker, held, lane, index, session_of(visitor), texts):
            yield json.dumps({"n": n} | step, ensure_ascii=False)

    def give_up(visitor: gr.Request):
        worker.stop(session_of(visitor))

    panel.select(
        look,
        [last, trace],
        panel,
        concurrency_limit=8,
        trigger_mode="multiple",
        show_progress="hidden",
        api_visibility="private",
    )
    panel.clear(give_up, queue=False, show_progress="hidden", api_visibility="private")


def session_of(visitor: gr.Request) -> str:
    """A page's look at a round is a job of its own beside its race: a new one takes its place."""
    return f"{visitor.session_hash} looks"


def whole(value) -> int:
    """A whole number a client sent, or -1."""
    return value if type(value) is int else -1


def texts_of(race: RaceRecord | None, trace: Trace | None) -> Callable[[int], bytes]:
    """The text of a race's tokens: its trace has them, whatever is loaded; until it is kept, the race's source."""
    if trace is not None and trace.race is race:
        return lambda token_id: trace.tokens.get(token_id, b"")
    return race.source.token_bytes if race is not None and race.source else lambda token_id: b""


def steps(
    worker: Worker, race: RaceRecord | None, lane: int, index: int, session: str, texts: Callable[[int], bytes]
) -> Iterator[dict]:
    """What the panel is told, step by step. Closing it gives the job up."""
    if race is None or not 0 <= lane < len(race.lanes) or not 0 <= index < len(race.lanes[lane].rounds):
        yield _step("failed", "This round is not there any more: race again.")
        return
    worker.stop(session)
    record = race.lanes[lane]
    if seen := record.inspection(index):
        yield _step("done", "", seen)
        return
    held = recorded(record.rounds[index], race.request.settings.temperature, texts)
    job = _job(session, race, lane, index)
    if not worker.submit(job):
        yield _step("failed", "Another round is being looked at.", held)
        return
    said = None
    try:
        while True:
            words = _waiting(worker, job)
            if words and words != said:
                said = words
                yield _step("busy", words, held)
            try:
                item = job.events.get(timeout=POLL_S)
            except queue.Empty:
                if job.cancel.is_set():
                    return
                continue
            if item is None:
                return
            _, event = item
            if isinstance(event, Inspection):
                record.inspections.append(event)
                yield _step("done", "", event)
            elif isinstance(event, Failed):
                yield _step("failed", event.message, held)
            else:
                done, total = event
                said = f"Reading the {total:,} tokens before this round again: {done:,} read …"
                yield _step("busy", said, held)
    finally:
        job.cancel.set()


def _step(state: str, words: str, seen: Inspection | None = None) -> dict:
    return {"state": state, "words": words, "round": seen.plain() if seen else None}


def _waiting(worker: Worker, job: Job) -> str:
    if not worker.ready:
        return f"Loading: {worker.progress} …"
    if ahead := worker.ahead(job):
        return f"Waiting: {ahead} before this one …"
    return ""


def _job(session: str, race: RaceRecord, lane: int, index: int) -> Job:
    """Events are (-1, (done, total)) tokens of the prefix, then (-1, Inspection) or (-1, Failed)."""
    job = Job(None, session)

    def work(engine, cancelled):
        def progress(done, total):
            job.events.put((-1, (done, total)))

        try:
            seen = engine.inspect(race, lane, index, cancelled, progress)
        except DecodeError as error:
            seen = Failed(str(error))
        if seen is not None:
            yield -1, seen

    job.work = work
    return job
