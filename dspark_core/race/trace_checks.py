"""Is it a race? Everything that a saved race says of itself is held against its own rounds.

A file may have been edited. What its rounds refute is refused with the place where it stands; what they decide (a
verdict's kind and words, a lane's label, whether an inspection agrees) is worked out anew here and never taken from the
file. What only the models could tell, such as a logit's distance, is believed as far as nothing in the file denies it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..decode.rounds import Again, Detail, Round, Settings, Start
from ..decode.schedule import ConfidenceThreshold, CumulativeThreshold
from .codec import Misfit
from .inspection import AGAIN, fates_of
from .inspection_checks import checked_inspection
from .records import (
    CAP,
    CONFIDENCE,
    CUMULATIVE,
    FULL,
    HARDWARE,
    PLAIN,
    SCHEDULES,
    Difference,
    LaneRecord,
    LaneSpec,
    RaceRecord,
    Verdict,
)
from .verdict_words import kind_of, parted, verdict_words

MAX_NAME, MAX_WORDS = 200, 4000
MAX_STEPS = 500_000
MAX_SECONDS = 1e7
MAX_ULP = 8.0  # of a logit: one of 1,024 in bfloat16
FINISHES = (None, "stop", "length", "context")
VERDICTS = ("identical", "tie", "divergence", "sampled", "none")
THRESHOLDS = {CONFIDENCE: ConfidenceThreshold, CUMULATIVE: CumulativeThreshold}


def require(holds: bool, words: str, *steps: str | int) -> None:
    """Raises Misfit at `steps`."""
    if not holds:
        raise Misfit(words, steps)


@dataclass(frozen=True)
class LaneChecks:
    """What a lane is held against.

    stops:  ids that end an answer
    tokens: id -> text, of every id that occurs
    exact:  True if the device gives the same numbers again, False if it does not, None if that is not known
    """

    race: RaceRecord
    stops: frozenset[int]
    tokens: Mapping[int, bytes]
    exact: bool | None

    @property
    def settings(self) -> Settings:
        return self.race.request.settings

    def lane(self, lane: LaneRecord) -> LaneRecord:
        """The lane, with what its rounds decide put in the place of what it says. Raises Misfit."""
        self._spec(lane.spec)
        require(lane.error is None or len(lane.error) <= MAX_WORDS, "is too long", "error")
        require(lane.start is not None or not lane.rounds, "come without a start", "rounds")
        if lane.start is not None:
            self._start(lane.start)
            require(lane.start.finish is None or not lane.rounds, "come after the lane had ended", "rounds")
            self._rounds(lane)
        require(lane.error is None or lane.finish is None, "is of a lane that came to its end", "error")
        seen = [i.index for i in lane.inspections]
        require(len(set(seen)) == len(seen), "has one round twice", "inspections")
        inspections = []
        for k, inspection in enumerate(lane.inspections):
            try:
                require(0 <= inspection.index < len(lane.rounds), "is no round of this lane", "index")
                round_ = lane.rounds[inspection.index]
                inspections.append(checked_inspection(inspection, round_, self.settings, self.tokens, self.stops))
                if self.exact:
                    _same_numbers(inspection.block.slots, round_.detail)
            except Misfit as misfit:
                raise misfit.inside(k).inside("inspections") from None
        return replace(lane, spec=labelled(lane.spec, lane.rounds), inspections=inspections)

    def _spec(self, spec: LaneSpec) -> None:
        require(0 < len(spec.method) <= MAX_NAME, "is empty or too long", "spec", "method")
        require(len(spec.label) <= MAX_NAME, "is too long", "spec", "label")
        require(spec.schedule in SCHEDULES, "is no known schedule", "spec", "schedule")
        require(spec.cap >= 0, "is negative", "spec", "cap")
        require(0 <= spec.threshold <= 1, "is not between 0 and 1", "spec", "threshold")

    def _start(self, start: Start) -> None:
        require(0 <= start.prefill_s <= MAX_SECONDS, "is no time", "start", "prefill_s")
        same = start.position == self.race.prompt_tokens
        require(same, f"is not {self.race.prompt_tokens}, the number of prompt tokens", "start", "position")
        require(start.token_id in self.tokens, "has no text in tokens", "start", "token_id")
        try:
            self._end((start.token_id,), 0, start.finish)
        except Misfit as misfit:
            raise misfit.inside("start") from None

    def _rounds(self, lane: LaneRecord) -> None:
        """Every round goes on where the one before ended."""
        before: Start | Round = lane.start
        position, anchor, time_s, produced, unclean = lane.start.position, lane.start.token_id, 0.0, 1, 0
        for k, r in enumerate(lane.rounds):
            try:
                require(k == 0 or before.finish is None, "comes after the lane had ended")
                require(r.index == k, f"is not {k}, its place in the list", "index")
                require(r.position == position, f"is not {position}, where the round before ended", "position")
                require(r.anchor_id == anchor, "is not the token that the round before ended with", "anchor_id")
                self._outcome(r, produced)
                self._sent(r, lane.spec)
                self._detail(r, r.detail)
                require(time_s <= r.time_s <= MAX_SECONDS, "is before the round before", "time_s")
                self._times(r, r.time_s - time_s)
                if r.again is not None:
                    self._again(r, r.again, lane.spec, unclean)
            except Misfit as misfit:
                raise misfit.inside(k).inside("rounds") from None
            before, position, anchor, time_s = r, r.position + r.accepted + 1, r.next_id, r.time_s
            produced += len(r.committed)
            unclean = 0 if r.again else unclean + r.accepted + 1

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
            require(shares(r.confidence), "is not between 0 and 1", "confidence")
        require(not r.looked or spec.schedule == HARDWARE, "is true, and this schedule does not look", "looked")
        wanted = None
        if spec.schedule in THRESHOLDS and drafts:
            require(r.confidence is not None, "is missing, and the schedule decides by it", "confidence")
            wanted = THRESHOLDS[spec.schedule](spec.threshold).proposed(drafts, list(r.confidence))
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
            require(shares(numbers), "is not between 0 and 1", "detail", name)
        for k, (q, p, accept) in enumerate(zip(detail.q, detail.p, detail.accept, strict=True)):
            require(is_ratio(accept, q, p), "is not min(1, p/q)", "detail", "accept", k)
            require(k >= r.accepted or p > 0, "is 0, and the draft was accepted", "detail", "p", k)
        refused = not r.bonus and r.accepted < r.proposed
        explained = not refused or detail.p[r.accepted] <= detail.q[r.accepted]
        require(explained, "is above q, and the draft was rejected", "detail", "p", r.accepted)

    def _times(self, r: Round, seconds: float) -> None:
        if r.spent is not None:
            spent = (r.spent.draft, r.spent.verify, r.spent.rest)
            require(self.race.request.profile, "is of a profiled race, and this one was not", "spent")
            require(min(spent) >= -1e-6, "is no time", "spent")
            require(within(sum(spent), seconds), "is more than the round took", "spent")
        if r.again is not None:
            require(within(r.again.seconds, seconds), "is more than the round took", "again", "seconds")

    def _again(self, r: Round, again: Again, spec: LaneSpec, unclean: int) -> None:
        """Strict mode: `unclean` tokens were committed since plain decoding's own cache was last up to date."""
        strict = self.race.request.strict and self.settings.greedy and spec.method != PLAIN and self.race.noise
        require(bool(strict), "is of a strict lane with a drafter on a device with noise, and this is none", "again")
        inside = 1 <= again.positions <= r.accepted + 1
        require(inside, "is not between 1 and the tokens of the round", "again", "positions")
        require(again.positions <= again.steps <= MAX_STEPS, "is less than the positions", "again", "steps")
        require(again.steps <= unclean + r.proposed + 1, "is more than there were tokens", "again", "steps")
        require(again.seconds >= 0, "is no time", "again", "seconds")


def shares(numbers: tuple[float, ...]) -> bool:
    """Are they probabilities?"""
    return not numbers or (min(numbers) >= 0 and max(numbers) <= 1.001)  # float32 sums may pass 1 by a little


def is_ratio(accept: float, q: float, p: float) -> bool:
    """Is it min(1, p/q), up to float32's rounding?"""
    return abs(accept - min(1.0, p / max(q, 1e-38))) <= 1e-4


def within(seconds: float, whole: float) -> bool:
    """A part of a round's time, up to what two readings of a clock differ by."""
    return seconds <= whole * 1.001 + 1e-3


def _same_numbers(slots: tuple, detail: Detail | None) -> None:
    """Where a device gives the same numbers again, an inspection shows those that the race wrote down."""
    for name in ("q", "p") if detail is not None else ():
        for k, (slot, number) in enumerate(zip(slots, getattr(detail, name), strict=False)):
            value = getattr(slot, name)
            same = value is None or abs(value - number) <= 0.02
            require(same, "is not what the race wrote down", "block", "slots", k, name)


def labelled(spec: LaneSpec, rounds: list[Round]) -> LaneSpec:
    """The lane's settings with the words that they have on the page: a file's own only where they say the same."""
    drafts = {len(r.draft_ids) for r in rounds if r.draft_ids}
    block = re.fullmatch(r"block (\d{1,4})", spec.label)
    slots = int(block[1]) if block else 0  # of which all are drafts, or all but the anchor's
    if spec.method == PLAIN:
        words, fits = "", False
    elif spec.schedule == FULL:
        words, fits = "full block", bool(block) and all(slots - n in (0, 1) for n in drafts)
    elif spec.schedule == CAP:
        words, fits = f"cap {spec.cap}", bool(block) and slots - spec.cap in (0, 1)
    elif spec.schedule == HARDWARE:
        words, fits = "hardware-aware", False
    else:
        what = "confidence" if spec.schedule == CONFIDENCE else "product"
        words, fits = f"{what} ≥ {spec.threshold:.2f}", False
    return spec if fits or not spec.label else replace(spec, label=words)


# ---- the verdict ----------------------------------------------------------------------------------------


def checked_verdict(race: RaceRecord) -> Verdict | None:
    """The verdict that the outputs give, with the distances that were measured. Raises Misfit."""
    given = race.verdict
    if given is None:
        return None
    require(given.kind in VERDICTS, "is no known verdict", "race", "verdict", "kind")
    require(not race.stopped, "is of a race that was stopped before its end", "race", "verdict")
    for k, lane in enumerate(race.lanes):
        ended = lane.error is not None or lane.finish is not None
        require(ended, f"is given, and lane {k + 1} did not come to its end", "race", "verdict")
    settings, parts = race.request.settings, {}
    if settings.greedy:
        parts = parted(race.lanes)
    told = {d.lane: d.index for d in given.differences}
    once = len(told) == len(given.differences)
    require(once and told == parts, _parts_words(parts), "race", "verdict", "differences")
    differences = tuple(_checked_difference(d, k, race) for k, d in enumerate(given.differences))
    kind = kind_of(race.lanes, settings, differences)
    same = given.kind == kind or {given.kind, kind} == {"tie", "divergence"}
    require(same, f"is {given.kind!r}, and the lanes' outputs make it {kind!r}", "race", "verdict", "kind")
    return Verdict(kind, verdict_words(kind, differences, race.lanes, settings), differences)


def _parts_words(parts: dict[int, int]) -> str:
    if not parts:
        return "name a difference, and there is none to be judged"
    return "are not where the outputs part: " + ", ".join(f"lane {i + 1} at token {at + 1}" for i, at in parts.items())


def _checked_difference(d: Difference, index: int, race: RaceRecord) -> Difference:
    """With `tie` as its numbers have it. A token that only one output has is no matter of rounding."""
    place = "race", "verdict", "differences", index
    for name in ("gap", "needed", "noise"):
        value = getattr(d, name)
        require(value is None or value >= 0, "is negative", *place, name)
    require(0 < d.ulp <= MAX_ULP, "is no unit in the last place of a logit", *place, "ulp")
    outputs = [lane.output for lane in race.lanes if lane.error is None and not lane.spec.speculative]
    reference = outputs[0] if outputs else next(lane.output for lane in race.lanes if lane.error is None)
    both = d.index < min(len(reference), len(race.lanes[d.lane].output))
    # Of two different tokens one at most is the best, so the other is no better than the second.
    require(not both or d.needed >= d.gap - 1e-6, "is less than the gap of the two best", *place, "needed")
    believed = d.noise if race.noise is None or d.noise is None else min(d.noise, race.noise)
    d = replace(d, noise=believed)
    return replace(d, tie=both and d.rounding_decides)
