"""Strict mode on the page: its switch, its link, and what a pane says of it."""

from dataclasses import replace
from types import SimpleNamespace
from urllib.parse import parse_qsl

import gradio as gr
import pytest

from dspark_core.decode.rounds import Again, Round, Settings, Start
from dspark_core.models.info import DrafterInfo
from dspark_core.playground.links import fitting, from_link, lanes_of_text, link_of
from dspark_core.playground.race_request import RaceForm, in_words, request_of
from dspark_core.playground.saved import board_of
from dspark_core.playground.stream import BoardText, strict_words
from dspark_core.playground.use_lane import UsePanel
from dspark_core.race.records import LaneRecord, LaneSpec, RaceRecord, RaceRequest, Verdict
from dspark_core.race.trace import dumps, loads, trace_of

INFOS = (
    DrafterInfo(id="dspark", method="DSpark", title="DSpark", block=7, max_drafts=7, has_bias=True),
    DrafterInfo(id="dflash", method="DFlash", title="DFlash", block=16, first_slot=1, max_drafts=15),
)


def asked(strict: object, temperature: float = 0.0) -> RaceForm:
    lanes = lanes_of_text("plain,dspark,dflash:block=6", INFOS)
    return RaceForm("Hi", 33, temperature, strict=strict, lanes=lanes)


def test_the_switch_asks_for_it_where_decoding_is_greedy():
    assert request_of(asked(True), INFOS).strict and not request_of(asked(False), INFOS).strict
    assert not request_of(asked(True, 0.7), INFOS).strict
    assert not request_of(asked("yes"), INFOS).strict
    assert in_words(asked(True), INFOS).endswith("greedy, strict")
    assert "strict" not in in_words(asked(False), INFOS) + in_words(asked(True, 0.7), INFOS)


def test_a_link_turns_it_on():
    link = link_of(asked(True), INFOS)
    assert link.endswith("&strict=1") and "strict" not in link_of(asked(False), INFOS)
    assert from_link(dict(parse_qsl(link[1:])), INFOS)["strict"] is True
    assert from_link({"strict": "yes"}, INFOS)["strict"] is False and "strict" not in from_link({"prompt": "x"}, INFOS)
    assert [fitting(gr.Checkbox(), v) for v in (True, False, "1", 1, None)] == [True, False, None, None, None]


def race(noise: float | None, *again: Again | None, strict: bool = True) -> RaceRecord:
    """Two rounds of two tokens, one second each."""
    specs = LaneSpec("plain"), LaneSpec("DSpark", label="full block")
    plain = [Round(k, 9 + k, k + 1, (), 0, 0, k + 2, True, (k + 2,), 0.5 * (k + 1)) for k in range(4)]
    drafted = [
        Round(k, 9 + 2 * k, 2 * k + 1, (2 * k + 2,), 1, 1, 2 * k + 3, True, (2 * k + 2, 2 * k + 3), k + 1.0, again=a)
        for k, a in enumerate(again or (None, None))
    ]
    lanes = [LaneRecord(s, Start(1, 9, 0.1), r) for s, r in zip(specs, (plain, drafted), strict=True)]
    return RaceRecord("t", "bf16", RaceRequest("hi", specs, Settings(5), strict=strict), 9, lanes, noise=noise)


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (race(0.0), "Strict mode is not needed: on this device logits are the same at every width, bit for bit."),
        (race(0.25), "Strict: no choice was so close that the width could turn it (noise 0.25)."),
        (
            race(0.25, Again(2, False, 2, 0.3), Again(1, True, 2, 0.2)),
            "Strict: 3 of 4 tokens decided again at width 1, 1 differently; that took 25 % of this lane’s time, and "
            "may make it slower than plain.",
        ),
        (race(0.25, strict=False), ""),
        (race(None), ""),
    ],
)
def test_a_pane_says_what_it_did_and_what_that_cost(shown, words):
    assert [strict_words(shown, lane) for lane in shown.lanes] == ["", words]


def test_the_board_and_a_kept_race_show_it():
    shown = race(0.25, Again(2, False, 2, 0.3), None)
    board = BoardText(1, shown.request)
    board.strict(shown)
    (words,) = [r for r in board.records.split("\x1e") if r.startswith("A\x1f1")]
    trace = loads(dumps(trace_of(shown, lambda i: b"x", frozenset(), {}, {}, {})))
    assert trace.race == shown and words in board_of(trace)
    assert words not in board_of(replace(trace, race=race(None, strict=False)))


@pytest.mark.parametrize("strict", [True, False])
def test_what_other_programs_are_given_says_how_to_ask_for_it(strict):
    ended = replace(race(0.0, strict=strict), verdict=Verdict("identical", ""))
    worker = SimpleNamespace(engine=SimpleNamespace(name="t", infos=INFOS))
    value = UsePanel(worker, SimpleNamespace()).value({"last": ended})
    assert ('"strict": true' in value["note"]) is strict
