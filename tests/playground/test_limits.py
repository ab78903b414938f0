"""What a lane may ask comes from the loaded drafter: golden sets whose blocks and first slots differ."""

from dataclasses import fields, replace
from types import SimpleNamespace

import pytest

from dspark_core.decode.rounds import Settings
from dspark_core.machine import mlx_device
from dspark_core.models.info import DrafterInfo, named
from dspark_core.playground.controls import cap_ends, further_shown, lane_view
from dspark_core.playground.engine import Choice, PresetEngine
from dspark_core.playground.limits import Limits, fit_lanes
from dspark_core.playground.links import lanes_of_text
from dspark_core.playground.race_request import (
    LaneForm,
    Offers,
    RaceForm,
    form_of,
    in_words,
    lanes_of,
    offers_of,
    summary_words,
)
from dspark_core.playground.tabs.cost_tab import suggestion_words
from dspark_core.playground.tabs.prove_tab import ProveTab, draw_verdict
from dspark_core.proof.evidence import NO_BIAS
from dspark_core.race.forecast import Suggestion
from dspark_core.race.lane_spec import lane_text, read_lane, schedules
from dspark_core.race.records import CAP, CONFIDENCE, CUMULATIVE, FULL, HARDWARE, PLAIN, LaneSpec, RaceRequest
from dspark_core.race.trace import dumps, loads

from ..conftest import GOLDEN
from ..race.long_trace import long_trace

B7 = DrafterInfo(id="dflash", method="DFlash", title="b7", block=7, first_slot=0, max_drafts=7)
B16 = DrafterInfo(id="dflash", method="DFlash", title="b16", block=16, first_slot=1, max_drafts=15)
B8 = DrafterInfo(id="dflash", method="DFlash", title="b8", block=8, first_slot=1, max_drafts=7)
CAP5 = DrafterInfo(id="dspark", method="DSpark", title="cap5", block=5, first_slot=0, max_drafts=5, has_bias=True)
SHIPPED = GOLDEN.parents[1] / "assets" / "models"
SPARK = DrafterInfo(
    id="dspark", method="DSpark", title="DSpark", block=7, max_drafts=7, has_confidence=True, has_bias=True
)


def offers(*infos: DrafterInfo) -> Offers:
    return Offers(infos, tuple((i.title, i.id) for i in infos), loaded=True)


def lane_of(infos, *values):
    return lanes_of(RaceForm(lanes=(LaneForm(*values),)), infos)[0]


@pytest.mark.parametrize(
    ("info", "asked", "sent"),
    [
        (B7, 16, 7),
        (B7, 7, 7),
        (B7, 6, 6),
        (B7, 1, 1),
        (B7, 0, 1),
        (B16, 16, 15),
        (B16, 7, 6),
        (B16, 1, 1),
        (B8, 99, 7),
    ],
)
def test_a_block_length_is_what_its_slots_draft(info, asked, sent):
    """Links and scripts may name slots; the page counts drafts, whatever drafts them."""
    again = read_lane(f"dflash:block={asked}", [info])
    lane = lane_of([info], "dflash", CAP, sent, 0.5)
    assert lane == LaneSpec("DFlash", CAP, cap=sent, label=f"cap {sent}") == again.spec
    assert lanes_of(RaceForm(lanes=(form_of(again),)), [info]) == (lane,)
    assert lane_text(lane) == f"dflash:cap={sent}"
    assert bool(again.excess) == (asked > info.block)


def test_caps_and_confidences_are_the_drafter_s():
    assert lane_of([CAP5], "dspark", CAP, 7, 0.5) == LaneSpec("DSpark", CAP, cap=5, label="cap 5")
    assert lane_of([CAP5], "dspark", FULL, 7, 0.5) == LaneSpec("DSpark", FULL, cap=5, label="full block")
    assert lane_of([CAP5], "dspark", CONFIDENCE, 7, 0.5).label == "full block"  # it has no confidence head
    both = replace(B7, has_confidence=True)
    assert [value for _, value in schedules(both)] == [HARDWARE, FULL, CAP, CONFIDENCE, CUMULATIVE]
    assert lane_of([both], "dflash", CONFIDENCE, 7, 0.5).label == "confidence ≥ 0.50"


@pytest.mark.parametrize(
    ("drafter", "block", "drafts"),
    [
        (GOLDEN / "C" / "drafter", 7, 7),
        (GOLDEN / "D" / "drafter", 16, 15),
        pytest.param(SHIPPED / "dflash2-smollm2-135m-b8", 8, 7, marks=pytest.mark.sweep),
        pytest.param(SHIPPED / "dflash-smollm2-135m-b16", 16, 15, marks=pytest.mark.sweep),
    ],
)
def test_what_is_loaded_says_how_long_a_lane_may_be(drafter, block, drafts):
    """And a race sends that many drafts, no fewer, under a label that says so."""
    embedded = drafter.parent == SHIPPED
    target = SHIPPED / "smollm2-135m-instruct" if embedded else drafter.parent / "target"
    engine = PresetEngine.__new__(PresetEngine)  # without a first preset
    engine.machine = mlx_device()
    engine._clear()
    start = SPARK, B16
    assert offers_of(engine, start) == offers_of(None, start) == Offers(start, offers(*start).choices)
    engine.load(Choice("x", target, {"dflash": drafter}))
    infos = offers_of(engine, start).infos
    info = infos[0]
    assert (info.block, info.max_drafts, info.name) == (block, drafts, drafter.name)
    assert infos[1].everywhere and infos[2:] == (SPARK,)
    assert offers_of(engine, start).choices == (("DFlash", "dflash"), ("Lookup", "lookup"))
    lane, shorter = read_lane("dflash:full", infos).spec, read_lane(f"dflash:block={block - 1}", infos).spec
    assert (lane.label, lane.cap, shorter.cap) == ("full block", drafts, drafts - 1)
    if not embedded:
        engine.models.target.encode_chat = lambda messages: list(range(1, 12))
        settings = Settings(max_tokens=30, stop_ids=frozenset())
        events = list(engine.race(RaceRequest("x", (lane, shorter), settings), lambda: False))
        sent = [max(r.proposed for r in lane.rounds) for lane in events[0][1].lanes]
        assert sent == [drafts, drafts - 1]
    engine.unload()
    assert offers_of(engine, start) == offers_of(None, start)


def ends(fitted, lane):
    update = fitted.caps[lane]
    return update["minimum"], update["maximum"], update["value"]


def test_a_button_offers_what_is_loaded_on_request():
    more = replace(B8, id="dflash2", title="DFlash 2", on_request=True)
    for infos, there in (((SPARK, more), True), ((SPARK, B16), False), ((), False)):
        for form, sign in ((RaceForm(), "+"), (RaceForm(lanes=(LaneForm("dflash2"),)), "−")):
            shown = further_shown(offers(*infos), "dflash2", form)
            assert (shown["visible"] is True) == there and (not there or shown["value"] == f"{sign} DFlash 2")


def test_caps_follow_the_drafter():
    start, short, long = offers(SPARK, B16), offers(CAP5, B7), offers(CAP5, B16)
    lanes = list(lanes_of_text("plain,dflash:block=12,dspark:cap=6,dflash:full", start.infos))
    fitted = fit_lanes(Limits(start), short, lanes)
    assert ends(fitted, 1) == (1, 7, 7) == ends(fitted, 3) and ends(fitted, 2) == (1, 5, 5)
    assert fitted.words == (
        "Lane 2: a cap of 11 was asked for; b7 drafts 7 at most. "
        "Lane 3: a cap of 6 was asked for; cap5 drafts 5 at most."
    )
    lanes = [replace(lane, cap=fitted.caps[i]["value"]) for i, lane in enumerate(lanes)]
    fitted = fit_lanes(Limits(short), long, lanes)
    assert ends(fitted, 1) == (1, 15, 7) and not fitted.words
    assert lanes_of(RaceForm(lanes=tuple(lanes)), long.infos)[3].label == "full block"


def test_two_drafters_of_a_method_have_a_slider_each():
    second = replace(B7, id="dflash-2", title="b7")
    both = offers(SPARK, B16, second)
    lanes = lanes_of_text("plain,dflash:full,dflash-2:full,dspark:cap=3", both.infos)
    fitted = fit_lanes(Limits(offers(SPARK, B16)), both, lanes)
    assert ends(fitted, 1) == (1, 15, 15) and ends(fitted, 2) == (1, 7, 7)
    assert fitted.drafters[1]["choices"] == [
        ("plain", "plain"),
        ("DSpark", "dspark"),
        ("b16", "dflash"),
        ("b7", "dflash-2"),
    ]
    assert fitted.drafters[2]["choices"][-1] == ("off", "off")
    one_left = replace(offers(SPARK), infos=(SPARK, B16))
    assert summary_words(RaceForm(lanes=lanes), one_left).endswith("greedy. Not loaded: b16")
    assert summary_words(RaceForm(lanes=lanes), both) == in_words(RaceForm(lanes=lanes), both.infos)
    gone = fit_lanes(Limits(both), one_left, lanes)
    assert gone.drafters[1]["choices"] == [("plain", "plain"), ("DSpark", "dspark"), ("b16, not loaded", "dflash")]


@pytest.mark.parametrize("value", [None, "x", float("nan"), [], {}, -1, 10**400, True])
def test_no_value_of_a_control_does_harm(value):
    now = offers(B7, CAP5)
    lanes = lanes_of_text("plain,dflash:full,dspark:cap=3", now.infos)
    for i, lane in enumerate(lanes):
        for field in fields(lane):
            spoiled = (*lanes[:i], replace(lane, **{field.name: value}), *lanes[i + 1 :])
            fitted = fit_lanes(Limits(offers(SPARK, B16)), now, spoiled)
            assert all(u["minimum"] <= u["value"] <= u["maximum"] for u in fitted.caps.values())
            assert in_words(RaceForm(max_tokens=8, lanes=spoiled), now.infos)
            assert lane_view(spoiled[i], now) and cap_ends(spoiled[i], now)


def test_the_cost_tab_and_the_proof_speak_of_the_loaded_drafter():
    s = Suggestion("DFlash · block 7", "dflash", 3, 3, 50.0, 0.2, 1.5)
    assert "3 drafts a round, about" in suggestion_words(s) == suggestion_words(replace(s, drafter="dspark"))
    assert "1 draft a round, about" in suggestion_words(replace(s, cap=1))
    comparison = SimpleNamespace(flagged=False, n=100, distance=0.01, noise=0.01, p_value=0.5)
    request = SimpleNamespace(sampler=NO_BIAS, drafter="dflash")
    evidence = SimpleNamespace(
        comparison=comparison,
        request=request,
        loop_differs=False,
        freedom=5,
        flagged=False,
        p_value=0.5,
        checks=(),
        bonuses=1,
    )
    assert "b7 has no Markov bias" in draw_verdict(evidence, B7)[1]
    assert "Draw more" in draw_verdict(evidence, replace(B7, has_bias=True))[1]


def test_the_proof_names_what_the_chosen_drafter_s_drafts_see_each_other_by():
    second = replace(B7, id="dflash2", has_bias=True, bias="selector")
    first = replace(SPARK, bias="Markov bias")
    tab = ProveTab(None, SimpleNamespace(offers=lambda: offers(first, second)), [])
    for id_, bias in (("dflash2", "selector"), ("dspark", "Markov bias"), ("gone", "Markov bias")):
        words = dict((value, words) for words, value in tab.word_samplers({"drafter": id_})["sampler"]["choices"])
        assert words[NO_BIAS].endswith(f"the {bias}"), id_


def test_a_second_drafter_of_a_title_that_ends_in_a_number():
    second = replace(B8, title="DFlash 2")
    assert [i.title for i in named([("dflash2", second), ("dflash2-2", second)])] == ["DFlash 2", "DFlash 2 #2"]


def test_an_old_race_keeps_the_label_it_was_saved_with():
    """A DFlash of block 7 was labelled by another's slots: such a file opens and says what it said."""
    specs = LaneSpec(PLAIN), LaneSpec("DFlash", CAP, cap=6, label="block 7"), LaneSpec("DFlash", label="block 16")
    old = loads(dumps(long_trace(40, specs=specs)))
    assert [lane.spec.name for lane in old.race.lanes] == ["plain", "DFlash · block 7", "DFlash · block 16"]
