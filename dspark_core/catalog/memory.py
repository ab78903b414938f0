"""How much memory a target with its drafters takes, from configs and tensor headers, and whether this machine has it.

weights + the drafters' weights + keys and values of every lane at the chosen context + working memory, or what
loading takes if that is more. Footprint count in the precision that they will run in; sliding layers keep a window,
whatever the context. Of a model that is not here and was not looked up, the few figures of its preset stand in
(PublishedSizes).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ..machine import Device
from ..models.backbone_config import MAX_ROLLBACK
from ..models.config import GROUP_SIZE, parse_config
from ..models.formats import is_drafter
from ..models.group import Group
from ..models.quantization import DTYPE_BYTES, NARROW, Packing, Quantization, StoredWeight
from ..models.shards import Splits
from ..models.target_config import LayerShape, read_target
from .facts import Facts, stored

# Two figures of code that imports MLX; tests/catalog/test_memory.py holds them against it.
CACHE_STEP = 256  # rows by which a cache grows (mlx_lm and models/cache.py)
PREFILL_CHUNK = 256  # positions (decode/prefill.py)
ROOMY = 0.9  # of the device's memory; above it there is little left for anything else
USUAL_HEADS = 32  # of a target whose shapes are not known
STORED_BITS = {"bf16": 16.0, "8-bit": 8.5, "4-bit": 4.5}  # a number; MLX's groups of 64 have a scale and a bias


@dataclass(frozen=True)
class Estimate:
    """Bytes. `words` is the verdict in one sentence; fits: "yes", "hardly" or "no".

    loading:   the most that a weight takes beside itself while it is converted
    ends:      of the target, its embedding and head; embedding: the one of the two
    of_target: of the cache, what the target's layers take
    splits:    over how many machines mlx-lm can split the target
    machines:  that there are; all else is then of the first one
    """

    target: int
    drafters: int
    cache: int
    working: int
    loading: int
    device: Device
    ends: int = 0
    embedding: int = 0
    of_target: int = 0
    splits: tuple[int, ...] = ()
    machines: int = 1

    def on(self, machines: int) -> "Estimate":
        """The first of so many machines: it has a part of the layers and of their caches, the embedding twice (the
        layers are another process's) and the head, and all drafters."""
        target = (self.target - self.ends) // machines + self.ends + self.embedding
        cache = self.cache - self.of_target + self.of_target // machines
        return replace(self, target=target, cache=cache, machines=machines)

    @property
    def advice(self) -> str:
        """Over how many machines like this one it fits, in a sentence; empty where one is enough, or none helps."""
        if self.machines > 1 or self.fits != "no":
            return ""
        parts = next((e for n in self.splits if (e := self.on(n)).fits == "yes"), None)
        words = parts and f" It fits on {parts.machines} machines like this one, with {gigabytes(parts.total)} on the"
        return f"{words} first: see mlx.launch in the README." if words else ""

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
        about = f"About {gigabytes(self.total)}"
        if self.machines > 1:
            about += f" on this one of {self.machines} machines"
        if not self.device.memory:
            return f"{about}; this device does not say how much memory it has."
        return f"{about} {have}: {verdict}{self.advice}"


@dataclass(frozen=True)
class Layers:
    """Keys and values of a model's layers. windows: rows that a sliding layer sees, None for a full one; recurrent: the
    layers that have a state instead."""

    widths: tuple[int, ...]  # numbers that one position adds to one layer, keys and values together
    windows: tuple[int | None, ...]
    recurrent: tuple[LayerShape, ...] = ()

    @classmethod
    def of_target(cls, facts: Facts) -> "Layers":
        """Those of a target. Raises ModelError."""
        layers = [s for s in read_target(facts.where, facts.config, facts.tensors).layers if not s.shared]
        recurrent = tuple(s for s in layers if not s.kv_heads)
        return cls(tuple(2 * s.kv_heads * s.head_dim for s in layers), tuple(s.window for s in layers), recurrent)

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
        keys = sum(w * r for w, r in zip(self.widths, rows, strict=True)) * number_bytes
        return keys + sum(shape.fixed_bytes(number_bytes) for shape in self.recurrent)


@dataclass(frozen=True)
class PublishedSizes:
    """What is known of a model before any file of it is: a preset's figures.

    bytes:        of its weights as stored
    stored:       the precision that they are stored in: "bf16", "8-bit", "4-bit" or any other
    token_bytes:  of keys and values, a position; in the layers that see all positions
    lane_bytes:   what a lane holds beside them, whatever its length: sliding windows, recurrent states
    assumed:      the figures could not be held against anything published
    experts:      it has some: "auto" leaves these quantized on every device, and so all of the model
    """

    bytes: int
    stored: str = "bf16"
    token_bytes: int = 0
    lane_bytes: int = 0
    assumed: bool = False
    experts: bool = False

    @property
    def words(self) -> str:
        return f"about {gigabytes(self.bytes)}{' (assumed)' if self.assumed else ''}"


@dataclass(frozen=True)
class PublishedFootprint:
    """What Footprint says, of a model of which no more is known than its sizes; to a few hundredths."""

    sizes: PublishedSizes
    precision: str
    device: Device
    loading_bytes: int = 0

    @property
    def bytes(self) -> int:
        sizes, form = self.sizes, self.precision
        if form == "auto":
            dense = self.device.kind == "CPU" and sizes.stored.endswith("bit") and not sizes.experts
            form = "bf16" if dense else "stored"
        bits = STORED_BITS.get(sizes.stored)
        return int(sizes.bytes * STORED_BITS[form] / bits) if bits and form in STORED_BITS else sizes.bytes

    def cache_bytes(self, context: int) -> int:
        return self.sizes.token_bytes * context + self.sizes.lane_bytes

    def working_bytes(self, context: int) -> int:
        return 4 * USUAL_HEADS * min(PREFILL_CHUNK, context) * context if self.device.kind == "CPU" else 0


@dataclass(frozen=True)
class Footprint:
    """What a model takes on a device, its weights as they will run there. precision: as in models/weights.py"""

    facts: Facts
    precision: str
    device: Device

    @cached_property
    def weights(self) -> tuple[StoredWeight, ...]:
        return tuple(Quantization(self.facts.where, self.facts.config, self.facts.tensors).weights())

    @property
    def form(self) -> str:
        """ "stored", "bf16", "8-bit" or "4-bit": what `convert` in models/weights.py makes of `precision` here."""
        packed = any(w.packing for w in self.weights)
        if self.precision == "auto":
            experts = any(w.packing and w.of_experts for w in self.weights)
            return "bf16" if packed and self.device.kind == "CPU" and not experts else "stored"
        unlike = packed if self.precision == "bf16" else False
        return "stored" if self.precision == stored(self.facts) and not unlike else self.precision

    @property
    def bytes(self) -> int:
        form = self.form
        narrow = NARROW if self.device.kind == "CUDA" else 0
        if form == "stored":
            return sum((replace(w, packing=None) if self._becomes_dense(w, narrow) else w).bytes for w in self.weights)
        packing = Packing(int(form.removesuffix("-bit")), GROUP_SIZE) if form.endswith("-bit") else None
        return sum(
            replace(w, dtype="BF16", packing=packing if w.matrix and self._fits_groups(w, narrow) else None).bytes
            for w in self.weights
        )

    @property
    def ends(self) -> tuple[int, int]:
        """Bytes of the embedding and the head, and of the embedding alone."""
        sizes = self._bytes_of("embed_tokens", "lm_head")
        return sum(sizes), sizes[0] if sizes else 0

    def _bytes_of(self, *names: str) -> list[int]:
        """Of the weights with such names."""
        share = self.bytes / max(1, sum(w.bytes for w in self.weights))  # of what is stored, after a conversion
        return [int(w.bytes * share) for name in names for w in self.weights if name in w.name]

    def beside(self, target: "Footprint") -> int:
        """Bytes of a drafter that drafts from a list of tokens: it has rows of the target's head of its own, and its
        own heads are cut to theirs. Raises ModelError."""
        if not is_drafter(self.facts.config):  # a small model
            return self.bytes
        c = parse_config(self.facts.where, self.facts.config, self.facts.tensors)
        share = c.head_rows / c.vocab_size if c.listed else 1.0
        both, embedding = target.ends
        copied = share * (both - embedding or embedding) if c.listed and not c.own_head else 0.0
        return int(self.bytes + copied - (1 - share) * sum(self._bytes_of("lm_head", "markov_w2")))

    @property
    def splits(self) -> tuple[int, ...]:
        """Over how many machines it can be split. Raises ModelError."""
        return tuple(Splits.of(self.facts.where, self.facts.config, self.facts.tensors).counts)

    @staticmethod
    def _fits_groups(weight: StoredWeight, narrow: int) -> bool:
        return weight.columns % GROUP_SIZE == 0 and weight.columns >= narrow

    @staticmethod
    def _becomes_dense(weight: StoredWeight, narrow: int) -> bool:
        """Of the quantized ones, those that are too narrow for the device; embeddings stay."""
        embedding = weight.name.endswith(("embed_tokens.weight", "markov_w1.weight"))
        return weight.packing is not None and weight.columns < narrow and not embedding

    @property
    def number_bytes(self) -> int:
        """Bytes of one number in activations and caches: those of the dense weights. Embeddings of MLX's float modes
        come in bfloat16, and that times a float16 norm is float32."""
        if self.form != "stored":
            return 2
        norm = next((w for w in self.weights if w.name.endswith("norm.weight")), None)
        table = next((w for w in self.weights if w.name.endswith("embed_tokens.weight")), None)
        if norm and norm.dtype == "F16" and table and table.packing and table.packing.mode != "affine":
            return 4
        return DTYPE_BYTES.get(norm.dtype, 2) if norm else 2

    @property
    def loading_bytes(self) -> int:
        """What converting a target's largest weight takes beside the target itself, at most: the weight as stored,
        and for one that is unpacked twice its numbers at 32 bits. The largest come first (models/weights.py), so
        that much of the target is not there yet."""
        if self.form == "stored" or not self.weights:
            return 0
        largest = max(self.weights, key=lambda w: w.bytes)
        unpacked = 10 * largest.numbers if largest.packing else 0
        return max(0, largest.bytes + unpacked - self.bytes)

    def cache_bytes(self, context: int) -> int:
        """Keys and values of one lane. Raises ModelError."""
        layers = Layers.of_drafter if is_drafter(self.facts.config) else Layers.of_target
        return layers(self.facts).bytes(context, self.number_bytes)

    def working_bytes(self, context: int) -> int:
        """The most that a target holds beside weights and caches: one layer of a prefill chunk, or the logits of a
        round. Raises ModelError."""
        sizes = read_target(self.facts.where, self.facts.config, self.facts.tensors).text
        d, heads, vocabulary = (sizes[name] for name in ("hidden_size", "num_attention_heads", "vocab_size"))
        inner = max(
            sizes["intermediate_size"], sizes.get("num_experts_per_tok", 0) * sizes.get("moe_intermediate_size", 0)
        )
        chunk, number_bytes = min(PREFILL_CHUNK, context), self.number_bytes
        layer = chunk * (3 * inner + 8 * d) * number_bytes
        if self.device.kind == "CPU":  # attention is not fused there: scores and their softmax
            layer += 2 * heads * chunk * context * number_bytes
        return max(layer, 2 * 17 * vocabulary * 4)


def estimate(
    target: Facts | PublishedSizes,
    drafters: Sequence[Facts | PublishedSizes],
    device: Device,
    context: int,
    precision: str = "auto",
    drafter_precision: str = "auto",
) -> Estimate:
    """What a race of plain decoding and every drafter takes, `context` positions in each lane.

    Precisions as in models/weights.py. Raises ModelError if a config lacks what this needs.
    """

    def footprint(model: Facts | PublishedSizes, precision: str) -> Footprint | PublishedFootprint:
        kind = PublishedFootprint if isinstance(model, PublishedSizes) else Footprint
        return kind(model, precision, device)  # type: ignore[arg-type]

    weights = footprint(target, precision)
    drafting = [footprint(d, drafter_precision) for d in drafters]
    of_target = (1 + len(drafters)) * weights.cache_bytes(context)
    cache = of_target + sum(d.cache_bytes(context) for d in drafting)
    of_drafters = sum(
        d.beside(weights) if isinstance(d, Footprint) and isinstance(weights, Footprint) else d.bytes for d in drafting
    )
    sizes = weights.bytes, of_drafters, cache, weights.working_bytes(context), weights.loading_bytes
    if isinstance(weights, PublishedFootprint):
        return Estimate(*sizes, device)
    whole = Estimate(*sizes, device, *weights.ends, of_target, weights.splits)
    group = Group.here()
    return whole.on(group.size) if group else whole


def too_big(target: Facts, drafters: Sequence[Facts], device: Device, precision: str, drafter_precision: str) -> str:
    """Why the weights alone do not fit this machine; empty if they do."""
    weights, group = Footprint(target, precision, device), Group.here()
    need = weights.bytes
    if group:
        need = Estimate(need, 0, 0, 0, 0, device, *weights.ends).on(group.size).target
    need += sum(Footprint(d, drafter_precision, device).bytes for d in drafters)
    if not device.memory or need <= device.memory:
        return ""
    return (
        f"The weights of {target.name} and its drafters take {gigabytes(need)}, more than the "
        f"{gigabytes(device.memory)} that {device.name} has for them."
    )


def gigabytes(n: int) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 1e8 else f"{n / 1e6:.0f} MB"
