"""Weights in the precision that was asked for.

`"stored"` leaves a module as its files have it; `"bf16"`, `"8-bit"` and `"4-bit"` (group 64) convert it at
load; `"auto"` is "stored" on a GPU. On MLX's CPU backend quantized weights with 16-bit activations are
several times slower than dense bfloat16, so there "auto" dequantizes them, and leaves dense weights alone.
"""

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.utils import dequantize_model

from ..errors import ModelError

PRECISIONS = ("auto", "stored", "bf16", "8-bit", "4-bit")
GROUP_SIZE = 64
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
    return max(sizes, key=sizes.get)


def convert(module: nn.Module, precision: str) -> str:
    """Bring `module` to `precision` in place (lazily) and return it in words for the page."""
    stored = stored_words(module)
    quantized = stored.endswith("-bit")
    if precision == "auto":
        on_cpu = mx.default_device() == mx.Device(mx.cpu)
        precision = "bf16" if quantized and on_cpu else "stored"
    if precision in ("stored", stored):
        return stored
    dequantize_model(module)
    module.set_dtype(mx.bfloat16)
    if precision != "bf16":
        bits = int(precision.removesuffix("-bit"))
        nn.quantize(module, group_size=GROUP_SIZE, bits=bits, class_predicate=_fits_groups)
    verb = "dequantized" if precision == "bf16" and quantized else "converted"
    return f"{precision} ({verb} from {stored})"


def _fits_groups(_path: str, layer: nn.Module) -> bool:
    return hasattr(layer, "to_quantized") and layer.weight.shape[-1] % GROUP_SIZE == 0


def _leaves(module: nn.Module) -> list[nn.Module]:
    return [m for _, m in module.named_modules() if not m.children()]
