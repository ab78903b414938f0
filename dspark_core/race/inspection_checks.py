"""Is a saved inspection one of its round? Tokens, fates and texts are the round's own; whether the round came out again
the same is worked out from the distributions that stand in it. What contradicts itself or the round is refused."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ..decode.rounds import Round, Settings
from .codec import Misfit
from .inspection import BONUS, OWN, REJECTED, TOP, Block, Candidate, Inspection, OwnToken, Slot, fates, piece

MAX_TEXT = 4096  # characters of a candidate's text
CLOSE = 1e-4  # float32 sums and ratios


def checked_inspection(
    seen: Inspection, r: Round, settings: Settings, tokens: Mapping[int, bytes], stops: frozenset[int]
) -> Inspection:
    """The inspection with what the round decides put in the place of what it says. Raises Misfit."""
    temperature = 1.0 if settings.greedy else settings.temperature
    for name, value in {
        "position": r.position,
        "anchor_id": r.anchor_id,
        "greedy": settings.greedy,
        "temperature": temperature,
        "written": len(r.committed),
        "recomputed": True,
        "prefix": r.position,
    }.items():
        _require(getattr(seen, name) == value, "is not that of the round", name)
    _require(0 <= seen.reused <= seen.prefix, "is not between 0 and the prefix", "reused")
    _require(0 <= seen.seconds <= 1e7, "is no time", "seconds")
    same = [s.token_id for s in seen.block.slots] == list(r.draft_ids)
    _require(same, "are not the drafts of the round", "block", "slots")
    own = seen.block.own
    known = own is not None and (own.token_id, seen.block.accepted) == (r.next_id, r.accepted)
    _require(known, "is not what the round came to", "block")
    block = _inside("block", seen.block, r.proposed, r.bonus, settings.greedy, tokens)
    block = replace(block, slots=_with_confidence(block.slots, r.confidence))
    without = seen.without
    if without is not None:
        _require(len(without.slots) == len(r.draft_ids), "has not one slot a draft", "without")
        bonus = without.own is not None and without.own.kind in (BONUS, OWN)
        without = _inside("without", without, r.proposed, bonus, settings.greedy, tokens)
        outcome = _outcome(without, r.proposed, settings.greedy, stops)
        _require(outcome in (None, (without.accepted, without.own.token_id)), "is not what its numbers give", "without")
    return replace(
        seen,
        anchor=piece(tokens[r.anchor_id]),
        block=block,
        without=without,
        agrees=_agrees(seen, r, settings.greedy, stops),
    )


def _require(holds: bool, words: str, *steps: str | int) -> None:
    if not holds:
        raise Misfit(words, steps)


def _with_confidence(slots: Sequence[Slot], confidence: Sequence[float] | None) -> tuple[Slot, ...]:
    """The confidences that the schedule went by, where the round has them."""
    if confidence is None:
        return tuple(slots)
    return tuple(replace(slot, confidence=c) for slot, c in zip(slots, confidence, strict=True))


# ---- a block --------------------------------------------------------------------------------------------


def _inside(name: str, block: Block, sent: int, bonus: bool, greedy: bool, tokens: Mapping[int, bytes]) -> Block:
    try:
        return _checked_block(block, sent, bonus, greedy, tokens)
    except Misfit as misfit:
        raise misfit.inside(name) from None


def _checked_block(block: Block, sent: int, bonus: bool, greedy: bool, tokens: Mapping[int, bytes]) -> Block:
    own, ids = block.own, [s.token_id for s in block.slots]
    _require(own is not None, "is missing", "own")
    _require(0 <= block.accepted <= sent, "is not between 0 and the drafts sent", "accepted")
    outcomes, kind = fates(ids, sent, block.accepted, bonus, own.token_id)
    _require(own.kind == kind, f"is not {kind!r}, what such a token is", "own", "kind")
    slots = []
    for k, (slot, outcome) in enumerate(zip(block.slots, outcomes, strict=True)):
        try:
            _require(slot.outcome == outcome, f"is not {outcome!r}, what became of it", "outcome")
            slots.append(_checked_slot(slot, k < sent, greedy, tokens))
        except Misfit as misfit:
            raise misfit.inside(k).inside("slots") from None
    try:
        left = _checked_candidates(own.candidates, tokens, "candidates")
        rejected = REJECTED in outcomes
        _require((own.rejected is not None) == rejected, "is a rejection's probability, or is missing", "rejected")
        _require(own.rejected is None or 0 <= own.rejected <= 1.001, "is not between 0 and 1", "rejected")
    except Misfit as misfit:
        raise misfit.inside("own") from None
    text = _text(own.token_id, own.text, tokens)
    return replace(block, slots=tuple(slots), own=OwnToken(own.token_id, text, kind, left, own.rejected))


def _checked_slot(slot: Slot, sent: bool, greedy: bool, tokens: Mapping[int, bytes]) -> Slot:
    for name in ("q", "p", "accept", "drawn", "confidence"):
        value = getattr(slot, name)
        _require(value is None or 0 <= value <= 1.001, "is not between 0 and 1", name)
    _require(slot.q is not None, "is missing", "q")
    _require((slot.p is None) == (slot.accept is None), "is missing, or p is", "accept")
    _require(sent or slot.p is None, "is of a draft that was not sent", "p")
    _require(slot.drawn is None or not greedy, "is of a sampled round", "drawn")
    if slot.p is not None:
        ratio = min(1.0, slot.p / max(slot.q, 1e-30))
        _require(abs(slot.accept - ratio) <= CLOSE, "is not min(1, p/q)", "accept")
    drafter = _checked_candidates(slot.drafter, tokens, "drafter")
    target = _checked_candidates(slot.target, tokens, "target")
    _require(bool(drafter), "is missing", "drafter")
    _require(bool(target) == (slot.p is not None), "is missing, or p is", "target")
    _among(slot.token_id, slot.q, drafter, "q")
    if slot.p is not None:
        _among(slot.token_id, slot.p, target, "p")
    return replace(slot, text=_text(slot.token_id, slot.text, tokens), drafter=drafter, target=target)


def _checked_candidates(
    candidates: Sequence[Candidate], tokens: Mapping[int, bytes], name: str
) -> tuple[Candidate, ...]:
    """The most probable tokens of one distribution, in order."""
    order = [(-c.probability, c.token_id) for c in candidates]
    _require(len(candidates) <= TOP, f"has more than {TOP} tokens", name)
    _require(order == sorted(order), "is not in order of probability", name)
    _require(len({c.token_id for c in candidates}) == len(candidates), "has one token twice", name)
    fits = all(0 < c.probability <= 1.001 and c.token_id >= 0 for c in candidates)
    _require(fits and sum(c.probability for c in candidates) <= 1.001, "are no probabilities of one whole", name)
    return tuple(replace(c, text=_text(c.token_id, c.text, tokens)) for c in candidates)


def _among(token_id: int, probability: float, candidates: Sequence[Candidate], name: str) -> None:
    """Is this probability of a token at odds with the most probable ones of the same distribution?"""
    listed = next((c.probability for c in candidates if c.token_id == token_id), None)
    if listed is not None:
        _require(abs(listed - probability) <= CLOSE, "is not the token's probability in the list beside it", name)
    else:
        most = candidates[-1].probability if len(candidates) == TOP else 0.0
        _require(probability <= most + CLOSE, "is more than the list beside it leaves", name)


def _text(token_id: int, text: str, tokens: Mapping[int, bytes]) -> str:
    """The race's own text of a token; of those that occur in no round, what stands there."""
    if token_id in tokens:
        return piece(tokens[token_id])
    _require(len(text) <= MAX_TEXT, "has a text that is too long")
    return text


# ---- did it come out the same? --------------------------------------------------------------------------


def _outcome(block: Block, sent: int, greedy: bool, stops: Iterable[int]) -> tuple[int, int] | None:
    """Accepted count and next token that the numbers in a block give; None where they leave it open."""
    slots, end = (
        block.slots[:sent],
        next((k + 1 for k, s in enumerate(block.slots[:sent]) if s.token_id in stops), sent),
    )
    accepted = 0
    while accepted < end:
        slot = slots[accepted]
        if slot.p is None or (not greedy and slot.drawn is None):
            return None
        if greedy and slot.target[0].token_id != slot.token_id:
            break
        margin = 0.0 if greedy else slot.p - slot.drawn * slot.q
        if abs(margin) <= 1e-6 and not greedy:
            return None
        if margin < 0:
            break
        accepted += 1
    if not greedy:  # what was drawn after them is not written down
        return accepted, block.own.token_id
    if accepted < sent and slots[accepted].target:
        return accepted, slots[accepted].target[0].token_id
    return (accepted, block.own.candidates[0].token_id) if block.own.candidates else None


def _agrees(seen: Inspection, r: Round, greedy: bool, stops: Iterable[int]) -> bool | None:
    """Did the round come out again as the race has it? A sampled one's drafts are drawn from more than is written
    down: there the file is believed if nothing in it denies it."""
    outcome = _outcome(seen.block, r.proposed, greedy, stops)
    came = outcome in (None, (r.accepted, r.next_id))
    if not greedy:
        return seen.agrees and came
    drafted = all(slot.drafter[0].token_id == slot.token_id for slot in seen.block.slots)
    return drafted and came
