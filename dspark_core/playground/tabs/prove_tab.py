"""The Prove it tab: is sampling the target's own distribution, and is greedy output the target's own text?"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

import gradio as gr
import plotly.graph_objects as go
from gradio.components import Component

from ...chart_style import COLOURS
from ...decode.rounds import Settings
from ...models.info import DrafterInfo
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
from ...race.lane_spec import find
from ...race.records import Failed, exact
from ..controls import Controls
from ..race_request import clamp
from ..widgets import UNQUEUED, Call, Updates, decided, listen, progress, progressed, static, verdict_box
from ..worker import Job, Waiting, Worker
from .charts_tab import SAVE_PNG, SAVES, TABLE, blank_figure, nothing_yet, table_place, table_value
from .race_tab import ENGINE_USE

MAX_DRAWS, MAX_PROMPT = 50_000, 2_000
SECONDS = 60.0
PAIRS = 16  # in the chart
SAMPLER_TITLES = {  # {bias}: what lets a drafter's drafts see each other
    RIGHT: "the real one",
    ALWAYS: "wrong: accept every draft",
    FROM_P: "wrong: after a rejection draw from p, not from the residual",
    NO_BIAS: "wrong: accept with q from before the {bias}",
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
divergence)? A logit is the target’s score of a token; the table gives how far apart the two best were (gap), how far
they had to move for the other choice (needed), and what rounding can move.</p>
"""
PAIR_COLUMNS = ["first token", "second token", "exact", "drawn", "drawn times", "expected times"]
AGREEMENT_COLUMNS = [
    *(
        "prompt",
        "verdict",
        "tokens",
        "lane",
        "first differs at token",
        "gap there, logits",
        "needed, logits",
        "rounding, logits",
    ),
    *("closest call, logits", "positions tied"),
]


# ---- what the page sends, made safe ----------------------------------------------------------------------


def draw_request(call: Call) -> DrawRequest:
    """Raises ValueError, in one sentence for the visitor."""
    prompt = call["prompt"] if isinstance(call["prompt"], str) else ""
    if not prompt.strip():
        raise ValueError("Type a prompt for the answer whose tokens are drawn.")
    drafter = call["drafter"]
    settings = Settings(
        max_tokens=3,
        temperature=clamp(call["temperature"], 0.1, 2, 1),
        top_k=int(clamp(call["top_k"], 0, 1000, 0)),
        seed=int(clamp(call["seed"], 0, 2**31 - 1, 0)),
        stop_ids=frozenset(),
    )
    return DrawRequest(
        prompt[:MAX_PROMPT],
        drafter if isinstance(drafter, str) else "",
        settings,
        call["sampler"] if call["sampler"] in SAMPLERS else RIGHT,
        int(clamp(call["n"], 100, MAX_DRAWS, 10_000)),
        SECONDS,
    )


# ---- work for the owner thread ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Proof:
    """The evidence of a proof with what the page needs to show it, whatever is loaded by then.

    info:  the drafter's
    texts: of every token in it, its blanks made visible
    """

    evidence: DrawEvidence
    info: DrafterInfo
    texts: dict[int, str]

    def text(self, token_id: int | None) -> str:
        """A token's text; None stands for all others."""
        return "any other" if token_id is None else self.texts[token_id]


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


def draw_verdict(e: DrawEvidence, info: DrafterInfo) -> tuple[str, str]:
    """("identical", "tie", "divergence" or "" for nothing to compare, words) of a sampling proof with this drafter."""
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
        often = f"A result at least this uneven comes {chance(e.p_value)}. {comparisons(e)}"
        if right:
            return "identical", f"Exact, as far as these draws can tell. {luck} {often}"
        if e.request.sampler == NO_BIAS and not info.has_bias:
            return (
                "tie",
                f"Nothing to catch: {info.title} has no Markov bias; this is the real sampler. {luck}",
            )
        return "tie", f"Not caught this time: the error is smaller than the luck of the draw. {luck} Draw more."
    worst = e.worst
    if impossible := worst.comparison.impossible:
        often = f"{impossible:,} of them can never come from the target at all."
    else:
        often = f"With exact draws that would come {chance(e.p_value)}."
    if worst.comparison is c:
        luck = f"{away}, where exact draws stay within {100 * c.noise_high:.2g} %. {often}"
    else:
        w = worst.comparison
        luck = (
            f"Of {worst.name}, {w.n:,} were drawn; they are {100 * w.distance:.2g} % away from the target’s "
            f"distribution, where exact draws stay within {100 * w.noise_high:.2g} %. {often}"
        )
    if right:
        return "divergence", (
            f"Flagged. {luck} {comparisons(e)} Exact draws are flagged once in {1 / ALPHA:,.0f} proofs: try another "
            "seed, and if it is flagged again, it is a fault."
        )
    return "divergence", f"Caught. {luck} {comparisons(e)} {WHY[e.request.sampler]}"


def comparisons(e: DrawEvidence) -> str:
    """What was compared, with its degrees of freedom, and what could not be."""
    some = [f"{c.name} ({c.comparison.freedom})" for c in e.checks if c.comparison.freedom or c.comparison.impossible]
    none = [] if e.bonuses else ["No bonus token was drawn."]
    return " ".join([f"Compared, with degrees of freedom: {', '.join(some)}.", *none])


def draw_figure(of: Sequence[Pair], n: int, text: Callable[[int | None], str]) -> go.Figure:
    """Exact probabilities as bars with the range of n exact draws, counted shares as dots."""
    pairs = sorted(of, key=lambda p: -max(p.probability, p.drawn / max(n, 1)))[:PAIRS]
    read = [f"{text(p.first)} · {text(p.second)}" for p in pairs]
    # Two tokens may read the same, and a category axis would merge them.
    labels = [escape(label) + " " * read[:i].count(label) for i, label in enumerate(read)]
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
        nothing_yet(figure, "nothing drawn yet")
        return figure
    figure.update_layout(
        height=90 + 26 * max(len(pairs), 6),
        yaxis={"autorange": "reversed", "title": None, "type": "category"},
        xaxis={"tickformat": ".1%", "rangemode": "tozero"},
        legend={"y": 1.0, "yanchor": "bottom"},
    )
    return figure


def draw_table(proof: Proof | None) -> str:
    rows = []
    if proof:
        n, text = proof.evidence.comparison.n, proof.text
        for p in proof.evidence.pairs:
            shares = round(p.probability, 5), round(p.drawn / n, 5)
            rows.append([text(p.first), text(p.second), *shares, p.drawn, round(n * p.probability, 1)])
    return table_value("proof", "The likeliest pairs of tokens", PAIR_COLUMNS, rows)


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
        lanes = []
        for i, lane in enumerate(found[0].lanes):
            reached, lower = (sum(a.lower[i][part] for a in found if i < len(a.lower)) for part in (0, 1))
            there = "all" if reached == tied else f"the {reached} it reached with the same text"
            lanes.append(f"{lane} took the lower id at {there if lower == reached else f'{lower} of {reached}'}")
        at = "One position was an exact tie" if tied == 1 else f"{tied} positions were exact ties"
        words.append(f"{at}: {', '.join(lanes)}.")
    elif kind == "identical":
        words.append(f"The closest call: two best logits {closest:.3g} apart.")
    return kind, " ".join(words)


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
    return table_value("greedy", "Greedy, by prompt", AGREEMENT_COLUMNS, rows)


# ---- the tab ---------------------------------------------------------------------------------------------


class ProveTab:
    """Two proofs, each with its own controls: draws (sampling) and agreement (greedy)."""

    def __init__(self, worker: Worker, ask: Controls, prompts: list[Prompt]):
        self.worker, self.ask = worker, ask
        self.titles = {p.text: p.title for p in prompts}

    def drafters(self) -> list[tuple[str, str]]:
        """(title, id) of those that can be chosen."""
        return list(self.ask.offers().choices)

    def _samplers(self, drafter: str | None) -> list[tuple[str, str]]:
        """(words, value) of the samplers, in the words of this drafter."""
        info = find(self.ask.offers().infos, drafter)
        bias = (info.bias if info else "") or "Markov bias"
        return [(SAMPLER_TITLES[s].format(bias=bias), s) for s in SAMPLERS]

    def build(self) -> None:
        with gr.Tab("Prove it", id="prove", elem_id="prove"):
            with gr.Column(elem_classes="chart proof"):
                self._build_draws()
            with gr.Column(elem_classes="chart proof"):
                self._build_agreement()

    def _build_draws(self) -> None:
        static(SAMPLING)
        asked = self._draw_controls(self.drafters())
        with gr.Row(elem_classes="buttons"):
            draw = gr.Button("Draw and compare", elem_id="draw")
            stop = gr.Button("Stop", elem_id="stop-draw")
            drawn = progress("drawn")
        shown = {
            "progress": drawn,
            "verdict": verdict_box("proof-verdict"),
            "plot": gr.Plot(draw_figure((), 1, str), show_label=False, container=False, elem_id="plot-proof"),
            "table": table_place(draw_table(None), "tools-proof", TABLE + SAVES.format(SAVE_PNG)),
        }
        chosen = {"drafter": asked["drafter"]}
        listen(
            self.ask.limits.change, self.offer, chosen, chosen, trigger_mode="multiple", **UNQUEUED
        )  # other drafters are loaded
        samplers = {"sampler": asked["sampler"]}
        listen(asked["drafter"].change, self.word_samplers, chosen, samplers, **UNQUEUED)
        listen(draw.click, self.draw, asked, shown, api_name="prove_sampling", **ENGINE_USE)
        listen(stop.click, self.stop, {}, {}, **UNQUEUED)

    def _build_agreement(self) -> None:
        static(GREEDY)
        tokens = gr.Slider(8, 128, 24, step=8, label="Tokens each")
        with gr.Row(elem_classes="buttons"):
            agree = gr.Button(f"Decode all {len(self.titles)} examples", elem_id="agree")
            stop = gr.Button("Stop", elem_id="stop-agree")
            agreed = progress("agreed")
        shown = {
            "progress": agreed,
            "verdict": verdict_box("greedy-verdict"),
            "table": table_place(agreement_table([], self.titles), "tools-greedy"),
        }
        listen(agree.click, self.agree, {"tokens": tokens}, shown, api_name="prove_greedy", **ENGINE_USE)
        listen(stop.click, self.stop, {}, {}, **UNQUEUED)

    def offer(self, call: Call) -> Updates:
        """The drafters to choose from; the chosen one stays if it is among them."""
        choices = self.drafters()
        ids = [id_ for _, id_ in choices]
        chosen = call["drafter"] if call["drafter"] in ids else next(iter(ids), None)
        return {"drafter": gr.update(choices=choices, value=chosen)}

    def word_samplers(self, call: Call) -> Updates:
        return {"sampler": gr.update(choices=self._samplers(call["drafter"]))}

    def draw(self, call: Call) -> Iterator[Updates]:
        try:
            request = draw_request(call)
        except ValueError as error:
            yield {"progress": progressed(1, str(error))}
            return
        yield {"progress": progressed(0, "Starting …"), "verdict": decided("", "")}
        ended = False
        for _, event in self.worker.events(self.proof_job(call.session, request)):
            if isinstance(event, Step):
                yield {"progress": progressed(event.share, event.words)}
            elif isinstance(event, Waiting):
                yield {"progress": progressed(0, event.words)}
            elif isinstance(event, Failed):
                ended = True
                yield {"progress": progressed(1, event.message)}
            else:
                ended = True
                yield {"progress": progressed(1, ""), **self._drawn(event)}
        if not ended:
            yield {"progress": progressed(1, "Stopped.")}

    def _drawn(self, proof: Proof) -> Updates:
        found = proof.evidence
        kind, words = draw_verdict(found, proof.info)
        return {
            "verdict": decided(kind, words, self.draw_details(proof)),
            "plot": draw_figure(found.pairs, found.comparison.n, proof.text),
            "table": draw_table(proof),
        }

    def agree(self, call: Call) -> Iterator[Updates]:
        request = AgreementRequest(tuple(self.titles), int(clamp(call["tokens"], 1, 512, 24)))
        found: list[Agreement] = []
        yield {
            "progress": progressed(0, "Starting …"),
            "verdict": decided("", ""),
            "table": agreement_table([], self.titles),
        }
        failed = None
        for _, event in self.worker.events(self.agreement_job(call.session, request)):
            if isinstance(event, Step):
                yield {"progress": progressed(event.share, event.words)}
            elif isinstance(event, Waiting):
                yield {"progress": progressed(0, event.words)}
            elif isinstance(event, Failed):
                failed = event.message
            else:
                found.append(event)
                verdict = decided(*agreement_verdict(found, len(self.titles)))
                yield {"verdict": verdict, "table": agreement_table(found, self.titles)}
        yield {"progress": progressed(1, failed or ("" if len(found) == len(self.titles) else "Stopped."))}

    def stop(self, call: Call) -> None:
        self.worker.stop(call.session)

    def proof_job(self, session: str, request: DrawRequest) -> Job:
        """Its events: Steps, then the Proof, or Failed."""

        def work(engine, job: Job):
            from ...proof.prove import prove

            def shown(text: str) -> str:
                """A token's text with its blanks made visible."""
                text = text.replace("\n", "↵").replace("\t", "⇥")
                return text if text.strip() else text.replace(" ", "␣") or "∅"

            models, token_bytes = engine.models, engine.token_bytes
            info = find(models.infos, request.drafter)
            if info is None:
                why = models.problems.get(request.drafter, "it is not configured for this target.")
                yield -1, Failed(f"{request.drafter or 'The drafter'} is not running: {why}")
                return
            target, drafter = models.target, models.loaded[info.id]
            prompt = target.encode_chat([{"role": "user", "content": request.prompt}])
            for _, event in prove(target, drafter, prompt, request, job.cancelled):
                if isinstance(event, DrawEvidence):
                    tokens = [event.anchor, *(token for pair in event.pairs for token in (pair.first, pair.second))]
                    texts = {
                        token: shown(token_bytes(token).decode(errors="replace"))
                        for token in tokens
                        if token is not None
                    }
                    yield -1, Proof(event, info, texts)
                else:
                    yield -1, event

        return Job(session, "proof", work)

    def agreement_job(self, session: str, request: AgreementRequest) -> Job:
        """Its events: Steps and, prompt by prompt, Agreements."""

        def work(engine, job: Job):
            from ...proof.agreement import agreement

            yield from agreement(engine.models, request, job.cancelled)

        return Job(session, "proof", work)

    def _draw_controls(self, drafters: list[tuple[str, str]]) -> dict[str, Component]:
        """What is asked of the draws, by the names that `draw_request` reads."""
        with gr.Row():
            prompt = gr.Textbox(
                "Write one sentence about the sea.",
                label="Prompt",
                max_length=MAX_PROMPT,
                scale=3,
                elem_id="proof-prompt",
            )
            first = drafters[0][1] if drafters else None
            drafter = gr.Radio(drafters, value=first, label="Drafter", elem_id="proof-drafter")
        sampler = gr.Radio(self._samplers(first), value=RIGHT, label="Sampler", elem_id="sampler")
        with gr.Row():
            temperature = gr.Slider(0.1, 2, 1, step=0.05, label="Temperature")
            top_k = gr.Slider(0, 200, 0, step=1, label="Top-k", info="0 keeps the whole vocabulary")
            n = gr.Slider(1000, MAX_DRAWS, 10_000, step=1000, label="Draws", info="at most a minute's worth")
            seed = gr.Number(0, precision=0, minimum=0, label="Seed")
        return {
            "prompt": prompt,
            "drafter": drafter,
            "sampler": sampler,
            "temperature": temperature,
            "top_k": top_k,
            "n": n,
            "seed": seed,
        }

    def draw_details(self, proof: Proof) -> str:
        """The small print of a sampling proof."""
        e, text = proof.evidence, proof.text
        c = e.comparison
        parts = [
            f"{proof.info.title}, temperature {exact(e.request.settings.temperature)}; the answer’s first token is "
            f"drawn, then held fixed at “{text(e.anchor)}”, and what follows it is drawn, half in rounds of one draft "
            "and half of two.",
            f"{100 * e.kept:.0f} % of the first drafts were accepted; {e.bonuses:,} bonus tokens were compared.",
            f"Pairs: chi-squared {c.chi2:,.0f} with {c.freedom} degrees of freedom over {c.cells} cells (rare pairs "
            f"pooled; {e.prefixes} first tokens followed, {100 * e.followed:.0f} % of the probability).",
        ]
        if e.repeated:
            apart = "" if e.steady else " (on this device numbers depend on how many rows are computed together)"
            parts.append(
                f"{e.same} of {e.repeated} draws that the race’s own loop repeated with the same random numbers gave "
                f"the same tokens{apart}."
            )
        if c.n < e.request.n:
            parts.append(f"Stopped after {e.request.seconds:.0f} s: {c.n:,} of {e.request.n:,} draws.")
        return " ".join([*parts, f"Took {e.seconds:.0f} s."])
