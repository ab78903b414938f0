"""The guided tour: a button in the head and a panel over the page. All of it is in assets/page/tour.js."""

import gradio as gr

from .widgets import page_file, script


def tour() -> None:
    gr.HTML(
        "",
        html_template=page_file("tour.html"),
        js_on_load=script("tour"),
        apply_default_css=False,
        elem_id="tour",
    )
