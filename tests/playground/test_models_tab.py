"""What the Models tab stands on: choosing, looking here and at the hub, downloading, and what the engine is given."""

import json
import shutil
import time
from pathlib import Path

import pytest

from dspark_core.catalog import local
from dspark_core.catalog.hub import Hub
from dspark_core.decode.rounds import Settings
from dspark_core.errors import ModelError
from dspark_core.machine import Device
from dspark_core.playground.engine import Loaded, PresetEngine
from dspark_core.playground.selection import LEFT_OUT, NONE, NOT_HERE, OWN, UNKNOWN, Shelf, listing, report
from dspark_core.playground.stream import loaded_words
from dspark_core.playground.worker import Job, Worker
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
def shelf(fake, tmp_path):
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "tiny.toml").write_text(PRESET)
    (tmp_path / "presets" / "bad.toml").write_text(PRESET + "colour = 1")
    with serving(fake) as url:
        hub = Hub(url, tmp_path / "hub", None, tmp_path / "record.json", tmp_path / "lm")
        yield Shelf(*read_presets(tmp_path / "presets"), hub)


def asked(name="tiny", precision="8-bit", dspark="block 7", dflash="block 16", drafters="auto", own="", typed=()):
    return [name, precision, dspark, dflash, drafters, 1024, own, *typed, *[""] * (3 - len(typed))]


def look(shelf, *values):
    """Everything that is known, with the hub's word."""
    chosen = shelf.selection(*values)
    return chosen, shelf.asked(shelf.here(chosen))


def words(told: dict) -> str:
    return "\n".join(line["words"] for line in told["lines"])


def bring(shelf, *values):
    """Download what was chosen; returns selection and spots as they are afterwards."""
    chosen, spots = look(shelf, *values)
    for download in shelf.start(spots):
        assert download.wait(20) and download.state == "done", download.words
    return chosen, shelf.here(chosen)


def test_the_hub_is_asked_only_when_the_visitor_asks(shelf, fake):
    chosen = shelf.selection(*asked())
    told = report(chosen, shelf.here(chosen), MACHINE)
    assert [row[0] for row in told["rows"]] == ["target", "DSpark", "DFlash"]
    assert all(row[3:] == ["not here", "not looked up"] for row in told["rows"]) and not fake.requests
    chosen, spots = look(shelf, *asked())
    told = report(chosen, spots, MACHINE)
    assert spots[0].plan.missing == sum(len(d) for d in fake.repos["org/tiny"].files.values())
    assert "of the 16.0 GB that a small Mac has for it: it fits." in words(told) and "To download: " in words(told)
    assert "llama target" in told["rows"][0][2].lower() or "qwen3 target" in told["rows"][0][2].lower()
    assert set(fake.gets("model.safetensors")) == {"bytes=0-100000"}, "headers only"
    small = report(chosen, spots, Device("Metal", "a tiny Mac", 1_000_000))
    assert "does not fit" in words(small)


def test_what_is_here_is_found_in_the_cache_in_lm_studio_and_in_a_directory(shelf, tmp_path):
    bring(shelf, *asked(dflash=NONE, dspark=NONE))
    shutil.copytree(GOLDEN / "A" / "drafter", tmp_path / "lm" / "org" / "dspark")
    shutil.copytree(GOLDEN / "C" / "drafter", tmp_path / "mine" / "dflash")
    chosen = shelf.selection(*asked(own=str(tmp_path / "mine")))
    spots = shelf.here(chosen)
    assert [s.source for s in spots] == [local.HF, local.LM_STUDIO, local.DIRECTORY]
    assert "All of it is on this machine." in words(report(chosen, spots, MACHINE))
    found = shelf.on_this_machine(tmp_path / "mine")
    rows = listing(found)
    assert [row[0] for row in rows["rows"]] == ["org/tiny", "dflash", "org/dspark"]
    assert rows["lines"] == [] and len(shelf.bad) == 1 and "colour" in shelf.bad[0]


def test_two_pages_share_a_download_and_the_engine_takes_what_arrived(shelf, fake):
    chosen, spots = look(shelf, *asked())
    _, again = look(shelf, *asked())  # another page
    fake.pace = 0.1
    first, second = shelf.start(spots), shelf.start(again)
    assert all(a is b for a, b in zip(first, second, strict=True)) and len(first) == 3
    assert all(d.wait(20) and d.state == "done" for d in first)
    engine = PresetEngine(next(iter(shelf.presets.values())), "auto", lambda step: None)
    assert "org/tiny is to be downloaded first" in engine.problem and engine.name == ""
    choice = shelf.choice(chosen, shelf.here(chosen))
    assert engine.load(choice) == Loaded("Tiny, 8-bit is loaded.", True)
    assert engine.name == "org/tiny" and engine.drafters["DFlash"].startswith("org/dflash, block ")
    assert engine.load(choice) == Loaded("Tiny, 8-bit is loaded already.", False)


def test_a_drafter_that_is_not_here_leaves_its_reason_in_its_lane(shelf):
    bring(shelf, *asked(dflash=NONE))
    chosen = shelf.selection(*asked())
    choice = shelf.choice(chosen, shelf.here(chosen))
    assert choice.drafters["DFlash"] == NOT_HERE
    left_out = shelf.selection(*asked(dflash=NONE))
    assert shelf.choice(left_out, shelf.here(left_out)).drafters["DFlash"] == LEFT_OUT
    worker = Worker(lambda progress: _loaded(choice, shelf))
    while not worker.ready:
        time.sleep(0.01)
    assert f"DFlash: {NOT_HERE}" in loaded_words(worker)
    worker.engine.models.target.encode_chat = lambda messages: list(range(1, 12))  # golden targets have no tokenizer
    lanes = LaneSpec(PLAIN), LaneSpec("DSpark"), LaneSpec("DFlash")
    job = Job(RaceRequest("hi", lanes, Settings(max_tokens=4, stop_ids=frozenset())), "a page")
    worker.submit(job)
    ended = {lane: event for lane, event in iter(lambda: job.events.get(timeout=20), None)}
    assert ended[2].message == f"DFlash is not running: {NOT_HERE}"
    assert ended[0].finish == ended[1].finish == "length"


def _loaded(choice, shelf):
    engine = PresetEngine(next(iter(shelf.presets.values())), "auto", lambda step: None)
    engine.load(choice)
    return engine


def test_a_pair_that_does_not_fit_is_told_before_a_byte_of_weights_comes(shelf, fake):
    chosen, spots = look(shelf, *asked(OWN, typed=("org/tiny", "org/wrong")))
    (line,) = [x["words"] for x in report(chosen, spots, MACHINE)["lines"] if x["kind"] == "bad"]
    assert "hidden_size is 48" in line and line.count(". ") == 0
    before = fake.sent
    with pytest.raises(ModelError, match="hidden_size is 48"):
        shelf.start(spots)
    assert fake.sent == before and not [*shelf.downloads]


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ((), "Type a hub name"),
        (("org/tiny",), "Name at least one drafter"),
        (("/nowhere/at/all", "org/dspark"), "is not a directory on this machine"),
        (("../x/y", "org/dspark"), "is not a directory on this machine"),
        (("org/tiny/../../etc", "org/dspark"), "is not a hub name"),
        ((GOLDEN / "A" / "target", GOLDEN / "A" / "target"), "cannot be the drafter: "),
        ((GOLDEN / "A" / "target", GOLDEN / "C" / "drafter", GOLDEN / "D" / "drafter"), "Both drafters are DFlash"),
        ((GOLDEN / "A" / "target", "org/dspark"), "org/dspark is not on this machine: download it first."),
        (("org/tiny", GOLDEN / "A" / "drafter"), "org/tiny is not on this machine: download it first."),
    ],
)
def test_ones_own_models_are_refused_in_a_sentence(shelf, fake, typed, sentence):
    with pytest.raises(ModelError) as refusal:
        chosen = shelf.selection(*asked(OWN, typed=[str(t) for t in typed]))
        shelf.choice(chosen, shelf.here(chosen))
    assert sentence in str(refusal.value) and "\n" not in str(refusal.value) and not fake.requests


def test_ones_own_pair_is_loaded_from_directories(shelf):
    typed = [str(GOLDEN / "A" / "target"), str(GOLDEN / "A" / "drafter")]
    chosen = shelf.selection(*asked(OWN, precision="bf16", typed=typed))
    choice = shelf.choice(chosen, shelf.here(chosen))
    assert choice.drafters == {"DSpark": GOLDEN / "A" / "drafter", "DFlash": UNKNOWN} and choice.precision == "bf16"


def test_what_the_hub_refuses_is_one_sentence_and_the_rest_comes(shelf, fake):
    _, spots = look(shelf, *asked(dflash="closed"))
    assert "gated" in spots[2].problem and "hf auth login" in spots[2].problem
    assert len(shelf.start(spots)) == 2
    del fake.repos["org/tiny"]
    chosen, spots = look(shelf, *asked(OWN, typed=("org/nothing", "org/dspark")))
    with pytest.raises(ModelError, match="org/nothing"):
        shelf.start(spots)
    told = report(chosen, spots, MACHINE)
    assert told["rows"][0][3] == "not here" and sum(line["kind"] == "bad" for line in told["lines"]) == 1


def test_a_base_target_warns_before_and_after(shelf):
    chosen, spots = bring(shelf, *asked(precision="bf16"))
    (hint,) = [line for line in report(chosen, spots, MACHINE)["lines"] if line["kind"] == "hint"]
    assert "org/tiny-base is named as a base model" in hint["words"] and "47 % instead of 82 %" in hint["words"]
    engine = _loaded(shelf.choice(chosen, spots), shelf)
    assert engine.notice == hint["words"]
    engine.unload()
    assert engine.notice == ""


@pytest.mark.parametrize("forged", [None, 7, [], {"a": 1}, "../../etc/passwd", "<b>", float("nan"), "x" * 10_000])
def test_forged_values_become_what_the_page_could_have_sent(shelf, forged):
    for place in range(1, 6):
        values = asked()
        values[place] = forged
        chosen = shelf.selection(*values)
        assert [p.name for p in chosen.parts] == ["org/tiny", "org/dspark", "org/dflash"]
        assert chosen.drafter_precision == "auto" and chosen.context in (256, 1024, 4096)
    with pytest.raises(ModelError):
        shelf.selection(*asked(forged, typed=[forged, forged, forged]))
    json.dumps(report(shelf.selection(*asked()), shelf.here(shelf.selection(*asked())), MACHINE))
