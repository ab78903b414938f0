"""The lanes' sliders go as far as the loaded drafters do, and follow when another model is loaded.

What a link or a setting kept in the browser asks for may come before the model is there, so it is remembered until
it can be judged: more than the drafter has becomes all it has, and the page says so.
"""

import math
from abc import ABCMeta
from collections.abc import Callable
from dataclasses import dataclass, field

import gradio as gr

from ..models.info import DrafterInfo
from ..race.records import CAP, CONFIDENCE, CUMULATIVE, FULL, HARDWARE, PLAIN
from .race_request import LANE_CONTROLS, MAX_LANES, USUAL, Offers, clamp, too_much

METHOD, LENGTH, SCHEDULE, CUT = 0, 1, 2, 3  # places among a lane's controls
ASKING = {LENGTH: FULL, CUT: CAP}  # a slider's place -> the schedule that it belongs to


def _unchecked(kind: type) -> type:
    """A kind of control whose limits or choices may change while a request with an older value is under way. gradio's
    own refuses such a value; here whoever reads one puts it within its limits (requests.lane_of)."""
    # Not by a class statement: gradio's metaclass writes a .pyi file beside the module of every component's class.
    more = {"is_template": True, "preprocess": lambda self, payload: payload, "__module__": __name__}
    return ABCMeta.__new__(type(kind), kind.__name__, (kind,), more)


LengthSlider, ScheduleChoice = _unchecked(gr.Slider), _unchecked(gr.Dropdown)


@dataclass(frozen=True)
class Limits:
    """Of one page.

    offers: what the sliders were last fitted to
    asked:  place among the lanes' controls -> (what was asked for, what the slider was given instead)
    """

    offers: Offers = field(default_factory=lambda: USUAL)
    asked: dict[int, tuple[float, float]] = field(default_factory=dict)


def schedules(info: DrafterInfo) -> list[tuple[str, str]]:
    """What can be chosen of a drafter, as (words, value)."""
    lengths = [("block length", FULL)] if info.by_block else [("full block", FULL), ("fixed cap", CAP)]
    confident = [("confidence threshold", CONFIDENCE), ("cumulative confidence", CUMULATIVE)]
    return [("hardware-aware", HARDWARE), *lengths, *(confident if info.has_confidence else [])]


def bounds(offers: Offers, place: int) -> tuple[int, int]:
    """The ends of a slider: the block length is that of the method without a bias, the cap that of the one with."""
    info = next(i for i in offers.values() if i.by_block == (place == LENGTH))
    return (info.shortest, info.block) if place == LENGTH else (1, info.max_drafts)


def fit(limits: Limits, offers: Offers, lanes: list) -> tuple[dict[int, dict], list[str]]:
    """(place -> update of a slider, sentences on what was cut) for the lanes' control values. A slider that stood at
    all its drafter had stands at all that this one has."""
    updates, words = {}, []
    for lane in range(MAX_LANES):
        for place, schedule in ASKING.items():
            at = lane * LANE_CONTROLS + place
            low, high = bounds(offers, place)
            value = clamp(lanes[at], 1, math.inf, high)
            asked, given = limits.asked.get(at, (value, value))
            asked = asked if value == given else value
            if at not in limits.asked and value == bounds(limits.offers, place)[1] and place == LENGTH:
                asked = high
            updates[at] = gr.update(minimum=low, maximum=high, value=int(min(max(asked, low), high)))
            method, chosen = lanes[lane * LANE_CONTROLS + METHOD], lanes[lane * LANE_CONTROLS + SCHEDULE]
            info = offers.get(method) if isinstance(method, str) and method != PLAIN else None
            if info and info.by_block == (place == LENGTH) and chosen == schedule and math.isfinite(asked):
                words += filter(None, [too_much(lane, asked, info)])
    return updates, words


def fit_schedule(info: DrafterInfo | None, before: DrafterInfo | None, chosen):
    """The update of a lane's choice of schedules when another drafter of its method is loaded."""
    if info is None or (before and schedules(before) == schedules(info)):
        return gr.skip()
    choices = schedules(info)
    kept = {} if chosen in [value for _, value in choices] else {"value": HARDWARE}
    return gr.update(choices=choices, **kept)


def follow_limits(offers: Callable[[], Offers], lanes: list, said: gr.HTML, limits: gr.State, head: gr.HTML) -> None:
    """Fit the sliders among the controls `lanes` whenever `head`, which says what is loaded, changes; `said` is the
    place for what was cut."""
    sliders = [at for at in range(len(lanes)) if at % LANE_CONTROLS in ASKING]
    methods = range(0, len(lanes), LANE_CONTROLS)

    def refit(before: Limits, *values):
        now = offers()
        if now is USUAL or (before.offers == now and not before.asked):  # not loaded yet, or fitted already
            return [gr.skip()] * (2 + len(sliders) + len(methods))
        updates, words = fit(before, now, list(values))
        followed = [
            fit_schedule(now.get(values[at]), before.offers.get(values[at]), values[at + SCHEDULE]) for at in methods
        ]
        return [Limits(now), " ".join(words), *(updates[at] for at in sliders), *followed]

    head.change(
        refit,
        [limits, *lanes],
        [limits, said, *(lanes[at] for at in sliders), *(lanes[at + SCHEDULE] for at in methods)],
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )
