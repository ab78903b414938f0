"""The report's charts (Plotly). Lanes and sets are told apart by colour and by pattern, dash or symbol."""

import html
from collections.abc import Sequence

import plotly.graph_objects as go

from ..decode.cost_curve import CostCurve
from .figures import LOSS, SLOWER, Figures
from .words import heading, sets

COLOURS = ("#7a8592", "#2a86cf", "#d9662a", "#9a62c0", "#2f9e63", "#c2413b", "#8a7a2a", "#3aa6a6")
PATTERNS = ("", "/", "x", ".", "\\", "+", "-", "|")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "5px,2px", "2px,6px")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon")
GREY = "#9aa0a6"


def speed(figures: Figures) -> go.Figure:
    """× plain by set and lane, with the bootstrap interval of the median."""
    chart, names = _blank("", "× plain, median over prompts"), sets(figures)
    for i, lane in enumerate(_lanes(figures)):
        of = {f.set: f for f in figures.lanes if f.lane == lane}
        rows = [of[name] for name in names if name in of]
        chart.add_bar(
            name=lane,
            x=[_plain(heading(f.set)) for f in rows],
            y=[f.times_plain.median for f in rows],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [f.times_plain.high - f.times_plain.median for f in rows],
                "arrayminus": [f.times_plain.median - f.times_plain.low for f in rows],
                "color": GREY,
            },
            customdata=[[f.tok_s, f.prompts] for f in rows],
            hovertemplate="%{y:.3f} × plain, %{customdata[0]:.2f} tok/s, %{customdata[1]} prompts",
            marker=_marker(i),
        )
    _level(chart, 1.0)
    return chart.update_layout(barmode="group")


def tokens_per_round(figures: Figures) -> go.Figure:
    chart, names = _blank("", "tokens per round, median over prompts"), sets(figures)
    for i, lane in enumerate(_lanes(figures)):
        of = {f.set: f.tokens_per_round for f in figures.lanes if f.lane == lane}
        rows = [name for name in names if name in of]
        chart.add_bar(name=lane, x=[_plain(heading(n)) for n in rows], y=[of[n] for n in rows], marker=_marker(i))
    return chart.update_layout(barmode="group")


def acceptance(figures: Figures) -> go.Figure:
    """By draft position, where every draft before was right."""
    chart = _blank("draft position", "accepted, where all before were")
    for i, lane in enumerate(_lanes(figures)):
        slots = [s for s in figures.slots if s.lane == lane]
        if slots:
            chart.add_scatter(
                name=lane,
                x=[s.slot for s in slots],
                y=[s.accepted / s.reached for s in slots],
                customdata=[s.reached for s in slots],
                hovertemplate="position %{x}: %{y:.1%} of %{customdata}",
                mode="lines+markers",
                **_line(i),
            )
    return chart.update_layout(xaxis={"dtick": 1}, yaxis={"range": [0, 1.02], "tickformat": ".0%"})


def costs(curve: CostCurve) -> go.Figure:
    """Verification by width and drafting by number of drafts, at every measured context, with the range measured."""
    chart, i = _blank("tokens", "ms"), 0
    for c in curve.costs:
        kinds = [("verify", c.verify), *((f"draft {m}", points) for m, points in c.draft.items())]
        for kind, points in kinds:
            timings = list(points.values())
            chart.add_scatter(
                name=f"{kind}, context {c.context}",
                x=list(points),
                y=[1e3 * t.median for t in timings],
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [1e3 * (t.high - t.median) for t in timings],
                    "arrayminus": [1e3 * (t.median - t.low) for t in timings],
                },
                mode="lines+markers",
                **_line(i),
            )
            i += 1
        _level(chart, 1e3 * c.plain.median, f"plain step, context {c.context}")
    return chart.update_layout(xaxis={"dtick": 1}, yaxis={"rangemode": "tozero"})


def every_prompt(figures: Figures) -> go.Figure:
    """× plain of every prompt in every lane; the slower ones are named."""
    chart, single = _blank("", "× plain"), dict.fromkeys(p.set for p in figures.prompts)
    lanes = [lane for lane in _lanes(figures) if lane != "plain"]
    for i, name in enumerate(single):
        of = [p for p in figures.prompts if p.set == name and p.lane in lanes]
        order, width = sorted({p.prompt for p in of}), 0.8 / len(single)  # side by side within the lane's column
        shift = {n: -0.4 + width * (i + (k + 1) / (len(order) + 1)) for k, n in enumerate(order)}
        chart.add_scatter(
            name=_plain(name),
            x=[lanes.index(p.lane) + shift[p.prompt] for p in of],
            y=[p.times_plain for p in of],
            text=[_plain(f"{name} {p.prompt}") if p.times_plain < SLOWER else "" for p in of],
            customdata=[[p.lane, p.prompt, p.tok_s, p.tokens_per_round] for p in of],
            hovertemplate="%{customdata[0]}, prompt %{customdata[1]}: %{y:.3f} × plain, %{customdata[2]:.2f} tok/s, "
            "%{customdata[3]:.2f} tokens per round",
            mode="markers+text",
            textposition="bottom center",
            textfont={"size": 11},
            marker={"color": COLOURS[(i + 1) % len(COLOURS)], "symbol": SYMBOLS[i % len(SYMBOLS)], "size": 9},
        )
    _level(chart, 1.0)
    _level(chart, LOSS)
    columns = {"tickvals": list(range(len(lanes))), "ticktext": lanes, "range": [-0.5, len(lanes) - 0.5]}
    return chart.update_layout(xaxis=columns | {"showgrid": False, "zeroline": False})


def predicted(figures: Figures) -> go.Figure:
    """The cost curve's tok/s for the rounds that came about against the measured, prompt by prompt."""
    chart, most = _blank("measured tok/s", "predicted tok/s"), 0.0
    for i, lane in enumerate(_lanes(figures)):
        of = [p for p in figures.prompts if p.lane == lane and p.predicted is not None]
        if of:
            most = max(most, *(max(p.tok_s, p.predicted) for p in of))
            chart.add_scatter(
                name=lane,
                x=[p.tok_s for p in of],
                y=[p.predicted for p in of],
                customdata=[[_plain(p.set), p.prompt, p.error] for p in of],
                hovertemplate="%{customdata[0]} %{customdata[1]}: predicted %{y:.2f}, measured %{x:.2f} "
                "(%{customdata[2]:+.1%})",
                mode="markers",
                marker={"color": COLOURS[i % len(COLOURS)], "symbol": SYMBOLS[i % len(SYMBOLS)], "size": 8},
            )
    chart.add_shape(type="line", x0=0, y0=0, x1=most, y1=most, line={"color": GREY, "dash": "dot"})
    return chart.update_layout(xaxis={"rangemode": "tozero"}, yaxis={"rangemode": "tozero"})


def _plain(text: str) -> str:
    """Plotly takes some tags in its labels for markup."""
    return html.escape(text)


def _lanes(figures: Figures) -> Sequence[str]:
    return list(dict.fromkeys(f.lane for f in figures.lanes))


def _marker(i: int) -> dict:
    pattern = {"shape": PATTERNS[i % len(PATTERNS)], "fillmode": "overlay", "solidity": 0.25}
    return {"color": COLOURS[i % len(COLOURS)], "pattern": pattern}


def _line(i: int) -> dict:
    colour = COLOURS[i % len(COLOURS)]
    marker = {"color": colour, "symbol": SYMBOLS[i % len(SYMBOLS)]}
    return {"line": {"color": colour, "dash": DASHES[i % len(DASHES)]}, "marker": marker}


def _level(chart: go.Figure, y: float, text: str = "") -> None:
    chart.add_hline(y=y, line={"color": GREY, "dash": "dot"}, annotation_text=text, annotation_font={"size": 11})


def _blank(x: str, y: str) -> go.Figure:
    axis = {"gridcolor": "rgba(128,128,128,0.25)", "zerolinecolor": "rgba(128,128,128,0.5)", "automargin": True}
    return go.Figure(
        layout=go.Layout(
            template="none",
            paper_bgcolor="rgba(0,0,0,0)",
            plot_bgcolor="rgba(0,0,0,0)",
            font={"family": "system-ui, sans-serif", "size": 14, "color": "#6f7780"},
            margin={"l": 60, "r": 24, "t": 12, "b": 48},
            height=420,
            legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
            xaxis=axis | {"title": {"text": x}},
            yaxis=axis | {"title": {"text": y}},
        )
    )
