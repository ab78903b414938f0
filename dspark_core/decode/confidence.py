"""How far a drafter's confidences are off here, learned while decoding: a logistic fit for each slot, anew as rounds
come in.

Confidences that go by the margin of two logits were calibrated on other text, or on none. So their logits z get a slope
and an offset, p = sigmoid(a z + b), which is a new fit to the margin itself. The estimator is vLLM's
(v1/worker/gpu/spec_decode/acceptance_estimator.py): Newton steps, one a window of rounds, from sums alone.

A slot has a label where all before it were accepted and it was sent itself, and it is sent where confidences say so.
That choice goes by the very confidences that the fit is conditioned on: among drafts of one confidence, those that were
sent are a fair sample, so it thins out what the fit sees and does not tilt it. What it takes away is the low end, from
which a slope is known. vLLM sends whole blocks at first; here that would cost what is to be won. So the fit begins at
the calibration and is held to it (STRENGTH): where nothing is sent, the calibration stays.
"""

from collections.abc import Sequence
from math import exp

WINDOW = 100  # rounds from one Newton step to the next
FEWEST = 50  # outcomes of a slot without which a window leaves it alone
STRENGTH = 4.0, 2.0  # of the belief that slope 1 and offset 0 are right: inverse variances
LARGEST = 1.0  # step of a slope or an offset: at the flat ends of the sigmoid Newton overshoots
FADE = 0.9  # weight that a window's evidence has after the next one


class ConfidenceFit:
    """A slope and an offset for each slot; what was observed since they last moved, and how firmly they stand."""

    def __init__(self, slots: int):
        self._fits = [(1.0, 0.0)] * slots
        self._sums = [[0.0] * 6 for _ in range(slots)]  # outcomes, gradient [2], information [aa, ab, bb] of a window
        self._before = [[STRENGTH[0], 0.0, STRENGTH[1]] for _ in range(slots)]  # information of earlier windows
        self._rounds = 0

    def copy(self) -> "ConfidenceFit":
        other = ConfidenceFit(len(self._fits))
        other._fits, other._rounds = list(self._fits), self._rounds
        other._sums, other._before = [list(s) for s in self._sums], [list(b) for b in self._before]
        return other

    def logits(self, z: Sequence[float]) -> list[float]:
        """The fitted logits of the first slots' confidence logits."""
        return [a * x + b for x, (a, b) in zip(z, self._fits, strict=False)]

    def observe(self, z: Sequence[float], accepted: int) -> None:
        """A round: the confidence logits of the drafts whose fate is known, of which the first `accepted` were accepted
        and one more, if there is one, was not."""
        for k, (x, (a, b), sums) in enumerate(zip(z, self._fits, self._sums, strict=False)):
            p = 1 / (1 + exp(-min(max(a * x + b, -30.0), 30.0)))
            error, w = (k < accepted) - p, p * (1 - p)
            for i, part in enumerate((1.0, error * x, error, w * x * x, w * x, w)):
                sums[i] += part
        self._rounds += 1
        if self._rounds == WINDOW:
            self._rounds = 0
            for k in range(len(self._fits)):
                self._step(k)

    def _step(self, k: int) -> None:
        """A Newton step on the log posterior, in which earlier windows stand for a normal distribution around where
        they led; what fades of them, the belief that there was at first takes the place of. A slope below zero, as few
        outcomes may suggest, is refused."""
        n, ga, gb, aa, ab, bb = self._sums[k]
        if n < FEWEST:
            return
        (a, b), (pa, pab, pb), (sa, sb) = self._fits[k], self._before[k], ((1 - FADE) * s for s in STRENGTH)
        ga, gb = ga - sa * (a - 1), gb - sb * b
        haa, hab, hbb = aa + pa, ab + pab, bb + pb
        det = haa * hbb - hab * hab
        da, db = (hbb * ga - hab * gb) / det, (haa * gb - hab * ga) / det
        scale = min(1.0, LARGEST / max(abs(da), abs(db), 1e-9))
        if a + scale * da >= 0:
            self._fits[k] = a + scale * da, b + scale * db
        self._before[k] = [FADE * haa + sa, FADE * hab, FADE * hbb + sb]
        self._sums[k] = [0.0] * 6
