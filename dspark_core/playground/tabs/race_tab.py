"""The race tab: the board, and what Race and Stop do."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
from gradio.components import Component

from ...race.records import RaceRequest
from ..controls import Controls
from ..conversation import wire
from ..inspector_panel import InspectorPanel
from ..race_memory import RaceMemory
from ..saved_bar import SavedBar, SavedRaces
from ..stream import RUNS, board_updates, idle, refusal
from ..widgets import BOARD_SCRIPTS, PRIVATE, UNQUEUED, Call, Updates, listen, page_file, script
from ..worker import MAX_WAITING, Worker

# Of every event that runs a job on the engine: the worker says who waits for what, which gradio's queue does not.
ENGINE_USE: dict[str, Any] = {"concurrency_limit": 4 * MAX_WAITING, "trigger_mode": "once", "show_progress": "hidden"}


@dataclass(frozen=True)
class Raced:
    """What the other tabs may follow.

    last:   the race on the board, a RaceRecord (None before the first); it changes when lanes end, at most once a
            second, and when the race is over: `last.change(...)`
    saved:  the races that this page keeps as Traces, the one on the board, with its tokens' texts, among them
    event:  over when the race is: `event.then(...)`
    below:  a place under the board: `with below:` adds to it
    """

    last: gr.State
    saved: SavedRaces
    event: gr.events.Dependency
    below: gr.Column


def race_inputs(ask: Controls) -> dict[str, Component]:
    """The controls that describe a race, by the names under which `asked_race` finds them."""
    return {"earlier": ask.conversation.earlier, **ask.inputs.named}


def asked_race(ask: Controls, call: Call) -> RaceRequest:
    """The race that the page's controls ask for. Raises ValueError, in one sentence for the visitor."""
    return replace(ask.request(call.values), earlier=call["earlier"].earlier)


class RaceTab:
    def __init__(self, worker: Worker, ask: Controls, memory: RaceMemory):
        self.worker, self.ask, self.memory = worker, ask, memory

    def build(self) -> Raced:
        ask, lanes = self.ask, self.ask.inputs.of_lanes
        with gr.Tab("Race", id="race"):
            board = gr.HTML(
                self.preview(Call("", ask.inputs.first_values))["board"],
                html_template=page_file("board.html"),
                js_on_load=script(*BOARD_SCRIPTS, "stage", "next", "recorded"),
                apply_default_css=False,
                elem_id="board",
            )
            last = gr.State(None)  # inside the tab: gradio numbers tabs by their place among all children of gr.Tabs
            trace = gr.State(None)
            InspectorPanel(self.worker).build(last, trace)
            below = gr.Column(elem_id="below-board")
            bar = gr.Column(elem_id="under-board")
        shown = {"board": board, "last": last}
        # The page hears of a race's end a moment after its visitor sees it; it would drop a click in that moment.
        often = ENGINE_USE | PRIVATE | {"trigger_mode": "multiple"}
        event = listen(ask.start.click, self.race, race_inputs(ask), shown, **often)
        listen(ask.changed.then, self.preview, lanes, shown, trigger_mode="always_last", **UNQUEUED)
        listen(
            ask.limits.change, self.preview, lanes, shown, trigger_mode="multiple", **UNQUEUED
        )  # other drafters are loaded
        listen(ask.stop.click, self.stop, {}, {}, **UNQUEUED)
        with bar:
            saved = SavedBar(ask, self.memory).build(board, last, trace, event)
        wire(self.worker, ask.conversation, trace, last)
        return Raced(last, saved, event, below)

    def preview(self, call: Call) -> Updates:
        """The board before a race: the lanes that would run."""
        return {"board": idle(self.ask.lanes(call.values), self.ask.offers().infos)}

    def race(self, call: Call) -> Iterator[Updates]:
        """A second click while a race of this page runs or waits is no second race."""
        if self.worker.runs(call.session, "race"):
            return
        try:
            for value, race in board_updates(self.worker, asked_race(self.ask, call), call.session):
                yield {"board": value} | ({"last": race} if race else {})
        except ValueError as error:
            yield {"board": refusal(next(RUNS), str(error))}

    def stop(self, call: Call) -> None:
        """Cancel whatever this page runs."""
        self.worker.stop(call.session)
