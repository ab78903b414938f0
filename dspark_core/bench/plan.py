"""What to measure, and in which order."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..models.info import DrafterInfo
from ..presets import load_prompts
from ..race.records import BLOCK, CAP, CONFIDENCE, CUMULATIVE, FULL, HARDWARE, PLAIN, LaneSpec

MLX_LM, PEER, BEST = "mlx-lm", "peer", "best"
MLX_DSPARK, AGAINST = "mlx-dspark", "against"
VARIANTS = ("default", "auto", "full")  # of mlx-dspark
LANE_METHODS = {"dspark": "DSpark", "dflash": "DFlash"}
VALUED = {BLOCK: int, CAP: int, CONFIDENCE: float, CUMULATIVE: float}


@dataclass(frozen=True, slots=True)
class PlannedLane:
    """One way to decode.

    name:   as it was asked for and as the report calls it, such as "dspark:cap=3"
    engine: "plain" or "speculative" (this project's loops), "mlx-lm" (its own loop, in this process) or "peer"
    spec:   of this project's loops
    best:   the cap is the best fixed one in hindsight, prompt by prompt
    peer:   which peer ("mlx-dspark", or "against" for the command given with --against), and
    asks:   what the peer calls its lane
    limit:  it runs on the first so many prompts of each set only
    """

    name: str
    engine: str
    spec: LaneSpec | None = None
    best: bool = False
    peer: str = ""
    asks: str = ""
    limit: int | None = None

    @property
    def run_spec(self) -> LaneSpec:
        """Of a lane of this project's loops. Raises ValueError for another engine's."""
        if self.spec is None:
            raise ValueError(f"{self.name} is no lane of this project's loops.")
        return self.spec

    def runs_on(self, prompt: "SetPrompt") -> bool:
        return self.limit is None or prompt.index < self.limit

    @classmethod
    def parse(cls, name: str, schedules: str) -> "list[PlannedLane]":
        """One lane, or one for each of `schedules` where the name has none. Raises ValueError."""
        engine, _, asked = name.partition(":")
        if name == PLAIN:
            return [cls(name, PLAIN, LaneSpec(PLAIN))]
        if name == MLX_LM:
            return [cls(name, MLX_LM)]
        if engine == PEER and asked:
            peer, _, variant = asked.partition("=")
            if peer != MLX_DSPARK:
                return [cls(name, PEER, peer=AGAINST, asks=asked)]
            if variant in ("", *VARIANTS):
                return [cls(name, PEER, peer=peer, asks=variant or VARIANTS[0])]
        if engine in LANE_METHODS:
            return [cls._with_drafter(engine, s) for s in ([asked] if asked else split_list(schedules))]
        raise ValueError(
            f"There is no lane {name!r}: use plain, mlx-lm, {', '.join(LANE_METHODS)} (with :SCHEDULE), "
            "peer:mlx-dspark (with =auto or =full) or peer:NAME."
        )

    @classmethod
    def _with_drafter(cls, engine: str, schedule: str) -> "PlannedLane":
        name, method = f"{engine}:{schedule}", LANE_METHODS[engine]
        if schedule == BEST:
            return cls(name, "speculative", LaneSpec(method, CAP, label=schedule), best=True)
        return cls(name, "speculative", parse_schedule(method, schedule))

    def with_cap(self, cap: int) -> "PlannedLane":
        """The lane at this cap; the best of no drafts at all is plain decoding."""
        return replace(self, spec=replace(self.run_spec, cap=cap) if cap else LaneSpec(PLAIN))

    def learns_from(self, other: "PlannedLane") -> bool:
        """Do the drafts of `other` say which cap is best for this lane's drafter, wherever this lane runs?"""
        drafts = other.spec is not None and other.spec.method == self.run_spec.method and not other.best
        return drafts and (other.limit is None or (self.limit is not None and self.limit <= other.limit))


@dataclass(frozen=True, slots=True)
class SetPrompt:
    """Number `index` of the set of this name, from 0."""

    set: str
    index: int
    text: str


def parse_lanes(
    lanes: str, schedules: str = HARDWARE, extra: str = "", extra_limit: int | None = None
) -> list[PlannedLane]:
    """`lanes` is a list such as "plain,mlx-lm,dspark,dflash:cap=3,peer:mlx-dspark=auto"; a drafter without a schedule
    of its own stands for one lane with each of `schedules`. `extra` is a list of lanes for the first `extra_limit`
    prompts of each set. Raises ValueError."""
    out = [lane for name in split_list(lanes) for lane in PlannedLane.parse(name, schedules)]
    if not out or PLAIN not in (lane.name for lane in out):
        raise ValueError("The lane plain must be among the lanes: everything is compared with it.")
    out += [
        replace(lane, limit=extra_limit) for name in split_list(extra) for lane in PlannedLane.parse(name, schedules)
    ]
    if len({lane.name for lane in out}) < len(out):
        raise ValueError(f"A lane is named twice in {','.join(lane.name for lane in out)!r}.")
    for lane in out:
        if lane.best and not any(lane.learns_from(other) for other in out):
            raise ValueError(f"{lane.name} needs another lane of its drafter, whose drafts say which cap is best.")
    return out


def parse_schedule(method: str, schedule: str) -> LaneSpec:
    """full, block=N, cap=N, confidence=X, cumulative=X or hardware. Raises ValueError."""
    kind, given, value = schedule.partition("=")
    if kind in VALUED and given:
        try:
            number = VALUED[kind](value)
        except ValueError:
            raise ValueError(f"{value!r} in {schedule!r} is not a number.") from None
        return LaneSpec(method, kind, **{"cap" if kind in (BLOCK, CAP) else "threshold": number}, label=schedule)
    if kind in (FULL, HARDWARE) and not given:
        return LaneSpec(method, kind, label=schedule)
    raise ValueError(
        f"There is no schedule {schedule!r}: use full, block=N, cap=N, confidence=X, cumulative=X or hardware."
    )


def excess(lanes: Sequence[tuple[str, LaneSpec]], drafters: Mapping[str, DrafterInfo]) -> list[str]:
    """A sentence for every lane (name, spec) that asks for more drafts than its drafter has; it gets all of them."""
    out = []
    for name, spec in lanes:
        info = drafters.get(spec.method)
        words = info.excess(spec.cap, spec.schedule == BLOCK) if info and spec.schedule in (BLOCK, CAP) else ""
        out += [f"{name}: {words}."] if words else []
    return out


def read_sets(files: Sequence[str], limit: int | None = None) -> list[SetPrompt]:
    """Prompts of NAME=FILE or FILE (named as the file), one {"prompt": ...} a line, the first `limit` of each; without
    files the demo prompts by kind. In an order that takes every set's first prompt, then every second one.
    Raises ValueError."""
    sets: dict[str, list[str]] = {}
    for given in files:
        name, _, text = given.rpartition("=")
        path = Path(text)
        name = name or path.stem
        if name in sets:
            raise ValueError(f"Two sets are called {name!r}.")
        sets[name] = read_prompt_lines(path)
    if not files:
        for p in load_prompts():
            sets.setdefault(p.kind, []).append(p.text)
    prompts = [SetPrompt(name, i, text) for name, texts in sets.items() for i, text in enumerate(texts[:limit])]
    order = list(sets)
    return sorted(prompts, key=lambda p: (p.index, order.index(p.set)))


def read_prompt_lines(path: Path) -> list[str]:
    """Texts of one {"prompt": ...} a line. Raises ValueError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [json.loads(line)["prompt"] for line in lines if line.strip()]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise ValueError(f"{path} cannot be read as lines of {{'prompt': ...}} ({e!r}).") from None


def alternations(lanes: Sequence[PlannedLane], number: int, repeat: int) -> Iterator[tuple[int, PlannedLane]]:
    """(turn, lane) of everything to be measured on prompt `number` of the run. Every lane comes first, second, ...
    equally often, so that a machine that warms up or slows down favours none. In the first turn lanes that need the
    others' outcome come last."""
    for turn in range(repeat):
        first = (number + turn) % len(lanes)
        order = [*lanes[first:], *lanes[:first]]
        for lane in sorted(order, key=lambda lane: lane.best) if turn == 0 else order:
            yield turn, lane


def split_list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
