"""The Prove it tab: is sampling the target's own distribution, and is greedy output the target's own text?"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
from gradio.components import Component

from ...decode.rounds import Settings
from ...errors import ModelError
from ...presets import Prompt
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
    Pace,
    Step,
)
from ...race.lane_spec import find
from ...race.records import Failed, exact
from ..controls import Controls
from ..proof_view import (
    Proof,
    agreement_table,
    agreement_verdict,
    cards,
    draw_figure,
    draw_table,
    draw_verdict,
    draws_made,
    row_verdict,
    span,
)
from ..race_request import clamp
from ..widgets import (
    UNQUEUED,
    Call,
    Updates,
    decided,
    listen,
    plain_text,
    progress,
    progressed,
    script,
    static,
    verdict_box,
)
from ..worker import Job, Waiting, Worker
from .charts_tab import SAVE_PNG, SAVES, TABLE, table_place
from .race_tab import ENGINE_USE

MAX_DRAWS, MAX_PROMPT = 50_000, 2_000
SECONDS, ROW_SECONDS = 60.0, 120.0  # that one sampler may take, and all of them in a row
SAMPLER_TITLES = {  # {bias}: what lets a drafter's drafts see each other
    RIGHT: "the real one",
    ALWAYS: "wrong: accept every draft",
    FROM_P: "wrong: after a rejection draw from p, not from the residual",
    NO_BIAS: "wrong: accept with q from before the {bias}",
    BONUS: "wrong: after full acceptance draw the bonus from the row before",
}
SAMPLING = """
<h3>Sampling: does it draw what the target would draw?</h3>
<p>Speculative decoding promises the target’s own distribution, not just similar text. Here the same two tokens of an
answer are drawn thousands of times, by drafting, accepting and correcting, in rounds of one draft and of two, and
counted; so are the bonus tokens after full acceptance and the answer’s first token. Beside the counts stands what the
target alone would do, computed exactly. Then hold wrong samplers against it, and watch their counts drift off: that is
what the residual is for.</p>
<details class="proof-words"><summary>What the words mean</summary><dl>
<dt>draw</dt><dd>One go of the random numbers: one way in which the answer could begin. 10,000 draws are 10,000
beginnings of the same answer.</dd>
<dt>exact</dt><dd>How probable the target alone makes a token, or a pair of them: computed from its scores, not
drawn.</dd>
<dt>% away</dt><dd>Half the sum of all differences between the shares drawn and the exact ones (total variation): 0 % is
a perfect match, 100 % has nothing in common. Luck always leaves a little; with more draws, less.</dd>
<dt>chi-squared</dt><dd>The sum of (drawn − expected)² / expected over all outcomes that are compared. By luck alone it
comes to about its degrees of freedom: the number of outcomes, less one.</dd>
<dt>p-value</dt><dd>How often exact draws would look as uneven as these, or more so, by luck: 0.5 is every second time.
A sampler is flagged below 0.001, once in a thousand.</dd>
<dt>p, q</dt><dd>The target’s probability of a token, and the drafter’s. A draft is accepted with min(1, p/q).</dd>
<dt>residual</dt><dd>What p has more than q, max(p − q, 0): what the correction after a rejection is drawn from.</dd>
<dt>bonus</dt><dd>The target’s own token after a whole block was accepted.</dd>
</dl></details>
"""
GREEDY = """
<h3>Greedy: is it the target’s own text?</h3>
<p>Every example prompt is decoded by the target alone and with each drafter, and compared token by token. Where they
part, the target is asked again: were its two best logits so close that rounding decides (a tie), or not (a real
divergence)? A logit is the target’s score of a token; the table gives how far apart the two best were (gap), how far
they had to move for the other choice (needed), and what rounding can move.</p>
"""


@dataclass(frozen=True)
class Proven:
    """What others may use of the tab.

    asked: the controls of the draws, by the names that `draw_request` reads
    last:  the Proofs shown, one a sampler, none while they are drawn, or why there are none; it changes when a proof
           is over
    """

    asked: Mapping[str, Component]
    last: gr.State


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


# ---- the tab ---------------------------------------------------------------------------------------------


class ProveTab:
    """Two proofs, each with its own controls: draws (sampling) and agreement (greedy)."""

    def __init__(self, worker: Worker, ask: Controls, prompts: list[Prompt]):
        self.worker, self.ask = worker, ask
        self.titles = {p.text: p.title for p in prompts}
        self.paces: dict[Any, Pace] = {}  # of the last proof with these models

    def drafters(self) -> list[tuple[str, str]]:
        """(title, id) of those that can be chosen."""
        return list(self.ask.offers().choices)

    def _samplers(self, drafter: str | None) -> list[tuple[str, str]]:
        """(words, value) of the samplers, in the words of this drafter."""
        info = find(self.ask.offers().infos, drafter)
        bias = (info.bias if info else "") or "Markov bias"
        return [(SAMPLER_TITLES[s].format(bias=bias), s) for s in SAMPLERS]

    def build(self) -> Proven:
        with gr.Tab("Prove it", id="prove", elem_id="prove"):
            with gr.Column(elem_classes="chart proof"):
                proven = self._build_draws()
            with gr.Column(elem_classes="chart proof"):
                self._build_agreement()
        return proven

    def _build_draws(self) -> Proven:
        static(SAMPLING)
        asked = self._draw_controls(self.drafters())
        with gr.Row(elem_classes="buttons"):
            row = gr.Button("Draw with all samplers, side by side", elem_id="draw-row")
            draw = gr.Button("Draw with the chosen one", elem_id="draw")
            stop = gr.Button("Stop", elem_id="stop-draw")
            drawn = progress("drawn")
        time_asked = {name: asked[name] for name in ("drafter", "n")}
        said = {"time": plain_text("", "draw-time")}
        last = gr.State([])
        shown = {
            "progress": drawn,
            "verdict": verdict_box("proof-verdict"),
            "cards": gr.HTML(
                "[]",
                html_template='<div class="samplers"></div>',
                js_on_load=script("samplers"),
                apply_default_css=False,
                elem_id="samplers",
            ),
            "plot": gr.Plot(draw_figure(()), show_label=False, container=False, elem_id="plot-proof"),
            "table": table_place(draw_table(()), "tools-proof", TABLE + SAVES.format(SAVE_PNG)),
            "last": last,
        }
        chosen = {"drafter": asked["drafter"]}
        listen(
            self.ask.limits.change, self.offer, chosen, chosen, trigger_mode="multiple", **UNQUEUED
        )  # other drafters are loaded
        samplers = {"sampler": asked["sampler"]}
        listen(asked["drafter"].change, self.word_samplers, chosen, samplers, **UNQUEUED)
        for event in (asked["drafter"].change, asked["n"].change, last.change):
            listen(event, self.time_words, time_asked, said, trigger_mode="multiple", **UNQUEUED)
        listen(draw.click, self.draw, asked, shown, api_name="prove_sampling", **ENGINE_USE)
        listen(row.click, self.draw_row, asked, shown, api_name="prove_samplers", **ENGINE_USE)
        listen(stop.click, self.stop, {}, {}, **UNQUEUED)
        return Proven(asked, last)

    def _build_agreement(self) -> None:
        static(GREEDY)
        tokens = gr.Slider(8, 128, 24, step=8, label="Tokens each", elem_id="agree-tokens")
        with gr.Row(elem_classes="buttons"):
            agree = gr.Button(f"Decode all {len(self.titles)} examples", elem_id="agree")
            stop = gr.Button("Stop", elem_id="stop-agree")
            agreed = progress("agreed")
        said = {"time": plain_text("", "agree-time")}
        shown = {
            "progress": agreed,
            "verdict": verdict_box("greedy-verdict"),
            "table": table_place(agreement_table([], self.titles), "tools-greedy"),
        }
        for event in (self.ask.limits.change, tokens.change):
            listen(event, self.agree_time_words, {"tokens": tokens}, said, trigger_mode="multiple", **UNQUEUED)
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

    # ---- how long it will take ---------------------------------------------------------------------------

    def _pace_key(self, drafter: object) -> tuple[str, str, object]:
        return self.worker.engine.name, self.worker.engine.precision, drafter

    def time_words(self, call: Call) -> Updates:
        """Before a proof starts: how long it takes, by the last one with the same models."""
        n, pace = int(clamp(call["n"], 100, MAX_DRAWS, 10_000)), self.paces.get(self._pace_key(call["drafter"]))
        if pace is None:
            most = f"One sampler takes {span(SECONDS)} at most, all {len(SAMPLERS)} together {span(ROW_SECONDS)}"
            return {"time": f"{most}; how long exactly is known after the first proof on this machine."}
        one, row = min(SECONDS, pace.seconds(n, 1)), min(ROW_SECONDS, pace.seconds(n, len(SAMPLERS)))
        words = f"{n:,} draws take about {span(one)} with one sampler, {span(row)} with all {len(SAMPLERS)}"
        each = f"{span(pace.asking)} to ask the models, {1000 * pace.draw:.2g} ms a draw"
        return {"time": f"{words}, by the last proof on this machine ({each})."}

    def agree_time_words(self, call: Call) -> Updates:
        """The same of the greedy proof, by the measured cost of a plain step."""
        try:
            models = getattr(self.worker.engine, "models", None)
        except ModelError:  # nothing is loaded
            models = None
        curve = models.curve if models else None
        if models is None or curve is None or curve.borrowed:
            return {"time": ""}
        tokens, lanes = int(clamp(call["tokens"], 1, 512, 24)), 1 + len(models.loaded)
        step = curve.plain_s(curve.costs[0].context)
        seconds = len(self.titles) * lanes * tokens * step
        words = f"About {span(seconds)} and the reading of {len(self.titles)} prompts: {lanes} lanes of {tokens} tokens"
        return {"time": f"{words} each, at {1000 * step:.0f} ms a plain step as measured here, if no lane is faster."}

    # ---- proofs ------------------------------------------------------------------------------------------

    def draw(self, call: Call) -> Iterator[Updates]:
        """With the chosen sampler."""
        yield from self._draw(call, ())

    def draw_row(self, call: Call) -> Iterator[Updates]:
        """With every sampler, side by side."""
        yield from self._draw(call, SAMPLERS)

    def _draw(self, call: Call, samplers: Sequence[str]) -> Iterator[Updates]:
        try:
            request = draw_request(call)
        except ValueError as error:
            yield {"progress": progressed(1, str(error))}
            return
        if samplers:
            request = replace(request, seconds=ROW_SECONDS)
        yield {"progress": progressed(0, "Starting …"), "verdict": decided("", ""), "cards": "[]", "last": []}
        proofs: list[Proof] = []
        failed, wanted = None, len(samplers) or 1
        for _, event in self.worker.events(self.proof_job(call.session, request, samplers)):
            if isinstance(event, Proof):
                proofs.append(event)
                if len(proofs) < wanted:
                    yield {"cards": cards(proofs)}
            elif isinstance(event, Failed):
                failed = event.message
            else:
                yield self._progress(event)
        if len(proofs) == wanted:
            self.paces[self._pace_key(request.drafter)] = proofs[-1].evidence.pace
            yield {"progress": progressed(1, ""), **self._drawn(proofs), "last": proofs}
        else:
            yield {"progress": progressed(1, failed or "Stopped."), "last": failed or "The draws were stopped."}

    @staticmethod
    def _progress(event: Step | Waiting) -> Updates:
        if isinstance(event, Waiting):
            return {"progress": progressed(0, event.words)}
        left = "" if event.left_s is None else f"; about {span(event.left_s)} of that to go"
        return {"progress": progressed(event.share, event.words + (left if event.left_s else ""))}

    def _drawn(self, proofs: list[Proof]) -> Updates:
        kind, words = draw_verdict(proofs[0].evidence, proofs[0].info) if len(proofs) == 1 else row_verdict(proofs)
        return {
            "verdict": decided(kind, words, self.draw_details(proofs[0])),
            "cards": cards(proofs),
            "plot": draw_figure(proofs),
            "table": draw_table(proofs),
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
            if isinstance(event, Step | Waiting):
                yield self._progress(event)
            elif isinstance(event, Failed):
                failed = event.message
            else:
                found.append(event)
                verdict = decided(*agreement_verdict(found, len(self.titles)))
                yield {"verdict": verdict, "table": agreement_table(found, self.titles)}
        yield {"progress": progressed(1, failed or ("" if len(found) == len(self.titles) else "Stopped."))}

    def stop(self, call: Call) -> None:
        self.worker.stop(call.session)

    def proof_job(self, session: str, request: DrawRequest, samplers: Sequence[str] = ()) -> Job:
        """Its events: Steps, then a Proof for each of the samplers (by default the request's), or Failed."""

        def work(engine, job: Job):
            from ...proof.prove import prove

            models = engine.models
            for _ in models.read([request.drafter]):
                pass
            info = find(models.infos, request.drafter)
            if info is None:
                why = models.problems.get(request.drafter, "it is not configured for this target.")
                yield -1, Failed(f"{request.drafter or 'The drafter'} is not running: {why}")
                return
            target, drafter = models.target, models.loaded[info.id]
            prompt = target.encode_chat([{"role": "user", "content": request.prompt}])
            for _, event in prove(target, drafter, prompt, request, job.cancelled, samplers):
                yield -1, Proof.of(event, info, engine.token_bytes) if isinstance(event, DrawEvidence) else event

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
            n = gr.Slider(500, MAX_DRAWS, 10_000, step=500, label="Draws", info="of each sampler, while time lasts")
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
            f"{draws_made(e)}. {100 * e.kept:.0f} % of the first drafts were accepted; {e.bonuses:,} bonus tokens were "
            "compared.",
            f"Pairs: chi-squared {c.chi2:,.0f} with {c.freedom} degrees of freedom over {c.cells} cells (rare pairs "
            f"pooled; {e.prefixes} first tokens followed, {100 * e.followed:.0f} % of the probability).",
        ]
        if e.repeated:
            apart = "" if e.steady else " (on this device numbers depend on how many rows are computed together)"
            parts.append(
                f"{e.same} of {e.repeated} draws that the race’s own loop repeated with the same random numbers gave "
                f"the same tokens{apart}."
            )
        return " ".join([*parts, f"Took {e.seconds:.0f} s."])
