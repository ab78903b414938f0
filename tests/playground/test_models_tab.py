"""What the Models tab stands on: choosing, looking here and at the hub, downloading, and what the engine is given."""

import json
import shutil
import time
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from dspark_core.catalog import local
from dspark_core.catalog.hub import Hub
from dspark_core.decode.rounds import Settings
from dspark_core.errors import ModelError
from dspark_core.machine import Device
from dspark_core.playground.engine import Choice, Loaded, PresetEngine
from dspark_core.playground.model_cards import ModelCards, PageCards
from dspark_core.playground.outside import loaded_command
from dspark_core.playground.selection import (
    NOT_CHOSEN,
    NOT_HERE,
    NOT_WANTED,
    OWN_MODELS,
    ModelForm,
    ModelSources,
    listing,
    memory_of,
    report,
)
from dspark_core.playground.stream import loaded_words
from dspark_core.playground.tabs.models_tab import ModelsTab
from dspark_core.playground.widgets import Call
from dspark_core.playground.worker import Worker, race_job
from dspark_core.presets import read_presets
from dspark_core.race.records import PLAIN, LaneSpec, RaceRequest
from tests.catalog.hub_server import FakeHub, Repo, serving

GOLDEN = Path(__file__).parents[1] / "golden"
MACHINE = Device("Metal", "a small Mac", 16_000_000_000)
PRESET = """
title = "Tiny"
[[target]]
precision = "8-bit"
hub = "org/tiny"
[[target]]
precision = "bf16"
hub = "org/tiny-base"
[[drafter]]
method = "DSpark"
title = "block 7"
hub = "org/dspark"
[[drafter]]
method = "DFlash"
title = "block 16"
hub = "org/dflash"
[[drafter]]
method = "DFlash"
title = "closed"
hub = "org/gated"
"""


def files(name: str, kind: str, **more: bytes) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in (GOLDEN / name / kind).iterdir()} | more


@pytest.fixture
def fake(tmp_path, monkeypatch):
    monkeypatch.setattr("dspark_core.catalog.hub.get_token", lambda: None)
    monkeypatch.setattr("dspark_core.catalog.hub.BACKOFF_S", 0.01)
    monkeypatch.setattr("dspark_core.store.cache_directory", lambda: tmp_path / "store")
    chat = {"tokenizer_config.json": b'{"chat_template": "x"}'}
    hub = FakeHub()
    hub.repos = {
        "org/tiny": Repo(files("A", "target", **chat)),
        "org/tiny-base": Repo(files("A", "target")),
        "org/dspark": Repo(files("A", "drafter")),
        "org/dflash": Repo(files("C", "drafter")),
        "org/wrong": Repo(files("E", "drafter")),
        "org/gated": Repo(files("C", "drafter"), gated="manual", needs="mine"),
    }
    return hub


@pytest.fixture
def sources(fake, tmp_path):
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "tiny.toml").write_text(PRESET)
    (tmp_path / "presets" / "bad.toml").write_text(PRESET + "colour = 1")
    with serving(fake) as url:
        hub = Hub(url, tmp_path / "hub", None, tmp_path / "record.json", tmp_path / "lm")
        yield ModelSources(*read_presets(tmp_path / "presets"), hub)


def asked(name="tiny", precision="8-bit", drafters=("dspark", "dflash"), own="", typed=(), **more) -> ModelForm:
    target, *others = [*typed, ""]
    return ModelForm(name, precision, list(drafters), "auto", 1024, own, target, others, **more)


def look(sources, form):
    """Everything that is known, with the hub's word."""
    chosen = sources.selection(form)
    return chosen, sources.look_up(sources.locate(chosen))


def words(told: dict) -> str:
    return "\n".join(line["words"] for line in told["lines"])


def bring(sources, form):
    """Download what was chosen; returns selection and parts as they are afterwards."""
    chosen, parts = look(sources, form)
    for download in sources.download(parts):
        assert download.wait(20) and download.state == "done", download.words
    return chosen, sources.locate(chosen)


def test_the_hub_is_asked_only_when_the_visitor_asks(sources, fake):
    chosen = sources.selection(asked())
    told = report(chosen, sources.locate(chosen), MACHINE)
    assert [row[0] for row in told["rows"]] == ["target", "DSpark", "DFlash"]
    assert all(row[3:] == ["not here", "not looked up"] for row in told["rows"]) and not fake.requests
    chosen, parts = look(sources, asked())
    told = report(chosen, parts, MACHINE)
    assert parts[0].plan.missing == sum(len(d) for d in fake.repos["org/tiny"].files.values())
    assert "of the 16.0 GB that a small Mac has for it: it fits." in words(told) and "To download: " in words(told)
    assert "llama target" in told["rows"][0][2].lower() or "qwen3 target" in told["rows"][0][2].lower()
    assert set(fake.gets("model.safetensors")) == {"bytes=0-100000"}, "headers only"
    small = report(chosen, parts, Device("Metal", "a tiny Mac", 1_000_000))
    assert "does not fit" in words(small)


def test_what_is_here_is_found_in_the_cache_in_lm_studio_and_in_a_directory(sources, tmp_path):
    bring(sources, asked(drafters=()))
    shutil.copytree(GOLDEN / "A" / "drafter", tmp_path / "lm" / "org" / "dspark")
    shutil.copytree(GOLDEN / "C" / "drafter", tmp_path / "mine" / "dflash")
    chosen = sources.selection(asked(own=str(tmp_path / "mine")))
    parts = sources.locate(chosen)
    assert [s.source for s in parts] == [local.HF, local.LM_STUDIO, local.DIRECTORY]
    assert "All of it is on this machine." in words(report(chosen, parts, MACHINE))
    found = sources.on_this_machine(tmp_path / "mine")
    rows = listing(found)
    assert [row[0] for row in rows["rows"]] == ["org/tiny", "dflash", "org/dspark"]
    assert rows["lines"] == [] and len(sources.bad) == 1 and "colour" in sources.bad[0]


def test_two_pages_share_a_download_and_the_engine_takes_what_arrived(sources, fake):
    chosen, parts = look(sources, asked())
    _, again = look(sources, asked())  # another page
    fake.pace = 0.1
    first, second = sources.download(parts), sources.download(again)
    assert all(a is b for a, b in zip(first, second, strict=True)) and len(first) == 3
    assert all(d.wait(20) and d.state == "done" for d in first)
    engine = PresetEngine(next(iter(sources.presets.values())), "auto", lambda step: None)
    assert "org/tiny is to be downloaded first" in engine.problem and engine.name == ""
    choice = sources.choice(chosen, sources.locate(chosen))
    assert engine.load(choice) == Loaded("Tiny, 8-bit is loaded.", True)
    assert engine.name == "org/tiny" and engine.drafters["DFlash"].startswith("org/dflash, block ")
    assert engine.load(choice) == Loaded("Tiny, 8-bit is loaded already.", False)


def test_a_drafter_that_is_not_here_leaves_its_reason_in_its_lane(sources):
    bring(sources, asked(drafters=["dspark"]))
    chosen = sources.selection(asked())
    choice = sources.choice(chosen, sources.locate(chosen))
    assert choice.drafters["dflash"] == NOT_HERE
    left_out = sources.selection(asked(drafters=["dspark"]))
    assert sources.choice(left_out, sources.locate(left_out)).drafters["dflash"] == NOT_WANTED
    worker = Worker(lambda progress: _loaded(choice, sources))
    while not worker.ready:
        time.sleep(0.01)
    assert f"DFlash: {NOT_HERE}" in loaded_words(worker)
    worker.engine.models.drafters["dflash2"] = NOT_CHOSEN  # of another preset: a lane may ask for it, nobody did
    assert "DFlash2" not in loaded_words(worker)
    worker.engine.models.target.encode_chat = lambda messages: list(range(1, 12))  # golden targets have no tokenizer
    lanes = LaneSpec(PLAIN), LaneSpec("DSpark"), LaneSpec("DFlash")
    job = race_job("a page", RaceRequest("hi", lanes, Settings(max_tokens=4, stop_ids=frozenset())))
    ended = dict(worker.events(job))
    assert ended[2].message == f"DFlash is not running: {NOT_HERE}"
    assert ended[0].finish == ended[1].finish == "length"


def _loaded(choice, sources):
    engine = PresetEngine(next(iter(sources.presets.values())), "auto", lambda step: None)
    engine.load(choice)
    return engine


def test_a_pair_that_does_not_fit_is_told_before_a_byte_of_weights_comes(sources, fake):
    chosen, parts = look(sources, asked(OWN_MODELS, typed=("org/tiny", "org/wrong")))
    (line,) = [x["words"] for x in report(chosen, parts, MACHINE)["lines"] if x["kind"] == "bad"]
    assert "hidden_size is 48" in line and line.count(". ") == 0
    before = fake.sent
    with pytest.raises(ModelError, match="hidden_size is 48"):
        sources.download(parts)
    assert fake.sent == before and not [*sources.downloads]


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ((), "Type a hub name"),
        (("/nowhere/at/all", "org/dspark"), "is not a directory on this machine"),
        (("../x/y", "org/dspark"), "is not a directory on this machine"),
        (("org/tiny/../../etc", "org/dspark"), "is not a hub name"),
        (("org/tiny", *(f"org/d{k}" for k in range(9))), "9 drafters are named; at most 8"),
        ((GOLDEN / "A" / "target", "org/dspark"), "org/dspark is not on this machine: download it first."),
        (("org/tiny", GOLDEN / "A" / "drafter"), "org/tiny is not on this machine: download it first."),
    ],
)
def test_ones_own_models_are_refused_in_a_sentence(sources, fake, typed, sentence):
    with pytest.raises(ModelError) as refusal:
        chosen = sources.selection(asked(OWN_MODELS, typed=[str(t) for t in typed]))
        sources.choice(chosen, sources.locate(chosen))
    assert sentence in str(refusal.value) and "\n" not in str(refusal.value) and not fake.requests


def test_ones_own_pair_is_loaded_from_directories(sources):
    typed = [str(GOLDEN / "A" / "target"), str(GOLDEN / "A" / "drafter")]
    chosen = sources.selection(asked(OWN_MODELS, "bf16", typed=typed))
    choice = sources.choice(chosen, sources.locate(chosen))
    assert choice.drafters == {"dspark": GOLDEN / "A" / "drafter", "dflash": NOT_CHOSEN} and choice.precision == "bf16"


def test_ones_own_target_needs_no_drafter(sources):
    """For there is one that every target has."""
    chosen = sources.selection(asked(OWN_MODELS, typed=[str(GOLDEN / "A" / "target")]))
    choice = sources.choice(chosen, sources.locate(chosen))
    assert choice.drafters == {"dspark": NOT_CHOSEN, "dflash": NOT_CHOSEN}
    assert [i.id for i in _loaded(choice, sources).infos] == ["lookup"]


def test_a_target_drafts_for_another_one_with_its_vocabulary(sources, tmp_path):
    small = shutil.copytree(GOLDEN / "A" / "target", tmp_path / "small")
    chosen = sources.selection(asked(OWN_MODELS, "stored", typed=[str(GOLDEN / "A" / "target"), str(small)]))
    parts = sources.locate(chosen)
    told = report(chosen, parts, MACHINE)
    assert told["rows"][1][:3] == ["Small-Model", "small", "Small model as drafter: Qwen3 target of 4 layers, f32."]
    assert not [line for line in told["lines"] if line["kind"] == "bad"]
    alone = sources.selection(asked(OWN_MODELS, "stored", typed=[str(GOLDEN / "A" / "target")]))
    both, one = (memory_of(c, sources.locate(c), MACHINE) for c in (chosen, alone))
    assert both.drafters == one.target and both.cache == 3 * one.cache  # a lane more, and the drafter's own
    engine = _loaded(sources.choice(chosen, parts), sources)
    assert next((i.id, i.title, i.name) for i in engine.infos) == ("small-model", "Small model", "small")
    config = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps(config | {"vocab_size": 9000}))
    parts = sources.locate(chosen)
    with pytest.raises(ModelError):
        sources.choice(chosen, parts)
    (small / "config.json").write_text(json.dumps(config | {"model_type": "mamba9"}))
    with pytest.raises(ModelError, match="small cannot be the drafter: "):
        sources.choice(chosen, sources.locate(chosen))


def test_what_the_hub_refuses_is_one_sentence_and_the_rest_comes(sources, fake):
    _, parts = look(sources, asked(drafters=["dspark", "dflash-2"]))
    assert "gated" in parts[2].problem and "hf auth login" in parts[2].problem
    assert len(sources.download(parts)) == 2
    del fake.repos["org/tiny"]
    chosen, parts = look(sources, asked(OWN_MODELS, typed=("org/nothing", "org/dspark")))
    with pytest.raises(ModelError, match="org/nothing"):
        sources.download(parts)
    told = report(chosen, parts, MACHINE)
    assert told["rows"][0][3] == "not here" and sum(line["kind"] == "bad" for line in told["lines"]) == 1


def test_a_base_target_warns_before_and_after(sources):
    chosen, parts = bring(sources, asked(precision="bf16"))
    (hint,) = [line for line in report(chosen, parts, MACHINE)["lines"] if line["kind"] == "hint"]
    assert "org/tiny-base is named as a base model" in hint["words"] and "47 % instead of 82 %" in hint["words"]
    engine = _loaded(sources.choice(chosen, parts), sources)
    assert engine.notice == hint["words"]
    engine.unload()
    assert engine.notice == ""


@pytest.mark.parametrize("forged", [None, 7, [], {"a": 1}, "../../etc/passwd", "<b>", float("nan"), "x" * 10_000])
def test_forged_values_become_what_the_page_could_have_sent(sources, forged):
    names = "precision", "drafters", "drafter_precision", "newest", "context", "folder", "own_target", "own_drafters"
    for name in names:
        if (name, forged) == ("drafters", []):
            continue  # that is a choice: none
        form = replace(asked(), **{name: forged})
        if name == "folder" and isinstance(forged, str):
            with pytest.raises(ModelError):
                sources.selection(form)
            continue
        chosen = sources.selection(form)
        assert [p.name for p in chosen.parts] == ["org/tiny", "org/dspark", "org/dflash"]
        assert chosen.drafter_precision == "auto" and chosen.context in (256, 1024, 4096) and chosen.newest in (0, 7)
    with pytest.raises(ModelError):
        sources.selection(ModelForm(forged, own_target=forged, own_drafters=forged))
    own = ModelForm(own_target="org/tiny", own_drafters=[forged])
    if isinstance(forged, str):
        with pytest.raises(ModelError):
            sources.selection(own)
    else:
        assert [p.name for p in sources.selection(own).parts] == ["org/tiny"]
    chosen = sources.selection(asked())
    json.dumps(report(chosen, sources.locate(chosen), MACHINE))


def test_any_number_of_drafters_two_of_one_method_included(sources, tmp_path):
    """All of a preset's, and one's own a line each; ids follow the order in which they are loaded."""
    chosen = sources.selection(asked(drafters=["dflash-2", "dspark", "dflash"]))
    assert [(p.role, p.name, p.title) for p in chosen.parts[1:]] == [
        ("DSpark", "org/dspark", "block 7"),
        ("DFlash", "org/dflash", "block 16"),
        ("DFlash", "org/gated", "closed"),
    ]
    bring(sources, asked(drafters=["dspark"]))
    choice = sources.choice(chosen, sources.locate(chosen))
    assert list(choice.drafters) == ["dspark", "dflash", "dflash-2"] and choice.drafters["dflash-2"] == NOT_HERE
    assert choice.titles == {"dspark": "block 7", "dflash": "block 16", "dflash-2": "closed"}
    first, second = GOLDEN / "C" / "drafter", shutil.copytree(GOLDEN / "C" / "drafter", tmp_path / "second")
    typed = f"{first}\n\n {first} \n{second}"  # one a line, one of them twice
    own = sources.selection(ModelForm(OWN_MODELS, own_target=str(GOLDEN / "C" / "target"), own_drafters=typed))
    choice = sources.choice(own, sources.locate(own))
    assert choice.drafters == {"dflash": first, "dflash-2": second, "dspark": NOT_CHOSEN}
    engine = _loaded(choice, sources)
    assert [i.id for i in engine.infos] == ["dflash", "dflash-2", "lookup"] and [i.title for i in engine.infos] == [
        "DFlash",
        "DFlash #2",  # DFlash 2 is another method
        "Lookup",
    ]


def test_the_tab_s_handlers_need_no_gradio(sources):
    """What its buttons do, by the names of the controls."""

    class Loading:
        ready, engine = True, None

        def events(self, job, to_the_end):
            yield -1, Loaded("Tiny is loaded.", True)

    tab = ModelsTab(Loading(), sources)
    call = Call("a page", {f.name: getattr(asked(), f.name) for f in fields(ModelForm)})
    revealed = tab.reveal(Call("", {"preset": "tiny"}))
    assert revealed["drafters"]["value"] == ["dspark", "dflash"]
    assert revealed["drafters"]["choices"] == [("block 7", "dspark"), ("block 16", "dflash"), ("closed", "dflash-2")]
    assert revealed["own_target"]["visible"] == "hidden" and tab.reveal(Call("", {"preset": "own"}))["precision"]
    assert "not looked up" in tab.local_report(call)["report"]
    assert "not on this machine" in list(tab.load(call))[-1]["verdict"]
    *_, last = tab.look_up(call)
    assert "To download: " in last["report"]
    *_, last = tab.download(call)
    assert "Press Load" in last["verdict"] and "All of it is on this machine" in last["report"]
    tab.loaded = lambda call: {}
    *_, last = tab.load(call)
    assert "Tiny is loaded." in last["verdict"]
    assert tab.from_link({"preset": "tiny"}) == "tiny" and tab.from_link({"preset": "../x"}) != "../x"
    assert "is not a directory" in tab.list_models(Call("", {"folder": "/nowhere/at/all"}))["found"]
    assert "No download is running" in tab.stop_downloads(Call(""))["verdict"]


# ---- the cards -------------------------------------------------------------------------------------------

SIZED = """
title = "Sized"
token_bytes = 100_000
lane_bytes = 1_000_000
[[target]]
precision = "8-bit"
hub = "org/large"
licence = "Apache-2.0"
bytes = 8_000_000_000
[[target]]
precision = "4-bit"
hub = "org/small"
bytes = 4_000_000_000
assumed = true
[[drafter]]
method = "DSpark"
title = "block 7"
hub = "org/dspark"
licence = "MIT"
bytes = 2_000_000_000
"""


def cards_of(sources, memory=16_000_000_000, load=None):
    """The cards on a machine; `load` gives the engine."""
    engine = load() if load else SimpleNamespace(choice=None)
    engine.machine = Device("Metal", "a Mac", memory)
    worker = Worker(lambda progress: engine)
    while not worker.ready:
        time.sleep(0.01)
    return ModelCards(worker, sources, lambda call: {"head": loaded_words(worker)} if load else {})


def card_of(update, name="tiny") -> dict:
    return next(card for card in json.loads(update["cards"])["cards"] if card["name"] == name)


def pressed(cards, page, name="tiny", **sent) -> dict:
    """The card after its button was pressed and all that came of it."""
    action = card_of(cards.value(page), name)["button"]["action"]
    handler = cards.load if action in ("load", "unload") else cards.fetch
    *_, last = handler(Call("a page", {"page": page}, {"card": name, "action": action, **sent}))
    return card_of(last, name)


def badges(card) -> list[str]:
    return [badge["words"] for badge in card["badges"]]


@pytest.fixture
def sized(sources, tmp_path):
    (tmp_path / "presets" / "sized.toml").write_text(SIZED)
    return ModelSources(*read_presets(tmp_path / "presets"), sources.hub)


def test_a_card_says_without_a_network_what_a_download_brings_and_whether_it_fits(sized, fake):
    """By the preset's sizes: with 0.8 GB for two lanes, 10.8 GB at 8 bits and 6.8 GB at 4."""
    for memory, precision, fits in (
        *((16e9, "8-bit", "fits"), (9e9, "4-bit", "fits")),
        *((7e9, "4-bit", "tight"), (5.9e9, "8-bit", "too large")),
    ):
        card = card_of(cards_of(sized, int(memory)).value(PageCards()), "sized")
        assert (card["version"], badges(card)) == (precision, [fits, "to download"]), memory
    page, cards = PageCards(), cards_of(sized, int(11.3e9))
    sent = {"card": "sized", "precision": "8-bit", "drafters": []}
    card = card_of(cards.choose(Call("", {"page": page}, sent)), "sized")
    assert badges(card)[0] == "fits" and card["button"]["words"] == "Download 8.0 GB"
    card = card_of(cards.choose(Call("", {"page": page}, sent | {"drafters": ["dspark"]})), "sized")
    download = {"action": "download", "words": "Download 10.0 GB", "main": True}
    assert badges(card)[0] == "tight" and card["button"] == download
    assert [v["words"] for v in card["versions"]] == ["8-bit, about 8.0 GB", "4-bit, about 4.0 GB (assumed)"]
    shown = card["target"]["licence"], card["drafters"][0]["licence"], card["drafters"][0]["size"]
    assert shown == ("Apache-2.0", "MIT", "about 2.0 GB") and not fake.requests
    begun = sized.hub.folder("org/large") / "blobs"
    begun.mkdir(parents=True)
    with open(begun / "1.incomplete", "wb") as half:  # of a download before this program was started
        half.truncate(3_000_000_000)
    card = card_of(cards.value(page), "sized")
    assert card["button"]["words"] == "Download 7.0 GB" and card["remove"] == f"rm -r {begun.parent}"
    chosen = sized.selection(ModelForm("sized", "8-bit", ["dspark"], "auto"))
    told = report(chosen, sized.locate(chosen), MACHINE)
    assert told["rows"][0][4] == "about 8.0 GB" and "By the sizes in the presets." in words(told)


def test_a_card_s_button_looks_up_downloads_loads_and_unloads(sources, fake):
    """Without sizes in the preset the hub is asked first, for what is not here alone."""
    start = next(iter(sources.presets.values()))
    cards, page = cards_of(sources, load=lambda: PresetEngine(start, "auto", lambda step: None)), PageCards()
    card = card_of(cards.value(page))
    assert card["button"]["words"] == "Look up size" and badges(card) == ["size not known", "to download"]
    card = pressed(cards, page)
    assert card["button"]["words"].startswith("Download ") and badges(card)[0] == "fits"
    assert set(fake.gets("model.safetensors")) == {"bytes=0-100000"}, "headers only"
    card = pressed(cards, page)
    assert card["button"]["words"] == "Load" and badges(card)[1] == "on disk" and "Downloaded" in card["said"]["words"]
    card = pressed(cards, page)
    assert card["button"]["words"] == "Unload" and badges(card)[1] == "loaded"
    assert "8-bit is loaded" in card["said"]["words"]
    other = card_of(cards.value(PageCards()))  # another page of this program
    assert other["button"]["words"] == "Unload" and [d["on"] for d in other["drafters"]] == [True, True, False]
    folder = sources.hub.folder("org/tiny")
    assert f"org/tiny: {folder} (Hugging Face cache)" in card["places"]
    assert card["remove"].startswith(f"rm -r {folder} ")
    assert "--mode dspark --model org/tiny --drafter org/dspark" in card["command"]
    assert "MB" in loaded_words(cards.worker).splitlines()[0]
    cards.choose(Call("", {"page": page}, {"card": "tiny", "precision": "bf16", "drafters": ["dspark"]}))
    assert [pressed(cards, page)["button"]["action"] for _ in range(2)] == ["download", "load"]
    assert f"Lanes of DFlash will not run: {NOT_WANTED}" in pressed(cards, page)["said"]["words"]
    asked_for, page = len(fake.requests), PageCards()  # unloaded and loaded again, a page stays with what it had
    assert [pressed(cards, page)["version"] for _ in range(2)] == ["bf16", "bf16"]
    assert len(fake.requests) == asked_for


def test_a_card_says_what_the_hub_refuses_and_what_goes_on(sources, fake):
    cards, page = cards_of(sources), PageCards()
    cards.choose(Call("", {"page": page}, {"card": "tiny", "precision": "8-bit", "drafters": ["dspark", "dflash-2"]}))
    assert "org/gated is gated" in pressed(cards, page)["said"]["words"]
    cards.choose(Call("", {"page": page}, {"card": "tiny", "precision": "8-bit", "drafters": ["dspark"]}))
    fake.pace = 0.1
    running = cards.fetch(Call("a page", {"page": page}, {"card": "tiny", "action": "download"}))
    assert "Asking the hub" in card_of(next(running))["busy"]["words"]
    assert card_of(next(running))["button"] == {"action": "cancel", "words": "Cancel download", "main": False}
    seen = cards.show(Call("another", {"page": PageCards()}))
    assert card_of(next(seen))["button"]["action"] == "cancel"
    cards.stop(Call("another", {"page": PageCards()}, {"card": "tiny", "action": "cancel"}))
    *_, last = running
    assert "what has arrived is kept" in card_of(last)["said"]["words"]
    *_, last = seen
    assert card_of(last)["busy"] is None


def test_one_sentence_for_all_that_cannot_be_reached(sources):
    sources.hub.api.endpoint = "http://127.0.0.1:9"
    chosen, parts = look(sources, asked())
    (line,) = [x["words"] for x in report(chosen, parts, MACHINE)["lines"] if x["kind"] == "bad"]
    assert line.startswith("The hub cannot be reached for org/tiny, org/dspark and org/dflash: ")
    card = pressed(cards_of(sources), PageCards())
    assert card["said"]["words"] == line and card["button"]["words"] == "Look up size"


def test_cards_over_a_cache_of_any_state(sources, tmp_path, monkeypatch):
    """A file in a model's place, a directory in a file's, one that may not be read: a sentence at most."""
    sources.hub.cache.mkdir()
    sources.hub.folder("org/tiny").write_text("not a directory")
    (sources.hub.folder("org/dspark") / "snapshots" / ("a" * 40) / "config.json").mkdir(parents=True)
    (sources.hub.folder("org/dspark") / "blobs").write_text("nor this")
    card = card_of(cards_of(sources).value(PageCards()))
    assert badges(card)[1] == "to download" and card["button"]["action"] == "look"
    monkeypatch.setattr("dspark_core.catalog.hub.Hub._snapshots", lambda hub, name: [][hub.missing()])
    monkeypatch.setattr("dspark_core.catalog.hub.Hub.missing", _no_entry, raising=False)
    card = card_of(cards_of(sources).value(PageCards()))
    assert "cannot be read" in card["said"]["words"] and card["said"]["kind"] == "bad"


def _no_entry(hub):
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize("forged", [None, 7, [], {"a": 1}, "../../etc/passwd", [None, {}], "x" * 10_000])
def test_forged_presses_do_nothing_that_a_page_could_not(sources, fake, forged):
    cards, page = cards_of(sources), PageCards()
    for sent in ({"card": forged}, {"card": "tiny", "precision": forged, "drafters": forged}):
        before = card_of(cards.choose(Call("", {"page": page}, sent)))
        assert before["version"] in ("8-bit", "bf16")
    for handler in (cards.fetch, cards.load):
        [*handler(Call("", {"page": page}, {"card": forged, "action": forged}))]
    cards.stop(Call("", {"page": page}, {"card": forged, "action": forged}))
    assert not fake.requests and not page.working


def test_the_command_for_another_engine():
    choice = Choice("A", Path("/a b/target"), {"dflash": Path("/m/d"), "dspark": "why not"}, "auto", "4-bit")
    assert loaded_command(choice, "dflash", 3) == (
        "mlx-dspark generate --mode dflash --model '/a b/target' --drafter /m/d --max-draft 3"
    )
    assert loaded_command(choice, "dspark", 3) == "" == loaded_command(None, "dflash", 3)
