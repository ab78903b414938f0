"""Draws of the first tokens of an answer by drafting, accepting and correcting, many at once.

The answer's first token is drawn by itself; then it is held fixed (the target's most likely one) as the anchor of a
round. That round sends one draft or two: the two tokens after the anchor are drafts, corrections or the bonus, and
where two drafts were accepted the third token, a bonus, is looked at as well. Where the first draft is rejected, the
second token comes out of a further round.

The draws, the acceptances and the residual are the decode loop's own functions. They take random numbers in the loop's
order, so that draws of every kind can be repeated by the loop itself.
"""

from collections.abc import Callable, Iterator

import mlx.core as mx
import numpy as np

from ..decode.sampling import draw
from .conditionals import DRAFTS, Conditionals, Drafted
from .samplers import Accepted

ROUND = 2 * DRAFTS + 1  # random numbers of a round: drafts, acceptances, correction
NUMBERS = 2 * ROUND
AT_ONCE = 1 << 22  # probabilities in one batch of draws


def draw_each(p: mx.array, numbers: mx.array) -> np.ndarray:
    """Tokens [N] from one distribution [1, V], with the numbers [N, 1]."""
    return np.array(mx.vmap(draw, in_axes=(None, 0))(p, numbers))[:, 0]


def groups(values: np.ndarray, among: np.ndarray) -> Iterator[np.ndarray]:
    """Indices of equal values, value by value, where `among` is true."""
    at = np.flatnonzero(among)
    at = at[np.argsort(values[at], kind="stable")]
    if len(at):
        yield from np.split(at, np.flatnonzero(np.diff(values[at])) + 1)


class PairSampler:
    """Draws the tokens after the anchor by an acceptance rule that takes and returns what `accept_sampled` does."""

    def __init__(self, conditionals: Conditionals, accept: Callable[..., Accepted]):
        self._given = conditionals
        self._accept_one = accept

    def draw(self, numbers: mx.array, drafts: int = DRAFTS) -> tuple[np.ndarray, np.ndarray]:
        """The tokens after the anchor [N, 3] from random numbers [N, NUMBERS] in the loop's order, where rounds send
        `drafts` drafts (or as many as the drafter has), and how many were accepted in the first round [N].

        -1 stands for a token that is not looked at: the second after a first one that is not followed, and any third
        one but the bonus after two accepted drafts that are followed.
        """
        given, sent = self._given, min(drafts, self._given.drafts)
        tokens = np.full((len(numbers), 3), -1)
        accepted = np.zeros(len(numbers), dtype=int)
        if given.draft is None or not sent:  # a plain step
            tokens[:, 0] = draw_each(given.first.sampled, numbers[:, :1])
            sent = 0
        else:
            x = draw_each(given.draft.q, numbers[:, :1])
            followed = np.isin(x, list(given.after))
            for at in groups(x, followed):
                first_round = self._one_draft if sent == 1 else self._two_drafts
                first_round(given.draft, numbers, at, int(x[at[0]]), tokens, accepted)
            if len(at := np.flatnonzero(~followed)):  # only the first token counts, so the first draft is enough
                u, p = numbers[mx.array(at)], given.first.sampled
                u_accept, u_next = u[:, sent : sent + 1], u[:, 2 * sent : 2 * sent + 1]
                taken, token = self._accept(
                    mx.array(x[at])[:, None], given.draft.believed, mx.concatenate([p, p]), u_accept, u_next
                )
                accepted[at] = taken
                tokens[at, 0] = np.where(taken > 0, x[at], token)
        first = tokens[:, 0]
        for at in groups(first, (accepted == 0) & np.isin(first, list(given.after))):
            tokens[at, 1] = self._further_round(int(first[at[0]]), numbers[mx.array(at)][:, 2 * sent + 1 :], drafts)
        return tokens, accepted

    def _one_draft(
        self, draft: Drafted, numbers: mx.array, at: np.ndarray, x: int, tokens: np.ndarray, accepted: np.ndarray
    ) -> None:
        """The round after the anchor with the one draft x, for the draws `at`: fills tokens and accepted."""
        u = numbers[mx.array(at)]
        drafts = mx.full((len(at), 1), x, dtype=mx.int32)
        p = mx.concatenate([self._given.first.sampled, self._given.after[x].second.sampled])
        taken, token = self._accept(drafts, draft.believed, p, u[:, 1:2], u[:, 2:3])
        accepted[at] = taken
        tokens[at, 0] = np.where(taken > 0, x, token)
        tokens[at, 1] = np.where(taken > 0, token, -1)

    def _two_drafts(
        self, draft: Drafted, numbers: mx.array, at: np.ndarray, x: int, tokens: np.ndarray, accepted: np.ndarray
    ) -> None:
        """The same with x and one more draft, where the drafter has one after x."""
        after = self._given.after[x]
        if after.draft is None:
            self._one_draft(draft, numbers, at, x, tokens, accepted)
            return
        q = mx.concatenate([draft.believed, after.draft.believed])
        y = draw_each(after.draft.q, numbers[mx.array(at)][:, 1:2])
        followed = np.isin(y, list(after.third))
        for some in [*groups(y, followed), np.flatnonzero(~followed)]:
            if not len(some):
                continue
            here, u = at[some], numbers[mx.array(at[some])]
            # Where what follows is not known the last row decides a third token that nobody looks at.
            third = after.third[y[some[0]]].sampled if followed[some[0]] else after.second.sampled
            drafts = mx.array(np.stack([np.full(len(some), x), y[some]], axis=1).astype(np.int32))
            p = mx.concatenate([self._given.first.sampled, after.second.sampled, third])
            taken, token = self._accept(drafts, q, p, u[:, DRAFTS : 2 * DRAFTS], u[:, ROUND - 1 : ROUND])
            accepted[here] = taken
            tokens[here, 0] = np.where(taken > 0, x, token)
            tokens[here, 1] = np.where(taken == 2, y[some], np.where(taken == 1, token, -1))
            tokens[here, 2] = np.where((taken == 2) & followed[some], token, -1)

    def _further_round(self, first: int, u: mx.array, drafts: int) -> np.ndarray:
        """The first token [N] of a further round that begins with `first`, from numbers [N, at least a round's]."""
        after, sent = self._given.after[first], min(drafts, self._given.after[first].further_drafts)
        p = after.second.sampled
        if after.further is None or not sent:
            return draw_each(p, u[:, :1])
        draft = draw_each(after.further.q, u[:, :1])
        taken, token = self._accept(
            mx.array(draft)[:, None],
            after.further.believed,
            mx.concatenate([p, p]),
            u[:, sent : sent + 1],
            u[:, 2 * sent : 2 * sent + 1],
        )
        return np.where(taken > 0, draft, token)

    def _accept(
        self, drafts: mx.array, q: mx.array, p: mx.array, u_accept: mx.array, u_next: mx.array
    ) -> tuple[np.ndarray, np.ndarray]:
        """Accepted counts [N] and next tokens [N] of N rounds with the same q [n, V] and p [n + 1, V]."""
        together = mx.vmap(self._accept_one, in_axes=(0, None, None, 0, 0, None))
        step = max(1, AT_ONCE // p.shape[-1])
        end = mx.array(drafts.shape[1])
        counts, tokens = [], []
        for i in range(0, len(drafts), step):
            part = slice(i, i + step)
            taken, token, _, _ = together(drafts[part], q, p, u_accept[part], u_next[part], end)
            mx.eval(taken, token)
            counts.append(np.array(taken))
            tokens.append(np.array(token)[:, 0])
        return np.concatenate(counts), np.concatenate(tokens)
