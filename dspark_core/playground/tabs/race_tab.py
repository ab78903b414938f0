"""The race tab: the board, and what Race and Stop do."""

from dataclasses import dataclass, replace

import gradio as gr

from ..controls import Controls
from ..conversation import Talk, wire
from ..inspector_panel import inspector_panel
from ..race_request import lanes_of, request_of
from ..saved_bar import Kept, keep_bar
from ..stream import RUNS, follow, idle, refused
from ..widgets import page_file, script
from ..worker import Job, Worker

MAX_WAITING = 8  # pages that may wait for the engine
# Of every event that runs a job on the engine.
ENGINE_USE = {"concurrency_limit": MAX_WAITING, "trigger_mode": "once", "show_progress": "hidden"}


@dataclass(frozen=True)
class Raced:
    """What the other tabs may follow.

    last:   what was seen of the last race, a RaceRecord (None before the first); it changes when lanes end, at most
            once a second, and when the race is over: `last.change(...)`
    kept:   the races that this page keeps as Traces, the one on the board, with its tokens' texts, among them
    event:  over when the race is: `event.then(...)`
    below:  a place under the board: `with below:` adds to it
    """

    last: gr.State
    kept: Kept
    event: gr.events.Dependency
    below: gr.Column


def race_tab(worker: Worker, ask: Controls) -> Raced:
    def preview(*lanes) -> str:
        return idle(lanes_of(lanes, ask.offers()))

    with gr.Tab("Race", id="race"):
        board = gr.HTML(
            preview(*(control.value for control in ask.lanes)),
            html_template=page_file("board.html"),
            js_on_load=script("replay"),
            apply_default_css=False,
            elem_id="board",
        )
        last = gr.State(None)  # inside the tab: gradio numbers tabs by their place among all children of gr.Tabs
        trace = gr.State(None)
        inspector_panel(worker, last, trace)
        below = gr.Column(elem_id="below-board")
        bar = gr.Column(elem_id="under-board")

    def to_board(visitor: gr.Request, talk: Talk, *values):
        try:
            request = replace(request_of(*values, offers=ask.offers()), earlier=talk.earlier)
        except ValueError as error:
            yield refused(next(RUNS), str(error)), gr.skip()
            return
        value = None
        for value, seen in follow(worker, Job(request, visitor.session_hash)):
            yield value, seen or gr.skip()
        if value is None:
            yield gr.skip(), gr.skip()

    def halt(visitor: gr.Request):
        worker.stop(visitor.session_hash)

    event = ask.start.click(
        to_board, [ask.talk.earlier, *ask.asked], [board, last], api_visibility="private", **ENGINE_USE
    )
    ask.changed.then(
        preview,
        ask.lanes,
        board,
        queue=False,
        trigger_mode="always_last",
        show_progress="hidden",
        api_visibility="private",
    )
    ask.stop.click(halt, queue=False, show_progress="hidden", api_visibility="private")
    with bar:
        kept = keep_bar(worker, ask, board, last, trace, event)
    wire(worker, ask.talk, kept.trace, last)
    return Raced(last, kept, event, below)
