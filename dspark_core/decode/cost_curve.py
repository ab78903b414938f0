"""What a step costs on this machine, as measured, and what follows from it for a drafter.

A `CostCurve` is a plain record: reading and asking it needs no MLX (measure.py fills it). Between measured points it
is read linearly, and every measured point stands as it was measured: a jump from one width to the next is kept.
"""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from ..store import is_count, is_number, parse_json
from .rounds import Round

VERSION = 2  # in version 1 one sample could stand for a point
FEWEST = 3  # samples of a point that is believed
OUTLIER = 1.5  # times the fastest sample: slower ones tell of something else that the machine did
SHORTEST_S, LONGEST_S = 1e-9, 1e5  # seconds that one operation can take
MOST_CONTEXTS, LONGEST, WIDEST = 8, 100_000_000, 4096  # of a curve; positions; tokens at once
MOST_METHODS, MOST_WORDS = 16, 10_000  # of a curve; characters of a text


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one operation, from n samples: the fastest, and median and slowest of those that agree with it."""

    median: float
    low: float
    high: float
    n: int

    @staticmethod
    def of(seconds: Sequence[float]) -> "Timing":
        """From FEWEST samples or more. Raises ValueError if there are fewer."""
        if len(seconds) < FEWEST:
            raise ValueError(f"{len(seconds)} samples say nothing: {FEWEST} are needed.")
        taken = sorted(seconds)[: agreeing(seconds)]
        return Timing(statistics.median(taken), taken[0], taken[-1], len(seconds))


def agreeing(seconds: Sequence[float]) -> int:
    """How many samples are at most OUTLIER times the fastest, which nothing else can have slowed down."""
    return sum(s <= OUTLIER * min(seconds) for s in seconds)


@dataclass(frozen=True, slots=True)
class Costs:
    """What was measured with `context` positions in the cache.

    plain:  one step of plain decoding, pipelined
    verify: by width: one forward of that many positions with taps, head and acceptance
    draft:  by method and number of head rows (drafts): the context brought up to date, the block, the heads, the
            tokens. 0 rows: the block and its first confidence only, where there is a confidence head.
    """

    context: int
    plain: Timing
    verify: Mapping[int, Timing]
    draft: Mapping[str, Mapping[int, Timing]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CostCurve:
    """The costs of one target with its drafters, at one precision on one device.

    made_of: what it was measured with (target, precision, device, threads, versions, drafters): another value
             of any makes another curve
    when:    ISO time of the measurement; `took_s` is how long it took
    costs:   by context, shortest first
    """

    made_of: Mapping[str, str]
    when: str
    took_s: float
    costs: tuple[Costs, ...]

    # ---- seconds ----

    def plain_s(self, context: int) -> float:
        """One step of plain decoding."""
        return self._at(context, lambda c: {1: c.plain}, 1)

    def verify_s(self, width: int, context: int) -> float:
        """One verification of `width` positions (drafts sent + 1)."""
        return self._at(context, lambda c: c.verify, width)

    def draft_s(self, method: str, rows: int, context: int) -> float:
        """Drafting `rows` tokens; 0 rows cost nothing (see `look_s`)."""
        return self._at(context, lambda c: c.draft[method], rows) if rows else 0.0

    def look_s(self, method: str, context: int) -> float:
        """The block and its first confidence, without head rows."""
        return self._at(context, lambda c: c.draft[method], 0)

    def round_s(self, method: str, rows: int, sent: int, context: int) -> float:
        """A round that drafts `rows` tokens and sends `sent` of them."""
        return self.draft_s(method, rows, context) + self.verify_s(sent + 1, context)

    def knows(self, method: str) -> bool:
        return all(method in c.draft for c in self.costs[:1])

    # ---- what follows ----

    def speed(self, method: str, acceptance: Sequence[float], cap: int, context: int) -> float:
        """Tok/s at a fixed cap, from the acceptance of each slot given the ones before it; cap 0 is plain."""
        if cap == 0:
            return 1 / self.plain_s(context)
        return tokens_per_round(acceptance[:cap]) / self.round_s(method, cap, cap, context)

    def best_cap(self, method: str, acceptance: Sequence[float], context: int) -> int:
        """The cap with the highest predicted speed; 0 means that plain decoding is faster than any."""
        return max(range(len(acceptance) + 1), key=lambda cap: self.speed(method, acceptance, cap, context))

    def break_even(self, method: str, cap: int, context: int) -> float:
        """Tokens per round at which a fixed cap is as fast as plain decoding."""
        return self.round_s(method, cap, cap, context) / self.plain_s(context)

    def ceiling(self, max_drafts: int, context: int) -> tuple[float, int]:
        """The best × plain that any drafter could reach (drafting free, every draft accepted) with at most
        `max_drafts` drafts a round, and the number of drafts that reaches it."""
        plain = self.plain_s(context)
        return max(((n + 1) * plain / self.verify_s(n + 1, context), n) for n in range(max_drafts + 1))

    def seconds(self, method: str, rounds: Sequence[Round]) -> float:
        """Predicted decode time of recorded rounds, each at its own context."""
        return sum(self.recorded_s(method, r) for r in rounds)

    def recorded_s(self, method: str, r: Round) -> float:
        """Predicted time of one recorded round."""
        if r.draft_ids:
            return self.round_s(method, len(r.draft_ids), r.proposed, r.position)
        return self.plain_s(r.position) + (self.look_s(method, r.position) if r.looked else 0.0)

    # ---- reading between the points ----

    def _at(self, context: int, points: Callable[[Costs], Mapping[int, Timing]], x: int) -> float:
        """The value at `x`, linear in the context. Of the longer context only the difference is taken, which may
        have been measured at fewer points: the short one's steps stay."""
        short, *longer = self.costs
        near = _read_at(points(short), x)
        if not longer or not points(longer[-1]):
            return near
        long = longer[-1]
        more = {at: max(0.0, t.median - _read_at(points(short), at)) for at, t in points(long).items()}
        share = max(0.0, (context - short.context) / (long.context - short.context))
        return near + share * max(0.0, _between(more, x))

    # ---- JSON ----

    def as_json(self) -> dict[str, Any]:
        return {"version": VERSION} | asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.as_json(), indent=1)

    @staticmethod
    def from_json(text: str) -> "CostCurve":
        """Raises ValueError if the text is not a curve of this version, whole and believable."""
        try:
            return CostCurve.of(parse_json(text))
        except ValueError as e:
            raise ValueError(f"Not a cost curve of version {VERSION} ({e}).") from None

    @staticmethod
    def of(value: Any) -> "CostCurve":
        """From parsed JSON. Raises ValueError with the first thing that is wrong."""
        raw = _members(value, "version", "made_of", "when", "took_s", "costs")
        _must(type(raw["version"]) is int and raw["version"] == VERSION, "another version")
        made_of, when = raw["made_of"], raw["when"]
        _must(isinstance(made_of, dict) and all(map(_is_text, made_of.values())), "made_of is not words")
        _must(_is_time(when), "when is no time")
        _must(is_number(raw["took_s"], 0, 1e9), "took_s is no duration")
        _must(isinstance(raw["costs"], list) and 1 <= len(raw["costs"]) <= MOST_CONTEXTS, "no list of costs")
        costs = tuple(_costs(c) for c in raw["costs"])
        contexts = [c.context for c in costs]
        _must(contexts == sorted(set(contexts)), "contexts do not ascend")
        _must(all(c.draft.keys() == costs[0].draft.keys() for c in costs), "methods differ between contexts")
        _must(all(costs[0].draft.values()), "a method without a point")
        return CostCurve(made_of, when, raw["took_s"], costs)


def tokens_per_round(acceptance: Sequence[float]) -> float:
    """Expected tokens of a round that sends these drafts: 1 + the sum of the products of acceptance so far."""
    total = survival = 1.0
    for a in acceptance:
        survival *= a
        total += survival
    return total


# ---- is it a curve? --------------------------------------------------------------------------------------


def _must(holds: bool, words: str) -> None:
    if not holds:
        raise ValueError(words)


def _members(value: Any, *names: str) -> dict[str, Any]:
    _must(isinstance(value, dict) and value.keys() == set(names), f"not an object of {', '.join(names)}")
    return dict(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MOST_WORDS


def _is_time(value: Any) -> bool:
    try:
        return _is_text(value) and datetime.fromisoformat(value) is not None
    except ValueError:
        return False


def _costs(value: Any) -> Costs:
    raw = _members(value, "context", "plain", "verify", "draft")
    _must(is_count(raw["context"], 1, LONGEST), "a context is no number of positions")
    verify = _timings_of(raw["verify"], 1)
    _must(bool(verify), "no verification was measured")
    _must(isinstance(raw["draft"], dict) and len(raw["draft"]) <= MOST_METHODS, "draft is no object of methods")
    draft = {method: _timings_of(rows, 0) for method, rows in raw["draft"].items()}
    return Costs(raw["context"], _timing(raw["plain"]), verify, draft)


def _timings_of(value: Any, least: int) -> dict[int, Timing]:
    """By a number of tokens that is at least `least`."""
    _must(isinstance(value, dict), "timings are no object")
    for at in value:
        _must(at.isascii() and at.isdecimal() and len(at) < 6 and str(int(at)) == at, "a width is no whole number")
        _must(least <= int(at) <= WIDEST, "a width is out of range")
    return {int(at): _timing(t) for at, t in value.items()}


def _timing(value: Any) -> Timing:
    raw = _members(value, "median", "low", "high", "n")
    low, median, high = raw["low"], raw["median"], raw["high"]
    _must(all(is_number(s, SHORTEST_S, LONGEST_S) for s in (low, median, high)), "a time is no time")
    _must(low <= median <= high, "a time's low, median and high do not ascend")
    _must(is_count(raw["n"], FEWEST, 1_000_000), f"a time of fewer than {FEWEST} samples")
    return Timing(median, low, high, raw["n"])


# ---- between the points ----------------------------------------------------------------------------------


def _read_at(points: Mapping[int, Timing], x: int) -> float:
    return points[x].median if x in points else _between({at: t.median for at, t in points.items()}, x)


def _between(points: Mapping[int, float], x: int) -> float:
    """Linear between the two nearest points around x; beyond the last, along the last two, but never down."""
    if x in points:
        return points[x]
    at = sorted(points)
    if len(at) == 1:
        return points[at[0]]
    right = next((i for i, p in enumerate(at) if p > x), len(at) - 1)
    a, b = at[max(right, 1) - 1], at[max(right, 1)]
    value = points[a] + (points[b] - points[a]) * (x - a) / (b - a)
    return max(value, points[b]) if x > b else value
