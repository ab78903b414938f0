"""Targets on two machines: the same numbers as on one, and what happens when a rank is lost."""

import os
import shutil
import signal
import time
from itertools import islice

import mlx.core as mx
import pytest

from dspark_core.decode.plain import plain
from dspark_core.decode.rounds import Round, Settings, Start
from dspark_core.decode.schedule import FullBlock
from dspark_core.decode.speculative import speculative
from dspark_core.errors import ModelError, RankLost
from dspark_core.models.cache import copy_cache, trim
from dspark_core.models.checkpoint import load_drafter
from dspark_core.models.cpu_streams import Spread, install, layers_of
from dspark_core.models.shard_process import Shard
from dspark_core.models.sharded import load_spread
from dspark_core.models.target import load_target
from tests.conftest import GOLDEN

from .families import saved
from .rank_group import ranks

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


def test_a_recurrent_target_on_two_machines(pair, tmp_path):
    pytest.importorskip("torch")
    place = saved("qwen3_5", tmp_path / "recurrent")
    check_numbers(load_target(place), load_spread(place))


def test_what_cannot_be_split_is_refused_with_what_can(pair, tmp_path):
    pytest.importorskip("torch")
    with pytest.raises(ModelError, match=r"family LFM2, which mlx-lm cannot split .* choose a model of .*Llama.* or "):
        load_spread(saved("lfm2", tmp_path / "other"))
    odd = saved("qwen2", tmp_path / "odd", num_attention_heads=9, num_key_value_heads=3, hidden_size=36)
    with pytest.raises(ModelError, match=r"9 query and 3 key/value heads cannot be: it runs on 1 or 3.$"):
        load_spread(odd)


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
    group, followers = pair
    spread, lost = load_spread(GOLDEN / "A" / "target"), []
    group.lost = lost.append
    events = plain(spread, [5, 6, 7], Settings(200, stop_ids=frozenset()))
    assert len(tokens(islice(events, 8))) > 4
    os.kill(followers.rank_process(1), number)
    began = time.monotonic()
    with pytest.raises(RankLost, match=r"^Rank 1 \(.*\) has ended, or has not answered .* is lost: load it again"):
        tokens(events)
    assert time.monotonic() - began < 10
    with pytest.raises(RankLost):
        spread.new_cache()[0].target.forward(mx.array([1]), spread.new_cache())
    spread = load_spread(GOLDEN / "A" / "target")
    assert len(lost) == 1
    check_numbers(load_target(GOLDEN / "A" / "target"), spread)


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
