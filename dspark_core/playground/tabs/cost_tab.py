"""The Cost model tab: what a step costs on this machine, and what that makes of the last race.

What stands below the board after a race: sentences, one a line, as text and never as markup.
"""

import itertools
import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any

import gradio as gr
import plotly.graph_objects as go
from gradio.components import Component

from ...chart_style import COLOURS, DASHES, GREY
from ...decode.cost_curve import BUSY, CostCurve, Timing, between
from ...errors import ModelError
from ...machine import CPU_STREAMS
from ...models.info import DrafterInfo
from ...race.curve_match import difference
from ...race.forecast import (
    BUS,
    SAME,
    TAXI,
    Prospect,
    Suggestion,
    Transport,
    anchored,
    further_token_costs,
    predictions,
    raced_prospects,
    suggest,
)
from ...race.lane_spec import find
from ...race.metrics import metrics
from ...race.records import Failed, RaceRecord
from ...race.trace import Trace
from ..controls import Controls
from ..cost_parts import CostParts, Parts
from ..outside import loaded_command
from ..widgets import (
    FREE,
    PRIVATE,
    UNQUEUED,
    Call,
    Updates,
    decided,
    listen,
    progress,
    progressed,
    script,
    static,
    verdict_box,
)
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
NOT_YET = (
    "Not measured yet. It is measured while nothing else is asked for, which takes about a minute; Measure does it now."
)
BORROWED = (
    "Not measured here yet: until then another machine's shape serves ({machine}), scaled to a plain step. It is "
    "measured while nothing else is asked for; Measure does it now."
)
NO_RACE = "comes with a finished race, once the costs are measured here"
POINTS = "Each point is the median of {samples} samples; hollow ones lie between measured ones."
DOUBTFUL = (
    "This machine was busy while it was measured ({share:.0f} % of the time went to something else): the times may be "
    "too high. Measure when nothing else runs."
)
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


def to_spread(value: float, spread: float) -> float:
    """To no more digits than a spread allows."""
    digits = math.floor(math.log10(spread)) if spread > 0 else -3
    return round(value, -digits) if digits < 0 else float(round(value, -digits))


def three_digits(value: float) -> float:
    """What a speed or a ratio of speeds is known to, at most."""
    return float(f"{value:.3g}")


def machine_words(curve: CostCurve) -> str:
    """The curve in two or three sentences, for a visitor."""
    curve = curve.as_measured()
    costs = curve.costs[0]
    most_drafts = max((max(rows) for rows in costs.draft.values()), default=15)
    m = Transport.of(curve, costs.context, most_drafts)
    widest = costs.verify[max(costs.verify)]
    spread = 100 * widest.spread / max(1, max(costs.verify) - 2) / curve.plain_s(costs.context)
    each = f"{to_spread(100 * m.further, spread if spread > 1 else 1):.0f} % of a plain step"
    if m.kind == TAXI:
        words = (
            f"A metered taxi: each further token that is verified costs {each}. Send only what is likely to be kept."
        )
    elif m.kind == BUS:
        words = f"A chartered bus: once it runs, further tokens ride nearly free ({each} each). Send the whole block."
    else:
        words = f"Between a taxi and a bus: each further token that is verified costs {each}."
    if m.entrance > 1.3:
        words += f" Boarding is expensive: checking two tokens takes {m.entrance:.1f} plain steps."
    falls = [
        w for w in range(2, most_drafts + 2) if curve.verify_s(w, costs.context) < curve.verify_s(w - 1, costs.context)
    ]
    if falls:
        one = f"{falls[0]} tokens cost less than {falls[0] - 1}"
        words += f" Here {one}, beyond what the measurement may be off: another kernel takes over."
    wait = max((curve.wait_s(method) / curve.plain_s(costs.context) for method in costs.draft), default=0.0)
    if wait >= 0.05:
        words += f" Waiting for the confidences before verifying costs {100 * wait:.0f} % of a plain step."
    return (
        f"{words} The ceiling: were every draft accepted and drafting free, {m.drafts} drafts a round would give "
        f"{m.ceiling:.1f} × plain; no drafter can beat that here."
    )


def error_words(curve: CostCurve, race: RaceRecord) -> str:
    """How well the curve foretold the race."""
    drafting = [lane.spec.name for lane in race.lanes if lane.spec.speculative]
    found = [p for p in predictions(anchored(curve, race), race) if p.lane in drafting]
    if not found:
        return ""
    errors = [abs(p.error) for p in found]
    each = ", ".join(f"{p.lane} {f'{100 * p.error:+.0f}'.replace('-', '−')} %" for p in found)
    return f"Predicted against measured speed: {100 * statistics.median(errors):.0f} % off (median; {each})."


def suggestion_words(s: Suggestion) -> str:
    """One sentence."""

    def percent(share: float) -> str:
        return f"{100 * share:.0f} %"

    def drafts(cap: int) -> str:
        return f"{cap} draft{'s' * (cap > 1)} a round"

    to = f" of up to {drafts(s.known)}" if s.known else ""  # of longer ones the race tells nothing
    if s.cap == 0:
        near = f"the nearest, {drafts(s.best)}, is predicted at {s.times:.2f} × plain"
        nothing = f"{s.lane}: no fixed length{to} beats plain decoding on this text ({near})"
        if s.gain > SAME:
            return f"{nothing}; plain would gain {percent(s.gain)}."
        if s.gain < -SAME:
            return f"{nothing}; this lane did, by {percent(1 / (1 + s.gain) - 1)}."
        return f"{nothing}, and it lost next to nothing."
    best = f"{drafts(s.cap)}, about {s.tok_s:.{1 if s.tok_s < 100 else 0}f} tok/s"
    if s.gain > SAME:
        return f"{s.lane}: fastest{to} on this text would have been {best}, a predicted gain of {percent(s.gain)}."
    if s.gain <= 0:
        other = "" if s.gain else "other "
        return f"{s.lane}: no {other}fixed length{to} would have been faster on this text."
    more = f"the best, {best}: {percent(s.gain)} more"
    return f"{s.lane}: no fixed length{to} would have been clearly faster on this text ({more})."


def suggestions(curve: CostCurve | None, race: RaceRecord | None) -> list[str]:
    """What would have been best on the text of a race, a sentence a lane; none for a race too short to tell."""
    if curve is None or race is None or race.request.profile:
        return []
    long = {lane.spec.name for lane in race.lanes if len(lane.rounds) >= FEWEST_ROUNDS}
    return [suggestion_words(s) for s in suggest(curve, race) if s.lane in long]


# ---- figures and tables ----------------------------------------------------------------------------------


def curve_chart(curve: CostCurve | None, infos: Sequence[DrafterInfo] = ()) -> Chart:
    figure = blank_figure("tokens", "ms, with fastest and slowest")
    rows: list[list[Any]] = []

    def line(
        name: str, context: int, points: Mapping[int, Timing], taken: Callable[[int], float], colour: str, dash: str
    ) -> None:
        """Filled where measured, hollow between: the line is what is reckoned with."""
        every = range(min(points), max(points) + 1)
        spread = [points[k].spread if k in points else None for k in every]
        samples = [f"{points[k].n} samples" if k in points else "between measured points" for k in every]
        figure.add_scatter(
            name=name,
            x=[*every],
            y=[1000 * taken(k) for k in every],
            error_y={
                "type": "data",
                "array": [1000 * max(0.0, points[k].high - taken(k)) if k in points else None for k in every],
                "arrayminus": [1000 * max(0.0, taken(k) - points[k].low) if k in points else None for k in every],
                "thickness": 1,
                "width": 3,
            },
            customdata=samples,
            hovertemplate="%{x}: %{y:.3~g} ms, %{customdata}<extra>" + name + "</extra>",
            mode="lines+markers",
            marker={"symbol": ["circle-open" if s is None else "circle" for s in spread], "size": 7},
            line={"color": colour, "dash": dash, "width": 2.5},
        )
        for k in sorted(points):
            p, ms = points[k], 1000 * points[k].spread
            rows.append([name, k, context, *(to_spread(1000 * x, ms / 10) for x in (p.median, p.low, p.high)), p.n])

    for costs, dash in zip(curve.costs if curve else (), ("solid", "dash"), strict=False):
        n = costs.context
        line(f"verify, context {n}", n, costs.verify, partial(between, costs.verify_s), COLOURS[5], dash)
        line(f"plain step, context {n}", n, {1: costs.plain}, partial(between, costs.plain_s), COLOURS[0], dash)
    if curve:
        titles = [info.title for info in infos]
        order = [info.id for info in sorted(infos, key=lambda info: info.everywhere)]  # no race has those unasked
        costs = curve.costs[0]
        # A drafter has the colour of its lane in a race of plain decoding and all that is loaded.
        for i, drafter in enumerate(sorted(costs.draft, key=lambda d: order.index(d) if d in order else 99), start=1):
            info, taken = find(infos, drafter), partial(between, costs.draft_s[drafter])
            name = info.title if info and titles.count(info.title) == 1 else drafter
            line(f"draft, {name}", costs.context, costs.draft[drafter], taken, COLOURS[i % len(COLOURS)], "dot")
    figure.update_layout(yaxis={"rangemode": "tozero"}, xaxis={"dtick": 2, "rangemode": "tozero"}, height=360)
    return _cost_chart("curve", figure, rows)


def further_chart(curve: CostCurve | None) -> Chart:
    figure, rows = blank_figure("the n-th verified token", "ms more than one token fewer"), []
    for costs, colour in zip(curve.costs if curve else (), (GREY, "#5b6673"), strict=False):
        assert curve is not None
        added = further_token_costs(curve, costs.context, max(costs.verify))
        plain = curve.as_measured().plain_s(costs.context)
        # Hollow where the token or the one before it lies between measured points.
        known = [w in costs.verify and w - 1 in costs.verify for w, _ in added]
        figure.add_bar(
            name=f"context {costs.context}",
            x=[w for w, _ in added],
            y=[1000 * s for _, s in added],
            marker={
                "color": [colour if k else "rgba(0,0,0,0)" for k in known],
                "line": {"color": colour, "width": 1.5},
            },
        )
        for (w, s), _ in zip(added, known, strict=True):
            spread = max(
                t.spread for at, t in costs.verify.items() if abs(at - w) == min(abs(x - w) for x in costs.verify)
            )
            rows.append([w, costs.context, to_spread(1000 * s, 100 * spread), to_spread(s / plain, spread / plain)])
    figure.update_layout(barmode="group", xaxis={"dtick": 2}, yaxis={"rangemode": "tozero"}, height=360)
    return _cost_chart("further", figure, rows)


def prospects_chart(curve: CostCurve | None, race: RaceRecord | None) -> Chart:
    """What each cap would have given, a line a lane, and what was measured."""
    figure, rows = blank_figure("drafts sent a round (cap)", "tok/s"), []
    found: list[tuple[int, str, list[Prospect]]] = []  # a lane's place, its name, what each cap would have given
    if curve and race:
        place = {id(lane): i for i, lane in enumerate(race.lanes)}
        found = [(place[id(lane)], lane.spec.name, options) for lane, options in raced_prospects(curve, race)]
    for i, name, options in found:
        figure.add_scatter(
            name=name,
            x=[p.cap for p in options],
            y=[p.tok_s for p in options],
            mode="lines+markers",
            line={"color": COLOURS[i], "dash": DASHES[i], "width": 2.5},
        )
        rows += [[name, p.cap, *map(three_digits, (p.tok_s, p.times_plain, p.tokens, p.break_even))] for p in options]
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
        curve = anchored(curve, race)
        for p in predictions(curve, race):
            lane = lanes[p.lane]
            plain_s = sum(curve.plain_s(r.position) for r in lane.rounds)
            even = curve.seconds(lane.spec.drafter_id, lane.rounds) / plain_s
            error = float(round(100 * p.error))  # in whole per cent: no race tells more
            figures = (p.measured, p.predicted, error, metrics(lane).tokens_per_round, even)
            rows.append([p.lane, *(x if x is None else three_digits(x) for x in figures)])
    return _cost_table("lanes", rows)


def _cost_table(name: str, rows: list[list]) -> str:
    return table_value(name, COST_TITLES[name], COLUMNS[name], rows)


def _cost_chart(name: str, figure: go.Figure, rows: list[list]) -> Chart:
    if not rows:
        nothing_yet(figure, NO_RACE if name == "prospects" else "not measured yet")
    return Chart(figure, _cost_table(name, rows))


def advice_on(curve: CostCurve | None, race: RaceRecord | None, trace: Trace | None) -> list[str]:
    """What stands under the board: the suggestions for a race, or in one sentence why there can be none."""
    fits, why = race_judged(curve, race, trace)
    return [why] if why else suggestions(curve, fits)


def race_judged(curve: CostCurve | None, race: RaceRecord | None, trace: Trace | None) -> tuple[RaceRecord | None, str]:
    """The race on the board, if the curve says something about it, or why it does not. `trace` is the saved race; until
    there is one of the race on the board, there is nothing to say."""
    if curve is None or curve.borrowed or race is None or trace is None or trace.race is not race:
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
        streams = curve.made_of.get(CPU_STREAMS)
        on += f", layers on {streams}" if streams else ""
        measured = f"Measured {curve.when.replace('T', ' ')[:16]} in {curve.took_s:.0f} s on {on}"
        doubt = DOUBTFUL.format(share=100 * curve.busy) + " " if curve.busy >= BUSY else ""
        n = sorted(t.n for c in curve.costs for points in (c.verify, *c.draft.values()) for t in points.values())
        samples = f"{n[0]} to {n[-1]}" if n[0] < n[-1] else f"{n[0]}"
        where = f"{measured}; contexts of {contexts} tokens. {POINTS.format(samples=samples)}"
        about = decided("", doubt + machine_words(curve), where)
        if curve.borrowed:
            about = decided("", machine_words(curve), BORROWED.format(machine=curve.borrowed))
    words = why_not or f"This {NO_RACE}."
    if curve and race:
        words = " ".join([error_words(curve, race), *suggestions(curve, race)])
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
            parts = self.parts = CostParts(self.worker)  # inside: gradio numbers tabs by all children of gr.Tabs
            with gr.Column(elem_classes="chart proof"):
                static(INTRO)
                places = {"about": verdict_box("machine")}
                with gr.Row(elem_classes="buttons"):
                    again = gr.Button("Measure", elem_id="measure")
                    stop = gr.Button("Stop", elem_id="stop-measure")
                    measuring = progress("measuring")
            with gr.Column(elem_classes="chart"):
                parts.what_if.render()
            with gr.Row():
                places |= _chart_places("curve", curve_chart(None)) | _chart_places("further", further_chart(None))
            with gr.Row():
                places |= _chart_places("prospects", prospects_chart(None, None))
                with gr.Column(min_width=420, elem_classes="chart proof"):
                    static(f"<h3>{COST_TITLES['lanes']}</h3>")
                    places["forecast"] = verdict_box("forecast")
                    places["table lanes"] = table_place(forecast_table(None, None), "tools-lanes")
            with gr.Column(elem_classes="chart proof"):
                parts.users.render()
                with gr.Row(elem_classes="buttons"):
                    many = gr.Button("Measure up to 64 tokens in a pass", elem_id="measure-rows")
                    measuring_rows = progress("measuring-rows")
        saved = self.raced.saved
        places |= {"what if": parts.what_if, "users": parts.users}
        shown = {"race": self.raced.last, "trace": saved.trace, "races": saved.races, "asked": parts.asked}
        listen(tab.select, self.draw, shown, places, **FREE)
        listen(saved.trace.change, self.draw, shown, places, **FREE)
        working = {"progress": measuring, **places}
        listen(again.click, self.measure, shown, working, api_name="measure_costs", **ENGINE_USE)
        listen(stop.click, self.stop, {}, {}, **UNQUEUED)
        listen(parts.users.submit, self.simulate, shown, {"users": parts.users, "asked": parts.asked}, **FREE)
        working = {"progress": measuring_rows, "what if": parts.what_if, "users": parts.users}
        listen(many.click, self.measure_rows, shown, working, **ENGINE_USE | PRIVATE)

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
        return self._updates(curve, call)

    def _updates(self, curve: CostCurve | None, call: Call) -> Updates:
        parts, infos = self._parts(curve, call), self.ask.offers().infos
        more = {"what if": parts.what_if(), "users": parts.users(call["asked"])}
        return cost_updates(curve, *race_judged(curve, call["race"], call["trace"]), infos) | more

    def _parts(self, curve: CostCurve | None, call: Call) -> Parts:
        """A race that is not over says nothing yet."""
        race, trace = call["race"], call["trace"]
        over = race is not None and trace is not None and trace.race is race
        judged = race_judged(curve, race, trace)[0] is not None
        splits = getattr(self.worker.engine, "splits", ())
        return Parts(curve, race if over else None, judged, self.ask.offers().infos, call["races"], splits)

    def simulate(self, call: Call) -> Updates:
        """Another start point, drafter or seed for many users."""
        curve, asked = curve_of(self.worker, call.session) if self.worker.ready else None, self.parts.asked_of(call)
        return {"users": self._parts(curve, call).users(asked), "asked": asked}

    def measure_rows(self, call: Call) -> Iterator[Updates]:
        """Measure what passes of many tokens take, and draw both parts by it."""
        yield {"progress": progressed(0, "Starting …")}
        for value in self.parts.measure(call.session):
            yield {"progress": value}
        parts = self._parts(curve_of(self.worker, call.session) if self.worker.ready else None, call)
        yield {"what if": parts.what_if(), "users": parts.users(call["asked"])}

    def measure(self, call: Call) -> Iterator[Updates]:
        """Measure the curve of what is loaded, and judge the race on the board by it."""
        yield {"progress": progressed(0, "Starting …")}
        words = "Stopped."
        for _, event in self.worker.events(self.measuring_job(call.session)):
            if isinstance(event, CostCurve):
                words = ""
                yield {"progress": progressed(1, "Measured."), **self._updates(event, call)}
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
        words = advice_on(curve, race, call["trace"])
        return {"advice": json.dumps([*words, *self._outside(curve, *race_judged(curve, race, call["trace"]))])}

    def _outside(self, curve: CostCurve | None, race: RaceRecord | None, _: str) -> list[dict[str, str]]:
        """The fastest setting of a race as a command for another engine, where one beats plain decoding."""
        if not suggestions(curve, race) or curve is None or race is None:
            return []
        long = {lane.spec.name for lane in race.lanes if len(lane.rounds) >= FEWEST_ROUNDS}
        best = max((s for s in suggest(curve, race) if s.lane in long), key=lambda s: s.times)
        loaded = getattr(self.worker.engine, "choice", None)
        command = loaded_command(loaded, best.drafter, best.cap) if best.cap else ""
        return [{"words": "The same setting in mlx-dspark: ", "command": command}] if command else []

    @staticmethod
    def lookup_job(session: str) -> Job:
        """Its event: the CostCurve of what is loaded, another machine's if it was never measured."""

        def work(engine, job: Job):
            yield -1, engine.models.usable_curve()

        return Job(session, "read curve", work)

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
