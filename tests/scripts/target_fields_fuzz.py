"""Random settings of several fields at once, of every family, some of them as other versions or families spell them:
what transformers computes from such a config.json, a target computes too, or it is refused.

    .venv/bin/python -m tests.scripts.target_fields_fuzz --seed 1 --cases 400

Prints each difference, each refusal with --refusals, and the counts; ends with 1 if there was a difference.
"""

import argparse
import json
import logging
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch

from dspark_core.errors import ModelError
from dspark_core.models.target import load_target
from tests.models.families import FAMILIES
from tests.models.families import build as build_family
from tests.models.test_target_fields import (
    BASES,
    FULL,
    LLAMA3,
    SLIDING,
    TOLERANCE,
    YARN,
    build,
    randomized,
    torch_logits,
    worst,
)

LINEAR = {"type": "linear", "factor": 2.0}
DELTA, CONVOLUTION = "linear_attention", "conv"
# Of a gated delta net's; transformers' own two ways to compute one, in chunks and row by row, differ by so much.
DELTA_TOLERANCE = 2e-3
VALUES = {
    "tie_word_embeddings": [True, False, None],
    "attention_bias": [True, False, None],
    "mlp_bias": [True, None],
    "hidden_act": [None, "silu", "relu"],
    "num_key_value_heads": [None, 1, 4],
    "head_dim": [None, 8, 16],
    "rms_norm_eps": [None, 1e-5, 0.1],
    "max_position_embeddings": [None, 12, 100],
    "rope_theta": [None, 500.0, 10000, 10000.0],
    "rope_scaling": [None, {}, LINEAR, YARN, {"rope_type": "default"}, {"type": "dynamic", "factor": 2.0}, LLAMA3],
    "rope_parameters": [None, {}, {"rope_theta": 500.0}, {"rope_type": "default", "rope_theta": 500.0}, YARN, LINEAR],
    "partial_rotary_factor": [None, 1.0, 0.5],
    "original_max_position_embeddings": [None, 16],
    "layer_types": [
        *(None, [FULL, FULL], [SLIDING, FULL], [SLIDING, SLIDING], [FULL] * 4, [SLIDING, FULL] * 2),
        *([DELTA, FULL] * 2, [DELTA] * 3 + [FULL], [CONVOLUTION, FULL] * 2),
    ],
    "use_sliding_window": [True, False, None],
    "sliding_window": [None, 3, 20],
    "max_window_layers": [None, 0, 1, 5],
    "num_attention_heads": [None, 4],
    "is_causal": [True, None],
    "torch_dtype": ["float32"],
    "final_logit_softcapping": [None, 2.0],
    "attention_k_eq_v": [True, False, None],
    "global_head_dim": [None, 16, 12],
    "num_global_key_value_heads": [None, 1, 2],
    "per_layer_config": [None, {}, {"1": {"head_dim": 12}}, {"1": {"num_key_value_heads": 1}}],
    "hidden_size_per_layer_input": [None, 0],
    "num_kv_shared_layers": [None, 0],
    "use_bidirectional_attention": [None, "vision"],
    "use_double_wide_mlp": [True, None],
    "pad_token_id": [None, 2],
    "full_attention_interval": [None, 2, 3, 4],
    "attn_output_gate": [True, False, None],
    "linear_num_key_heads": [1, 2, 4],
    "linear_num_value_heads": [2, 4, 8],
    "linear_key_head_dim": [4, 32],
    "linear_value_head_dim": [4, 16],
    "linear_conv_kernel_dim": [2, 3],
    "mamba_ssm_dtype": ["float32", "bfloat16"],
    "num_experts": [None, 3, 8],
    "num_local_experts": [None, 4, 6],
    "num_experts_per_tok": [None, 1, 3],
    "norm_topk_prob": [True, False, None],
    "moe_intermediate_size": [20],
    "shared_expert_intermediate_size": [16],
    "decoder_sparse_step": [None, 1, 2],
    "mlp_only_layers": [None, [], [0], [0, 2]],
    "use_expert_bias": [True, False, None],
    "routed_scaling_factor": [None, 2.5],
    "num_dense_layers": [None, 0, 2],
    "conv_L_cache": [2, 4],
    "conv_bias": [True, None],
    "block_auto_adjust_ff_dim": [True, False, None],
    "block_multiple_of": [1, 16],
    "block_ffn_dim_multiplier": [None, 1.5],
    "block_ff_dim": [None, 40],
    "full_attn_idxs": [None, [2], [0, 2]],
    "norm_eps": [None, 0.1],
    "no_rope_layers": [None, [1, 0, 1, 0]],
    "hidden_size": [20, 40, 48],
}


def verdict(directory: Path, family: str, changes: dict, dice: random.Random) -> tuple[str, str]:
    """A word, and what there is to say."""
    whole = build_family(family) if family in FAMILIES else build(family, {})
    model_class, config = type(whole), whole.config.to_dict()
    text_config = config.get("text_config", config)
    text_config |= changes
    for name in [name for name, value in changes.items() if value is None and dice.random() < 0.7]:
        del text_config[name]
    text = json.dumps(config)
    (directory / "config.json").write_text(text)
    try:
        model = randomized(model_class(model_class.config_class.from_pretrained(directory)))
        logits = torch_logits(model)
        model.save_pretrained(directory)
    except Exception as e:  # whatever transformers cannot do
        return "not by transformers", str(e)
    (directory / "config.json").write_text(text)
    try:
        difference = worst(load_target(directory, "stored"), logits)
    except ModelError as e:
        return "refused", str(e)
    most = DELTA_TOLERANCE if family.startswith("qwen3_5") else TOLERANCE
    return ("equal", "") if difference < most else ("different", f"{difference:.2g}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--refusals", action="store_true")
    a = parser.parse_args()
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    dice, counts = random.Random(a.seed), Counter()
    for _ in range(a.cases):
        family, names = dice.choice([*BASES, *FAMILIES]), dice.sample(sorted(VALUES), dice.choice((1, 2, 2, 3, 4)))
        changes = {name: dice.choice(VALUES[name]) for name in names}
        with tempfile.TemporaryDirectory() as directory:
            word, more = verdict(Path(directory), family, changes, dice)
        counts[word] += 1
        if word == "different" or (word == "refused" and a.refusals):
            print(f"{word}: {family} {changes}: {more}", flush=True)
    print(dict(counts))
    return bool(counts["different"])


if __name__ == "__main__":
    sys.exit(main())
