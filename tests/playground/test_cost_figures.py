"""What the Cost model tab says of a measurement: how often, how exactly, and where it only reckons."""

import itertools
import json
from dataclasses import replace

import pytest

from dspark_core.decode.bundled_curve import bundled_curve
from dspark_core.decode.cost_curve import BUSY, CostCurve, Costs, Learned, Timing
from dspark_core.models.info import DrafterInfo
from dspark_core.playground.tabs.cost_tab import (
    cost_updates,
    curve_chart,
    forecast_table,
    further_chart,
    machine_words,
    prospects_chart,
    suggestion_words,
)
from dspark_core.race.forecast import Suggestion, suggest
from dspark_core.race.metrics import metrics
from dspark_core.race.records import PLAIN, LaneSpec

from ..race.forecasts import TAXI_CURVE, lane, race

INFO = DrafterInfo(id="dspark", method="DSpark", title="DSpark", name="d", block=7, max_drafts=7)


def timing(ms, n=5, spread=0.1):
    return Timing(ms / 1e3, ms * (1 - spread / 2) / 1e3, ms * (1 + spread / 2) / 1e3, n)


VERIFY = {1: timing(100.123456), 2: timing(131.9, 3), 4: timing(170.0), 8: timing(250.0, 9)}
COSTS = Costs(64, timing(100.0), VERIFY, {"dspark": {0: timing(50), 7: timing(80)}})
CURVE = CostCurve({"device": "CPU", "precision": "bf16"}, "2026-11-26T00:00:00+00:00", 30.0, (COSTS,))


def rows(value):
    return json.loads(value)["rows"]


def test_measured_points_are_filled_and_say_how_often_and_those_between_are_hollow():
    chart = curve_chart(CURVE, [INFO])
    verify = next(t for t in chart.figure.data if t.name == "verify, context 64")
    assert list(verify.x) == [1, 2, 3, 4, 5, 6, 7, 8]
    filled = [x for x, symbol in zip(verify.x, verify.marker.symbol, strict=True) if symbol == "circle"]
    assert filled == [1, 2, 4, 8]
    assert [w for w in verify.customdata if "samples" in w] == ["5 samples", "3 samples", "5 samples", "9 samples"]
    assert verify.customdata[2] == "between measured points"
    assert [a is not None for a in verify.error_y.array] == [x in VERIFY for x in verify.x], "a spread where measured"
    assert verify.error_y.array[7] == pytest.approx(12.5) == verify.error_y.arrayminus[7]
    widths = [r for r in rows(chart.table) if r[0] == "verify, context 64"]
    assert [(r[1], r[-1]) for r in widths] == [(1, 5), (2, 3), (4, 5), (8, 9)], "the table has measured points alone"
    assert widths[0][3] == 100, "10 ms of spread allow no digit behind the point"


def test_a_further_token_is_hollow_where_it_or_the_one_before_was_not_measured():
    chart = further_chart(CURVE)
    (bars,) = chart.figure.data
    hollow = [x for x, colour in zip(bars.x, bars.marker.color, strict=True) if colour == "rgba(0,0,0,0)"]
    assert hollow == [3, 4, 5, 6, 7, 8] and list(bars.x) == [2, *hollow]
    assert bars.marker.line.color, "drawn by its outline"
    assert rows(chart.table)[0][2] == 32, "31.777 ms, of times known to 13"


@pytest.mark.parametrize(("busy", "said"), [(0.0, False), (BUSY, True), (0.8, True)])
def test_a_busy_machine_is_named(busy, said):
    about = json.loads(cost_updates(replace(CURVE, busy=busy), None)["about"])
    assert ("This machine was busy while it was measured" in str(about)) == said
    assert not said or f"({100 * busy:.0f} % of the time" in str(about)


def test_another_machines_shape_is_named():
    borrowed = bundled_curve({"device": "CPU"}, {"dspark": INFO}, 0.2)
    shown = cost_updates(borrowed, None)
    about = str(shown["about"])
    assert all("once the costs are measured here" in str(shown[part]) for part in ("forecast", "plot prospects"))
    assert "Not measured here yet" in about and borrowed.borrowed in about


@pytest.mark.parametrize(
    ("cap", "gain", "known", "words"),
    [
        (0, 0.5, None, "(the nearest, 3 drafts a round, is predicted at 0.90 × plain); plain would gain 50 %."),
        (0, 0.01, None, "and it lost next to nothing."),
        (0, -0.2, None, "; this lane did, by 25 %."),
        (
            3,
            0.2,
            None,
            "fastest on this text would have been 3 drafts a round, about 9.0 tok/s, a predicted gain of 20 %.",
        ),
        (3, 0.02, None, "clearly faster on this text (the best, 3 drafts a round, about 9.0 tok/s: 2 % more)."),
        (3, 0.0, None, "no other fixed length would have been faster on this text."),
        (3, -0.1, None, ": no fixed length would have been faster on this text."),
        (
            0,
            0.01,
            1,
            "no fixed length of up to 1 draft a round beats plain decoding on this text (the nearest, 3 drafts "
            "a round, is predicted at 0.90 × plain), and it lost next to nothing.",
        ),
        (3, 0.0, 3, "no other fixed length of up to 3 drafts a round would have been faster on this text."),
    ],
)
def test_advice_in_words(cap, gain, known, words):
    said = suggestion_words(Suggestion("DSpark", "dspark", cap, 3, 9.0, gain, 0.9, known))
    assert said.replace("\N{NARROW NO-BREAK SPACE}", " ").replace("\N{NO-BREAK SPACE}", " ").endswith(words)


def test_chart_sentence_and_board_agree():
    """A curve that is off by a third for the drafter: what was measured stands, and everything else moves with it."""
    ids, drafts = [1], []
    for k in range(30):
        right = (7, 2, 0)[k % 3]
        drafts.append((*(100 * k + 10 + j for j in range(right)), *[999] * (7 - right)))
        ids += [*drafts[-1][:right], 100 * k + 99]
    drafted = lane(LaneSpec("DSpark", label="full block"), ids, drafts, [7] * 30, [0.3 * (k + 1) for k in range(30)])
    ids = list(range(1, 42))
    plain = lane(LaneSpec(PLAIN), ids, [()] * 40, [0] * 40, [0.15 * (k + 1) for k in range(40)])
    raced = race(plain, drafted)
    chart = prospects_chart(TAXI_CURVE, raced)
    line, measured = (next(t for t in chart.figure.data if t.name == n) for n in (drafted.spec.name, "as measured"))
    assert line.y[7] == pytest.approx(metrics(drafted).tok_s) == measured.y[1], "the cap that it ran"
    assert line.y[0] == pytest.approx(metrics(plain).tok_s) == measured.y[0]
    (s,) = suggest(TAXI_CURVE, raced)
    assert line.y[s.cap] == pytest.approx(s.tok_s) and max(line.y) == pytest.approx(s.tok_s)
    assert s.gain == pytest.approx(s.tok_s / metrics(drafted).tok_s - 1)
    by_cap = {r[1]: r[2:] for r in rows(chart.table)}
    assert all(len(f"{x:.12g}".replace(".", "").strip("0")) <= 3 for x in itertools.chain(*by_cap.values())), by_cap
    errors = [r[3] for r in rows(forecast_table(TAXI_CURVE, raced))]
    assert errors[0] == 0 and all(e == round(e) for e in errors)


def test_what_a_machine_is_like_does_not_change_with_what_races_teach():
    """Rounds of a race were three times as fast as measured: of the parts of a round that says nothing."""
    taught = replace(CURVE, learned={"plain": {"": Learned(0.3, 8.0)}, "dspark": {"7 7 blind": Learned(2.0, 20.0)}})
    assert machine_words(taught) == machine_words(CURVE) and "20 % of a plain step" in machine_words(CURVE)
    assert rows(further_chart(taught).table) == rows(further_chart(CURVE).table)
