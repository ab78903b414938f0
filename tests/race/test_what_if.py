"""What if: start points cost what the curve says, and the page's own arithmetic gives forecast.py's figures."""

import json
import math
import random
import shutil
import subprocess
from dataclasses import replace
from unittest import mock

import pytest

from dspark_core.decode.adaptive import logit, probability
from dspark_core.decode.batch_rows import BatchRows
from dspark_core.decode.bundled_curve import bundled_curve
from dspark_core.decode.cost_curve import BLIND, Learned
from dspark_core.models.info import Calibration, DrafterInfo
from dspark_core.paths import assets
from dspark_core.race.forecast import prospects, raced_prospects
from dspark_core.race.many_users import BatchCosts, ManyUsers, Recording, Replayed
from dspark_core.race.what_if import FREE, MACHINE, RACE, RoundCosts, WhatIf
from tests.browser.tab import missing

from .forecasts import BUS_CURVE, TAXI_CURVE, curve, good_and_bad, race, timing
from .real_races import shipped

INFO = DrafterInfo(id="dspark", method="DSpark", title="DSpark", block=7, max_drafts=7)
CLOSE = {"rel": 1e-9, "abs": 1e-12}
NOTHING = {"accept": None, "shift": 0, "draft": None, "further": None, "cap": 0, "batch": 1}


def learned(costs):
    """With what races taught: plain decoding is slower in a decode, and rounds of three drafts faster."""
    taught = {"plain": {"": Learned(1.2, 1.0)}, "dspark": {f"3 3 {BLIND}": Learned(0.8, 9.0)}}
    return replace(costs, learned=taught)


def in_one_piece(costs):
    """With a round of the whole block measured in one piece, dearer than its parts."""
    return replace(costs, costs=(replace(costs.costs[0], whole={"dspark": {BLIND: timing(0.4)}}),))


CURVES = [TAXI_CURVE, BUS_CURVE, learned(TAXI_CURVE), in_one_piece(BUS_CURVE), learned(in_one_piece(TAXI_CURVE))]


@pytest.fixture(scope="module")
def page():
    """The page's arithmetic: cases of (value of what_if.js, start, line, what is asked) -> lists of its prospects."""
    node = shutil.which("node") or missing("node is not installed")
    code = f"""import {{ prospects }} from {json.dumps(str(assets() / "page" / "costs.js"))};
        import {{ readFileSync }} from 'node:fs';
        const cases = JSON.parse(readFileSync(0, 'utf-8'));
        console.log(JSON.stringify(cases.map(([given, start, k, asked]) =>
            prospects(given.starts.find(({{ id }}) => id === start), k, given.lines[k], asked))));"""

    def worked_out(cases):
        asked = [[given, start, k, NOTHING | changes] for given, start, k, changes in cases]
        command = [node, "--input-type=module", "--eval", code]
        done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return worked_out


def value(costs, raced=None, infos=(INFO,), **more):
    return json.loads(json.dumps(WhatIf.of(costs, raced, infos, **more).value()))


def same(shown, options):
    """What the page shows of one request, against forecast.py's Prospects."""
    assert [p["drafts"] for p in shown] == [p.cap for p in options]
    for p, q in zip(shown, options, strict=True):
        assert p["tokens"] == pytest.approx(q.tokens, **CLOSE) and p["even"] == pytest.approx(q.break_even, **CLOSE)
        assert p["times"] == pytest.approx(q.times_plain, **CLOSE)
        assert p["each"] == p["all"] == pytest.approx(q.tok_s, **CLOSE)


@pytest.mark.parametrize("costs", CURVES)
def test_a_round_costs_what_the_curve_says(costs):
    rounds = RoundCosts.of(costs, "dspark", 7, 64)
    assert rounds.plain == rounds.verify[0] == costs.plain_s(64) and rounds.draft[0] == 0
    for n in range(1, 8):
        assert rounds.verify[n] + rounds.draft[n] == pytest.approx(costs.round_s("dspark", n, n, 64), **CLOSE)
        assert rounds.draft[n] >= 0 < rounds.verify[n]


def test_the_page_and_the_forecast_agree_on_the_same_inputs(page):
    """This machine and this race with nothing moved; then every slider, against a curve that has such costs."""
    cases, expected = [], []
    for costs in CURVES:
        x = good_and_bad()
        here = replace(x, rounds=[replace(r, position=costs.costs[0].context) for r in x.rounds])
        cases += [(value(costs, race(x)), name, 0, {}) for name in (MACHINE, RACE)]
        expected += [prospects(costs, here, True), raced_prospects(costs, race(x))[0][1]]
    rng = random.Random(1)
    for _ in range(40):
        first, each, draft, accept = rng.uniform(0.01, 0.2), rng.uniform(0, 0.05), rng.uniform(0.001, 0.1), rng.random()
        wanted = foretold(curve(lambda w, a=first, b=each: a + b * (w - 1), first, draft), [accept] * 7)
        sliders = {"accept": accept, "draft": 1000 * draft, "further": 1000 * each}
        for own in (0.0, 0.03):  # wherever the sliders began
            begun = value(curve(lambda w, a=first, b=own: a + b * (w - 1), first, 0.02))
            cases.append((begun, MACHINE, 0, sliders))
            expected.append(wanted)
    for shown, options in zip(page(cases), expected, strict=True):
        same(shown, options)


def foretold(costs, accepted):
    """forecast.py's Prospects for any acceptance: of a race with one, by what it asks the curve."""
    lane = good_and_bad()
    with mock.patch("dspark_core.race.forecast.slot_acceptance", lambda outcomes: accepted):
        return prospects(costs, lane, True)


def test_a_shift_moves_what_was_measured_by_its_log_odds(page):
    x, by = race(good_and_bad()), (-1.3, 0.4)
    given = value(TAXI_CURVE, x)
    accepted = given["lines"][0]["accepted"]
    for shown, shift in zip(page([(given, MACHINE, 0, {"shift": s}) for s in by]), by, strict=True):
        same(shown, foretold(TAXI_CURVE, [probability(logit(p) + shift) for p in accepted]))


def test_a_batch_is_what_many_users_of_the_same_acceptance_come_to(page):
    """The page's batch against the simulation, whose rounds are accepted as the profile says on average."""
    x = good_and_bad()
    given = value(TAXI_CURVE, race(x))
    costs = BatchCosts(RoundCosts.of(TAXI_CURVE, "dspark", 7, 64), BatchRows.of(TAXI_CURVE, 64, {}))
    profile = given["lines"][0]["accepted"]
    means = [math.prod(profile[: n + 1]) for n in range(len(profile))]
    recording = Recording((Replayed(tuple(profile), tuple(means), 7, 7),), 0)
    crowd, users = ManyUsers((recording,), costs), (1, 2, 5, 64)
    for batch, shown in zip(users, page([(given, MACHINE, 0, {"batch": b}) for b in users]), strict=True):
        assert shown[0]["all"] == pytest.approx(crowd.plain(batch).tok_s, **CLOSE)
        for p in shown[1:]:
            served = crowd.fixed(batch, p["drafts"])
            assert p["all"] == pytest.approx(served.tok_s, **CLOSE) and p["each"] == pytest.approx(served.each, **CLOSE)
            assert p["times"] == pytest.approx(served.tok_s / crowd.plain(batch).tok_s, **CLOSE)


def test_start_points_name_their_source_and_verification_free_is_a_bus(page):
    infos = [replace(INFO, calibration=Calibration(survival=(0.8, 0.6)))]
    given = value(TAXI_CURVE, None, infos)
    starts = {s["id"]: s for s in given["starts"]}
    assert list(starts) == [MACHINE, "m4pro-gemma4-12b", "h200-smollm2", FREE]
    published, h200 = starts["m4pro-gemma4-12b"], starts["h200-smollm2"]
    assert "published" in published["source"] and "not measured by us" in published["source"]
    assert published["plain"] == pytest.approx(0.0543) and published["further"] == pytest.approx(0.014)
    assert [r["known"] for r in published["rounds"]] == [False] and "No time for drafting" in published["source"]
    assert "NVIDIA H200" in h200["source"] and h200["rounds"][0]["known"] and h200["passes"]["measured"] == 17
    (free,) = page([(given, FREE, 0, {"accept": 1.0, "draft": 0})])
    assert [p["times"] for p in free] == pytest.approx(range(1, 9)), "every accepted draft is a step saved"
    (published,) = page([(given, "m4pro-gemma4-12b", 0, {"accept": 1.0})])
    assert published[7]["times"] == pytest.approx(8 * 54.3 / (54.3 + 7 * 14))
    assert given["lines"][0]["accepted"] == [0.8, pytest.approx(0.75)] and not given["lines"][0]["raced"]


def test_without_a_curve_there_are_published_machines_and_without_drafters_nothing():
    assert [s["id"] for s in value(None)["starts"]] == ["m4pro-gemma4-12b", "h200-smollm2", FREE]
    assert value(TAXI_CURVE, None, ()) == {"lines": [], "starts": []}
    borrowed = bundled_curve({"device": "CPU"}, {"dspark": INFO}, 0.2)
    assert borrowed.borrowed in value(borrowed)["starts"][0]["source"]


@pytest.mark.parametrize("name", shipped())
def test_a_recorded_race_of_another_machine_gives_its_acceptance(name):
    """Two drafters of which one is not loaded; the race is not judged, so there is no "this race"."""
    raced = shipped()[name]
    given = value(TAXI_CURVE, raced, (INFO,), judged=False)
    assert [line["name"] for line in given["lines"]] == [x.spec.name for x in raced.lanes[1:]]
    assert all(line["raced"] and line["measured"] for line in given["lines"])
    ids = [s["id"] for s in given["starts"]]
    assert ids[0] == MACHINE and RACE not in ids
    assert [r["known"] for r in given["starts"][0]["rounds"]] == [True, False], "no cost is made up"
