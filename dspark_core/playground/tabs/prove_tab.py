"""The Prove it tab: is sampling the target's own distribution, and is greedy output the target's own text?"""

import json
import math
from collections.abc import Callable
from html import escape

import gradio as gr
import plotly.graph_objects as go

from ...chart_style import COLOURS
from ...decode.rounds import Settings
from ...presets import Prompt
from ...proof.chi_squared import ALPHA
from ...proof.evidence import (
    ALWAYS,
    BONUS,
    FROM_P,
    NO_BIAS,
    RIGHT,
    SAMPLERS,
    Agreement,
    AgreementRequest,
    DrawEvidence,
    DrawRequest,
    Pair,
    Step,
)
from ...race.records import Failed, exact
from ..race_request import USUAL, Offers, clamp, offers_of
from ..widgets import decided, progress, progressed, script, static, verdict_box
from ..worker import Job, Worker, watch
from .charts_tab import SAVE_PNG, SAVES, TABLE, TABLE_TOOLS, blank_figure
from .race_tab import ENGINE_USE

MAX_DRAWS, MAX_PROMPT = 50_000, 2_000
SECONDS = 60.0
PAIRS = 16  # in the chart
METHODS = [*USUAL]
TITLES = {
    RIGHT: "the real one",
    ALWAYS: "wrong: accept every draft",
    FROM_P: "wrong: after a rejection draw from p, not from the residual",
    NO_BIAS: "wrong: accept with q from before the Markov bias",
    BONUS: "wrong: after full acceptance draw the bonus from the row before",
}
WHY = {
    ALWAYS: "Every draft is kept, so the text is the drafter’s and not the target’s.",
    FROM_P: "A rejected token is one that the drafter likes better than the target does. Drawing from all of p gives "
    "such tokens a second chance, so they come too often; the residual max(p − q, 0) leaves them out.",
    NO_BIAS: "The drafts were drawn from one distribution and judged by another: p/q balances only if q is what the "
    "draft was really drawn from.",
    BONUS: "Where every draft was accepted, the target adds a token of its own, from what it says after the last "
    "draft. Taken from the row before, it is what the target would have put in the place of that draft.",
}
SAMPLING = """
<h3>Sampling: does it draw what the target would draw?</h3>
<p>Speculative decoding promises the target’s own distribution, not just similar text. Here the same two tokens of an
answer are drawn thousands of times, by drafting, accepting and correcting, in rounds of one draft and of two, and
counted; so are the bonus tokens after full acceptance and the answer’s first token. Beside the counts stands what the
target alone would do, computed exactly. Then pick a wrong sampler and watch the counts drift off: that is what the
residual is for.</p>
"""
GREEDY = """
<h3>Greedy: is it the target’s own text?</h3>
<p>Every example prompt is decoded by the target alone and with each drafter, and compared token by token. Where they
part, the target is asked again: were its two best logits so close that rounding decides (a tie), or not (a real
divergence)?</p>
"""
PAIR_COLUMNS = ["first token", "second token", "exact", "drawn", "drawn times", "expected times"]
AGREEMENT_COLUMNS = [
    *("prompt", "verdict", "tokens", "lane", "first differs at token", "gap there", "needed", "rounding"),
    *("closest call", "positions tied"),
]


# ---- what the page sends, made safe ----------------------------------------------------------------------


def draw_request(prompt, method, sampler, temperature, top_k, n, seed) -> DrawRequest:
    """Raises ValueError, in one sentence for the visitor."""
    prompt = prompt if isinstance(prompt, str) else ""
    if not prompt.strip():
        raise ValueError("Type a prompt for the answer whose tokens are drawn.")
    settings = Settings(
        max_tokens=3,
        temperature=clamp(temperature, 0.1, 2, 1),
        top_k=int(clamp(top_k, 0, 1000, 0)),
        seed=int(clamp(seed, 0, 2**31 - 1, 0)),
        stop_ids=frozenset(),
    )
    return DrawRequest(
        prompt[:MAX_PROMPT],
        method if method in METHODS else METHODS[0],
        settings,
        sampler if sampler in SAMPLERS else RIGHT,
        int(clamp(n, 100, MAX_DRAWS, 10_000)),
        SECONDS,
    )


# ---- work for the owner thread ---------------------------------------------------------------------------


def drawing(request: DrawRequest):
    def work(engine, cancelled):
        from ...proof.prove import prove

        drafter = engine.models.drafters.get(request.method.lower(), "it is not configured for this target.")
        if isinstance(drafter, str):
            yield -1, Failed(f"{request.method} is not running: {drafter}")
            return
        prompt = engine.models.target.encode_chat([{"role": "user", "content": request.prompt}])
        yield from prove(engine.models.target, drafter, prompt, request, cancelled)

    return work


def agreeing(request: AgreementRequest):
    def work(engine, cancelled):
        from ...proof.agreement import agreement

        yield from agreement(engine.models, request, cancelled)

    return work


# ---- in words, figures and tables ------------------------------------------------------------------------


def chance(p: float) -> str:
    """How often that is, in words."""
    if p >= 0.995:
        return "in nearly every such proof"
    if p >= 0.01:
        return f"in {100 * p:.0f} of 100 such proofs"
    if p >= 1e-6:
        return f"once in {1 / p:,.0f} such proofs"
    return "less than once in a million such proofs"


def draw_verdict(e: DrawEvidence, offers: Offers = USUAL) -> tuple[str, str]:
    """("identical", "tie", "divergence" or "" for nothing to compare, words) of a sampling proof."""
    c, right = e.comparison, e.request.sampler == RIGHT
    if e.loop_differs:
        return "divergence", (
            f"Flagged. The race’s own loop drew other tokens in {e.repeated - e.same} of {e.repeated} draws that it "
            "repeated with the same random numbers: that is a fault."
        )
    if not e.freedom and not e.flagged:
        return "", (
            f"Nothing to compare: exact draws come out in one way only, or {c.n:,} are too few to tell (0 degrees of "
            "freedom). Choose a higher temperature or top-k, or draw more."
        )
    away = f"The counts of {c.n:,} draws are {100 * c.distance:.2g} % away from the target’s distribution"
    if not e.flagged:
        luck = f"{away}; exact draws would be {100 * c.noise:.2g} % away, by luck alone."
        seen = f"So uneven a result, or more, comes {chance(e.p_value)}. {compared(e)}"
        if right:
            return "identical", f"Exact, as far as these draws can tell. {luck} {seen}"
        if e.request.sampler == NO_BIAS and not offers[e.request.method].has_bias:
            return (
                "tie",
                f"Nothing to catch: {e.request.method} has no Markov bias; this is the real sampler. {luck}",
            )
        return "tie", f"Not caught this time: the error is smaller than the luck of the draw. {luck} Draw more."
    worst = e.worst
    if impossible := worst.comparison.impossible:
        seen = f"{impossible:,} of them can never come from the target at all."
    else:
        seen = f"With exact draws that would come {chance(e.p_value)}."
    if worst.comparison is c:
        luck = f"{away}, where exact draws stay within {100 * c.noise_high:.2g} %. {seen}"
    else:
        w = worst.comparison
        luck = (
            f"Of {worst.name}, {w.n:,} were drawn; they are {100 * w.distance:.2g} % away from the target’s "
            f"distribution, where exact draws stay within {100 * w.noise_high:.2g} %. {seen}"
        )
    if right:
        return "divergence", (
            f"Flagged. {luck} {compared(e)} Exact draws are flagged once in {1 / ALPHA:,.0f} proofs: try another seed, "
            "and if it is flagged again, it is a fault."
        )
    return "divergence", f"Caught. {luck} {compared(e)} {WHY[e.request.sampler]}"


def compared(e: DrawEvidence) -> str:
    """What was compared, with its degrees of freedom, and what could not be."""
    some = [f"{c.name} ({c.comparison.freedom})" for c in e.checks if c.comparison.freedom or c.comparison.impossible]
    none = [] if e.bonuses else ["No bonus token was drawn."]
    return " ".join([f"Compared, with degrees of freedom: {', '.join(some)}.", *none])


def draw_details(e: DrawEvidence, text: Callable[[int], str]) -> str:
    """The small print of a sampling proof."""
    c = e.comparison
    parts = [
        f"{e.request.method}, temperature {exact(e.request.settings.temperature)}; the answer’s first token is drawn, "
        f"then held fixed at “{text(e.anchor)}”, and what follows it is drawn, half in rounds of one draft and half of "
        "two.",
        f"{100 * e.kept:.0f} % of the first drafts were accepted; {e.bonuses:,} bonus tokens were compared.",
        f"Pairs: chi-squared {c.chi2:,.0f} with {c.freedom} degrees of freedom over {c.cells} cells (rare pairs "
        f"pooled; {e.prefixes} first tokens followed, {100 * e.followed:.0f} % of the probability).",
    ]
    if e.repeated:
        apart = "" if e.steady else " (on this device numbers depend on how many rows are computed together)"
        parts.append(
            f"{e.same} of {e.repeated} draws that the race’s own loop repeated with the same random numbers gave the "
            f"same tokens{apart}."
        )
    return " ".join([*parts, f"Took {e.seconds:.0f} s."])


def shown_token(data: bytes) -> str:
    """A token's text with its blanks made visible."""
    text = data.decode(errors="replace").replace("\n", "↵").replace("\t", "⇥")
    return text if text.strip() else text.replace(" ", "␣") or "∅"


def draw_figure(pairs: tuple[Pair, ...], n: int, text: Callable[[int], str]) -> go.Figure:
    """Exact probabilities as bars with the range of n exact draws, counted shares as dots."""
    pairs = sorted(pairs, key=lambda p: -max(p.probability, p.drawn / max(n, 1)))[:PAIRS]
    labels = _distinct([f"{text(p.first)} · {text(p.second)}" for p in pairs])
    spread = [3.3 * math.sqrt(p.probability * (1 - p.probability) / max(n, 1)) for p in pairs]
    figure = blank_figure("probability of the two tokens")
    figure.add_bar(
        name="the target alone, exact (± what luck explains)",
        y=labels,
        x=[p.probability for p in pairs],
        orientation="h",
        marker={"color": COLOURS[0], "opacity": 0.55},
        error_x={"type": "data", "array": spread, "color": COLOURS[0], "thickness": 1.5, "width": 4},
    )
    figure.add_scatter(
        name="drawn",
        y=labels,
        x=[p.drawn / n for p in pairs],
        mode="markers",
        marker={"color": COLOURS[2], "size": 10, "symbol": "diamond"},
    )
    if not pairs:
        figure.update_layout(xaxis={"visible": False}, yaxis={"visible": False})
        figure.add_annotation(text="nothing drawn yet", showarrow=False, xref="paper", yref="paper", x=0.5, y=0.5)
        return figure
    figure.update_layout(
        height=90 + 26 * max(len(pairs), 6),
        yaxis={"autorange": "reversed", "title": None, "type": "category"},
        xaxis={"tickformat": ".1%", "rangemode": "tozero"},
        legend={"y": 1.0, "yanchor": "bottom"},
    )
    return figure


def _distinct(labels: list[str]) -> list[str]:
    """The labels, escaped; two tokens may read the same, and a category axis would merge them."""
    seen: dict[str, int] = {}
    out = []
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
        out.append(escape(label) + " " * (seen[label] - 1))
    return out


def draw_table(e: DrawEvidence | None, text: Callable[[int], str] = str) -> str:
    rows = []
    for p in e.pairs if e else ():
        n = e.comparison.n
        shares = round(p.probability, 5), round(p.drawn / n, 5)
        rows.append([text(p.first), text(p.second), *shares, p.drawn, round(n * p.probability, 1)])
    table = {"name": "proof", "title": "The likeliest pairs of tokens", "columns": PAIR_COLUMNS, "rows": rows}
    return json.dumps(table)


def agreement_verdict(found: list[Agreement], of: int) -> tuple[str, str]:
    """("identical", "tie", "divergence" or "", words) over all prompts."""
    if not found:
        return "", ""
    counts = {kind: sum(a.kind == kind for a in found) for kind in ("identical", "tie", "divergence")}
    kind = next((k for k in ("divergence", "tie") if counts[k]), "identical")
    tokens = sum(a.tokens for a in found)
    closest = min(a.closest for a in found)
    words = [
        f"{len(found)} of {of} prompts, {tokens:,} tokens each lane, {len(found[0].lanes)} lanes: "
        f"{counts['identical']} identical, {counts['tie']} with a numerical tie, {counts['divergence']} with a real "
        "divergence."
    ]
    tied = sum(a.tied for a in found)
    if tied:
        words.append(tied_words(found, tied))
    elif kind == "identical":
        words.append(f"The closest call: two best logits {closest:.3g} apart.")
    return kind, " ".join(words)


def tied_words(found: list[Agreement], tied: int) -> str:
    """What each lane did where the two best logits are equal."""
    told = []
    for i, lane in enumerate(found[0].lanes):
        reached, lower = (sum(a.lower[i][part] for a in found if i < len(a.lower)) for part in (0, 1))
        there = "all" if reached == tied else f"the {reached} it reached with the same text"
        told.append(f"{lane} took the lower id at {there if lower == reached else f'{lower} of {reached}'}")
    at = "One position was an exact tie" if tied == 1 else f"{tied} positions were exact ties"
    return f"{at}: {', '.join(told)}."


def agreement_table(found: list[Agreement], titles: dict[str, str]) -> str:
    rows = []
    for a in found:
        name, end = titles.get(a.prompt, a.prompt[:60]), [float(f"{a.closest:.3g}"), a.tied]
        for d in a.differences:
            numbers = [float(f"{x:.3g}") for x in (d.gap, d.needed, d.rounding)]
            kind = "tie" if d.tie else "real divergence"
            rows.append([name, kind, a.tokens, a.lanes[d.lane], d.index + 1, *numbers, *end])
        if not a.differences:
            rows.append([name, a.kind, a.tokens, *[None] * 5, *end])
    return json.dumps({"name": "greedy", "title": "Greedy, by prompt", "columns": AGREEMENT_COLUMNS, "rows": rows})


# ---- the tab ---------------------------------------------------------------------------------------------


def prove_tab(worker: Worker, prompts: list[Prompt]) -> None:
    titles = {p.text: p.title for p in prompts}
    with gr.Tab("Prove it", id="prove", elem_id="prove"):
        with gr.Column(elem_classes="chart proof"):
            static(SAMPLING)
            with gr.Row():
                prompt = gr.Textbox(
                    "Write one sentence about the sea.",
                    label="Prompt",
                    max_length=MAX_PROMPT,
                    scale=3,
                    elem_id="proof-prompt",
                )
                method = gr.Radio(METHODS, value=METHODS[0], label="Drafter")
            sampler = gr.Radio([(TITLES[s], s) for s in SAMPLERS], value=RIGHT, label="Sampler", elem_id="sampler")
            with gr.Row():
                temperature = gr.Slider(0.1, 2, 1, step=0.05, label="Temperature")
                top_k = gr.Slider(0, 200, 0, step=1, label="Top-k", info="0 keeps the whole vocabulary")
                n = gr.Slider(1000, MAX_DRAWS, 10_000, step=1000, label="Draws", info="at most a minute's worth")
                seed = gr.Number(0, precision=0, minimum=0, label="Seed")
            with gr.Row(elem_classes="buttons"):
                draw = gr.Button("Draw and compare", elem_id="draw")
                stop_draw = gr.Button("Stop", elem_id="stop-draw")
                drawn = progress("drawn")
            verdict = verdict_box("proof-verdict")
            plot = gr.Plot(draw_figure((), 1, str), show_label=False, container=False, elem_id="plot-proof")
            table = _table(draw_table(None), "tools-proof", TABLE + SAVES.format(SAVE_PNG))
        with gr.Column(elem_classes="chart proof"):
            static(GREEDY)
            tokens = gr.Slider(8, 128, 24, step=8, label="Tokens each")
            with gr.Row(elem_classes="buttons"):
                agree = gr.Button(f"Decode all {len(prompts)} examples", elem_id="agree")
                stop_agree = gr.Button("Stop", elem_id="stop-agree")
                agreed = progress("agreed")
            judged = verdict_box("greedy-verdict")
            report = _table(agreement_table([], titles), "tools-greedy")

    def run_draw(visitor: gr.Request, *values):
        stay = [gr.skip()] * 3
        try:
            request = draw_request(*values)
        except ValueError as error:
            yield progressed(1, str(error)), *stay
            return
        yield progressed(0, "Starting …"), decided("", ""), *stay[1:]

        def text(token):
            return shown_token(worker.engine.token_bytes(token))

        ended = False
        for event in watch(worker, Job(None, visitor.session_hash, drawing(request))):
            if isinstance(event, Step):
                yield progressed(event.share, event.words), *stay
            elif isinstance(event, Failed):
                ended = True
                yield progressed(1, event.message), *stay
            else:
                ended = True
                kind, words = draw_verdict(event, offers_of(worker.engine))
                figure = draw_figure(event.pairs, event.comparison.n, text)
                more = draw_details(event, text)
                yield progressed(1, ""), decided(kind, words, more), figure, draw_table(event, text)
        if not ended:
            yield progressed(1, "Stopped."), *stay

    def run_agree(visitor: gr.Request, tokens):
        request = AgreementRequest(tuple(titles), int(clamp(tokens, 1, 512, 24)))
        found: list[Agreement] = []
        yield progressed(0, "Starting …"), decided("", ""), agreement_table([], titles)
        failed = None
        for event in watch(worker, Job(None, visitor.session_hash, agreeing(request))):
            if isinstance(event, Step):
                yield progressed(event.share, event.words), gr.skip(), gr.skip()
            elif isinstance(event, Failed):
                failed = event.message
            else:
                found.append(event)
                told = decided(*agreement_verdict(found, len(titles)))
                yield gr.skip(), told, agreement_table(found, titles)
        yield progressed(1, failed or ("" if len(found) == len(titles) else "Stopped.")), gr.skip(), gr.skip()

    def halt(visitor: gr.Request):
        worker.stop(visitor.session_hash)

    asked = [prompt, method, sampler, temperature, top_k, n, seed]
    draw.click(run_draw, asked, [drawn, verdict, plot, table], api_name="prove_sampling", **ENGINE_USE)
    agree.click(run_agree, tokens, [agreed, judged, report], api_name="prove_greedy", **ENGINE_USE)
    for button in (stop_draw, stop_agree):
        button.click(halt, queue=False, show_progress="hidden", api_visibility="private")


def _table(value: str, elem_id: str, template: str = TABLE_TOOLS) -> gr.HTML:
    return gr.HTML(
        value,
        html_template=template,
        js_on_load=script("chart"),
        apply_default_css=False,
        elem_id=elem_id,
    )
