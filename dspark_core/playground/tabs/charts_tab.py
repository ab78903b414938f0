"""The charts of a finished race (Plotly), each with the table behind it.

Backgrounds are transparent and text takes the page's colours from board.css, so that one figure serves both
themes. Lanes are told apart by colour and by pattern or dash. Only bars and lines: the plotly.js that gradio
brings is older than plotly's own.

The charts tab: a plot with its table and downloads for every chart, and the profiled run.
"""

import json
from dataclasses import dataclass, replace

import gradio as gr
import plotly.graph_objects as go

from ...chart_style import COLOURS, DASHES, GREY, bar_marker
from ...race.metrics import MIN_SAMPLES, lengths, metrics, plain_metrics, positions, speed_over_time, spent, times_plain
from ...race.records import LaneRecord, RaceRecord
from ..controls import Controls
from ..conversation import Talk
from ..race_request import request_of
from ..stream import follow
from ..widgets import plain_text, script, static
from ..worker import Job, Worker
from .race_tab import ENGINE_USE, Raced

TITLES = {
    "speed": "tok/s by lane",
    "lengths": "Tokens per round, share of rounds",
    "conditional": "Acceptance by position, where all before were accepted",
    "cumulative": "Acceptance by position, of all rounds that sent it",
    "time": "tok/s over own time",
    "spent": "Where the time goes, from a profiled run",
}


@dataclass(frozen=True)
class Chart:
    """A figure and its numbers; `table` is JSON: name, title, columns, rows."""

    figure: go.Figure
    table: str


def charts(race: RaceRecord | None) -> dict[str, Chart]:
    """Every chart but "spent", by its name in TITLES; empty ones without a race."""
    lanes = race.lanes if race else []
    drafting = [(i, lane) for i, lane in enumerate(lanes) if lane.spec.speculative and lane.rounds]
    return {
        "speed": _speed(lanes),
        "lengths": _lengths(drafting),
        "conditional": _positions(drafting, "conditional"),
        "cumulative": _positions(drafting, "cumulative"),
        "time": _time(list(enumerate(lanes))),
    }


def spent_chart(race: RaceRecord | None) -> Chart:
    """Shares of draft, verify and rest of a profiled race."""
    rows = []
    for lane in race.lanes if race else []:
        parts = spent(lane.rounds)
        if parts:
            rounds = len(lane.rounds)
            each = [round(1000 * s / rounds, 2) for s in (parts.draft, parts.verify, parts.rest)]
            rows.append([lane.spec.name, *each, rounds])
    figure = blank_figure("ms a round")
    for k, part in enumerate(("draft", "verify", "rest"), start=1):
        figure.add_bar(
            name=part,
            y=[row[0] for row in rows],
            x=[row[k] for row in rows],
            orientation="h",
            marker=bar_marker(k),
        )
    figure.update_layout(barmode="stack", legend={"traceorder": "normal"}, yaxis={"autorange": "reversed"})
    return _chart("spent", figure, ["lane", "draft ms", "verify ms", "rest ms", "rounds"], rows)


def _speed(lanes: list[LaneRecord]) -> Chart:
    plain, rows = plain_metrics(lanes), []
    for lane in lanes:
        m = metrics(lane)
        times = times_plain(m, plain)
        rows.append(
            [
                lane.spec.name,
                *(_rounded(x) for x in (m.tok_s, times, m.tokens_per_round, m.acceptance, m.first_token_s)),
                m.tokens,
                m.rounds,
            ]
        )
    figure = blank_figure("tok/s")
    for i, row in enumerate(rows):
        text = (
            ""
            if row[1] is None
            else f"{row[1]:.{1 if row[1] < 100 else 0}f}" + (f" ({row[2]:.2f} ×)" if row[2] else "")
        )
        figure.add_bar(
            name=row[0],
            x=[row[1]],
            y=[row[0]],
            orientation="h",
            marker=bar_marker(i),
            text=[text],
            textposition="outside",
            cliponaxis=False,
        )
    fastest = max((row[1] or 0 for row in rows), default=0)
    figure.update_layout(showlegend=False, xaxis={"range": [0, 1.5 * fastest or 1]}, yaxis={"autorange": "reversed"})
    columns = ["lane", "tok/s", "× plain", "tokens per round", "acceptance rate", "first token s", "tokens", "rounds"]
    return _chart("speed", figure, columns, rows)


def _lengths(lanes: list[tuple[int, LaneRecord]]) -> Chart:
    figure, rows = blank_figure("tokens per round", "share of rounds"), []
    for i, lane in lanes:
        counts, rounds = lengths(lane.rounds), len(lane.rounds)
        shares = [round(n / rounds, 4) for n in counts.values()]
        figure.add_bar(name=lane.spec.name, x=list(counts), y=shares, marker=bar_marker(i))
        rows += [[lane.spec.name, k, n, share] for (k, n), share in zip(counts.items(), shares, strict=True)]
    figure.update_layout(barmode="group", showlegend=True, xaxis={"dtick": 1}, yaxis={"tickformat": ".0%"})
    return _chart("lengths", figure, ["lane", "tokens in the round", "rounds", "share"], rows)


def _positions(lanes: list[tuple[int, LaneRecord]], kind: str) -> Chart:
    figure, rows = blank_figure(f"draft position; grey: n < {MIN_SAMPLES}", "accepted"), []
    for i, lane in lanes:
        points = [
            (p.slot, getattr(p, kind), p.reached if kind == "conditional" else p.sent) for p in positions(lane.rounds)
        ]
        points = [p for p in points if p[2]]
        marker = bar_marker(i)
        marker["color"] = [COLOURS[i] if n >= MIN_SAMPLES else GREY for _, _, n in points]
        marker["opacity"] = [1.0 if n >= MIN_SAMPLES else 0.45 for _, _, n in points]
        marker["line"] = {"color": COLOURS[i], "width": 1.5}  # whose bar it is, also where it is grey
        figure.add_bar(
            name=lane.spec.name,
            x=[slot for slot, _, _ in points],
            y=[share for _, share, _ in points],
            marker=marker,
            customdata=[n for _, _, n in points],
            hovertemplate="position %{x}: %{y:.0%}, n = %{customdata}",
            text=_counts([n for _, _, n in points]),
            textposition="outside",
            textangle=-90,
            textfont={"size": 11},
            constraintext="none",
            cliponaxis=False,
        )
        rows += [[lane.spec.name, slot, round(share, 4), n, n >= MIN_SAMPLES] for slot, share, n in points]
    figure.update_layout(
        barmode="group",
        showlegend=True,
        xaxis={"dtick": 1},
        yaxis={"tickformat": ".0%", "range": [0, 1.15], "dtick": 0.25},
    )
    return _chart(kind, figure, ["lane", "position", "accepted", "n", f"at least {MIN_SAMPLES} rounds"], rows)


def _counts(counts: list[int]) -> list[str]:
    """What stands on the bars: a count is told where it changes."""
    return ["" if i and n == counts[i - 1] else f"n={n}" for i, n in enumerate(counts)]


def _time(lanes: list[tuple[int, LaneRecord]]) -> Chart:
    figure, rows = blank_figure("own time, s", "tok/s, last 16 tokens"), []
    for i, lane in lanes:
        points = [(round(t, 4), round(s, 3)) for t, s in speed_over_time(lane.rounds)]
        figure.add_scatter(
            name=lane.spec.name,
            x=[t for t, _ in points],
            y=[s for _, s in points],
            mode="lines",
            line={"color": COLOURS[i], "dash": DASHES[i], "width": 2.5},
        )
        rows += [[lane.spec.name, t, s] for t, s in points]
    figure.update_layout(xaxis={"rangemode": "tozero"}, yaxis={"rangemode": "tozero"})
    return _chart("time", figure, ["lane", "own time s", "tok/s"], rows)


def blank_figure(x: str, y: str = "") -> go.Figure:
    axis = {"gridcolor": "rgba(128,128,128,0.25)", "zerolinecolor": "rgba(128,128,128,0.5)", "automargin": True}
    return go.Figure(
        layout=go.Layout(
            template="none",
            paper_bgcolor="rgba(0,0,0,0)",
            plot_bgcolor="rgba(0,0,0,0)",
            font={"family": "IBM Plex Sans, system-ui, sans-serif", "size": 14, "color": "#6b727a"},
            margin={"l": 56, "r": 24, "t": 12, "b": 48},
            height=300,
            legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
            xaxis={**axis, "title": {"text": x, "font": {"size": 13}}},
            yaxis={**axis, "title": {"text": y, "font": {"size": 13}, "standoff": 10}},
            bargap=0.25,
        )
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _chart(name: str, figure: go.Figure, columns: list[str], rows: list[list]) -> Chart:
    if not rows:
        figure.update_layout(xaxis={"visible": False}, yaxis={"visible": False})
        figure.add_annotation(text="nothing to show yet", showarrow=False, xref="paper", yref="paper", x=0.5, y=0.5)
    table = {"name": name, "title": TITLES[name], "columns": columns, "rows": rows}
    return Chart(figure, json.dumps(table))


PROFILE_TOKENS = 32
TABLE = '<div class="chart-table" tabindex="0" role="region"></div>'  # assets/page/chart.js names it
SAVE_PNG = '<button type="button" data-save="png">PNG</button>'
SAVES = """<div class="chart-saves">{}<button type="button" data-save="csv">CSV</button>
<button type="button" data-save="json">JSON</button></div>"""
CHART_TOOLS = f"<details><summary>Table</summary>{TABLE}</details>{SAVES.format(SAVE_PNG)}"  # below a plot
TABLE_TOOLS = TABLE + SAVES.format("")  # a table that stands alone


def charts_tab(worker: Worker, ask: Controls, raced: Raced) -> None:
    with gr.Tab("Charts", id="charts"):
        empty = charts(None) | {"spent": spent_chart(None)}
        places = {}
        for pair in zip(*[iter(TITLES)] * 2, strict=True):
            with gr.Row():
                for name in pair:
                    with gr.Column(min_width=420, elem_classes="chart") as card:
                        places[name] = _place(name, empty[name])
        with card, gr.Row(elem_id="profile-row"):  # in the last card, which shows what it measures
            profile = gr.Button(f"Measure it: one short race, {PROFILE_TOKENS} tokens", size="sm", elem_id="profile")
            profiled = plain_text("", "profiled")

    def measure(visitor: gr.Request, talk: Talk, *values):
        """Race again, briefly and with a synchronisation after every part of a round."""
        try:
            request = request_of(*values, offers=ask.offers())
        except ValueError as error:
            yield str(error), *[gr.skip()] * 2
            return
        short = replace(request.settings, max_tokens=min(PROFILE_TOKENS, request.settings.max_tokens))
        request = replace(request, settings=short, together=False, profile=True, earlier=talk.earlier)
        yield "Measuring …", *[gr.skip()] * 2
        race = None
        for _, seen in follow(worker, Job(request, visitor.session_hash)):
            race = seen or race
        if race is None:
            yield "Nothing was measured.", *[gr.skip()] * 2
            return
        chart = spent_chart(race)
        words = "Stopped." if race.stopped else "Measured with a synchronisation after every part."
        yield words, chart.figure, chart.table

    def draw(seen: RaceRecord | None):
        return [part for chart in charts(seen).values() for part in (chart.figure, chart.table)]

    raced.last.change(
        draw,
        raced.last,
        [part for name in charts(None) for part in places[name]],
        trigger_mode="always_last",
        show_progress="hidden",
        api_visibility="private",
    )
    profile.click(
        measure, [ask.talk.earlier, *ask.asked], [profiled, *places["spent"]], api_name="profile", **ENGINE_USE
    )


def _place(name: str, empty: Chart) -> tuple[gr.Plot, gr.HTML]:
    """A plot with its title above, its table and downloads below."""
    static(f"<h3>{TITLES[name]}</h3>")
    plot = gr.Plot(empty.figure, show_label=False, container=False, elem_id=f"plot-{name}")
    tools = gr.HTML(
        empty.table,
        html_template=CHART_TOOLS,
        js_on_load=script("chart"),
        apply_default_css=False,
        elem_id=f"tools-{name}",
    )
    return plot, tools
