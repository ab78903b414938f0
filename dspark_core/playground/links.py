"""Settings as text: links that fill the page, lanes in one line, preferences that outlast a reload.

    /?prompt=Say%20hello.&lanes=plain,dspark:cap=3,dflash:block=6&tokens=64

A lane is a method, then how many drafts are sent: `hardware` (also without a word), `full`, `cap=3`,
`confidence=0.5`, `cumulative=0.5`, or for DFlash `block=6`, the slots of its block. `system=` is the conversation's
system turn, empty for the chat template's own; `strict=1` turns strict mode on. What a link, a script or a browser's
storage says is taken only where it is a value that the page's own control could have; a link never starts anything.
How long a block or a cap may be is the loaded drafter's to say: asking for more is asking for all of it (limits.py).

What fills the page when it is opened: a link, and for the rest what the same browser had set before.
"""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import urlencode

import gradio as gr

from ..errors import LaneError
from ..race.records import CAP, CONFIDENCE, CUMULATIVE, FULL, HARDWARE, PLAIN, exact
from .controls import OFF, Controls
from .limits import ASKING, Limits, fit, schedules
from .race_request import ALL_LANES, LANE_CONTROLS, MAX_LANES, MAX_PROMPT, USUAL, Offers, clamp, settings_of

METHODS = (PLAIN, *USUAL)
WHOLE = math.inf  # in place of a length: all that the drafter has
LONGEST = 1000
# In what `request_of` takes: prompt, max_tokens, temperature, top_k, top_p, seed, order, system, lanes, strict
SYSTEM, FIRST_LANE = 7, 8
STRICT = FIRST_LANE + ALL_LANES
NUMBERS = {"tokens": 1, "temperature": 2, "top_k": 3, "top_p": 4, "seed": 5}  # a link's names, places in `asked`
_SETTINGS = {"tokens": "max_tokens"}  # a link's name -> the setting's, where it is another
_NAMED = {name.lower(): name for name in METHODS}


def lane_controls(text: str, offers: Offers = USUAL) -> list:
    """The five control values of one lane (see requests.lane_of), as asked for; WHOLE for a length that is not named.
    Raises LaneError."""
    name, *parts = text.strip().lower().split(":")
    method = _NAMED.get(name)
    if method is None:
        raise LaneError(f"There is no lane {name[:40]!r}; there are {', '.join(m.lower() for m in METHODS)}.")
    info = offers.get(method)
    known = {value for _, value in schedules(info)} if info else set()
    length, schedule, cap, threshold = WHOLE, HARDWARE, WHOLE, 0.5
    for part in parts:
        key, _, value = part.partition("=")
        if key == "block" and info and info.by_block:
            length, schedule = clamp(value, 1, LONGEST, WHOLE), FULL
        elif key in known:
            schedule = key
            if key == CAP:
                cap = clamp(value, 1, LONGEST, WHOLE)
            else:
                threshold = clamp(value, 0, 1, threshold)
        else:
            raise LaneError(f"{method} has no setting {part[:40]!r}.")
    return [method, length, schedule, cap, threshold]


def lanes_controls(text: str, offers: Offers = USUAL) -> list:
    """The control values of all lanes, those that are not named off. Raises LaneError."""
    lanes = [lane_controls(lane, offers) for lane in text[:1000].split(",") if lane.strip()]
    if not 2 <= len(lanes) <= MAX_LANES:
        raise LaneError(f"A race has 2 to {MAX_LANES} lanes, not {len(lanes)}.")
    off = [OFF, WHOLE, HARDWARE, WHOLE, 0.5]
    return [value for lane in lanes + [off] * (MAX_LANES - len(lanes)) for value in lane]


def lane_text(method, length, schedule, cap, threshold, offers: Offers = USUAL) -> str:
    """The lane that these control values describe, as `lane_controls` reads it; empty if it is off."""
    if method not in METHODS:
        return ""
    if method == PLAIN:
        return PLAIN
    name, info = method.lower(), offers[method]
    if schedule == HARDWARE:
        return f"{name}:{HARDWARE}"
    if schedule in (CONFIDENCE, CUMULATIVE) and info.has_confidence:
        return f"{name}:{schedule}={exact(clamp(threshold, 0, 1, 0.5))}"
    if info.by_block:
        return f"{name}:block={int(clamp(length, 1, LONGEST, info.block))}"
    return f"{name}:{CAP}={int(clamp(cap, 1, LONGEST, info.max_drafts))}" if schedule == CAP else f"{name}:{FULL}"


def link_of(*asked, offers: Offers = USUAL) -> str:
    """A query string that fills the page with these control values."""
    columns = asked[FIRST_LANE:STRICT]
    lanes = [lane_text(*columns[i : i + LANE_CONTROLS], offers) for i in range(0, len(columns), LANE_CONTROLS)]
    told = {"prompt": asked[0], "lanes": ",".join(lane for lane in lanes if lane)}
    settings = settings_of(*asked[1:6])
    told |= {name: exact(getattr(settings, _SETTINGS.get(name, name))) for name in NUMBERS}
    told["system"] = asked[SYSTEM] or ""  # also when empty: the other browser may have one of its own
    if asked[STRICT:] == (True,):
        told["strict"] = "1"
    return "?" + urlencode(told, safe=":,=")


def from_link(query: Mapping[str, str], offers: Offers = USUAL) -> dict[int, object]:
    """What a link fills: values by their place in `asked`. What it says wrongly is left as it is."""
    filled: dict[int, object] = {}
    if prompt := query.get("prompt"):
        filled[0] = prompt[:MAX_PROMPT]
    if "system" in query:
        filled[SYSTEM] = query["system"]
    for name, place in NUMBERS.items():
        if name in query:
            filled[place] = query[name]
    if "strict" in query:
        filled[STRICT] = query["strict"] == "1"
    if "lanes" in query:
        with suppress(LaneError):
            filled |= dict(enumerate(lanes_controls(query["lanes"], offers), start=FIRST_LANE))
    return filled


def fitting(control: gr.components.Component, value):
    """`value` as this control could have it, or None."""
    if isinstance(control, gr.Textbox):
        return value[: control.max_length] if isinstance(value, str) else None
    if isinstance(control, gr.Slider | gr.Number):
        high = getattr(control, "maximum", None)
        number = clamp(value, control.minimum or 0, 2**31 - 1 if high is None else high, float("nan"))
        if number != number:
            return None
        whole = control.precision == 0 if isinstance(control, gr.Number) else float(control.step).is_integer()
        return int(number) if whole else number
    if isinstance(control, gr.Checkbox):
        return value if isinstance(value, bool) else None
    choices = [choice[1] for choice in getattr(control, "choices", None) or []]
    return value if isinstance(value, str) and value in choices else None


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
