"""What a config.json and the tensor headers beside it say, without weights and without MLX.

So a page's thread can tell a target from a drafter and check whether two fit while the thread that owns MLX is
busy; loading runs the same checks. A drafter's config is a copy of its target's with a few fields added, so shapes
are taken from the tensors where they agree among themselves.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .errors import ModelError
from .safetensors import TensorInfo

TARGET_TYPES = {
    "llama": "Llama",
    "qwen3": "Qwen3",
    "gemma4": "Gemma-4",
    "gemma4_text": "Gemma-4",
    "gemma4_unified": "Gemma-4",
}
MARKOV_TYPES = ("vanilla", "gated", "rnn")
DEEPSPEC = {"Qwen3DSparkModel": False, "Gemma4DSparkModel": True}  # -> Gemma-4 layers?
ZLAB = "DFlashDraftModel"
MAX_LAYERS = 100
LAYER_TYPES = ("full_attention", "sliding_attention")


@dataclass(frozen=True)
class TargetShape:
    """What a drafter must know of its target."""

    name: str
    family: str
    hidden_size: int
    vocab_size: int
    num_layers: int


class ShapeOf(Protocol):
    """A TargetShape, or the loaded Target itself."""

    name: str
    hidden_size: int
    vocab_size: int
    num_layers: int


def target_shape(directory: Path, config: dict) -> TargetShape:
    """The shape of the target that `config` describes. Raises ModelError if its family is not supported or a
    field is missing."""
    check_family(directory, config)
    text = config.get("text_config") or config

    def whole(name):
        value = text.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ModelError(f"{directory / 'config.json'}: {name} must be a whole number above 0, not {value!r}.")
        return value

    family = TARGET_TYPES[config["model_type"]]
    return TargetShape(directory.name, family, whole("hidden_size"), whole("vocab_size"), whole("num_hidden_layers"))


def check_family(directory: Path, config: dict) -> None:
    """Raises ModelError for a target that is not of a supported family, or that wants code of its own to run."""
    where = directory / "config.json"
    kind, text = config.get("model_type"), config.get("text_config") or config
    if not isinstance(text, dict):
        raise ModelError(f"{where}: text_config must be an object.")
    if kind not in TARGET_TYPES:
        raise ModelError(
            f"{where} has model_type {kind!r}; targets of the Llama, Qwen3 and Gemma-4 families are supported."
        )
    if config.get("model_file"):
        raise ModelError(f"{where} asks to run code from {config['model_file']!r}; code of a model is never run.")
    if kind.startswith("gemma4") and (text.get("hidden_size_per_layer_input") or text.get("num_kv_shared_layers")):
        raise ModelError(
            f"{where}: Gemma-4 models with per-layer embeddings or shared key/value layers (E2B, E4B) are not "
            "supported."
        )


@dataclass(frozen=True)
class BackboneConfig:
    """Shapes of a backbone. `gemma` chooses Gemma-4 layers; `window` is None without sliding layers."""

    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    num_taps: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: dict | None
    layer_types: tuple[str, ...]
    window: int | None = None
    attention_bias: bool = False
    gemma: bool = False
    k_eq_v: bool = False


@dataclass(frozen=True)
class DrafterConfig:
    """A drafter's checkpoint, in the field's terms; see spec of each format in checkpoint.py."""

    method: str
    backbone: BackboneConfig
    block_size: int
    vocab_size: int
    mask_token_id: int
    taps: tuple[int, ...]
    first_slot: int  # 0: the anchor's slot predicts; 1: its output is discarded
    own_embedding: bool
    own_head: bool
    softcap: float | None
    markov_rank: int = 0
    markov_type: str | None = None
    confidence: bool = False
    confidence_with_markov: bool = False


def parse_config(directory: Path, raw: dict, tensors: dict[str, TensorInfo]) -> DrafterConfig:
    """The checkpoint's configuration, from config.json and the shapes its tensors declare. Raises ModelError."""
    where = directory / "config.json"
    try:
        return _parse(where, raw, tensors)
    except (TypeError, ValueError, AttributeError, KeyError, ArithmeticError) as e:  # a field of an odd type
        raise ModelError(f"{where} cannot be read as a drafter's configuration ({e}).") from None


def _parse(where: Path, raw: dict, tensors: dict[str, TensorInfo]) -> DrafterConfig:
    read = _Reader(where, raw)
    architecture = (raw.get("architectures") or [None])[0]
    if architecture in ("DFlash2DraftModel",):
        raise ModelError(f"{where}: DFlash 2 drafters ({architecture}) are not supported.")
    if architecture not in DEEPSPEC and architecture != ZLAB:
        known = ", ".join([*DEEPSPEC, ZLAB])
        raise ModelError(f"{where} has architecture {architecture!r}; drafters of {known} are supported.")
    zlab, gemma = architecture == ZLAB, DEEPSPEC.get(architecture, False)
    rank = read("markov_rank", int, 0)
    if zlab and rank:
        raise ModelError(f"{where}: a DFlash drafter with a Markov head (markov_rank {rank}) is not supported.")
    markov_type = read("markov_head_type", str, "vanilla") if rank else None
    if rank and markov_type not in MARKOV_TYPES:
        raise ModelError(f"{where} has markov_head_type {markov_type!r}; {', '.join(MARKOV_TYPES)} are supported.")
    if gemma and (raw.get("hidden_size_per_layer_input") or raw.get("enable_moe_block")):
        raise ModelError(f"{where}: Gemma-4 drafters with per-layer embeddings or experts are not supported.")
    confidence = bool(raw.get("enable_confidence_head", False))
    with_markov = confidence and bool(raw.get("confidence_head_with_markov", False))
    if with_markov and not rank:
        raise ModelError(f"{where} asks for a confidence head with Markov features but has markov_rank 0.")
    layers = read("num_hidden_layers", int)
    if not 1 <= layers <= MAX_LAYERS:
        raise ModelError(f"{where}: num_hidden_layers is {layers}; a drafter has 1 to {MAX_LAYERS}.")
    num_taps_default = _default_taps(read("num_target_layers", int), layers) if zlab else None
    taps = tuple(read("target_layer_ids", list, num_taps_default))
    return DrafterConfig(
        method="DSpark" if rank else "DFlash",
        backbone=_backbone(read, raw, tensors, gemma, layers, len(taps)),
        block_size=read("block_size", int),
        vocab_size=read("vocab_size", int),
        mask_token_id=read("mask_token_id", int),
        taps=taps,
        first_slot=1 if zlab else 0,
        own_embedding="embed_tokens.weight" in tensors,
        own_head="lm_head.weight" in tensors,
        softcap=raw.get("dflash_config", {}).get("final_logit_softcapping", raw.get("final_logit_softcapping"))
        if gemma or zlab
        else None,
        markov_rank=rank,
        markov_type=markov_type,
        confidence=confidence,
        confidence_with_markov=with_markov,
    )


class _Reader:
    """Fields of a config: z-lab's later files keep some under `dflash_config`, which goes first."""

    def __init__(self, where: Path, raw: dict):
        self.where, self.raw = where, raw
        nested = raw.get("dflash_config") or {}
        if not isinstance(nested, dict):
            raise ModelError(f"{where}: dflash_config must be an object.")
        self.nested = nested

    def __call__(self, name: str, kind: type, default=None):
        value = self.nested.get(name, self.raw.get(name))
        value = default if value is None else value
        if value is None:
            raise ModelError(f"{self.where} has no {name}, which a drafter needs.")
        if not isinstance(value, kind) or isinstance(value, bool) or (kind is int and value < 0):
            raise ModelError(f"{self.where}: {name} must be of type {kind.__name__}, not {value!r}.")
        if kind is list and not all(isinstance(v, int) for v in value):
            raise ModelError(f"{self.where}: {name} must be a list of integers, not {value!r}.")
        return value


def _default_taps(n: int, k: int) -> list[int]:
    """z-lab's taps where the config names none: n target layers, k draft layers."""
    return [n // 2] if k == 1 else [round(1 + i * (n - 4) / (k - 1)) for i in range(k)]


def _backbone(read: _Reader, raw: dict, tensors: dict, gemma: bool, layers: int, taps: int) -> BackboneConfig:
    def dim(name, axis):
        info = tensors.get(f"layers.0.{name}.weight")
        if info is None or len(info.shape) <= axis:
            return None
        packed = axis == 1 and info.dtype == "U32"
        return None if packed else info.shape[axis]

    def agreed(*values):
        known = {v for v in values if v is not None}
        return known.pop() if len(known) == 1 else None

    k_eq_v = gemma and bool(raw.get("attention_k_eq_v", False))
    head_dim = agreed(dim("self_attn.q_norm", 0), dim("self_attn.k_norm", 0))
    head_dim = head_dim or read("global_head_dim" if gemma else "head_dim", int)
    kv = "num_global_key_value_heads" if k_eq_v and raw.get("num_global_key_value_heads") else "num_key_value_heads"
    q_rows = (
        agreed(dim("self_attn.q_proj", 0), dim("self_attn.o_proj", 1)) or read("num_attention_heads", int) * head_dim
    )
    kv_rows = agreed(dim("self_attn.k_proj", 0), dim("self_attn.v_proj", 0)) or read(kv, int) * head_dim
    inner = agreed(dim("mlp.gate_proj", 0), dim("mlp.up_proj", 0), dim("mlp.down_proj", 1))
    types = tuple(raw.get("layer_types") or ["full_attention"] * layers)
    if len(types) != layers or any(t not in LAYER_TYPES for t in types):
        raise ModelError(
            f"{read.where}: layer_types must name {layers} layers of {' or '.join(LAYER_TYPES)}, not {types}."
        )
    sliding = "sliding_attention" in types
    theta, scaling = _rope(read, raw, gemma)
    return BackboneConfig(
        hidden_size=read("hidden_size", int),
        num_heads=max(1, q_rows // head_dim),
        num_kv_heads=max(1, kv_rows // head_dim),
        head_dim=head_dim,
        intermediate_size=inner or read("intermediate_size", int),
        num_taps=taps,
        rms_norm_eps=read("rms_norm_eps", float, 1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        layer_types=types,
        window=read("sliding_window", int) if sliding else None,
        attention_bias=bool(raw.get("attention_bias", False)),
        gemma=gemma,
        k_eq_v=k_eq_v,
    )


def _rope(read: _Reader, raw: dict, gemma: bool) -> tuple[float, dict | None]:
    """Base and scaling: flat `rope_theta` (transformers 4) or under `rope_parameters` (5; by layer type for Gemma)."""
    parameters = raw.get("rope_parameters") or {}
    if gemma:
        parameters = parameters.get("full_attention") or {}
    scaling = parameters or raw.get("rope_scaling")
    theta = parameters.get("rope_theta") or raw.get("rope_theta")
    if not isinstance(theta, int | float):
        raise ModelError(f"{read.where} has no rope_theta, flat or under rope_parameters.")
    return float(theta), scaling or None


def check_fit(directory: Path, c: DrafterConfig, raw: dict, target: ShapeOf) -> None:
    """Raises ModelError if the drafter was not made for this target."""
    where = directory / "config.json"

    def need(ok, what):
        if not ok:
            raise ModelError(f"{where}: {what}.")

    d, V, n = target.hidden_size, target.vocab_size, target.num_layers
    hidden = c.backbone.hidden_size
    need(hidden == d, f"the drafter's hidden_size is {hidden}, that of the target {target.name} is {d}")
    need(
        c.vocab_size == V,
        f"the drafter's vocab_size is {c.vocab_size}, that of the target {target.name} is {V}",
    )
    layers = raw.get("num_target_layers", n)
    need(layers == n, f"the drafter was made for a target of {layers} layers, {target.name} has {n}")
    need(
        c.taps and list(c.taps) == sorted(set(c.taps)),
        f"target_layer_ids {list(c.taps)} must be strictly increasing",
    )
    need(
        all(-1 <= t < n - 1 for t in c.taps),
        f"target_layer_ids {list(c.taps)} must lie between -1 and {n - 2}: the last layer of {n} cannot be tapped",
    )
    need(c.block_size >= 2, f"block_size is {c.block_size}, it must be at least 2")
    need(c.mask_token_id < V, f"mask_token_id {c.mask_token_id} is not in the vocabulary of {V}")
