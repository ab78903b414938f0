"""What lessons set, and what they tell of a race: in its own numbers, also where they contradict the lesson."""

import json
from dataclasses import replace
from types import SimpleNamespace

import gradio as gr
import pytest

from dspark_core.decode.rounds import Settings, Start
from dspark_core.models.info import DrafterInfo
from dspark_core.playground import lessons
from dspark_core.playground.controls import controls
from dspark_core.playground.conversation import Conversation
from dspark_core.playground.lesson_answers import (
    RaceFacts,
    block_length,
    cheating,
    does_not_pay,
    later_drafts,
    many_users,
    survivors,
)
from dspark_core.playground.lessons import LESSONS, Chosen, Lessons
from dspark_core.playground.proof_view import SHORT
from dspark_core.playground.race_request import Offers, lanes_of, read_form
from dspark_core.playground.widgets import Call
from dspark_core.presets import load_prompts
from dspark_core.proof.evidence import BONUS, RIGHT, SAMPLERS
from dspark_core.race.metrics import metrics
from dspark_core.race.records import CAP, FULL, HARDWARE, PLAIN, LaneRecord, LaneSpec, RaceRecord, RaceRequest
from tests.playground.replay import recorded_rounds

INFOS = (
    DrafterInfo(id="dspark", method="DSpark", title="DSpark", block=7, max_drafts=7, has_bias=True),
    DrafterInfo(id="dflash", method="DFlash", title="DFlash", block=16, first_slot=1, max_drafts=15),
)
IDS = [*range(1, 42)]
WRONG = 99


def lane(method, block=0, accepts=(), round_s=0.1, schedule=FULL, label=""):
    spec = LaneSpec(method) if method == PLAIN else LaneSpec(method, schedule, label=label or "full block")
    record = LaneRecord(spec)
    for event in recorded_rounds(IDS, block, accepts, WRONG, round_s):
        record.add(event)
    return record


def race(*lanes):
    request = RaceRequest("Hi", tuple(x.spec for x in lanes), Settings(max_tokens=len(IDS)))
    return RaceRecord("a target", "bf16", request, 12, list(lanes))


PLAIN_LANE = lane(PLAIN)


def test_later_drafts_are_counted_in_both_lanes():
    told = later_drafts(RaceFacts(race(PLAIN_LANE, lane("DSpark", 7, (7, 6)), lane("DFlash", 15, (2, 5)))))
    assert told.right == (0,) and "In place 1 of the block the target kept 6 of 6 (100 %) of DSpark’s" in told.words
    assert (
        "and 9 of 10 (90 %) of DFlash’s; in places 4 to 7, 18 of 24 (75 %) of DSpark’s and 8 of 40 (20 %)" in told.words
    )
    assert told.place == {"lane": 1, "at": 1, "bias": False} and "DSpark’s round 1, drafted again" in told.words


def test_later_drafts_that_do_not_last_longer_contradict_the_lesson():
    told = later_drafts(RaceFacts(race(PLAIN_LANE, lane("DSpark", 7, (2,)), lane("DFlash", 15, (7,)))))
    assert told.right == (2,) and "this race does not show what the lesson is about" in told.words


@pytest.mark.parametrize(
    ("round_s", "right", "words"),
    [(0.5, 0, "Here it is not."), (0.2, 1, "about equal"), (0.1, 2, "against what this text was chosen for")],
)
def test_whether_it_pays_is_what_the_race_says(round_s, right, words):
    spark = lane("DSpark", 7, (1,), round_s)
    aware = lane("DSpark", 2, (1,), 0.2, HARDWARE, "hardware-aware")
    told = does_not_pay(RaceFacts(race(PLAIN_LANE, spark, aware)))
    assert told.right == (right,) and words in told.words and told.place == {"lane": 1}
    assert f"DSpark · full block: {0.2 / round_s:.2f} ×. 14 % of its drafts were kept" in told.words
    assert f"a round gave 2.00 tokens and took as long as {round_s / 0.1:.2f} plain steps" in told.words
    assert "DSpark · hardware-aware sent 2.0 drafts a round and came to 1.00 ×" in told.words


def test_a_round_gives_what_the_answer_has_and_the_panes_own_number_is_explained():
    spark = lane("DSpark", 7, (7,), 0.2)
    spark.rounds[-1] = replace(spark.rounds[-1], accepted=7)  # of which the token limit let one stand
    spark.rounds[-1] = replace(spark.rounds[-1], committed=spark.rounds[-1].committed[:1])
    m = metrics(spark)
    assert m.tokens / m.rounds < m.tokens_per_round
    words = does_not_pay(RaceFacts(race(PLAIN_LANE, spark))).words
    assert (
        f"gave {m.tokens / m.rounds:.2f} tokens (the pane counts {m.tokens_per_round:.2f}, with what the end" in words
    )
    assert "the pane" not in does_not_pay(RaceFacts(race(PLAIN_LANE, lane("DSpark", 7, (1,), 0.2)))).words


def test_the_length_that_was_fastest_is_told_and_near_ones_are_no_different():
    lanes = [lane("DSpark", n, (n, 1), 0.2, CAP, f"cap {n}") for n in (1, 3)]
    told = block_length(RaceFacts(race(PLAIN_LANE, *lanes, lane("DSpark", 7, (5, 1), 0.2))))
    assert told.right == (2,) and "cap 1: 1.00 ×, cap 3: 1.54 ×, full block: 2.00 ×" in told.words
    assert "Kept were, in places 1 to 7: " in told.words and "not known yet" in told.words
    assert told.place["id"] == "what-if"
    curve = SimpleNamespace(borrowed="two cores")
    foreign = block_length(RaceFacts(race(PLAIN_LANE, *lanes), curve, judged=False)).words
    assert "is not known yet; above they are in another machine’s proportions." in foreign
    even = block_length(RaceFacts(race(PLAIN_LANE, lane("DSpark", 1, (1,), 0.2, CAP, "cap 1"), *lanes[:1])))
    assert even.right == (0, 1, 2) and "which is no difference" in even.words


def crowd(fixed, users=(1, 32), measured=64):
    """What the simulation says of whole blocks: times plain by number of users."""
    points = [
        {
            **{"users": n, "plain": {"tok_s": 10.0 * n}, "fixed": [{"tok_s": 10.0 * n * x, "rows": 8.0 * n}]},
            "schedule": {"tok_s": 10.5 * n, "sent": 0.5, "parked": False},
        }
        for n, x in zip(users, fixed, strict=True)
    ]
    starts = [{"id": "race", "measured": measured}]
    return {"points": points, "lengths": [1, 7], "seed": 1, "starts": starts, "start": "race", "group": "dspark"}


@pytest.mark.parametrize(("times", "right"), [(0.6, 2), (1.0, 1), (1.4, 0)])
def test_many_users_are_told_of_as_the_simulation_has_them(times, right):
    record = race(PLAIN_LANE, lane("DSpark", 7, (3,), 0.2))
    told = many_users(RaceFacts(record, users=crowd((2.0, times))))
    assert told.right == (right,) and f"one user 2.00 × plain, and 32 users together {times:.2f} ×" in told.words
    assert "In this race one user was 2.00 × as fast" in told.words and "comes to 1.05 ×" in told.words
    assert (
        "has 256 tokens to check instead of 32" in told.words and "more than 64 tokens were not measured" in told.words
    )
    assert ("does not hurt many" in told.words) == (right < 2)
    assert told.place["id"] == "many-users" and told.place["set"]["users"] == "32"
    foreign = crowd((2.0, times)) | {"start": "machine"}
    words = many_users(RaceFacts(record, SimpleNamespace(borrowed="two cores"), users=foreign)).words
    assert "with another machine’s proportions" in words and "another machine" not in told.words
    with pytest.raises(ValueError, match="no costs yet"):
        many_users(RaceFacts(record))


def test_a_guess_is_held_against_all_drafts_that_were_sent():
    idle = lane("Lookup", label="hardware-aware", schedule=HARDWARE)
    told = survivors(RaceFacts(race(PLAIN_LANE, lane("DSpark", 7, (3,)), lane("DFlash", 15, (3,)), idle), picked=40))
    assert "60 of 220 (27 %) of the drafts that were sent survived. You guessed 40 of 100: 13 off." in told.words
    assert "DSpark · full block: 30 of 70 (43 %); DFlash · full block: 30 of 150 (20 %)" in told.words
    assert told.words.endswith("; Lookup · hardware-aware: sent none.")


def test_what_cannot_be_told_is_said():
    failed = lane("DSpark", 7, (3,))
    failed.error = "Out of memory."
    empty = LaneRecord(LaneSpec("DSpark", FULL))
    empty.add(Start(1, 12, 0.1, finish="stop"))
    for lanes, words in (
        ([PLAIN_LANE, lane("DFlash", 15, (1,), schedule=CAP)], "had no lane that drafts whole blocks"),
        ([PLAIN_LANE, failed], "The lane DSpark · full block failed, so there is nothing to tell: Out of memory."),
        ([PLAIN_LANE, empty], "ended at once"),
        ([lane("DSpark", 7, (3,))], "had no plain lane"),
    ):
        with pytest.raises(ValueError, match=words):
            does_not_pay(RaceFacts(race(*lanes)))
    with pytest.raises(ValueError, match="none could survive"):
        survivors(RaceFacts(race(PLAIN_LANE, PLAIN_LANE)))


# ---- can you cheat? ------------------------------------------------------------------------------------------


def proofs(monkeypatch, kinds):
    """Stand-ins of proofs, in the order of the samplers, that are judged so."""
    monkeypatch.setattr("dspark_core.playground.lesson_answers.draw_verdict", lambda e, info: (e.judged, ""))
    found = []
    for sampler, kind in zip(SAMPLERS, kinds, strict=True):
        comparison = SimpleNamespace(n=2000, freedom=9, distance=0.02 if sampler == RIGHT else 0.3)
        request, check = SimpleNamespace(sampler=sampler, n=2000), SimpleNamespace(comparison=comparison)
        found_out = {"flagged": kind == "divergence", "freedom": 9, "checks": (check,), "worst": check}
        evidence = SimpleNamespace(request=request, comparison=comparison, judged=kind, **found_out)
        found.append(SimpleNamespace(evidence=evidence, info=None))
    return found


@pytest.mark.parametrize(
    ("wrong", "right"), [(["divergence"] * 4, 2), (["tie"] * 4, 0), (["tie", *["divergence"] * 3], 1)]
)
def test_cheats_that_are_not_caught_are_told_too(monkeypatch, wrong, right):
    told = cheating(proofs(monkeypatch, ["identical", *wrong]))
    assert told.right == (right,) and f"{wrong.count('divergence')} of 4 cheats were caught" in told.words
    assert "2,000 of 2,000 draws" in told.words and "2 % away" in told.words and "30 % away" in told.words
    assert ("may show with more draws" in told.words) == (right < 2)
    assert told.place == {"tab": "prove-button", "id": "samplers"}


def test_cheats_that_time_cut_off_and_the_comparison_that_gave_one_away_are_told_as_the_cards_have_them(monkeypatch):
    found = proofs(monkeypatch, ["divergence"] * 5)
    assert "luck explains" not in cheating(found).words
    slow = found[-1].evidence
    slow.comparison.n, slow.worst = 200, SimpleNamespace(comparison=SimpleNamespace(distance=0.5))
    words = cheating(found).words
    assert "The real sampler made 2,000 of 2,000 draws; of the cheats one had only 200 of 2,000 draws: time" in words
    assert f"The worst cheat, “{SHORT[SAMPLERS[-1]]}”, is 50 % away." in words


def test_a_cheat_that_was_not_drawn_is_no_cheat_that_was_not_caught(monkeypatch):
    some = [p for p in proofs(monkeypatch, ["identical"] * 5) if p.evidence.request.sampler != BONUS]
    with pytest.raises(ValueError, match="Not every sampler"):
        cheating(some)


# ---- what is set ---------------------------------------------------------------------------------------------


def row(infos=INFOS):
    offers = Offers(infos, tuple((i.title, i.id) for i in infos), True)
    with gr.Blocks():
        ask = controls(load_prompts(), lambda: offers)
    asked = {name: SimpleNamespace(value="The sea.") for name in ("prompt", "drafter", "sampler", "temperature")}
    return Lessons(None, ask, None, SimpleNamespace(asked=asked), load_prompts())


@pytest.fixture(scope="module")
def page():
    return row()


@pytest.mark.parametrize("lesson", [x for x in LESSONS if x.prompt], ids=lambda lesson: lesson.id)
def test_a_lesson_sets_all_that_its_race_needs_whatever_was_set_before(page, lesson):
    updates = page.begin(Call("me", {}, {"n": 3, "lesson": lesson.id, "picked": 1}))
    assert json.loads(updates["strip"]) == {"n": 3, "state": "set", "press": "#race"}
    assert updates["asked"] == Chosen(3, lesson, 1) and updates["earlier"] == Conversation()
    values = {"temperature": 1.5, "top_k": 5, "system": "Be rude.", "strict": True, "lane 4 drafter": "dflash"}
    values = page.ask.inputs.first_values | values
    for name, update in updates.items():
        if name in values:
            values[name] = update.get("value", values[name]) if isinstance(update, dict) else update
    form = read_form(values)
    assert [lane.name for lane in lanes_of(form, INFOS)] == EXPECTED[lesson.id]
    request = page.ask.request(values)
    assert request.settings.greedy and request.settings.max_tokens == 32 and not request.strict and not request.system
    assert request.prompt in [p.text for p in load_prompts() if p.title == lesson.prompt]


EXPECTED = {
    "later-drafts": ["plain", "DSpark · full block", "DFlash · cap 15"],
    "does-not-pay": ["plain", "DSpark · full block", "DSpark · hardware-aware"],
    "many-users": ["plain", "DSpark · full block", "DSpark · hardware-aware"],
    "block-length": ["plain", "DSpark · cap 1", "DSpark · cap 3", "DSpark · full block"],
}


def test_a_guess_sets_nothing_and_the_cheats_have_draws_of_their_own(page):
    guess = page.begin(Call("me", {}, {"n": 1, "lesson": "guess", "picked": 40}))
    assert set(guess) == {"strip", "asked"}
    cheat = page.begin(Call("me", {}, {"n": 2, "lesson": "cheat", "picked": 0}))
    assert json.loads(cheat["strip"])["press"] == "#draw-row"
    assert cheat["draw n"] == lessons.DRAWS and cheat["draw drafter"] == "dspark" and cheat["draw temperature"] == 1


def test_a_lesson_that_the_loaded_model_cannot_give_says_what_it_needs():
    page = row(INFOS[1:])
    for lesson in ("later-drafts", "cheat"):
        told = page.begin(Call("me", {}, {"n": 1, "lesson": lesson, "picked": 0}))
        assert told["asked"] is None and set(told) == {"strip", "asked"}
        assert json.loads(told["strip"])["words"].startswith("This lesson needs dspark, which the loaded model has not")


@pytest.mark.parametrize("sent", [{}, {"n": "1", "lesson": 3}, {"n": 1, "lesson": "nope", "picked": []}])
def test_whatever_a_client_sends_begins_no_lesson_that_there_is_not(page, sent):
    assert json.loads(page.begin(Call("me", {}, sent))["strip"])["state"] == "failed"


def test_only_the_race_that_was_asked_for_is_told_of(page):
    guess = next(x for x in LESSONS if x.id == "guess")
    record = race(PLAIN_LANE, lane("DSpark", 7, (3,)))
    saved = SimpleNamespace(race=record)
    page = Lessons(SimpleNamespace(ready=False), page.ask, None, None, ())
    call = {"asked": Chosen(7, guess, 50), "race": record, "trace": saved, "races": []}
    told = page.tell(Call("me", call))
    assert json.loads(told["strip"])["n"] == 7 and told["asked"] is None
    assert page.tell(Call("me", call | {"trace": SimpleNamespace(race=race(PLAIN_LANE))})) == {}
    assert page.tell(Call("me", call | {"asked": None})) == {}
    record.stopped = True
    assert "stopped before its end" in json.loads(page.tell(Call("me", call))["strip"])["words"]
