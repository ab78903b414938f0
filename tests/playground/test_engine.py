"""Switching models: what can be checked is checked first, a failure keeps the previous model, memory comes back."""

import gc
import hashlib
import json
import resource
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from dspark_core import store
from dspark_core.catalog.names import HubName
from dspark_core.decode.rounds import Settings
from dspark_core.errors import ModelError
from dspark_core.machine import Device
from dspark_core.models.info import first_of_each
from dspark_core.playground.engine import Choice, Loaded, Loading, PresetEngine, load_job, unload_job
from dspark_core.playground.race_request import offers_of
from dspark_core.playground.stream import loaded_words
from dspark_core.playground.worker import Job, Waiting, Worker, race_job
from dspark_core.presets import Preset, PresetDrafter
from dspark_core.race.records import FULL, PLAIN, Failed, LaneSpec, RaceRecord, RaceRequest

from ..models.build import GOLDEN, copy, edit_weights, random_drafter
from .golden_choices import choice, races


@pytest.fixture
def engine():
    drafter = PresetDrafter("DSpark", GOLDEN / "A" / "drafter")
    return PresetEngine(Preset("a", "A", GOLDEN / "A" / "target", (drafter,)), "auto", lambda step: None)


def test_every_golden_pair_takes_the_place_of_the_last_and_races(engine):
    first = races(engine)
    for name in ("C", "D", "E", "A"):
        old = weakref.ref(engine.models.target)
        steps = []
        assert engine.load(choice(name), steps.append) == Loaded(f"{name} is loaded.", True)
        gc.collect()
        assert old() is None, "the old target is still held"
        assert max(s.done for s in steps) > 100_000 and all(s.done <= s.total for s in steps)
        assert any("reading the target" in s.words for s in steps)
        output = races(engine)
    assert output == first


def test_a_drafter_on_request_is_read_when_a_lane_names_it(tmp_path, monkeypatch):
    monkeypatch.setattr("dspark_core.store.cache_directory", lambda: tmp_path)
    drafters = PresetDrafter("DSpark", GOLDEN / "A" / "drafter"), PresetDrafter("DFlash", GOLDEN / "C" / "drafter")
    drafters += (replace(drafters[1], title="More", on_request=True),)
    start = Preset("a", "A", GOLDEN / "A" / "target", drafters)
    engine = PresetEngine(start, "auto", lambda step: None)
    infos = offers_of(engine).infos
    assert [i.id for i in infos if not i.everywhere] == ["dspark", "dflash", "dflash-2"] and infos[-1].title == "More"
    assert first_of_each(infos) == ["dspark", "dflash"] and "dflash-2" not in engine.models.loaded
    while engine.prepare():
        assert "dflash-2" not in engine.models.loaded, "nobody asked for it"
    before, usual, worker = engine.models.known_curve(), races(engine), SimpleNamespace(engine=engine)
    words = loaded_words(worker)
    assert words.startswith("Target: ") and "More: " not in words and "Lookup: block" in words, words
    assert "dflash-2" not in engine.models.loaded

    engine.models.target.encode_chat = lambda messages: list(range(1, 12))
    lanes = LaneSpec(PLAIN), LaneSpec("DSpark", FULL, 7), LaneSpec("DFlash", FULL, 7, drafter="dflash-2")
    request = RaceRequest("x", lanes, Settings(max_tokens=12, stop_ids=frozenset()))
    events = [event for _, event in engine.race(request, lambda: False)]
    assert events[0] == Waiting("Loading More …")
    record = next(event for event in events if isinstance(event, RaceRecord))
    assert record.verdict.kind == "identical" and "dflash-2" in record.source.drafters
    assert engine.models.usable_curve("dspark") is before and engine.models.usable_curve("dflash-2").borrowed
    assert first_of_each(offers_of(engine).infos) == ["dspark", "dflash"] and races(engine) == usual
    assert engine.prepare(), "its costs are still to be measured"
    assert [line.partition(":")[0] for line in loaded_words(worker).splitlines()[1:]] == [
        *(info.title for info in engine.infos)
    ], "the head names it"
    assert "More: drafter, block" in loaded_words(worker) and " MB" in loaded_words(worker).splitlines()[-1]


def test_what_is_got_ready_goes_with_its_model(engine, tmp_path, monkeypatch):
    """A switch in the middle of it: the new model is got ready from the start, and nothing holds the old one."""
    monkeypatch.setattr("dspark_core.store.cache_directory", lambda: tmp_path)
    monkeypatch.setattr("dspark_core.decode.measure.FULL_S", 0.1)
    for _ in range(40):
        assert engine.prepare()
    assert engine.models.measuring
    old = weakref.ref(engine.models.target)
    engine.load(choice("C"))
    gc.collect()
    assert old() is None, "the old target is still held"
    while engine.prepare():
        pass
    assert engine.models.known_curve().knows("dflash") and engine.prepare() == ""
    engine.unload()
    assert engine.prepare() == ""


def test_what_does_not_fit_is_refused_before_anything_is_unloaded(engine, tmp_path):
    before, target = races(engine), engine.models.target
    broken = copy("target", "A", tmp_path)
    edit_weights(broken, lambda w: w.pop("model.layers.2.mlp.up_proj.weight"))
    refused = {
        "hidden_size is 48": choice("A", drafters={"dspark": GOLDEN / "E" / "drafter"}),
        "does not exist": choice("A", target=tmp_path / "nowhere"),
        "model.layers.2.mlp.up_proj.weight": choice("A", target=broken),
        "Unknown precision": choice("A", precision="3-bit"),
    }
    for words, wrong in refused.items():
        with pytest.raises(ModelError) as e:
            engine.load(wrong)
        assert words in str(e.value) and str(e.value).endswith(" A stays loaded.")
        assert engine.models.target is target
    assert races(engine) == before


def test_weights_that_this_machine_cannot_hold(engine):
    engine.machine = Device("Metal", "a small Mac", 500_000)
    with pytest.raises(
        ModelError, match=r"take 1 MB, more than the 0 MB that a small Mac has for them\. A stays loaded"
    ):
        engine.load(choice("C"))


def test_a_load_that_fails_on_the_way_brings_the_previous_model_back(engine, tmp_path):
    before = races(engine)
    spoiled = copy("target", "A", tmp_path)
    edit_weights(spoiled, lambda w: w.update({"model.norm.weight": mx.full((64,), float("nan"))}))
    with pytest.raises(ModelError, match=r"not finite.*\. A is loaded again\.$"):
        engine.load(choice("A", title="Spoiled", target=spoiled))
    assert engine.choice.title == "A" and races(engine) == before


def test_cancel_while_checking_and_while_reading(engine):
    before = races(engine)
    for word, after in (("checking", "A stays loaded."), ("reading the target", "A is loaded again.")):
        seen = []

        def cancelled(seen=seen, word=word):
            return any(word in step.words for step in seen)

        assert engine.load(choice("C"), seen.append, cancelled) == Loaded(f"Stopped. {after}", False)
        assert races(engine) == before


def test_when_the_previous_model_is_gone_too_nothing_is_loaded(engine, tmp_path):
    mine = copy("target", "A", tmp_path / "mine")
    engine.load(choice("A", target=mine))
    spoiled = copy("target", "A", tmp_path)
    edit_weights(spoiled, lambda w: w.update({"model.norm.weight": mx.full((64,), float("nan"))}))
    (mine / "config.json").unlink()
    with pytest.raises(ModelError, match="cannot be loaded again either, so no model is loaded"):
        engine.load(choice("A", target=spoiled))
    with pytest.raises(ModelError, match="No model is loaded"):
        engine.race(None, lambda: False)
    engine.load(choice("C"))
    races(engine)


def test_a_missing_drafter_leaves_its_reason(engine):
    engine.load(choice("A", drafters={"dspark": GOLDEN / "A" / "drafter", "dflash": "it is not on this machine."}))
    assert engine.drafters["DFlash"] == "it is not on this machine."
    with pytest.raises(AssertionError, match="is not running: it is not on this machine"):
        races(engine)


def test_through_the_worker(tmp_path):
    drafter = PresetDrafter("DSpark", GOLDEN / "A" / "drafter")
    preset = Preset("a", "A", GOLDEN / "A" / "target", (drafter,))
    worker = Worker(lambda progress: PresetEngine(preset, "auto", progress))

    def run(job: Job) -> list:
        return [(lane, event) for lane, event in worker.events(job) if not isinstance(event, Waiting)]

    events = run(load_job(choice("C"), "a page"))
    assert events[-1] == (-1, Loaded("C is loaded.", True))
    assert all(isinstance(step, Loading) for _, step in events[:-1]) and len(events) > 3
    wrong = choice("A", drafters={"dspark": GOLDEN / "E" / "drafter"})
    (*_, (_, failed)) = run(load_job(wrong, "a page"))
    assert isinstance(failed, Failed) and failed.message.endswith("C stays loaded.")
    run(unload_job("a page"))
    assert worker.engine.name == ""
    ((_, failed),) = run(race_job("a page", RaceRequest("hi", (LaneSpec(PLAIN),), Settings())))
    assert failed.message == "No model is loaded: choose one first."


def test_a_model_from_the_hub_is_checked_before_its_first_use(engine, tmp_path, monkeypatch):
    """A snapshot of the Hugging Face cache whose weights were changed after the download."""
    monkeypatch.setattr(store, "cache_directory", lambda: tmp_path / "store")
    repo = tmp_path / "models--org--tiny"
    snapshot = repo / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    for file in (GOLDEN / "C" / "target").iterdir():
        blob = repo / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        blob.write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(blob)
    steps = []
    engine.load(choice("C", target=snapshot), steps.append)
    assert any(step.words.startswith("Checking ") and step.done == step.total for step in steps)
    engine.load(choice("A"))
    blob = (snapshot / "model.safetensors").resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelError, match=r"does not have the checksum .* A stays loaded\."):
        engine.load(choice("C", target=snapshot))
    races(engine)


def test_the_app_starts_without_a_network_and_runs_no_code_of_a_model(tmp_path):
    """The embedded preset, its tokenizer_config asking for code of its own, in an interpreter without sockets."""
    script = """
import json, shutil, socket, sys
from pathlib import Path
def no(*a, **k): raise AssertionError("a connection was tried")
socket.socket.connect = socket.getaddrinfo = no
from dspark_core.models.text import Text
from dspark_core.playground.engine import PresetEngine
from dspark_core.presets import load_presets
preset, here = load_presets()[0], Path(sys.argv[1])
for file in preset.target.iterdir():
    if file.suffix != ".safetensors":
        shutil.copy(file, here)
config = json.loads((here / "tokenizer_config.json").read_text())
config |= {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, "vocab_file": "/etc/passwd"}
(here / "tokenizer_config.json").write_text(json.dumps(config))
(here / "evil.py").write_text("open(" + repr(str(here / "ran")) + ", 'w')")
own, theirs = Text(preset.target, 2), Text(here, 2)
assert own.encode("Hello there") == theirs.encode("Hello there") and not (here / "ran").exists()
engine = PresetEngine(preset, "auto", lambda step: None)
print(engine.name, len(engine.models.target.encode_chat([{"role": "user", "content": "Hi"}])) > 5)
"""
    run = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, timeout=300)
    assert run.stdout.strip() == "smollm2-135m-instruct True", run.stderr[-2000:]


# ---- memory ----------------------------------------------------------------------------------------------


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def a_model(path: Path, layers: int) -> Choice:
    """A random Qwen3 of some 25 MB with a drafter, as a choice."""
    from mlx_lm.models.qwen3 import Model, ModelArgs

    shape = {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64}
    config = shape | {"model_type": "qwen3", "num_hidden_layers": layers, "intermediate_size": 768, "vocab_size": 8192}
    config |= {"rms_norm_eps": 1e-6, "max_position_embeddings": 2048, "rope_theta": 1e6, "tie_word_embeddings": True}
    model = Model(ModelArgs.from_dict(config))
    model.set_dtype(mx.bfloat16)
    if layers % 2:
        nn.quantize(model, 64, 8)
        config["quantization"] = {"group_size": 64, "bits": 8}
    (path / "target").mkdir(parents=True)
    (path / "target" / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(path / "target" / "model.safetensors"), dict(tree_flatten(model.parameters())))
    drafter = {"architectures": ["Qwen3DSparkModel"], "num_hidden_layers": 2, "num_target_layers": layers}
    drafter |= {"block_size": 7, "mask_token_id": 8191, "target_layer_ids": [1, 3], "markov_rank": 64}
    random_drafter(path / "drafter", config | {"quantization": None} | drafter)
    return Choice(path.name, path / "target", {"dspark": path / "drafter"})


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_switching_a_dozen_times_leaks_nothing(engine, tmp_path):
    models = [a_model(tmp_path / f"m{n}", n) for n in (6, 7)]
    memory, active = [], []
    for i in range(12):
        engine.load(models[i % 2])
        if i in (0, 1, 5, 10):
            races(engine)
        gc.collect()
        memory.append(resident())
        active.append(mx.get_active_memory())
    assert max(active[2::2]) - min(active[2::2]) < 1000 > max(active[3::2]) - min(active[3::2]), active
    pairs = [max(memory[i : i + 2]) for i in range(0, 12, 2)]
    growth = pairs[-1] / pairs[0] - 1
    assert abs(growth) <= 0.05, [m // 1_000_000 for m in memory]
    assert active[0] > 20_000_000, "a leak of one model would be seen"


def test_a_start_preset_whose_drafter_is_on_the_hub_races_without_it():
    """The target is here: it is loaded, and the lane of the drafter that is not says what to do."""
    drafters = PresetDrafter("DSpark", GOLDEN / "A" / "drafter"), PresetDrafter("DFlash", HubName("org/dflash"))
    engine = PresetEngine(Preset("a", "A", GOLDEN / "A" / "target", drafters), "auto", lambda step: None)
    assert not engine.problem and engine.name
    assert engine.drafters["DFlash"] == "org/dflash is to be downloaded first: see the Models tab."
    engine.models.target.encode_chat = lambda messages: list(range(1, 12))
    lanes = LaneSpec(PLAIN), LaneSpec("DSpark"), LaneSpec("DFlash")
    events = list(engine.race(RaceRequest("hi", lanes, Settings(8, stop_ids=frozenset())), lambda: False))
    plain, dspark, dflash = events[0][1].lanes
    assert plain.output == dspark.output and "DFlash is not running: org/dflash is to be down" in dflash.error
    only = PresetEngine(Preset("a", "A", GOLDEN / "A" / "target", drafters[1:]), "auto", lambda step: None)
    assert not only.problem and list(only.drafters) == ["DFlash", "Lookup"]
