"""What a visitor chooses to load, and what is known of it before: where it is, what a download brings, whether the
parts fit each other and this machine. No gradio and no MLX. Only `asked` makes requests, and only for what is not here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..catalog import facts, local
from ..catalog.download import Download, Downloads
from ..catalog.facts import DRAFTER, TARGET, Facts, sort_of
from ..catalog.hub import Hub, Plan
from ..catalog.memory import estimate, gigabytes
from ..catalog.names import HubName, directory, parse
from ..errors import ModelError
from ..machine import Device
from ..presets import METHODS, PRECISIONS, Place, Preset, read_presets
from .engine import Choice
from .race_request import clamp

OWN, NONE = "own", "none"  # in place of a preset's name; in place of a drafter
MAX_TEXT = 1000
CONTEXTS = (1024, 4096, 16384, 32768, 131072)
NOT_HERE = "it is not on this machine: download it on the Models tab, then load the model again."
LEFT_OUT = "it was left out when the model was loaded."
UNKNOWN = "this target was loaded without one."


@dataclass(frozen=True)
class Part:
    """role: "target", a method, or "drafter" where only its config tells the method."""

    role: str
    place: Place

    @property
    def name(self) -> str:
        return self.place.repo if isinstance(self.place, HubName) else local.name_of(self.place)


@dataclass(frozen=True)
class Selection:
    """What is to be loaded. `context` in tokens; `own`: a directory that is also looked in."""

    title: str
    parts: tuple[Part, ...]
    left_out: tuple[str, ...] = ()  # methods that the preset has and the visitor does not want
    precision: str = "auto"
    drafter_precision: str = "auto"
    context: int = 4096
    own: Path | None = None


@dataclass(frozen=True)
class Spot:
    """A part and what is known of it. plan: what a download brings, once the hub was asked; problem: a sentence."""

    part: Part
    directory: Path | None = None
    source: str = ""
    plan: Plan | None = None
    facts: Facts | None = None
    problem: str = ""


class Shelf:
    """The presets, the hub and this machine's disks; one for all pages."""

    def __init__(self, presets: Sequence[Preset] | None = None, bad: Sequence[str] = (), hub: Hub | None = None):
        if presets is None:
            presets, bad = read_presets()
        self.presets = {p.name: p for p in presets}
        self.bad = tuple(bad)
        self.hub = hub or Hub()
        self.downloads = Downloads(self.hub)

    def preset(self, name) -> Preset | None:
        """The preset of a name that a page or a link sent; None for one's own models and for anything else."""
        return self.presets.get(name) if isinstance(name, str) else None

    # ---- what was chosen -----------------------------------------------------------------------------

    def selection(self, name, precision, dspark, dflash, drafter_precision, context, own, *typed) -> Selection:
        """From what a page sent, every value made safe. `typed`: target and two drafters, of the visitor's own.
        Raises ModelError."""
        own = directory(own.strip()) if isinstance(own, str) and own.strip() else None
        if drafter_precision not in PRECISIONS:
            drafter_precision = "auto"
        context = int(clamp(context, 256, CONTEXTS[-1], 4096))
        preset = self.preset(name)
        if preset is None:
            target, *drafters = (t.strip()[:MAX_TEXT] if isinstance(t, str) else "" for t in typed)
            parts = [Part(TARGET, parse(target)), *(Part(DRAFTER, parse(d)) for d in drafters if d)]
            if len(parts) == 1:
                raise ModelError("Name at least one drafter: without one there is nothing to race.")
            precision = precision if precision in PRECISIONS else "auto"
            return Selection(parts[0].name, tuple(parts), (), precision, drafter_precision, context, own)
        version = next((t for t in preset.targets if t.precision == precision), preset.targets[0])
        parts, left_out = [Part(TARGET, version.path)], []
        for method, which in zip(METHODS, (dspark, dflash), strict=True):
            options = preset.of(method)
            if options and which == NONE:
                left_out.append(method)
            elif options:
                parts.append(Part(method, next((d.path for d in options if d.title == which), options[0].path)))
        title = f"{preset.title}, {version.precision}" if len(preset.targets) > 1 else preset.title
        return Selection(title, tuple(parts), tuple(left_out), "auto", drafter_precision, context, own)

    # ---- what is known of it -------------------------------------------------------------------------

    def here(self, chosen: Selection) -> list[Spot]:
        """Each part with its place on this machine, if it has one. No network."""
        return [self._here(part, chosen.own) for part in chosen.parts]

    def asked(self, spots: Iterable[Spot]) -> list[Spot]:
        """The same, with what the hub says of the parts that are not here."""
        return [self._asked(s) if s.directory is None and isinstance(s.part.place, HubName) else s for s in spots]

    def _here(self, part: Part, own: Path | None) -> Spot:
        place = part.place
        if isinstance(place, HubName):
            found = self.hub.local(place) or _below(own, place)
            if found is None:
                return Spot(part)
        else:
            found = place
        try:
            return Spot(part, found, self._source(found), facts=Facts.read(found, part.name))
        except (ModelError, OSError) as error:
            return Spot(part, problem=str(error))

    def _asked(self, spot: Spot) -> Spot:
        try:
            plan = self.hub.plan(spot.part.place)
            spot = replace(spot, plan=plan)
            return replace(spot, facts=self.hub.facts(plan))
        except ModelError as error:
            return replace(spot, problem=str(error))

    def _source(self, found: Path) -> str:
        for root, words in ((self.hub.cache, local.HF), (self.hub.lm_studio, local.LM_STUDIO)):
            if found.is_relative_to(root):
                return words
        return local.DIRECTORY

    # ---- what becomes of it --------------------------------------------------------------------------

    def start(self, spots: Iterable[Spot]) -> list[Download]:
        """Download what the hub was asked about. Raises ModelError, before anything starts, if the parts don't fit."""
        spots = list(spots)
        target = next(s for s in spots if s.part.role == TARGET)
        if target.problem:
            raise ModelError(target.problem)
        if misfits := mismatches(spots):
            raise ModelError(misfits[0])
        return [self.downloads.start(s.plan) for s in spots if s.plan and not s.problem]

    def choice(self, chosen: Selection, spots: Sequence[Spot]) -> Choice:
        """What the engine is to load. A drafter that is not here leaves its reason. Raises ModelError."""
        target, *drafters = spots
        if target.directory is None:
            raise ModelError(target.problem or f"{target.part.name} is not on this machine: download it first.")
        found: dict[str, Path | str] = dict.fromkeys(METHODS, UNKNOWN) | dict.fromkeys(chosen.left_out, LEFT_OUT)
        for spot in drafters:
            if spot.part.role != DRAFTER:
                found[spot.part.role] = spot.directory or spot.problem or NOT_HERE
                continue
            if spot.facts is None or spot.directory is None:
                raise ModelError(spot.problem or f"{spot.part.name} is not on this machine: download it first.")
            sort = sort_of(spot.facts)
            if sort.kind != DRAFTER:
                raise ModelError(f"{spot.part.name} cannot be the drafter: {sort.words}")
            if found[sort.family] != UNKNOWN:
                raise ModelError(f"Both drafters are {sort.family} drafters: one of each method can be loaded.")
            found[sort.family] = spot.directory
        notice = facts.base_warning(target.facts) if sort_of(target.facts).kind == TARGET else None
        return Choice(
            chosen.title,
            target.directory,
            found,
            chosen.precision,
            chosen.drafter_precision,
            notice.words if notice else "",
        )

    def on_this_machine(self, own: Path | None) -> list[local.Found]:
        return local.find([own] if own else [], self.hub.cache, self.hub.lm_studio)


def _below(own: Path | None, name: HubName) -> Path | None:
    """A model of the hub in a directory of the visitor's: as owner/name or as name."""
    for path in (own / name.repo, own / name.repo.partition("/")[2]) if own else ():
        if (path / "config.json").is_file():
            return path
    return None


# ---- in words ------------------------------------------------------------------------------------------------


def mismatches(spots: Sequence[Spot]) -> list[str]:
    """Why drafters do not fit the target, a sentence each, as far as that is known."""
    target, *drafters = spots
    words = []
    if target.facts and not drafters and sort_of(target.facts).kind != TARGET:
        words.append(sort_of(target.facts).words)
    for spot in drafters:
        if target.facts and spot.facts:
            try:
                facts.check_pair(target.facts, spot.facts)
            except ModelError as error:
                words.append(str(error))
    return list(dict.fromkeys(words))


def report(chosen: Selection, spots: Sequence[Spot], machine: Device) -> dict:
    """Rows (part, name, what it is, where, to download) and lines (kind, words, link) for the page."""
    rows = [[_role(s), s.part.name, _what(s), _where(s), _missing(s)] for s in spots]
    lines = [_line("bad", s.problem) for s in spots if s.problem]
    wrong = mismatches(spots)
    lines += [_line("bad", words) for words in wrong]
    target, *drafters = spots
    if target.facts and not wrong and sort_of(target.facts).kind == TARGET:
        if warning := facts.base_warning(target.facts):
            lines.append(_line("hint", warning.words, warning.link))
        known = [d.facts for d in drafters if d.facts]
        unknown = len(drafters) - len(known)
        try:
            need = estimate(target.facts, known, machine, chosen.context, chosen.precision, chosen.drafter_precision)
        except ModelError as error:
            lines.append(_line("bad", str(error)))
        else:
            parts = f"target {gigabytes(need.target)}, drafters {gigabytes(need.drafters)}"
            parts += f", keys and values of {1 + len(known)} lanes at {chosen.context:,} tokens {gigabytes(need.cache)}"
            more = f" Without {unknown} drafter{'s' * (unknown > 1)} not looked up yet." if unknown else ""
            kind = {"yes": "good", "hardly": "hint", "no": "bad"}[need.fits]
            lines.append(_line(kind, f"Memory: {need.words} ({parts}.){more}"))
    plans = [s.plan for s in spots if s.plan]
    if plans:
        half = sum(p.here for p in plans)
        words = f"To download: {gigabytes(sum(p.missing for p in plans))}"
        words += f" ({gigabytes(half)} of {gigabytes(sum(p.bytes for p in plans))} is here already)." if half else "."
        lines.append(_line("", words))
    elif all(s.directory for s in spots):
        lines.append(_line("good", "All of it is on this machine."))
    elif any(not s.directory and not s.problem for s in spots):
        lines.append(
            _line("", "Not all of it is on this machine. “Look up” asks the hub for sizes; it downloads nothing.")
        )
    return {"columns": ["", "model", "what it is", "where", "to download"], "rows": rows, "lines": lines}


def listing(found: Sequence[local.Found]) -> dict:
    """The models on this machine, for the page."""
    rows = [[f.name, f.sort.words, f.source, gigabytes(f.bytes), str(f.path)] for f in found]
    lines = [] if rows else [_line("", "No model was found on this machine but the embedded one.")]
    return {"columns": ["model", "what it is", "where", "size", "directory"], "rows": rows, "lines": lines}


def _line(kind: str, words: str, link: str = "") -> dict:
    return {"kind": kind, "words": words, "link": link}


def _role(spot: Spot) -> str:
    if spot.part.role == DRAFTER and spot.facts and sort_of(spot.facts).kind == DRAFTER:
        return sort_of(spot.facts).family
    return spot.part.role


def _what(spot: Spot) -> str:
    return sort_of(spot.facts).words if spot.facts else ""


def _where(spot: Spot) -> str:
    if spot.directory:
        return spot.source
    return "gated, open to you" if spot.plan and spot.plan.gated and not spot.problem else "not here"


def _missing(spot: Spot) -> str:
    if spot.directory:
        return "nothing"
    return gigabytes(spot.plan.missing) if spot.plan else "not looked up"
