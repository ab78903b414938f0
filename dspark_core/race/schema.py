"""Records to JSON values and back, strictly: pydantic reads the dataclasses' own type hints as the schema.

A field that equals its default is left out, and so is one whose metadata has "saved": False. What does not fit is
refused with the place where it stands, such as `race.lanes[1].rounds[3].next_id`. The dataclasses stay plain: nothing
of pydantic stands in them.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import cache
from types import GenericAlias, TracebackType
from typing import Any, Generic, TypeVar

from pydantic import ConfigDict, TypeAdapter
from pydantic_core import ErrorDetails, PydanticCustomError, SchemaValidator, ValidationError

Record = TypeVar("Record")

MAX_CHARACTERS = 100_000  # of one string
CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False, str_max_length=MAX_CHARACTERS)
# Put on every node of this type. Scalars are strict: no number is a boolean, no text a number. JSON has lists alone, so
# what holds items takes one as a tuple or a set; it stops at the first that does not fit, for there may be millions.
CONSTRAINTS: dict[str, dict[str, Any]] = {
    "int": {"strict": True, "ge": -(2**53), "le": 2**53},
    "float": {"strict": True, "ge": -1e300, "le": 1e300},
    "bool": {"strict": True},
    "str": {"strict": True},
    "list": {"fail_fast": True},
    "tuple": {"fail_fast": True},
    "frozenset": {"fail_fast": True},
    "dict": {"fail_fast": True},
}
WHOLE, FINITE, LIST, OBJECT = "a whole number", "a finite number", "a list", "an object"
# pydantic's name of an error -> what the value must be
EXPECTED = {
    "int_type": WHOLE,
    "float_type": FINITE,
    "finite_number": FINITE,
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": LIST,
    "tuple_type": LIST,
    "frozen_set_type": LIST,
    "dict_type": OBJECT,
    "dataclass_type": OBJECT,
}


class Misfit(ValueError):
    """A value that does not fit its field. `steps` lead to it from the outermost value."""

    def __init__(self, words: str, steps: tuple[str | int, ...] = ()):
        super().__init__(words)
        self.words, self.steps = words, steps

    @property
    def place(self) -> str:
        return "".join(f"[{s}]" if isinstance(s, int) else f".{brief(s)}" for s in self.steps).removeprefix(".")


class Place:
    """`with Place("lanes", 1):` what misfits inside stands there."""

    def __init__(self, *steps: str | int):
        self.steps = steps

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, Misfit):
            error.steps = (*self.steps, *error.steps)


def require(holds: bool, words: str, *steps: str | int) -> None:
    """Raises Misfit at `steps` unless it holds."""
    if not holds:
        raise Misfit(words, steps)


class Schema(Generic[Record]):
    """What a JSON value must be to become a `Record`: a dataclass, or what its fields may be."""

    def __init__(self, kind: type[Record]):
        row = GenericAlias(tuple, (kind,))  # a dataclass itself takes no config from outside
        core = TypeAdapter(row, config=CONFIG).core_schema
        self._constrain(core)
        self._validator = SchemaValidator(core)

    def decode(self, value: object) -> Record:
        """The record that a JSON value (as json.loads gives it) holds. Raises Misfit."""
        try:
            record: Record = self._validator.validate_python((value,))[0]
        except ValidationError as error:
            raise self._misfit(error.errors(include_url=False)) from None
        return record

    def _constrain(self, node: Any) -> None:
        """Put CONSTRAINTS on a core schema, in place."""
        if isinstance(node, list | tuple):
            for part in node:
                self._constrain(part)
        elif isinstance(node, dict):
            for part in list(node.values()):
                self._constrain(part)
            kind = node.get("type")
            row = kind == "tuple" and "variadic_item_index" not in node  # its few errors tell how many items it has
            node.update(CONSTRAINTS.get(kind, {}) if isinstance(kind, str) and not row else {})
            if kind == "dataclass":
                names = [name for name, _ in _saved_fields(node["cls"])]
                for part in node["schema"]["fields"]:
                    part["init"] = part["name"] in names
                inner = {key: part for key, part in node.items() if key != "ref"}
                function = {"type": "no-info", "function": self._narrow(frozenset(names))}
                outer = {"ref": node["ref"]} if "ref" in node else {}
                node.clear()
                node.update(outer, type="function-before", function=function, schema=inner)

    @staticmethod
    def _narrow(names: frozenset[str]) -> Callable[[object], object]:
        """Refuses an object of more fields than a record has at its first unknown one: pydantic would list millions."""

        def check(value: object) -> object:
            if isinstance(value, dict) and len(value) > len(names):
                name = next(key for key in value if key not in names)
                raise PydanticCustomError("unknown", "unknown", {"name": brief(name)})  # it fails over half characters
            return value

        return check

    @staticmethod
    def _misfit(errors: list[ErrorDetails]) -> Misfit:
        """pydantic's first error in this house's words."""
        error = errors[0]
        kind, value, context = error["type"], error["input"], error.get("ctx", {})
        steps = tuple(step for step in error["loc"][1:] if step != "[key]")
        if kind == "unknown":
            return Misfit("is not a field that is known here", (*steps, context["name"]))
        if kind == "unexpected_keyword_argument":
            return Misfit("is not a field that is known here", steps)
        if kind == "missing" and isinstance(steps[-1], int):
            return Misfit(f"must be a list of {1 + max(int(e['loc'][-1]) for e in errors)}", steps[:-1])
        if kind == "missing":
            return Misfit("is missing", steps)
        if kind == "too_long":
            return Misfit(f"must be a list of {context['max_length']}", steps)
        if kind == "string_too_long":
            return Misfit(f"has {len(value):,} characters; at most {MAX_CHARACTERS:,} are taken", steps)
        if kind == "string_unicode":
            return Misfit("is not valid Unicode text", steps)
        if kind == "value_error":  # the record's own rules
            return Misfit(f"cannot be: {context['error']}".rstrip("."), steps)
        if kind in ("greater_than_equal", "less_than_equal"):
            (limit,) = context.values()
            return Misfit(f"must be {WHOLE if isinstance(limit, int) else FINITE}, not {value_words(value)}", steps)
        return Misfit(f"must be {EXPECTED.get(kind, 'something else')}, not {value_words(value)}", steps)


def encode(value: Any) -> Any:
    """A record, or what its fields hold, as what json.dumps takes."""
    if isinstance(value, bool | int | float | str | None):
        return value
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    items = ((name, getattr(value, name), default) for name, default in _saved_fields(value.__class__))
    return {name: encode(item) for name, item, default in items if default is dataclasses.MISSING or item != default}


@cache
def _saved_fields(kind: Any) -> list[tuple[str, Any]]:
    """(name, default) of every field that a document holds."""
    return [
        (f.name, f.default if f.default_factory is dataclasses.MISSING else f.default_factory())
        for f in dataclasses.fields(kind)
        if f.metadata.get("saved", True)
    ]


def brief(text: str) -> str:
    """A file's own text in a sentence."""
    return text if len(text) <= 40 and text.isprintable() else repr(text[:40])[1:-1] + "…"


def value_words(value: object) -> str:
    """A JSON value in a sentence: what it is, and itself if it is short."""
    if isinstance(value, dict | list):
        return OBJECT if isinstance(value, dict) else LIST
    if value is None:
        return "null"
    if isinstance(value, str):
        return f"the text {brief(value)!r}"
    if isinstance(value, bool):
        return repr(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        return "a number that is not finite"
    return repr(value) if isinstance(value, int | float) and abs(value) < 1e30 else "so large a number"
