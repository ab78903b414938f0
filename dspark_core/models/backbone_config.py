"""What a drafter's config.json and the shapes of its tensors say of its backbone: sizes, layers, masks, rope."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError
from .fields import Fields, same, shown
from .headers import TensorInfo
from .rope import rope

FULL, SLIDING = "full_attention", "sliding_attention"
LAYER_TYPES = (FULL, SLIDING)
GELU = "gelu_pytorch_tanh"  # hidden_act of Gemma's layers, and of Qwen3 layers that were made for a Gemma target
# A verification is never wider: a sliding-window layer can drop this many of its newest positions (cache.py). It
# bounds a block, too, whose own keys are dropped from the drafter's context after every draft.
MAX_ROLLBACK = 64
# No drafter comes near these; they keep a damaged file from asking for more memory than there is.
MAX_LAYERS, MAX_HEADS, MAX_HEAD_DIM, MAX_WIDTH, MAX_WINDOW = 100, 1024, 4096, 1 << 20, 1 << 30


@dataclass(frozen=True)
class Visibility:
    """What a slot of the block sees, layer by layer.

    causal:   only the slots up to itself?
    window:   rows W of the sliding layers; None without any
    by_block: every slot sees the newest W context rows; else slot i sees W less one and less i, for the window counts
              back from the slot itself
    """

    layer_types: tuple[str, ...]
    causal: tuple[bool, ...]
    window: int | None = None
    by_block: bool = False


@dataclass(frozen=True)
class BackboneConfig:
    """Shapes of a backbone, and what its slots see. `gemma` chooses Gemma-4 layers; `convolution` is (taps, group size)
    of DFlash 2's convolutions; `gelu` is the MLP's activation, else it is silu;
    `interleaved` ropes turn neighbouring pairs."""

    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    num_taps: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: dict[str, Any] | None
    layer_types: tuple[str, ...]
    causal: tuple[bool, ...]
    window: int | None = None
    attention_bias: bool = False
    gemma: bool = False
    k_eq_v: bool = False
    by_block: bool = False
    convolution: tuple[int, int] | None = None
    gelu: bool = False
    interleaved: bool = False


def full_layer_sizes(where: Path, raw: dict[str, Any]) -> dict[str, Any]:
    """A Gemma-4 drafter's config.json with the sizes of its full layers in fields of their own. transformers 5 has
    moved these two to per_layer_config, by layer; a drafter's layers are alike. Raises ModelError if they are not."""
    names = {"head_dim": "global_head_dim", "num_key_value_heads": "num_global_key_value_heads"}
    sizes = raw.get("per_layer_config")
    if sizes is None:
        return raw
    layers = {str(name).lstrip("0") or "0": of for name, of in sizes.items()} if isinstance(sizes, dict) else {}
    first, expected = layers.get("0"), raw.get("num_hidden_layers")
    alike = isinstance(first, dict) and first.keys() <= names.keys() and all(of == first for of in layers.values())
    if (
        not isinstance(first, dict)
        or not alike
        or len(layers) != expected
        or layers.keys() != {str(i) for i in range(len(layers))}
    ):
        raise ModelError(
            f"{where}: per_layer_config {shown(sizes)} must give every one of {shown(expected)} layers the same "
            f"{' and '.join(names)}, and nothing else."
        )
    moved = {names[name]: size for name, size in first.items()}
    for name, size in moved.items():
        if raw.get(name) is not None and not same(raw[name], size):
            raise ModelError(f"{where}: {name} and per_layer_config contradict each other.")
    return {name: value for name, value in raw.items() if name != "per_layer_config"} | moved


def read_backbone(
    fields: Fields,
    tensors: Mapping[str, TensorInfo | None],
    visibility: Visibility,
    taps: int,
    gemma: bool = False,
    convolution: tuple[int, int] | None = None,
    interleaved: bool = False,
) -> BackboneConfig:
    """Its sizes, each held against the tensors' headers. Raises ModelError."""

    def dim(*places: tuple[str, int]) -> int | None:
        """The size that these tensors (name, axis) of layer 0 agree on, if they do."""
        known = set()
        for name, axis in places:
            info = tensors.get(f"layers.0.{name}.weight")
            if info is not None and len(info.shape) > axis and (axis == 0 or info.dtype != "U32"):  # not packed
                known.add(info.shape[axis])
        return known.pop() if len(known) == 1 else None

    def sized(name: str, high: int, stored: int | None, unit: int = 1) -> int:
        """The field, or else what the tensors say, where they are known; both must say the same."""
        value = fields.whole(name, 1, high, stored // unit if stored else None)
        if stored is not None and stored != value * unit:
            raise ModelError(
                f"{fields.where}: {fields.spelled(name)} is {value}, but the tensors of layer 0 are made for "
                f"{stored / unit:g}."
            )
        return value

    k_eq_v = gemma and fields.flag("attention_k_eq_v")
    kv = "num_global_key_value_heads" if k_eq_v and fields.get("num_global_key_value_heads") else "num_key_value_heads"
    head_dim = sized(
        "global_head_dim" if gemma else "head_dim", MAX_HEAD_DIM, dim(("self_attn.q_norm", 0), ("self_attn.k_norm", 0))
    )
    heads = sized("num_attention_heads", MAX_HEADS, dim(("self_attn.q_proj", 0), ("self_attn.o_proj", 1)), head_dim)
    kv_heads = sized(kv, MAX_HEADS, dim(("self_attn.k_proj", 0), ("self_attn.v_proj", 0)), head_dim)
    if head_dim % 2 or heads % kv_heads:
        raise ModelError(
            f"{fields.where}: {heads} heads of {head_dim} cannot share {kv_heads} key/value heads; heads must be a "
            "multiple of these, and a head's size even."
        )
    if gemma:  # of the target's other layers, from which the config was copied
        fields.read |= {"head_dim", "num_key_value_heads", "num_global_key_value_heads"}
    inner = dim(("mlp.gate_proj", 0), ("mlp.up_proj", 0), ("mlp.down_proj", 1))
    width = fields.whole("hidden_size", 1, MAX_WIDTH)
    if convolution and width % convolution[1]:
        raise ModelError(f"{fields.where}: conv_group_size {convolution[1]} does not divide hidden_size {width}.")
    theta, scaling = rope(fields, gemma)
    return BackboneConfig(
        hidden_size=width,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=sized("intermediate_size", MAX_WIDTH, inner),
        num_taps=taps,
        rms_norm_eps=fields.number("rms_norm_eps", 1e-12, 0.1, 1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        layer_types=visibility.layer_types,
        causal=visibility.causal,
        window=visibility.window,
        attention_bias=fields.flag("attention_bias"),
        gemma=gemma,
        k_eq_v=k_eq_v,
        by_block=visibility.by_block,
        convolution=convolution,
        interleaved=interleaved,
        gelu=gemma or fields.raw.get("hidden_act") == GELU,  # where its packaging has that, as `refuse_others` sees to
    )


def layer_count(fields: Fields, tensors: Mapping[str, TensorInfo | None]) -> int:
    """num_hidden_layers, held against the layers that there are tensors of. Raises ModelError."""
    layers = fields.whole("num_hidden_layers", 1, MAX_LAYERS)
    stored = {int(n.split(".")[1]) for n in tensors if n.startswith("layers.") and n.split(".")[1].isdecimal()}
    if stored and len(stored) < layers:
        name = fields.spelled("num_hidden_layers")
        raise ModelError(f"{fields.where}: {name} is {layers}, but there are tensors of {len(stored)} only.")
    return layers


def layer_types(fields: Fields, layers: int, numbered: bool = False) -> tuple[str, ...]:
    """Which layers slide: as layer_types says. `numbered`: without it, the ones from max_window_layers on where the
    window is switched on, as transformers' Qwen3Config has it; not every reader does. Raises ModelError."""
    types, switched = fields.get("layer_types"), fields.flag("use_sliding_window")
    if types is None and switched:
        if not numbered:
            raise ModelError(
                f"{fields.where}: use_sliding_window is true without layer_types, so it is not known which layers "
                "slide."
            )
        full = fields.whole("max_window_layers", 0, MAX_LAYERS)
        types = [FULL if i < full else SLIDING for i in range(layers)]
    types = [FULL] * layers if types is None else types
    if not isinstance(types, list) or len(types) != layers or any(t not in LAYER_TYPES for t in types):
        raise fields.error("layer_types", types, f"a list of {layers} names, each {' or '.join(LAYER_TYPES)}")
    return tuple(types)
