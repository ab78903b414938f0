"""Gemma-4, as a text model or wrapped: dense (12B, 31B), with experts (26B-A4B), with embeddings for each layer and
layers that share keys and values (E2B, E4B)."""

from collections.abc import Iterator
from typing import Any

from ...errors import ModelError
from ..backbone_config import MAX_HEAD_DIM, MAX_HEADS, MAX_WIDTH, MAX_WINDOW, SLIDING
from ..fields import same, shown
from ..target_config import GELU, MAX_TARGET_LAYERS, MAX_VOCABULARY, LayerShape, TargetFields
from ..target_rope import RopeFields

TITLE = "Gemma-4"
TYPES = ("gemma4_text", "gemma4_unified", "gemma4_unified_text")
WRAPPERS = ("gemma4", "gemma4_unified")
MLX = "gemma4_text"
FULL = "full_attention"
ROPES = {
    SLIDING: {"rope_type": "default", "rope_theta": 10_000.0},
    FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0},
}


def defaults(model_type: str) -> dict[str, Any]:
    sizes = {"hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 30, "num_attention_heads": 8}
    heads = {"num_key_value_heads": 4, "head_dim": 256, "global_head_dim": 512, "vocab_size": 262144}
    switches = ["attention_bias", "attention_k_eq_v", "enable_moe_block", "rope_traditional", "use_double_wide_mlp"]
    nothing = ("final_logit_softcapping", "per_layer_config", "use_bidirectional_attention", "num_kv_shared_layers")
    more = {"rms_norm_eps": 1e-6, "hidden_activation": "gelu_pytorch_tanh", "rope_parameters": ROPES}
    unified = {"max_position_embeddings": 262144, "sliding_window": 1024}
    text = {"max_position_embeddings": 131072, "sliding_window": 512}
    more |= dict.fromkeys(switches, False) | {"tie_word_embeddings": True, "hidden_size_per_layer_input": None}
    return sizes | heads | dict.fromkeys(nothing) | more | (unified if "unified" in model_type else text)


def read(fields: TargetFields) -> tuple[list[LayerShape], int]:
    """A file that does not speak of per-layer embeddings has none, whatever the default of transformers' class: their
    tensors would be refused."""
    usual = [FULL if i % 6 == 5 else SLIDING for i in range(fields.size("num_hidden_layers", MAX_TARGET_LAYERS))]
    types = [*fields.layer_types(usual)[:-1], FULL]  # the last is a full one, whatever it is called
    if fields.get("layer_types") is None:
        fields.neutral["sliding_window_pattern"] = (6,)
    window, k_eq_v = fields.size("sliding_window", MAX_WINDOW), fields.flag("attention_k_eq_v")
    sizes = _sizes(fields, types, k_eq_v)
    (dim, kv), (full_dim, full_kv) = sizes[SLIDING], sizes[FULL]
    fields.one_of("hidden_activation", GELU)
    fields.one_of("use_bidirectional_attention", (None, "vision", False))
    if SLIDING in types and kv != full_kv and not k_eq_v:
        raise ModelError(
            f"{fields.where}: full layers with {full_kv} key/value heads where others have {kv} are supported with "
            "attention_k_eq_v only."
        )
    cap = fields.get("final_logit_softcapping")
    fields.mlx["final_logit_softcapping"] = None if cap is None else fields.number("final_logit_softcapping", 1e-3, 1e6)
    fields.mlx |= {"layer_types": types, "head_dim": dim, "global_head_dim": full_dim}
    fields.mlx |= {"num_key_value_heads": kv if SLIDING in types else full_kv, "num_global_key_value_heads": full_kv}
    shared = _small(fields, types)
    fields.mlx |= {n: fields.flag(n) for n in ("attention_k_eq_v", "rope_traditional", "enable_moe_block")}
    if fields.mlx["enable_moe_block"]:
        experts = fields.size("num_experts", MAX_WIDTH)
        fields.mlx["top_k_experts"] = fields.whole("top_k_experts", 1, experts)
        fields.size("moe_intermediate_size", MAX_WIDTH)
    context = _ropes(fields, {t: sizes[t][0] for t in types})
    windows = [window if t == SLIDING else None for t in types]
    shapes = [LayerShape(*sizes[t], w, shared=i >= shared) for i, (t, w) in enumerate(zip(types, windows, strict=True))]
    return shapes, context


def _small(fields: TargetFields, types: list[str]) -> int:
    """What E2B and E4B have: embeddings for each layer, and last layers that read the keys and values of the last one
    of their type before them. The first layer that does; the number of layers if there is none."""
    n, vocabulary, inner = len(types), fields.mlx["vocab_size"], fields.mlx["intermediate_size"]
    width = fields.whole("hidden_size_per_layer_input", 0, MAX_WIDTH, 0)
    if width:
        rows = fields.size("vocab_size_per_layer_input", MAX_VOCABULARY, 262144)
        if rows < vocabulary:
            raise fields.error("vocab_size_per_layer_input", rows, f"the vocabulary's {vocabulary} or more")
        fields.rows.append(("vocab_size_per_layer_input", rows, rows, "embed_tokens_per_layer.weight"))
        projected = ("hidden_size_per_layer_input", width, n * width, "per_layer_model_projection.weight")
        fields.rows.append(projected)
    shared = n - fields.whole("num_kv_shared_layers", 0, n - 1, 0)
    if missing := set(types) - set(types[:shared]):
        raise fields.error("num_kv_shared_layers", n - shared, f"so few that a layer of type {missing.pop()} is left")
    double = fields.flag("use_double_wide_mlp")
    fields.tensors["mlp.gate_proj.weight"] = "none"
    for i in range(n):
        rows = 2 * inner if double and i >= shared else inner
        fields.rows.append(("intermediate_size", inner, rows, f"layers.{i}.mlp.gate_proj.weight"))
    fields.mlx |= {"hidden_size_per_layer_input": width, "num_kv_shared_layers": n - shared}
    fields.mlx["use_double_wide_mlp"] = double
    return shared


def _sizes(fields: TargetFields, types: list[str], k_eq_v: bool) -> dict[str, tuple[int, int]]:
    """Head size and key/value heads of each type of layer. Those of the full ones have fields of their own;
    transformers 5.15 writes per_layer_config in their place, by layer, and its word goes before theirs."""
    usual = fields.whole("head_dim", 1, MAX_HEAD_DIM), fields.whole("num_key_value_heads", 1, MAX_HEADS)
    if fields.get("per_layer_config") is None:
        kv = fields.get("num_global_key_value_heads") if k_eq_v else None
        kv = usual[1] if kv is None else fields.whole("num_global_key_value_heads", 1, MAX_HEADS)
        fields.of_full = {"head_dim": "global_head_dim"}
        if fields.get("num_global_key_value_heads") and k_eq_v:
            fields.of_full["num_key_value_heads"] = "num_global_key_value_heads"
        return {SLIDING: usual, FULL: (fields.whole("global_head_dim", 1, MAX_HEAD_DIM), kv)}
    fields.of_full = {n: f"{n} of per_layer_config" for n in ("head_dim", "num_key_value_heads")}
    layers: dict[int, tuple[int, int]] = {}
    for index, of_layer in RopeFields.object(fields, "per_layer_config").items():
        if not index.isdecimal() or not isinstance(of_layer, dict) or int(index) >= len(types):
            raise fields.error("per_layer_config", {index: of_layer}, f"objects of layers 0 to {len(types) - 1}")
        own = TargetFields(fields.where, of_layer)
        for name, value in of_layer.items():
            if name not in ("head_dim", "num_key_value_heads") and not same(value, fields.get(name)):
                raise ModelError(f"{fields.where}: per_layer_config with {shown({name: value})} is not supported.")
        layers[int(index)] = (
            own.whole("head_dim", 1, MAX_HEAD_DIM, usual[0]),
            own.whole("num_key_value_heads", 1, MAX_HEADS, usual[1]),
        )
    sizes = {SLIDING: usual, FULL: usual}
    for kind in set(types):
        found = {layers.get(i, usual) for i, t in enumerate(types) if t == kind}
        if len(found) > 1:
            raise ModelError(f"{fields.where}: per_layer_config gives layers of type {kind} several sizes.")
        sizes[kind] = found.pop()
    return sizes


def _ropes(fields: TargetFields, head_dims: dict[str, int]) -> int:
    """Read the rotary embedding of each type of layer; the positions that the full ones' is made for."""
    given, positions, ropes = RopeFields.object(fields, "rope_parameters"), fields.mlx["max_position_embeddings"], {}
    for kind, head_dim in head_dims.items():
        of_kind = given.get(kind)
        if not isinstance(of_kind, dict):
            raise fields.error(f"{kind} of rope_parameters", of_kind, "an object")
        present = {name: value for name, value in of_kind.items() if value is not None}
        ropes[kind] = RopeFields(fields, f"its {kind} rope", present, head_dim, positions).read()
        if ropes[kind].scaling["rope_type"] == "dynamic":
            raise ModelError(f"{fields.where}: a rope of type dynamic is not supported for Gemma-4.")
    fields.mlx["rope_parameters"] = {kind: {**r.scaling, "rope_theta": r.theta} for kind, r in ropes.items()}
    full = ropes[FULL]
    fields.know_spellings(head_dims[FULL], full.theta, GELU)
    fields.neutral |= {"rope_theta": (full.theta,), "rope_scaling": (), "query_pre_attn_scalar": (1,)}
    fields.neutral["rope_local_base_freq"] = (ropes[SLIDING].theta,) if SLIDING in ropes else ()
    fields.neutral["partial_rotary_factor"] = (1, given[FULL].get("partial_rotary_factor"))
    return full.context


def walk(body: Any, ids: Any, cache: list[Any]) -> Iterator[Any]:
    from mlx_lm.models.base import create_attention_mask

    embedded = body.embed_tokens(ids)
    h = embedded * body.embed_scale
    yield h
    n = len(body.layers)
    of_layers = [None] * n
    if body.hidden_size_per_layer_input:
        own = body._project_per_layer_inputs(h, body._get_per_layer_inputs(ids, embedded))
        of_layers = [own[:, :, i, :] for i in range(n)]
    masks: dict[str, Any] = {}
    read: list[tuple[Any, Any]] = []  # keys and values, and their offset, by layer
    for i, (layer, own) in enumerate(zip(body.layers, of_layers, strict=True)):
        c = cache[i] if i < len(cache) else None  # one that shares has none
        if layer.layer_type not in masks:
            window = body.window_size if layer.layer_type == "sliding_attention" else None
            masks[layer.layer_type] = create_attention_mask(h, c, window_size=window)
        before = body.previous_kvs[i]
        shared, offset = read[before] if before < i else (None, None)
        h, *found = layer(h, masks[layer.layer_type], c, per_layer_input=own, shared_kv=shared, offset=offset)
        read.append((found[0], found[1]))
        yield h
