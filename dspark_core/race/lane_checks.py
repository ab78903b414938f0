"""Is a saved lane one that a decode can have made? Its rounds are held against each other and against what was asked.

What the rounds refute is refused with the place where it stands; what they decide (the label, whether an inspection
agrees) is worked out anew. What only the models could tell, such as a probability, is believed as far as nothing in the
file denies it.
"""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..decode.rounds import Again, Detail, Round, Settings, Start
from ..decode.schedule import ConfidenceThreshold, CumulativeThreshold
from .inspection import AGAIN, Inspection, fates_of
from .inspection_checks import InspectionChecks
from .lane_spec import block_in, label_of
from .records import CAP, CONFIDENCE, CUMULATIVE, FULL, HARDWARE, PLAIN, SCHEDULES, LaneRecord, LaneSpec, RaceRecord
from .schema import Place, require

MAX_NAME, MAX_WORDS = 200, 4000  # characters
MAX_STEPS = 500_000
MAX_SECONDS = 1e7
FINISHES = (None, "stop", "length", "context")
THRESHOLD_SCHEDULES = {CONFIDENCE: ConfidenceThreshold, CUMULATIVE: CumulativeThreshold}


@dataclass(frozen=True)
class LaneChecks:
    """What a lane is held against.

    stops:    ids that end an answer
    tokens:   id -> text, of every id that occurs
    drafters: method -> name, block and precision, as the file has it
    exact:    True if the device gives the same numbers again, False if it does not, None if that is not known
    """

    race: RaceRecord
    stops: frozenset[int]
    tokens: Mapping[int, bytes]
    drafters: Mapping[str, str]
    exact: bool | None

    @property
    def settings(self) -> Settings:
        return self.race.request.settings

    def checked(self, lane: LaneRecord) -> LaneRecord:
        """The lane, with what its rounds decide put in the place of what the file says of them. Raises Misfit."""
        self._spec(lane.spec)
        require(lane.error is None or len(lane.error) <= MAX_WORDS, "is too long", "error")
        require(lane.start is not None or not lane.rounds, "come without a start", "rounds")
        if lane.start is not None:
            self._start(lane.start)
            require(lane.start.finish is None or not lane.rounds, "come after the lane had ended", "rounds")
            self._rounds(lane, lane.start)
        require(lane.error is None or lane.finish is None, "is of a lane that came to its end", "error")
        indices = {inspection.index for inspection in lane.inspections}
        require(len(indices) == len(lane.inspections), "has one round twice", "inspections")
        inspections = []
        for k, inspection in enumerate(lane.inspections):
            with Place("inspections", k):
                inspections.append(self._inspection(inspection, lane.rounds))
        return replace(lane, spec=self._labelled(lane.spec, lane.rounds), inspections=inspections)

    def _spec(self, spec: LaneSpec) -> None:
        with Place("spec"):
            require(0 < len(spec.method) <= MAX_NAME, "is empty or too long", "method")
            alike = spec.method != PLAIN and self._reads_like_plain(spec.method)
            require(not alike, f"is not {PLAIN!r}, and reads like it", "method")
            require(len(spec.label) <= MAX_NAME, "is too long", "label")
            require(spec.schedule in SCHEDULES, "is no known schedule", "schedule")
            require(spec.cap >= 0, "is negative", "cap")
            require(0 <= spec.threshold <= 1, "is not between 0 and 1", "threshold")

    @staticmethod
    def _reads_like_plain(method: str) -> bool:
        """In capitals, with accents or what cannot be seen, written backwards, or with letters of another alphabet."""
        letters = unicodedata.normalize("NFKD", method).casefold()
        word = "".join(c for c in letters if c.isprintable() and not c.isspace() and not unicodedata.combining(c))
        pairs = [list(zip(order, PLAIN, strict=False)) for order in (word, word[::-1])]
        return len(word) == len(PLAIN) and any(
            sum(a == b for a, b in order) > 1 and all(a == b or not a.isascii() for a, b in order) for order in pairs
        )

    def _start(self, start: Start) -> None:
        with Place("start"):
            require(0 <= start.prefill_s <= MAX_SECONDS, "is no time", "prefill_s")
            same = start.position == self.race.prompt_tokens
            require(same, f"is not {self.race.prompt_tokens}, the number of prompt tokens", "position")
            require(start.token_id in self.tokens, "has no text in tokens", "token_id")
            self._end((start.token_id,), 0, start.finish)

    def _rounds(self, lane: LaneRecord, start: Start) -> None:
        """Every round goes on where the one before ended."""
        before: Start | Round = start
        position, anchor, time_s, produced, unclean = start.position, start.token_id, 0.0, 1, 0
        slots = self._block_of(lane.spec)
        for k, r in enumerate(lane.rounds):
            with Place("rounds", k):
                require(k == 0 or before.finish is None, "comes after the lane had ended")
                require(r.index == k, f"is not {k}, its place in the list", "index")
                require(r.position == position, f"is not {position}, where the round before ended", "position")
                require(r.anchor_id == anchor, "is not the token that the round before ended with", "anchor_id")
                self._outcome(r, produced)
                require(len(r.draft_ids) <= slots, f"are more than the drafter's block of {slots}", "draft_ids")
                self._sent(r, lane.spec)
                self._detail(r, r.detail)
                require(time_s <= r.time_s <= MAX_SECONDS, "is before the round before", "time_s")
                self._times(r, r.time_s - time_s)
                if r.again is not None:
                    self._again(r, r.again, lane.spec, unclean)
            before, position, anchor, time_s = r, r.position + r.accepted + 1, r.next_id, r.time_s
            produced += len(r.committed)
            unclean = 0 if r.again else unclean + r.accepted + 1

    def _block_of(self, spec: LaneSpec) -> int:
        """Slots of the lane's drafter, where the file names them; else more than any drafter has."""
        named = re.search(r", block (\d{1,4}), [^,]*$", self.drafters.get(spec.drafter or spec.method, ""))
        return int(named[1]) if named else MAX_STEPS

    def _outcome(self, r: Round, produced: int) -> None:
        """Drafts, acceptance and committed tokens, after `produced` earlier tokens of the answer."""
        require(0 <= r.proposed <= len(r.draft_ids), "is not between 0 and the number of drafts", "proposed")
        require(0 <= r.accepted <= r.proposed, "is not between 0 and the number proposed", "accepted")
        require(self.tokens.keys() >= {r.next_id, *r.draft_ids}, "has a token without a text in tokens")
        gained = (*r.draft_ids[: r.accepted], r.next_id)
        whole = r.committed == gained or (r.finish is not None and r.committed == gained[: len(r.committed)])
        require(whole and bool(r.committed), "are not the accepted drafts and the next token", "committed")
        sent = r.draft_ids[: r.proposed]
        stop = next((k for k, t in enumerate(sent) if t in self.stops), None)
        most = r.proposed if stop is None else stop + 1
        require(r.accepted <= most, "counts drafts behind a stop token", "accepted")
        require(not r.bonus or r.accepted == most, "is true after a rejection", "bonus")
        require(r.bonus or r.accepted < most, "is false, though nothing was rejected", "bonus")
        if fates_of(r)[1] == AGAIN:
            decided = r.again is not None and r.again.changed
            require(decided, "is the very draft that was rejected there", "next_id")
        self._end(r.committed, produced, r.finish)

    def _end(self, committed: tuple[int, ...], produced: int, finish: str | None) -> None:
        """Does the answer end with these tokens, and for that reason?"""
        most, count = self.settings.max_tokens, produced + len(committed)
        require(finish in FINISHES, "is no known reason", "finish")
        require(not self.stops & set(committed[:-1]), "go on after a stop token", "committed")
        require(count <= most, f"make {count} tokens, and at most {most} were asked for", "committed")
        stopped = committed[-1] in self.stops
        require(stopped == (finish == "stop"), "does not fit the last token" if finish else "is missing", "finish")
        require(finish != "length" or count == most, f"is 'length' at token {count} of {most}", "finish")
        require(finish != "context" or count < most, f"is 'context' at token {count} of {most}", "finish")

    def _sent(self, r: Round, spec: LaneSpec) -> None:
        """What was drafted and sent is what the lane's schedule sends."""
        drafts = len(r.draft_ids)
        if spec.method == PLAIN:
            require(not drafts, "are drafts in a plain lane", "draft_ids")
            require(r.confidence is None, "is of a plain lane", "confidence")
        if r.confidence is not None:
            require(len(r.confidence) == drafts, "is not one number a draft", "confidence")
            require(self._shares(r.confidence), "is not between 0 and 1", "confidence")
        looks = spec.schedule == HARDWARE and spec.method != PLAIN
        require(not r.looked or looks, "is true, and this schedule does not look", "looked")
        wanted = None
        if spec.schedule in THRESHOLD_SCHEDULES and drafts:
            confidence = list(r.confidence or ())
            require(bool(confidence), "is missing, and the schedule decides by it", "confidence")
            wanted = THRESHOLD_SCHEDULES[spec.schedule](spec.threshold).proposed(drafts, confidence)
        elif spec.schedule == CAP:
            require(drafts <= spec.cap, f"are more than the cap of {spec.cap}", "draft_ids")
            wanted = drafts
        elif spec.schedule == FULL:
            wanted = drafts
        fits = wanted is None or r.proposed == wanted
        require(fits, f"is not {wanted}, which the lane's schedule sends of these", "proposed")

    def _detail(self, r: Round, detail: Detail | None) -> None:
        """The recorded numbers explain what was accepted. Greedy rounds have none, sampled ones always do."""
        if detail is None:
            require(self.settings.greedy or not r.proposed, "is missing, and this race was sampled", "detail")
            return
        require(not self.settings.greedy, "is of a sampled round, and this race is greedy", "detail")
        for name in ("q", "p", "accept"):
            numbers = getattr(detail, name)
            require(len(numbers) == r.proposed, "is not one number a proposed draft", "detail", name)
            require(self._shares(numbers), "is not between 0 and 1", "detail", name)
        for k, (q, p, accept) in enumerate(zip(detail.q, detail.p, detail.accept, strict=True)):
            require(q > 0, "is 0, and the drafter drew it", "detail", "q", k)
            require(abs(accept - min(1.0, p / q)) <= 1e-4, "is not min(1, p/q)", "detail", "accept", k)
            require(k >= r.accepted or p > 0, "is 0, and the draft was accepted", "detail", "p", k)
        refused = not r.bonus and r.accepted < r.proposed
        explained = not refused or detail.p[r.accepted] <= detail.q[r.accepted]
        require(explained, "is above q, and the draft was rejected", "detail", "p", r.accepted)

    def _times(self, r: Round, seconds: float) -> None:
        if r.spent is not None:
            spent = (r.spent.draft, r.spent.verify, r.spent.rest)
            require(self.race.request.profile, "is of a profiled race, and this one was not", "spent")
            require(min(spent) >= -1e-6, "is no time", "spent")
            require(self._within(sum(spent), seconds), "is more than the round took", "spent")
            require(self._within(seconds / 2, sum(spent)), "leaves out most of what the round took", "spent")
        if r.again is not None:
            require(self._within(r.again.seconds, seconds), "is more than the round took", "again", "seconds")

    def _again(self, r: Round, again: Again, spec: LaneSpec, unclean: int) -> None:
        """Strict mode: `unclean` tokens were committed since plain decoding's own cache was last up to date."""
        strict = self.race.request.strict and self.settings.greedy and spec.method != PLAIN and self.race.noise
        require(bool(strict), "is of a strict lane with a drafter on a device with noise, and this is none", "again")
        inside = 1 <= again.positions <= r.accepted + 1
        require(inside, "is not between 1 and the tokens of the round", "again", "positions")
        require(again.positions <= again.steps <= MAX_STEPS, "is less than the positions", "again", "steps")
        require(again.steps <= unclean + r.proposed + 1, "is more than there were tokens", "again", "steps")
        require(again.seconds >= 0, "is no time", "again", "seconds")

    def _inspection(self, inspection: Inspection, rounds: list[Round]) -> Inspection:
        require(0 <= inspection.index < len(rounds), "is no round of this lane", "index")
        round_ = rounds[inspection.index]
        # A device that rounds may give other numbers the next time, though none that turn a probability over.
        tolerance = 0.02 if self.exact else 0.5
        for name in ("q", "p") if round_.detail is not None else ():
            for k, (slot, number) in enumerate(zip(inspection.block.slots, getattr(round_.detail, name), strict=False)):
                value = getattr(slot, name)
                same = value is None or abs(value - number) <= tolerance
                require(same, "is not what the race wrote down", "block", "slots", k, name)
        return InspectionChecks(round_, self.settings, self.tokens, self.stops).checked(inspection)

    @staticmethod
    def _shares(numbers: tuple[float, ...]) -> bool:
        """Are they probabilities?"""
        return not numbers or (min(numbers) >= 0 and max(numbers) <= 1.001)  # float32 sums may pass 1 by a little

    @staticmethod
    def _within(seconds: float, whole: float) -> bool:
        """A part of a round's time, up to what two readings of a clock differ by."""
        return seconds <= whole * 1.001 + 1e-3

    @staticmethod
    def _labelled(spec: LaneSpec, rounds: list[Round]) -> LaneSpec:
        """The lane's settings with the words that they have on the page: a file's own only where they say the same."""
        drafts = {len(r.draft_ids) for r in rounds if r.draft_ids}
        slots = block_in(spec.label)  # of which all are drafts, or all but the anchor's
        full = spec.schedule == FULL and all(slots - n in (0, 1) for n in drafts)
        capped = spec.schedule == CAP and slots - spec.cap in (0, 1)
        words = label_of(spec, slots if full or capped else 0)
        return replace(spec, label=words) if spec.label else spec
