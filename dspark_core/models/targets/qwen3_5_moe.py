"""Qwen3.5 with experts (35B-A3B, 122B-A10B), and one that is shared."""

from collections.abc import Iterator
from typing import Any

from ..backbone_config import MAX_WIDTH
from ..target_config import LayerShape, TargetConfig, TargetFields
from . import qwen3_5

TITLE = "Qwen3.5-MoE"
TYPES = ("qwen3_5_moe_text",)
WRAPPERS = ("qwen3_5_moe",)
NESTED = True


def defaults(model_type: str) -> dict[str, Any]:
    dense = qwen3_5.defaults(model_type) | {"hidden_size": 2048, "num_hidden_layers": 40, "num_key_value_heads": 2}
    del dense["intermediate_size"]
    experts = {"moe_intermediate_size": 512, "shared_expert_intermediate_size": 512}
    return dense | experts | {"num_experts_per_tok": 8, "num_experts": 256}


def read(fields: TargetFields) -> tuple[list[LayerShape], int]:
    """transformers' router always makes the weights of the chosen experts add up to 1."""
    experts = fields.size("num_experts", MAX_WIDTH)
    fields.mlx["num_experts_per_tok"] = fields.whole("num_experts_per_tok", 1, experts)
    shared = fields.size("shared_expert_intermediate_size", MAX_WIDTH)
    inner = fields.size("moe_intermediate_size", MAX_WIDTH)
    for i in range(fields.mlx["num_hidden_layers"]):
        at = f"layers.{i}.mlp"
        fields.rows.append(("moe_intermediate_size", inner, inner, f"{at}.experts.0.gate_proj.weight"))
        fields.rows.append(("shared_expert_intermediate_size", shared, shared, f"{at}.shared_expert.gate_proj.weight"))
    fields.mlx |= {"norm_topk_prob": True, "decoder_sparse_step": 1, "intermediate_size": shared}
    fields.neutral |= {"norm_topk_prob": (True,), "decoder_sparse_step": (1,), "mlp_only_layers": ([],)}
    fields.tensors = {"router.proj.weight": "mlp.gate.weight"}
    return qwen3_5.read(fields)


def walk(body: Any, ids: Any, cache: list[Any]) -> Iterator[Any]:
    return qwen3_5.walk(body, ids, cache)


def complete(model_class: Any, config: TargetConfig) -> Any:
    from ..experts import with_joined_experts

    return with_joined_experts(model_class, config.text["num_experts"])
