"""Settings as text: links that fill the page, preferences that outlast a reload.

    /?prompt=Say%20hello.&lanes=plain,dspark:cap=3,dflash:block=6&tokens=64

Lanes are in the words of race/lane_spec.py. `system=` is the conversation's system turn, empty for the chat template's
own; `strict=1` turns strict mode on. What a link, a script or a browser's storage says is taken only where it is a
value that the page's own control could have, and of a link the page says what was not; a link never starts anything.
How long a block or a cap may be is the loaded drafter's to say: asking for more is asking for all of it (limits.py).

What fills the page when it is opened: a link, and for the rest what the same browser had set before.

The parts of the Cost model tab that are set by sliders have a word each, which their own scripts read and write
(assets/page/parts.js): `what-if=start:free,accept:0.9` and `users=users:8,seed:1`. `open=what-if` or `open=many-users`
opens the tab that such a part is in.
"""

import json
import math
from collections.abc import Mapping, Sequence
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
from .controls import Controls, LaneInputs
from .limits import SLIDERS, Limits, SliderKey, fit_lanes, menu
from .race_request import MAX_PROMPT, OFF, LaneForm, Offers, RaceForm, clamp, form_of, lane_key, lanes_of, settings_of
from .widgets import QUIET

LONGEST_ASKED = 1000
OPENED = {"what-if": "cost", "many-users": "cost"}  # a part's id -> its tab's
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
    query = {"prompt": form.prompt, "lanes": ",".join(lane_text(lane, infos) for lane in lanes_of(form, infos))}
    query |= {name: exact(getattr(settings, control)) for name, control in NUMBER_NAMES.items()}
    query["system"] = form.system or ""  # also when empty: the other browser may have one of its own
    if form.strict is True:
        query["strict"] = "1"
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
    if "strict" in query:
        filled["strict"] = query["strict"] == "1"
    if "lanes" in query:
        with suppress(LaneError):
            for i, lane in enumerate(lanes_of_text(query["lanes"], infos)):
                filled |= {lane_key(i, f.name): getattr(lane, f.name) for f in fields(lane)}
    return filled


def link_faults(query: Mapping[str, str], ask: Controls) -> str:
    """What a link says wrongly, in sentences for the visitor; names that mean nothing to this page are no faults."""
    out = []
    if "lanes" in query:
        try:
            lanes_of_text(query["lanes"], ask.offers().infos)
        except LaneError as error:
            out.append(f"The link’s lanes were left out. {error}")
    for name, control in NUMBER_NAMES.items():
        if name not in query:
            continue
        given, taken = query[name][:40], fitting(ask.inputs.named[control], query[name])
        if taken is None:
            out.append(f"The link’s {name}={given} is no number, and was left out.")
        elif clamp(given, -math.inf, math.inf, math.nan) != taken:
            out.append(f"The link’s {name}={given} became {exact(taken)}.")
    if len(query.get("prompt", "")) > MAX_PROMPT:
        out.append(f"The link’s prompt was cut to {MAX_PROMPT:,} characters.")
    if query.get("open", "what-if") not in OPENED:
        out.append(f"There is no {query['open'][:40]!r} to open; there are {', '.join(OPENED)}.")
    if "preset" in query:
        out.append("Links choose no model: load one on the Models tab.")
    return " ".join(out)


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


def fill_and_store(page: gr.Blocks, ask: Controls, tabs: gr.Tabs) -> gr.events.Dependency:
    """Store every setting but the prompt in the browser, and fill the page when it opens: the event of that. A link
    goes before what was stored. It may open one of `tabs`; nothing is started."""
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
        query = dict(visitor.query_params)
        updates = filled(ask, values | from_link(query, ask.offers().infos), link_faults(query, ask))
        opened = {tabs: gr.update(selected=OPENED[query["open"]])} if query.get("open") in OPENED else {}
        return {places[name]: value for name, value in updates.items()} | opened

    def back() -> dict[Component, Any]:
        first = {n: "" if value is None else value for n, value in ask.inputs.first_values.items() if n != "prompt"}
        return {stored: {}} | {places[name]: value for name, value in filled(ask, first).items()}

    places = {"limits": ask.limits, "cut": ask.cut, **ask.inputs.named}
    ask.defaults.click(back, None, [stored, *places.values()], queue=False, **QUIET)
    return page.load(fill, stored, [*places.values(), tabs], queue=False, **QUIET)


def filled(ask: Controls, values: Mapping[str, Any], faults: str = "") -> dict[str, Any]:
    """The updates, by the names of the controls, that fill the page with `values`, as far as they could have them;
    `faults` is said beside what of them was too much."""
    inputs, offers = ask.inputs, ask.offers()
    fit_values = {name: fitting(control, values.get(name)) for name, control in inputs.named.items()}
    updates = {name: value for name, value in fit_values.items() if value is not None}
    lanes: list[LaneForm] = []
    named: dict[SliderKey, tuple[float, float]] = {}
    for i, lane in enumerate(inputs.lanes):
        form, numbers, menus = _lane_filled(i, lane, values, offers)
        lanes.append(form)
        named |= numbers
        updates |= menus
    limits = replace(ask.limits.value, asked=named)  # the controls stand as the page was built
    fitted = fit_lanes(limits, offers, lanes)
    updates |= {lane_key(i, slider): update for (i, slider), update in fitted.sliders.items()}
    given = {key: (number, fitted.sliders[key]["value"]) for key, (number, _) in limits.asked.items()}
    return updates | {"limits": Limits(offers, given, faults), "cut": f"{faults} {fitted.words}".strip()}


def _lane_filled(
    i: int, lane: LaneInputs, values: Mapping[str, Any], offers: Offers
) -> tuple[LaneForm, dict[SliderKey, tuple[float, float]], dict[str, Any]]:
    """Of lane number `i`: its controls' values, each length and cap as a link or the browser has it; which of those
    are; and the updates of its menus, whose choices depend on what is loaded."""
    form = LaneForm(**{name: control.value for name, control in lane.all.items()})
    drafter, named = values.get(lane_key(i, "drafter")), {}
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
    for name in SLIDERS:
        asked = values.get(lane_key(i, name))
        number = asked if asked == WHOLE else clamp(asked, 1, LONGEST_ASKED, math.nan)
        if not math.isnan(number):
            named[i, name] = number, number
            form = replace(form, **{name: number})
    return form, named, menus
