"""How many of a block's drafts to send to verification. All schedules are lossless.

A schedule first says how many drafts are worth head logits, then, once they are drafted, how many are sent. The
second decision may look at the confidence of slot k only to decide about slots k and later (non-anticipating): it
uses x_1..x_{k-1}, never the fate of x_k itself, which is what keeps sampling exact. What earlier rounds came to may
be used freely.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .cost_curve import CostCurve
from .rounds import Round


class Schedule:
    """What the loop asks. A schedule that learns gives every decode an object of its own in `begin`.

    needs_confidence: `proposed` wants the confidences, so the drafter must have a confidence head
    looks:            `look` wants the first slot's confidence before any head row is computed
    """

    needs_confidence = False
    looks = False

    def begin(self, max_drafts: int) -> "Schedule":
        """The schedule of one decode with a drafter of at most `max_drafts` drafts a round."""
        return self

    def drafts(self, max_drafts: int, position: int) -> int:
        """How many tokens to draft with the anchor at `position`, at most `max_drafts`; 0 is a plain step."""
        raise NotImplementedError

    def look(self, first: float, drafts: int) -> int:
        """How many of `drafts` tokens to draft after all, given the first slot's confidence."""
        return drafts

    def parked(self) -> bool:
        """After `drafts` said 0: will it say 0 next time too, whatever this round brings?"""
        return False

    def proposed(self, drafted: int, confidence: list[float] | None) -> int:
        """How many of the drafted tokens to send, given the confidence per slot (if it was asked for)."""
        return drafted

    def observe(self, r: Round) -> None:
        """What a round came to, before the next one is scheduled."""


@dataclass(frozen=True)
class FullBlock(Schedule):
    """Send everything."""

    def drafts(self, max_drafts: int, position: int) -> int:
        return max_drafts


@dataclass(frozen=True)
class FixedCap(Schedule):
    """Send the first `cap` drafts. An effective block length L is a cap of L - the drafter's first slot."""

    cap: int

    def drafts(self, max_drafts: int, position: int) -> int:
        return min(max(self.cap, 0), max_drafts)

    def parked(self) -> bool:
        return True


@dataclass(frozen=True)
class ConfidenceThreshold(Schedule):
    """Send up to the first slot whose own confidence is below `threshold` (DeepSpec's --confidence-threshold)."""

    threshold: float
    needs_confidence = True

    def drafts(self, max_drafts: int, position: int) -> int:
        return max_drafts

    def proposed(self, drafted: int, confidence: list[float] | None) -> int:
        return next((k for k, c in enumerate(confidence) if c < self.threshold), drafted)


@dataclass(frozen=True)
class CumulativeThreshold(Schedule):
    """Send up to the first slot where the product of the confidences so far is below `threshold`."""

    threshold: float
    needs_confidence = True

    def drafts(self, max_drafts: int, position: int) -> int:
        return max_drafts

    def proposed(self, drafted: int, confidence: list[float] | None) -> int:
        survival = 1.0
        for k, c in enumerate(confidence):
            survival *= c
            if survival < self.threshold:
                return k
        return drafted


# ---- hardware-aware --------------------------------------------------------------------------------------


def algorithm1(confidence: Sequence[Sequence[float]], sps: Callable[[int], float]) -> list[int]:
    """The paper's Algorithm 1: how many drafts of each request to verify together.

    `confidence` [R][slots], calibrated; `sps(B)` steps per second with B tokens in the batch. Drafts join in falling
    order of survival while expected tokens per second rise; at the first that lowers them it stops, because
    looking further would use confidences that depend on the drafts being judged.
    """
    candidates = []
    for r, slots in enumerate(confidence):
        survival = 1.0
        for k, c in enumerate(slots, 1):
            survival *= c
            if survival > 0:
                candidates.append((-survival, k, r))
    tokens = batch = len(confidence)
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


UNKNOWN = 0.7  # acceptance of a slot of a drafter of which nothing is known
SPREAD, WIDE = 0.8, 1.5  # prior standard deviation of a text's shift in acceptance, in logits; without a prior
DRIFT = 0.98  # weight that an observation keeps from one round to the next
OWN = 12.0  # outcomes of a slot's own that weigh as much as what the other slots say about it
OPTIMISM = 0.15  # plain steps: what choosing the number of drafts by confidence is taken to gain before it is known
PATIENCE = 1.5  # rounds that this first guess weighs
STALE = 8, 64  # parked steps in a row after which what was seen before counts half: at first, then twice as many, ...
FORGET = 0.85  # weight that a round's gain keeps from one drafted round to the next
FIRST_LOSS = 0.5  # plain steps that drafting may lose in all before it is parked,
WON_BACK = 4.0  # and on top what so many rounds are expected to win,
LOSS = 0.01  # and this share of the time so far
PROBE_LOSS = 0.003  # share of the time parked that probing again may lose
MOST_CREDIT = 3.0  # rejected rounds' worth of earlier gain that may be lost again
REPRICE = 64  # positions after which costs are read again
WORTH_LOOKING = 0.05  # plain steps that the first head row must cost before looking first is worth a synchronisation


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
    acceptance: of each slot given those before it, as far as known beforehand
    confident:  the drafter has a confidence head (its confidences should be calibrated)
    """

    curve: CostCurve
    method: str
    acceptance: tuple[float, ...] = ()
    confident: bool = False

    @property
    def needs_confidence(self) -> bool:
        return self.confident

    def begin(self, max_drafts: int) -> "Schedule":
        return _Learning(self, max_drafts)


class Shift:
    """How much easier or harder this text is than the prior, in logits: one number added to all of them.

    The most probable value under a normal prior and the outcomes seen, newer ones weighing more.
    """

    def __init__(self, spread: float = SPREAD):
        self.value = 0.0
        self._precision = 1 / spread**2
        self._seen: dict[float, list[float]] = {}  # predicted logit, rounded -> accepted and all, decayed

    def see(self, outcomes: Iterable[tuple[float, bool]]) -> None:
        """Logits that were predicted in one round, and whether the draft was accepted."""
        self.fade(DRIFT)
        for z, accepted in outcomes:
            counts = self._seen.setdefault(round(2 * z) / 2, [0.0, 0.0])
            counts[0] += accepted
            counts[1] += 1
        self._settle()

    def fade(self, keep: float) -> None:
        """Let what was seen weigh less."""
        for counts in self._seen.values():
            counts[0] *= keep
            counts[1] *= keep

    def _settle(self) -> None:
        for _ in range(2):  # Newton steps from the last value
            slope, curvature = -self.value * self._precision, self._precision
            for z, (accepted, seen) in self._seen.items():
                p = _sigmoid(z + self.value)
                slope += accepted - seen * p
                curvature += seen * p * (1 - p)
            self.value += min(1.0, max(-1.0, slope / curvature))

    def apply(self, logits: Sequence[float]) -> list[float]:
        return [_sigmoid(z + self.value) for z in logits]


class Slots:
    """Acceptance of each slot given those before it: the prior, shifted, until enough outcomes of its own are seen."""

    def __init__(self, prior: Sequence[float], spread: float):
        self._prior = [_logit(p) for p in prior]
        self._shift = Shift(spread)
        self._counts = [[0.0, 0.0] for _ in prior]
        self.expected = list(prior)

    def see(self, judged: int, accepted: int) -> None:
        """A round: its first `accepted` drafts were accepted, of `judged` (at most one more) whose fate is known."""
        for k, counts in enumerate(self._counts):
            counts[0] = counts[0] * DRIFT + (k < accepted)
            counts[1] = counts[1] * DRIFT + (k < judged)
        self._shift.see([(z, k < accepted) for k, z in enumerate(self._prior[:judged])])
        self._estimate()

    def fade(self, keep: float) -> None:
        """Let what was seen weigh less: back towards the prior."""
        for counts in self._counts:
            counts[0] *= keep
            counts[1] *= keep
        self._shift.fade(keep)
        self._shift.see(())
        self._estimate()

    def _estimate(self) -> None:
        shifted = self._shift.apply(self._prior)
        self.expected = [(OWN * p + y) / (OWN + n) for p, (y, n) in zip(shifted, self._counts, strict=True)]


class _Learning(Schedule):
    """A hardware-aware decode under way. Seconds are the curve's, so the same rounds lead to the same decisions."""

    def __init__(self, plan: HardwareAware, max_drafts: int):
        self.plan, self.max_drafts = plan, max_drafts
        self.needs_confidence = plan.confident
        known = [*plan.acceptance[:max_drafts]]
        known += [known[-1] if known else UNKNOWN] * (max_drafts - len(known))
        self._slots, self._trust = Slots(known, SPREAD if plan.acceptance else WIDE), Shift()
        self._priced_at: int | None = None
        self._elapsed = self._balance = 0.0  # seconds so far; seconds won (or lost) against plain steps
        self._parked_at: tuple[float, float] | None = None  # elapsed and balance when drafting was parked
        self._gain: float | None = None  # decayed sum of expected gains of drafted rounds, and their weight
        self._weight = PATIENCE
        self._hoped = 0.0  # seconds that a round was expected to win before the first one
        self._confidence: list[float] = []
        self._parked_steps, self._stale = 0, STALE[0]

    # ---- the loop asks ----

    def drafts(self, max_drafts, position):
        self._price(position)
        if not self._goes(self._elapsed):
            return 0
        return self._best(self._slots.expected)

    def parked(self):
        fades = self._parked_steps + 1 == self._stale
        return not fades and not self._goes(self._elapsed + self._plain)

    def look(self, first, drafts):
        acceptance = [*self._trust.apply([_logit(first)]), *self._slots.expected[1:]]
        tokens = survival = 1.0
        n, best = 0, 1 / self._plain
        for k, a in enumerate(acceptance, 1):
            survival *= a
            tokens += survival
            speed = tokens / (self._draft[k] - self._draft[0] + self._verify[k + 1])
            if speed > best:
                n, best = k, speed
        return n

    def proposed(self, drafted, confidence):
        if not self.plan.confident:
            return drafted
        self._confidence = [_logit(c) for c in confidence]
        trusted = self._trust.apply(self._confidence)
        return prefix(trusted, lambda width: 1 / (self._draft[drafted] + self._verify[width]), self._slots.expected)

    def observe(self, r):
        if not r.draft_ids and not r.looked:
            self._elapsed += self._plain
            self._parked_steps += 1
            if self._parked_steps == self._stale:
                self._parked_steps, self._stale = 0, min(2 * self._stale, STALE[1])
                self._slots.fade(0.5)
                if self.plan.confident:
                    self._gain = (self._gain + self._first_gain) / 2
                    self._weight = (self._weight + PATIENCE) / 2
            return
        n, self._parked_steps = len(r.draft_ids), 0
        cost = self._draft[n] + (self._verify[r.proposed + 1] if n else self._plain)
        self._elapsed += cost
        self._balance = min(self._balance + (r.accepted + 1) * self._plain - cost, MOST_CREDIT * self._stake)
        judged = min(r.accepted + 1, r.proposed)
        if self.plan.confident:
            tokens = survival = 1.0
            for c in self._trust.apply(self._confidence)[: r.proposed] if n else ():
                survival *= c
                tokens += survival
            self._gain = self._gain * FORGET + tokens * self._plain - cost
            self._weight = self._weight * FORGET + 1
            if n:
                self._trust.see((c, k < r.accepted) for k, c in enumerate(self._confidence[:judged]))
        if judged:
            self._slots.see(judged, r.accepted)

    # ---- decisions ----

    def _goes(self, elapsed: float) -> bool:
        """Draft this round? If not, because it does not pay, or as a probe that is affordable by now."""
        expected = self._gain / self._weight if self.plan.confident else self._expected_gain()
        first = FIRST_LOSS * self._plain
        may_lose = first + WON_BACK * expected + LOSS * elapsed
        affordable = self._balance > -(first + WON_BACK * self._hoped + (LOSS + PROBE_LOSS) * elapsed)
        if affordable and expected > 0 and self._balance > -may_lose:
            self._parked_at = None
            return True
        if self._parked_at is None:
            self._parked_at = elapsed, self._balance
        since, balance = self._parked_at
        risk = self._draft[0] if self.looks else max(0.0, -self._expected_gain())
        return affordable and self._balance - balance - risk > -PROBE_LOSS * (elapsed - since)

    def _expected_gain(self) -> float:
        """Seconds that the best number of drafts is expected to win against plain steps, in one round."""
        return max(self._gains())

    def _best(self, acceptance: Sequence[float]) -> int:
        """The number of drafts, at least 1, with the highest expected speed."""
        tokens = survival = 1.0
        n, best = 1, 0.0
        for k, a in enumerate(acceptance, 1):
            survival *= a
            tokens += survival
            speed = tokens / (self._draft[k] + self._verify[k + 1])
            if speed > best:
                n, best = k, speed
        return n

    def _gains(self) -> list[float]:
        tokens = survival = 1.0
        out = []
        for k, a in enumerate(self._slots.expected, 1):
            survival *= a
            tokens += survival
            out.append(tokens * self._plain - self._draft[k] - self._verify[k + 1])
        return out

    def _price(self, position: int) -> None:
        if self._priced_at is not None and position < self._priced_at + REPRICE:
            return
        self._priced_at = position
        curve, method = self.plan.curve, self.plan.method
        self._plain = curve.plain_s(position)
        self._verify = [0.0, *(curve.verify_s(n, position) for n in range(1, self.max_drafts + 2))]
        self._draft = [curve.draft_s(method, n, position) for n in range(self.max_drafts + 1)]
        if self.plan.confident:
            self._draft[0] = curve.look_s(method, position)
            self.looks = self._draft[1] - self._draft[0] > WORTH_LOOKING * self._plain
        n = self._best(self._slots.expected)
        self._stake = self._draft[n] + self._verify[n + 1] - self._plain  # what a wholly rejected round loses
        if self._gain is None:
            guess = self._expected_gain() + (OPTIMISM * self._plain if self.plan.confident else 0.0)
            self._hoped = max(0.0, guess)
            self._gain = self._first_gain = guess * PATIENCE


def _sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


def _logit(p: float) -> float:
    p = min(max(p, 1e-4), 1 - 1e-4)
    return math.log(p / (1 - p))
