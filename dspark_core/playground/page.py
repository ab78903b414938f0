"""The page: a head, what the visitor asks, and the tabs. Every tab is a module of its own.

The page by script: `/race` runs what the Race button runs, and gives the race as a trace (race/trace.py).

The guided tour: a button in the head and a panel over the page. All of it is in assets/page/tour.js.
"""

import inspect
import itertools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import MISSING, dataclass, fields
from typing import Any, get_type_hints

import gradio as gr
from gradio.context import LocalContext

from ..models.info import first_of_each
from ..models.token_bytes import whole_characters
from ..presets import Prompt
from ..race.lane_spec import excesses, read_lanes
from ..race.records import PLAIN, Failed, RaceRequest
from ..race.trace import dumps
from .controls import controls
from .environment import drop_options
from .lessons import Lessons, lesson_strip
from .links import fill_and_store
from .next_race import NextRace
from .race_memory import RaceMemory
from .race_request import Offers, RaceForm, form_of, offers_of, request_of
from .saved import traced
from .selection import ModelSources
from .stream import RaceView, models_status
from .tabs.charts_tab import ChartsTab
from .tabs.compare_tab import CompareTab
from .tabs.cost_tab import CostTab
from .tabs.models_tab import ModelsTab
from .tabs.prove_tab import ProveTab
from .tabs.race_tab import RaceTab
from .use_lane import UsePanel
from .widgets import page_file, plain_text, script, static
from .worker import MAX_WAITING, Worker, race_job


def build(worker: Worker, prompts: list[Prompt], sources: ModelSources | None = None) -> gr.Blocks:
    """`sources`: the models that can be chosen; by default the presets, the hub and what is on this machine."""
    drop_options()
    sources = sources or ModelSources()
    start = sources.start_infos()

    def offers() -> Offers:
        return offers_of(worker.engine, start)

    with Page(title="DSpark Playground", analytics_enabled=False, fill_width=True) as page:
        page.worker = worker  # which the endpoint shares: serve.launch
        models, strip = _head()
        ask = controls(prompts, offers)
        with gr.Tabs(elem_id="tabs"):
            raced = RaceTab(worker, ask, RaceMemory(lambda: page.state_holder.session_data)).build()
            ChartsTab(worker, ask, raced).build()
            use = UsePanel(worker, page)
            with raced.below:
                use.build("use-lane", raced.last.change, raced.last)
            cost = CostTab(worker, ask, raced)
            cost.build()
            CompareTab(raced.saved).build()
            proven = ProveTab(worker, ask, prompts).build()
            ModelsTab(worker, sources).build(page, models, raced, use)
        cost.build_advice()
        NextRace(worker, ask, raced, prompts).build()
        Lessons(worker, ask, raced, proven, prompts).build(strip)

        filled = fill_and_store(page, ask, [*sources.presets])
        ask.follow_limits(models)
        race_api(worker, offers)

        def status():
            yield from models_status(worker)

        # After the settings are filled in, so that they are fitted to what is loaded, not the other way round.
        filled.then(status, None, models, concurrency_limit=None, show_progress="hidden", api_visibility="private")
    return page


def _head() -> tuple[gr.HTML, gr.HTML]:
    """Returns the place for what is loaded, and that of the lessons."""
    with gr.Row(elem_id="head"):
        static(page_file("head.html"), elem_id="title")
        tour()
        strip = lesson_strip()
        return plain_text("Loading …", "models"), strip


NOTICE_S = 0.5  # how often a script hears that its race goes on
UNHEARD_S = 3.0  # a race whose notices nobody reads for so long is ended
CALLS = itertools.count(1)
RACE = "race"  # the name of its call


class Page(gr.Blocks):
    """gradio says what a call has too few of on its own terminal only."""

    def validate_inputs(self, block_fn: Any, inputs: list[Any]) -> None:
        """What a call of `/race` leaves out at its end is usual, as in gradio's own client. Raises gr.Error, in one
        sentence, for another call with too few values."""
        if block_fn.api_name == RACE:
            inputs += ["" if f.default is MISSING else f.default for f in fields(RaceCall)[len(inputs) :]]
        wanted = len(block_fn.inputs)
        if len(inputs) < wanted:
            words = f"/{block_fn.api_name} takes {wanted} values, and {len(inputs)} were sent."
            raise gr.Error(words, print_exception=False)


@dataclass(frozen=True)
class RaceCall:
    """Race `lanes` on a prompt, in the words of links: method, then its own settings, such as `dspark:cap=3`; without
    lanes, plain decoding and one lane for every method.

    Yields {"state": "racing", "seconds": since the call} twice a second, last the whole race. Where a lane asks for
    more than its drafter has, it gets all there is, and `cut` says so.
    """

    prompt: str
    lanes: str = ""
    max_tokens: int = 96
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    system: str = ""
    strict: bool = False
    thinking: bool = False

    def asked(self, offers: Offers) -> tuple[RaceRequest, list[str]]:
        """The race, and in sentences what of it was cut. Raises ValueError, in one sentence."""
        usual = [PLAIN, *first_of_each(offers.infos)]
        asked = read_lanes(str(self.lanes) if self.lanes else ",".join(usual), offers.infos)
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "lanes"}
        form = RaceForm(**values, lanes=tuple(form_of(lane) for lane in asked))
        return request_of(form, offers.infos), excesses(asked)

    def run(self, worker: Worker, offers: Offers) -> Iterator[dict]:
        """Raises gr.Error if the race cannot be run to its end."""
        try:
            request, cut = self.asked(offers)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from None
        more = {"cut": " ".join(cut)} if cut else {}
        view, job = RaceView(request), race_job(f"script {next(CALLS)}", request)
        began = listened = time.monotonic()
        with closing(worker.batches(job, NOTICE_S)) as batches:
            for batch in batches:
                for lane, event in batch:
                    if lane < 0 and isinstance(event, Failed):
                        raise gr.Error(event.message, print_exception=False)
                    view.add(lane, event)
                now = time.monotonic()
                if self._unread() <= 1:
                    listened = now
                if now - listened > UNHEARD_S:
                    words = f"Nobody read what came of this race for {UNHEARD_S:.0f} s, so it was ended."
                    raise gr.Error(words, print_exception=False)
                yield {"state": "racing", "seconds": round(now - began, 1), **more}
        if view.race is None or view.race.verdict is None:
            raise gr.Error("The race was not run to its end.")
        yield json.loads(dumps(traced(view.race)))

    @staticmethod
    def _unread() -> int:
        """How many messages of the event that calls this wait for its client to read them."""
        blocks, request = LocalContext.blocks.get(None), LocalContext.request.get(None)
        if blocks is None or request is None:  # called in another way than by the page's API
            return 0
        messages = blocks._queue.pending_messages_per_session.get(request.session_hash)
        return messages.qsize() if messages else 0


def race_api(worker: Worker, offers: Callable[[], Offers]) -> None:
    """Put `/race` on the page's API; its parameters are the fields of RaceCall. It is a generator, so that a client
    that goes away ends the race, and so does one that never came to listen."""

    def race(*values: Any) -> Iterator[dict]:
        whole: Iterator[Any] = (whole_characters(value) if isinstance(value, str) else value for value in values)
        yield from RaceCall(*whole).run(worker, offers())

    # What gradio reads: the parameters, their types, and that of each value.
    signature = inspect.signature(RaceCall).replace(return_annotation=dict)
    documented = {
        "__signature__": signature,
        "__annotations__": {**get_type_hints(RaceCall), "return": dict},
        "__doc__": RaceCall.__doc__,
    }
    for name, value in documented.items():
        setattr(race, name, value)
    gr.api(race, api_name=RACE, concurrency_limit=4 * MAX_WAITING)


def tour() -> None:
    gr.HTML(
        "",
        html_template=page_file("tour.html"),
        js_on_load=script("tour"),
        apply_default_css=False,
        elem_id="tour",
    )
