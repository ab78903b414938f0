"""The guided tour: a button in the head and a panel over the page. All of it is in assets/tour.js."""

import gradio as gr

from .parts import ASSETS


def tour() -> None:
    gr.HTML(
        "",
        html_template=(ASSETS / "tour.html").read_text("utf-8"),
        js_on_load=(ASSETS / "tour.js").read_text("utf-8"),
        apply_default_css=False,
        elem_id="tour",
    )
