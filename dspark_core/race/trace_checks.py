"""Is it a race? What a saved race says of itself is held against its own lanes, and the lanes against their rounds.

A file may have been edited. What its rounds refute is refused with the place where it stands; a verdict's kind and
words are worked out anew and never taken from the file.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ..decode.cost_curve import MOST_METHODS, WIDEST
from ..machine import device_of
from .lane_checks import MAX_NAME, MAX_SECONDS, LaneChecks
from .records import MAX_EARLIER, MAX_EXCHANGES, MAX_SYSTEM, Difference, LaneRecord, PassCosts, RaceRecord, Verdict
from .schema import Place, require
from .verdict_words import kind_of, parted, participants, verdict_words

MAX_LANES = 4
MAX_TOKENS = 500_000  # tokens on the board, drafts included
MAX_BOARD_BYTES = 16_000_000
MIN_SECONDS = 1e-6  # of a round: less than it takes to start a kernel
MAX_ULP = 2.0  # of a logit: one of 256 to 511 in bfloat16
# What rounding can move a logit by, 4 * eps * logit * sqrt(layers) in decode/strict.py, in units of the last place.
MAX_NOISE_ULPS = 64
# Units smaller than this are float32's, which GPUs may multiply with 13 bits of mantissa less.
FLOAT32_ULP, FLOAT32_LOSS = 2.0**-14, 2**13
MAX_NOISE = 8.0  # of logits, where the file says what was measured on the device: more is no rounding
VERDICTS = ("identical", "tie", "divergence", "sampled", "none")


def ids_of(lane: LaneRecord) -> Iterator[int]:
    """Every token id on the lane's board, as often as it stands there."""
    if lane.start:
        yield lane.start.token_id
    for r in lane.rounds:
        yield from r.draft_ids
        yield r.next_id


@dataclass(frozen=True)
class RaceChecks:
    """What a race is held against.

    tokens, at_start: id -> text, of every id that occurs; of those that begin an answer otherwise
    stop_ids:         those that end an answer and occur in `tokens`
    drafters:         method -> name, block and precision
    machine:          as in dspark_core/machine.py
    """

    tokens: Mapping[int, bytes]
    at_start: Mapping[int, bytes]
    stop_ids: frozenset[int]
    drafters: Mapping[str, str]
    machine: Mapping[str, str]

    def checked(self, race: RaceRecord) -> RaceRecord:
        """The race, with what its rounds decide put in the place of what the file says of them. Raises Misfit where
        its parts do not fit each other or are more than a page can show."""
        with Place("race"):
            self._request(race)
            stops = self.stop_ids if race.stop_ids is None else race.stop_ids
        require(self.stop_ids <= stops, "are not those that the race stopped at", "stop_ids")
        with Place("race"):
            lane_checks = LaneChecks(race, stops, self.tokens, self.drafters, self._exact(race))
            lanes = []
            for i, lane in enumerate(race.lanes):
                with Place("lanes", i):
                    lanes.append(lane_checks.checked(lane))
            self._size(race)
            self._pace(race)
        self._at_start(race)
        request = replace(race.request, lanes=tuple(lane.spec for lane in lanes))
        race = replace(race, request=request, lanes=lanes)
        with Place("race", "verdict"):
            return replace(race, verdict=self._verdict(race))

    def _exact(self, race: RaceRecord) -> bool | None:
        """Does the device give the same numbers again? None if that is not known."""
        if race.noise is not None:
            return race.noise == 0
        return True if device_of(self.machine) == "CPU" else None

    def _request(self, race: RaceRecord) -> None:
        request = race.request
        require(1 <= len(race.lanes) <= MAX_LANES, f"must have 1 to {MAX_LANES} lanes", "lanes")
        same = request.lanes == tuple(lane.spec for lane in race.lanes)
        require(same, "does not name the lanes that ran", "request", "lanes")
        require(race.prompt_tokens >= 0, "is negative", "prompt_tokens")
        for name, text in {"target": race.target, "precision": race.precision}.items():
            require(len(text) <= MAX_NAME, "is too long", name)
        require(race.noise is None or race.noise >= 0, "is negative", "noise")
        require(len(request.system) <= MAX_SYSTEM, f"has more than {MAX_SYSTEM:,} characters", "request", "system")
        few = len(request.earlier) <= MAX_EXCHANGES and sum(map(len, sum(request.earlier, ()))) <= MAX_EARLIER
        most = f"{MAX_EXCHANGES} exchanges or {MAX_EARLIER:,} characters"
        require(few, f"has more than {most}", "request", "earlier")
        # A token is a byte at least; chat templates add turns of their own, and normalising makes some texts longer.
        size = sum(len(turn["content"].encode()) for turn in request.messages)
        fits = race.prompt_tokens <= 20 * size + 100_000
        require(fits, "is more than the conversation has text for", "prompt_tokens")
        if race.costs is not None:
            with Place("costs"):
                self._costs(race.costs)
        greedy = not request.strict or request.settings.greedy
        require(greedy, "is for greedy decoding only, and this race was sampled", "request", "strict")

    @staticmethod
    def _costs(costs: PassCosts) -> None:
        """Believed as they are, for no round tells how long its parts took: but they must be times."""
        fits = len(costs.machine) <= MAX_NAME and costs.machine.isprintable()
        require(fits, "is too long, or cannot be shown", "machine")
        tables: dict[str, Mapping[str, tuple[float, ...]]]
        tables = {"verify": {"": costs.verify}, "draft": costs.draft, "wait": costs.wait}
        for name, table in tables.items():
            short = len(table) <= MOST_METHODS and all(len(row) <= WIDEST for row in table.values())
            require(short and all(len(key) <= MAX_NAME for key in table), "is too long", name)
            times = all(0 <= seconds <= MAX_SECONDS for row in table.values() for seconds in row)
            require(times, "has a number that is no time", name)

    def _size(self, race: RaceRecord) -> None:
        shown_ids = [i for lane in race.lanes for i in ids_of(lane)]
        require(len(shown_ids) <= MAX_TOKENS, f"has {len(shown_ids):,} tokens; at most {MAX_TOKENS:,} are taken")
        size = sum(len(self.tokens[i]) for i in shown_ids)
        require(size <= MAX_BOARD_BYTES, "has more text than a page can show")
        # All lanes have the same prompt on the same target, so its context ends at the same token for all.
        full = {len(lane.output) for lane in race.lanes if lane.finish == "context"}
        longest = max(len(lane.output) for lane in race.lanes)
        same = not full or full == {longest}
        require(same, "have lanes that end with the context at different tokens", "lanes")

    def _pace(self, race: RaceRecord) -> None:
        for i, lane in enumerate(race.lanes):
            slow = not lane.rounds or lane.rounds[-1].time_s >= len(lane.rounds) * MIN_SECONDS
            require(slow, "took less time than any machine needs", "lanes", i, "rounds")

    def _at_start(self, race: RaceRecord) -> None:
        begins = {lane.start.token_id for lane in race.lanes if lane.start}
        require(self.at_start.keys() <= begins, "has a token that begins no answer", "at_start")
        for i, data in self.at_start.items():
            require(self.tokens[i].endswith(data), "is not the end of the same token in tokens", "at_start", i)

    # ---- the verdict ------------------------------------------------------------------------------------

    def _verdict(self, race: RaceRecord) -> Verdict | None:
        """The verdict that the outputs give, with the distances that were measured."""
        given, settings = race.verdict, race.request.settings
        if given is None:
            return None
        require(given.kind in VERDICTS, "is no known verdict", "kind")
        require(not race.stopped, "is of a race that was stopped before its end")
        for k, lane in enumerate(race.lanes):
            ended = lane.error is not None or lane.finish is not None
            require(ended, f"is given, and lane {k + 1} did not come to its end")
        parts = parted(race.lanes) if settings.greedy else {}
        places = {d.lane: d.index for d in given.differences}
        once = len(places) == len(given.differences)
        where = ", ".join(f"lane {i + 1} at token {at + 1}" for i, at in parts.items())
        words = (
            f"are not where the outputs part: {where}" if parts else "name a difference, and there is none to be judged"
        )
        require(once and places == parts, words, "differences")
        differences = tuple(self._difference(d, k, race) for k, d in enumerate(given.differences))
        kind = kind_of(race.lanes, settings, differences)
        same = given.kind == kind or {given.kind, kind} == {"tie", "divergence"}
        require(same, f"is {given.kind!r}, and the lanes' outputs make it {kind!r}", "kind")
        return Verdict(kind, verdict_words(kind, differences, race.lanes, settings), differences)

    def _difference(self, d: Difference, index: int, race: RaceRecord) -> Difference:
        """With `tie` as its numbers have it. A token that only one output has is no matter of rounding."""
        with Place("differences", index):
            for name in ("gap", "needed", "noise"):
                value = getattr(d, name)
                require(value is None or value >= 0, "is negative", name)
            require(0 < d.ulp <= MAX_ULP, "is no unit in the last place of a logit", "ulp")
            reference = race.lanes[participants(race.lanes)[0]]
            both = reference is not None and d.index < min(len(reference.output), len(race.lanes[d.lane].output))
            # Of two different tokens one at most is the best, so the other is no better than the second.
            require(not both or d.needed >= d.gap - 1e-6, "is less than the gap of the two best", "needed")
            noise = d.noise if race.noise is None or d.noise is None else min(d.noise, race.noise)
            if noise:
                silent = race.noise is None and self._exact(race)
                require(not silent, "is not 0, and the width changes no logit on a CPU", "noise")
                small = noise <= self._most_noise(d.ulp, race.noise is not None)
                require(small, "is more than rounding can move a logit by", "noise")
        d = replace(d, gap=abs(d.gap), needed=abs(d.needed), noise=noise)  # no "-0"
        return replace(d, tie=both and d.rounding_decides)

    @staticmethod
    def _most_noise(ulp: float, measured: bool) -> float:
        """Logits that rounding can make of logits with this unit in the last place; more is believed of a device that
        was measured apart."""
        most = MAX_NOISE_ULPS * ulp * (FLOAT32_LOSS if ulp < FLOAT32_ULP else 1)
        return max(most, MAX_NOISE) if measured else most
