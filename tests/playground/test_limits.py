"""What a lane may ask comes from the loaded drafter: golden sets whose blocks and first slots differ."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from dspark_core.decode.rounds import Settings
from dspark_core.machine import mlx_device
from dspark_core.models.info import DrafterInfo
from dspark_core.playground.engine import Choice, PresetEngine
from dspark_core.playground.limits import Limits, fit, schedules
from dspark_core.playground.links import lane_controls, lane_text, lanes_controls
from dspark_core.playground.race_request import LANE_CONTROLS, USUAL, in_words, lane_of, offers_of, too_much
from dspark_core.playground.tabs.cost_tab import suggestion_words
from dspark_core.playground.tabs.prove_tab import draw_verdict
from dspark_core.proof.evidence import NO_BIAS
from dspark_core.race.forecast import Suggestion
from dspark_core.race.records import CAP, CONFIDENCE, FULL, PLAIN, LaneSpec, RaceRequest
from dspark_core.race.trace import dumps, loads

from ..conftest import GOLDEN
from ..race.long_trace import long_trace

B7 = DrafterInfo(id="dflash", method="DFlash", title="b7", block=7, first_slot=0, max_drafts=7)
B16 = DrafterInfo(id="dflash", method="DFlash", title="b16", block=16, first_slot=1, max_drafts=15)
B8 = DrafterInfo(id="dflash", method="DFlash", title="b8", block=8, first_slot=1, max_drafts=7)
CAP5 = DrafterInfo(id="dspark", method="DSpark", title="cap5", block=5, first_slot=0, max_drafts=5, has_bias=True)
SHIPPED = GOLDEN.parents[1] / "assets" / "models"


def offers(dflash=B16, dspark=USUAL["DSpark"]):
    return {"DSpark": dspark, "DFlash": dflash}


@pytest.mark.parametrize(
    ("info", "asked", "label", "sent"),
    [
        (B7, 16, "block 7", 7),
        (B7, 7, "block 7", 7),
        (B7, 6, "block 6", 6),
        (B7, 1, "block 1", 1),
        (B7, 0, "block 1", 1),
        (B16, 16, "block 16", 15),
        (B16, 7, "block 7", 6),
        (B16, 1, "block 2", 1),
        (B8, 99, "block 8", 7),
    ],
)
def test_a_block_length_sends_what_its_slots_predict(info, asked, label, sent):
    lane = lane_of("DFlash", asked, FULL, 3, 0.5, offers(info))
    assert (lane.label, lane.cap) == (label, sent)
    assert lane.schedule == (FULL if sent == info.max_drafts else CAP)
    assert lane_of(*lane_controls(f"dflash:block={asked}", offers(info)), offers(info)) == lane
    assert lane_text("DFlash", asked, FULL, 3, 0.5, offers(info)) == f"dflash:block={max(1, asked)}"
    assert bool(too_much(0, asked, info)) == (asked > info.block)


def test_caps_and_confidences_are_the_drafter_s():
    known = offers(dspark=CAP5)
    assert lane_of("DSpark", 16, CAP, 7, 0.5, known) == LaneSpec("DSpark", CAP, cap=5, label="cap 5")
    assert lane_of("DSpark", 16, FULL, 7, 0.5, known) == LaneSpec("DSpark", FULL, cap=5, label="full block")
    assert lane_of("DSpark", 16, CONFIDENCE, 7, 0.5, known).label == "full block"  # it has no confidence head
    assert CONFIDENCE not in [value for _, value in schedules(CAP5)]
    both = replace(B7, has_confidence=True)
    assert lane_of("DFlash", 7, CONFIDENCE, 7, 0.5, offers(both)).label == "confidence ≥ 0.50"


@pytest.mark.parametrize(
    ("drafter", "block", "drafts"),
    [
        (GOLDEN / "C" / "drafter", 7, 7),
        (GOLDEN / "D" / "drafter", 16, 15),
        (SHIPPED / "dflash-smollm2-135m-b7", 7, 7),
        (SHIPPED / "dflash-smollm2-135m-b16", 16, 15),
    ],
)
def test_what_is_loaded_says_how_long_a_lane_may_be(drafter, block, drafts):
    """And a race sends that many drafts, no fewer, under a label that says so."""
    embedded = drafter.parent == SHIPPED
    target = SHIPPED / "smollm2-135m-instruct" if embedded else drafter.parent / "target"
    engine = PresetEngine.__new__(PresetEngine)  # without a first preset
    engine.machine = mlx_device()
    engine._clear()
    assert offers_of(engine) == USUAL == offers_of(None)
    engine.load(Choice("x", target, {"DFlash": drafter}))
    info = offers_of(engine)["DFlash"]
    assert (info.block, info.max_drafts, info.name) == (block, drafts, drafter.name)
    lane = lane_of(*lane_controls("dflash:block=99", offers_of(engine)), offers_of(engine))
    shorter = lane_of("DFlash", block - 1, FULL, 3, 0.5, offers_of(engine))
    assert (lane.label, lane.cap, shorter.cap) == (f"block {block}", drafts, drafts - 1)
    if not embedded:
        engine.models.target.encode_chat = lambda messages: list(range(1, 12))
        settings = Settings(max_tokens=30, stop_ids=frozenset())
        events = list(engine.race(RaceRequest("x", (lane, shorter), settings), lambda: False))
        sent = [max(r.proposed for r in lane.rounds) for lane in events[0][1].lanes]
        assert sent == [drafts, drafts - 1]
    engine.unload()
    assert offers_of(engine) == USUAL


def test_sliders_follow_the_drafter():
    lanes = [*lanes_controls("plain,dflash:block=12,dspark:cap=6,dflash:full")]
    lanes[3 * LANE_CONTROLS + 1] = 16  # where it stood at all that the one before had
    updates, words = fit(Limits(), offers(B7, CAP5), lanes)
    at = {k: (u["minimum"], u["maximum"], u["value"]) for k, u in updates.items()}
    assert at[LANE_CONTROLS + 1] == (1, 7, 7) == at[3 * LANE_CONTROLS + 1]
    assert at[2 * LANE_CONTROLS + 3] == (1, 5, 5)
    assert words == [
        "Lane 2: block 12 was asked for; b7 has a block of 7.",
        "Lane 3: a cap of 6 was asked for; cap5 drafts 5 at most.",
    ]
    lanes = [u.get("value", v) for v, u in ((v, updates.get(k, {})) for k, v in enumerate(lanes))]
    updates, words = fit(Limits(offers(B7, CAP5)), offers(B16), lanes)
    assert updates[LANE_CONTROLS + 1]["value"] == 16 and not words
    lanes[LANE_CONTROLS + 1] = 5
    assert fit(Limits(offers(B7, CAP5)), offers(B16), lanes)[0][LANE_CONTROLS + 1]["value"] == 5


@pytest.mark.parametrize("value", [None, "x", float("nan"), [], {}, -1, 10**400, True])
def test_no_value_of_a_control_does_harm(value):
    lanes = [*lanes_controls("plain,dflash:full,dspark:cap=3")]
    for place in range(len(lanes)):
        spoiled = [*lanes[:place], value, *lanes[place + 1 :]]
        updates, _ = fit(Limits(), offers(B7), spoiled)
        assert all(u["minimum"] <= u["value"] <= u["maximum"] for u in updates.values())
        assert in_words(8, 0, 0, 1, 0, "", "", *spoiled, offers=offers(B7))


def test_the_cost_tab_and_the_proof_speak_of_the_loaded_drafter():
    s = Suggestion("DFlash · block 7", "DFlash", 3, 3, 50.0, 0.2, 1.5)
    assert "block length 3, about" in suggestion_words(s, offers(B7))
    assert "block length 4, about" in suggestion_words(s, offers(B16))
    assert "a cap of 3, about" in suggestion_words(replace(s, method="DSpark"), offers(B7))
    comparison = SimpleNamespace(flagged=False, n=100, distance=0.01, noise=0.01, p_value=0.5)
    request = SimpleNamespace(sampler=NO_BIAS, method="DFlash")
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
    assert "DFlash has no Markov bias" in draw_verdict(evidence, offers(B7))[1]
    assert "Draw more" in draw_verdict(evidence, offers(replace(B7, has_bias=True)))[1]


def test_an_old_race_keeps_the_label_it_was_saved_with():
    """A DFlash of block 7 was labelled by another's slots: such a file opens and says what it said."""
    specs = LaneSpec(PLAIN), LaneSpec("DFlash", CAP, cap=6, label="block 7"), LaneSpec("DFlash", label="block 16")
    old = loads(dumps(long_trace(40, specs=specs)))
    assert [lane.spec.name for lane in old.race.lanes] == ["plain", "DFlash · block 7", "DFlash · block 16"]
