"""The one grammar of a lane: what every text means, what is refused, and that text and lane come back."""

from dataclasses import replace

import pytest

from dspark_core.models.info import DrafterInfo, named
from dspark_core.race.lane_spec import (
    LaneError,
    block_in,
    excesses,
    label_of,
    lane_text,
    method_name,
    read_lane,
    read_lanes,
)
from dspark_core.race.records import BLOCK, CAP, CONFIDENCE, CUMULATIVE, FULL, HARDWARE, PLAIN, LaneSpec

SPARK = DrafterInfo(
    id="dspark", method="DSpark", title="spark", block=7, max_drafts=7, has_confidence=True, has_bias=True
)
FLASH = DrafterInfo(id="dflash", method="DFlash", title="b16", block=16, first_slot=1, max_drafts=15)
SHORT = DrafterInfo(id="dflash-2", method="DFlash", title="b7", block=7, max_drafts=7)
LOOKUP = DrafterInfo(id="lookup", method="Lookup", title="lookup", block=4, max_drafts=4, has_bias=True)
INFOS = SPARK, FLASH, SHORT, LOOKUP


@pytest.mark.parametrize(
    ("text", "lane"),
    [
        ("plain", LaneSpec(PLAIN)),
        (" DFlash:block=6 ", LaneSpec("DFlash", CAP, cap=5, label="cap 5")),
        ("dflash:block=99", LaneSpec("DFlash", CAP, cap=15, label="cap 15")),
        ("dflash:block=0", LaneSpec("DFlash", CAP, cap=1, label="cap 1")),
        ("dflash:cap=3", LaneSpec("DFlash", CAP, cap=3, label="cap 3")),
        ("dflash:full", LaneSpec("DFlash", FULL, cap=15, label="full block")),
        ("dspark:cap=3", LaneSpec("DSpark", CAP, cap=3, label="cap 3")),
        ("dspark:block=3", LaneSpec("DSpark", CAP, cap=3, label="cap 3")),
        ("dspark:cap=99", LaneSpec("DSpark", CAP, cap=7, label="cap 7")),
        ("dspark:cap", LaneSpec("DSpark", CAP, cap=7, label="cap 7")),
        ("dspark:confidence=0.6", LaneSpec("DSpark", CONFIDENCE, threshold=0.6, label="confidence ≥ 0.60")),
        ("dspark:confidence=9", LaneSpec("DSpark", CONFIDENCE, threshold=1.0, label="confidence ≥ 1.00")),
        ("dspark:cumulative", LaneSpec("DSpark", CUMULATIVE, threshold=0.5, label="product ≥ 0.50")),
        ("dspark", LaneSpec("DSpark", HARDWARE, label="hardware-aware")),
        ("dflash:hardware", LaneSpec("DFlash", HARDWARE, label="hardware-aware")),
        ("dspark:full", LaneSpec("DSpark", FULL, cap=7, label="full block")),
        ("dflash-2:block=5", LaneSpec("DFlash", CAP, cap=5, label="#2, cap 5", drafter="dflash-2")),
        ("dflash-2", LaneSpec("DFlash", HARDWARE, label="#2, hardware-aware", drafter="dflash-2")),
        ("lookup:cap=2", LaneSpec("Lookup", CAP, cap=2, label="cap 2")),
    ],
)
def test_a_lane_is_what_it_says_and_comes_back(text, lane):
    spec = read_lane(text, INFOS).spec
    assert spec == lane
    assert read_lane(lane_text(spec), INFOS).spec == spec
    assert label_of(spec, block_in(spec.label)) == spec.label


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "There is no lane ''; there are plain, dspark, dflash, dflash-2, lookup."),
        ("x", "no lane 'x'"),
        ("dflash-3", "no lane 'dflash-3'"),
        ("../x", "no lane"),
        ("plain:cap=3", "plain has no setting 'cap=3'"),
        ("dflash:", "has no setting ''"),
        ("dflash:confidence=0.5", "dflash has no setting 'confidence=0.5': use hardware, full, cap=N, block=N."),
        ("lookup:cumulative", "no setting"),
        ("dspark:cap=x", "'x' in 'cap=x' is not a number."),
        ("dspark:cap=nan", "not a number"),
        ("dspark:cap=inf", "not a number"),
        ("dspark:cap=1e999", "not a number"),
        ("dspark:often", "has no setting 'often'"),
        ("dspark:full=3", "has no setting"),
        ("dspark:cap=3:y", "has no setting 'y'"),
    ],
)
def test_no_lane_is_refused_in_a_sentence(text, words):
    with pytest.raises(LaneError, match=r"^\S.*\.$") as refusal:
        _ = read_lane(text, INFOS).spec
    assert words in str(refusal.value)


@pytest.mark.parametrize("text", ["", "plain", ",,", "plain,x", "plain,plain,plain,plain,plain", "plain," * 600])
def test_lanes_that_make_no_race(text):
    with pytest.raises(LaneError):
        read_lanes(text, INFOS)


def test_what_is_more_than_there_is_is_told_by_lane():
    lanes = read_lanes("plain,dflash:block=20,dspark:cap=9,dflash-2:block=8", INFOS)
    assert excesses(lanes) == [
        "Lane 2: block 20 was asked for; b16 has a block of 16.",
        "Lane 3: a cap of 9 was asked for; spark drafts 7 at most.",
        "Lane 4: block 8 was asked for; b7 has a block of 7.",
    ]
    assert not read_lane("dspark:full", INFOS).excess and not read_lane("plain", INFOS).excess


def test_a_lane_that_is_named_before_its_drafter_is_there():
    """As the bench has it: a block of so many slots, whatever the first slot of the drafter will be."""
    assert lane_text(LaneSpec("DFlash", BLOCK, cap=6)) == "dflash:block=6"
    assert method_name("dflash-2") == "dflash" == method_name("dflash")


def test_lanes_and_drafters_are_called_as_their_methods_are_titled():
    assert LaneSpec("DFlash2", FULL, label="block 8").name == "DFlash 2 · block 8"
    assert LaneSpec(PLAIN).name == "plain" and LaneSpec("EAGLE").name == "EAGLE"
    dflash = DrafterInfo(id="dflash", method="DFlash", title="DFlash", block=8, max_drafts=7)
    two, three = replace(dflash, method="DFlash2", title="DFlash 2"), ("dflash", "dflash-2", "dflash-3")
    assert [i.title for i in named((id_, dflash) for id_ in three)] == ["DFlash", "DFlash #2", "DFlash #3"]
    both = [("dflash", dflash), ("dflash-2", dflash), ("dflash2", two), ("dflash2-2", two)]
    assert [i.title for i in named(both)] == ["DFlash", "DFlash #2", "DFlash 2", "DFlash 2 #2"]
