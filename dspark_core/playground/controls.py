"""What the visitor asks: the prompt, Race and Stop, the examples, lanes and settings."""

import itertools
import json
from dataclasses import dataclass

import gradio as gr

from ..presets import KINDS, Prompt
from ..race.record import CAP, CONFIDENCE, FULL, PLAIN
from .parts import static
from .requests import BLOCK_LENGTHS, CAPS, IN_TURN, MAX_LANES, MAX_PROMPT, TOGETHER

OFF = "off"
SCHEDULES = [("full block", FULL), ("fixed cap", CAP), ("confidence threshold", CONFIDENCE)]


@dataclass(frozen=True)
class Controls:
    """`asked` are the inputs that `requests.request_of` takes, in its order."""

    prompt: gr.Textbox
    start: gr.Button
    stop: gr.Button
    asked: list[gr.components.Component]


def controls(prompts: list[Prompt]) -> Controls:
    """Everything above the tabs but the head."""
    prompt, start, stop = _ask_row()
    _chips(prompt, prompts)
    return Controls(prompt, start, stop, [prompt, *_settings()])


def _ask_row() -> tuple[gr.Textbox, gr.Button, gr.Button]:
    with gr.Row(elem_id="ask"):
        prompt = gr.Textbox(
            label="Prompt",
            lines=3,
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
            with gr.Row(elem_classes="chip-group"):
                static(f"<p>{kind}</p>", elem_classes="kind")
                for example in (p for p in prompts if p.kind == kind):
                    chip = gr.Button(example.title, size="sm", variant="secondary")
                    chip.click(None, None, prompt, js=_returning(example.text), api_visibility="private")


def _settings() -> list[gr.components.Component]:
    """Sampling, order and lanes, in the order `requests.request_of` takes them."""
    with gr.Accordion("Lanes and settings", open=False, elem_id="settings"):
        with gr.Row():
            columns = [_lane_controls(i) for i in range(MAX_LANES)]
        with gr.Row():
            max_tokens = gr.Slider(8, 512, 96, step=1, label="Max tokens", elem_id="max-tokens")
            temperature = gr.Slider(0, 2, 0, step=0.05, label="Temperature", info="0 is greedy")
            top_k = gr.Slider(0, 200, 0, step=1, label="Top-k", info="0 keeps the whole vocabulary")
            top_p = gr.Slider(0.05, 1, 1, step=0.05, label="Top-p", info="1 keeps the whole vocabulary")
            seed = gr.Number(0, precision=0, minimum=0, label="Seed")
            order = gr.Radio([TOGETHER, IN_TURN], value=TOGETHER, label="Lanes run")
    return [max_tokens, temperature, top_k, top_p, seed, order, *itertools.chain(*columns)]


def _returning(text: str) -> str:
    """A JavaScript function that returns `text`."""
    return f"() => {json.dumps(text)}"


def _lane_controls(i: int) -> list[gr.components.Component]:
    """Controls of one lane, in the order `lane_of` takes them."""
    first = [PLAIN, "DSpark", "DFlash", OFF][i]
    with gr.Column(min_width=220, elem_classes="lane-controls"):
        methods = [PLAIN, *CAPS, *BLOCK_LENGTHS, *([OFF] if i > 1 else [])]
        method = gr.Dropdown(methods, value=first, label=f"Lane {i + 1}")
        length = gr.Slider(
            2,
            BLOCK_LENGTHS["DFlash"],
            BLOCK_LENGTHS["DFlash"],
            step=1,
            label="Block length",
            info="short for chat, 16 for code and math",
            visible=first in BLOCK_LENGTHS,
        )
        schedule = gr.Dropdown(SCHEDULES, value=FULL, label="Sent to verification", visible=first in CAPS)
        cap = gr.Slider(1, CAPS["DSpark"], 3, step=1, label="Cap, drafts per round", visible=False)
        threshold = gr.Slider(0, 1, 0.5, step=0.05, label="Confidence at least", visible=False)

    def reveal(method, schedule):
        counts = method in CAPS
        return (
            gr.update(visible=method in BLOCK_LENGTHS),
            gr.update(visible=counts),
            gr.update(visible=counts and schedule == CAP),
            gr.update(visible=counts and schedule == CONFIDENCE),
        )

    for control in (method, schedule):
        control.change(
            reveal,
            [method, schedule],
            [length, schedule, cap, threshold],
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )
    return [method, length, schedule, cap, threshold]
