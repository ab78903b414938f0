"""Dataclasses to JSON values and back, strictly: their type hints are the schema.

A field that equals its default is left out. What does not fit is refused with the place where it stands, such
as `race.lanes[1].rounds[3].next_id`. Known kinds: bool, int, float, str, None, tuple[X, ...], tuple[X, Y],
list[X], frozenset[int], dict[str, X], dataclasses, and unions of one of these with None.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Callable
from functools import cache

MAX_INT = 2**53
MAX_FLOAT = 1e300
_LIMITS = {int: MAX_INT, float: MAX_FLOAT}
MAX_TEXT = 100_000  # characters of one string
SAVED = "saved"  # in a field's metadata: False for what is of this run only and stands in no document


class Misfit(ValueError):
    """A value that does not fit its field. `steps` lead to it from the outermost value."""

    def __init__(self, words: str, steps: tuple[str | int, ...] = ()):
        super().__init__(words)
        self.words, self.steps = words, steps

    def inside(self, step: str | int) -> "Misfit":
        return Misfit(self.words, (step, *self.steps))

    @property
    def place(self) -> str:
        told = "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in self.steps)
        return told.removeprefix(".")


def encode(value):
    """`value` as what json.dumps takes."""
    if isinstance(value, bool | int | float | str | None):
        return value
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    kept = {}
    for name, required, default in _fields(type(value)):
        item = getattr(value, name)
        if required or item != default:
            kept[name] = encode(item)
    return kept


@cache
def _fields(kind: type) -> list[tuple[str, bool, object]]:
    """(name, required, default) of every field that a document holds."""
    rows = []
    for f in dataclasses.fields(kind):
        if not f.metadata.get(SAVED, True):
            continue
        made = f.default_factory is not dataclasses.MISSING
        required = f.default is dataclasses.MISSING and not made
        rows.append((f.name, required, f.default_factory() if made else f.default))
    return rows


@cache
def decoder(kind) -> Callable[[object], object]:
    """A function that makes a `kind` of a JSON value. It raises Misfit."""
    if kind in _SCALARS:
        return _SCALARS[kind]
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        (inner,) = (decoder(a) for a in args if a is not types.NoneType)
        return lambda value: None if value is None else inner(value)
    if origin in (list, frozenset) or (origin is tuple and args[1:] == (...,)):
        return _sequence(origin, args[0])
    if origin is tuple:
        return _row(args)
    if origin is dict:
        return _mapping(args[1])
    if dataclasses.is_dataclass(kind):
        return _record(kind)
    raise TypeError(f"no JSON form for {kind}")


def _bool(value):
    if value is not True and value is not False:
        raise Misfit(f"must be true or false, not {shown(value)}")
    return value


def _int(value):
    if type(value) is not int or not -MAX_INT <= value <= MAX_INT:
        raise Misfit(f"must be a whole number, not {shown(value)}")
    return value


def _float(value):
    if type(value) not in (int, float) or not -MAX_FLOAT <= value <= MAX_FLOAT:  # not NaN either
        raise Misfit(f"must be a finite number, not {shown(value)}")
    return float(value)


def _str(value):
    if type(value) is not str:
        raise Misfit(f"must be text, not {shown(value)}")
    if len(value) > MAX_TEXT:
        raise Misfit(f"has {len(value):,} characters; at most {MAX_TEXT:,} are taken")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Misfit("is not valid Unicode text") from None
    return value


_SCALARS = {bool: _bool, int: _int, float: _float, str: _str}


def _sequence(origin, item_kind):
    item = decoder(item_kind)

    def decode(value):
        if type(value) is not list:
            raise Misfit(f"must be a list, not {shown(value)}")
        limit = _LIMITS.get(item_kind)
        if limit and set(map(type, value)) == {item_kind} and -limit <= min(value) and max(value) <= limit:
            return origin(value)  # most of a trace is lists of numbers
        made = []
        for k, part in enumerate(value):
            try:
                made.append(item(part))
            except Misfit as misfit:
                raise misfit.inside(k) from None
        return origin(made)

    return decode


def _row(kinds):
    items = [decoder(kind) for kind in kinds]

    def decode(value):
        if type(value) is not list or len(value) != len(items):
            raise Misfit(f"must be a list of {len(items)}")
        made = []
        for k, (item, part) in enumerate(zip(items, value, strict=True)):
            try:
                made.append(item(part))
            except Misfit as misfit:
                raise misfit.inside(k) from None
        return tuple(made)

    return decode


def _mapping(item_kind):
    item = decoder(item_kind)

    def decode(value):
        if type(value) is not dict:
            raise Misfit(f"must be an object, not {shown(value)}")
        made = {}
        for key, part in value.items():
            try:
                made[_str(key)] = item(part)
            except Misfit as misfit:
                raise misfit.inside(_clipped(key)) from None
        return made

    return decode


def _record(kind):
    hints = typing.get_type_hints(kind)
    decoders = {name: decoder(hints[name]) for name, _, _ in _fields(kind)}
    required = [name for name, needed, _ in _fields(kind) if needed]

    def decode(value):
        if type(value) is not dict:
            raise Misfit(f"must be an object, not {shown(value)}")
        made = {}
        for key, part in value.items():
            if key not in decoders:
                raise Misfit("is not a field that is known here").inside(_clipped(key))
            try:
                made[key] = decoders[key](part)
            except Misfit as misfit:
                raise misfit.inside(key) from None
        for key in required:
            if key not in made:
                raise Misfit("is missing").inside(key)
        try:
            return kind(**made)
        except ValueError as error:  # the record's own rules
            raise Misfit(f"cannot be: {error}".rstrip(".")) from None

    return decode


def _clipped(text: str) -> str:
    return text if len(text) <= 40 and text.isprintable() else repr(text[:40])[1:-1] + "…"


def shown(value) -> str:
    """A JSON value in a sentence: what it is, and itself if it is short."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if value is None:
        return "null"
    if isinstance(value, str):
        return f"the text {_clipped(value)!r}"
    if isinstance(value, float) and not math.isfinite(value):
        return "a number that is not finite"
    told = repr(value).lower() if isinstance(value, bool) else repr(value) if abs(value) < 1e30 else "so large a number"
    return told
