"""What a lesson tells of the race that was run for it: plain functions of the race, in its own numbers, also where they
contradict the lesson. No gradio, no MLX.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..decode.cost_curve import CostCurve
from ..models.info import DrafterInfo
from ..proof.evidence import RIGHT, SAMPLERS
from ..race.forecast import SAME, raced_prospects
from ..race.metrics import metrics, positions, times_plain
from ..race.outcome import tokens_given
from ..race.records import FULL, HARDWARE, LaneRecord, RaceRecord
from ..race.what_if import MACHINE
from .proof_view import SHORT, Proof, draw_verdict, draws_made, shown_check

EVEN = 0.05  # of plain's speed: two decodes of the same rounds may differ by as much
MANY = 32  # users
LATER = 4  # the first of the later places in a block


@dataclass(frozen=True)
class RaceFacts:
    """race:   the one just run
    curve:  what a step costs on this machine, if that is known
    judged: does it say something about this race? Not one that was measured elsewhere, or of another model
    infos:  the drafters that are loaded
    picked: which option the visitor chose, or the number that was guessed
    users:  the simulation of many users on the races of the page, as the Cost model tab shows it (cost_parts.py)
    """

    race: RaceRecord
    curve: CostCurve | None = None
    infos: Sequence[DrafterInfo] = ()
    picked: int = 0
    users: Mapping[str, Any] = field(default_factory=dict)
    judged: bool = True

    @property
    def plain(self) -> LaneRecord:
        """Raises ValueError, in one sentence, where there is none that has something to tell."""
        return self._first([lane for lane in self.race.lanes if not lane.spec.speculative], "plain lane")

    @property
    def whole(self) -> LaneRecord:
        """The first lane that drafts whole blocks. Raises ValueError."""
        lanes = [lane for lane in self.race.lanes if lane.spec.speculative and lane.spec.schedule == FULL]
        return self._first(lanes, "lane that drafts whole blocks")

    @property
    def borrowed(self) -> bool:
        """The costs are another machine's, until this one's are measured."""
        return self.curve is not None and bool(self.curve.borrowed)

    def _first(self, lanes: Sequence[LaneRecord], what: str) -> LaneRecord:
        if not lanes:
            raise ValueError(f"This race had no {what}, so it cannot tell.")
        return self._decoded(lanes[0])

    def drafting(self) -> list[LaneRecord]:
        """Every lane with a drafter. Raises ValueError if one has nothing to tell."""
        return [self._decoded(lane) for lane in self.race.lanes if lane.spec.speculative]

    @staticmethod
    def _decoded(lane: LaneRecord) -> LaneRecord:
        if lane.error is not None:
            raise ValueError(f"The lane {lane.spec.name} failed, so there is nothing to tell: {lane.error}")
        if not lane.rounds:
            raise ValueError(f"The answer of {lane.spec.name} ended at once, so there is nothing to tell.")
        return lane

    def at(self, lane: LaneRecord) -> int:
        """A lane's number on the board."""
        return next(i for i, other in enumerate(self.race.lanes) if other is lane)

    def times(self, lane: LaneRecord) -> float:
        """× plain. Raises ValueError without a plain lane that decoded."""
        found = times_plain(metrics(lane), metrics(self.plain))
        if found is None:
            raise ValueError(f"{lane.spec.name} has no speed to compare: its answer ended too soon.")
        return found


@dataclass(frozen=True)
class Told:
    """right: the options that the race bears out
    place: what is opened: {"lane": i} on the board, {"lane": i, "at": round from 1} in the inspector, without the bias
           where "bias" is false, or {"tab": id of a tab's button, "id": of what is in it}, "set" as in parts.js
    """

    words: str
    right: tuple[int, ...] = ()
    place: dict[str, Any] = field(default_factory=dict)


def share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({100 * part / whole:.0f} %)" if whole else "none"


# ---- why does DSpark keep its later drafts? ------------------------------------------------------------------


def later_drafts(facts: RaceFacts) -> Told:
    """Options: fewer than DSpark's, about as many, more."""
    spark, *others = facts.drafting()
    if not others:
        raise ValueError("This race had one lane with a drafter, so there is nothing to compare.")
    flash = others[0]
    counts = {}
    for lane in (spark, flash):
        slots = positions(lane.rounds)
        if len(slots) < LATER:
            raise ValueError(f"{lane.spec.name} sent no draft in place {LATER}: there is nothing to compare.")
        later = slots[LATER - 1 : 7]
        counts[lane.spec.method] = (slots[0], sum(p.accepted for p in later), sum(p.sent for p in later))
    (one, kept, sent), (other, kept_2, sent_2) = counts.values()
    rate, rate_2 = kept / sent, kept_2 / sent_2
    right = 0 if rate_2 < 0.8 * rate else 1 if rate_2 <= 1.25 * rate else 2
    first = f"In place 1 of the block the target kept {share(one.accepted, one.sent)} of DSpark’s drafts and "
    first += (
        f"{share(other.accepted, other.sent)} of DFlash’s; in places {LATER} to 7, {share(kept, sent)} of DSpark’s "
    )
    first += f"and {share(kept_2, sent_2)} of DFlash’s."
    why = (
        "DFlash fills all places at once, and none sees what its neighbours became; DSpark’s Markov head tells each "
        "place which token stands before it."
    )
    if right:
        why = "So this race does not show what the lesson is about: mostly DSpark’s later drafts last longer. " + why
    best = max(spark.rounds, key=lambda r: (r.accepted, -r.index))
    why += f" Above: DSpark’s round {best.index + 1}, drafted again without it."
    return Told(f"{first} {why}", (right,), {"lane": facts.at(spark), "at": best.index + 1, "bias": False})


# ---- when does it not pay? -----------------------------------------------------------------------------------


def against_plain(times: float) -> int:
    """0 slower than plain, 1 about as fast, 2 faster."""
    return 0 if times < 1 - EVEN else 2 if times > 1 + EVEN else 1


def does_not_pay(facts: RaceFacts) -> Told:
    """Options: slower than plain, about as fast, faster."""
    lane = facts.whole
    m, plain, times = metrics(lane), metrics(facts.plain), facts.times(lane)
    right = against_plain(times)
    cost = m.seconds / m.rounds * plain.tokens / plain.seconds
    kept = f"{100 * m.acceptance:.0f} % of its drafts were kept, so a round" if m.acceptance is not None else "A round"
    words = f"{lane.spec.name}: {times:.2f} ×. {kept} gave {tokens_given(m)}"
    words += f" and took as long as {cost:.2f} plain steps. It pays where the first number is the larger one"
    words += (
        ". Here it is not.",
        ": here they are about equal.",
        ": here it is, against what this text was chosen for: this machine checks tokens cheaply, or was lucky.",
    )[right]
    aware = next((o for o in facts.race.lanes if o.spec.schedule == HARDWARE and o.spec.speculative and o.rounds), None)
    if aware is not None and aware.error is None:
        drafts = sum(r.proposed for r in aware.rounds) / len(aware.rounds)
        words += f" Left to the costs, {aware.spec.name} sent {drafts:.1f} drafts a round and came to "
        words += f"{facts.times(aware):.2f} ×."
    return Told(words, (right,), {"lane": facts.at(lane)})


# ---- how long a block? ---------------------------------------------------------------------------------------


def block_length(facts: RaceFacts) -> Told:
    """Options: a lane each, in order, and last plain."""
    plain = facts.plain
    lanes = facts.drafting()
    speeds = [facts.times(lane) for lane in lanes] + [1.0]
    best = max(speeds)
    right = tuple(i for i, times in enumerate(speeds) if times >= best * (1 - SAME))
    each = ", ".join(f"{lane.spec.label}: {times:.2f} ×" for lane, times in zip(lanes, speeds[:-1], strict=True))
    words = f"Against plain decoding ({metrics(plain).tok_s or 0:.1f} tok/s): {each}. "
    if len(right) > 1:
        words += f"The best are within {100 * SAME:.0f} %, which is no difference. "
    most = max(lanes, key=lambda lane: max(r.proposed for r in lane.rounds))
    chances = [p.cumulative for p in positions(most.rounds) if p.sent]
    words += f"Each further draft has to be checked, kept or not. Kept were, in places 1 to {len(chances)}: "
    words += ", ".join(f"{100 * (c or 0):.0f} %" for c in chances) + ". "
    words += _best_cap(facts, most)
    return Told(words, right, {"tab": "cost-button", "id": "what-if", "set": {}})


def _best_cap(facts: RaceFacts, lane: LaneRecord) -> str:
    """The fastest number of drafts by the machine's costs and what was accepted in the longest lane."""
    found = raced_prospects(facts.curve, facts.race) if facts.curve and facts.judged else []
    options = next((options for other, options in found if other is lane), None)
    if options is None:
        words = "What this machine’s costs say of all other lengths is not known yet"
        return words + ("; above they are in another machine’s proportions." if facts.borrowed else ".")
    best = max(options, key=lambda p: p.tok_s)
    if not best.cap:
        return "By this machine’s costs, no length beats plain decoding on this text."
    drafts = f"{best.cap} draft{'s' * (best.cap > 1)}"
    return f"By this machine’s costs, {drafts} a round would be best: {best.times_plain:.2f} ×."


# ---- what do many users change? ------------------------------------------------------------------------------


def many_users(facts: RaceFacts) -> Told:
    """Options: more tokens a second than plain decoding for as many, about as many, fewer."""
    times, points = facts.times(facts.whole), facts.users.get("points") or []
    many = next((point for point in points if point["users"] == MANY), None)
    if many is None:
        raise ValueError("There are no costs yet to simulate with: they are measured while nothing is asked for.")
    one, block = points[0], facts.users["lengths"][-1]
    whole, plain = [point["fixed"][-1] for point in (one, many)], many["plain"]["tok_s"]
    alone, together = (
        served["tok_s"] / point["plain"]["tok_s"] for served, point in zip(whole, (one, many), strict=True)
    )
    scheduled = many["schedule"]["tok_s"] / plain
    right = 2 - against_plain(together)
    words = f"In this race one user was {times:.2f} × as fast with whole blocks. Simulated on the page’s races (seed "
    words += f"{facts.users['seed']}), this one among them"
    if facts.borrowed and facts.users["start"] == MACHINE:
        words += ", with another machine’s proportions, as nothing is measured here yet"
    words += f", whole blocks of {block} give one user {alone:.2f} × plain, and {MANY} users "
    rows = many["fixed"][-1]["rows"]
    words += f"together {together:.2f} ×: a pass has {rows:.0f} tokens to check instead of {MANY}. "
    sent = "does not draft" if many["schedule"]["parked"] else f"sends {many['schedule']['sent']:.1f} drafts a user"
    words += f"The confidence schedule {sent} and comes to {scheduled:.2f} ×. "
    if right != 2:
        words += "So here a whole block does not hurt many: these costs, or these texts, are kind to it. "
    start = next((s for s in facts.users["starts"] if s["id"] == facts.users["start"]), None)
    if start and start["measured"] < rows:
        words += f"Passes of more than {start['measured']} tokens were not measured: they are extrapolated."
    settings = {"users": str(MANY), "group": facts.users["group"], "start": facts.users["start"]}
    return Told(words, (right,), {"tab": "cost-button", "id": "many-users", "set": settings})


# ---- guess first ---------------------------------------------------------------------------------------------


def survivors(facts: RaceFacts) -> Told:
    """`picked`: the guess, of 100 drafts that are sent."""
    lanes = [(lane, metrics(lane)) for lane in facts.race.lanes if lane.spec.speculative and lane.error is None]
    counts = [(lane, sum(r.accepted for r in lane.rounds), sum(r.proposed for r in lane.rounds)) for lane, _ in lanes]
    idle = [f"{lane.spec.name}: sent none" for lane, _, sent in counts if not sent]
    counts = [found for found in counts if found[2]]
    if not counts:
        raise ValueError("No draft was sent to verification in this race, so none could survive.")
    each = "; ".join([*(f"{lane.spec.name}: {share(kept, sent)}" for lane, kept, sent in counts), *idle])
    kept, sent = sum(found[1] for found in counts), sum(found[2] for found in counts)
    of_100 = round(100 * kept / sent)
    off = abs(of_100 - facts.picked)
    how = "on the spot" if not off else f"{off} off" if off > 10 else f"only {off} off"
    words = f"{share(kept, sent)} of the drafts that were sent survived. You guessed {facts.picked} of 100: {how}. "
    best = max(counts, key=lambda found: found[1] / found[2])
    return Told(f"{words}By lane: {each}.", (), {"lane": facts.at(best[0])})


# ---- can you cheat? ------------------------------------------------------------------------------------------


def cheating(proofs: Sequence[Proof]) -> Told:
    """Options: none is caught, some are, all are."""
    verdicts = {p.evidence.request.sampler: draw_verdict(p.evidence, p.info) for p in proofs}
    wrong = [p for p in proofs if p.evidence.request.sampler != RIGHT]
    if set(verdicts) != set(SAMPLERS):
        raise ValueError("Not every sampler was drawn with, so there is nothing to compare.")
    caught = [p for p in wrong if verdicts[p.evidence.request.sampler][0] == "divergence"]
    right = 0 if not caught else 2 if len(caught) == len(wrong) else 1
    made = {p.evidence.request.sampler: draws_made(p.evidence) for p in proofs}
    words = f"{len(caught)} of {len(wrong)} cheats were caught"
    if len({*made.values()}) == 1:
        words += f" with {made[RIGHT]} each. "
    else:
        fewest = min(wrong, key=lambda p: p.evidence.comparison.n).evidence
        words += f". The real sampler made {made[RIGHT]}; of the cheats one had only {draws_made(fewest)}. "
    e = next(p.evidence for p in proofs if p.evidence.request.sampler == RIGHT)
    counts = f"its counts are {100 * e.comparison.distance:.2g} % away from the target’s"
    words += {
        "identical": f"The real sampler is exact, as far as these draws can tell: {counts}, which luck explains. ",
        "divergence": "The real sampler was flagged, too, which exact draws are once in 1,000 proofs. ",
    }.get(verdicts[RIGHT][0], "Of the real sampler these draws can tell nothing. ")
    furthest = max(wrong, key=lambda p: shown_check(p.evidence).comparison.distance)
    check = shown_check(furthest.evidence)
    words += f"The worst cheat, “{SHORT[furthest.evidence.request.sampler]}”, is "
    words += f"{100 * check.comparison.distance:.2g} % away. "
    if right < 2:
        words += "A cheat that was not caught may show with more draws, or at another temperature. "
    words += "The text may read as well: only counting shows that it is no longer the target’s."
    return Told(words, (right,), {"tab": "prove-button", "id": "samplers"})
