"""How many drafts this machine's costs make worthwhile: the paper's Algorithm 1, and a schedule that learns as it goes.

The cost curve knows what a step of each width takes; what is not known is how many drafts this text will accept. The
learner estimates that from the outcomes of earlier rounds and from the confidence head, if there is one, and keeps an
account of what drafting has won or lost against plain decoding, so that a guess that turns out wrong stays cheap.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import exp
from operator import mul, sub, truediv

from .confidence import ConfidenceFit
from .cost_curve import BLIND, WAITED, CostCurve
from .rounds import Round
from .schedule import Schedule

# What is believed before anything was observed.
UNKNOWN = 0.7  # acceptance of a slot of a drafter of which nothing is known: high enough to be tried where it may pay
SPREAD, WIDE = 0.6, 1.5  # prior standard deviation of a text's shift in acceptance, in logits; without a prior
EASES = (-2.1, -0.8, 0.0, 0.8, 2.1)  # logits by which rounds of one text differ, one of each: a spread of 1.5
OPTIMISM = 0.1  # plain steps that choosing by confidence may be hoped to gain: a part of the bound, not of a choice
PATIENCE = 4.0  # rounds that what is believed of confidences weighs against those that were waited for
MARGIN = 1.05  # by which waiting for confidences must promise more than drafting blindly: their promise is rosy
HOPE = 1.0  # standard deviations by which a text may be easier than it seems, to be tried for that,
TRIES = 1.5  # plain steps that such rounds are expected to lose at most
NEWS = 0.01  # change of a slot's expected acceptance at which that is worked out again
COST_DOUBT = 1.4  # times that a curve may easily be off, before the first try shows it
# What a decode's own times say against the curve, which one busy moment may have bent.
TIMED, MOST_TIMED = 1.0, 32  # rounds, and stretches of plain steps, that weigh as much as it; the newest that count
MOST_OFF = 2.0  # times that they may move it
PACED = 8, 16, 32, 63  # plain steps in a row after which that is worked out again
# How fast observations are forgotten: a text turns from code to prose and back.
DRIFT = 0.98  # weight that an outcome has a round later: half after 34 rounds, enough to tell 0.6 from 0.8
FORGET = 0.85  # the same for a round's gain, half after 4: a round is a sum over its slots, and parking late is dear
SLOT_WEIGHT = 12.0  # outcomes of a slot's own that weigh as much as what the other slots imply about it
STALE = 8, 64  # parked steps in a row after which earlier observations count half: at first, then twice as many, ...
# What drafting may lose; HardwareAware states the bound that they make.
FIRST_LOSS = 0.5  # plain steps that drafting may lose in all before it is parked,
WON_BACK = 8.0  # and on top what so many rounds are expected to win;
UNLUCKY = 2.0  # plain steps that both make at least, so that an unlucky first round does not park it for good,
MOST_LOSS = 4.5  # and at most, however much was hoped,
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


def prefix(
    confidence: Sequence[float], sps: Callable[[int], float], expected: Sequence[float] = (), rate: float = 0.0
) -> int:
    """Algorithm 1 for one request: how many of its drafts to send.

    `sps(B)` may have steps (a verification of 2 can cost twice one of 1 and as much as one of 8), where stopping at
    the first fall stops too soon. `expected` [slots] is the acceptance that earlier rounds lead to expect: a draft is
    sent if, with that in place of the confidences still to come, any longer prefix beats stopping before it.
    Without it this is `algorithm1([confidence], sps)`. `rate` is what a second is worth in tokens: with it a prefix is
    as good as its tokens less that of its time, which makes the whole decode fastest, where tokens per second of the
    round make this round so. Either way slot k is decided from confidences 1..k alone.
    """

    def worth(tokens: float, width: int) -> float:
        return tokens - rate / sps(width) if rate else tokens * sps(width)

    tokens = survival = 1.0
    for k, c in enumerate(confidence, 1):
        best = worth(tokens, k)
        survival *= c
        ahead, reach = survival, tokens + survival
        pays = worth(reach, k + 1) > best
        # The confidences of later slots are there, but they depend on draft k itself: expectation stands in for them.
        for j in range(k + 1, min(len(confidence), len(expected)) + 1):
            if pays:
                break
            ahead *= expected[j - 1]
            reach += ahead
            pays = worth(reach, j + 1) > best
        if not pays:
            return k - 1
        tokens += survival
    return len(confidence)


@dataclass(frozen=True)
class HardwareAware(Schedule):
    """Draft and send what this machine's measured costs make worthwhile, down to nothing.

    Before a round it decides from earlier rounds whether to draft at all; then Algorithm 1 decides how many drafts
    get head rows (with a confidence head: after a look at the first confidence) and how many are sent. A drafter
    that does not pay is parked: plain steps, with a probe now and then, but not before it was tried where an easier
    text than expected, or cheaper rounds, would make it pay. In the curve's own terms, whatever texts and confidences
    do, all drafting together never loses more than a first allowance (FIRST_LOSS plain steps and what WON_BACK rounds
    were expected to win before the first; UNLUCKY plain steps at least, MOST_LOSS at most), one wholly rejected round
    (the dearest there was), and LOSS + PROBE_LOSS of the time: no round, tries and probes included, begins with more
    than the other two lost. Where a decode's own times say that the curve is off, its terms are theirs.

    curve:      what a step costs here; must know `method`
    method:     the drafter, as the curve names it
    acceptance: of each slot given those before it, as far as known beforehand
    confident:  the drafter gives confidences (they should be calibrated)
    can_look:   it knows the first one before any head row: it has a confidence head
    fit:        how far confidences were off before, where they are fitted anew as rounds come in
    """

    curve: CostCurve
    method: str
    acceptance: tuple[float, ...] = ()
    confident: bool = False
    can_look: bool = True
    fit: ConfidenceFit | None = None

    @property
    def needs_confidence(self) -> bool:  # type: ignore[override]  # of this object, where Schedule has it of the class
        return self.confident

    def begin(self, max_drafts: int) -> Schedule:
        return _Learner(self, max_drafts)


def logit(p: float) -> float:
    """log(p / (1 - p)), of a probability that is kept off 0 and 1: no number of outcomes makes a slot certain."""
    p = min(max(p, 1e-4), 1 - 1e-4)
    return math.log(p / (1 - p))


def probability(z: float) -> float:
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))  # never exp of a large number


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
        self.value, self.deviation = 0.0, spread
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
            self.deviation = curvature**-0.5

    def fade(self, weight: float) -> None:
        """Let earlier outcomes weigh less."""
        for counts in self._counts.values():
            counts[0] *= weight
            counts[1] *= weight

    def apply(self, logits: Sequence[float]) -> list[float]:
        """Probabilities of predicted logits on this text."""
        return [self._probability(z) for z in logits]

    def _probability(self, z: float) -> float:
        return probability(z + self.value)


class SlotAcceptance:
    """Acceptance of each slot given those before it: the prior, shifted, until a slot has enough outcomes of its own.

    Late slots are seldom reached, so most of what is known of them comes through the shift from the early ones.
    """

    def __init__(self, prior: Sequence[float], spread: float):
        self._prior = [logit(p) for p in prior]
        self._shift = TextShift(spread)
        self._counts = [[0.0, 0.0] for _ in prior]
        self._estimate()

    def update(self, decided: int, accepted: int, unsent: Sequence[float] = ()) -> None:
        """A round: its first `accepted` drafts were accepted, of `decided` (at most one more) whose fate is known.
        `unsent`: where all that was sent was accepted, the confidence in the drafts behind it. They stand in for their
        fate, or a slot whose likely drafts alone are sent would look better than it is."""
        outcomes, reached = [(float(k < accepted), 1.0) for k in range(decided)], 1.0
        for c in unsent:
            outcomes.append((reached * c, reached))
            reached *= c
        outcomes += [(0.0, 0.0)] * (len(self._counts) - len(outcomes))
        for counts, (right, n) in zip(self._counts, outcomes, strict=True):
            counts[0] = counts[0] * DRIFT + right
            counts[1] = counts[1] * DRIFT + n
        # Not into what all slots share: an easy round's later slots are easy, however hard the rounds were that only
        # the first confidence ended.
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
        self.expected = self.supposing(0.0)

    def supposing(self, deviations: float) -> list[float]:
        """What is to be expected if this text is easier than it seems by so many standard deviations."""
        z0 = deviations * self._shift.deviation
        shifted = self._shift.apply([z + z0 for z in self._prior])
        return [(SLOT_WEIGHT * p + y) / (SLOT_WEIGHT + n) for p, (y, n) in zip(shifted, self._counts, strict=True)]


@dataclass(frozen=True)
class _Choice:
    """What a round that drafts would be: `drafts` of them, expected to win `gain` seconds against plain steps; `rate`:
    tokens per second that this text goes at; `waits` for the confidences, and before any draft for the first of them
    (`looks`). `tokens`: that one which does not wait is expected to commit."""

    drafts: int
    gain: float
    rate: float
    waits: bool = False
    looks: bool = False
    tokens: float = 1.0


class Prospects:
    """What rounds that wait for the confidences are expected to bring, before any has shown its own.

    Rounds differ in ease by more than their outcomes tell beforehand, and the confidences tell how easy one is. Here
    every slot's log-odds move with one ease of the round, spread as EASES says, such that its mean acceptance is the
    one expected.
    """

    def __init__(self) -> None:
        self.of: Sequence[float] = ()  # the acceptance that it was worked out for
        self._logits: list[float] = []  # of each slot in a round of middling ease
        self._tokens: list[list[float]] = []  # by ease, by number of drafts

    def follow(self, acceptance: Sequence[float]) -> None:
        """Expect this from now on, where it is NEWS."""
        if len(self.of) == len(acceptance) and max(map(abs, map(sub, acceptance, self.of))) <= NEWS:
            return
        steps = 1 if self._logits else 3  # Newton steps: the mean acceptance is the one expected, and near the last one
        before, self.of, self._logits = self._logits or [*map(logit, acceptance)], acceptance, []
        reached, columns = [1.0] * len(EASES), []
        for a, z in zip(acceptance, before, strict=True):
            all_ = sum(reached)
            for _ in range(steps):
                row = [1 / (1 + exp(-z - ease)) for ease in EASES]
                taken = [*map(mul, reached, row)]
                slope = sum(taken) - sum(map(mul, taken, row))
                z -= max(-2.0, min(2.0, (sum(taken) - a * all_) / max(slope, 1e-3 * all_)))
            z = max(-20.0, min(20.0, z))
            self._logits.append(z)
            reached = [r / (1 + exp(-z - ease)) for r, ease in zip(reached, EASES, strict=True)]
            columns.append(reached)
        self._tokens = [[*accumulate(row, initial=1.0)] for row in zip(*columns, strict=True)]

    def mean(self, rate: float, costs: Sequence[float]) -> tuple[float, float]:
        """Tokens and seconds of a round on average, if of each ease the best number of drafts is sent. `costs`:
        seconds by that number, from 0 on; `rate`: what a second is worth in tokens."""
        spent, brings, takes = [rate * s for s in costs], 0.0, 0.0
        for tokens in self._tokens:
            worth = [*map(sub, tokens, spent)]
            n = worth.index(max(worth))
            brings, takes = brings + tokens[n], takes + costs[n]
        return brings / len(EASES), takes / len(EASES)


class _Learner(Schedule):
    """A hardware-aware decode under way. Seconds are the curve's, but in what a plain step counts against a round the
    decode's own times have a word. The same rounds at the same times lead to the same decisions.

    A round is a plain step, or it is drafted blindly (one graph, its length known beforehand), or it waits for the
    confidences and sends what they make worthwhile: whichever promises the most tokens per second.

    Why the bound of HardwareAware holds: `_balance` is never above what drafting has truly won (capping it from
    above only lowers it), and it changes only in rounds that draft or look. `_pays` lets such a round begin only
    while the balance is above minus what is allowed: FIRST_LOSS and WON_BACK rounds as hoped before the first, within
    UNLUCKY and MOST_LOSS, and LOSS + PROBE_LOSS of the time so far. The round then adds at worst its own cost less one
    plain step, wholly rejected. Plain steps leave the balance and raise the allowance.
    """

    def __init__(self, plan: HardwareAware, max_drafts: int):
        self.plan, self.max_drafts = plan, max_drafts
        prior = [*plan.acceptance[:max_drafts]]
        prior += [prior[-1] if prior else UNKNOWN] * (max_drafts - len(prior))
        self._slots = SlotAcceptance(prior, SPREAD if plan.acceptance else WIDE)
        self._trust = TextShift()  # of the confidences: how far they are off on this text
        self._fit = plan.fit.copy() if plan.fit else None  # and in general
        self._priced_at: int | None = None
        self._elapsed = self._balance = 0.0  # seconds so far; seconds won (or lost) against plain steps
        self._parked_at: tuple[float, float] | None = None  # elapsed and balance when drafting was parked
        # What rounds that waited for their confidences were expected to bring by them: decayed sums of tokens, seconds
        # and rounds. Not as they came out: luck of single rounds is left out.
        self._waited = (0.0, 0.0, 0.0)
        self._tried = 0.0  # seconds that tries were expected to lose
        self._hopes = 0.0  # times plain that drafting comes to if the text is easier than it seems
        # Seconds where it was last priced: of rounds by (drafted, sent, mode); of those that wait by head rows
        # (0: a look decides on them) and drafts sent; of others by drafts sent.
        self._costs: dict[tuple[int, int, str], float] = {}
        self._waiting: dict[int, list[float]] = {}
        self._blind: list[float] = []
        # A plain step, as the curve has it and as it counts against rounds; how many times as long both take here.
        self._step = self._plain = self._ended = 0.0
        self._stretch = 0.0, 0.0  # seconds of the plain steps in a row by now, and the curve's
        self._step_pace, self._round_pace = deque[float](maxlen=MOST_TIMED), deque[float](maxlen=MOST_TIMED)
        self._hoped = 0.0  # seconds that a round was expected to win before the first one
        self._confidence: list[float] = []  # logits of the newest round, fitted,
        self._given: list[float] = []  # and as they came
        self._parked_steps, self._stale = 0, STALE[0]
        self._chosen: _Choice | None = None  # of the next round; None: to be worked out
        self._trial, self._tries = _Choice(0, 0.0, 0.0), False  # a blind round; only to learn what this text is like?
        self._prospects = Prospects()

    # ---- the loop asks ----

    def drafts(self, max_drafts: int, position: int) -> int:
        self._price(position)
        pays = self._pays(self._elapsed)
        choice = self._trial if self._tries else self._choice()
        self.needs_confidence, self.looks = choice.waits, choice.looks
        self._confidence = self._given = []
        return min(choice.drafts, max_drafts) if pays else 0

    def parked(self) -> bool:
        # Fading may turn the decision, so the step that completes a stale stretch is not taken as parked.
        fades = self._parked_steps + 1 == self._stale
        return not fades and not self._pays(self._elapsed + self._plain)

    def look(self, first: float, drafts: int) -> int:
        # The block is computed by now, so its cost no longer speaks against drafting; a plain step may still be better.
        self._read_confidence([first])
        acceptance = [*self._trust.apply(self._confidence), *self._slots.expected[1:]]
        rate = self._choice().rate
        worth = [t - rate * self._cost(n, n, WAITED) for n, t in enumerate(expected_tokens(acceptance))]
        # Of a plain step the look is paid, too.
        worth[0] = 1 - rate * (self._look + self._plain)
        return worth.index(max(worth))

    def proposed(self, drafted: int, confidence: Sequence[float] | None) -> int:
        if confidence is None or not self.needs_confidence:
            return drafted
        self._read_confidence(confidence)
        trusted = self._trust.apply(self._confidence)

        def sps(width: int) -> float:  # what was drafted is paid for, however little of it is sent
            return 1 / self._cost(drafted, width - 1, WAITED)

        return prefix(trusted, sps, self._slots.expected, self._choice().rate)

    def observe(self, r: Round) -> None:
        took, self._ended = r.time_s - self._ended, r.time_s
        if not r.draft_ids and not r.looked:
            self._parked_steps += 1
            self._stretch = self._stretch[0] + took, self._stretch[1] + self._step
            if self._parked_steps in PACED:
                self._end_stretch()
                self._weigh_times()
            self._observe_parked_step()
            return
        self._tried -= self._trial.gain if self._tries else 0.0
        self._chosen = None
        n, self._parked_steps = len(r.draft_ids), 0
        cost = self._cost(n, r.proposed, WAITED if self.needs_confidence else BLIND) if n else self._plain + self._look
        cost += self._wait if r.looked and n else 0.0
        self._end_stretch()
        if n and took > 0 and not r.again:
            self._round_pace.append(took / cost)
            self._weigh_times()
        self._elapsed += cost
        # Without the cap a long easy stretch would buy an equally long losing one once the text turns.
        balance = self._balance + (r.accepted + 1) * self._plain - cost
        self._balance = min(balance, MOST_CREDIT * self._stake)
        decided = min(r.accepted + 1, r.proposed)  # a rejection settles nothing about the slots behind it
        trusted, sent = self._trust.apply(self._confidence), r.proposed
        if self._confidence:
            tokens, seconds, rounds = (FORGET * x for x in self._waited)
            self._waited = tokens + expected_tokens(trusted[:sent])[-1], seconds + cost, rounds + 1
            self._trust.update((c, k < r.accepted) for k, c in enumerate(self._confidence[:decided]))
            if self._fit:
                self._fit.observe(self._given[:decided], r.accepted)
        else:
            tokens, seconds, rounds = self._waited
            self._waited = FORGET * tokens, FORGET * seconds, FORGET * rounds
        self._slots.update(decided, r.accepted, trusted[sent:] if r.accepted == sent else ())

    def _read_confidence(self, confidence: Sequence[float]) -> None:
        self._given = [logit(c) for c in confidence]
        self._confidence = self._fit.logits(self._given) if self._fit else self._given

    def _observe_parked_step(self) -> None:
        """Nothing is learned while parked, and the text goes on: the longer that lasts, the less earlier rounds say.
        The stretches double, so that a text that stays hard is probed less and less."""
        self._elapsed += self._plain
        if self._parked_steps == self._stale:
            self._parked_steps, self._stale = 0, min(2 * self._stale, STALE[1])
            self._slots.fade(0.5)
            tokens, seconds, rounds = self._waited
            self._waited = tokens / 2, seconds / 2, rounds / 2
            self._chosen = None

    def _end_stretch(self) -> None:
        """Plain steps in a row are one sample: the first of them may have put the second one onto the device, too."""
        took, cost = self._stretch
        if took > 0:
            self._step_pace.append(took / cost)
        self._stretch = 0.0, 0.0

    def _weigh_times(self) -> None:
        """Hold the decode's own times against the curve's. What counts is how much longer rounds take than plain steps:
        what slows both says nothing of drafting."""
        known = min(len(self._step_pace), len(self._round_pace))
        if known:
            rounds, steps = (sorted(p)[len(p) // 2] for p in (self._round_pace, self._step_pace))
            off = (rounds / steps) ** (known / (known + TIMED))
            # From here on a plain step counts as so many of the curve's seconds of rounds.
            self._plain = self._blind[0] = self._step / min(max(off, 1 / MOST_OFF), MOST_OFF)
            self._waiting, self._chosen = {}, None

    # ---- decisions ----

    def _choice(self) -> _Choice:
        """What a round that drafts would be. Worked out once a round."""
        if self._chosen is None:
            self._chosen = self._fastest()
        return self._chosen

    def _fastest(self) -> _Choice:
        """Drafting blindly or waiting for the confidences, whichever is expected to be faster."""
        expected, plain = self._slots.expected, 1 / self._plain
        tokens = expected_tokens(expected)
        speeds = [*map(truediv, tokens, self._blind)]
        blind = speeds.index(max(speeds[1:]), 1)
        took, fastest = self._blind[blind], speeds[blind]
        gain, rows, waits, looks = tokens[blind] * self._plain - took, blind, False, False
        self._trial = _Choice(rows, gain, max(plain, fastest), tokens=tokens[blind])
        if self.plan.confident:
            self._prospects.follow(expected)
            worth, (seen, spent, rounds) = max(plain, fastest), self._waited
            ways = [(self.max_drafts, False), (blind, self._head_rows_cost)]
            if not self.plan.can_look:  # all head rows are paid for before the first confidence is known
                ways.append((min(2 * blind, self.max_drafts), False))
            for drafts, look in dict.fromkeys(ways):
                brings, takes = self._prospects.mean(worth, self._waiting_costs(drafts, look))
                brings, takes = PATIENCE * brings + seen, PATIENCE * takes + spent
                if brings / takes > (fastest if waits else MARGIN * fastest):
                    gain = (brings * self._plain - takes) / (PATIENCE + rounds)
                    rows, waits, looks, fastest = drafts, True, look, brings / takes
        if gain <= 0:  # worked out here, for a parked step has no time for it
            hopeful = expected_tokens(self._slots.supposing(HOPE))
            self._hopes = max(map(truediv, hopeful[1:], self._blind[1:])) * self._plain
        return _Choice(rows, gain, max(plain, fastest), waits, looks)

    def _waiting_costs(self, rows: int, looks: bool) -> list[float]:
        """Seconds of a round that waits for the confidences, by the number of drafts it sends, from 0 on."""
        rows = 0 if looks else rows
        if rows not in self._waiting:
            drafted = [self._wait + self._cost(n, n, WAITED) for n in range(1, self.max_drafts + 1)]
            looked = [self._look + self._plain, *drafted]
            self._waiting[rows] = [self._cost(rows, n, WAITED) for n in range(rows + 1)] if rows else looked
        return self._waiting[rows]

    def _pays(self, elapsed: float) -> bool:
        """Draft this round? If not, because it does not pay, or as a probe that is affordable by now."""
        choice = self._choice()
        # It goes by what was hoped before the first round, which cannot grow as what is hoped now may.
        hoped = FIRST_LOSS * self._plain + WON_BACK * self._hoped
        first = min(max(hoped, UNLUCKY * self._plain), MOST_LOSS * self._plain)
        allowed = first + (LOSS + PROBE_LOSS) * elapsed
        affordable = self._balance > -allowed
        # What was lost is sunk and proves little; but of a drafter of which nothing is known it is what is known.
        may_lose = FIRST_LOSS * self._plain + WON_BACK * choice.gain + LOSS * elapsed
        pays = affordable and (bool(self.plan.acceptance) or self._balance > -may_lose)
        self._tries = pays and choice.gain <= 0 and elapsed > 0 and self._worth_trying()  # the first step: as known
        if pays and (choice.gain > 0 or self._tries):
            self._parked_at = None
            return True
        if self._parked_at is None:
            self._parked_at = elapsed, self._balance
        # A probe may lose what time parked has earned since: so all of them together cost PROBE_LOSS of that time.
        since, balance = self._parked_at
        risk = self._look if choice.looks else max(0.0, -choice.gain)
        return affordable and self._balance - balance - risk > -PROBE_LOSS * (elapsed - since)

    def _worth_trying(self) -> bool:
        """Would a round that is not expected to pay do so if this text were easier than it seems, as it may be, and
        before the first one, if rounds were cheaper? Where nothing is drafted, neither is ever learned."""
        doubt = 1.0 if self._tried else COST_DOUBT
        gain = self._trial.gain + (doubt - 1) * self._plain * self._trial.tokens
        return doubt * self._hopes > 1 and self._tried - gain < TRIES * self._plain

    def _cost(self, rows: int, sent: int, mode: str) -> float:
        """Seconds of a round where it was last priced."""
        key = rows, sent, mode
        if key not in self._costs:
            assert self._priced_at is not None
            self._costs[key] = self.plan.curve.round_s(self.plan.method, rows, sent, self._priced_at, mode)
        return self._costs[key]

    def _price(self, position: int) -> None:
        """Read the curve at this position."""
        if self._priced_at is not None and position < self._priced_at + REPRICE:
            return
        before_the_first, self._priced_at = self._priced_at is None, position
        curve, method = self.plan.curve, self.plan.method
        off = self._step / self._plain if self._step else 1.0  # as its own rounds have shown
        self._step, self._chosen = curve.plain_s(position), None
        self._plain = self._step / off
        self._costs, self._waiting = {}, {}
        self._blind = [self._plain, *(self._cost(n, n, BLIND) for n in range(1, self.max_drafts + 1))]
        if self.plan.confident:
            self._look, self._wait = curve.look_s(method, position), curve.wait_s(method)
            first_row = curve.draft_s(method, 1, position) - self._look
            self._head_rows_cost = self.plan.can_look and first_row > WORTH_LOOKING * self._plain + self._wait
        tokens = expected_tokens(self._slots.expected)
        rounds = [*zip(tokens, self._blind, strict=True)][1:]
        _, dearest = max(rounds, key=lambda r: r[0] / r[1])
        self._stake = dearest - self._plain  # what a wholly rejected round loses
        if before_the_first:
            guess = max(t * self._plain - s for t, s in rounds)
            self._hoped = max(0.0, guess + (OPTIMISM * self._plain if self.plan.confident else 0.0))
