"""Stored, dequantized and quantized weights, for targets and drafters."""

import mlx.core as mx
import mlx.nn as nn
import pytest

from dspark_core.decode.rounds import Settings
from dspark_core.decode.schedule import FullBlock
from dspark_core.decode.speculative import speculative
from dspark_core.models.checkpoint import load_drafter
from dspark_core.models.target import load_target
from dspark_core.models.weights import MIN_ROWS, wide_product
from dspark_core.presets import load_presets
from tests.decode.helpers import NEVER, output, plain_output


def kinds(module):
    return {type(m).__name__ for _, m in module.named_modules() if "weight" in m}


@pytest.mark.parametrize("precision", ["bf16", "8-bit", "4-bit"])
@pytest.mark.parametrize("draft_precision", ["stored", "bf16", "8-bit", "4-bit"])
def test_converted_pairs_stay_exact(golden_a, precision, draft_precision):
    target = load_target(golden_a.path / "target", precision)
    drafter = load_drafter(golden_a.path / "drafter", target, draft_precision)
    assert target.precision == f"{precision} (converted from f32)"
    assert target.dtype == mx.bfloat16
    assert ("QuantizedLinear" in kinds(target.model)) == (precision != "bf16")
    assert ("QuantizedLinear" in kinds(drafter.weights)) == draft_precision.endswith("bit")
    prompt = golden_a.trace["prompt_ids"]
    expected = plain_output(target, prompt, 40)
    settings = Settings(40, stop_ids=NEVER)
    assert output(speculative(target, drafter, prompt, settings, FullBlock())) == expected


def test_dense_weights_keep_their_dtype_under_auto(golden_a):
    assert golden_a.target.precision == golden_a.drafter.info.precision == "f32"
    assert golden_a.target.dtype == mx.float32


def test_embedded_model_is_dequantized_on_the_cpu(embedded):
    on_cpu = mx.default_device() == mx.Device(mx.cpu)
    expected = "bf16 (dequantized from 4-bit)" if on_cpu else "4-bit"
    assert embedded.target.precision == expected
    for drafter in embedded.drafters.values():
        assert drafter.info.precision == ("bf16 (dequantized from 8-bit)" if on_cpu else "8-bit")


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_wide_product_is_bit_equal(rows):
    layer = nn.Linear(96, MIN_ROWS + 6, bias=False)
    layer.set_dtype(mx.bfloat16)
    x = mx.random.normal((rows, 96)).astype(mx.bfloat16)
    assert mx.array_equal(wide_product(layer, x), layer(x))
    table = nn.Embedding(MIN_ROWS + 6, 96)
    assert mx.array_equal(wide_product(table, x.astype(mx.float32)), table.as_linear(x.astype(mx.float32)))
    packed = nn.QuantizedLinear.from_linear(nn.Linear(128, MIN_ROWS, bias=False))
    y = mx.random.normal((rows, 128))
    assert mx.array_equal(wide_product(packed, y), packed(y))


def test_where_the_kernel_needs_more_columns_narrow_quantized_layers_are_dense(monkeypatch):
    """MLX's CUDA kernel leaves products over 64 columns unwritten; elsewhere nothing is changed."""
    path = load_presets()[0].drafters[0].path
    target = load_target(load_presets()[0].target)
    previous = mx.array([5, 79])
    as_it_is = load_drafter(path, target, "stored").weights.markov_head
    assert isinstance(as_it_is.markov_w2, nn.QuantizedLinear)
    monkeypatch.setattr("dspark_core.models.weights.narrowest", lambda: 128)
    head = load_drafter(path, target, "stored").weights.markov_head
    assert type(head.markov_w2) is nn.Linear and isinstance(head.markov_w1, nn.QuantizedEmbedding)
    bias, expected = head.bias(previous, None, None)[0], as_it_is.bias(previous, None, None)[0]
    assert mx.allclose(bias.astype(mx.float32), expected.astype(mx.float32), atol=0.2, rtol=0.03)
