"""Races of the tiny golden models as the page saves them: every kind of lane, sampling, stop, strict mode, inspections.

Each is run once in a process; `document(name)` is the file.
"""

import json
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from unittest import mock

from dspark_core.decode.rounds import Settings
from dspark_core.paths import assets
from dspark_core.playground.saved import traced
from dspark_core.race.records import LaneSpec, RaceRecord, RaceRequest
from dspark_core.race.trace import dumps, loads
from tests.decode.noisy import NoisyTarget
from tests.playground.tiny import TinyEngine

PLAIN, DSPARK = LaneSpec("plain"), LaneSpec("DSpark", cap=7, label="full block")
CAP = LaneSpec("DSpark", "cap", cap=2, label="cap 2")
SURE = LaneSpec("DSpark", "confidence", threshold=0.5, label="confidence ≥ 0.50")
PRODUCT = LaneSpec("DSpark", "cumulative", threshold=0.4, label="product ≥ 0.40")
DFLASH = LaneSpec("DFlash", "cap", cap=4, label="block 5")
MISSING = LaneSpec("JetSpec", cap=3, label="full block")
ENDLESS = frozenset()
REQUESTS = {
    "greedy": RaceRequest("hi", (PLAIN, DSPARK, DFLASH, SURE), Settings(24, stop_ids=ENDLESS)),
    "sampled": RaceRequest("hi", (PLAIN, DSPARK, CAP, PRODUCT), Settings(24, 1.0, seed=3, stop_ids=ENDLESS)),
    "stops": RaceRequest("hi", (DSPARK, PLAIN, DFLASH), Settings(40, stop_ids=frozenset(range(0, 256, 9)))),
    "short": RaceRequest("hi", (PLAIN, DSPARK), Settings(1, stop_ids=ENDLESS)),
    "failed": RaceRequest("hi", (PLAIN, MISSING, DSPARK), Settings(12, stop_ids=ENDLESS)),
    "profiled": RaceRequest("hi", (PLAIN, DSPARK), Settings(12, stop_ids=ENDLESS), profile=True),
    "strict": RaceRequest("hi", (PLAIN, DSPARK, DFLASH), Settings(40, stop_ids=ENDLESS), strict=True),
    "noisy": RaceRequest("hi", (PLAIN, DSPARK), Settings(40, stop_ids=ENDLESS)),
    "stopped": RaceRequest("hi", (PLAIN, DSPARK), Settings(40, stop_ids=ENDLESS)),
}
INSPECTED = ("greedy", "sampled", "stops", "strict")


@cache
def engine() -> TinyEngine:
    return TinyEngine()


@cache
def race_record(name: str) -> RaceRecord:
    """The race as it ran, with two rounds of each lane looked at where it is one of INSPECTED."""
    tiny, request = engine(), REQUESTS[name]
    models, target = tiny.models, tiny.models.target
    models.noise = None
    if name in ("strict", "noisy"):
        models.target = NoisyTarget(target, 1, on_logits=1.0, on_cache=0.2)
    with (
        tempfile.TemporaryDirectory() as empty,  # the noise of a noisy target must not stay on this disk
        mock.patch("dspark_core.store.cache_directory", lambda: Path(empty)),
    ):
        record = _ran(name, request)
    models.target, models.noise, models.kept = target, None, None
    return record


def _ran(name: str, request: RaceRequest) -> RaceRecord:
    tiny = engine()
    events = tiny.race(request, lambda: False)
    record = next(e for _, e in events if isinstance(e, RaceRecord))
    for k, _ in enumerate(events):
        if name == "stopped" and k == 25:
            record.stopped = True
            break
    events.close()
    for i, lane in enumerate(record.lanes if name in INSPECTED else []):
        for index in sorted({0, len(lane.rounds) - 1}):
            lane.inspections.append(tiny.inspect(record, i, index, lambda: False, lambda done, total: None))
    return record


@cache
def shipped() -> dict[str, RaceRecord]:
    """The recorded races that come with the program, by the names of their files."""
    return {f.stem: loads(f.read_bytes()).race for f in sorted((assets() / "races").glob("*.json"))}


@cache
def document(name: str) -> str:
    return dumps(traced(race_record(name)))


def edited(name: str, *changes: tuple[str, object]) -> str:
    """The file with the values at these paths (steps parted by "/") replaced; a function is given the value that was
    there."""
    data = json.loads(document(name))
    for path, value in changes:
        *way, last = (int(step) if step.lstrip("-").isdecimal() else step for step in path.split("/"))
        place = data
        for step in way:
            place = place[str(step)] if isinstance(place, dict) else place[step]
        if value is ...:
            del place[last]
        else:
            before = place.get(last) if isinstance(place, dict) else place[last]
            place[last] = value(before) if callable(value) else value
    return json.dumps(data)


def rounds(name: str) -> Iterator[tuple[int, int, object]]:
    """(lane, index, round)"""
    for i, lane in enumerate(race_record(name).lanes):
        for r in lane.rounds:
            yield i, r.index, r
