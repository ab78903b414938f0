"""Lanes and settings as text, and what a link may fill."""

from urllib.parse import parse_qsl

import gradio as gr
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspark_core.errors import LaneError
from dspark_core.playground.controls import OFF
from dspark_core.playground.links import (
    FIRST_LANE,
    SYSTEM,
    fitting,
    from_link,
    lane_controls,
    lane_text,
    lanes_controls,
    link_of,
)
from dspark_core.playground.race_request import LANE_CONTROLS, TOGETHER, in_words, lane_of, request_of
from dspark_core.race.records import CAP, CONFIDENCE, CUMULATIVE, FULL, HARDWARE, LaneSpec


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


numbers = st.floats(0, 1) | st.floats(0, 1).map(lambda x: round(x, 7)) | st.sampled_from([0, 1, 0.1, 1e-7, 0.1234567])
some_lanes = st.tuples(
    st.sampled_from(["DSpark", "DFlash", "plain"]),
    st.integers(2, 16),
    st.sampled_from([HARDWARE, FULL, CAP, CONFIDENCE, CUMULATIVE]),
    st.integers(1, 7),
    numbers,
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.text(min_size=1).filter(str.strip),
    st.integers(1, 4096),
    numbers.map(lambda x: 2 * x),
    st.integers(0, 1000),
    numbers.map(lambda x: max(x, 0.01)),
    st.integers(0, 2**31 - 1) | st.sampled_from([1234567, 2**31 - 1, 16777217]),
    st.lists(some_lanes, min_size=2, max_size=4),
)
def test_every_number_comes_back_as_it_was(prompt, tokens, temperature, top_k, top_p, seed, lanes):
    asked = [prompt, tokens, temperature, top_k, top_p, seed, TOGETHER, ""]
    asked += [value for lane in lanes for value in lane]
    filled = from_link(dict(parse_qsl(link_of(*asked)[1:], keep_blank_values=True)))
    again = [filled.get(k, value) for k, value in enumerate(asked)]
    assert request_of(*again).settings == request_of(*asked).settings
    assert [lane.threshold for lane in request_of(*again).lanes] == [
        lane.threshold for lane in request_of(*asked).lanes
    ]
    assert request_of(*again).lanes == request_of(*asked).lanes
    assert fitting(gr.Number(0, precision=0, minimum=0), filled[5]) == seed


def test_numbers_are_written_with_the_digits_they_have():
    asked = ["Hi", 96, 0.1234567, 0, 0.95, 1234567, TOGETHER, "", *lanes_controls("plain,dspark:confidence=0.1234567")]
    link = link_of(*asked)
    for words in ("seed=1234567", "temperature=0.1234567", "top_p=0.95", "tokens=96", "dspark:confidence=0.1234567"):
        assert words in link
    words = in_words(*asked[1:])
    for part in ("temperature 0.1234567", "top-p 0.95", "seed 1234567", "confidence ≥ 0.1234567"):
        assert part in words


def test_a_number_that_was_cleared_is_the_one_that_would_race():
    asked = ["Hi", None, None, None, None, None, TOGETHER, "", *lanes_controls("plain,dspark:cap=3")]
    asked[FIRST_LANE + LANE_CONTROLS + 3] = None
    filled = from_link(dict(parse_qsl(link_of(*asked)[1:], keep_blank_values=True)))
    again = [filled.get(k, value) for k, value in enumerate(asked)]
    assert request_of(*again) == request_of(*asked)


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
