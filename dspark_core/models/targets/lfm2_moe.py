"""LFM2 and LFM2.5 with experts (8B-A1B, 24B-A2B) in all layers but the first ones."""

from collections.abc import Iterator
from typing import Any

from ..backbone_config import MAX_WIDTH
from ..target_config import MAX_TARGET_LAYERS, LayerShape, TargetConfig, TargetFields
from . import lfm2

TITLE = "LFM2-MoE"
TYPES = ()
WRAPPERS = ()


def defaults(model_type: str) -> dict[str, Any]:
    dense = {name: value for name, value in lfm2.defaults(model_type).items() if not name.startswith("block_")}
    sizes = {"hidden_size": 2048, "intermediate_size": 7168, "moe_intermediate_size": 1792, "num_dense_layers": 2}
    experts = {"num_experts": 32, "num_experts_per_tok": 4, "routed_scaling_factor": 1.0}
    return dense | sizes | experts | dict.fromkeys(("use_expert_bias", "norm_topk_prob"), True)


def read(fields: TargetFields) -> tuple[list[LayerShape], int]:
    experts = fields.size("num_experts", MAX_WIDTH)
    fields.mlx["num_experts_per_tok"] = fields.whole("num_experts_per_tok", 1, experts)
    dense = fields.mlx["num_dense_layers"] = fields.whole("num_dense_layers", 0, MAX_TARGET_LAYERS)
    inner, wide = fields.size("moe_intermediate_size", MAX_WIDTH), fields.mlx["intermediate_size"]
    for i in range(fields.mlx["num_hidden_layers"]):
        at = f"layers.{i}.feed_forward"
        if i < dense:
            fields.rows.append(("intermediate_size", wide, wide, f"{at}.w1.weight"))
        else:
            fields.rows.append(("moe_intermediate_size", inner, inner, f"{at}.experts.0.w1.weight"))
            fields.rows.append(("num_experts", experts, experts, f"{at}.gate.weight"))
    fields.mlx |= {name: fields.flag(name) for name in ("use_expert_bias", "norm_topk_prob")}
    fields.mlx["routed_scaling_factor"] = fields.number("routed_scaling_factor", 1e-6, 1e6)
    return lfm2.read_layers(fields)


def walk(body: Any, ids: Any, cache: list[Any]) -> Iterator[Any]:
    return lfm2.walk(body, ids, cache)


def complete(model_class: Any, config: TargetConfig) -> Any:
    from ..experts import with_joined_experts

    return with_joined_experts(model_class, config.text["num_experts"])
