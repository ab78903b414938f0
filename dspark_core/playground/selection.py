"""What a visitor chooses to load, and what is known of it before: where it is, what a download brings, whether the
parts fit each other and this machine. No gradio and no MLX. Only `look_up` makes requests.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..catalog import facts, local
from ..catalog.checksums import unchecked
from ..catalog.download import Download, Downloads
from ..catalog.facts import DRAFTER, TARGET, Facts, Sort, sort_of
from ..catalog.hub import Hub, Plan
from ..catalog.memory import Estimate, PublishedSizes, estimate, gigabytes
from ..catalog.names import HubName, directory, parse
from ..errors import ModelError, in_one_line
from ..machine import Device
from ..models import drafters as methods
from ..models.config import parse_config
from ..models.info import DrafterInfo, drafter_ids
from ..presets import PRECISIONS, Place, Preset, PresetDrafter, PresetTarget, read_presets
from .engine import Choice
from .race_request import clamp

OWN_MODELS = "own"  # in place of a preset's name
MAX_TYPED = 1000
MAX_DRAFTERS = 8
MAX_ANSWERS = 50  # of the hub that are remembered
CONTEXTS = (1024, 4096, 16384, 32768, 131072)
NOT_HERE = "it is not on this machine: download it on the Models tab, then load the model again."
NOT_WANTED = "it was left out when the model was loaded."
NOT_CHOSEN = "this target was loaded without one."
USUAL_BLOCK = 16  # slots of a drafter of which nothing is known yet


@dataclass(frozen=True)
class ModelForm:
    """What a page sent of its Models tab; nothing in it is trusted.

    preset:       name of a preset, or OWN_MODELS
    drafters:     list of the preset's drafters, by id (see `options`)
    own_target, own_drafters: names or directories that the visitor typed, the drafters a list or one a line
    newest:       rows of its context that a drafter looks at, 0 for all
    folder:       a directory that is also looked in
    """

    preset: Any = OWN_MODELS
    precision: Any = "auto"
    drafters: Any = ()
    drafter_precision: Any = "auto"
    context: Any = 4096
    folder: Any = ""
    own_target: Any = ""
    own_drafters: Any = ()
    newest: Any = 0


@dataclass(frozen=True)
class ModelPart:
    """role: "target", a method, or "drafter" where only its config tells the method. `place` is None where a method
    needs no weights; `title` is what a preset calls it; `sizes` and `licence` are its preset's, as far as known."""

    role: str
    place: Place | None
    title: str = ""
    sizes: PublishedSizes | None = None
    licence: str = ""

    @property
    def name(self) -> str:
        if self.place is None:
            return self.title or self.role
        return self.place.repo if isinstance(self.place, HubName) else local.name_of(self.place)


@dataclass(frozen=True)
class Selection:
    """What is to be loaded. `context` in tokens; `newest`: see DrafterInfo; `folder`: a directory that is also looked
    in."""

    title: str
    parts: tuple[ModelPart, ...]
    left_out: tuple[str, ...] = ()  # methods that the preset has and the visitor does not want
    precision: str = "auto"
    drafter_precision: str = "auto"
    context: int = 4096
    folder: Path | None = None
    newest: int = 0
    on_request: tuple[PresetDrafter, ...] = ()  # that are read when a lane first names them

    @classmethod
    def own(cls, form: ModelForm) -> "Selection":
        """One's own models. Raises ModelError."""
        typed = form.own_drafters.splitlines() if isinstance(form.own_drafters, str) else form.own_drafters
        names = [t.strip()[:MAX_TYPED] for t in typed if isinstance(t, str)] if isinstance(typed, list | tuple) else []
        places = list(dict.fromkeys(parse(name) for name in names if name))
        target = form.own_target.strip()[:MAX_TYPED] if isinstance(form.own_target, str) else ""
        parts = [ModelPart(TARGET, parse(target)), *(ModelPart(DRAFTER, place) for place in places[:MAX_DRAFTERS])]
        if len(places) > MAX_DRAFTERS:
            raise ModelError(f"{len(places)} drafters are named; at most {MAX_DRAFTERS} are loaded at a time.")
        precision = form.precision if form.precision in PRECISIONS else "auto"
        return cls(parts[0].name, tuple(parts), precision=precision)

    @classmethod
    def of_preset(cls, preset: Preset, form: ModelForm) -> "Selection":
        """With the precision and the drafters that were chosen; the first of each method where that is none."""
        whole = PresetTarget("", preset.target)
        version = next((t for t in preset.targets if t.precision == form.precision), next(iter(preset.targets), whole))
        offered, wanted = options(preset), form.drafters
        if not isinstance(wanted, list | tuple) or not all(isinstance(id_, str) and id_ in offered for id_ in wanted):
            wanted = list(preset.first_drafters)
        drafters = [drafter for id_, drafter in offered.items() if id_ in wanted]
        further = tuple(d for d in preset.drafters if d.on_request and d not in drafters and isinstance(d.path, Path))
        there = {d.method for d in (*drafters, *further)}
        left_out = tuple(dict.fromkeys(d.method for d in preset.drafters if d.method not in there))
        parts = [ModelPart(TARGET, version.path, "", version.sizes, version.licence)]
        parts += [ModelPart(d.method, d.path, d.title, d.sizes, d.licence) for d in drafters]
        title = f"{preset.title}, {version.precision}" if len(preset.targets) > 1 else preset.title
        return cls(title, tuple(parts), left_out, on_request=further)


@dataclass(frozen=True)
class LocatedPart:
    """A part and what is known of it.

    plan:       what a download brings, once the hub was asked
    problem:    why it cannot be used, a sentence
    note:       what else there is to say: why a part of it that is here is not used, or why the hub was not asked
    unchecked:  bytes here whose checksums were not looked at yet
    compared:   is what is here all that the hub listed? A directory and LM Studio's folder are taken as they are
    fetched:    bytes that an unfinished download left here
    """

    part: ModelPart
    directory: Path | None = None
    source: str = ""
    plan: Plan | None = None
    facts: Facts | None = None
    problem: str = ""
    note: str = ""
    unchecked: int = 0
    compared: bool = True
    fetched: int = 0

    @property
    def here(self) -> bool:
        return self.part.place is None or self.directory is not None

    @property
    def sort(self) -> Sort | None:
        """What it is in its role; None where nothing is known of it."""
        if self.facts is None:
            return None
        return sort_of(self.facts) if self.part.role == TARGET else facts.drafting(self.facts)

    def method(self) -> str:
        """The method of a drafter. Raises ModelError if one of the visitor's own is none, or is not here."""
        if self.part.role != DRAFTER:
            return self.part.role
        sort = self.sort
        if sort is None or self.directory is None:
            raise ModelError(self.problem or f"{self.part.name} is not on this machine: download it first.")
        if sort.kind != DRAFTER:
            raise ModelError(f"{self.part.name} cannot be the drafter: {sort.words}")
        return sort.family

    @property
    def known(self) -> Facts | PublishedSizes | None:
        """What its memory can be estimated by."""
        return self.facts or self.part.sizes

    @property
    def missing(self) -> int | None:
        """Bytes that a download brings, of the weights alone where only a preset gives them; None: not known."""
        if self.here or self.plan:
            return 0 if self.here else self.plan.missing if self.plan else None
        return max(self.part.sizes.bytes - self.fetched, 0) if self.part.sizes else None

    @property
    def size(self) -> str:
        """In words; empty if it is not known."""
        if self.plan or not self.facts:
            return gigabytes(self.plan.bytes) if self.plan else self.part.sizes.words if self.part.sizes else ""
        return gigabytes(self.facts.bytes)

    @property
    def card(self) -> dict[str, str]:
        """Title, size, licence, state and hub address: for a preset's card."""
        part, state = self.part, "on disk" if self.here else "not usable" if self.problem else ""
        name = self.facts.name if self.facts and part.title in ("", part.role) else ""
        sort = self.sort.words.rstrip(".") if name and self.sort else ""
        link = part.place.link if isinstance(part.place, HubName) else ""
        title = sort if part.role != TARGET and sort else part.title or part.name
        return {"title": title, "size": self.size, "licence": part.licence, "state": state, "link": link}

    @property
    def row(self) -> list[str]:
        """Part, name, what it is, where, to download: for the page."""
        sort, role = self.sort, self.part.role
        part = sort.family if sort and role == sort.kind == DRAFTER else role
        words = sort.words if sort else ""
        if self.part.place is None:
            words = f"{role} drafter without weights."
        if self.here:
            return [part, self.part.name, words, self.source or "part of this program", "nothing"]
        where = "gated, open to you" if self.plan and self.plan.gated and not self.problem else "not here"
        size = gigabytes(self.plan.missing) if self.plan else self.size or "not looked up"
        return [part, self.part.name, words, where, size]


def options(preset: Preset) -> dict[str, PresetDrafter]:
    """The drafters of a preset that can be chosen, by the ids that they have if all of them are."""
    return dict(zip(drafter_ids(d.method for d in preset.drafters), preset.drafters, strict=True))


class ModelSources:
    """The presets, the hub and this machine's disks; one for all pages."""

    def __init__(self, presets: Sequence[Preset] | None = None, bad: Sequence[str] = (), hub: Hub | None = None):
        if presets is None:
            presets, bad = read_presets()
        self.presets = {p.name: p for p in presets}
        self.bad = tuple(bad)
        self.hub = hub or Hub()
        self.downloads = Downloads(self.hub)
        self._answers = dict[HubName, tuple[Plan, Facts]]()  # the hub's newest of each model

    def preset(self, name: object) -> Preset | None:
        """The preset of a name that a page or a link sent; None for one's own models and for anything else."""
        return self.presets.get(name) if isinstance(name, str) else None

    @property
    def first(self) -> Preset | None:
        """What the page starts with."""
        return next(iter(self.presets.values()), None)

    def start_infos(self) -> tuple[DrafterInfo, ...]:
        """What is known of the drafters that the page starts with, before they are loaded."""
        firsts = self.first.first_drafters | self.first.on_request if self.first else {}
        more = {m.lower(): PresetDrafter(m) for m in methods.marked("EVERYWHERE") if m.lower() not in firsts}
        infos = [self._start_info(id_, drafter) for id_, drafter in (firsts | more).items()]
        return tuple(replace(info, everywhere=info.id in more) for info in infos)

    def _start_info(self, id_: str, drafter: PresetDrafter) -> DrafterInfo:
        located = self.located(ModelPart(drafter.method, drafter.path))
        title = drafter.title or methods.title(drafter.method)
        if located.facts is None or sort_of(located.facts).kind != DRAFTER:
            return DrafterInfo(
                id=id_,
                method=drafter.method,
                title=title,
                block=USUAL_BLOCK,
                max_drafts=USUAL_BLOCK,
                has_confidence=True,
                has_bias=True,
            )
        c = parse_config(located.facts.where, located.facts.config, located.facts.tensors)
        return DrafterInfo(
            id=id_,
            method=drafter.method,
            title=title,
            on_request=drafter.on_request,
            name=located.facts.name,
            block=c.block_size,
            first_slot=c.first_slot,
            max_drafts=c.max_drafts,
            has_confidence=True,
            has_look=c.confidence,
            has_bias=c.has_bias,
            bias=c.bias,
            candidates=c.candidates,
        )

    # ---- what was chosen -----------------------------------------------------------------------------

    def selection(self, form: ModelForm) -> Selection:
        """From what a page sent, every value made safe. Raises ModelError."""
        folder = directory(form.folder.strip()) if isinstance(form.folder, str) and form.folder.strip() else None
        drafter_precision = form.drafter_precision if form.drafter_precision in PRECISIONS else "auto"
        context = int(clamp(form.context, 256, CONTEXTS[-1], 4096))
        preset = self.preset(form.preset)
        chosen = Selection.own(form) if preset is None else Selection.of_preset(preset, form)
        newest = int(clamp(form.newest, 0, CONTEXTS[-1], 0))
        return replace(chosen, drafter_precision=drafter_precision, newest=newest, context=context, folder=folder)

    # ---- what is known of it -------------------------------------------------------------------------

    def locate(self, chosen: Selection) -> list[LocatedPart]:
        """Each part with its place on this machine, if it has one. No network."""
        return [self.located(part, chosen.folder) for part in chosen.parts]

    def look_up(
        self, parts: Iterable[LocatedPart], again: bool = False, cancelled: Callable[[], bool] = lambda: False
    ) -> list[LocatedPart]:
        """The same, with what the hub says of the parts that are not here; `again`: of all. Raises Cancelled."""
        return [self._looked_up(p, cancelled) if again or not p.here else p for p in parts]

    def located(self, part: ModelPart, folder: Path | None = None) -> LocatedPart:
        """A part with its place on this machine. No network.

        folder: a directory that is also looked in
        """
        place, note = part.place, ""
        try:
            if isinstance(place, HubName):
                below = (folder / place.repo, folder / place.repo.partition("/")[2]) if folder else ()
                place, note = self.hub.find(place, below)  # in a directory of the visitor's as owner/name or as name
            if place is None:
                fetched = self.hub.fetched(part.place) if isinstance(part.place, HubName) else 0
                return LocatedPart(part, note=note, fetched=fetched)
            located = LocatedPart(part, place, self._source(place), facts=Facts.read(place, part.name))
            if located.source == local.HF:
                left = sum(file.stat().st_size for file in unchecked(place, self.hub.record))
                located = replace(located, unchecked=left, compared=bool(self.hub.listings.of(place)))
            elif isinstance(part.place, HubName) and located.facts and facts.lacks_tokenizer(located.facts):
                located = replace(located, note=f"{place} has no tokenizer.json: “Download” brings the whole model.")
            return located
        except ModelError as error:
            return LocatedPart(part, problem=str(error))
        except OSError as error:
            return LocatedPart(part, problem=f"{error.filename or place} cannot be read ({in_one_line(error)}).")

    def remembered(self, part: ModelPart) -> LocatedPart:
        """The same; of one that is not here with what the hub said when it was asked last."""
        located, name = self.located(part), part.place
        if located.here or not isinstance(name, HubName) or name not in self._answers:
            return located
        plan, found = self._answers[name]
        here = sum(self.hub.here(name.repo, f, plan.revision) for f in plan.files)
        return replace(located, plan=replace(plan, here=here), facts=found)

    def _looked_up(self, located: LocatedPart, cancelled: Callable[[], bool]) -> LocatedPart:
        name = located.part.place
        if not isinstance(name, HubName):
            return located
        here = located.directory
        if here and located.source == local.HF:  # as it is, not as the hub's newest is
            name = HubName(name.repo, here.name)
        try:
            plan = self.hub.plan(name, cancelled)
            sure = located.facts if here and not located.unchecked else None
            found = sure or self.hub.facts(plan, cancelled)
            self._answers = dict([*self._answers.items()][-MAX_ANSWERS:]) | {name: (plan, found)}
            return replace(located, plan=plan, facts=found, note="" if here else located.note)
        except ModelError as error:
            return replace(located, note=str(error)) if here else replace(located, problem=str(error))

    def _source(self, found: Path) -> str:
        for root, words in ((self.hub.cache, local.HF), (self.hub.lm_studio, local.LM_STUDIO)):
            if found.is_relative_to(root):
                return words
        return local.DIRECTORY

    # ---- what becomes of it --------------------------------------------------------------------------

    def download(self, parts: Iterable[LocatedPart]) -> list[Download]:
        """Download what the hub was asked about. Raises ModelError, before anything starts, if the parts don't fit."""
        parts = list(parts)
        target = next(p for p in parts if p.part.role == TARGET)
        if target.problem:
            raise ModelError(target.problem)
        if misfits := mismatches(parts):
            raise ModelError(misfits[0])
        return [
            self.downloads.start(p.plan, None if p.source == local.HF else p.directory)
            for p in parts
            if p.plan and not p.problem
        ]

    def choice(self, chosen: Selection, parts: Sequence[LocatedPart]) -> Choice:
        """What the engine is to load. A drafter that is not here leaves its reason. Raises ModelError."""
        target, *drafters = parts
        if target.directory is None:
            raise ModelError(target.problem or f"{target.part.name} is not on this machine: download it first.")
        further = chosen.on_request
        ids = drafter_ids([*(d.method() for d in drafters), *(d.method for d in further)])
        unread = dict(zip(ids[len(drafters) :], further, strict=True))
        places: dict[str, Path | str | None] = {}
        for id_, d in zip(ids, drafters, strict=False):
            places[id_] = d.directory if d.here else d.problem or NOT_HERE
        titles = {id_: d.part.title for id_, d in zip(ids, drafters, strict=False) if d.part.title}
        titles |= {id_: d.title for id_, d in unread.items()}
        for method in chosen.left_out:
            places.setdefault(method.lower(), NOT_WANTED)
        everywhere = [method.lower() for method in methods.marked("EVERYWHERE")]
        for method in (d.method.lower() for preset in self.presets.values() for d in preset.drafters):
            if method not in everywhere and method not in unread:
                places.setdefault(method, NOT_CHOSEN)
        warned = target.facts is not None and sort_of(target.facts).kind == TARGET
        notice = facts.base_warning(target.facts) if target.facts and warned else None
        return Choice(
            chosen.title,
            target.directory,
            places,
            chosen.precision,
            chosen.drafter_precision,
            notice.words if notice else "",
            titles,
            chosen.newest,
            {id_: d.path for id_, d in unread.items() if isinstance(d.path, Path)},
        )

    def on_this_machine(self, folder: Path | None) -> list[local.Found]:
        return local.find([folder] if folder else [], self.hub.cache, self.hub.lm_studio)


# ---- in words ------------------------------------------------------------------------------------------------


def mismatches(parts: Sequence[LocatedPart]) -> list[str]:
    """Why drafters do not fit the target, a sentence each, as far as that is known."""
    target, *drafters = parts
    words = []
    if target.facts and not drafters and sort_of(target.facts).kind != TARGET:
        words.append(sort_of(target.facts).words)
    for drafter in drafters:
        if target.facts and drafter.facts:
            try:
                check = facts.check_small if sort_of(drafter.facts).kind == TARGET else facts.check_pair
                check(target.facts, drafter.facts)
            except ModelError as error:
                words.append(str(error))
    return list(dict.fromkeys(words))


def problems(parts: Iterable[LocatedPart]) -> list[str]:
    """Why parts cannot be used: what is said of several but for their names is said once, with all names."""
    names: dict[str, list[str]] = {}
    for part in parts:
        if part.problem:
            names.setdefault(part.problem.replace(f" for {part.part.name}", " for \0"), []).append(part.part.name)
    listed = {words: " and ".join(filter(None, [", ".join(of[:-1]), of[-1]])) for words, of in names.items()}
    return [words.replace("\0", of) for words, of in listed.items()]


def report(chosen: Selection, parts: Sequence[LocatedPart], machine: Device) -> dict[str, Any]:
    """Rows (part, name, what it is, where, to download) and lines (kind, words, link) for the page."""
    rows = [p.row for p in parts]
    lines = [_report_line("bad", words) for words in problems(parts)]
    wrong = mismatches(parts)
    lines += [_report_line("bad", words) for words in wrong]
    target, known = parts[0].facts, parts[0].known
    is_target = target is not None and sort_of(target).kind == TARGET
    if target and is_target and not wrong and (warning := facts.base_warning(target)):
        lines.append(_report_line("hint", warning.words, warning.link))
    if known and not wrong and (is_target or target is None):
        lines.append(_memory_line(chosen, parts, machine))
    lines += [_report_line("hint", p.note) for p in parts if p.note and not p.problem]
    plans = [p.plan for p in parts if p.plan and not p.here]
    if plans:
        half = sum(p.here for p in plans)
        words = f"To download: {gigabytes(sum(p.missing for p in plans))}"
        words += f" ({gigabytes(half)} of {gigabytes(sum(p.bytes for p in plans))} is here already)." if half else "."
        lines.append(_report_line("", words))
    elif all(p.here and not p.note for p in parts):
        lines.append(_report_line("good", _here_words(parts)))
    elif any(not p.here and not p.problem for p in parts):
        lines.append(
            _report_line(
                "", "Not all of it is on this machine. “Look up” asks the hub for sizes; it downloads nothing."
            )
        )
    return {"columns": ["", "model", "what it is", "where", "to download"], "rows": rows, "lines": lines}


def _here_words(parts: Sequence[LocatedPart]) -> str:
    """What is sure of parts that are all here."""
    words = "All of it is" if all(p.compared for p in parts) else "All that loading needs is"
    words += " on this machine."
    if left := sum(p.unchecked for p in parts):
        words = f"{words.rstrip('.')}; the checksums of {gigabytes(left)} are checked when it is loaded."
    return words if all(p.compared for p in parts) else f"{words} “Download” compares it with the hub."


def memory_of(chosen: Selection, parts: Sequence[LocatedPart], machine: Device) -> Estimate:
    """What a race of them takes; drafters of which nothing is known are left out. Raises ModelError, also if nothing is
    known of the target."""
    target, *drafters = parts
    if target.known is None:
        raise ModelError(f"The size of {target.part.name} is not known yet.")
    sized = [d.known for d in drafters if d.known]
    try:
        return estimate(target.known, sized, machine, chosen.context, chosen.precision, chosen.drafter_precision)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):  # a size of a type that is none
        where = target.facts.where / "config.json" if target.facts else target.part.name
        raise ModelError(f"{where}: the sizes of its layers cannot be read, so its memory is not known.") from None


def _memory_line(chosen: Selection, parts: Sequence[LocatedPart], machine: Device) -> dict[str, str]:
    try:
        need = memory_of(chosen, parts, machine)
    except ModelError as error:
        return _report_line("bad", str(error))
    drafters = parts[1:]
    lanes = 1 + sum(d.known is not None for d in drafters)
    words = f"target {gigabytes(need.target)}, drafters {gigabytes(need.drafters)}"
    words += f", keys and values of {lanes} lanes at {chosen.context:,} tokens {gigabytes(need.cache)}"
    unknown = sum(d.known is None and d.part.place is not None for d in drafters)
    more = f" Without {unknown} drafter{'s' * (unknown > 1)} not looked up yet." if unknown else ""
    if any(p.facts is None and p.part.sizes for p in parts):
        more += " By the sizes in the presets."
    kind = {"yes": "good", "hardly": "hint", "no": "bad"}[need.fits]
    return _report_line(kind, f"Memory: {need.words} ({words}.){more}")


def listing(found: Sequence[local.Found]) -> dict[str, Any]:
    """The models on this machine, for the page."""
    rows = [[f.name, f.sort.words, f.source, gigabytes(f.bytes), local.shown_path(f.path)] for f in found]
    lines = [] if rows else [_report_line("", "No model was found on this machine but the embedded one.")]
    return {"columns": ["model", "what it is", "where", "size", "directory"], "rows": rows, "lines": lines}


def _report_line(kind: str, words: str, link: str = "") -> dict[str, str]:
    return {"kind": kind, "words": words, "link": link}
