"""What stands below the board after a race: sentences, one a line, as text and never as markup."""

import json

import gradio as gr

from .controls import Controls
from .tabs.cost_tab import advice_on, curve_of
from .tabs.race_tab import Raced
from .widgets import script
from .worker import Worker


def advice(worker: Worker, ask: Controls, raced: Raced) -> None:
    """The place for advice, filled when a race is over and emptied when the next one begins."""
    place = gr.HTML(
        "[]",
        html_template='<ul class="advice" hidden></ul>',
        js_on_load=script("suggestions"),
        apply_default_css=False,
        elem_id="advice",
    )

    def advise(visitor: gr.Request, seen, trace):
        if seen is None or not worker.ready:
            return "[]"
        return json.dumps(advice_on(curve_of(worker, visitor.session_hash), seen, trace, ask.offers()))

    quietly = {"show_progress": "hidden", "api_visibility": "private"}
    ask.start.click(lambda: "[]", None, place, queue=False, **quietly)
    raced.kept.trace.change(advise, [raced.last, raced.kept.trace], place, concurrency_limit=None, **quietly)
