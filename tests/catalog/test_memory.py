"""The estimate against what MLX measures: weights to a hundredth, a race's peak within a tenth."""

import json
import shutil
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.cache import KVCache

from dspark_core.catalog import facts, memory
from dspark_core.decode.plain import plain
from dspark_core.decode.prefill import PREFILL_CHUNK
from dspark_core.decode.rounds import Settings
from dspark_core.decode.schedule import FullBlock
from dspark_core.decode.speculative import speculative
from dspark_core.errors import ModelError
from dspark_core.machine import Device
from dspark_core.models.cache import WindowCache
from dspark_core.models.checkpoint import open_drafter
from dspark_core.models.config import DRAFT_VOCABULARY
from dspark_core.models.target import load_target, open_target
from dspark_core.models.weights import read_weights
from dspark_core.presets import load_presets

from ..models.build import GOLDEN, edit_weights, random_drafter
from ..models.published import (
    DFLASH7,
    DFLASH16,
    DSPARK,
    LLAMA32_1B,
    MINICPM5_2B,
    QWEN3_4B,
    TARGETS,
    drafters,
    minicpm,
    speculators,
    write_hollow,
)
from ..models.published import target as published_target

CPU = Device("CPU", "this processor", 16 * 10**9)
METAL = Device("Metal", "a Mac", 12 * 10**9)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A random Qwen3 of 40 MB in bf16, the same at 8 bits, and a drafter."""
    from mlx_lm.models.qwen3 import Model, ModelArgs

    root = tmp_path_factory.mktemp("pair")
    config = {"model_type": "qwen3", "hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2}
    config |= {"head_dim": 64, "num_hidden_layers": 10, "intermediate_size": 1024, "vocab_size": 16384}
    config |= {"rms_norm_eps": 1e-6, "max_position_embeddings": 4096, "rope_theta": 1e6, "tie_word_embeddings": True}
    model = Model(ModelArgs.from_dict(config))
    model.set_dtype(mx.bfloat16)
    for name, more in (("bf16", {}), ("8-bit", {"quantization": {"group_size": 64, "bits": 8}})):
        if more:
            nn.quantize(model, 64, 8)
        (root / name).mkdir()
        (root / name / "config.json").write_text(json.dumps(config | more))
        mx.save_safetensors(str(root / name / "model.safetensors"), dict(tree_flatten(model.parameters())))
    drafter = {"architectures": ["Qwen3DSparkModel"], "num_hidden_layers": 2, "num_target_layers": 10}
    drafter |= {"block_size": 7, "mask_token_id": 8191, "target_layer_ids": [1, 3, 7], "markov_rank": 64}
    random_drafter(root / "drafter", config | drafter)
    edit_weights(root / "drafter", lambda w: w.update({n: a.astype(mx.bfloat16) for n, a in w.items()}))
    shutil.copytree(root / "drafter", root / "listed")  # which drafts every second token, with the target's head
    edit_weights(root / "listed", lambda w: [w.pop(f"{name}.weight") for name in ("embed_tokens", "lm_head")])
    (root / "listed" / DRAFT_VOCABULARY).write_text(json.dumps({"ids": list(range(0, 16384, 2))}))
    return root


CASES = [  # stored as, target's precision, drafter's, prompt: quantized weights are slow on MLX's CPU backend
    ("bf16", "stored", "bf16", 250),
    ("bf16", "8-bit", "4-bit", 5),
    ("8-bit", "stored", "4-bit", 5),
    ("8-bit", "auto", "bf16", 250),
]


@pytest.mark.parametrize(("form", "precision", "drafter_precision", "length"), CASES)
def test_the_estimate_against_a_measured_race(pair, form, precision, drafter_precision, length):
    which = "listed" if (form, precision) == ("8-bit", "stored") else "drafter"
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    target = open_target(pair / form, precision)
    drafter = open_drafter(pair / which, target, drafter_precision)
    read_weights(drafter.weights, "the drafter")
    read_weights(target.model, "the target")
    held = mx.get_active_memory() - before
    tokens = 4 if length > 5 else 2
    prompt, settings = [i % 1000 for i in range(length)], Settings(max_tokens=tokens, stop_ids=frozenset())
    lanes = [plain(target, prompt, settings), speculative(target, drafter, prompt, settings, FullBlock())]
    while lanes:
        lanes = [lane for lane in lanes if next(lane, None) is not None]
    peak = mx.get_peak_memory() - before
    both = [facts.Facts.read(pair / form), facts.Facts.read(pair / which)]
    e = memory.estimate(both[0], both[1:], CPU, length + tokens, precision, drafter_precision)
    assert e.target + e.drafters == pytest.approx(held, rel=0.01)
    assert e.total == pytest.approx(peak, rel=0.1), e
    assert e.fits == "yes" and "it fits." in e.words


def test_sliding_windows_bound_the_cache():
    gemma = facts.Facts.read(GOLDEN / "E" / "target")
    layers = memory.Layers.of_target(gemma)
    types = (gemma.config.get("text_config") or gemma.config)["layer_types"]
    assert layers.windows == tuple(16 if t == "sliding_attention" else None for t in types)
    long, longer = layers.bytes(10_240, 2), layers.bytes(20_480, 2)
    full = layers.widths[layers.windows.index(None)]
    assert longer - long == types.count("full_attention") * 10_240 * full * 2, "only the full layer grows"
    target = load_target(GOLDEN / "E" / "target")
    cache = target.new_cache()
    for start in range(0, 600, memory.PREFILL_CHUNK):
        target.forward(mx.arange(start, min(600, start + memory.PREFILL_CHUNK)) % 256, cache)
    assert sum(c.nbytes for c in cache) == pytest.approx(layers.bytes(600, 4), rel=0.15)


def big(name: str, d, layers, heads, kv, inner, vocabulary, **more) -> facts.Facts:
    """A true-size Qwen3 as its headers say, without weights."""
    shapes = {"model.embed_tokens.weight": (vocabulary, d), "lm_head.weight": (vocabulary, d)}
    for i in range(layers):
        at = f"model.layers.{i}."
        shapes |= {at + "self_attn.q_proj.weight": (heads * 128, d), at + "self_attn.o_proj.weight": (d, heads * 128)}
        shapes |= {at + f"self_attn.{n}_proj.weight": (kv * 128, d) for n in "kv"}
        shapes |= {at + f"mlp.{n}_proj.weight": (inner, d) for n in ("gate", "up")}
        shapes |= {at + "mlp.down_proj.weight": (d, inner), at + "input_layernorm.weight": (d,)}
    config = {"model_type": "qwen3", "hidden_size": d, "num_hidden_layers": layers, "num_attention_heads": heads}
    config |= {"num_key_value_heads": kv, "head_dim": 128, "intermediate_size": inner, "vocab_size": vocabulary} | more
    tensors = {n: facts.TensorInfo(Path(name), "BF16", s) for n, s in shapes.items()}
    return facts.Facts(name, Path(name), config, tensors, True)


def test_verdicts_of_true_sizes():
    """Qwen3-4B has 4.02 billion weights with its head tied, Qwen3-14B 14.8 billion."""
    small = big("4B", 2560, 36, 32, 8, 9728, 151936, tie_word_embeddings=True)
    large = big("14B", 5120, 40, 40, 8, 17408, 151936)
    assert memory.Footprint(small, "stored", METAL).bytes / 2 == pytest.approx(4.02e9, rel=0.01)
    assert memory.Footprint(large, "stored", METAL).bytes / 2 == pytest.approx(14.8e9, rel=0.01)
    assert memory.Footprint(small, "8-bit", METAL).bytes == pytest.approx(4.02e9 * 1.0625, rel=0.01)
    assert memory.estimate(small, [], METAL, 4096, "8-bit").fits == "yes"
    assert memory.estimate(large, [], METAL, 4096, "stored").fits == "no"
    assert memory.estimate(large, [], METAL, 4096, "4-bit").fits == "yes"
    refusal = memory.too_big(large, [small], METAL, "stored", "4-bit")
    assert refusal.startswith("The weights of 14B and its drafters take 31.8 GB, more than the 12.0 GB that a Mac")
    assert memory.too_big(large, [], METAL, "4-bit", "4-bit") == ""
    kv = memory.Layers.of_target(small).bytes(4096, 2)
    assert kv == 4096 * 36 * 2 * 8 * 128 * 2
    words = memory.estimate(small, [], Device("CUDA", "a GPU", 0), 4096).words
    assert words.endswith("does not say how much memory it has.")


def test_what_fits_on_several_machines():
    """14.8 billion weights in 8 bits are 15.7 GB; the layers split over two, but embedding (twice) and head do not."""
    large = big("14B", 5120, 40, 40, 8, 17408, 151936)
    whole = memory.estimate(large, [], METAL, 1024, "8-bit")
    assert whole.fits == "no" and whole.splits == (2, 4, 8) and whole.machines == 1
    part = whole.on(2)
    table = 151936 * 5120 * 1.0625
    assert part.target == pytest.approx((whole.target - 2 * table) / 2 + 3 * table, rel=0.01)
    assert part.cache == whole.cache // 2 and part.fits == "yes"
    assert whole.words.endswith(
        f" It fits on 2 machines like this one, with {memory.gigabytes(part.total)} on the first"
        ": see mlx.launch in the README."
    )
    assert "on this one of 2 machines" in part.words
    assert memory.estimate(large, [], METAL, 1024, "4-bit").advice == ""


def test_parts_that_the_text_model_does_not_have_are_not_counted():
    model = big("m", 256, 2, 2, 1, 512, 1000, tie_word_embeddings=True)
    tensors = model.tensors | {"vision_tower.x.weight": facts.TensorInfo(Path("m"), "BF16", (10_000, 10_000))}
    more = facts.Facts("m", Path("m"), model.config, tensors, True)
    for precision in ("stored", "8-bit"):
        assert memory.Footprint(more, precision, METAL).bytes == memory.Footprint(model, precision, METAL).bytes


def test_what_a_config_does_not_say():
    model = big("m", 256, 2, 2, 1, 512, 1000)
    config = {k: v for k, v in model.config.items() if k != "intermediate_size"}
    with pytest.raises(ModelError, match="intermediate_size must be a whole number"):
        memory.estimate(facts.Facts("m", Path("m"), config, model.tensors, True), [], CPU, 100)


def test_figures_of_code_that_imports_mlx():
    """catalog/memory.py must not import MLX, so it has two figures of its own."""
    assert memory.CACHE_STEP == WindowCache.step == KVCache.step
    assert memory.PREFILL_CHUNK == PREFILL_CHUNK


# ---- sizes that a preset gives ---------------------------------------------------------------------------


def published_shapes() -> dict[str, tuple]:
    """Preset -> its target as its makers publish it, then the drafters that are known, by hub name."""
    found = {}
    for name, shape in zip(("gemma-4-12b", "qwen3-4b", "qwen3-8b", "qwen3-14b"), TARGETS, strict=True):
        owner = "gemma4-12B-it-DFlash" if shape.gemma else f"{shape.name}-DFlash-b16"
        of = {"dspark_": DSPARK, "dflash_": DFLASH7, owner: DFLASH16}
        found[name] = shape, {part: drafters(shape)[kind] for part, kind in of.items() if kind in drafters(shape)}
    found["qwen3-4b"][1]["RedHatAI/Qwen3-4B-speculator.dspark"] = speculators(QWEN3_4B, "dspark", block=7)
    found["qwen3-4b"][1]["RedHatAI/Qwen3-4B-speculator.dflash2"] = speculators(QWEN3_4B, "dflash2")
    llama = speculators(LLAMA32_1B, "dspark", layers=3, block=4, rows=32000)
    mini = MINICPM5_2B, {"openbmb/MiniCPM5-2B-DSpark": minicpm(MINICPM5_2B)}
    return found | {"minicpm5-2b": mini, "llama-3.2-1b": (LLAMA32_1B, {"rasyosef/": llama})}


@pytest.mark.parametrize("name", sorted(published_shapes()))
def test_a_preset_s_sizes_are_those_of_the_published_shapes(name, tmp_path):
    """Weights to two hundredths, and what they are estimated to take to six of what the shapes say."""
    shape, parts = published_shapes()[name]
    preset = next(p for p in load_presets() if p.name == name)
    target = facts.Facts.read(write_hollow(tmp_path / "target", published_target(shape)))
    known, sized = [], []
    for d in preset.drafters:
        made = next(checkpoint for part, checkpoint in parts.items() if part in d.path.repo)
        known.append(facts.Facts.read(write_hollow(tmp_path / d.path.repo.replace("/", "-"), made)))
        sized.append(d.sizes)
        assert d.sizes.bytes == pytest.approx(known[-1].bytes, rel=0.02), d.path
    for version in preset.targets:
        packed = memory.Footprint(target, "stored" if version.precision == "bf16" else version.precision, METAL)
        assert version.sizes.bytes == pytest.approx(packed.bytes, rel=0.02), version.precision
    bf16 = next(t.sizes for t in preset.targets if t.precision == "bf16")
    for device, context in ((METAL, 4096), (CPU, 4096), (METAL, 16384)):
        for precision in ("auto", "8-bit"):
            given = device, context, precision, preset.drafter_precision
            assert memory.estimate(bf16, sized, *given).total == pytest.approx(
                memory.estimate(target, known, *given).total, rel=0.06
            ), (device.kind, context, precision)


def test_quantized_sizes_become_dense_where_loading_makes_them_so():
    """On the CPU "auto" dequantizes; a precision of which no bits are known stays as it is."""
    sizes = memory.PublishedSizes(8_500, "8-bit")
    taken = [memory.estimate(sizes, [], device, 0).target for device in (METAL, CPU)]
    assert taken == [8_500, 16_000] and memory.estimate(sizes, [], METAL, 0, "4-bit").target == 4_500
    experts = next(p for p in load_presets() if p.name == "qwen3.6-35b-a3b").targets
    for version in experts:  # which MLX's CPU has quantized, and so do they stay
        assert memory.estimate(version.sizes, [], CPU, 0).target == version.sizes.bytes
    assert memory.estimate(experts[0].sizes, [], Device("CPU", "a server", 32 * 10**9), 4096).fits == "yes"
    odd = memory.PublishedSizes(8_500, "mxfp4")
    assert memory.estimate(odd, [odd], CPU, 0, "8-bit", "4-bit").total == 17_000
