"""What CPU streams come to on this machine: layers, verifications, prefill and a short race, whole and in parts.

    .venv/bin/python -m tests.scripts.cpu_streams --out /tmp/streams.json [--cores 16] [--limit 150] [--quick]

Offline, on the embedded model and on random layers of larger models' shapes. Every pair of figures is measured in
alternation, every product is compared bit for bit. What does not fit into `--limit` seconds is left out and named.
`--cores` takes the place of what this process may use, to try the script where there are few.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from dspark_core.bench.run import row_fields
from dspark_core.decode.plain import plain
from dspark_core.decode.prefill import prefill_once
from dspark_core.decode.rounds import Settings
from dspark_core.decode.schedule import FixedCap, FullBlock
from dspark_core.decode.speculative import Options, speculative
from dspark_core.machine import machine, versions
from dspark_core.models import cpu_streams
from dspark_core.models.checkpoint import load_drafter
from dspark_core.models.cpu_streams import METHODS, Parts, Spread, layers_of, rows_for, timed
from dspark_core.models.target import Target, load_target
from dspark_core.paths import assets

PARTS = (2, 4, 8)
ROWS = (1, 2, 4, 7, 8, 16, 64, 256, 512)
PROMPT = "Write a Python function that finds a number in a sorted list by binary search, and say how it works. "


class Run:
    """What is measured, printed and written as it comes; `limit` in seconds."""

    def __init__(self, out: Path, limit: float):
        self.began, self.out, self.limit = time.monotonic(), out, limit
        self.found: dict[str, Any] = {}

    def say(self, words: str) -> None:
        print(f"{time.monotonic() - self.began:6.1f} s  {words}", flush=True)

    def note(self, name: str, value: Any) -> None:
        self.found[name] = value
        self.out.write_text(json.dumps(self.found, indent=1))

    def fits(self, seconds: float, what: str) -> bool:
        """Is there time for so many more seconds?"""
        if time.monotonic() - self.began + seconds <= self.limit:
            return True
        self.note("left out", [*self.found.get("left out", []), what])
        self.say(f"left out for want of time: {what}")
        return False


def products(run: Run, name: str, layers: list[Any], rows: tuple[int, ...], repeat: int = 3) -> None:
    """Layers one after the other: ms whole and in parts, least of some alternations; are all parts' numbers equal?"""
    ways: dict[int, list[Any]] = {1: [getattr(layer, METHODS[type(layer)]) for layer in layers]}
    ways |= {count: [Parts(layer, count) for layer in layers] for count in PARTS}
    table: dict[str, Any] = {}
    last = 0.0
    for n in rows:
        if not run.fits(8 * last * repeat, f"{name}, {n} rows and more"):
            break
        inputs = [rows_for(layer, n) for layer in layers]
        seconds: dict[int, list[float]] = {count: [] for count in ways}
        began = time.monotonic()
        for turn in range(repeat + 1):
            for count, way in ways.items():
                took, _ = timed(way, inputs)
                seconds[count] += [took] if turn or repeat == 1 else []
            if turn and time.monotonic() - began > 6:
                break
        equal = n > 64 or all(
            mx.array_equal(whole(x), way[i](x)).item()
            for i, (whole, x) in enumerate(zip(ways[1], inputs, strict=True))
            for way in (ways[count] for count in PARTS)
        )
        last = min(seconds[1]) * (4 if n > 8 else 2)
        ms = {count: 1000 * min(taken) for count, taken in seconds.items()}
        table[str(n)] = {"ms": {str(c): round(v, 3) for c, v in ms.items()}, "equal": equal if n <= 64 else None}
        ratios = ", ".join(f"{c}: {ms[c]:.2f} ms ({ms[1] / ms[c]:.2f} x)" for c in PARTS)
        run.say(f"{name}, {n} rows: whole {ms[1]:.2f} ms; {ratios}; equal {table[str(n)]['equal']}")
        run.note(name, table)


class Installed:
    """Layers whole (None) or in parts, while something runs."""

    def __init__(self, layers: list[Any]):
        self.layers = layers

    def during(self, spread: Spread | None, work: Callable[[], Any]) -> Any:
        if spread:
            cpu_streams.install(self.layers, spread)
        try:
            return work()
        finally:
            if spread:
                cpu_streams.remove(self.layers)


def alternated(
    run: Run,
    name: str,
    way: Installed,
    spreads: dict[str, Spread | None],
    work: Callable[[], tuple[float, Any]],
    repeat: int,
) -> None:
    """Seconds of `work` each way, in alternation, and whether what it gives is equal."""  # fmt: skip
    seconds: dict[str, list[float]] = {label: [] for label in spreads}
    results: list[Any] = []
    for turn in range(repeat):
        if turn and not run.fits(1.2 * sum(taken[-1] for taken in seconds.values()), f"{name}, turn {turn + 1}"):
            break
        for label, spread in spreads.items():
            took, result = way.during(spread, work)
            seconds[label].append(took)
            results.append(result)
    equal = all(
        mx.array_equal(results[0], r).item() if isinstance(r, mx.array) else results[0] == r for r in results[1:]
    )
    medians = {label: statistics.median(taken) for label, taken in seconds.items()}
    ratios = {label: round(medians["whole"] / m, 3) for label, m in medians.items()}
    run.note(name, {"seconds": seconds, "whole / in parts": ratios, "equal": equal})
    run.say(f"{name}: " + ", ".join(f"{k} {1000 * v:.0f} ms ({ratios[k]} x)" for k, v in medians.items())
            + f"; equal {equal}")  # fmt: skip


def random_layers() -> Iterator[tuple[str, list[Any], tuple[int, ...]]]:
    """Of Qwen3-4B's shapes, in several precisions."""
    for d, columns, name in ((2560, 9728, "4B gate"), (2560, 1024, "4B k")):
        layer = nn.Linear(d, columns, bias=False)
        layer.weight = (mx.random.normal((columns, d), key=mx.random.key(0)) * 0.02).astype(mx.bfloat16)
        mx.eval(layer.parameters())
        yield f"{name} {columns} x {d} bf16", [layer], (1, 2, 4, 8, 16, 64)
        if columns == 1024:
            for mode, bits in (("affine", 8), ("affine", 4), ("mxfp4", 4), ("nvfp4", 4), ("mxfp8", 8)):
                group = 64 if mode == "affine" else None
                packed = nn.QuantizedLinear.from_linear(layer, group, bits, mode)
                mx.eval(packed.parameters())
                yield f"{name} {columns} x {d} {mode} {bits} bits", [packed], (1, 4, 16)
            for dtype in (mx.float16, mx.float32):
                other = nn.Linear(d, columns, bias=False)
                other.weight = layer.weight.astype(dtype)
                mx.eval(other.parameters())
                yield f"{name} {columns} x {d} {dtype}", [other], (1, 4, 16)


def decide(run: Run, target: Target, modules: list[nn.Module], cores: int) -> Spread | None:
    """What would be decided at load, how long that takes, and the longest of its operations."""
    steps, began, longest, spread, count = cpu_streams.settle(modules, cores), time.monotonic(), 0.0, None, 0
    while True:
        stamp = time.monotonic()
        try:
            next(steps)
            count += 1
        except StopIteration as end:
            spread = end.value
            break
        longest = max(longest, time.monotonic() - stamp)
    took = time.monotonic() - began
    run.note("decision", {"spread": spread and [spread.parts, spread.rows], "words": str(spread or "none"),
                          "seconds": round(took, 3), "longest step": round(longest, 3), "steps": count})  # fmt: skip
    run.say(f"decided in {took:.2f} s, {count} steps, the longest {longest:.3f} s: {spread or 'whole'}")
    if spread:
        cpu_streams.remove([layer for m in modules for _, layer in m.named_modules() if hasattr(layer, "parts")])
    return spread


def verifications(run: Run, target: Target, way: Installed, repeat: int) -> None:
    prefilled = prefill_once(target, target.encode_text(PROMPT))
    text = mx.array(target.encode_text(PROMPT * 2), dtype=mx.int32)
    spreads = {"whole": None} | {f"{n} parts": Spread(n, 1) for n in PARTS}

    for rows in (1, 2, 4, 7, 8, 16):

        def step(rows: int = rows) -> tuple[float, mx.array]:
            cache = target.new_cache()
            prefilled.into(cache)
            began = time.perf_counter()
            hidden, _ = target.forward(text[:rows], cache)
            logits = target.head(hidden)
            mx.eval(logits)
            return time.perf_counter() - began, logits

        if not run.fits(60, f"verification of {rows}"):  # for what comes after it says more
            return
        for spread in spreads.values():
            way.during(spread, step)
        alternated(run, f"verification of {rows}", way, spreads, step, min(2, repeat))


def end_to_end(run: Run, target: Target, drafter: Any, way: Installed, spread: Spread, repeat: int) -> None:
    ids = target.encode_text(PROMPT * 30)
    spreads = {"whole": None, f"{spread.parts} parts": spread}

    def reading(n: int) -> Callable[[], tuple[float, mx.array]]:
        def read() -> tuple[float, mx.array]:
            began = time.perf_counter()
            logits = prefill_once(target, ids[:n]).logits
            return time.perf_counter() - began, logits

        return read

    if run.fits(20, "prefill of 60 tokens"):
        alternated(run, "prefill of 60 tokens", way, spreads, reading(60), repeat)
    prompt = target.encode_chat([{"role": "user", "content": PROMPT}])
    prefilled = prefill_once(target, prompt, drafter.taps)
    settings = Settings(max_tokens=24, stop_ids=frozenset())

    def lane(schedule: Any) -> Callable[[], tuple[float, Any]]:
        def decode() -> tuple[float, Any]:
            if schedule is None:
                row = row_fields(plain(target, prompt, settings, prefilled=prefilled))
            else:
                row = row_fields(speculative(target, drafter, prompt, settings, schedule, Options(prefilled=prefilled)))
            return row["seconds"], row["ids"]

        return decode

    for name, schedule in (("plain", None), ("dspark whole blocks", FullBlock()), ("dspark 3 drafts", FixedCap(3))):
        if run.fits(20, f"24 tokens, {name}"):
            alternated(run, f"24 tokens, {name}", way, spreads, lane(schedule), min(2, repeat))
    if run.fits(35, "prefill of 500 tokens"):
        alternated(run, "prefill of 500 tokens", way, spreads, reading(500), 1)


def main() -> None:
    p = argparse.ArgumentParser(prog="python -m tests.scripts.cpu_streams")
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--cores", type=int, default=0)
    p.add_argument("--limit", type=float, default=140.0)
    p.add_argument("--quick", action="store_true", help="once each, to try the script")
    a = p.parse_args()
    mx.set_default_device(mx.cpu)
    run, repeat = Run(a.out, a.limit), 1 if a.quick else 3
    cores = a.cores or cpu_streams.usable_cores()
    run.note("machine", machine() | versions() | {"usable cores": cores})
    run.say(json.dumps(run.found["machine"]))
    target = load_target(assets() / "models" / "smollm2-135m-instruct")
    drafter: Any = load_drafter(assets() / "models" / "dspark-smollm2-135m-b7", target)
    run.say(f"loaded: {target.precision}, {drafter.info.name}")
    modules = [target.model, drafter.weights]
    decided = decide(run, target, modules, cores)
    way = Installed(layers_of(modules))
    before = mx.get_active_memory()
    way.during(Spread(4, 1), lambda: run.note("bytes that parts take", mx.get_active_memory() - before))
    sample = cpu_streams._sample(layers_of([target.model]))
    products(run, "embedded layer", sample, ROWS[:6], repeat)
    head = [layer for layer in layers_of([target.model]) if layer.weight.shape[0] > 9999]
    products(run, "embedded head", head, (1, 2, 4, 8, 16), repeat)
    verifications(run, target, way, repeat)
    end_to_end(run, target, drafter, way, decided or Spread(4, 2), repeat)
    products(run, "embedded layer, many rows", sample, ROWS[6:], 1)
    for name, layers, rows in random_layers():
        products(run, name, layers, rows, repeat)
    run.say(f"done; figures in {a.out}")


if __name__ == "__main__":
    main()
