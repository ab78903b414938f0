"""The report as one HTML file: charts with the tables behind them, readable without a network.

plotly's own script stands in it. The content security policy names it and the few lines that draw by their hashes and
allows no request to anywhere, so that no text of a prompt can become script or reach out, whatever it says.
"""

import base64
import hashlib
import html
import json
from collections.abc import Sequence

from plotly.offline import get_plotlyjs

from ..decode.cost_curve import CostCurve
from ..paths import assets
from . import charts
from .figures import Figures
from .log import Header
from .plan import Prompt
from .words import (
    NONE_SLOWER,
    Table,
    curve_table,
    facts,
    heading,
    lanes_table,
    method,
    prompts_table,
    sentences,
    sets,
    slots_table,
    slow_table,
    versus_table,
)

STYLE = """
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


def page(header: Header, curve: CostCurve, figures: Figures, prompts: Sequence[Prompt]) -> str:
    drawn = {
        "speed": charts.speed(figures),
        "every-prompt": charts.every_prompt(figures),
        "tokens-per-round": charts.tokens_per_round(figures),
        "acceptance": charts.acceptance(figures),
        "costs": charts.costs(curve),
        "predicted": charts.predicted(figures),
    }
    slow = slow_table(figures)
    by_set = []
    for name in sets(figures):
        versus = versus_table(figures, name)
        by_set += [f"<h3>{_text(heading(name))}</h3>", _table(lanes_table(figures, name))]
        by_set += [_table(versus)] if versus.rows else []
    body = [
        "<h1>Decode speed</h1>",
        f"<dl>{''.join(f'<dt>{_text(name)}</dt><dd>{_text(value)}</dd>' for name, value in facts(header))}</dl>",
        f"<p>{_text(method(figures))}</p>",
        f"<ul>{''.join(f'<li>{_text(line)}</li>' for line in sentences(figures))}</ul>",
        _chart("speed", "Speed by lane"),
        *by_set,
        _chart("every-prompt", "Every prompt"),
        "<h3>Slowdowns</h3>",
        _table(slow) if slow.rows else f"<p>{_text(NONE_SLOWER)}</p>",
        _folded("Table of every prompt", _table(prompts_table(figures))),
        _chart("tokens-per-round", "Tokens per round"),
        _chart("acceptance", "Acceptance by position"),
        _folded("Table", _table(slots_table(figures))),
        _chart("costs", "What a step costs here"),
        _folded("Table", _table(curve_table(curve))),
        _chart("predicted", "Predicted against measured"),
        "<h2>Prompts</h2>",
        _folded("Their texts", "".join(_prompt(p) for p in prompts)),
    ]
    draw = (assets() / "page" / "report.js").read_text("utf-8")
    plotly, data = get_plotlyjs(), _data({name: json.loads(chart.to_json()) for name, chart in drawn.items()})
    policy = (
        f"default-src 'none'; script-src {_hash(plotly)} {_hash(draw)}; base-uri 'none'; form-action 'none'; "
        "style-src 'unsafe-inline'; img-src data: blob:"  # plotly styles what it draws, and can save it as an image
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>Decode speed</title>
<style>{STYLE}</style>
</head>
<body>
<main>
{chr(10).join(body)}
</main>
<script type="application/json" id="charts">{data}</script>
<script>{plotly}</script>
<script>{draw}</script>
</body>
</html>
"""


def _chart(name: str, title: str) -> str:
    label = f"{title}: a chart of the figures in the tables"
    return f'<h2>{title}</h2>\n<div id="{name}" role="img" aria-label="{label}"></div>'


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{_text(cell)}</th>' for cell in table.head)
    rows = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>\n" for row in table.rows)
    return f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table></div>'


def _folded(summary: str, content: str) -> str:
    return f"<details><summary>{_text(summary)}</summary>{content}</details>"


def _prompt(p: Prompt) -> str:
    return f"<h3>{_text(f'{p.set} {p.index}')}</h3><pre>{_text(p.text)}</pre>"


def _text(text: str) -> str:
    return html.escape(text)


def _data(value) -> str:
    """JSON in which no tag can begin or end."""
    text = json.dumps(value, ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
