"""The next race from the end of the last: which controls are set, without a browser."""

import gradio as gr
import pytest

from dspark_core.models.info import DrafterInfo
from dspark_core.playground.controls import controls
from dspark_core.playground.next_race import NextRace
from dspark_core.playground.race_request import Offers, lanes_of, read_form
from dspark_core.playground.widgets import Call
from dspark_core.presets import load_prompts
from dspark_core.race.forecast import Suggestion

INFOS = (
    DrafterInfo(id="dspark", method="DSpark", title="DSpark", block=7, max_drafts=7, has_bias=True),
    DrafterInfo(id="dflash", method="DFlash", title="DFlash", block=16, first_slot=1, max_drafts=15),
)


@pytest.fixture(scope="module")
def page():
    offers = Offers(INFOS, tuple((i.title, i.id) for i in INFOS), True)
    with gr.Blocks():
        ask = controls(load_prompts(), lambda: offers)
    return NextRace(None, ask, None, load_prompts()), Call("me", ask.inputs.first_values)


def raced_next(call, updates):
    """The names of the lanes that run with these updates."""
    values = dict(call.values)
    for name, update in updates.items():
        if name in values:
            values[name] = update.get("value", values[name]) if isinstance(update, dict) else update
    return [lane.name for lane in lanes_of(read_form(values), INFOS)]


def test_drafting_anyway_leaves_nothing_to_the_costs(page):
    row, call = page
    assert raced_next(call, row.anyway(call)) == ["plain", "DSpark · full block", "DFlash · cap 7"]


@pytest.mark.parametrize(
    ("drafter", "cap", "name"),
    [("dspark", 3, "DSpark · cap 3"), ("dspark", 7, "DSpark · full block"), ("dflash", 3, "DFlash · cap 3")],
)
def test_the_advised_setting_is_the_one_that_races(page, monkeypatch, drafter, cap, name):
    row, call = page
    best = Suggestion(name, drafter, cap, cap, 9.0, 0.2, 1.5)
    monkeypatch.setattr(NextRace, "best", lambda self, call: best)
    assert name in raced_next(call, row.advised(call))
    assert row.advice(call) == {"label": f"Race with {cap} drafts a round"}


def test_without_advice_nothing_is_offered_or_changed(page, monkeypatch):
    row, call = page
    monkeypatch.setattr(NextRace, "best", lambda self, call: None)
    assert row.advised(call) == {} and row.advice(call) == {"label": ""}


def test_the_text_where_it_pays_is_the_one_that_the_page_opens_with(page):
    row, call = page
    assert row.pays(call) == {"prompt": call["prompt"]} and "binary search" in call["prompt"]
