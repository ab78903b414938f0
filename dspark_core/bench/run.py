"""One decode of one prompt by one lane, and lanes raced together and alone. Runs on the thread that owns MLX."""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import mlx.core as mx
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import KVCache, make_prompt_cache

from ..decode.plain import plain
from ..decode.prefill import Prefilled, check, prefill_once
from ..decode.rounds import Round, Settings, Start, tau
from ..decode.schedule import FullBlock, Schedule
from ..decode.speculative import Options, speculative
from ..errors import DecodeError
from ..models.checkpoint import load_drafter
from ..models.drafter import Drafter
from ..models.sharded import load_spread
from ..models.target import Target
from ..race.loaded import Models
from ..race.metrics import metrics
from ..race.race import race, schedule_of
from ..race.records import LaneSpec, RaceRecord, RaceRequest
from .peers import Peers
from .plan import MlxLmLane, PeerLane, PlannedLane, SpecLane

WARM_UP = Settings(4)


class Timed(Schedule):
    """Another schedule, with the seconds spent in it."""

    def __init__(self, inner: Schedule):
        self.seconds = 0.0
        self._wrap(inner)

    def _wrap(self, inner: Schedule) -> None:
        self._inner, self.needs_confidence = inner, inner.needs_confidence
        self.looks, self.previews = inner.looks, inner.previews

    def begin(self, max_drafts: int) -> Schedule:
        self._wrap(self._timed(self._inner.begin, max_drafts))
        return self

    def preview(self, ids: Sequence[int], confidence: Sequence[float], position: int) -> None:
        self._timed(self._inner.preview, ids, confidence, position)

    def drafts(self, max_drafts: int, position: int) -> int:
        return self._timed(self._inner.drafts, max_drafts, position)

    def look(self, first: float, drafts: int) -> int:
        return self._timed(self._inner.look, first, drafts)

    def parked(self) -> bool:
        return self._timed(self._inner.parked)

    def proposed(self, drafted: int, confidence: Sequence[float] | None) -> int:
        return self._timed(self._inner.proposed, drafted, confidence)

    def observe(self, r: Round) -> None:
        self._timed(self._inner.observe, r)

    def _timed(self, ask: Callable[..., Any], *question: object) -> Any:
        began = time.perf_counter()
        try:
            return ask(*question)
        finally:
            self.seconds += time.perf_counter() - began


def prepare(models: Models, ids: list[int]) -> Prefilled:
    """The prompt's prefill, with the taps of every drafter."""
    taps = sorted({t for d in models.loaded.values() for t in d.taps})
    return prefill_once(models.target, ids, tuple(taps))


def warm_up(models: Models, peers: Peers, lane: PlannedLane, ids: list[int]) -> None:
    """Compile kernels and fill caches outside the figures."""
    if isinstance(lane, SpecLane) and lane.spec.speculative:
        for _ in speculative(models.target, loaded_drafter(models, lane.spec), ids, WARM_UP, FullBlock()):
            pass
    else:
        decode_lane(models, peers, lane, ids, WARM_UP)


def decode_lane(
    models: Models,
    peers: Peers,
    lane: PlannedLane,
    ids: list[int],
    settings: Settings,
    prefilled: Prefilled | None = None,
) -> dict:
    """The measured fields of a `Row`. Raises DecodeError, and ValueError for a peer that does not answer."""
    mx.synchronize()
    if isinstance(lane, PeerLane):
        return _decode_by_peer(peers, lane, ids, settings)
    if isinstance(lane, MlxLmLane):
        return decode_mlx_lm(models.target, ids, settings, prefilled)
    if not lane.spec.speculative:
        return row_fields(plain(models.target, ids, settings, prefilled=prefilled))
    drafter = loaded_drafter(models, lane.spec)
    schedule = Timed(schedule_of(lane.spec, models, drafter))
    options = Options(prefilled=prefilled)
    return row_fields(speculative(models.target, drafter, ids, settings, schedule, options), schedule)


def loaded_drafter(models: Models, spec: LaneSpec) -> Drafter:
    """The drafter that a lane runs. Raises DecodeError."""
    drafter = models.loaded.get(spec.drafter_id)
    if drafter is None:
        raise DecodeError(f"There is no drafter {spec.drafter_id}.")
    return drafter


def load_models(a: argparse.Namespace, lanes: Sequence[PlannedLane]) -> Models:
    """The target of the arguments, and the drafters that the lanes need. Raises ModelError."""
    target = load_spread(a.target, a.precision)
    wanted = {lane.spec.drafter_id for lane in lanes if isinstance(lane, SpecLane)}
    needed = [d for id_, d in a.drafters.items() if id_ in wanted]
    of = partial(load_drafter, target=target, precision=a.draft_precision, newest=max(0, a.draft_newest))
    models = Models(target, {d.id: of(d.place, method=d.method) for d in needed})
    for _ in models.settle_streams():
        pass
    return models


def row_fields(events: Iterator, schedule: Timed | None = None) -> dict:
    """The measured fields of a `Row`, of the events of one of this project's decodes."""
    out, rounds = [], []
    for event in events:
        if isinstance(event, Start):
            out.append(event.token_id)
        elif isinstance(event, Round):
            out.extend(event.committed)
            rounds.append(event)
    seconds = rounds[-1].time_s if rounds else 0.0
    return {
        "tok_s": (len(out) - 1) / seconds if seconds else 0.0,
        "seconds": seconds,
        "ids": tuple(out),
        "rounds": tuple(rounds),
        "tokens_per_round": tau(rounds) or 1.0,
        "scheduler_s": schedule.seconds if schedule else 0.0,
    }


def decode_mlx_lm(target: Target, ids: list[int], settings: Settings, prefilled: Prefilled | None = None) -> dict:
    """tok_s, seconds and ids of mlx-lm's own plain decoding, timed from its first token to its last. It ends where this
    project's loops would: at a stop token, at the limit, at the end of the model's context. Raises DecodeError."""
    if not settings.greedy:
        raise DecodeError("The lane mlx-lm decodes greedily only.")
    request = check(target, ids, settings)
    cache = make_prompt_cache(target.model)
    if prefilled is not None and all(type(c) is KVCache for c in cache):
        prefilled.into(cache)
        for c in cache:
            c.trim(1)  # its loop begins with the prompt's last token
        mx.eval([c.state for c in cache])
        ids = ids[-1:]
    out, began, seconds = [], 0.0, 0.0
    steps = generate_step(mx.array(ids), target.model, max_tokens=request.limit, prompt_cache=cache)
    for token, _ in steps:
        now = time.perf_counter()
        began = began or now
        seconds = now - began
        out.append(int(token))
        if out[-1] in request.stop_ids:
            break
    steps.close()
    mx.synchronize()
    return {"tok_s": (len(out) - 1) / seconds if seconds else 0.0, "seconds": seconds, "ids": tuple(out)}


def _decode_by_peer(peers: Peers, lane: PeerLane, ids: list[int], settings: Settings) -> dict:
    """Another process decodes, and this one waits."""
    if not settings.greedy:
        raise DecodeError(f"The lane {lane.name} decodes greedily only.")
    answer = peers[lane.peer].measure(lane.asks, ids, settings.max_tokens)
    decoded = len(answer["ids"]) - 1
    return {
        "tok_s": answer["tok_s"] if decoded else 0.0,
        "seconds": decoded / answer["tok_s"] if decoded else 0.0,
        "ids": tuple(answer["ids"]),
        "tokens_per_round": answer["tokens_per_round"],
    }


def raced_and_alone(models: Models, request: RaceRequest, alone_first: bool = False) -> list[tuple[float, float]]:
    """(tok/s raced, tok/s alone) of every lane. Raises RuntimeError if a lane fails."""

    def speeds_of(asked: RaceRequest) -> list[float]:
        events = race(models, asked)
        record = next(event for _, event in events if isinstance(event, RaceRecord))
        for _ in events:
            pass
        for lane in record.lanes:
            if lane.error:
                raise RuntimeError(lane.error)
        speeds = [metrics(lane).tok_s for lane in record.lanes]
        if None in speeds:
            raise ValueError("A lane decoded a single token, which has no speed: use more --tokens.")
        return [s for s in speeds if s is not None]

    solos = [replace(request, lanes=(spec,)) for spec in request.lanes]
    runs = [*solos, request] if alone_first else [request, *solos]
    speeds = [speed for run in runs for speed in speeds_of(run)]
    n = len(solos)
    alone, raced = (speeds[:n], speeds[n:]) if alone_first else (speeds[n:], speeds[:n])
    return list(zip(raced, alone, strict=True))


def compare_raced_and_alone(models: Models, requests: list[RaceRequest]) -> Iterator[dict]:
    """One row a lane and prompt, then one a lane with the median ratio raced / alone over the prompts."""
    ratios: dict[str, list[float]] = {}
    for k, request in enumerate(requests):
        pairs = raced_and_alone(models, request, alone_first=k % 2 == 1)
        for spec, (raced, alone) in zip(request.lanes, pairs, strict=True):
            ratios.setdefault(spec.name, []).append(raced / alone)
            yield {"lane": spec.name, "prompt": k, "raced_tok_s": round(raced, 3), "alone_tok_s": round(alone, 3)}
    for name, values in ratios.items():
        yield {"lane": name, "prompts": len(values), "raced_over_alone": round(statistics.median(values), 4)}
