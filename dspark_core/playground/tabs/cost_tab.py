"""The Cost model tab: what a step costs on this machine, and what that makes of the last race.

What stands below the board after a race: sentences, one a line, as text and never as markup.
"""

import json
import statistics

import gradio as gr
import plotly.graph_objects as go

from ...chart_style import COLOURS, DASHES, bar_marker
from ...decode.cost_curve import CostCurve
from ...errors import ModelError
from ...models.info import DrafterInfo
from ...race.curve_match import difference
from ...race.forecast import (
    BUS,
    SAME,
    TAXI,
    Prospect,
    Suggestion,
    Transport,
    further_token_costs,
    predictions,
    prospects,
    suggest,
)
from ...race.metrics import metrics
from ...race.records import Failed, RaceRecord
from ...race.trace import Trace
from ..controls import Controls
from ..race_request import USUAL, Offers, offers_of
from ..widgets import decided, progress, progressed, script, static, verdict_box
from ..worker import Job, Worker, watch
from .charts_tab import CHART_TOOLS, TABLE_TOOLS, blank_figure
from .race_tab import ENGINE_USE, Raced

TITLES = {
    "curve": "What a step costs, by tokens verified or drafted",
    "further": "What each further verified token adds",
    "prospects": "Speed by cap, predicted from the last race",
    "lanes": "Predicted against measured, last race",
}
COLUMNS = {
    "curve": ["what", "tokens", "context", "median ms", "fastest ms", "slowest ms", "measured times"],
    "further": ["token", "context", "adds ms", "adds, share of a plain step"],
    "prospects": ["lane", "cap", "tok/s", "× plain", "tokens per round", "break-even tokens per round"],
    "lanes": [
        "lane",
        "measured tok/s",
        "predicted tok/s",
        "error %",
        "tokens per round",
        "break-even tokens per round",
    ],
}
INTRO = """
<h3>A metered taxi or a chartered bus?</h3>
<p>Plain decoding pays one step for each token. Speculation pays for drafting and for one wider step that checks several
tokens at once. Whether that saves time depends on this machine: here is what a step costs on it, as measured, and what
that made of the last race.</p>
"""
NOT_YET = "Not measured yet. Measuring takes about half a minute; a race with the hardware-aware schedule does it too."
FEWEST_ROUNDS = 8  # of a lane, for advice


# ---- work for the owner thread ---------------------------------------------------------------------------


def look_up(engine, cancelled):
    from ...race.loaded import known

    yield -1, known(engine.models)


def measure(engine, cancelled):
    from ...race.loaded import measured

    events = measured(engine.models)
    try:
        for event in events:
            yield -1, event
            if cancelled():
                return
    finally:
        events.close()


def curve_of(worker: Worker, session: str) -> CostCurve | None:
    """The curve of what is loaded, if it was ever measured."""
    try:
        models = getattr(worker.engine, "models", None)
    except ModelError:  # nothing is loaded
        return None
    if models is None:
        return None
    if models.curve is None:
        return next((c for c in watch(worker, Job(None, session, look_up)) if isinstance(c, CostCurve)), None)
    return models.curve


# ---- in words --------------------------------------------------------------------------------------------


def machine_words(curve: CostCurve) -> str:
    """The curve in two or three sentences, for a visitor."""
    m = Transport.of(curve, curve.costs[0].context, most_drafts(curve))
    each = f"{100 * m.further:.0f} % of a plain step"
    if m.kind == TAXI:
        words = (
            f"A metered taxi: each further token that is verified costs {each}. Send only what is likely to be kept."
        )
    elif m.kind == BUS:
        words = f"A chartered bus: once it runs, further tokens ride nearly free ({each} each). Send the whole block."
    else:
        words = f"Between a taxi and a bus: each further token that is verified costs {each}."
    if m.entrance > 1.3:
        words += f" Boarding is dear: checking two tokens takes {m.entrance:.1f} plain steps."
    return (
        f"{words} The ceiling: were every draft accepted and drafting free, {m.drafts} drafts a round would give "
        f"{m.ceiling:.1f} × plain; no drafter can beat that here."
    )


def measured_words(curve: CostCurve) -> str:
    made = curve.made_of
    contexts = " and ".join(str(c.context) for c in curve.costs)
    on = ", ".join(made[k] for k in ("device", "precision") if made.get(k))
    return (
        f"Measured {curve.when.replace('T', ' ')[:16]} in {curve.took_s:.0f} s on {on}; contexts of {contexts} tokens."
    )


def most_drafts(curve: CostCurve) -> int:
    return max((max(rows) for rows in curve.costs[0].draft.values()), default=15)


def error_words(curve: CostCurve, race: RaceRecord) -> str:
    """How well the curve foretold the race."""
    found = predictions(curve, race)
    if not found:
        return ""
    errors = [abs(p.error) for p in found]
    each = ", ".join(f"{p.lane} {100 * p.error:+.0f} %" for p in found)
    return f"Predicted against measured speed: {100 * statistics.median(errors):.0f} % off (median; {each})."


def setting(info: DrafterInfo | None, cap: int) -> str:
    return f"block length {info.length(cap)}" if info and info.by_block else f"a cap of {cap}"


def suggestion_words(s: Suggestion, offers: Offers = USUAL) -> str:
    """One sentence."""
    info = offers.get(s.method)
    if s.cap == 0:
        near = f"the nearest, {setting(info, s.best)}, is predicted at {s.times:.2f} × plain"
        if s.gain > SAME:
            return (
                f"{s.lane}: no fixed length beats plain decoding on this text ({near}); plain would gain {s.gain:.0%}."
            )
        return f"{s.lane}: no fixed length beats plain decoding on this text ({near}), and it lost next to nothing."
    best = f"{setting(info, s.cap)}, about {s.tok_s:.1f} tok/s"
    if s.gain > SAME:
        return f"{s.lane}: fastest on this text would have been {best}, a predicted gain of {s.gain:.0%}."
    return f"{s.lane}: no fixed length would have been faster on this text (the best, {best}, gains {s.gain:+.0%})."


def suggestions(curve: CostCurve | None, race: RaceRecord | None, offers: Offers = USUAL) -> list[str]:
    """What would have been best on the text of a race, a sentence a lane; none for a race too short to tell."""
    if curve is None or race is None or race.request.profile:
        return []
    long = {lane.spec.name for lane in race.lanes if len(lane.rounds) >= FEWEST_ROUNDS}
    return [suggestion_words(s, offers) for s in suggest(curve, race) if s.lane in long]


# ---- figures and tables ----------------------------------------------------------------------------------


def curve_figure(curve: CostCurve | None) -> tuple[go.Figure, str]:
    figure, rows = blank_figure("tokens", "ms, with fastest and slowest"), []

    def line(name, points, context, i, dash):
        at = sorted(points)
        t = [points[k] for k in at]
        figure.add_scatter(
            name=name,
            x=at,
            y=[1000 * p.median for p in t],
            error_y={
                "type": "data",
                "array": [1000 * (p.high - p.median) for p in t],
                "arrayminus": [1000 * (p.median - p.low) for p in t],
                "thickness": 1,
                "width": 3,
            },
            mode="lines+markers",
            line={"color": COLOURS[i], "dash": dash, "width": 2.5},
        )
        rows.extend(
            [name, k, context, *(round(1000 * x, 2) for x in (p.median, p.low, p.high)), p.n]
            for k, p in zip(at, t, strict=True)
        )

    for costs, dash in zip(curve.costs if curve else (), ("solid", "dash"), strict=False):
        line(f"verify, context {costs.context}", costs.verify, costs.context, 0, dash)
        line(f"plain step, context {costs.context}", {1: costs.plain}, costs.context, 3, dash)
    for i, (method, points) in enumerate(curve.costs[0].draft.items() if curve else (), start=1):
        line(f"draft, {method}", points, curve.costs[0].context, min(i, 2), "dot")
    figure.update_layout(yaxis={"rangemode": "tozero"}, xaxis={"dtick": 2, "rangemode": "tozero"}, height=360)
    return _finished("curve", figure, rows)


def further_figure(curve: CostCurve | None) -> tuple[go.Figure, str]:
    figure, rows = blank_figure("the n-th verified token", "ms more than one token fewer"), []
    for i, costs in enumerate(curve.costs if curve else ()):
        added = further_token_costs(curve, costs.context, max(costs.verify))
        figure.add_bar(
            name=f"context {costs.context}",
            x=[w for w, _ in added],
            y=[1000 * s for _, s in added],
            marker=bar_marker(i),
        )
        plain = curve.plain_s(costs.context)
        rows += [[w, costs.context, round(1000 * s, 2), round(s / plain, 3)] for w, s in added]
    figure.update_layout(barmode="group", xaxis={"dtick": 2}, height=360)
    return _finished("further", figure, rows)


def prospects_figure(curve: CostCurve | None, race: RaceRecord | None) -> tuple[go.Figure, str]:
    figure, rows = blank_figure("drafts sent a round (cap)", "tok/s"), []
    lanes = race.lanes if race and curve else []
    foretold: list[tuple[int, str, list[Prospect]]] = []
    for i, lane in enumerate(lanes):
        options = prospects(curve, lane, race.request.settings.greedy) if lane.spec.speculative else []
        if options:
            foretold.append((i, lane.spec.name, options))
    for i, name, options in foretold:
        figure.add_scatter(
            name=name,
            x=[p.cap for p in options],
            y=[p.tok_s for p in options],
            mode="lines+markers",
            line={"color": COLOURS[i], "dash": DASHES[i], "width": 2.5},
        )
        rows += [
            [name, p.cap, *(round(x, 3) for x in (p.tok_s, p.times_plain, p.tokens, p.break_even))] for p in options
        ]
    timed = [(i, lane, metrics(lane).tok_s) for i, lane in enumerate(lanes)] if foretold else []
    timed = [(i, lane, tok_s) for i, lane, tok_s in timed if tok_s]
    if timed:
        figure.add_scatter(
            name="as measured",
            x=[statistics.fmean(r.proposed for r in lane.rounds) for _, lane, _ in timed],
            y=[tok_s for _, _, tok_s in timed],
            text=[lane.spec.name for _, lane, _ in timed],
            mode="markers",
            marker={
                "color": [COLOURS[i] for i, _, _ in timed],
                "size": 13,
                "symbol": "diamond",
                "line": {"width": 1, "color": "#888"},
            },
        )
    figure.update_layout(yaxis={"rangemode": "tozero"}, xaxis={"dtick": 1}, height=360)
    return _finished("prospects", figure, rows)


def lanes_table(curve: CostCurve | None, race: RaceRecord | None) -> str:
    rows = []
    for p in predictions(curve, race) if curve and race else []:
        lane = next(x for x in race.lanes if x.spec.name == p.lane)
        even = curve.seconds(lane.spec.drafter_id, lane.rounds) / sum(curve.plain_s(r.position) for r in lane.rounds)
        tokens = metrics(lane).tokens_per_round
        rows.append([p.lane, *(round(x, 3) for x in (p.measured, p.predicted, 100 * p.error, tokens, even))])
    return _table("lanes", rows)


def _table(name: str, rows: list[list]) -> str:
    return json.dumps({"name": name, "title": TITLES[name], "columns": COLUMNS[name], "rows": rows})


def _finished(name: str, figure: go.Figure, rows: list[list]) -> tuple[go.Figure, str]:
    if not rows:
        figure.update_layout(xaxis={"visible": False}, yaxis={"visible": False})
        figure.add_annotation(text="nothing to show yet", showarrow=False, xref="paper", yref="paper", x=0.5, y=0.5)
    return figure, _table(name, rows)


def advice_on(
    curve: CostCurve | None, race: RaceRecord | None, trace: Trace | None, offers: Offers = USUAL
) -> list[str]:
    """What stands under the board: the suggestions for a race, or in one sentence why there can be none."""
    fits, why = judged(curve, race, trace)
    return [why] if why else suggestions(curve, fits, offers)


def judged(curve: CostCurve | None, race: RaceRecord | None, trace: Trace | None) -> tuple[RaceRecord | None, str]:
    """The race on the board, if the curve says something about it, or why it does not. `trace` is the kept race; until
    the one on the board is kept, nothing is said."""
    if curve is None or race is None or trace is None or trace.race is not race:
        return None, ""
    why = difference(curve, trace)
    return (None, why) if why else (race, "")


def drawn(curve: CostCurve | None, race: RaceRecord | None, why_not: str = "", offers: Offers = USUAL) -> list:
    """Values of everything in the tab that shows something, in the order of `cost_tab`; `why_not` says why there is
    no race."""
    about = decided("", machine_words(curve), measured_words(curve)) if curve else decided("", "", NOT_YET)
    words = " ".join([error_words(curve, race), *suggestions(curve, race, offers)]) if curve and race else why_not
    told = decided("", words)
    figures = [*curve_figure(curve), *further_figure(curve), *prospects_figure(curve, race)]
    return [about, *figures, told, lanes_table(curve, race)]


# ---- the tab ---------------------------------------------------------------------------------------------


def cost_tab(worker: Worker, raced: Raced) -> None:
    empty = drawn(None, None)
    with gr.Tab("Cost model", id="cost", elem_id="cost") as tab:
        with gr.Column(elem_classes="chart proof"):
            static(INTRO)
            about = verdict_box("machine")
            with gr.Row(elem_classes="buttons"):
                again = gr.Button("Measure again", elem_id="measure")
                stop = gr.Button("Stop", elem_id="stop-measure")
                measuring = progress("measuring")
        with gr.Row():
            curve = _chart("curve", *empty[1:3])
            further = _chart("further", *empty[3:5])
        with gr.Row():
            forecast = _chart("prospects", *empty[5:7])
            with gr.Column(min_width=420, elem_classes="chart proof"):
                static(f"<h3>{TITLES['lanes']}</h3>")
                told = verdict_box("forecast")
                lanes = _tools("lanes", empty[8], TABLE_TOOLS)
    places = [about, *curve, *further, *forecast, told, lanes]

    def draw(visitor: gr.Request, seen, trace):
        curve = curve_of(worker, visitor.session_hash) if worker.ready else None
        return drawn(curve, *judged(curve, seen, trace), offers_of(worker.engine))

    def run(visitor: gr.Request, seen, trace):
        stay = [gr.skip()] * len(places)
        yield progressed(0, "Starting …"), *stay
        words = "Stopped."
        for event in watch(worker, Job(None, visitor.session_hash, measure)):
            if isinstance(event, CostCurve):
                words = ""
                yield progressed(1, "Measured."), *drawn(event, *judged(event, seen, trace), offers_of(worker.engine))
            elif isinstance(event, Failed):
                words = event.message
            else:
                yield progressed(event.share, getattr(event, "words", "measuring, in mixed order")), *stay
        if words:
            yield progressed(1, words), *stay

    def halt(visitor: gr.Request):
        worker.stop(visitor.session_hash)

    quietly = {"show_progress": "hidden", "api_visibility": "private"}
    shown = [raced.last, raced.kept.trace]
    tab.select(draw, shown, places, concurrency_limit=None, **quietly)
    raced.kept.trace.change(draw, shown, places, concurrency_limit=None, **quietly)
    again.click(run, shown, [measuring, *places], api_name="measure_costs", **ENGINE_USE)
    stop.click(halt, queue=False, **quietly)


def _chart(name: str, figure: go.Figure, table: str) -> tuple[gr.Plot, gr.HTML]:
    with gr.Column(min_width=420, elem_classes="chart"):
        static(f"<h3>{TITLES[name]}</h3>")
        plot = gr.Plot(figure, show_label=False, container=False, elem_id=f"plot-{name}")
        return plot, _tools(name, table, CHART_TOOLS)


def _tools(name: str, table: str, template: str) -> gr.HTML:
    return gr.HTML(
        table,
        html_template=template,
        js_on_load=script("chart"),
        apply_default_css=False,
        elem_id=f"tools-{name}",
    )


def advice(worker: Worker, ask: Controls, raced: Raced) -> None:
    """The place for advice, filled when a race is over and emptied when the next one begins."""
    place = gr.HTML(
        "[]",
        html_template='<ul class="advice" hidden></ul>',
        js_on_load=script("suggestions"),
        apply_default_css=False,
        elem_id="advice",
    )

    def advise(visitor: gr.Request, seen, trace):
        if seen is None or not worker.ready:
            return "[]"
        return json.dumps(advice_on(curve_of(worker, visitor.session_hash), seen, trace, ask.offers()))

    quietly = {"show_progress": "hidden", "api_visibility": "private"}
    ask.start.click(lambda: "[]", None, place, queue=False, **quietly)
    raced.kept.trace.change(advise, [raced.last, raced.kept.trace], place, concurrency_limit=None, **quietly)
