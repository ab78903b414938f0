"""Lanes and settings as text, and what a link may fill."""

from urllib.parse import parse_qsl

import gradio as gr
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspark_core.playground.controls import OFF
from dspark_core.playground.links import (
    FIRST_LANE,
    SYSTEM,
    LaneError,
    fitting,
    from_link,
    lane_controls,
    lane_text,
    lanes_controls,
    link_of,
)
from dspark_core.playground.requests import LANE_CONTROLS, TOGETHER, lane_of, request_of
from dspark_core.race.record import CAP, CONFIDENCE, CUMULATIVE, FULL, HARDWARE, LaneSpec


@pytest.mark.parametrize(
    ("text", "lane"),
    [
        ("plain", LaneSpec("plain")),
        (" DFlash:block=6", LaneSpec("DFlash", CAP, cap=5, label="block 6")),
        ("dspark:cap=3", LaneSpec("DSpark", CAP, cap=3, label="cap 3")),
        ("dspark:cap=99", LaneSpec("DSpark", CAP, cap=7, label="cap 7")),
        ("dspark:confidence=0.6", LaneSpec("DSpark", CONFIDENCE, threshold=0.6, label="confidence ≥ 0.60")),
        ("dspark:cumulative=0.5", LaneSpec("DSpark", CUMULATIVE, threshold=0.5, label="product ≥ 0.50")),
        ("dspark", LaneSpec("DSpark", HARDWARE, label="hardware-aware")),
        ("dflash:hardware", LaneSpec("DFlash", HARDWARE, label="hardware-aware")),
        ("dspark:full", LaneSpec("DSpark", FULL, cap=7, label="full block")),
    ],
)
def test_a_lane_is_what_it_says(text, lane):
    assert lane_of(*lane_controls(text)) == lane


@pytest.mark.parametrize(
    "text", ["", "x", "plain:cap=3", "dspark:block=3", "dflash:", "dflash:cap=3", "../x", "dspark:cap=3:y"]
)
def test_no_lane_is_refused_in_a_sentence(text):
    with pytest.raises(LaneError, match=r"^\w.*\.$"):
        lane_controls(text)


@pytest.mark.parametrize("text", ["", "plain", ",,", "plain,x", "plain,plain,plain,plain,plain", "plain," * 600])
def test_lanes_that_make_no_race(text):
    with pytest.raises(LaneError):
        lanes_controls(text)


def test_a_link_brings_back_what_it_was_made_of():
    asked = ["Say ${x} & <b>?", 33, 0.7, 40, 0.9, 5, TOGETHER, "Be brief & <b>plain</b>."]
    asked += lanes_controls("plain,dspark:cap=2,dspark:confidence=0.25,dflash:block=6")
    link = link_of(*asked)
    assert "lanes=plain,dspark:cap=2,dspark:confidence=0.25,dflash:block=6&" in link
    filled = from_link(dict(parse_qsl(link[1:])))
    again = [filled.get(k, value) for k, value in enumerate(asked)]
    assert request_of(*again) == request_of(*asked)
    assert dict(parse_qsl(link[1:]))["system"] == "Be brief & <b>plain</b>."
    without = link_of(*asked[:SYSTEM], "", *asked[FIRST_LANE:])
    filled = from_link(dict(parse_qsl(without[1:], keep_blank_values=True)))
    assert filled[SYSTEM] == ""  # in place of what the other browser had
    two = lanes_controls("plain,dflash")
    assert two[2 * LANE_CONTROLS] == two[3 * LANE_CONTROLS] == OFF
    assert "lanes=plain,dflash:hardware&" in link_of(*asked[:FIRST_LANE], *two)


NAMES = ["prompt", "system", "lanes", "tokens", "temperature", "seed", "preset", "x"]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.dictionaries(st.sampled_from(NAMES), st.text()))
def test_no_link_can_do_harm(query):
    slider, number = gr.Slider(8, 512, 96, step=1), gr.Number(0, precision=0, minimum=0)
    filled = from_link(query)
    assert len(filled.get(0, "")) <= 100_000
    for value in filled.values():
        told = fitting(slider, value)
        assert told is None or (8 <= told <= 512 and type(told) is int)
        assert fitting(number, value) is None or fitting(number, value) >= 0


def test_only_values_that_a_control_could_have_are_taken():
    radio = gr.Radio(["a", "b"])
    assert [fitting(radio, v) for v in ("a", "c", None, ["a"], 3)] == ["a", None, None, None, None]
    dropdown = gr.Dropdown([("words", "value")])
    assert fitting(dropdown, "value") == "value" and fitting(dropdown, "words") is None
    slider = gr.Slider(0, 2, 0, step=0.05)
    assert [fitting(slider, v) for v in ("0.7", 9, "nan", "x", None, True)] == [0.7, 2, None, None, None, 1]
    assert fitting(gr.Textbox(), 3) is None and fitting(gr.Textbox(), "x") == "x"
    assert fitting(gr.Textbox(max_length=3), "abcd") == "abc"


def test_lane_text_of_a_lane_that_is_off():
    assert lane_text(OFF, 16, FULL, 7, 0.5) == "" == lane_text(None, 16, FULL, 7, 0.5)
