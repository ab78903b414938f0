"""What the page's controls become, and what is refused; races followed without a browser."""

import itertools
import json
import math
import threading
import time
from dataclasses import replace

import pytest

from dspark_core.chart_style import GREY
from dspark_core.decode.rounds import Settings
from dspark_core.models.info import DrafterInfo
from dspark_core.playground import race_request
from dspark_core.playground.race_memory import RaceMemory
from dspark_core.playground.race_request import LaneForm, RaceForm
from dspark_core.playground.stream import FIELD, RECORD, board_updates, models_status
from dspark_core.playground.tabs.charts_tab import TITLES, RaceCharts
from dspark_core.playground.tabs.race_tab import RaceTab
from dspark_core.playground.widgets import Call
from dspark_core.playground.worker import Job, NoEngine, Worker
from dspark_core.race.metrics import MIN_SAMPLES
from dspark_core.race.records import CAP, CONFIDENCE, CUMULATIVE, FULL, HARDWARE, LaneSpec, RaceRequest
from tests.conftest import as_here
from tests.playground.replay import ReplayEngine, three_lanes

LANES = (LaneSpec("plain"), LaneSpec("DSpark", label="full block"), LaneSpec("DFlash", label="block 16"))
INFOS = (
    DrafterInfo(
        id="dspark", method="DSpark", title="DSpark", block=7, max_drafts=7, has_confidence=True, has_bias=True
    ),
    DrafterInfo(id="dflash", method="DFlash", title="DFlash", block=16, first_slot=1, max_drafts=15),
)
FORMS = tuple(LaneForm(drafter, FULL, 7, 0.5) for drafter in ("plain", "dspark", "dflash", "off"))


def asked(prompt="hello", tokens=24):
    return RaceRequest(prompt, LANES, Settings(max_tokens=tokens))


def worker_of(engine):
    worker = Worker(lambda progress: engine)
    while not worker.ready:
        time.sleep(0.01)
    return worker


def replay(**kwargs):
    pieces, rounds = three_lanes([f" word{k}" for k in range(24)])
    return ReplayEngine(pieces, rounds, **kwargs)


@pytest.mark.parametrize("bad", [None, "x", math.nan, math.inf, -math.inf, [], {}])
def test_a_number_that_is_none_becomes_the_default(bad):
    assert race_request.clamp(bad, 1, 9, 4) == 4


@pytest.mark.parametrize(("given", "kept"), [(-5, 1), (0, 1), (1e99, race_request.MAX_TOKENS), (7.9, 7), ("12", 12)])
def test_max_tokens_is_clamped(given, kept):
    assert race_request.settings_of(RaceForm(max_tokens=given)).max_tokens == kept


def test_every_other_number_is_clamped_too():
    s = race_request.settings_of(RaceForm("", 8, 1e9, -3, 0, -1))
    assert (s.temperature, s.top_k, s.top_p, s.seed) == (2, 0, 0.01, 0)


def lane_of(*values):
    (lane,) = race_request.lanes_of(RaceForm(lanes=(LaneForm(*values),)), INFOS)
    return lane


def test_lanes_from_controls():
    assert lane_of("plain", FULL, 7, 0.5) == LaneSpec("plain")
    assert lane_of("dflash", CAP, 5, 0.5) == LaneSpec("DFlash", CAP, cap=5, label="cap 5")
    assert lane_of("dflash", FULL, 7, 0.5) == LaneSpec("DFlash", FULL, cap=15, label="full block")
    assert lane_of("dspark", CAP, -4, 0.5).cap == 1
    assert lane_of("dspark", CONFIDENCE, 7, 9).threshold == 1
    assert lane_of("dspark", CUMULATIVE, 7, 0.3) == LaneSpec(
        "DSpark", CUMULATIVE, threshold=0.3, label="product ≥ 0.30"
    )
    for info in INFOS:
        assert lane_of(info.id, HARDWARE, 7, 0.5) == LaneSpec(info.method, HARDWARE, label="hardware-aware")
    assert lane_of("plain", HARDWARE, 7, 0.5) == LaneSpec("plain")
    for none in ("off", "../x", "DSpark", None, [], {}, 3):
        assert race_request.asked_lane(LaneForm(none, FULL, 7, 0.5), INFOS) is None


def test_settings_in_words():
    assert race_request.in_words(RaceForm("", 96, 0, 40, 0.9, 0, lanes=FORMS), INFOS) == (
        "plain, DSpark · full block, DFlash · full block; up to 96 tokens, greedy"
    )
    form = RaceForm("", 8, 0.7, 40, 0.9, 3, race_request.IN_TURN, " \n", lanes=FORMS[:2])
    assert race_request.in_words(form, INFOS) == (
        "plain, DSpark · full block; up to 8 tokens, temperature 0.7, top-k 40, top-p 0.9, seed 3, one after another"
    )


def test_the_system_turn():
    def asked_with(system):
        return race_request.request_of(RaceForm("Hi", 8, system=system, lanes=FORMS), INFOS)

    assert asked_with("Be brief.").messages[0] == {"role": "system", "content": "Be brief."}
    for none in ("", " \n", None, 7, ["x"]):
        assert [m["role"] for m in asked_with(none).messages] == ["user"] and asked_with(none).system == ""
    with pytest.raises(ValueError, match=r"The system turn has 10,001 characters; at most 10,000 are taken\."):
        asked_with("x" * 10_001)
    words = race_request.in_words(RaceForm(system="Be brief.", lanes=FORMS), INFOS)
    assert words.endswith("up to 96 tokens, greedy, with a system turn")


@pytest.mark.parametrize(
    ("prompt", "words"),
    [("", "Type a prompt"), ("  \n", "Type a prompt"), (None, "Type a prompt"), ("x" * 100_001, "100,001")],
)
def test_prompts_that_are_refused(prompt, words):
    with pytest.raises(ValueError, match=words):
        race_request.request_of(RaceForm(prompt, 8, lanes=FORMS), INFOS)


def test_a_race_needs_two_lanes():
    with pytest.raises(ValueError, match="two lanes"):
        race_request.request_of(RaceForm("x", 8, lanes=(LaneForm("off"),) * 4), INFOS)


def test_a_race_is_followed_to_its_verdict():
    worker = worker_of(replay())
    values = list(board_updates(worker, asked(), "me"))
    board, seen = values[-1]
    assert all(later.startswith(earlier) for (earlier, _), (later, _) in itertools.pairwise(values))
    assert [len(lane.output) for lane in seen.lanes] == [24] * 3
    assert seen.verdict.kind == "identical"
    assert board.split(RECORD)[-2].split(FIELD)[:2] == ["Z", "done"]


def test_what_was_seen_is_told_when_lanes_end_at_most_once_a_second(monkeypatch):
    def told(pace):
        worker = worker_of(replay(pace=pace))
        return [seen for _, seen in board_updates(worker, asked(), "me") if seen]

    monkeypatch.setattr("dspark_core.playground.stream.CHARTS_S", 0.1)
    *midway, last = told(pace=1.0)  # DSpark ends after 1.4 s, plain and DFlash at 2.3 and 2.4
    assert len(midway) >= 2 and midway[0].lanes[1].finish and not midway[0].lanes[0].finish
    assert len(midway[0].lanes[0].rounds) < len(last.lanes[0].rounds)  # a copy, which the race leaves alone
    assert midway[0].verdict is None and last.verdict
    monkeypatch.setattr("dspark_core.playground.stream.CHARTS_S", 60.0)
    assert len(told(pace=0)) <= 2


def test_stop_ends_it_and_frees_the_engine():
    worker = worker_of(ReplayEngine(*three_lanes([f" word{k}" for k in range(400)]), pace=0.4))  # 100 s
    values = board_updates(worker, asked(), "me")
    for value, _ in values:
        if value.count(RECORD + "D") > 3:
            break
    worker.stop("me")
    began = time.monotonic()
    *_, (board, seen) = values
    assert time.monotonic() - began < as_here(3)
    assert seen.stopped and seen.verdict is None
    assert board.split(RECORD)[-2].split(FIELD)[:2] == ["Z", "stopped"]
    _until(lambda: worker.idle)


def test_closing_the_page_frees_the_engine():
    worker = worker_of(replay(pace=0.1))
    values = board_updates(worker, asked(), "me")
    next(values)
    next(values)
    values.close()
    _until(lambda: worker.idle)


def test_stop_while_loading_ends_the_race_but_not_the_loading():
    gate = threading.Event()
    worker = Worker(lambda progress: (progress("reading weights"), gate.wait(), replay())[-1])
    values = board_updates(worker, asked(), "me")
    said = ""
    while "Loading" not in said:
        said = next(values)[0]
    assert "reading weights" in said
    worker.stop("me")
    *_, (board, seen) = values
    assert seen is None and "stopped" in board
    gate.set()
    _until(lambda: worker.idle and worker.ready)
    assert not isinstance(worker.engine, NoEngine)


def test_a_race_that_is_refused_says_why(monkeypatch):
    monkeypatch.setattr("dspark_core.playground.worker.LAST_MOMENT_S", 0.05)
    worker, gate = worker_of(replay()), threading.Event()
    worker.submit(Job("me", "measurement", lambda engine, job: gate.wait(5) and ()))
    tab = RaceTab(worker, None, RaceMemory(dict))
    monkeypatch.setattr("dspark_core.playground.tabs.race_tab.asked_race", lambda ask, call: asked())
    ((_, board),) = [*next(tab.race(Call("me", {}))).items()]
    assert board.startswith(f"R{FIELD}refused ") and "This page is busy: wait for its measurement, or stop it." in board
    gate.set()


def test_a_second_page_waits_and_is_told():
    worker = worker_of(replay(pace=2.0))
    first, second = board_updates(worker, asked(), "a"), board_updates(worker, asked(), "b")
    next(first)
    next(second)
    assert "Waiting: 1 race before this one." in next(second)[0]
    worker.stop("a")
    *_, (_, seen) = second
    assert seen.verdict.kind == "identical"


def test_stop_is_for_the_own_session_only():
    worker = worker_of(replay(pace=3.0))
    values = board_updates(worker, asked(), "a")
    next(values)
    worker.stop("b")
    *_, (_, seen) = values
    assert not seen.stopped


def test_models_that_cannot_load_are_reported_by_every_race():
    def load(progress):
        raise RuntimeError("config.json does not exist.")

    worker = Worker(load)
    _until(lambda: worker.ready)
    *_, (board, seen) = board_updates(worker, asked(), "me")
    assert seen is None and "config.json does not exist." in board
    assert list(models_status(worker)) == ["No race can be run: config.json does not exist."]


def test_an_engine_that_breaks_leaves_a_worker_that_works():
    engine = replay()
    worker = worker_of(engine)
    engine.rounds = None
    *_, (board, _) = board_updates(worker, asked(), "me")
    assert "The race failed" in board
    engine.rounds = replay().rounds
    *_, (_, seen) = board_updates(worker, asked(), "me")
    assert seen.verdict


def test_charts_have_a_figure_and_the_same_numbers_as_a_table():
    worker = worker_of(replay())
    *_, (_, seen) = board_updates(worker, asked(), "me")
    drawn = RaceCharts(seen).drawn() | {"spent": RaceCharts(seen).spent()}
    assert set(drawn) == set(TITLES)
    for name, chart in drawn.items():
        table = json.loads(chart.table)
        assert table["name"] == name and all(len(row) == len(table["columns"]) for row in table["rows"])
        assert chart.figure.layout.paper_bgcolor == "rgba(0,0,0,0)"
    speed = json.loads(drawn["speed"].table)["rows"]
    assert [row[0] for row in speed] == ["plain", "DSpark · full block", "DFlash · block 16"]
    assert speed[0][2] == 1.0
    bars = drawn["speed"].figure  # short enough for a telephone
    assert bars.layout.yaxis.ticktext[1] == "DSpark<br>full block" and bars.data[1].text[0].count("<br>") == 1
    assert "Measure" in drawn["spent"].figure.layout.annotations[0].text
    shares = [row[3] for row in json.loads(drawn["lengths"].table)["rows"] if row[0].startswith("DSpark")]
    assert sum(shares) == pytest.approx(1, abs=1e-3)


def test_positions_with_too_few_rounds_are_grey_and_say_their_number():
    worker = worker_of(ReplayEngine(*three_lanes([f" word{k}" for k in range(120)])))
    *_, (_, seen) = board_updates(worker, asked(tokens=120), "me")
    for name in ("conditional", "cumulative"):
        chart = RaceCharts(seen).drawn()[name]
        rows = json.loads(chart.table)["rows"]
        bars = [bar for trace in chart.figure.data for bar in zip(trace.marker.color, trace.customdata, strict=True)]
        drawn = [row for row in rows if row[3] >= 5]  # a share of fewer says nothing; the table has it
        assert [n for _, n in bars] == [row[3] for row in drawn]
        assert [colour != GREY for colour, _ in bars] == [row[3] >= MIN_SAMPLES for row in drawn]
        assert [row[4] for row in rows] == [row[3] >= MIN_SAMPLES for row in rows]
    grey = [row[4] for row in json.loads(RaceCharts(seen).drawn()["conditional"].table)["rows"]]
    assert {True, False} == set(grey)
    short = RaceCharts(replace(seen, lanes=[replace(x, rounds=x.rounds[:4]) for x in seen.lanes])).drawn()
    for name in ("conditional", "cumulative"):
        assert json.loads(short[name].table)["rows"] and not any(trace.y for trace in short[name].figure.data)


def test_charts_without_a_race_are_empty():
    assert all(json.loads(c.table)["rows"] == [] for c in RaceCharts(None).drawn().values())


def _until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_page_has_one_race_at_a_time():
    worker = worker_of(replay(pace=1.0))
    first = board_updates(worker, asked(), "me")
    next(first)
    with pytest.raises(ValueError, match="This page is busy: wait for its race, or stop it"):
        next(board_updates(worker, asked(), "me"))
    worker.stop("me")
    *_, (_, seen) = board_updates(worker, asked(), "me")  # a new race may follow a Stop at once
    assert seen.verdict or seen.stopped
    first.close()
