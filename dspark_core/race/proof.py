"""Does speculation draw from the target's own distribution? The first two tokens of rounds, drawn many times.

The answer's first token is held fixed (the target's most likely one). It is the anchor of a round that drafts two
tokens; where the first of them is rejected, the second token comes out of a further round. What the models say
depends only on the tokens before, so it is computed once for every prefix. The draws, the acceptances and the
residual are the decode loop's own functions, over many draws at once. They take random numbers in the loop's order,
so that some draws are repeated by the loop itself.

First tokens too rare to be followed are counted together.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ..decode.accept import accept_sampled
from ..decode.request import check, prefill
from ..decode.rounds import DecodeError, Prefill, Settings, Start
from ..decode.sampling import Sampled, Uniforms, draw
from ..decode.schedule import FixedCap
from ..decode.speculative import speculative
from ..models.cache import trim
from ..models.drafter import Drafter
from ..models.target import Target
from .evidence import ALWAYS, FROM_P, NO_BIAS, RIGHT, DrawEvidence, DrawRequest, Pair, Step
from .goodness import MIN_EXPECTED, compare

DRAFTS = 2  # drafted in a round: as many as tokens are looked at
ROUND = 2 * DRAFTS + 1  # random numbers of a round: drafts, acceptances, correction
NUMBERS = 2 * ROUND
MOST_PREFIXES = 400
SHOWN = 24
AT_ONCE = 1 << 22  # probabilities in one batch of draws
FOLLOW_SHARE, DRAW_SHARE = 0.35, 0.75  # of the time: prefixes until here, draws until there, then repeats
REPEATS = 5


# ---- samplers: the right one, and wrong ones to compare it with -------------------------------------------


def accept_always(drafts, q, p, u_accept, u_next, end):
    """Wrong: keep every draft, whatever the target thinks of it. What comes out is the drafter's text."""
    accepted, _, q_x, p_x = accept_sampled(drafts, q, p, u_accept, u_next, end)
    accepted = mx.maximum(accepted, end)
    return accepted, draw(p[accepted[None]], u_next), q_x, p_x


def resample_from_p(drafts, q, p, u_accept, u_next, end):
    """Wrong: after a rejection draw from p itself. Tokens that the drafter likes get a second chance."""
    accepted, _, q_x, p_x = accept_sampled(drafts, q, p, u_accept, u_next, end)
    return accepted, draw(p[accepted[None]], u_next), q_x, p_x


ACCEPT = {RIGHT: accept_sampled, ALWAYS: accept_always, FROM_P: resample_from_p, NO_BIAS: accept_sampled}


# ---- what the models say ----------------------------------------------------------------------------------


@dataclass
class Given:
    """A pick that takes given tokens [n] instead of drawing them, and keeps each slot's distribution."""

    distribution: Callable[[mx.array], mx.array]
    tokens: list[int]

    def __call__(self, logits: mx.array, first: int = 0) -> tuple[mx.array, mx.array]:
        n = logits.shape[0]
        return mx.array(self.tokens[first : first + n], dtype=mx.int32), self.distribution(logits)


@dataclass
class Said:
    """Distributions [1, V] (float32, truncated as the settings say) after the prompt and the anchor.

    p:       the target's, for the first token
    q:       what the first draft is drawn from;   believed_q: the q that the acceptance is given for it
    after:   for every followed first token: `After`
    numbers: of the anchor's own place in the distribution of the prompt, for the loop to draw it
    """

    prompt: list[int]
    anchor: int
    anchor_number: float
    p: mx.array
    q: mx.array
    believed_q: mx.array
    after: dict[int, "After"]


@dataclass
class After:
    """Distributions [1, V] for the second token: the target's, the draft's in the same round (as drawn, as
    believed) and the draft's in a further round."""

    p: mx.array
    q: mx.array
    believed_q: mx.array
    next_q: mx.array
    believed_next_q: mx.array


def ask(
    target: Target, drafter: Drafter, prompt: list[int], request: DrawRequest, enough: Callable[[], bool]
) -> Iterator[Step]:
    """Ask the models for every distribution that the draws need; returns Said, the likeliest first tokens followed
    first, until `enough()` or until the others expect fewer than MIN_EXPECTED draws."""
    settings, biased = request.settings, request.sampler != NO_BIAS
    shape = Sampled(settings, Uniforms(0)).distribution
    checked = check(target, prompt, settings)
    cache, context = target.new_cache(), drafter.begin()

    def extend(features):
        context.extend(features)
        return context.state

    for event in (work := _Returning(prefill(checked, cache, drafter.taps, extend))):
        yield Step(0.1 * event.done / event.total, f"reading the prompt, {event.done} of {event.total} tokens")
    start = shape(work.value)
    anchor = mx.argmax(start, axis=-1).astype(mx.int32)
    below = start[0, : anchor.item()].sum().item()
    number = (below + start[0, anchor.item()].item() / 2) / start.sum().item()

    block = context.propose(anchor, DRAFTS, Given(shape, [0] * DRAFTS))
    hidden, features = target.forward(anchor, cache, drafter.taps)
    p = shape(target.head(hidden))
    context.extend(features)

    def believed(q, base):
        return q if biased else shape(base)

    said = Said(prompt, anchor.item(), number, p, block.q[:1], believed(block.q[:1], block.base[:1]), {})
    mx.eval(p, said.q, said.believed_q, block.base, block.hidden)
    likely = np.array(p[0])
    worth = [int(a) for a in np.argsort(-likely)[:MOST_PREFIXES] if request.n * likely[a] >= MIN_EXPECTED]
    for i, a in enumerate(worth):
        if enough():
            break
        first = mx.array([a], dtype=mx.int32)
        _, q, _, _ = drafter.chain(anchor, block.base, block.hidden, Given(shape, [a, 0]))
        hidden, _ = target.forward(first, cache)
        after_p = shape(target.head(hidden))
        further = context.propose(first, 1, Given(shape, [0]))
        after = After(after_p, q[1:], believed(q[1:], block.base[1:2]), further.q, believed(further.q, further.base))
        mx.eval(list(vars(after).values()))
        trim(cache, 1)
        said.after[a] = after
        yield Step(0.1 + 0.25 * (i + 1) / len(worth), f"asking the models after first token {i + 1} of {len(worth)}")
    return said


class _Returning:
    """Iterates a generator and keeps what it returns."""

    def __init__(self, generator):
        self._generator = generator
        self.value = None

    def __iter__(self):
        self.value = yield from self._generator


# ---- the draws --------------------------------------------------------------------------------------------


def draw_pairs(said: Said, accept: Callable, numbers: mx.array) -> tuple[np.ndarray, np.ndarray]:
    """Two tokens [N, 2] from random numbers [N, NUMBERS] in the loop's order, and whether the first draft was
    accepted [N]. -1 stands for a second token after a first one that is not followed."""
    pairs = np.full((len(numbers), 2), -1)
    accepted = np.zeros(len(numbers), dtype=bool)
    x = np.array(mx.vmap(draw, in_axes=(None, 0))(said.q, numbers[:, :1]))[:, 0]
    again = []  # draws whose first draft was rejected: their second token comes out of a further round

    followed = np.isin(x, list(said.after))
    for at in _groups(x, followed):
        after = said.after[x[at[0]]]
        u = numbers[mx.array(at)]
        second = mx.vmap(draw, in_axes=(None, 0))(after.q, u[:, 1:2])
        drafts = mx.concatenate([mx.full(second.shape, x[at[0]], dtype=mx.int32), second], axis=-1)
        q = mx.concatenate([said.believed_q, after.believed_q])
        p = mx.concatenate([said.p, after.p, after.p])  # the last row decides a third token, which nobody looks at
        kept, token = _accept(accept, drafts, q, p, u[:, DRAFTS : 2 * DRAFTS], u[:, ROUND - 1 : ROUND])
        accepted[at] = kept > 0
        pairs[at, 0] = np.where(kept > 0, x[at], token)
        pairs[at, 1] = np.where(kept == 2, np.array(second)[:, 0], np.where(kept == 1, token, -1))
        again.append(at[kept == 0])

    if len(at := np.flatnonzero(~followed)):  # only the first token counts here, so one draft is sent
        u = numbers[mx.array(at)]
        p = mx.concatenate([said.p, said.p])
        drafts = mx.array(x[at])[:, None]
        kept, token = _accept(accept, drafts, said.believed_q, p, u[:, DRAFTS : DRAFTS + 1], u[:, ROUND - 1 : ROUND])
        accepted[at] = kept > 0
        pairs[at, 0] = np.where(kept > 0, x[at], token)
        again.append(at[kept == 0])

    again = np.concatenate(again) if again else np.zeros(0, dtype=int)
    first = pairs[:, 0]
    for at in _groups(first, np.isin(np.arange(len(first)), again) & np.isin(first, list(said.after))):
        after = said.after[first[at[0]]]
        u = numbers[mx.array(at)][:, ROUND:]
        drafts = mx.vmap(draw, in_axes=(None, 0))(after.next_q, u[:, :1])
        p = mx.concatenate([after.p, after.p])
        q = after.believed_next_q
        kept, token = _accept(accept, drafts, q, p, u[:, DRAFTS : DRAFTS + 1], u[:, ROUND - 1 : ROUND])
        pairs[at, 1] = np.where(kept > 0, np.array(drafts)[:, 0], token)
    return pairs, accepted


def _groups(values: np.ndarray, among: np.ndarray) -> Iterator[np.ndarray]:
    """Indices of equal values, value by value, where `among` is true."""
    at = np.flatnonzero(among)
    at = at[np.argsort(values[at], kind="stable")]
    if len(at):
        yield from np.split(at, np.flatnonzero(np.diff(values[at])) + 1)


def _accept(accept, drafts, q, p, u_accept, u_next) -> tuple[np.ndarray, np.ndarray]:
    """Accepted counts [N] and next tokens [N] of N rounds with the same q [n, V] and p [n + 1, V]."""
    together = mx.vmap(accept, in_axes=(0, None, None, 0, 0, None))
    step = max(1, AT_ONCE // p.shape[-1])
    end = mx.array(drafts.shape[1])
    kept, tokens = [], []
    for i in range(0, len(drafts), step):
        part = slice(i, i + step)
        a, t, _, _ = together(drafts[part], q, p, u_accept[part], u_next[part], end)
        mx.eval(a, t)
        kept.append(np.array(a))
        tokens.append(np.array(t)[:, 0])
    return np.concatenate(kept), np.concatenate(tokens)


def table(said: Said) -> tuple[np.ndarray, list[int], float]:
    """The exact joint probabilities [K, V] of the followed first tokens and any second one, the first tokens [K],
    and the probability of every other first token."""
    first = list(said.after)
    p = np.array(said.p[0], dtype=np.float64)
    p /= p.sum()
    rows = np.array([np.array(said.after[a].p[0], dtype=np.float64) for a in first]).reshape(len(first), len(p))
    rows = rows / rows.sum(axis=1, keepdims=True) * p[first][:, None]
    other = np.ones(len(p), dtype=bool)
    other[first] = False
    return rows, first, float(p[other].sum())


def counted(pairs: np.ndarray, first: list[int], vocabulary: int) -> tuple[np.ndarray, int]:
    """Counts [K, V] of pairs that begin with one of `first`, and how many do not."""
    row = {a: i for i, a in enumerate(first)}
    counts = np.zeros((len(first), vocabulary), dtype=np.int64)
    rows = np.array([row.get(a, -1) for a in pairs[:, 0]], dtype=int)
    inside = rows >= 0
    np.add.at(counts, (rows[inside], pairs[inside, 1]), 1)
    return counts, int((~inside).sum())


# ---- the proof --------------------------------------------------------------------------------------------


def prove(
    target: Target,
    drafter: Drafter,
    prompt: list[int],
    request: DrawRequest,
    cancelled: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[tuple[int, Step | DrawEvidence]]:
    """Yields (-1, Step) while it works and (-1, DrawEvidence) at its end, unless it was cancelled.

    Raises DecodeError for a prompt that cannot be decoded, and at temperature 0, where nothing is drawn.
    """
    if request.settings.greedy:
        raise DecodeError("At temperature 0 nothing is drawn: choose a higher one.")
    began = clock()

    def beyond(share):
        return cancelled() or clock() - began > share * request.seconds

    for step in (asking := _Returning(ask(target, drafter, prompt, request, lambda: beyond(FOLLOW_SHARE)))):
        yield -1, step
        if cancelled():
            return
    said = asking.value
    exact, first, rare = table(said)
    counts, others = np.zeros(exact.shape, dtype=np.int64), 0
    uniforms, accept = Uniforms(request.settings.seed), ACCEPT[request.sampler]
    batch = max(64, request.n // 10)
    done = kept = 0
    some: list[tuple[np.ndarray, np.ndarray]] = []
    while done < request.n and not (done and beyond(DRAW_SHARE)):
        n = min(batch, request.n - done)
        numbers = uniforms.take(n * NUMBERS).reshape(n, NUMBERS)
        pairs, accepted = draw_pairs(said, accept, numbers)
        here, out = counted(pairs, first, exact.shape[1])
        counts += here
        others += out
        kept += int(accepted.sum())
        done += n
        whole = np.flatnonzero(pairs[:, 1] >= 0)[:REPEATS]
        some += [(np.array(numbers[int(i)]), pairs[i]) for i in whole[: REPEATS - len(some)]]
        yield -1, Step(0.35 + 0.5 * done / request.n, f"{done:,} of {request.n:,} draws")
        if cancelled():
            return
    repeated = same = 0
    for numbers, pair in some if request.sampler == RIGHT else []:
        if repeated and beyond(1 - (1 - DRAW_SHARE) / 2):
            break
        same += _by_the_loop(target, drafter, said, request.settings, numbers) == pair.tolist()
        repeated += 1
        yield -1, Step(0.85 + 0.15 * repeated / len(some), f"repeating draws in the decode loop: {repeated}")
        if cancelled():
            return
    yield (
        -1,
        DrawEvidence(
            request=request,
            anchor=said.anchor,
            prefixes=len(first),
            followed=float(exact.sum()),
            pairs=_likeliest(exact, counts, first),
            comparison=compare(exact, counts, (rare, others)),
            kept=kept / done,
            repeated=repeated,
            same=same,
            seconds=clock() - began,
        ),
    )


def _likeliest(exact: np.ndarray, counts: np.ndarray, first: list[int]) -> tuple[Pair, ...]:
    """The pairs that are most likely, or were drawn most often, by probability."""
    share = np.maximum(exact, counts / max(1, counts.sum()))
    top = np.argsort(-share, axis=None)[:SHOWN]
    rows, columns = np.unravel_index(top, exact.shape)
    pairs = [Pair(first[r], int(c), float(exact[r, c]), int(counts[r, c])) for r, c in zip(rows, columns, strict=True)]
    return tuple(sorted(pairs, key=lambda pair: -pair.probability))


class _Numbers:
    """Given uniform numbers, in order."""

    def __init__(self, numbers):
        self._numbers = np.asarray(numbers, dtype=np.float32)

    def take(self, n: int) -> mx.array:
        taken, self._numbers = self._numbers[:n], self._numbers[n:]
        return mx.array(taken)


def _by_the_loop(target, drafter, said: Said, settings: Settings, numbers: np.ndarray) -> list[int]:
    """The two tokens that the decode loop draws from the same numbers."""
    settings = Settings(1 + DRAFTS, settings.temperature, settings.top_k, settings.top_p, stop_ids=frozenset())
    given = _Numbers([said.anchor_number, *numbers])
    tokens = []
    for event in speculative(target, drafter, said.prompt, settings, FixedCap(DRAFTS), uniforms=given):
        if isinstance(event, Start):
            tokens.append(event.token_id)
        elif not isinstance(event, Prefill):
            tokens.extend(event.committed)
    return tokens[1:]
