"""The charts tab: a plot with its table and downloads for every chart, and the profiled run."""

from dataclasses import replace

import gradio as gr

from ...race.records import RaceRecord
from ..charts import TITLES, Chart, charts, spent_chart
from ..controls import Controls
from ..conversation import Talk
from ..follow import follow
from ..race_request import request_of
from ..widgets import plain_text, script, static
from ..worker import Job, Worker
from .race_tab import ENGINE_USE, Raced

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
