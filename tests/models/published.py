"""The published checkpoints: config.json and a manifest of every tensor's name and shape, at true size or narrow.

From the formats' specification: Qwen3-4B, 8B, 14B and Gemma-4 12B (inside its multimodal wrapper), and for each
DeepSpec's DSpark, DeepSpec's DFlash of block 7 and, but for 14B, z-lab's DFlash of block 16. A manifest stands in
symbols, as the specification has it; `Shape.symbols` gives their sizes.

`narrow` scales widths only: hidden, head and intermediate sizes, the Markov rank and the sliding windows. Layers,
heads, key/value heads, taps, block sizes, mask ids and Qwen3's vocabulary (which its mask id needs) stay true;
Gemma-4's vocabulary shrinks to 2,048 rows, where its mask id 4 and its stop ids still are.
"""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx

SLIDING, FULL = "sliding_attention", "full_attention"
DSPARK, DFLASH7, DFLASH16 = "DSpark", "DFlash 7", "DFlash 16"

LAYER = {
    "input_layernorm.weight": "d",
    "post_attention_layernorm.weight": "d",
    "self_attn.q_proj.weight": "H d",
    "self_attn.k_proj.weight": "K d",
    "self_attn.v_proj.weight": "K d",
    "self_attn.o_proj.weight": "d H",
    "self_attn.q_norm.weight": "D",
    "self_attn.k_norm.weight": "D",
    "mlp.gate_proj.weight": "I d",
    "mlp.up_proj.weight": "I d",
    "mlp.down_proj.weight": "d I",
}
GEMMA_SLIDING_LAYER = LAYER | {
    "pre_feedforward_layernorm.weight": "d",
    "post_feedforward_layernorm.weight": "d",
    "layer_scalar": "1",
}
GEMMA_FULL_LAYER = {n: s for n, s in GEMMA_SLIDING_LAYER.items() if "v_proj" not in n}  # values are the raw keys
BACKBONE = {"fc.weight": "d M", "hidden_norm.weight": "d", "norm.weight": "d"}
EMBEDDING_AND_HEAD = {"embed_tokens.weight": "V d", "lm_head.weight": "V d"}
MARKOV = {"markov_head.markov_w1.weight": "V r", "markov_head.markov_w2.weight": "V r"}
CONFIDENCE = {"confidence_head.proj.weight": "1 C", "confidence_head.proj.bias": "1"}
SKIPPED = {  # what Gemma-4's wrapper holds beside its text model: encoder-free vision and audio
    "vision_embedder.patch_ln1.weight": "P",
    "vision_embedder.patch_ln1.bias": "P",
    "vision_embedder.patch_dense.weight": "d P",
    "vision_embedder.patch_dense.bias": "d",
    "vision_embedder.pos_embedding": "1120 2 d",
    "embed_vision.embedding_projection.weight": "d d",
    "embed_audio.embedding_projection.weight": "d 640",
}


@dataclass(frozen=True)
class Shape:
    """Sizes of one target, which its drafters share but for what `drafter_heads` says."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    vocabulary: int
    tied: bool
    mask: int
    taps: tuple[int, ...]
    rank: int = 256
    global_kv_heads: int | None = None  # Gemma-4: of its full layers
    global_head_dim: int | None = None
    window: int | None = None
    theta: float = 1e6
    llama: bool = False

    @property
    def gemma(self) -> bool:
        return self.window is not None

    @property
    def layer_types(self) -> list[str]:
        return [SLIDING if self.gemma and (i + 1) % 6 else FULL for i in range(self.layers)]

    def symbols(self, full: bool = True) -> dict[str, int]:
        """Sizes of the manifest's symbols; `full`: in a full-attention layer."""
        wide = self.gemma and full
        dim, kv = (self.global_head_dim, self.global_kv_heads) if wide else (self.head_dim, self.kv_heads)
        d, r = self.hidden, self.rank
        sizes = {"d": d, "H": self.heads * dim, "K": kv * dim, "D": dim, "I": self.inner, "V": self.vocabulary}
        return sizes | {"M": len(self.taps) * d, "r": r, "C": d + r, "P": 27 * d // 15}


QWEN3_4B = Shape("Qwen3-4B", 2560, 36, 32, 8, 128, 9728, 151936, True, 151669, (1, 9, 17, 25, 33))
QWEN3_8B = Shape("Qwen3-8B", 4096, 36, 32, 8, 128, 12288, 151936, False, 151669, (1, 9, 17, 25, 33))
QWEN3_14B = Shape("Qwen3-14B", 5120, 40, 40, 8, 128, 17408, 151936, False, 151669, (1, 10, 19, 28, 37))
GEMMA4_12B = Shape(
    "gemma-4-12B-it", 3840, 48, 16, 8, 256, 15360, 262144, True, 4, (5, 17, 29, 41, 46), 256, 1, 512, 1024
)
TARGETS = (GEMMA4_12B, QWEN3_4B, QWEN3_8B, QWEN3_14B)
MINICPM5_2B = Shape(
    "MiniCPM5-2B", 2048, 42, 16, 2, 128, 6144, 130560, False, 75982, (1, 10, 20, 30, 39), theta=5e6, llama=True
)
LLAMA32_1B = Shape(
    "Llama-3.2-1B-Instruct", 2048, 16, 32, 8, 64, 8192, 128256, True, 128255, (1, 4, 7, 10, 13), theta=5e5, llama=True
)
LLAMA31_8B = Shape(
    "Llama-3.1-8B-Instruct",
    4096,
    32,
    32,
    8,
    128,
    14336,
    128256,
    False,
    128255,
    (1, 8, 15, 21, 28),
    theta=5e5,
    llama=True,
)


def narrow(shape: Shape) -> Shape:
    """The same model, 16 to 128 times as narrow; heads times head size still differs from the hidden size."""
    small = replace(shape, hidden=shape.hidden // 64, head_dim=shape.head_dim // 16, inner=shape.inner // 128, rank=16)
    if shape.gemma:
        small = replace(small, vocabulary=2048, global_head_dim=32, window=16)
    return small


@dataclass(frozen=True)
class Checkpoint:
    """What a repository holds: config.json and the name and shape of every tensor."""

    name: str
    config: dict
    tensors: dict[str, tuple[int, ...]]

    def of_the_text_model(self) -> dict[str, tuple[int, ...]]:
        return {n: s for n, s in self.tensors.items() if n.removeprefix("model.") not in SKIPPED}


# ---- targets -----------------------------------------------------------------------------------------------


def target(shape: Shape) -> Checkpoint:
    """A target as its makers publish it. A narrow Gemma-4 also says its vocabulary at the top, where mlx-lm looks."""
    at = "model.language_model." if shape.gemma else "model."
    tensors = _sized({f"{at}embed_tokens.weight": "V d", f"{at}norm.weight": "d"}, shape.symbols())
    for i, kind in enumerate(shape.layer_types):
        layer = (GEMMA_FULL_LAYER if kind == FULL else GEMMA_SLIDING_LAYER) if shape.gemma else LAYER
        layer = {n: s for n, s in layer.items() if not shape.llama or "_norm" not in n}
        tensors |= _sized({f"{at}layers.{i}.{n}": s for n, s in layer.items()}, shape.symbols(kind == FULL))
    if shape.gemma:
        tensors |= _sized({f"model.{n}": s for n, s in SKIPPED.items()}, shape.symbols())
    elif not shape.tied:
        tensors |= _sized({"lm_head.weight": "V d"}, shape.symbols())
    config = _gemma_wrapper(shape) if shape.gemma else _llama_config(shape) if shape.llama else _qwen_config(shape)
    return Checkpoint(shape.name, config, tensors)


def _qwen_config(shape: Shape) -> dict:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.inner,
        "max_position_embeddings": 40960,
        "max_window_layers": shape.layers,
        "model_type": "qwen3",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": shape.theta,
        "sliding_window": None,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": "bfloat16",
        "use_sliding_window": False,
        "vocab_size": shape.vocabulary,
    }


LLAMA3_ROPE = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}


def _llama_config(shape: Shape) -> dict:
    """MiniCPM5 is of this type, too, with a plain rope."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.inner,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-5,
        "rope_scaling": LLAMA3_ROPE if shape.theta == 5e5 else None,
        "rope_theta": shape.theta,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": "bfloat16",
        "vocab_size": shape.vocabulary,
    }


def _gemma_text(shape: Shape) -> dict:
    full = {"partial_rotary_factor": 0.25, "rope_theta": 1000000.0, "rope_type": "proportional"}
    return {
        "attention_bias": False,
        "attention_k_eq_v": True,
        "bos_token_id": 2,
        "enable_moe_block": False,
        "eos_token_id": [1, 106],
        "final_logit_softcapping": 30.0,
        "global_head_dim": shape.global_head_dim,
        "head_dim": shape.head_dim,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.inner,
        "layer_types": shape.layer_types,
        "max_position_embeddings": 262144,
        "model_type": "gemma4_unified_text",
        "num_attention_heads": shape.heads,
        "num_global_key_value_heads": shape.global_kv_heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "pad_token_id": 0,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {FULL: full, SLIDING: {"rope_theta": 10000.0, "rope_type": "default"}},
        "sliding_window": shape.window,
        "tie_word_embeddings": True,
        "use_bidirectional_attention": "vision",
        "use_double_wide_mlp": False,
        "vocab_size": shape.vocabulary,
    }


def _gemma_wrapper(shape: Shape) -> dict:
    config = {
        "architectures": ["Gemma4UnifiedForConditionalGeneration"],
        "audio_config": {"audio_embed_dim": 640, "model_type": "gemma4_unified_audio"},
        "eos_token_id": [1, 106],
        "image_token_id": 258880,
        "model_type": "gemma4_unified",
        "text_config": _gemma_text(shape),
        "tie_word_embeddings": True,
        "vision_config": {"mm_embed_dim": shape.hidden, "model_type": "gemma4_unified_vision"},
    }
    return config if shape.vocabulary == 262144 else config | {"vocab_size": shape.vocabulary}


# ---- drafters ----------------------------------------------------------------------------------------------


def drafters(shape: Shape) -> dict[str, Checkpoint]:
    """Every published drafter of a target."""
    found = {DSPARK: deepspec(shape, shape.rank), DFLASH7: deepspec(shape, 0)}
    if shape.name != "Qwen3-14B":
        found[DFLASH16] = zlab_gemma(shape) if shape.gemma else zlab(shape)
    return found


def deepspec(shape: Shape, rank: int) -> Checkpoint:
    """DeepSpec's DSpark, or with rank 0 its DFlash: the target's text config, copied and added to."""
    own = {
        "architectures": ["Gemma4DSparkModel" if shape.gemma else "Qwen3DSparkModel"],
        "block_size": 7,
        "enable_confidence_head": bool(rank),
        "layer_types": [FULL] * 5,
        "markov_rank": rank,
        "mask_token_id": shape.mask,
        "num_anchors": 512,
        "num_hidden_layers": 5,
        "num_target_layers": shape.layers,
        "target_layer_ids": list(shape.taps),
        "tie_word_embeddings": False,
    }
    if rank:
        own |= {"confidence_head_with_markov": True, "markov_head_type": "vanilla"}
    if shape.gemma:  # with the keys that transformers leaves beside those of the layer types
        config = _gemma_text(shape)
        config["rope_parameters"] = config["rope_parameters"] | {"rope_theta": None, "rope_type": "default"}
        own |= {"target_model_type": "gemma4_unified", "target_text_model_type": "gemma4_unified_text"}
    else:
        config = _qwen_config(shape)
        config["rope_parameters"] = {"rope_theta": config.pop("rope_theta"), "rope_type": "default"}
    layer = GEMMA_FULL_LAYER if shape.gemma else LAYER
    names = BACKBONE | EMBEDDING_AND_HEAD | _layers(layer) | (MARKOV | CONFIDENCE if rank else {})
    kind = "dspark" if rank else "dflash"
    return Checkpoint(f"{kind}_{shape.name}_block7", config | own, _sized(names, shape.symbols()))


def zlab(shape: Shape) -> Checkpoint:
    """z-lab's DFlash for a Qwen3: no embedding and no head of its own."""
    own = {
        "architectures": ["DFlashDraftModel"],
        "auto_map": {"AutoModel": "dflash.DFlashDraftModel"},
        "block_size": 16,
        "dflash_config": {"mask_token_id": shape.mask, "target_layer_ids": list(shape.taps)},
        "layer_types": [FULL] * 5,
        "max_window_layers": 5,
        "num_hidden_layers": 5,
        "num_target_layers": shape.layers,
    }
    tensors = _sized(BACKBONE | _layers(LAYER), shape.symbols())
    return Checkpoint(f"{shape.name}-DFlash-b16", _qwen_config(shape) | own, tensors)


def zlab_gemma(shape: Shape) -> Checkpoint:
    """z-lab's DFlash for Gemma-4: Qwen3 layers, some sliding, every field at the top of its config.

    The specification leaves open its head layout, taps and window: here 32 heads of half Gemma-4's sliding head size
    with 8 key/value heads, the taps of z-lab's default formula, a window of twice the target's, and every layer but
    the last sliding. The loader takes all of them from the checkpoint.
    """
    qwen = replace(shape, heads=32, head_dim=shape.head_dim // 2, window=None, taps=(1, 12, 23, 34, 45))
    own = {
        "architectures": ["DFlashDraftModel"],
        "auto_map": {"AutoModel": "dflash.DFlashDraftModel"},
        "block_size": 16,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "final_logit_softcapping": 30.0,
        "layer_types": [SLIDING] * 4 + [FULL],
        "mask_token_id": shape.mask,
        "num_hidden_layers": 5,
        "num_target_layers": shape.layers,
        "sliding_window": 2 * shape.window,
        "target_layer_ids": list(qwen.taps),
        "use_sliding_window": True,
    }
    tensors = _sized(BACKBONE | _layers(LAYER), qwen.symbols())
    return Checkpoint(f"{shape.name}-DFlash", _qwen_config(qwen) | own, tensors)


def minicpm(shape: Shape) -> Checkpoint:
    """openbmb/MiniCPM5-2B-DSpark: DeepSpec's fields without embedding and head, its base under rope_parameters alone.
    Fields and sizes as public readers of it have them; the file was not opened here."""
    full = deepspec(shape, shape.rank)
    config = full.config | {
        "draft_vocab_size": shape.vocabulary,
        "projector_type": "dspark",
        "sample_from_anchor": True,
    }
    tensors = {n: s for n, s in full.tensors.items() if n not in EMBEDDING_AND_HEAD}
    return Checkpoint(f"{shape.name}-DSpark", config, tensors)


def speculators(
    shape: Shape, algorithm: str, layers: int = 5, block: int = 8, rows: int = 0, own: bool = True
) -> Checkpoint:
    """Red Hat's and others' drafters for a target, packaged by speculators. `rows`: of a reduced draft vocabulary;
    `own`: with an embedding and a head of its own.

    Parameter counts are published, and so are layers, ranks, taps and windows; the rest of the config is assumed: as
    speculators 0.9.0 writes it. Whether a file holds embedding and head follows from its count.
    """
    second, sizes = algorithm == "dflash2", shape.symbols() | {"W": rows or shape.vocabulary, "1": 1}
    first, group = (1 if second else 0), 16 if shape.hidden % 16 == 0 else 8
    config = {
        "architectures": ["DFlash2DraftModel" if second else "DSparkDraftModel"],
        "auto_map": {"": "config.DSparkSpeculatorConfig"},
        "aux_hidden_state_layer_ids": [t + 1 for t in shape.taps],
        "block_size": block,
        "draft_vocab_size": sizes["W"],
        "dtype": "bfloat16",
        "mask_token_id": shape.mask,
        "sample_from_anchor": not second,
        "sliding_window_non_causal": second,
        "speculators_config": {
            "algorithm": algorithm,
            "default_proposal_method": "greedy",
            "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": block - first}],
            "verifier": {"architectures": ["Qwen3ForCausalLM"], "name_or_path": shape.name},
        },
        "speculators_model_type": algorithm,
        "speculators_version": "0.9.0",
        "transformer_layer_config": {
            "head_dim": shape.head_dim,
            "hidden_size": shape.hidden,
            "intermediate_size": shape.inner,
            "layer_types": [SLIDING] * layers,
            "max_window_layers": 0,
            "model_type": "qwen3",
            "num_attention_heads": shape.heads,
            "num_hidden_layers": layers,
            "num_key_value_heads": shape.kv_heads,
            "rope_parameters": {"rope_theta": shape.theta, "rope_type": "default"},
            "sliding_window": 2048,
            "use_sliding_window": True,
            "vocab_size": shape.vocabulary,
        },
    }
    names = BACKBONE | _layers(LAYER, layers) | ({"lm_head.weight": "W d"} if own else {})
    names |= {"d2t": "W", "t2d": "V"} if rows else {"embed_tokens.weight": "V d"} if own else {}
    if second:
        config |= {"conv_group_size": group, "conv_kernel_size": 2, "selector_rank": shape.rank, "selector_top_k": 16}
        sizes |= {"K2": 4 * (shape.hidden // group), "2": 2}
        conv = {"base_kernel": "2 2 d", "kernel_projection.weight": "K2 d"}
        sides = {f"{side}_conv.{n}": s for side in ("attention", "mlp") for n, s in conv.items()}
        books = {"predecessor_codebook": "V r", "successor_codebook": "V r", "hidden_projection.weight": "r d"}
        names |= _layers(sides, layers) | {f"candidate_selector.{n}": s for n, s in books.items()}
    else:
        config |= {"markov_rank": shape.rank, "markov_head_type": "vanilla", "enable_confidence_head": True}
        config |= {"confidence_head_with_markov": True}
        names |= CONFIDENCE | {"markov_head.markov_w1.weight": "V r", "markov_head.markov_w2.weight": "W r"}
    return Checkpoint(f"{shape.name}-speculator.{algorithm}", config, _sized(names, sizes))


def zlab_llama(shape: Shape) -> Checkpoint:
    """z-lab's DFlash for a Llama 3.1: its own layers are Qwen3's, its rope is the target's. Assumed but for that."""
    made = zlab(shape)
    config = made.config | {"rope_scaling": LLAMA3_ROPE, "block_size": 10}
    return Checkpoint(f"{shape.name}-DFlash-UltraChat", config, made.tensors)


def _layers(layer: dict[str, str], count: int = 5) -> dict[str, str]:
    return {f"layers.{i}.{n}": s for i in range(count) for n, s in layer.items()}


def _sized(names: dict[str, str], symbols: dict[str, int]) -> dict[str, tuple[int, ...]]:
    return {n: tuple(symbols[w] if w in symbols else int(w) for w in s.split()) for n, s in names.items()}


# ---- on disk -----------------------------------------------------------------------------------------------


def write_hollow(directory: Path, checkpoint: Checkpoint) -> Path:
    """The checkpoint at its full length in bfloat16, as a file of holes: it takes no room on the disk."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(checkpoint.config))
    header, end = {}, 0
    for name, shape in checkpoint.tensors.items():
        dtype, size = {"d2t": ("I64", 8), "t2d": ("BOOL", 1)}.get(name, ("BF16", 2))
        start, end = end, end + size * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    words = json.dumps(header).encode()
    words += b" " * (-len(words) % 8)
    with open(directory / "model.safetensors", "wb") as f:
        f.write(len(words).to_bytes(8, "little") + words)
        f.truncate(8 + len(words) + end)
    return directory


def write_random(directory: Path, checkpoint: Checkpoint, seed: int, shared: dict[str, mx.array] | None = None) -> dict:
    """The checkpoint with random float32 weights, in two shards with an index; returns the weights.

    shared: weights that are not drawn but copied: a drafter's embedding and head are its target's.
    """
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(checkpoint.config))
    keys = mx.random.split(mx.random.key(seed), len(checkpoint.tensors))
    weights = dict(shared or {})
    for (name, shape), key in zip(checkpoint.tensors.items(), keys, strict=True):
        if name == "t2d":
            weights[name] = mx.zeros(shape, dtype=mx.bool_)  # nobody reads it
        elif name == "d2t":  # every third token
            weights[name] = mx.arange(shape[0], dtype=mx.int64) * 2
        elif name not in weights:
            weights[name] = _random(name, shape, key)
    names, index = list(checkpoint.tensors), {}
    for i, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-0000{i}-of-00002.safetensors"
        mx.save_safetensors(str(directory / file), {n: weights[n] for n in part})
        index |= dict.fromkeys(part, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return weights


def _random(name: str, shape: tuple[int, ...], key: mx.array) -> mx.array:
    """Norms and scalars near one; embeddings of length one; the rest a little wider than the numbers they sum need,
    so that what layers add outweighs the embedding and the next token depends on the context."""
    noise = mx.random.normal(shape, key=key)
    if "norm" in name or "scalar" in name:
        return 1 + 0.1 * noise
    return noise * shape[-1] ** -0.5 * (1.0 if "embed" in name else 1.5)
