"""What fills the page when it is opened: a link, and for the rest what the same browser had set before."""

import json

import gradio as gr

from .links import FIRST_LANE, STRICT, fitting, from_link, schedules
from .requests import LANE_CONTROLS

# Kept in this browser only. The key is no secret: it just has to be the same at every start.
SCHEDULE = 2  # its place among a lane's controls
STORAGE = {"storage_key": "dspark-settings", "secret": "dspark-playground"}


def remember(page: gr.Blocks, asked: list[gr.components.Component]) -> None:
    """Keep every setting but the prompt (the first of `asked`) in the browser, and fill the page when it opens.
    A link goes before what was kept. Nothing is started."""
    kept = gr.BrowserState(None, **STORAGE)
    names = [f"{k} {control.label}" for k, control in enumerate(asked)]
    quiet = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    settings = asked[1:]
    gr.on(
        # A text is kept when its field is left: its input event comes before its value.
        [control.blur if isinstance(control, gr.Textbox) else control.input for control in settings],
        None,
        settings,
        kept,
        js=_as_object(names[1:]),
        **quiet,
    )

    def fill(before, visitor: gr.Request):
        before = before if isinstance(before, dict) else {}
        values = {k: before[name] for k, name in enumerate(names) if name in before and k}
        values |= from_link(dict(visitor.query_params))
        told = [fitting(control, values.get(k)) for k, control in enumerate(asked)]
        updates = [gr.skip() if value is None else value for value in told]
        for lane in range(FIRST_LANE, STRICT, LANE_CONTROLS):  # what can be chosen depends on the method
            choices, value = schedules(told[lane]), values.get(lane + SCHEDULE)
            if told[lane] and value in [chosen for _, chosen in choices]:
                updates[lane + SCHEDULE] = gr.update(choices=choices, value=value)
        return updates

    page.load(fill, kept, asked, **quiet)


def _as_object(names: list[str]) -> str:
    """A JavaScript function that returns its arguments as one object, under these names."""
    return f"(...values) => [Object.fromEntries({json.dumps(names)}.map((name, k) => [name, values[k]]))]"
