"""The lanes' menus and sliders go as far as the loaded drafters do, and follow when another model is loaded.

What a link or a setting stored in the browser asks for may come before the model is there, so it is remembered until
it can be judged: more than the drafter has becomes all it has, and the page says so.
"""

import math
from abc import ABCMeta
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from ..models.info import DrafterInfo
from ..race.lane_spec import excesses, find, schedules
from ..race.records import CAP, FULL, HARDWARE, PLAIN
from .race_request import OFF, LaneForm, Offers, RaceForm, asked_lane, clamp, lane_key

SLIDERS = {"length": FULL, "cap": CAP}  # a lane's slider -> the schedule that it belongs to
SliderKey = tuple[int, str]  # (lane from 0, which slider)


def _unchecked(kind: type) -> Any:
    """A kind of control whose limits or choices may change while a request with an older value is under way. gradio's
    own refuses such a value; here whoever reads one puts it within its limits (race_request.asked_lane)."""
    # Not by a class statement: gradio's metaclass writes a .pyi file beside the module of every component's class.
    more = {"is_template": True, "preprocess": lambda self, payload: payload, "__module__": __name__}
    return ABCMeta.__new__(type(kind), kind.__name__, (kind,), more)


FittedSlider, FittedMenu = _unchecked(gr.Slider), _unchecked(gr.Dropdown)


@dataclass(frozen=True)
class Limits:
    """Of one page.

    offers: what the controls were last fitted to
    asked:  slider -> (what was asked for, what the slider was given instead)
    faults: what the link that filled the page says wrongly, in sentences
    """

    offers: Offers = field(default_factory=Offers)
    asked: dict[SliderKey, tuple[float, float]] = field(default_factory=dict, hash=False)
    faults: str = ""


@dataclass(frozen=True)
class Fit:
    """What becomes of the lanes' controls: updates of sliders and menus, and sentences on what was cut."""

    sliders: dict[SliderKey, dict[str, Any]]
    drafters: dict[int, dict[str, Any]]
    schedules: dict[int, dict[str, Any]]
    words: str

    @property
    def updates(self) -> dict[str, Any]:
        """By the names of the controls."""
        updates = {lane_key(i, name): update for (i, name), update in self.sliders.items()}
        updates |= {lane_key(i, "drafter"): update for i, update in self.drafters.items()}
        return updates | {lane_key(i, "schedule"): update for i, update in self.schedules.items()}


def menu(offers: Offers, lane: int, chosen: object = None) -> list[tuple[str, str]]:
    """What lane number `lane` (from 0) can run, as (words, value). What was chosen stays on the menu, though another
    model was loaded since: its pane will say that it does not run."""
    titles = [title for title, _ in offers.choices]
    drafters = [(f"{t} ({id_})" if titles.count(t) > 1 else t, id_) for t, id_ in offers.choices]
    if (info := find(offers.infos, chosen)) and info.id not in (id_ for _, id_ in drafters):
        drafters.append((f"{info.title}, not loaded", info.id))
    return [(PLAIN, PLAIN), *drafters, *([(OFF, OFF)] if lane > 1 else [])]


def bounds(offers: Offers, slider: str, drafter: object = None) -> tuple[int, int]:
    """The ends of a lane's slider: those of its drafter, or of the first that has such a slider."""
    infos = [info for info in offers.infos if info.by_block == (slider == "length")]
    info = find(infos, drafter) or next(iter(infos), None)
    if info is None:
        return 1, 2  # of a slider that shows nowhere; gradio takes none without a range
    return (info.shortest, info.block) if slider == "length" else (1, info.max_drafts)


def fit_lanes(limits: Limits, offers: Offers, lanes: Sequence[LaneForm]) -> Fit:
    """The controls of `lanes` fitted to `offers`. A slider that stood at all its drafter had stands at all that this
    one has."""
    sliders: dict[SliderKey, dict[str, Any]] = {}
    asked_for = []
    for i, lane in enumerate(lanes):
        wanted = {}
        for name in SLIDERS:
            key = i, name
            low, high = bounds(offers, name, lane.drafter)
            value = clamp(getattr(lane, name), 1, math.inf, high)
            asked, given = limits.asked.get(key, (value, value))
            asked = asked if value == given else value
            if key not in limits.asked and value == bounds(limits.offers, name, lane.drafter)[1] and name == "length":
                asked = high
            sliders[key] = gr.update(minimum=low, maximum=high, value=int(min(max(asked, low), high)))
            wanted[name] = asked
        asked_for.append(asked_lane(LaneForm(lane.drafter, schedule=lane.schedule, **wanted), offers.infos))
    drafters = {i: gr.update(choices=menu(offers, i, lane.drafter)) for i, lane in enumerate(lanes)}
    followed = {i: fit_schedule(limits.offers, offers, lane) for i, lane in enumerate(lanes)}
    return Fit(sliders, drafters, followed, " ".join(excesses(asked_for)))


def fit_schedule(before: Offers, offers: Offers, lane: LaneForm) -> dict[str, Any]:
    """The update of a lane's choice of schedules when another drafter is loaded under its id."""
    info, old = find(offers.infos, lane.drafter), find(before.infos, lane.drafter)
    if info is None or (old and schedules(old) == schedules(info)):
        return gr.skip()
    return schedule_menu(info, lane.schedule)


def schedule_menu(info: DrafterInfo, chosen: object) -> dict[str, Any]:
    """The choices of a drafter. A value that can stay is not sent back: when a link sets both, this may come after
    the new one."""
    choices = schedules(info)
    return gr.update(choices=choices, **({} if chosen in [value for _, value in choices] else {"value": HARDWARE}))


def refit(limits: Limits, offers: Offers, form: RaceForm) -> Fit | None:
    """What to change now that `offers` may have changed; None if nothing is loaded yet, or all is fitted already."""
    if limits.offers == offers and not (limits.asked and offers.loaded):
        return None
    return fit_lanes(limits, offers, form.lanes)
