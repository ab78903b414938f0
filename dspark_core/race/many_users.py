"""Many users at once, simulated: requests that replay recorded rounds of finished races through one batch.

All requests step together: one pass of the target checks what each of them sends. What is sent is nothing (plain
decoding), the same number of drafts for everybody, or what the paper's Algorithm 1 says for all of them together
(decode/adaptive.py), given each draft's confidence and what a pass over so many tokens costs. A request goes through
its recording round by round and begins again at its end. It is a simulation: no model is asked. Pure; no MLX.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from operator import mul

from ..decode.adaptive import algorithm1
from ..decode.batch_rows import BatchRows
from .forecast import SAME, draft_outcomes, slot_acceptance
from .records import LaneRecord
from .what_if import RoundCosts

FEWEST_STEPS, MOST_ROUNDS = 64, 3000  # of a simulation: steps, and rounds of all requests where that allows it
USERS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


@dataclass(frozen=True, slots=True)
class Replayed:
    """A recorded round, to be sent anew.

    confidence: of each draft; where the race asked for none, or drafted less, the mean acceptance of that slot
    reached:    [drafts] 1 where a draft and all before it were right and stand in the answer, else 0; what the race
                left open is the mean
    drafted:    how many drafts the race itself made
    sent:       how many of them it sent
    """

    confidence: tuple[float, ...]
    reached: tuple[float, ...]
    drafted: int
    sent: int

    def tokens(self, sent: int) -> float:
        """Of this round, if so many drafts are sent: those accepted and the target's own."""
        return 1 + sum(self.reached[:sent])


@dataclass(frozen=True)
class Recording:
    """The rounds of one lane; `sure`: how many of them came with confidences."""

    rounds: tuple[Replayed, ...]
    sure: int

    @staticmethod
    def of(lane: LaneRecord, greedy: bool, means: Sequence[float]) -> "Recording":
        """`means` [drafts]: acceptance of each slot given the ones before it, where the lane says nothing."""
        most, decided = len(means), iter(draft_outcomes(lane, greedy))
        rounds, sure = [], 0
        for r in lane.rounds:
            certain, right = next(decided) if (r.draft_ids if greedy else r.proposed) else (0, 0)
            if r.finish and right >= len(r.committed):  # the answer ends inside what was accepted
                certain, right = most, len(r.committed) - 1
            given, known = tuple(r.confidence or ()), [float(k < right) for k in range(certain)]
            sure += bool(given)
            follows = accumulate(means[certain:], mul) if right >= certain else [0.0] * (most - certain)
            confidence = (*given, *means[len(given) :])
            rounds.append(Replayed(confidence, (*known, *follows), len(r.draft_ids), r.proposed))
        return Recording(tuple(rounds), sure)

    @staticmethod
    def together(lanes: Sequence[tuple[LaneRecord, bool]]) -> "tuple[Recording, ...]":
        """Of lanes of one drafter, each with whether its race was greedy; none where nothing was drafted. What is not
        known of one is the mean of all, and what none ever reached counts as refused."""
        means = slot_acceptance([outcome for lane, greedy in lanes for outcome in draft_outcomes(lane, greedy)])
        most = max((len(r.draft_ids) for lane, _ in lanes for r in lane.rounds), default=0)
        means = [*means, *[0.0] * (most - len(means))]
        return tuple(Recording.of(lane, greedy, means) for lane, greedy in lanes if lane.rounds) if means else ()


@dataclass(frozen=True)
class BatchCosts:
    """What a step of all requests together takes: a round's measured costs, and by `passes` what more tokens in one
    pass take beside that. Drafting for several is taken to grow as the target's pass over as many tokens does."""

    rounds: RoundCosts
    passes: BatchRows

    @property
    def most(self) -> int:
        return len(self.rounds.verify) - 1

    def plain_s(self, users: int) -> float:
        """A step of plain decoding."""
        return self._pass_s(users, 0.0)

    def draft_s(self, users: int, drafted: int) -> float:
        """So many drafts for every request."""
        most = max(1, self.most)
        return self.rounds.draft[drafted] * self.passes.seconds(users * most) / self.passes.seconds(most)

    def step_s(self, users: int, drafted: int, sent: int) -> float:
        """A step that drafts so many for every request and sends `sent` in all."""
        return self.draft_s(users, drafted) + self._pass_s(users + sent, sent / users)

    def _pass_s(self, rows: int, sent: float) -> float:
        """A pass over `rows` tokens, of requests that send so many drafts on average: what a decode's own rounds of
        that length take is known, so it is as much dearer than measured as theirs."""
        low = min(int(sent), self.most)
        ratios = [self.rounds.verify[n] / self.passes.seconds(n + 1) for n in (low, min(low + 1, self.most))]
        return self.passes.seconds(rows) * (ratios[0] + (sent - low) * (ratios[1] - ratios[0]))


@dataclass(frozen=True, slots=True)
class Throughput:
    """What so many requests come to. tok_s: of all together; each: of one of them; sent: drafts a request and step;
    rows: tokens in one pass, on average; parked: the schedule found that drafting does not pay here."""

    users: int
    tok_s: float
    sent: float
    rows: float
    parked: bool = False

    @property
    def each(self) -> float:
        return self.tok_s / self.users


@dataclass(frozen=True)
class ManyUsers:
    """The simulation of one drafter's recordings on one machine. Every request replays all of them in order; `seed`
    decides where each begins, and so which rounds meet in a batch."""

    recordings: tuple[Recording, ...]
    costs: BatchCosts
    seed: int = 0

    @cached_property
    def drafts(self) -> int:
        """The longest block that recordings and costs both know."""
        return min(self.costs.most, *(len(r.rounds[0].reached) for r in self.recordings))

    def plain(self, users: int) -> Throughput:
        return Throughput(users, users / self.costs.plain_s(users), 0.0, users)

    def fixed(self, users: int, drafts: int) -> Throughput:
        """Every request sends so many drafts, every round."""
        batches = self._batches(users)
        return self._served(users, [drafts] * len(batches), batches, [[drafts] * users] * len(batches))

    def as_raced(self, users: int) -> Throughput:
        """Every request drafts and sends what the race itself did; in a batch drafting takes as long as the longest."""
        batches = self._batches(users)
        sent = [[min(r.sent, self.drafts) for r in batch] for batch in batches]
        drafted = [min(max(r.drafted for r in batch), self.drafts) for batch in batches]
        return self._served(users, drafted, batches, sent)

    def schedule(self, users: int) -> Throughput:
        """The confidence schedule: everybody drafts a block, and Algorithm 1 says how many drafts of each are sent.
        Before it drafts at all it goes by how that went on these rounds in another order: where it did not pay, beyond
        what such a prediction may be off, it decodes plainly."""
        plain = self.plain(users)
        if self._scheduled(users, "rehearsal").tok_s <= (1 + SAME) * plain.tok_s:
            return Throughput(users, plain.tok_s, 0.0, plain.rows, True)
        return self._scheduled(users)

    def _scheduled(self, users: int, order: str = "") -> Throughput:
        def steps_a_second(rows: int) -> float:
            if rows not in known:
                known[rows] = 1 / self.costs.step_s(users, self.drafts, rows - users)
            return known[rows]

        known: dict[int, float] = {}
        batches = self._batches(users, order)
        sent = [algorithm1([r.confidence[: self.drafts] for r in batch], steps_a_second) for batch in batches]
        return self._served(users, [self.drafts] * len(batches), batches, sent)

    def _served(
        self, users: int, drafted: Sequence[int], batches: Sequence[list[Replayed]], sent: Sequence[list[int]]
    ) -> Throughput:
        """By step: how many drafts are made for every request, whose rounds meet, and how many drafts of each are
        sent."""
        tokens = seconds = 0.0
        for most, batch, lengths in zip(drafted, batches, sent, strict=True):
            tokens += sum(r.tokens(n) for r, n in zip(batch, lengths, strict=True))
            seconds += self.costs.step_s(users, most, sum(lengths))
        each = sum(map(sum, sent)) / len(batches)
        return Throughput(users, tokens / seconds, each / users, users + each)

    @cached_property
    def _rounds(self) -> list[Replayed]:
        return [r for recording in self.recordings for r in recording.rounds]

    def _batches(self, users: int, order: str = "") -> list[list[Replayed]]:
        """Every step's rounds, one a request: as many steps as each needs to go through all of them once, or of a large
        crowd fewer."""
        rounds, total = self._rounds, len(self._rounds)
        at = [random.Random(f"{self.seed} {order} {user}").randrange(total) for user in range(users)]
        steps = min(total, max(FEWEST_STEPS, MOST_ROUNDS // users))
        return [[rounds[(k + step) % total] for k in at] for step in range(steps)]
