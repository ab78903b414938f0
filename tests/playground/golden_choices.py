"""Choices and races over the golden sets."""

from dspark_core.decode.rounds import Settings
from dspark_core.playground.engine import Choice
from dspark_core.race.records import PLAIN, LaneSpec, RaceRequest

from ..models.build import GOLDEN


def choice(name: str, **changes) -> Choice:
    return Choice(**({"title": name, "target": GOLDEN / name / "target"} | {"drafters": _drafters(name)} | changes))


def _drafters(name):
    method = "dflash" if name in ("C", "D") else "dspark"
    return {method: GOLDEN / name / "drafter"}


def races(engine) -> list[int]:
    """The output of a short race on whatever is loaded; every lane must give the same."""
    engine.models.target.encode_chat = lambda messages: list(range(1, 12))  # the golden targets have no tokenizer
    lanes = LaneSpec(PLAIN), *(LaneSpec(m) for m in engine.drafters)
    request = RaceRequest("hello", lanes, Settings(max_tokens=8, stop_ids=frozenset()))
    events = list(engine.race(request, lambda: False))
    record = events[0][1]
    outputs = [lane.output for lane in record.lanes]
    assert len(outputs) == len(lanes) and all(o == outputs[0] and len(o) == 8 for o in outputs), record.lanes
    return outputs[0]
