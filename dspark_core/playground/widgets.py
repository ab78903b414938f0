"""Small pieces that every part of the page is made of.

A progress line and a verdict box; their values are JSON, and words reach the page as text, never as markup. `listen`
hands a handler its inputs by name and takes what it changes by name, so that handlers need no gradio to be tested.
"""

import inspect
import json
import re
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from ..models.token_bytes import whole_characters
from ..paths import assets

# A script of the page is a module, so that it can be checked and tested alone; gradio takes the bodies of functions, in
# which nothing can be imported or exported. Comments stay here: they would be sent with every small script.
IMPORT = re.compile(r"^import \{[^}]*\} from '\./(\w+)\.js';\n", re.MULTILINE)
LEFT_OUT = re.compile(r"^import [^;]*;\n|^export |^ *//.*\n|^ */\*\*[\s\S]*?\*/\n", re.MULTILINE)

BOARD_SCRIPTS = ("replay", "passes", "steps", "token_card")  # of every board, also of a saved page's


def page_file(name: str) -> str:
    """The text of a file of the page's front end."""
    return (assets() / "page" / name).read_text("utf-8")


def script(*names: str) -> str:
    """The page's scripts of these names as the body of one function, each after the scripts that it imports."""
    bodies: dict[str, str] = {}

    def add(name: str) -> None:
        text = page_file(f"{name}.js")
        for found in IMPORT.finditer(text):
            if found[1] not in bodies:
                add(found[1])
        bodies[name] = LEFT_OUT.sub("", text)

    for name in names:
        add(name)
    return "\n".join(bodies.values())


def stylesheets() -> list[Path]:
    """Every style sheet of the page."""
    return sorted((assets() / "page").glob("*.css"))


def plain_text(value: str, elem_id: str) -> gr.HTML:
    """A paragraph whose value is text, never markup."""
    return gr.HTML(value, html_template="<p></p>", js_on_load=script("text"), apply_default_css=False, elem_id=elem_id)


def static(markup: str, script: str | None = None, **where) -> gr.HTML:
    """Markup of the page itself; nothing that a visitor or a model wrote may come here."""
    return gr.HTML("", html_template=markup, js_on_load=script, apply_default_css=False, **where)


def progress(elem_id: str) -> gr.HTML:
    return gr.HTML(
        progressed(0, ""),
        html_template='<p></p><div class="bar" hidden><i></i></div>',
        js_on_load=script("progress"),
        apply_default_css=False,
        elem_id=elem_id,
        elem_classes="progress",
    )


def progressed(share: float, words: str) -> str:
    """The value of a progress line; at share 1 only its words are left."""
    return json.dumps({"share": round(share, 3), "words": words})


def verdict_box(elem_id: str) -> gr.HTML:
    return gr.HTML(
        decided("", ""),
        html_template='<p class="board-verdict" role="status"></p><p class="more"></p>',
        js_on_load=script("verdict"),
        apply_default_css=False,
        elem_id=elem_id,
        elem_classes="verdict",
    )


def decided(kind: str, words: str, more: str = "") -> str:
    """The value of a verdict box: "identical", "tie", "divergence" or "" for its looks, the verdict, small print."""
    return json.dumps({"kind": kind, "words": words, "more": more})


@dataclass(frozen=True)
class Call:
    """What a handler is called with.

    session: the visitor's page
    values:  of the inputs, by the names that `listen` was given
    sent:    what a script of the page sent along, if it is an object; anything may be in it
    """

    session: str
    values: Mapping[str, Any] = field(default_factory=dict)
    sent: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def sent_as(self, name: str, kind: type, default: Any) -> Any:
        """What was sent under a name, if it is of exactly this type; else `default`."""
        value = self.sent.get(name)
        return value if type(value) is kind else default


Updates = dict[str, Any]  # new values by the names of the outputs; what is not named stays as it is
# Nothing of such an event is shown while it runs, and scripts cannot call it.
PRIVATE: dict[str, Any] = {"api_visibility": "private"}
QUIET: dict[str, Any] = {"show_progress": "hidden", **PRIVATE}
UNQUEUED: dict[str, Any] = {"queue": False, **QUIET}  # at once, beside whatever else the page has running
FREE: dict[str, Any] = {"concurrency_limit": None, **QUIET}  # for any number of pages at a time


def listen(
    listener: Callable[..., gr.events.Dependency],
    handler: Callable[[Call], Any],
    inputs: Mapping[str, Component],
    outputs: Mapping[str, Component],
    **how: Any,
) -> gr.events.Dependency:
    """Call `handler` at an event of gradio, such as `button.click`. It gives Updates or None, or is a generator of
    Updates, which is closed when the page goes away. `how` goes to the listener."""

    def call(values: dict, visitor: gr.Request, event: gr.EventData) -> Call:
        named = {name: values[component] for name, component in inputs.items()}
        sent = event._data if isinstance(event._data, dict) else {}
        # A browser cuts text inside an emoji; what goes back to it as JSON must be whole.
        named, sent = (
            {name: whole_characters(value) if isinstance(value, str) else value for name, value in given.items()}
            for given in (named, sent)
        )
        return Call(visitor.session_hash or "", named, sent)

    def placed(updates: Updates | None) -> Any:
        if not outputs:
            return None
        return {outputs[name]: value for name, value in updates.items()} if updates else gr.skip()

    def once(values: dict, visitor: gr.Request, event: gr.EventData):
        return placed(handler(call(values, visitor, event)))

    def stepwise(values: dict, visitor: gr.Request, event: gr.EventData):
        updates = None
        with closing(handler(call(values, visitor, event))) as steps:
            for updates in steps:
                yield placed(updates)
        if updates is None:
            yield gr.skip()

    runs = stepwise if inspect.isgeneratorfunction(handler) else once
    return listener(runs, set(inputs.values()), list(outputs.values()), **how)
