"""What a step costs on this machine, as measured, and what follows from it for a drafter.

A `CostCurve` is a plain record: reading and asking it needs no MLX (measure.py fills it). Between measured points it
is read linearly. A point is the median of samples that agree, and no better known than their spread: where more tokens
seem to cost less within it, both points are one figure; beyond it the fall is real (another kernel) and stays.

Races are measurements too: `refined` learns from their rounds how much longer or shorter a round takes in a decode
than its parts took by themselves.
"""

import json
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import cache, cached_property
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from ..store import parse_json
from .rounds import Round

VERSION = 2  # in version 1 one sample could stand for a point
FEWEST = 3  # samples of a point that is believed
OUTLIER = 1.5  # times the fastest sample: slower ones tell of something else that the machine did
LEAST_SPREAD = 0.03  # of a time, to either side: so few samples know none better
BUSY = 0.25  # share of the measuring that went to something else, from which on the curve is said to be doubtful
MOST_CONTEXTS, MOST_METHODS, WIDEST = 8, 16, 4096  # of a curve; tokens at once
PLAIN = "plain"  # among the drafters' ids, in what races taught
# What races teach.
FEWEST_ROUNDS = 8  # of a lane that teaches anything
KEPT = 0.7  # weight that a race's rounds have one race later
LEAN, MOST_WEIGHT = 4.0, 64.0  # rounds that the rest of what is known weighs against a point's own; at most of its own
WAITED, BLIND = "waited", "blind"  # was the host's wait for the confidences a part of a round?

Seconds = Annotated[float, Field(ge=1e-9, le=1e5, allow_inf_nan=False)]
Words = Annotated[str, Field(max_length=10_000)]
Time = Annotated[Words, AfterValidator(lambda when: datetime.fromisoformat(when) and when)]
Tokens = Annotated[  # a key of an object: a whole number, written in one way only
    int,
    BeforeValidator(lambda at: int(at) if isinstance(at, str) and re.fullmatch("0|[1-9][0-9]{0,3}", at) else at),
    Field(ge=0, le=WIDEST),
]
STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one operation, from n samples: the fastest, and median and slowest of those that agree with it."""

    __pydantic_config__ = STRICT

    median: Seconds
    low: Seconds
    high: Seconds
    n: Annotated[int, Field(ge=FEWEST, le=1_000_000)]

    @staticmethod
    def of(seconds: Sequence[float]) -> "Timing":
        """From FEWEST samples or more. Raises ValueError if there are fewer."""
        if len(seconds) < FEWEST:
            raise ValueError(f"{len(seconds)} samples say nothing: {FEWEST} are needed.")
        taken = sorted(seconds)[: agreeing(seconds)]
        return Timing(statistics.median(taken), taken[0], taken[-1], len(seconds))

    @property
    def spread(self) -> float:
        """Seconds by which the median may be off."""
        return max(self.high - self.low, LEAST_SPREAD * self.median)

    def times(self, factor: float) -> "Timing":
        return Timing(self.median * factor, self.low * factor, self.high * factor, self.n)


Points = Mapping[Tokens, Timing]


def agreeing(seconds: Sequence[float]) -> int:
    """How many samples are at most OUTLIER times the fastest, which nothing else can have slowed down."""
    return sum(s <= OUTLIER * min(seconds) for s in seconds)


def pooled(points: Points) -> dict[int, float]:
    """Seconds by number of tokens: the medians, but neighbours that fall within their spread are one figure, weighted
    by samples (pool adjacent violators). A fall beyond both spreads stays."""
    blocks: list[tuple[list[int], int, list[float]]] = []  # tokens, samples, and the means of median, low and high
    for at in sorted(points):
        t = points[at]
        low, high = min(t.low, t.median * (1 - LEAST_SPREAD)), max(t.high, t.median * (1 + LEAST_SPREAD))
        tokens, n, means = [at], t.n, [t.median, low, high]
        while blocks and means[0] < blocks[-1][2][0] and means[2] >= blocks[-1][2][1]:
            before, m, others = blocks.pop()
            means = [(m * x + n * y) / (m + n) for x, y in zip(others, means, strict=True)]
            tokens, n = before + tokens, m + n
        blocks.append((tokens, n, means))
    return {at: means[0] for tokens, _, means in blocks for at in tokens}


@dataclass(frozen=True)
class Costs:
    """What was measured with `context` positions in the cache.

    plain:  one step of plain decoding, pipelined
    verify: by width: one forward of that many positions with taps, head and acceptance
    draft:  by drafter and number of head rows (drafts): the context brought up to date, the block, the heads, the
            tokens. 0 rows: the block and its first confidence only, where there is a confidence head.
    whole:  by drafter, a round of the whole block in one piece: "blind" is one graph and one synchronisation; "waited"
            has the host wait for the confidences before it verifies
    """

    __pydantic_config__ = STRICT

    context: Annotated[int, Field(ge=1, le=100_000_000)]
    plain: Timing
    verify: Annotated[Points, Field(min_length=1)]
    draft: Annotated[Mapping[str, Points], Field(max_length=MOST_METHODS)] = field(default_factory=dict)
    whole: Annotated[Mapping[str, Mapping[str, Timing]], Field(max_length=MOST_METHODS)] = field(default_factory=dict)

    @cached_property
    def verify_s(self) -> Mapping[int, float]:
        return pooled(self.verify)

    @cached_property
    def plain_s(self) -> Mapping[int, float]:
        """A verification of one row is a plain step that also keeps its taps: it cannot be the cheaper one."""
        return {1: min(self.plain.median, self.verify_s.get(1, math.inf))}

    @cached_property
    def draft_s(self) -> Mapping[str, Mapping[int, float]]:
        """A look is a part of every draft: it cannot be dearer than one."""
        out = {}
        for method, points in self.draft.items():
            drafts = pooled({n: t for n, t in points.items() if n})
            look = {0: min([points[0].median, *drafts.values()])} if 0 in points else {}
            out[method] = look | drafts
        return out


@dataclass(frozen=True, slots=True)
class Learned:
    """How many times as long as measured something takes in races, by the weight of the rounds that say so."""

    __pydantic_config__ = STRICT

    ratio: Annotated[float, Field(ge=0.01, le=100, allow_inf_nan=False)]
    weight: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]

    def joined(self, ratio: float, weight: float) -> "Learned":
        """With newer rounds."""
        share = weight / (weight + self.weight)
        log = share * math.log(ratio) + (1 - share) * math.log(self.ratio)
        return Learned(min(max(math.exp(log), 0.01), 100.0), min(weight + self.weight, MOST_WEIGHT))


@dataclass(frozen=True)
class CostCurve:
    """The costs of one target with its drafters, at one precision on one device.

    made_of:  what it was measured with (target, precision, device, cores, versions, drafters): another value
              of any makes another curve
    when:     ISO time of the measurement; `took_s` is how long it took
    costs:    by context, shortest first
    busy:     share of the measuring in which the machine did something else
    learned:  by drafter, and by "rows sent blind" or "rows sent waited" of a round: what races taught, relative to
              plain decoding in the same race; "plain" has that relative to what was measured
    borrowed: the machine on which this shape was measured, where it is not this one: see bundled_curve.py
    """

    __pydantic_config__ = STRICT

    made_of: Mapping[str, Words]
    when: Time
    took_s: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
    costs: Annotated[tuple[Costs, ...], Field(min_length=1, max_length=MOST_CONTEXTS)]
    busy: Annotated[float, Field(ge=0, le=1)] = 0.0
    learned: Mapping[str, Mapping[str, Learned]] = field(default_factory=dict)
    borrowed: Words = ""

    # ---- seconds ----

    def plain_s(self, context: int) -> float:
        """One step of plain decoding."""
        return self._at(context, lambda c: c.plain_s, 1) * self._learned_ratio(PLAIN, "")

    def verify_s(self, width: int, context: int) -> float:
        """One verification of `width` positions (drafts sent + 1)."""
        return self._at(context, lambda c: c.verify_s, width)

    def draft_s(self, method: str, rows: int, context: int) -> float:
        """Drafting `rows` tokens; 0 rows cost nothing (see `look_s`)."""
        return self._at(context, lambda c: c.draft_s[method], rows) if rows else 0.0

    def look_s(self, method: str, context: int) -> float:
        """The block and its first confidence, without head rows."""
        return self._at(context, lambda c: c.draft_s[method], 0)

    def round_s(self, method: str, rows: int, sent: int, context: int, mode: str = BLIND) -> float:
        """A round that drafts `rows` tokens and sends `sent` of them; `mode` as in `Costs.whole`."""
        ratio = self._learned_ratio(PLAIN, "") * self._learned_ratio(method, f"{rows} {sent} {mode}")
        return self._measured_round_s(method, rows, sent, context, mode) * ratio

    def _measured_round_s(self, method: str, rows: int, sent: int, context: int, mode: str) -> float:
        """Its parts as measured, and what measuring them in one piece makes of a round in this mode."""
        verify = self.verify_s(sent + 1, context)
        return max(verify, self.draft_s(method, rows, context) + verify + self._joined_s(method, mode))

    def _joined_s(self, method: str, mode: str) -> float:
        """Seconds that a round in one piece takes more (or less) than its parts."""
        costs = self.costs[0]
        whole = costs.whole.get(method, {})
        if BLIND not in whole:
            return 0.0
        rows = max(costs.draft_s[method])
        took = whole[BLIND].median
        if mode == WAITED and WAITED in whole:
            took = max(took, whole[WAITED].median)
        return took - self.draft_s(method, rows, costs.context) - self.verify_s(rows + 1, costs.context)

    def wait_s(self, method: str) -> float:
        """What it costs to wait for the confidences before the verification."""
        return self._joined_s(method, WAITED) - self._joined_s(method, BLIND)

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
        plain = self._at(context, lambda c: c.plain_s, 1)
        return max(((n + 1) * plain / self.verify_s(n + 1, context), n) for n in range(max_drafts + 1))

    def seconds(self, method: str, rounds: Sequence[Round]) -> float:
        """Predicted decode time of recorded rounds, each at its own context."""
        return sum(self.recorded_s(method, r) for r in rounds)

    def recorded_s(self, method: str, r: Round) -> float:
        """Predicted time of one recorded round."""
        look = self.wait_s(method) if r.looked else 0.0  # a synchronisation of its own
        if r.draft_ids:
            return look + self.round_s(method, len(r.draft_ids), r.proposed, r.position, _mode(r))
        return self.plain_s(r.position) + (self.look_s(method, r.position) if r.looked else 0.0)

    def scaled(self, factor: float) -> "CostCurve":
        """With every time so many times as long."""
        if factor == 1:
            return self

        def each(points: Mapping[Any, Timing]) -> dict[Any, Timing]:
            return {at: t.times(factor) for at, t in points.items()}

        costs = tuple(
            Costs(
                c.context,
                c.plain.times(factor),
                each(c.verify),
                {method: each(points) for method, points in c.draft.items()},
                {method: each(whole) for method, whole in c.whole.items()},
            )
            for c in self.costs
        )
        return replace(self, costs=costs)

    # ---- what races teach ----

    def as_measured(self) -> "CostCurve":
        """Without what races taught, which is of whole rounds: parts of a round are to be compared in this one."""
        return replace(self, learned={})

    def refined(self, lanes: Sequence[tuple[str, Sequence[Round]]]) -> "CostCurve":
        """With what the rounds of a finished race say: (drafter's id or "plain", rounds) of each lane. The curve as it
        is where they say nothing: of too few rounds, or of a race in which something else had the machine."""
        bare, ratios = self.as_measured(), defaultdict[tuple[str, str], list[float]](list)
        # Of parked steps in a row the first one pays for the second, which is on the device by then: where plain
        # decoding raced, they say nothing.
        raced_plain = any(method == PLAIN and len(rounds) >= FEWEST_ROUNDS for method, rounds in lanes)
        for method, rounds in lanes:
            if len(rounds) < FEWEST_ROUNDS or not (method == PLAIN or self.knows(method)):
                continue
            for began, r in zip((0.0, *(r.time_s for r in rounds)), rounds, strict=False):
                parked = raced_plain and method != PLAIN and not r.draft_ids
                if r.time_s > began and not r.again and not parked and (r.draft_ids or not r.looked):
                    ratios[_kind(method, r)].append((r.time_s - began) / bare.recorded_s(method, r))
        samples = [*ratios.values()]
        # At most OUTLIER times the lower quartile is steady: the fastest round alone may be luck.
        steady = sum(x <= OUTLIER * sorted(s)[len(s) // 4] for s in samples for x in s)
        if not samples or steady < (1 - BUSY) * sum(map(len, samples)):
            return self
        plain = statistics.median(ratios.pop((PLAIN, ""), [self._learned_ratio(PLAIN, "")]))
        raced = {method for method, _ in ratios}
        learned = {
            method: {
                kind: replace(was, weight=was.weight * KEPT) if method in raced else was for kind, was in kinds.items()
            }
            for method, kinds in self.learned.items()
        }
        for (method, kind), (ratio, n) in {
            (PLAIN, ""): (plain, 1.0),
            **{key: (statistics.median(s) / plain, float(len(s))) for key, s in ratios.items()},
        }.items():
            kinds = learned.setdefault(method, {})
            kinds[kind] = kinds[kind].joined(ratio, n) if kind in kinds else Learned(min(max(ratio, 0.01), 100.0), n)
        return replace(self, learned=learned)

    def _learned_ratio(self, method: str, point: str) -> float:
        """What races make of a time: a point's own rounds, leaning on the drafter's others, and these on the
        measurement."""
        points = self.learned.get(method)
        if not points:
            return 1.0
        if method == PLAIN:
            return points[point].ratio if point in points else 1.0
        weight = sum(p.weight for p in points.values())
        others = sum(p.weight * math.log(p.ratio) for p in points.values()) / (weight + LEAN)
        own = points.get(point)
        if own is None:
            return math.exp(others)
        return math.exp((own.weight * math.log(own.ratio) + LEAN * others) / (own.weight + LEAN))

    # ---- reading between the points ----

    def _at(self, context: int, points: Callable[[Costs], Mapping[int, float]], x: int) -> float:
        """The value at `x`, linear in the context. Of the longer context only the difference is taken, which may
        have been measured at fewer points: the short one's steps stay."""
        short, *longer = self.costs
        near = between(points(short), x)
        if not longer or not points(longer[-1]):
            return near
        long = longer[-1]
        more = {at: max(0.0, s - between(points(short), at)) for at, s in points(long).items()}
        share = max(0.0, (context - short.context) / (long.context - short.context))
        return near + share * max(0.0, between(more, x))

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
        if not isinstance(value, dict) or type(value.get("version")) is not int or value["version"] != VERSION:
            raise ValueError("another version")
        fields = {name: part for name, part in value.items() if name != "version"}
        try:
            curve: CostCurve = _adapter().validate_json(json.dumps(fields))
        except ValidationError as e:
            first = e.errors(include_url=False, include_input=False)[0]
            raise ValueError(f"{' '.join(map(str, first['loc']))}: {first['msg']}") from None
        for wrong, words in curve._faults().items():
            if words:
                raise ValueError(wrong)
        return curve

    def _faults(self) -> dict[str, bool]:
        """What no single field shows."""
        contexts, timings = [c.context for c in self.costs], [c.plain for c in self.costs]
        for c in self.costs:
            for points in (c.verify, *c.draft.values()):
                timings += points.values()
            timings += [t for modes in c.whole.values() for t in modes.values()]
        return {
            "contexts do not ascend": contexts != sorted(set(contexts)),
            "methods differ between contexts": any(c.draft.keys() != self.costs[0].draft.keys() for c in self.costs),
            "a method without a point": not all(self.costs[0].draft.values()),
            "a verification of no token": any(0 in c.verify for c in self.costs),
            "a time's low, median and high do not ascend": not all(t.low <= t.median <= t.high for t in timings),
        }


@cache
def _adapter() -> TypeAdapter[CostCurve]:
    return TypeAdapter(CostCurve)


def tokens_per_round(acceptance: Sequence[float]) -> float:
    """Expected tokens of a round that sends these drafts: 1 + the sum of the products of acceptance so far."""
    total = survival = 1.0
    for a in acceptance:
        survival *= a
        total += survival
    return total


def _kind(method: str, r: Round) -> tuple[str, str]:
    """Under what a round's time is learned: (drafter, rows and mode); a round that drafted nothing is a plain step."""
    return (method, f"{len(r.draft_ids)} {r.proposed} {_mode(r)}") if r.draft_ids else (PLAIN, "")


def _mode(r: Round) -> str:
    return BLIND if r.confidence is None else WAITED


def between(points: Mapping[int, float], x: int) -> float:
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
