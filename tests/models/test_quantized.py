"""Quantized directories as converters write them: they load as the model that mlx-lm loads, or one sentence names
what cannot; and the memory estimate counts what is loaded."""

import gc
import json
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.convert import mixed_quant_predicate_builder
from mlx_lm.models import gemma4, llama, qwen3
from mlx_lm.utils import load_model, quantize_model, save_config, save_model

from dspark_core.catalog.facts import OTHER, Facts, sort_of
from dspark_core.catalog.memory import Footprint
from dspark_core.machine import Device, mlx_device
from dspark_core.models.checkpoint import load_drafter, open_drafter
from dspark_core.models.target import load_target, open_target
from dspark_core.playground.engine import PresetEngine
from tests.models.build import edit_config, edit_weights, random_drafter, refusal
from tests.playground.golden_choices import choice, races

CPU, METAL, CUDA = (Device(kind, kind, 16 * 10**9) for kind in ("CPU", "Metal", "CUDA"))
D, VOCABULARY = 128, 256
IDS = mx.array([5, 200, 77])
SIZES = {"hidden_size": D, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "rms_norm_eps": 1e-6}
SIZES |= {"num_hidden_layers": 3, "intermediate_size": 256, "vocab_size": VOCABULARY, "max_position_embeddings": 256}
GEMMA = {
    "layer_types": ["sliding_attention", "full_attention", "full_attention"],
    "sliding_window": 16,
    "final_logit_softcapping": 30.0,
}
GEMMA |= {"global_head_dim": 128, "num_global_key_value_heads": 1, "attention_k_eq_v": True, "num_kv_shared_layers": 0}
GEMMA |= {"hidden_size_per_layer_input": 0, "model_type": "gemma4_unified_text", "tie_word_embeddings": True}
CONFIGS = {
    "Llama": (llama, SIZES | {"model_type": "llama", "tie_word_embeddings": False, "rope_theta": 1e4}, mx.float32),
    "Qwen3": (qwen3, SIZES | {"model_type": "qwen3", "tie_word_embeddings": True, "rope_theta": 1e6}, mx.float16),
    "Gemma-4": (
        gemma4,
        {"model_type": "gemma4_unified", "text_config": SIZES | GEMMA, "vocab_size": VOCABULARY},
        mx.bfloat16,
    ),
}


def mixture(path: str, module: nn.Module) -> bool | dict:
    """A layer dense, one at other bits, one at 8 bits of group 32, whose shapes could be 4 bits of group 64."""
    if "layers.0.mlp.gate_proj" in path or not hasattr(module, "to_quantized"):
        return False
    ways = {"layers.1": (3, 128), "layers.2.self_attn.o": (2, 64), "layers.2.mlp.down": (8, 128), "layers.2": (8, 32)}
    bits, group_size = next((w for place, w in ways.items() if place in path), (4, 64))
    return {"bits": bits, "group_size": group_size, "mode": "affine"}


FORMS = {
    "4-bit": {"group_size": 64, "bits": 4},
    "8-bit, groups of 32": {"group_size": 32, "bits": 8},
    "mixed_2_6": {"group_size": 32, "bits": 2},
    "mixture": {"group_size": 64, "bits": 4},
    **{mode: {"group_size": None, "bits": None, "mode": mode} for mode in ("mxfp4", "nvfp4", "mxfp8")},
}


def write(directory: Path, family: str, form: str | None) -> Path:
    """A random target as mlx-lm saves it, at `form` or dense."""
    module, config, dtype = CONFIGS[family]
    mx.random.seed(1)
    model = module.Model(module.ModelArgs.from_dict(json.loads(json.dumps(config))))
    model.set_dtype(dtype)
    if form:
        recipe = mixed_quant_predicate_builder(form, model, 32) if form.startswith("mixed") else None
        predicate = mixture if form == "mixture" else recipe
        model, config = quantize_model(model, config, **FORMS[form], quant_predicate=predicate)
    save_model(directory, model)
    save_config(dict(config), directory / "config.json")
    return directory


def own_logits(directory: Path) -> mx.array:
    """By mlx-lm itself."""
    return load_model(directory)[0](IDS[None])[0]


def logits(directory: Path, precision: str = "stored") -> mx.array:
    target = load_target(directory, precision)
    return target.head(target.forward(IDS, target.new_cache())[0])


def off(directory: Path, expected: mx.array, precision: str) -> float:
    """The largest difference of our logits, as a share of the largest of the `expected` ones."""
    return (mx.abs(logits(directory, precision) - expected).max() / mx.abs(expected).max()).item()


def settings(directory: Path) -> dict:
    return json.loads((directory / "config.json").read_text())["quantization"]


# Llama in every form, the others in those that differ by what they share: a table, an embedding's mode, a wrapper.
PAIRS = [("Llama", form) for form in FORMS] + [("Qwen3", "mxfp4")]
PAIRS += [("Gemma-4", form) for form in ("mixed_2_6", "mixture", "nvfp4")]


@pytest.mark.parametrize(("family", "form"), PAIRS)
def test_a_target_under_every_spelling_is_what_mlx_lm_loads(family, form, tmp_path):
    directory = write(tmp_path / "m", family, form)
    expected, q = own_logits(directory), settings(directory)
    for name in ("quantization", "quantization_config"):  # both, then each alone
        assert mx.array_equal(logits(directory), expected)
        edit_config(directory, **{"quantization": None, "quantization_config": None} | {name: q})
    assert mx.array_equal(logits(directory), expected)
    whole = {k: v for k, v in q.items() if not isinstance(v, dict)}
    edit_config(directory, quantization=None, quantization_config=whole | {"quant_method": "mlx"})
    assert mx.array_equal(logits(directory), expected), "no layer is listed"
    if family == "Gemma-4":
        text = json.loads((directory / "config.json").read_text())["text_config"]
        listed = {k.replace("language_model.model.", "model.language_model."): v for k, v in q.items()}
        edit_config(directory, quantization_config=None, text_config=text | {"quantization_config": listed})
        assert mx.array_equal(logits(directory), expected)
    else:  # bfloat16 alone moves a random Gemma-4 by far more
        assert off(directory, expected.astype(mx.float32), "bf16") < 0.03


def test_layers_that_are_listed_as_false_are_dense(tmp_path):
    directory = write(tmp_path / "m", "Llama", "mixture")
    q = settings(directory) | {"model.layers.0.mlp.gate_proj": False}
    edit_config(directory, quantization=None, quantization_config=q)
    target = open_target(directory, "stored")
    assert type(target.model.model.layers[0].mlp.gate_proj) is nn.Linear
    assert type(open_target(directory, "4-bit").model.model.layers[0].mlp.gate_proj) is nn.Linear, "mostly 4-bit"


@pytest.mark.parametrize("family", ["Qwen3", "Gemma-4"])
@pytest.mark.parametrize("mode", ["affine", "mxfp8"])
def test_the_head_of_a_tied_target_is_its_embedding_whatever_its_files_hold(family, mode, tmp_path):
    directory = write(tmp_path / "m", family, "4-bit")
    expected = own_logits(directory)
    parts = mx.quantize(mx.random.normal((VOCABULARY, D)).astype(mx.float16), mode=mode)
    head = dict(zip(("weight", "scales", "biases"), parts, strict=False))
    at = "language_model." if family == "Gemma-4" else ""
    edit_weights(directory, lambda w: w.update({f"{at}lm_head.{n}": a for n, a in head.items()}))
    assert mx.array_equal(logits(directory), expected)


ODD = [
    *([], ["x"], "4-bit", 4, {"bits": "4"}, {"bits": 4.0}, {"bits": True}, {"bits": 7}, {"mode": ["x"]}),
    *({"mode": "mxfp5"}, {"bits": 8, "group_size": 64, "mode": "mxfp8"}, {"group_size": 48}),
    {"model.layers.1.mlp.up_proj": {"bits": 4, "group_size": 64}},
    {"model.layers.1.mlp.up_proj": {"bits": 3, "group_size": 128, "mode": "mxfp4"}},
    {"model.layers.1.mlp.up_proj": False},
    {"model.layers.0.mlp.gate_proj": {"bits": 4, "group_size": 64}},
]


def test_settings_that_cannot_be_meant(tmp_path):
    directory = write(tmp_path / "m", "Llama", "mixture")
    for odd in ODD:
        edit_config(directory, quantization=odd, quantization_config=None)
        assert f"{directory / 'config.json'}: " in refusal(lambda: open_target(directory)), odd
        assert sort_of(Facts.read(directory)).kind == OTHER


# ---- what other tools quantized --------------------------------------------------------------------------


def awq(weight: np.ndarray, group: int) -> tuple[dict[str, mx.array], np.ndarray]:
    """AutoAWQ's tensors of a weight [out, in], and the numbers that they mean."""
    x = weight.reshape(len(weight), -1, group)
    low, high = x.min(-1, keepdims=True), x.max(-1, keepdims=True)
    scales = ((high - low) / 15).astype(np.float16).astype(np.float32)
    zeros = np.clip(np.round(-low / scales), 0, 15)
    q = np.clip(np.round(x / scales) + zeros, 0, 15)

    def pack(numbers: np.ndarray) -> mx.array:
        eights = numbers.astype(np.uint32).reshape(len(numbers), -1, 8)
        words = sum(eights[..., at] << np.uint32(4 * i) for i, at in enumerate((0, 2, 4, 6, 1, 3, 5, 7)))
        return mx.array(words.view(np.int32))

    parts = {"qweight": pack(q.reshape(weight.shape).T), "qzeros": pack(zeros[..., 0].T)}
    return parts | {"scales": mx.array(scales[..., 0].T.astype(np.float16))}, ((q - zeros) * scales).reshape(x.shape)


def test_awq_is_converted_by_mlx_lm(tmp_path):
    directory, meant = write(tmp_path / "m", "Qwen3", None), write(tmp_path / "meant", "Qwen3", None)

    def change(weights):
        for name in [n for n in weights if n.endswith("_proj.weight")]:
            whole = np.array(weights.pop(name).astype(mx.float32))
            parts, numbers = awq(whole, 64)
            weights |= {name.replace(".weight", f".{part}"): a for part, a in parts.items()}
            dense[name] = mx.array(numbers.reshape(whole.shape)).astype(mx.float16)

    dense: dict[str, mx.array] = {}
    edit_weights(directory, change)
    edit_weights(meant, lambda w: w.update(dense))
    q = {"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm", "zero_point": True}
    edit_config(directory, quantization_config=q)
    assert mx.array_equal(logits(directory), own_logits(directory))
    assert off(directory, own_logits(meant), "stored") < 0.03, "AutoAWQ's order of words is mlx-lm's"
    assert sort_of(Facts.read(directory)).words == "Qwen3 target of 3 layers, 4-bit."
    for precision in ("stored", "auto", "8-bit"):
        assert_counted(directory, open_target(directory, precision).model, precision)
    for wrong in ({"version": "gemv"}, {"bits": 8}):
        edit_config(directory, quantization_config=q | wrong)
        assert "config.json: AWQ with " in refusal(lambda: open_target(directory))


def numbers(dtype: mx.Dtype, *shape: int) -> mx.array:
    return mx.zeros(shape, dtype=dtype)


Q = "self_attn.q_proj"
FOREIGN = {  # tool -> (quantization_config, the tensors of one layer of 256 rows and 128 columns)
    "GPTQ": (
        {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True},
        {"qweight": (mx.int32, 16, 256), "qzeros": (mx.int32, 1, 32), "scales": (mx.float16, 1, 256)}
        | {"g_idx": (mx.int32, 128)},
    ),
    "bitsandbytes": (
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        {"weight": (mx.uint8, 16384, 1), "weight.absmax": (mx.float32, 512), "weight.quant_map": (mx.float32, 16)},
    ),
    "compressed-tensors": (
        {"quant_method": "compressed-tensors", "format": "pack-quantized"},
        {"weight_packed": (mx.int32, 256, 16), "weight_scale": (mx.bfloat16, 256, 4), "weight_shape": (mx.int64, 2)},
    ),
    "ModelOpt": (
        {"quant_method": "modelopt", "quant_algo": "NVFP4"},
        {"weight": (mx.uint8, 256, 64), "weight_scale": (mx.uint8, 256, 8), "weight_scale_2": (mx.float32, 1)},
    ),
    "FP8": (
        {"quant_method": "fp8", "weight_block_size": [128, 128]},
        {"weight": (mx.uint8, 256, 128), "weight_scale_inv": (mx.float32, 2, 1)},
    ),
    "HQQ": ({"quant_method": "hqq"}, {"W_q": (mx.uint8, 128, 128), "meta": (mx.float32, 1)}),
}


@pytest.mark.parametrize("tool", FOREIGN)
def test_what_other_tools_quantized_is_refused_by_the_tools_name(tool, tmp_path):
    config, parts = FOREIGN[tool]
    target = write(tmp_path / "target", "Llama", None)
    drafter = random_drafter(tmp_path / "drafter", drafter_config())
    whole = load_target(target)
    for directory, at in ((target, "model.layers.1."), (drafter, "layers.1.")):

        def change(weights, at=at):
            weights.pop(f"{at}{Q}.weight")
            weights |= {f"{at}{Q}.{name}": numbers(*like) for name, like in parts.items()}

        edit_weights(directory, change)
        for named in (config, None):
            edit_config(directory, quantization_config=named)
            words = refusal(lambda at=at: open_target(target) if "model" in at else open_drafter(drafter, whole))
            assert f"{directory / 'config.json'}: weights quantized with {tool} are not supported" in words
            assert sort_of(Facts.read(directory)).words == words, "the Models tab says the same before a download"
        edit_config(directory, quantization_config={"quant_method": "exl9"})
        words = refusal(lambda at=at: open_target(target) if "model" in at else open_drafter(drafter, whole))
        assert "exl9" in words, "a tool that nobody knows here is named as it names itself"


def test_a_target_that_is_refused_leaves_the_previous_model(tmp_path):
    engine = PresetEngine.__new__(PresetEngine)  # without a first preset
    engine.machine = mlx_device()
    engine._clear()
    engine.load(choice("A"))
    directory = write(tmp_path / "m", "Llama", None)
    edit_config(directory, quantization_config=FOREIGN["GPTQ"][0])
    edit_weights(directory, lambda w: w.update({f"model.layers.1.{Q}.qweight": numbers(mx.int32, 16, 256)}))
    words = refusal(lambda: engine.load(choice("A", target=directory)))
    assert "weights quantized with GPTQ" in words and words.endswith(" stays loaded.")
    assert races(engine)


def test_a_quantization_that_the_files_no_longer_have_is_none(tmp_path):
    directory = write(tmp_path / "m", "Llama", None)
    expected = own_logits(directory)
    edit_config(directory, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    (directory / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "FP8"}}))
    assert mx.array_equal(logits(directory), expected)
    assert sort_of(Facts.read(directory)).words == "Llama target of 3 layers, f32."


# ---- drafters --------------------------------------------------------------------------------------------


def drafter_config(**more) -> dict:
    config = SIZES | {"architectures": ["Qwen3DSparkModel"], "num_hidden_layers": 3, "num_target_layers": 3}
    config |= {
        "block_size": 5,
        "mask_token_id": 250,
        "rope_theta": 1e4,
        "target_layer_ids": [-1, 0, 1],
        "markov_rank": 64,
    }
    more = {"markov_head_type": "gated", "enable_confidence_head": True, "confidence_head_with_markov": True} | more
    return config | more


def of_layers(bits: int, group_size: int, mode: str = "affine") -> dict:
    return {"bits": bits, "group_size": group_size, "mode": mode}


DRAFTED = {  # what converters give a layer: (settings of the whole, of single layers, which layers)
    "one for all": (of_layers(8, 64), {}, ""),
    "by layer": (of_layers(4, 64), {"fc": of_layers(8, 32), "lm_head": of_layers(6, 64), Q: of_layers(3, 32)}, ""),
    "some dense": (of_layers(4, 32), {"markov_head.markov_w2": False, "lm_head": False}, ""),
    "attention alone": (of_layers(5, 64), {"fc": of_layers(8, 32)}, "self_attn"),
    "mxfp4": (of_layers(4, 32, "mxfp4"), {"lm_head": of_layers(8, 64)}, ""),
    "nvfp4": (of_layers(4, 16, "nvfp4"), {}, ""),
    "mxfp8": (of_layers(8, 32, "mxfp8"), {"embed_tokens": of_layers(4, 32, "mxfp4")}, ""),
}


@pytest.fixture(scope="module")
def plain_target(tmp_path_factory):
    return load_target(write(tmp_path_factory.mktemp("plain") / "m", "Llama", None))


@pytest.mark.parametrize("form", DRAFTED)
def test_drafters_load_with_what_every_layer_has(form, tmp_path, plain_target):
    whole, single, only = DRAFTED[form]
    dense = random_drafter(tmp_path / "dense", drafter_config())
    packed = random_drafter(tmp_path / "packed", drafter_config())
    listed: dict[str, dict | bool] = {}

    def change(weights):
        for path in [n.removesuffix(".weight") for n, w in weights.items() if n.endswith(".weight") and w.ndim == 2]:
            own = next((s for place, s in single.items() if place in path), whole)
            if own is False or only not in path:
                listed[path] = False
                continue
            if own is not whole:
                listed[path] = own
            w, s, *b = mx.quantize(weights[f"{path}.weight"], **own)
            same[f"{path}.weight"] = mx.dequantize(w, s, *b, **own).astype(mx.float32)
            weights |= dict(zip([f"{path}.{n}" for n in ("weight", "scales", "biases")], [w, s, *b], strict=False))

    same: dict[str, mx.array] = {}
    edit_weights(packed, change)
    edit_weights(dense, lambda w: w.update(same))
    expected = proposal(load_drafter(dense, plain_target, "stored"))
    spellings = (
        {"quantization": whole | listed},
        {"quantization_config": whole | listed},
        {"quantization_config": whole},
    )
    for spelling in spellings:
        edit_config(packed, **{"quantization": None, "quantization_config": None} | spelling)
        drafter = load_drafter(packed, plain_target, "stored")
        found = proposal(drafter)
        assert mx.allclose(found, expected, rtol=0.02, atol=0.02 * mx.abs(expected).max().item()), spelling
        assert_counted(packed, drafter.weights, "stored")
    for precision in ("auto", "bf16", "8-bit", "4-bit"):
        assert_counted(packed, open_drafter(packed, plain_target, precision).weights, precision)


def proposal(drafter) -> mx.array:
    """Logits and confidence of one block, in a row."""
    context = drafter.begin()
    _, taps = drafter.target.forward(IDS, drafter.target.new_cache(), drafter.taps)
    context.extend(IDS, taps)
    p = context.propose(IDS[-1:], drafter.info.max_drafts, lambda z, _: (mx.full((len(z),), 7), None), confidence=True)
    return mx.concatenate([p.logits.flatten(), p.confidence.flatten()]).astype(mx.float32)


def test_a_drafters_layer_that_its_tensors_contradict(tmp_path, plain_target):
    directory = random_drafter(tmp_path / "d", drafter_config())

    def change(weights):
        parts = mx.quantize(weights["fc.weight"], 32, 8)
        weights |= dict(zip(("fc.weight", "fc.scales", "fc.biases"), parts, strict=True))

    edit_weights(directory, change)
    for own in ({"bits": 4, "group_size": 64}, {"bits": 8, "group_size": 64}, False):
        edit_config(directory, quantization=of_layers(8, 32) | {"fc": own})
        assert "the quantization of fc is" in refusal(lambda: open_drafter(directory, plain_target))
    edit_config(directory, quantization=of_layers(4, 64))
    assert open_drafter(directory, plain_target, "stored").weights.fc.bits == 8, (
        "as mlx-lm, where a layer is not listed"
    )


def test_a_dense_drafter_with_a_copy_of_a_quantized_targets_config(tmp_path, plain_target):
    directory = random_drafter(tmp_path / "d", drafter_config())
    own = {"model.layers.1.mlp.up_proj": of_layers(3, 128), f"layers.1.{Q}": of_layers(8, 32), "lm_head": False}
    copied = {"quantization": of_layers(4, 64) | own, "quantization_config": {"quant_method": "fp8"}}
    edit_config(directory, **copied)
    assert open_drafter(directory, plain_target).info.precision == "f32"


# ---- the memory estimate ---------------------------------------------------------------------------------


def assert_counted(directory: Path, module: nn.Module, precision: str, device: Device = CPU) -> None:
    weights = sum(w.nbytes for _, w in tree_flatten(module.parameters()))
    assert Footprint(Facts.read(directory), precision, device).bytes == weights, (precision, device.kind)


@pytest.mark.parametrize("form", [None, *FORMS])
@pytest.mark.parametrize("family", CONFIGS)
def test_the_estimate_is_what_is_loaded(family, form, tmp_path):
    directory = write(tmp_path / "m", family, form)
    if form == "mixture":  # no layer is listed: 8 bits of group 32 have the shapes of 4 bits of group 64
        q = {"bits": 4, "group_size": 64}
        edit_config(directory, quantization=q, quantization_config=q)
    for precision in ("stored", "auto", "bf16", "8-bit", "4-bit"):
        assert_counted(directory, open_target(directory, precision).model, precision)
    if family == "Gemma-4" and form != "mixture":
        return
    facts = Facts.read(directory)
    assert Footprint(facts, "auto", METAL).bytes == Footprint(facts, "stored", CPU).bytes
    gc.collect()
    mx.clear_cache()
    before = mx.get_active_memory()
    target = load_target(directory, "auto")
    held = mx.get_active_memory() - before
    assert target.vocab_size == VOCABULARY
    assert Footprint(facts, "auto", CPU).bytes == pytest.approx(held, rel=0.02)


@pytest.mark.parametrize("form", [None, "4-bit"])
def test_experts_are_counted_and_stay_quantized_on_the_cpu(form, tmp_path, monkeypatch):
    """Their weights have three axes. MLX's CPU has their products in float32 and quantized only."""
    experts = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 192}
    config = {"model_type": "gemma4_unified", "text_config": SIZES | GEMMA | experts, "vocab_size": VOCABULARY}
    monkeypatch.setitem(CONFIGS, "experts", (gemma4, config, mx.bfloat16))
    directory = write(tmp_path / "m", "experts", form)
    if form:
        assert mx.array_equal(logits(directory, "auto"), own_logits(directory))
    else:  # as transformers names and joins them
        at, join = "language_model.model.layers.{}.experts.", "{}gate_up_proj"

        def rename(weights):
            for place in map(at.format, range(3)):
                gate, up, down = (weights.pop(f"{place}switch_glu.{n}_proj.weight") for n in ("gate", "up", "down"))
                weights |= {join.format(place): mx.concatenate([gate, up], axis=-2), f"{place}down_proj": down}

        edit_weights(directory, rename)
    for precision in ("stored", "auto", "8-bit", "4-bit") if form else ("8-bit", "4-bit"):
        assert_counted(directory, open_target(directory, precision).model, precision)
    for precision in ("bf16",) if form else ("stored", "auto", "bf16"):
        assert "choose 8-bit or 4-bit" in refusal(lambda p=precision: open_target(directory, p))


def test_mostly_dense_is_dense_on_the_cpu_once_any_layer_is_quantized(tmp_path):
    directory = write(tmp_path / "m", "Llama", "mixture")
    dense = write(tmp_path / "dense", "Llama", None)
    one = {n: w for n, w in mx.load(str(directory / "model.safetensors")).items() if ".1.mlp.up_proj." in n}
    edit_weights(dense, lambda w: w.update(one))
    for precision in ("auto", "bf16"):
        target = open_target(dense, precision)
        assert target.precision == "bf16 (dequantized from f32 and 3-bit)"
        assert_counted(dense, target.model, precision)
    assert open_target(dense, "stored").precision == "f32"


def test_where_the_kernel_needs_more_columns(monkeypatch, tmp_path, plain_target):
    monkeypatch.setattr("dspark_core.models.weights.narrowest", lambda: 128)
    directory = random_drafter(tmp_path / "d", drafter_config())

    def change(weights):
        for name in ("markov_head.markov_w1", "markov_head.markov_w2"):
            parts = mx.quantize(weights[f"{name}.weight"], 64, 8)
            weights |= {f"{name}.{n}": a for n, a in zip(("weight", "scales", "biases"), parts, strict=True)}

    edit_weights(directory, change)
    for precision in ("stored", "8-bit", "4-bit"):
        assert_counted(directory, open_drafter(directory, plain_target, precision).weights, precision, CUDA)


@pytest.mark.parametrize("mode", ["affine", "mxfp4"])
def test_numbers_of_the_cache(mode, tmp_path):
    """A float16 model whose embedding has a float mode computes in float32."""
    directory = write(tmp_path / "m", "Qwen3", "4-bit" if mode == "affine" else mode)
    target = load_target(directory, "stored")
    cache = target.new_cache()
    target.forward(IDS, cache)
    assert cache[0].keys.dtype.size == Footprint(Facts.read(directory), "stored", CPU).number_bytes
