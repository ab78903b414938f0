"""How much memory a target with its drafters takes, from configs and tensor headers, and whether this machine has it.

weights + the drafters' weights + keys and values of every lane at the chosen context + working memory, or what
loading takes if that is more. Weights count in the precision that they will run in; sliding layers keep a window,
whatever the context.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ModelError
from ..machine import Device as Machine
from ..machine import mlx_device as this_machine
from ..machine import physical_memory
from ..models.config import parse_config
from .facts import DTYPE_BYTES, Facts, stored, tensor_bytes

GROUP_SIZE = 64  # of weights that are quantized at load (models/precision.py)
CACHE_STEP = 256  # rows by which a cache grows
ROLLBACK = 64  # rows a sliding layer keeps below its window (models/cache.py)
PREFILL_CHUNK = 256  # positions (decode/request.py)
SKIPPED = ("vision", "audio", "multi_modal")  # parts of a checkpoint that the text model does not have
ROOMY = 0.9  # of the device's memory; above it there is little left for anything else


__all__ = ["Estimate", "Machine", "estimate", "gigabytes", "physical_memory", "this_machine", "too_big"]


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
    machine: Machine

    @property
    def total(self) -> int:
        return self.target + self.drafters + max(self.cache + self.working, self.loading)

    @property
    def fits(self) -> str:
        memory = self.machine.memory
        return "no" if memory and self.total > memory else "hardly" if memory and self.total > ROOMY * memory else "yes"

    @property
    def words(self) -> str:
        have = f"of the {gigabytes(self.machine.memory)} that {self.machine.name} has for it"
        verdict = {
            "yes": "it fits.",
            "hardly": "it hardly fits: close other programs, or choose a shorter context or fewer bits.",
            "no": "it does not fit: choose fewer bits, a shorter context or a smaller model.",
        }[self.fits]
        if not self.machine.memory:
            return f"About {gigabytes(self.total)}; this device does not say how much memory it has."
        return f"About {gigabytes(self.total)} {have}: {verdict}"


@dataclass(frozen=True)
class Layers:
    """Keys and values of a model's layers. windows: rows that a sliding layer sees, None for a full one."""

    widths: tuple[int, ...]  # numbers that one position adds to one layer, keys and values together
    windows: tuple[int | None, ...]

    def bytes(self, context: int, number_bytes: int) -> int:
        full = -(-context // CACHE_STEP) * CACHE_STEP
        rows = [full if w is None else min(full, w - 1 + ROLLBACK + CACHE_STEP) for w in self.windows]
        return sum(w * r for w, r in zip(self.widths, rows, strict=True)) * number_bytes


def estimate(
    target: Facts,
    drafters: Sequence[Facts],
    machine: Machine,
    context: int,
    precision: str = "auto",
    drafter_precision: str = "auto",
) -> Estimate:
    """What a race of plain decoding and every drafter takes, `context` positions in each lane.

    Precisions as in models/precision.py. Raises ModelError if a config lacks what this needs.
    """
    number = activation_bytes(target, precision, machine)
    layers = target_layers(target)
    cache = (1 + len(drafters)) * layers.bytes(context, number)
    for drafter in drafters:
        cache += drafter_layers(drafter).bytes(context, activation_bytes(drafter, drafter_precision, machine))
    return Estimate(
        weight_bytes(target, precision, machine),
        sum(weight_bytes(d, drafter_precision, machine) for d in drafters),
        cache,
        working_bytes(target, context, number, machine),
        loading_bytes(target, precision, machine),
        machine,
    )


def weight_bytes(facts: Facts, precision: str, machine: Machine) -> int:
    """Bytes of a model's weights as they will run."""
    kind = runs_in(facts, precision, machine)
    tied = _text(facts).get("tie_word_embeddings", facts.config.get("tie_word_embeddings", False))
    target = "num_target_layers" not in facts.config
    total = 0
    for name, info in facts.tensors.items():
        if any(part in name for part in SKIPPED) or (target and tied and name.endswith("lm_head.weight")):
            continue
        if kind == "stored":
            total += tensor_bytes(info)
            continue
        packed = info.dtype == "U32"
        if name.endswith((".scales", ".biases")):
            continue  # counted with their weight
        rows, columns = (info.shape[0], info.shape[-1]) if len(info.shape) == 2 else (1, _count(info.shape))
        if packed:
            columns = _group_columns(facts, name, columns)
        bits = int(kind.removesuffix("-bit")) if kind.endswith("-bit") else 16
        fits = len(info.shape) == 2 and columns % GROUP_SIZE == 0
        total += (
            rows * columns * 2 if bits == 16 or not fits else rows * (columns * bits // 8 + columns // GROUP_SIZE * 4)
        )
    return total


def runs_in(facts: Facts, precision: str, machine: Machine) -> str:
    """ "stored", "bf16", "8-bit" or "4-bit": what models/precision.py makes of `precision` here."""
    quantized = stored(facts).endswith("-bit")
    if precision == "auto":
        precision = "bf16" if quantized and machine.kind == "CPU" else "stored"
    return "stored" if precision == stored(facts) else precision


def activation_bytes(facts: Facts, precision: str, machine: Machine) -> int:
    """Bytes of one number in activations and caches: those of the dense weights."""
    if runs_in(facts, precision, machine) != "stored":
        return 2
    norm = next((t for n, t in facts.tensors.items() if n.endswith("norm.weight")), None)
    return DTYPE_BYTES.get(norm.dtype, 2) if norm else 2


def target_layers(facts: Facts) -> Layers:
    """Keys and values of a target. Raises ModelError."""
    c = _text(facts)
    n, heads = _whole(facts, c, "num_hidden_layers"), _whole(facts, c, "num_attention_heads")
    kv = c.get("num_key_value_heads") or heads
    dim = c.get("head_dim") or _whole(facts, c, "hidden_size") // heads
    types = c.get("layer_types") or ["full_attention"] * n
    gemma = str(facts.config.get("model_type")).startswith("gemma4")
    sliding = [gemma and t == "sliding_attention" for t in types]
    window = _whole(facts, c, "sliding_window") if any(sliding) else None
    full_kv = (c.get("num_global_key_value_heads") or kv) if gemma and c.get("attention_k_eq_v") else kv
    full = 2 * full_kv * (c.get("global_head_dim") or dim if gemma else dim)
    if len(sliding) != n or not all(isinstance(v, int) for v in (kv, dim, full)):
        raise ModelError(f"{facts.where / 'config.json'}: the sizes of its attention layers cannot be read.")
    return Layers(tuple(2 * kv * dim if s else full for s in sliding), tuple(window if s else None for s in sliding))


def drafter_layers(facts: Facts) -> Layers:
    """Keys and values of a drafter's context. Raises ModelError."""
    b = parse_config(facts.where, facts.config, facts.tensors).backbone
    width = 2 * b.num_kv_heads * b.head_dim
    return Layers(
        (width,) * len(b.layer_types), tuple(b.window if t == "sliding_attention" else None for t in b.layer_types)
    )


def working_bytes(target: Facts, context: int, number_bytes: int, machine: Machine) -> int:
    """The most that is held beside weights and caches: one layer of a prefill chunk, or the logits of a round."""
    c = _text(target)
    d, heads = _whole(target, c, "hidden_size"), _whole(target, c, "num_attention_heads")
    vocabulary, inner = _whole(target, c, "vocab_size"), _whole(target, c, "intermediate_size")
    chunk = min(PREFILL_CHUNK, context)
    layer = chunk * (3 * inner + 8 * d) * number_bytes
    if machine.kind == "CPU":  # attention is not fused there: scores and their softmax
        layer += 2 * heads * chunk * context * number_bytes
    logits = 2 * 17 * vocabulary * 4
    return max(layer, logits)


def loading_bytes(facts: Facts, precision: str, machine: Machine) -> int:
    """What converting a target's largest weight takes beside the target itself, at most: the weight as stored, and
    for one that is unpacked twice its numbers at 32 bits. The largest come first (models/reading.py), so that much
    of the target is not there yet."""
    if runs_in(facts, precision, machine) == "stored" or not facts.tensors:
        return 0
    name, info = max(facts.tensors.items(), key=lambda item: tensor_bytes(item[1]))
    numbers = _count(info.shape[:-1]) * (_group_columns(facts, name, info.shape[-1]) if info.dtype == "U32" else 0)
    beside = tensor_bytes(info) + numbers * 8
    return max(0, beside + 2 * numbers - weight_bytes(facts, precision, machine))


def too_big(target: Facts, drafters: Sequence[Facts], machine: Machine, precision: str, drafter_precision: str) -> str:
    """Why the weights alone do not fit this machine; empty if they do."""
    need = weight_bytes(target, precision, machine)
    need += sum(weight_bytes(d, drafter_precision, machine) for d in drafters)
    if not machine.memory or need <= machine.memory:
        return ""
    return (
        f"The weights of {target.name} and its drafters take {gigabytes(need)}, more than the "
        f"{gigabytes(machine.memory)} that {machine.name} has for them."
    )


def gigabytes(n: int) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 1e8 else f"{n / 1e6:.0f} MB"


def _text(facts: Facts) -> dict:
    text = facts.config.get("text_config")
    return text if isinstance(text, dict) else facts.config


def _whole(facts: Facts, config: dict, name: str) -> int:
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelError(f"{facts.where / 'config.json'}: {name} must be a whole number above 0, not {value!r}.")
    return value


def _group_columns(facts: Facts, name: str, packed: int) -> int:
    """Columns of a quantized weight, from those of its scales."""
    scales = facts.tensors.get(name.removesuffix("weight") + "scales")
    q = facts.config.get("quantization") or {}
    size = q.get("group_size", GROUP_SIZE) if isinstance(q, dict) else GROUP_SIZE
    return scales.shape[-1] * size if scales else packed * 4


def _count(shape: tuple[int, ...]) -> int:
    n = 1
    for size in shape:
        n *= size
    return n
