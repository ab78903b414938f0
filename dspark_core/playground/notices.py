"""A progress line and a verdict box; their values are JSON, and words reach the page as text, never as markup."""

import json

import gradio as gr

from .widgets import script


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
