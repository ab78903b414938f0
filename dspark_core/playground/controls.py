"""What the visitor asks: the prompt, Race and Stop, the examples, lanes and settings.

Handlers find their inputs by the names of the controls (widgets.listen), never by their places.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import gradio as gr
from gradio.components import Component

from ..models.info import first_of_each
from ..presets import Prompt
from ..race.lane_spec import MAX_LANES, find, schedules
from ..race.records import CAP, CONFIDENCE, CUMULATIVE, HARDWARE, MAX_SYSTEM, PLAIN, LaneSpec, RaceRequest
from .conversation import ConversationRow, conversation_row
from .limits import FittedMenu, FittedSlider, Limits, menu, most_drafts, refit, schedule_menu
from .race_request import (
    IN_TURN,
    MAX_PROMPT,
    OFF,
    TOGETHER,
    LaneForm,
    Offers,
    RaceForm,
    clamp,
    lane_key,
    lanes_of,
    read_form,
    request_of,
    summary_words,
)
from .widgets import QUIET, Call, Updates, listen, plain_text, script, static

LANE = """<button type="button" class="term">lane?<span role="tooltip">One way of decoding
the prompt, with a pane of its own. All lanes of a race use the same target.</span></button>
<button type="button" class="term">hardware-aware?<span role="tooltip">Each round sends as many drafts as this machine’s
measured costs and the drafter’s confidence make worth it, or none.</span></button>"""
HIDDEN = "hidden"  # made, but not shown: see _fold


@dataclass(frozen=True)
class LaneInputs:
    """The controls of one lane, under the names of LaneForm."""

    drafter: Component
    schedule: Component
    cap: Component
    threshold: Component

    @property
    def all(self) -> dict[str, Component]:
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True)
class RaceInputs:
    """Everything that a race is asked by, under the names of RaceForm."""

    prompt: gr.Textbox
    max_tokens: Component
    temperature: Component
    top_k: Component
    top_p: Component
    seed: Component
    order: Component
    system: gr.Textbox
    strict: Component
    thinking: Component
    lanes: tuple[LaneInputs, ...]

    @property
    def named(self) -> dict[str, Component]:
        """Every control by its name: that of RaceForm, or such as "lane 2 cap" (see `lane_key`)."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "lanes"} | self.of_lanes

    @property
    def of_lanes(self) -> dict[str, Component]:
        """Those of `named` that belong to lanes."""
        return {lane_key(i, k): control for i, lane in enumerate(self.lanes) for k, control in lane.all.items()}

    @property
    def first_values(self) -> dict[str, Any]:
        """What each begins with, by its name."""
        return {name: control.value for name, control in self.named.items()}


@dataclass(frozen=True)
class Controls:
    """What the tabs may use of it.

    inputs:  the controls; a handler that is given `inputs.named` (or `inputs.of_lanes`) by `listen` passes its values
             on to `request` and `lanes`
    changed: over when a setting changed: `changed.then(...)`. Do not follow the settings' own change events: of two
             listeners to one event that both keep the last of several calls, each sets off the other, for ever
             (gradio 6.31)
    conversation: the conversation so far
    offers:  what lanes may run at the time
    defaults: the button that sets every setting back
    limits:  what the controls are fitted to, and `cut` the place that says what of a link or a stored setting was too
             much (limits.py)
    doubts:  the place that says what of a link cannot be had (links.py)
    summary: the place for what would race, in words
    further: the button that gives the last lane to the drafter `further_id`, which is loaded on request
    """

    inputs: RaceInputs
    start: gr.Button
    stop: gr.Button
    changed: gr.events.Dependency
    conversation: ConversationRow
    offers: Callable[[], Offers]
    limits: gr.State
    cut: gr.HTML
    doubts: gr.HTML
    summary: gr.HTML
    defaults: gr.Button
    further: gr.Button
    further_id: str

    def request(self, values: Mapping[str, Any]) -> RaceRequest:
        """The race that is asked for. Raises ValueError, in one sentence for the visitor."""
        now = self.offers()
        return request_of(_thinking_where_it_can(read_form(values), now), now.infos)

    def lanes(self, values: Mapping[str, Any]) -> tuple[LaneSpec, ...]:
        """The lanes that would race."""
        return lanes_of(read_form(values), self.offers().infos)

    def follow_limits(self, head: gr.HTML) -> None:
        """Fit the lanes' controls whenever `head`, which says what is loaded, changes."""
        fitted = {name: control for name, control in self.inputs.of_lanes.items() if not name.endswith("threshold")}
        places = {"limits": self.limits, "cut": self.cut, "summary": self.summary, "thinking": self.inputs.thinking}
        places["further"] = self.further
        listen(head.change, self.refit, {**places, **self.inputs.named}, {**places, **fitted}, queue=False, **QUIET)

    def refit(self, call: Call) -> Updates:
        """What changes when another model may be loaded."""
        now = self.offers()
        form = read_form(call.values)
        fitted = refit(call["limits"], now, form)
        if fitted is None:
            return {}
        words = summary_words(_thinking_where_it_can(form, now), now)
        shown = {"cut": fitted.words, "summary": words, "thinking": thinking_shown(now)}
        shown["further"] = gr.update(**further_shown(now, self.further_id, form))
        return {"limits": Limits(now), **shown, **fitted.updates}


def controls(prompts: list[Prompt], offers: Callable[[], Offers]) -> Controls:
    """Everything above the tabs but the head. `offers()` is what lanes may run at the time."""
    prompt, start, stop = _ask_row(prompts[0].text if prompts else "")
    conversation = conversation_row()
    chips = _chips(prompts)
    with gr.Column(elem_id="settings"):
        with gr.Row(elem_id="settings-head"):
            _fold("Lanes and settings", "settings-body")
            static(LANE, elem_id="lane-term")
            summary = plain_text("", "settings-summary")
            further_id = next((i.id for i in offers().infos if i.on_request), "")
            first = further_shown(offers(), further_id, RaceForm())
            further = gr.Button(**first, size="sm", elem_id="further")
        doubts = plain_text("", "link-doubts")
        cut = plain_text("", "settings-cut")
        inputs, defaults = _settings(prompt, offers)
    for chip, example in chips:
        _fill_in(chip, example, inputs)
    *_, last = lanes = [lane.drafter for lane in inputs.lanes]
    turned = f"(...lanes) => lanes.at(-1) === {json.dumps(further_id)} ? {json.dumps(OFF)} : {_last_lane(further_id)}"
    further.click(None, lanes, last, js=turned, api_visibility="private")

    def sum_up(call: Call) -> Updates:
        now, form = offers(), read_form(call.values)
        words = summary_words(_thinking_where_it_can(form, now), now)
        return {"summary": words, "further": gr.update(**further_shown(now, further_id, form))}

    summary.value = sum_up(Call("", inputs.first_values))["summary"]
    settings = {name: control for name, control in inputs.named.items() if control is not prompt}
    any_change = partial(gr.on, [control.change for control in settings.values()])
    shown = {"summary": summary, "further": further}
    changed = listen(any_change, sum_up, settings, shown, queue=False, trigger_mode="always_last", **QUIET)
    limits = gr.State(Limits(offers()))
    return Controls(
        inputs,
        start,
        stop,
        changed,
        conversation,
        offers,
        limits,
        cut,
        doubts=doubts,
        summary=summary,
        defaults=defaults,
        further=further,
        further_id=further_id,
    )


def _ask_row(first: str) -> tuple[gr.Textbox, gr.Button, gr.Button]:
    """The prompt is filled in: one click to a race."""
    with gr.Row(elem_id="ask"):
        prompt = gr.Textbox(
            first,
            label="Prompt (Ctrl+Enter races, Esc stops)",
            lines=1,
            max_lines=8,
            max_length=MAX_PROMPT,
            placeholder="Ask something, or pick an example below.",
            elem_id="prompt",
            scale=6,
        )
        with gr.Column(scale=1, min_width=170, elem_id="go"):
            start = gr.Button("Race", variant="primary", elem_id="race")
            stop = gr.Button("Stop", elem_id="stop")
    return prompt, start, stop


def _chips(prompts: list[Prompt]) -> list[tuple[gr.Button, Prompt]]:
    """Examples, in the order of the file; that of their kinds is the same."""
    chips = []
    with gr.Row(elem_id="chips"):
        static("<p>Which is easiest to guess ahead?</p>", elem_classes="kind")
        for kind in dict.fromkeys(p.kind for p in prompts):
            with gr.Row(elem_classes="chip-group"):
                static(f"<p>{kind}</p>", elem_classes="kind")
                for example in (p for p in prompts if p.kind == kind):
                    chips.append((gr.Button(example.title, size="sm", variant="secondary"), example))
    return chips


def _fill_in(chip: gr.Button, example: Prompt, inputs: RaceInputs) -> None:
    """At a click the prompt, and the last lane for the drafter that an example is for, unless another lane has it."""
    text = json.dumps(example.text)
    if not example.drafter:
        chip.click(None, None, inputs.prompt, js=f"() => {text}", api_visibility="private")
        return
    lanes = [lane.drafter for lane in inputs.lanes]
    js = f"(...lanes) => [{text}, {_last_lane(example.drafter)}]"
    chip.click(None, lanes, [inputs.prompt, lanes[-1]], js=js, api_visibility="private")


def _last_lane(drafter: str) -> str:
    """What the last of `lanes` runs, in JavaScript, so that one of them has this drafter."""
    return f"lanes.includes({json.dumps(drafter)}) ? lanes.at(-1) : {json.dumps(drafter)}"


def further_shown(now: Offers, id_: str, form: RaceForm) -> dict[str, Any]:
    """The words of the button that gives the last lane to a drafter that is loaded on request, or takes it away, and
    whether it is there."""
    info = find([i for i in now.infos if i.on_request], id_)
    there = any(id_ == shown for _, shown in now.choices)
    *others, last = [lane.drafter for lane in form.lanes] or [OFF]
    there = there and id_ not in others
    return {
        "value": f"{'−' if last == id_ else '+'} {info.title if info else id_}",
        "visible": bool(info and there) or HIDDEN,
    }


def _settings(prompt: gr.Textbox, offers: Callable[[], Offers]) -> tuple[RaceInputs, gr.Button]:
    """Lanes, sampling and order, which unfold, and the button that sets them back."""
    with gr.Column(elem_id="settings-body"):
        with gr.Row(elem_id="lanes"):
            lanes = tuple(_lane_inputs(i, offers) for i in range(MAX_LANES))
        with gr.Row(elem_id="sampling"):
            max_tokens = gr.Slider(8, 512, 96, step=1, label="Max tokens", elem_id="max-tokens")
            temperature = gr.Slider(0, 2, 0, step=0.05, label="Temperature", info="0 is greedy", elem_id="temperature")
            top_k = gr.Slider(0, 200, 0, step=1, label="Top-k", info="0 is off")
            top_p = gr.Slider(0.05, 1, 1, step=0.05, label="Top-p", info="1 is off")
            seed = gr.Number(0, precision=0, minimum=0, label="Seed")
            order = gr.Radio([TOGETHER, IN_TURN], value=TOGETHER, label="Lanes run")
            strict = gr.Checkbox(
                False,
                label="Strict",
                info="greedy only: decides close calls again at width 1, where the device’s kernels need it; may "
                "be slower than plain",
                elem_id="strict",
            )
            thinking = gr.Checkbox(
                False,
                label="Thinking",
                info="the model thinks before it answers; its drafters were trained without, so fewer of their drafts "
                "will be accepted",
                elem_id="thinking",
                visible=offers().thinks or HIDDEN,
            )
        system = gr.Textbox(
            label="System turn",
            info="goes before the conversation; empty is the model’s own default",
            lines=1,
            max_lines=6,
            max_length=MAX_SYSTEM,
            elem_id="system",
        )
        defaults = gr.Button("Back to the defaults", size="sm", elem_id="defaults")
    inputs = RaceInputs(prompt, max_tokens, temperature, top_k, top_p, seed, order, system, strict, thinking, lanes)
    return inputs, defaults


def _fold(title: str, body: str) -> None:
    """A button that unfolds the element `body`, by board.css. gradio's own accordion makes what is in it only when it
    is opened, and fills it in anew at the next update of anything else on the page: an edit in between was lost.
    Controls that are there from the start, though hidden, keep what they are given."""
    static(f'<button type="button" aria-expanded="false" aria-controls="{body}">{title}</button>', script("fold"))


def thinking_shown(offers: Offers, value: bool | None = None) -> dict[str, Any]:
    """The update of the control of thinking: there where the loaded model has a switch for it. What was set stays set,
    for a model that has."""
    return gr.update(visible=offers.thinks or HIDDEN, **({} if value is None else {"value": value}))


def _thinking_where_it_can(form: RaceForm, offers: Offers) -> RaceForm:
    return form if offers.thinks else replace(form, thinking=False)


def lane_view(form: LaneForm, offers: Offers) -> dict[str, dict[str, Any]]:
    """What becomes of a lane's controls when its drafter or its schedule was chosen: updates by their names."""
    info = find(offers.infos, form.drafter)
    choices = schedule_menu(info, form.schedule) if info else gr.update()
    schedule = choices.get("value", form.schedule)
    return {
        "schedule": {**choices, "visible": info is not None or HIDDEN},
        "cap": gr.update(visible=(info is not None and schedule == CAP) or HIDDEN),
        "threshold": gr.update(visible=(info is not None and schedule in (CONFIDENCE, CUMULATIVE)) or HIDDEN),
    }


def cap_ends(form: LaneForm, offers: Offers) -> dict[str, Any]:
    """The update of a lane's cap when the visitor chose another drafter."""
    most = most_drafts(offers, form.drafter)
    return gr.update(minimum=1, maximum=most, value=int(clamp(form.cap, 1, most, most)))


def _lane_inputs(i: int, offers: Callable[[], Offers]) -> LaneInputs:
    now = offers()
    # As the page opens: plain, then the first drafter of each method.
    opening = [PLAIN, *first_of_each(now.infos)]
    first = opening[i] if i < len(opening) else OFF if i > 1 else PLAIN
    info = find(now.infos, first)
    sample = info or next(iter(now.infos), None)
    with gr.Column(min_width=220, elem_classes="lane-controls"):
        drafter = FittedMenu(menu(now, i, first), value=first, label=f"Lane {i + 1}")
        schedule = FittedMenu(
            schedules(sample) if sample else [("hardware-aware", HARDWARE)],
            value=HARDWARE,
            label="Sent to verification",
            visible=info is not None or HIDDEN,
        )
        most = most_drafts(now, first)
        cap = FittedSlider(
            1,
            max(most, 2),  # gradio takes no slider without a range
            min(3, most),
            step=1,
            label="Cap, drafts per round",
            info="few for chat, more for code and math",
            visible=HIDDEN,
        )
        threshold = gr.Slider(0, 1, 0.5, step=0.05, label="Confidence at least", visible=HIDDEN)
    lane = LaneInputs(drafter, schedule, cap, threshold)

    def reveal(call: Call) -> Updates:
        return lane_view(LaneForm(**call.values), offers())

    def refit_cap(call: Call) -> Updates:
        return {"cap": cap_ends(LaneForm(**call.values), offers())}

    # Not at its change event: what a link fills in comes with its own cap, of which such a call may see older ones.
    listen(drafter.input, refit_cap, lane.all, {"cap": cap}, queue=False, **QUIET)
    for control in (drafter, schedule):
        listen(control.change, reveal, lane.all, lane.all, queue=False, trigger_mode="multiple", **QUIET)
    return lane
