"""What a drafter's config.json says of its rotary embedding: base and scaling, as mlx-lm takes them."""

import math
from typing import Any

from ..errors import ModelError
from .fields import Fields, is_number, same, shown

Range = tuple[float, float]

# type -> its parameters, each with its range; all of them are needed. mlx-lm's YaRN multiplies queries and keys by
# 0.1 ln(factor) + 1, which is the attention factor of transformers where none is given.
TYPES: dict[str, dict[str, Range]] = {
    "default": {},
    "linear": {"factor": (1e-3, 1e6)},
    "llama3": {
        "factor": (1e-3, 1e6),
        "low_freq_factor": (1e-3, 1e6),
        "high_freq_factor": (1e-3, 1e6),
        "original_max_position_embeddings": (1, 1e9),
    },
    "yarn": {"factor": (1, 1e6), "original_max_position_embeddings": (1, 1e9)},
}
OPTIONAL: dict[str, dict[str, Range]] = {"yarn": {"beta_fast": (1e-3, 1e6), "beta_slow": (1e-3, 1e6)}}
GEMMA_TYPES: dict[str, dict[str, Range]] = {"default": {}, "proportional": {"partial_rotary_factor": (1e-3, 1)}}
THETA = (1.0 + 1e-6, 1e15)
# Of a Qwen3.5 target, whose config was copied. The drafter's layers are Qwen3's, whose rope turns whole heads whatever
# these say (transformers' Qwen3RotaryEmbedding; mlx-dspark measured it on satgeze/Qwen3.5-0.8B-DSpark).
COPIED = ("partial_rotary_factor", "mrope_section", "mrope_interleaved")


def rope(fields: Fields, gemma: bool) -> tuple[float, dict[str, Any] | None]:
    """(base, scaling) for mlx-lm: flat `rope_theta` and `rope_scaling` (transformers 4), or under `rope_parameters` (5;
    by layer type for Gemma). Raises ModelError, naming the field, for what is not supported or contradicts itself."""
    flat = fields.get("rope_theta")
    scaling = _scaling_of(fields, "rope_scaling", fields.get("rope_scaling"))
    parameters = _scaling_of(fields, "rope_parameters", fields.get("rope_parameters"))
    if gemma:
        parameters = _scaling_of(fields, "rope_parameters.full_attention", parameters.get("full_attention"))
    # Both must name one scaling; `type` is an older name of `rope_type`, and the base is looked at below.
    apart = ("type", "rope_theta")
    one, other = (
        {k: v for k, v in d.items() if k not in apart} | {"rope_type": _type(d)} for d in (parameters, scaling)
    )
    if parameters and scaling and one != other:
        raise ModelError(f"{fields.where}: rope_scaling and rope_parameters contradict each other.")
    theta = _theta(fields, {"rope_theta": flat, "rope_parameters": parameters.get("rope_theta")})
    scaling = parameters or scaling
    hybrid = "linear_key_head_dim" in fields.raw or "mrope_section" in scaling
    if hybrid and not gemma and _type(scaling) == "default":
        scaling = {name: value for name, value in scaling.items() if name not in COPIED}
        fields.read |= {*COPIED}
    return theta, _checked(fields, scaling, gemma)


def _scaling_of(fields: Fields, name: str, value: Any) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise fields.error(name, value, "an object")
    return {k: v for k, v in (value or {}).items() if v is not None}


def _type(scaling: dict[str, Any]) -> Any:
    return scaling.get("rope_type", scaling.get("type", "default"))


def _theta(fields: Fields, given: dict[str, Any]) -> float:
    given = {name: value for name, value in given.items() if value is not None}
    if not given:
        raise ModelError(f"{fields.where} has no rope_theta, flat or under rope_parameters.")
    for name, value in given.items():
        if not is_number(value) or not THETA[0] <= value <= THETA[1]:
            raise fields.error(name if name == "rope_theta" else f"{name}.rope_theta", value, "a number above 1")
    if len(set(given.values())) > 1:
        raise ModelError(f"{fields.where}: rope_theta and rope_parameters.rope_theta contradict each other.")
    return float(next(iter(given.values())))


def _checked(fields: Fields, scaling: dict[str, Any], gemma: bool) -> dict[str, Any] | None:
    kind = _type(scaling)
    if "type" in scaling and scaling["type"] != kind:
        raise ModelError(f"{fields.where}: type and rope_type of its rope contradict each other.")
    types = GEMMA_TYPES if gemma else TYPES
    if not isinstance(kind, str) or kind not in types:
        raise ModelError(f"{fields.where} has rope_type {shown(kind)}; {', '.join(types)} are supported.")
    needed, optional = types[kind], OPTIONAL.get(kind, {})
    for name, (low, high) in (needed | optional).items():
        value = scaling.get(name)
        if value is None and name in optional:
            continue
        if not is_number(value) or not low <= value <= high:
            raise fields.error(f"{name} of its {kind} rope", value, f"a number from {low:g} to {high:g}")
    if kind == "llama3" and scaling["low_freq_factor"] >= scaling["high_freq_factor"]:
        raise ModelError(f"{fields.where}: low_freq_factor of its llama3 rope must be below high_freq_factor.")
    for name, value in scaling.items():
        known = name in needed or name in optional or name in ("rope_type", "type", "rope_theta")
        usual = name in ("partial_rotary_factor", "factor") and same(value, 1)
        if kind == "yarn":  # what transformers takes where neither is given
            usual |= name == "attn_factor" or (name == "truncate" and value is True)  # the first it does not read
            factor = 0.1 * math.log(scaling["factor"]) + 1  # by which YaRN multiplies queries and keys
            usual |= name == "attention_factor" and is_number(value) and abs(value - factor) < 1e-6
        if not known and not usual:
            raise ModelError(f"{fields.where}: {name[:80]} {shown(value)} of its {kind} rope is not supported.")
    return {**scaling, "rope_type": kind} if scaling else None
