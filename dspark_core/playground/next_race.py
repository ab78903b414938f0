"""The next race, one click from the end of the last: on a text where drafting pays, with the setting that was advised,
or drafting whatever the costs say.

The buttons that a visitor sees stand in the board, under its verdict (assets/page/next.js); each presses one of these,
which set the page's controls and then press Race.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import gradio as gr

from ..presets import Prompt
from ..race.forecast import SAME, Suggestion, suggest
from ..race.lane_spec import find
from ..race.records import CAP, FULL, HARDWARE
from .controls import Controls
from .links import filled
from .race_request import lane_key, read_form
from .tabs.cost_tab import curve_of, race_judged
from .tabs.race_tab import Raced
from .widgets import FREE, PRIVATE, QUIET, UNQUEUED, Call, Updates, listen
from .worker import Worker

PRESS_RACE = "() => document.querySelector('#race').click()"
ANYWAY = 7  # drafts a round, whatever they cost


@dataclass(frozen=True)
class NextRace:
    worker: Worker
    ask: Controls
    raced: Raced
    prompts: Sequence[Prompt]

    def build(self) -> None:
        with self.raced.below, gr.Row(elem_id="next"):
            pays = gr.Button("Try a text where it pays", elem_id="next-pays")
            anyway = gr.Button("Draft anyway", elem_id="next-anyway")
            advised = gr.Button("", elem_id="next-advised")
        asked = self.ask.inputs.named
        controls = {"limits": self.ask.limits, "cut": self.ask.cut, **asked}
        race = {"race": self.raced.last, "trace": self.raced.saved.trace}
        for button, handler, more in ((pays, self.pays, {}), (anyway, self.anyway, {}), (advised, self.advised, race)):
            set_ = listen(button.click, handler, {**asked, **more}, controls, **QUIET)
            set_.success(None, None, None, js=PRESS_RACE, **PRIVATE)
        label = {"label": advised}
        listen(race["trace"].change, self.advice, race, label, trigger_mode="multiple", **FREE)
        listen(self.ask.start.click, self.forget, {}, label, **UNQUEUED)

    def pays(self, call: Call) -> Updates:
        return {"prompt": self.prompts[0].text} if self.prompts else {}

    def anyway(self, call: Call) -> Updates:
        """Every lane whose schedule may draft nothing sends ANYWAY drafts a round."""
        lanes = read_form(call.values).lanes
        return self._changed(call, {i: ANYWAY for i, lane in enumerate(lanes) if lane.schedule == HARDWARE})

    def advised(self, call: Call) -> Updates:
        """The lane that the advice is for sends as many drafts as it says."""
        best, lanes = self.best(call), read_form(call.values).lanes
        i = next((i for i, lane in enumerate(lanes) if best and lane.drafter == best.drafter), None)
        return {} if best is None or i is None else self._changed(call, {i: best.cap})

    def advice(self, call: Call) -> Updates:
        best = self.best(call)
        return {"label": f"Race with {best.cap} draft{'s' * (best.cap > 1)} a round" if best else ""}

    def forget(self, call: Call) -> Updates:
        return {"label": ""}

    def best(self, call: Call) -> Suggestion | None:
        """The setting that is expected to gain most over what the board's race ran, if any gains enough to tell."""
        if call["race"] is None or not self.worker.ready:
            return None
        curve = curve_of(self.worker, call.session)
        race, _ = race_judged(curve, call["race"], call["trace"])
        found = suggest(curve, race) if curve is not None and race is not None else []
        gains = [s for s in found if s.cap and s.gain > SAME]
        return max(gains, key=lambda s: s.tok_s, default=None)

    def _changed(self, call: Call, drafts: dict[int, int]) -> Updates:
        """The controls with other lengths, in drafts a round by lane."""
        form, values = read_form(call.values), dict(call.values)
        for i, number in drafts.items():
            if info := find(self.ask.offers().infos, form.lanes[i].drafter):
                length = {"schedule": FULL} if number >= info.max_drafts else {"schedule": CAP, "cap": number}
                values |= {lane_key(i, name): value for name, value in length.items()}
        return filled(self.ask, values)
