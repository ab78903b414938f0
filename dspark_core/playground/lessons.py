"""Lessons of one click: a question first, then a race with all that it needs, then the answer, told on that race.

The strip at the page's lower edge is assets/page/lessons.js. Its value is one JSON document: first all lessons, as
{"lessons": [...]}; then what became of the visitor's answer number n:

    {"n": n, "state": "set", "press": selector}     all is set: the script presses Race, or what draws
    {"n": n, "state": "told", "words", "right": options, "place"}     lesson_answers.Told
    {"n": n, "state": "failed", "words"}

Nothing that a visitor answers is stored.
"""

import json
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import gradio as gr

from ..presets import Prompt
from ..proof.evidence import RIGHT
from ..race.records import PLAIN
from .controls import Controls
from .conversation import Conversation, conversation_json
from .cost_parts import Parts
from .lesson_answers import (
    RaceFacts,
    Told,
    block_length,
    cheating,
    does_not_pay,
    later_drafts,
    many_users,
    survivors,
)
from .links import filled, lanes_of_text
from .race_request import lane_key
from .tabs.cost_tab import curve_of, race_judged
from .tabs.prove_tab import Proven
from .tabs.race_tab import Raced
from .widgets import FREE, PRIVATE, QUIET, UNQUEUED, Call, Updates, listen, page_file, script
from .worker import Worker

RACE, DRAW = "#race", "#draw-row"
SET = "() => document.dispatchEvent(new CustomEvent('lesson-set'))"
DRAWS = 2_000  # of each sampler
NEEDS = "This lesson needs {}, which the loaded model has not: load SmolLM2 135M on the Models tab."


@dataclass(frozen=True)
class Lesson:
    """id:      in links
    about:   what is run for it
    options: of the question; none where a number is guessed
    prompt:  title of an example; with `lanes`, in the words of links, and `tokens` it is what races. Without lanes
             that is what the page has set; without a prompt they name the drafter that samplers are drawn with.
    answer:  of the race; None where samplers are drawn with
    """

    id: str
    title: str
    question: str
    about: str
    options: tuple[str, ...] = ()
    prompt: str = ""
    lanes: str = ""
    tokens: int = 32
    answer: Callable[[RaceFacts], Told] | None = None


ANSWERS = {
    "later-drafts": later_drafts,
    "does-not-pay": does_not_pay,
    "many-users": many_users,
    "block-length": block_length,
    "guess": survivors,
}


def read_lessons() -> tuple[Lesson, ...]:
    """Those of assets/page/lessons.toml, in their order."""
    found = tomllib.loads(page_file("lessons.toml"))["lesson"]
    return tuple(
        Lesson(**one | {"options": tuple(one.get("options", ()))}, answer=ANSWERS.get(one["id"])) for one in found
    )


LESSONS = read_lessons()


def lesson_strip() -> gr.HTML:
    """In the head, where the tour is. It is wired by `Lessons.build`."""
    shown = [asdict(x) | {"answer": None, "about": x.about.format(draws=DRAWS)} for x in LESSONS]
    return gr.HTML(
        json.dumps({"lessons": shown}, ensure_ascii=False),
        html_template=page_file("lessons.html"),
        js_on_load=script("lessons"),
        apply_default_css=False,
        elem_id="lessons",
    )


@dataclass(frozen=True)
class Chosen:
    """The visitor's answer number `n` to a lesson, which has not been told yet."""

    n: int
    lesson: Lesson
    picked: int


@dataclass(frozen=True)
class Lessons:
    worker: Worker
    ask: Controls
    raced: Raced
    proven: Proven
    prompts: Sequence[Prompt]

    def build(self, strip: gr.HTML) -> None:
        asked, talk, trace = gr.State(None), self.ask.conversation, self.raced.saved.trace
        controls = {"limits": self.ask.limits, "cut": self.ask.cut, **self.ask.inputs.named}
        talked = {"earlier": talk.earlier, "talk": talk.shown, "over": talk.over}
        drawn = {f"draw {name}": control for name, control in self.proven.asked.items()}
        shown = {"strip": strip, "asked": asked}
        begun = listen(strip.select, self.begin, {}, {**shown, **controls, **talked, **drawn}, **QUIET)
        begun.success(None, None, None, js=SET, **PRIVATE)
        listen(strip.clear, self.forget, {}, {"asked": asked}, **UNQUEUED)
        race = {"asked": asked, "race": self.raced.last, "trace": trace, "races": self.raced.saved.races}
        listen(trace.change, self.tell, race, shown, trigger_mode="multiple", **FREE)
        proofs = {"asked": asked, "proofs": self.proven.last}
        listen(self.proven.last.change, self.tell_proofs, proofs, shown, trigger_mode="multiple", **FREE)

    def begin(self, call: Call) -> Updates:
        """Set everything that a lesson needs."""
        n, picked, id_ = (call.sent_as(name, kind, default) for name, kind, default in SENT)
        lesson = next((found for found in LESSONS if found.id == id_), None)
        if lesson is None:
            return {"strip": _failed(n, "There is no such lesson.")}
        press = RACE if lesson.answer else DRAW
        try:
            updates = self._needs(lesson)
        except ValueError as why:
            return {"strip": _failed(n, str(why)), "asked": None}
        done = json.dumps({"n": n, "state": "set", "press": press})
        return {"strip": done, "asked": Chosen(n, lesson, picked), **updates}

    def _needs(self, lesson: Lesson) -> Updates:
        """What of the page's controls changes. Raises ValueError, in one sentence, if what is loaded is not enough."""
        loaded = [id_ for _, id_ in self.ask.offers().choices]
        drafters = dict.fromkeys(lane.partition(":")[0] for lane in lesson.lanes.split(",") if lane)
        if missing := [id_ for id_ in drafters if id_ not in (PLAIN, *loaded)]:
            raise ValueError(NEEDS.format(" and ".join(missing)))
        if lesson.answer is None:
            first = {"prompt": self.proven.asked["prompt"].value, "drafter": lesson.lanes, "sampler": RIGHT}
            values = first | {"temperature": 1, "top_k": 0, "n": DRAWS, "seed": 0}
            return {f"draw {name}": value for name, value in values.items()}
        if not lesson.lanes:
            return {}
        lanes = lanes_of_text(lesson.lanes, self.ask.offers().infos)
        text = next((p.text for p in self.prompts if p.title == lesson.prompt), None)
        values = {name: "" if value is None else value for name, value in self.ask.inputs.first_values.items()}
        values |= {lane_key(i, f.name): getattr(lane, f.name) for i, lane in enumerate(lanes) for f in fields(lane)}
        values |= {"max_tokens": lesson.tokens} | ({"prompt": text} if text else {})
        nothing = Conversation()
        talk = {"earlier": nothing, "talk": conversation_json(nothing), "over": gr.update(visible=False)}
        return {**filled(self.ask, values), **talk}

    def forget(self, call: Call) -> Updates:
        return {"asked": None}

    def tell(self, call: Call) -> Updates:
        """A race is over: if it was a lesson's, its answer."""
        asked, race, trace = call["asked"], call["race"], call["trace"]
        if asked is None or asked.lesson.answer is None or race is None or trace is None or trace.race is not race:
            return {}
        answer = asked.lesson.answer

        def told() -> Told:
            if race.stopped:
                raise ValueError("The race was stopped before its end, so there is no answer to tell.")
            curve, infos = curve_of(self.worker, call.session) if self.worker.ready else None, self.ask.offers().infos
            judged = race_judged(curve, race, trace)[0] is not None
            crowd = Parts(curve, race, judged, infos, call["races"]).users({}) if answer is many_users else ""
            return answer(RaceFacts(race, curve, infos, asked.picked, json.loads(crowd or "{}"), judged))

        return self._told(asked, told)

    def tell_proofs(self, call: Call) -> Updates:
        asked, proofs = call["asked"], call["proofs"]
        if asked is None or asked.lesson.answer or not proofs:
            return {}
        if isinstance(proofs, str):
            return {"strip": _failed(asked.n, proofs), "asked": None}
        return self._told(asked, lambda: cheating(proofs))

    @staticmethod
    def _told(asked: Chosen, answer: Callable[[], Told]) -> Updates:
        try:
            value = json.dumps({"n": asked.n, "state": "told", **asdict(answer())}, ensure_ascii=False)
        except ValueError as why:
            value = _failed(asked.n, str(why))
        return {"strip": value, "asked": None}


SENT: tuple[tuple[str, type, Any], ...] = (("n", int, -1), ("picked", int, -1), ("lesson", str, ""))


def _failed(n: int, words: str) -> str:
    return json.dumps({"n": n, "state": "failed", "words": words}, ensure_ascii=False)
