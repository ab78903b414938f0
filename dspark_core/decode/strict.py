"""Strict mode: greedy output that is plain decoding's, token for token, also where logits depend on the width.

A verification computes several rows at once, and on some devices its logits then differ by a little from those that
plain decoding would compute. Where the two best logits are further apart than that can bridge, the choice is
plain's. Where they are not, plain's own numbers decide: a cache that was only ever written one row at a time, after
the same prefill, is brought up to the position, one row at a time.

That costs a plain step for every token since the cache was last clean, so a strict lane can be slower than plain.

How far logits move with the number of rows that are computed together: the width noise of a target on a device.

Kernels for one row and for several may add in another order. A logit then depends on the width of the forward that it
comes from, and on the widths at which the keys and values before it were written. MLX's CPU backend has no such noise;
GPUs do.

It is measured twice. Strict mode must know what the loop's own forward does, whatever the reason. A verdict must not: a
forward that is wrong moves logits with the width too, and would be its own excuse. So rounding is what mlx-lm's own
forward does, with its own masks and caches, and no more than rounding can do.
"""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from ..models.cache import WindowCache, trim
from ..models.target import Cache, Target
from ..store import Store, in_range
from .measure import made_of
from .rounds import Again


class Strict:
    """Keeps what plain decoding would have in its cache, and decides close calls there.

    `cache` is the loop's own. While it holds only what was written at width 1 it is clean itself, and its numbers are
    plain's. Before it is first written wide a copy is kept, which shares its memory until one of them changes; after a
    close call the copy, brought up to date, takes its place.
    """

    def __init__(self, target: Target, cache: Cache, noise: float, clock: Callable[[], float] = time.perf_counter):
        """`noise`: how far any logit moves with the width at most."""
        self._target, self._cache, self._clock = target, cache, clock
        # A width may lower the best logit by the noise and raise another by as much: with a gap above twice the noise,
        # the best one here is the best one there.
        self._bound = 2 * noise
        self._clean: Cache | None = None
        self._behind: list[int] = []  # tokens in the loop's cache that the clean copy lacks

    def before(self, width: int) -> None:
        """The loop's cache is about to be written at this width."""
        if width > 1 and self._clean is None:
            self._clean = copy.deepcopy(self._cache)

    def settle(self, anchor: int, chosen: list[int], gaps: list[float]) -> tuple[list[int], Again | None]:
        """The tokens of a round after close calls were decided again.

        `chosen` are the accepted drafts and the next token, `gaps` the distances of the two best logits where each
        (that counts) was chosen; the loop's cache holds the anchor and all of `chosen` but the last. Returns `chosen`,
        or as much of it as plain decoding agrees with and then its own token. If anything was decided again the loop's
        cache is clean and holds all but the last of what is returned.
        """
        if self._clean is None:
            return chosen, None
        fed = [anchor, *chosen[:-1]]
        first = next((k for k, gap in enumerate(gaps) if gap <= self._bound), None)
        if first is None:
            self._behind += fed
            return chosen, None
        began = self._clock()
        plain = self._plain_choices(self._clean, [*self._behind, *fed], len(chosen) - first)
        other = next((k for k, (a, b) in enumerate(zip(plain, chosen[first:], strict=True)) if a != b), None)
        decided = plain if other is None else plain[: other + 1]
        settled = chosen[:first] + decided
        # What the clean cache was fed behind the first other choice is a text that plain decoding would not have.
        trim(self._clean, len(chosen) - len(settled))
        again = Again(len(decided), other is not None, len(self._behind) + len(fed), self._clock() - began)
        self._cache[:] = self._clean
        self._clean, self._behind = None, []
        return settled, again

    def _plain_choices(self, clean: Cache, tokens: list[int], n: int) -> list[int]:
        """Run tokens through the clean cache one by one; what plain decoding chooses after each of the last n."""
        ids, choices = mx.array(tokens, dtype=mx.int32), []
        for k in range(len(tokens)):
            hidden, _ = self._target.forward(ids[k : k + 1], clean)
            if k >= len(tokens) - n:
                choices.append(mx.argmax(self._target.head(hidden), axis=-1))
                mx.async_eval(choices[-1])
            else:
                mx.async_eval([c.state for c in clean])
        found: list[int] = mx.concatenate(choices).tolist()
        return found


# Every width from 1 to 17 once, in three passes of 51 positions each. One row on entries that were written wide has
# noise too, so width 1 is among them.
PASSES = (17, 3, 16, 15), (14, 1, 13, 12, 11), (10, 9, 2, 8, 7, 6, 5, 4)
BEGINNING, LENGTH = 16, 51
MOST = 1e6  # of a logit's movement, to be believed
# Rounding errors of n layers add up like a random walk: about eps * logit * sqrt(n). Seen on an H100 (bfloat16, 30
# layers, logits up to 30): 0.93, where that is 1.3.
MOST_ROUNDING = 4
TF32_EPS = 2.0**-10  # GPUs may multiply float32 with 10 bits of mantissa


@dataclass(frozen=True, slots=True)
class Noise:
    """How far a logit moves with the width at most, in the logits' own units; exactly 0 if no width changes any.

    largest: in the loop's own forward
    alone:   the same for the first forward of each pass alone, whose cache was not yet written wide
    own:     in mlx-lm's own forward (the least of its caches'); None if that was not measured apart
    limit:   more than this is no rounding; MOST where no limit is known
    """

    largest: float
    alone: float
    own: float | None = field(default=None, compare=False)
    limit: float = field(default=MOST, compare=False)

    @property
    def rounding(self) -> float:
        """What of it may excuse a difference between two lanes; 0 where it is more than rounding can be."""
        own = self.largest if self.own is None else min(self.own, self.largest)
        return own if own <= self.limit else 0.0

    @property
    def fault(self) -> str:
        """One sentence if the loop's forward moves logits further than rounding can; else empty."""
        if self.largest <= self.limit:
            return ""
        return (
            f"With the width this target's logits move by up to {self.largest:.3g} here, and rounding can move them by "
            f"{self.limit:.2g} at most: the wide forward is at fault."
        )


def measure_noise(target: Target) -> Noise:
    """Over the target's own greedy text: first as plain decoding computes it, then at all widths, on the cache that
    those widths leave behind; once by the loop's forward, once by mlx-lm's."""
    beginning = mx.arange(BEGINNING, dtype=mx.int32) * 37 % target.vocab_size

    def loops(ids: mx.array, cache: Cache) -> mx.array:
        return target.head(target.forward(ids, cache)[0])

    def mlx_lms(ids: mx.array, cache: Cache) -> mx.array:
        return target.model(ids[None], cache=cache)[0]

    largest, alone, _ = _moves(loops, target.new_cache, beginning)
    caches = [lambda: make_prompt_cache(target.model)]
    if any(isinstance(c, WindowCache) for c in target.new_cache()):
        caches.append(target.new_cache)  # mlx-lm's ring adds in another order once it has wrapped, at any width
    moves = [_moves(mlx_lms, new_cache, beginning) for new_cache in caches]
    by_mlx_lm, peak = min(m[0] for m in moves), moves[0][2]
    eps = mx.finfo(target.dtype).eps
    if mx.default_device() != mx.Device(mx.cpu):
        eps = max(eps, TF32_EPS)
    return Noise(largest, alone, by_mlx_lm, MOST_ROUNDING * eps * peak * math.sqrt(target.num_layers))


def _moves(
    logits: Callable[[mx.array, Cache], mx.array], new_cache: Callable[[], Cache], beginning: mx.array
) -> tuple[float, float, float]:
    """The largest move of any logit, the largest in the first forward of a pass, and the largest logit."""
    cache = new_cache()
    text, rows = [mx.argmax(logits(beginning, cache)[-1:], axis=-1).astype(mx.int32)], []
    for _ in range(LENGTH):
        rows.append(logits(text[-1], cache))
        text.append(mx.argmax(rows[-1], axis=-1).astype(mx.int32))
        mx.async_eval(text[-1])
    ids = mx.concatenate(text)
    moves = []
    for widths in PASSES:
        cache, at = new_cache(), 0
        logits(beginning, cache)
        for width in widths:
            clean = mx.concatenate(rows[at : at + width]).astype(mx.float32)
            moved = mx.abs(logits(ids[at : at + width], cache).astype(mx.float32) - clean).max()
            moves.append((at == 0, moved.item()))
            at += width
    peak = mx.abs(mx.concatenate(rows)).max().item()
    return max(m for _, m in moves), max(m for first, m in moves if first), peak


# ---- on disk ---------------------------------------------------------------------------------------------


def load_noise(target: Target, directory: Path | None = None) -> Noise | None:
    """What was measured for exactly this target, precision, device and versions (see store.py); or None."""
    wanted = made_of(target, {})
    stored = Store(directory).load("noise", wanted)
    if not isinstance(stored, dict) or stored.keys() != {"made_of", "largest", "alone", "own", "limit"}:
        return None
    largest, alone, own, limit = (stored[k] for k in ("largest", "alone", "own", "limit"))
    numbers = [largest, alone, limit] if own is None else [largest, alone, limit, own]
    believable = all(in_range(x, 0, MOST) for x in numbers) and alone <= largest and stored["made_of"] == wanted
    if not believable:
        return None
    return Noise(float(largest), float(alone), None if own is None else float(own), float(limit))


def save_noise(target: Target, noise: Noise, directory: Path | None = None) -> Path:
    """Put it on disk; its file. Raises OSError if the directory cannot be written."""
    wanted = made_of(target, {})
    return Store(directory).save("noise", wanted, {"made_of": wanted} | asdict(noise))
