"""Does sharing the device change a lane's speed? The same lanes raced together and alone, in alternation."""

import statistics
from collections.abc import Iterator
from dataclasses import replace

from ..race.metrics import metrics
from ..race.race import Models, race
from ..race.records import RaceRecord, RaceRequest


def raced_and_alone(models: Models, request: RaceRequest, alone_first: bool = False) -> list[tuple[float, float]]:
    """(tok/s raced, tok/s alone) of every lane. Raises RuntimeError if a lane fails."""
    solos = [replace(request, lanes=(spec,)) for spec in request.lanes]
    runs = [*solos, request] if alone_first else [request, *solos]
    speeds = [speed for run in runs for speed in _speeds(models, run)]
    n = len(solos)
    alone, raced = (speeds[:n], speeds[n:]) if alone_first else (speeds[n:], speeds[:n])
    return list(zip(raced, alone, strict=True))


def compare(models: Models, requests: list[RaceRequest]) -> Iterator[dict]:
    """One row a lane and prompt, then one a lane with the median ratio raced / alone over the prompts."""
    ratios: dict[str, list[float]] = {}
    for k, request in enumerate(requests):
        pairs = raced_and_alone(models, request, alone_first=k % 2 == 1)
        for spec, (raced, alone) in zip(request.lanes, pairs, strict=True):
            ratios.setdefault(spec.name, []).append(raced / alone)
            yield {"lane": spec.name, "prompt": k, "raced_tok_s": round(raced, 3), "alone_tok_s": round(alone, 3)}
    for name, values in ratios.items():
        yield {"lane": name, "prompts": len(values), "raced_over_alone": round(statistics.median(values), 4)}


def _speeds(models: Models, request: RaceRequest) -> list[float]:
    events = race(models, request)
    record = next(event for _, event in events if isinstance(event, RaceRecord))
    for _ in events:
        pass
    for lane in record.lanes:
        if lane.error:
            raise RuntimeError(lane.error)
    return [metrics(lane).tok_s for lane in record.lanes]
