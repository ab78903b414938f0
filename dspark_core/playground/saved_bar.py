"""Under the board: open a race that was saved, save the one on the board as JSON or as a page that replays alone."""

from dataclasses import dataclass

import gradio as gr

from ..errors import TraceError
from ..race.records import RaceRecord
from ..race.trace import MAX_BYTES, Trace, dumps, loads
from .controls import Controls
from .links import MAX_LINK, link_of
from .race_memory import RaceMemory, gone_words
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

    def __init__(self, ask: Controls, memory: RaceMemory | None = None):
        self.ask, self.memory = ask, memory or RaceMemory(dict)

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
        races = self.memory.keep(call.session, with_newest(call["races"], trace))
        words = gone_words(self.memory.take_gone(call.session))
        return {"trace": trace, "races": races, "bar": races_value(races, trace, words)}

    def open_file(self, call: Call) -> Updates:
        text = call.sent_as("text", str, "")
        try:
            trace = loads(text)
        except TraceError as refusal:
            return {"bar": message_value(str(refusal), failed=True)}
        races = self.memory.keep(call.session, with_newest(call["races"], trace), len(text))
        words = f"Opened: {title(trace)}. {gone_words(self.memory.take_gone(call.session))}".strip()
        return {**_on_board(trace), "races": races, "bar": races_value(races, trace, words)}

    def show(self, call: Call) -> Updates:
        """Put another one of the races on the board."""
        races, gone = call["races"], self.memory.take_gone(call.session)
        which = call.sent_as("which", int, -1) - gone  # the page's list still had those
        shown = _on_board(races[which]) if 0 <= which < len(races) else {}
        if gone and races:
            return {**shown, "bar": races_value(races, shown.get("trace", races[-1]), gone_words(gone))}
        return shown or ({"bar": message_value(gone_words(gone), failed=True)} if gone else {})

    def link(self, call: Call) -> Updates:
        link = link_of(read_form(call.values), self.ask.offers().infos)
        if len(link) > MAX_LINK:
            words = f"This prompt is too long for a link ({len(link):,} characters; {MAX_LINK:,} are taken): race it, "
            return {"bar": message_value(f"{words}then save the race as a file, which has it all.", failed=True)}
        return {"bar": bar_value(link=link)}

    def save(self, call: Call) -> Updates:
        trace: Trace | None = call["trace"]
        if trace is None:
            words = gone_words(self.memory.take_gone(call.session)) or "There is no finished race to save yet."
            return {"bar": message_value(words, failed=True)}
        try:
            document = dumps(trace)
        except TraceError as refusal:
            return {"bar": message_value(str(refusal), failed=True)}
        if call.sent_as("kind", str, "") == "page":
            return {"bar": file_value(file_name(trace, "html"), "text/html", saved_page(trace))}
        return {"bar": file_value(file_name(trace, "json"), "application/json", document)}


def _on_board(trace: Trace) -> Updates:
    return {"board": board_of(trace), "last": trace.race, "trace": trace}
