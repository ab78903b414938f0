"""The reliability diagram, from hand-made rounds."""

import json

import pytest

from dspark_core.decode.rounds import Round, Settings
from dspark_core.playground.tabs.charts_tab import NO_CONFIDENCES, RaceCharts
from dspark_core.race.loaded import Models
from dspark_core.race.records import PLAIN, LaneRecord, LaneSpec, RaceRecord, RaceRequest
from dspark_core.race.reliability import Reliability, judged_drafts
from tests.conftest import GOLDEN, load_golden


def round_of(confidence, sent, accepted, bonus=None):
    drafts = tuple(range(len(confidence or (0, 0))))
    bonus = accepted == sent if bonus is None else bonus
    return Round(0, 10, 1, drafts, sent, accepted, 9, bonus, (*drafts[:accepted], 9), 1.0, confidence=confidence)


def test_only_drafts_whose_fate_is_known_are_judged():
    sure = (0.9, 0.8, 0.3, 0.2)
    assert judged_drafts(round_of(sure, 4, 4)) == [(c, True) for c in sure]
    assert judged_drafts(round_of(sure, 4, 1)) == [(0.9, True), (0.8, False)]
    assert judged_drafts(round_of(sure, 2, 2)) == [(0.9, True), (0.8, True)], "the third was not sent"
    assert judged_drafts(round_of(sure, 4, 2, bonus=True)) == [(0.9, True), (0.8, True)], "a stop token ended it"
    assert judged_drafts(round_of(sure, 0, 0)) == judged_drafts(round_of(None, 2, 2)) == []


def test_bins_hold_every_draft_once_and_the_error_is_their_gap():
    found = Reliability([round_of((0.95, 1.0), 2, 2), round_of((0.25, 0.5), 2, 0)] * 3)
    assert [(b.low, b.accepted, b.n) for b in found.bins] == [(0.2, 0, 3), (0.9, 6, 6)]
    assert found.bins[1].confidence == pytest.approx(0.975)
    assert found.error == pytest.approx((3 * 0.25 + 6 * 0.025) / 9)
    assert Reliability([]).error is None


def test_the_chart_says_how_far_a_lane_is_off_and_why_there_is_nothing():
    def drawn(*rounds):
        lanes = LaneRecord(LaneSpec(PLAIN)), LaneRecord(LaneSpec("DFlash", label="x"), rounds=list(rounds))
        request = RaceRequest("hello", tuple(lane.spec for lane in lanes), Settings())
        return RaceCharts(RaceRecord("target", "bfloat16", request, 2, list(lanes))).reliability()

    chart = drawn(round_of((0.95, 1.0), 2, 2), round_of((0.25, 0.5), 2, 0))
    assert [t.name for t in chart.figure.data] == ["DFlash · x, off by 10 %", "as often right as sure"]
    assert json.loads(chart.table)["rows"][0] == ["DFlash · x", 0.2, 0.3, 0.25, 0.0, 1]
    empty = drawn(round_of(None, 2, 2))
    assert not empty.figure.data and empty.figure.layout.annotations[0].text == NO_CONFIDENCES


def test_finished_races_teach_how_far_the_margin_is_off(golden_a):
    """Greedy ones alone, and drafters that have no confidence head."""
    c = load_golden(GOLDEN / "C")
    models = Models(c.target, {"dflash": c.drafter, "dspark": golden_a.drafter})
    rounds = [round_of((0.9, 0.8, 0.7), 3, 0)] * 300
    lanes = [LaneRecord(LaneSpec(method), rounds=rounds) for method in ("DFlash", "DSpark")]
    for temperature in (1.0, 0.0):
        before = models.fit("dflash").logits([2.0])
        request = RaceRequest("hello", tuple(lane.spec for lane in lanes), Settings(temperature=temperature))
        models.learn_confidences(RaceRecord("target", "float32", request, 2, lanes))
        assert (models.fit("dflash").logits([2.0]) == before) == bool(temperature)
    assert models.fit("dflash").logits([2.0])[0] < 0 and models.fit("dflash").logits([0, 2.0])[1] == 2.0
    assert models.fit("dspark") is models.fit("plain") is None
