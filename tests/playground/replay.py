"""Recorded races for page tests: rounds made from text, played back in place of a model.

A token is a piece of text (or raw bytes); ids number the pieces. `drafted` says per round how many of the next
pieces are drafted and accepted, which is all that a recorded round needs.
"""

import math
import threading
import time
from dataclasses import dataclass, field, replace

from dspark_core.decode.rounds import Prefill, Round, Start
from dspark_core.errors import DecodeError
from dspark_core.machine import machine, versions
from dspark_core.models.thoughts import Thought
from dspark_core.race.race import Clock
from dspark_core.race.records import Difference, Failed, LaneRecord, RaceRecord, RaceRequest, RaceSource, Verdict
from dspark_core.race.verdict_words import kind_of, parted, verdict_words

STOP = 0
PROMPT = 512  # tokens that a recording's prompt has


class Pieces:
    """A vocabulary that grows as texts are added; id 0 is the stop token."""

    def __init__(self):
        self.pieces = [b"<|im_end|>"]

    def ids(self, tokens) -> list[int]:
        data = [t.encode() if isinstance(t, str) else t for t in tokens]
        for piece in data:
            if piece not in self.pieces:
                self.pieces.append(piece)
        return [self.pieces.index(piece) for piece in data]

    def bytes(self, token_id: int) -> bytes:
        return self.pieces[token_id]


def recorded_rounds(ids, block=0, accepts=(), wrong=None, round_s=0.1, finish="length"):
    """Start and rounds that commit `ids`. With block 0 it is a plain lane; else round k accepts accepts[k] drafts
    (cycled) of a block, and the drafts after them are `wrong`."""
    events, at, k = [Start(ids[0], PROMPT, 0.05)], 1, 0
    while at < len(ids):
        kept = min(accepts[k % len(accepts)] if block else 0, len(ids) - at - 1, block)
        committed = tuple(ids[at : at + kept + 1])
        drafts = tuple(committed[:kept]) + (wrong,) * (block - kept)
        at += kept + 1
        end = finish if at >= len(ids) else None
        events.append(
            Round(
                index=k,
                position=PROMPT + at - kept - 2,
                anchor_id=ids[at - kept - 2],
                draft_ids=drafts,
                proposed=block,
                accepted=kept,
                next_id=committed[-1],
                bonus=kept == block,
                committed=committed,
                time_s=(k + 1) * round_s,
                finish=end,
            )
        )
        k += 1
    return events


@dataclass
class ReplayEngine:
    """Plays lane i's `rounds[i]`, in order of own time, at `pace` x its own pace (0: as fast as it goes).

    `hold` (seconds) is spent in the prefill, in chunks, so that a Stop can come in between. From `pause` seconds on it
    waits for `go`.
    """

    pieces: Pieces
    rounds: list[list]
    pace: float = 0.0
    hold: float = 0.0
    pause: float = math.inf
    go: threading.Event = field(default_factory=threading.Event)
    fails: dict = field(default_factory=dict)
    name: str = "a recording"
    precision: str = "bf16"
    stop_ids: frozenset = frozenset({STOP})
    thinks: bool = False
    thought: Thought | None = None
    drafters: dict = field(default_factory=lambda: {"DSpark": "recorded", "DFlash": "recorded"})
    running: threading.Event = field(default_factory=threading.Event)

    def token_bytes(self, token_id):
        return self.pieces.bytes(token_id)

    def prepare(self):
        return ""

    def inspect(self, *asked):
        raise DecodeError("A recording cannot be recomputed.")

    def race(self, request, cancelled):
        self.running.set()
        try:
            yield from self._race(request, cancelled)
        finally:
            self.running.clear()

    def _race(self, request, cancelled):
        lanes = [LaneRecord(s) for s in request.lanes]
        record = RaceRecord(self.name, self.precision, _fitting(request, self.rounds), PROMPT, lanes)
        record.thought = self.thought
        record.source = RaceSource(self.token_bytes, self.stop_ids, self.drafters, machine(), versions())
        yield -1, record
        for step in range(3):
            for i in range(len(record.lanes)):
                yield i, Prefill(256 * step, PROMPT)
            until = time.monotonic() + self.hold / 2
            while not cancelled() and time.monotonic() < until:
                time.sleep(0.01)
            if cancelled():
                return
        timed = []
        for i in range(len(record.lanes)):
            events = self.rounds[i % len(self.rounds)]
            if i in self.fails:
                events = [*events[: self.fails[i]], Failed("This lane failed: it was told to.")]
            for k, event in enumerate(events):
                timed.append((getattr(event, "time_s", 0.0 if k == 0 else 1e9), i, k, event))
        clock = Clock()
        clock.resume()
        for at, i, _, event in sorted(timed, key=lambda t: t[:3]):
            while self.pace and at < 1e8 and clock() * self.pace < at and not cancelled():
                time.sleep(0.002)
            while self.pause <= at < 1e8 and not self.go.is_set() and not cancelled():
                time.sleep(0.01)
            if cancelled():
                return
            record.lanes[i].add(event)
            yield i, event
        settings = request.settings
        parts = parted(record.lanes) if settings.greedy else {}
        differences = tuple(Difference(i, at, 0.5, 1.5, 0.0, 0.1, False) for i, at in parts.items())
        kind = kind_of(record.lanes, settings, differences)
        yield -1, Verdict(kind, verdict_words(kind, differences, record.lanes, settings), differences)


def _fitting(request: RaceRequest, rounds: list[list]) -> RaceRequest:
    """The request that a recording which ended at its limit was made under."""
    ended = [events for events in rounds if getattr(events[-1], "finish", None) == "length"]
    count = max((1 + sum(len(r.committed) for r in events[1:]) for events in ended), default=0)
    most = count or request.settings.max_tokens
    return replace(request, settings=replace(request.settings, max_tokens=most))


def three_lanes(tokens, wrong=" WRONG", round_s=0.1, finish="length") -> tuple[Pieces, list]:
    """plain, a block of 7 and a block of 15 over the same tokens."""
    pieces = Pieces()
    ids, (wrong_id,) = pieces.ids(tokens), pieces.ids([wrong])
    lanes = [
        recorded_rounds(ids, finish=finish, round_s=round_s),
        recorded_rounds(ids, 7, (3, 7, 0, 2), wrong_id, 2 * round_s, finish),
        recorded_rounds(ids, 15, (1, 5, 0), wrong_id, 3 * round_s, finish),
    ]
    return pieces, lanes
