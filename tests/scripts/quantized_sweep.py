"""Random models as transformers saves them, quantized by mlx-lm in every mode, group size and recipe: are the logits
mlx-lm's own, and is the memory estimate what MLX holds? Takes minutes.

    python -m tests.scripts.quantized_sweep DIRECTORY
"""

import argparse
import gc
import json
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.convert import QUANT_RECIPES, mixed_quant_predicate_builder
from mlx_lm.utils import load_model, quantize_model, save_config, save_model

from dspark_core.catalog.facts import Facts
from dspark_core.catalog.memory import Footprint
from dspark_core.machine import Device
from dspark_core.models.target import load_target

IDS = mx.array([5, 9, 200, 77, 3, 1001, 42, 8])
SIZES = {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 2048}
SIZES |= {"num_hidden_layers": 8, "intermediate_size": 768, "max_position_embeddings": 512}
GEMMA = {"layer_types": ["sliding_attention", "full_attention"] * 4, "sliding_window": 16, "num_kv_shared_layers": 0}
GEMMA |= {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 2048, "global_head_dim": 64}
WAYS = [(f"{b} bits, {g}", {"group_size": g, "bits": b}) for b in (1, 2, 3, 4, 5, 6, 8) for g in (32, 64, 128)]
WAYS += [(mode, {"group_size": None, "bits": None, "mode": mode}) for mode in ("mxfp4", "nvfp4", "mxfp8")]
WAYS += [(recipe, {"group_size": 32, "bits": 4}) for recipe in QUANT_RECIPES]


def saved(root: Path, family: str, tied: bool, dtype: str) -> Path:
    """A random model of transformers, saved by it."""
    import torch
    import transformers as t

    torch.manual_seed(0)
    config, model = {
        "Llama": (t.LlamaConfig, t.LlamaForCausalLM),
        "Qwen3": (t.Qwen3Config, t.Qwen3ForCausalLM),
        "Gemma-4": (t.Gemma4TextConfig, t.Gemma4ForCausalLM),
    }[family]
    fields = SIZES | {"tie_word_embeddings": tied} | (GEMMA if family == "Gemma-4" else {})
    directory = root / f"{family} {'tied' if tied else 'untied'} {dtype}"
    model(config(**fields)).to(getattr(torch, dtype)).save_pretrained(directory)
    path = directory / "config.json"
    raw = json.loads(path.read_text())
    extra = {"rope_theta": 1e4} if family != "Gemma-4" else {"global_head_dim": 64, "final_logit_softcapping": 30.0}
    path.write_text(json.dumps(raw | extra))  # for mlx-lm itself, which is the measure here
    return directory


def quantized(source: Path, way: str, settings: dict) -> Path:
    directory = source.with_name(f"{source.name}, {way}")
    model, config = load_model(source, lazy=True)
    recipe = mixed_quant_predicate_builder(way, model, 32) if way in QUANT_RECIPES else None
    model, config = quantize_model(model, config, **settings, quant_predicate=recipe)
    save_model(directory, model)
    save_config(config, directory / "config.json")
    return directory


def compare(directory: Path) -> None:
    expected, facts = load_model(directory)[0](IDS[None])[0], Facts.read(directory)
    line = []
    for precision in ("stored", "auto", "8-bit"):
        gc.collect()
        mx.clear_cache()
        before = mx.get_active_memory()
        target = load_target(directory, precision)
        held, words = mx.get_active_memory() - before, target.precision
        weights = sum(w.nbytes for _, w in tree_flatten(target.model.parameters()))
        off = mx.abs(target.head(target.forward(IDS, target.new_cache())[0]) - expected).max().item()
        need = Footprint(facts, precision, Device("CPU", "", 0)).bytes
        line.append(f"{words}: logits off by {off:.2g}, estimate {need / weights - 1:+.2%} {need / held - 1:+.2%}")
        assert need == weights and abs(need / held - 1) < 0.02 and (precision != "stored" or not off), line[-1]
        del target
    print(directory.name, *line, sep=" | ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="for the models, a few hundred MB; must be empty or new")
    root = parser.parse_args().directory
    for family, tied, dtype in (
        *(("Llama", False, "float32"), ("Llama", True, "bfloat16")),
        *(("Qwen3", True, "float16"), ("Qwen3", False, "bfloat16"), ("Gemma-4", True, "bfloat16")),
    ):
        source = saved(root, family, tied, dtype)
        compare(source)
        for way, settings in WAYS:
            compare(quantized(source, way, settings))


if __name__ == "__main__":
    main()
