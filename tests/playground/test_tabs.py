"""What the tabs' buttons do, called as they are, without a page."""

import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest

from dspark_core.decode.rounds import Settings
from dspark_core.models.info import DrafterInfo
from dspark_core.playground.engine import Choice
from dspark_core.playground.proof_view import Proof, draw_table, draws_made, shown_check
from dspark_core.playground.saved import traced
from dspark_core.playground.saved_bar import SavedBar
from dspark_core.playground.stream import ABOUT_PLAIN, board_updates, idle
from dspark_core.playground.tabs.compare_tab import NOTHING, CompareTab
from dspark_core.playground.tabs.cost_tab import CostTab
from dspark_core.playground.tabs.prove_tab import ProveTab
from dspark_core.playground.widgets import Call, listen
from dspark_core.playground.worker import NoEngine, Worker
from dspark_core.proof.evidence import RIGHT, Pair
from dspark_core.race.forecast import Suggestion
from dspark_core.race.records import PLAIN, LaneSpec, RaceRequest
from dspark_core.race.trace import dumps
from tests.playground.replay import ReplayEngine, three_lanes
from tests.playground.tiny import TinyEngine

LANES = (LaneSpec(PLAIN), LaneSpec("DSpark", label="full block"), LaneSpec("DFlash", label="block 16"))
DRAWS = {
    "prompt": "The sea.",
    "drafter": "dspark",
    "sampler": "right",
    "temperature": 1,
    "top_k": 8,
    "n": 200,
    "seed": 0,
}


def worker_of(engine) -> Worker:
    worker = Worker(lambda progress: engine)
    until(lambda: worker.ready)
    return worker


def until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def race(words="word"):
    worker = worker_of(ReplayEngine(*three_lanes([f" {words}{k}" for k in range(24)])))
    *_, (_, record) = board_updates(worker, RaceRequest("hello", LANES, Settings(max_tokens=24)), "me")
    return record


def last_of(steps) -> dict:
    """Every output's last value."""
    values = {}
    for updates in steps:
        values |= updates
    return values


# ---- Prove it --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def proving():
    worker = Worker(TinyEngine)
    until(lambda: worker.ready)
    return worker


def prove_tab(worker):
    return ProveTab(
        worker, None, [SimpleNamespace(text="The sea.", title="sea"), SimpleNamespace(text="Go.", title="go")]
    )


def test_a_proof_is_drawn_and_judged(proving):
    values = last_of(prove_tab(proving).draw(Call("me", DRAWS)))
    table = json.loads(values["table"])
    assert table["rows"] and all(row[0].startswith("ba") or row[0].strip() for row in table["rows"])
    assert json.loads(values["verdict"])["kind"] == "identical" and json.loads(values["progress"])["words"] == ""
    assert "temperature 1" in json.loads(values["verdict"])["more"]


def test_samplers_stand_side_by_side_and_the_next_proof_is_announced(proving):
    tab = prove_tab(proving)
    before = tab.time_words(Call("me", {"drafter": "dspark", "n": 500}))["time"]
    assert "60 s at most, all 5 together 2 min" in before and "after the first proof" in before
    values = last_of(tab.draw_row(Call("me", DRAWS)))
    shown = json.loads(values["cards"])
    assert [card["badge"] for card in shown if card["right"]] == ["Exact"] and len(shown) == 5
    assert {card["draws"] for card in shown} == {"200 of 200 draws"}
    assert all("p-value" in card["p"] and "%" in card["away"] and card["why"] for card in shown)
    caught = sum(card["badge"] == "Caught" for card in shown)
    assert f"exact, as far as these draws can tell. {caught} of 4 wrong" in json.loads(values["verdict"])["words"]
    table = json.loads(values["table"])
    assert {row[0] for row in table["rows"]} == {card["title"] for card in shown}
    for row in table["rows"]:
        exact, drawn, times = row[3:6]
        assert times is None or times == pytest.approx(drawn / exact, abs=0.01 + 1e-5 / exact**2)
    assert [trace.name for trace in values["plot"].data] == ["what luck explains", *(card["title"] for card in shown)]
    assert values["last"][0].evidence.request.sampler == "right"
    after = tab.time_words(Call("me", {"drafter": "dspark", "n": 500}))["time"]
    assert (
        after.startswith("500 draws take about 1 s with one sampler") and "by the last proof on this machine" in after
    )
    assert tab.time_words(Call("me", {"drafter": "dflash", "n": 500}))["time"] == before


def test_draws_that_time_cut_short_say_how_many_were_made():
    made = SimpleNamespace(request=SimpleNamespace(n=10_000), comparison=SimpleNamespace(n=8_000))
    assert draws_made(made) == "8,000 of 10,000 draws: time was up"


def test_the_table_leaves_out_what_was_neither_drawn_nor_to_be_expected():
    pairs = (
        Pair(1, 2, 0.9, 580),
        Pair(1, 3, 1e-9, 0),
        Pair(1, 4, 0.001, 0),
        Pair(1, 5, 1e-36, 20),
        Pair(1, None, 0.0, 3),
    )
    request, comparison = SimpleNamespace(sampler=RIGHT), SimpleNamespace(n=600)
    evidence = SimpleNamespace(request=request, comparison=comparison, pairs=pairs)
    table = json.loads(draw_table([Proof(evidence, None, {k: str(k) for k in range(6)})]))
    assert [row[2:] for row in table["rows"]] == [
        ["2", 0.9, 0.96667, 1.07, 580, 540.0],
        ["4", 0.001, 0.0, 0.0, 0, 0.6],
        ["5", 0.0, 0.03333, None, 20, 0.0],
        ["any other", 0.0, 0.005, None, 3, 0.0],
    ]


def test_a_card_tells_of_a_comparison_that_could_come_out_otherwise():
    def check(name, freedom):
        return SimpleNamespace(name=name, comparison=SimpleNamespace(freedom=freedom))

    pairs, bonus = check("pairs", 0), check("bonus tokens", 3)
    free = SimpleNamespace(flagged=False, freedom=3, checks=(pairs, bonus), worst=bonus)
    assert shown_check(free) is bonus
    assert shown_check(SimpleNamespace(flagged=False, freedom=0, checks=(pairs,), worst=pairs)) is pairs
    likely = SimpleNamespace(flagged=False, freedom=8, checks=(check("pairs", 5), bonus), worst=bonus)
    assert shown_check(likely) is likely.checks[0]


def test_greedy_proofs_are_announced_by_the_measured_step(proving):
    tab, models = prove_tab(proving), proving.engine.models
    assert tab.agree_time_words(Call("me", {"tokens": 24})) == {"time": ""}
    curve = SimpleNamespace(borrowed="", costs=[SimpleNamespace(context=64)], plain_s=lambda context: 0.1)
    models.curve = curve
    try:
        words = tab.agree_time_words(Call("me", {"tokens": 24}))["time"]
    finally:
        models.curve = None
    assert words.startswith(
        "About 15 s and the reading of 2 prompts: 3 lanes of 24 tokens each, at 100 ms a plain step"
    )


def test_a_proof_shows_its_own_tokens_whatever_is_loaded_by_then(proving):
    """The job carries the texts: another page may load other models before the last event is shown."""
    engine, tab = proving.engine, prove_tab(proving)
    expected = last_of(tab.draw(Call("me", DRAWS)))["table"]
    steps = tab.draw(Call("me", DRAWS))
    next(steps)  # the page shows that it starts; from here on it is slow
    values = next(steps)
    until(lambda: proving.idle)
    proving.engine = NoEngine("No model is loaded.")
    try:
        values |= last_of(steps)
    finally:
        proving.engine = engine
    assert values["table"] == expected


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"prompt": " \n"}, "Type a prompt for the answer whose tokens are drawn."),
        ({"prompt": None}, "Type a prompt for the answer whose tokens are drawn."),
        ({"drafter": "dspark-9"}, "dspark-9 is not running: it is not configured for this target."),
        ({"drafter": None}, "The drafter is not running: it is not configured for this target."),
    ],
)
def test_what_cannot_be_proven_is_said(proving, asked, words):
    values = last_of(prove_tab(proving).draw(Call("me", DRAWS | asked)))
    assert json.loads(values["progress"])["words"] == words


def test_a_proof_that_breaks_says_that_the_proof_failed(proving, monkeypatch):
    monkeypatch.setattr("dspark_core.proof.prove.prove", lambda *asked: 1 / 0)
    values = last_of(prove_tab(proving).draw(Call("me", DRAWS)))
    assert json.loads(values["progress"])["words"] == "The proof failed: ZeroDivisionError: division by zero"


def test_every_example_is_decoded_and_compared(proving):
    values = last_of(prove_tab(proving).agree(Call("me", {"tokens": 8})))
    assert json.loads(values["verdict"])["words"].startswith(
        "2 of 2 prompts, 16 tokens each lane, 3 lanes: 2 identical"
    )
    assert [row[0] for row in json.loads(values["table"])["rows"]] == ["sea", "go"]


def test_the_drafters_to_choose_from_are_the_loaded_ones():
    one, two = (DrafterInfo(id=i, method="X", title=i.upper(), block=4, max_drafts=4) for i in ("x", "x-2"))
    tab = ProveTab(None, None, [])
    tab.drafters = lambda: [(info.title, info.id) for info in (one, two)]
    assert tab.offer(Call("", {"drafter": "x-2"}))["drafter"]["value"] == "x-2"
    assert tab.offer(Call("", {"drafter": "dspark"}))["drafter"]["value"] == "x"
    tab.drafters = list
    assert tab.offer(Call("", {"drafter": "x"}))["drafter"]["value"] is None


def test_a_proof_is_of_the_drafter_that_was_asked_for(proving):
    tab = prove_tab(proving)
    for drafter, title in (("dspark", "DSpark"), ("dflash", "DFlash")):
        more = json.loads(last_of(tab.draw(Call("me", DRAWS | {"drafter": drafter})))["verdict"])["more"]
        assert more.startswith(f"{title}, temperature 1;")


# ---- under the board -------------------------------------------------------------------------------------


def test_a_finished_race_joins_the_others_once():
    bar, record = SavedBar(None), race()
    added = bar.add_race(Call("me", {"last": record, "races": []}))
    assert added["races"] == [added["trace"]] and added["trace"].race is record
    assert bar.add_race(Call("me", {"last": record, "races": added["races"]})) == {}
    assert bar.add_race(Call("me", {"last": None, "races": []})) == {}


@pytest.mark.parametrize("sent", [{}, {"which": None}, {"which": 1}, {"which": -1}, {"which": True}, {"which": "0"}])
def test_only_a_race_that_is_there_is_shown(sent):
    bar, trace = SavedBar(None), traced(race())
    assert bar.show(Call("me", {"races": [trace]}, sent)) == {}
    assert bar.show(Call("me", {"races": [trace]}, {"which": 0}))["last"] is trace.race


@pytest.mark.parametrize("sent", [{}, {"text": None}, {"text": 7}, {"text": "{"}, {"text": "[]"}])
def test_what_is_no_saved_race_is_refused(sent):
    value = json.loads(SavedBar(None).open_file(Call("me", {"races": []}, sent))["bar"])
    assert value["failed"] and value["words"].endswith(".")


def test_a_saved_race_is_opened_and_saved_again():
    bar, text = SavedBar(None), dumps(traced(race()))
    opened = bar.open_file(Call("me", {"races": []}, {"text": text}))
    assert json.loads(opened["bar"])["words"].startswith("Opened: a recording, bf16, ")
    saved = json.loads(bar.save(Call("me", {"trace": opened["trace"]}, {"kind": "json"}))["bar"])
    assert json.loads(saved["text"]) == json.loads(text) and saved["type"] == "application/json"
    assert json.loads(bar.save(Call("me", {"trace": None}))["bar"])["failed"]


def test_the_newest_two_races_are_compared():
    tab, traces = CompareTab(None), [traced(race(words)) for words in "abc"]
    assert tab.offer(Call("me", {"races": traces[:1]}))["table"] == NOTHING
    offered = tab.offer(Call("me", {"races": traces}))
    left, right = offered["left"]["value"], offered["right"]["value"]
    assert left.startswith("2. ") and right.startswith("3. ") and len(offered["left"]["choices"]) == 3
    assert tab.show(Call("me", {"left": left, "right": right, "races": traces}))["table"] == offered["table"]
    assert tab.show(Call("me", {"left": left, "right": "another", "races": traces}))["table"] == NOTHING


def test_before_anything_is_loaded_the_cost_tab_is_empty():
    worker = Worker(lambda progress: time.sleep(60))
    tab = CostTab(worker, SimpleNamespace(offers=lambda: SimpleNamespace(infos=())), None)
    call = Call("me", {"race": race(), "trace": None, "races": (), "asked": {}})
    assert "Not measured yet" in tab.draw(call)["about"] and tab.advise(call) == {"advice": "[]"}


def test_the_fastest_setting_of_a_race_stands_as_a_command(monkeypatch):
    """Of lanes that drafted long enough; none where plain decoding was faster."""
    choice = Choice("A", Path("/m/target"), {"dspark": Path("/m/drafter")}, "auto", "8-bit")
    tab = CostTab(SimpleNamespace(engine=SimpleNamespace(choice=choice)), None, None)
    lanes = [SimpleNamespace(spec=SimpleNamespace(name=name), rounds=[0] * n) for name, n in (("DSpark", 9), ("b", 2))]
    run = SimpleNamespace(lanes=lanes, request=SimpleNamespace(profile=False))
    best = Suggestion("DSpark", "dspark", 3, 3, 9.0, 0.2, 1.4)
    found = [best, replace(best, cap=2, times=1.2), replace(best, lane="b", cap=7, times=3.0)]
    monkeypatch.setattr("dspark_core.playground.tabs.cost_tab.suggest", lambda curve, race: found)
    (line,) = tab._outside(object(), run, "")
    assert line["command"] == (
        "mlx-dspark generate --mode dspark --model /m/target --drafter /m/drafter --max-draft 3 --drafter-bits 8"
    )
    found[:] = [replace(best, cap=0)]
    assert tab._outside(object(), run, "") == [] == tab._outside(object(), None, "")


# ---- the board -------------------------------------------------------------------------------------------


def test_the_board_gets_times_with_every_digit():
    """What the page counts of them must round as the same numbers do elsewhere: 3.035 is 3.04 by four digits."""
    worker = worker_of(ReplayEngine(*three_lanes([f" w{k}" for k in range(24)], round_s=0.1 / 3)))
    *_, (board, record) = board_updates(worker, RaceRequest("hi", LANES, Settings(max_tokens=24)), "me")
    fields = [r.split("\x1f") for r in board.split("\x1e")]
    for i, lane in enumerate(record.lanes):
        assert [float(f[3]) for f in fields if f[:2] == ["D", str(i)]] == [r.time_s for r in lane.rounds]
        assert [float(f[2]) for f in fields if f[:2] == ["S", str(i)]] == [lane.start.prefill_s]


def test_an_idle_board_says_what_the_loaded_drafters_do():
    info = DrafterInfo(id="lookup", method="Lookup", title="Lookup", about="It looks back.", block=4, max_drafts=4)
    lanes = (LaneSpec(PLAIN), LaneSpec("Lookup", label="cap 3"), LaneSpec("Lookup", drafter="lookup-2"))
    before, after = idle(lanes, []), idle(lanes, [info, replace(info, id="lookup-2", about="Twice.")])
    said = [r.split("\x1f")[1:] for r in after.split("\x1e") if r.startswith("I")]
    assert said == [
        [
            ABOUT_PLAIN,
            "It looks back.",
            "Twice.",
        ]
    ]
    runs = [board.split("\x1f")[1] for board in (before, after)]
    assert runs[0] != runs[1] and all(run.startswith("idle") for run in runs)


# ---- handlers and gradio ---------------------------------------------------------------------------------


def test_handlers_are_given_and_give_values_by_name():
    given = []

    def once(call):
        given.append(call)
        return {"b": call["a"] + "!"} if call["a"] else None

    def stepwise(call):
        for k in range(call["n"]):
            yield {"c": k}

    with gr.Blocks() as page:
        a, b, c, n, go = gr.Textbox(), gr.Textbox(), gr.Number(), gr.Number(), gr.Button()
        listen(go.click, once, {"a": a}, {"b": b, "c": c})
        listen(go.click, stepwise, {"n": n}, {"b": b, "c": c})
        listen(go.click, once, {"a": a}, {})
    first, second, third = page.fns.values()
    visitor, event = SimpleNamespace(session_hash="me"), SimpleNamespace(_data={"which": 3, "kind": "x"})
    assert first.fn({a: "hi"}, visitor, event) == {b: "hi!"}
    assert given[0].session == "me" and given[0].sent_as("which", int, -1) == 3
    assert given[0].sent_as("kind", int, -1) == -1 and given[0].sent_as("none", str, "") == ""
    assert first.fn({a: ""}, visitor, SimpleNamespace(_data=None)) == gr.skip()
    assert list(second.fn({n: 2}, visitor, event)) == [{c: 0}, {c: 1}]
    assert list(second.fn({n: 0}, visitor, event)) == [gr.skip()]
    assert third.fn({a: "hi"}, visitor, event) is None


def test_half_an_emoji_never_reaches_a_handler():
    with gr.Blocks() as page:
        a, b, go = gr.Textbox(), gr.Textbox(), gr.Button()
        listen(go.click, lambda call: {"b": call["a"] + call.sent_as("more", str, "")}, {"a": a}, {"b": b})
    (only,) = page.fns.values()
    event = SimpleNamespace(_data={"more": "c\ude00"})
    assert only.fn({a: "b\ud83d"}, SimpleNamespace(session_hash="me"), event) == {b: "b\ufffdc\ufffd"}


def test_a_page_that_goes_away_closes_the_handler():
    closed = []

    def endless(call):
        try:
            while True:
                yield {"b": "…"}
        finally:
            closed.append(True)

    with gr.Blocks() as page:
        b, go = gr.Textbox(), gr.Button()
        listen(go.click, endless, {}, {"b": b})
    steps = next(iter(page.fns.values())).fn({}, SimpleNamespace(session_hash="me"), SimpleNamespace(_data=None))
    next(steps)
    steps.close()
    assert closed == [True]
