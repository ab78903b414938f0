"""How many drafts this machine's costs make worthwhile, of a drafter whose drafts are on the host for nothing.

Such a drafter (text lookup) knows before a round what it would draft and how sure it is, and drafting costs nothing, so
there is nothing to park: in every round the number of drafts is chosen that is worth most by the measured costs, and
where that is none the round is a plain step. Behind that the next plain step is put onto the device at once, as plain
decoding does: what is worth sending there is sent a step later, which costs less than waiting in every step would.

What was not sent teaches too: the tokens that follow tell whether the drafts would have been right.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .adaptive import (
    FORGET,
    LOSS,
    MOST_CREDIT,
    REPRICE,
    STALE,
    WIDE,
    TextShift,
    expected_tokens,
    logit,
    probability,
)
from .confidence import ConfidenceFit
from .cost_curve import WAITED, CostCurve
from .rounds import Round
from .schedule import Schedule

FIRST = 0.75  # plain steps that drafting may lose in all, on top of LOSS of the time
WORTH = 0.05  # tokens that a round must be expected to gain


@dataclass(frozen=True)
class PreviewAware(Schedule):
    """Send what the costs make worthwhile by what is known before the round.

    In the curve's own terms, whatever texts and confidences do, drafting never loses more than FIRST plain steps and
    LOSS of the time: no round is sent that could lose more. Of what it won before it may lose MOST_CREDIT wholly
    rejected rounds again.

    curve, method, fit: as in HardwareAware
    """

    curve: CostCurve
    method: str
    fit: ConfidenceFit | None = None
    needs_confidence = True

    def begin(self, max_drafts: int) -> Schedule:
        return _Chooser(self, max_drafts)


class _Chooser(Schedule):
    previews = True

    def __init__(self, plan: PreviewAware, max_drafts: int):
        self.plan, self.max_drafts = plan, max_drafts
        self._fit = plan.fit.copy() if plan.fit else ConfidenceFit(max_drafts)  # of the confidences in general
        self._trust = TextShift(WIDE)  # and on this text, which differs from others widely
        self._ids: Sequence[int] = ()
        self._given: list[float] = []
        self._fitted: list[float] = []
        self._elapsed = self._balance = 0.0  # seconds so far; seconds won (or lost) against plain steps
        self._rate = 0.0, 0.0  # tokens and seconds of the newest rounds, decayed, as they were expected
        self._priced_at: int | None = None
        self._costs: list[float] = []  # seconds of a round by the number of drafts; of none, a plain step
        self._steps = 0  # plain steps in a row
        self._best = 0  # drafts to send after this anchor

    def preview(self, ids: Sequence[int], confidence: Sequence[float], position: int) -> None:
        self._ids = ids
        self._given = [logit(probability(z)) for z in confidence]
        self._fitted = self._fit.logits(self._given)
        self._price(position)
        self._best = self._worth_most()

    def drafts(self, max_drafts: int, position: int) -> int:
        return min(self._best, max_drafts)

    def parked(self) -> bool:
        return not self._best

    def observe(self, r: Round) -> None:
        plain, cost = self._costs[0], self._costs[r.proposed]
        self._elapsed += cost
        balance = self._balance + (r.accepted + 1) * plain - cost
        self._balance = min(balance, MOST_CREDIT * (self._costs[-1] - plain)) if r.proposed else balance
        followed = [*r.draft_ids[: r.accepted], r.next_id]
        right = next((k for k, (a, b) in enumerate(zip(followed, self._ids, strict=False)) if a != b), len(followed))
        decided = min(right + 1, len(followed), len(self._ids))
        if decided:
            self._trust.update((z, k < right) for k, z in enumerate(self._fitted[:decided]))
            self._fit.observe(self._given[:decided], right)
        self._steps = 0 if r.proposed else self._steps + 1
        if self._steps == STALE[1]:
            self._steps = 0
            self._trust.fade(0.5)
            self._trust.update(())

    def _worth_most(self) -> int:
        """How many of the drafts are worth most, at what a second is worth on this text and within what may be lost.
        All confidences follow from the text before the round, so all may be looked at."""
        plain = self._costs[0]
        tokens, seconds = self._rate
        rate = max(1 / plain, (tokens + 1) / (seconds + plain))
        brings = expected_tokens(self._trust.apply(self._fitted[: self.max_drafts]))
        allowed = self._balance + FIRST * plain + LOSS * self._elapsed
        worth = [t - rate * cost for t, cost in zip(brings, self._costs, strict=False)]
        within = [n for n in range(1, len(worth)) if self._costs[n] - plain <= allowed and worth[n] > worth[0] + WORTH]
        best = max(within, key=lambda n: worth[n], default=0)
        self._rate = FORGET * tokens + brings[best], FORGET * seconds + self._costs[best]
        return best

    def _price(self, position: int) -> None:
        """Read the curve at this position."""
        if self._priced_at is None or position >= self._priced_at + REPRICE:
            self._priced_at, curve, method = position, self.plan.curve, self.plan.method
            plain, drafts = curve.plain_s(position), range(1, self.max_drafts + 1)
            # The plain step behind a round of drafts cannot be on the device before these are decided on.
            alone = max(0.0, curve.verify_s(1, position) - plain)
            self._costs = [plain, *(curve.round_s(method, n, n, position, WAITED) + alone for n in drafts)]
