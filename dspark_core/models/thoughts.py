"""What a model thinks before it answers, apart from the answer: between two tags, of which the prompt may bring the
first.

A tag is one token, or text where the vocabulary has no token for it. A model speaks of tags in other tokens than it
thinks with, so that only Gemma-4's, which stand in no answer, begin a thought behind other text.
"""

from collections.abc import Collection
from dataclasses import dataclass

CHANNEL = "<|channel>"  # behind it stands the channel's name, in a line of its own
THOUGHTS = {CHANNEL: "<channel|>", "<think>": "</think>", "<seed:think>": "</seed:think>", "[THINK]": "[/THINK]"}
LONGEST = max(map(len, THOUGHTS.values()))
ANSWER, THOUGHT, OPENED, CLOSED, NAME = "answer", "thought", "opened", "closed", "name"


@dataclass(frozen=True, slots=True)
class Thought:
    """One that the prompt has begun. begin: its first tag; spelled: the vocabulary has no token for the tags. Raises
    ValueError for a tag that is not known."""

    begin: str
    spelled: bool = False

    def __post_init__(self) -> None:
        if self.begin not in THOUGHTS:
            raise ValueError("there is no such tag")

    @classmethod
    def begun(cls, opening: str, names: Collection[str]) -> "Thought | None":
        """The thought that a chat template begins. opening: what it writes behind the user's turn; names: those of
        the vocabulary's added tokens."""
        for begin, end in THOUGHTS.items():
            _, found, behind = opening.rpartition(begin)
            if found and end not in behind:
                return cls(begin, begin not in names)
        return None


class ThoughtTags:
    """Follows an answer token by token."""

    def __init__(self, begun: Thought | None = None):
        self.begin, self.end = (begun.begin, THOUGHTS[begun.begin]) if begun else ("", "")  # of the thought under way
        self._spelled = bool(begun and begun.spelled)
        self._text, self._named = "", True
        self._first = begun is None  # nothing but blanks was there

    @property
    def undecided(self) -> bool:
        """May what was there so far be the beginning of a tag?"""
        return self._first and not self.end

    def add(self, text: str) -> str:
        """What the answer's next token is, by its text: of the ANSWER, of a THOUGHT, a tag that OPENED or CLOSED one
        (or the end of such a tag), or the NAME of a channel."""
        return self._inside(text) if self.end else self._outside(text)

    def _inside(self, text: str) -> str:
        self._text = (self._text + text)[-LONGEST - len(text) :]
        if text.strip() == self.end or (self._spelled and self.end in self._text):
            self.begin = self.end = self._text = ""
            self._first = False
            return CLOSED
        if not self._named:
            self._named = "\n" in text
            return NAME
        return THOUGHT

    def _outside(self, text: str) -> str:
        word = text.strip()
        if word in THOUGHTS and (self._first or word == CHANNEL):
            return self._open(word, spelled=False)
        if self._first:
            self._text = (self._text + text).lstrip()
            if begin := next(filter(self._text.startswith, THOUGHTS), ""):
                return self._open(begin, spelled=True)
            self._first = any(begin.startswith(self._text) for begin in THOUGHTS)
        return ANSWER

    def _open(self, begin: str, spelled: bool) -> str:
        self._text = self._text.removeprefix(begin) if spelled else ""
        self.begin, self.end, self._spelled, self._first = begin, THOUGHTS[begin], spelled, False
        self._named = begin != CHANNEL
        return OPENED
