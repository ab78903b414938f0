"""How many drafts this machine's costs make worthwhile: the paper's Algorithm 1, and a schedule that learns as it goes.

The cost curve knows what a step of each width takes; what is not known is how many drafts this text will accept. The
learner estimates that from the outcomes of earlier rounds and from the confidence head, if there is one, and keeps an
account of what drafting has won or lost against plain decoding, so that a guess that turns out wrong stays cheap.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul

from .cost_curve import CostCurve
from .rounds import Round
from .schedule import Schedule

# What is believed before anything was observed.
UNKNOWN = 0.7  # acceptance of a slot of a drafter of which nothing is known: high enough to be tried where it may pay
SPREAD, WIDE = 0.8, 1.5  # prior standard deviation of a text's shift in acceptance, in logits; without a prior
OPTIMISM = 0.15  # plain steps: what choosing the number of drafts by confidence is taken to gain before it is known
PATIENCE = 1.5  # rounds that this first guess weighs: after three rounds it is a quarter of the estimate
# How fast observations are forgotten: a text turns from code to prose and back.
DRIFT = 0.98  # weight that an outcome has a round later: half after 34 rounds, enough to tell 0.6 from 0.8
FORGET = 0.85  # the same for a round's gain, half after 4: a round is a sum over its slots, and parking late is dear
SLOT_WEIGHT = 12.0  # outcomes of a slot's own that weigh as much as what the other slots imply about it
STALE = 8, 64  # parked steps in a row after which earlier observations count half: at first, then twice as many, ...
# What drafting may lose; HardwareAware states the bound that they make.
FIRST_LOSS = 0.5  # plain steps that drafting may lose in all before it is parked,
WON_BACK = 4.0  # and on top what so many rounds are expected to win,
LOSS = 0.01  # and this share of the time so far
PROBE_LOSS = 0.003  # share of the time parked that probing again may lose
MOST_CREDIT = 3.0  # rejected rounds' worth of earlier gain that may be lost again
# When the learner does work of its own.
REPRICE = 64  # positions after which costs are read again: attention grows slowly
WORTH_LOOKING = 0.05  # plain steps that the first head row must cost before looking first is worth a synchronisation


def algorithm1(confidence: Sequence[Sequence[float]], sps: Callable[[int], float]) -> list[int]:
    """The paper's Algorithm 1: how many drafts of each request to verify together.

    `confidence` [R][slots], calibrated; `sps(B)` steps per second with B tokens in the batch. Drafts join in falling
    order of survival while expected tokens per second rise; at the first that lowers them it stops, because
    looking further would use confidences that depend on the drafts being decided on.
    """
    candidates = []
    for r, slots in enumerate(confidence):
        survival = 1.0
        for k, c in enumerate(slots, 1):
            survival *= c
            if survival > 0:
                candidates.append((-survival, k, r))
    tokens: float = len(confidence)
    batch = len(confidence)
    lengths, best = [0] * batch, tokens * sps(batch)
    for negative, k, r in sorted(candidates):
        tokens, batch = tokens - negative, batch + 1
        if tokens * sps(batch) <= best:
            break
        lengths[r], best = k, tokens * sps(batch)
    return lengths


def prefix(confidence: Sequence[float], sps: Callable[[int], float], expected: Sequence[float] = ()) -> int:
    """Algorithm 1 for one request: how many of its drafts to send.

    `sps(B)` may have steps (a verification of 2 can cost twice one of 1 and as much as one of 8), where stopping at
    the first fall stops too soon. `expected` [slots] is the acceptance that earlier rounds lead to expect: a draft is
    sent if, with that in place of the confidences still to come, any longer prefix beats stopping before it.
    Without it this is `algorithm1([confidence], sps)`. Either way slot k is decided from confidences 1..k alone.
    """
    tokens = survival = 1.0
    for k, c in enumerate(confidence, 1):
        best = tokens * sps(k)
        survival *= c
        ahead, reach = survival, tokens + survival
        pays = reach * sps(k + 1) > best
        # The confidences of later slots are there, but they depend on draft k itself: expectation stands in for them.
        for j in range(k + 1, min(len(confidence), len(expected)) + 1):
            if pays:
                break
            ahead *= expected[j - 1]
            reach += ahead
            pays = reach * sps(j + 1) > best
        if not pays:
            return k - 1
        tokens += survival
    return len(confidence)


@dataclass(frozen=True)
class HardwareAware(Schedule):
    """Draft and send what this machine's measured costs make worthwhile, down to nothing.

    Before a round it decides from earlier rounds whether to draft at all; then Algorithm 1 decides how many drafts
    get head rows (with a confidence head: after a look at the first confidence) and how many are sent. A drafter
    that does not pay is parked: plain steps, with a probe now and then. In the curve's own terms, whatever texts and
    confidences do, all drafting together never loses more than FIRST_LOSS plain steps, what WON_BACK rounds were
    expected to win before the first, one wholly rejected round (the dearest there was), and LOSS + PROBE_LOSS of
    the time: no round, probes included, begins with more than the other three lost.

    curve:      what a step costs here; must know `method`
    method:     the drafter, as the curve names it
    acceptance: of each slot given those before it, as far as known beforehand
    confident:  the drafter has a confidence head (its confidences should be calibrated)
    """

    curve: CostCurve
    method: str
    acceptance: tuple[float, ...] = ()
    confident: bool = False

    @property
    def needs_confidence(self) -> bool:  # type: ignore[override]  # of this object, where Schedule has it of the class
        return self.confident

    def begin(self, max_drafts: int) -> Schedule:
        return _Learner(self, max_drafts)


def logit(p: float) -> float:
    """log(p / (1 - p)), of a probability that is kept off 0 and 1: no number of outcomes makes a slot certain."""
    p = min(max(p, 1e-4), 1 - 1e-4)
    return math.log(p / (1 - p))


def expected_tokens(acceptance: Iterable[float]) -> list[float]:
    """Tokens that a round is expected to commit, by the number of drafts sent, from 0 on; `acceptance` of each slot
    given those before it."""
    return list(accumulate(accumulate(acceptance, mul), initial=1.0))


class TextShift:
    """How much easier or harder this text is than predicted, in logits: one number added to all of them.

    A text moves all slots together, and a confidence head may be off in one direction throughout, so one number learns
    from every outcome, where a number for each slot would wait for its own. It is the most probable value
    under a normal prior and the outcomes so far, newer ones weighing more.
    """

    def __init__(self, spread: float = SPREAD):
        self.value = 0.0
        self._precision = 1 / spread**2
        # Rounded predictions keep this small: the fit costs the same after 10 rounds and after 10,000.
        self._counts: dict[float, list[float]] = {}  # predicted logit, rounded -> accepted and all, decayed

    def update(self, outcomes: Iterable[tuple[float, bool]]) -> None:
        """Logits that were predicted in one round, and whether the draft was accepted."""
        self.fade(DRIFT)
        for z, accepted in outcomes:
            counts = self._counts.setdefault(round(2 * z) / 2, [0.0, 0.0])
            counts[0] += accepted
            counts[1] += 1
        # Newton steps on the log posterior from the last value, where two are enough: one round moves it little. Held
        # to 1 each, for at the flat ends of the sigmoid a step may overshoot.
        for _ in range(2):
            slope, curvature = -self.value * self._precision, self._precision
            for z, (taken, n) in self._counts.items():
                p = self._probability(z)
                slope += taken - n * p
                curvature += n * p * (1 - p)
            self.value += min(1.0, max(-1.0, slope / curvature))

    def fade(self, weight: float) -> None:
        """Let earlier outcomes weigh less."""
        for counts in self._counts.values():
            counts[0] *= weight
            counts[1] *= weight

    def apply(self, logits: Sequence[float]) -> list[float]:
        """Probabilities of predicted logits on this text."""
        return [self._probability(z) for z in logits]

    def _probability(self, z: float) -> float:
        z += self.value
        return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))  # never exp of a large number


class SlotAcceptance:
    """Acceptance of each slot given those before it: the prior, shifted, until a slot has enough outcomes of its own.

    Late slots are seldom reached, so most of what is known of them comes through the shift from the early ones.
    """

    def __init__(self, prior: Sequence[float], spread: float):
        self._prior = [logit(p) for p in prior]
        self._shift = TextShift(spread)
        self._counts = [[0.0, 0.0] for _ in prior]
        self.expected = list(prior)

    def update(self, decided: int, accepted: int) -> None:
        """A round: its first `accepted` drafts were accepted, of `decided` (at most one more) whose fate is known."""
        for k, counts in enumerate(self._counts):
            counts[0] = counts[0] * DRIFT + (k < accepted)
            counts[1] = counts[1] * DRIFT + (k < decided)
        self._shift.update([(z, k < accepted) for k, z in enumerate(self._prior[:decided])])
        self._estimate()

    def fade(self, weight: float) -> None:
        """Let earlier outcomes weigh less: back towards the prior."""
        for counts in self._counts:
            counts[0] *= weight
            counts[1] *= weight
        self._shift.fade(weight)
        self._shift.update(())
        self._estimate()

    def _estimate(self) -> None:
        shifted = self._shift.apply(self._prior)
        self.expected = [
            (SLOT_WEIGHT * p + y) / (SLOT_WEIGHT + n) for p, (y, n) in zip(shifted, self._counts, strict=True)
        ]


class _Learner(Schedule):
    """A hardware-aware decode under way. Seconds are the curve's, so the same rounds lead to the same decisions.

    Why the bound of HardwareAware holds: `_balance` is never above what drafting has truly won (capping it from
    above only lowers it), and it changes only in rounds that draft or look. `_pays` lets such a round begin only
    while the balance is above minus the allowance: FIRST_LOSS, WON_BACK rounds as hoped before the first, and
    LOSS + PROBE_LOSS of the time so far. The round then adds at worst its own cost less one plain step, wholly
    rejected. Plain steps leave the balance and raise the allowance.
    """

    def __init__(self, plan: HardwareAware, max_drafts: int):
        self.plan, self.max_drafts = plan, max_drafts
        self.needs_confidence = plan.confident
        prior = [*plan.acceptance[:max_drafts]]
        prior += [prior[-1] if prior else UNKNOWN] * (max_drafts - len(prior))
        self._slots = SlotAcceptance(prior, SPREAD if plan.acceptance else WIDE)
        self._trust = TextShift()  # of the confidences: how far this head is off on this text
        self._priced_at: int | None = None
        self._elapsed = self._balance = 0.0  # seconds so far; seconds won (or lost) against plain steps
        self._parked_at: tuple[float, float] | None = None  # elapsed and balance when drafting was parked
        # With a confidence head a round's expected gain depends on confidences that come only with the round, and is
        # more than any fixed number of drafts gains: it is averaged over the rounds that drafted or looked.
        self._gain = self._first_gain = 0.0  # decayed sum of expected gains of drafted rounds; before the first one
        self._weight = PATIENCE  # and their weight
        self._hoped = 0.0  # seconds that a round was expected to win before the first one
        self._confidence: list[float] = []  # logits of the newest round
        self._parked_steps, self._stale = 0, STALE[0]

    # ---- the loop asks ----

    def drafts(self, max_drafts: int, position: int) -> int:
        self._price(position)
        return self._fastest(self._slots.expected) if self._pays(self._elapsed) else 0

    def parked(self) -> bool:
        # Fading may turn the decision, so the step that completes a stale stretch is not taken as parked.
        fades = self._parked_steps + 1 == self._stale
        return not fades and not self._pays(self._elapsed + self._plain)

    def look(self, first: float, drafts: int) -> int:
        # The block is computed by now, so its cost no longer speaks against drafting; a plain step may still be better.
        acceptance = [*self._trust.apply([logit(first)]), *self._slots.expected[1:]]
        return self._fastest(acceptance, fewest=0, paid=self._draft[0])

    def proposed(self, drafted: int, confidence: Sequence[float] | None) -> int:
        if confidence is None or not self.plan.confident:
            return drafted
        self._confidence = [logit(c) for c in confidence]
        trusted = self._trust.apply(self._confidence)
        # What was drafted is paid for, however little of it is sent.
        return prefix(trusted, lambda width: 1 / (self._draft[drafted] + self._verify[width]), self._slots.expected)

    def observe(self, r: Round) -> None:
        if not r.draft_ids and not r.looked:
            self._observe_parked_step()
            return
        n, self._parked_steps = len(r.draft_ids), 0
        cost = self._draft[n] + (self._verify[r.proposed + 1] if n else self._plain)
        self._elapsed += cost
        # Without the cap a long easy stretch would buy an equally long losing one once the text turns.
        balance = self._balance + (r.accepted + 1) * self._plain - cost
        self._balance = min(balance, MOST_CREDIT * self._stake)
        decided = min(r.accepted + 1, r.proposed)  # a rejection settles nothing about the slots behind it
        if self.plan.confident:
            # The gain as expected from the confidences, not as it came out: luck of single rounds is left out, and
            # that the confidences themselves are off is what `_trust` corrects.
            trusted = self._trust.apply(self._confidence)[: r.proposed] if n else []
            self._gain = self._gain * FORGET + expected_tokens(trusted)[-1] * self._plain - cost
            self._weight = self._weight * FORGET + 1
            if n:
                self._trust.update((c, k < r.accepted) for k, c in enumerate(self._confidence[:decided]))
        if decided:
            self._slots.update(decided, r.accepted)

    def _observe_parked_step(self) -> None:
        """Nothing is learned while parked, and the text goes on: the longer that lasts, the less earlier rounds say.
        The stretches double, so that a text that stays hard is probed less and less."""
        self._elapsed += self._plain
        self._parked_steps += 1
        if self._parked_steps == self._stale:
            self._parked_steps, self._stale = 0, min(2 * self._stale, STALE[1])
            self._slots.fade(0.5)
            if self.plan.confident:
                self._gain = (self._gain + self._first_gain) / 2
                self._weight = (self._weight + PATIENCE) / 2

    # ---- decisions ----

    def _pays(self, elapsed: float) -> bool:
        """Draft this round? If not, because it does not pay, or as a probe that is affordable by now."""
        expected = self._gain / self._weight if self.plan.confident else self._expected_gain()
        first = FIRST_LOSS * self._plain
        may_lose = first + WON_BACK * expected + LOSS * elapsed
        # The bound itself. It goes by what was hoped before the first round, which cannot grow as `expected` may.
        affordable = self._balance > -(first + WON_BACK * self._hoped + (LOSS + PROBE_LOSS) * elapsed)
        if affordable and expected > 0 and self._balance > -may_lose:
            self._parked_at = None
            return True
        if self._parked_at is None:
            self._parked_at = elapsed, self._balance
        # A probe may lose what time parked has earned since: so all of them together cost PROBE_LOSS of that time.
        since, balance = self._parked_at
        risk = self._draft[0] if self.looks else max(0.0, -self._expected_gain())
        return affordable and self._balance - balance - risk > -PROBE_LOSS * (elapsed - since)

    def _expected_gain(self) -> float:
        """Seconds that the best number of drafts is expected to win against plain steps, in one round."""
        tokens = expected_tokens(self._slots.expected)
        return max(tokens[n] * self._plain - self._draft[n] - self._verify[n + 1] for n in range(1, len(tokens)))

    def _fastest(self, acceptance: Sequence[float], fewest: int = 1, paid: float = 0.0) -> int:
        """The number of drafts, at least `fewest`, with the highest expected speed; `paid` seconds of drafting are
        spent whatever it is."""
        n, best = fewest, 0.0 if fewest else 1 / self._plain
        for k, tokens in enumerate(expected_tokens(acceptance)[1:], 1):
            speed = tokens / (self._draft[k] - paid + self._verify[k + 1])
            if speed > best:
                n, best = k, speed
        return n

    def _price(self, position: int) -> None:
        """Read the curve at this position: seconds of a plain step, of a verification by width, of n drafts by n (of
        a look alone at 0)."""
        if self._priced_at is not None and position < self._priced_at + REPRICE:
            return
        before_the_first, self._priced_at = self._priced_at is None, position
        curve, method = self.plan.curve, self.plan.method
        self._plain = curve.plain_s(position)
        self._verify = [0.0, *(curve.verify_s(n, position) for n in range(1, self.max_drafts + 2))]
        self._draft = [curve.draft_s(method, n, position) for n in range(self.max_drafts + 1)]
        if self.plan.confident:
            self._draft[0] = curve.look_s(method, position)
            self.looks = self._draft[1] - self._draft[0] > WORTH_LOOKING * self._plain
        n = self._fastest(self._slots.expected)
        self._stake = self._draft[n] + self._verify[n + 1] - self._plain  # what a wholly rejected round loses
        if before_the_first:
            guess = self._expected_gain() + (OPTIMISM * self._plain if self.plan.confident else 0.0)
            self._hoped = max(0.0, guess)
            self._gain = self._first_gain = guess * PATIENCE
