"""Experts as mlx-lm's layers take them: one tensor for all of a layer's, `switch_mlp.<projection>.weight`."""

import re
from typing import Any

import mlx.core as mx

NAMES = ("gate_proj", "up_proj", "down_proj")
LAYER = r"(.*\.(?:mlp|feed_forward)\.)"
ONE = re.compile(LAYER + r"experts\.0\.gate_proj\.weight")  # of files with a tensor for each expert
ALL = re.compile(LAYER + r"experts\.gate_up_proj")  # of files that have them joined, gates before the others


def with_joined_experts(model_class: Any, count: int) -> Any:
    """mlx-lm's Model class, which reads files of either kind; `count` experts a layer."""

    class JoinedExperts(model_class):
        def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
            weights = dict(weights)
            for name in [n for n in weights if ONE.fullmatch(n)]:
                at = name.removesuffix("experts.0.gate_proj.weight")
                for part in NAMES:
                    each = [weights.pop(f"{at}experts.{i}.{part}.weight") for i in range(count)]
                    weights[f"{at}switch_mlp.{part}.weight"] = mx.stack(each)
            for name in [n for n in weights if ALL.fullmatch(n)]:
                at = name.removesuffix("experts.gate_up_proj")
                gates, ups = mx.split(weights.pop(name), 2, axis=-2)
                joined = zip(NAMES, (gates, ups, weights.pop(f"{at}experts.down_proj")), strict=True)
                weights |= {f"{at}switch_mlp.{part}.weight": w for part, w in joined}
            return dict(super().sanitize(weights))

    return JoinedExperts
