"""Settings as text: links that fill the page, preferences that outlast a reload.

    /?prompt=Say%20hello.&lanes=plain,dspark:cap=3,dflash:block=6&tokens=64

Lanes are in the words of race/lane_spec.py. `system=` is the conversation's system turn, empty for the chat template's
own; `strict=1` turns strict mode on, and `thinking=1` thinking, where the model has a switch for it. What a link, a
script or a browser's storage says is taken only where it is a value that the page's own control could have; a link
never starts anything. How long a block or a cap may be is the loaded drafter's to say: asking for more is asking for
all of it (limits.py).

What fills the page when it is opened: a link, and for the rest what the same browser had set before.

The parts of the Cost model tab that are set by sliders have a word each, which their own scripts read and write
(assets/page/parts.js): `what-if=start:free,accept:0.9` and `users=users:8,seed:1`. `open=what-if` or `open=many-users`
opens the tab that such a part is in.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any
from urllib.parse import urlencode

import gradio as gr
from gradio.components import Component

from ..errors import LaneError
from ..models.info import DrafterInfo
from ..models.token_bytes import whole_characters
from ..race.lane_spec import MAX_LANES, WHOLE, find, lane_text, read_lanes, schedules
from ..race.records import PLAIN, exact
from .controls import Controls, LaneInputs, thinking_shown
from .limits import Limits, fit_lanes, menu
from .race_request import MAX_PROMPT, OFF, LaneForm, Offers, RaceForm, clamp, form_of, lane_key, lanes_of, settings_of
from .widgets import QUIET

LONGEST_ASKED = 1000
OPENED = ("what-if", "many-users")  # by parts.js
MAX_LINK = 60_000  # characters; the server takes 65,536 with the browser's headers
NUMBER_NAMES = {  # a link's name -> the control's
    "tokens": "max_tokens",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "seed": "seed",
}
# In this browser only. The key is no secret: it just has to be the same at every start.
STORAGE = {"storage_key": "dspark-settings", "secret": "dspark-playground"}


def lanes_of_text(text: str, infos: Sequence[DrafterInfo]) -> tuple[LaneForm, ...]:
    """The controls' values of all lanes, those that are not named off. Raises LaneError."""
    lanes = [form_of(lane) for lane in read_lanes(text, infos)]
    return (*lanes, *[LaneForm()] * (MAX_LANES - len(lanes)))


def link_of(form: RaceForm, infos: Sequence[DrafterInfo]) -> str:
    """A query string that fills the page with these settings."""
    settings = settings_of(form)
    query = {"prompt": form.prompt, "lanes": ",".join(lane_text(lane) for lane in lanes_of(form, infos))}
    query |= {name: exact(getattr(settings, control)) for name, control in NUMBER_NAMES.items()}
    query["system"] = form.system or ""  # also when empty: the other browser may have one of its own
    if form.strict is True:
        query["strict"] = "1"
    if form.thinking is True:
        query["thinking"] = "1"
    return "?" + urlencode(query, safe=":,=", errors="replace")  # half an emoji, cut off by a field's limit


def from_link(query: Mapping[str, str], infos: Sequence[DrafterInfo]) -> dict[str, Any]:
    """What a link fills: values by the names of the controls (RaceInputs.named). What it says wrongly is left as it
    is."""
    filled: dict[str, Any] = {}
    query = {name: whole_characters(value) for name, value in query.items()}
    if prompt := query.get("prompt"):
        filled["prompt"] = prompt[:MAX_PROMPT]
    if "system" in query:
        filled["system"] = query["system"]
    filled |= {control: query[name] for name, control in NUMBER_NAMES.items() if name in query}
    filled |= {name: query[name] == "1" for name in ("strict", "thinking") if name in query}
    if "lanes" in query:
        with suppress(LaneError):
            for i, lane in enumerate(lanes_of_text(query["lanes"], infos)):
                filled |= {lane_key(i, f.name): getattr(lane, f.name) for f in fields(lane)}
    return filled


def link_doubts(
    query: Mapping[str, str],
    infos: Sequence[DrafterInfo],
    controls: Mapping[str, Component],
    presets: Collection[str],
) -> str:
    """What a link asks for that cannot be had, in sentences; empty if there is nothing. `controls`: by their names."""
    said = []
    if "lanes" in query:
        try:
            read_lanes(whole_characters(query["lanes"]), infos)
        except LaneError as error:
            said.append(str(error))
    if "preset" in query and query["preset"] not in presets:
        said.append(f"There is no preset {query['preset'][:40]!r}; there are {', '.join(presets)}.")
    if query.get("open", "what-if") not in OPENED:
        said.append(f"A link opens {' or '.join(OPENED)}, not {query['open'][:40]!r}.")
    for name in (name for name, control in NUMBER_NAMES.items() if name in query and control in controls):
        asked = whole_characters(query[name])
        taken = fitting(controls[NUMBER_NAMES[name]], asked)
        if taken is None:
            said.append(f"{name}: {asked[:40]!r} is not a number.")
        elif taken != float(asked):
            said.append(f"{name}: {asked[:40]!r} is out of range, {exact(taken)} is taken.")
    if len(query.get("prompt", "")) > MAX_PROMPT:
        said.append(f"The prompt is cut to {MAX_PROMPT:,} characters.")
    return " ".join(["Not all of this link can be had.", *said]) if said else ""


def fitting(control: Component, value: Any) -> Any:
    """`value` as this control could have it, or None."""
    if isinstance(control, gr.Textbox):
        return whole_characters(value)[: control.max_length] if isinstance(value, str) else None
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


def fill_and_store(page: gr.Blocks, ask: Controls, presets: Collection[str] = ()) -> gr.events.Dependency:
    """Store every setting but the prompt in the browser, and fill the page when it opens: the event of that. A link
    goes before what was stored, and may name one of `presets`. Nothing is started."""
    stored = gr.BrowserState(None, **STORAGE)
    settings = {name: control for name, control in ask.inputs.named.items() if name != "prompt"}
    gr.on(
        # A text is stored when its field is left: its input event comes before its value.
        [c.blur if isinstance(c, gr.Textbox) else c.input for c in settings.values()],
        None,
        list(settings.values()),  # the function's arguments, in order, which it returns as one object by name
        stored,
        js=f"(...values) => [Object.fromEntries({json.dumps([*settings])}.map((name, k) => [name, values[k]]))]",
        queue=False,
        **QUIET,
    )

    def fill(before: Any, visitor: gr.Request) -> dict[Component, Any]:
        before = before if isinstance(before, dict) else {}
        values = {name: before[name] for name in settings if name in before}
        query, infos = dict(visitor.query_params), ask.offers().infos
        updates = filled(ask, values | from_link(query, infos))
        updates |= {"doubts": link_doubts(query, infos, ask.inputs.named, presets)}
        return {places[name]: value for name, value in updates.items()}

    def back() -> dict[Component, Any]:
        first = {n: "" if value is None else value for n, value in ask.inputs.first_values.items() if n != "prompt"}
        return {stored: {}, ask.doubts: ""} | {places[name]: value for name, value in filled(ask, first).items()}

    places = {"limits": ask.limits, "cut": ask.cut, "doubts": ask.doubts, **ask.inputs.named}
    ask.defaults.click(back, None, [stored, *places.values()], queue=False, **QUIET)
    return page.load(fill, stored, list(places.values()), queue=False, **QUIET)


def filled(ask: Controls, values: Mapping[str, Any]) -> dict[str, Any]:
    """The updates, by the names of the controls, that fill the page with `values`, as far as they could have them."""
    inputs, offers = ask.inputs, ask.offers()
    fit_values = {name: fitting(control, values.get(name)) for name, control in inputs.named.items()}
    updates = {name: value for name, value in fit_values.items() if value is not None}
    lanes: list[LaneForm] = []
    named: dict[int, tuple[float, float]] = {}
    for i, lane in enumerate(inputs.lanes):
        form, menus = _lane_filled(i, lane, values, offers)
        lanes.append(form)
        updates |= menus
        if lane_key(i, "cap") in values:
            named[i] = form.cap, form.cap
    limits = replace(ask.limits.value, asked=named)  # the controls stand as the page was built
    fitted = fit_lanes(limits, offers, lanes)
    updates |= {lane_key(i, "cap"): update for i, update in fitted.caps.items()}
    given = {i: (number, fitted.caps[i]["value"]) for i, (number, _) in limits.asked.items()}
    updates["thinking"] = thinking_shown(offers, updates.get("thinking"))
    return updates | {"limits": Limits(offers, given), "cut": fitted.words}


def _lane_filled(
    i: int, lane: LaneInputs, values: Mapping[str, Any], offers: Offers
) -> tuple[LaneForm, dict[str, Any]]:
    """Of lane number `i`: its controls' values, its cap as a link or the browser has it, if one does; and the updates
    of its menus, whose choices depend on what is loaded."""
    form = LaneForm(**{name: control.value for name, control in lane.all.items()})
    drafter = values.get(lane_key(i, "drafter"))
    menus: dict[str, Any] = {lane_key(i, "drafter"): gr.update(choices=menu(offers, i, form.drafter))}
    if drafter == PLAIN or (drafter == OFF and i > 1) or find(offers.infos, drafter):
        form = replace(form, drafter=drafter)
        menus[lane_key(i, "drafter")] = gr.update(choices=menu(offers, i, drafter), value=drafter)
    info, schedule = find(offers.infos, form.drafter), values.get(lane_key(i, "schedule"))
    if info and schedule in [value for _, value in schedules(info)]:
        form = replace(form, schedule=schedule)
        menus[lane_key(i, "schedule")] = gr.update(choices=schedules(info), value=schedule)
    elif info:
        menus[lane_key(i, "schedule")] = gr.update(choices=schedules(info))
    asked = values.get(lane_key(i, "cap"))
    number = asked if asked == WHOLE else clamp(asked, 1, LONGEST_ASKED, math.nan)
    return form if math.isnan(number) else replace(form, cap=number), menus
