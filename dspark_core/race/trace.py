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
     "at_start": {"17": "Hello"}}               optional: of those that begin an answer otherwise than "tokens" has it

`race` is a RaceRecord field by field (see record.py, decode/rounds.py): names, units and meanings are documented
there. A field that has its default value is left out. Only whole documents of this version are read: anything
missing, unknown, of another type or at odds with itself is refused with one sentence; a verdict's words and whatever
else the rounds decide are worked out again (checks.py). A change to a field's meaning raises VERSION.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from ..machine import device_of
from .codec import Misfit, decoder, encode, shown
from .records import MAX_EARLIER, MAX_EXCHANGES, MAX_SYSTEM, LaneRecord, RaceRecord, RaceRequest
from .trace_checks import MAX_NAME, MAX_WORDS, LaneChecks, checked_verdict, require

FORMAT, VERSION = "dspark-playground race", 1
MAX_BYTES = 20_000_000  # of a document; 4 lanes of 4,096 sampled tokens with all their numbers fit
MAX_PARTS = 2_000_000  # objects and lists in it, so that a small file cannot fill the memory
MAX_LANES = 4
MAX_TOKENS = 500_000  # tokens on the board, drafts included
MAX_TOKEN_BYTES = 1024
MAX_BOARD_BYTES = 16_000_000


class TraceError(ValueError):
    """A document that is no race this version can read; the message is one sentence for the visitor."""


@dataclass(frozen=True, slots=True)
class TokenText:
    """The bytes of the tokens of one race: called with an id, as `token_bytes` of a loaded model is."""

    tokens: Mapping[int, bytes]
    starts: Mapping[int, bytes]

    def __call__(self, token_id: int) -> bytes:
        return self.tokens[token_id]

    def at_start(self, token_id: int) -> bytes:
        """Its bytes as the first token of an answer."""
        return self.starts.get(token_id, self.tokens[token_id])


@dataclass(slots=True)
class Trace:
    """A race with what is needed to show it again: the text of its tokens and where it ran.

    at_start: the bytes of tokens that begin an answer, where they are others than in `tokens`
    """

    race: RaceRecord
    tokens: dict[int, bytes]
    stop_ids: frozenset[int] = frozenset()
    drafters: dict[str, str] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    made: str = ""
    at_start: dict[int, bytes] = field(default_factory=dict)

    @property
    def token_text(self) -> TokenText:
        return TokenText(self.tokens, self.at_start)


def trace_of(
    race: RaceRecord,
    token_bytes: Callable[[int], bytes],
    stop_ids: frozenset[int],
    drafters: Mapping[str, str],
    machine: Mapping[str, str],
    versions: Mapping[str, str],
) -> Trace:
    """The trace of a race that has ended now; `stop_ids` are the target's."""
    ids = {i for lane in race.lanes for i in _ids(lane)}
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
    )


def dumps(trace: Trace) -> str:
    """The document. Raises TraceError if it would be too large to be read again."""
    document = {
        "format": FORMAT,
        "version": VERSION,
        "made": trace.made,
        "versions": trace.versions,
        "machine": trace.machine,
        "drafters": trace.drafters,
        "race": encode(trace.race),
        "stop_ids": sorted(trace.stop_ids),
        "tokens": {str(i): _text(data) for i, data in trace.tokens.items()},
    }
    if trace.at_start:
        document["at_start"] = {str(i): _text(data) for i, data in trace.at_start.items()}
    try:
        text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        size = len(text.encode())
    except ValueError:
        raise TraceError("This race has a number or a text that JSON cannot hold, so it cannot be kept.") from None
    if size > MAX_BYTES:
        raise TraceError(f"This race would take more than {MAX_BYTES / 1e6:.0f} MB and cannot be kept.")
    return text


def loads(document: str | bytes) -> Trace:
    """The trace that a document holds. Raises TraceError, in one sentence; nothing else escapes."""
    data = _parse(document)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise TraceError("This file is JSON, but not a race that DSpark Playground saved.")
    version = data.get("version")
    if type(version) is int and version > VERSION:
        raise TraceError(
            f"This race was saved in format version {shown(version)} by a newer DSpark Playground; this one reads "
            f"version {VERSION}."
        )
    if type(version) is not int or version != VERSION:
        raise TraceError(f"This race names no format version that is known here: {shown(version)}.")
    try:
        return checked(_trace(data))
    except Misfit as misfit:
        raise TraceError(f"This race cannot be read: {misfit.place or 'it'} {misfit.words}.") from None


def _parse(document: str | bytes):
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
        return json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated"):
            raise TraceError("This file is cut off: it ends before its JSON does.") from None
        raise TraceError(f"This file is not JSON: {error.msg} at line {error.lineno}, {error.colno}.") from None
    except RecursionError:
        raise TraceError("This file is nested too deeply to be a race.") from None
    except ValueError as error:
        raise TraceError(f"This file is not JSON as it should be: {str(error)[:100].rstrip('.')}.") from None


def _no_constant(name: str):
    raise ValueError(f"{name} is no number in JSON")


_TOP = {"format", "version", "made", "versions", "machine", "drafters", "race", "stop_ids", "tokens"}


def _trace(data: dict) -> Trace:
    for key in _TOP:
        if key not in data:
            raise Misfit("is missing").inside(key)
    for key in data:
        if key not in _TOP | {"at_start"}:
            raise Misfit("is not a field that is known here").inside(key[:40] if key.isprintable() else "a field")
    return Trace(
        race=_at(data, "race", decoder(RaceRecord)),
        tokens=_at(data, "tokens", _tokens),
        stop_ids=_at(data, "stop_ids", decoder(frozenset[int])),
        drafters=_at(data, "drafters", _notes),
        machine=_at(data, "machine", _notes),
        versions=_at(data, "versions", _notes),
        made=_at(data, "made", _name),
        at_start=_at(data, "at_start", _tokens) if "at_start" in data else {},
    )


def _at(data: dict, key: str, decode):
    try:
        return decode(data[key])
    except Misfit as misfit:
        raise misfit.inside(key) from None


def _name(value) -> str:
    text = decoder(str)(value)
    if len(text) > MAX_NAME:
        raise Misfit(f"has {len(text):,} characters; at most {MAX_NAME} are taken")
    return text


def _notes(value) -> dict[str, str]:
    notes = decoder(dict[str, str])(value)
    if len(notes) > 50:
        raise Misfit(f"has {len(notes):,} entries; at most 50 are taken")
    for key, text in notes.items():
        if len(key) > MAX_NAME or len(text) > MAX_WORDS:
            raise Misfit("has an entry that is too long")
    return notes


def _tokens(value) -> dict[int, bytes]:
    if type(value) is not dict:
        raise Misfit(f"must be an object, not {shown(value)}")
    tokens = {}
    for key, text in value.items():
        if not (key.isascii() and key.isdecimal() and len(key) < 11):
            raise Misfit(f"has {shown(key)} in place of a token id")
        tokens[int(key)] = data = _bytes(text)
        if data is None or len(data) > MAX_TOKEN_BYTES:
            raise Misfit(f"must be text or a list of bytes, at most {MAX_TOKEN_BYTES} of them").inside(key)
    return tokens


def _text(data: bytes) -> str | list[int]:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return list(data)


def _bytes(text) -> bytes | None:
    try:
        return text.encode() if isinstance(text, str) else bytes(text) if isinstance(text, list) else None
    except (UnicodeEncodeError, ValueError, TypeError):
        return None


# ---- is it a race? --------------------------------------------------------------------------------------


def checked(trace: Trace) -> Trace:
    """The trace, with what its rounds decide put in the place of what the file says of them (see checks.py). Raises
    Misfit where its parts do not fit each other or are more than a page can show."""
    race = trace.race
    require(1 <= len(race.lanes) <= MAX_LANES, f"must have 1 to {MAX_LANES} lanes", "race", "lanes")
    specs = tuple(lane.spec for lane in race.lanes)
    require(race.request.lanes == specs, "does not name the lanes that ran", "race", "request", "lanes")
    require(race.prompt_tokens >= 0, "is negative", "race", "prompt_tokens")
    for name, text in {"target": race.target, "precision": race.precision}.items():
        require(len(text) <= MAX_NAME, "is too long", "race", name)
    require(race.noise is None or race.noise >= 0, "is negative", "race", "noise")
    _check_request(race.request)
    stops = trace.stop_ids if race.stop_ids is None else race.stop_ids
    require(trace.stop_ids <= stops, "are not those that the race stopped at", "stop_ids")
    exact = None if race.noise is None else race.noise == 0
    if exact is None and device_of(trace.machine) == "CPU":
        exact = True
    held_against, lanes = LaneChecks(race, stops, trace.tokens, exact), []
    for i, lane in enumerate(race.lanes):
        try:
            lanes.append(held_against.lane(lane))
        except Misfit as misfit:
            raise misfit.inside(i).inside("lanes").inside("race") from None
    _check_size(trace)
    _check_at_start(trace)
    _check_context(race)
    request = replace(race.request, lanes=tuple(lane.spec for lane in lanes))
    race = replace(race, request=request, lanes=lanes)
    return replace(trace, race=replace(race, verdict=checked_verdict(race)))


def _check_request(request: RaceRequest) -> None:
    system, earlier = request.system, request.earlier
    too_long = f"has more than {MAX_SYSTEM:,} characters"
    require(len(system) <= MAX_SYSTEM, too_long, "race", "request", "system")
    too_many = f"has more than {MAX_EXCHANGES} exchanges or {MAX_EARLIER:,} characters"
    fits = len(earlier) <= MAX_EXCHANGES and sum(map(len, sum(earlier, ()))) <= MAX_EARLIER
    require(fits, too_many, "race", "request", "earlier")
    strict = request.strict and not request.settings.greedy
    require(not strict, "is for greedy decoding only, and this race was sampled", "race", "request", "strict")


def _check_at_start(trace: Trace) -> None:
    begins = {lane.start.token_id for lane in trace.race.lanes if lane.start}
    require(trace.at_start.keys() <= begins, "has a token that begins no answer", "at_start")
    for i, data in trace.at_start.items():
        require(trace.tokens[i].endswith(data), "is not the end of the same token in tokens", "at_start", i)


def _check_size(trace: Trace) -> None:
    shown_ids = [i for lane in trace.race.lanes for i in _ids(lane)]
    require(len(shown_ids) <= MAX_TOKENS, f"has {len(shown_ids):,} tokens; at most {MAX_TOKENS:,} are taken", "race")
    size = sum(len(trace.tokens[i]) for i in shown_ids)
    require(size <= MAX_BOARD_BYTES, "has more text than a page can show", "race")


def _check_context(race: RaceRecord) -> None:
    """All lanes have the same prompt on the same target, so its context ends at the same token for all."""
    full = {len(lane.output) for lane in race.lanes if lane.finish == "context"}
    longest = max((len(lane.output) for lane in race.lanes), default=0)
    require(not full or full == {longest}, "have lanes that end with the context at different tokens", "race", "lanes")


def _ids(lane: LaneRecord):
    if lane.start:
        yield lane.start.token_id
    for r in lane.rounds:
        yield from r.draft_ids
        yield r.next_id
