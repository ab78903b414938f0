"""The record string: what a race becomes on its way to the page."""

from dataclasses import replace

from dspark_core.decode.plain import plain
from dspark_core.decode.rounds import Detail, Prefill, Round, Settings, Start
from dspark_core.decode.schedule import FullBlock
from dspark_core.decode.speculative import Options, speculative
from dspark_core.playground.stream import FIELD, RECORD, WINDOW, BoardText, LaneText, about, announcement, record
from dspark_core.race.inspection import Block, Inspection, Slot, fates_of, recorded
from dspark_core.race.records import Failed, LaneRecord, LaneSpec, PassCosts, RaceRecord, RaceRequest, Verdict
from tests.decode.noisy import NoisyTarget

BYTES = {
    0: b"<end>",
    1: b"Hello",
    2: b" \xe2\x82",  # the first two bytes of a euro sign
    3: b"\xac",
    4: b"\n",
    5: b"a\x1eb\x1fc",
    6: " \u202eabc".encode(),
}


def board(lanes=2):
    specs = (LaneSpec("plain"), LaneSpec("DSpark", label="full block"))[:lanes]
    text = BoardText(7, RaceRequest("hi", specs, Settings(max_tokens=9)))
    text.begin(BYTES.__getitem__, frozenset({0}), lanes)
    return text


def records(text):
    assert text.value.endswith(RECORD)
    return [r.split(FIELD) for r in text.value[:-1].split(RECORD)]


def round_of(drafts, proposed, accepted, committed, bonus=False, finish=None):
    return Round(3, 12, 1, drafts, proposed, accepted, committed[-1], bonus, committed, 0.5, finish)


def test_it_opens_with_the_run_and_its_lanes():
    assert records(board()) == [
        ["R", "7", "0"],
        ["N", "9"],
        ["L", "0", "plain", "", "The target alone, one token a step."],
        ["L", "1", "DSpark", "full block", about("DSpark")],
    ]


def test_every_method_says_on_its_pane_who_made_it_and_what_it_does():
    made = {method: about(method) for method in ("DSpark", "DFlash", "DFlash2")}
    assert made["DSpark"].startswith("By DeepSeek. Drafts a block at once; a small head")
    assert made["DFlash"].startswith("By z-lab. ") and made["DFlash2"].startswith("By z-lab. ")
    assert about("<b>nothing") == ""


def test_it_only_grows():
    text = board()
    before = text.value
    text.add(0, Prefill(0, 12))
    text.add(0, Start(1, 12, 0.25))
    assert text.value.startswith(before)
    assert records(text)[-2:] == [["P", "0", "0", "12"], ["S", "0", "0.25", "", "pHello"]]


def test_a_round_says_what_became_of_every_token():
    text = board()
    text.add(1, round_of((1, 4, 1), 3, 1, (1, 1)))
    kinds = ["aHello", "r\n", "dHello", "cHello"]
    assert records(text)[-1] == ["D", "1", "3", "0.5", "3", "3", "1", "0", "", *kinds]


def test_drafts_that_were_never_sent_are_counted_but_not_shown():
    text = board()
    text.add(1, round_of((1, 4, 1), 1, 1, (1, 4), bonus=True))
    assert records(text)[-1][4:] == ["3", "1", "1", "1", "", "aHello", "b\n"]


def test_a_plain_round_is_the_targets_own_token():
    text = board()
    text.add(0, round_of((), 0, 0, (1,), bonus=True))
    assert records(text)[-1][-1] == "pHello"


def test_drafts_that_were_not_sent_leave_the_targets_own_token():
    """Board and inspector agree: where nothing was sent the token is the target's own, no bonus."""
    text, unsent = board(), round_of((1, 4), 0, 0, (4,), bonus=True)
    text.add(1, unsent)
    assert records(text)[-1][4:] == ["2", "0", "0", "1", "", "p\n"]
    seen = recorded(unsent, 0.0, lambda token_id: b"x")
    assert [slot.outcome for slot in seen.block.slots] == ["unsent", "unsent"] and seen.block.own.kind == "own"


def test_a_draft_that_strict_mode_chose_after_all_is_not_struck_through():
    """The verification refused token 4, plain decoding's own numbers chose it: it stands once, as the target's own."""
    text, decided = board(), round_of((1, 4, 1), 3, 1, (1, 4), bonus=False)
    text.add(1, decided)
    assert records(text)[-1][4:] == ["3", "3", "1", "0", "", "aHello", "p\n", "dHello"]
    seen = recorded(decided, 0.0, lambda token_id: b"x")
    assert [slot.outcome for slot in seen.block.slots] == ["accepted", "again", "discarded"]
    assert seen.block.own.kind == "again"


def test_no_draft_is_struck_through_beside_itself_in_strict_mode(golden_a):
    """Widths differ here, so close calls are decided again; some for the very draft that the verification refused."""
    target = NoisyTarget(golden_a.target, 5, on_logits=1.0, on_cache=0.1)
    how = Settings(60, stop_ids=frozenset())
    events = speculative(target, golden_a.drafter, golden_a.trace["prompt_ids"], how, FullBlock(), Options(strict=2.0))
    text, kinds, answer = BoardText(7, RaceRequest("hi", (LaneSpec("DSpark"),), how)), [], []
    text.begin(lambda token_id: b"<%d>" % token_id, frozenset(), 1)
    for event in events:
        if not isinstance(event, Start | Round):
            continue
        text.add(0, event)
        tokens = [t for t in records(text)[-1 - (event.finish is not None)] if t[1:2] == "<"]
        answer += [t[1:] for t in tokens if t[0] in "acbp"]
        if isinstance(event, Round):
            kinds.append(fates_of(event)[1])
            struck = [t[1:] for t in tokens if t[0] == "r"]
            assert not set(struck) & {f"<{event.next_id}>"} and (kinds[-1] == "correction") == bool(struck)
    reference = [e for e in plain(golden_a.target, golden_a.trace["prompt_ids"], how) if isinstance(e, Start | Round)]
    wanted = [reference[0].token_id, *(t for r in reference[1:] for t in r.committed)]
    assert answer == [f"<{t}>" for t in wanted] and kinds.count("again") > 1


def test_a_stop_token_is_a_mark_and_ends_the_text():
    text = board()
    text.add(1, round_of((1, 0, 1), 3, 2, (1, 0), bonus=True, finish="stop"))
    assert records(text)[-2][-2:] == ["aHello", "e<end>"]
    assert records(text)[-1] == ["E", "1", ""]


def test_what_max_tokens_cut_is_not_shown():
    text = board()
    text.add(1, round_of((1, 4, 1), 3, 3, (1, 4), bonus=True, finish="length"))
    assert records(text)[-2][-2:] == ["aHello", "a\n"]


def test_a_split_character_appears_where_its_last_byte_does():
    lane = LaneText(BYTES.__getitem__, frozenset())
    assert lane.committed(2, "a") == "a "
    assert lane.committed(3, "c") == "c€"
    assert lane.tail() == ""


def test_a_rejected_draft_continues_the_text_without_changing_it():
    lane = LaneText(BYTES.__getitem__, frozenset())
    lane.committed(2, "a")
    assert lane.rejected((3, 1)) == ["r€", "dHello"]
    assert lane.rejected((1,)) == ["r\ufffdHello"]
    assert lane.committed(3, "c") == "c€"


def test_an_unfinished_character_is_left_behind_at_the_end():
    text = board()
    text.add(1, round_of((), 0, 0, (2,), bonus=True, finish="length"))
    assert records(text)[-1] == ["E", "1", "\ufffd"]


def test_separators_are_taken_out_of_text_and_nothing_else_is():
    assert record("x", "a\x1eb\x1fc") == f"x{FIELD}abc{RECORD}"
    text = board()
    text.add(0, round_of((), 0, 0, (5,), bonus=True))
    text.add(0, round_of((), 0, 0, (6,), bonus=True))
    assert [r[-1] for r in records(text)[-2:]] == ["pabc", "p \u202eabc"]


def test_failures_and_the_verdict():
    text = board()
    text.add(1, Failed("No such drafter."))
    text.verdict(Verdict("tie", "A tie."))
    text.over("done", "Race finished.")
    assert records(text)[-3:] == [
        ["F", "1", "No such drafter."],
        ["V", "tie", "A tie."],
        ["Z", "done", "Race finished."],
    ]


def test_the_announcement_is_one_sentence_a_lane():
    rounds = [Round(0, 9, 1, (), 0, 0, 2, True, (2,), 0.5)], [Round(0, 9, 1, (2,), 1, 1, 3, True, (2, 3), 0.5)]
    lanes = [
        LaneRecord(LaneSpec("plain"), Start(1, 9, 0.1), rounds[0]),
        LaneRecord(LaneSpec("DSpark", label="cap 1"), Start(1, 9, 0.1), rounds[1]),
        LaneRecord(LaneSpec("DFlash"), error="gone"),
    ]
    race = RaceRecord("t", "bf16", RaceRequest("p", (), Settings()), 9, lanes, verdict=Verdict("identical", "Same."))
    assert announcement(race) == (
        "Race finished. plain: 2.0 tokens per second. DSpark · cap 1: 4.0 tokens per second, 2.00 times plain. "
        "DFlash failed. Same."
    )


def test_a_long_race_is_sent_as_a_window_that_begins_at_a_record():
    text = board()
    sizes = []
    for _ in range(9000):
        text.add(0, round_of((), 0, 0, (1,), bonus=True))
        sizes.append(len(text.value))
    assert max(sizes) < 2 * WINDOW + 100
    (kind, run, base), *rest = records(text)
    assert (kind, run) == ("R", "7") and int(base) > 0
    assert text.records[int(base) - 1] == RECORD and rest[0][0] == "D"
    assert text.whole == record("R", 7, 0) + text.records


def test_what_is_known_of_a_rounds_drafts_comes_before_it_and_only_where_something_is():
    text = board()
    lanes = [LaneRecord(LaneSpec("plain")), LaneRecord(LaneSpec("DSpark"))]
    costs = PassCosts((0.1, 0.1, 0.1, 0.15), {"dspark": (0.0, 0.05, 0.05, 0.1)})
    how = RaceRequest("hi", tuple(lane.spec for lane in lanes), Settings(max_tokens=9, temperature=0.7))
    text.begin_passes(RaceRecord("t", "bf16", how, 3, lanes, costs=costs), {})
    assert records(text)[-1][:2] == ["T", "0.7"] and "cost curve of the machine that it ran on" in records(text)[-1][2]
    text.add(0, round_of((), 0, 0, (1,), bonus=True))
    assert [r[0] for r in records(text)[-2:]] == ["T", "D"], "a plain step is nothing but a pass"
    detail = Detail((0.5, 0.25), (0.25, 0.125), (0.5, 0.5))
    drafted = replace(round_of((1, 4, 1), 2, 0, (5,)), confidence=(0.9, 0.81, 0.7294), detail=detail)
    text.add(1, drafted)
    parts = ["0.25", "0.25", "0"]  # of half a second: as long for three drafts as for a pass of three
    known = ["", "0.9 0.81 0.729", "0.5 0.25", "0.25 0.125"]
    assert records(text)[-2] == ["Q", "1", "split", *parts, *known, "uHello"]
    assert records(text)[-1][9:] == ["rHello", "d\n", "cabc"]


def test_what_was_computed_after_a_race_stands_on_its_board_and_is_marked():
    slots = (Slot(1, "Hello", "accepted", 0.5, 0.75, 1.0, None, 0.25),)
    looked = Inspection(3, 12, 1, "Hello", True, 1.0, Block(slots, 1), 2, recomputed=True)
    text, lane = board(1), LaneRecord(LaneSpec("DSpark"), inspections=[looked])
    text.begin_passes(
        RaceRecord("t", "bf16", RaceRequest("hi", (lane.spec,), Settings()), 3, [lane]), {"device": "CPU"}
    )
    text.add(0, round_of((1,), 1, 1, (1, 4), bonus=True))
    assert records(text)[-2][6:] == ["1", "0.25", "0.5", "0.75"]
