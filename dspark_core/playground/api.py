"""The page by script: `/race` runs what the Race button runs, and gives the race as a trace (race/trace.py)."""

import itertools
import json
import time

import gradio as gr

from ..race.trace import dumps
from .follow import follow
from .limits import Limits, fit
from .links import lanes_controls
from .race_request import TOGETHER, offers_of, request_of
from .saved import traced
from .tabs.race_tab import MAX_WAITING
from .worker import Job, Worker

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
