"""A random Qwen3-4B at 8 bits with a 5-layer DSpark drafter, true shapes: one round, and its memory.

    .venv/bin/python -m tests.scripts.true_size DIRECTORY
    .venv/bin/python -m tests.scripts.true_size DIRECTORY --speed [--bits 16 8] [--tokens 128] [--repeat 7]

The second form writes the target alone (in bf16, 8 GB, and at 8 bits, 4 GB) and decodes a random prompt plainly by this
project's loop and by mlx-lm's, in alternation: a line a lane with the median and the extremes, and their ratio.

Not part of the test suite: it writes 7 GB into DIRECTORY (once), needs 8 GB of memory and, on a processor, minutes.
The model is loaded as the page loads it, in the precision it is stored in, with the drafter at 4 bits; a plain step
and one speculative round run on it, their first token compared, and the peak that MLX measured is held against the
panel's estimate.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import mlx.core as mx

from dspark_core.bench.alternate import alternate
from dspark_core.bench.plan import plan_lanes
from dspark_core.catalog import facts, memory
from dspark_core.decode.plain import plain
from dspark_core.decode.rounds import Round, Settings
from dspark_core.decode.schedule import FullBlock
from dspark_core.decode.speculative import speculative
from dspark_core.machine import mlx_device
from dspark_core.models.target import load_target
from dspark_core.race.loaded import Models

from ..models.published import DSPARK, QWEN3_4B, Shape, drafters, target

QUANTIZATION = {"quantization": {"group_size": 64, "bits": 8}}


def write(directory: Path, config: dict, shapes: dict[str, tuple[int, ...]], bits: int | None) -> None:
    """A random checkpoint, a shard for every few hundred megabytes."""
    directory.mkdir(parents=True, exist_ok=True)
    if (directory / "config.json").exists():
        return
    shard, size, number = {}, 0, 0
    for name, shape in [*shapes.items(), (None, None)]:
        if name is None or size > 500_000_000:
            mx.save_safetensors(str(directory / f"model-{number:05}.safetensors"), shard)
            shard, size, number = {}, 0, number + 1
        if name is None:
            break
        scale = 0.02 if len(shape) == 2 else 0.0
        rows = [mx.random.normal((min(8192, shape[0] - r), *shape[1:])) * scale for r in range(0, shape[0], 8192)]
        weight = (mx.concatenate(rows) + (0.0 if len(shape) == 2 else 1.0)).astype(mx.bfloat16)
        if bits and len(shape) == 2:
            packed, scales, biases = mx.quantize(weight, 64, bits)
            stem = name.removesuffix("weight")
            shard |= {name: packed, f"{stem}scales": scales, f"{stem}biases": biases}
        else:
            shard[name] = weight
        mx.eval(shard)
        size = sum(w.nbytes for w in shard.values())
    (directory / "config.json").write_text(json.dumps(config))


def speed(root: Path, shape: Shape, bits: int, tokens: int, repeat: int) -> None:
    """Plain decoding beside mlx-lm's: one JSON object a line."""
    mx.random.seed(0)
    model, quantized = target(shape), bits < 16
    directory = root / f"{shape.name}-{shape.hidden}-{bits}"
    config = {"quantization": {"group_size": 64, "bits": bits}} if quantized else {}
    write(directory, model.config | config, model.tensors, bits if quantized else None)
    loaded = load_target(directory, "stored")
    prompt = mx.random.randint(0, 1000, (64,)).tolist()
    settings = Settings(tokens, stop_ids=frozenset())
    about = {"weights": loaded.precision, "device": str(mx.default_device()), "tokens": tokens}
    for row in alternate(Models(loaded, {}), plan_lanes("plain,mlx-lm"), [prompt], settings, repeat):
        if "lane" in row:
            print(json.dumps(about | row), flush=True)


def main(root: Path) -> None:
    from dspark_core.playground.engine import Choice, PresetEngine

    start = time.perf_counter()

    def say(words):
        print(f"{time.perf_counter() - start:6.0f} s  {words}", flush=True)

    mx.random.seed(0)
    model, drafter = target(QWEN3_4B), drafters(QWEN3_4B)[DSPARK]
    write(root / "target", model.config | QUANTIZATION, model.tensors, 8)
    write(root / "drafter", drafter.config, drafter.tensors, None)
    both = facts.Facts.read(root / "target"), facts.Facts.read(root / "drafter")
    config = facts.check_pair(*both)
    say(f"written: {both[0].bytes:,} and {both[1].bytes:,} bytes; {config.method}, block {config.block_size}")
    mx.clear_cache()
    mx.reset_peak_memory()
    told = [0.0]

    def tell(step):
        if time.perf_counter() - told[0] > 5:
            told[0] = time.perf_counter()
            say(f"{step.words} {memory.gigabytes(step.done)} of {memory.gigabytes(step.total)}")

    engine = PresetEngine.__new__(PresetEngine)  # without a first preset
    engine.machine = mlx_device()
    engine._clear()
    say(engine.load(Choice("4B", root / "target", {"dspark": root / "drafter"}, "stored", "4-bit"), tell).words)
    say(f"{engine.name}, {engine.precision}; {engine.drafters}; MLX holds {mx.get_active_memory():,} bytes")
    prompt, settings = [9707, 11, 1879, 0], Settings(max_tokens=2, stop_ids=frozenset())
    loaded, drafter = engine.models.target, engine.models.drafters["dspark"]
    lanes = [plain(loaded, prompt, settings)]
    lanes.append(speculative(loaded, drafter, prompt, Settings(9, stop_ids=frozenset()), FullBlock()))
    rounds = []
    for lane in lanes:  # both stay open, as in a race, so that both caches are held
        rounds.append(next(event for event in lane if isinstance(event, Round)))
        say(f"a round: {rounds[-1].proposed} sent, {rounds[-1].accepted} accepted, {list(rounds[-1].committed)}")
    assert rounds[0].committed[0] == rounds[1].committed[0], "plain and speculative differ"
    peak = mx.get_peak_memory()
    e = memory.estimate(both[0], both[1:], engine.machine, len(prompt) + 9, "stored", "4-bit")
    say(
        f"estimate {e.total:,} bytes: target {e.target:,}, drafter {e.drafters:,}, "
        f"caches {e.cache:,}, work {e.working:,}"
    )
    say(f"measured peak {peak:,} bytes; estimate / measured = {e.total / peak:.3f}")
    say(e.words)


def _arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(prog="python -m tests.scripts.true_size")
    p.add_argument("directory", type=Path)
    p.add_argument("--speed", action="store_true")
    p.add_argument("--bits", type=int, nargs="+", default=[16, 8], choices=(16, 8, 4))
    p.add_argument("--tokens", type=int, default=128)
    p.add_argument("--repeat", type=int, default=7)
    p.add_argument("--narrow", action="store_true", help="a tenth of the width, to try the command")
    return p.parse_args()


if __name__ == "__main__":
    a = _arguments()
    for width in a.bits if a.speed else ():
        wanted = replace(QWEN3_4B, hidden=256, head_dim=16, inner=512) if a.narrow else QWEN3_4B
        speed(a.directory, wanted, width, a.tokens, a.repeat)
    if not a.speed:
        main(a.directory)
