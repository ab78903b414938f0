"""The page: a head, what the visitor asks, and the tabs. Every tab is a module of its own."""

import gradio as gr

from ..presets import Prompt
from .advice import advice
from .api import race_api
from .controls import controls
from .follow import models_status
from .limits import follow_limits
from .race_request import offers_of
from .remember import remember
from .selection import Shelf
from .serve import drop_options
from .tabs.charts_tab import charts_tab
from .tabs.compare_tab import compare_tab
from .tabs.cost_tab import cost_tab
from .tabs.models_tab import models_tab
from .tabs.prove_tab import prove_tab
from .tabs.race_tab import race_tab
from .tour import tour
from .widgets import plain_text, static
from .worker import Worker


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
