"""The distributions that the draws of a proof need, asked of the models once for every prefix.

What a model gives depends only on the tokens before, so thousands of draws need a few hundred forwards. Each of the
target's distributions is there twice: as the sampler makes it, and as computed apart (exact.py).
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import mlx.core as mx
import numpy as np

from ..decode.prefill import Prefilled
from ..decode.sampling import Sampled, Uniforms
from ..models.cache import trim
from ..models.drafter import Drafter, Proposal
from ..models.target import Target
from .chi_squared import MIN_EXPECTED
from .evidence import NO_BIAS, DrawRequest, Step
from .exact import exact_distribution

DRAFTS = 2  # drafted in a round at most
MOST_PREFIXES = 400
BONUS_SHARE = 0.004  # of the draws, and at least MIN_FOLLOWED: rarer pairs are not asked for what follows them
MIN_FOLLOWED = 2


@dataclass
class Given:
    """A pick that takes given tokens [n] instead of drawing them, and gives each slot's distribution."""

    distribution: Callable[[mx.array], mx.array]
    tokens: list[int]

    def __call__(self, logits: mx.array, first: int = 0) -> tuple[mx.array, mx.array]:
        n = logits.shape[0]
        return mx.array(self.tokens[first : first + n], dtype=mx.int32), self.distribution(logits)


@dataclass(frozen=True)
class Targeted:
    """One of the target's distributions: `sampled` [1, V] as the sampler makes it, float32, truncated as the settings
    say, and `exact` [V] as computed apart, float64."""

    sampled: mx.array
    exact: np.ndarray


@dataclass(frozen=True)
class Drafted:
    """One of the drafter's distributions [1, V]: what a draft is drawn from, and the q that the acceptance is given
    for it (another one only with a wrong sampler)."""

    q: mx.array
    believed: mx.array

    def honest(self) -> "Drafted":
        return Drafted(self.q, self.q)


@dataclass
class Continuation:
    """After a followed first token: the target's distribution of the second one, the drafter's of the second draft in
    the same round and of the first draft in a further one, which sends `further_drafts` of two. `third`: the target's
    distribution after second tokens that are followed. No distribution where nothing is drafted."""

    second: Targeted
    draft: Drafted | None
    further: Drafted | None
    third: dict[int, Targeted] = field(default_factory=dict)
    further_drafts: int = DRAFTS


@dataclass
class Conditionals:
    """Everything after the prompt and the anchor.

    anchor_number: a uniform number that draws the anchor from `start`, for the loop to begin with it
    start:  of the answer's first token, the anchor's place
    first:  of the first token after the anchor, and `draft` what its draft is drawn from
    after:  by followed first token
    drafts: how many the drafter gives of two that it is asked for after the anchor
    """

    anchor: int
    anchor_number: float
    start: Targeted
    first: Targeted
    draft: Drafted | None
    after: dict[int, Continuation]
    drafts: int = DRAFTS

    def honest(self) -> "Conditionals":
        """The same for an acceptance that is given each draft's own q."""

        def own(draft: Drafted | None) -> Drafted | None:
            return draft and draft.honest()

        after = {a: replace(c, draft=own(c.draft), further=own(c.further)) for a, c in self.after.items()}
        return replace(self, draft=own(self.draft), after=after)


def ask_models(
    target: Target,
    drafter: Drafter,
    prefilled: Prefilled,
    request: DrawRequest,
    enough: Callable[[], bool],
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Step | Conditionals]:
    """Yields Step while it works and the Conditionals at its end: the likeliest first tokens are followed first, until
    `enough()` or until the others expect fewer than MIN_EXPECTED draws."""
    asking = _Asking(target, drafter, prefilled, request)
    found = asking.first()
    likely = np.array(found.first.sampled[0])
    worth = [int(a) for a in np.argsort(-likely)[:MOST_PREFIXES] if request.n * likely[a] >= MIN_EXPECTED]
    began = clock()
    for i, a in enumerate(worth):
        if enough():
            break
        found.after[a] = asking.after(found, a, enough)
        words, left = f"asking the models after first token {i + 1} of {len(worth)}", len(worth) - i - 1
        yield Step(0.1 + 0.25 * (i + 1) / len(worth), words, left * (clock() - began) / (i + 1))
    yield found


class _Asking:
    """The target's cache and two contexts of the drafter: one before the anchor, from which a round with the anchor
    drafts, and one behind it, for a further round."""

    def __init__(self, target: Target, drafter: Drafter, prefilled: Prefilled, request: DrawRequest):
        self._target, self._drafter, self._request = target, drafter, request
        self._shape = Sampled(request.settings, Uniforms(0)).distribution
        self._without_bias = request.sampler == NO_BIAS and drafter.info.has_bias
        self._drafts = min(DRAFTS, drafter.info.max_drafts)
        self._cache = target.new_cache()
        prefilled.into(self._cache)
        self._before, self._behind = drafter.begin(), drafter.begin()
        prompt, features = mx.array(prefilled.prompt, dtype=mx.int32), prefilled.features(drafter.taps)
        for context in (self._before, self._behind):
            context.extend(prompt, features)
            mx.eval(context.state)
        self._start = self._targeted(prefilled.logits)

    def first(self) -> Conditionals:
        start = self._start.sampled
        anchor = mx.argmax(start, axis=-1).astype(mx.int32)
        at = anchor.item()
        number = (start[0, :at].sum().item() + start[0, at].item() / 2) / start.sum().item()
        self._anchor = anchor
        # The block after the anchor does not depend on the drafts: computed once, where the drafter can part with it.
        self._look = self._before.look(anchor) if self._drafter.info.has_look else None
        self._block, other = self._propose(0), self._propose(at or 1)
        # Where two first drafts leave the second one's logits as they are, no first draft changes them. Distributions
        # do not tell: truncated, they may be equal by chance.
        one, two = self._block.logits, other.logits
        self._independent = one is not None and two is not None and mx.array_equal(one[1:], two[1:]).item()
        hidden, features = self._target.forward(anchor, self._cache, self._drafter.taps)
        first = self._targeted(self._target.head(hidden))
        self._behind.extend(anchor, features)
        mx.eval(self._behind.state)
        return Conditionals(at, number, self._start, first, self._drafted(self._block, 0), {}, self._block.ids.shape[0])

    def after(self, found: Conditionals, a: int, enough: Callable[[], bool]) -> Continuation:
        """What follows the first token `a`."""
        token = mx.array([a], dtype=mx.int32)
        hidden, _ = self._target.forward(token, self._cache)
        further = self._behind.propose(token, self._drafts, Given(self._shape, [0] * DRAFTS))
        after = Continuation(
            self._targeted(self._target.head(hidden)),
            self._drafted(self._block if self._independent else self._propose(a), 1),
            self._drafted(further, 0),
            further_drafts=further.ids.shape[0],
        )
        if found.draft and after.draft:
            # The chance that both drafts are drafted and accepted: a bonus follows no other pair.
            once = min(found.first.sampled[0, a].item(), found.draft.q[0, a].item())
            twice = once * np.minimum(np.array(after.second.sampled[0]), np.array(after.draft.q[0]))
            for b in np.flatnonzero(twice >= max(BONUS_SHARE, MIN_FOLLOWED / self._request.n)).tolist():
                if enough():
                    break
                hidden, _ = self._target.forward(mx.array([b], dtype=mx.int32), self._cache)
                after.third[b] = self._targeted(self._target.head(hidden))
                trim(self._cache, 1)
        trim(self._cache, 1)
        return after

    def _propose(self, first: int) -> Proposal:
        """The round after the anchor, with `first` in the place of its first draft."""
        return self._before.propose(self._anchor, self._drafts, Given(self._shape, [first, 0]), look=self._look)

    def _targeted(self, logits: mx.array) -> Targeted:
        p = self._shape(logits)
        exact = exact_distribution(np.array(logits[0].astype(mx.float32)), self._request.settings, np.array(p[0]))
        return Targeted(p, exact)

    def _drafted(self, block: Proposal, k: int) -> Drafted | None:
        """Of draft k (from 0) of a block; None if it has fewer."""
        if k >= block.ids.shape[0]:
            return None
        q = believed = block.distribution(self._target.vocab_size)[k : k + 1]
        if self._without_bias and block.base is not None:
            believed = self._shape(block.base[k : k + 1])
        found = Drafted(q, believed)
        mx.eval(found.q, found.believed)
        return found
