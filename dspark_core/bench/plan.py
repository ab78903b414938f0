"""What to measure, and in which order."""

import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..catalog.names import HubName
from ..models import drafters as methods
from ..models.config import method_of
from ..models.headers import read_config, read_headers
from ..models.info import DrafterInfo, drafter_ids
from ..presets import Preset, load_presets, load_prompts
from ..race.lane_spec import BY_THRESHOLD, USUAL_THRESHOLD, find, read_lane
from ..race.records import BLOCK, CAP, FULL, HARDWARE, PLAIN, LaneSpec

MLX_LM, PEER, BEST = "mlx-lm", "peer", "best"
MLX_DSPARK, AGAINST = "mlx-dspark", "against"
VARIANTS = ("default", "auto", "full")  # of mlx-dspark


# ---- drafters --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BenchDrafter:
    """A drafter that lanes can run.

    id:    its name in lanes, such as "dspark", or "dspark-2" for a second one
    place: its directory; None for a method that needs none
    """

    id: str
    method: str
    place: Path | None

    def lane_spec(self, schedule: str) -> LaneSpec:
        """Its lane with a schedule such as full, block=N, cap=N, confidence=X, cumulative=X or hardware. Nothing is
        loaded yet, so what it has is held against that later (`excess`). Raises LaneError."""
        unlimited = DrafterInfo(
            id=self.id,
            method=self.method,
            title=self.id,
            block=sys.maxsize,
            max_drafts=sys.maxsize,
            has_confidence=True,
        )
        asked = read_lane(f"{self.id}:{schedule}", [unlimited])
        spec = LaneSpec(self.method, asked.schedule, label=schedule, drafter=unlimited.lane_drafter)
        if asked.schedule in BY_THRESHOLD:
            return replace(spec, threshold=asked.number if math.isfinite(asked.number) else USUAL_THRESHOLD)
        if asked.schedule in (BLOCK, CAP):
            given = math.isfinite(asked.number)
            return replace(spec, cap=int(asked.number)) if given else replace(spec, schedule=FULL)
        return spec


def preset_drafters(preset: Preset | None = None) -> dict[str, BenchDrafter]:
    """By id: those of a preset that lie on this disk; without one, of the embedded preset. Then those that every target
    has."""
    found = [(d.method, d.path) for d in (preset or load_presets()[0]).drafters if not isinstance(d.path, HubName)]
    found += [(method, None) for method in methods.marked("EVERYWHERE") if method not in (m for m, _ in found)]
    ids = drafter_ids(method for method, _ in found)
    return {id_: BenchDrafter(id_, *rest) for id_, rest in zip(ids, found, strict=True)}


def add_drafters(drafters: Mapping[str, BenchDrafter], given: Sequence[str]) -> dict[str, BenchDrafter]:
    """With those of ID=DIR as well, or in place of the ones of these ids. Raises ValueError and ModelError."""
    out = dict(drafters)
    for text in given:
        name, _, directory = text.partition("=")
        if not directory or not re.fullmatch(r"[a-z][a-z0-9-]*", name) or name in (PLAIN, MLX_LM, PEER):
            raise ValueError(f"--drafter takes ID=DIR, with an ID such as dspark-2, and not {text!r}.")
        place = Path(directory)
        out[name] = BenchDrafter(name, method_of(place, read_config(place), read_headers(place)), place)
    return out


# ---- lanes -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NamedLane:
    """One way to decode.

    name:  as it was asked for and as the report calls it, such as "dspark:cap=3"
    limit: it runs on the first so many prompts of each set only
    """

    name: str
    limit: int | None = field(default=None, kw_only=True)

    def runs_on(self, prompt: "SetPrompt") -> bool:
        return self.limit is None or prompt.index < self.limit


@dataclass(frozen=True, slots=True)
class SpecLane(NamedLane):
    """By this project's loops."""

    spec: LaneSpec


@dataclass(frozen=True, slots=True)
class BestCapLane(SpecLane):
    """By this project's loops at the best fixed cap in hindsight, prompt by prompt."""

    def with_cap(self, cap: int) -> SpecLane:
        """The lane at this cap; the best of no drafts at all is plain decoding."""
        return SpecLane(self.name, replace(self.spec, cap=cap) if cap else LaneSpec(PLAIN), limit=self.limit)

    def learns_from(self, other: NamedLane) -> bool:
        """Do the drafts of `other` say which cap is best for this lane's drafter, wherever this lane runs?"""
        if not isinstance(other, SpecLane) or isinstance(other, BestCapLane):
            return False
        wide = other.limit is None or (self.limit is not None and self.limit <= other.limit)
        return wide and other.spec.drafter_id == self.spec.drafter_id


@dataclass(frozen=True, slots=True)
class MlxLmLane(NamedLane):
    """By mlx-lm's own loop, in this process, on the same loaded weights."""


@dataclass(frozen=True, slots=True)
class PeerLane(NamedLane):
    """By an engine in a process of its own: `peer` is "mlx-dspark", or "against" for the command given with --against,
    and `asks` what that calls its lane."""

    peer: str
    asks: str


PlannedLane = SpecLane | MlxLmLane | PeerLane


def parse_lane_name(
    name: str, drafters: Mapping[str, BenchDrafter], schedules: str = HARDWARE, limit: int | None = None
) -> list[PlannedLane]:
    """The lane of this name, or one for each of `schedules` where it names a drafter only. Raises ValueError."""
    engine, _, asked = name.partition(":")
    if name == PLAIN:
        return [SpecLane(name, LaneSpec(PLAIN), limit=limit)]
    if name == MLX_LM:
        return [MlxLmLane(name, limit=limit)]
    if engine == PEER and asked:
        peer, _, variant = asked.partition("=")
        if peer != MLX_DSPARK:
            return [PeerLane(name, AGAINST, asked, limit=limit)]
        if variant in ("", *VARIANTS):
            return [PeerLane(name, peer, variant or VARIANTS[0], limit=limit)]
    if engine in drafters:
        lanes: list[PlannedLane] = []
        for schedule in [asked] if asked else split_list(schedules):
            kind, text = (BestCapLane, f"{CAP}=0") if schedule == BEST else (SpecLane, schedule)
            spec = replace(drafters[engine].lane_spec(text), label=schedule)
            lanes.append(kind(f"{engine}:{schedule}", spec, limit=limit))
        return lanes
    raise ValueError(
        f"There is no lane {name!r}: use plain, mlx-lm, {', '.join(drafters)} (with :SCHEDULE), "
        "peer:mlx-dspark (with =auto or =full) or peer:NAME."
    )


def plan_lanes(
    lanes: str,
    schedules: str = HARDWARE,
    extra: str = "",
    extra_limit: int | None = None,
    drafters: Mapping[str, BenchDrafter] | None = None,
) -> list[PlannedLane]:
    """`lanes` is a list such as "plain,mlx-lm,dspark,dflash:cap=3,peer:mlx-dspark=auto"; a drafter without a schedule
    of its own stands for one lane with each of `schedules`. `extra` is a list of lanes for the first `extra_limit`
    prompts of each set. Without `drafters` there are the embedded preset's. Raises ValueError."""
    drafters = preset_drafters() if drafters is None else drafters
    out = [lane for name in split_list(lanes) for lane in parse_lane_name(name, drafters, schedules)]
    if PLAIN not in (lane.name for lane in out):
        raise ValueError("The lane plain must be among the lanes: everything is compared with it.")
    for name in split_list(extra):
        out += parse_lane_name(name, drafters, schedules, extra_limit)
    if len({lane.name for lane in out}) < len(out):
        raise ValueError(f"A lane is named twice in {','.join(lane.name for lane in out)!r}.")
    for lane in out:
        if isinstance(lane, BestCapLane) and not any(lane.learns_from(other) for other in out):
            raise ValueError(f"{lane.name} needs another lane of its drafter, whose drafts say which cap is best.")
    return out


def excess(lanes: Sequence[PlannedLane], drafters: Sequence[DrafterInfo]) -> list[str]:
    """A sentence for every lane that asks for more drafts than its drafter has; it gets all of them."""
    out = []
    for lane in lanes:
        spec = lane.spec if isinstance(lane, SpecLane) else LaneSpec(PLAIN)
        info = find(drafters, spec.drafter_id)
        words = info.excess(spec.cap, spec.schedule == BLOCK) if info and spec.schedule in (BLOCK, CAP) else ""
        out += [f"{lane.name}: {words}."] if words else []
    return out


# ---- prompts ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SetPrompt:
    """Number `index` of the set of this name, from 0."""

    set: str
    index: int
    text: str


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
        for lane in sorted(order, key=lambda lane: isinstance(lane, BestCapLane)) if turn == 0 else order:
            yield turn, lane


def split_list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
