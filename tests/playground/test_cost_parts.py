"""What both parts of the Cost model tab are given, whatever is loaded, raced and asked."""

import json
from dataclasses import replace

import pytest

from dspark_core.decode.batch_rows import load_rows
from dspark_core.playground.cost_parts import CostParts, Parts, groups_of, shipped_races
from dspark_core.playground.worker import Worker
from dspark_core.race.many_users import USERS
from dspark_core.race.metrics import metrics
from dspark_core.race.records import LaneSpec

from ..race.forecasts import TAXI_CURVE
from .tiny import TinyEngine


def users(parts, **asked):
    return json.loads(parts.users(asked))


def test_before_a_race_the_recorded_ones_are_replayed_on_every_start_point():
    parts = Parts(TAXI_CURVE, None, False, ())
    value = users(parts)
    assert [g["id"] for g in value["groups"]] == ["dspark", "dflash"]
    assert all("recorded races that come with this program" in g["words"] for g in value["groups"])
    assert [p["users"] for p in value["points"]] == [*USERS] and value["lengths"] == [1, 4, 7] and value["check"] == ""
    for start in value["starts"][::2]:
        other = users(parts, start=start["id"], group="dflash", seed=3)
        assert (other["start"], other["group"], other["seed"]) == (start["id"], "dflash", 3)
        assert other["lengths"] == [1, 8, 15] and all(p["schedule"]["tok_s"] > 0 for p in other["points"])


@pytest.mark.parametrize(
    "asked",
    [
        {"start": "nowhere", "group": "<b>", "seed": -1},
        {"start": 7, "group": None, "seed": "1"},
        {"seed": 10**9},
        {"seed": True},
        {"seed": 1.5, "start": ["free"]},
    ],
)
def test_what_there_is_not_is_what_stands_there_by_itself(asked):
    parts = Parts(None, None, False, ())
    assert users(parts, **asked) == users(parts)


def test_races_of_two_targets_are_two_groups_and_the_newest_is_first():
    old, new = shipped_races()
    new = replace(new, race=replace(new.race, target="another <target>"))
    groups = groups_of([old, new], False)
    assert [g.id for g in groups] == ["dspark", "dflash", "dspark.2", "dflash.2"]
    assert groups[0].title == "DSpark on another <target>" and "finished races of this page" in groups[2].words
    assert len(groups_of([old, old], False)) == 2 and len(groups_of([old, old], False)[0].lanes) == 2


def test_a_race_in_which_nothing_was_drafted_gives_no_rounds():
    (trace, *_) = shipped_races()
    lanes = [x for x in trace.race.lanes if not x.spec.speculative]
    lanes.append(replace(lanes[0], spec=LaneSpec("DSpark")))
    plain = replace(trace, race=replace(trace.race, lanes=lanes))
    assert groups_of([plain], False) == []
    parts = Parts(TAXI_CURVE, plain.race, False, (), [plain])
    assert "recorded races" in users(parts)["groups"][0]["words"], "those that come with the program"
    assert json.loads(parts.what_if()) == {"lines": [], "starts": []}


def test_one_user_is_held_against_the_race_on_the_board():
    trace = shipped_races()[1]
    parts = Parts(TAXI_CURVE, trace.race, True, (), [trace])
    value = users(parts, start="race")
    assert value["start"] == "race" and value["check"].startswith("One user who sends what the race sent: DSpark")
    assert f"measured {metrics(trace.race.lanes[1]).tok_s:.2f}." in value["check"]


def test_passes_of_many_tokens_are_measured_on_the_thread_that_owns_the_models(tmp_path, monkeypatch):
    monkeypatch.setattr("dspark_core.store.cache_directory", lambda: tmp_path)
    worker = Worker(TinyEngine)
    values = [json.loads(value) for value in CostParts(worker).measure("a page")]
    assert values[-1] == {"share": 1, "words": "Measured."} and len(values) > 10
    made_of = worker.engine.models.usable_curve().made_of
    assert max(load_rows(made_of)) == 64
