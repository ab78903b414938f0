"""Fills a `CostCurve`: times plain steps, verifications and drafts on this machine, in mixed order.

Runs on the thread that owns MLX, as a generator that can be closed between any two measurements. The target's cache is
filled with synthetic keys and values, so that a long one costs no prefill: what a step costs does not depend on them.
It does where layers have experts: every row wakes its own, and equal rows wake equal ones. So what is verified is text,
also where a drafter, on noise, proposes one token again and again, and such a target has read the text before it.
"""

import logging
import random
import time
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import mlx.core as mx
from mlx_lm.models.switch_layers import SwitchGLU, SwitchMLP

from ..errors import ModelError
from ..machine import CPU_STREAMS, machine, versions
from ..models.cache import RecurrentCache, trim
from ..models.drafter import Context, Drafter
from ..models.target import Target
from ..models.text import Text
from ..models.text_process import ForeignText
from ..store import Store, short_digest
from .bundled_curve import bundled_curve
from .cost_curve import BLIND, FEWEST, WAITED, CostCurve, Costs, Timing, agreeing
from .prefill import PREFILL_CHUNK
from .sampling import Greedy, accept_greedy

DENSE = 16  # drafts, and one more verified token, up to which every number has a point of its own
SHORT, LONG = 64, 768  # positions in the cache
PLAIN_STEPS = 3  # in one measurement, so that the pipelining shows
CATCH_UP = 3  # positions by which a draft brings its context up to date
PASSES = 5  # samples of a point, where there is time
MOST_SAMPLES = 9  # of a point whose samples do not agree
KIND = "costs"  # of what the store holds
TEXT = """A hundred and thirty years ago the first railway crossed these mountains, and it took two days. Today a train
needs three hours and 40 minutes; most of the passengers never look out of the window.

def slowest(times: list[float]) -> int:
    return max(range(len(times)), key=times.__getitem__)

To solve 3x + 7 = 22, subtract 7 from both sides, then divide by 3: x = 5. Which of these would you rather have known
when you were ten years old, and why? Write a short letter to your younger self."""
FULL_S, QUICK_S = 35.0, 12.0  # points and samples beyond what is needed are taken as far as they fit into this

WHOLE = {f" {mode}": mode for mode in (BLIND, WAITED)}  # behind a drafter's id: a round in one piece
# A context's place; "plain", "verify", a drafter's id, or that with one of WHOLE behind it; tokens verified or drafted.
Point = tuple[int, str, int]


@dataclass(frozen=True, slots=True)
class Measuring:
    """`share` of the planned measurements is done."""

    share: float


class Bench:
    """One target with its drafters and contexts, to time single operations once `set_up` has come to its end, as it
    has before the constructor returns unless `later`."""

    def __init__(self, target: Target, drafters: dict[str, Drafter], context: int, later: bool = False):
        self.target, self.context, self.drafters = target, context, drafters
        self.cache = target.new_cache()
        self.taps = max((d.taps for d in drafters.values()), key=len, default=())
        self.text = _text_of(target, context + _widest(drafters))
        self.ids = self.text[context:]
        self.drafts: dict[str, tuple[Context, mx.array | None]] = {}
        self.on_cpu = mx.default_device().type == mx.DeviceType.cpu and target.machines == 1  # in this process
        self.spent = 0.0, 0.0  # seconds of the clock so far, and of this process's own work where MLX is part of it
        if not later:
            for id_ in ("", *drafters):
                for _ in self.set_up(id_):
                    pass

    def set_up(self, drafter: str = "") -> Iterator[None]:
        """Fill the target's cache, or with a drafter's id its context, operation by operation."""
        if drafter:
            yield from self._context(drafter)
            return
        hidden, _ = self.target.forward(self.text[:1], self.cache)
        mx.eval(hidden, [c.state for c in self.cache])
        yield
        experts = any(isinstance(module, SwitchGLU | SwitchMLP) for module in self.target.model.modules())
        if not experts and all(getattr(c, "keys", None) is not None for c in self.cache):
            self._fill(self.context - 1)
            yield
            return
        for start in range(1, self.context, PREFILL_CHUNK):  # experts, or a state that only a prefill can fill
            ids = self.text[start : min(start + PREFILL_CHUNK, self.context)]
            mx.eval(self.target.forward(ids, self.cache)[0], [c.state for c in self.cache])
            yield

    def _clocks(self) -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    def own_seconds(self, began: tuple[float, float]) -> tuple[float, float]:
        """Seconds since then, by the clock and those that count. Where MLX computes on a CPU, the ones in which another
        program had it do not: no operation is done sooner than its own work, and what is spread over several threads
        works for longer than it takes."""
        wall, worked = (now - then for now, then in zip(self._clocks(), began, strict=True))
        return wall, min(wall, worked) if self.on_cpu else wall

    def _since(self, began: tuple[float, float]) -> float:
        """Seconds of an operation."""
        wall, own = self.own_seconds(began)
        self.spent = self.spent[0] + wall, self.spent[1] + own * self.on_cpu
        return own

    def _fill(self, n: int) -> None:
        """n more positions of noise in the target's cache, of the shape and type that the first one had: what a step
        costs does not depend on them, and a prefill of the target's would take long."""
        for c in self.cache:
            if isinstance(c, RecurrentCache):  # whose step costs the same after any text
                continue
            keys, values = c.keys, c.values
            assert keys is not None and values is not None
            shape = (*keys.shape[:2], n)
            c.update_and_fetch(
                mx.random.normal((*shape, keys.shape[3])).astype(keys.dtype),
                mx.random.normal((*shape, values.shape[3])).astype(values.dtype),
            )
        mx.eval([c.state for c in self.cache])

    def _context(self, id_: str) -> Iterator[None]:
        """A drafter's context after `context` positions of noise, and the taps of CATCH_UP more. Every position goes in
        as in a prefill, for what a context is made of is the drafter's own affair."""
        drafter = self.drafters[id_]
        draft, features = drafter.begin(), None
        for start in range(0, self.context, PREFILL_CHUNK):
            ids = (mx.arange(start, min(start + PREFILL_CHUNK, self.context)) % self.target.vocab_size).astype(mx.int32)
            if drafter.taps:
                shape = ids.shape[0], len(drafter.taps) * self.target.hidden_size
                features = mx.random.normal(shape).astype(self.target.dtype)
            draft.extend(ids, features)
            mx.eval(draft.state)
            yield
        if drafter.taps:
            features = mx.zeros((CATCH_UP, len(drafter.taps) * self.target.hidden_size), self.target.dtype)
        self.drafts[id_] = draft, features

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

        began = self._clocks()
        ahead = step(token)
        for i in range(PLAIN_STEPS):
            token, peak = ahead
            if i + 1 < PLAIN_STEPS:
                ahead = step(token)
            mx.eval(token, peak)
            token.item()
        took = self._since(began)
        trim(self.cache, PLAIN_STEPS)
        return took / PLAIN_STEPS

    def verify(self, width: int) -> float:
        """Seconds of a verification; with what follows when half of it is rejected, where that costs anything."""
        if width > self.ids.size:
            raise ValueError(f"{width} tokens cannot be timed with {self.ids.size}.")
        began = self._clocks()
        hidden, features = self.target.forward(self.ids[:width], self.cache, self.taps)
        logits = self.target.head(hidden)
        accepted, following = accept_greedy(self.ids[1:width], logits, mx.array(width - 1))
        mx.eval(accepted, following, logits.max(axis=-1), [] if features is None else features)
        left = self._half_rejected(width)
        took = self._since(began)
        trim(self.cache, left)
        return took

    def _half_rejected(self, width: int) -> int:
        """Where layers have a state that a rejection replays, half of a verification's rows are dropped. Returns how
        many are left to be."""
        states = [c for c in self.cache if isinstance(c, RecurrentCache) and c.recurrent is not None]
        if not states or width < 2:
            return width
        trim(self.cache, width // 2)
        mx.eval([c.recurrent for c in states])
        return width - width // 2

    def draft(self, drafter: str, rows: int) -> float:
        """Seconds of asking a drafter for `rows` drafts; 0 rows: of its look at the first confidence."""
        context, features = self.drafts[drafter]
        ids = self.ids[:CATCH_UP]
        began = self._clocks()
        context.extend(ids, features)
        if rows:
            block = context.propose(self.ids[:1], rows, Greedy(), confidence=True)
            peaks = None if block.logits is None else block.logits.max(axis=-1)
            mx.eval([x for x in (block.ids, peaks, block.confidence) if x is not None])
        else:
            mx.eval(context.look(self.ids[:1]).confidence)
        took = self._since(began)
        context.rollback(CATCH_UP)
        return took

    def whole(self, drafter: str, rows: int, mode: str) -> float:
        """Seconds of a round of `rows` drafts in one piece; `mode`: does the host wait for the confidences before it
        verifies, or send all of them blindly, in one graph?"""
        context, features = self.drafts[drafter]
        began = self._clocks()
        context.extend(self.ids[:CATCH_UP], features)
        block = context.propose(self.ids[:1], rows, Greedy(), confidence=mode == WAITED)
        mx.async_eval([x for x in (block.ids, block.confidence) if x is not None])
        if mode == WAITED and block.confidence is not None:
            block.confidence.tolist()
        width = block.ids.shape[0] + 1
        sent = mx.where(block.ids >= 0, self.ids[1:width], block.ids)  # once they are there; all are
        hidden, taps = self.target.forward(mx.concatenate([self.ids[:1], sent]), self.cache, self.taps)
        logits = self.target.head(hidden)
        accepted, following = accept_greedy(sent, logits, mx.array(width - 1))
        mx.eval(accepted, following, logits.max(axis=-1), [] if taps is None else taps)
        left = self._half_rejected(width)
        took = self._since(began)
        trim(self.cache, left)
        context.rollback(CATCH_UP)
        return took

    def run(self, kind: str, n: int) -> float:
        """Seconds of one operation as `Point` names it."""
        if kind in ("plain", "verify"):
            return self.plain() if kind == "plain" else self.verify(n)
        drafter, space, mode = kind.partition(" ")
        return self.whole(drafter, n, mode) if space else self.draft(kind, n)


class Measurement:
    """One under way: every step of `run` is a single operation on the device, and it can be left after any of them.

    Every point is run once off the clock before its first sample. The points without which there is no curve come
    first, until each has FEWEST samples: from then on `curve` is this machine's own. Further ones are taken in the
    order of `plan` as far as FEWEST samples each fit into the time (FULL_S, QUICK_S), then all are sampled again and
    again, every pass in an order of its own, so that drift of the machine tilts no curve: FEWEST times whatever the
    time, and while it lasts PASSES times, or where fewer than FEWEST samples agree up to MOST_SAMPLES. `quick` plans
    fewer points. Time is that of the operations alone, whatever else is done between them
    or, on a CPU, beside them. A drafter that fails is left
    out, and so is in no curve.
    """

    def __init__(self, target: Target, drafters: dict[str, Drafter], quick: bool = False):
        self.target, self.drafters = target, dict(drafters)
        self.about = made_of(target, drafters)
        self.elapsed, self.limit = 0.0, QUICK_S if quick else FULL_S
        long = min(LONG, target.context_length - _widest(drafters) - PLAIN_STEPS)
        contexts = [SHORT, long] if long > 2 * SHORT else [SHORT]
        self.benches = [Bench(target, self.drafters, n, later=True) for n in contexts]
        self.order, self.share = random.Random(0), 0.0
        first, *stages = self.plan(quick)
        self.needed, *self.more = (self.order.sample(stage, len(stage)) for stage in (first, *stages))
        self.needed.sort(key=lambda point: point[:2] != (0, "plain"))  # by that one others' shapes are scaled
        self.seconds: dict[Point, list[float]] = {}

    def run(self) -> Generator[Measuring | CostCurve, None, None]:
        """Progress after every operation, and at the end the curve."""
        for bench in self.benches:
            for id_ in ("", *self.drafters):
                yield from self._guarded(id_, bench.set_up(id_))
        for point in self.needed:
            yield from self._first(point)
        yield from self._again(self.needed, lambda samples: len(samples) < FEWEST)
        owed = 0.0  # by one more sample of every point that came later
        for point in (p for stage in self.more for p in stage):
            if self.elapsed + (FEWEST - 1) * owed > self.limit:
                break
            yield from self._first(point)
            owed += sum(self.seconds.get(point, ()))
        yield from self._again(self.seconds, self._wants)
        yield self.curve()

    def _first(self, point: Point) -> Iterator[Measuring]:
        """A point off the clock, for kernels compile and memory is touched; then its first sample."""

        def twice() -> Iterator[None]:
            self._sample(point)
            yield
            self.seconds[point] = [self._sample(point)]
            yield

        yield from self._guarded(self._drafter(point), twice())

    def _again(self, points: Collection[Point], wanted: Callable[[list[float]], bool]) -> Iterator[Measuring]:
        """Further samples, pass by pass, of the points that are `wanted`."""
        while todo := [p for p in points if p in self.seconds and wanted(self.seconds[p])]:
            for point in self.order.sample(todo, len(todo)):
                if point in self.seconds and wanted(self.seconds[point]):
                    yield from self._guarded(self._drafter(point), self._one_more(point))

    def _one_more(self, point: Point) -> Iterator[None]:
        self.seconds[point].append(self._sample(point))
        yield

    def _guarded(self, drafter: str, steps: Iterator[None]) -> Iterator[Measuring]:
        """Progress after every step. What goes wrong with a drafter leaves that drafter out."""
        while not drafter or drafter in self.drafters:
            try:
                next(steps)
            except StopIteration:
                return
            except KeyboardInterrupt:
                raise
            except BaseException:
                if not drafter:
                    raise
                logging.exception("the drafter %s cannot be measured", drafter)
                del self.drafters[drafter]
                self.seconds = {p: s for p, s in self.seconds.items() if self._drafter(p) != drafter}
                return
            yield self._progress()

    @staticmethod
    def _drafter(point: Point) -> str:
        """Whose operation a point is; empty for the target's."""
        return "" if point[1] in ("plain", "verify") else point[1].partition(" ")[0]

    def _sample(self, point: Point) -> float:
        bench, kind, n = self.benches[point[0]], *point[1:]
        began = bench._clocks()
        try:
            return bench.run(kind, n)
        finally:
            self.elapsed += bench.own_seconds(began)[1]

    def _progress(self) -> Measuring:
        done = sum(map(len, self.seconds.values())) / (PASSES * max(1, len(self.seconds)))
        timed = self.elapsed / self.limit
        self.share = max(self.share, min(0.99, timed if len(self.seconds) < len(self.needed) else max(done, timed)))
        return Measuring(self.share)

    def _wants(self, samples: list[float]) -> bool:
        """Is a point to be sampled again: to be believed at all, or, while there is time, to know it better?"""
        enough = PASSES if agreeing(samples) >= FEWEST else MOST_SAMPLES
        return len(samples) < (enough if self.elapsed < self.limit else FEWEST)

    def plan(self, quick: bool) -> list[list[Point]]:
        """Points in three stages: those without which there is no curve, those that show its shape, all others."""
        last, contexts = longest(self.drafters) + 1, len(self.benches)
        every = [*range(1, DENSE + 2), *range(DENSE + 8, last, 8), last]
        needed = [(b, "plain", 0) for b in range(contexts)]
        needed += [(0, "verify", 1), (0, "verify", 2), (0, "verify", last)]
        needed += [(b, "verify", min(8, last)) for b in range(1, contexts)]
        shape = [(0, "verify", n) for n in (3, 4, 6, 8, 12, 16, 24, 32, 48) if n < last]
        rest = [(b, "verify", n) for b in range(contexts) for n in every]
        if contexts > 1:
            shape.append((1, "verify", 1))
        for id_, d in self.drafters.items():
            few, most = points_of(d)
            needed += [(0, id_, few), (0, id_, most)]
            if d.info.waits:
                needed += [(0, id_ + mode, most) for mode in WHOLE]
                rest.append((0, "verify", most + 1))
            shape += [(0, id_, n) for n in (1, 2, 4, 8, 12, 24, 32) if n < most]
            shape += [(b, id_, n) for b in range(1, contexts) for n in (few, most)]
            rest += [(0, id_, n) for n in range(few, most) if n <= DENSE or n % 8 == 0]
        stages: list[list[Point]] = []
        planned: set[Point] = set()
        for stage in (needed, shape, [] if quick else rest):
            stages.append([p for p in dict.fromkeys(stage) if p not in planned])
            planned.update(stage)
        return stages

    def curve(self) -> CostCurve:
        """Of the points that have been sampled FEWEST times. Before all have that no curve can do without: another
        machine's, scaled by the plain step as far as that is known."""
        sampled = {point: s for point, s in self.seconds.items() if len(s) >= FEWEST}
        needed = {p for p in self.needed if (id_ := self._drafter(p)) in self.drafters or not id_}
        if not sampled.keys() >= needed:
            plain = min(self.seconds.get((0, "plain", 0), [0.0]))
            hosted = [id_ for id_, d in self.drafters.items() if d.info.has_preview]
            return bundled_curve(self.about, self.drafters, plain, hosted)

        def timings(b: int, kind: str) -> dict[int, Timing]:
            return {n: Timing.of(s) for (at, k, n), s in sorted(sampled.items()) if (at, k) == (b, kind)}

        def whole(b: int, id_: str) -> dict[str, Timing]:
            return {mode: t for space, mode in WHOLE.items() for t in timings(b, id_ + space).values()}

        costs = tuple(
            Costs(
                bench.context,
                Timing.of(sampled[b, "plain", 0]),
                timings(b, "verify"),
                {id_: timings(b, id_) for id_ in self.drafters},
                {id_: found for id_ in self.drafters if (found := whole(b, id_))},
            )
            for b, bench in enumerate(self.benches)
        )
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return CostCurve(self.about, now, round(self.elapsed, 2), costs, self._busy())

    def _busy(self) -> float:
        """Share of the measuring in which something else had the machine: of samples that do not agree with the
        others of their point; or, computing on a CPU, of time in which this process did not run."""
        samples = [*self.seconds.values()]
        slow = 1 - sum(map(agreeing, samples)) / sum(map(len, samples))
        wall, worked = (sum(t) for t in zip(*(b.spent for b in self.benches), strict=True))
        return round(min(1.0, max(slow, 1 - worked / wall if wall and worked else 0.0)), 3)


def measure(
    target: Target, drafters: dict[str, Drafter], quick: bool = False
) -> Generator[Measuring | CostCurve, None, None]:
    """Measure and yield progress, then the curve."""
    yield from Measurement(target, drafters, quick).run()


def longest(drafters: dict[str, Drafter]) -> int:
    """Drafts of the longest block."""
    return max((d.info.max_drafts for d in drafters.values()), default=0)


def _text_of(target: Target, n: int) -> mx.array:
    """n token ids of a text, over and over; where there is no tokenizer, of no text at all."""
    ids: list[int] = []
    with suppress(ModelError):
        ids = target.text.encode(TEXT) if isinstance(target.text, Text | ForeignText) else []
    ids = ids or [7919 * i for i in range(n)]
    return mx.array([ids[i % len(ids)] % target.vocab_size for i in range(n)], mx.int32)


def _widest(drafters: dict[str, Drafter]) -> int:
    return max(longest(drafters), DENSE) + 1


def points_of(drafter: Drafter) -> tuple[int, int]:
    """The fewest and the most head rows whose cost a schedule asks for."""
    return 0 if drafter.info.has_look else 1, drafter.info.max_drafts


# ---- on disk ----------------------------------------------------------------------------------------------


def made_of(target: Target, drafters: dict[str, Drafter]) -> dict[str, str]:
    """What a curve depends on: models, and what `machine` says of this machine that changes their speed."""
    here, installed = machine(), versions()
    infos = {id_: d.info for id_, d in sorted(drafters.items())}
    shapes = {id_: f"{i.name}, {i.precision}, {short_digest(i.shapes)}" for id_, i in infos.items()}
    return {
        "target": f"{target.name}, {short_digest(repr(target.model))}",
        "precision": target.precision,
        **{fact: here[fact] for fact in ("device", "processor", "cores")},
        **{package: installed[package] for package in ("mlx", "mlx-lm")},
        "drafters": "; ".join(f"{id_}: {s}" for id_, s in shapes.items()),
        **({CPU_STREAMS: target.cpu_streams} if target.cpu_streams else {}),
    }


def load_curve(target: Target, drafters: dict[str, Drafter], directory: Path | None = None) -> CostCurve | None:
    """The curve on disk (see store.py) for exactly these, or None."""
    wanted = made_of(target, drafters)
    try:
        curve = CostCurve.of(Store(directory).load(KIND, wanted))
    except ValueError:
        return None
    return curve if curve.made_of == wanted and _serves(curve, drafters) else None


def save_curve(curve: CostCurve, directory: Path | None = None) -> Path:
    """Put it on disk; its file. Raises OSError if the directory cannot be written."""
    return Store(directory).save(KIND, curve.made_of, curve.as_json())


def _serves(curve: CostCurve, drafters: dict[str, Drafter]) -> bool:
    """Does a curve have the points that schedules of these drafters ask for?"""
    costs = curve.costs[0]
    return (
        costs.draft.keys() == drafters.keys()
        and costs.verify.keys() >= {1, longest(drafters) + 1}
        and all(costs.draft[id_].keys() >= set(points_of(d)) for id_, d in drafters.items())
        and all(len(costs.whole.get(id_, {})) == len(WHOLE) for id_, d in drafters.items() if d.info.waits)
    )
