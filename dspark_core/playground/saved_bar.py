"""Under the board: open a race that was saved, save the one on the board as JSON or as a page that replays alone."""

from dataclasses import dataclass

import gradio as gr

from ..errors import TraceError
from ..race.records import RaceRecord
from ..race.trace import MAX_BYTES, Trace, dumps, loads
from .controls import Controls
from .links import link_of
from .race_request import read_form
from .saved import (
    bar_value,
    board_of,
    file_name,
    file_value,
    message_value,
    races_value,
    saved_page,
    title,
    traced,
    with_newest,
)
from .widgets import QUIET, Call, Updates, listen, page_file, script


@dataclass(frozen=True)
class SavedRaces:
    """What this page keeps, per visitor.

    trace: the race on the board as a Trace, with the text of its tokens; None before the first
    races: list of Traces, oldest first; the one on the board is among them. It changes with every new one
    """

    trace: gr.State
    races: gr.State


class SavedBar:
    """The bar; assets/page/saved.js is its other half. `ask.inputs` are the settings that a link carries."""

    def __init__(self, ask: Controls):
        self.ask = ask

    def build(self, board: gr.HTML, last: gr.State, trace: gr.State, raced: gr.events.Dependency) -> SavedRaces:
        """`raced` is over when a race is; the race stands in `last` then, and in `trace` once it has been added."""
        bar = gr.HTML(
            "",
            html_template=page_file("saved.html"),
            js_on_load=script("saved"),
            apply_default_css=False,
            elem_id="keep",
            max_bytes=MAX_BYTES,
        )
        races = gr.State([])
        shown = {"bar": bar, "board": board, "last": last, "trace": trace, "races": races}
        asked = self.ask.inputs.named
        listen(raced.then, self.add_race, {"last": last, "races": races}, shown, **QUIET)
        listen(bar.upload, self.open_file, {"races": races}, shown, **QUIET)
        listen(bar.submit, self.show, {"races": races}, shown, **QUIET)
        listen(bar.select, self.link, asked, shown, **QUIET)
        listen(bar.download, self.save, {"trace": trace}, shown, **QUIET)
        return SavedRaces(trace, races)

    def add_race(self, call: Call) -> Updates:
        """The race that has just ended joins the others."""
        race: RaceRecord | None = call["last"]
        if race is None or any(trace.race is race for trace in call["races"]):
            return {}
        trace = traced(race)
        races = with_newest(call["races"], trace)
        return {"trace": trace, "races": races, "bar": races_value(races, trace)}

    def open_file(self, call: Call) -> Updates:
        try:
            trace = loads(call.sent_as("text", str, ""))
        except TraceError as refusal:
            return {"bar": message_value(str(refusal), failed=True)}
        races = with_newest(call["races"], trace)
        words = f"Opened: {title(trace)}."
        return {**_on_board(trace), "races": races, "bar": races_value(races, trace, words)}

    def show(self, call: Call) -> Updates:
        """Put another one of the races on the board."""
        races, which = call["races"], call.sent_as("which", int, -1)
        return _on_board(races[which]) if 0 <= which < len(races) else {}

    def link(self, call: Call) -> Updates:
        return {"bar": bar_value(link=link_of(read_form(call.values), self.ask.offers().infos))}

    def save(self, call: Call) -> Updates:
        trace: Trace | None = call["trace"]
        if trace is None:
            return {"bar": message_value("There is no finished race to save yet.", failed=True)}
        try:
            document = dumps(trace)
        except TraceError as refusal:
            return {"bar": message_value(str(refusal), failed=True)}
        if call.sent_as("kind", str, "") == "page":
            return {"bar": file_value(file_name(trace, "html"), "text/html", saved_page(trace))}
        return {"bar": file_value(file_name(trace, "json"), "application/json", document)}


def _on_board(trace: Trace) -> Updates:
    return {"board": board_of(trace), "last": trace.race, "trace": trace}
