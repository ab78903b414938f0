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
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx

from dspark_core.decode.plain import plain
from dspark_core.decode.rounds import Round, Settings
from dspark_core.decode.schedule import FullBlock
from dspark_core.decode.speculative import speculative
from dspark_core.library import facts, memory, pair
from dspark_core.playground.engine import Choice, PresetEngine

SHAPE = {"hidden_size": 2560, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}
SHAPE |= {"intermediate_size": 9728, "vocab_size": 151936, "rms_norm_eps": 1e-6, "rope_theta": 1e6}
SHAPE |= {"model_type": "qwen3", "max_position_embeddings": 40960, "tie_word_embeddings": True}
TARGET = SHAPE | {"num_hidden_layers": 36, "quantization": {"group_size": 64, "bits": 8}}
DRAFTER = SHAPE | {
    "architectures": ["Qwen3DSparkModel"],
    "num_hidden_layers": 5,
    "num_target_layers": 36,
    "block_size": 7,
    "mask_token_id": 151669,
    "target_layer_ids": [1, 9, 17, 25, 33],
    "markov_rank": 256,
    "enable_confidence_head": True,
    "confidence_head_with_markov": True,
    "tie_word_embeddings": False,
}
LINEARS = {"q_proj": (4096, 2560), "k_proj": (1024, 2560), "v_proj": (1024, 2560), "o_proj": (2560, 4096)}
MLP = {"gate_proj": (9728, 2560), "up_proj": (9728, 2560), "down_proj": (2560, 9728)}
EMBEDDING = (151936, 2560)


def layer(at: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from ((f"{at}.self_attn.{n}.weight", s) for n, s in LINEARS.items())
    yield from ((f"{at}.mlp.{n}.weight", s) for n, s in MLP.items())
    yield from ((f"{at}.{n}_layernorm.weight", (2560,)) for n in ("input", "post_attention"))
    yield from ((f"{at}.self_attn.{n}_norm.weight", (128,)) for n in "qk")


def target_shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "model.embed_tokens.weight", EMBEDDING
    yield "model.norm.weight", (2560,)
    for i in range(36):
        yield from layer(f"model.layers.{i}")


def drafter_shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from {"embed_tokens.weight": EMBEDDING, "lm_head.weight": EMBEDDING, "fc.weight": (2560, 12800)}.items()
    yield from {"norm.weight": (2560,), "hidden_norm.weight": (2560,)}.items()
    for i in range(5):
        yield from layer(f"layers.{i}")
    yield from ((f"markov_head.markov_w{i}.weight", (151936, 256)) for i in (1, 2))
    yield from {"confidence_head.proj.weight": (1, 2816), "confidence_head.proj.bias": (1,)}.items()


def write(directory: Path, config: dict, shapes: Iterator, bits: int | None) -> None:
    """A random checkpoint, a shard for every few hundred megabytes."""
    directory.mkdir(parents=True, exist_ok=True)
    if (directory / "config.json").exists():
        return
    shard, size, number = {}, 0, 0
    for name, shape in [*shapes, (None, None)]:
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
    write(root / "target", TARGET, target_shapes(), 8)
    write(root / "drafter", DRAFTER, drafter_shapes(), None)
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
    target, drafter = engine.models.target, engine.models.drafters["DSpark"]
    lanes = [plain(target, prompt, settings)]
    lanes.append(speculative(target, drafter, prompt, Settings(9, stop_ids=frozenset()), FullBlock()))
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
