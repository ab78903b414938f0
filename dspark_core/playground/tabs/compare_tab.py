"""The compare tab: two of the races this page keeps, side by side."""

import gradio as gr

from ...race.trace import Trace
from ..compare import compared
from ..saved import names
from ..saved_bar import Kept
from ..widgets import page_file, script, static

NOTHING = '{"notes": ["Race twice, or open a saved race on the Race tab: any two of them can be compared here."]}'


def compare_tab(kept: Kept) -> None:
    with gr.Tab("Compare", id="compare"):
        static(
            "<p>Two races of this page, raced or opened: 8-bit against bf16, one model against another, "
            "a cap against a full block.</p>"
        )
        with gr.Row():
            left, right = (gr.Dropdown([], label=side, elem_id=f"compare-{side.lower()}") for side in ("Left", "Right"))
        table = gr.HTML(
            NOTHING,
            html_template=page_file("compare.html"),
            js_on_load=script("compare"),
            apply_default_css=False,
            elem_id="compared",
        )
    quiet = {"show_progress": "hidden", "api_visibility": "private"}

    def show(a: str, b: str, races: list[Trace]) -> str:
        named = dict(zip(names(races), races, strict=True))
        return compared(named[a], named[b]) if a in named and b in named else NOTHING

    def offer(races: list[Trace]):
        """The newest two, the older one on the left."""
        told = names(races)
        a, b = told[-2:] if len(told) > 1 else (None, None)
        return gr.update(choices=told, value=a), gr.update(choices=told, value=b), show(a, b, races)

    kept.races.change(offer, kept.races, [left, right, table], **quiet)
    for side in (left, right):
        side.input(show, [left, right, kept.races], table, **quiet)
