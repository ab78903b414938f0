"""What is counted of the draws, and how each count compares with the exact distributions.

First tokens too rare to be followed are counted together; bonuses after pairs too rare to be followed are left out.
"""

import mlx.core as mx
import numpy as np

from .chi_squared import MIN_EXPECTED, compare_count, compare_places, compare_table
from .conditionals import DRAFTS, Conditionals
from .draws import groups
from .evidence import Check, Pair
from .exact import places

SHOWN = 24
BONUS_WORDS = "bonus tokens after {} accepted draft{}, {}"


class PairCounts:
    """Pairs of tokens after the anchor, counted beside their exact joint distribution.

    exact:  probabilities [K, V] of the followed first tokens and any second one
    first:  the first tokens [K]
    counts: of the draws, [K, V]
    other:  the probability of every other first token together, and how many draws began with one
    """

    def __init__(self, conditionals: Conditionals):
        first, exact = list(conditionals.after), conditionals.first.exact
        rows = np.array([conditionals.after[a].second.exact for a in first]).reshape(len(first), len(exact))
        others = np.ones(len(exact), dtype=bool)
        others[first] = False
        self.exact, self.first = rows * exact[first][:, None], first
        self.counts = np.zeros(self.exact.shape, dtype=np.int64)
        self.other = float(exact[others].sum()), 0
        self._row = np.full(len(exact), -1)
        self._row[first] = np.arange(len(first))

    def add(self, tokens: np.ndarray) -> None:
        """Tokens [N, at least 2] of `PairSampler.draw`."""
        rows = self._row[tokens[:, 0]]
        inside = rows >= 0
        np.add.at(self.counts, (rows[inside], tokens[inside, 1]), 1)
        probability, n = self.other
        self.other = probability, n + int((~inside).sum())

    def check(self) -> Check:
        return Check("pairs of tokens", compare_table(self.exact, self.counts, self.other))

    def likeliest(self) -> tuple[Pair, ...]:
        """The pairs that are most likely, or were drawn most often, by probability."""
        share = np.maximum(self.exact, self.counts / max(1, self.counts.sum()))
        top = np.argsort(-share, axis=None)[:SHOWN]
        pairs = [
            Pair(self.first[r], int(c), float(self.exact[r, c]), int(self.counts[r, c]))
            for r, c in zip(*np.unravel_index(top, self.exact.shape), strict=True)
        ]
        return tuple(sorted(pairs, key=lambda pair: -pair.probability))


class Acceptances:
    """How often the first draft, and after it the second, is accepted, against 1 - TV(p, q): the sum of min(p, q).

    The second one's chance does not depend on how the first was accepted, so slots that share a random number show.
    """

    def __init__(self, conditionals: Conditionals) -> None:
        self._given = conditionals
        self._slots = [(0, 0, 0.0, 0.0)] * DRAFTS  # by slot: drafts, accepted, expected, variance
        self._chances: dict[int | None, float] = {}

    def add(self, drafts: int, tokens: np.ndarray, accepted: np.ndarray) -> None:
        """Tokens [N, 3] and accepted counts [N] of `PairSampler.draw` with so many drafts a round."""
        given = self._given
        if given.draft is None:
            return
        self._count(0, accepted > 0, self._chance(None, given.first.exact, given.draft.q))
        if drafts < DRAFTS:
            return
        at = np.flatnonzero((accepted > 0) & np.isin(tokens[:, 0], list(given.after)))
        for x in np.unique(tokens[at, 0]).tolist():
            after = given.after[x]
            if after.draft is not None:
                some = at[tokens[at, 0] == x]
                self._count(1, accepted[some] > 1, self._chance(x, after.second.exact, after.draft.q))

    def _chance(self, x: int | None, p: np.ndarray, q: mx.array) -> float:
        if x not in self._chances:
            q64 = np.array(q[0], dtype=np.float64)
            self._chances[x] = min(1.0, float(np.minimum(p, q64 / q64.sum()).sum()))
        return self._chances[x]

    def _count(self, slot: int, accepted: np.ndarray, chance: float) -> None:
        n, count, expected, variance = self._slots[slot]
        m = len(accepted)
        self._slots[slot] = (
            n + m,
            count + int(accepted.sum()),
            expected + m * chance,
            variance + m * chance * (1 - chance),
        )

    def checks(self) -> list[Check]:
        """One comparison for each slot with enough draws for a normal approximation."""
        return [
            Check(f"acceptances of draft {k + 1}", compare_count(n, accepted, expected, variance))
            for k, (n, accepted, expected, variance) in enumerate(self._slots)
            if variance >= MIN_EXPECTED
        ]


class Bonuses:
    """Where the bonus tokens of rounds of `drafts` fall in the target's distributions; see `exact.places`."""

    def __init__(self, conditionals: Conditionals, drafts: int, seed: int):
        self._given, self._drafts = conditionals, drafts
        self._spread = np.random.default_rng([seed, drafts])
        self._by_id: list[np.ndarray] = []
        self._by_rank: list[np.ndarray] = []
        self._impossible = 0

    def add(self, tokens: np.ndarray, accepted: np.ndarray) -> None:
        """Tokens [N, 3] and accepted counts [N] of `PairSampler.draw`."""
        at = np.flatnonzero((accepted == self._drafts) & (tokens[:, self._drafts] >= 0))
        before = [tuple(t) for t in tokens[at, : self._drafts].tolist()]
        _, group = np.unique(tokens[at, : self._drafts], axis=0, return_inverse=True)
        for some in groups(group.ravel(), np.ones(len(at), dtype=bool)):
            a, *b = before[some[0]]
            after = self._given.after[a]
            exact = after.third[b[0]].exact if b else after.second.exact
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
        for order, fractions in (("by likelihood", self._by_rank), ("by id", self._by_id)):
            comparison = compare_places(np.concatenate([*fractions, np.zeros(0)]), self._impossible)
            if comparison:
                words = BONUS_WORDS.format(self._drafts, "s" * (self._drafts > 1), order)
                found.append(Check(words, comparison))
        return found
