"""What going back costs a recurrent target: a verification, and the replay of its first k rows. Random weights.

    python -m tests.scripts.replay_cost [--hidden 2560] [--layers 32] [--width 8] [--context 512]

The default sizes are Qwen3.5-4B's, as far as they are known (bfloat16, 8 GB). A row a k: milliseconds of the
verification, of the replay, and their ratio; medians of several.
"""

import argparse
import statistics
import time
from pathlib import Path

import mlx.core as mx

from dspark_core.models.cache import trim
from dspark_core.models.target import Target, _classes
from dspark_core.models.target_config import read_target

TIMES = 7


def random_target(hidden: int, layers: int) -> Target:
    config = {"model_type": "qwen3_5_text", "hidden_size": hidden, "num_hidden_layers": layers, "vocab_size": 32768}
    config |= {"intermediate_size": hidden * 18 // 5, "num_attention_heads": 16, "num_key_value_heads": 4}
    config |= {"tie_word_embeddings": True}
    shape = read_target(Path("random"), config, {})
    model_class, args = _classes(shape, True, {"model_type": "qwen3_5"})
    model = model_class(args.from_dict(shape.for_mlx(True)))
    model.set_dtype(mx.bfloat16)
    mx.eval(model.parameters())
    return Target(model, shape, config, None, "random", "bf16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, usual in {"hidden": 2560, "layers": 32, "width": 8, "context": 512}.items():
        parser.add_argument(f"--{name}", type=int, default=usual)
    given = parser.parse_args()
    target, cache = random_target(given.hidden, given.layers), None
    cache = target.new_cache()
    for _ in range(given.context // 64):
        target.forward(mx.zeros((64,), dtype=mx.int32), cache)
        mx.eval([c.state for c in cache])
    ids = mx.arange(given.width)
    for k in range(1, given.width):
        verified, replayed = [], []
        for _ in range(TIMES):
            began = time.perf_counter()
            mx.eval(target.head(target.forward(ids, cache)[0]), [c.state for c in cache])
            middle = time.perf_counter()
            trim(cache, given.width - k)
            mx.eval([c.state for c in cache])
            verified.append(middle - began)
            replayed.append(time.perf_counter() - middle)
            trim(cache, k)
        ms, more = (1000 * statistics.median(x) for x in (verified, replayed))
        print(
            f"{k} rows kept of {given.width}: verification {ms:.2f} ms, replay {more:.2f} ms, {more / ms:.1%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
