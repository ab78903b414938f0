"""Qwen3 with experts (30B-A3B, 235B-A22B, Coder)."""

from collections.abc import Iterator
from typing import Any

from ...errors import ModelError
from ..backbone_config import MAX_HEAD_DIM, MAX_HEADS, MAX_WIDTH
from ..fields import same, shown
from ..target_config import MAX_TARGET_LAYERS, SILU, LayerShape, TargetConfig, TargetFields
from ..target_rope import RopeFields
from . import llama

TITLE = "Qwen3-MoE"
TYPES = ()
WRAPPERS = ()


def defaults(model_type: str) -> dict[str, Any]:
    sizes = {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 24, "num_attention_heads": 32}
    heads = {"num_key_value_heads": 4, "vocab_size": 151936, "max_position_embeddings": 32768}
    more = {"rms_norm_eps": 1e-6, "hidden_act": "silu", "decoder_sparse_step": 1, "mlp_only_layers": None}
    experts = {"moe_intermediate_size": 768, "num_experts_per_tok": 8, "num_experts": None, "num_local_experts": None}
    switches = ("attention_bias", "tie_word_embeddings", "use_sliding_window", "norm_topk_prob")
    return sizes | heads | more | experts | dict.fromkeys(switches, False)


def read(fields: TargetFields) -> tuple[list[LayerShape], int]:
    """Files since transformers 5 say num_local_experts where older ones say num_experts."""
    n, heads = fields.size("num_hidden_layers", MAX_TARGET_LAYERS), fields.mlx["num_attention_heads"]
    head_dim = fields.size("head_dim", MAX_HEAD_DIM, fields.mlx["hidden_size"] // heads)
    kv_heads = fields.size("num_key_value_heads", MAX_HEADS)
    counts = [c for c in map(fields.get, ("num_experts", "num_local_experts")) if c is not None]
    if counts and not same(counts[0], counts[-1]):
        raise ModelError(f"{fields.where}: num_experts and num_local_experts contradict each other.")
    name = "num_experts" if fields.get("num_experts") is not None else "num_local_experts"
    fields.mlx["num_experts"] = fields.whole(name, 1, MAX_WIDTH, 128)
    fields.mlx["num_experts_per_tok"] = fields.whole("num_experts_per_tok", 1, fields.mlx["num_experts"])
    inner = fields.size("moe_intermediate_size", MAX_WIDTH)
    names = [f"layers.{i}.mlp.experts.0.gate_proj.weight" for i in range(fields.mlx["num_hidden_layers"])]
    fields.rows += [("moe_intermediate_size", inner, inner, name) for name in names]
    step = fields.size("decoder_sparse_step", MAX_TARGET_LAYERS)
    dense = list(fields.wholes("mlp_only_layers", []))
    fields.mlx |= {"mlp_only_layers": dense, "norm_topk_prob": fields.flag("norm_topk_prob")}
    fields.tensors = {"router.proj.weight": "mlp.gate.weight"}
    if fields.flag("use_sliding_window") and fields.get("sliding_window"):
        raise ModelError(f"{fields.where}: use_sliding_window is not supported for a Qwen3 with experts.")
    types = ["full_attention"] * n
    if not same(fields.layer_types(types), types):
        raise ModelError(f"{fields.where}: layer_types {shown(fields.get('layer_types'))} is not supported here.")
    if all(i in dense or (i + 1) % step for i in range(n)):
        raise fields.error("mlp_only_layers", dense, "of a model in which at least one layer has experts")
    rope = RopeFields.flat(fields, head_dim, fields.mlx["max_position_embeddings"]).read()
    fields.one_of("hidden_act", SILU)
    fields.know_spellings(head_dim, rope.theta, SILU)
    fields.neutral |= {"query_pre_attn_scalar": (head_dim,), "use_qk_norm": (True,), "qk_norm": (True,)}
    fields.mlx |= {"rope_theta": rope.theta, "rope_scaling": rope.scaling}
    return [LayerShape(head_dim, kv_heads) for _ in types], rope.context


def walk(body: Any, ids: Any, cache: list[Any]) -> Iterator[Any]:
    return llama.walk(body, ids, cache)


def complete(model_class: Any, config: TargetConfig) -> Any:
    """mlx-lm's Qwen3-MoE has the plain rope alone."""
    from mlx_lm.models.rope_utils import initialize_rope

    from ..experts import with_joined_experts

    class AnyRope(with_joined_experts(model_class, config.text["num_experts"])):  # type: ignore[misc]
        def __init__(self, args: Any):
            super().__init__(args)
            positions = config.text["max_position_embeddings"]
            for layer in self.layers:
                rope = initialize_rope(args.head_dim, args.rope_theta, False, args.rope_scaling, positions)
                layer.self_attn.rope = rope

    return AnyRope
