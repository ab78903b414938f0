"""Settings as text, and what a link may fill."""

from dataclasses import fields, replace
from urllib.parse import parse_qsl

import gradio as gr
from hypothesis import given, settings
from hypothesis import strategies as st

from dspark_core.models.info import DrafterInfo
from dspark_core.playground.links import fitting, from_link, lanes_of_text, link_doubts, link_of
from dspark_core.playground.race_request import (
    OFF,
    TOGETHER,
    LaneForm,
    RaceForm,
    in_words,
    lane_key,
    read_form,
    request_of,
)
from dspark_core.race.records import CAP, CONFIDENCE, CUMULATIVE, FULL, HARDWARE

INFOS = (
    DrafterInfo(
        id="dspark", method="DSpark", title="DSpark", block=7, max_drafts=7, has_confidence=True, has_bias=True
    ),
    DrafterInfo(id="dflash", method="DFlash", title="DFlash", block=16, first_slot=1, max_drafts=15),
    DrafterInfo(id="dflash-2", method="DFlash", title="DFlash 2", block=7, max_drafts=7),
)


def asked(lanes: str, **more) -> RaceForm:
    return RaceForm(**{"prompt": "Hi", "order": TOGETHER, "lanes": lanes_of_text(lanes, INFOS)} | more)


def filled(form: RaceForm, link: str) -> RaceForm:
    """The form after the link has filled it."""
    values = {f.name: getattr(form, f.name) for f in fields(form) if f.name != "lanes"}
    values |= {lane_key(i, f.name): getattr(lane, f.name) for i, lane in enumerate(form.lanes) for f in fields(lane)}
    return read_form(values | from_link(dict(parse_qsl(link[1:], keep_blank_values=True)), INFOS))


def test_a_link_brings_back_what_it_was_made_of():
    lanes = "plain,dspark:cap=2,dflash-2:cap=5,dflash:full"
    form = asked(
        lanes,
        prompt="Say ${x} & <b>?",
        max_tokens=33,
        temperature=0.7,
        top_k=40,
        top_p=0.9,
        seed=5,
        system="Be brief & <b>plain</b>.",
    )
    link = link_of(form, INFOS)
    assert f"lanes={lanes}&" in link
    assert request_of(filled(RaceForm(), link), INFOS) == request_of(form, INFOS)
    assert [lane.drafter for lane in request_of(form, INFOS).lanes] == ["", "", "dflash-2", ""]
    assert dict(parse_qsl(link[1:]))["system"] == "Be brief & <b>plain</b>."
    without = link_of(replace(form, system=""), INFOS)
    assert filled(form, without).system == ""  # in place of what the other browser had
    two = lanes_of_text("plain,dflash", INFOS)
    assert two[2] == two[3] == LaneForm(OFF)
    assert "lanes=plain,dflash:hardware&" in link_of(replace(form, lanes=two), INFOS)


numbers = st.floats(0, 1) | st.floats(0, 1).map(lambda x: round(x, 7)) | st.sampled_from([0, 1, 0.1, 1e-7, 0.1234567])
some_lanes = st.builds(
    LaneForm,
    st.sampled_from(["dspark", "dflash", "dflash-2", "plain"]),
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
    form = RaceForm(prompt, tokens, temperature, top_k, top_p, seed, lanes=tuple(lanes))
    again = filled(RaceForm(), link_of(form, INFOS))
    assert request_of(again, INFOS) == request_of(form, INFOS)
    assert fitting(gr.Number(0, precision=0, minimum=0), again.seed) == seed


def test_numbers_are_written_with_the_digits_they_have():
    form = asked("plain,dspark:confidence=0.1234567", temperature=0.1234567, top_p=0.95, seed=1234567)
    link = link_of(form, INFOS)
    for words in ("seed=1234567", "temperature=0.1234567", "top_p=0.95", "tokens=96", "dspark:confidence=0.1234567"):
        assert words in link
    words = in_words(form, INFOS)
    for part in ("temperature 0.1234567", "top-p 0.95", "seed 1234567", "confidence ≥ 0.1234567"):
        assert part in words


def test_a_number_that_was_cleared_is_the_one_that_would_race():
    form = asked("plain,dspark:cap=3", max_tokens=None, temperature=None, top_k=None, top_p=None, seed=None)
    form = replace(form, lanes=(form.lanes[0], replace(form.lanes[1], cap=None)))
    assert request_of(filled(form, link_of(form, INFOS)), INFOS) == request_of(form, INFOS)


NAMES = ["prompt", "system", "lanes", "tokens", "temperature", "seed", "preset", "x"]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.dictionaries(st.sampled_from(NAMES), st.text()))
def test_no_link_can_do_harm(query):
    slider, number = gr.Slider(8, 512, 96, step=1), gr.Number(0, precision=0, minimum=0)
    values = from_link(query, INFOS)
    assert len(values.get("prompt", "")) <= 100_000
    for value in values.values():
        fit = fitting(slider, value)
        assert fit is None or (8 <= fit <= 512 and type(fit) is int)
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


def test_a_lane_that_is_off_is_in_no_link():
    form = asked("plain,dspark")
    forms = (*form.lanes[:2], LaneForm(OFF, FULL, 7, 0.5), LaneForm(None, FULL, 7, 0.5))
    assert "lanes=plain,dspark:hardware&" in link_of(replace(form, lanes=forms), INFOS)


def test_what_a_link_says_wrongly_is_left_as_it_is():
    form = asked("plain,dspark:cap=3")
    for lanes in ("plain,dspark:cap=x", "plain,dflash-9", "plain", "plain,dspark:"):
        assert filled(form, f"?lanes={lanes}").lanes == form.lanes


def test_what_a_link_says_wrongly_is_named():
    controls = {"max_tokens": gr.Slider(8, 512, 96, step=1), "temperature": gr.Slider(0, 2, 0, step=0.05)}

    def said(**query):
        return link_doubts(query, INFOS, controls, ["smollm2-135m", "qwen3-4b"])

    assert not said(lanes="plain,dspark:cap=3", tokens="33", temperature="0.7", preset="qwen3-4b", unknown="1")
    assert (
        said(lanes="foo")
        == "Not all of this link can be had. There is no lane 'foo'; there are plain, dspark, dflash, dflash-2."
    )
    assert said(lanes="plain").endswith("A race has 2 to 4 lanes, not 1.")
    assert said(preset="nope").endswith("There is no preset 'nope'; there are smollm2-135m, qwen3-4b.")
    assert said(tokens="many", temperature="9").endswith(
        "tokens: 'many' is not a number. temperature: '9' is out of range, 2 is taken."
    )
    assert len(said(lanes="x" * 9000, preset="y" * 9000, tokens="9" * 9000)) < 500


def test_a_prompt_that_a_field_cut_inside_a_character_has_a_link():
    """JavaScript cuts text between the halves of an emoji."""
    form = asked("plain,dspark", prompt="cut \ud83d", system="also \ud83d")
    values = from_link(dict(parse_qsl(link_of(form, INFOS)[1:], keep_blank_values=True)), INFOS)
    assert values["prompt"] == "cut ?" and values["system"] == "also ?"


HALF = "a \ud83d b\ude00"


def test_half_an_emoji_becomes_a_mark_wherever_it_comes_in():
    clean = "a \ufffd b\ufffd"
    request = request_of(asked("plain,dspark", prompt=HALF, system=HALF), INFOS)
    assert (request.prompt, request.system) == (clean, clean)
    assert replace(request, earlier=((HALF, HALF),)).messages[1:3] == [
        {"role": "user", "content": clean},
        {"role": "assistant", "content": clean},
    ]
    assert replace(request, prompt="\ud83d\ude00").prompt == "\U0001f600"  # both halves, escaped apart
    values = from_link({"prompt": HALF, "system": HALF}, INFOS)
    assert values == {"prompt": clean, "system": clean}
    assert fitting(gr.Textbox(max_length=4), HALF) == clean[:4]
