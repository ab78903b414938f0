"""Fills a `CostCurve`: times plain steps, verifications and drafts on this machine, in mixed order.

Runs on the thread that owns MLX, as a generator that can be closed between any two measurements. Contexts are filled
with synthetic keys and values, so that a long one costs no prefill: what a step costs does not depend on them.
"""

import hashlib
import json
import os
import platform
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx

from ..models.cache import trim
from ..models.drafter import Drafter
from ..models.target import Target
from .accept import accept_greedy
from .cost import CostCurve, Costs, Timing
from .sampling import Greedy

WIDEST = 17  # a block of 16 drafts
SHORT, LONG = 64, 768  # positions in the cache
PLAIN_STEPS = 3  # in one measurement, so that the pipelining shows
CATCH_UP = 3  # positions by which a draft brings its context up to date
PASSES = 5
FULL_S, QUICK_S = 35.0, 5.0  # a new measurement begins only before this much has passed


@dataclass(frozen=True, slots=True)
class Measuring:
    """`share` of the planned measurements is done."""

    share: float


class Bench:
    """One target with its drafters and contexts, ready to time single operations."""

    def __init__(self, target: Target, drafters: dict[str, Drafter], context: int):
        self.target, self.context = target, context
        self.cache = target.new_cache()
        self.taps = next(iter(drafters.values())).taps if drafters else ()
        hidden, _ = target.forward(mx.array([0]), self.cache)
        mx.eval(hidden)
        _fill(self.cache, context - 1)
        self.drafts = {}
        for method, drafter in drafters.items():
            draft = drafter.begin()
            features = mx.zeros((CATCH_UP, len(drafter.taps) * target.hidden_size), target.dtype)
            draft.extend(features[:1])
            mx.eval(draft.state)
            _fill(draft.cache, context - 1)
            self.drafts[method] = draft, features
        self.ids = mx.arange(WIDEST, dtype=mx.int32) % target.vocab_size

    def plain(self) -> float:
        """Seconds of one step, out of PLAIN_STEPS pipelined ones."""
        token = self.ids[:1]

        def step(token):
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
        began = time.perf_counter()
        hidden, features = self.target.forward(self.ids[:width], self.cache, self.taps)
        logits = self.target.head(hidden)
        accepted, following = accept_greedy(self.ids[1:width], logits, mx.array(width - 1))
        mx.eval(accepted, following, logits.max(axis=-1), features if self.taps else [])
        took = time.perf_counter() - began
        trim(self.cache, width)
        return took

    def draft(self, method: str, rows: int) -> float:
        context, features = self.drafts[method]
        began = time.perf_counter()
        context.extend(features)
        if rows:
            block = context.propose(self.ids[:1], rows, Greedy(), confidence=True)
            mx.eval(block.ids, block.logits.max(axis=-1), block.confidence if block.confidence is not None else [])
        else:
            mx.eval(context.look(self.ids[:1]).confidence)
        took = time.perf_counter() - began
        trim(context.cache, CATCH_UP)
        return took


def _fill(cache, n: int) -> None:
    """n more positions of noise, of the shape and type that the first one had."""
    for c in cache:
        keys, values = c.keys, c.values
        shape = (*keys.shape[:2], n)
        c.update_and_fetch(
            mx.random.normal((*shape, keys.shape[3])).astype(keys.dtype),
            mx.random.normal((*shape, values.shape[3])).astype(values.dtype),
        )
    mx.eval([c.state for c in cache])


def measure(target: Target, drafters: dict[str, Drafter], quick: bool = False) -> Iterator[Measuring | CostCurve]:
    """Measure and yield progress, then the curve.

    Every pass takes the points in an order of its own, so that drift of the machine tilts no curve. The first pass
    is always whole; further ones go on until PASSES are done or the time is up (FULL_S, QUICK_S), points
    that cost least, which decide most, first. `quick` measures fewer widths and rows.
    """
    began = time.perf_counter()
    longest = max((d.max_drafts for d in drafters.values()), default=0)
    long = min(LONG, target.context_length - WIDEST - PLAIN_STEPS)
    benches = [Bench(target, drafters, n) for n in ([SHORT, long] if long > 2 * SHORT else [SHORT])]
    points = []
    for b in range(len(benches)):
        points.append((b, "plain", 0))
        points += [(b, "verify", w) for w in _widths(longest, quick, b)]
        for method, d in drafters.items():
            points += [(b, method, n) for n in _rows(d, quick, b)]
    seconds = {p: [] for p in points}
    order = random.Random(0)

    def run(point):
        b, kind, n = point
        bench = benches[b]
        return bench.plain() if kind == "plain" else bench.verify(n) if kind == "verify" else bench.draft(kind, n)

    gpu = mx.default_device() != mx.Device(mx.cpu)
    for point in points if gpu else points[:2]:  # kernels compile off the clock
        run(point)
        yield Measuring(0.0)
    limit, planned, done = QUICK_S if quick else FULL_S, len(points) * PASSES, 0
    for turn in range(PASSES):
        todo = order.sample(points, len(points))
        if turn:
            todo.sort(key=lambda p: seconds[p][0] > 4 * seconds[0, "plain", 0][0])
        for point in todo:
            elapsed = time.perf_counter() - began
            if turn and elapsed > limit:
                break
            seconds[point].append(run(point))
            done += 1
            yield Measuring(min(0.99, max(done / planned, elapsed / limit)))
    costs = tuple(
        Costs(
            bench.context,
            Timing.of(seconds[b, "plain", 0]),
            {n: Timing.of(s) for (i, kind, n), s in seconds.items() if i == b and kind == "verify"},
            {m: {n: Timing.of(s) for (i, kind, n), s in seconds.items() if i == b and kind == m} for m in drafters},
        )
        for b, bench in enumerate(benches)
    )
    now = datetime.now(UTC).isoformat(timespec="seconds")
    yield CostCurve(made_of(target, drafters), now, round(time.perf_counter() - began, 2), costs)


def _widths(longest: int, quick: bool, bench: int) -> list[int]:
    if not quick:
        return list(range(1, WIDEST + 1))
    return [1, min(8, longest + 1)] if bench else sorted({1, 2, 3, 4, 6, 8, longest + 1})


def _rows(drafter: Drafter, quick: bool, bench: int) -> list[int]:
    most = drafter.max_drafts
    first = 0 if drafter.has_confidence else 1
    if not quick and not bench:
        return list(range(first, most + 1))
    return sorted({first, most} if bench else {first, 1, min(2, most), min(4, most), most})


# ---- kept on disk ----------------------------------------------------------------------------------------


def made_of(target: Target, drafters: dict[str, Drafter]) -> dict[str, str]:
    """What a curve depends on."""
    device = mx.default_device()
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    shapes = {m: f"{d.name}, {d.precision}, {_digest(repr(d.config))}" for m, d in sorted(drafters.items())}
    return {
        "target": f"{target.name}, {_digest(repr(target.model))}",
        "precision": target.precision,
        "device": f"{device.type.name}, {mx.device_info().get('device_name', '')}",
        "threads": str(threads),
        "mlx": version("mlx"),
        "mlx-lm": version("mlx-lm"),
        "drafters": "; ".join(f"{m}: {s}" for m, s in shapes.items()),
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
        curve = CostCurve.from_json(cache_file(wanted, directory).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return curve if curve.made_of == wanted else None


def save(curve: CostCurve, directory: Path | None = None) -> Path:
    """Keep a curve. Raises OSError if the directory cannot be written."""
    file = cache_file(curve.made_of, directory)
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(f".{os.getpid()}.part")
    draft.write_text(curve.to_json(), encoding="utf-8")
    draft.replace(file)
    return file


def cache_file(wanted: dict[str, str], directory: Path | None, kind: str = "") -> Path:
    """Where a measurement that depends on `wanted` is kept."""
    name = _digest(json.dumps(dict(wanted), sort_keys=True))
    return (directory or default_directory()) / f"{kind}{name}.json"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
