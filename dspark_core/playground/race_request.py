"""What the page's controls ask for, made safe: numbers within their limits, lanes, one race request.

A form is what a client sent, by the names of the controls; nothing in it is trusted. No gradio.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..decode.rounds import Settings
from ..models.info import DrafterInfo
from ..race.lane_spec import MAX_LANES, WHOLE, AskedLane, find
from ..race.records import (
    BLOCK,
    CAP,
    CONFIDENCE,
    CUMULATIVE,
    FULL,
    HARDWARE,
    MAX_SYSTEM,
    PLAIN,
    LaneSpec,
    RaceRequest,
    exact,
)

MAX_PROMPT = 100_000  # characters
MAX_TOKENS = 4096
OFF = "off"  # in place of a lane's drafter
TOGETHER, IN_TURN = "together, by a fair clock", "one after another"


@dataclass(frozen=True)
class LaneForm:
    """The controls of one lane. `drafter` is an id, PLAIN or OFF; `cap` counts drafts."""

    drafter: Any = OFF
    schedule: Any = HARDWARE
    cap: Any = WHOLE
    threshold: Any = 0.5


@dataclass(frozen=True)
class RaceForm:
    """All that is asked of a race. `prompt` may be missing where only the settings matter."""

    prompt: Any = ""
    max_tokens: Any = 96
    temperature: Any = 0.0
    top_k: Any = 0
    top_p: Any = 1.0
    seed: Any = 0
    order: Any = TOGETHER
    system: Any = ""
    strict: Any = False
    thinking: Any = False
    lanes: tuple[LaneForm, ...] = ()


def lane_key(lane: int, name: str) -> str:
    """The name of a control of lane number `lane` (from 0), such as "lane 2 cap"."""
    return f"lane {lane + 1} {name}"


def read_form(values: Mapping[str, Any]) -> RaceForm:
    """A form from values by the names of the controls: RaceForm's, and `lane_key` of LaneForm's."""
    single = {f.name: values[f.name] for f in fields(RaceForm) if f.name in values}
    lanes = [
        LaneForm(**{f.name: values[lane_key(i, f.name)] for f in fields(LaneForm) if lane_key(i, f.name) in values})
        for i in range(MAX_LANES)
    ]
    return RaceForm(**single, lanes=tuple(lanes))


@dataclass(frozen=True)
class Offers:
    """What a page's lanes may run.

    infos:   the drafters that a lane may name: the loaded ones first, then those of the preset that the page starts
             with, so that a link can be read before anything is loaded
    choices: (title, id) of those that a lane's menu shows: the loaded ones, before that those of the start
    loaded:  are there any loaded ones?
    thinks:  has the loaded target's chat template a switch for a thought before the answer?
    """

    infos: tuple[DrafterInfo, ...] = ()
    choices: tuple[tuple[str, str], ...] = ()
    loaded: bool = False
    thinks: bool = False


def offers_of(engine: Any, start: Sequence[DrafterInfo] = ()) -> Offers:
    """What can be asked on this engine; None is one that is not there yet. `start`: what is known of the drafters that
    the page starts with, before they are loaded."""
    loaded: tuple[DrafterInfo, ...] = tuple(getattr(engine, "infos", ()))
    ids = {info.id for info in loaded}
    infos = loaded + tuple(info for info in start if info.id not in ids)
    shown = loaded or tuple(start)
    choices = tuple((info.title, info.id) for info in shown)
    return Offers(infos, choices, bool(loaded), bool(getattr(engine, "thinks", False)))


def clamp(value: Any, low: float, high: float, default: float) -> float:
    """A number a client sent, within its limits; `default` if it is no finite number."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return default
    return min(max(number, low), high) if math.isfinite(number) else default


def settings_of(form: RaceForm) -> Settings:
    return Settings(
        max_tokens=int(clamp(form.max_tokens, 1, MAX_TOKENS, 96)),
        temperature=clamp(form.temperature, 0, 2, 0),
        top_k=int(clamp(form.top_k, 0, 1000, 0)),
        top_p=clamp(form.top_p, 0.01, 1, 1),
        seed=int(clamp(form.seed, 0, 2**31 - 1, 0)),
    )


def asked_lane(lane: LaneForm, infos: Sequence[DrafterInfo]) -> AskedLane | None:
    """What one lane's controls ask for; None if it is off, or names no drafter."""
    if lane.drafter == PLAIN:
        return AskedLane()
    info = find(infos, lane.drafter)
    if info is None:
        return None
    if lane.schedule == HARDWARE:
        return AskedLane(info)
    if info.has_confidence and lane.schedule in (CONFIDENCE, CUMULATIVE):
        return AskedLane(info, lane.schedule, clamp(lane.threshold, 0, 1, 0.5))
    if lane.schedule == CAP:
        return AskedLane(info, CAP, clamp(lane.cap, 1, math.inf, WHOLE))
    return AskedLane(info, FULL)


def form_of(lane: AskedLane) -> LaneForm:
    """The controls' values that ask for this lane; WHOLE for a length that it does not name."""
    info, number = lane.info, lane.number
    if info is None:
        return LaneForm(PLAIN)
    if lane.schedule in (CONFIDENCE, CUMULATIVE):
        return LaneForm(info.id, schedule=lane.schedule, threshold=clamp(number, 0, 1, 0.5))
    if lane.schedule not in (CAP, BLOCK):
        return LaneForm(info.id, schedule=lane.schedule)
    return LaneForm(info.id, schedule=CAP, cap=number - info.first_slot if lane.schedule == BLOCK else number)


def lanes_of(form: RaceForm, infos: Sequence[DrafterInfo]) -> tuple[LaneSpec, ...]:
    """The lanes that race, within what their drafters have."""
    asked = [asked_lane(lane, infos) for lane in form.lanes]
    return tuple(lane.spec for lane in asked if lane)


def strict_of(form: RaceForm) -> bool:
    """Is strict mode asked for? It is for greedy decoding only."""
    return form.strict is True and settings_of(form).greedy


def summary_words(form: RaceForm, offers: Offers) -> str:
    """`in_words`, and which of the lanes cannot run, since other drafters were loaded."""
    loaded = {id_ for _, id_ in offers.choices}
    asked = dict.fromkeys(lane.drafter_id for lane in lanes_of(form, offers.infos) if lane.speculative)
    missing = [info.title for id_ in asked if id_ not in loaded and (info := find(offers.infos, id_))]
    return in_words(form, offers.infos) + (f". Not loaded: {', '.join(missing)}" if missing else "")


def in_words(form: RaceForm, infos: Sequence[DrafterInfo]) -> str:
    """All that `request_of` takes but the prompt, in one line: which lanes race, how far, how tokens are chosen."""
    settings = settings_of(form)
    words = ["greedy"]
    if not settings.greedy:
        words = [f"temperature {exact(settings.temperature)}"]
        words += [f"top-k {settings.top_k}"] if settings.top_k else []
        words += [f"top-p {exact(settings.top_p)}"] if settings.top_p < 1 else []
        words += [f"seed {settings.seed}"]
    words += ["strict"] if strict_of(form) else []
    words += ["thinking"] if form.thinking is True else []
    words += [IN_TURN] if form.order == IN_TURN else []
    words += ["with a system turn"] if isinstance(form.system, str) and form.system.strip() else []
    lanes = ", ".join(lane.name for lane in lanes_of(form, infos))
    return f"{lanes}; up to {settings.max_tokens} tokens, {', '.join(words)}"


def request_of(form: RaceForm, infos: Sequence[DrafterInfo]) -> RaceRequest:
    """The race that a form asks for. Raises ValueError, in one sentence for the visitor."""
    prompt = form.prompt if isinstance(form.prompt, str) else ""
    if not prompt.strip():
        raise ValueError("Type a prompt, or pick one of the examples.")
    if len(prompt) > MAX_PROMPT:
        raise ValueError(f"The prompt has {len(prompt):,} characters; at most {MAX_PROMPT:,} are taken.")
    system = form.system if isinstance(form.system, str) and form.system.strip() else ""
    if len(system) > MAX_SYSTEM:
        raise ValueError(f"The system turn has {len(system):,} characters; at most {MAX_SYSTEM:,} are taken.")
    lanes = lanes_of(form, infos)
    if len(lanes) < 2:
        raise ValueError("A race needs at least two lanes.")
    together = form.order != IN_TURN
    strict, thinking = strict_of(form), form.thinking is True
    return RaceRequest(prompt, lanes, settings_of(form), together, system=system, strict=strict, thinking=thinking)
