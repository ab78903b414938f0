"""Random settings of several fields at once, half of them as other versions or families spell them: what transformers
computes from such a config.json, a target computes too, or it is refused.

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
import transformers

from dspark_core.errors import ModelError
from dspark_core.models.target import load_target
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
    "layer_types": [None, [FULL, FULL], [SLIDING, FULL], [SLIDING, SLIDING]],
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
}


def verdict(directory: Path, family: str, changes: dict, dice: random.Random) -> tuple[str, str]:
    """A word, and what there is to say."""
    config = build(family, {}).config.to_dict() | changes
    for name in [name for name, value in changes.items() if value is None and dice.random() < 0.7]:
        del config[name]
    text = json.dumps(config)
    (directory / "config.json").write_text(text)
    try:
        model = randomized(
            transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(directory))
        )
        logits = torch_logits(model)
        model.save_pretrained(directory)
    except Exception as e:  # whatever transformers cannot do
        return "not by transformers", str(e)
    (directory / "config.json").write_text(text)
    try:
        difference = worst(load_target(directory, "stored"), logits)
    except ModelError as e:
        return "refused", str(e)
    return ("equal", "") if difference < TOLERANCE else ("different", f"{difference:.2g}")


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
        family, names = dice.choice(list(BASES)), dice.sample(sorted(VALUES), dice.choice((1, 2, 2, 3, 4)))
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
