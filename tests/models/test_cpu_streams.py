"""Layers in parts on several CPU streams: the same numbers, bit for bit, and only where that pays."""

import json
import threading
from contextlib import contextmanager, suppress

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from dspark_core.decode.measure import made_of
from dspark_core.decode.rounds import Settings
from dspark_core.decode.schedule import FullBlock
from dspark_core.decode.speculative import Options, speculative
from dspark_core.models import cpu_streams
from dspark_core.models.cache import trim
from dspark_core.models.cpu_streams import METHODS, Parts, Spread, install, layers_of, remove, rows_for, usable_cores
from dspark_core.models.target import load_target
from dspark_core.race.loaded import Models
from dspark_core.race.preparation import CORES, prepare
from tests.decode.helpers import NEVER, output
from tests.models.families import SWEPT, saved

ROWS = (1, 2, 3, 7, 15, 16, 17, 33)
D, COLUMNS = 128, 150  # which end in the middle of a block
PACKED = ((4, 64, "affine"), (8, 32, "affine"), (3, 64, "affine"), (None, None, "mxfp4"), (None, None, "nvfp4"))
PACKED += ((None, None, "mxfp8"),)


@pytest.fixture(autouse=True)
def small_layers(monkeypatch):
    monkeypatch.setattr(cpu_streams, "LEAST_BYTES", 0)


@contextmanager
def in_parts(modules, spread):
    layers = layers_of(modules)
    assert layers
    install(layers, spread)
    try:
        yield
    finally:
        remove(layers)


def layer_kinds():
    """Every kind of layer, in every type that MLX has for it."""
    mx.random.seed(3)
    for bias in (False, True):
        for dtype in (mx.bfloat16, mx.float16, mx.float32):
            layer = nn.Linear(D, COLUMNS, bias=bias)
            layer.set_dtype(dtype)
            yield layer
        yield from (nn.QuantizedLinear.from_linear(layer, group, bits, mode) for bits, group, mode in PACKED)
    layer = nn.Embedding(COLUMNS, D)
    yield layer
    yield from (nn.QuantizedEmbedding.from_embedding(layer, group, bits, mode) for bits, group, mode in PACKED)


def test_parts_of_every_kind_of_layer_give_its_numbers():
    for layer in layer_kinds():
        product = getattr(layer, METHODS[type(layer)])
        for count in (2, 4, 8):
            parts = Parts(layer, count)
            assert len(parts.layers) == min(count, 5 if count == 8 else count)
            for rows in ROWS:
                x = rows_for(layer, rows)
                assert mx.array_equal(product(x), parts(x)).item(), (layer, count, rows)
                assert mx.array_equal(product(x[0, 0]), parts(x[0, 0])).item(), "without axes for rows"


def test_parts_are_views_of_the_weights_and_no_parameters():
    layer = nn.Linear(D, COLUMNS, bias=False)
    mx.eval(layer.parameters())
    words, begins = repr(layer), np.asarray(memoryview(layer.weight)).ctypes.data
    install(layers_of([layer]), Spread(4, 1))
    places = [np.asarray(memoryview(part.weight)).ctypes.data - begins for part in layer.parts.layers]
    assert places == [0, 48 * D * 4, 96 * D * 4, 144 * D * 4]
    assert list(layer.parameters()) == ["weight"] and layer.children() == {} and repr(layer) == words
    assert isinstance(layer, nn.Linear) and layers_of([layer]) == []
    assert layers_of([nn.Sequential(layer, other := nn.Linear(D, 64)), other]) == [other], "once"
    remove([layer])
    assert type(layer) is nn.Linear and not hasattr(layer, "parts")


def texts(target, widths=(9, 1, 4, 2)):
    """Logits and taps of passes after each other, each with a rollback."""
    cache, at, found = target.new_cache(), 0, []
    for width in widths:
        hidden, taps = target.forward(mx.arange(at, at + width) % target.vocab_size, cache, (-1, 0, 1))
        found += [hidden, target.head(hidden), taps]
        trim(cache, width // 2)
        at += width - width // 2
    return found


def same(one, other):
    return all(mx.array_equal(a, b).item() for a, b in zip(one, other, strict=True))


def test_golden_targets_and_drafters_decode_the_same(golden):
    def decoded(strict):
        prompt, settings = golden.trace["prompt_ids"], Settings(20, stop_ids=NEVER)
        options = Options(strict=strict)
        return output(speculative(golden.target, golden.drafter, prompt, settings, FullBlock(), options))

    one = texts(golden.target), decoded(0.0), decoded(1e9)
    with in_parts([golden.target.model, golden.drafter.weights], Spread(4, 1)):
        assert same(texts(golden.target), one[0])
        assert (decoded(0.0), decoded(1e9)) == one[1:]


@pytest.mark.parametrize("family", SWEPT)
def test_targets_of_every_family_compute_the_same(family, tmp_path):
    pytest.importorskip("torch")
    target = load_target(saved(family, tmp_path), "stored")
    ids = mx.arange(9)[None]
    one = [*texts(target), target.model(ids)]
    for spread in (Spread(2, 1), Spread(2, 3)):
        with in_parts([target.model], spread):
            assert same([*texts(target), target.model(ids)], one)


def test_another_thread_has_streams_of_its_own(golden_a):
    """Who loads need not be who decodes."""
    one, found = texts(golden_a.target), []
    mx.eval(one)
    layers = layers_of([golden_a.target.model])
    thread = threading.Thread(target=install, args=(layers, Spread(2, 1)))
    thread.start()
    thread.join()
    try:
        found.append(same(texts(golden_a.target), one))
        thread = threading.Thread(target=lambda: found.append(same(texts(golden_a.target), one)))
        thread.start()
        thread.join()
    finally:
        remove(layers)
    assert found == [True, True]


# ---- the decision ----------------------------------------------------------------------------------------


@pytest.fixture
def models(golden_a, tmp_path, monkeypatch):
    monkeypatch.setattr("dspark_core.store.cache_directory", lambda: tmp_path)
    monkeypatch.setattr("dspark_core.race.loaded.usable_cores", lambda: 8)
    models = Models(golden_a.target, {"dspark": golden_a.drafter})
    yield models
    remove([x for m in (golden_a.target.model, golden_a.drafter.weights) for x in m.modules() if hasattr(x, "parts")])
    golden_a.target.cpu_streams = ""


def clock(monkeypatch, seconds, alone=1.0):
    """Has products take `seconds(parts, rows)`, in ms, `alone` of it in their own work. Returns the calls."""
    calls = []

    def timed(products, inputs):
        parts = len(products[0].layers) if isinstance(products[0], Parts) else 1
        calls.append((parts, inputs[0].shape[1]))
        took = seconds(*calls[-1]) / 1000
        return took, took * alone

    monkeypatch.setattr(cpu_streams, "timed", timed)
    return calls


def settled(models):
    models.settled, models.target.cpu_streams = False, ""
    remove([x for x in models.target.model.modules() if hasattr(x, "parts")])
    remove([x for d in models.loaded.values() for x in d.weights.modules() if hasattr(x, "parts")])
    return sum(1 for _ in models.settle_streams())


def test_what_pays_is_decided_once_and_every_product_was_compared(models, monkeypatch, tmp_path):
    whole = made_of(models.target, models.loaded)
    one = texts(models.target)
    calls = clock(monkeypatch, lambda parts, rows: rows / (min(parts, 3) if rows > 3 else 1))
    assert next(prepare(models)) == CORES, "before anything else is got ready"
    calls.clear()
    assert settled(models) > len(calls) > 20
    words = models.target.cpu_streams
    assert words == "4 CPU streams from 4 rows on", "8 are no faster"
    assert same(texts(models.target), one)
    assert any(hasattr(layer, "parts") for layer in models.loaded["dspark"].weights.modules())
    assert made_of(models.target, models.loaded) == whole | {"cpu_streams": words}, "other costs"
    assert models.source().machine["cpu_streams"] == words and list(models.settle_streams()) == []
    later = models.loaded["dspark"]  # a drafter that is read when a lane names it
    remove([layer for layer in later.weights.modules() if hasattr(layer, "parts")])
    monkeypatch.setattr("dspark_core.race.loaded.read_drafter", lambda drafter: None)
    models.drafters, models.unread = {}, {"dspark": later}
    assert list(models.read(["dspark"])) and models.loaded == {"dspark": later} and not models.unread
    assert any(hasattr(layer, "parts") for layer in later.weights.modules()), "it is as the others are"
    calls.clear()
    assert settled(models) and not calls and models.target.cpu_streams == words, "it is on disk"
    (file,) = tmp_path.rglob("*.json")
    sound = json.loads(file.read_text())
    for odd in ([4, 3, 1], [4, 4], [4, 4, 2], [16, 4, 1], [True, 4, 1], "4", None, [[4], 4, 1], {}):
        assert odd != sound
        file.write_text(json.dumps(odd))
        assert settled(models) and calls and models.target.cpu_streams == words, odd
        assert json.loads(file.read_text()) == sound
        calls.clear()


@pytest.mark.parametrize("gain, rows", [(1.0, 4), (1.5, 1)])
def test_a_head_has_its_two_parts_where_more_do_not_pay(models, monkeypatch, gain, rows):
    monkeypatch.setattr("dspark_core.models.weights.MIN_ROWS", 1)
    one = texts(models.target)

    def seconds(parts, count):
        return 1 / gain ** (parts > 2) if count == 1 else count / (min(parts, 3) if count > 3 else 1)

    clock(monkeypatch, seconds)
    settled(models)
    head = models.target.model.model.embed_tokens
    assert head.least_rows == rows and same(texts(models.target), one)
    halves = []
    monkeypatch.setattr("dspark_core.models.weights.STREAMS", [halves])
    with suppress(TypeError):
        models.target.head(mx.zeros((1, models.target.hidden_size)))
        halves.append("none")
    assert halves == ["none"] * (rows == 1)


def test_it_stays_whole_where_parts_do_not_pay_or_differ(models, monkeypatch, tmp_path):
    calls = clock(monkeypatch, lambda parts, rows: 1, alone=0.5)
    settled(models)
    assert models.target.cpu_streams == "" and {rows for _, rows in calls} == {16}
    assert not list(tmp_path.rglob("*.json")), "the machine was busy: it is asked again"
    clock(monkeypatch, lambda parts, rows: 1)
    settled(models)
    (file,) = tmp_path.rglob("*.json")
    file.unlink()
    clock(monkeypatch, lambda parts, rows: rows / parts)
    product = Parts.__call__
    monkeypatch.setattr(Parts, "__call__", lambda self, x: product(self, x) * (1 + 1e-3))
    settled(models)
    assert models.target.cpu_streams == "" and not any(hasattr(x, "parts") for x in models.target.model.modules())


@pytest.mark.parametrize("cores, machines", [(3, 1), (2, 1), (16, 2)])
def test_few_cores_or_several_machines_stay_as_they_are(models, monkeypatch, cores, machines):
    calls = clock(monkeypatch, lambda parts, rows: rows / parts)
    monkeypatch.setattr("dspark_core.race.loaded.usable_cores", lambda: cores)
    monkeypatch.setattr(models.target, "machines", machines, raising=False)
    assert settled(models) == 0 and not calls and models.target.cpu_streams == ""


def test_cores_are_those_that_control_groups_leave(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(16)), raising=False)
    own = tmp_path / "own"
    assert usable_cores(tmp_path, own) == 16
    old, new = {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "1"}, {"cpu.max": "max 100000"}
    for version, files in (("1", old), ("2", new)):
        place = tmp_path / version
        (place / "a" / "b").mkdir(parents=True)
        for name, words in files.items():
            (place / name).write_text(words + "\n")
            (place / "a" / name).write_text(words.replace("max", "350000").replace("-1", "3.5") + "\n")
        own.write_text("1:cpu:/x\n0::/a/b\n")
        assert usable_cores(place, own) == 3, "of a group above it"
        own.write_text("0::/\n")
        assert usable_cores(place, own) == 16
