"""What going back costs a recurrent target: a verification, and the replay of its first k rows. Random weights.

    python -m tests.scripts.replay_cost [--hidden 2560] [--layers 32] [--width 8] [--context 512] [--out FILE.json]

The default sizes are Qwen3.5-4B's, as far as they are known (bfloat16, 8 GB). A row a k: milliseconds of the
verification, of the replay of k rows, of the recurrence alone over all of its rows, and by how much the replay exceeds
its rows' share of that, as a share of the verification; medians of several, the first of each off the record.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import mlx.core as mx

from dspark_core.machine import machine, versions
from dspark_core.models.cache import RecurrentCache, trim
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


def recurrence(cache: list) -> list[mx.array]:
    """The states of all recurrent layers after the newest forward, computed anew from what went into it."""
    out = []
    for c in cache:
        if isinstance(c, RecurrentCache) and c._replay is not None:
            newest = c._stretches[-1]
            out.append(c._replay(newest.before, newest.inputs))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, usual in {"hidden": 2560, "layers": 32, "width": 8, "context": 512}.items():
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    target = random_target(given.hidden, given.layers)
    cache, rows = target.new_cache(), []
    for _ in range(given.context // 64):
        target.forward(mx.zeros((64,), dtype=mx.int32), cache)
        mx.eval([c.state for c in cache])
    ids = mx.arange(given.width)
    for k in range(1, given.width):
        verified, replayed, alone = [], [], []
        for _ in range(TIMES + 1):
            began = time.perf_counter()
            mx.eval(target.head(target.forward(ids, cache)[0]), [c.state for c in cache])
            verified.append(time.perf_counter() - began)
            began = time.perf_counter()
            mx.eval(recurrence(cache))
            alone.append(time.perf_counter() - began)
            began = time.perf_counter()
            trim(cache, given.width - k)
            mx.eval([c.state for c in cache])
            replayed.append(time.perf_counter() - began)
            trim(cache, k)
        ms, more, whole = (1000 * statistics.median(x[1:]) for x in (verified, replayed, alone))
        over = (more - whole * k / given.width) / ms
        words = f"verification {ms:.2f} ms, replay {more:.2f} ms ({more / ms:.1%}), recurrence of all {whole:.2f} ms"
        print(f"{k} rows kept of {given.width}: {words}; beyond its share {over:+.1%} of the verification", flush=True)
        row = {"kept": k, "verification_ms": ms, "replay_ms": more, "recurrence_ms": whole, "beyond": over}
        rows.append({key: round(value, 4) for key, value in row.items()})
        if given.out:
            about = {"machine": machine(), "versions": versions()}
            about |= {name: getattr(given, name) for name in ("hidden", "layers", "width", "context")}
            given.out.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
