"""How much memory a target with its drafters takes, from configs and tensor headers, and whether this machine has it.

weights + the drafters' weights + keys and values of every lane at the chosen context + working memory, or what
loading takes if that is more. Footprint count in the precision that they will run in; sliding layers keep a window,
whatever the context.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..machine import Device
from ..models.backbone_config import MAX_ROLLBACK
from ..models.config import GROUP_SIZE, parse_config
from ..models.headers import TensorInfo
from ..models.target_config import read_target
from .facts import DTYPE_BYTES, Facts, stored, tensor_bytes

# Two figures of code that imports MLX; tests/catalog/test_memory.py holds them against it.
CACHE_STEP = 256  # rows by which a cache grows (mlx_lm and models/cache.py)
PREFILL_CHUNK = 256  # positions (decode/prefill.py)
SKIPPED = ("vision", "audio", "multi_modal")  # parts of a checkpoint that the text model does not have
ROOMY = 0.9  # of the device's memory; above it there is little left for anything else


@dataclass(frozen=True)
class Estimate:
    """Bytes. `words` is the verdict in one sentence; fits: "yes", "hardly" or "no".

    loading: the most that a weight takes beside itself while it is converted
    """

    target: int
    drafters: int
    cache: int
    working: int
    loading: int
    device: Device

    @property
    def total(self) -> int:
        return self.target + self.drafters + max(self.cache + self.working, self.loading)

    @property
    def fits(self) -> str:
        memory = self.device.memory
        return "no" if memory and self.total > memory else "hardly" if memory and self.total > ROOMY * memory else "yes"

    @property
    def words(self) -> str:
        have = f"of the {gigabytes(self.device.memory)} that {self.device.name} has for it"
        verdict = {
            "yes": "it fits.",
            "hardly": "it hardly fits: close other programs, or choose a shorter context or fewer bits.",
            "no": "it does not fit: choose fewer bits, a shorter context or a smaller model.",
        }[self.fits]
        if not self.device.memory:
            return f"About {gigabytes(self.total)}; this device does not say how much memory it has."
        return f"About {gigabytes(self.total)} {have}: {verdict}"


@dataclass(frozen=True)
class Layers:
    """Keys and values of a model's layers. windows: rows that a sliding layer sees, None for a full one."""

    widths: tuple[int, ...]  # numbers that one position adds to one layer, keys and values together
    windows: tuple[int | None, ...]

    @classmethod
    def of_target(cls, facts: Facts) -> "Layers":
        """Those of a target. Raises ModelError."""
        layers = read_target(facts.where, facts.config, facts.tensors).layers
        return cls(tuple(2 * s.kv_heads * s.head_dim for s in layers), tuple(s.window for s in layers))

    @classmethod
    def of_drafter(cls, facts: Facts) -> "Layers":
        """Those of a drafter's context. Raises ModelError."""
        b = parse_config(facts.where, facts.config, facts.tensors).backbone
        width = 2 * b.num_kv_heads * b.head_dim
        windows = tuple(b.window if t == "sliding_attention" else None for t in b.layer_types)
        return cls((width,) * len(windows), windows)

    def bytes(self, context: int, number_bytes: int) -> int:
        full = -(-context // CACHE_STEP) * CACHE_STEP
        rows = [full if w is None else min(full, w - 1 + MAX_ROLLBACK + CACHE_STEP) for w in self.windows]
        return sum(w * r for w, r in zip(self.widths, rows, strict=True)) * number_bytes


@dataclass(frozen=True)
class Footprint:
    """What a model takes on a device, its weights as they will run there. precision: as in models/weights.py"""

    facts: Facts
    precision: str
    device: Device

    @property
    def form(self) -> str:
        """ "stored", "bf16", "8-bit" or "4-bit": what models/weights.py makes of `precision` here."""
        at_rest, precision = stored(self.facts), self.precision
        if precision == "auto":
            precision = "bf16" if at_rest.endswith("-bit") and self.device.kind == "CPU" else "stored"
        return "stored" if precision == at_rest else precision

    @property
    def bytes(self) -> int:
        facts, form = self.facts, self.form
        tied = facts.text.get("tie_word_embeddings", facts.config.get("tie_word_embeddings", False))
        skipped = ("lm_head.weight",) if tied and "num_target_layers" not in facts.config else ()
        bits = int(form.removesuffix("-bit")) if form.endswith("-bit") else 16
        total = 0
        for name, info in facts.tensors.items():
            if any(part in name for part in SKIPPED) or name.endswith(skipped):
                continue
            if form == "stored":
                total += tensor_bytes(info)
            elif not name.endswith((".scales", ".biases")):  # those are counted with their weight
                total += self._converted(name, info, bits)
        return total

    def _converted(self, name: str, info: TensorInfo, bits: int) -> int:
        """Bytes of one weight at so many bits; at 16 if its columns are no whole groups."""
        matrix = len(info.shape) == 2
        rows, columns = (info.shape[0], info.shape[-1]) if matrix else (1, math.prod(info.shape))
        if info.dtype == "U32":
            columns = self._group_columns(name, columns)
        if bits == 16 or not matrix or columns % GROUP_SIZE:
            return rows * columns * 2
        return rows * (columns * bits // 8 + columns // GROUP_SIZE * 4)

    @property
    def number_bytes(self) -> int:
        """Bytes of one number in activations and caches: those of the dense weights."""
        if self.form != "stored":
            return 2
        norm = next((t for n, t in self.facts.tensors.items() if n.endswith("norm.weight")), None)
        return DTYPE_BYTES.get(norm.dtype, 2) if norm else 2

    @property
    def loading_bytes(self) -> int:
        """What converting a target's largest weight takes beside the target itself, at most: the weight as stored,
        and for one that is unpacked twice its numbers at 32 bits. The largest come first (models/weights.py), so
        that much of the target is not there yet."""
        if self.form == "stored" or not self.facts.tensors:
            return 0
        name, info = max(self.facts.tensors.items(), key=lambda item: tensor_bytes(item[1]))
        packed = info.dtype == "U32"
        numbers = math.prod(info.shape[:-1]) * self._group_columns(name, info.shape[-1]) if packed else 0
        return max(0, tensor_bytes(info) + numbers * 8 + 2 * numbers - self.bytes)

    def working_bytes(self, context: int) -> int:
        """The most that a target holds beside weights and caches: one layer of a prefill chunk, or the logits of a
        round. Raises ModelError."""
        d, heads = self.facts.size("hidden_size"), self.facts.size("num_attention_heads")
        vocabulary, inner = self.facts.size("vocab_size"), self.facts.size("intermediate_size")
        chunk, number_bytes = min(PREFILL_CHUNK, context), self.number_bytes
        layer = chunk * (3 * inner + 8 * d) * number_bytes
        if self.device.kind == "CPU":  # attention is not fused there: scores and their softmax
            layer += 2 * heads * chunk * context * number_bytes
        return max(layer, 2 * 17 * vocabulary * 4)

    def _group_columns(self, name: str, packed: int) -> int:
        """Columns of a quantized weight, from those of its scales."""
        scales = self.facts.tensors.get(name.removesuffix("weight") + "scales")
        q = self.facts.config.get("quantization") or {}
        size = q.get("group_size", GROUP_SIZE) if isinstance(q, dict) else GROUP_SIZE
        return int(scales.shape[-1] * size) if scales else packed * 4


def estimate(
    target: Facts,
    drafters: Sequence[Facts],
    device: Device,
    context: int,
    precision: str = "auto",
    drafter_precision: str = "auto",
) -> Estimate:
    """What a race of plain decoding and every drafter takes, `context` positions in each lane.

    Precisions as in models/weights.py. Raises ModelError if a config lacks what this needs.
    """
    weights = Footprint(target, precision, device)
    cache = (1 + len(drafters)) * Layers.of_target(target).bytes(context, weights.number_bytes)
    drafting = [Footprint(d, drafter_precision, device) for d in drafters]
    cache += sum(Layers.of_drafter(d.facts).bytes(context, d.number_bytes) for d in drafting)
    working = weights.working_bytes(context)
    return Estimate(weights.bytes, sum(d.bytes for d in drafting), cache, working, weights.loading_bytes, device)


def too_big(target: Facts, drafters: Sequence[Facts], device: Device, precision: str, drafter_precision: str) -> str:
    """Why the weights alone do not fit this machine; empty if they do."""
    need = Footprint(target, precision, device).bytes
    need += sum(Footprint(d, drafter_precision, device).bytes for d in drafters)
    if not device.memory or need <= device.memory:
        return ""
    return (
        f"The weights of {target.name} and its drafters take {gigabytes(need)}, more than the "
        f"{gigabytes(device.memory)} that {device.name} has for them."
    )


def gigabytes(n: int) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 1e8 else f"{n / 1e6:.0f} MB"
