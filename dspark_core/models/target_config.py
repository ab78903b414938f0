"""What a target's config.json says to transformers, and what mlx-lm is given so that it computes the same. No MLX.

mlx-lm's argument classes drop fields that they do not know and have defaults of their own. So nothing reaches them as
the file has it: every field is read here or in its family's file, with the default of transformers' class, and sizes
are held against the shapes of the tensors before anything is built. What mlx-lm cannot compute is refused.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import ModelError
from .backbone_config import LAYER_TYPES, MAX_HEADS, MAX_ROLLBACK, MAX_WIDTH
from .fields import Fields, same, shown
from .headers import TensorInfo
from .target_rope import MAX_CONTEXT
from .targets import families, family_of, mlx_name

MAX_TARGET_LAYERS, MAX_VOCABULARY = 1000, 1 << 23
MAX_VERIFY = 17  # rows that one verification has at most
SILU, GELU = ("silu", "swish"), ("gelu_pytorch_tanh", "gelu_new", "gelu_fast")  # names of one function each
PLACES = ("model.", "model.language_model.", "language_model.model.", "")  # of a text model's tensors in a file
ATTENTION = ".self_attn."  # in the names of tensors of layers with attention
WRAPPED = "language_model."  # begins the names of a text model in a wrapper, as mlx-lm has them
ROWS_ARE_ROWS = ("F32", "F16", "BF16", "U32")  # other packings may have fewer
# Fields that other families, tools or programs compute by -> what they may say where the family has no such field, as
# it changes nothing. What has tensors of its own need not stand here: those are refused.
FOREIGN_FIELDS: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("embedding_multiplier", "residual_multiplier", "output_multiplier", "logits_scaling"), (1,)),
    **dict.fromkeys(("logit_scale", "lm_head_multiplier", "input_embedding_scale", "scale_emb", "rope_ratio"), (1,)),
    **dict.fromkeys(("rotary_pct", "rope_pct", "rope_scaling_factor", "logits_soft_cap_scale"), (1,)),
    **dict.fromkeys(("attn_logit_softcapping", "attn_logit_softcap", "attention_logit_cap", "clip_qkv"), ()),
    **dict.fromkeys(("final_logit_softcap", "logits_soft_cap", "attention_multiplier", "scale_depth"), ()),
    **dict.fromkeys(("final_logit_softcapping", "sliding_window_pattern"), ()),
    **dict.fromkeys(("hidden_size_per_layer_input", "num_kv_shared_layers"), (0,)),
    **dict.fromkeys(("use_bidirectional_attention", "enable_moe_block", "attention_k_eq_v"), (False,)),
    **dict.fromkeys(("rope_traditional", "mlp_bias"), (False,)),
    **dict.fromkeys(("attention_chunk_size", "no_rope_layer_interval"), (0,)),
    **dict.fromkeys(("no_rope_layers", "nope_layer_idx"), ([],)),
    **dict.fromkeys(("alibi", "use_alibi", "use_mrope", "rope_interleaved", "attention_sinks"), (False,)),
    **dict.fromkeys(("use_attention_sinks", "use_parallel_residual", "parallel_attn", "bidirectional"), (False,)),
    "is_causal": (True,),
    "per_layer_config": ({},),
}


@dataclass(frozen=True)
class LayerShape:
    """One layer. window: the positions that a query sees, itself included; None for all.

    A recurrent one has no keys (both sizes are 0). row: the numbers of a position that enter its convolution; state:
    those, at 32 bits, of its recurrent state, if it has one; inputs: those of a position that enter the recurrence.
    shared: it reads the keys of a layer before it, and has no cache.
    """

    head_dim: int
    kv_heads: int
    window: int | None = None
    row: int = 0
    state: int = 0
    inputs: int = 0
    shared: bool = False

    def fixed_bytes(self, number_bytes: int) -> int:
        """What the cache of a recurrent layer takes at most, however long the text (see RecurrentCache)."""
        rows = MAX_ROLLBACK + MAX_VERIFY
        return 4 * 4 * self.state + (rows * self.row + 2 * rows * self.inputs) * number_bytes


@dataclass(frozen=True)
class TargetConfig:
    """A target as its family's file reads it.

    tied:    the config says that the head is the embedding
    biased:  the attention has biases
    text:    the fields for mlx-lm's argument class
    wrapper: the model type that mlx-lm finds the text model under, if it is wrapped
    """

    family: ModuleType
    hidden_size: int
    vocab_size: int
    layers: tuple[LayerShape, ...]
    context_length: int
    tied: bool
    biased: bool
    text: dict[str, Any]
    wrapper: str = ""

    def for_mlx(self, tied: bool) -> dict[str, Any]:
        """What goes in the place of the file's fields."""
        text = self.text | {"tie_word_embeddings": tied}
        wrapped = {"model_type": self.wrapper, "vocab_size": self.vocab_size, "text_config": text}
        return wrapped if self.wrapper else text


@dataclass
class TargetFields(Fields):
    """The fields of a target's text model.

    defaults: the family's fields that are computed with; where one is missing, it says what it does in transformers
    neutral:  FOREIGN_FIELDS, and what the family adds to them
    mlx:      fields for mlx-lm
    of_full:  head_dim and num_key_value_heads -> what they are called for layers without a window, if otherwise
    tensors:  the name of a tensor in other families -> its name here
    rows:     of the family's own sizes: field, value, and the rows that it gives to the tensor of that name
    gated:    the query projection gives a gate beside each query
    """

    defaults: Mapping[str, Any] = field(default_factory=dict)
    neutral: dict[str, tuple[Any, ...]] = field(default_factory=lambda: dict(FOREIGN_FIELDS))
    mlx: dict[str, Any] = field(default_factory=dict)
    of_full: dict[str, str] = field(default_factory=dict)
    tensors: dict[str, str] = field(default_factory=dict)
    rows: list[tuple[str, int, int, str]] = field(default_factory=list)
    gated: bool = False

    def get(self, name: str) -> Any:
        value = super().get(name)
        return self.defaults.get(name) if value is None else value

    def size(self, name: str, high: int, default: int | None = None) -> int:
        """A whole number above 0, which mlx-lm is given too."""
        self.mlx[name] = self.whole(name, 1, high, default)
        return int(self.mlx[name])

    def one_of(self, name: str, choices: tuple[Any, ...]) -> None:
        """Raises ModelError unless the field says one of these, all of which are computed alike."""
        if not any(same(self.get(name), choice) for choice in choices):
            raise self.error(name, self.get(name), f"{' or '.join(map(shown, choices))} to be supported")

    def layer_types(self, usual: list[str], names: tuple[str, ...] = LAYER_TYPES) -> list[str]:
        """`layer_types`, or the usual ones. transformers knows "attention" as an older name."""
        types, n = super().get("layer_types"), self.size("num_hidden_layers", MAX_TARGET_LAYERS)
        types = usual if types is None else types
        types = ["full_attention" if t == "attention" else t for t in types] if isinstance(types, list) else types
        if not isinstance(types, list) or len(types) != n or any(t not in names for t in types):
            raise self.error("layer_types", types, f"a list of {n} names, each {' or '.join(names)}")
        return types

    def _present(self, name: str, default: Any) -> Any:
        value = self.get(name)
        if value is None and default is None:
            raise ModelError(f"{self.where} has no {name}, which this model needs.")
        return default if value is None else value

    def words(self, name: str, value: int) -> str:
        """A clause that says what a field is."""
        return f"it is {value}" + ("" if self.raw.get(name.split()[-1]) is not None else ", as none is given")

    def know_spellings(self, head_dim: int, theta: float, activations: tuple[str, ...]) -> None:
        """Other spellings of what is known: they may stand in a file where they say the same."""
        names = ("hidden_act", "hidden_activation", "activation_function")
        self.neutral |= dict.fromkeys(names, activations)
        self.neutral |= dict.fromkeys(("kv_channels", "attention_head_dim", "rotary_dim"), (head_dim,))
        self.neutral |= dict.fromkeys(("rope_base", "rotary_base", "rotary_emb_base"), (theta,))

    def refuse_foreign(self) -> None:
        """Raises ModelError at the first field that transformers does not know and that may change the model."""
        for name, allowed in self.neutral.items():
            value = None if name in self.defaults else self.raw.get(name)
            null = name == "is_causal" and name in self.raw  # which transformers takes for false
            if (value is not None or null) and not any(same(value, v) for v in allowed):
                only = f" other than {' or '.join(map(shown, allowed))}" if allowed else ""
                raise ModelError(
                    f"{self.where}: {name} {shown(value)} may change what the model computes; no value{only} is "
                    "supported."
                )


def check_family(directory: Path, config: dict[str, Any]) -> ModuleType:
    """The family of a target. Raises ModelError if it is not a supported one, or if it wants code of its own to run."""
    where = directory / "config.json"
    kind = config.get("model_type")
    family = family_of(kind)
    if family is None:
        titles = [f.TITLE for f in families()]
        there_are = f"{', '.join(titles[:-1])} and {titles[-1]}"
        raise ModelError(f"{where} has model_type {shown(kind)}; targets of the {there_are} families are supported.")
    if config.get("model_file"):
        raise ModelError(f"{where} asks to run code from {shown(config['model_file'])}; code of a model is never run.")
    return family


def read_target(directory: Path, config: dict[str, Any], tensors: Mapping[str, TensorInfo]) -> TargetConfig:
    """Everything that a target's config.json says, held against its tensors' shapes, as far as these are known.

    Raises ModelError for a family that is not supported, and for each field that is of a wrong type, out of range, of
    another size than the tensors, or changes the model in a way that mlx-lm does not compute.
    """
    where = directory / "config.json"
    family = check_family(directory, config)
    try:
        return _target_config(where, family, config, tensors)
    except (TypeError, ValueError, AttributeError, KeyError, IndexError, ArithmeticError) as e:  # of an odd type
        raise ModelError(f"{where} cannot be read as a target's configuration ({shown(str(e))}).") from None


def _target_config(
    where: Path, family: ModuleType, config: dict[str, Any], tensors: Mapping[str, TensorInfo]
) -> TargetConfig:
    kind, text = config["model_type"], config.get("text_config")
    wraps = kind in family.WRAPPERS
    if text is not None and not isinstance(text, dict):
        raise ModelError(f"{where}: text_config must be an object.")
    if text and not wraps:  # there a text_config says nothing, so it must not say anything else
        for name in family.defaults(kind).keys() & text.keys():
            if not same(text[name], config.get(name)):
                raise ModelError(f"{where}: a model of type {kind} has no text_config, which says another {name}.")
        text = None
    if text:  # a wrapper ties by a field of its own; mlx-lm has the vocabulary there, too
        inner = {name: value for name, value in text.items() if value is not None and name != "tie_word_embeddings"}
        tied = config.get("tie_word_embeddings")
        if tied is None and tensors and not has_head(tensors):  # no file can mean a head that it does not have
            tied = text.get("tie_word_embeddings")
        if tied is None and has_head(tensors, ".scales"):  # mlx-lm wrote it, and does not tie of itself in a wrapper
            tied = bool(text.get("tie_word_embeddings"))
        text = {"vocab_size": config.get("vocab_size"), "tie_word_embeddings": tied} | inner
    fields = TargetFields(where, text or config, defaults=family.defaults(kind))
    fields.size("vocab_size", MAX_VOCABULARY)
    fields.size("num_attention_heads", MAX_HEADS)
    for name in ("hidden_size", "intermediate_size"):
        if name in fields.defaults:  # where all of a model's layers have experts it has no use for the second
            fields.size(name, MAX_WIDTH)
    positions = fields.size("max_position_embeddings", MAX_CONTEXT)
    of_norm = "rms_norm_eps" if "rms_norm_eps" in fields.defaults else "norm_eps"
    eps = fields.mlx[of_norm] = fields.number(of_norm, 0, 1)
    of_norms = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon")
    fields.neutral |= dict.fromkeys(of_norms, (eps,))
    fields.size("num_hidden_layers", MAX_TARGET_LAYERS)
    at = _check_layers(fields, tensors) if tensors else ""
    shapes, context = family.read(fields)
    fields.refuse_foreign()
    read = TargetConfig(
        family=family,
        hidden_size=fields.mlx["hidden_size"],
        vocab_size=fields.mlx["vocab_size"],
        layers=tuple(shapes),
        context_length=max(positions, context),
        tied=fields.flag("tie_word_embeddings"),
        biased=fields.flag("attention_bias"),
        text={"model_type": mlx_name(family)} | fields.mlx,
        wrapper=family.__name__.rpartition(".")[2] if wraps or getattr(family, "NESTED", False) else "",
    )
    _check_shapes(fields, read, at, tensors)
    return read


def has_head(tensors: Mapping[str, TensorInfo], part: str = ".") -> bool:
    """Is there a head, of whatever form, or with such a part?"""
    return any(name.removeprefix(WRAPPED).startswith(f"lm_head{part}") for name in tensors)


def own_head(tensors: Mapping[str, TensorInfo]) -> bool:
    """Is there a dense head other than the embedding? transformers does not tie such a one, whatever the config says.
    Quantized ones are not transformers' work, and mlx-lm, whose they are, does."""
    at = next((place for place in PLACES if f"{place}embed_tokens.weight" in tensors), "")
    embedding = tensors.get(f"{at}embed_tokens.weight")
    head = next((tensors[name] for name in ("lm_head.weight", f"{WRAPPED}lm_head.weight") if name in tensors), None)
    if head is None or embedding is None or not {head.dtype, embedding.dtype} <= {"F32", "F16", "BF16"}:
        return False
    known = bool(head.span and embedding.span)  # where nothing is on this machine yet, what the config says holds
    return known and not head.same_data(embedding)


def _check_layers(fields: TargetFields, tensors: Mapping[str, TensorInfo]) -> str:
    """Where the names of the text model's tensors begin. Raises ModelError if they are of another number of layers."""
    at = next((place for place in PLACES if f"{place}embed_tokens.weight" in tensors), None)
    if at is None:
        raise ModelError(f"{next(iter(tensors.values())).file} has no tensor model.embed_tokens.weight.")
    numbers = {name[len(at) + 7 :].split(".")[0] for name in tensors if name.startswith(f"{at}layers.")}
    if len(numbers) != fields.mlx["num_hidden_layers"]:
        raise ModelError(
            f"{fields.where}: num_hidden_layers must be a whole number that fits the tensors: "
            f"{fields.words('num_hidden_layers', fields.mlx['num_hidden_layers'])}, and there are tensors of "
            f"{len(numbers)} layers."
        )
    return at


def _check_shapes(fields: TargetFields, read: TargetConfig, at: str, tensors: Mapping[str, TensorInfo]) -> None:
    """Raises ModelError at the first field that does not go with another, or with the tensors, if there are any."""
    heads = fields.mlx["num_attention_heads"]
    for name, value, rows, tensor in _rows(fields, read.layers):
        info = tensors.get(at + tensor)
        if info is not None and info.dtype in ROWS_ARE_ROWS and info.shape[:1] != (rows,):
            raise ModelError(
                f"{fields.where}: {name} must be a whole number that fits the tensors: {fields.words(name, value)}, "
                f"which asks for {rows} rows of {at}{tensor}, whose shape is {list(info.shape)}."
            )
    attending = {
        name[len(at) + 7 :].split(".")[0] for name in tensors if name.startswith(f"{at}layers.") and ATTENTION in name
    }
    recurrent = any(not shape.kv_heads for shape in read.layers)
    for i, shape in enumerate(read.layers if attending and recurrent else ()):
        if bool(shape.kv_heads) != (str(i) in attending):
            kinds = ("a recurrent one", "full attention")
            says, has = kinds if shape.kv_heads == 0 else kinds[::-1]
            raise ModelError(f"{fields.where}: layer_types makes layer {i} {says}, and its tensors are of {has}.")
    for shape in (shape for shape in read.layers if shape.kv_heads):
        if shape.head_dim % 2 or heads % shape.kv_heads:
            raise ModelError(
                f"{fields.where}: {heads} heads of head_dim {shape.head_dim} cannot share {shape.kv_heads} key/value "
                "heads; num_attention_heads must be a multiple of num_key_value_heads, and head_dim even."
            )
    if tensors and not read.tied and not has_head(tensors):
        raise ModelError(f"{fields.where}: tie_word_embeddings must be true where the files have no lm_head.weight.")


def _rows(fields: TargetFields, shapes: tuple[LayerShape, ...]) -> Iterator[tuple[str, int, int, str]]:
    """Of each size that a config gives: the field, its value, and the rows that it gives to the tensor of that name.
    Rows, not columns: these are packed in quantized tensors."""
    heads = fields.mlx["num_attention_heads"]
    of_model = {"vocab_size": "embed_tokens.weight", "hidden_size": "norm.weight"}
    of_layer = {"hidden_size": "input_layernorm.weight", "intermediate_size": "mlp.gate_proj.weight"}
    of_layer |= {"num_experts": "router.proj.weight"}
    other = fields.tensors
    for name, tensor in of_model.items():
        yield name, fields.mlx[name], fields.mlx[name], other.get(tensor, tensor)
    yield from fields.rows
    for i, shape in enumerate(shapes):
        for name, tensor in of_layer.items():
            if value := fields.mlx.get(name):
                yield name, value, value, f"layers.{i}.{other.get(tensor, tensor)}"
        if not shape.kv_heads:
            continue
        attention, names = f"layers.{i}.self_attn", {} if shape.window else fields.of_full
        head_dim, kv_heads = (names.get(name, name) for name in ("head_dim", "num_key_value_heads"))
        yield head_dim, shape.head_dim, shape.head_dim, f"{attention}.{other.get('q_norm', 'q_norm')}.weight"
        queries = heads * shape.head_dim * (2 if fields.gated else 1)
        yield "num_attention_heads", heads, queries, f"{attention}.q_proj.weight"
        yield kv_heads, shape.kv_heads, shape.kv_heads * shape.head_dim, f"{attention}.k_proj.weight"
