"""What came of a race in one or two sentences: which lane was first, with its times, or why drafting did not pay.

Seconds and × plain are of decoding alone, as on the board. No MLX.
"""

from dataclasses import dataclass

from .metrics import Metrics, metrics, plain_metrics, times_plain
from .records import LaneRecord, RaceRecord

EVEN = 0.02  # of plain's speed: less is neither faster nor slower


@dataclass(frozen=True, slots=True)
class Outcome:
    """paid:  did the fastest lane with a drafter beat plain decoding? None where that is no question
    idle:  index of a lane that drafted in no round at all because plain steps were expected to be faster, or -1
    """

    words: str = ""
    paid: bool | None = None
    idle: int = -1


def outcome(race: RaceRecord) -> Outcome:
    """Empty for a race that was stopped, and where no lane with a drafter came to its end beside a plain one."""
    ended = [(i, lane, metrics(lane)) for i, lane in enumerate(race.lanes) if lane.error is None and lane.finish]
    drafting = [(i, lane, m) for i, lane, m in ended if lane.spec.speculative and m.tok_s]
    plain = plain_metrics([lane for _, lane, _ in ended])
    if race.interrupted or not drafting or plain is None or not plain.tok_s:
        return Outcome()
    _, lane, m = max(drafting, key=lambda found: found[2].tok_s or 0.0)
    times = times_plain(m, plain) or 0.0
    idle = next((i for i, other, _ in drafting if not any(r.draft_ids for r in other.rounds)), -1)
    same = race.verdict is not None and race.verdict.kind == "identical"
    name = lane.spec.method if sum(o.spec.method == lane.spec.method for _, o, _ in drafting) == 1 else lane.spec.name
    if times < 1 - EVEN:
        first = f"Drafting did not pay here: plain was first, {_took(plain)}"
        return Outcome(f"{first}, {name} {m.seconds:.1f} s: {times:.2f} ×. {_why(lane, m, plain)}", False, idle)
    if times <= 1 + EVEN:
        words = f"No lane won: {name} {_took(m)}, plain {plain.seconds:.1f} s: {times:.2f} ×. "
        return Outcome(words + _why(lane, m, plain), False, idle)
    if not same:
        words = f"{name} was fastest: {m.tok_s:.1f} tok/s, plain {plain.tok_s:.1f}: {times:.2f} ×."
        return Outcome(words, True, idle)
    words = f"{name} first: {_took(m)}, plain {plain.seconds:.1f} s: {times:.2f} ×, word for word the same."
    return Outcome(words, True, idle)


def _took(m: Metrics) -> str:
    """Tokens of the answer, the one that the prompt gives among them, and the seconds of decoding."""
    return f"{m.tokens + 1} tokens in {m.seconds:.1f} s"


def _why(lane: LaneRecord, m: Metrics, plain: Metrics) -> str:
    """Why a lane was no faster than plain decoding: what a round gave, against what it cost."""
    idle = sum(not r.draft_ids for r in lane.rounds)
    if 2 * idle > m.rounds:
        return f"In {idle} of its {m.rounds} rounds it drafted nothing: plain steps were expected to be faster."
    cost = m.seconds / m.rounds * plain.tokens / plain.seconds
    right = "" if m.acceptance is None else f"{100 * m.acceptance:.0f} % of the drafts sent were right, so "
    words = f"{right}a round gave {tokens_given(m)} and took as long as {cost:.2f} plain steps."
    return words[0].upper() + words[1:]


def tokens_given(m: Metrics) -> str:
    """Tokens that a round of a lane with rounds gave: over what it cost in plain steps, that is × plain. The board's
    number, where what the end of the answer cut off makes it another, stands behind it."""
    gave, counted = f"{m.tokens / m.rounds:.2f}", f"{m.tokens_per_round or 0.0:.2f}"
    cut = f" (the pane counts {counted}, with what the end of the answer cut off)" if counted != gave else ""
    return f"{gave} tokens{cut}"
