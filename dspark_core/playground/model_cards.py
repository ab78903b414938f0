"""The presets as cards on the Models tab: sizes, licences, does it fit, is it here, and one button that does what comes
next: look the size up, download, load, unload, or stop what goes on.

A card's figures are those of its files where they are here, the hub's where it was asked, else the preset's; nothing
is asked before a button is pressed. What a page chose is kept in its PageCards. Downloads belong to the program: every
page shows how far they are.
"""

import json
import shlex
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from ..catalog import local
from ..catalog.download import Download
from ..catalog.facts import TARGET
from ..catalog.memory import gigabytes
from ..catalog.names import HubName
from ..errors import Cancelled, ModelError
from ..machine import Device, physical_memory
from ..presets import Preset, PresetTarget
from ..race.records import Failed
from .engine import Loaded, load_job, unload_job
from .outside import mlx_dspark_command
from .selection import LocatedPart, ModelForm, ModelPart, ModelSources, Selection, memory_of, options, problems
from .widgets import Call, Updates, page_file, script
from .worker import Job, Waiting, Worker

UPDATE_S = 0.5
CONTEXT = 4096  # tokens in each lane that a card plans for
FITS = {"yes": ("good", "fits"), "hardly": ("hint", "tight"), "no": ("bad", "too large")}
KINDS_OF_END = {"identical": "good", "tie": "hint", "divergence": "bad"}  # of a verdict's looks


@dataclass
class PageCards:
    """What one page chose on its cards and what became of it; it is changed in place.

    chosen:  preset -> (precision, ids of its drafters)
    working: preset -> (share, words, the button's action) of what this page waits for
    ended:   preset -> (kind, words) of how that ended
    version: changes with all of these
    shown:   preset -> its card as it was sent last, and what it was made of
    """

    chosen: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    working: dict[str, tuple[float, str, str]] = field(default_factory=dict)
    ended: dict[str, tuple[str, str]] = field(default_factory=dict)
    version: int = 0
    shown: dict[str, tuple[dict[str, Any], Any]] = field(default_factory=dict)

    def begin(self, name: str, words: str, action: str) -> None:
        self.ended.pop(name, None)
        self.working[name] = 0.0, words, action
        self.version += 1

    def end(self, name: str, kind: str, words: str) -> None:
        self.working.pop(name, None)
        self.ended[name] = kind, words
        self.version += 1


@dataclass(frozen=True)
class PresetParts:
    """Everything that a preset offers, each with its place here if it has one."""

    preset: Preset
    versions: Mapping[str, LocatedPart]
    drafters: Mapping[str, LocatedPart]


class ModelCards:
    """Handlers take the page's PageCards as "page" and give "cards", where something is loaded "head" and "notice".

    loaded: the values of "head" and "notice"
    """

    def __init__(self, worker: Worker, sources: ModelSources, loaded: Callable[[Call], Updates]):
        self.worker, self.sources, self.loaded = worker, sources, loaded
        self._asking: list[tuple[str, str, threading.Event]] = []  # (page, preset, its Cancel) of questions to the hub

    @staticmethod
    def place() -> gr.HTML:
        return gr.HTML(
            "",
            html_template=page_file("cards.html"),
            js_on_load=script("cards"),
            apply_default_css=False,
            elem_id="cards",
        )

    @property
    def machine(self) -> Device:
        return getattr(self.worker.engine, "machine", None) or Device("CPU", "this machine", physical_memory())

    # ---- what a visitor does -------------------------------------------------------------------------

    def show(self, call: Call) -> Iterator[Updates]:
        """All cards as they are now and, as long as something goes on, how far it is."""
        yield from self._watch(call["page"], lambda: not self._busy())

    def choose(self, call: Call) -> Updates:
        """Another precision, other drafters."""
        page, name = call["page"], call.sent_as("card", str, "")
        if self.sources.preset(name):
            drafters = tuple(d for d in call.sent_as("drafters", list, []) if isinstance(d, str))
            page.chosen[name] = call.sent_as("precision", str, ""), drafters
            page.ended.pop(name, None)
            page.version += 1
        return self.value(page)

    def fetch(self, call: Call) -> Iterator[Updates]:
        """Ask the hub for what is not here and, unless only that was asked for, download it."""
        page, preset = call["page"], self.sources.preset(call.sent_as("card", str, ""))
        if preset is None or preset.name in page.working:
            return
        page.begin(preset.name, "Asking the hub …", "cancel")
        yield self.value(page)
        stop = threading.Event()
        asking = call.session, preset.name, stop
        self._asking.append(asking)
        parts: list[LocatedPart] = []
        try:
            _, parts = self.chosen(page, self.parts_of(preset), acted=True)
            parts = self.sources.look_up(parts, cancelled=stop.is_set)
            running = self.sources.download(parts) if call.sent.get("action") == "download" else []
            missing = " ".join(problems(parts))
            page.end(preset.name, "bad" if missing else "", missing)
        except Cancelled:
            running = []
            page.end(preset.name, "hint", "Stopped.")
        except ModelError as error:
            running = []
            page.end(preset.name, "bad", " ".join(problems(parts)) or str(error))
        finally:
            self._asking.remove(asking)
            page.working.pop(preset.name, None)  # of a page that went away
        if running:
            yield from self._watch(page, lambda: all(d.over for d in running))
            verdict, *words = self.how_downloads_ended(running, problems(parts))
            page.end(preset.name, KINDS_OF_END.get(verdict, ""), " ".join(filter(None, words)))
        yield self.value(page)

    def load(self, call: Call) -> Iterator[Updates]:
        """Load what was chosen, or unload it."""
        page, preset = call["page"], self.sources.preset(call.sent_as("card", str, ""))
        if preset is None or preset.name in page.working:
            return
        page.begin(preset.name, "Starting …", "stop")
        yield self.value(page)
        try:
            chosen = self.chosen(page, self.parts_of(preset), acted=True)
            job = unload_job(call.session)
            if call.sent.get("action") != "unload":
                job = load_job(self.sources.choice(*chosen), call.session)
            kind, words = "bad", "It ended without a word."
            shown = 0.0
            for share, words, kind in self.followed(job):
                if not kind and (now := time.monotonic()) - shown > UPDATE_S / 2:
                    shown = now
                    page.working[preset.name] = share, words, "stop"
                    yield self.value(page, patched=True)
            more = f" {self.left_out()}" if kind == "identical" and job.name == "load" else ""
            page.end(preset.name, KINDS_OF_END.get(kind, kind), (words + more).strip())
        except ModelError as error:
            page.end(preset.name, "bad", str(error))
        finally:
            page.working.pop(preset.name, None)
        yield {**self.value(page), **self.loaded(call)}

    def stop(self, call: Call) -> None:
        """End what a card's button stands for: a question to the hub, its downloads, a load of this page's."""
        preset = self.sources.preset(call.sent_as("card", str, ""))
        if preset is None:
            return
        if call.sent.get("action") == "stop":
            self.worker.stop(call.session)
        for session, name, stop in [*self._asking]:
            if (session, name) == (call.session, preset.name):
                stop.set()
        for d in self._downloads(self.parts_of(preset)):
            d.cancel()

    # ---- what is known -------------------------------------------------------------------------------

    def parts_of(self, preset: Preset) -> PresetParts:
        """No network."""
        targets = preset.targets or (PresetTarget("as it is", preset.target),)
        versions = {t.precision: ModelPart(TARGET, t.path, "", t.sizes, t.licence) for t in targets}
        drafters = {id_: ModelPart(d.method, d.path, d.title, d.sizes, d.licence) for id_, d in options(preset).items()}
        known = self.sources.remembered
        versions_here = {precision: known(part) for precision, part in versions.items()}
        return PresetParts(preset, versions_here, {id_: known(part) for id_, part in drafters.items()})

    def chosen(self, page: PageCards, known: PresetParts, acted: bool = False) -> tuple[Selection, list[LocatedPart]]:
        """What a page chose of a preset. Where it did not yet: what is loaded, or the first precision that is here, or
        that fits best; the first drafter of each method. `acted`: from now on that is what it chose."""
        precision, drafters = page.chosen.get(known.preset.name) or self._first_choice(known)
        if acted:
            page.chosen[known.preset.name] = precision, drafters
        if precision not in known.versions:
            precision = next(iter(known.versions))
        return self._selected(known, precision, drafters)

    def _selected(
        self, known: PresetParts, precision: str, drafters: Sequence[str]
    ) -> tuple[Selection, list[LocatedPart]]:
        preset = known.preset
        form = ModelForm(preset.name, precision, list(drafters), preset.drafter_precision, CONTEXT)
        selection = self.sources.selection(form)
        wanted = [d for d in known.drafters if d in drafters]
        return selection, [known.versions[precision], *(known.drafters[d] for d in wanted)]

    def _first_choice(self, known: PresetParts) -> tuple[str, tuple[str, ...]]:
        first = tuple(known.preset.first_drafters)
        if loaded := getattr(self.worker.engine, "choice", None):
            for precision, part in known.versions.items():
                if part.directory == loaded.target:
                    there = [id_ for id_, d in known.drafters.items() if d.directory in loaded.drafters.values()]
                    return precision, tuple(there)
        here = [precision for precision, part in known.versions.items() if part.here]
        fits = {p: self._fits(*self._selected(known, p, first)) for p in known.versions if not here}
        fit = [p for how in ("yes", "hardly") for p, fit in fits.items() if fit == how]
        return next(iter([*here, *fit, *known.versions])), first

    def _fits(self, selection: Selection, parts: Sequence[LocatedPart]) -> str:
        """ "yes", "hardly" or "no"; empty as long as that cannot be known."""
        try:
            return memory_of(selection, parts, self.machine).fits if self.worker.ready else ""
        except ModelError:
            return ""

    def _is_loaded(self, selection: Selection, parts: Sequence[LocatedPart]) -> bool:
        loaded = getattr(self.worker.engine, "choice", None)
        if loaded is None or not all(p.here for p in parts):
            return False
        drafters = {d for d in loaded.drafters.values() if isinstance(d, Path)}
        here = {p.directory for p in parts[1:] if p.directory}
        precisions = loaded.precision, loaded.drafter_precision
        return (parts[0].directory, here) == (loaded.target, drafters) and (
            selection.precision,
            selection.drafter_precision,
        ) == precisions

    def _downloads(self, known: PresetParts) -> list[Download]:
        places = {p.part.place for p in [*known.versions.values(), *known.drafters.values()]}
        repos = {place.repo for place in places if isinstance(place, HubName)}
        return [d for d in self.sources.downloads if not d.over and d.plan.name.repo in repos]

    def _busy(self) -> bool:
        return not self.worker.ready or not all(d.over for d in self.sources.downloads)

    # ---- what the page is sent -----------------------------------------------------------------------

    def _watch(self, page: PageCards, over: Callable[[], bool]) -> Iterator[Updates]:
        """The cards again and again until it is over: all of them anew where something changed, else how far it is."""
        version, ended = -1, False
        while not ended:
            ended = over()
            yield self.value(page, patched=version == page.version and not ended)
            version = page.version
            if not ended:
                time.sleep(UPDATE_S)

    def value(self, page: PageCards, patched: bool = False) -> Updates:
        """Every card; `patched`: as the page saw them last, but for how far it is."""
        for preset in self.sources.presets.values():
            if not patched or preset.name not in page.shown:
                page.shown[preset.name] = self.card(page, self.parts_of(preset))
            card, made_of = page.shown[preset.name]
            card["busy"], card["button"] = self._next(page, *made_of)
        return {"cards": json.dumps({"where": self.where(), "cards": [page.shown[p][0] for p in self.sources.presets]})}

    def card(self, page: PageCards, known: PresetParts) -> tuple[dict[str, Any], Any]:
        """One card's texts and choices (assets/page/cards.js reads them), and what its button follows from."""
        preset = known.preset
        selection, (target, *drafters) = self.chosen(page, known)
        parts = [target, *drafters]
        loaded = self._is_loaded(selection, parts)
        version = next(precision for precision, part in known.versions.items() if part is target)
        note = next((t.note for t in preset.targets if t.precision == version), "")
        about, _, rest = preset.note.partition(". ")
        kind, words = page.ended.get(preset.name, ("", ""))
        unusable = self._unusable(parts)
        badges = [self._memory_badge(selection, parts), self._state_badge(parts, loaded)]
        card = {
            "name": preset.name,
            "title": preset.title,
            "about": f"{about}." if rest else about,
            "notes": [*filter(None, [rest, f"{version}: {note}" if note else ""])],
            "badges": [b for b in badges if b["words"]],
            "versions": [{"value": v, "words": self._version_words(v, p)} for v, p in known.versions.items()],
            "version": version,
            "target": target.card,
            "drafters": [{"id": id_, "on": d in drafters, **d.card} for id_, d in known.drafters.items()],
            "said": {"kind": kind or ("bad" if unusable else ""), "words": words or unusable},
            **self._places([*known.versions.values(), *known.drafters.values()]),
            "command": self._command(selection, parts),
        }
        return card, (known, parts, loaded, self._fits(selection, parts) != "no")

    def where(self) -> str:
        """Where downloads land, in a sentence or two."""
        cache, room = self.sources.hub.cache, ""
        with suppress(OSError, StopIteration):
            there = next(place for place in (cache, *cache.parents) if place.exists())
            room = f" ({gigabytes(shutil.disk_usage(there).free)} free)"
        words = f"Downloads land in the Hugging Face cache, {local.shown_path(cache)}{room}, which mlx-lm reads too; "
        return words + "what is there already, or in LM Studio's folder, is not downloaded again."

    @staticmethod
    def _unusable(parts: Sequence[LocatedPart]) -> str:
        return " ".join([*problems(parts), *(p.note for p in parts if p.note and not p.problem and not p.here)])

    def _memory_badge(self, selection: Selection, parts: Sequence[LocatedPart]) -> dict[str, str]:
        if not self.worker.ready:  # nor is it known what MLX computes on
            return {"kind": "", "words": "", "more": ""}
        try:
            need = memory_of(selection, parts, self.machine)
        except ModelError as error:
            return {"kind": "", "words": "size not known", "more": str(error)}
        kind, words = FITS[need.fits] if self.machine.memory else ("", gigabytes(need.total))
        counted = f"Counted with {len(parts)} lane{'s' * (len(parts) > 1)} of {selection.context:,} tokens."
        return {"kind": kind, "words": words, "more": f"{need.words} {counted}"}

    @staticmethod
    def _state_badge(parts: Sequence[LocatedPart], loaded: bool) -> dict[str, str]:
        if loaded:
            return {"kind": "good", "words": "loaded", "more": ""}
        here = sum(p.here for p in parts)
        words = "on disk" if here == len(parts) else "partly on disk" if here else "to download"
        return {"kind": "", "words": words, "more": ""}

    def _next(
        self, page: PageCards, known: PresetParts, parts: Sequence[LocatedPart], loaded: bool, advised: bool
    ) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """What goes on (share and words; None), and the button: what it does, and whether that is to be advised."""
        if work := page.working.get(known.preset.name):
            share, words, action = work
            names = {"cancel": "Cancel", "stop": "Stop loading"}
            return {"share": share, "words": words}, {"action": action, "words": names[action], "main": False}
        if running := self._downloads(known):
            share, words = self.download_words(running)
            return {"share": share, "words": words}, {"action": "cancel", "words": "Cancel download", "main": False}
        if not self.worker.ready and known.preset is self.sources.first:
            button = {"action": "", "words": "Loading …", "main": False}
            return {"share": 0.0, "words": f"Loading: {self.worker.progress} …"}, button
        if loaded:
            return None, {"action": "unload", "words": "Unload", "main": False}
        missing = [p.missing for p in parts if not p.here]
        if not missing:
            return None, {"action": "load", "words": "Load", "main": advised}
        if any(n is None for n in missing):
            return None, {"action": "look", "words": "Look up size", "main": False}
        total = sum(n or 0 for n in missing)
        words = f"Download {gigabytes(total)}" if total else "Download"
        return None, {"action": "download", "words": words, "main": advised}

    @staticmethod
    def _version_words(precision: str, part: LocatedPart) -> str:
        state = "on disk" if part.here else ""
        return ", ".join(filter(None, [precision, part.size, state]))

    def _places(self, parts: Sequence[LocatedPart]) -> dict[str, Any]:
        """Where files of a preset lie, those of unfinished downloads too, and the command that removes these."""
        places, remove = [], []
        for part in parts:
            name = part.part.place
            if not isinstance(name, HubName):
                continue
            folder = self.sources.hub.folder(name.repo)
            if part.source == local.HF or (not part.here and part.fetched):
                remove.append(shlex.quote(str(folder)))
            if (place := folder if part.source == local.HF or part.fetched else part.directory) is not None:
                source = f" ({part.source})" if part.source else ""
                places.append(f"{name.repo}: {local.shown_path(place)}{source}")
        return {"places": places, "remove": f"rm -r {' '.join(remove)}" if remove else ""}

    def _command(self, selection: Selection, parts: Sequence[LocatedPart]) -> str:
        """How mlx-dspark runs the first drafter on this target."""
        target, *drafters = parts
        for d in drafters:
            if target.part.place and d.part.place:
                place = target.part.place, d.part.place
                if command := mlx_dspark_command(*place, d.part.role, selection.drafter_precision):
                    return command
        return ""

    # ---- in words, also of the form below the cards --------------------------------------------------

    def followed(self, job: Job) -> Iterator[tuple[float, str, str]]:
        """(share, words, "") while a job changes what is loaded; last (1, words, a verdict's kind) of how it ended. To
        the end also after a Stop: the last says what is loaded then."""
        ended = 1.0, "It ended without a word.", "divergence"
        for _, event in self.worker.events(job, to_the_end=True):
            if isinstance(event, Loaded):
                ended = 1.0, event.words, "identical" if event.changed else "tie"
            elif isinstance(event, Failed):
                ended = 1.0, event.message, "divergence"
            elif isinstance(event, Waiting):
                yield 0.0, event.words, ""
            else:
                yield min(event.done / event.total if event.total else 0.0, 0.999), event.words, ""
        yield ended

    def left_out(self) -> str:
        """Which of the page's usual lanes cannot run on what is loaded."""
        why = getattr(self.worker.engine, "problems", {})
        firsts = self.sources.first.first_drafters if self.sources.first else {}
        words = [f"Lanes of {d.method} will not run: {why[id_]}" for id_, d in firsts.items() if id_ in why]
        return " ".join(words)

    @staticmethod
    def download_words(running: list[Download]) -> tuple[float, str]:
        """(share, words) of downloads that go on side by side."""
        done, total = sum(d.done for d in running), sum(d.plan.bytes for d in running)
        speed = sum(d.speed for d in running)
        words = f"{gigabytes(done)} of {gigabytes(total)}"
        if speed:
            left = (total - done) / speed
            words += f", {speed / 1e6:.1f} MB/s, " + (
                f"{left / 60:.0f} min left" if left > 90 else f"{left:.0f} s left"
            )
        busy = [d for d in running if not d.over]
        return min(done / max(total, 1), 0.999), f"{words}. {busy[0].words if busy else ''}"

    @staticmethod
    def how_downloads_ended(
        ended: list[Download], problems: list[str], others: Sequence[LocatedPart] = ()
    ) -> tuple[str, str, str]:
        """A verdict's kind, words and small print. `others` are here, and nothing was asked for."""
        failed = [*dict.fromkeys(d.words for d in ended if d.state == "failed"), *problems]
        if failed:
            return "divergence", failed[0], " ".join(failed[1:])
        stopped = [d.words for d in ended if d.state == "cancelled"]
        if stopped:
            return "tie", stopped[0], ""
        if any(d.received for d in ended):
            return (
                "identical",
                "Downloaded; sizes and checksums are as the hub gives them. Press Load to race on it.",
                "",
            )
        if any(d.placed for d in ended):
            return (
                "identical",
                "Put right; sizes and checksums are as the hub gives them. Press Load to race on it.",
                "",
            )
        unknown = " ".join(
            f"{p.part.name} is here, but was not compared with the hub: {p.note}" for p in others if p.note
        )
        if unknown:
            return "tie", unknown, ""
        if not ended:
            return "", "Nothing is to be downloaded: these models are directories of this machine.", ""
        return "identical", "All of it is here already, sizes and checksums as the hub gives them.", ""
