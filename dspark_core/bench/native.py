"""The weights that run here as directories that other engines load: dense, in the formats' own names."""

import json
import shutil
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..models.drafter import Drafter
from ..models.target import Target
from ..models.weights import stored_words

BESIDE = ("*token*", "*.jinja", "vocab*", "merges*")


def write_target(target: Target, source: Path, out: Path) -> dict[str, mx.array]:
    """Write the loaded target, which came from `source`, and return its weights by name. Raises ValueError if it runs
    quantized: another engine's kernels would then run on other weights."""
    if stored_words(target.model).endswith("-bit"):
        raise ValueError("Another engine can be compared on dense weights only: choose --precision bf16.")
    weights = dense(target.model)
    _write(out, source, weights, "mlx")
    for pattern in BESIDE:
        for file in source.glob(pattern):
            shutil.copy(file, out)
    return weights


def write_drafter(drafter: Drafter, source: Path, target_weights: dict[str, mx.array], out: Path) -> None:
    """Write the loaded drafter, which came from `source`, in its native format, which holds the target's embedding and
    head."""
    embed = next(w for n, w in target_weights.items() if n.endswith("embed_tokens.weight"))
    head = next((w for n, w in target_weights.items() if n.endswith("lm_head.weight")), embed)
    shared = {"embed_tokens.weight": embed, "lm_head.weight": head}
    _write(out, source, shared | dense(drafter.weights), "pt")


def dense(module: nn.Module) -> dict[str, mx.array]:
    """Weights by name, with quantized layers dequantized to bfloat16."""
    layers, out = dict(module.named_modules()), {}
    for name, value in tree_flatten(module.parameters()):
        place, _, kind = name.rpartition(".")
        layer = layers.get(place)
        if getattr(layer, "bits", None) is None:
            out[name] = value
        elif kind == "weight":
            plain = mx.dequantize(value, layer.scales, layer.biases, layer.group_size, layer.bits)
            out[name] = plain.astype(mx.bfloat16)
        elif kind not in ("scales", "biases"):
            out[name] = value
    return out


def _write(out: Path, source: Path, weights: dict[str, mx.array], form: str) -> None:
    out.mkdir(parents=True)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    for name in ("quantization", "quantization_config"):
        config.pop(name, None)
    mx.save_safetensors(str(out / "model.safetensors"), weights, metadata={"format": form})
    (out / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
