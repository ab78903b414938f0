"""The Models tab: the presets as cards (model_cards.py), below them a form for any choice, one's own models included,
and what is on this machine.

Nothing here asks the network before a visitor presses Look up or Download. Downloads belong to the program, not to a
page: they go on when it is closed, pages that want the same model share one, and Cancel stops them for all.
"""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import partial
from typing import Any

import gradio as gr
from gradio.components import Component

from ...catalog.facts import DRAFTER, TARGET
from ...catalog.names import directory
from ...errors import Cancelled, ModelError
from ...machine import Device, physical_memory
from ...presets import PRECISIONS, Preset
from ..controls import HIDDEN
from ..engine import load_job, unload_job
from ..model_cards import ModelCards, PageCards
from ..selection import (
    CONTEXTS,
    OWN_MODELS,
    LocatedPart,
    ModelForm,
    ModelSources,
    Selection,
    listing,
    options,
    problems,
    report,
)
from ..stream import loaded_words
from ..use_lane import UsePanel
from ..widgets import (
    QUIET,
    UNQUEUED,
    Call,
    Updates,
    decided,
    listen,
    page_file,
    plain_text,
    progress,
    progressed,
    script,
    static,
    verdict_box,
)
from ..worker import Job, Worker
from .race_tab import ENGINE_USE, Raced

DOWNLOAD_UPDATE_S = 0.25
# Buttons that are there as long as there is something to stop.
SHOWN = {name: {name: gr.update(visible=True)} for name in ("cancel", "stop")}
GONE = {name: {name: gr.update(visible=HIDDEN)} for name in SHOWN}
CARDS_INTRO = """
<h3>Which model races?</h3>
<p>One target is loaded at a time, with its drafters, each trained for this target alone. Nothing is fetched before you
press a button, and what cannot be loaded leaves the model before it in place.</p>
"""
FORM_INTRO = """
<h3>Any choice, your own models included</h3>
<p>Any number of drafters, two of one method included, at any precision. Look up asks the hub what a download would
bring and whether it fits this machine; it downloads nothing. A small language model, such as those that LM Studio
drafts with, is a target here, not a drafter.</p>
"""
OWN_NOTE = (
    "Any target of the Llama, Qwen2, Qwen3, Qwen3.5, LFM2 or Gemma-4 family with any DSpark, DFlash or DFlash 2 "
    "drafters: a hub name (owner/name) or a directory of this machine (beginning with / or ~), drafters one by one "
    "with Enter. Weights are read from safetensors only, and no code of a model is ever run."
)
DRAFTER_WINDOWS = 512, 1024, 2048, 4096  # of its context: longer text than it was trained on confuses a drafter


class PresetMenu:
    """What can be chosen of a preset; of one's own models where that is None."""

    def __init__(self, preset: Preset | None):
        self.preset = preset
        self.precisions = [t.precision for t in preset.targets] if preset else list(PRECISIONS)
        self.first_drafters = list(preset.first_drafters) if preset else []  # one of each method
        self.drafter_precision = preset.drafter_precision if preset else PRECISIONS[0]

    @property
    def drafters(self) -> list[tuple[str, str]]:
        """(words, id) of the drafters that can be chosen, each with words of its own."""
        offered = options(self.preset) if self.preset else {}
        titles = {id_: d.title or d.method for id_, d in offered.items()}
        return [(f"{t} ({id_})" if list(titles.values()).count(t) > 1 else t, id_) for id_, t in titles.items()]

    def about(self, precision: str) -> str:
        """What is known of a choice, in a few sentences."""
        if self.preset is None:
            return OWN_NOTE
        version = next((t for t in self.preset.targets if t.precision == precision), None)
        of_version = f"{precision}: {version.note}" if version and version.note else ""
        return "\n".join(filter(None, [self.preset.note, of_version, self.preset.licences(precision)]))


class ModelsTab:
    """Handlers take the controls' values by the names of ModelForm."""

    def __init__(self, worker: Worker, sources: ModelSources):
        self.worker, self.sources = worker, sources
        self._asking: list[tuple[str, threading.Event]] = []  # (page, its Cancel) of every question to the hub
        self.cards = ModelCards(worker, sources, lambda call: self.loaded(call))

    # ---- what was chosen -----------------------------------------------------------------------------

    def form(self, call: Call) -> ModelForm:
        return ModelForm(**{f.name: call[f.name] for f in fields(ModelForm)})

    def reveal(self, call: Call) -> Updates:
        """The controls that follow the preset."""
        preset = self.sources.preset(call["preset"])
        offer = PresetMenu(preset)
        own = gr.update(visible=preset is None or HIDDEN)
        drafters = gr.update(choices=offer.drafters, value=offer.first_drafters, visible=preset is not None or HIDDEN)
        return {
            "precision": gr.update(choices=offer.precisions, value=offer.precisions[0]),
            "drafters": drafters,
            "drafter_precision": gr.update(value=offer.drafter_precision),
            "own_target": own,
            "own_drafters": own,
            "note": offer.about(offer.precisions[0]),
        }

    def explain(self, call: Call) -> Updates:
        return {"note": PresetMenu(self.sources.preset(call["preset"])).about(str(call["precision"])[:20])}

    def from_link(self, query: Mapping[str, str]) -> Any:
        """The preset that a link names; nothing changes where there is none of that name."""
        name = query.get("preset")
        return name if name in self.sources.presets else gr.skip()

    # ---- what is known of it -------------------------------------------------------------------------

    def local_report(self, call: Call) -> Updates:
        """What is known without a network."""
        form = self.form(call)
        try:
            selection = self.sources.selection(form)
            return self._reported(selection, self.sources.locate(selection))
        except ModelError as error:
            meant = self.sources.preset(form.preset) or form.own_target or form.own_drafters
            return {"report": refusal_table(str(error) if meant else "")}

    def look_up(self, call: Call) -> Iterator[Updates]:
        yield {"progress": progressed(0, "Asking the hub …"), "verdict": decided("", ""), **SHOWN["cancel"]}
        try:
            selection, parts = self._asked(call)
        except Cancelled:
            yield self._ended("Stopped.", "tie")
        except ModelError as error:
            yield self._ended(str(error))
        else:
            yield {"progress": progressed(1, ""), **GONE["cancel"], **self._reported(selection, parts)}

    def download(self, call: Call) -> Iterator[Updates]:
        yield {"progress": progressed(0, "Asking the hub …"), "verdict": decided("", ""), **SHOWN["cancel"]}
        try:
            selection, parts = self._asked(call, again=True)
            running = self.sources.download(parts)
        except Cancelled:
            yield self._ended("Stopped.", "tie")
            return
        except ModelError as error:
            yield self._ended(str(error))
            return
        yield self._reported(selection, parts)
        while not all(d.over for d in running):
            yield {"progress": progressed(*ModelCards.download_words(running))}
            time.sleep(DOWNLOAD_UPDATE_S)
        others = [p for p in parts if p.here and not p.plan]
        verdict = decided(*ModelCards.how_downloads_ended(running, problems(parts), others))
        yield {"progress": progressed(1, ""), "verdict": verdict, **GONE["cancel"], **self.local_report(call)}

    @staticmethod
    def _ended(words: str, kind: str = "divergence") -> Updates:
        return {"progress": progressed(1, ""), "verdict": decided(kind, words), **GONE["cancel"]}

    def _asked(self, call: Call, again: bool = False) -> tuple[Selection, list[LocatedPart]]:
        """What was chosen and what the hub says of it. Raises ModelError, and Cancelled once the page's Cancel was
        pressed."""
        stop = threading.Event()
        self._asking.append((call.session, stop))
        try:
            selection = self.sources.selection(self.form(call))
            return selection, self.sources.look_up(self.sources.locate(selection), again, stop.is_set)
        finally:
            self._asking.remove((call.session, stop))

    def stop_downloads(self, call: Call) -> Updates:
        running = [d for d in self.sources.downloads if not d.over]
        for d in running:
            d.cancel()
        asking = [stop for session, stop in [*self._asking] if session == call.session]
        for stop in asking:
            stop.set()
        return {} if running or asking else {"verdict": decided("", "No download is running.")}

    def list_models(self, call: Call) -> Updates:
        """The models on this machine, which can be picked as one's own from then on."""
        folder = call["folder"]
        try:
            models = self.sources.on_this_machine(
                directory(folder.strip()) if isinstance(folder, str) and folder.strip() else None
            )
        except ModelError as error:
            return {"found": refusal_table(str(error))}
        named = {
            kind: [(f"{f.name} ({f.source})", str(f.path)) for f in models if f.sort.kind == kind]
            for kind in (TARGET, DRAFTER)
        }
        return {
            "found": json.dumps(listing(models)),
            "own_target": gr.update(choices=named[TARGET]),
            "own_drafters": gr.update(choices=named[DRAFTER]),
        }

    def _reported(self, selection: Selection, parts: list[LocatedPart]) -> Updates:
        machine = getattr(self.worker.engine, "machine", None) or Device("CPU", "this machine", physical_memory())
        here = all(p.here for p in parts)
        advised = {
            "load": gr.update(variant="primary" if here else "secondary"),
            "fetch": gr.update(variant="secondary" if here else "primary"),
        }
        return {"report": json.dumps(report(selection, parts, machine)), **advised}

    # ---- what becomes of it --------------------------------------------------------------------------

    def load(self, call: Call) -> Iterator[Updates]:
        try:
            selection = self.sources.selection(self.form(call))
            choice = self.sources.choice(selection, self.sources.locate(selection))
        except ModelError as error:
            yield {"progress": progressed(1, ""), "verdict": decided("divergence", str(error))}
            return
        yield from self._followed(load_job(choice, call.session))

    def unload(self, call: Call) -> Iterator[Updates]:
        yield from self._followed(unload_job(call.session))

    def stop(self, call: Call) -> None:
        self.worker.stop(call.session)

    def loaded(self, call: Call) -> Updates:
        """What is loaded, in the page's head and under the board."""
        if not self.worker.ready:
            return {}
        notice = getattr(self.worker.engine, "notice", "")
        return {"head": loaded_words(self.worker), "notice": notice}

    def _followed(self, job: Job) -> Iterator[Updates]:
        """What shows while a job changes what is loaded."""
        yield {"progress": progressed(0, "Starting …"), "verdict": decided("", ""), **SHOWN["stop"]}
        for share, words, kind in self.cards.followed(job):
            if not kind:
                yield {"progress": progressed(share, words)}
        more = self.cards.left_out() if kind == "identical" else ""
        ended = {"progress": progressed(1, ""), "verdict": decided(kind, words, more), **GONE["stop"]}
        yield {**ended, **self.loaded(Call(job.session))}

    # ---- its components ------------------------------------------------------------------------------

    def build(self, page: gr.Blocks, head: gr.HTML, raced: Raced, use: UsePanel) -> None:
        """`head` says what is loaded; it follows, also after a race, since another page may have loaded."""
        first = PresetMenu(self.sources.first)
        with raced.below:
            notice = plain_text("", "base-notice")
        with gr.Tab("Models", id="models", elem_id="models-tab") as tab:
            with gr.Column(elem_classes="chart proof"):
                static(CARDS_INTRO)
                if self.sources.bad:
                    plain_text("\n".join(self.sources.bad), "bad-presets")
                cards = self.cards.place()
            with gr.Column(elem_classes="chart proof"):
                static(FORM_INTRO)
                chosen = self._choice(first)
                places = {"note": plain_text(first.about(first.precisions[0]), "shelf-note")}
                buttons = self._buttons()
                places |= {**buttons, "progress": progress("shelf-progress"), "verdict": verdict_box("shelf-verdict")}
                places["report"] = _models_table("shelf-report", "What was chosen")
                use.build("use-model", head.change)
            with gr.Column(elem_classes="chart proof"):
                static("<h3>On this machine</h3>")
                with gr.Row(elem_classes="buttons"):
                    buttons["list"] = gr.Button("List models", elem_id="list-models")
                places["found"] = _models_table("shelf-found", "Models on this machine")
        loaded = {"head": head, "notice": notice}
        changed = self._wire(chosen, {**chosen, **places, **loaded}, buttons)
        self._wire_cards(tab, cards, loaded, changed)
        free = {"concurrency_limit": None, **QUIET}
        reported = {name: {**places, **buttons}[name] for name in ("report", "load", "fetch")}
        listen(tab.select, self.local_report, chosen, reported, **free)
        listen(raced.event.then, self.loaded, {}, {"head": head, "notice": notice}, queue=False, **QUIET)

        def from_link(visitor: gr.Request) -> Any:
            return self.from_link(dict(visitor.query_params))

        page.load(from_link, None, chosen["preset"], queue=False, **QUIET)

    def _wire_cards(
        self, tab: gr.Tab, cards: gr.HTML, loaded: dict[str, Component], changed: list[gr.events.Dependency]
    ) -> None:
        """changed: events of the form after which the cards are to be drawn anew"""
        page = {"page": gr.State(PageCards())}
        shown: dict[str, Component] = {"cards": cards}
        free: dict[str, Any] = {"concurrency_limit": None, "trigger_mode": "multiple", **QUIET}
        for event in (tab.select, *(event.then for event in changed)):
            listen(event, self.cards.show, page, shown, **free)
        listen(cards.select, self.cards.choose, page, shown, **free)
        listen(cards.submit, self.cards.fetch, page, shown, **free)
        use = ENGINE_USE | {"trigger_mode": "multiple", "api_visibility": "private"}
        listen(cards.apply, self.cards.load, page, shown | loaded, **use)
        listen(cards.stop, self.cards.stop, page, {}, **UNQUEUED)

    def _wire(
        self, chosen: dict[str, Component], places: dict[str, Component], buttons: dict[str, gr.Button]
    ) -> list[gr.events.Dependency]:
        """The events that change what is here or what is loaded."""

        def out(*names: str) -> dict[str, Component]:
            return {name: places[name] for name in names}

        free: dict[str, Any] = {"concurrency_limit": None, **QUIET}
        preset: Any = chosen["preset"]
        precision: Any = chosen["precision"]
        follows = out("precision", "drafters", "drafter_precision", "own_target", "own_drafters", "note")
        revealed = listen(preset.change, self.reveal, {"preset": preset}, follows, queue=False, **QUIET)
        reported = out("report", "load", "fetch")
        listen(revealed.then, self.local_report, chosen, reported, **free)
        both = {"preset": preset, "precision": precision}
        listen(precision.input, self.explain, both, out("note"), queue=False, **QUIET)
        events = {name: getattr(c, "change" if name == "own_drafters" else "input") for name, c in chosen.items()}
        del events[
            "preset"
        ]  # its change reports by itself; of names that are typed in one by one there is no input event
        edited = partial(gr.on, list(events.values()))
        listen(edited, self.local_report, chosen, reported, trigger_mode="always_last", **free)
        known = out("progress", "verdict", "cancel") | reported
        listen(buttons["look"].click, self.look_up, chosen, known, trigger_mode="once", **free)
        fetched = listen(buttons["fetch"].click, self.download, chosen, known, trigger_mode="once", **free)
        listen(buttons["cancel"].click, self.stop_downloads, {}, out("verdict"), queue=False, **QUIET)
        changed = out("progress", "verdict", "head", "notice", "stop")
        use = ENGINE_USE | {"api_visibility": "private"}
        load = listen(buttons["load"].click, self.load, chosen, changed, **use)
        unload = listen(buttons["unload"].click, self.unload, {}, changed, **use)
        listen(buttons["stop"].click, self.stop, {}, {}, queue=False, **QUIET)
        own = out("found", "own_target", "own_drafters")
        listen(buttons["list"].click, self.list_models, {"folder": chosen["folder"]}, own, trigger_mode="once", **free)
        return [fetched, load, unload]

    def _choice(self, first: PresetMenu) -> dict[str, Component]:
        """The controls, by the names of ModelForm."""
        presets = [(p.title, p.name) for p in self.sources.presets.values()] + [("Your own", OWN_MODELS)]
        with gr.Row(elem_id="shelf-pick"):
            preset = gr.Dropdown(presets, value=presets[0][1], label="Model", elem_id="preset")
            precision = gr.Dropdown(first.precisions, value=first.precisions[0], label="Precision", elem_id="precision")
            drafters = gr.Dropdown(
                first.drafters,
                value=first.first_drafters,
                multiselect=True,
                label="Drafters",
                elem_id="pick-drafters",
                visible=first.preset is not None or HIDDEN,
            )
        with gr.Row(elem_id="shelf-own"):
            # Names or directories to type; what is on this machine can be picked once it was listed.
            typed: dict[str, Any] = {"allow_custom_value": True, "visible": first.preset is None or HIDDEN}
            own_target = gr.Dropdown([], label="Target", elem_id="own-target", **typed)
            own_drafters = gr.Dropdown([], label="Drafter", elem_id="own-drafters", multiselect=True, **typed)
        with gr.Row():
            at_load = gr.Dropdown(
                list(PRECISIONS),
                value=first.drafter_precision,
                label="Drafters run in",
                elem_id="drafter-precision",
            )
            seen = [("all of the text", 0), *((f"the newest {n:,} tokens", n) for n in DRAFTER_WINDOWS)]
            newest = gr.Dropdown(seen, value=0, label="Drafters look at", elem_id="newest")
            contexts = [(f"{n:,} tokens", n) for n in CONTEXTS]
            context = gr.Dropdown(contexts, value=4096, label="Context to plan for", elem_id="context")
            folder = gr.Textbox(
                label="Also look in this directory", placeholder="~/models", elem_id="folder", max_length=1000
            )
        return {
            "preset": preset,
            "precision": precision,
            "drafters": drafters,
            "drafter_precision": at_load,
            "newest": newest,
            "context": context,
            "folder": folder,
            "own_target": own_target,
            "own_drafters": own_drafters,
        }

    @staticmethod
    def _buttons() -> dict[str, gr.Button]:
        with gr.Row(elem_classes="buttons"):
            return {
                "load": gr.Button("Load", variant="primary", elem_id="load"),
                "look": gr.Button("Look up", elem_id="look-up"),
                "fetch": gr.Button("Download", elem_id="download"),
                "cancel": gr.Button("Cancel download", elem_id="cancel-download", visible=HIDDEN),
                "stop": gr.Button("Stop loading", elem_id="stop-loading", visible=HIDDEN),
                "unload": gr.Button("Unload", elem_id="unload"),
            }


def refusal_table(words: str) -> str:
    """The value of a table that says why it is empty."""
    return json.dumps({"columns": [], "rows": [], "lines": [{"kind": "bad", "words": words}] if words else []})


def _models_table(elem_id: str, label: str) -> gr.HTML:
    return gr.HTML(
        refusal_table(""),
        html_template=page_file("models.html").replace("LABEL", label),
        js_on_load=script("models"),
        apply_default_css=False,
        elem_id=elem_id,
    )
