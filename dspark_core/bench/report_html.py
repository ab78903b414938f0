"""The report as one HTML file: charts with the tables behind them, readable without a network.

plotly's own script stands in it, beside the few lines that draw.
"""

import html
import json
from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from ..chart_style import COLOURS, GREY, SYMBOLS, bar_marker, blank_layout, line_style, point_marker, with_plain_labels
from ..decode.cost_curve import CostCurve
from ..offline_page import offline_page
from ..paths import assets
from .figures import LOSS_RATIO, SLOWER_RATIO, Figures
from .log import Header
from .plan import SetPrompt
from .report_markdown import NONE_SLOWER, ReportTables, Table, curve_table, facts, heading

PLOTLY_NEEDS = "style-src 'unsafe-inline'", "img-src data: blob:"  # it styles what it draws, and saves it as an image

PAGE_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #6f7780; }
body { margin: 0 auto; max-width: 1280px; padding: 20px 28px 60px; font: 15px/1.5 system-ui, sans-serif; }
h1 { margin: 0 0 4px; font-size: 26px; } h2 { margin: 40px 0 4px; font-size: 20px; } h3 { margin: 18px 0 4px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 3px 12px 3px 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { white-space: normal; vertical-align: bottom; color: var(--soft); font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 4px 0 14px; padding-left: 12px; border-left: 3px solid var(--line); }
summary { cursor: pointer; }
"""  # noqa: E501


def report_page(header: Header, curve: CostCurve, figures: Figures, prompts: Sequence[SetPrompt]) -> str:
    report, charts = ReportTables(figures), ReportCharts(figures, curve)
    drawn = {
        "speed": charts.speed(),
        "every-prompt": charts.every_prompt(),
        "tokens-per-round": charts.tokens_per_round(),
        "acceptance": charts.acceptance(),
        "costs": charts.costs(),
        "predicted": charts.predicted(),
    }
    slow = report.slow_table()
    by_set = []
    for name in report.sets():
        versus = report.versus_table(name)
        by_set += [f"<h3>{html.escape(heading(name))}</h3>", _html_table(report.lanes_table(name))]
        by_set += [_html_table(versus)] if versus.rows else []
    texts = [f"<h3>{html.escape(f'{p.set} {p.index}')}</h3><pre>{html.escape(p.text)}</pre>" for p in prompts]
    described = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in facts(header))
    body = [
        "<h1>Decode speed</h1>",
        f"<dl>{described}</dl>",
        f"<p>{html.escape(report.method())}</p>",
        f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in report.sentences())}</ul>",
        _chart_place("speed", "Speed by lane"),
        *by_set,
        _chart_place("every-prompt", "Every prompt"),
        "<h3>Slowdowns</h3>",
        _html_table(slow) if slow.rows else f"<p>{html.escape(NONE_SLOWER)}</p>",
        _folded("Table of every prompt", _html_table(report.prompts_table())),
        _chart_place("tokens-per-round", "Tokens per round"),
        _chart_place("acceptance", "Acceptance by position"),
        _folded("Table", _html_table(report.slots_table())),
        _chart_place("costs", "What a step costs here"),
        _folded("Table", _html_table(curve_table(curve))),
        _chart_place("predicted", "Predicted against measured"),
        "<h2>Prompts</h2>",
        _folded("Their texts", "".join(texts)),
    ]
    draw = (assets() / "page" / "report.js").read_text("utf-8")
    data = {name: json.loads(with_plain_labels(chart).to_json()) for name, chart in drawn.items()}
    return offline_page(
        "Decode speed", PAGE_STYLE, "\n".join(body), ("charts", data), [get_plotlyjs(), draw], PLOTLY_NEEDS
    )


def _chart_place(name: str, title: str) -> str:
    label = f"{title}: a chart of the figures in the tables"
    return f'<h2>{title}</h2>\n<div id="{name}" role="img" aria-label="{label}"></div>'


def _html_table(table: Table) -> str:
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in table.head)
    rows = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>\n" for row in table.rows)
    return f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table></div>'


def _folded(summary: str, content: str) -> str:
    return f"<details><summary>{html.escape(summary)}</summary>{content}</details>"


def _blank_chart(x: str, y: str) -> go.Figure:
    return go.Figure(layout=blank_layout(x, y, 420, "#6f7780"))


class ReportCharts:
    """The report's charts (Plotly). Lanes and sets are told apart by colour and by pattern, dash or symbol."""

    def __init__(self, figures: Figures, curve: CostCurve):
        self.figures, self.curve = figures, curve

    def speed(self) -> go.Figure:
        """× plain by set and lane, with the bootstrap interval of the median."""
        chart, names = _blank_chart("", "× plain, median over prompts"), ReportTables(self.figures).sets()
        for i, lane in enumerate(self._lane_names()):
            of = {f.set: f for f in self.figures.lanes if f.lane == lane}
            rows = [of[name] for name in names if name in of]
            chart.add_bar(
                name=lane,
                x=[heading(f.set) for f in rows],
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
                marker=bar_marker(i),
            )
        self._rule(chart, 1.0)
        return chart.update_layout(barmode="group")

    def tokens_per_round(self) -> go.Figure:
        chart, names = _blank_chart("", "tokens per round, median over prompts"), ReportTables(self.figures).sets()
        for i, lane in enumerate(self._lane_names()):
            of = {f.set: f.tokens_per_round for f in self.figures.lanes if f.lane == lane}
            rows = [name for name in names if name in of]
            chart.add_bar(name=lane, x=[heading(n) for n in rows], y=[of[n] for n in rows], marker=bar_marker(i))
        return chart.update_layout(barmode="group")

    def acceptance(self) -> go.Figure:
        """By draft position, where every draft before was right."""
        chart = _blank_chart("draft position", "accepted, where all before were")
        for i, lane in enumerate(self._lane_names()):
            slots = [s for s in self.figures.slots if s.lane == lane]
            if slots:
                chart.add_scatter(
                    name=lane,
                    x=[s.slot for s in slots],
                    y=[s.accepted / s.reached for s in slots],
                    customdata=[s.reached for s in slots],
                    hovertemplate="position %{x}: %{y:.1%} of %{customdata}",
                    mode="lines+markers",
                    **line_style(i),
                )
        return chart.update_layout(xaxis={"dtick": 1}, yaxis={"range": [0, 1.02], "tickformat": ".0%"})

    def costs(self) -> go.Figure:
        """Verification by width and drafting by number of drafts, at every context measured, with the range."""
        chart, i = _blank_chart("tokens", "ms"), 0
        for c in self.curve.costs:
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
                    **line_style(i),
                )
                i += 1
            self._rule(chart, 1e3 * c.plain.median, f"plain step, context {c.context}")
        return chart.update_layout(xaxis={"dtick": 1}, yaxis={"rangemode": "tozero"})

    def every_prompt(self) -> go.Figure:
        """× plain of every prompt in every lane; the slower ones are named."""
        chart, single = _blank_chart("", "× plain"), dict.fromkeys(p.set for p in self.figures.prompts)
        lanes = [lane for lane in self._lane_names() if lane != "plain"]
        for i, name in enumerate(single):
            of = [p for p in self.figures.prompts if p.set == name and p.lane in lanes]
            order, width = sorted({p.prompt for p in of}), 0.8 / len(single)  # side by side within the lane's column
            shift = {n: -0.4 + width * (i + (k + 1) / (len(order) + 1)) for k, n in enumerate(order)}
            chart.add_scatter(
                name=name,
                x=[lanes.index(p.lane) + shift[p.prompt] for p in of],
                y=[p.times_plain for p in of],
                text=[f"{name} {p.prompt}" if p.times_plain < SLOWER_RATIO else "" for p in of],
                customdata=[[p.lane, p.prompt, p.tok_s, p.tokens_per_round] for p in of],
                hovertemplate="%{customdata[0]}, prompt %{customdata[1]}: %{y:.3f} × plain, "
                "%{customdata[2]:.2f} tok/s, %{customdata[3]:.2f} tokens per round",
                mode="markers+text",
                textposition="bottom center",
                textfont={"size": 11},
                marker={
                    "color": COLOURS[(i + 1) % len(COLOURS)],
                    "symbol": SYMBOLS[i % len(SYMBOLS)],
                    "size": 9,
                },
            )
        self._rule(chart, 1.0)
        self._rule(chart, LOSS_RATIO)
        columns = {"tickvals": list(range(len(lanes))), "ticktext": lanes, "range": [-0.5, len(lanes) - 0.5]}
        return chart.update_layout(xaxis=columns | {"showgrid": False, "zeroline": False})

    def predicted(self) -> go.Figure:
        """The cost curve's tok/s for the rounds that came about against the measured, prompt by prompt."""
        chart, most = _blank_chart("measured tok/s", "predicted tok/s"), 0.0
        for i, lane in enumerate(self._lane_names()):
            of = [p for p in self.figures.prompts if p.lane == lane and p.predicted is not None]
            if of:
                most = max(most, *(max(p.tok_s, p.predicted or 0.0) for p in of))
                chart.add_scatter(
                    name=lane,
                    x=[p.tok_s for p in of],
                    y=[p.predicted for p in of],
                    customdata=[[p.set, p.prompt, p.error] for p in of],
                    hovertemplate="%{customdata[0]} %{customdata[1]}: predicted %{y:.2f}, measured %{x:.2f} "
                    "(%{customdata[2]:+.1%})",
                    mode="markers",
                    marker=point_marker(i) | {"size": 8},
                )
        chart.add_shape(type="line", x0=0, y0=0, x1=most, y1=most, line={"color": GREY, "dash": "dot"})
        return chart.update_layout(xaxis={"rangemode": "tozero"}, yaxis={"rangemode": "tozero"})

    def _lane_names(self) -> Sequence[str]:
        return list(dict.fromkeys(f.lane for f in self.figures.lanes))

    @staticmethod
    def _rule(chart: go.Figure, y: float, text: str = "") -> None:
        chart.add_hline(y=y, line={"color": GREY, "dash": "dot"}, annotation_text=text, annotation_font={"size": 11})
