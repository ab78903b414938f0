"""What every loop does before its first round and at the end of each: limits, prefill, cutting at a stop."""

import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import mlx.core as mx

from ..errors import DecodeError
from ..models.cache import copy_cache
from ..models.target import Cache, Target
from .prefixes import Prefix
from .rounds import Prefill, Settings
from .sampling import Greedy, Sampled, Uniforms

PREFILL_CHUNK = 256

Extend = Callable[[mx.array, mx.array | None], list[mx.array]]


@dataclass(frozen=True)
class Request:
    """A prompt with its limits, checked. `limit` counts output tokens, the prefill token included."""

    target: Target
    prompt: tuple[int, ...]
    stop_ids: frozenset[int]
    limit: int
    limit_reason: str  # "length", or "context" if the model's context ends first

    def cut(self, tokens: list[int], produced: int) -> tuple[list[int], str | None]:
        """The part of newly committed `tokens` that belongs to the output, after `produced` earlier ones, and
        why the decode ends here (None if it does not)."""
        stop = next((i for i, t in enumerate(tokens) if t in self.stop_ids), None)
        room = self.limit - produced
        if stop is not None and stop < room:
            return tokens[: stop + 1], "stop"
        return (tokens[:room], self.limit_reason) if len(tokens) >= room else (tokens, None)


def check(target: Target, prompt: list[int], settings: Settings) -> Request:
    """Raises DecodeError if the prompt is empty, has foreign ids, or leaves no room in the context."""
    if not prompt:
        raise DecodeError("The prompt is empty.")
    if not all(0 <= t < target.vocab_size for t in prompt):
        raise DecodeError(f"The prompt has token ids outside the vocabulary of {target.vocab_size}.")
    room = target.context_length - len(prompt)
    if room < 1:
        raise DecodeError(
            f"The prompt has {len(prompt):,} tokens; the context of {target.name} holds {target.context_length:,}."
        )
    stop_ids = target.stop_ids if settings.stop_ids is None else settings.stop_ids
    limit = min(settings.max_tokens, room)
    return Request(target, tuple(prompt), stop_ids, limit, "length" if limit == settings.max_tokens else "context")


def picker(settings: Settings, uniforms: Uniforms | None) -> Greedy | Sampled:
    """How tokens come from logits under these settings."""
    return Greedy() if settings.greedy else Sampled(settings, uniforms or Uniforms(settings.seed))


@dataclass(frozen=True)
class Prefilled:
    """A prompt that went through the target once, for several decodes of it; see `prefill_once`.

    tapped:  hidden states [n, d] of the prompt by layer
    logits:  [1, V] of its last position
    seconds: that it took
    """

    prompt: tuple[int, ...]
    cache: Cache
    tapped: dict[int, mx.array]
    logits: mx.array
    seconds: float = 0.0

    def into(self, cache: Cache) -> None:
        """Give an empty `cache` copies of this one's entries: objects of their own, whose arrays share memory until one
        of the decodes writes to it."""
        cache[:] = copy_cache(self.cache)

    def drop(self) -> None:
        """Give its memory back once nothing begins with it any more: who decodes may still hold it."""
        self.cache.clear()
        self.tapped.clear()

    def features(self, taps: tuple[int, ...], rows: slice = slice(None)) -> mx.array | None:
        """[n, m*d] of these positions; None without taps. Raises DecodeError for a layer that was not kept."""
        if not taps:
            return None
        if missing := [t for t in taps if t not in self.tapped]:
            raise DecodeError(f"The prefill did not keep the states of layers {missing}.")
        return mx.concatenate([self.tapped[t][rows] for t in taps], axis=-1)


def prefill_once(target: Target, prompt: list[int], taps: tuple[int, ...] = ()) -> Prefilled:
    """Run a prompt through the target and keep what any decode with drafters of these taps begins with. Raises
    DecodeError."""
    events = prefill_shared(target, prompt, taps)
    while True:
        try:
            next(events)
        except StopIteration as end:
            done: Prefilled = end.value
            return done


def prefill_shared(
    target: Target, prompt: list[int], taps: tuple[int, ...] = ()
) -> Generator[Prefill, None, Prefilled]:
    """The same, chunk by chunk."""
    began = time.perf_counter()
    request, cache = check(target, prompt, Settings()), target.new_cache()
    chunks: list[mx.array] = []

    def extend(ids: mx.array, features: mx.array | None) -> list[mx.array]:
        if features is not None:
            chunks.append(features)
        return chunks[-1:]

    logits = yield from prefill(request, cache, taps, extend)
    layers = mx.split(mx.concatenate(chunks), len(taps), axis=-1) if taps else []
    mx.eval(layers, logits)
    tapped = dict(zip(taps, layers, strict=True))
    return Prefilled(request.prompt, cache, tapped, logits, time.perf_counter() - began)


def prefill(
    request: Request,
    cache: Cache,
    taps: tuple[int, ...] = (),
    extend: Extend = lambda ids, features: [],
    prefilled: Prefilled | Prefix | None = None,
) -> Generator[Prefill, None, mx.array]:
    """Run the prompt through the target in chunks; `extend(ids [n], taps [n, m*d])` takes the positions of each, with
    None for the tapped states where `taps` is empty, and returns arrays to evaluate with it. Yields Prefill; returns
    the logits [1, V] of the last position. With a Prefilled everything is taken from there; with a Prefix, whose
    context `extend` goes on from, what it holds of the prompt, and its entries become those of `cache`."""
    ids, total = mx.array(request.prompt, dtype=mx.int32), len(request.prompt)
    if isinstance(prefilled, Prefilled):
        if prefilled.prompt != request.prompt:
            raise DecodeError("The prefill is that of another prompt.")
        prefilled.into(cache)
        for start in range(0, total, PREFILL_CHUNK):  # as its own prefill would: what is drafted stays the same
            rows = slice(start, start + PREFILL_CHUNK)
            mx.eval(extend(ids[rows], prefilled.features(taps, rows)))
        yield Prefill(total, total)
        return prefilled.logits
    done, borders = 0, [total]
    if prefilled is not None:
        if request.prompt[: len(prefilled.ids)] != tuple(prefilled.ids):
            raise DecodeError("The prefill is that of another prompt.")
        cache[:] = prefilled.cache
        prefilled.cache = cache
        done, borders = len(prefilled.ids), [*prefilled.borders(total)]
    yield Prefill(done, total)

    def forward(chunk: mx.array, cache: Cache) -> tuple[mx.array, list[mx.array]]:
        hidden, features = request.target.forward(chunk, cache, taps)
        return hidden, extend(chunk, features)

    for border in borders:
        if prefilled is not None and done > len(prefilled.ids):
            prefilled.note(done)
        for start, hidden in walk_prefix(forward, ids[done:border], cache):
            yield Prefill(done + start + hidden.shape[0], total)
        done = border
    logits = request.target.head(hidden[-1:])
    peak = logits.max(axis=-1)
    mx.eval(logits, peak)
    require_finite(peak.tolist(), total - 1)
    return logits


def walk_prefix(
    forward: Callable[[mx.array, Cache], tuple[mx.array, list[mx.array]]], ids: mx.array, cache: Cache
) -> Iterator[tuple[int, mx.array]]:
    """Run ids [n] through `forward` in chunks, so that no pass and no attention matrix grows with a long prefix.

    `forward(ids [m], cache)` gives hidden states [m, d] and what else is to be evaluated with them. Yields the index
    of each chunk's first id and its hidden states, once `cache` holds the chunk.
    """
    for start in range(0, ids.size, PREFILL_CHUNK):
        hidden, more = forward(ids[start : start + PREFILL_CHUNK], cache)
        mx.eval(hidden[-1:], [c.state for c in cache], more)
        yield start, hidden


def require_finite(peaks: list[float], position: int) -> None:
    """`peaks` are the largest logits of rows from absolute `position` on: NaN and infinity show there. Plain numbers,
    so that the check puts nothing on the device. Raises DecodeError naming the first bad position."""
    for i, peak in enumerate(peaks):
        if not math.isfinite(peak):
            raise DecodeError(f"The target's logits are not finite at position {position + i}: decoding stops here.")
