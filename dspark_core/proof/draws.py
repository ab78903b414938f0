"""Does speculation draw from the target's own distribution? The first tokens of an answer, drawn many times.

The answer's first token is drawn, and compared, by itself; then it is held fixed (the target's most likely one) as the
anchor of a round. Half of the draws send one draft in that round, half send two: the two tokens after the anchor are
drafts, corrections or the bonus, and where two drafts were accepted the third token, a bonus, is looked at as well.
Where the first draft is rejected, the second token comes out of a further round.

What the models say depends only on the tokens before, so it is computed once for every prefix. The draws, the
acceptances and the residual are the decode loop's own functions, over many draws at once. They take random numbers in
the loop's order, so that draws of every kind are repeated by the loop itself. What they are compared with is computed
apart, from the logits of one row at a time (exact.py).

First tokens too rare to be followed are counted together; so are bonuses after pairs too rare to be followed left out.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from ..decode.prefill import Prefilled, check, prefill, prefill_once
from ..decode.rounds import DecodeError, Prefill, Settings, Start
from ..decode.sampling import Sampled, Uniforms, draw
from ..decode.schedule import FixedCap
from ..decode.speculative import speculative
from ..models.cache import trim
from ..models.drafter import Drafter
from ..models.target import Target
from ..race.loaded import exact_device
from .chi_squared import MIN_EXPECTED, compare, compare_count, compare_places
from .evidence import NO_BIAS, RIGHT, Check, DrawEvidence, DrawRequest, Pair, Step
from .exact import exact_distribution, places
from .samplers import ACCEPT

DRAFTS = 2  # drafted in a round at most
ROUND = 2 * DRAFTS + 1  # random numbers of a round: drafts, acceptances, correction
NUMBERS = 2 * ROUND
MOST_PREFIXES = 400
BONUS_SHARE = 0.004  # of the draws, and at least MIN_FOLLOWED: rarer pairs are not asked for what follows them
MIN_FOLLOWED = 2
START_EVERY = 4  # draws; the answer's first token is one of few, and needs no more
SHOWN = 24
AT_ONCE = 1 << 22  # probabilities in one batch of draws
FOLLOW_SHARE, DRAW_SHARE = 0.35, 0.7  # of the time: prefixes until here, draws until there, then repeats
REPEATS = 15
BONUS_WORDS = "bonus tokens after {} accepted draft{}, {}"


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

    start:   the target's for the anchor itself, and `exact_start` [V] as computed apart
    p:       the target's, for the first token, and `exact` [V] as computed apart
    q:       what the first draft is drawn from;   believed_q: the q that the acceptance is given for it
    after:   for every followed first token: `After`
    numbers: of the anchor's own place in the distribution of the prompt, for the loop to draw it
    """

    prompt: list[int]
    anchor: int
    anchor_number: float
    start: mx.array
    exact_start: np.ndarray
    p: mx.array
    exact: np.ndarray
    q: mx.array
    believed_q: mx.array
    after: dict[int, "After"]


@dataclass
class After:
    """Distributions [1, V] for the second token: the target's (and `exact` [V] as computed apart), the draft's in the
    same round (as drawn, as believed) and the draft's in a further round. `third`: for second tokens that are followed,
    the target's for the third one, [1, V] and [V]."""

    p: mx.array
    exact: np.ndarray
    q: mx.array
    believed_q: mx.array
    next_q: mx.array
    believed_next_q: mx.array
    third: dict[int, tuple[mx.array, np.ndarray]] = field(default_factory=dict)


def ask(
    target: Target, drafter: Drafter, prompt: list[int], request: DrawRequest, enough: Callable[[], bool]
) -> Iterator[Step]:
    """Ask the models for every distribution that the draws need; returns Said, the likeliest first tokens followed
    first, until `enough()` or until the others expect fewer than MIN_EXPECTED draws."""
    settings, biased = request.settings, request.sampler != NO_BIAS
    shape = Sampled(settings, Uniforms(0)).distribution

    def believed(q, base):
        return q if biased else shape(base)

    def both(logits):
        """What the sampler makes of logits [1, V], and what it should."""
        p = shape(logits)
        return p, exact_distribution(np.array(logits[0].astype(mx.float32)), settings, np.array(p[0]))

    checked = check(target, prompt, settings)
    cache, context = target.new_cache(), drafter.begin()

    def extend(ids, features):
        context.extend(ids, features)
        return context.state

    for event in (work := _Returning(prefill(checked, cache, drafter.taps, extend))):
        yield Step(0.1 * event.done / event.total, f"reading the prompt, {event.done} of {event.total} tokens")
    start, exact_start = both(work.value)
    anchor = mx.argmax(start, axis=-1).astype(mx.int32)
    below = start[0, : anchor.item()].sum().item()
    number = (below + start[0, anchor.item()].item() / 2) / start.sum().item()

    block = context.propose(anchor, DRAFTS, Given(shape, [0] * DRAFTS))
    hidden, features = target.forward(anchor, cache, drafter.taps)
    p, exact = both(target.head(hidden))
    context.extend(anchor, features)
    q = block.q[:1]
    said = Said(prompt, anchor.item(), number, start, exact_start, p, exact, q, believed(q, block.base[:1]), {})
    mx.eval(p, said.q, said.believed_q, block.base, block.hidden)
    likely = np.array(p[0])
    kept = np.minimum(likely, np.array(q[0]))  # probability that a token is drafted and accepted
    worth = [int(a) for a in np.argsort(-likely)[:MOST_PREFIXES] if request.n * likely[a] >= MIN_EXPECTED]
    for i, a in enumerate(worth):
        if enough():
            break
        first = mx.array([a], dtype=mx.int32)
        _, q, _, _ = drafter.chain(anchor, block.base, block.hidden, Given(shape, [a, 0]))
        hidden, _ = target.forward(first, cache)
        after_p, exact = both(target.head(hidden))
        further = context.propose(first, 1, Given(shape, [0]))
        after = After(
            after_p, exact, q[1:], believed(q[1:], block.base[1:2]), further.q, believed(further.q, further.base)
        )
        mx.eval(after.q, after.believed_q, after.next_q, after.believed_next_q)
        twice = kept[a] * np.minimum(np.array(after.p[0]), np.array(after.q[0]))
        for b in np.flatnonzero(twice >= max(BONUS_SHARE, MIN_FOLLOWED / request.n)).tolist():
            if enough():
                break
            hidden, _ = target.forward(mx.array([b], dtype=mx.int32), cache)
            after.third[b] = both(target.head(hidden))
            trim(cache, 1)
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


def draw_pairs(said: Said, accept: Callable, numbers: mx.array, drafts: int = DRAFTS) -> tuple[np.ndarray, np.ndarray]:
    """The tokens after the anchor [N, 3] from random numbers [N, NUMBERS] in the loop's order, where rounds send one or
    two drafts, and how many were accepted in the first round [N].

    -1 stands for a token that is not looked at: the second after a first one that is not followed, and any third one
    but the bonus after two accepted drafts that are followed.
    """
    tokens = np.full((len(numbers), 3), -1)
    accepted = np.zeros(len(numbers), dtype=int)
    x = np.array(mx.vmap(draw, in_axes=(None, 0))(said.q, numbers[:, :1]))[:, 0]
    first_round = _first_of_one if drafts == 1 else _first_of_two
    for at in _groups(x, np.isin(x, list(said.after))):
        first_round(said, accept, numbers, at, x[at[0]], tokens, accepted)

    if len(at := np.flatnonzero(~np.isin(x, list(said.after)))):  # only the first token counts, so one draft is sent
        u = numbers[mx.array(at)]
        u_accept, u_next = u[:, drafts : drafts + 1], u[:, 2 * drafts : 2 * drafts + 1]
        p = mx.concatenate([said.p, said.p])
        kept, token = _accept(accept, mx.array(x[at])[:, None], said.believed_q, p, u_accept, u_next)
        accepted[at] = kept
        tokens[at, 0] = np.where(kept > 0, x[at], token)

    first, size = tokens[:, 0], 2 * drafts + 1
    for at in _groups(first, (accepted == 0) & np.isin(first, list(said.after))):  # a further round
        after = said.after[first[at[0]]]
        u = numbers[mx.array(at)][:, size : 2 * size]
        draft = mx.vmap(draw, in_axes=(None, 0))(after.next_q, u[:, :1])
        p = mx.concatenate([after.p, after.p])
        q = after.believed_next_q
        kept, token = _accept(accept, draft, q, p, u[:, drafts : drafts + 1], u[:, size - 1 : size])
        tokens[at, 1] = np.where(kept > 0, np.array(draft)[:, 0], token)
    return tokens, accepted


def _first_of_one(said, accept, numbers, at, x, tokens, accepted) -> None:
    """The round after the anchor with the one draft x, for the draws `at`: fills tokens and accepted."""
    u = numbers[mx.array(at)]
    drafts = mx.full((len(at), 1), x, dtype=mx.int32)
    p = mx.concatenate([said.p, said.after[x].p])
    kept, token = _accept(accept, drafts, said.believed_q, p, u[:, 1:2], u[:, 2:3])
    accepted[at] = kept
    tokens[at, 0] = np.where(kept > 0, x, token)
    tokens[at, 1] = np.where(kept > 0, token, -1)


def _first_of_two(said, accept, numbers, at, x, tokens, accepted) -> None:
    """The round after the anchor with the drafts x and one more, for the draws `at`: fills tokens and accepted."""
    after = said.after[x]
    q = mx.concatenate([said.believed_q, after.believed_q])
    y = np.array(mx.vmap(draw, in_axes=(None, 0))(after.q, numbers[mx.array(at)][:, 1:2]))[:, 0]
    followed = np.isin(y, list(after.third))
    for some in [*_groups(y, followed), np.flatnonzero(~followed)]:
        if not len(some):
            continue
        here, u = at[some], numbers[mx.array(at[some])]
        # Where what follows is not known the last row decides a third token that nobody looks at.
        third = after.third[y[some[0]]][0] if followed[some[0]] else after.p
        drafts = mx.array(np.stack([np.full(len(some), x), y[some]], axis=1).astype(np.int32))
        p = mx.concatenate([said.p, after.p, third])
        kept, token = _accept(accept, drafts, q, p, u[:, DRAFTS : 2 * DRAFTS], u[:, ROUND - 1 : ROUND])
        accepted[here] = kept
        tokens[here, 0] = np.where(kept > 0, x, token)
        tokens[here, 1] = np.where(kept == 2, y[some], np.where(kept == 1, token, -1))
        tokens[here, 2] = np.where((kept == 2) & followed[some], token, -1)


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
    rows = np.array([said.after[a].exact for a in first]).reshape(len(first), len(said.exact))
    other = np.ones(len(said.exact), dtype=bool)
    other[first] = False
    return rows * said.exact[first][:, None], first, float(said.exact[other].sum())


def counted(pairs: np.ndarray, first: list[int], vocabulary: int) -> tuple[np.ndarray, int]:
    """Counts [K, V] of pairs that begin with one of `first`, and how many do not."""
    row = {a: i for i, a in enumerate(first)}
    counts = np.zeros((len(first), vocabulary), dtype=np.int64)
    rows = np.array([row.get(a, -1) for a in pairs[:, 0]], dtype=int)
    inside = rows >= 0
    np.add.at(counts, (rows[inside], pairs[inside, 1]), 1)
    return counts, int((~inside).sum())


class Acceptances:
    """How often the first draft, and after it the second, is accepted, against 1 - TV(p, q): the sum of min(p, q).

    The second one's chance does not depend on how the first was accepted, so slots that share a random number show.
    """

    def __init__(self):
        self._slots = [[0, 0, 0.0, 0.0] for _ in range(DRAFTS)]  # by slot: drafts, accepted, expected, variance
        self._chances: dict[int | None, float] = {}

    def add(self, said: Said, drafts: int, tokens: np.ndarray, accepted: np.ndarray) -> None:
        """Tokens [N, 3] and accepted counts [N] of `draw_pairs` with so many drafts a round."""
        self._count(0, len(accepted), int((accepted > 0).sum()), self._chance(None, said.exact, said.q))
        if drafts < DRAFTS:
            return
        at = np.flatnonzero((accepted > 0) & np.isin(tokens[:, 0], list(said.after)))
        for x in np.unique(tokens[at, 0]).tolist():
            some, after = at[tokens[at, 0] == x], said.after[x]
            self._count(1, len(some), int((accepted[some] > 1).sum()), self._chance(x, after.exact, after.q))

    def _chance(self, x: int | None, p: np.ndarray, q: mx.array) -> float:
        if x not in self._chances:
            q = np.array(q[0], dtype=np.float64)
            self._chances[x] = float(np.minimum(p, q / q.sum()).sum())
        return self._chances[x]

    def _count(self, slot: int, n: int, accepted: int, chance: float) -> None:
        chance = min(1.0, chance)
        more = (n, accepted, n * chance, n * chance * (1 - chance))
        self._slots[slot] = [a + b for a, b in zip(self._slots[slot], more, strict=True)]

    def checks(self) -> list[Check]:
        """One comparison for each slot with enough draws for a normal approximation."""
        return [
            Check(f"acceptances of draft {k + 1}", compare_count(n, accepted, expected, variance))
            for k, (n, accepted, expected, variance) in enumerate(self._slots)
            if variance >= MIN_EXPECTED
        ]


class Bonuses:
    """Where the bonus tokens of rounds of `drafts` fall in the target's distributions; see `exact.places`."""

    def __init__(self, drafts: int, seed: int):
        self._drafts, self._spread = drafts, np.random.default_rng([seed, drafts])
        self._by_id: list[np.ndarray] = []
        self._by_rank: list[np.ndarray] = []
        self._impossible = 0

    def add(self, said: Said, tokens: np.ndarray, accepted: np.ndarray) -> None:
        """Tokens [N, 3] and accepted counts [N] of `draw_pairs`."""
        at = np.flatnonzero((accepted == self._drafts) & (tokens[:, self._drafts] >= 0))
        before = [tuple(t) for t in tokens[at, : self._drafts].tolist()]
        _, group = np.unique(tokens[at, : self._drafts], axis=0, return_inverse=True)
        for some in _groups(group.ravel(), np.ones(len(at), dtype=bool)):
            a, *b = before[some[0]]
            exact = said.after[a].third[b[0]][1] if b else said.after[a].exact
            drawn = tokens[at[some], self._drafts]
            possible = exact[drawn] > 0
            self._impossible += int((~possible).sum())
            if np.count_nonzero(exact) == 1:  # one way only: nothing but the spread would be compared
                continue
            by_id, by_rank = places(exact, drawn[possible], self._spread.random(possible.sum()))
            self._by_id.append(by_id)
            self._by_rank.append(by_rank)

    @property
    def n(self) -> int:
        return sum(map(len, self._by_id)) + self._impossible

    def checks(self) -> list[Check]:
        """By the order of ids (draws that share a random number show there) and of likelihood (wrong rows, argmax)."""
        found = []
        for order, parts in (("by likelihood", self._by_rank), ("by id", self._by_id)):
            comparison = compare_places(np.concatenate([*parts, np.zeros(0)]), self._impossible)
            if comparison:
                words = BONUS_WORDS.format(self._drafts, "s" * (self._drafts > 1), order)
                found.append(Check(words, comparison))
        return found


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
    draws = Draws(said, request)
    while draws.done < request.n and not (draws.done and beyond(DRAW_SHARE)):
        draws.more()
        yield -1, Step(0.35 + 0.5 * draws.done / request.n, f"{draws.done:,} of {request.n:,} draws")
        if cancelled():
            return
    repeated = same = 0
    some = draws.some() if request.sampler == RIGHT else []
    loop = _Loop(target, drafter, said, request.settings) if some else None
    for drafts, numbers, tokens in some:
        if repeated and beyond(1 - (1 - DRAW_SHARE) / 2):
            break
        start, after = loop.start(numbers[NUMBERS]), loop.draws(drafts, numbers[:NUMBERS], len(tokens) - 1)
        same += [start, *after] == tokens
        repeated += 1
        yield -1, Step(0.85 + 0.15 * repeated / len(some), f"repeating draws in the decode loop: {repeated}")
        if cancelled():
            return
    checks = draws.checks()
    yield (
        -1,
        DrawEvidence(
            request=request,
            anchor=said.anchor,
            prefixes=len(draws.first),
            followed=float(draws.exact.sum()),
            pairs=_likeliest(draws.exact, draws.counts, draws.first),
            comparison=checks[0].comparison,
            checks=tuple(checks),
            kept=draws.kept / draws.done,
            bonuses=sum(b.n for b in draws.bonuses.values()),
            repeated=repeated,
            same=same,
            steady=exact_device(),
            seconds=clock() - began,
        ),
    )


class Draws:
    """The draws of a proof, counted as they come."""

    def __init__(self, said: Said, request: DrawRequest):
        self._said, self._request, self._accept = said, request, ACCEPT[request.sampler]
        self._uniforms = Uniforms(request.settings.seed)
        self.exact, self.first, self._rare = table(said)
        self.counts, self._others = np.zeros(self.exact.shape, dtype=np.int64), 0
        self._starts = np.zeros(len(said.exact_start), dtype=np.int64)
        self.bonuses = {drafts: Bonuses(drafts, request.settings.seed) for drafts in (1, DRAFTS)}
        self._acceptances = Acceptances()
        self.done = self.kept = 0
        self._kinds: dict[tuple[int, int], list[tuple[int, np.ndarray, list[int]]]] = {}

    def more(self) -> None:
        """A tenth of the draws, half of them with one draft a round."""
        n = min(max(64, self._request.n // 10), self._request.n - self.done)
        numbers = self._uniforms.take(n * (NUMBERS + 1)).reshape(n, NUMBERS + 1)
        some = numbers[::START_EVERY, NUMBERS:]
        starts = np.array(mx.vmap(draw, in_axes=(None, 0))(self._said.start, some))[:, 0]
        self._starts += np.bincount(starts, minlength=len(self._starts))
        for drafts, at in ((1, slice(0, n // 2)), (DRAFTS, slice(n // 2, n))):
            part = numbers[at]
            if not len(part):
                continue
            tokens, accepted = draw_pairs(self._said, self._accept, part[:, :NUMBERS], drafts)
            here, out = counted(tokens, self.first, self.exact.shape[1])
            self.counts += here
            self._others += out
            self.kept += int((accepted > 0).sum())
            self.bonuses[drafts].add(self._said, tokens, accepted)
            self._acceptances.add(self._said, drafts, tokens, accepted)
            self._choose(drafts, part, tokens, accepted)
        self.done += n

    def _choose(self, drafts: int, numbers: mx.array, tokens: np.ndarray, accepted: np.ndarray) -> None:
        """Some whole draws of every kind (drafts sent, accepted), for the loop to repeat."""
        for k in range(drafts + 1):
            kind = self._kinds.setdefault((drafts, k), [])
            for i in np.flatnonzero((accepted == k) & (tokens[:, 1] >= 0))[: REPEATS - len(kind)].tolist():
                after = [t for t in tokens[i].tolist() if t >= 0]
                start = draw(self._said.start, numbers[i, NUMBERS:]).item()
                kind.append((drafts, np.array(numbers[i]), [start, *after]))

    def some(self) -> list[tuple[int, np.ndarray, list[int]]]:
        """REPEATS draws (drafts sent, random numbers, tokens with the answer's first), the kinds by turns, those with a
        bonus first."""
        kinds = [self._kinds[kind] for kind in sorted(self._kinds, key=lambda kind: (kind[0] - kind[1], kind))]
        turns = [kind[i] for i in range(REPEATS) for kind in kinds if i < len(kind)]
        return turns[:REPEATS]

    def checks(self) -> list[Check]:
        """The comparison of the pairs, then all others."""
        pairs = Check("pairs of tokens", compare(self.exact, self.counts, (self._rare, self._others)))
        start = Check("the answer's first token", compare(self._said.exact_start[None], self._starts[None]))
        bonuses = [check for b in self.bonuses.values() for check in b.checks()]
        return [pairs, start, *self._acceptances.checks(), *bonuses]


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


class _Loop:
    """The decode loop itself, from given random numbers; the prompt is read once."""

    def __init__(self, target: Target, drafter: Drafter, said: Said, settings: Settings):
        self._target, self._drafter, self._said, self._settings = target, drafter, said, settings
        self._prefilled: Prefilled = prefill_once(target, said.prompt, drafter.taps)

    def draws(self, drafts: int, numbers: np.ndarray, n: int) -> list[int]:
        """The n tokens after the anchor, with rounds that send so many drafts."""
        tokens = self._tokens(1 + n, FixedCap(drafts), [self._said.anchor_number, *numbers])
        return tokens[1:] if tokens[0] == self._said.anchor else tokens

    def start(self, number: float) -> int:
        """The answer's first token."""
        return self._tokens(1, FixedCap(0), [number])[0]

    def _tokens(self, n: int, schedule: FixedCap, numbers: list[float]) -> list[int]:
        s, tokens = self._settings, []
        settings = Settings(n, s.temperature, s.top_k, s.top_p, stop_ids=frozenset())
        for event in speculative(
            self._target,
            self._drafter,
            self._said.prompt,
            settings,
            schedule,
            uniforms=_Numbers(numbers),
            prefilled=self._prefilled,
        ):
            if isinstance(event, Start):
                tokens.append(event.token_id)
            elif not isinstance(event, Prefill):
                tokens.extend(event.committed)
        return tokens
