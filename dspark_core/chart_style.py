"""How charts tell lanes apart, on the page and in reports: by colour and by pattern, dash or symbol. No library.

What is written in a chart: Plotly takes some tags in names and labels for markup, links among them, and much of that
text is from a file.
"""

from html import escape
from typing import Any

# On any page.
COLOURS = ("#7a8592", "#2a86cf", "#d9662a", "#9a62c0", "#2f9e63", "#c2413b", "#8a7a2a", "#3aa6a6")
PATTERNS = ("", "/", "x", ".", "\\", "+", "-", "|")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "5px,2px", "2px,6px")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon")
GREY = "#9aa0a6"  # of rules, and of what too few rounds say


def bar_marker(i: int) -> dict:
    """Of the i-th lane's bars, as Plotly takes it."""
    pattern = {"shape": PATTERNS[i % len(PATTERNS)], "fillmode": "overlay", "solidity": 0.25}
    return {"color": COLOURS[i % len(COLOURS)], "pattern": pattern}


def point_marker(i: int) -> dict:
    return {"color": COLOURS[i % len(COLOURS)], "symbol": SYMBOLS[i % len(SYMBOLS)]}


def line_style(i: int) -> dict:
    """Of the i-th lane's line with points."""
    line = {"color": COLOURS[i % len(COLOURS)], "dash": DASHES[i % len(DASHES)]}
    return {"line": line, "marker": point_marker(i)}


def blank_layout(x: str, y: str, height: int, text: str = "#6b727a") -> dict:
    """Of a figure that is to be filled, as Plotly takes it; titles of both axes, height in pixels, colour of the text.
    Backgrounds are transparent, so that one figure serves light and dark pages."""
    axis = {"gridcolor": "rgba(128,128,128,0.25)", "zerolinecolor": "rgba(128,128,128,0.5)", "automargin": True}
    return {
        "template": "none",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "IBM Plex Sans, system-ui, sans-serif", "size": 14, "color": text},
        "margin": {"l": 58, "r": 24, "t": 12, "b": 48},
        "height": height,
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "xaxis": axis | {"title": {"text": x, "font": {"size": 13}}},
        "yaxis": axis | {"title": {"text": y, "font": {"size": 13}, "standoff": 10}},
    }


LABELS = ("name", "text", "x", "y", "customdata")  # of a trace: what is or may be text that somebody wrote


def with_plain_labels(figure: Any) -> Any:
    """A figure of Plotly's whose names, labels and categories show as they are written. For once a figure."""

    def plain(value: Any) -> Any:
        if isinstance(value, str):
            return escape(value, quote=False)
        return [plain(v) for v in value] if isinstance(value, list | tuple) else value

    for part, keys in [(trace, LABELS) for trace in figure.data] + [(n, ("text",)) for n in figure.layout.annotations]:
        part.update({key: plain(part[key]) for key in keys if key in part and part[key] is not None})
    for axis in (figure.layout.xaxis, figure.layout.yaxis):
        if axis.ticktext:
            axis.ticktext = plain(axis.ticktext)
    return figure
