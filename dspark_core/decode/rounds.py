"""What a decode yields: the vocabulary of everything that follows.

A decode is a generator of events. First `Prefill` events while the prompt goes through the target
in chunks, then one `Start` with the token that the prompt itself gives (it belongs to no round),
then one `Round` after another until one of them carries a `finish`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import DecodeError


@dataclass(frozen=True, slots=True)
class Settings:
    """What the visitor asks of a decode; the same for every lane of a race.

    `temperature` 0 is greedy. `top_k` 0 and `top_p` 1 keep the whole vocabulary; otherwise the same
    truncation shapes the target's p and the drafter's q. `stop_ids` None means the target's own; an
    empty set never stops before `max_tokens`.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    stop_ids: frozenset[int] | None = None

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise DecodeError(f"max_tokens must be at least 1, not {self.max_tokens}.")
        if not 0.0 <= self.temperature <= 100.0:
            raise DecodeError(f"temperature must be between 0 and 100, not {self.temperature}.")
        if self.seed < 0:
            raise DecodeError(f"seed must be 0 or more, not {self.seed}.")
        if self.top_k < 0:
            raise DecodeError(f"top_k must be 0 (off) or more, not {self.top_k}.")
        if not 0.0 < self.top_p <= 1.0:
            raise DecodeError(f"top_p must be above 0 and at most 1, not {self.top_p}.")

    @property
    def greedy(self) -> bool:
        return self.temperature < 1e-5


@dataclass(frozen=True, slots=True)
class Prefill:
    """`done` of `total` prompt tokens have gone through the target (and the drafter's context)."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Start:
    """The token picked from the prompt's last logits, at absolute position `position`.

    `prefill_s` is the own time (s) from the call to this token, which is the time to first token.
    `finish` is set if nothing can follow: it was a stop token, or the only one asked for.
    """

    token_id: int
    position: int
    prefill_s: float
    finish: str | None = None


@dataclass(frozen=True, slots=True)
class Detail:
    """Per proposed slot: drafter's q and target's p of the draft token, and min(1, p/q)."""

    q: tuple[float, ...]
    p: tuple[float, ...]
    accept: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of one profiled round; `rest` is everything but drafting and verification."""

    draft: float
    verify: float
    rest: float


@dataclass(frozen=True, slots=True)
class Again:
    """Close calls of a round that strict mode decided again.

    positions: output positions that plain decoding's own numbers decided, from the first close one on
    changed:   True if the last of them came out differently; the round ends with it
    steps:     steps of width 1 that this took: one for every token since the cache was last clean
    seconds:   own time of them
    """

    positions: int
    changed: bool
    steps: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Round:
    """One draft and one verification, as committed.

    index:     0, 1, 2, ... within the decode
    position:  absolute position of the anchor (0 is the first prompt token)
    anchor_id: the anchor, committed by the round before (or by `Start`)
    draft_ids: every token the drafter drafted, sent or not
    proposed:  the first `proposed` of them were sent to verification
    accepted:  the first `accepted` of those were accepted. If a stop token stands inside the
               accepted prefix, counting ends with it.
    next_id:   the target's own token after the accepted ones (correction or bonus)
    bonus:     True if nothing proposed was rejected (also when nothing was proposed)
    committed: the tokens this round added to the output, after the cuts at a stop token and at
               max_tokens: draft_ids[:accepted] + (next_id,), or a prefix of that
    time_s:    decode seconds on the lane's own clock, from `Start` to this commit
    finish:    None, "stop", "length" (max_tokens) or "context" (the model's context is full)
    confidence: the drafter's calibrated probability per drafted slot, where it was asked for
    detail:    at temperature > 0
    spent:     where the decode was profiled
    looked:    the block was computed and its first confidence asked before any draft was made. Without drafts,
               that is what the round cost more than a plain step.
    again:     where strict mode decided close calls again
    """

    index: int
    position: int
    anchor_id: int
    draft_ids: tuple[int, ...]
    proposed: int
    accepted: int
    next_id: int
    bonus: bool
    committed: tuple[int, ...]
    time_s: float
    finish: str | None = None
    confidence: tuple[float, ...] | None = None
    detail: Detail | None = None
    spent: Spent | None = None
    looked: bool = False
    again: Again | None = None

    @property
    def acceptance_length(self) -> int:
        """Tokens of this round, as tokens per round counts them: accepted + 1. Where a stop token among the accepted
        drafts ended the answer, nothing of the target's own followed: accepted. A cut at max_tokens takes nothing
        away. (DeepSpec's reference evaluator counts so.)"""
        stopped_inside = self.finish == "stop" and len(self.committed) <= self.accepted
        return self.accepted if stopped_inside else self.accepted + 1


def tau(rounds: Sequence[Round]) -> float | None:
    """Tokens per round: the mean acceptance length; None without a round."""
    return sum(r.acceptance_length for r in rounds) / len(rounds) if rounds else None
