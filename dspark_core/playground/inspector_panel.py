"""The round inspector's place on the page: a visitor picks a round, the worker recomputes it, the panel shows it.

The panel's value is one JSON document a step (assets/page/inspector.js reads it):

    {"n": the request's number, "state": "busy" | "done" | "failed", "words": ..., "round": an Inspection or null}

A request shows at once what the race itself wrote down, then waits in the worker's queue like a race.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import closing

import gradio as gr

from ..decode.rounds import Prefill
from ..errors import DecodeError
from ..race.inspection import Inspection, recorded
from ..race.records import Failed, RaceRecord
from ..race.trace import Trace
from .widgets import QUIET, UNQUEUED, Call, Updates, listen, page_file, script
from .worker import Busy, Job, Waiting, Worker


class InspectorPanel:
    """The panel. Its script triggers `select` with {n, lane, index} to ask for a round and `clear` to give the asked
    one up."""

    def __init__(self, worker: Worker):
        self.worker = worker

    def build(self, last: gr.State, trace: gr.State) -> None:
        """`last` holds the race that stands on the board, `trace` the same race as a Trace once it is saved."""
        panel = gr.HTML(
            "",
            html_template=page_file("inspector.html"),
            js_on_load=script("inspector"),
            apply_default_css=False,
            elem_id="inspector",
        )
        shown = {"panel": panel}
        many = {"concurrency_limit": 8, "trigger_mode": "multiple", **QUIET}
        listen(panel.select, self.look, {"last": last, "trace": trace}, shown, **many)
        listen(panel.clear, self.give_up, {}, {}, **UNQUEUED)

    def look(self, call: Call) -> Iterator[Updates]:
        n, lane, index = (call.sent_as(name, int, -1) for name in ("n", "lane", "index"))
        race = call["last"]
        texts = self.texts_of(race, call["trace"])
        for step in self.inspection_steps(race, lane, index, self._session(call), texts):
            yield {"panel": json.dumps({"n": n} | step, ensure_ascii=False)}

    def give_up(self, call: Call) -> None:
        self.worker.stop(self._session(call))

    def texts_of(self, race: RaceRecord | None, trace: Trace | None) -> Callable[[int], bytes]:
        """The text of a race's tokens: its trace has them, whatever is loaded; before there is one, its source."""
        if trace is not None and trace.race is race:
            return lambda token_id: trace.tokens.get(token_id, b"")
        return race.source.token_bytes if race is not None and race.source else lambda token_id: b""

    def inspection_steps(
        self, race: RaceRecord | None, lane: int, index: int, session: str, texts: Callable[[int], bytes]
    ) -> Iterator[dict]:
        """What the panel shows, step by step. Closing it gives the job up."""
        if race is None or not 0 <= lane < len(race.lanes) or not 0 <= index < len(race.lanes[lane].rounds):
            yield self._step("failed", "This round is not there any more: race again.")
            return
        self.worker.stop(session)
        record = race.lanes[lane]
        if found := record.inspection(index):
            yield self._step("done", "", found)
            return
        written = recorded(record.rounds[index], race.request.settings.temperature, texts)
        with closing(self.worker.events(self._job(session, race, lane, index))) as events:
            for _, event in events:
                if isinstance(event, Inspection):
                    record.inspections.append(event)
                    yield self._step("done", "", event)
                elif isinstance(event, Busy):
                    yield self._step("failed", "Another round is being looked at.", written)
                elif isinstance(event, Failed):
                    yield self._step("failed", event.message, written)
                elif isinstance(event, Waiting):
                    yield self._step("busy", event.words, written)
                else:
                    words = f"Reading the {event.total:,} tokens before this round again: {event.done:,} read …"
                    yield self._step("busy", words, written)

    def _job(self, session: str, race: RaceRecord, lane: int, index: int) -> Job:
        """Its events: Prefill, how much of the prefix was read; then the Inspection, or Failed."""

        def work(engine, job: Job):
            def progress(done: int, total: int) -> None:
                job.post(Prefill(done, total))

            try:
                found = engine.inspect(race, lane, index, job.cancelled, progress)
            except DecodeError as error:
                found = Failed(str(error))
            if found is not None:
                yield -1, found

        return Job(session, "inspection", work)

    def _step(self, state: str, words: str, shown: Inspection | None = None) -> dict:
        return {"state": state, "words": words, "round": shown.plain() if shown else None}

    def _session(self, call: Call) -> str:
        """A page's look at a round is a job of its own beside its race: a new one takes its place."""
        return f"{call.session} looks"
