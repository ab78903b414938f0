"""A drafter in PyTorch: the block backbone with Qwen3 layers, the vanilla Markov head, the confidence head.

Parameter names are those of the checkpoint. Three formats share the code: DSpark, DeepSpec's DFlash (the same
without heads; the anchor's slot predicts) and z-lab's DFlash (the anchor's slot is discarded).
Shapes: R rows, T positions, A anchors a row, B slots a block, d hidden size, m taps, r Markov rank.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from . import TrainingError
from .torch_target import TorchTarget, dequantize, rms_norm, rope_table, rotate

DEEPSPEC_ARCHITECTURE, ZLAB_ARCHITECTURE = "Qwen3DSparkModel", "DFlashDraftModel"


@dataclass(frozen=True)
class DrafterShape:
    """A drafter's shape, as its config.json has it. `first_slot` 0: the anchor's slot predicts (DeepSpec); 1: it is
    discarded (z-lab)."""

    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    layers: int
    vocab_size: int
    target_layers: int
    eps: float
    rope: dict  # rope_theta and, where the target scales, rope_parameters / rope_scaling
    max_positions: int
    block_size: int
    taps: tuple[int, ...]
    mask_token_id: int
    first_slot: int = 0
    markov_rank: int = 0
    confidence: bool = False

    @property
    def drafts(self) -> int:
        return self.block_size - self.first_slot

    def to_json(self) -> dict:
        """config.json of the checkpoint, in the format's own terms."""
        common = {
            "architectures": [ZLAB_ARCHITECTURE if self.first_slot else DEEPSPEC_ARCHITECTURE],
            "model_type": "qwen3",
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "num_hidden_layers": self.layers,
            "num_target_layers": self.target_layers,
            "rms_norm_eps": self.eps,
            "vocab_size": self.vocab_size,
            "attention_bias": False,
            "hidden_act": "silu",
            "max_position_embeddings": self.max_positions,
            "layer_types": ["full_attention"] * self.layers,
            "block_size": self.block_size,
            **self.rope,
        }
        fields = {"mask_token_id": self.mask_token_id, "target_layer_ids": list(self.taps)}
        if self.first_slot:
            return common | {"tie_word_embeddings": True, "dflash_config": fields}
        heads: dict = {"enable_confidence_head": self.confidence, "markov_rank": self.markov_rank}
        if self.confidence:
            heads["confidence_head_with_markov"] = True
        if self.markov_rank:
            heads["markov_head_type"] = "vanilla"
        return common | {"tie_word_embeddings": False, "num_anchors": 512} | fields | heads

    @staticmethod
    def from_json(raw: dict) -> "DrafterShape":
        """Raises TrainingError for a drafter that this room does not train."""
        kind = (raw.get("architectures") or [None])[0]
        if kind not in (DEEPSPEC_ARCHITECTURE, ZLAB_ARCHITECTURE):
            raise TrainingError(
                f"Drafters of {DEEPSPEC_ARCHITECTURE} and {ZLAB_ARCHITECTURE} are trained here, not {kind!r}."
            )
        if raw.get("markov_head_type", "vanilla") != "vanilla":
            raise TrainingError(f"Only vanilla Markov heads are trained here, not {raw['markov_head_type']!r}.")
        nested = raw.get("dflash_config") or raw
        return DrafterShape(
            hidden_size=raw["hidden_size"],
            intermediate_size=raw["intermediate_size"],
            heads=raw["num_attention_heads"],
            kv_heads=raw["num_key_value_heads"],
            head_dim=raw["head_dim"],
            layers=raw["num_hidden_layers"],
            vocab_size=raw["vocab_size"],
            target_layers=raw["num_target_layers"],
            eps=raw["rms_norm_eps"],
            rope=DrafterShape.rope_of(raw),
            max_positions=raw["max_position_embeddings"],
            block_size=raw["block_size"],
            taps=tuple(nested["target_layer_ids"]),
            mask_token_id=nested["mask_token_id"],
            first_slot=int(kind == ZLAB_ARCHITECTURE),
            markov_rank=raw.get("markov_rank", 0),
            confidence=bool(raw.get("enable_confidence_head")),
        )

    @staticmethod
    def rope_of(config: dict) -> dict:
        """The fields of a config that fix its RoPE."""
        names = ("rope_theta", "rope_scaling", "rope_parameters")
        return {k: config[k] for k in names if config.get(k) is not None}


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class BlockAttention(nn.Module):
    """Queries of the blocks over context and block keys."""

    def __init__(self, c: DrafterShape):
        super().__init__()
        self.head_dim, self.groups = c.head_dim, c.heads // c.kv_heads
        self.q_proj = nn.Linear(c.hidden_size, c.heads * c.head_dim, bias=False)
        self.k_proj = nn.Linear(c.hidden_size, c.kv_heads * c.head_dim, bias=False)
        self.v_proj = nn.Linear(c.hidden_size, c.kv_heads * c.head_dim, bias=False)
        self.o_proj = nn.Linear(c.heads * c.head_dim, c.hidden_size, bias=False)
        self.q_norm, self.k_norm = RMSNorm(c.head_dim, c.eps), RMSNorm(c.head_dim, c.eps)

    def forward(self, x: Tensor, context: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """x [R, Q, d] block rows, context [R, T, d]; rope tables [R, 1, T+Q, hd/2]; mask [R, 1, Q, T+Q]."""

        def split(y: Tensor) -> Tensor:
            return y.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

        both = torch.cat([context, x], dim=1)
        cos, sin = rope
        n = x.shape[1]
        q = rotate(self.q_norm(split(self.q_proj(x))), cos[:, :, -n:], sin[:, :, -n:])
        k = rotate(self.k_norm(split(self.k_proj(both))), cos, sin)
        v = split(self.v_proj(both))
        k, v = k.repeat_interleave(self.groups, 1), v.repeat_interleave(self.groups, 1)
        out = F.scaled_dot_product_attention(q, k.to(v.dtype), v, attn_mask=mask)
        return self.o_proj(out.transpose(1, 2).flatten(2))


class BlockMLP(nn.Module):
    def __init__(self, c: DrafterShape):
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class BlockLayer(nn.Module):
    def __init__(self, c: DrafterShape):
        super().__init__()
        self.self_attn, self.mlp = BlockAttention(c), BlockMLP(c)
        self.input_layernorm = RMSNorm(c.hidden_size, c.eps)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.eps)

    def forward(self, x: Tensor, context: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), context, rope, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class TorchDrafter(nn.Module):
    """The trained tensors of a checkpoint; embedding and output head are the target's."""

    def __init__(self, c: DrafterShape):
        super().__init__()
        self.config = c
        self.fc = nn.Linear(len(c.taps) * c.hidden_size, c.hidden_size, bias=False)
        self.hidden_norm = RMSNorm(c.hidden_size, c.eps)
        self.layers = nn.ModuleList(BlockLayer(c) for _ in range(c.layers))
        self.norm = RMSNorm(c.hidden_size, c.eps)
        if c.markov_rank:
            w1 = nn.Embedding(c.vocab_size, c.markov_rank)
            w2 = nn.Linear(c.markov_rank, c.vocab_size, bias=False)
            self.markov_head = nn.ModuleDict({"markov_w1": w1, "markov_w2": w2})  # bias: w2 w1[previous token]
        if c.confidence:
            self.confidence_head = nn.ModuleDict({"proj": nn.Linear(c.hidden_size + c.markov_rank, 1)})
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, embed: Tensor, taps: Tensor, ids: Tensor, anchors: Tensor) -> Tensor:
        """Hidden states [R, A, drafts, d] of the slots that predict, after the final norm.

        embed [V, d]; taps [R, T, m*d] and ids [R, T] of the rows; anchors [R, A] positions. Block a of a row
        sees the context before its anchor and itself, nothing else (spec of the training attention).
        """
        c = self.config
        (R, T), A, B = ids.shape, anchors.shape[1], c.block_size
        blocks = torch.full((R, A, B), c.mask_token_id, dtype=ids.dtype, device=ids.device)
        blocks[:, :, 0] = ids.gather(1, anchors)
        rope, mask = self.geometry(anchors, T)
        x = self.blocks(embed[blocks.flatten(1)], taps, rope, mask)
        return x.view(R, A, B, -1)[:, :, c.first_slot :]

    def blocks(self, x: Tensor, taps: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """Block rows x [R, A*B, d] through the backbone; the part that is worth compiling."""
        context = self.hidden_norm(self.fc(taps))
        for layer in self.layers:
            x = layer(x, context, rope, mask)
        return self.norm(x)

    def geometry(self, anchors: Tensor, T: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """RoPE tables [R, 1, T+A*B, hd/2] of context and block positions, and the mask [R, 1, A*B, T+A*B], true
        where a block slot (row) sees a key (column): context before its anchor, or its own block."""
        c = self.config
        R, A = anchors.shape
        B, device = c.block_size, anchors.device
        cos, sin = rope_table(c.rope, c.head_dim, T + B, device)
        context = torch.arange(T, device=device)
        slots = (anchors.unsqueeze(-1) + torch.arange(B, device=device)).flatten(1)
        at = torch.cat([context.expand(R, T), slots], dim=1)
        before = context < anchors.repeat_interleave(B, dim=1).unsqueeze(-1)
        block = torch.arange(A, device=device).repeat_interleave(B)
        same_block = (block[:, None] == block).expand(R, -1, -1)
        mask = torch.cat([before, same_block], dim=2).unsqueeze(1)
        return (cos[at].unsqueeze(1), sin[at].unsqueeze(1)), mask

    @torch.no_grad()
    def start_from(self, target: TorchTarget) -> None:
        """Begin as the target's last layers: their weights, and the last tap passed through as the context.

        The drafter norms queries and keys, the target (Llama) does not: the norm weights take the typical size
        that makes attention as sharp as in the target.
        """
        c = self.config
        s = target.shape
        last = target.layers[-c.layers :]
        for layer, w in zip(self.layers, last, strict=True):
            a, m = layer.self_attn, layer.mlp
            q, k, v = w.qkv.split([s.heads * s.head_dim, s.kv_heads * s.head_dim, s.kv_heads * s.head_dim])
            gate, up = w.gate_up.chunk(2)
            attention = ((a.q_proj, q), (a.k_proj, k), (a.v_proj, v), (a.o_proj, w.out))
            for linear, source in (*attention, (m.gate_proj, gate), (m.up_proj, up), (m.down_proj, w.down)):
                linear.weight.copy_(source)
            layer.input_layernorm.weight.copy_(w.input_norm)
            layer.post_attention_layernorm.weight.copy_(w.post_norm)
            for norm, source in ((a.q_norm, w.q_norm), (a.k_norm, w.k_norm)):
                norm.weight.fill_(2.0) if source is None else norm.weight.copy_(source)
        d = c.hidden_size
        self.fc.weight.mul_(0.25)
        self.fc.weight[:, -d:] += torch.eye(d, device=self.fc.weight.device)
        self.hidden_norm.weight.copy_(torch.stack([w.input_norm for w in last]).float().mean(0))
        self.norm.weight.copy_(target.norm)

    @classmethod
    def load(cls, directory: str | Path, device: str = "cpu") -> "TorchDrafter":
        """A trained checkpoint (bf16, float32 or packed) in float32. Raises TrainingError if tensors are missing
        or unexpected; an embedding and head it holds are left out: the target's are used."""
        directory = Path(directory)
        try:
            raw = json.loads((directory / "config.json").read_text(encoding="utf-8"))
            tensors = load_file(directory / "model.safetensors")
        except OSError as e:
            raise TrainingError(f"{directory} is not a drafter: {e}.") from None
        drafter = cls(DrafterShape.from_json(raw))
        for base in [name.removesuffix(".scales") for name in tensors if name.endswith(".scales")]:
            weight, scales, biases = (tensors.pop(f"{base}.{part}") for part in ("weight", "scales", "biases"))
            tensors[f"{base}.weight"] = dequantize(weight, scales, biases, raw["quantization"]["group_size"])
        tensors = {k: v.float() for k, v in tensors.items() if k not in ("embed_tokens.weight", "lm_head.weight")}
        missing, unexpected = drafter.load_state_dict(tensors, strict=False)
        if missing or unexpected:
            wrong = f"no tensor {missing[0]}" if missing else f"an unexpected tensor {unexpected[0]}"
            raise TrainingError(f"{directory} has {wrong}.")
        return drafter.to(device)
