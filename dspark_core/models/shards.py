"""Over how many machines mlx-lm can split a target, by its config.json; no MLX.

mlx-lm's `shard` gives each machine some of the heads and some of the numbers inside each MLP. Both have to divide.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import ModelError
from .headers import read_config, read_headers
from .target_config import read_target
from .targets import families, mlx_name

MOST = 16  # machines
DIVIDED = (
    *("intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size"),
    *("linear_num_key_heads", "linear_num_value_heads"),
)


@dataclass(frozen=True)
class Splits:
    """What decides over how many machines a target runs.

    family:    its title
    sharded:   mlx-lm can split the family at all
    heads:     of queries
    kv_heads:  of keys and values
    copied:    there may be more machines than those: they are then there several times
    divided:   other numbers that each machine has a part of, with their names
    """

    family: str
    sharded: bool
    heads: int
    kv_heads: int
    copied: bool
    divided: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, where: Path, config: dict[str, Any], tensors: Mapping[str, Any]) -> "Splits":
        """Those of a model directory or repository. Raises ModelError."""
        shape = read_target(where, config, tensors)
        name, text = mlx_name(shape.family), shape.text
        divided = [(field, text[field]) for field in DIVIDED if text.get(field)]
        if name.startswith("qwen3_5"):  # whose head mlx-lm splits, too
            divided += [] if shape.tied else [("vocab_size", shape.vocab_size)]
        kv_heads = text.get("num_key_value_heads") or text["num_attention_heads"]
        copied = name.startswith("qwen3_5")
        sharded = mlx_lm_splits(name)
        return cls(shape.family.TITLE, sharded, text["num_attention_heads"], kv_heads, copied, tuple(divided))

    @classmethod
    def of_directory(cls, directory: Path) -> "Splits":
        return cls.of(directory, read_config(directory), read_headers(directory))

    def fits(self, machines: int) -> bool:
        """Can it run on so many?"""
        if machines == 1:
            return True
        kv = self.kv_heads % machines == 0 or (self.copied and machines % self.kv_heads == 0)
        return self.sharded and kv and self.heads % machines == 0 and all(n % machines == 0 for _, n in self.divided)

    @property
    def counts(self) -> list[int]:
        """More than one machine, as many as it can run on."""
        return [n for n in range(2, MOST + 1) if self.fits(n)]

    def require(self, name: str, machines: int) -> None:
        """Raises ModelError, in one sentence, where a target of this name cannot run on so many."""
        if self.fits(machines):
            return
        if not self.sharded:
            able = [f.TITLE for f in families() if mlx_lm_splits(mlx_name(f))]
            raise ModelError(
                f"{name} is of the family {self.family}, which mlx-lm cannot split over several machines: start it "
                f"without mlx.launch, or choose a model of {', '.join(able[:-1])} or {able[-1]}."
            )
        counts = [str(n) for n in self.counts]
        others = [f"{field} {n}" for field, n in self.divided if n % machines]
        why = f"its {self.heads} query and {self.kv_heads} key/value heads"
        divisible = self.heads % machines == 0 and (self.kv_heads % machines == 0 or self.copied)
        why = f"its {others[0]}" if others and divisible else why
        able_to = f"it runs on 1 or {' or '.join(counts)}" if counts else "it runs on one alone"
        raise ModelError(f"{name} cannot be split over {machines} machines, for {why} cannot be: {able_to}.")


@cache
def mlx_lm_splits(family: str) -> bool:
    """Has mlx-lm's model of this name a `shard`, of its own or of the model that it is made from? Read, not imported:
    that would bring MLX."""
    found = find_spec("mlx_lm")
    for base in (found.submodule_search_locations or []) if found else []:
        file = Path(base) / "models" / f"{family}.py"
        text = file.read_text("utf-8") if file.is_file() else ""
        other = re.search(r"^from \.(\w+) import Model\b", text, re.MULTILINE)
        return "def shard(" in text or (other is not None and mlx_lm_splits(other[1]))
    return False
