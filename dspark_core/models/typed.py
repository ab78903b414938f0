"""Which characters of a rendered chat template somebody typed.

The template gets every message in stand-ins, one unassigned code point for each character of each message but white
space. The rendering, its stand-ins read back, is the one that the messages themselves give, and every stand-in in it
was typed, wherever the template trimmed, split or moved it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from transformers.utils.chat_template_utils import _compile_jinja_template

STAND_INS = 0x40000, 0x110000  # planes that have no characters, and private use


class Typed(str):
    """Text with stand-ins in it that compares, splits and strips as the text they stand for: a template that looks for
    `</think>` in a message finds it. Whatever it cuts out is in stand-ins again. What is not written here, such as
    `upper`, sees stand-ins only."""

    read: dict[int, int]

    @classmethod
    def of(cls, text: str, read: dict[int, int]) -> "Typed":
        typed = cls(text)
        typed.read = read
        return typed

    def _real(self, given: Any = None) -> Any:
        if isinstance(given, tuple):
            return tuple(map(self._real, given))
        return str.translate(given, self.read) if isinstance(given, str) else given

    def _pieces(self, parts: Iterable[str], gap: int = 0) -> list["Typed"]:
        """`parts` of the real text, which follow each other in it after at least `gap` characters, in stand-ins."""
        real, at, pieces = self._real(self), -gap, []
        for part in parts:
            start = real.index(part, at + gap)
            at = start + len(part)
            pieces.append(self[start:at])
        return pieces

    def split(self, sep: Any = None, maxsplit: Any = -1) -> list[Any]:
        return self._pieces(self._real(self).split(self._real(sep), maxsplit), len(sep or ""))

    def rsplit(self, sep: Any = None, maxsplit: Any = -1) -> list[Any]:
        return self._pieces(self._real(self).rsplit(self._real(sep), maxsplit), len(sep or ""))

    def partition(self, sep: str) -> Any:
        return tuple(self._pieces(self._real(self).partition(self._real(sep))))

    def rpartition(self, sep: str) -> Any:
        return tuple(self._pieces(self._real(self).rpartition(self._real(sep))))

    def splitlines(self, keepends: Any = False) -> list[Any]:
        return self._pieces(self._real(self).splitlines(keepends))

    def lstrip(self, chars: str | None = None) -> Any:
        return self[len(self) - len(self._real(self).lstrip(self._real(chars))) :]

    def rstrip(self, chars: str | None = None) -> Any:
        return self[: len(self._real(self).rstrip(self._real(chars)))]

    def strip(self, chars: str | None = None) -> Any:
        return self.lstrip(chars).rstrip(chars)

    def removeprefix(self, prefix: str) -> "Typed":
        return self[len(prefix) :] if self.startswith(prefix) else self

    def removesuffix(self, suffix: str) -> "Typed":
        return self[: len(self) - len(suffix)] if self.endswith(suffix) else self

    def replace(self, old: str, new: str, count: Any = -1) -> Any:
        return Typed.of(str.join(new, self.split(old, count)), self.read) if old else str.replace(self, old, new, count)

    def __getitem__(self, at: Any) -> "Typed":
        return Typed.of(str.__getitem__(self, at), self.read)

    def __add__(self, other: str) -> "Typed":
        return Typed.of(str.__add__(self, other), self.read)

    def __radd__(self, other: str) -> "Typed":
        return Typed.of(str.__add__(other, self), self.read)

    def __str__(self) -> "Typed":
        return self  # which Jinja's filters ask for

    def __hash__(self) -> int:
        return hash(self._real(self))


def _asked(name: str) -> Callable[..., Any]:
    of_str = getattr(str, name)

    def method(self: Typed, *args: Any) -> Any:
        return of_str(self._real(self), *map(self._real, args))

    return method


for _name in (
    "__contains__",
    "__eq__",
    "__ne__",
    "count",
    "endswith",
    "find",
    "index",
    "rfind",
    "rindex",
    "startswith",
):
    setattr(Typed, _name, _asked(_name))


@dataclass(frozen=True)
class StandIns:
    """`contents` in stand-ins, and how to read them back: `read` holds the character of each, `owner` its message."""

    contents: list[str]
    read: dict[int, int]
    owner: dict[int, int]

    def render(self, template: str, messages: list[dict[str, str]], **variables: Any) -> str:
        """What a chat template makes of the messages with these contents, in stand-ins. transformers' own rendering
        makes plain strings of its messages. Raises jinja2's errors."""
        # What macros and blocks give is put together by `concat`; a template may look into that, too.
        environment = _compile_jinja_template(template).environment.overlay()
        environment.concat = lambda parts: Typed.of("".join(parts), self.read)
        typed = [{**m, "content": Typed.of(c, self.read)} for m, c in zip(messages, self.contents, strict=True)]
        variables |= {"tools": None, "documents": None, "add_generation_prompt": True}
        return str.__str__(environment.from_string(template).render(messages=typed, **variables))

    def text(self, rendered: str) -> tuple[str, list[bool]]:
        """A rendering in the characters that were typed, and whether each of it was."""
        return rendered.translate(self.read), [ord(c) in self.read for c in rendered]

    def left_out(self, rendered: str) -> list[int]:
        """The messages of which nothing is in a rendering, though they have more than white space."""
        there = {self.owner[ord(c)] for c in set(rendered) if ord(c) in self.owner}
        return sorted(set(self.owner.values()) - there)


def stand_ins(contents: list[str]) -> StandIns:
    fresh = iter(range(*STAND_INS))
    written: list[str] = []
    read: dict[int, int] = {}
    owner: dict[int, int] = {}
    for i, content in enumerate(contents):
        table = {ord(c): next(fresh) for c in sorted(set(content)) if not c.isspace()}
        written.append(content.translate(table))
        read |= {stand_in: char for char, stand_in in table.items()}
        owner |= dict.fromkeys(table.values(), i)
    return StandIns(written, read, owner)
