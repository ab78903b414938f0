"""A race as one JSON document, so that it can be kept, shown elsewhere, compared and replayed without a model.

    {"format": "dspark-playground race", "version": 1,
     "made": "2026-05-01T12:00:00+00:00",       when the race ended, UTC
     "versions": {"mlx": "0.32.4", ...},        of what ran it
     "machine": {"device": "CPU", "processor": "...", ...},  where it ran (dspark_core/machine.py); no device in
                                                files of before there was one
     "drafters": {"DSpark": "...", ...},        method -> name, block and precision, or why it did not run
     "race": {"target", "precision", "request": {"prompt", "system": "...", "earlier": [["user's turn",
              "assistant's turn"], ...], "lanes", "settings", ...}, "prompt_tokens",
              "lanes": [{"spec", "start", "rounds": [...], "error"}], "stopped", "verdict"},
     "stop_ids": [2, ...],                      those that end an answer and occur in `tokens`
     "tokens": {"17": "Hello", "18": [240, 159]},   the text of every token id that occurs, or its bytes
     "at_start": {"17": "Hello"},               optional: of those that begin an answer otherwise than "tokens" has it
     "byte_tokens": [18, ...],                  optional: those that are one byte of a run, which is read as a whole
     "clean_up": true}                          optional: spaces before punctuation are left out of the text

`race` is a RaceRecord field by field (see records.py, decode/rounds.py): names, units and meanings are documented
there. A field that has its default value is left out. Only whole documents of this version are read: anything
missing, unknown, twice, of another type or at odds with itself is refused with one sentence; a verdict's words and
whatever else the rounds decide are worked out again (trace_checks.py). A change to a field's meaning raises VERSION.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ..errors import TraceError
from ..store import parse_json
from .lane_checks import MAX_NAME, MAX_WORDS
from .records import RaceRecord
from .schema import Misfit, Place, Schema, encode, require, value_words
from .trace_checks import RaceChecks, ids_of

FORMAT, VERSION = "dspark-playground race", 1
MAX_BYTES = 20_000_000  # of a document; 4 lanes of 4,096 sampled tokens with all their numbers fit
MAX_PARTS = 2_000_000  # objects and lists in it, so that a small file cannot fill the memory
MAX_TOKEN_BYTES = 1024
MAX_NOTES = 50


@dataclass(frozen=True, slots=True)
class TokenText:
    """The bytes of the tokens of one race: called with an id, as `token_bytes` of a loaded model is."""

    tokens: Mapping[int, bytes]
    starts: Mapping[int, bytes]
    byte_tokens: frozenset[int] = frozenset()
    clean_up: bool = False

    def __call__(self, token_id: int) -> bytes:
        return self.tokens[token_id]

    def at_start(self, token_id: int) -> bytes:
        """Its bytes as the first token of an answer."""
        return self.starts.get(token_id, self.tokens[token_id])

    def is_byte(self, token_id: int) -> bool:
        return token_id in self.byte_tokens


@dataclass(slots=True)
class Trace:
    """A race with what is needed to show it again: the text of its tokens and where it ran.

    at_start:    the bytes of tokens that begin an answer, where they are others than in `tokens`
    byte_tokens: those that a decoder reads in runs, and
    clean_up:    whether it leaves out spaces before punctuation: see models/token_bytes.py
    """

    race: RaceRecord
    tokens: dict[int, bytes]
    stop_ids: frozenset[int] = frozenset()
    drafters: dict[str, str] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    made: str = ""
    at_start: dict[int, bytes] = field(default_factory=dict)
    byte_tokens: frozenset[int] = frozenset()
    clean_up: bool = False

    @property
    def token_text(self) -> TokenText:
        return TokenText(self.tokens, self.at_start, self.byte_tokens, self.clean_up)


def trace_of(
    race: RaceRecord,
    token_bytes: Callable[[int], bytes],
    stop_ids: frozenset[int],
    drafters: Mapping[str, str],
    machine: Mapping[str, str],
    versions: Mapping[str, str],
) -> Trace:
    """The trace of a race that has ended now; `stop_ids` are the target's."""
    ids = {i for lane in race.lanes for i in ids_of(lane)}
    tokens = {i: token_bytes(i) for i in sorted(ids)}
    first = getattr(token_bytes, "at_start", token_bytes)
    starts = {i: first(i) for i in sorted({lane.start.token_id for lane in race.lanes if lane.start})}
    return Trace(
        race=race,
        tokens=tokens,
        at_start={i: data for i, data in starts.items() if data != tokens[i]},
        stop_ids=frozenset(stop_ids if race.stop_ids is None else race.stop_ids) & ids,
        drafters=dict(drafters),
        machine=dict(machine),
        versions=dict(versions),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        byte_tokens=frozenset(filter(getattr(token_bytes, "is_byte", lambda token_id: False), tokens)),
        clean_up=getattr(token_bytes, "clean_up", False),
    )


@dataclass(frozen=True, slots=True)
class Document:
    """The file, field by field. A token is its text, or a list of bytes where they are no whole characters."""

    format: str
    version: int
    made: str
    versions: dict[str, str]
    machine: dict[str, str]
    drafters: dict[str, str]
    race: RaceRecord
    stop_ids: frozenset[int]
    tokens: dict[str, Any]
    at_start: dict[str, Any] = field(default_factory=dict)
    byte_tokens: frozenset[int] = frozenset()
    clean_up: bool = False

    @classmethod
    def of(cls, trace: Trace) -> "Document":
        tokens, starts = (
            {str(i): cls._text(data) for i, data in texts.items()} for texts in (trace.tokens, trace.at_start)
        )
        notes = trace.versions, trace.machine, trace.drafters
        return cls(
            FORMAT,
            VERSION,
            trace.made,
            *notes,
            trace.race,
            trace.stop_ids,
            tokens,
            starts,
            trace.byte_tokens,
            trace.clean_up,
        )

    def trace(self) -> Trace:
        """What the file holds, checked. Raises Misfit."""
        for name in ("versions", "machine", "drafters"):
            self._require_short(getattr(self, name), name)
        size = len(self.made)
        require(size <= MAX_NAME, f"has {size:,} characters; at most {MAX_NAME} are taken", "made")
        with Place("tokens"):
            tokens = self._texts(self.tokens)
        with Place("at_start"):
            starts = self._texts(self.at_start)
        single = all(len(tokens.get(i, b"")) == 1 for i in self.byte_tokens)
        require(single, "has a token that is no single byte in tokens", "byte_tokens")
        race = RaceChecks(tokens, starts, self.stop_ids, self.drafters, self.machine).checked(self.race)
        notes = self.drafters, self.machine, self.versions, self.made
        return Trace(race, tokens, self.stop_ids, *notes, starts, self.byte_tokens, self.clean_up)

    @staticmethod
    def _require_short(notes: Mapping[str, str], name: str) -> None:
        require(len(notes) <= MAX_NOTES, f"has {len(notes):,} entries; at most {MAX_NOTES} are taken", name)
        short = all(len(key) <= MAX_NAME and len(text) <= MAX_WORDS for key, text in notes.items())
        require(short, "has an entry that is too long", name)

    @classmethod
    def _texts(cls, texts: Mapping[str, object]) -> dict[int, bytes]:
        tokens = {}
        for key, text in texts.items():
            number = key.isascii() and key.isdecimal() and len(key) < 11 and (key == "0" or key[0] != "0")
            require(number, f"has {value_words(key)} in place of a token id")
            data = cls._bytes(text)
            if data is None or len(data) > MAX_TOKEN_BYTES:
                raise Misfit(f"must be text or a list of bytes, at most {MAX_TOKEN_BYTES} of them", (key,))
            tokens[int(key)] = data
        return tokens

    @staticmethod
    def _text(data: bytes) -> str | list[int]:
        try:
            return data.decode()
        except UnicodeDecodeError:
            return list(data)

    @staticmethod
    def _bytes(text: object) -> bytes | None:
        try:
            if isinstance(text, list):
                return bytes(text) if all(type(byte) is int for byte in text) else None
            return text.encode() if isinstance(text, str) else None
        except ValueError:  # half a surrogate pair; no byte
            return None


def dumps(trace: Trace) -> str:
    """The document. Raises TraceError if it would be too large to be read again."""
    try:
        document = encode(Document.of(trace))
        text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        size = len(text.encode())
    except ValueError:
        raise TraceError("This race has a number or a text that JSON cannot hold, so it cannot be kept.") from None
    if size > MAX_BYTES:
        raise TraceError(f"This race would take more than {MAX_BYTES / 1e6:.0f} MB and cannot be kept.")
    return text


def loads(document: str | bytes) -> Trace:
    """The trace that a document holds. Raises TraceError, in one sentence; nothing else escapes."""
    data = _json_of(document)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise TraceError("This file is JSON, but not a race that DSpark Playground saved.")
    version = data.get("version")
    if type(version) is int and version > VERSION:
        raise TraceError(
            f"This race was saved in format version {value_words(version)} by a newer DSpark Playground; this one "
            f"reads version {VERSION}."
        )
    if type(version) is not int or version != VERSION:
        raise TraceError(f"This race names no format version that is known here: {value_words(version)}.")
    try:
        return DOCUMENT.decode(data).trace()
    except Misfit as misfit:
        raise TraceError(f"This race cannot be read: {misfit.place or 'it'} {misfit.words}.") from None


DOCUMENT = Schema(Document)


def _json_of(document: str | bytes) -> Any:
    try:
        size = len(document) if isinstance(document, bytes) else len(document.encode())
        if size > MAX_BYTES:
            raise TraceError(f"This file has {size / 1e6:.1f} MB; a race has at most {MAX_BYTES / 1e6:.0f} MB.")
        text = document.decode("utf-8-sig") if isinstance(document, bytes) else document.removeprefix("\ufeff")
    except UnicodeError:
        raise TraceError("This file is not text in UTF-8, so it is no saved race.") from None
    if not text.strip():
        raise TraceError("This file is empty.")
    if text.count("[") + text.count("{") > MAX_PARTS or text.count('"') > 8 * MAX_PARTS:
        raise TraceError("This file has more parts than any race.")
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated"):
            raise TraceError("This file is cut off: it ends before its JSON does.") from None
        raise TraceError(f"This file is not JSON: {error.msg} at line {error.lineno}, {error.colno}.") from None
    except ValueError as error:
        raise TraceError(f"This file is not JSON as it should be: {str(error)[:100].rstrip('.')}.") from None
