"""What the visitor asks: the prompt, Race and Stop, the examples, lanes and settings."""

import html
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass

import gradio as gr

from ..presets import KINDS, Prompt
from ..race.records import CAP, CONFIDENCE, CUMULATIVE, FULL, HARDWARE, MAX_SYSTEM, PLAIN
from .conversation import TalkRow, talk_row
from .limits import CUT, LENGTH, LengthSlider, Limits, ScheduleChoice, bounds, schedules
from .race_request import ALL_LANES, IN_TURN, MAX_LANES, MAX_PROMPT, TOGETHER, USUAL, Offers, in_words
from .widgets import plain_text, script, static

OFF = "off"
HIDDEN = "hidden"  # made, but not shown: see _fold


@dataclass(frozen=True)
class Controls:
    """What the tabs may use of it.

    asked:   the inputs that `requests.request_of` takes, in its order
    lanes:   those of them that describe lanes
    changed: over when a setting changed: `changed.then(...)`. Do not follow the settings' own change events: of two
             listeners to one event that both keep the last of several calls, each sets off the other, for ever
             (gradio 6.31)
    talk:    the conversation so far
    offers:  what the loaded drafters offer at the time
    limits:  what the sliders are fitted to, and `cut` the place that says what of a link or a kept setting was too
             much (limits.py)
    """

    prompt: gr.Textbox
    start: gr.Button
    stop: gr.Button
    asked: list[gr.components.Component]
    changed: gr.events.Dependency
    talk: TalkRow
    offers: Callable[[], Offers]
    limits: gr.State
    cut: gr.HTML

    @property
    def lanes(self) -> list[gr.components.Component]:
        return self.asked[-ALL_LANES - 1 : -1]  # the last is strict mode


def controls(prompts: list[Prompt], offers: Callable[[], Offers] = lambda: USUAL) -> Controls:
    """Everything above the tabs but the head. `offers()` is what the loaded drafters offer at the time."""
    prompt, start, stop = _ask_row()
    talk = talk_row()
    _chips(prompt, prompts)
    settings, changed, cut = _settings(offers)
    return Controls(prompt, start, stop, [prompt, *settings], changed, talk, offers, gr.State(Limits()), cut)


def _ask_row() -> tuple[gr.Textbox, gr.Button, gr.Button]:
    with gr.Row(elem_id="ask"):
        prompt = gr.Textbox(
            label="Prompt",
            lines=2,
            max_lines=8,
            max_length=MAX_PROMPT,
            placeholder="Ask something, or pick an example below. Ctrl+Enter races, Esc stops.",
            elem_id="prompt",
            scale=6,
        )
        with gr.Column(scale=1, min_width=170, elem_id="go"):
            start = gr.Button("Race", variant="primary", elem_id="race")
            stop = gr.Button("Stop", elem_id="stop")
    return prompt, start, stop


def _chips(prompt: gr.Textbox, prompts: list[Prompt]) -> None:
    with gr.Row(elem_id="chips"):
        for kind in KINDS:
            examples = [p for p in prompts if p.kind == kind]
            with gr.Row(elem_classes="chip-group"):
                static(f"<p>{kind}</p>", elem_classes="kind")
                for example in examples:
                    chip = gr.Button(example.title, size="sm", variant="secondary")
                    chip.click(None, None, prompt, js=_returning(example.text), api_visibility="private")
                for p in examples[:1]:  # all of a kind say the same
                    words = f"Most tokens per round expected from {p.lead}: {p.why}."
                    static(f"<p>{html.escape(words)}</p>", elem_classes="lead", visible=bool(p.lead))


def _settings(offers: Callable[[], Offers]) -> tuple[list[gr.components.Component], gr.events.Dependency, gr.HTML]:
    """Sampling, order and lanes, in the order `requests.request_of` takes them, the event that they changed, and the
    place for what was too much."""
    with gr.Column(elem_id="settings"):
        with gr.Row(elem_id="settings-head"):
            _fold("Lanes and settings", "settings-body")
            summary = plain_text("", "settings-summary")
        cut = plain_text("", "settings-cut")
        with gr.Column(elem_id="settings-body"):
            with gr.Row(elem_id="lanes"):
                columns = [_lane_controls(i, offers) for i in range(MAX_LANES)]
            with gr.Row(elem_id="sampling"):
                max_tokens = gr.Slider(8, 512, 96, step=1, label="Max tokens", elem_id="max-tokens")
                temperature = gr.Slider(
                    0, 2, 0, step=0.05, label="Temperature", info="0 is greedy", elem_id="temperature"
                )
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
            system = gr.Textbox(
                label="System turn",
                info="goes before the conversation; empty is the model’s own default",
                lines=1,
                max_lines=6,
                max_length=MAX_SYSTEM,
                elem_id="system",
            )
    asked = [max_tokens, temperature, top_k, top_p, seed, order, system, *itertools.chain(*columns), strict]
    summary.value = in_words(*(control.value for control in asked))
    changed = gr.on(
        [control.change for control in asked],
        lambda *values: in_words(*values, offers=offers()),
        asked,
        summary,
        queue=False,
        trigger_mode="always_last",
        show_progress="hidden",
        api_visibility="private",
    )
    return asked, changed, cut


def _fold(title: str, body: str) -> None:
    """A button that unfolds the element `body`, by board.css. gradio's own accordion makes what is in it only when it
    is opened, and fills it in anew at the next update of anything else on the page: an edit in between was lost.
    Controls that are there from the start, though hidden, keep what they are given."""
    static(f'<button type="button" aria-expanded="false" aria-controls="{body}">{title}</button>', script("fold"))


def _returning(text: str) -> str:
    """A JavaScript function that returns `text`."""
    return f"() => {json.dumps(text)}"


def _lane_controls(i: int, offers: Callable[[], Offers]) -> list[gr.components.Component]:
    """Controls of one lane, in the order `lane_of` takes them."""

    def shown(wanted: bool) -> bool | str:
        return wanted or HIDDEN

    first = [PLAIN, "DSpark", "DFlash", OFF][i]
    with gr.Column(min_width=220, elem_classes="lane-controls"):
        methods = [PLAIN, *USUAL, *([OFF] if i > 1 else [])]
        method = gr.Dropdown(methods, value=first, label=f"Lane {i + 1}")
        shortest, block = bounds(USUAL, LENGTH)
        length = LengthSlider(
            shortest,
            block,
            block,
            step=1,
            label="Block length",
            info="short for chat, the whole block for code and math",
            visible=HIDDEN,
        )
        schedule = ScheduleChoice(
            schedules(USUAL.get(first, USUAL["DSpark"])),
            value=HARDWARE,
            label="Sent to verification",
            visible=shown(first in USUAL),
        )
        cap = LengthSlider(*bounds(USUAL, CUT), 3, step=1, label="Cap, drafts per round", visible=HIDDEN)
        threshold = gr.Slider(0, 1, 0.5, step=0.05, label="Confidence at least", visible=HIDDEN)

    def reveal(method, schedule):
        info = offers().get(method)
        blocks, counts = bool(info and info.by_block), bool(info and not info.by_block)
        choices = schedules(info or USUAL["DSpark"])
        chosen = {"choices": choices}
        if schedule not in (value for _, value in choices):
            chosen["value"] = schedule = HARDWARE
        # A value that can stay is not sent back: when a link sets both, this may come after the new one.
        return (
            gr.update(visible=shown(blocks and schedule == FULL)),
            gr.update(visible=shown(counts or blocks), **chosen),
            gr.update(visible=shown(counts and schedule == CAP)),
            gr.update(visible=shown(bool(info) and schedule in (CONFIDENCE, CUMULATIVE))),
        )

    for control in (method, schedule):
        control.change(
            reveal,
            [method, schedule],
            [length, schedule, cap, threshold],
            queue=False,
            trigger_mode="multiple",
            show_progress="hidden",
            api_visibility="private",
        )
    return [method, length, schedule, cap, threshold]
