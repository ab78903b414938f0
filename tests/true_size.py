"""A random Qwen3-4B at 8 bits with a 5-layer DSpark drafter, true shapes: one round, and its memory.

    .venv/bin/python -m tests.true_size DIRECTORY

Not part of the test suite: it writes 7 GB into DIRECTORY (once), needs 8 GB of memory and, on a processor, minutes.
The model is loaded as the page loads it, in the precision it is stored in, with the drafter at 4 bits; a plain step
and one speculative round run on it, their first token compared, and the peak that MLX measured is held against the
panel's estimate.
"""

import json
import sys
import time
from pathlib import Path

import mlx.core as mx

from dspark_core.catalog import facts, memory, pair
from dspark_core.decode.plain import plain
from dspark_core.decode.rounds import Round, Settings
from dspark_core.decode.schedule import FullBlock
from dspark_core.decode.speculative import speculative
from dspark_core.playground.engine import Choice, PresetEngine

from .models.published import DSPARK, QWEN3_4B, drafters, target

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


def main(root: Path) -> None:
    start = time.perf_counter()

    def say(words):
        print(f"{time.perf_counter() - start:6.0f} s  {words}", flush=True)

    mx.random.seed(0)
    model, drafter = target(QWEN3_4B), drafters(QWEN3_4B)[DSPARK]
    write(root / "target", model.config | QUANTIZATION, model.tensors, 8)
    write(root / "drafter", drafter.config, drafter.tensors, None)
    both = facts.read(root / "target"), facts.read(root / "drafter")
    config = pair.check(*both)
    say(f"written: {both[0].bytes:,} and {both[1].bytes:,} bytes; {config.method}, block {config.block_size}")
    mx.clear_cache()
    mx.reset_peak_memory()
    told = [0.0]

    def tell(step):
        if time.perf_counter() - told[0] > 5:
            told[0] = time.perf_counter()
            say(f"{step.words} {memory.gigabytes(step.done)} of {memory.gigabytes(step.total)}")

    engine = PresetEngine.__new__(PresetEngine)  # without a first preset
    engine.machine = memory.this_machine()
    engine._clear()
    say(engine.load(Choice("4B", root / "target", {"DSpark": root / "drafter"}, "stored", "4-bit"), tell).words)
    say(f"{engine.name}, {engine.precision}; {engine.drafters}; MLX holds {mx.get_active_memory():,} bytes")
    prompt, settings = [9707, 11, 1879, 0], Settings(max_tokens=2, stop_ids=frozenset())
    loaded, drafter = engine.models.target, engine.models.drafters["DSpark"]
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


if __name__ == "__main__":
    main(Path(sys.argv[1]))
