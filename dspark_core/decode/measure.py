"""Fills a `CostCurve`: times plain steps, verifications and drafts on this machine, in mixed order.

Runs on the thread that owns MLX, as a generator that can be closed between any two measurements. The target's cache is
filled with synthetic keys and values, so that a long one costs no prefill: what a step costs does not depend on them.
"""

import hashlib
import json
import os
import platform
import random
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx

from ..models.cache import trim
from ..models.drafter import Context, Drafter
from ..models.target import Target
from ..store import read_json, write_json
from .cost_curve import FEWEST, CostCurve, Costs, Timing, agreeing
from .prefill import PREFILL_CHUNK
from .sampling import Greedy, accept_greedy

DENSE = 16  # drafts, and one more verified token, up to which every number has a point of its own
SHORT, LONG = 64, 768  # positions in the cache
PLAIN_STEPS = 3  # in one measurement, so that the pipelining shows
CATCH_UP = 3  # positions by which a draft brings its context up to date
PASSES = 5  # samples of a point, where there is time
MOST_SAMPLES = 9  # of a point whose samples do not agree
FULL_S, QUICK_S = 35.0, 12.0  # points and samples beyond what is needed are taken as far as they fit into this

Point = tuple[
    int, str, int
]  # a context's place, "plain", "verify" or a drafter's id, and the tokens verified or drafted


@dataclass(frozen=True, slots=True)
class Measuring:
    """`share` of the planned measurements is done."""

    share: float


class Bench:
    """One target with its drafters and contexts, ready to time single operations."""

    def __init__(self, target: Target, drafters: dict[str, Drafter], context: int):
        self.target, self.context = target, context
        self.cache = target.new_cache()
        self.taps = max((d.taps for d in drafters.values()), key=len, default=())
        hidden, _ = target.forward(mx.array([0]), self.cache)
        mx.eval(hidden)
        self._fill(context - 1)
        self.ids = mx.arange(_widest(drafters), dtype=mx.int32) % target.vocab_size
        self.drafts = {id_: self._context(drafter) for id_, drafter in drafters.items()}

    def _fill(self, n: int) -> None:
        """n more positions of noise in the target's cache, of the shape and type that the first one had: what a step
        costs does not depend on them, and a prefill of the target's would take long."""
        for c in self.cache:
            keys, values = c.keys, c.values
            assert keys is not None and values is not None
            shape = (*keys.shape[:2], n)
            c.update_and_fetch(
                mx.random.normal((*shape, keys.shape[3])).astype(keys.dtype),
                mx.random.normal((*shape, values.shape[3])).astype(values.dtype),
            )
        mx.eval([c.state for c in self.cache])

    def _context(self, drafter: Drafter) -> tuple[Context, mx.array | None]:
        """Its context after `context` positions of noise, and the taps of CATCH_UP more. Every position goes in as in
        a prefill, for what a context is made of is the drafter's own affair."""
        draft, features = drafter.begin(), None
        for start in range(0, self.context, PREFILL_CHUNK):
            ids = (mx.arange(start, min(start + PREFILL_CHUNK, self.context)) % self.target.vocab_size).astype(mx.int32)
            if drafter.taps:
                shape = ids.shape[0], len(drafter.taps) * self.target.hidden_size
                features = mx.random.normal(shape).astype(self.target.dtype)
            draft.extend(ids, features)
            mx.eval(draft.state)
        if drafter.taps:
            features = mx.zeros((CATCH_UP, len(drafter.taps) * self.target.hidden_size), self.target.dtype)
        return draft, features

    def plain(self) -> float:
        """Seconds of one step, out of PLAIN_STEPS pipelined ones."""
        token = self.ids[:1]

        def step(token: mx.array) -> tuple[mx.array, mx.array]:
            hidden, _ = self.target.forward(token, self.cache)
            logits = self.target.head(hidden)
            following = mx.argmax(logits, axis=-1).astype(mx.int32)
            peak = logits.max(axis=-1)
            mx.async_eval(following, peak)
            return following, peak

        began = time.perf_counter()
        ahead = step(token)
        for i in range(PLAIN_STEPS):
            token, peak = ahead
            if i + 1 < PLAIN_STEPS:
                ahead = step(token)
            mx.eval(token, peak)
            token.item()
        took = time.perf_counter() - began
        trim(self.cache, PLAIN_STEPS)
        return took / PLAIN_STEPS

    def verify(self, width: int) -> float:
        if width > self.ids.size:
            raise ValueError(f"{width} tokens cannot be timed with {self.ids.size}.")
        began = time.perf_counter()
        hidden, features = self.target.forward(self.ids[:width], self.cache, self.taps)
        logits = self.target.head(hidden)
        accepted, following = accept_greedy(self.ids[1:width], logits, mx.array(width - 1))
        mx.eval(accepted, following, logits.max(axis=-1), [] if features is None else features)
        took = time.perf_counter() - began
        trim(self.cache, width)
        return took

    def draft(self, drafter: str, rows: int) -> float:
        """Seconds of asking a drafter for `rows` drafts; 0 rows: of its look at the first confidence."""
        context, features = self.drafts[drafter]
        ids = self.ids[:CATCH_UP]
        began = time.perf_counter()
        context.extend(ids, features)
        if rows:
            block = context.propose(self.ids[:1], rows, Greedy(), confidence=True)
            peaks = None if block.logits is None else block.logits.max(axis=-1)
            mx.eval([x for x in (block.ids, peaks, block.confidence) if x is not None])
        else:
            mx.eval(context.look(self.ids[:1]).confidence)
        took = time.perf_counter() - began
        context.rollback(CATCH_UP)
        return took

    def run(self, kind: str, n: int) -> float:
        """Seconds of "plain", "verify" n, or a drafter's draft of n."""
        return self.plain() if kind == "plain" else self.verify(n) if kind == "verify" else self.draft(kind, n)


def measure(
    target: Target, drafters: dict[str, Drafter], quick: bool = False
) -> Generator[Measuring | CostCurve, None, None]:
    """Measure and yield progress, then the curve.

    Every point is run once off the clock before its first sample. Points are taken in the order of `_plan`, but for
    the first, which no curve can do without, only as many as FEWEST samples each fit into the time (FULL_S, QUICK_S);
    then all are sampled again and again, every pass in an order of its own, so that drift of the machine tilts no
    curve: FEWEST times whatever the time, and while it lasts PASSES times, or where fewer than FEWEST samples agree
    up to MOST_SAMPLES. `quick` plans fewer points.
    """
    began, limit = time.perf_counter(), QUICK_S if quick else FULL_S
    long = min(LONG, target.context_length - _widest(drafters) - PLAIN_STEPS)
    benches = [Bench(target, drafters, n) for n in ([SHORT, long] if long > 2 * SHORT else [SHORT])]
    order, share = random.Random(0), 0.0
    needed, *more = ([*order.sample(stage, len(stage))] for stage in _plan(drafters, len(benches), quick))
    seconds: dict[Point, list[float]] = {}
    spent = 0.0  # by one sample of every point so far

    def elapsed() -> float:
        return time.perf_counter() - began

    def progress(done: float = 0.0) -> Measuring:
        nonlocal share
        share = max(share, min(0.99, max(done, elapsed() / limit)))
        return Measuring(share)

    for point in (*needed, *(p for stage in more for p in stage)):
        b, kind, n = point
        if point not in needed and elapsed() + (FEWEST - 1) * spent > limit:
            break
        benches[b].run(kind, n)  # kernels compile and memory is touched
        yield progress()
        spent -= elapsed()
        seconds[point] = [benches[b].run(kind, n)]
        spent += elapsed()
        yield progress()
    while todo := [p for p, s in seconds.items() if _wants(s, elapsed() < limit)]:
        for point in order.sample(todo, len(todo)):
            if _wants(seconds[point], elapsed() < limit):
                b, kind, n = point
                seconds[point].append(benches[b].run(kind, n))
                yield progress(sum(map(len, seconds.values())) / (PASSES * len(seconds)))
    costs = tuple(
        Costs(
            bench.context,
            Timing.of(seconds[b, "plain", 0]),
            _timings(seconds, b, "verify"),
            {id_: _timings(seconds, b, id_) for id_ in drafters},
        )
        for b, bench in enumerate(benches)
    )
    now = datetime.now(UTC).isoformat(timespec="seconds")
    yield CostCurve(made_of(target, drafters), now, round(time.perf_counter() - began, 2), costs)


def _plan(drafters: dict[str, Drafter], contexts: int, quick: bool) -> list[list[Point]]:
    """Points in three stages: those without which there is no curve, those that show its shape, all others."""
    last = longest(drafters) + 1
    every = [*range(1, DENSE + 2), *range(DENSE + 8, last, 8), last]
    needed = [(b, "plain", 0) for b in range(contexts)]
    needed += [(0, "verify", 1), (0, "verify", 2), (0, "verify", last)]
    needed += [(b, "verify", min(8, last)) for b in range(1, contexts)]
    shape = [(0, "verify", n) for n in (3, 4, 6, 8, 12, 16, 24, 32, 48) if n < last]
    rest = [(b, "verify", n) for b in range(contexts) for n in every]
    if contexts > 1:
        shape.append((1, "verify", 1))
    for id_, d in drafters.items():
        few, most = points_of(d)
        needed += [(0, id_, few), (0, id_, most)]
        shape += [(0, id_, n) for n in (1, 2, 4, 8, 12, 24, 32) if n < most]
        shape += [(b, id_, n) for b in range(1, contexts) for n in (few, most)]
        rest += [(0, id_, n) for n in range(few, most) if n <= DENSE or n % 8 == 0]
    stages: list[list[Point]] = []
    planned: set[Point] = set()
    for stage in (needed, shape, [] if quick else rest):
        stages.append([p for p in dict.fromkeys(stage) if p not in planned])
        planned.update(stage)
    return stages


def longest(drafters: dict[str, Drafter]) -> int:
    """Drafts of the longest block."""
    return max((d.info.max_drafts for d in drafters.values()), default=0)


def _widest(drafters: dict[str, Drafter]) -> int:
    return max(longest(drafters), DENSE) + 1


def points_of(drafter: Drafter) -> tuple[int, int]:
    """The fewest and the most head rows whose cost a schedule asks for."""
    return 0 if drafter.info.has_confidence else 1, drafter.info.max_drafts


def _wants(samples: list[float], time_left: bool) -> bool:
    """Is a point to be sampled again: to be believed at all, or, while there is time, to know it better?"""
    enough = PASSES if agreeing(samples) >= FEWEST else MOST_SAMPLES
    return len(samples) < (enough if time_left else FEWEST)


def _timings(seconds: dict[Point, list[float]], context: int, kind: str) -> dict[int, Timing]:
    return {n: Timing.of(s) for (b, k, n), s in sorted(seconds.items()) if (b, k) == (context, kind)}


# ---- kept on disk ----------------------------------------------------------------------------------------


def made_of(target: Target, drafters: dict[str, Drafter]) -> dict[str, str]:
    """What a curve depends on."""
    device = mx.default_device()
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    infos = {id_: d.info for id_, d in sorted(drafters.items())}
    shapes = {id_: f"{i.name}, {i.precision}, {_short_hash(i.shapes)}" for id_, i in infos.items()}
    return {
        "target": f"{target.name}, {_short_hash(repr(target.model))}",
        "precision": target.precision,
        "device": f"{device.type.name}, {mx.device_info().get('device_name', '')}",
        "threads": str(threads),
        "mlx": version("mlx"),
        "mlx-lm": version("mlx-lm"),
        "drafters": "; ".join(f"{id_}: {s}" for id_, s in shapes.items()),
    }


def default_directory() -> Path:
    """Where curves are kept: the user's cache directory."""
    if platform.system() == "Darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "dspark-playground" / "costs"


def load(target: Target, drafters: dict[str, Drafter], directory: Path | None = None) -> CostCurve | None:
    """The curve kept for exactly these, or None."""
    wanted = made_of(target, drafters)
    try:
        curve = CostCurve.of(read_json(cache_file(wanted, directory)))
    except (OSError, ValueError):
        return None
    return curve if curve.made_of == wanted and _serves(curve, drafters) else None


def _serves(curve: CostCurve, drafters: dict[str, Drafter]) -> bool:
    """Does a curve have the points that schedules of these drafters ask for?"""
    costs = curve.costs[0]
    return (
        costs.draft.keys() == drafters.keys()
        and costs.verify.keys() >= {1, longest(drafters) + 1}
        and all(costs.draft[id_].keys() >= set(points_of(d)) for id_, d in drafters.items())
    )


def save(curve: CostCurve, directory: Path | None = None) -> Path:
    """Keep a curve. Raises OSError if the directory cannot be written."""
    file = cache_file(curve.made_of, directory)
    write_json(file, curve.as_json())
    return file


def cache_file(wanted: Mapping[str, str], directory: Path | None, kind: str = "") -> Path:
    """Where a measurement that depends on `wanted` is kept."""
    name = _short_hash(json.dumps(dict(wanted), sort_keys=True))
    return (directory or default_directory()) / f"{kind}{name}.json"


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
