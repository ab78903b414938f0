"""The target in PyTorch: an mlx-lm or Hugging Face directory of the Llama or Qwen3 family, frozen.

Two ways through the same layers: `forward` over whole rows (features for training), and `step` for one
position of every row with a static cache (writing data). Shapes: R rows, T positions, d hidden size, m taps.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from . import TrainingError

FAMILIES = ("llama", "qwen3")


class Shape(NamedTuple):
    heads: int
    kv_heads: int
    head_dim: int
    eps: float


class LayerWeights(NamedTuple):
    """Weights of one layer; q, k, v and gate, up are stacked so that each needs one product."""

    input_norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    q_norm: Tensor | None
    k_norm: Tensor | None
    out: Tensor
    post_norm: Tensor
    gate_up: Tensor
    down: Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm over the last axis, computed in float32, in the type of x."""
    f = x.float()
    return (f * torch.rsqrt(f.square().mean(-1, keepdim=True) + eps) * weight.float()).to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate-half RoPE of x [..., T, head_dim] with cos, sin [..., T, head_dim/2]."""
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)


def project_qkv(x: Tensor, w: LayerWeights, s: Shape, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [R, heads, T, hd], keys and values [R, kv_heads, T, hd] of x [R, T, d]."""
    qkv = F.linear(rms_norm(x, w.input_norm, s.eps), w.qkv, w.qkv_bias)
    qkv = qkv.unflatten(-1, (s.heads + 2 * s.kv_heads, s.head_dim)).transpose(1, 2)
    q, k, v = qkv.split([s.heads, s.kv_heads, s.kv_heads], dim=1)
    if w.q_norm is not None:
        q, k = rms_norm(q, w.q_norm, s.eps), rms_norm(k, w.k_norm, s.eps)
    return rotate(q, cos, sin), rotate(k, cos, sin), v


def rest_of_layer(x: Tensor, attended: Tensor, w: LayerWeights, s: Shape) -> Tensor:
    """The layer after attention: output projection and MLP. attended [R, heads, T, hd]."""
    x = x + F.linear(attended.transpose(1, 2).flatten(2), w.out)
    gate, up = F.linear(rms_norm(x, w.post_norm, s.eps), w.gate_up).chunk(2, dim=-1)
    return x + F.linear(F.silu(gate) * up, w.down)


def layer_forward(x: Tensor, w: LayerWeights, s: Shape, cos: Tensor, sin: Tensor) -> Tensor:
    """One layer over whole rows x [R, T, d], causal."""
    q, k, v = project_qkv(x, w, s, cos, sin)
    attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=s.heads != s.kv_heads)
    return rest_of_layer(x, attended, w, s)


def attend_cached(
    qkv: tuple[Tensor, Tensor, Tensor], s: Shape, keys: Tensor, values: Tensor, at: Tensor, mask: Tensor
) -> Tensor:
    """Attention [R, heads, 1, hd] of one position `at` [1] of every row; keys and values [R, kv_heads, T, hd] are
    written there and the first len(mask) positions read."""
    q, k, v = qkv
    keys.index_copy_(2, at, k)
    values.index_copy_(2, at, v)
    view = mask.shape[-1]
    # The query heads that share a key head stand in the place of queries: each key is read once.
    q = q.reshape(q.shape[0], s.kv_heads, s.heads // s.kv_heads, s.head_dim)
    mask = mask.expand(q.shape[0], s.kv_heads, q.shape[2], view)
    attended = F.scaled_dot_product_attention(q, keys[:, :, :view], values[:, :, :view], attn_mask=mask)
    return attended.reshape(q.shape[0], s.heads, 1, s.head_dim)


@dataclass
class TorchTarget:
    """A frozen target. `layer`, `qkv` and `rest` are the functions above, or those compiled."""

    directory: Path
    config: dict
    shape: Shape
    embed: Tensor  # [V, d]
    head: Tensor  # [V, d]
    layers: list[LayerWeights]
    norm: Tensor
    stop_ids: frozenset[int]
    layer: Callable[..., Tensor] = layer_forward
    qkv: Callable[..., tuple[Tensor, Tensor, Tensor]] = project_qkv
    rest: Callable[..., Tensor] = rest_of_layer

    @classmethod
    def load(cls, directory: str | Path, device: str = "cpu", dtype: torch.dtype | None = None) -> "TorchTarget":
        """Load a directory; dtype defaults to bfloat16 on CUDA and float32 elsewhere.

        Raises TrainingError, in one sentence, for a missing file or tensor and for another family.
        """
        directory = Path(directory)
        dtype = dtype or (torch.bfloat16 if device.startswith("cuda") else torch.float32)
        try:
            config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        except OSError as e:
            raise TrainingError(f"{directory} is not a model directory: {e}.") from None
        if config.get("model_type") not in FAMILIES or config.get("rope_traditional"):
            raise TrainingError(
                f"{directory / 'config.json'} has model_type {config.get('model_type')!r}; training runs for the "
                f"{' and '.join(FAMILIES)} families."
            )
        read = _WeightReader(directory, config, device, dtype)
        heads, eos = config["num_attention_heads"], config.get("eos_token_id")
        embed, head = read["model.embed_tokens"], read.optional("lm_head")
        return cls(
            directory=directory,
            config=config,
            shape=Shape(
                heads=heads,
                kv_heads=config.get("num_key_value_heads", heads),
                head_dim=config.get("head_dim") or config["hidden_size"] // heads,
                eps=config.get("rms_norm_eps", 1e-6),
            ),
            embed=embed,
            head=embed if head is None else head,
            layers=[read.layer(i) for i in range(config["num_hidden_layers"])],
            norm=read["model.norm"],
            stop_ids=frozenset([eos] if isinstance(eos, int) else eos or []),
        )

    @property
    def vocab_size(self) -> int:
        return self.embed.shape[0]

    @property
    def hidden_size(self) -> int:
        return self.embed.shape[1]

    @property
    def device(self) -> torch.device:
        return self.embed.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embed.dtype

    @property
    def is_compiled(self) -> bool:
        return self.layer is not layer_forward

    def compiled(self) -> "TorchTarget":
        """The same target with its layer compiled once and used for all; the cache's view grows, so that part of a
        step stays as it is."""
        whole, qkv, rest = (torch.compile(f, dynamic=False) for f in (layer_forward, project_qkv, rest_of_layer))
        return replace(self, layer=whole, qkv=qkv, rest=rest)

    def rope(self, length: int) -> tuple[Tensor, Tensor]:
        """cos and sin [length, head_dim/2] of positions 0..length-1."""
        return rope_table(self.config, self.shape.head_dim, length, self.device)

    @torch.no_grad()
    def forward(self, ids: Tensor, taps: tuple[int, ...] = ()) -> tuple[Tensor, Tensor | None]:
        """Hidden states [R, T, d] after the final norm of rows ids [R, T], and the taps [R, T, m*d]:
        outputs of those layers, -1 being the embedding's; None without taps."""
        cos, sin = self.rope(ids.shape[1])
        x = self.embed[ids]
        tapped = {-1: x} if -1 in taps else {}
        for i, w in enumerate(self.layers):
            x = self.layer(x, w, self.shape, cos, sin)
            if i in taps:
                tapped[i] = x
        features = torch.cat([tapped[i] for i in taps], dim=-1) if taps else None
        return rms_norm(x, self.norm, self.shape.eps), features

    def new_cache(self, rows: int, length: int) -> tuple[list[Tensor], list[Tensor]]:
        """Zero keys and values [rows, kv_heads, length, head_dim] for each layer."""
        size = (rows, self.shape.kv_heads, length, self.shape.head_dim)

        def zeros():
            return [torch.zeros(size, device=self.device, dtype=self.dtype) for _ in self.layers]

        return zeros(), zeros()

    @torch.no_grad()
    def step(
        self, ids: Tensor, at: Tensor, cache: tuple[list[Tensor], list[Tensor]], tables: tuple, mask: Tensor
    ) -> Tensor:
        """Hidden states [R, d] after the final norm for tokens ids [R] at position `at` [1]; mask [view] is 0
        up to there and -inf after it; tables are `rope(length)`."""
        cos, sin = (t.index_select(0, at) for t in tables)
        x = self.embed[ids][:, None]
        for w, keys, values in zip(self.layers, *cache, strict=True):
            qkv = self.qkv(x, w, self.shape, cos, sin)
            x = self.rest(x, attend_cached(qkv, self.shape, keys, values, at, mask), w, self.shape)
        return rms_norm(x[:, 0], self.norm, self.shape.eps)


def rope_table(config: dict, head_dim: int, length: int, device) -> tuple[Tensor, Tensor]:
    """cos and sin [length, head_dim/2] for a config's rope_theta and scaling (none or Llama-3's)."""
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = config.get("rope_theta") or scaling.get("rope_theta") or 10000.0
    return _rope_table(theta, tuple(sorted(scaling.items())), head_dim, length, str(device))


@lru_cache(maxsize=32)
def _rope_table(theta: float, scaling: tuple, head_dim: int, length: int, device: str) -> tuple[Tensor, Tensor]:
    fields = dict(scaling)
    inv = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    kind = fields.get("rope_type", fields.get("type", "default"))
    if kind == "llama3":
        low, high, factor = fields["low_freq_factor"], fields["high_freq_factor"], fields["factor"]
        turns = fields["original_max_position_embeddings"] * inv / (2 * math.pi)
        smooth = ((turns - low) / (high - low)).clamp(0, 1)
        inv = inv * smooth + inv / factor * (1 - smooth)
    elif kind != "default":
        raise TrainingError(f"RoPE scaling {kind!r} is not supported in training; none and 'llama3' are.")
    angles = torch.outer(torch.arange(length, dtype=torch.float64), inv).float().to(device)
    return angles.cos(), angles.sin()


def dequantize(packed: Tensor, scales: Tensor, biases: Tensor, group_size: int) -> Tensor:
    """Float32 matrix [rows, cols] of MLX's affine layout: `packed` [rows, cols*bits/32] uint32, lowest bits
    first, and one scale and bias for each group of columns. Widths 2, 4 and 8 (those that divide 32)."""
    bits = packed.shape[1] * 32 // (scales.shape[1] * group_size)
    if 32 % bits:
        raise TrainingError(f"Weights quantized to {bits} bits are not supported in training; 2, 4 and 8 are.")
    words = packed.view(torch.int32)
    shifts = torch.arange(0, 32, bits, dtype=torch.int32, device=words.device)
    q = (words.unsqueeze(-1) >> shifts) & ((1 << bits) - 1)
    q = q.reshape(packed.shape[0], -1, group_size).float()
    return (q * scales.float().unsqueeze(-1) + biases.float().unsqueeze(-1)).flatten(1)


class _WeightReader:
    """The tensors of a model directory, each handed out once, dense, in one type, on one device."""

    def __init__(self, directory: Path, config: dict, device: str, dtype: torch.dtype):
        self.directory, self.quantization, self.device, self.dtype = (
            directory,
            config.get("quantization") or {},
            device,
            dtype,
        )
        self.raw: dict[str, Tensor] = {}
        for file in sorted(directory.glob("model*.safetensors")):
            self.raw |= load_file(file)
        if not self.raw:
            raise TrainingError(f"{directory} holds no model*.safetensors file.")

    def optional(self, name: str) -> Tensor | None:
        weight = self.raw.pop(f"{name}.weight", None)
        if weight is None:
            return None
        if f"{name}.scales" in self.raw:
            by_layer = self.quantization.get(name)
            group = (by_layer if isinstance(by_layer, dict) else self.quantization)["group_size"]
            weight = dequantize(weight, self.raw.pop(f"{name}.scales"), self.raw.pop(f"{name}.biases"), group)
        return weight.to(device=self.device, dtype=self.dtype)

    def __getitem__(self, name: str) -> Tensor:
        weight = self.optional(name)
        if weight is None:
            raise TrainingError(f"{self.directory} has no tensor {name}.weight.")
        return weight

    def stacked(self, *names: str) -> Tensor:
        return torch.cat([self[n] for n in names])

    def layer(self, i: int) -> LayerWeights:
        p = f"model.layers.{i}."
        qkv = [f"{p}self_attn.{n}_proj" for n in "qkv"]
        biases = [self.raw.get(f"{n}.bias") for n in qkv]
        return LayerWeights(
            input_norm=self[p + "input_layernorm"],
            qkv=self.stacked(*qkv),
            qkv_bias=None if biases[0] is None else torch.cat(biases).to(device=self.device, dtype=self.dtype),
            q_norm=self.optional(p + "self_attn.q_norm"),
            k_norm=self.optional(p + "self_attn.k_norm"),
            out=self[p + "self_attn.o_proj"],
            post_norm=self[p + "post_attention_layernorm"],
            gate_up=self.stacked(p + "mlp.gate_proj", p + "mlp.up_proj"),
            down=self[p + "mlp.down_proj"],
        )
