"""Where the time of a lane's passes goes: drafting, verification, close calls decided again, and waiting.

A profiled round was timed apart. Of any other its whole length is recorded alone; it is split in the ratio that a cost
curve has for as many drafts and as wide a verification. No MLX.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..decode.bundled_curve import bundled_curve
from ..decode.cost_curve import BLIND, WAITED, CostCurve
from ..decode.rounds import Round
from .records import PassCosts

MOST_DRAFTS = 256  # of a row of costs; no drafter has so many


def costs_by(curve: CostCurve, drafters: Mapping[str, int], context: int) -> PassCosts:
    """`drafters`: id -> most drafts of a round; those that the curve does not know are left out. `context`: tokens
    before the pass."""
    bare, most = curve.as_measured(), {id_: n for id_, n in drafters.items() if curve.knows(id_)}

    def rounded(seconds: float) -> float:
        return float(f"{max(seconds, 0.0):.4g}")

    def drafting(id_: str, n: int) -> float:
        return rounded(bare.draft_s(id_, n, context) if n else bare.look_s(id_, context))

    def waiting(id_: str, n: int, mode: str) -> float:
        """What a round of the whole block takes beside its parts."""
        parts = bare.draft_s(id_, n, context) + bare.verify_s(n + 1, context)
        return rounded(bare.round_s(id_, n, n, context, mode) - parts)

    verify = tuple(rounded(bare.verify_s(w, context)) for w in range(1, 2 + max(most.values(), default=0)))
    draft = {id_: tuple(drafting(id_, k) for k in range(n + 1)) for id_, n in most.items()}
    wait = {id_: (waiting(id_, n, BLIND), waiting(id_, n, WAITED)) for id_, n in most.items()}
    return PassCosts(verify, draft, wait, curve.borrowed)


def costs_elsewhere(device: str, drafters: Collection[str]) -> PassCosts:
    """The shape of another machine with such a device, for races that tell no costs of their own."""
    return costs_by(bundled_curve({"device": device}, drafters), dict.fromkeys(drafters, MOST_DRAFTS), 1)


@dataclass(frozen=True, slots=True)
class PassParts:
    """Seconds of one round, which they add up to.

    again: of close calls that strict mode decided again
    wait:  of everything else: the host reads, decides, and hands the device its next work
    how:   TIMED apart in the race, SPLIT by costs; WHOLE where the round is a plain step, or nothing tells its parts
           apart: then all of it counts as verification
    """

    draft: float
    verify: float
    again: float
    wait: float
    how: str

    TIMED = "timed"
    SPLIT = "split"
    WHOLE = "whole"

    @staticmethod
    def of(r: Round, seconds: float, drafter: str, costs: PassCosts | None) -> "PassParts":
        """Of a round that took `seconds`."""
        again = min(r.again.seconds, seconds) if r.again else 0.0
        if r.spent is not None:
            draft = min(max(r.spent.draft, 0.0), seconds - again)
            verify = min(max(r.spent.verify, 0.0), seconds - again - draft)
            return PassParts(draft, verify, again, seconds - again - draft - verify, PassParts.TIMED)
        left = seconds - again
        ratio = costs.split(r, drafter) if costs and (r.draft_ids or r.looked) else None
        if ratio is None or sum(ratio) <= 0:
            return PassParts(0.0, left, again, 0.0, PassParts.WHOLE)
        draft, verify, wait = (left * part / sum(ratio) for part in ratio)
        return PassParts(draft, verify, again, wait, PassParts.SPLIT)

    @staticmethod
    def of_lane(rounds: Sequence[Round], drafter: str, costs: PassCosts | None) -> "Iterator[PassParts]":
        """Of each round in turn, from the first token on."""
        before = 0.0
        for r in rounds:
            yield PassParts.of(r, r.time_s - before, drafter, costs)
            before = r.time_s
