"""The page: a head, what the visitor asks, and the tabs. Every tab is a module of its own.

The page by script: `/race` runs what the Race button runs, and gives the race as a trace (race/trace.py).

The guided tour: a button in the head and a panel over the page. All of it is in assets/page/tour.js.
"""

import itertools
import json
import time

import gradio as gr

from ..presets import Prompt
from ..race.trace import dumps
from .controls import controls
from .limits import Limits, fit, follow_limits
from .links import lanes_controls, remember
from .race_request import TOGETHER, offers_of, request_of
from .saved import traced
from .selection import Shelf
from .serve import drop_options
from .stream import follow, models_status
from .tabs.charts_tab import charts_tab
from .tabs.compare_tab import compare_tab
from .tabs.cost_tab import advice, cost_tab
from .tabs.models_tab import models_tab
from .tabs.prove_tab import prove_tab
from .tabs.race_tab import MAX_WAITING, race_tab
from .widgets import page_file, plain_text, script, static
from .worker import Job, Worker


def build(worker: Worker, prompts: list[Prompt], shelf: Shelf | None = None) -> gr.Blocks:
    """`shelf`: the models that can be chosen; by default the presets, the hub and what is on this machine."""
    drop_options()
    with gr.Blocks(title="DSpark Playground", analytics_enabled=False, fill_width=True) as page:
        models = _head()
        ask = controls(prompts, lambda: offers_of(worker.engine))
        with gr.Tabs(elem_id="tabs"):
            raced = race_tab(worker, ask)
            charts_tab(worker, ask, raced)
            cost_tab(worker, raced)
            compare_tab(raced.kept)
            prove_tab(worker, prompts)
            models_tab(worker, shelf or Shelf(), page, models, raced)
        with raced.below:
            advice(worker, ask, raced)

        filled = remember(page, ask)
        follow_limits(ask.offers, ask.lanes, ask.cut, ask.limits, models)
        race_api(worker)

        def status():
            yield from models_status(worker)

        # After the settings are filled in, so that they are fitted to what is loaded, not the other way round.
        filled.then(status, None, models, concurrency_limit=None, show_progress="hidden", api_visibility="private")
    return page


def _head() -> gr.HTML:
    """Returns the place for what is loaded."""
    with gr.Row(elem_id="head"):
        static(
            "<h1>DSpark Playground</h1><p>One prompt, one target model, several ways to decode it. "
            "See which drafts the target accepts, and what that does to the speed.</p>",
            elem_id="title",
        )
        tour()
        return plain_text("Loading …", "models")


UPDATE_S = 0.5
CALLS = itertools.count(1)


def race_api(worker: Worker) -> None:
    """Put `/race` on the page's API. It is a generator, so that a client that goes away ends the race."""

    def race(
        prompt: str,
        lanes: str = "plain,dspark,dflash",
        max_tokens: int = 96,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        system: str = "",
        strict: bool = False,
    ) -> dict:
        """Race `lanes` on a prompt, in the words of links: method, then its own settings, such as `dspark:cap=3`.

        Yields {"state": "racing", "seconds": since the call} twice a second, last the whole race. Where a lane asks
        for more than its drafter has, it gets all there is, and `cut` says so.
        """
        offers = offers_of(worker.engine)
        try:
            controls = lanes_controls(str(lanes), offers)
            request = request_of(
                *(prompt, max_tokens, temperature, top_k, top_p, seed, TOGETHER, system),
                *controls,
                strict is True,
                offers=offers,
            )
        except ValueError as error:
            raise gr.Error(str(error)) from None
        cut = fit(Limits(offers), offers, controls)[1]
        more = {"cut": " ".join(cut)} if cut else {}
        seen, began, told = None, time.monotonic(), -1.0
        for _, news in follow(worker, Job(request, f"script {next(CALLS)}")):
            seen = news or seen
            passed = time.monotonic() - began
            if passed >= told + UPDATE_S:
                told = passed
                yield {"state": "racing", "seconds": round(passed, 1), **more}
        if seen is None or seen.verdict is None:
            raise gr.Error(worker.error or "The race was not run to its end.")
        yield json.loads(dumps(traced(seen)))

    gr.api(race, api_name="race", concurrency_limit=MAX_WAITING)


def tour() -> None:
    gr.HTML(
        "",
        html_template=page_file("tour.html"),
        js_on_load=script("tour"),
        apply_default_css=False,
        elem_id="tour",
    )
