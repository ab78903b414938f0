"""A lane: one decode with its own clock, run in slices.

A race: several lanes over one loaded target, sharing one device by a fair clock.

A lane's clock runs only while that lane runs. The next slice goes to the lane whose clock is furthest
behind, so two panes never differ by more than a slice and a round of own time, and a lane's tok/s is what
it would be alone.
"""

import logging
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx

from ..decode.adaptive import HardwareAware
from ..decode.plain import plain
from ..decode.prefill import PREFILL_CHUNK, Prefilled, prefill_shared
from ..decode.previewing import PreviewAware
from ..decode.rounds import Prefill, Round, Settings, Start
from ..decode.schedule import ConfidenceThreshold, CumulativeThreshold, FixedCap, FullBlock, Schedule
from ..decode.speculative import Options, speculative
from ..errors import DecodeError, ModelError, reason
from ..models.drafter import Drafter
from .loaded import Models, Warmth
from .records import (
    BLOCK,
    CAP,
    CONFIDENCE,
    CUMULATIVE,
    HARDWARE,
    DeviceNoise,
    Failed,
    LaneRecord,
    LaneSpec,
    RaceRecord,
    RaceRequest,
    Verdict,
    Waiting,
    WarmUp,
)
from .verdict import judge

SLICE_S = 0.2  # own time of one slice; it always holds at least one event

Event = Prefill | Start | Round | Failed | WarmUp


class Clock:
    """Seconds that pass only between `resume` and `pause`."""

    def __init__(self, source: Callable[[], float] = time.perf_counter):
        self._source = source
        self._own = 0.0
        self._since: float | None = None

    def __call__(self) -> float:
        return self._own if self._since is None else self._own + self._source() - self._since

    def resume(self) -> None:
        self._since = self._source()

    def pause(self) -> None:
        self._own, self._since = self(), None


class Lane:
    """Runs `decode(clock)`, a generator of Prefill, Start and Round, a slice at a time.

    `synchronize` waits for the device. Decoding is pipelined inside a slice; at its end the lane waits,
    on its own time, for what it put on the device, so that the next lane finds the device idle. `warm_up` comes before
    the first slice, on nobody's clock.
    """

    def __init__(
        self,
        decode: Callable[[Clock], Generator[Event, None, None]],
        synchronize: Callable[[], None],
        clock: Clock | None = None,
        warm_up: Callable[[], Iterator[WarmUp]] = lambda: iter(()),
    ):
        self.clock = clock or Clock()
        self.done = False
        self._events = decode(self.clock)
        self._synchronize = synchronize
        self._warm_up: Iterator[WarmUp] | None = warm_up()

    def slice(self, seconds: float = SLICE_S) -> Generator[Event, None, None]:
        """Events of about `seconds` of own time, at least one. A failure is an event, not an exception."""
        if self._warm_up is not None:
            yield from self._warm_up
            self._warm_up = None
        until = self.clock() + seconds
        self.clock.resume()
        try:
            for event in self._events:
                yield event
                if self.clock() >= until:
                    break
            else:
                self.done = True
            self._synchronize()
        except DecodeError as error:
            yield self._fail(str(error))
        except (GeneratorExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # the other lanes must be able to finish
            logging.exception("a lane failed")
            yield self._fail(f"This lane failed: {reason(error)}")
        finally:
            self.clock.pause()

    def close(self) -> None:
        """End the decode where it stands."""
        self.done = True
        with guarded("a lane's end"):
            self._events.close()

    def _fail(self, message: str) -> Failed:
        self.done = True
        with guarded("clearing up"):  # what the lane held may be what the others lack
            mx.clear_cache()
        return Failed(message)


@contextmanager
def guarded(what: str) -> Iterator[None]:
    """Around what may fail without a word to the visitor: it is logged, and a lane reports its own when it runs."""
    try:
        yield
    except (GeneratorExit, KeyboardInterrupt):
        raise
    except BaseException:
        logging.exception("%s failed", what)


WARM_UP_PROMPT = 16  # tokens, where the prompt itself is too long to be warmed up on
WARM_UP_TOKENS = 24  # enough for two rounds of a fully accepted block of 8, or one of 16, and the steps between


def interleave(
    lanes: Sequence[Lane], together: bool, slice_s: float = SLICE_S
) -> Generator[tuple[int, Event], None, None]:
    """(lane index, event) until every lane is done: by the fair clock, or one lane after another.

    Closing the generator closes the lanes where they stand.
    """
    running = dict(enumerate(lanes))
    try:
        while running:
            i = min(running, key=lambda i: running[i].clock()) if together else min(running)
            for event in running[i].slice(slice_s):
                yield i, event
            if running[i].done:
                del running[i]
    finally:
        for lane in running.values():
            lane.close()


def schedule_of(spec: LaneSpec, models: Models, drafter: Drafter) -> Schedule:
    """The schedule that a lane's settings name."""
    if spec.schedule == HARDWARE:
        curve = models.usable_curve(spec.drafter_id)
        info, fit = drafter.info, models.fit(spec.drafter_id)
        if info.has_preview:
            return PreviewAware(curve, spec.drafter_id, fit)
        known = info.calibration.acceptance
        return HardwareAware(curve, spec.drafter_id, known, info.has_confidence, info.has_look, fit)
    if spec.schedule == CONFIDENCE:
        return ConfidenceThreshold(spec.threshold)
    if spec.schedule == CUMULATIVE:
        return CumulativeThreshold(spec.threshold)
    if spec.schedule == BLOCK:
        return FixedCap(drafter.info.drafts(min(spec.cap, drafter.info.block)))
    return FixedCap(spec.cap) if spec.schedule == CAP else FullBlock()


def decode(
    models: Models,
    spec: LaneSpec,
    prompt: list[int],
    settings: Settings,
    clock: Clock,
    options: Options,
    rehearse: bool = False,
) -> Generator[Event, None, None]:
    """The decode that a lane's settings name, with the parts of `options` that its method has; `rehearse` makes its
    schedule a `Rehearsal`. Raises DecodeError if its drafter cannot run."""
    if not spec.speculative:
        yield from plain(
            models.target, prompt, settings, clock=clock, profile=options.profile, prefilled=options.prefilled
        )
        return
    drafter = models.drafters.get(spec.drafter_id, f"no {spec.title} drafter is configured for this target.")
    if isinstance(drafter, str):
        raise DecodeError(f"{spec.title} is not running: {drafter}")
    schedule = schedule_of(spec, models, drafter)
    if rehearse:
        schedule = Rehearsal(schedule)
    yield from speculative(models.target, drafter, prompt, settings, schedule, options, clock=clock)


def race(
    models: Models, request: RaceRequest, cancelled: Callable[[], bool] = lambda: False
) -> Generator[tuple[int, Event | Waiting | DeviceNoise | Verdict | RaceRecord], None, None]:
    """Run a race on the thread that owns MLX.

    Yields (-1, the record, empty as yet), (-1, DeviceNoise) if that had to be measured, (-1, Waiting) while the prompt
    is read, once for all lanes, then (lane, event) pairs as they happen, then (-1, Verdict). The record is filled along
    the way. `cancelled` is asked after every event. Raises ModelError if the chat template does not take the
    conversation, or the model's context does not hold it. What a drafter raises, before the clocks run or after, ends
    its own lane alone.
    """
    target = models.target
    models.kept = None
    for words in models.read(spec.drafter_id for spec in request.lanes):
        yield -1, Waiting(words)
    prompt = target.encode_chat(request.messages, **request.switches)
    if len(prompt) >= target.context_length:
        what, help_ = ("conversation with this prompt", ": start over") if request.earlier else ("prompt", "")
        raise ModelError(
            f"The {what} has {len(prompt):,} tokens; the context of {target.name} holds "
            f"{target.context_length:,}{help_}."
        )
    record = RaceRecord(
        target.name, target.precision, request, len(prompt), [LaneRecord(spec) for spec in request.lanes]
    )
    record.thought = target.begun_thought(request.thinking)
    record.source = models.source()
    if noise := models.known_noise():
        record.noise = noise.largest
    record.costs = models.pass_costs(request, len(prompt))
    yield -1, record
    strictly = request.strict and request.settings.greedy
    if strictly and record.noise is None and not cancelled():
        yield 0, WarmUp()
        record.noise = models.measured_noise().largest
        yield -1, DeviceNoise(record.noise)
    run = RaceRun(models, request, prompt, (record.noise or 0.0) if strictly else 0.0, cancelled)
    events = run.events()
    try:
        for i, event in events:
            if i >= 0:
                record.lanes[i].add(event)
            yield i, event
            if cancelled():
                record.stopped = True
                break
    finally:
        events.close()
    if not record.stopped:
        models.learn_confidences(record)
        models.learn(record)
        record.verdict = judge(target, prompt, record, models.verdict_noise)
        yield -1, record.verdict


@dataclass
class RaceRun:
    """A race from its request on: the prompt is read once for all lanes, and each is warm before its clock runs.

    strict:    as in `Options`
    prefilled: the prompt's prefill, until every lane has taken its copy; where there is none, each lane does its own
    """

    models: Models
    request: RaceRequest
    prompt: list[int]
    strict: float
    cancelled: Callable[[], bool]
    prefilled: Prefilled | None = None

    def events(self) -> Generator[tuple[int, Any], None, None]:
        """Of all lanes, by the fair clock; -1 is no lane's."""
        specs, models = self.request.lanes, self.models
        lanes = [self._lane(spec) for spec in specs]
        try:
            for i, spec in enumerate(specs):  # what cannot run says so at once
                if spec.speculative and spec.drafter_id not in models.loaded:
                    yield from ((i, event) for event in lanes[i].slice())
            running = [i for i, lane in enumerate(lanes) if not lane.done]
            if running and not self.cancelled():
                yield from self._read(running)
            starting = {*running}
            for place, event in interleave([lanes[i] for i in running], self.request.together):
                yield running[place], event
                if starting and isinstance(event, Start | Failed):
                    starting.discard(running[place])
                    if self.prefilled and not starting:
                        self.prefilled.drop()
        finally:
            for lane in lanes:
                lane.close()

    def _read(self, lanes: list[int]) -> Generator[tuple[int, Any], None, None]:
        """The prompt through the target. What goes wrong here each lane meets, and says, by itself."""
        models, n = self.models, len(self.prompt)
        takes = f", about {max(1, round(models.read_s * n))} s" if models.read_s else ""
        yield -1, Waiting(f"Reading the prompt, {n:,} tokens, once for all lanes{takes} …")
        events = prefill_shared(models.target, self.prompt, self._taps())
        with guarded("the prefill"), suppress(DecodeError):
            while not self.cancelled():
                try:
                    event = next(events)
                except StopIteration as end:
                    self.prefilled = end.value
                    break
                yield from ((i, event) for i in lanes)
        events.close()
        if self.prefilled is None:
            return
        models.read_s = self.prefilled.seconds / n
        words = f"Racing: the prompt's {n:,} tokens were read once for all lanes, in {self.prefilled.seconds:.1f} s."
        if any(spec.schedule == HARDWARE for spec in self.request.lanes) and (doubt := models.doubt_of_costs()):
            words += f" {doubt}"
        yield -1, Waiting(words)

    def _taps(self) -> tuple[int, ...]:
        """Layers whose states some lane's drafter begins with."""
        drafters = [d for spec in self.request.lanes if (d := self.models.loaded.get(spec.drafter_id))]
        return tuple(sorted({t for d in drafters for t in d.taps}))

    def _options(self, prefilled: Prefilled | None, strict: float) -> Options:
        return Options(profile=self.request.profile, prefilled=prefilled, strict=strict)

    def _lane(self, spec: LaneSpec) -> Lane:
        def run(clock: Clock) -> Generator[Event, None, None]:
            options = self._options(self.prefilled, self.strict)
            yield from decode(self.models, spec, self.prompt, self.request.settings, clock, options)

        return Lane(run, mx.synchronize, warm_up=lambda: self._warm_up(spec))

    def _warm_up(self, spec: LaneSpec) -> Iterator[WarmUp]:
        """A few rounds off the clock, where they have not been run before."""
        if self.cancelled() or self.models.is_warm(Warmth.of(spec, self.request, self.strict)):
            return
        if spec.speculative and spec.drafter_id not in self.models.loaded:
            return
        yield WarmUp()
        prompt, prefilled = self.prompt, self.prefilled
        if len(prompt) > PREFILL_CHUNK:  # a copy of its cache would be large
            prompt, prefilled = prompt[:WARM_UP_PROMPT], None
        for _ in rehearse(self.models, self.request, spec, prompt, self._options(prefilled, self.strict)):
            if self.cancelled():
                break


def rehearse(
    models: Models, request: RaceRequest, spec: LaneSpec, prompt: list[int], options: Options
) -> Iterator[None]:
    """A few rounds of a lane, after which it is warm: whatever it does has been done once. Yields after every event. A
    failure here, of whatever kind, is the lane's to report when it runs."""
    warmth = Warmth.of(spec, request, options.strict)
    adaptive = spec.schedule in (HARDWARE, CONFIDENCE, CUMULATIVE)
    wanted = Rehearsal.ROUNDS if adaptive and spec.speculative else 2
    short = replace(request.settings, max_tokens=WARM_UP_TOKENS, stop_ids=frozenset())
    if options.strict:
        options = replace(options, strict=math.inf)  # every choice is a close call, so that close calls are warm too
    with guarded(f"the warm-up of {spec.name}"), suppress(DecodeError):
        events, rounds = decode(models, spec, prompt, short, Clock(), options, adaptive), 0
        try:
            for event in events:
                rounds += not isinstance(event, Prefill | Start)
                if rounds == wanted:
                    break
                yield
        finally:
            events.close()
        models.warm.add(warmth)
    with guarded("the end of a warm-up"):
        mx.synchronize()


class Rehearsal(Schedule):
    """Off the clock, in place of a schedule that decides as it goes: everything that it may do, in few rounds.

    A whole block with its confidences, one that ends with the look, parked steps, and a whole block again, for which
    the context has several positions to catch up with.
    """

    ROUNDS = 5

    def __init__(self, own: Schedule):
        self.needs_confidence = own.needs_confidence
        self.looks = isinstance(own, HardwareAware) and own.confident and own.can_look  # it decides round by round
        self._round = 0

    def drafts(self, max_drafts: int, position: int) -> int:
        return 0 if self._round in (2, 3) else max_drafts

    def look(self, first: float, drafts: int) -> int:
        return 0 if self._round == 1 else drafts

    def parked(self) -> bool:
        return self._round == 2

    def observe(self, r: Round) -> None:
        self._round += 1
