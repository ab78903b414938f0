"""Which characters of a rendered chat template somebody typed.

The template gets every message in stand-ins, one unassigned code point for each character of each message but white
space. The rendering, its stand-ins read back, is the one that the messages themselves give, and every stand-in in it
was typed, wherever the template trimmed, split or moved it.
"""

from dataclasses import dataclass

STAND_INS = 0x40000, 0x110000  # planes that have no characters, and private use


class Typed(str):
    """Text in stand-ins that compares and splits like the text it stands for: what a method is given is written in
    the same stand-ins first. So a template that looks for `</think>` in a message finds it."""

    table: dict[int, int]

    @classmethod
    def written(cls, text: str, table: dict[int, int]) -> "Typed":
        """`text`, which is in stand-ins already."""
        typed = cls(text)
        typed.table = table
        return typed

    def _written(self, given):
        if isinstance(given, tuple):
            return tuple(map(self._written, given))
        return given.translate(self.table) if type(given) is str else given

    def _typed(self, result):
        if isinstance(result, list | tuple):
            return type(result)(map(self._typed, result))
        return Typed.written(result, self.table) if type(result) is str else result

    def __hash__(self):
        return str.__hash__(self)


def _method(name: str):
    of_str = getattr(str, name)

    def method(self, *args, **kwargs):
        kwargs = {key: self._written(value) for key, value in kwargs.items()}
        return self._typed(of_str(self, *map(self._written, args), **kwargs))

    return method


for _name in (
    *("__contains__", "__eq__", "__ne__", "__getitem__", "count", "endswith", "find", "index", "lstrip", "partition"),
    *("removeprefix", "removesuffix", "replace", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "split"),
    *("splitlines", "startswith", "strip"),
):
    setattr(Typed, _name, _method(_name))


@dataclass(frozen=True)
class StandIns:
    """`contents` in stand-ins, and how to read them back: `read` holds the character of each, `owner` its message."""

    contents: list[Typed]
    read: dict[int, int]
    owner: dict[int, int]

    def text(self, rendered: str) -> tuple[str, list[bool]]:
        """A rendering in the characters that were typed, and whether each of it was."""
        return rendered.translate(self.read), [ord(c) in self.read for c in rendered]

    def left_out(self, rendered: str) -> list[int]:
        """The messages of which nothing is in a rendering, though they have more than white space."""
        there = {self.owner[ord(c)] for c in set(rendered) if ord(c) in self.owner}
        return sorted(set(self.owner.values()) - there)


def stand_ins(contents: list[str]) -> StandIns:
    fresh = iter(range(*STAND_INS))
    written, read, owner = [], {}, {}
    for i, content in enumerate(contents):
        table = {ord(c): next(fresh) for c in sorted(set(content)) if not c.isspace()}
        written.append(Typed.written(content.translate(table), table))
        read |= {stand_in: char for char, stand_in in table.items()}
        owner |= dict.fromkeys(table.values(), i)
    return StandIns(written, read, owner)
