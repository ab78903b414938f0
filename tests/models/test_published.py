"""The published drafters on their targets, loaded as the page loads a preset: at true shapes up to the weights, and
with random narrow weights through whole races."""

import math

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from dspark_core.catalog import facts, memory
from dspark_core.decode.rounds import Settings
from dspark_core.decode.schedule import FullBlock
from dspark_core.decode.speculative import speculative
from dspark_core.machine import Device, mlx_device
from dspark_core.models.checkpoint import open_drafter
from dspark_core.models.config import parse_config
from dspark_core.models.drafter import method_module
from dspark_core.models.target import open_target
from dspark_core.playground.engine import Choice, PresetEngine
from tests.decode.helpers import output, plain_output, rounds

from .published import (
    DFLASH16,
    DSPARK,
    GEMMA4_12B,
    QWEN3_4B,
    TARGETS,
    drafters,
    narrow,
    target,
    write_hollow,
    write_random,
)

METAL = Device("Metal", "a Mac", 100 * 10**9)
by_name = pytest.mark.parametrize("shape", TARGETS, ids=lambda s: s.name)


def shapes_of(module) -> dict[str, tuple[int, ...]]:
    return {n: tuple(w.shape) for n, w in tree_flatten(module.parameters())}


# ---- true shapes -------------------------------------------------------------------------------------------


@by_name
def test_true_shapes_are_what_the_loader_expects_and_no_weight_is_read(shape, tmp_path):
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    directory = write_hollow(tmp_path / "target", target(shape))
    known = facts.Facts.read(directory)
    assert facts.sort_of(known).kind == facts.TARGET
    model = open_target(directory, "stored")
    renamed = {n.replace("model.language_model.", "language_model.model.") for n in target(shape).of_the_text_model()}
    assert set(shapes_of(model.model)) == renamed
    for name, checkpoint in drafters(shape).items():
        place = write_hollow(tmp_path / name, checkpoint)
        config = facts.check_pair(known, facts.Facts.read(place))
        assert config.block_size == (16 if name == DFLASH16 else 7)
        drafter = open_drafter(place, model, "4-bit")
        assert (drafter.info.max_drafts, drafter.taps) == (15 if name == DFLASH16 else 7, config.taps)
        assert shapes_of(method_module(config.method).KIND.weights_type(config)) == checkpoint.tensors
        bare = {n: None for n in ("embed_tokens.weight", "lm_head.weight") if n in checkpoint.tensors}
        alone = parse_config(place, checkpoint.config, bare)  # from config.json, without any tensor's shape
        assert shapes_of(method_module(alone.method).KIND.weights_type(alone)) == checkpoint.tensors
    assert mx.get_peak_memory() - before < 10_000_000


def test_sizes_that_are_known(tmp_path):
    """The Gemma-4 drafter is published as 6.9 GB and was measured at 1.8 GB with its linears at 4 bits; Qwen3-4B has
    4.02 billion weights."""
    drafter = facts.Facts.read(write_hollow(tmp_path / "drafter", drafters(GEMMA4_12B)[DSPARK]))
    assert drafter.bytes == pytest.approx(6.9e9, rel=0.01)
    assert memory.Footprint(drafter, "4-bit", METAL).bytes == pytest.approx(1.9e9, rel=0.03)
    qwen = facts.Facts.read(write_hollow(tmp_path / "qwen", target(QWEN3_4B)))
    assert memory.Footprint(qwen, "bf16", METAL).bytes / 2 == pytest.approx(4.02e9, rel=0.01)
    gemma = facts.Facts.read(write_hollow(tmp_path / "gemma", target(GEMMA4_12B)))
    text = sum(2 * math.prod(s) for s in target(GEMMA4_12B).of_the_text_model().values())
    assert memory.Footprint(gemma, "stored", METAL).bytes == text < gemma.bytes


# ---- narrow, with weights ----------------------------------------------------------------------------------

LONG = 250  # positions: verification crosses row 256, where a sliding layer's buffer is compacted
NEVER = frozenset()


def build(root, shape) -> Choice:
    """Random weights of a target and all its drafters, on disk; a drafter's embedding and head are its target's."""
    weights = write_random(root / "target", target(shape), 1)
    at = "model.language_model." if shape.gemma else "model."
    embedding = weights[f"{at}embed_tokens.weight"]
    frozen = {"embed_tokens.weight": embedding, "lm_head.weight": weights.get("lm_head.weight", embedding)}
    for i, (name, checkpoint) in enumerate(drafters(shape).items(), 2):
        own = {n: w for n, w in frozen.items() if n in checkpoint.tensors}
        write_random(root / name, checkpoint, i, own)
    places = dict(zip(("dspark", "dflash", "dflash-2"), (root / name for name in drafters(shape)), strict=False))
    return Choice(shape.name, root / "target", places, "stored", "stored")


class Uneven(FullBlock):
    """Two plain steps, then a full block, and so on: a window that is kept as a ring cannot be rolled back then."""

    def begin(self, max_drafts):
        self.round = 0
        return self

    def drafts(self, max_drafts, position):
        self.round += 1
        return 0 if self.round % 3 else max_drafts


def decode(models, name, prompt, settings, schedule):
    return list(speculative(models.target, models.drafters[name], prompt, settings, schedule))


@pytest.fixture(scope="module")
def engine():
    """One engine that takes every target in turn, as a visitor of the page would."""
    engine = PresetEngine.__new__(PresetEngine)  # without a first preset
    engine.machine = mlx_device()
    engine._clear()
    yield engine
    engine.unload()


# Qwen3's sizes differ in numbers alone; the larger ones by -m sweep.
MORE = {"Qwen3-8B": pytest.mark.sweep, "Qwen3-14B": pytest.mark.sweep}


@pytest.mark.long
@pytest.mark.parametrize("shape", [pytest.param(s, marks=MORE.get(s.name, ()), id=s.name) for s in TARGETS])
def test_every_drafter_is_exact_on_its_target(shape, engine, tmp_path):
    engine.load(build(tmp_path, narrow(shape)))
    target = engine.models.target
    drafters_here = {id_: d for id_, d in engine.models.drafters.items() if d.info.needs_weights}
    assert (target.num_layers, target.precision) == (shape.layers, "f32")
    assert list(drafters_here) == ["dspark", "dflash", "dflash-2"][: len(drafters(shape))]
    prompt = [7919 * i % 2039 for i in range(LONG if shape.gemma else 21)]
    expected = plain_output(target, prompt, 10)
    assert len(set(expected)) > 3, "an output that does not depend on the context would prove nothing"
    ids = mx.array([prompt + expected[:-1]])  # mlx-lm's own model, all positions at once and no cache
    assert mx.argmax(target.model(ids)[0, len(prompt) - 1 :], axis=-1).tolist() == expected
    for name, drafter in drafters_here.items():
        greedy = decode(engine.models, name, prompt, Settings(10, stop_ids=NEVER), Uneven())
        assert output(greedy) == expected, name
        assert {r.proposed for r in rounds(greedy)} == {0, drafter.info.max_drafts}
        assert any(r.accepted < r.proposed for r in rounds(greedy)), "nothing was rolled back"
        # So hot that both distributions are nearly even: most drafts are accepted.
        hot = Settings(20, temperature=100.0, stop_ids=NEVER)
        warm = rounds(decode(engine.models, name, prompt[:21], hot, FullBlock()))
        assert sum(r.accepted for r in warm) > 3 and all(0 <= t < target.vocab_size for r in warm for t in r.committed)


def test_zlabs_gemma_drafter_takes_embedding_and_head_from_its_target(engine, tmp_path):
    """Gemma-4's embedding comes scaled by the root of the hidden size; rows of the block see what their layer's type
    lets them see: a later slot moves an earlier one through the full layer only."""
    shape = narrow(GEMMA4_12B)
    weights = write_random(tmp_path / "target", target(shape), 1)
    for name, types in (("mixed", None), ("sliding", ["sliding_attention"] * 5)):
        checkpoint = drafters(shape)[DFLASH16]
        checkpoint.config.update({"layer_types": types or checkpoint.config["layer_types"]})
        write_random(tmp_path / name, checkpoint, 2)
    for name in ("mixed", "sliding"):
        engine.load(Choice(name, tmp_path / "target", {"dflash": tmp_path / name}, "stored", "stored"))
        drafter = engine.models.drafters["dflash"]
        rows = weights["model.language_model.embed_tokens.weight"]
        assert mx.allclose(drafter.embed(mx.array([5, 9])), rows[mx.array([5, 9])] * shape.hidden**0.5, rtol=1e-5)
        h = mx.random.normal((2, shape.hidden))
        assert mx.allclose(drafter.head(h), 30 * mx.tanh(h @ rows.T / 30), atol=1e-4)
        context = drafter.begin()
        context.extend(mx.arange(40), mx.random.normal((40, 5 * shape.hidden)))
        block = drafter.embed(mx.arange(16))
        moved = mx.concatenate([block[:15], block[15:] + 1])
        a, b = (drafter.weights.block(x, context.cache) for x in (block, moved))
        assert mx.array_equal(a[:15], b[:15]).item() == (name == "sliding")
        assert not mx.array_equal(a[15], b[15]).item()
