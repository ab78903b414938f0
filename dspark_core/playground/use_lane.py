"""What won, for other programs: the endpoint's address, the model's name, and snippets to copy.

Under a finished race for its lanes, the fastest first; on the Models tab for what is loaded. The value is one JSON
document, for assets/page/use.js:

    {"note": a sentence, or "", "models": [[words, model name], ...], "key": what the endpoint asks for, or ""}
"""

import json
from collections.abc import Mapping
from typing import Any

import gradio as gr

from ..race.metrics import metrics, plain_metrics, times_plain
from ..race.records import RaceRecord
from .api_request import ServedModels
from .widgets import UNQUEUED, Call, Updates, listen, page_file, script
from .worker import Worker

NOT_HERE = "This race ran on {}, which is not loaded: load it on the Models tab to use a lane of it."

STRICTLY = 'This race ran in strict mode, which a request asks for with "strict": true.'


class UsePanel:
    """`page` knows what the endpoint asks for, once it is served (`launch`)."""

    def __init__(self, worker: Worker, page: gr.Blocks):
        self.worker, self.page = worker, page

    def build(self, elem_id: str, changed: Any, last: gr.State | None = None) -> None:
        """A panel here, drawn anew whenever `changed`, an event of gradio, says so; `last` is the race that it is
        under, if it is under one."""
        panel = gr.HTML(
            "", html_template=page_file("use.html"), js_on_load=script("use"), apply_default_css=False, elem_id=elem_id
        )
        inputs = {} if last is None else {"last": last}
        listen(changed, self.draw, inputs, {"panel": panel}, trigger_mode="always_last", **UNQUEUED)

    def draw(self, call: Call) -> Updates:
        return {"panel": json.dumps(self.value(call.values))}

    def value(self, shown: Mapping[str, Any]) -> dict[str, Any]:
        """What the panel shows; nothing where there is nothing to use."""
        served = ServedModels(self.worker.engine)
        race: RaceRecord | None = shown.get("last")
        race = race if race and race.verdict else None  # it is over
        note, models = "", []
        if "last" not in shown:
            models = [[name.partition("@")[2] or f"as costs decide ({served.usual})", name] for name in served.names()]
        elif race is not None and race.target != served.name:
            note = NOT_HERE.format(" ".join(race.target.split())[:200])
        elif race is not None:
            note, models = STRICTLY if race.request.strict else "", self._lanes(race, served)
        return {"note": note, "models": models if served.name else [], "key": getattr(self.page, "endpoint_key", "")}

    @staticmethod
    def _lanes(race: RaceRecord, served: ServedModels) -> list[list[str]]:
        """(words, model name) of the lanes that ended well, the fastest first."""
        plain = plain_metrics(race.lanes)
        lanes = [(metrics(lane), lane.spec) for lane in race.lanes if lane.finish and lane.error is None]
        lanes.sort(key=lambda pair: -(pair[0].tok_s or 0.0))
        found: dict[str, str] = {}
        for m, spec in lanes:
            times = times_plain(m, plain) if spec.speculative else None
            speed = f", {m.tok_s:.1f} tok/s" if m.tok_s else ""
            found.setdefault(
                served.name_of(spec), f"{spec.name}{speed}{'' if times is None else f', {times:.2f} × plain'}"
            )
        return [[words, name] for name, words in found.items()]
