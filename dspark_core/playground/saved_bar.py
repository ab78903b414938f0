"""Under the board: open a race that was saved, save the one on the board as JSON or as a page that replays alone."""

from dataclasses import dataclass

import gradio as gr

from ..errors import TraceError
from ..race.records import RaceRecord
from ..race.trace import MAX_BYTES, Trace, dumps, loads
from .controls import Controls
from .links import link_of
from .saved import add, answer, board_of, file_name, listing, saved_page, saving, saying, title, traced
from .widgets import page_file, script
from .worker import Worker


@dataclass(frozen=True)
class Kept:
    """What this page keeps, per visitor.

    trace: the race on the board as a Trace, with the text of its tokens; None before the first
    races: list of Traces, oldest first; the one on the board is among them. `races.change(...)` tells of a new one
    """

    trace: gr.State
    races: gr.State


def keep_bar(
    worker: Worker, ask: Controls, board: gr.HTML, last: gr.State, trace: gr.State, raced: gr.events.Dependency
) -> Kept:
    """The bar. `raced` is over when a race is; what was seen of it stands in `last` then, and in `trace` once it is
    kept. `ask.asked` are the settings that a link carries."""
    bar = gr.HTML(
        "",
        html_template=page_file("saved.html"),
        js_on_load=script("saved"),
        apply_default_css=False,
        elem_id="keep",
        max_bytes=MAX_BYTES,
    )
    kept = Kept(trace, gr.State([]))
    quiet = {"show_progress": "hidden", "api_visibility": "private"}

    def after_race(seen: RaceRecord | None, races: list[Trace]):
        if seen is None or any(t.race is seen for t in races):
            return [gr.skip()] * 3
        trace = traced(seen)
        races = add(races, trace)
        return trace, races, listing(races, trace)

    def open_(races: list[Trace], event: gr.EventData):
        try:
            trace = loads(_told(event, "text", str, ""))
        except TraceError as refusal:
            return [*[gr.skip()] * 4, saying(str(refusal), failed=True)]
        races = add(races, trace)
        return board_of(trace), trace.race, trace, races, listing(races, trace, f"Opened: {title(trace)}.")

    def show(races: list[Trace], event: gr.EventData):
        which = _told(event, "which", int, -1)
        if not 0 <= which < len(races):
            return [gr.skip()] * 3
        return board_of(races[which]), races[which].race, races[which]

    def save(trace: Trace | None, event: gr.EventData):
        if trace is None:
            return saying("There is no finished race to save yet.", failed=True)
        try:
            document = dumps(trace)
        except TraceError as refusal:
            return saying(str(refusal), failed=True)
        if _told(event, "kind", str, "") == "page":
            return saving(file_name(trace, "html"), "text/html", saved_page(trace))
        return saving(file_name(trace, "json"), "application/json", document)

    raced.then(after_race, [last, kept.races], [kept.trace, kept.races, bar], **quiet)
    bar.upload(open_, kept.races, [board, last, kept.trace, kept.races, bar], **quiet)
    bar.submit(show, kept.races, [board, last, kept.trace], **quiet)
    bar.select(lambda *values: answer(link=link_of(*values, offers=ask.offers())), ask.asked, bar, **quiet)
    bar.download(save, kept.trace, bar, **quiet)
    return kept


def _told(event: gr.EventData, name: str, kind: type, default):
    """What the bar sent along, if it is what it should be."""
    value = event._data.get(name) if isinstance(event._data, dict) else None
    return value if type(value) is kind else default
