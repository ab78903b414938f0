"""The page: what stands on it, and how a race gets from the worker to the board."""

import itertools
import json
import math
import os
import queue
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported; nothing leaves this machine

import gradio as gr

from ..decode.rounds import Settings
from ..presets import KINDS, Prompt
from ..race.record import (
    CAP,
    CONFIDENCE,
    FULL,
    PLAIN,
    Failed,
    LaneRecord,
    LaneSpec,
    RaceRecord,
    RaceRequest,
    Verdict,
    WarmUp,
)
from .board import BoardText, announcement
from .charts import TITLES, charts, spent_chart
from .guard import middleware
from .worker import Job, Worker

ASSETS = Path(__file__).resolve().parents[2] / "assets"
UPDATE_S = 0.05  # the board is sent 20 times a second
MAX_PROMPT = 100_000  # characters
MAX_TOKENS = 4096
MAX_LANES = 4
LANE_CONTROLS = 5  # of each lane: see lane_of
PROFILE_TOKENS = 32
MAX_WAITING = 8  # pages that may wait for the engine
OFF = "off"
# A drafter whose length is set as a block of slots; the others count drafts (their cap).
BLOCK_LENGTHS = {"DFlash": 16}
CAPS = {"DSpark": 7}
SCHEDULES = [("full block", FULL), ("fixed cap", CAP), ("confidence threshold", CONFIDENCE)]
KEPT_VARIABLES = ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR")
TOGETHER, IN_TURN = "together, by a fair clock", "one after another"
RUNS = itertools.count(1)


# ---- what the page sends, made safe ----------------------------------------------------------------------


def clamp(value, low: float, high: float, default: float) -> float:
    """A number a client sent, within its limits; `default` if it is no finite number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return default
    return min(max(number, low), high) if math.isfinite(number) else default


def settings_of(max_tokens, temperature, top_k, top_p, seed) -> Settings:
    return Settings(
        max_tokens=int(clamp(max_tokens, 1, MAX_TOKENS, 96)),
        temperature=clamp(temperature, 0, 2, 0),
        top_k=int(clamp(top_k, 0, 1000, 0)),
        top_p=clamp(top_p, 0.01, 1, 1),
        seed=int(clamp(seed, 0, 2**31 - 1, 0)),
    )


def lane_of(method, length, schedule, cap, threshold) -> LaneSpec | None:
    """The lane that one column of controls describes; None if it is off."""
    if method == PLAIN:
        return LaneSpec(PLAIN)
    if method in BLOCK_LENGTHS:
        longest = BLOCK_LENGTHS[method]
        length = int(clamp(length, 2, longest, longest))
        schedule = FULL if length == longest else CAP
        return LaneSpec(method, schedule, cap=length - 1, label=f"block {length}")
    if method in CAPS:
        cap, threshold = int(clamp(cap, 1, CAPS[method], CAPS[method])), clamp(threshold, 0, 1, 0.5)
        if schedule == CAP:
            return LaneSpec(method, CAP, cap=cap, label=f"cap {cap}")
        if schedule == CONFIDENCE:
            return LaneSpec(method, CONFIDENCE, threshold=threshold, label=f"confidence ≥ {threshold:.2f}")
        return LaneSpec(method, FULL, cap=CAPS[method], label="full block")
    return None


def request_of(prompt, max_tokens, temperature, top_k, top_p, seed, order, *controls) -> RaceRequest:
    """The race that the page's controls ask for. Raises ValueError, in one sentence for the visitor."""
    prompt = prompt if isinstance(prompt, str) else ""
    if not prompt.strip():
        raise ValueError("Type a prompt, or pick one of the examples.")
    if len(prompt) > MAX_PROMPT:
        raise ValueError(f"The prompt has {len(prompt):,} characters; at most {MAX_PROMPT:,} are taken.")
    lanes = [lane_of(*controls[i : i + LANE_CONTROLS]) for i in range(0, len(controls), LANE_CONTROLS)]
    lanes = tuple(lane for lane in lanes[:MAX_LANES] if lane)
    if len(lanes) < 2:
        raise ValueError("A race needs at least two lanes.")
    settings = settings_of(max_tokens, temperature, top_k, top_p, seed)
    return RaceRequest(prompt, lanes, settings, together=order != IN_TURN)


# ---- a race, as the board sees it ------------------------------------------------------------------------


def follow(worker: Worker, job: Job) -> Iterator[tuple[str, RaceRecord | None]]:
    """(board value, None) at most every UPDATE_S, then once (board value, what was seen of the race).

    Closing it cancels the job. After a Stop it ends at once; the engine follows at its next event. Nothing at
    all is yielded if the page has a race already.
    """
    board, seen, said = BoardText(next(RUNS), job.request), None, None
    if not worker.submit(job):
        return
    try:
        yield board.value, None
        over = failed = False
        while not over:
            deadline, size = time.monotonic() + UPDATE_S, len(board.records)
            while not over and (left := deadline - time.monotonic()) > 0:
                try:
                    item = job.events.get(timeout=left)
                except queue.Empty:
                    break
                if item is None:
                    over = True
                    break
                lane, event = item
                if isinstance(event, RaceRecord):
                    seen = replace(event, lanes=[LaneRecord(lane.spec) for lane in event.lanes])
                    board.begin(worker.engine.token_bytes, worker.engine.stop_ids, len(seen.lanes))
                elif isinstance(event, Verdict):
                    seen.verdict = event
                    board.verdict(event)
                elif isinstance(event, WarmUp):
                    board.warm_up(lane)
                else:
                    board.add(lane, event)
                    failed |= lane < 0
                    if lane >= 0:
                        seen.lanes[lane].add(event)
            over |= job.cancel.is_set()
            words = _doing(worker, job, seen)
            if words != said and not over:
                board.status(words)
                said = words
            if len(board.records) > size and not over:
                yield board.value, None
        stopped = job.cancel.is_set() and not (seen and seen.verdict)
        if seen:
            seen.stopped = stopped
        how = "failed" if failed else "stopped" if stopped else "done"
        board.over(how, announcement(seen) if seen else f"Race {how}.")
        yield board.whole, seen
    finally:
        job.cancel.set()


def _doing(worker: Worker, job: Job, seen: RaceRecord | None) -> str:
    if not worker.ready:
        return f"Loading: {worker.progress} …"
    if ahead := worker.ahead(job):
        return f"Waiting: {ahead} race{'s' * (ahead > 1)} before this one."
    if seen is None:
        return "Starting …"
    return f"Racing on {seen.target}, {seen.precision}, prompt of {seen.prompt_tokens} tokens."


def refusal(words: str) -> str:
    """The board's value for a request that never became a race."""
    board = BoardText(next(RUNS), RaceRequest("", (), Settings()))
    board.add(-1, Failed(words))
    return board.value


def models_status(worker: Worker) -> Iterator[str]:
    """What is loaded, line by line, while it loads and once it is there."""
    said = None
    while not worker.ready:
        if worker.progress != said:
            said = worker.progress
            yield f"Loading {said} …"
        time.sleep(0.1)
    if worker.error:
        yield f"No race can be run: {worker.error}"
        return
    engine = worker.engine
    lines = [f"{engine.name}, {engine.precision}"]
    yield "\n".join(lines + [f"{method}: {how}" for method, how in engine.drafters.items()])


# ---- what stands on the page -----------------------------------------------------------------------------

TEXT_SCRIPT = """
const show = () => { element.querySelector('p').textContent = props.value || ''; };
watch('value', show);
show();
"""

CHART_TOOLS = """
<details><summary>Table</summary><div class="chart-table" tabindex="0" role="region" aria-label="Table"></div></details>
<div class="chart-saves"><button type="button" data-save="png">PNG</button>
<button type="button" data-save="csv">CSV</button><button type="button" data-save="json">JSON</button></div>
"""


def plain_text(value: str, elem_id: str) -> gr.HTML:
    """A paragraph whose value is text, never markup."""
    return gr.HTML(value, html_template="<p></p>", js_on_load=TEXT_SCRIPT, apply_default_css=False, elem_id=elem_id)


def _static(markup: str, **where) -> gr.HTML:
    return gr.HTML("", html_template=markup, js_on_load=None, apply_default_css=False, **where)


def build(worker: Worker, prompts: list[Prompt]) -> gr.Blocks:
    """The page. Options in the environment are dropped: gradio takes an empty `allowed_paths`, for one, as
    not given, and would let GRADIO_ALLOWED_PATHS open this machine's files."""
    for name in [n for n in os.environ if n.startswith("GRADIO_") and n not in KEPT_VARIABLES]:
        del os.environ[name]
    with gr.Blocks(title="DSpark Playground", analytics_enabled=False, fill_width=True) as page:
        with gr.Row(elem_id="head"):
            _static(
                "<h1>DSpark Playground</h1><p>One prompt, one target model, several ways to decode it: "
                "see which drafted tokens the target accepts, and what that does to the speed.</p>",
                elem_id="title",
            )
            models = plain_text("Loading …", "models")
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
        with gr.Row(elem_id="chips"):
            for kind in KINDS:
                with gr.Row(elem_classes="chip-group"):
                    _static(f"<p>{kind}</p>", elem_classes="kind")
                    for example in (p for p in prompts if p.kind == kind):
                        chip = gr.Button(example.title, size="sm", variant="secondary")
                        chip.click(None, None, prompt, js=_returning(example.text), api_visibility="private")
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
        with gr.Tabs():
            with gr.Tab("Race", id="race"):
                board = gr.HTML(
                    "",
                    html_template=(ASSETS / "board.html").read_text("utf-8"),
                    js_on_load=(ASSETS / "board.js").read_text("utf-8"),
                    apply_default_css=False,
                    elem_id="board",
                )
            with gr.Tab("Charts", id="charts"):
                places = _chart_places()
                with gr.Row(elem_id="profile-row"):
                    profile = gr.Button(f"Measure where the time goes ({PROFILE_TOKENS} tokens)", elem_id="profile")
                    profiled = plain_text("", "profiled")
        last = gr.State(None)
        asked = [prompt, max_tokens, temperature, top_k, top_p, seed, order, *itertools.chain(*columns)]

        def race(visitor: gr.Request, *values):
            try:
                request = request_of(*values)
            except ValueError as error:
                yield refusal(str(error)), gr.skip()
                return
            value = None
            for value, seen in follow(worker, Job(request, visitor.session_hash)):
                yield value, seen or gr.skip()
            if value is None:
                yield gr.skip(), gr.skip()

        def measure(visitor: gr.Request, *values):
            """Race again, briefly and with a synchronisation after every part of a round."""
            try:
                request = request_of(*values)
            except ValueError as error:
                yield str(error), *[gr.skip()] * 2
                return
            short = replace(request.settings, max_tokens=min(PROFILE_TOKENS, request.settings.max_tokens))
            request = replace(request, settings=short, together=False, profile=True)
            yield "Measuring …", *[gr.skip()] * 2
            for _, seen in follow(worker, Job(request, visitor.session_hash)):
                if seen:
                    chart = spent_chart(seen)
                    words = "Stopped." if seen.stopped else "Measured with a synchronisation after every part."
                    yield words, chart.figure, chart.table
                    return
            yield "Nothing was measured.", *[gr.skip()] * 2

        def draw(seen: RaceRecord | None):
            return [part for chart in charts(seen).values() for part in (chart.figure, chart.table)]

        engine_use = {"concurrency_limit": MAX_WAITING, "trigger_mode": "once", "show_progress": "hidden"}
        start.click(race, asked, [board, last], api_name="race", **engine_use).then(
            draw,
            last,
            [part for name in charts(None) for part in places[name]],
            show_progress="hidden",
            api_visibility="private",
        )
        profile.click(measure, asked, [profiled, *places["spent"]], api_name="profile", **engine_use)

        def halt(visitor: gr.Request):
            worker.stop(visitor.session_hash)

        stop.click(halt, queue=False, show_progress="hidden", api_visibility="private")

        def status():
            yield from models_status(worker)

        page.load(
            status,
            None,
            models,
            concurrency_limit=None,
            show_progress="hidden",
            api_visibility="private",
        )
    return page


def _chart_places() -> dict[str, tuple[gr.Plot, gr.HTML]]:
    """A plot with its table and downloads for every chart, two in a row."""
    empty = charts(None) | {"spent": spent_chart(None)}
    places = {}
    for pair in zip(*[iter(TITLES)] * 2, strict=True):
        with gr.Row():
            for name in pair:
                with gr.Column(min_width=420, elem_classes="chart"):
                    _static(f"<h3>{TITLES[name]}</h3>")
                    plot = gr.Plot(empty[name].figure, show_label=False, container=False, elem_id=f"plot-{name}")
                    tools = gr.HTML(
                        empty[name].table,
                        html_template=CHART_TOOLS,
                        js_on_load=(ASSETS / "chart.js").read_text("utf-8"),
                        apply_default_css=False,
                        elem_id=f"tools-{name}",
                    )
                    places[name] = plot, tools
    return places


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


def theme() -> gr.themes.Base:
    sans = [gr.themes.utils.fonts.LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif"]
    mono = [gr.themes.utils.fonts.LocalFont("IBM Plex Mono", weights=(400,)), "ui-monospace", "monospace"]
    return gr.themes.Base(font=sans, font_mono=mono, radius_size="md", text_size="md").set(
        body_background_fill="#f7f6f3",
        body_background_fill_dark="#121417",
        body_text_color="#1d2127",
        body_text_color_dark="#e9e6df",
        block_background_fill="#ffffff",
        block_background_fill_dark="#1a1d22",
        block_border_color="#dedbd4",
        block_border_color_dark="#33383f",
        block_label_text_color="#596069",
        block_label_text_color_dark="#a6abb3",
        block_title_text_color="#1d2127",
        block_title_text_color_dark="#e9e6df",
        block_info_text_color="#596069",
        block_info_text_color_dark="#a6abb3",
        input_background_fill="#ffffff",
        input_background_fill_dark="#14171b",
        block_shadow="none",
        input_shadow="none",
        slider_color="#0a6ab5",
        slider_color_dark="#5cb0ee",
    )


def launch(
    page: gr.Blocks,
    port: int | None,
    browser: bool,
    block: bool = True,
    ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve the page on this machine only, with every option given. `ready` is told the address."""
    _, url, _ = page.queue(max_size=4 * MAX_WAITING, api_open=False).launch(
        server_name="127.0.0.1",
        server_port=port,
        inbrowser=browser,
        prevent_thread_lock=True,
        share=False,
        quiet=True,
        show_error=False,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        allowed_paths=[],
        blocked_paths=[],
        max_file_size="1kb",
        root_path="",
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        strict_cors=True,
        node_server_name=None,
        node_port=None,
        num_workers=None,
        auth=None,
        theme=theme(),
        css_paths=[ASSETS / "board.css"],
        app_kwargs={"middleware": middleware(), "docs_url": None, "redoc_url": None, "openapi_url": None},
    )
    ready(url)
    if block:
        page.block_thread()
