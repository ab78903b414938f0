"""Is a saved inspection one of its round? Tokens, fates and texts are the round's own; whether the round came out again
the same is worked out from the distributions that stand in it. What contradicts itself or the round is refused."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..decode.rounds import Round, Settings
from .inspection import BONUS, MOST, OWN, REJECTED, TOP, Block, Candidate, Inspection, OwnToken, Slot, fates, piece
from .schema import Place, require

MAX_PIECE = 4096  # characters of a candidate's text
MAX_BIAS = 40  # of what the drafts see each other by
CLOSE = 1e-4  # float32 sums and ratios
WHOLE = 1.001  # and what such a sum of probabilities may come to


@dataclass(frozen=True)
class InspectionChecks:
    """What an inspection is held against: its round, what was asked of the decode, the text of each token id that
    occurs, the ids that end an answer."""

    round: Round
    settings: Settings
    tokens: Mapping[int, bytes]
    stops: frozenset[int]

    @property
    def greedy(self) -> bool:
        return bool(self.settings.greedy)

    def checked(self, inspection: Inspection) -> Inspection:
        """The inspection with what the round decides put in the place of what the file says. Raises Misfit."""
        r = self.round
        for name, value in {
            "position": r.position,
            "anchor_id": r.anchor_id,
            "greedy": self.greedy,
            "temperature": 1.0 if self.greedy else self.settings.temperature,
            "written": len(r.committed),
            "recomputed": True,
            "prefix": r.position,
        }.items():
            require(getattr(inspection, name) == value, "is not that of the round", name)
        require(0 <= inspection.reused <= inspection.prefix, "is not between 0 and the prefix", "reused")
        require(0 <= inspection.seconds <= 1e7, "is no time", "seconds")
        require(len(inspection.bias) <= MAX_BIAS, "is too long", "bias")
        require(inspection.candidates >= 0, "is no number of tokens", "candidates")
        with Place("block"):
            same = [slot.token_id for slot in inspection.block.slots] == list(r.draft_ids)
            require(same, "are not the drafts of the round", "slots")
            block, own = inspection.block, inspection.block.own
            same = own is not None and (own.token_id, block.accepted) == (r.next_id, r.accepted)
            require(same, "is not what the round came to")
            block = self._block(block, r.bonus)
            if r.confidence is not None:  # those that the schedule went by
                pairs = zip(block.slots, r.confidence, strict=True)
                block = replace(block, slots=tuple(replace(slot, confidence=c) for slot, c in pairs))
        without = inspection.without
        if without is not None:
            with Place("without"):
                without = self._without(without)
        anchor, agrees = piece(self.tokens[r.anchor_id]), self._agrees(inspection)
        return replace(inspection, anchor=anchor, block=block, without=without, agrees=agrees)

    def _without(self, block: Block) -> Block:
        """The block whose drafts do not see each other."""
        require(len(block.slots) == len(self.round.draft_ids), "has not one slot a draft")
        block = self._block(block, block.own is not None and block.own.kind in (BONUS, OWN))
        outcome = self._outcome(block)
        same = outcome is None or (block.own is not None and outcome == (block.accepted, block.own.token_id))
        require(same, "is not what its numbers give")
        drafted = not self.greedy or self._most_probable(block)
        require(drafted, "has a draft that is not the most probable token", "slots")
        return block

    # ---- a block ----------------------------------------------------------------------------------------

    def _block(self, block: Block, bonus: bool) -> Block:
        """With the fates of its drafts and the texts of the race's tokens."""
        own, ids, sent = block.own, [slot.token_id for slot in block.slots], self.round.proposed
        if own is None:
            require(False, "is missing", "own")
            return block
        require(0 <= block.accepted <= sent, "is not between 0 and the drafts sent", "accepted")
        outcomes, kind = fates(ids, sent, block.accepted, bonus, own.token_id)
        headed = len({slot.confidence is None for slot in block.slots}) < 2
        require(headed, "have a confidence for some drafts and none for others", "slots")
        require(own.kind == kind, f"is not {kind!r}, what such a token is", "own", "kind")
        slots = []
        for k, (slot, outcome) in enumerate(zip(block.slots, outcomes, strict=True)):
            with Place("slots", k):
                require(slot.outcome == outcome, f"is not {outcome!r}, what became of it", "outcome")
                slots.append(self._slot(slot, k < sent))
        with Place("own"):
            candidates = self._candidates(own.candidates, "candidates")
            rejected = REJECTED in outcomes
            require((own.rejected is not None) == rejected, "is a rejection's probability, or is missing", "rejected")
            require(own.rejected is None or 0 <= own.rejected <= WHOLE, "is not between 0 and 1", "rejected")
            if block.accepted < len(slots) and slots[block.accepted].target:
                self._source(own, slots[block.accepted])
        own = replace(own, text=self._text(own.token_id, own.text), kind=kind, candidates=candidates)
        return replace(block, slots=tuple(slots), own=own)

    def _source(self, own: OwnToken, slot: Slot) -> None:
        """The target's own token stands in the place of this draft. What it was taken from is the residual
        max(p - q, 0) after a rejection and p else: of both, the most probable tokens stand in the slot."""
        q, p = ({c.token_id: c.probability for c in candidates} for candidates in (slot.drafter, slot.target))
        residual = {i: max(p[i] - q[i], 0.0) for i in p.keys() & q.keys()}
        if own.rejected is None:
            same = [(c.token_id, c.probability) for c in own.candidates] == list(p.items())
            require(same, "are not the target's tokens in the place of that draft", "candidates")
            return
        shared = sum(min(p[i], q[i]) for i in residual)
        fits = sum(residual.values()) - 1e-3 <= own.rejected <= 1 - shared + 1e-3
        require(fits, "is not what p and q beside it leave", "rejected")
        least_p, least_q = (min(listed.values()) if len(listed) >= TOP else 0.0 for listed in (p, q))
        for k, c in enumerate(own.candidates):  # one that is in no list has less than what is
            most = p.get(c.token_id, least_p) - q.get(c.token_id, 0.0)
            least = p.get(c.token_id, 0.0) - q.get(c.token_id, least_q)
            fits = least - 1e-3 <= c.probability * own.rejected <= max(most, 0.0) + 1e-3
            require(fits, "is not what p and q beside it leave", "candidates", k, "probability")

    def _slot(self, slot: Slot, sent: bool) -> Slot:
        for name in ("q", "p", "accept", "drawn", "confidence"):
            value = getattr(slot, name)
            require(value is None or 0 <= value <= WHOLE, "is not between 0 and 1", name)
        require(slot.q is not None, "is missing", "q")
        require((slot.p is None) == (slot.accept is None), "is missing, or p is", "accept")
        require(sent or slot.p is None, "is of a draft that was not sent", "p")
        require(slot.drawn is None or not self.greedy, "is of a sampled round", "drawn")
        if slot.p is not None and slot.q is not None and slot.accept is not None:
            ratio = min(1.0, slot.p / max(slot.q, 1e-30))
            require(abs(slot.accept - ratio) <= CLOSE, "is not min(1, p/q)", "accept")
        drafter = self._candidates(slot.drafter, "drafter", MOST)
        target = self._candidates(slot.target, "target")
        require(bool(drafter), "is missing", "drafter")
        require(bool(target) == (slot.p is not None), "is missing, or p is", "target")
        self._among(slot.token_id, slot.q, drafter, "q")
        self._among(slot.token_id, slot.p, target, "p")
        return replace(slot, text=self._text(slot.token_id, slot.text), drafter=drafter, target=target)

    def _candidates(self, candidates: Sequence[Candidate], name: str, most: int = TOP) -> tuple[Candidate, ...]:
        """The most probable tokens of one distribution, in order."""
        with Place(name):
            order = [(-c.probability, c.token_id) for c in candidates]
            require(len(candidates) <= most, f"has more than {most} tokens")
            require(order == sorted(order), "is not in order of probability")
            require(len({c.token_id for c in candidates}) == len(candidates), "has one token twice")
            fits = all(0 < c.probability <= WHOLE and c.token_id >= 0 for c in candidates)
            require(fits and sum(c.probability for c in candidates) <= WHOLE, "are no probabilities of one whole")
            return tuple(replace(c, text=self._text(c.token_id, c.text)) for c in candidates)

    @staticmethod
    def _among(token_id: int, probability: float | None, candidates: Sequence[Candidate], name: str) -> None:
        """Is this probability of a token at odds with the most probable ones of the same distribution?"""
        listed = next((c.probability for c in candidates if c.token_id == token_id), None)
        if probability is None:
            return
        if listed is not None:
            require(abs(listed - probability) <= CLOSE, "is not the token's probability in the list beside it", name)
        else:
            most = candidates[-1].probability if len(candidates) >= TOP else 0.0
            require(probability <= most + CLOSE, "is more than the list beside it leaves", name)

    def _text(self, token_id: int, text: str) -> str:
        """The race's own text of a token; of those that occur in no round, what stands there."""
        if token_id in self.tokens:
            return piece(self.tokens[token_id])
        require(len(text) <= MAX_PIECE, "has a text that is too long")
        return text

    # ---- did it come out the same? ----------------------------------------------------------------------

    def _outcome(self, block: Block) -> tuple[int, int] | None:
        """Accepted count and next token that the numbers in a block give; None where they leave it open."""
        sent, own = self.round.proposed, block.own
        slots = block.slots[:sent]
        end = next((k + 1 for k, slot in enumerate(slots) if slot.token_id in self.stops), sent)
        accepted = 0
        while accepted < end:
            slot = slots[accepted]
            if slot.p is None or slot.q is None or (not self.greedy and slot.drawn is None):
                return None
            if self.greedy and slot.target[0].token_id != slot.token_id:
                break
            margin = 0.0 if self.greedy or slot.drawn is None else slot.p - slot.drawn * slot.q
            if abs(margin) <= 1e-6 and not self.greedy:
                return None
            if margin < 0:
                break
            accepted += 1
        if own is None:
            return None
        if not self.greedy:  # what was drawn after them is not written down
            return accepted, own.token_id
        if accepted < sent and slots[accepted].target:
            return accepted, slots[accepted].target[0].token_id
        return (accepted, own.candidates[0].token_id) if own.candidates else None

    @staticmethod
    def _most_probable(block: Block) -> bool:
        """Is every draft the token that its distribution has most of?"""
        return all(slot.drafter[0].token_id == slot.token_id for slot in block.slots)

    def _agrees(self, inspection: Inspection) -> bool | None:
        """Did the round come out again as the race has it? A sampled one's drafts are drawn from more than is written
        down: there the file is believed if nothing in it denies it."""
        outcome = self._outcome(inspection.block)
        same = outcome in (None, (self.round.accepted, self.round.next_id))
        if not self.greedy:
            return inspection.agrees and same
        return self._most_probable(inspection.block) and same
