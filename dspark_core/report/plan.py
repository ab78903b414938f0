"""What to measure, and in which order."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..presets import load_prompts
from ..race.record import CAP, CONFIDENCE, CUMULATIVE, FULL, HARDWARE, PLAIN, LaneSpec

MLX_LM, PEER, BEST = "mlx-lm", "peer", "best"
METHODS = {"dspark": "DSpark", "dflash": "DFlash"}
VALUED = {CAP: int, CONFIDENCE: float, CUMULATIVE: float}


@dataclass(frozen=True, slots=True)
class Lane:
    """One way to decode.

    name:   as it was asked for and as the report calls it, such as "dspark:cap=3"
    engine: "plain" or "speculative" (this project's loops), "mlx-lm" (its own loop, in this process) or "peer"
    spec:   of this project's loops
    best:   the cap is the best fixed one in hindsight, prompt by prompt
    peer:   what the peer calls its lane
    """

    name: str
    engine: str
    spec: LaneSpec | None = None
    best: bool = False
    peer: str = ""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Number `index` of the set of this name, from 0."""

    set: str
    index: int
    text: str


def parse_lanes(lanes: str, schedules: str = HARDWARE) -> list[Lane]:
    """`lanes` is a list such as "plain,mlx-lm,dspark,dflash:cap=3,peer:dspark"; a drafter without a schedule of its
    own stands for one lane with each of `schedules`. Raises ValueError."""
    out = []
    for name in _split(lanes):
        engine, _, own = name.partition(":")
        if name == PLAIN:
            out.append(Lane(name, PLAIN, LaneSpec(PLAIN)))
        elif name == MLX_LM:
            out.append(Lane(name, MLX_LM))
        elif engine == PEER and own:
            out.append(Lane(name, PEER, peer=own))
        elif engine in METHODS:
            out += [_drafted(engine, s) for s in ([own] if own else _split(schedules))]
        else:
            raise ValueError(
                f"There is no lane {name!r}: use plain, mlx-lm, dspark, dflash (with :SCHEDULE) or peer:NAME."
            )
    if len({lane.name for lane in out}) < len(out):
        raise ValueError(f"A lane is named twice in {','.join(lane.name for lane in out)!r}.")
    if not out or PLAIN not in (lane.name for lane in out):
        raise ValueError("The lane plain must be among the lanes: everything is compared with it.")
    return out


def parse_schedule(method: str, schedule: str) -> LaneSpec:
    """full, cap=N, confidence=X, cumulative=X or hardware. Raises ValueError."""
    kind, given, value = schedule.partition("=")
    if kind in VALUED and given:
        try:
            number = VALUED[kind](value)
        except ValueError:
            raise ValueError(f"{value!r} in {schedule!r} is not a number.") from None
        return LaneSpec(method, kind, **{"cap" if kind == CAP else "threshold": number}, label=schedule)
    if kind in (FULL, HARDWARE) and not given:
        return LaneSpec(method, kind, label=schedule)
    raise ValueError(f"There is no schedule {schedule!r}: use full, cap=N, confidence=X, cumulative=X or hardware.")


def _drafted(engine: str, schedule: str) -> Lane:
    name, method = f"{engine}:{schedule}", METHODS[engine]
    if schedule == BEST:
        return Lane(name, "speculative", LaneSpec(method, CAP, label=schedule), best=True)
    return Lane(name, "speculative", parse_schedule(method, schedule))


def with_cap(lane: Lane, cap: int) -> Lane:
    """The lane at this cap; the best of no drafts at all is plain decoding."""
    return replace(lane, spec=replace(lane.spec, cap=cap) if cap else LaneSpec(PLAIN))


def read_sets(files: Sequence[str], limit: int | None = None) -> list[Prompt]:
    """Prompts of NAME=FILE or FILE (named as the file), one {"prompt": ...} a line, the first `limit` of each; without
    files the demo prompts by kind. In an order that takes every set's first prompt, then every second one.
    Raises ValueError."""
    sets: dict[str, list[str]] = {}
    for given in files:
        name, _, path = given.rpartition("=")
        path = Path(path)
        name = name or path.stem
        if name in sets:
            raise ValueError(f"Two sets are called {name!r}.")
        sets[name] = _read(path)
    if not files:
        for p in load_prompts():
            sets.setdefault(p.kind, []).append(p.text)
    prompts = [Prompt(name, i, text) for name, texts in sets.items() for i, text in enumerate(texts[:limit])]
    order = list(sets)
    return sorted(prompts, key=lambda p: (p.index, order.index(p.set)))


def _read(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [json.loads(line)["prompt"] for line in lines if line.strip()]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise ValueError(f"{path} cannot be read as lines of {{'prompt': ...}} ({e!r}).") from None


def rotated(lanes: Sequence[Lane], prompt: int, turn: int) -> list[Lane]:
    """The lanes in the order of one alternation: every lane comes first, second, ... equally often, so that a machine
    that warms up or slows down favours none. In the first turn lanes that need the others' outcome come last."""
    first = (prompt + turn) % len(lanes)
    order = [*lanes[first:], *lanes[:first]]
    return sorted(order, key=lambda lane: lane.best) if turn == 0 else order


def alternations(lanes: Sequence[Lane], number: int, repeat: int) -> Iterator[tuple[int, Lane]]:
    """(turn, lane) of everything to be measured on prompt `number` of the run."""
    for turn in range(repeat):
        for lane in rotated(lanes, number, turn):
            yield turn, lane


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
