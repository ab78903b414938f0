"""vLLM speculators' packaging of DSpark, DFlash and DFlash 2: known by `speculators_model_type`, whatever class
`architectures` names. The backbone's config stands under `transformer_layer_config`, where a value that is its class's
default may be left out; the drafter's own fields stand at the top.

`aux_hidden_state_layer_ids` count the embedding as 0, so a tap is one less. The first slot is block_size less
`speculative_tokens`, where that is 0 or 1. `draft_vocab_size` below the target's comes with `d2t`, offsets from a draft
id to the target's. Sliding layers see the same W context rows from every slot, and are causal in the block unless
`sliding_window_non_causal`. Embedding and head may be the file's own or the target's, as they are stored (assumed where
a target scales its embedding). The layers are Qwen3's whatever the target's, but their activation is the target's, as
the trainer copies it. Sources: vllm-project/speculators 0.9.0; no published file was opened here.
"""

from pathlib import Path
from typing import Any

from ...errors import ModelError
from ..backbone_config import FULL, GELU, MAX_ROLLBACK, MAX_WINDOW, SLIDING, Visibility, layer_count, layer_types
from ..drafters import heads_by_method
from ..fields import Fields, is_whole, shown
from ..inner import Headers, Inner
from .heads import MAX_RANK, convolution, selector

LAYER = "transformer_layer_config"
CONFIG = "speculators_config"
# What transformers' classes take a field for that a config leaves out. head_dim of Llama: hidden_size / heads.
LAYER_DEFAULTS: dict[str, dict[str, Any]] = {
    "qwen3": {
        **{"vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32},
        **{"num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 128, "rms_norm_eps": 1e-6},
        **{"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28},
    },
    "llama": {
        **{"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32},
        **{"num_attention_heads": 32, "rms_norm_eps": 1e-6},
    },
}
THETA = 10000.0  # of both
LEFT_OUT = {"t2d", "verifier_norm.weight", "verifier_lm_head.weight", "mask_embedding", "mask_embedding.weight"}
# Of the drafter itself: name -> what is taken where it is left out.
MARKOV = {"markov_rank": 256, "markov_head_type": "vanilla"}
CONFIDENCE = {"enable_confidence_head": True, "confidence_head_with_markov": True}


def reads(raw: dict[str, Any]) -> bool:
    return any(raw.get(name) is not None for name in ("speculators_model_type", CONFIG, LAYER))


def renamed(name: str) -> str:
    if name in LEFT_OUT:
        return ""
    return name + ".weight" if name.endswith("_codebook") else name  # plain arrays there


def translate(where: Path, raw: dict[str, Any], tensors: Headers) -> Inner:
    top = Fields(where, raw)
    method_heads, tokens, made_for = _proposal(top)
    verifier = (raw.get(CONFIG) or {}).get("verifier")
    classes = verifier.get("architectures") if isinstance(verifier, dict) else None
    markov, second = "markov" in method_heads, "selector" in method_heads
    layer = _layer(top)
    inner: dict[str, Any] = {
        "block_size": top.whole("block_size", 2, MAX_ROLLBACK, 8),
        "mask_token_id": top.get("mask_token_id"),
        "draft_vocab_size": top.whole("draft_vocab_size", 1, 1 << 23, 32000),
        "tie_word_embeddings": False,
        "target_class": str(classes[0])[:80] if isinstance(classes, list) and classes else "",
    }
    for name, usual in (MARKOV | CONFIDENCE).items() if markov else ():
        inner[name] = usual if top.get(name) is None else raw[name]
    if markov and not top.whole("markov_rank", 0, MAX_RANK, 256):  # nothing to be shown to it
        inner["confidence_head_with_markov"] = False
    names = {name: name for name in inner} | {"tie_word_embeddings": "tie_word_embeddings"}
    fields = Fields(where, layer | inner, prefix=f"{LAYER}.", names=names)
    layers = layer_count(fields, tensors)
    flagged = top.flag("sliding_window_non_causal", second)
    aux = top.wholes("aux_hidden_state_layer_ids")
    # Files without `sample_from_anchor` mean 1, although the class that reads DSpark would take it for true.
    first_slot = 0 if top.flag("sample_from_anchor") else 1
    if tokens is not None and inner["block_size"] - tokens in (0, 1):
        first_slot = inner["block_size"] - tokens
    found = Inner(
        fields=fields,
        tensors=tensors,
        layers=layers,
        visibility=_visibility(fields, layers, flagged),
        taps=tuple(i - 1 for i in aux),
        taps_name="aux_hidden_state_layer_ids, less one,",
        first_slot=first_slot,
        made_for=made_for,
        raw_embedding=True,
        convolution=convolution(top, conv_kernel_size=2, conv_group_size=16) if second else None,
        selector=selector(top, selector_rank=256, selector_top_k=16) if second else None,
        neutral={"hidden_act": ("silu", GELU), "hidden_activation": ("silu",)},
    )
    top.read |= {LAYER, CONFIG, "speculators_model_type", "speculators_version", "tie_word_embeddings"}
    top.read |= {"quantization", "quantization_config"}  # by checkpoint.py
    usual = {"target_hidden_size": (layer["hidden_size"],), "num_hidden_layers": (layers,)}
    top.refuse_others(usual | {"num_speculative_tokens": (inner["block_size"] - first_slot,)})
    return found


def _proposal(top: Fields) -> tuple[tuple[str, ...], int | None, str]:
    """What speculators_config says: the heads of the algorithm, the tokens that a round drafts, the target's name."""
    config = {} if top.get(CONFIG) is None else top.get(CONFIG)
    methods = config.get("proposal_methods") if isinstance(config, dict) else None
    method = methods[0] if isinstance(methods, list) and methods else {} if methods is None else methods
    if not isinstance(config, dict) or not isinstance(method, dict):
        raise ModelError(f"{top.where}: {CONFIG} {shown(config)} cannot be read.")
    verifier = config.get("verifier")
    tokens = method.get("speculative_tokens")
    if tokens is not None and not is_whole(tokens):
        raise top.error(f"{CONFIG}.proposal_methods.speculative_tokens", tokens, "a whole number")
    name = verifier.get("name_or_path") if isinstance(verifier, dict) else None
    kind, algorithm, algorithms = top.get("speculators_model_type"), config.get("algorithm"), heads_by_method()
    field, value = (CONFIG, algorithm) if kind is None else ("speculators_model_type", kind)
    if value not in tuple(algorithms):  # of whatever type
        raise ModelError(
            f"{top.where} has {field}: of drafters packaged by speculators {', '.join(algorithms)} are supported, not "
            f"{shown(value)}."
        )
    if algorithm is not None and algorithm != value:
        raise ModelError(f"{top.where}: speculators_model_type and {CONFIG}.algorithm contradict each other.")
    return algorithms[value], tokens, name[:80] if isinstance(name, str) else ""


def _layer(top: Fields) -> dict[str, Any]:
    """The backbone's config with what it leaves out."""
    given = top.get(LAYER)
    if not isinstance(given, dict):
        raise top.error(LAYER, given, "an object")
    kind = given.get("model_type", "qwen3")
    if kind not in tuple(LAYER_DEFAULTS):  # of whatever type
        raise top.error(f"{LAYER}.model_type", kind, " or ".join(LAYER_DEFAULTS))
    layer = LAYER_DEFAULTS[str(kind)] | {name: value for name, value in given.items() if value is not None}
    heads, width = layer["num_attention_heads"], layer["hidden_size"]
    if kind == "llama" and is_whole(heads) and is_whole(width) and heads > 0:
        layer = {"num_key_value_heads": heads, "head_dim": width // heads} | layer
    if kind == "qwen3" and given.get("use_sliding_window") is not True:
        layer["sliding_window"] = None  # as the class has it, whatever the field says
    return layer | _rope(top, layer)


def _rope(top: Fields, layer: dict[str, Any]) -> dict[str, Any]:
    """rope_parameters with a base. Those that differ by layer type: the sliding one's, as speculators flattens them."""
    parameters = layer.get("rope_parameters")
    if parameters is None:
        return {} if layer.get("rope_theta") is not None else {"rope_theta": THETA}
    if not isinstance(parameters, dict):
        raise top.error(f"{LAYER}.rope_parameters", parameters, "an object")
    for name in (SLIDING, FULL):
        if isinstance(parameters.get(name), dict):
            parameters = parameters[name]
            break
    if parameters.get("rope_theta") is None and layer.get("rope_theta") is None:
        parameters = parameters | {"rope_theta": THETA}
    return {"rope_parameters": parameters}


def _visibility(fields: Fields, layers: int, non_causal: bool) -> Visibility:
    """A sliding layer without a window is a full one, and full ones see the whole block."""
    types = layer_types(fields, layers, numbered=True)
    if SLIDING not in types or fields.get("sliding_window") is None:
        fields.read.add("sliding_window")
        return Visibility((FULL,) * layers, (False,) * layers)
    window = fields.whole("sliding_window", 1, MAX_WINDOW)
    return Visibility(types, tuple(t == SLIDING and not non_causal for t in types), window, by_block=True)
