"""An answer for somebody who wants the text alone: what is asked for, and what comes of it piece by piece. No MLX."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..decode.rounds import Settings
from ..models.thoughts import ANSWER, CLOSED, NAME, OPENED, Thought, ThoughtTags
from ..models.token_bytes import UNREADABLE, TextStream
from .metrics import metrics
from .records import LaneRecord, LaneSpec


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """One answer by one lane.

    prompt:   a conversation's messages, each with "role" and "content"; a text to go on from; or token ids
    stop:     strings at which the text ends; they are no part of it, and none is looked for in a thought
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
    the step; thought: in the manner of `texts`, what was thought, which comes before them."""

    texts: tuple[tuple[str, bool], ...]
    token_ids: tuple[int, ...]
    thought: tuple[tuple[str, bool], ...] = ()

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

    def take_thought(self) -> list[tuple[str, bool]]:
        """What was thought since this was last asked; a text alone has no thoughts."""
        return []

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


class ChatText(AnswerText):
    """The same of a conversation's answer: thoughts are apart from it, without their tags and the blanks around them.
    `begun`: the one that the prompt began, if it began one."""

    def __init__(self, token_bytes: Callable[[int], bytes], stop: Sequence[str] = (), begun: Thought | None = None):
        super().__init__(token_bytes, stop)
        self._token_bytes, self._tags = token_bytes, ThoughtTags(begun)
        self._waiting = ""  # of either kind: it may be the beginning of a tag, or blanks that end a thought
        self._thought: list[tuple[str, bool]] = []
        self._blank = bool(begun)  # nothing but blanks came behind the last tag

    def take_thought(self) -> list[tuple[str, bool]]:
        taken, self._thought = self._thought, []
        return taken

    def add(self, token_id: int, accepted: bool) -> list[tuple[str, bool]]:
        end = self._tags.end
        kind = self._tags.add(self._token_bytes(token_id).decode(errors="ignore"))
        text, self._waiting = self._waiting + self._text.add(token_id), ""
        if kind == NAME:
            return []
        if kind == OPENED:
            before, _, text = text.partition(self._tags.begin)
            self._blank = True
            self._think(text, accepted)
            return self._certain(before, accepted) if before.strip() else []
        if kind == CLOSED:
            thought, _, text = text.partition(end)
            self._think(thought.rstrip(), accepted)
            self._waiting, self._blank = "", True
        elif kind != ANSWER:
            self._think(text, accepted)
            return []
        elif self._tags.undecided:
            self._waiting = text
            return []
        return self._certain(self._from_word(text), accepted)

    def end(self) -> list[tuple[str, bool]]:
        rest = (self._waiting + self._text.end()).rstrip(UNREADABLE)
        self._waiting, thinking = "", self._tags.end
        self._thought += [(rest.rstrip(), False)] if thinking and rest.strip() else []
        return ([] if thinking else self._certain(rest, False)) + super().end()

    def _from_word(self, text: str) -> str:
        """Without blanks where nothing else came behind the last tag."""
        text = text.lstrip() if self._blank else text
        self._blank = self._blank and not text
        return text

    def _think(self, text: str, accepted: bool) -> None:
        """As much of it as cannot be of the end."""
        text = self._from_word(text)
        shown = text.rstrip()
        begun = self._begun(shown, self._tags.end) if self._tags.end else 0
        shown = shown[: len(shown) - begun].rstrip()
        self._waiting = text[len(shown) :]
        self._thought += [(shown, accepted)] if shown else []
