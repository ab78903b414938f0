"""A drafter in PyTorch: the block backbone with Qwen3 layers, the vanilla Markov head, the confidence head, DFlash 2's
convolutions and candidate selector.

Parameter names are those of the checkpoint. Four formats share the code: DSpark, DeepSpec's DFlash (the same
without heads; the anchor's slot predicts), z-lab's DFlash and DFlash 2 (the anchor's slot is discarded).
Shapes: R rows, T positions, A anchors a row, B slots a block, d hidden size, m taps, r rank of the Markov head or
the selector, K candidates of the selector, G groups of the convolutions' channels.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from . import TrainingError
from .torch_target import TorchTarget, dequantize, rms_norm, rope_table, rotate

DEEPSPEC_ARCHITECTURE, ZLAB_ARCHITECTURE, ZLAB_2_ARCHITECTURE = (
    "Qwen3DSparkModel",
    "DFlashDraftModel",
    "DFlash2DraftModel",
)

DRAFT_VOCABULARY = "draft_vocab.json"  # the target's ids that a reduced vocabulary has, in "ids"
WIDEST_MARGIN = 40.0  # of two logits; more says nothing more
# What may differ between a drafter and the one it goes on from.
METHOD_FIELDS = (
    *("block_size", "first_slot", "markov_rank", "confidence", "selector_rank", "selector_top_k"),
    *("conv_kernel", "conv_group", "max_positions"),
)


@dataclass(frozen=True)
class DrafterShape:
    """A drafter's shape, as its config.json has it. `first_slot` 0: the anchor's slot predicts (DeepSpec); 1: it is
    discarded (z-lab). `selector_rank` above 0: DFlash 2. `window` 0: slots see the whole context before the anchor;
    else a slot at position p sees those after p - window (z-lab's rule) or, `window_of_block`, every slot the last
    `window` before the anchor (speculators')."""

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
    selector_rank: int = 0
    selector_top_k: int = 16
    conv_kernel: int = 2
    conv_group: int = 16
    window: int = 0
    window_of_block: bool = False
    embedding_scale: float = 1.0
    output_multiplier: float = 1.0
    softcap: float = 0.0

    @property
    def drafts(self) -> int:
        return self.block_size - self.first_slot

    def to_json(self) -> dict:
        """config.json of the checkpoint, in the format's own terms."""
        zlab = ZLAB_2_ARCHITECTURE if self.selector_rank else ZLAB_ARCHITECTURE
        common = {
            "architectures": [zlab if self.first_slot else DEEPSPEC_ARCHITECTURE],
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
        own = {"mask_token_id": self.mask_token_id, "target_layer_ids": list(self.taps)}
        if self.selector_rank:
            own |= {
                "block_size": self.block_size,
                "conv_kernel_size": self.conv_kernel,
                "conv_group_size": self.conv_group,
                "selector_rank": self.selector_rank,
                "selector_top_k": self.selector_top_k,
            }
            return common | {"tie_word_embeddings": True, "is_causal": False, "dflash_config": own}
        if self.first_slot:
            return common | {"tie_word_embeddings": True, "dflash_config": own}
        heads: dict = {"enable_confidence_head": self.confidence, "markov_rank": self.markov_rank}
        if self.confidence:
            heads["confidence_head_with_markov"] = True
        if self.markov_rank:
            heads["markov_head_type"] = "vanilla"
        return common | {"tie_word_embeddings": False, "num_anchors": 512} | own | heads

    @staticmethod
    def from_json(raw: dict) -> "DrafterShape":
        """Raises TrainingError for a drafter that this room does not train."""
        kind = (raw.get("architectures") or [None])[0]
        known = (DEEPSPEC_ARCHITECTURE, ZLAB_ARCHITECTURE, ZLAB_2_ARCHITECTURE)
        if kind not in known:
            raise TrainingError(f"Drafters of {', '.join(known)} are trained here, not {kind!r}.")
        if raw.get("markov_head_type", "vanilla") != "vanilla":
            raise TrainingError(f"Only vanilla Markov heads are trained here, not {raw['markov_head_type']!r}.")
        nested = raw | (raw.get("dflash_config") or {})
        layer_types = set(raw.get("layer_types") or ["full_attention"])
        sliding = layer_types == {"sliding_attention"}
        # z-lab's default for sliding layers is a causal block.
        if len(layer_types) > 1 or raw.get("is_causal") or (sliding and raw.get("is_causal") is None):
            raise TrainingError("Drafters with mixed layer_types or a causal block are not trained here.")
        selector = {}
        if kind == ZLAB_2_ARCHITECTURE:
            selector = {
                "selector_rank": nested["selector_rank"],
                "selector_top_k": nested["selector_top_k"],
                "conv_kernel": nested["conv_kernel_size"],
                "conv_group": nested["conv_group_size"],
            }
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
            block_size=nested["block_size"],
            taps=tuple(nested["target_layer_ids"]),
            mask_token_id=nested["mask_token_id"],
            first_slot=int(kind != DEEPSPEC_ARCHITECTURE),
            markov_rank=raw.get("markov_rank", 0),
            confidence=bool(raw.get("enable_confidence_head")),
            window=raw["sliding_window"] if sliding else 0,
            embedding_scale=nested.get("input_embedding_scale") or 1.0,
            output_multiplier=nested.get("output_multiplier") or 1.0,
            softcap=max(0.0, nested.get("final_logit_softcapping") or 0.0),
            **selector,
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


class BlockConvolution(nn.Module):
    """DFlash 2's grouped dynamic convolution along a block, before (side 0) and after (side 1) a sublayer: a learned
    kernel, and for each row and group of channels a correction that is read off the sublayer's input. It begins as the
    identity."""

    def __init__(self, c: DrafterShape):
        super().__init__()
        self.block, self.group, self.taps = c.block_size, c.conv_group, c.conv_kernel
        self.base_kernel = nn.Parameter(torch.zeros(2, c.conv_kernel, c.hidden_size))
        self.kernel_projection = nn.Linear(c.hidden_size, 2 * c.conv_kernel * c.hidden_size // c.conv_group, bias=False)

    def corrections(self, x: Tensor) -> Tensor:
        """[R, A, B, 2, taps, G, 1] of the sublayer's input x [R, A*B, d]."""
        return self.kernel_projection(x).unflatten(-1, (2, self.taps, -1)).unflatten(1, (-1, self.block)).unsqueeze(-1)

    def forward(self, x: Tensor, corrections: Tensor, side: int) -> Tensor:
        """x [R, A*B, d]; rows before a block's first are zero; a row's own correction weighs all that it receives."""
        rows = x.unflatten(-1, (-1, self.group)).unflatten(1, (-1, self.block))
        base = self.base_kernel[side].to(x.dtype).unflatten(-1, (-1, self.group))
        out = (base[0] + corrections[:, :, :, side, 0]) * rows
        for tap in range(1, self.taps):
            earlier = F.pad(rows, (0, 0, 0, 0, tap, 0))[:, :, : self.block]
            out = out + (base[tap] + corrections[:, :, :, side, tap]) * earlier
        return out.flatten(1, 2).flatten(2)


class CandidateSelector(nn.Module):
    """DFlash 2's choice among the K likeliest tokens of a slot: each one's logit and what it gains by following the
    slot's predecessor, given the slot's hidden state."""

    def __init__(self, c: DrafterShape):
        super().__init__()
        self.top_k = c.selector_top_k
        self.predecessor_codebook = nn.Parameter(torch.empty(c.vocab_size, c.selector_rank).normal_(std=0.02))
        self.successor_codebook = nn.Parameter(torch.empty(c.vocab_size, c.selector_rank).normal_(std=0.02))
        self.hidden_projection = nn.Linear(c.hidden_size, c.selector_rank, bias=False)

    @staticmethod
    def score(logits: Tensor, candidates: Tensor, query: Tensor, successors: Tensor) -> Tensor:
        """Scores [..., K] of `candidates` [..., K] among `logits` [..., C] and rows of `successors` [C, r]; query
        [..., r]: the predecessor's row times the projected hidden state."""
        transition = (successors[candidates].float() @ query.float().unsqueeze(-1)).squeeze(-1)
        return logits.gather(-1, candidates).float() + transition


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
        if c.selector_rank:
            self.attention_conv, self.mlp_conv = BlockConvolution(c), BlockConvolution(c)
        self.convolves = bool(c.selector_rank)

    def forward(self, x: Tensor, context: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        def attend(y: Tensor) -> Tensor:
            return self.self_attn(y, context, rope, mask)

        y = self.input_layernorm(x)
        x = x + (self._around(self.attention_conv, attend, y) if self.convolves else attend(y))
        y = self.post_attention_layernorm(x)
        return x + (self._around(self.mlp_conv, self.mlp, y) if self.convolves else self.mlp(y))

    @staticmethod
    def _around(conv: BlockConvolution, sublayer: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
        corrections = conv.corrections(y)
        return conv(sublayer(conv(y, corrections, 0)), corrections, 1)


class TorchDrafter(nn.Module):
    """The trained tensors of a checkpoint; embedding and output head are the target's.

    left_out: [V], true for the tokens that a reduced vocabulary has not; None where every token can be drafted
    """

    left_out: Tensor | None

    def __init__(self, c: DrafterShape):
        super().__init__()
        self.config = c
        self.register_buffer("left_out", None, persistent=False)
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
        if c.selector_rank:
            self.candidate_selector = CandidateSelector(c)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        for module in self.modules():
            if isinstance(module, BlockConvolution):
                nn.init.ones_(module.base_kernel[:, 0])
                nn.init.zeros_(module.kernel_projection.weight)

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
        x = embed[blocks.flatten(1)]
        x = self.blocks(x if c.embedding_scale == 1 else x * c.embedding_scale, taps, rope, mask)
        return x.view(R, A, B, -1)[:, :, c.first_slot :]

    def blocks(self, x: Tensor, taps: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """Block rows x [R, A*B, d] through the backbone; the part that is worth compiling."""
        context = self.hidden_norm(self.fc(taps))
        for layer in self.layers:
            x = layer(x, context, rope, mask)
        return self.norm(x)

    def logits(self, hidden: Tensor, head: Tensor) -> Tensor:
        """Float32 logits [..., V] of hidden states [..., d] by the target's head [V, d], before Markov head and
        selector; minus infinity for tokens that are left out."""
        c = self.config
        z = F.linear(hidden.float(), head.float())
        z = z if c.output_multiplier == 1 else z * c.output_multiplier
        z = c.softcap * torch.tanh(z / c.softcap) if c.softcap else z
        return z if self.left_out is None else z.masked_fill(self.left_out, float("-inf"))

    def draft(self, hidden: Tensor, head: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
        """The greedy draft of one slot, ids [...], and how sure of it the drafter is [...]: its confidence logit, or
        without that head the margin. From hidden [..., d] and the tokens before the slot, previous [...]."""
        ids, margin = self.draft_by_margin(hidden, head, previous)
        return ids, self.confidence(hidden, previous) if self.config.confidence else margin

    def confidence(self, hidden: Tensor, previous: Tensor) -> Tensor:
        """The confidence head's logits [...]."""
        e = self.markov_head.markov_w1(previous)
        return self.confidence_head.proj(torch.cat([hidden.float(), e], -1)).squeeze(-1)

    def draft_by_margin(self, hidden: Tensor, head: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
        """The greedy draft of one slot, ids [...], and the margin [...] of the two best of the logits that decided it,
        at most WIDEST_MARGIN."""
        c, z, candidates = self.config, self.logits(hidden, head), None
        if c.selector_rank:
            candidates, z = self.select(z, hidden, previous)
        elif c.markov_rank:
            z = z + self.markov_head.markov_w2(self.markov_head.markov_w1(previous))
        best = z.argmax(-1, keepdim=True)
        second = z.scatter(-1, best, float("-inf")).amax(-1)
        margin = (z.gather(-1, best).squeeze(-1) - second).clamp(max=WIDEST_MARGIN)
        return (best if candidates is None else candidates.gather(-1, best)).squeeze(-1), margin

    def select(self, logits: Tensor, hidden: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
        """The selector's candidates [..., K], in ascending id, and their scores [..., K]."""
        selector = self.candidate_selector
        candidates = logits.topk(min(selector.top_k, logits.shape[-1]), -1).indices.sort(-1).values
        query = selector.predecessor_codebook[previous] * selector.hidden_projection(hidden.float())
        return candidates, selector.score(logits, candidates, query, selector.successor_codebook)

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
        first = anchors.repeat_interleave(B, dim=1)
        before = context < first.unsqueeze(-1)
        if c.window:
            edge = first - c.window if c.window_of_block else slots - c.window + 1
            before &= context >= edge.unsqueeze(-1)
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

    @torch.no_grad()
    def go_on_from(self, other: "TorchDrafter") -> None:
        """Take over the tensors of another drafter with the same backbone, of any method; what it lacks stays as it
        is. Raises TrainingError if the backbones differ."""
        apart = [
            f.name
            for f in fields(DrafterShape)
            if f.name not in METHOD_FIELDS and getattr(self.config, f.name) != getattr(other.config, f.name)
        ]
        if apart:
            raise TrainingError(f"its {' and '.join(apart)} differ from what is to be trained.")
        mine, theirs = self.state_dict(), other.state_dict()
        for name in mine.keys() & theirs.keys():
            if mine[name].shape == theirs[name].shape:
                mine[name].copy_(theirs[name])

    @classmethod
    def load(cls, directory: str | Path, device: str = "cpu") -> "TorchDrafter":
        """A trained checkpoint (bf16, float32 or packed) in float32. Raises TrainingError if tensors are missing
        or unexpected; an embedding and head it holds are left out: the target's are used. Of a draft_vocab.json beside
        it, no other tokens are drafted."""
        directory = Path(directory)
        try:
            raw = json.loads((directory / "config.json").read_text(encoding="utf-8"))
            tensors = load_file(directory / "model.safetensors")
        except OSError as e:
            raise TrainingError(f"{directory} is not a drafter: {e}.") from None
        try:
            drafter = cls(DrafterShape.from_json(raw))
        except KeyError as e:
            raise TrainingError(f"{directory / 'config.json'} has no {e.args[0]}.") from None
        for base in [name.removesuffix(".scales") for name in tensors if name.endswith(".scales")]:
            weight, scales, biases = (tensors.pop(f"{base}.{part}") for part in ("weight", "scales", "biases"))
            name = base if base.endswith("_codebook") else f"{base}.weight"
            tensors[name] = dequantize(weight, scales, biases, raw["quantization"]["group_size"])
        tensors = {k: v.float() for k, v in tensors.items() if k not in ("embed_tokens.weight", "lm_head.weight")}
        missing, unexpected = drafter.load_state_dict(tensors, strict=False)
        if missing or unexpected:
            wrong = f"no tensor {missing[0]}" if missing else f"an unexpected tensor {unexpected[0]}"
            raise TrainingError(f"{directory} has {wrong}.")
        if (directory / DRAFT_VOCABULARY).exists():
            ids = json.loads((directory / DRAFT_VOCABULARY).read_text(encoding="utf-8"))["ids"]
            drafter.left_out = torch.ones(drafter.config.vocab_size, dtype=torch.bool)
            drafter.left_out[ids] = False
        return drafter.to(device)
