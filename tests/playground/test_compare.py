"""Two races in one table."""

import json
from dataclasses import replace

import pytest

from dspark_core.playground.saved import MAX_SAVED, file_name, race_names, with_newest
from dspark_core.playground.tabs.compare_tab import ComparedRaces
from dspark_core.race.metrics import metrics
from dspark_core.race.records import LaneSpec
from dspark_core.race.trace import dumps, loads
from tests.race.long_trace import SPECS, long_trace


def table(left, right):
    told = json.loads(ComparedRaces(left, right).value())
    return told, {group["name"]: {row[0]: row[1:] for row in group["rows"]} for group in told["groups"]}


def test_figures_stand_side_by_side_with_their_ratio():
    left, right = long_trace(80, seed=1, seconds=20), long_trace(80, seed=2, seconds=40)
    right.race.precision = "8 bit"
    told, groups = table(left, right)
    assert list(groups) == ["The race", "plain", "DSpark · full block", "DFlash · block 16"]
    assert groups["The race"]["precision"][:3] == ["bf16", "8 bit", ""]
    assert groups["The race"]["target"][:3] == ["a recording", "a recording", "same"]
    a, b = (metrics(t.race.lanes[1]) for t in (left, right))
    row = groups["DSpark · full block"]["tok/s"]
    assert row == [f"{a.tok_s:.1f}", f"{b.tok_s:.1f}", f"{b.tok_s / a.tok_s:.2f}", 0]
    assert groups["DSpark · full block"]["acceptance rate"][0] == f"{100 * a.acceptance:.0f} %"
    assert groups["plain"]["first token, s"] == ["0.25", "0.25", "1.00", None]
    assert "× plain" not in groups["plain"] and told["notes"] == []


def test_only_what_exceeds_the_noise_of_identical_races_is_marked():
    left = long_trace(80, seed=1, seconds=20)
    near, far = long_trace(80, seed=1, seconds=17.5), long_trace(80, seed=1, seconds=12)
    marks = []
    for right in (left, near, far):
        rows = [row for group in table(left, right)[1].values() for row in group.items()]
        marks.append({figure: row[3] for figure, row in rows if row[3] is not None})
    assert marks == [{}, {}, {"tok/s": 1}], "0.86 and 1.14 are within it"
    other = long_trace(80, seed=1, seconds=20)
    for lane in other.race.lanes[1:]:  # every draft rejected
        lane.rounds = [replace(r, accepted=0) for r in lane.rounds]
    rows = table(left, other)[1]["DSpark · full block"]
    assert rows["tokens per round"][3] == rows["acceptance rate"][3] == 0


def test_answers_to_one_prompt_are_parted_where_they_differ():
    left = long_trace(40, seed=1)
    told, _ = table(left, left)
    assert [answer["rest"] for answer in told["answers"]] == ["", ""]
    other = long_trace(40, seed=1)
    plain = other.race.lanes[0]
    plain.rounds[20] = replace(plain.rounds[20], next_id=499, committed=(499,))
    other.tokens[499] = b" CHANGED"
    told, _ = table(left, other)
    one, two = told["answers"]
    assert one["same"] == two["same"] and one["same"] and two["rest"].startswith("CHANGED")
    assert "".join([one["same"], one["rest"]]).count(" ") >= 30


def test_what_makes_figures_incomparable_is_said():
    left, right = long_trace(20), long_trace(20, sampled=True, seconds=1)
    right.race.request = replace(right.race.request, prompt="another")
    right.machine["processor"] = "another"
    right.race.stopped = True
    told, groups = table(left, right)
    said = " ".join(told["notes"])
    assert {row[3] for rows in groups.values() for row in rows.values()} == {None}, "nothing is better for its text"
    for words in ("prompts differ", "different machines", "Sampling differs", "race on the right was stopped"):
        assert words in said
    assert {answer["rest"] for answer in told["answers"]} == {None}


@pytest.mark.parametrize(
    ("devices", "told", "cells"),
    [
        (("CPU", "CPU"), [], ["CPU", "CPU", "same"]),
        (
            ("CPU", "CUDA, NVIDIA H100"),
            ["different devices (CPU; CUDA, NVIDIA H100)"],
            ["CPU", "CUDA, NVIDIA H100", ""],
        ),
        (("CUDA, an H100", "CUDA, an H200"), ["different devices"], None),
        ((None, "CPU"), ["race on the left does not say which device"], ["unknown", "CPU", ""]),
        (("CPU", None), ["race on the right does not say which device"], ["CPU", "unknown", ""]),
        ((None, None), [], ["unknown", "unknown", "same"]),
    ],
)
def test_races_of_two_devices_are_told_apart(devices, told, cells):
    """A race saved before devices were written down has an unknown one, and no difference is claimed."""
    pair = [long_trace(9), long_trace(9)]
    for trace, device in zip(pair, devices, strict=True):
        trace.machine |= {"device": device} if device else {}
    notes, groups = table(*[loads(dumps(trace)) for trace in pair])
    assert len(notes["notes"]) == len(told)
    assert all(words in note for words, note in zip(told, notes["notes"], strict=True))
    assert cells is None or groups["The race"]["device"][:3] == cells


def test_lanes_are_paired_by_name_then_by_method():
    plain, full, dflash = SPECS
    cap = LaneSpec("DSpark", "cap", 3, label="cap 3")
    left, right = long_trace(9, specs=(plain, full, dflash)), long_trace(9, specs=(dflash, cap, cap, plain))
    assert ComparedRaces(left, right).pairs() == [
        ("plain", 0, 3),
        ("DSpark · full block / DSpark · cap 3", 1, 1),
        ("DFlash · block 16", 2, 0),
        ("DSpark · cap 3", None, 2),
    ]
    _, groups = table(left, right)
    assert groups["DSpark · cap 3"]["tok/s"][0] == "–" and groups["DSpark · cap 3"]["tok/s"][3] is None


def test_a_race_in_which_nothing_ran_can_be_compared():
    left = long_trace(9)
    for lane in left.race.lanes:
        lane.start, lane.rounds, lane.error = None, [], "It failed."
    left.race.verdict = None
    told, groups = table(left, long_trace(9))
    assert groups["The race"]["verdict"][0] == "–" and told["answers"][0]["same"] == ""


@pytest.mark.parametrize("target", ["../../etc/passwd", "<script>", "", "\u202e", "x" * 200])
def test_file_names_are_plain(target):
    trace = long_trace(3)
    trace.race.target = target
    name = file_name(trace, "json")
    assert name.startswith("race-") and name.endswith(".json") and len(name) < 100
    assert all(c.isascii() and (c.isalnum() or c in "-.") for c in name) and ".." not in name


def test_names_differ_and_the_oldest_race_goes_first():
    kept = []
    for k in range(MAX_SAVED + 2):
        kept = with_newest(kept, long_trace(3, seed=k))
    assert len(kept) == MAX_SAVED == len(set(race_names(kept)))
