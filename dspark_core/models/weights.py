"""Weights in the precision that was asked for.

`"stored"` leaves a module as its files have it; `"bf16"`, `"8-bit"` and `"4-bit"` (group 64) convert it at
load; `"auto"` is "stored" on a GPU. On MLX's CPU backend quantized weights with 16-bit activations are
several times slower than dense bfloat16, so there "auto" dequantizes them, and leaves dense weights alone, and
experts, whose products that backend has in float32 and quantized only.

Reads the weights of an opened model, piece by piece, so that loading shows its progress and can be stopped.

Products with the tall matrices of a vocabulary, on both halves at once where that pays.

MLX's CPU backend runs one operation at a time on one core. A head of V rows is a fifth of the embedded model's
work, so on the CPU its two halves run on two streams (measured on 2 cores: 1.6 times as fast, bit for bit
the same), on more where `cpu_streams` found that to pay. GPUs and quantized weights take the layer as it is.
"""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear
from mlx_lm.utils import dequantize_model

from ..errors import Cancelled, ModelError
from .config import GROUP_SIZE, PRECISIONS
from .cpu_streams import STREAMS
from .quantization import NARROW

DTYPE_WORDS = {mx.bfloat16: "bf16", mx.float16: "f16", mx.float32: "f32"}


def check_precision(precision: str) -> None:
    if precision not in PRECISIONS:
        raise ModelError(f"Unknown precision {precision!r}: choose one of {', '.join(PRECISIONS)}.")


def stored_words(module: nn.Module) -> str:
    """ "4-bit", "8-bit", "bf16", ...: the precision that most of a module's weights have."""
    sizes: dict[str, int] = {}
    for layer in _leaves(module):
        weight = layer.get("weight")
        if weight is None:
            continue
        bits = getattr(layer, "bits", None)
        words = f"{bits}-bit" if bits else DTYPE_WORDS.get(weight.dtype, str(weight.dtype))
        sizes[words] = sizes.get(words, 0) + weight.size * (32 // bits if bits else 1)
    return max(sizes, key=lambda words: sizes[words])


def convert(module: nn.Module, precision: str, name: str = "The model") -> str:
    """Bring `module` to `precision` in place (lazily) and return it in words for the page. Raises ModelError, with its
    `name`, where its experts cannot run so."""
    words = _converted(module, precision)
    experts = [layer for layer in _leaves(module) if isinstance(layer, SwitchLinear)]
    if mx.default_device() == mx.Device(mx.cpu) and any(e.weight.dtype != mx.float32 for e in experts):
        raise ModelError(f"{name} has experts in {words}, which MLX's CPU cannot run: choose 8-bit or 4-bit.")
    return words


def _converted(module: nn.Module, precision: str) -> str:
    stored = stored_words(module)
    packed = [layer for layer in _leaves(module) if hasattr(layer, "bits")]
    if precision == "auto":
        on_cpu = mx.default_device() == mx.Device(mx.cpu)
        experts = any(isinstance(layer, QuantizedSwitchLinear) for layer in packed)
        precision = "bf16" if packed and on_cpu and not experts else "stored"
    if precision == "stored" or (precision == stored and not (packed and precision == "bf16")):
        _dequantize_narrow(module)
        return stored
    dequantize_model(module)
    # A gated delta net's decay is an exponential of an exponential of these; mlx-lm keeps them as they are, too.
    decays = [(name, w) for name, w in tree_flatten(module.parameters()) if name.endswith("A_log")]
    module.set_dtype(mx.bfloat16)
    module.update(tree_unflatten(decays))
    if precision != "bf16":
        bits = int(precision.removesuffix("-bit"))
        nn.quantize(module, group_size=GROUP_SIZE, bits=bits, class_predicate=_fits_groups)
    verb = "dequantized" if precision == "bf16" and packed else "converted"
    if packed and not stored.endswith("-bit"):  # most of it is dense
        stored += f" and {max(packed, key=lambda layer: layer.weight.nbytes).bits}-bit"
    return f"{precision} ({verb} from {stored})"


def narrowest() -> int:
    """Columns from which on a quantized product can be relied on.

    MLX 0.32.4's CUDA kernel leaves the result unwritten where a row has only 64, so a Markov head of that rank drafted
    nonsense (measured on an H100; 128 columns are right).
    """
    return NARROW if mx.cuda.is_available() else 0


def _dequantize_narrow(module: nn.Module) -> None:
    """Make quantized layers that have too few columns dense; they are small."""
    dense = {}
    for path, layer in module.named_modules():
        if isinstance(layer, nn.QuantizedLinear) and layer.weight.shape[-1] * 32 // layer.bits < narrowest():
            weight = mx.dequantize(layer.weight, layer.scales, layer.biases, layer.group_size, layer.bits, layer.mode)
            plain = nn.Linear(1, 1, bias=False)
            plain.weight = weight
            if "bias" in layer:
                plain.bias = layer.bias
            dense[path] = plain
    if dense:
        module.update_modules(tree_unflatten(list(dense.items())))


def _fits_groups(_path: str, layer: nn.Module) -> bool:
    if not hasattr(layer, "to_quantized"):
        return False
    columns = layer.weight.shape[-1]
    return columns % GROUP_SIZE == 0 and columns >= narrowest()


def _leaves(module: nn.Module) -> list[nn.Module]:
    return [m for _, m in module.named_modules() if not m.children()]


def read_weights(
    module: nn.Module,
    name: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> None:
    """Evaluate every parameter. `progress` takes bytes done and in all, in the precision that was asked for.

    One at a time and the largest first: a conversion holds a weight in both precisions for a moment, which costs
    least while little else is there. Raises ModelError if a file cannot be read, Cancelled.
    """
    arrays = sorted((w for _, w in tree_flatten(module.parameters())), key=lambda w: w.nbytes, reverse=True)
    total, done = sum(w.nbytes for w in arrays), 0
    progress(0, total)
    for array in arrays:
        if cancelled():
            raise Cancelled
        try:
            mx.eval(array)
        except (RuntimeError, OSError, ValueError) as e:
            raise ModelError(f"The weights of {name} cannot be read ({str(e)[:200].rstrip('.')}).") from None
        done += array.nbytes
        progress(done, total)


def rows_of(layer: nn.Module, ids: mx.array) -> nn.Linear | nn.QuantizedLinear:
    """The rows `ids` [n] of a linear layer or an embedding [V, d], in the precision it has: a linear layer [n, d]."""
    rows = nn.Linear(1, 1, bias=False)
    if "scales" in layer:
        how = {"group_size": layer.group_size, "bits": layer.bits, "mode": layer.mode}
        rows = nn.QuantizedLinear(256, 1, bias=False, **how)
    for name, weight in layer.items():
        rows[name] = weight[ids]
    return rows


MIN_ROWS = 4096


def wide_product(layer: nn.Linear | nn.Embedding, x: mx.array) -> mx.array:
    """x [..., d] times the transposed weight [V, d] of a linear layer without bias or of an embedding: [..., V]."""
    weight = layer.weight
    dense = isinstance(layer, nn.Linear | nn.Embedding)
    in_parts = hasattr(layer, "parts") and x.size >= layer.least_rows * x.shape[-1]
    if in_parts or not dense or weight.shape[0] < MIN_ROWS or mx.default_device() != mx.Device(mx.cpu):
        return layer.as_linear(x) if hasattr(layer, "as_linear") else layer(x)
    half = weight.shape[0] // 2
    return mx.concatenate([x @ weight[:half].T, mx.matmul(x, weight[half:].T, stream=STREAMS[0])], axis=-1)
