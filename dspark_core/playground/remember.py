"""What fills the page when it is opened: a link, and for the rest what the same browser had set before."""

import json

import gradio as gr

from .controls import Controls
from .limits import ASKING, Limits, fit, schedules
from .links import FIRST_LANE, LONGEST, STRICT, WHOLE, fitting, from_link
from .race_request import LANE_CONTROLS, clamp

# Kept in this browser only. The key is no secret: it just has to be the same at every start.
SCHEDULE = 2  # its place among a lane's controls
STORAGE = {"storage_key": "dspark-settings", "secret": "dspark-playground"}


def remember(page: gr.Blocks, ask: Controls) -> gr.events.Dependency:
    """Keep every setting but the prompt in the browser, and fill the page when it opens: the event of that. A link goes
    before what was kept. Nothing is started."""
    asked = ask.asked
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
        offers = ask.offers()
        values |= from_link(dict(visitor.query_params), offers)
        told = [fitting(control, values.get(k)) for k, control in enumerate(asked)]
        updates = [gr.skip() if value is None else value for value in told]
        for lane in range(FIRST_LANE, STRICT, LANE_CONTROLS):  # what can be chosen depends on the method
            info, value = offers.get(told[lane]), values.get(lane + SCHEDULE)
            if info and value in [chosen for _, chosen in schedules(info)]:
                updates[lane + SCHEDULE] = gr.update(choices=schedules(info), value=value)
        limits, lanes = _as_asked(asked, values)
        fitted, words = fit(limits, offers, lanes)
        for at, update in fitted.items():
            updates[FIRST_LANE + at] = update
        sent = {at: (number, fitted[at]["value"]) for at, (number, _) in limits.asked.items()}
        return [Limits(offers, sent), " ".join(words), *updates]

    return page.load(fill, kept, [ask.limits, ask.cut, *asked], **quiet)


def _as_asked(asked: list[gr.components.Component], values: dict) -> tuple[Limits, list]:
    """The lanes' control values with each length and cap as a link or the browser has it, and which of them are."""
    lanes = [values.get(place, control.value) for place, control in enumerate(asked)][FIRST_LANE:STRICT]
    named = {}
    for at in range(len(lanes)):
        if at % LANE_CONTROLS in ASKING and FIRST_LANE + at in values:
            number = lanes[at] if lanes[at] == WHOLE else clamp(lanes[at], 1, LONGEST, 0)
            lanes[at] = number or asked[FIRST_LANE + at].value
            if number:
                named[at] = number, number
    return Limits(asked=named), lanes


def _as_object(names: list[str]) -> str:
    """A JavaScript function that returns its arguments as one object, under these names."""
    return f"(...values) => [Object.fromEntries({json.dumps(names)}.map((name, k) => [name, values[k]]))]"
