"""A target's rotary embedding, read as transformers reads it (modeling_rope_utils.py) and said as mlx-lm takes it."""

import math
from dataclasses import dataclass, replace
from typing import Any

from ..errors import ModelError
from .fields import Fields, is_number, same, shown

MAX_CONTEXT = 10**9
FACTOR = (1e-3, 1e6)
# type -> what it is computed from. longrope is not among them: it takes other frequencies as soon as the text is
# longer, so that a verification of several tokens would not compute what single steps do. attn_factor, with which
# DeepSeek-R1-0528-Qwen3-8B would undo YaRN's own factor, is read by vLLM and llama.cpp, and by transformers it is not.
KINDS: dict[str, frozenset[str]] = {
    "default": frozenset(),
    "linear": frozenset({"factor"}),
    "dynamic": frozenset({"factor"}),
    "llama3": frozenset({"factor", "low_freq_factor", "high_freq_factor"}),
    "yarn": frozenset(
        {"factor", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "attn_factor"}
    ),
    "proportional": frozenset({"factor", "partial_rotary_factor"}),
}
HARMLESS_IN_ROPE = frozenset({"rope_type", "type", "rope_theta", "original_max_position_embeddings", "finetuned"})
NEUTRAL_IN_ROPE = {"factor": 1, "attention_factor": 1, "partial_rotary_factor": 1, "truncate": True}


@dataclass(frozen=True)
class Rope:
    """theta: its base; scaling: for mlx-lm's `initialize_rope`; context: the positions that it is made for"""

    theta: float
    scaling: dict[str, Any]
    context: int


@dataclass(frozen=True)
class RopeFields:
    """What a config says of one rotary embedding, null left out. name: for sentences; positions: the config's
    max_position_embeddings. Every reader raises ModelError, in one sentence."""

    fields: Fields
    name: str
    given: dict[str, Any]
    head_dim: int
    positions: int

    @classmethod
    def flat(cls, fields: Fields, head_dim: int, positions: int, theta: float = 10_000) -> "RopeFields":
        """Of a model with one for all layers: under `rope_parameters` (transformers 5), or `rope_scaling` and a base
        beside it (4). transformers lets rope_scaling take the place of the other; where two fields say two things, or
        a base would be lost so, it is not known what was meant. theta: the base of a file that gives none."""
        scaling, parameters = (cls.object(fields, name) for name in ("rope_scaling", "rope_parameters"))
        given = dict(scaling or parameters)
        bases = [b for b in (given.get("rope_theta"), fields.get("rope_theta")) if b is not None] or [theta]
        lost = parameters.get("rope_theta", bases[0]) != bases[0]
        if bases[-1] != bases[0] or lost or not cls._replaces(scaling, parameters):
            raise ModelError(
                f"{fields.where}: rope_scaling, rope_parameters and rope_theta contradict each other; leave one that "
                "says it all."
            )
        given["rope_theta"] = bases[0]
        original = fields.get("original_max_position_embeddings")
        if original is not None and given.setdefault("original_max_position_embeddings", original) != original:
            raise ModelError(f"{fields.where}: original_max_position_embeddings contradicts that of its rope.")
        if (partial := fields.get("partial_rotary_factor")) is not None:
            given.setdefault("partial_rotary_factor", partial)
        return cls(fields, "its rope", given, head_dim, positions)

    @staticmethod
    def object(fields: Fields, name: str) -> dict[str, Any]:
        """The object of that name; empty without one."""
        value = fields.get(name)
        if value is not None and not isinstance(value, dict):
            raise fields.error(name, value, "an object")
        return {k: v for k, v in (value or {}).items() if v is not None}

    @staticmethod
    def _replaces(scaling: dict[str, Any], parameters: dict[str, Any]) -> bool:
        """Is rope_scaling not there, or the same as rope_parameters, or all the scaling that there is?"""
        names = ("rope_type", "type")
        a, b = (
            {k: v for k, v in d.items() if k not in (*names, "rope_theta")}
            | {"": next((d[name] for name in names if name in d), "default")}
            for d in (scaling, parameters)
        )
        return not scaling or a == b or b == {"": "default"}

    def partial(self, usual: float) -> tuple["RopeFields", float]:
        """For a family that turns a part of each head, its first so many numbers: the rope of that part, and the part
        that mlx-lm rounds down to as many as transformers does. `usual`: the part where the file gives none."""
        part = self._number("partial_rotary_factor", 0, 1, usual)
        turned = int(part * self.head_dim)
        if turned < 2 or turned % 2:
            wanted = f"a part of head_dim {self.head_dim} that is even"
            raise self.fields.error(f"partial_rotary_factor of {self.name}", part, wanted)
        given = {name: value for name, value in self.given.items() if name != "partial_rotary_factor"}
        return replace(self, given=given, head_dim=turned), (turned + 0.5) / self.head_dim

    def read(self) -> Rope:
        kind = self.given.get("rope_type", self.given.get("type", "default"))
        if self.given.get("type", kind) != kind:
            raise ModelError(f"{self.fields.where}: type and rope_type of {self.name} contradict each other.")
        if not isinstance(kind, str) or kind not in KINDS:
            raise ModelError(
                f"{self.fields.where}: {self.name} has rope_type {shown(kind)}; {', '.join(KINDS)} are supported."
            )
        for name, value in self.given.items():
            neutral = name in NEUTRAL_IN_ROPE and same(value, NEUTRAL_IN_ROPE[name])
            if name not in KINDS[kind] | HARMLESS_IN_ROPE and not neutral:
                words = f"{repr(name)[1:-1][:80]} {shown(value)} of {self.name}"
                raise ModelError(f"{self.fields.where}: {words} is not supported where its type is {kind}.")
        theta = self._number("rope_theta", 1 + 1e-6, 1e15)
        original = self._number("original_max_position_embeddings", 1, MAX_CONTEXT, self.positions)
        scaling, positions = getattr(self, f"_{kind}")(original)
        return Rope(theta, {"rope_type": kind, **scaling}, max(self.positions, min(int(positions), MAX_CONTEXT)))

    # Each gives the scaling and how many positions it stretches to, 0 where max_position_embeddings says so.

    def _default(self, original: float) -> tuple[dict[str, Any], float]:
        return {}, 0

    def _linear(self, original: float) -> tuple[dict[str, Any], float]:
        factor = self._number("factor", *FACTOR)
        return {"factor": factor}, factor * self.positions

    def _dynamic(self, original: float) -> tuple[dict[str, Any], float]:
        """Further on its base grows with the text, for which see KINDS: the context ends there."""
        if self.head_dim <= 2:
            raise self.fields.error("head_dim", self.head_dim, "more than 2 for a rope of type dynamic")
        return {"factor": self._number("factor", *FACTOR)}, 0

    def _llama3(self, original: float) -> tuple[dict[str, Any], float]:
        scaling = {name: self._number(name, *FACTOR) for name in ("factor", "low_freq_factor", "high_freq_factor")}
        if scaling["low_freq_factor"] >= scaling["high_freq_factor"]:
            raise ModelError(f"{self.fields.where}: low_freq_factor of {self.name} must be below its high_freq_factor.")
        return scaling | {"original_max_position_embeddings": original}, 0

    def _yarn(self, original: float) -> tuple[dict[str, Any], float]:
        """mlx-lm multiplies queries and keys by 1 + 0.1 mscale ln(factor): the factor wanted is said as that mscale."""
        stretched = self.positions / original if "original_max_position_embeddings" in self.given else None
        factor = self._number("factor", *FACTOR, stretched)
        log = 0.1 * math.log(factor) if factor > 1 else 0.0
        mscale, all_dim = (self._number(name, 0, 1e3, 0) for name in ("mscale", "mscale_all_dim"))
        usual = (1 + mscale * log) / (1 + all_dim * log) if mscale and all_dim else 1 + log
        wanted = self._number("attention_factor", 0, 1e3, usual)
        if wanted != 1 and not log:
            raise ModelError(f"{self.fields.where}: attention_factor of {self.name} needs a factor above 1.")
        scaling = {"factor": factor, "original_max_position_embeddings": original}
        scaling |= {"mscale": (wanted - 1) / log} if wanted != 1 + log else {}
        betas = {"beta_fast": 32, "beta_slow": 1}
        return scaling | {name: self._number(name, *FACTOR, beta) for name, beta in betas.items()}, factor * original

    def _proportional(self, original: float) -> tuple[dict[str, Any], float]:
        """transformers rounds to whole pairs, mlx-lm to whole numbers; with a half more their product is no less."""
        pairs = int(self._number("partial_rotary_factor", 0, 1, 1) * self.head_dim // 2)
        partial = (2 * pairs + 0.5) / self.head_dim
        return {"factor": self._number("factor", *FACTOR, 1), "partial_rotary_factor": partial}, 0

    def _number(self, name: str, low: float, high: float, default: float | None = None) -> float:
        value = self.given.get(name, default)
        if not is_number(value) or not low <= value <= high:
            raise self.fields.error(f"{name} of {self.name}", value, f"a number from {low:g} to {high:g}")
        return value
