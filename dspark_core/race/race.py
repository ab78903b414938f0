"""A lane: one decode with its own clock, run in slices.

A race: several lanes over one loaded target, sharing one device by a fair clock.

A lane's clock runs only while that lane runs. The next slice goes to the lane whose clock is furthest
behind, so two panes never differ by more than a slice and a round of own time, and a lane's tok/s is what
it would be alone.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import islice

import mlx.core as mx

from ..decode.adaptive import HardwareAware
from ..decode.measure import measure
from ..decode.plain import plain
from ..decode.rounds import Prefill, Round, Settings, Start
from ..decode.schedule import ConfidenceThreshold, CumulativeThreshold, FixedCap, FullBlock, Schedule
from ..decode.speculative import Options, speculative
from ..errors import DecodeError, ModelError, reason
from ..models.drafter import Drafter
from .loaded import Models
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
    WarmUp,
)
from .verdict import judge

SLICE_S = 0.2  # own time of one slice; it always holds at least one event

Event = Prefill | Start | Round | Failed


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
    on its own time, for what it put on the device, so that the next lane finds the device idle.
    """

    def __init__(
        self,
        decode: Callable[[Clock], Generator[Event, None, None]],
        synchronize: Callable[[], None],
        clock: Clock | None = None,
    ):
        self.clock = clock or Clock()
        self.done = False
        self._events = decode(self.clock)
        self._synchronize = synchronize

    def slice(self, seconds: float = SLICE_S) -> Generator[Event, None, None]:
        """Events of about `seconds` of own time, at least one. A failure is an event, not an exception."""
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


WARM_UP_PROMPT = 16  # tokens
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
        curve = models.usable_curve()
        info, fit = drafter.info, models.fit(spec.drafter_id)
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
    profile: bool = False,
    strict: float = 0.0,
    rehearse: bool = False,
) -> Generator[Event, None, None]:
    """The decode that a lane's settings name; `strict` as in `speculative`; `rehearse` makes its schedule a
    `Rehearsal`. Raises DecodeError if its drafter cannot run."""
    if not spec.speculative:
        yield from plain(models.target, prompt, settings, clock=clock, profile=profile)
        return
    drafter = models.drafters.get(spec.drafter_id, f"no {spec.title} drafter is configured for this target.")
    if isinstance(drafter, str):
        raise DecodeError(f"{spec.title} is not running: {drafter}")
    schedule = schedule_of(spec, models, drafter)
    if rehearse:
        schedule = Rehearsal(schedule)
    yield from speculative(
        models.target, drafter, prompt, settings, schedule, Options(profile=profile, strict=strict), clock=clock
    )


def race(
    models: Models, request: RaceRequest, cancelled: Callable[[], bool] = lambda: False
) -> Generator[tuple[int, Event | WarmUp | DeviceNoise | Verdict | RaceRecord], None, None]:
    """Run a race on the thread that owns MLX.

    Yields (-1, the record, empty as yet), (-1, DeviceNoise) if that had to be measured, then (lane, event) pairs as
    they happen, then (-1, Verdict). The record is filled along the way. `cancelled` is asked after every event. Raises
    ModelError if the chat template does not take the conversation, or the model's context does not hold it. What a
    drafter raises, before the clocks run or after, ends its own lane alone.
    """
    target = models.target
    models.kept = None
    prompt = target.encode_chat(request.messages)
    if request.earlier and len(prompt) >= target.context_length:
        raise ModelError(
            f"The conversation with this prompt has {len(prompt):,} tokens; the context of {target.name} holds "
            f"{target.context_length:,}: start over."
        )
    record = RaceRecord(
        target.name, target.precision, request, len(prompt), [LaneRecord(spec) for spec in request.lanes]
    )
    record.source = models.source()
    if noise := models.known_noise():
        record.noise = noise.largest
    yield -1, record
    strictly = request.strict and request.settings.greedy
    if strictly and record.noise is None and not cancelled():
        yield 0, WarmUp()
        record.noise = models.measured_noise().largest
        yield -1, DeviceNoise(record.noise)
    strict = (record.noise or 0.0) if strictly else 0.0
    for i, spec in enumerate(request.lanes):
        if spec.schedule == HARDWARE and models.loaded and not cancelled() and models.known_curve() is None:
            yield i, WarmUp()
            models = _measure_curve(models, prompt, cancelled)
        if not cancelled() and _warmth(spec, request, strict) not in models.warm:
            yield i, WarmUp()
            _warm_up(models, spec, prompt, request, strict, cancelled)

    def lane(spec: LaneSpec) -> Lane:
        return Lane(
            lambda clock: decode(models, spec, prompt, request.settings, clock, request.profile, strict),
            mx.synchronize,
        )

    events = interleave([lane(spec) for spec in request.lanes], request.together)
    try:
        for i, event in events:
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


def _measure_curve(models: Models, prompt: list[int], cancelled: Callable[[], bool]) -> Models:
    """The cost curve, in seconds and off the clock; it is kept on disk for the next time. Returns the models that it is
    of: these, or, where it fails, these without the drafters that fail, the reason in the place of each."""
    events = models.measure_curve(quick=True)
    with guarded("the measurement of the cost curve"):
        for _ in events:
            if cancelled():
                break
        events.close()
        return models
    sound = replace(models, drafters=models.drafters | _failing(models, prompt), curve=None)
    worth_it = sound.loaded and sound.loaded.keys() < models.loaded.keys()
    return _measure_curve(sound, prompt, cancelled) if worth_it else sound


SHORT_MEASURING = 16  # events, in which everything that a drafter does has been done once


def _failing(models: Models, prompt: list[int]) -> dict[str, str]:
    """Why each drafter that can neither draft nor be measured by itself cannot, by id."""
    reasons = {}
    settings = Settings(max_tokens=WARM_UP_TOKENS, stop_ids=frozenset())
    for id_, drafter in models.loaded.items():
        try:
            deque(speculative(models.target, drafter, prompt[:WARM_UP_PROMPT], settings, FullBlock()), 0)
            deque(islice(measure(models.target, {id_: drafter}, quick=True), SHORT_MEASURING), 0)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            reasons[id_] = f"it failed: {reason(error)}"
    return reasons


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


def _warmth(spec: LaneSpec, request: RaceRequest, strict: float) -> tuple[object, ...]:
    """What decides which operations a lane runs."""
    s = request.settings
    return spec, s.greedy, s.top_k > 0, s.top_p < 1, request.profile, spec.speculative and strict > 0


def _warm_up(
    models: Models,
    spec: LaneSpec,
    prompt: list[int],
    request: RaceRequest,
    strict: float,
    cancelled: Callable[[], bool],
) -> None:
    """A few rounds off the clock. A failure here, of whatever kind, is the lane's to report when it runs."""
    warmth = _warmth(spec, request, strict)
    adaptive = spec.schedule in (HARDWARE, CONFIDENCE, CUMULATIVE)
    wanted = Rehearsal.ROUNDS if adaptive and spec.speculative else 2
    settings = replace(request.settings, max_tokens=WARM_UP_TOKENS, stop_ids=frozenset())
    again = math.inf if strict else 0.0  # every choice is a close call, so that close calls are warm too
    with guarded(f"the warm-up of {spec.name}"), suppress(DecodeError):
        events = decode(models, spec, prompt[:WARM_UP_PROMPT], settings, Clock(), request.profile, again, adaptive)
        rounds = 0
        for event in events:
            rounds += not isinstance(event, Prefill | Start)
            if rounds == wanted or cancelled():
                break
        else:
            rounds = wanted
        if rounds == wanted:
            models.warm.add(warmth)
        events.close()
    with guarded("the end of a warm-up"):
        mx.synchronize()
