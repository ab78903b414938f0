"""The Cost model tab: what a step costs on this machine, and what that makes of the last race.

What stands below the board after a race: sentences, one a line, as text and never as markup.
"""

import itertools
import json
import statistics
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import gradio as gr
import plotly.graph_objects as go
from gradio.components import Component

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
from ...race.lane_spec import find
from ...race.metrics import metrics
from ...race.records import Failed, RaceRecord
from ...race.trace import Trace
from ..controls import Controls
from ..widgets import FREE, UNQUEUED, Call, Updates, decided, listen, progress, progressed, script, static, verdict_box
from ..worker import Job, Waiting, Worker
from .charts_tab import (
    Chart,
    blank_figure,
    chart_place,
    chart_updates,
    nothing_yet,
    table_place,
    table_value,
)
from .race_tab import ENGINE_USE, Raced

COST_TITLES = {
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
LOOKUPS = itertools.count(1)


# ---- work for the owner thread ---------------------------------------------------------------------------


def curve_of(worker: Worker, session: str) -> CostCurve | None:
    """The curve of what is loaded, if it was ever measured."""
    try:
        models = getattr(worker.engine, "models", None)
    except ModelError:  # nothing is loaded
        return None
    if models is None:
        return None
    if models.curve is None:
        if worker.busy(session):
            return None
        # Under a name of its own: a page has one job at a time, and this one, which nobody asked for, must not be why
        # a race or a measurement that a visitor starts meanwhile is refused.
        with closing(worker.events(CostTab.lookup_job(f"{session} lookup {next(LOOKUPS)}"))) as events:
            return next((event for _, event in events if isinstance(event, CostCurve)), None)
    return models.curve


# ---- in words --------------------------------------------------------------------------------------------


def machine_words(curve: CostCurve) -> str:
    """The curve in two or three sentences, for a visitor."""
    most_drafts = max((max(rows) for rows in curve.costs[0].draft.values()), default=15)
    m = Transport.of(curve, curve.costs[0].context, most_drafts)
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


def suggestion_words(s: Suggestion, infos: Sequence[DrafterInfo] = ()) -> str:
    """One sentence."""
    info = find(infos, s.drafter)
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


def suggestions(curve: CostCurve | None, race: RaceRecord | None, infos: Sequence[DrafterInfo] = ()) -> list[str]:
    """What would have been best on the text of a race, a sentence a lane; none for a race too short to tell."""
    if curve is None or race is None or race.request.profile:
        return []
    long = {lane.spec.name for lane in race.lanes if len(lane.rounds) >= FEWEST_ROUNDS}
    return [suggestion_words(s, infos) for s in suggest(curve, race) if s.lane in long]


# ---- figures and tables ----------------------------------------------------------------------------------


def curve_chart(curve: CostCurve | None, infos: Sequence[DrafterInfo] = ()) -> Chart:
    figure = blank_figure("tokens", "ms, with fastest and slowest")
    rows: list[list[Any]] = []

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
    if curve:
        titles = [info.title for info in infos]
        for i, (drafter, points) in enumerate(curve.costs[0].draft.items(), start=1):
            info = find(infos, drafter)
            name = info.title if info and titles.count(info.title) == 1 else drafter
            line(f"draft, {name}", points, curve.costs[0].context, min(i, 2), "dot")
    figure.update_layout(yaxis={"rangemode": "tozero"}, xaxis={"dtick": 2, "rangemode": "tozero"}, height=360)
    return _cost_chart("curve", figure, rows)


def further_chart(curve: CostCurve | None) -> Chart:
    figure, rows = blank_figure("the n-th verified token", "ms more than one token fewer"), []
    if curve:
        for i, costs in enumerate(curve.costs):
            added, plain = further_token_costs(curve, costs.context, max(costs.verify)), curve.plain_s(costs.context)
            figure.add_bar(
                name=f"context {costs.context}",
                x=[w for w, _ in added],
                y=[1000 * s for _, s in added],
                marker=bar_marker(i),
            )
            rows += [[w, costs.context, round(1000 * s, 2), round(s / plain, 3)] for w, s in added]
    figure.update_layout(barmode="group", xaxis={"dtick": 2}, height=360)
    return _cost_chart("further", figure, rows)


def prospects_chart(curve: CostCurve | None, race: RaceRecord | None) -> Chart:
    """What each cap would have given, a line a lane, and what was measured."""
    figure, rows = blank_figure("drafts sent a round (cap)", "tok/s"), []
    found: list[tuple[int, str, list[Prospect]]] = []  # a lane's place, its name, what each cap would have given
    if curve and race:
        lanes = [(i, lane) for i, lane in enumerate(race.lanes) if lane.spec.speculative]
        options_of = [(i, lane, prospects(curve, lane, race.request.settings.greedy)) for i, lane in lanes]
        found = [(i, lane.spec.name, options) for i, lane, options in options_of if options]
    for i, name, options in found:
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
    if race and found:
        _add_measured(figure, race)
    figure.update_layout(yaxis={"rangemode": "tozero"}, xaxis={"dtick": 1}, height=360)
    return _cost_chart("prospects", figure, rows)


def _add_measured(figure: go.Figure, race: RaceRecord) -> None:
    timed = [(i, lane, metrics(lane).tok_s) for i, lane in enumerate(race.lanes)]
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


def forecast_table(curve: CostCurve | None, race: RaceRecord | None) -> str:
    rows = []
    if curve and race:
        lanes = {lane.spec.name: lane for lane in reversed(race.lanes)}
        for p in predictions(curve, race):
            lane = lanes[p.lane]
            plain_s = sum(curve.plain_s(r.position) for r in lane.rounds)
            even = curve.seconds(lane.spec.drafter_id, lane.rounds) / plain_s
            figures = (p.measured, p.predicted, 100 * p.error, metrics(lane).tokens_per_round, even)
            rows.append([p.lane, *(x if x is None else round(x, 3) for x in figures)])
    return _cost_table("lanes", rows)


def _cost_table(name: str, rows: list[list]) -> str:
    return table_value(name, COST_TITLES[name], COLUMNS[name], rows)


def _cost_chart(name: str, figure: go.Figure, rows: list[list]) -> Chart:
    if not rows:
        nothing_yet(figure)
    return Chart(figure, _cost_table(name, rows))


def advice_on(
    curve: CostCurve | None, race: RaceRecord | None, trace: Trace | None, infos: Sequence[DrafterInfo] = ()
) -> list[str]:
    """What stands under the board: the suggestions for a race, or in one sentence why there can be none."""
    fits, why = race_judged(curve, race, trace)
    return [why] if why else suggestions(curve, fits, infos)


def race_judged(curve: CostCurve | None, race: RaceRecord | None, trace: Trace | None) -> tuple[RaceRecord | None, str]:
    """The race on the board, if the curve says something about it, or why it does not. `trace` is the saved race; until
    there is one of the race on the board, there is nothing to say."""
    if curve is None or race is None or trace is None or trace.race is not race:
        return None, ""
    why = difference(curve, trace)
    return (None, why) if why else (race, "")


def cost_updates(
    curve: CostCurve | None, race: RaceRecord | None, why_not: str = "", infos: Sequence[DrafterInfo] = ()
) -> Updates:
    """Values of everything in the tab that shows something; `why_not` says why there is no race."""
    about = decided("", "", NOT_YET)
    if curve:
        contexts = " and ".join(str(c.context) for c in curve.costs)
        on = ", ".join(curve.made_of[k] for k in ("device", "precision") if curve.made_of.get(k))
        measured = f"Measured {curve.when.replace('T', ' ')[:16]} in {curve.took_s:.0f} s on {on}"
        about = decided("", machine_words(curve), f"{measured}; contexts of {contexts} tokens.")
    words = " ".join([error_words(curve, race), *suggestions(curve, race, infos)]) if curve and race else why_not
    return {
        "about": about,
        **chart_updates("curve", curve_chart(curve, infos)),
        **chart_updates("further", further_chart(curve)),
        **chart_updates("prospects", prospects_chart(curve, race)),
        "forecast": decided("", words),
        "table lanes": forecast_table(curve, race),
    }


# ---- the tab ---------------------------------------------------------------------------------------------


class CostTab:
    """The tab, and the advice that stands below the board."""

    def __init__(self, worker: Worker, ask: Controls, raced: Raced):
        self.worker, self.ask, self.raced = worker, ask, raced

    def build(self) -> None:
        with gr.Tab("Cost model", id="cost", elem_id="cost") as tab:
            with gr.Column(elem_classes="chart proof"):
                static(INTRO)
                places = {"about": verdict_box("machine")}
                with gr.Row(elem_classes="buttons"):
                    again = gr.Button("Measure again", elem_id="measure")
                    stop = gr.Button("Stop", elem_id="stop-measure")
                    measuring = progress("measuring")
            with gr.Row():
                places |= _chart_places("curve", curve_chart(None)) | _chart_places("further", further_chart(None))
            with gr.Row():
                places |= _chart_places("prospects", prospects_chart(None, None))
                with gr.Column(min_width=420, elem_classes="chart proof"):
                    static(f"<h3>{COST_TITLES['lanes']}</h3>")
                    places["forecast"] = verdict_box("forecast")
                    places["table lanes"] = table_place(forecast_table(None, None), "tools-lanes")
        saved = self.raced.saved.trace
        shown = {"race": self.raced.last, "trace": saved}
        listen(tab.select, self.draw, shown, places, **FREE)
        listen(saved.change, self.draw, shown, places, **FREE)
        working = {"progress": measuring, **places}
        listen(again.click, self.measure, shown, working, api_name="measure_costs", **ENGINE_USE)
        listen(stop.click, self.stop, {}, {}, **UNQUEUED)

    def build_advice(self) -> None:
        """The place for advice: filled when a race is over and emptied when the next one begins."""
        with self.raced.below:
            place = gr.HTML(
                "[]",
                html_template='<ul class="advice" hidden></ul>',
                js_on_load=script("suggestions"),
                apply_default_css=False,
                elem_id="advice",
            )
        race, trace = self.raced.last, self.raced.saved.trace
        listen(self.ask.start.click, self.forget, {}, {"advice": place}, **UNQUEUED)
        shown = {"race": race, "trace": trace}
        listen(trace.change, self.advise, shown, {"advice": place}, **FREE)

    def draw(self, call: Call) -> Updates:
        curve = curve_of(self.worker, call.session) if self.worker.ready else None
        return cost_updates(curve, *race_judged(curve, call["race"], call["trace"]), self.ask.offers().infos)

    def measure(self, call: Call) -> Iterator[Updates]:
        """Measure the curve of what is loaded, and judge the race on the board by it."""
        yield {"progress": progressed(0, "Starting …")}
        words = "Stopped."
        for _, event in self.worker.events(self.measuring_job(call.session)):
            if isinstance(event, CostCurve):
                words = ""
                judged = race_judged(event, call["race"], call["trace"])
                yield {"progress": progressed(1, "Measured."), **cost_updates(event, *judged, self.ask.offers().infos)}
            elif isinstance(event, Failed):
                words = event.message
            elif isinstance(event, Waiting):
                yield {"progress": progressed(0, event.words)}
            else:
                yield {"progress": progressed(event.share, "measuring, in mixed order")}
        if words:
            yield {"progress": progressed(1, words)}

    def stop(self, call: Call) -> None:
        self.worker.stop(call.session)

    def forget(self, call: Call) -> Updates:
        """A race begins: what was said of the one before goes."""
        return {"advice": "[]"}

    def advise(self, call: Call) -> Updates:
        """A race is over: what would have been best for it."""
        race = call["race"]
        if race is None or not self.worker.ready:
            return {"advice": "[]"}
        curve = curve_of(self.worker, call.session)
        return {"advice": json.dumps(advice_on(curve, race, call["trace"], self.ask.offers().infos))}

    @staticmethod
    def lookup_job(session: str) -> Job:
        """Its event: the CostCurve of what is loaded, or None if it was never measured."""

        def work(engine, job: Job):
            yield -1, engine.models.known_curve()

        return Job(session, "lookup", work)

    @staticmethod
    def measuring_job(session: str) -> Job:
        """Its events: Measuring, how far it is; then the CostCurve."""

        def work(engine, job: Job):
            for event in engine.models.measure_curve():
                yield -1, event
                if job.cancelled():
                    return

        return Job(session, "measurement", work)


def _chart_places(name: str, empty: Chart) -> dict[str, Component]:
    with gr.Column(min_width=420, elem_classes="chart"):
        plot, table = chart_place(name, COST_TITLES[name], empty)
    return {f"plot {name}": plot, f"table {name}": table}
