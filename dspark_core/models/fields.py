"""Fields of a drafter's config.json, read with their types and ranges, and what must not stand beside them.

A field that changes what a drafter computes is read or refused by name, never passed over: most such mistakes raise
no error anywhere, they only lower acceptance.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from ..errors import ModelError

NESTED = "dflash_config"  # of z-lab's files; its fields go before those of the same name at the top
# The fields that z-lab's reader looks for under dflash_config first.
NESTED_FIRST = frozenset(
    {
        *("block_size", "mask_token_id", "target_layer_ids", "num_target_layers", "final_logit_softcapping"),
        *("is_causal", "causal", "dflash_query_causal", "markov_rank", "enable_confidence_head"),
    }
)
# Bookkeeping, training, and what a copy of the target's config brings along: nothing that is computed depends on them.
HARMLESS = frozenset(
    {
        # of every configuration that transformers 4.50 to 5 writes whole, most of it about generating text
        *("use_bfloat16", "use_return_dict", "tf_legacy_loss", "pruned_heads", "cross_attention_hidden_size"),
        *("tie_encoder_decoder", "finetuning_task", "prefix", "task_specific_params", "cache_implementation"),
        *("transformers_weights", "max_length", "min_length", "do_sample", "early_stopping", "num_beams"),
        *("num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p", "min_p", "typical_p"),
        *("repetition_penalty", "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
        *("bad_words_ids", "num_return_sequences", "output_scores", "return_dict_in_generate"),
        *("remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens"),
        # of targets with recurrent layers; a gate beside the queries shows in the tensors' shapes
        *("linear_conv_kernel_dim", "linear_key_head_dim", "linear_value_head_dim", "linear_num_key_heads"),
        *("linear_num_value_heads", "full_attention_interval", "mamba_ssm_dtype", "mtp_num_hidden_layers"),
        *("mtp_use_dedicated_embeddings", "attn_output_gate", "output_gate_type"),
        # of targets with experts, of a layer pattern that layer_types spells out, of tools
        *("mlp_only_layers", "decoder_sparse_step", "norm_topk_prob", "num_experts_per_tok", "num_local_experts"),
        *("output_router_logits", "router_aux_loss_coef", "shared_expert_intermediate_size"),
        *("sliding_window_pattern", "unsloth_fixed", "unsloth_version", "gradient_checkpointing", "model_max_length"),
        *("architectures", "model_type", "auto_map", "dtype", "torch_dtype", "transformers_version"),
        *("use_cache", "initializer_range"),
        *("max_position_embeddings", "max_window_layers", "return_dict", "output_hidden_states"),
        *("output_attentions", "torchscript", "chunk_size_feed_forward", "is_encoder_decoder", "is_decoder"),
        *("id2label", "label2id", "problem_type", "tokenizer_class", "trust_remote_code", "attn_implementation"),
        *("target_model_type", "target_text_model_type", "vocab_size_per_layer_input"),
        *("moe_intermediate_size", "num_experts", "top_k_experts", "num_anchors", "loss_decay_gamma"),
        "confidence_head_alpha",
    }
)
HARMLESS_ENDS = ("_token_id", "_token_index", "_dropout", "_pdrop")  # a drafter's own, mask_token_id, is read
# What these may say is what the backbone does anyway.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False,),
    "use_mrope": (False,),
    "use_qk_norm": (True,),
    "fused_qkv": (False,),
    "qkv_bias": (False,),
    "num_nextn_predict_layers": (0,),
    "input_embedding_scale": (1,),
    "output_multiplier": (1,),
    "partial_rotary_factor": (1,),
    "pretraining_tp": (1,),
    "use_swa": (False,),
    "mlp_bias": (False,),
    "rope_traditional": (False,),
    "rope_is_neox_style": (True,),
    "has_lm_head": (True, False),
    "attention_mode": ("gqa",),
    **dict.fromkeys(("attention_sink_bias", "use_attention_sinks"), (False,)),
    "dspark_backbone_conv_enabled": (False,),
    "shift_label": (False,),
    "pure_draft_prefix_len": (0,),
    "hidden_size_per_layer_input": (0,),
    "enable_moe_block": (False,),
    "num_kv_shared_layers": (0,),
    "use_double_wide_mlp": (False,),
    "use_bidirectional_attention": (False, "vision"),
}


def is_number(value: Any) -> TypeGuard[float]:
    """A finite int or float; a bool is none."""
    return is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def same(a: Any, b: Any) -> bool:
    """Equal, where true is not 1."""
    return isinstance(a, bool) == isinstance(b, bool) and a == b


@dataclass
class Fields:
    """A config's fields; null counts as absent. Every reader raises ModelError, in one sentence that names the field.

    nested: the fields of dflash_config, of which those in `first` go before the ones at the top
    read:   names that were asked for; `refuse_others` refuses what else there is
    prefix: of the names as the file has them, but for those in `names`, which it has as they stand there
    """

    where: Path
    raw: dict[str, Any]
    nested: dict[str, Any] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)
    first: frozenset[str] = NESTED_FIRST
    prefix: str = ""
    names: dict[str, str] = field(default_factory=dict)

    def get(self, name: str) -> Any:
        self.read.add(name)
        value = self.nested.get(name) if name in self.first else None
        return self.raw.get(name) if value is None else value

    def spelled(self, name: str) -> str:
        """A field's name as the file has it."""
        return self.names.get(name, self.prefix + name)

    def whole(self, name: str, low: int, high: int, default: int | None = None) -> int:
        return int(self._in_range(name, is_whole, "a whole number", low, high, default))

    def number(self, name: str, low: float, high: float, default: float | None = None) -> float:
        return float(self._in_range(name, is_number, "a number", low, high, default))

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.error(name, value, "true or false")
        return default if value is None else value

    def text(self, name: str, choices: tuple[str, ...], default: str | None = None) -> str:
        value = self._present(name, default)
        if value not in choices:
            raise self.error(name, value, " or ".join(choices))
        return str(value)

    def wholes(self, name: str, default: list[int] | None = None) -> tuple[int, ...]:
        value = self._present(name, default)
        if not isinstance(value, list) or not all(map(is_whole, value)):
            raise self.error(name, value, "a list of whole numbers")
        return tuple(value)

    def refuse_others(self, neutral: dict[str, tuple[Any, ...]]) -> None:
        """Raises ModelError at the first field that is neither read, nor harmless, nor at one of the values that
        `neutral` (or NEUTRAL) names for it. One under dflash_config may also repeat what stands at the top."""
        neutral = NEUTRAL | neutral
        for prefix, fields in (("", self.raw), (f"{NESTED}.", self.nested)):
            for name, value in fields.items():
                known = name in HARMLESS or name.startswith("_") or (not prefix and name in self.read)
                known = known or (name.endswith(HARMLESS_ENDS) and name != "mask_token_id")
                if value is None or known or (prefix and self._repeats(name, value)):
                    continue
                allowed = neutral.get(name, ())
                if not any(same(value, v) for v in allowed):
                    only = f" other than {' or '.join(map(shown, allowed))}" if allowed else ""
                    full = prefix + name[:80] if prefix else self.spelled(name[:80])
                    raise ModelError(
                        f"{self.where}: {full} {shown(value)} may change what the drafter computes; no "
                        f"value{only} is supported."
                    )

    def _repeats(self, name: str, value: Any) -> bool:
        return name in self.read & self.first or same(self.raw.get(name), value)

    def _present(self, name: str, default: Any) -> Any:
        value = self.get(name)
        value = default if value is None else value
        if value is None:
            raise ModelError(f"{self.where} has no {self.spelled(name)}, which a drafter needs.")
        return value

    def _in_range(
        self, name: str, kind: Callable[[Any], bool], words: str, low: float, high: float, default: float | None
    ) -> Any:
        value = self._present(name, default)
        if not kind(value) or not low <= value <= high:
            raise self.error(name, value, f"{words} from {low:g} to {high:g}")
        return value

    def error(self, name: str, value: Any, wanted: str) -> ModelError:
        return ModelError(f"{self.where}: {self.spelled(name)} is {shown(value)}; it must be {wanted}.")


def shown(value: Any) -> str:
    """A value as a sentence may show it."""
    try:
        words = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        words = "a number too long to write"
    return words if len(words) <= 60 else words[:60] + "..."
