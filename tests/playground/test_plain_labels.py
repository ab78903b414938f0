"""What a race file calls its lanes reaches Plotly as text: no markup of it is left in any chart."""

import json
import re
from dataclasses import replace

import plotly.graph_objects as go

from dspark_core.chart_style import with_plain_labels
from dspark_core.playground.tabs.charts_tab import RaceCharts
from dspark_core.playground.tabs.cost_tab import prospects_chart

from ..bench.made_report import made
from ..race.forecasts import TAXI_CURVE
from ..race.long_trace import long_trace

LINK = '<a href="https://x.example">the fastest</a> &lt;b> <b>x</b><sub>2</sub><br>'


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for v in value.values():
            yield from strings(v)
    elif isinstance(value, list | tuple):
        for v in value:
            yield from strings(v)


def hostile_race():
    race = long_trace(tokens=64).race
    race.lanes = [replace(lane, spec=replace(lane.spec, label=LINK)) for lane in race.lanes]
    return race


def test_no_chart_of_the_page_takes_a_lane_s_name_for_markup():
    race = hostile_race()
    drawn = [*RaceCharts(race).drawn().values(), RaceCharts(race).spent(), prospects_chart(TAXI_CURVE, race)]
    written = [s for chart in drawn for s in strings(chart.figure.to_dict())]
    assert any("&lt;a href=" in s and "&amp;lt;b>" in s.replace("&gt;", ">") for s in written)
    broken = [s.replace("<br>", "", 1) for s in written]  # by the page itself, between a lane's name and its label
    assert any("&lt;br&gt;" in s for s in written) and not [s for s in broken if "<" in s and "n < " not in s]


def test_nor_does_a_report_s():
    figure = go.Figure(go.Scatter(name=LINK, x=[LINK, "b"], y=[1, 2], text=LINK, customdata=[[LINK, 3]]))
    figure.update_layout(xaxis={"ticktext": [LINK], "tickvals": [0]})
    figure.add_hline(y=1, annotation_text=LINK)
    assert not [s for s in strings(with_plain_labels(figure).to_dict()) if "<" in s]
    page = made(prompts=2)
    data = json.loads(re.search(r'id="charts">(.*?)</script>', page, re.DOTALL)[1])
    written = [s for chart in data.values() for s in strings(chart)]
    assert any("chat &lt;i&gt;" in s for s in written) and not [s for s in written if "<i>" in s or "&amp;lt;" in s]
