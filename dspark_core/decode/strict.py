"""Strict mode: greedy output that is plain decoding's, token for token, also where logits depend on the width.

A verification computes several rows at once, and on some devices its logits then differ by a little from those that
plain decoding would compute (noise.py). Where the two best logits are further apart than that can bridge, the choice is
plain's. Where they are not, plain's own numbers decide: a cache that was only ever written one row at a time, after
the same prefill, is brought up to the position, one row at a time.

That costs a plain step for every token since the cache was last clean, so a strict lane can be slower than plain.
"""

import copy
import time
from collections.abc import Callable

import mlx.core as mx

from ..models.cache import trim
from ..models.target import Cache, Target
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
        own = self._own_choices([*self._behind, *fed], len(chosen) - first)
        agreed = next((k for k, (a, b) in enumerate(zip(own, chosen[first:], strict=True)) if a != b), None)
        decided = own if agreed is None else own[: agreed + 1]
        settled = chosen[:first] + decided
        trim(self._clean, len(chosen) - len(settled))
        again = Again(len(decided), agreed is not None, len(self._behind) + len(fed), self._clock() - began)
        self._cache[:] = self._clean
        self._clean, self._behind = None, []
        return settled, again

    def _own_choices(self, tokens: list[int], n: int) -> list[int]:
        """Run tokens through the clean cache one by one; what plain decoding chooses after each of the last n."""
        ids, choices = mx.array(tokens, dtype=mx.int32), []
        for k in range(len(tokens)):
            hidden, _ = self._target.forward(ids[k : k + 1], self._clean)
            if k >= len(tokens) - n:
                choices.append(mx.argmax(self._target.head(hidden), axis=-1))
                mx.async_eval(choices[-1])
            else:
                mx.async_eval([c.state for c in self._clean])
        return mx.concatenate(choices).tolist()


def gaps(logits: mx.array) -> mx.array:
    """Best minus second best logit, float32 [n], of logits [n, V]; 0 where two are equally good."""
    z = logits.astype(mx.float32)
    best = mx.argmax(z, axis=-1, keepdims=True)
    others = mx.where(mx.arange(z.shape[-1]) == best, -mx.inf, z)
    return z.max(axis=-1) - others.max(axis=-1)
