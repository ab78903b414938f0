"""The charts of a finished race (Plotly), each with the table behind it.

Backgrounds are transparent and text takes the page's colours from board.css, so that one figure serves both
themes. Lanes are told apart by colour and by pattern or dash. Only bars and lines: the plotly.js that gradio
brings is older than plotly's own.

The charts tab: a plot with its table and downloads for every chart, and the profiled run.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

import gradio as gr
import plotly.graph_objects as go
from gradio.components import Component

from ...chart_style import COLOURS, DASHES, GREY, bar_marker, blank_layout, line_style, with_plain_labels
from ...race.metrics import MIN_SAMPLES, lengths, metrics, plain_metrics, positions, speed_over_time, spent, times_plain
from ...race.records import LaneRecord, RaceRecord
from ...race.reliability import Reliability
from ..controls import Controls
from ..stream import board_updates
from ..widgets import QUIET, Call, Updates, listen, plain_text, script, static
from ..worker import Worker
from .race_tab import ENGINE_USE, Raced, asked_race, race_inputs

PARTS = ("draft", "verify", "rest")
FEWEST = 5  # a share of fewer rounds than this is left out of the chart; the table has it
TITLES = {
    "speed": "tok/s by lane",
    "lengths": "Tokens per round, share of rounds",
    "conditional": "Acceptance by position, where all before were accepted",
    "cumulative": "Acceptance by position, of all rounds that sent it",
    "time": "tok/s over own time",
    "reliability": "How sure was the drafter, and was it right?",
    "spent": "Where the time goes, from a profiled run",
}
NO_CONFIDENCES = "no lane asked for confidences: a threshold does, hardware-aware where it pays"


@dataclass(frozen=True)
class Chart:
    """A figure and its numbers; `table` is JSON: name, title, columns, rows. What is written in it is never markup."""

    figure: go.Figure
    table: str

    def __post_init__(self) -> None:
        with_plain_labels(self.figure)


class RaceCharts:
    """The charts of one race; empty ones without a race."""

    def __init__(self, race: RaceRecord | None):
        self.lanes: list[LaneRecord] = race.lanes if race else []
        self.drafting = [(i, lane) for i, lane in enumerate(self.lanes) if lane.spec.speculative and lane.rounds]

    def drawn(self) -> dict[str, Chart]:
        """Every chart but "spent", by its name in TITLES."""
        by_position = {kind: self.positions(kind) for kind in ("conditional", "cumulative")}
        return {
            "speed": self.speed(),
            "lengths": self.lengths(),
            **by_position,
            "time": self.time(),
            "reliability": self.reliability(),
        }

    def spent(self) -> Chart:
        """Shares of draft, verify and rest, of a profiled race."""
        rows = []
        for lane in self.lanes:
            parts = spent(lane.rounds)
            if parts:
                rounds = len(lane.rounds)
                each = [round(1000 * s / rounds, 2) for s in (parts.draft, parts.verify, parts.rest)]
                rows.append([lane.spec.name, *each, rounds])
        figure = blank_figure("ms a round")
        for k, part in enumerate(PARTS, start=1):
            figure.add_bar(
                name=part,
                y=[row[0] for row in rows],
                x=[row[k] for row in rows],
                orientation="h",
                marker=bar_marker(len(PARTS) + k),  # no lane's colour
            )
        figure.update_layout(barmode="stack", legend={"traceorder": "normal"}, yaxis={"autorange": "reversed"})
        columns = ["lane", "draft ms", "verify ms", "rest ms", "rounds"]
        return self._finished("spent", figure, columns, rows, "not measured yet: “Measure it” below does")

    def speed(self) -> Chart:
        plain, rows, figure, fastest = plain_metrics(self.lanes), [], blank_figure("tok/s"), 0.0
        for i, lane in enumerate(self.lanes):
            m = metrics(lane)
            tok_s, times = _rounded(m.tok_s), _rounded(times_plain(m, plain))
            fastest = max(fastest, tok_s or 0.0)
            others = [_rounded(x) for x in (m.tokens_per_round, m.acceptance, m.first_token_s)]
            words = (
                "" if tok_s is None else f"{tok_s:.{1 if tok_s < 100 else 0}f}" + (f" ({times:.2f} ×)" if times else "")
            )
            rows.append([lane.spec.name, tok_s, times, *others, m.tokens, m.rounds])
            figure.add_bar(
                name=lane.spec.name,
                x=[tok_s],
                y=[lane.spec.name],
                orientation="h",
                marker=bar_marker(i),
                text=[words],
                textposition="outside",
                cliponaxis=False,
            )
        figure.update_layout(
            showlegend=False,
            xaxis={"range": [0, 1.7 * fastest or 1], "tickangle": 0, "nticks": 5},
            yaxis={"autorange": "reversed"},
        )
        columns = [
            "lane",
            "tok/s",
            "× plain",
            "tokens per round",
            "acceptance rate",
            "first token s",
            "tokens",
            "rounds",
        ]
        chart = self._finished("speed", figure, columns, rows)
        # Two lines each, in markup, so behind what takes it from the names: wide labels leave a narrow chart no bars.
        names = [bar.y[0] for bar in figure.data]
        figure.update_layout(yaxis={"tickvals": names, "ticktext": [n.replace(" · ", "<br>", 1) for n in names]})
        for bar in figure.data:
            bar.text = [words.replace(" (", "<br>").rstrip(")") for words in bar.text]
        return chart

    def lengths(self) -> Chart:
        figure, rows = blank_figure("tokens per round", "share of rounds"), []
        for i, lane in self.drafting:
            counts, rounds = lengths(lane.rounds), len(lane.rounds)
            shares = [round(n / rounds, 4) for n in counts.values()]
            width = 0.8 / len(self.drafting)  # else two bars far apart are as wide as what is between them
            figure.add_bar(name=lane.spec.name, x=list(counts), y=shares, marker=bar_marker(i), width=width)
            rows += [[lane.spec.name, k, n, share] for (k, n), share in zip(counts.items(), shares, strict=True)]
        figure.update_layout(barmode="group", showlegend=True, xaxis={"dtick": 1}, yaxis={"tickformat": ".0%"})
        return self._finished("lengths", figure, ["lane", "tokens in the round", "rounds", "share"], rows)

    def positions(self, kind: str) -> Chart:
        """`kind`: a position where all before were accepted ("conditional"), or of all rounds that sent it."""
        figure, rows = blank_figure(f"position; grey n < {MIN_SAMPLES}, left out n < {FEWEST}", "accepted"), []
        for i, lane in self.drafting:
            points = [
                (p.slot, getattr(p, kind), p.reached if kind == "conditional" else p.sent)
                for p in positions(lane.rounds)
            ]
            rows += [[lane.spec.name, slot, round(share, 4), n, n >= MIN_SAMPLES] for slot, share, n in points if n]
            points = [p for p in points if p[2] >= FEWEST]
            counts = [n for _, _, n in points]
            marker = bar_marker(i)
            marker["color"] = [COLOURS[i] if n >= MIN_SAMPLES else GREY for n in counts]
            marker["opacity"] = [1.0 if n >= MIN_SAMPLES else 0.45 for n in counts]
            marker["line"] = {"color": COLOURS[i], "width": 1.5}  # whose bar it is, also where it is grey
            figure.add_bar(
                name=lane.spec.name,
                x=[slot for slot, _, _ in points],
                y=[share for _, share, _ in points],
                marker=marker,
                customdata=counts,
                hovertemplate="position %{x}: %{y:.0%}, n = %{customdata}",
                text=["" if k and len(counts) > 8 and n == counts[k - 1] else f"n={n}" for k, n in enumerate(counts)],
                textposition="outside",
                textangle=-90,
                textfont={"size": 11},
                constraintext="none",
                cliponaxis=False,
            )
        figure.update_layout(
            barmode="group",
            showlegend=True,
            xaxis={"dtick": 1},
            yaxis={"tickformat": ".0%", "range": [0, 1.15], "dtick": 0.25},
        )
        if any("" in bar.text for bar in figure.data):
            figure.update_xaxes(title_text=f"{figure.layout.xaxis.title.text}; no n: as at its left")
        return self._finished(
            kind, figure, ["lane", "position", "accepted", "n", f"at least {MIN_SAMPLES} rounds"], rows
        )

    def time(self) -> Chart:
        figure, rows, latest = blank_figure("own time, s", "tok/s, last 16 tokens"), [], 0.0
        for i, lane in enumerate(self.lanes):
            points = [(round(t, 4), round(s, 3)) for t, s in speed_over_time(lane.rounds)]
            latest = max([latest, *(t for t, _ in points)])
            figure.add_scatter(
                name=lane.spec.name,
                x=[t for t, _ in points],
                y=[s for _, s in points],
                mode="lines",
                line={"color": COLOURS[i], "dash": DASHES[i], "width": 2.5},
            )
            rows += [[lane.spec.name, t, s] for t, s in points]
        figure.update_layout(xaxis={"range": [0, 1.02 * latest or 1]}, yaxis={"rangemode": "tozero"})
        short = "too short a race: this takes more than 16 tokens" if any(x.rounds for x in self.lanes) else ""
        return self._finished("time", figure, ["lane", "own time s", "tok/s"], rows, short)

    def reliability(self) -> Chart:
        """Confidence against the share accepted, of lanes whose schedule asked for confidences."""
        figure, rows = blank_figure("confidence", "accepted"), []
        for i, lane in self.drafting:
            found = Reliability(lane.rounds)
            if found.error is None:
                continue
            shares = [round(b.accepted / b.n, 4) for b in found.bins]
            style = line_style(i)
            style["marker"] |= {"size": 9, "opacity": [1.0 if b.n >= MIN_SAMPLES else 0.35 for b in found.bins]}
            figure.add_scatter(
                name=f"{lane.spec.name}, off by {100 * (found.error or 0):.0f} %",
                x=[round(b.confidence, 4) for b in found.bins],
                y=shares,
                mode="lines+markers",
                customdata=[b.n for b in found.bins],
                hovertemplate="%{x:.0%} sure: %{y:.0%} accepted, n = %{customdata}",
                **style,
            )
            pairs = zip(found.bins, shares, strict=True)
            rows += [[lane.spec.name, b.low, b.high, round(b.confidence, 4), share, b.n] for b, share in pairs]
        figure.add_scatter(
            name="as often right as sure", x=[0, 1], y=[0, 1], mode="lines", line={"color": GREY, "dash": "dot"}
        )
        both = {"tickformat": ".0%", "range": [0, 1.02], "dtick": 0.25}
        figure.update_layout(showlegend=True, xaxis=both, yaxis=both)
        columns = ["lane", "from", "to", "mean confidence", "accepted", "n"]
        chart = self._finished("reliability", figure, columns, rows)
        if not rows:
            figure.data = []
            if self.drafting:
                figure.layout.annotations[0].text = NO_CONFIDENCES
        return chart

    @staticmethod
    def _finished(name: str, figure: go.Figure, columns: list[str], rows: list[list], why: str = "") -> Chart:
        """`why` there is nothing, where it is not that there was no race."""
        if not rows:
            nothing_yet(figure, why or "nothing to show yet")
        return Chart(figure, table_value(name, TITLES[name], columns, rows))


def blank_figure(x: str, y: str = "") -> go.Figure:
    return go.Figure(layout=blank_layout(x, y, 300) | {"bargap": 0.25})


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def nothing_yet(figure: go.Figure, words: str = "nothing to show yet") -> None:
    """Show words in place of a figure's axes."""
    figure.update_layout(xaxis={"visible": False}, yaxis={"visible": False})
    figure.add_annotation(text=words, showarrow=False, xref="paper", yref="paper", x=0.5, y=0.5)


def table_value(name: str, title: str, columns: list[str], rows: list[list]) -> str:
    """A table as assets/page/chart.js reads it."""
    return json.dumps({"name": name, "title": title, "columns": columns, "rows": rows})


PROFILE_TOKENS = 32
TABLE = '<div class="chart-table" tabindex="0" role="region"></div>'  # assets/page/chart.js names it
SAVE_PNG = '<button type="button" data-save="png">PNG</button>'
SAVES = """<div class="chart-saves">{}<button type="button" data-save="csv">CSV</button>
<button type="button" data-save="json">JSON</button></div>"""
CHART_TOOLS = f"<details><summary>Table</summary>{TABLE}</details>{SAVES.format(SAVE_PNG)}"  # below a plot
TABLE_TOOLS = TABLE + SAVES.format("")  # a table that stands alone


def table_place(table: str, elem_id: str, template: str = TABLE_TOOLS) -> gr.HTML:
    """A table with its downloads, or by `template` the tools below a plot."""
    return gr.HTML(table, html_template=template, js_on_load=script("chart"), apply_default_css=False, elem_id=elem_id)


def chart_place(name: str, title: str, empty: Chart) -> tuple[gr.Plot, gr.HTML]:
    """A plot with its title above, its table and downloads below."""
    static(f"<h3>{title}</h3>")
    plot = gr.Plot(empty.figure, show_label=False, container=False, elem_id=f"plot-{name}")
    return plot, table_place(empty.table, f"tools-{name}", CHART_TOOLS)


def chart_updates(name: str, chart: Chart) -> Updates:
    """A chart's two values, as outputs called "plot NAME" and "table NAME" take them."""
    return {f"plot {name}": chart.figure, f"table {name}": chart.table}


class ChartsTab:
    def __init__(self, worker: Worker, ask: Controls, raced: Raced):
        self.worker, self.ask, self.raced = worker, ask, raced

    def build(self) -> None:
        empty = RaceCharts(None).drawn() | {"spent": RaceCharts(None).spent()}
        places: dict[str, Component] = {}
        with gr.Tab("Charts", id="charts"):
            names = list(TITLES)
            for at in range(0, len(names), 2):
                with gr.Row():
                    for name in names[at : at + 2]:
                        with gr.Column(min_width=420, elem_classes="chart") as card:
                            plot, table = chart_place(name, TITLES[name], empty[name])
                            places |= {f"plot {name}": plot, f"table {name}": table}
            with card, gr.Row(elem_id="profile-row"):  # in the last card, which shows what it measures
                profile = gr.Button(
                    f"Measure it: one short race, {PROFILE_TOKENS} tokens", size="sm", elem_id="profile"
                )
                profiled = plain_text("", "profiled")
        last = self.raced.last
        listen(last.change, self.draw, {"last": last}, places, trigger_mode="always_last", **QUIET)
        shown = {"words": profiled, **places}
        listen(profile.click, self.measure, race_inputs(self.ask), shown, api_name="profile", **ENGINE_USE)

    def draw(self, call: Call) -> Updates:
        """Every chart of the race on the board but the profiled one's."""
        return {
            key: value
            for name, c in RaceCharts(call["last"]).drawn().items()
            for key, value in chart_updates(name, c).items()
        }

    def measure(self, call: Call) -> Iterator[Updates]:
        """Race again, briefly and with a synchronisation after every part of a round."""
        try:
            request = asked_race(self.ask, call)
        except ValueError as error:
            yield {"words": str(error)}
            return
        short = replace(request.settings, max_tokens=min(PROFILE_TOKENS, request.settings.max_tokens))
        request = replace(request, settings=short, together=False, profile=True)
        yield {"words": "Measuring …"}
        last = None
        try:
            for _, race in board_updates(self.worker, request, call.session):
                last = race or last
        except ValueError as error:
            yield {"words": str(error)}
            return
        if last is None:
            yield {"words": "Nothing was measured."}
            return
        words = "Stopped." if last.stopped else "Measured with a synchronisation after every part."
        yield {"words": words, **chart_updates("spent", RaceCharts(last).spent())}
