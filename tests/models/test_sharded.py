"""Targets on two machines: the same numbers as on one, and what happens when a rank is lost."""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import islice
from unittest.mock import patch

import mlx.core as mx
import pytest
from mlx._distributed_utils import launch

from dspark_core.decode.plain import plain
from dspark_core.decode.rounds import Round, Settings, Start
from dspark_core.decode.schedule import FullBlock
from dspark_core.decode.speculative import Options, speculative
from dspark_core.decode.strict import measure_noise
from dspark_core.errors import ModelError, RankLost
from dspark_core.models.cache import copy_cache, trim
from dspark_core.models.checkpoint import load_drafter
from dspark_core.models.cpu_streams import Spread, install, layers_of
from dspark_core.models.group import Group
from dspark_core.models.ranks import Beats, Rank
from dspark_core.models.shard_process import Shard
from dspark_core.models.sharded import load_spread
from dspark_core.models.shards import mlx_lm_splits
from dspark_core.models.target import load_target
from dspark_core.models.targets import families, mlx_name
from dspark_core.playground.engine import PresetEngine
from dspark_core.presets import Preset, PresetDrafter
from dspark_core.proof.agreement import agreement
from dspark_core.proof.evidence import AgreementRequest, DrawRequest, Step
from dspark_core.proof.prove import prove
from dspark_core.race.answer import AnswerRequest, Piece
from dspark_core.race.completion import complete
from dspark_core.race.loaded import Models
from dspark_core.race.records import FULL, PLAIN, LaneSpec
from tests.conftest import GOLDEN, as_here
from tests.playground.golden_choices import choice, races

from .build import talking_target
from .families import saved
from .rank_group import ranks

PRESET = Preset("a", "A", GOLDEN / "A" / "target", (PresetDrafter("DSpark", GOLDEN / "A" / "drafter"),))
LENGTHS = [40, pytest.param(300, marks=pytest.mark.sweep)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    with ranks(2, tmp_path_factory.mktemp("ranks")) as pair:
        yield pair


def logits_of(target, ids, cache):
    hidden, features = target.forward(ids, cache, (0, 2))
    return target.head(hidden), features


def tokens(events):
    out = []
    for event in events:
        out += [event.token_id] if isinstance(event, Start) else event.committed if isinstance(event, Round) else []
    return out


def check_numbers(alone, spread):
    """Logits and taps are those of one process: after a rollback, and in a copy of the cache."""
    ids = mx.arange(3, 60) % alone.vocab_size
    a, b = alone.new_cache(), spread.new_cache()
    for first, last, drop in ((0, 40, 3), (37, 45, 2), (43, 44, 0), (44, 57, 0)):
        (x, f), (y, g) = logits_of(alone, ids[first:last], a), logits_of(spread, ids[first:last], b)
        assert mx.abs(x - y).max().item() < 1e-4 and mx.abs(f - g).max().item() < 1e-4
        trim(a, drop)
        trim(b, drop)
    a, b, twin = copy_cache(a), copy_cache(b), b
    assert mx.abs(logits_of(alone, ids[:5], a)[0] - logits_of(spread, ids[:5], b)[0]).max().item() < 1e-4
    assert twin[0].offset == 57 and b[0].offset == 62


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", ["A", "C", "D"])
def test_two_machines_decode_as_one(pair, name, length, monkeypatch):
    place = GOLDEN / name / "target"
    alone, spread = load_target(place), load_spread(place)
    assert spread.precision == f"{alone.precision}, on 2 machines" and not spread.no_rollback
    check_numbers(alone, spread)
    monkeypatch.setattr("dspark_core.models.cpu_streams.LEAST_BYTES", 0)
    ids, (ends,) = mx.arange(9), layers_of([spread.model])  # what is computed here
    one = logits_of(spread, ids, spread.new_cache())[0]
    install([ends], Spread(2, 1))
    assert mx.array_equal(logits_of(spread, ids, spread.new_cache())[0], one).item()
    prompt, settings = [5, 6, 7, 8], Settings(length, stop_ids=frozenset())
    expected = tokens(plain(spread, prompt, settings))
    assert len(expected) == length and expected == tokens(plain(alone, prompt, settings))
    drafter = load_drafter(GOLDEN / name / "drafter", spread)
    assert tokens(speculative(spread, drafter, prompt, settings, FullBlock())) == expected


def outcome(models, lanes, turns):
    """What every lane answers to a conversation of some turns, strictly or not; and how much of the last prompt needed
    no prefill."""
    found, cached = [], []
    for method in lanes:
        talk = []
        for turn in turns:
            talk.append({"role": "user", "content": turn})
            lane = LaneSpec(method) if method == PLAIN else LaneSpec(method, FULL)
            request = AnswerRequest(tuple(talk), lane, Settings(12, stop_ids=frozenset()), thinking=len(talk) > 2)
            events = list(complete(models, request))
            found.append(events[-1].lane.output)
            talk.append({"role": "assistant", "content": "".join(e.text for e in events if isinstance(e, Piece))})
        cached.append(events[0].cached)
    return found, cached


def test_what_is_done_with_a_target_is_done_on_two_machines(pair, tmp_path, monkeypatch):
    """Answers that go on from each other, strict rounds, closed connections, drafting without a head, the proof of
    draws and that of choices, what steps cost: on the ranks as here."""
    monkeypatch.setattr("dspark_core.store.cache_directory", lambda: tmp_path / "store")
    place = talking_target(tmp_path / "talking")
    made = []
    for target in (load_target(place), load_spread(place)):
        drafters = {id_: load_drafter(GOLDEN / d / "drafter", target) for id_, d in (("dspark", "A"), ("dflash", "C"))}
        drafters["lookup"] = load_drafter(None, target, method="Lookup")
        drafters["small-model"] = load_drafter(place, target, method="Small-Model")
        made.append(Models(target, drafters))
    alone, spread = made
    lanes = PLAIN, "DSpark", "DFlash", "Lookup", "Small-Model"
    answers, cached = outcome(spread, lanes, ("Hello, hello.", "And now?"))
    assert (answers, cached) == outcome(alone, lanes, ("Hello, hello.", "And now?"))
    assert min(cached) > 16 and answers[::2] == answers[:1] * 5 and answers[1::2] == answers[1:2] * 5

    asked = AnswerRequest("Hello", LaneSpec("DSpark", FULL), Settings(64, stop_ids=frozenset()))
    seen = []
    assert list(complete(spread, asked, lambda: bool(seen) or seen.append(1)))[-1].lane.finish != "length"

    noise = measure_noise(spread.target)
    assert noise.largest == 0 == noise.own  # each row's sum is added up in the same order, whatever the width
    prompt, settings = spread.target.encode_text("Hello"), Settings(24, stop_ids=frozenset())
    strict = list(
        speculative(spread.target, spread.drafters["dspark"], prompt, settings, FullBlock(), Options(strict=9.0))
    )
    assert tokens(strict) == tokens(plain(alone.target, prompt, settings))
    assert any(event.again for event in strict if isinstance(event, Round))

    draws = DrawRequest("", "dspark", Settings(4, 1.0, seed=1), n=100)
    evidence = [list(prove(m.target, m.drafters["dspark"], prompt, draws))[-1][1] for m in made]
    assert evidence[1].repeated and evidence[1].same == evidence[1].repeated and not evidence[1].flagged
    assert evidence[0].anchor == evidence[1].anchor
    agreed = [e for _, e in agreement(spread, AgreementRequest(("Hello",), 8)) if not isinstance(e, Step)]
    assert [a.kind for a in agreed] == ["identical"]

    *_, curve = spread.measure_curve(quick=True)
    assert "on 2 machines" in curve.made_of["precision"] and curve.knows("dspark") and curve.knows("dflash")
    assert spread.known_curve() is not None and alone.known_curve() is None


OTHERS = ("ministral3 wrapped", "qwen2", "qwen3_moe", "qwen3_5_moe")


@pytest.mark.parametrize("name", ["qwen3_5", "mistral", *(pytest.param(n, marks=pytest.mark.sweep) for n in OTHERS)])
def test_every_family_that_mlx_lm_splits_on_two_machines(pair, name, tmp_path):
    """A recurrent one, one with windows whose model mlx-lm has under another's name, one in a wrapper, experts."""
    pytest.importorskip("torch")
    place = saved(name, tmp_path / "model")
    check_numbers(load_target(place), load_spread(place))


def test_what_can_be_split_is_what_mlx_lm_has_a_way_to_split():
    """Of every family, held against the models of mlx-lm themselves."""
    for family in families():
        model = importlib.import_module(f"mlx_lm.models.{mlx_name(family)}").Model
        assert mlx_lm_splits(mlx_name(family)) == hasattr(model, "shard"), family.TITLE


def test_what_cannot_be_split_is_refused_with_what_can(pair, tmp_path):
    pytest.importorskip("torch")
    with pytest.raises(
        ModelError, match=r"family LFM2, which mlx-lm cannot split .* of Llama, Mistral, Ministral 3, .* or "
    ):
        load_spread(saved("lfm2", tmp_path / "other"))
    odd = saved("qwen2", tmp_path / "odd", num_attention_heads=9, num_key_value_heads=3, hidden_size=36)
    with pytest.raises(ModelError, match=r"9 query and 3 key/value heads cannot be: it runs on 1 or 3.$"):
        load_spread(odd)
    groups = saved("qwen2", tmp_path / "groups", hidden_size=64, intermediate_size=192)
    with pytest.raises(ModelError, match=r"^groups in 4-bit .* cannot be split over 2 machines .*: load it in bf16."):
        load_spread(groups, "4-bit")


def test_other_files_on_a_machine_are_refused(pair, tmp_path, monkeypatch):
    _, followers = pair
    mine, theirs = tmp_path / "model", followers.homes / "1" / "model"
    shutil.copytree(GOLDEN / "A" / "target", mine)
    monkeypatch.setattr("dspark_core.models.sharded.places_of", lambda place: [["home", "model"], ["", str(place)]])
    assert load_spread(mine).machines == 2  # rank 1 finds them at the same path
    shutil.copytree(mine, theirs)
    data = bytearray((theirs / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (theirs / "model.safetensors").write_bytes(data)
    with pytest.raises(ModelError, match=r"^Rank 1 \(.*\) has other files of this model: copy the directory of rank 0"):
        load_spread(mine)
    shutil.rmtree(theirs)
    monkeypatch.setattr("dspark_core.models.sharded.places_of", lambda place: [["home", "none"]])
    with pytest.raises(ModelError, match=r"none is not on this machine: copy it there, or download the model.$"):
        load_spread(mine)
    monkeypatch.undo()
    assert load_spread(GOLDEN / "A" / "target").machines == 2


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.sweep)])
def test_a_lost_rank_ends_a_decode_and_comes_back(pair, number):
    """As the page has it: one model after the other is loaded on the ranks, and the last one again once it is lost."""
    group, followers = pair
    engine, lost = PresetEngine(PRESET, "auto", lambda words: None), []
    outputs = races(engine)
    assert engine.load(choice("C")).changed and races(engine) and engine.load(choice("A")).changed
    assert races(engine) == outputs and not engine.lost and engine.precision.endswith("on 2 machines")
    assert not engine.splits, "it is on several already"
    spread = engine.models.target
    group.lost = lost.append
    events = plain(spread, [5, 6, 7], Settings(200, stop_ids=frozenset()))
    assert len(tokens(islice(events, 8))) > 4
    os.kill(followers.rank_process(1), number)
    began = time.monotonic()
    with pytest.raises(RankLost, match=r"^Rank 1 \(.*\) has ended, or has not answered .* is lost: load it again"):
        tokens(events)
    assert time.monotonic() - began < as_here(10)
    with pytest.raises(RankLost):
        spread.new_cache()[0].target.forward(mx.array([1]), spread.new_cache())
    assert engine.lost and engine.load(choice("A")).changed and not engine.lost
    assert len(lost) == 1 and races(engine) == outputs
    check_numbers(load_target(GOLDEN / "A" / "target"), engine.models.target)
    engine.unload()
    assert group.formed.is_set()


@pytest.mark.parametrize(
    ("name", "theirs", "words"),
    [
        ("mlx-lm", "0.1", "Rank 1 .mac. has mlx-lm 0.1, rank 0 has 0.2: install the same on both."),
        ("mlx", "", "Rank 1 .mac. has mlx in no version, rank 0 has 0.2: install the same on both."),
        ("this program", "0.1", "Rank 1 .mac. has another version of this program: bring all machines to the same"),
        ("precision", "bf16", "Rank 1 .mac. runs this model in bf16, rank 0 in 0.2: choose a precision"),
    ],
)
def test_other_versions_on_a_machine_are_refused(name, theirs, words):
    shard = Shard.__new__(Shard)
    shard.parts, shard.hosts = {7: None}, ["first", "mac"]
    prints = {"mlx": "0.2", "mlx-lm": "0.2", "this program": "0.2", "weights": "0.2", "precision": "0.2"}
    shard.together = lambda steps: [prints, prints | {name: theirs}]
    with pytest.raises(ModelError, match=words):
        shard.open(7, [], "auto")
    assert not shard.parts
    shard.parts, shard.together = {7: None}, lambda steps: [prints, prints]
    assert shard.open(7, [], "auto") == "0.2"


WAITING = """
import ctypes, os
from dspark_core.models.ranks import Beats
with Beats(None, {parent}).waiting(0.5):
    ctypes.PyDLL(None).sleep(600)  # which lets no other thread run
"""


@pytest.mark.parametrize(("parent", "status"), [("os.getppid()", -signal.SIGALRM), ("1 + os.getppid()", Beats.LOST)])
def test_who_waits_for_ranks_that_do_not_come_ends_and_at_once_where_its_parent_is_gone(parent, status):
    run = [sys.executable, "-c", WAITING.format(parent=parent)]
    assert subprocess.run(run, timeout=300).returncode == status


def test_mlx_without_the_backend_is_said_at_once(tmp_path):
    if mx.distributed.is_available("nccl"):
        pytest.skip("here it has it")
    group = Group(Rank(0, 2, "nccl"))
    try:
        with pytest.raises(ModelError, match=r"^MLX [\d.]+ has no nccl on this machine: have mlx.launch use --backend"):
            group.join(lambda words: None)
    finally:
        group.end()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a file that mlx.launch leaves open
@pytest.mark.parametrize("backend", ["ring", "jaccl", "jaccl-ring", "nccl", "mpi"])
def test_what_mlx_launch_says_is_read(backend, tmp_path, monkeypatch):
    """Of the installed version, with the hostfile of the README, and options of ours that its parser would take for its
    own but for the two dashes."""
    hosts = [
        {"ssh": "mac-1", "ips": ["192.168.0.1"], "rdma": [None, "rdma_en2"]},
        {"ssh": "mac-2", "ips": ["192.168.0.2"], "rdma": ["rdma_en2", None]},
    ]
    (tmp_path / "hosts.json").write_text(json.dumps(hosts))
    asked = ["bench", "speed", "--repeat", "3", "--port", "0"]
    line = ["mlx.launch", "--hostfile", str(tmp_path / "hosts.json"), "--backend", backend, "--", *asked]
    monkeypatch.setattr(sys, "argv", line)
    started = []
    monkeypatch.setattr(launch, "_launch_with_io", lambda kind, processes, verbose: started.extend(processes))
    for name in ("MLX_RANK", "MLX_HOSTFILE", "MLX_IBV_DEVICES", "MLX_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    if backend == "mpi":  # which starts mpirun, which says so
        set_by = [{"OMPI_COMM_WORLD_RANK": str(k), "OMPI_COMM_WORLD_SIZE": "2"} for k in (0, 1)]
    else:
        launch.main()
        set_by = []
        for (rank, _, _, _, files, env, command), _ in started:
            assert command == asked
            places = {name: tmp_path / f"{name}-{rank}" for name in files}
            for name, place in places.items():
                place.write_text(files[name] + "\n")
            set_by.append(dict(e.split("=", 1) for e in env) | {n: str(p) for n, p in places.items()})
            set_by[-1]["MLX_RANK"] = str(rank)
    for k, environment in enumerate(set_by):
        with patch.dict(os.environ, environment):
            assert Rank.here() == Rank(k, 2, backend.removesuffix("-ring"))
    assert Rank.here() is None and len(set_by) == 2
