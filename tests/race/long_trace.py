"""Races of any length from dice, for the loader, the board and the measurements: rounds, not a model."""

import random

from dspark_core.decode.rounds import Detail, Round, Settings, Start
from dspark_core.race.records import LaneRecord, LaneSpec, RaceRecord, RaceRequest, Verdict
from dspark_core.race.trace import Trace, dumps, trace_of
from dspark_core.race.verdict_words import verdict_words

WORDS = 500
SPECS = (LaneSpec("plain"), LaneSpec("DSpark", cap=7, label="full block"), LaneSpec("DFlash", cap=15, label="block 16"))


def token_bytes(token_id: int) -> bytes:
    """Words of one to ten letters, a line's end now and then; 1 is the stop token."""
    if token_id == 1:
        return b"<end>"
    return b"\n" if token_id % 25 == 0 else b" " + b"abcdefghij"[: 1 + token_id % 10]


def long_trace(tokens: int, sampled: bool = False, seed: float = 0, seconds: float = 60.0, specs=SPECS) -> Trace:
    """A finished race in which every lane commits the same `tokens` tokens, the slowest in `seconds`."""
    dice = random.Random(seed)
    output = [dice.randrange(2, WORDS) for _ in range(tokens)]
    lanes = [LaneRecord(spec, Start(output[0], 40, 0.25), list(_rounds(spec, output, sampled, dice))) for spec in specs]
    slowest = max((lane.rounds[-1].time_s for lane in lanes if lane.rounds), default=1.0)
    for lane in lanes:
        for k, r in enumerate(lane.rounds):
            values = {name: getattr(r, name) for name in r.__slots__}
            lane.rounds[k] = Round(**values | {"time_s": round(seconds * r.time_s / slowest, 4)})
    request = RaceRequest("Tell me a story.", specs, Settings(tokens, 0.7 if sampled else 0.0))
    kind = "sampled" if sampled else "identical"
    verdict = Verdict(kind, verdict_words(kind, (), lanes, request.settings))
    race = RaceRecord("a recording", "bf16", request, 40, lanes, verdict=verdict)
    facts = {"processor": "dice"}
    return trace_of(race, token_bytes, frozenset({1}), {"DSpark": "recorded"}, facts, {"python": "3.11"})


def long_document(tokens: int, sampled: bool = False, seed: float = 0) -> str:
    return dumps(long_trace(tokens, sampled, seed))


def _rounds(spec, output, sampled, dice):
    at, index, now, slots = 1, 0, 0.0, spec.cap
    while at < len(output):
        accepted = min(dice.randrange(slots + 1) // (1 + dice.randrange(3)), len(output) - at - 1) if slots else 0
        committed = tuple(output[at : at + accepted + 1])
        wrong = tuple(dice.randrange(2, WORDS) for _ in range(slots - accepted))
        if wrong and wrong[0] == committed[-1]:  # a rejected draft is no correction
            wrong = (2 + (wrong[0] - 1) % (WORDS - 2), *wrong[1:])
        now += 0.05 + 0.01 * slots + 0.02 * dice.random()
        confidence, q = (tuple(0.01 + 0.99 * dice.random() for _ in range(slots)) for _ in range(2))
        p = tuple(x * (0.1 + 0.9 * dice.random()) for x in q)
        yield Round(
            index,
            40 + at - 1,
            output[at - 1],
            committed[:accepted] + wrong,
            slots,
            accepted,
            committed[-1],
            accepted == slots,
            committed,
            now,
            "length" if at + accepted + 1 >= len(output) else None,
            confidence if slots and spec.method == "DSpark" and sampled else None,
            Detail(q, p, tuple(b / a for a, b in zip(q, p, strict=True))) if slots and sampled else None,
        )
        at, index = at + accepted + 1, index + 1
