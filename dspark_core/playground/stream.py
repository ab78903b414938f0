"""A race as the append-only string that assets/page/board.js reads.

Records end in RECORD, fields are parted by FIELD; the first field is the record's kind. A string that only
grows is sent by gradio as its new tail, and the board parses only that. The browser handles the whole string
at every update, though, so a long race is sent as a window over its newest records, which moves now and then;
at the end the whole race is sent once, for a board that missed some (a tab in the background does).

    R run base                    always first: a new run starts the board afresh; base is where the window begins.
                                  A run named "idle ..." shows only where no race is; "refused ..." leaves the panes
    I words...                    nothing runs; what each lane would do
    N max_tokens
    L lane method label about     a lane ("plain" is the method of a lane without a drafter); who made the method, and
                                  what it does
    M words                       what the engine is doing, for the status line
    W lane                        lane is warming up, off the clock
    P lane done total             prompt tokens read
    S lane prefill_s finish token the token that the prompt itself gives
    T temperature words           how the race decodes, and how the time of its passes is told apart
    Q lane how draft verify again later confidence q p token...    of the round that comes next, what the board shows on
                                  demand: seconds of its parts (how as in race/passes.py: empty where it is the whole),
                                  and of its drafts, in numbers that stand in a row, as many as are known; later: q and
                                  p were computed after the race; drafts that the round does not show
    D lane index time_s drafted proposed accepted bonus finish token...    a round
    E lane text                   the lane ended; text is what was held back: an unfinished character, for one
    F lane words                  the lane failed (lane -1: the race)
    A lane words                  the lane ended; what strict mode did in it
    V kind words                  the verdict
    O paid idle words             what came of the race: see race/outcome.py
    Z how words                   the race is over; words are announced to screen readers

A token is one character that says what became of it, then its text:
    a accepted, r rejected, d discarded after a rejection, c correction, b bonus, p the target's own, e stop token;
    u one that was drafted and is not shown; in a thought before the answer, and in the tags around it, the same in
    capitals.
    Where strict mode asked plain decoding's own numbers and they chose the draft that the verification refused, that
    token stands once, as the target's own, with the drafts behind it after it.

A race, as the board sees it: the worker's events become the board's value, 20 times a second.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from zlib import crc32

from ..catalog.local import weight_bytes
from ..catalog.memory import gigabytes
from ..decode.rounds import Prefill, Round, Start
from ..machine import device_of
from ..models.drafters import constants
from ..models.info import DrafterInfo
from ..models.thoughts import ANSWER, Thought, ThoughtTags
from ..models.token_bytes import TextStream
from ..race.inspection import AGAIN, BONUS, CORRECTION, OWN, fates_of
from ..race.metrics import metrics, plain_metrics, strictness, times_plain
from ..race.outcome import outcome
from ..race.passes import PassParts, costs_elsewhere
from ..race.records import (
    PLAIN,
    DeviceNoise,
    Failed,
    LaneRecord,
    LaneSpec,
    PassCosts,
    RaceRecord,
    RaceRequest,
    RaceSource,
    Verdict,
    WarmUp,
    exact,
)
from .selection import NOT_CHOSEN
from .worker import Busy, NoEngine, Waiting, Worker, race_job

RECORD, FIELD = "\x1e", "\x1f"
WINDOW = 32_768  # characters
ABOUT_PLAIN = (
    "The target alone, one token a step. The others are measured against it, and its text is the one to match."
)
SIGNS = {OWN: "p", AGAIN: "p", BONUS: "b", CORRECTION: "c"}
_NO_SEPARATORS = str.maketrans("", "", RECORD + FIELD)


def about(method: str) -> str:
    """Who made a method and what it does, in a sentence that stays on its pane; empty for one that is not known."""
    if method == PLAIN:
        return ABOUT_PLAIN.partition(". ")[0] + "."
    facts = constants(method)
    what = facts.get("ABOUT", "").partition(". ")[0].rstrip(".")
    by = f"By {facts['BY']}. " if "BY" in facts else ""
    return f"{by}{what}." if what else ""


def lane_records(lanes: Iterable[LaneSpec]) -> str:
    return "".join(record("L", i, spec.title, spec.label, about(spec.method)) for i, spec in enumerate(lanes))


def record(*fields) -> str:
    return FIELD.join(str(f).translate(_NO_SEPARATORS) for f in fields) + RECORD


class LaneText:
    """Turns one lane's tokens into text. A character split over tokens appears where its last byte does, or, where the
    tokenizer reads bytes as a whole, behind the last of them: see TextStream."""

    def __init__(self, token_bytes: Callable[[int], bytes], stop_ids: frozenset[int], thought: Thought | None = None):
        self._stop_ids, self._token_bytes = stop_ids, token_bytes
        self._text, self._tags = TextStream(token_bytes), ThoughtTags(thought)

    def committed(self, token_id: int, kind: str) -> str:
        if token_id in self._stop_ids:
            return "e" + self._text.alone(token_id)
        answers = self._tags.add(self._token_bytes(token_id).decode(errors="ignore")) == ANSWER
        return (kind if answers else kind.upper()) + self._text.add(token_id)

    def rejected(self, token_ids: tuple[int, ...], first: str = "r") -> list[str]:
        """Drafts that go no further, as they would have read after the text so far; `first` is what the first is."""
        signs = [first if i == 0 else "d" for i in range(len(token_ids))]
        texts = self._text.aside(token_ids)
        return [(s.upper() if self._tags.end else s) + text for s, text in zip(signs, texts, strict=True)]

    def tail(self) -> str:
        return self._text.end()


def idle(lanes: Iterable[LaneSpec], infos: Iterable[DrafterInfo]) -> str:
    """The board's value before any race: the lanes that would run, and what their drafters do, as far as it is
    known."""
    words = {PLAIN: ABOUT_PLAIN, **{info.id: info.about for info in infos}}
    specs = list(lanes)
    shown = lane_records(specs)
    shown += record("M", "Press Race: these lanes run.")
    shown += record("I", *(words.get(spec.drafter_id, "") or about(spec.method) for spec in specs))
    return record("R", f"idle {crc32(shown.encode()):08x}", 0) + shown  # another run whenever it shows something else


def refusal(run: int, words: str) -> str:
    """The board's value for a request that never became a race."""
    return record("R", f"refused {run}", 0) + record("F", -1, words)


class LanePasses:
    """What a lane's rounds say beside their tokens: the fields of their Q records."""

    def __init__(self, lane: LaneRecord, costs: PassCosts):
        self._drafter, self._costs, self._before = lane.spec.drafter_id, costs, 0.0
        self._seen = {i.index: i.block.slots for i in lane.inspections}

    def fields(self, r: Round, hidden: list[str]) -> list[str]:
        """Of the lane's next round; none where nothing is known."""
        parts = PassParts.of(r, r.time_s - self._before, self._drafter, self._costs)
        self._before = r.time_s
        how = "" if parts.how == PassParts.WHOLE else parts.how
        seen = () if r.detail else self._seen.get(r.index, ())
        q, p = (r.detail.q, r.detail.p) if r.detail else ([s.q for s in seen], [s.p for s in seen])
        confidence = r.confidence or [s.confidence for s in seen]
        numbers = [" ".join(f"{x:.3g}" for x in row if x is not None) for row in (confidence, q, p)]
        if not (how or hidden or parts.again or any(numbers)):
            return []
        seconds = [f"{x:.4g}" for x in (parts.draft, parts.verify, parts.again)]
        return [how, *seconds, "1" if seen else "", *numbers, *hidden]


def passes_words(profiled: bool, machine: str) -> str:
    """How the time of a race's passes is told apart, in a sentence."""
    if profiled:
        return "Its parts were timed apart in this race."
    whose = f"of another machine: {machine}" if machine else "of the machine that it ran on"
    return f"Its length is measured, its parts are split by the cost curve {whose}."


class BoardText:
    """The records of one race, grown by `add`."""

    def __init__(self, run: int, request: RaceRequest):
        self._run, self._base = run, 0
        self.records = record("N", request.settings.max_tokens) + lane_records(request.lanes)
        self._lanes: list[LaneText] = []
        self._passes: list[LanePasses] = []

    @property
    def value(self) -> str:
        """What the board is given: the window, between WINDOW and 2 x WINDOW characters of a long race."""
        if len(self.records) - self._base > 2 * WINDOW:
            self._base = self.records.index(RECORD, len(self.records) - WINDOW) + 1
        return self._from(self._base)

    @property
    def whole(self) -> str:
        return self._from(0)

    def _from(self, base: int) -> str:
        return record("R", self._run, base) + self.records[base:]

    def begin(
        self,
        token_bytes: Callable[[int], bytes],
        stop_ids: frozenset[int],
        lanes: int,
        thought: Thought | None = None,
    ) -> None:
        """`thought`: the one that the prompt begins, if it begins one."""
        self._lanes = [LaneText(token_bytes, stop_ids, thought) for _ in range(lanes)]

    def begin_passes(self, race: RaceRecord, machine: Mapping[str, str]) -> None:
        """The rounds that follow say where their time went, and what is known of their drafts."""
        drafters = {lane.spec.drafter_id for lane in race.lanes if lane.spec.speculative}
        costs = race.costs or costs_elsewhere(device_of(machine), drafters)
        self._passes = [LanePasses(lane, costs) for lane in race.lanes]
        settings = race.request.settings
        temperature = 0.0 if settings.greedy else settings.temperature
        words = passes_words(race.request.profile, costs.machine) if drafters else ""
        self.records += record("T", exact(temperature), words)

    def status(self, words: str) -> None:
        self.records += record("M", words)

    def warm_up(self, lane: int) -> None:
        self.records += record("W", lane)

    def add(self, lane: int, event) -> None:
        """A decode event of a lane."""
        self.records += self.event_records(lane, event)

    def add_all(self, events: Iterable[tuple[int, object]]) -> None:
        """(lane, event) pairs at once; much faster than one by one when there are thousands."""
        self.records += "".join([self.event_records(lane, event) for lane, event in events])

    def event_records(self, lane: int, event) -> str:
        """The records of an event, which must be the lane's next."""
        if isinstance(event, Prefill):
            return record("P", lane, event.done, event.total)
        if isinstance(event, Start):
            token = self._lanes[lane].committed(event.token_id, "p")
            start = record("S", lane, exact(event.prefill_s), event.finish or "", token)
            return start + self._end(lane, event.finish)
        if isinstance(event, Round):
            return self._round(lane, event) + self._end(lane, event.finish)
        return record("F", lane, event.message) if isinstance(event, Failed) else ""

    def _end(self, lane: int, finish: str | None) -> str:
        return record("E", lane, self._lanes[lane].tail()) if finish else ""

    def _round(self, lane: int, r: Round) -> str:
        text = self._lanes[lane]
        accepted, kind = min(r.accepted, len(r.committed)), fates_of(r)[1]
        tokens = [text.committed(t, "a") for t in r.committed[:accepted]]
        behind = r.draft_ids[r.accepted : r.proposed]
        hidden = self._hidden(text, r, kind) if self._passes else []
        if kind == CORRECTION:
            tokens += text.rejected(behind)
        tokens += [text.committed(t, SIGNS[kind]) for t in r.committed[accepted:]]
        if kind == AGAIN and not r.finish:
            tokens += text.rejected(behind[1:], first="d")
        counts = len(r.draft_ids), r.proposed, r.accepted, int(r.bonus)
        more = self._passes[lane].fields(r, hidden) if self._passes else []
        before = record("Q", lane, *more) if more else ""
        return before + record("D", lane, r.index, exact(r.time_s), *counts, r.finish or "", *tokens)

    def _hidden(self, text: LaneText, r: Round, kind: str) -> list[str]:
        """Drafts behind the accepted ones that stand nowhere in the round's tokens, as they would have read."""
        shown = r.proposed if kind in (CORRECTION, AGAIN) else r.accepted
        if len(r.draft_ids) <= shown or len(r.committed) < r.accepted:
            return []
        return ["u" + t[1:] for t in text.rejected(r.draft_ids[r.accepted :])[shown - r.accepted :]]

    def verdict(self, verdict: Verdict) -> None:
        self.records += record("V", verdict.kind, verdict.words)

    def outcome(self, race: RaceRecord) -> None:
        """Which lane was first, or why drafting did not pay."""
        if (found := outcome(race)).words:
            self.records += record("O", "" if found.paid is None else int(found.paid), found.idle, found.words)

    def strict(self, race: RaceRecord) -> None:
        """What strict mode did in each lane, once they have ended."""
        for i, lane in enumerate(race.lanes):
            if words := strict_words(race, lane):
                self.records += record("A", i, words)

    def over(self, how: str, words: str) -> None:
        self.records += record("Z", how, words)


def strict_words(race: RaceRecord, lane: LaneRecord) -> str:
    """What strict mode did in a lane and what that cost, in one or two sentences; empty if there was none."""
    if not race.request.strict or race.noise is None or not lane.spec.speculative or not lane.rounds:
        return ""
    if race.noise == 0:
        return "Strict mode is not needed: on this device logits are the same at every width, bit for bit."
    s, tokens = strictness(lane.rounds), metrics(lane).tokens
    if not s.positions:
        return f"Strict: no choice was so close that the width could turn it (noise {race.noise:.3g})."
    differently = f"{s.changed} differently" if s.changed else "none differently"
    return (
        f"Strict: {s.positions} of {tokens} tokens decided again at width 1, {differently}; that took "
        f"{100 * s.share:.0f} % of this lane’s time, and may make it slower than plain."
    )


def announcement(race: RaceRecord) -> str:
    """The race in one sentence a lane, for a screen reader."""
    plain = plain_metrics(race.lanes)
    sentences = ["Race stopped." if race.interrupted else "Race finished."]
    for lane in race.lanes:
        m = metrics(lane)
        if lane.error is not None:
            sentences.append(f"{lane.spec.name} failed.")
        elif m.tok_s:
            times = times_plain(m, plain) if lane.spec.speculative else None
            more = "" if times is None else f", {times:.2f} times plain"
            sentences.append(f"{lane.spec.name}: {m.tok_s:.1f} tokens per second{more}.")
    return " ".join([*sentences, *([race.verdict.words] if race.verdict else [])])


UPDATE_S = 0.05  # the board is sent 20 times a second
QUIET_S = 1.0  # at least this often, grown or not
LOOK_S = 0.5  # at what is loaded, while something is got ready
CHARTS_S = 1.0  # and charts are drawn at most once in this time
RUNS = itertools.count(1)


def source_of(race: RaceRecord) -> RaceSource:
    """What a race runs on; every race that runs, or has just ended, has it. Raises ValueError for one that was opened
    from a file, whose trace has the texts."""
    if race.source is None:
        raise ValueError("This race was opened from a file: its trace says what it ran on.")
    return race.source


class RaceView:
    """A race as far as its events have come: what the board shows of it, and its record.

    board: grows with every event
    race:  None until the engine begins; it is changed in place, see `copy`
    """

    def __init__(self, request: RaceRequest):
        self.board = BoardText(next(RUNS), request)
        self.race: RaceRecord | None = None
        self.failed = False

    @property
    def ended(self) -> int:
        """How many lanes will not go on."""
        return sum(bool(lane.finish or lane.error) for lane in self.race.lanes) if self.race else 0

    def copy(self) -> RaceRecord | None:
        """The race as it is now, which what comes later leaves alone."""
        race = self.race
        return race and replace(race, lanes=[replace(lane, rounds=[*lane.rounds]) for lane in race.lanes])

    def add(self, lane: int, event) -> None:
        """An event of the race's job."""
        if isinstance(event, Waiting):
            self.board.status(event.words)
        elif isinstance(event, RaceRecord):
            self._begin(event)
        elif isinstance(event, WarmUp):
            self.board.warm_up(lane)
        elif isinstance(event, Verdict | DeviceNoise) and self.race:
            if isinstance(event, DeviceNoise):
                self.race.noise = event.largest
            else:
                self.race.verdict = event
                self.board.verdict(event)
        else:
            self.board.add(lane, event)
            self.failed |= lane < 0
            if lane >= 0 and self.race:
                self.race.lanes[lane].add(event)

    def _begin(self, race: RaceRecord) -> None:
        self.race = replace(race, lanes=[LaneRecord(lane.spec) for lane in race.lanes])
        source, earlier = source_of(race), len(race.request.earlier)
        self.board.begin(source.token_bytes, source.stop_ids, len(race.lanes), race.thought)
        self.board.begin_passes(race, source.machine)
        context = f", {earlier} earlier exchanges in it" if earlier else ""
        self.board.status(f"Racing on {race.target}, {race.precision}, prompt of {race.prompt_tokens} tokens{context}.")

    def end(self, cancelled: bool) -> None:
        """Nothing comes any more."""
        stopped = cancelled and not (self.race and self.race.verdict)
        if self.race:
            self.race.stopped = stopped
            self.board.strict(self.race)
            self.board.outcome(self.race)
        how = "failed" if self.failed else "stopped" if stopped else "done"
        self.board.over(how, announcement(self.race) if self.race else f"Race {how}.")


def board_updates(worker: Worker, request: RaceRequest, session: str) -> Iterator[tuple[str, RaceRecord | None]]:
    """Run a race: (board value, None) at most every UPDATE_S; with a copy of the race so far in place of None when
    lanes have ended, at most every CHARTS_S; last of all (board value, the whole race).

    Closing it cancels the race; so that whoever went away closes it soon, something is yielded every QUIET_S. After a
    Stop it ends at once; the engine follows at its next event. Raises ValueError, with the reason in a sentence, if the
    race is not even queued.
    """
    view, job = RaceView(request), race_job(session, request)
    size, ended, sent = -1, 0, time.monotonic() - CHARTS_S
    yielded = sent
    with closing(worker.batches(job, UPDATE_S)) as batches:
        for batch in batches:
            for lane, event in batch:
                if isinstance(event, Busy):
                    raise ValueError(event.message)
                view.add(lane, event)
            if job.over or job.cancelled():
                break
            now, grown = time.monotonic(), len(view.board.records) > size
            size = len(view.board.records)
            if view.ended > ended and now - sent >= CHARTS_S:
                ended, sent = view.ended, now
                yielded = now
                yield view.board.value, view.copy()
            elif grown or now - yielded >= QUIET_S:
                yielded = now
                yield view.board.value, None
        view.end(job.cancelled())
        yield view.board.whole, view.race


def models_status(worker: Worker) -> Iterator[str]:
    """What is loaded, line by line, while it loads and once it is there. What a load or unload brings is shown once
    that is over: a click on Race would be refused till then."""
    shown = None
    while not worker.ready:
        if worker.progress != shown:
            shown = worker.progress
            yield f"Loading {shown} …"
        time.sleep(0.1)
    while True:
        now = "\n".join(filter(None, [loaded_words(worker), worker.idling]))
        if shown is not None and worker.running["running"] in ("load", "unload"):
            now = shown
        if now != shown or worker.may_lose:  # then also so that a page that was closed is noticed
            shown = now
            yield now
        if not worker.idling and not worker.may_lose:
            return
        time.sleep(LOOK_S if worker.idling else 4 * LOOK_S)


def loaded_words(worker: Worker) -> str:
    """What is loaded, in lines."""
    engine = worker.engine
    if isinstance(engine, NoEngine):
        return f"No race can be run: {engine.problem}"
    if lost := getattr(engine, "lost", ""):  # and it is not unloaded yet
        return str(lost)
    if not engine.name:
        return getattr(engine, "problem", "") or "No model is loaded: load one on the Models tab."
    choice = getattr(engine, "choice", None)

    def size(place: object) -> str:
        bytes_ = weight_bytes(place) if isinstance(place, Path) else 0
        return f", {gigabytes(bytes_)}" if bytes_ else ""

    places = {**choice.drafters, **choice.unread} if choice else {}
    titles = {info.lane_drafter or info.method: info.title for info in getattr(engine, "infos", ())}
    chosen = {name: how for name, how in engine.drafters.items() if how != NOT_CHOSEN}
    order = [*titles, *chosen]
    lines = [f"Target: {engine.name}, {engine.precision}{size(choice and choice.target)}"]
    for name in sorted(chosen, key=order.index):
        title = titles.get(name, name)
        how = chosen[name].removeprefix(f"{title}, ")  # a method that has no weights has no other name
        lines.append(f"{title}: {how}{size(places.get(name.lower()))}")
    return "\n".join(lines)
