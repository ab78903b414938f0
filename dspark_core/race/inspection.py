"""One round under the glass: what was drafted, what the target thought of it, what became of it.

Plain records without MLX: `inspector.py` fills them from loaded models, `recorded` from what a race itself wrote
down, and a trace can hold them as they are.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..decode.rounds import Detail, Round

ACCEPTED, REJECTED, DISCARDED, UNSENT = "accepted", "rejected", "discarded", "unsent"
CORRECTION, BONUS, OWN = "correction", "bonus", "own"
AGAIN = "again"  # of a draft and of the token that stands there: refused by the verification, chosen by plain decoding
TOP = 5  # candidates shown of a distribution
MOST = 16  # of a drafter's that settles each slot among few candidates


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token a distribution gives `probability`."""

    token_id: int
    text: str
    probability: float


@dataclass(frozen=True, slots=True)
class Slot:
    """One drafted token. What is not known is None, or an empty tuple.

    outcome:    "accepted", "rejected", "discarded" (sent, but behind a rejection or a stop token), "unsent", or
                "again": the verification refused it by so little that strict mode asked plain decoding's own numbers,
                and they chose this token
    q, p:       the drafter's and the target's probability of the token, p given the drafts before it
    accept:     min(1, p/q)
    drawn:      the random number that was compared with `accept` (temperature > 0)
    confidence: the drafter's probability that the token is accepted if those before it are, calibrated as the
                schedule has it
    drafter:    the most probable tokens of the distribution it was drafted from: TOP of them, or up to MOST where it
                was settled among so few candidates
    target:     the target's, at the same place
    """

    token_id: int
    text: str
    outcome: str
    q: float | None = None
    p: float | None = None
    accept: float | None = None
    drawn: float | None = None
    confidence: float | None = None
    drafter: tuple[Candidate, ...] = ()
    target: tuple[Candidate, ...] = ()


@dataclass(frozen=True, slots=True)
class OwnToken:
    """The target's own token after the accepted drafts.

    kind:       "correction" after a rejection, "bonus" after a fully accepted block, "own" if nothing was sent,
                "again" if it is the draft that the verification refused (see Slot)
    candidates: the most probable tokens of what it was taken from: the residual max(p - q, 0), normalised, after
                a rejection; else the target's p
    rejected:   the residual's mass before normalising, which is the probability of a rejection in that slot
    """

    token_id: int
    text: str
    kind: str
    candidates: tuple[Candidate, ...] = ()
    rejected: float | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """A drafted block and its fate. `own` is None where it is not known."""

    slots: tuple[Slot, ...]
    accepted: int
    own: OwnToken | None = None


@dataclass(frozen=True, slots=True)
class Inspection:
    """One round of one lane.

    index, position, anchor_id: as in Round; `anchor` is the anchor's text
    greedy:      drafts were accepted where they are the target's most probable token
    temperature: at which the probabilities are given (1 for a greedy round)
    block:       what was drafted
    without:     the block that the same drafter proposes without what lets its drafts see each other, from the same
                 random numbers, looked at by the target up to its first rejection; None if there is no such block
    bias:        what lets them, as in DrafterInfo
    candidates:  as in DrafterInfo
    written:     tokens the round added to the output: less than accepted + 1 where the answer ended inside it
    recomputed:  from loaded models; else it is what the race wrote down
    agrees:      the recomputed round gives the recorded drafts, count and next token again, and where the race wrote
                 confidences down, those
    prefix:      tokens before the anchor, of which `reused` were still known from the inspection before
    seconds:     that recomputing took
    """

    index: int
    position: int
    anchor_id: int
    anchor: str
    greedy: bool
    temperature: float
    block: Block
    written: int
    without: Block | None = None
    recomputed: bool = False
    agrees: bool | None = None
    prefix: int = 0
    reused: int = 0
    seconds: float = 0.0
    bias: str = ""
    candidates: int = 0

    def plain(self) -> dict[str, Any]:
        """Dictionaries, lists, strings and numbers only."""
        return asdict(self)


def piece(data: bytes) -> str:
    """A token's bytes as text; bytes that are no whole characters as hexadecimal numbers."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "⟨" + data.hex(" ").upper() + "⟩"


def fates(draft_ids: Sequence[int], proposed: int, accepted: int, bonus: bool, next_id: int) -> tuple[list[str], str]:
    """What became of each drafted token, and the kind of the target's own token after them: the one place that
    decides, for board and inspector. After a stop token inside the block nothing is rejected (`bonus`)."""
    if not proposed:
        return [UNSENT] * len(draft_ids), OWN
    kind = BONUS if bonus else AGAIN if next_id in draft_ids[accepted : accepted + 1] else CORRECTION
    first = {BONUS: DISCARDED, AGAIN: AGAIN, CORRECTION: REJECTED}[kind]
    behind = [first] + [DISCARDED] * (proposed - accepted - 1) if accepted < proposed else []
    return [ACCEPTED] * accepted + behind + [UNSENT] * (len(draft_ids) - proposed), kind


def fates_of(round_: Round) -> tuple[list[str], str]:
    """Those of a round as it ran."""
    return fates(round_.draft_ids, round_.proposed, round_.accepted, round_.bonus, round_.next_id)


def recorded(round_: Round, temperature: float, token_bytes: Callable[[int], bytes]) -> Inspection:
    """What the round itself has written down, with no model at hand."""
    detail = round_.detail or Detail((), (), ())
    outcomes, kind = fates_of(round_)

    def at(values: Sequence[float] | None, k: int) -> float | None:
        return values[k] if values is not None and k < len(values) else None

    slots = tuple(
        Slot(
            token,
            piece(token_bytes(token)),
            fate,
            q=at(detail.q, k),
            p=at(detail.p, k),
            accept=at(detail.accept, k),
            confidence=at(round_.confidence, k),
        )
        for k, (token, fate) in enumerate(zip(round_.draft_ids, outcomes, strict=True))
    )
    own = OwnToken(round_.next_id, piece(token_bytes(round_.next_id)), kind)
    greedy = temperature < 1e-5
    return Inspection(
        round_.index,
        round_.position,
        round_.anchor_id,
        piece(token_bytes(round_.anchor_id)),
        greedy,
        1.0 if greedy else temperature,
        Block(slots, round_.accepted, own),
        len(round_.committed),
    )
