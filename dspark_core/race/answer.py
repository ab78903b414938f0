"""An answer for somebody who wants the text alone: what is asked for, and what comes of it piece by piece. No MLX."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..decode.rounds import Settings
from ..models.token_bytes import UNREADABLE, TextStream
from .metrics import metrics
from .records import LaneRecord, LaneSpec


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """One answer by one lane.

    prompt:   a conversation's messages, each with "role" and "content"; a text to go on from; or token ids
    stop:     strings at which the text ends; they are no part of it
    stop_ids: tokens that end it, besides the target's own
    thinking: begin with a thought, where the chat template has a switch for it
    strict:   plain decoding's own numbers decide close calls, where the device needs that (decode/strict.py)
    """

    prompt: Sequence[dict[str, str]] | str | Sequence[int]
    lane: LaneSpec
    settings: Settings
    stop: tuple[str, ...] = ()
    stop_ids: frozenset[int] = frozenset()
    thinking: bool = False
    strict: bool = False


@dataclass(frozen=True, slots=True)
class Began:
    """The answer is being computed: `cached` of the prompt's `prompt_tokens` need no prefill."""

    prompt_ids: tuple[int, ...]
    cached: int


@dataclass(frozen=True, slots=True)
class Piece:
    """What one step added. texts: (text, is it of accepted drafts?) in order; token_ids: those that the answer has of
    the step."""

    texts: tuple[tuple[str, bool], ...]
    token_ids: tuple[int, ...]

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.texts)


@dataclass(frozen=True, slots=True)
class Ended:
    """finish: "stop", "length", or "cancelled"; `lane` has the rounds."""

    finish: str
    lane: LaneRecord

    @property
    def figures(self) -> dict[str, int | float | None]:
        """What the rounds came to, times in seconds of the lane's own clock."""
        rounds, m = self.lane.rounds, metrics(self.lane)
        return {
            "rounds": m.rounds,
            "proposed": sum(r.proposed for r in rounds),
            "accepted": sum(r.accepted for r in rounds),
            "prefill_s": m.first_token_s,
            "decode_s": m.seconds,
            "tokens_per_second": m.tok_s,
            "tokens_per_round": m.tokens_per_round,
        }


class AnswerText:
    """The text of an answer, token by token, up to the first of its stop strings to be complete, wherever tokens begin
    and end. What may be the beginning of one is held back until that is certain, half a character for good."""

    def __init__(self, token_bytes: Callable[[int], bytes], stop: Sequence[str] = ()):
        self._text = TextStream(token_bytes)
        self._stop = [s for s in stop if s]
        self._held: list[tuple[str, bool]] = []
        self.stopped = False

    def add(self, token_id: int, accepted: bool) -> list[tuple[str, bool]]:
        """What is certain now that this token is there."""
        return self._certain(self._text.add(token_id), accepted)

    def end(self) -> list[tuple[str, bool]]:
        """What is left, as nothing follows."""
        rest = self._certain(self._text.end().rstrip(UNREADABLE), False)
        return rest if self.stopped else [*rest, *self._take(sum(len(t) for t, _ in self._held))]

    def _certain(self, text: str, accepted: bool) -> list[tuple[str, bool]]:
        if not text or self.stopped:
            return []
        self._held.append((text, accepted))
        whole = "".join(t for t, _ in self._held)
        found = [(at + len(s), at) for s in self._stop if (at := whole.find(s)) >= 0]
        if found:
            self.stopped = True
            return self._take(min(found)[1])
        return self._take(len(whole) - max((self._begun(whole, s) for s in self._stop), default=0))

    @staticmethod
    def _begun(text: str, stop: str) -> int:
        """How many characters at the end of a text may be the beginning of a stop string."""
        return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)

    def _take(self, characters: int) -> list[tuple[str, bool]]:
        """So many of the characters that are held back."""
        taken: list[tuple[str, bool]] = []
        while characters > 0:
            text, accepted = self._held.pop(0)
            if len(text) > characters:
                self._held.insert(0, (text[characters:], accepted))
            taken.append((text[:characters], accepted))
            characters -= len(text)
        return taken
