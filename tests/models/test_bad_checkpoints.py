"""Every checkpoint that does not fit is refused in one sentence that names file, tensor and expectation."""

import mlx.core as mx
import pytest

from dspark_core.decode.plain import plain
from dspark_core.decode.rounds import Settings
from dspark_core.decode.schedule import FullBlock
from dspark_core.decode.speculative import speculative
from dspark_core.errors import DecodeError
from dspark_core.models.checkpoint import load_drafter
from dspark_core.models.target import load_target

from .build import copy, edit_config, edit_weights, refusal


@pytest.fixture
def drafter_dir(tmp_path):
    return copy("drafter", "A", tmp_path)


@pytest.fixture
def target_dir(tmp_path):
    return copy("target", "A", tmp_path)


def refuse_drafter(directory, golden):
    return refusal(lambda: load_drafter(directory, golden.target))


Q = "layers.1.self_attn.q_proj.weight"
WEIGHT_FAULTS = {
    "missing": (lambda w: w.pop(Q), [Q, "no tensor"]),
    "missing norm": (lambda w: w.pop("hidden_norm.weight"), ["hidden_norm.weight", "[64]"]),
    "missing head": (lambda w: w.pop("markov_head.markov_w2.weight"), ["markov_head.markov_w2.weight", "[256, 16]"]),
    "unexpected": (lambda w: w.update({"layers.7.oddity": mx.zeros((1,))}), ["layers.7.oddity"]),
    "wrong shape": (lambda w: w.update({Q: mx.zeros((128, 65))}), [Q, "[128, 65]", "[128, 64]"]),
    "wrong shape in layer 0": (
        lambda w: w.update({"layers.0.self_attn.q_proj.weight": mx.zeros((96, 64))}),
        ["layers.0.self_attn.q_proj.weight", "[96, 64]", "[128, 64]"],
    ),
    "fc of another number of taps": (
        lambda w: w.update({"fc.weight": mx.zeros((64, 128))}),
        ["fc.weight", "[64, 192]"],
    ),
    "wrong kind": (lambda w: w.update({Q: mx.zeros((128, 64), dtype=mx.int32)}), [Q, "I32"]),
}


@pytest.mark.parametrize("fault", WEIGHT_FAULTS)
def test_drafter_tensors(drafter_dir, golden_a, fault):
    change, words = WEIGHT_FAULTS[fault]
    edit_weights(drafter_dir, change)
    message = refuse_drafter(drafter_dir, golden_a)
    for word in [*words, "model.safetensors"]:
        assert word in message, message


def test_a_drafter_without_tensors(drafter_dir, golden_a):
    edit_weights(drafter_dir, lambda weights: weights.clear())
    assert "model*.safetensors has no tensor " in refuse_drafter(drafter_dir, golden_a)


CONFIG_FAULTS = {
    "architecture": ({"architectures": ["Eagle3Model"]}, "Eagle3Model"),
    "no architecture": ({"architectures": None}, "architecture"),
    "DFlash 2": ({"architectures": ["DFlash2DraftModel"]}, "DFlash 2"),
    "hybrid": ({"architectures": ["DFlashDraftModel"]}, "markov_rank 16"),
    "Markov head": ({"markov_head_type": "lstm"}, "lstm"),
    "hidden size": ({"hidden_size": 32}, "hidden_size is 32"),
    "vocabulary": ({"vocab_size": 512}, "vocab_size is 512"),
    "tap too high": ({"target_layer_ids": [0, 1, 3]}, "[0, 1, 3]"),
    "taps not rising": ({"target_layer_ids": [1, 0, 2]}, "strictly increasing"),
    "tap of a wrong kind": ({"target_layer_ids": [0, "1", 2]}, "target_layer_ids"),
    "another target": ({"num_target_layers": 36}, "36 layers"),
    "block size missing": ({"block_size": None}, "block_size"),
    "block size of a wrong kind": ({"block_size": "7"}, "block_size"),
    "block size 1": ({"block_size": 1}, "block_size is 1"),
    "mask id": ({"mask_token_id": 256}, "mask_token_id 256"),
    "layer types": ({"layer_types": ["linear_attention"] * 2}, "layer_types"),
    "no rope": ({"rope_parameters": None}, "rope_theta"),
}


@pytest.mark.parametrize("fault", CONFIG_FAULTS)
def test_drafter_config(drafter_dir, golden_a, fault):
    changes, words = CONFIG_FAULTS[fault]
    edit_config(drafter_dir, **changes)
    message = refuse_drafter(drafter_dir, golden_a)
    assert words in message and "config.json" in message, message


def test_drafter_of_another_target(drafter_dir, golden_e):
    assert "hidden_size is 64" in refuse_drafter(drafter_dir, golden_e)


@pytest.mark.parametrize("keep", [0, 5, 300, 100_000])
def test_truncated_drafter(drafter_dir, golden_a, keep):
    path = drafter_dir / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert str(path) in refuse_drafter(drafter_dir, golden_a)


def test_header_that_is_not_json(drafter_dir, golden_a):
    path = drafter_dir / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[8:12] = b"}}}}"
    path.write_bytes(data)
    assert str(path) in refuse_drafter(drafter_dir, golden_a)


def test_directory_without_files(tmp_path, golden_a):
    assert "config.json" in refuse_drafter(tmp_path, golden_a)
    assert "config.json" in refusal(lambda: load_target(tmp_path / "nowhere"))


def test_config_that_is_not_json(drafter_dir, golden_a):
    (drafter_dir / "config.json").write_text("{")
    assert "JSON" in refuse_drafter(drafter_dir, golden_a)


def test_unknown_precision(golden_a):
    path = golden_a.path / "drafter"
    assert "3-bit" in refusal(lambda: load_drafter(path, golden_a.target, precision="3-bit"))


@pytest.mark.parametrize("keep", [0, 5, 300, 100_000])
def test_truncated_target(target_dir, keep):
    path = target_dir / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert str(path) in refusal(lambda: load_target(target_dir))


def test_target_tensor_missing_or_of_another_shape(target_dir):
    name = "model.layers.2.mlp.up_proj.weight"
    edit_weights(target_dir, lambda w: w.update({name: mx.zeros((96, 63))}))
    message = refusal(lambda: load_target(target_dir))
    assert name in message and "(96, 64)" in message and "model.safetensors" in message
    edit_weights(target_dir, lambda w: w.pop(name))
    message = refusal(lambda: load_target(target_dir))
    assert name in message and "issing" in message


def test_target_of_another_family(target_dir):
    edit_config(target_dir, model_type="mamba")
    assert "'mamba'" in refusal(lambda: load_target(target_dir))


def test_target_with_nan_weights_is_refused_at_load(target_dir):
    name = "model.layers.1.mlp.down_proj.weight"
    edit_weights(target_dir, lambda w: w.update({name: mx.full(w[name].shape, float("nan"))}))
    message = refusal(lambda: load_target(target_dir))
    assert "not finite" in message and "layers.1.mlp.down_proj" in message


def test_nan_in_a_drafter_stops_at_its_first_logits(drafter_dir, golden_a):
    def spoil(w):
        w["layers.1.mlp.down_proj.weight"] = mx.full(w["layers.1.mlp.down_proj.weight"].shape, float("nan"))

    edit_weights(drafter_dir, spoil)
    drafter = load_drafter(drafter_dir, golden_a.target)
    for temperature in (0.0, 1.0):
        settings = Settings(20, temperature=temperature)
        with pytest.raises(DecodeError, match="drafter's logits are not finite at slot 1 of the block at position 21"):
            list(speculative(golden_a.target, drafter, golden_a.trace["prompt_ids"], settings, FullBlock()))


def test_nan_that_shows_later_stops_there(target_dir, golden_a):
    """One token's embedding is NaN: the first forward pass that meets it is named."""
    prompt = golden_a.trace["prompt_ids"]
    greedy = golden_a.trace["greedy_output_ids"]
    target = load_target(target_dir)
    first_new = next(i for i, t in enumerate(greedy) if t not in prompt and t > 3)
    weights = target.model.model.embed_tokens.weight
    spoiled = mx.where((mx.arange(256) == greedy[first_new])[:, None], float("nan"), weights)
    target.model.model.embed_tokens.weight = spoiled
    target.raw_head = lambda hidden: hidden @ weights.T  # the head stays clean: only the input is spoiled
    with pytest.raises(DecodeError, match=f"not finite at position {len(prompt) + first_new}"):
        list(plain(target, prompt, Settings(48, stop_ids=frozenset())))
