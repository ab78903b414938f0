"""The Models tab: choose a target with its drafters, see what it takes, download it, load it, unload it.

Nothing here asks the network before a visitor presses Look up or Download. Downloads belong to the program, not to a
page: they go on when it is closed, pages that want the same model share one, and Cancel stops them for all.
"""

import json
import queue
import time
from collections.abc import Iterator
from typing import Any

import gradio as gr

from ...catalog.download import Download
from ...catalog.facts import TARGET
from ...catalog.memory import gigabytes
from ...catalog.names import directory
from ...errors import ModelError
from ...machine import Device, physical_memory
from ...presets import METHODS, PRECISIONS, Preset
from ...race.records import Failed
from ..engine import Loaded, load_job, unload_job
from ..selection import CONTEXTS, NONE, OWN, Shelf, listing, report
from ..stream import loaded_words
from ..widgets import decided, page_file, plain_text, progress, progressed, script, static, verdict_box
from ..worker import Job, Worker
from .race_tab import ENGINE_USE, Raced

UPDATE_S = 0.25
HIDDEN = "hidden"  # made, but not shown: see controls._fold
INTRO = """
<h3>Which model races?</h3>
<p>One target is loaded at a time, with its drafters. Look up asks the hub what a download would bring and whether it
fits this machine; it downloads nothing. What cannot be loaded leaves the model before it in place.</p>
"""
TYPED = (("Target", "own-target"), ("Drafter", "own-first"), ("Second drafter, if any", "own-second"))
OWN_NOTE = (
    "Any target of the Llama, Qwen3 or Gemma-4 family with any DSpark or DFlash drafter: a hub name (owner/name) or a "
    "directory of this machine (beginning with / or ~). Weights are read from safetensors only, and no code of a model "
    "is ever run."
)


# ---- what the choice offers ------------------------------------------------------------------------------


def versions(preset: Preset | None) -> list[str]:
    return [t.precision for t in preset.targets] if preset else list(PRECISIONS)


def drafters(preset: Preset | None, method: str) -> list[tuple[str, str]]:
    """(words, value) of the drafters that can be chosen for a method."""
    return [(d.title, d.title) for d in (preset.of(method) if preset else [])] + [("none", NONE)]


def about(preset: Preset | None, precision: str) -> str:
    """What is known of a choice, in a few sentences."""
    if preset is None:
        return OWN_NOTE
    version = next((t for t in preset.targets if t.precision == precision), None)
    return "\n".join(filter(None, [preset.note, f"{precision}: {version.note}" if version and version.note else ""]))


def shown(wanted: bool) -> bool | str:
    return wanted or HIDDEN


# ---- what goes on ----------------------------------------------------------------------------------------


def to_the_end(worker: Worker, job: Job) -> Iterator[Any]:
    """The events of a load as they come, to the last one also after a Stop, for it says what is loaded then; words
    (str) while it waits. Closing it cancels the job."""
    if not worker.submit(job):
        yield Failed("This page is busy: wait for its race or proof, or stop it.")
        return
    said = None
    try:
        while True:
            try:
                item = job.events.get(timeout=UPDATE_S)
            except queue.Empty:
                ahead = worker.ahead(job)
                words = f"Waiting: {ahead} job{'s' * (ahead > 1)} before this one." if ahead else ""
                words = words if worker.ready else f"Loading: {worker.progress} …"
                if words and words != said:
                    said = words
                    yield words
                continue
            if item is None:
                return
            yield item[1]
    finally:
        job.cancel.set()


def download_words(running: list[Download]) -> tuple[float, str]:
    """(share, words) of downloads that go on side by side."""
    done, total = sum(d.done for d in running), sum(d.plan.bytes for d in running)
    speed = sum(d.speed for d in running)
    words = f"{gigabytes(done)} of {gigabytes(total)}"
    if speed:
        left = (total - done) / speed
        words += f", {speed / 1e6:.1f} MB/s, " + (f"{left / 60:.0f} min left" if left > 90 else f"{left:.0f} s left")
    busy = [d for d in running if not d.over]
    return min(done / max(total, 1), 0.999), f"{words}. {busy[0].words if busy else ''}"


def how_it_ended(ended: list[Download], problems: list[str]) -> str:
    """The value of the verdict box after downloads."""
    failed = [d.words for d in ended if d.state == "failed"] + problems
    if failed:
        return decided("divergence", failed[0], " ".join(failed[1:]))
    stopped = [d.words for d in ended if d.state == "cancelled"]
    if stopped:
        return decided("tie", stopped[0])
    return decided("identical", "Downloaded; sizes and checksums are as the hub gives them. Press Load to race on it.")


def machine_of(worker: Worker) -> Device:
    return getattr(worker.engine, "machine", None) or Device("CPU", "this machine", physical_memory())


# ---- the tab ---------------------------------------------------------------------------------------------


def models_tab(worker: Worker, shelf: Shelf, page: gr.Blocks, head: gr.HTML, raced: Raced) -> None:
    """The tab. `head` says what is loaded; it follows, also after a race, since another page may have loaded."""
    first = next(iter(shelf.presets.values()), None)
    with raced.below:
        notice = plain_text("", "base-notice")
    with gr.Tab("Models", id="models", elem_id="models-tab") as tab:
        with gr.Column(elem_classes="chart proof"):
            static(INTRO)
            if shelf.bad:
                plain_text("\n".join(shelf.bad), "bad-presets")
            chosen = _choice(shelf, first)
            note = plain_text(about(first, versions(first)[0]), "shelf-note")
            with gr.Row(elem_classes="buttons"):
                load = gr.Button("Load", elem_id="load")
                look = gr.Button("Look up", elem_id="look-up")
                fetch = gr.Button("Download", elem_id="download")
                cancel = gr.Button("Cancel download", elem_id="cancel-download")
                stop = gr.Button("Stop loading", elem_id="stop-loading")
                unload = gr.Button("Unload", elem_id="unload")
            going = progress("shelf-progress")
            told = verdict_box("shelf-verdict")
            seen = _table("shelf-report", "What was chosen")
        with gr.Column(elem_classes="chart proof"):
            static("<h3>On this machine</h3>")
            with gr.Row(elem_classes="buttons"):
                scan = gr.Button("List models", elem_id="list-models")
            found = _table("shelf-found", "Models on this machine")
    preset, precision, *follows = chosen[:5]  # those that a model brings with it
    own = chosen[7:]

    def local_report(*asked):
        """What is known without a network."""
        try:
            selection = shelf.selection(*asked)
            return json.dumps(report(selection, shelf.here(selection), machine_of(worker)))
        except ModelError as error:
            return _saying(str(error) if shelf.preset(asked[0]) or any(asked[7:]) else "")

    def reveal(name):
        """The controls that follow the model."""
        p = shelf.preset(name)
        updates = [gr.update(choices=versions(p), value=versions(p)[0])]
        for method in METHODS:
            options = drafters(p, method)
            updates.append(gr.update(choices=options, value=options[0][1], visible=shown(p is not None)))
        updates.append(gr.update(value=p.drafter_precision if p else "auto"))
        updates += [gr.update(visible=shown(p is None))] * len(own)
        return [*updates, about(p, versions(p)[0])]

    def explain(name, version):
        return about(shelf.preset(name), str(version)[:20])

    def look_up(*asked):
        yield progressed(0, "Asking the hub …"), decided("", ""), gr.skip()
        try:
            selection = shelf.selection(*asked)
            spots = shelf.asked(shelf.here(selection))
        except ModelError as error:
            yield progressed(1, ""), decided("divergence", str(error)), gr.skip()
            return
        yield progressed(1, ""), decided("", ""), json.dumps(report(selection, spots, machine_of(worker)))

    def download(*asked):
        yield progressed(0, "Asking the hub …"), decided("", ""), gr.skip()
        try:
            selection = shelf.selection(*asked)
            spots = shelf.asked(shelf.here(selection))
            told_of = json.dumps(report(selection, spots, machine_of(worker)))
            running = shelf.start(spots)
        except ModelError as error:
            yield progressed(1, ""), decided("divergence", str(error)), gr.skip()
            return
        problems = [s.problem for s in spots if s.problem]
        if not running:
            words = (
                decided("divergence", problems[0]) if problems else decided("identical", "All of it is here already.")
            )
            yield progressed(1, ""), words, told_of
            return
        yield gr.skip(), gr.skip(), told_of
        while not all(d.over for d in running):
            yield progressed(*download_words(running)), gr.skip(), gr.skip()
            time.sleep(UPDATE_S)
        yield progressed(1, ""), how_it_ended(running, problems), local_report(*asked)

    def stop_downloads():
        running = [d for d in shelf.downloads if not d.over]
        for d in running:
            d.cancel()
        return gr.skip() if running else decided("", "No download is running.")

    def follow(job: Job):
        """Values of progress, verdict, head and notice while a job changes what is loaded."""
        stay = gr.skip(), gr.skip()
        yield progressed(0, "Starting …"), decided("", ""), *stay
        ended = decided("divergence", "It ended without a word.")
        for event in to_the_end(worker, job):
            if isinstance(event, Loaded):
                ended = decided("identical" if event.changed else "tie", event.words)
            elif isinstance(event, Failed):
                ended = decided("divergence", event.message)
            elif isinstance(event, str):
                yield progressed(0, event), gr.skip(), *stay
            else:
                share = event.done / event.total if event.total else 0
                yield progressed(min(share, 0.999), event.words), gr.skip(), *stay
        yield progressed(1, ""), ended, *state()

    def state():
        if worker.engine is None:
            return gr.skip(), gr.skip()
        return loaded_words(worker), getattr(worker.engine, "notice", "")

    def put_in(visitor: gr.Request, *asked):
        try:
            selection = shelf.selection(*asked)
            choice = shelf.choice(selection, shelf.here(selection))
        except ModelError as error:
            yield progressed(1, ""), decided("divergence", str(error)), gr.skip(), gr.skip()
            return
        yield from follow(load_job(choice, visitor.session_hash))

    def take_out(visitor: gr.Request):
        yield from follow(unload_job(visitor.session_hash))

    def halt(visitor: gr.Request):
        worker.stop(visitor.session_hash)

    def list_models(folder):
        try:
            models = shelf.on_this_machine(
                directory(folder.strip()) if isinstance(folder, str) and folder.strip() else None
            )
        except ModelError as error:
            return [_saying(str(error)), *[gr.skip()] * len(own)]
        told_of = json.dumps(listing(models))
        targets = [(f"{f.name} ({f.source})", str(f.path)) for f in models if f.sort.kind == TARGET]
        others = [(f"{f.name} ({f.source})", str(f.path)) for f in models if f.sort.kind == "drafter"]
        return told_of, gr.update(choices=targets), *[gr.update(choices=others)] * 2

    def from_link(visitor: gr.Request):
        name = dict(visitor.query_params).get("preset")
        return name if name in shelf.presets else gr.skip()

    quietly = {"show_progress": "hidden", "api_visibility": "private"}
    free = {"concurrency_limit": None, **quietly}
    preset.change(reveal, preset, [precision, *follows, *own, note], queue=False, **quietly).then(
        local_report, chosen, seen, **free
    )
    precision.input(explain, [preset, precision], note, queue=False, **quietly)
    gr.on([c.input for c in (*chosen[1:],)], local_report, chosen, seen, trigger_mode="always_last", **free)
    tab.select(local_report, chosen, seen, **free)
    look.click(look_up, chosen, [going, told, seen], trigger_mode="once", **free)
    fetch.click(download, chosen, [going, told, seen], trigger_mode="once", **free)
    cancel.click(stop_downloads, None, told, queue=False, **quietly)
    changed = [going, told, head, notice]
    load.click(put_in, chosen, changed, api_visibility="private", **ENGINE_USE)
    unload.click(take_out, None, changed, api_visibility="private", **ENGINE_USE)
    stop.click(halt, queue=False, **quietly)
    scan.click(list_models, chosen[6], [found, *own], trigger_mode="once", **free)
    raced.event.then(state, None, [head, notice], queue=False, **quietly)
    page.load(from_link, None, preset, queue=False, **quietly)


def _choice(shelf: Shelf, first: Preset | None) -> list[gr.components.Component]:
    """The controls, in the order that `Shelf.selection` takes them."""
    presets = [(p.title, p.name) for p in shelf.presets.values()] + [("Your own", OWN)]
    with gr.Row(elem_id="shelf-pick"):
        preset = gr.Dropdown(presets, value=presets[0][1], label="Model", elem_id="preset")
        precision = gr.Dropdown(versions(first), value=versions(first)[0], label="Precision", elem_id="precision")
        picked = [_pick(first, method) for method in METHODS]
    with gr.Row(elem_id="shelf-own"):
        own = [_typed(*what, first is None) for what in TYPED]
    with gr.Row():
        at_load = gr.Dropdown(
            list(PRECISIONS),
            value=first.drafter_precision if first else "auto",
            label="Drafters run in",
            elem_id="drafter-precision",
        )
        context = gr.Dropdown(
            [(f"{n:,} tokens", n) for n in CONTEXTS], value=4096, label="Context to plan for", elem_id="context"
        )
        folder = gr.Textbox(
            label="Also look in this directory", placeholder="~/models", elem_id="folder", max_length=1000
        )
    return [preset, precision, *picked, at_load, context, folder, *own]


def _pick(first: Preset | None, method: str) -> gr.Dropdown:
    options = drafters(first, method)
    label, name = f"{method} drafter", f"pick-{method.lower()}"
    return gr.Dropdown(options, value=options[0][1], label=label, elem_id=name, visible=shown(first is not None))


def _typed(label: str, name: str, visible: bool) -> gr.Dropdown:
    """A name or a directory to type; what is on this machine can be picked once it was listed."""
    return gr.Dropdown([], label=label, allow_custom_value=True, elem_id=name, visible=shown(visible))


def _saying(words: str) -> str:
    return json.dumps({"columns": [], "rows": [], "lines": [{"kind": "bad", "words": words}] if words else []})


def _table(elem_id: str, label: str) -> gr.HTML:
    return gr.HTML(
        _saying(""),
        html_template=page_file("models.html").replace("LABEL", label),
        js_on_load=script("models"),
        apply_default_css=False,
        elem_id=elem_id,
    )
