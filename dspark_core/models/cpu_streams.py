"""Linear layers in parts, each on a CPU stream of its own.

MLX's CPU backend computes every operation on one core, and every stream has a thread. With enough cores the columns of
a wide product are computed in parts, side by side, and put together: every number is the same dot product as before,
bit for bit. A few rows are not worth the way to other threads and back. From how many on it pays, and in how many
parts, is measured once on the layers of what is loaded; where it does not pay, nothing changes. Parts are views of the
weights: no memory is taken.
"""

import copy
import os
import time
from collections.abc import Collection, Generator, Iterable, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..machine import machine, versions
from ..store import Store, short_digest

PARTS = (4, 8)
ROWS = (16, 8, 4, 2, 1)  # of calls that are timed
PAYS = 1.15  # times as fast, or it is left
SAMPLES = 3
LIMIT_S = 1.0  # of timing; what did not get its turn by then stays whole
BLOCK = 16  # columns: MLX's products go by so many
LEAST_BYTES = 1 << 16  # of a weight
HEADS = ("lm_head", "embed_tokens", "markov_w2")  # whose dense products have two parts anyway (weights.py)
SAMPLE_BYTES = 8 << 20  # of the layers that are timed
PROOF_ROWS = 17  # one more than the kernels take at once
KIND = "streams"  # of what the store holds

STREAMS = tuple(mx.new_thread_local_stream(mx.cpu) for _ in range(max(PARTS) - 1))  # beside the default one
# A product's method by the kind of layer.
METHODS = {nn.Linear: "__call__", nn.QuantizedLinear: "__call__"}
METHODS |= {nn.Embedding: "as_linear", nn.QuantizedEmbedding: "as_linear"}


@dataclass(frozen=True)
class Spread:
    """In how many parts, for calls with how many rows at least; `heads`: the same of dense heads."""

    parts: int
    rows: int
    heads: int = 1

    def __str__(self) -> str:
        return f"{self.parts} CPU streams from {self.rows} {'row' if self.rows == 1 else 'rows'} on"


class Parts:
    """A layer's columns in up to `count` parts. Called with x [..., d] it gives what the layer's method gives."""

    def __init__(self, layer: Any, count: int):
        columns = layer.weight.shape[0]
        each = -(-columns // (count * BLOCK)) * BLOCK
        self.layers = []
        for at in range(0, columns, each):
            part = copy.copy(layer)
            for name, weight in layer.items():
                part[name] = weight[at : at + each]
            mx.eval(dict(part))
            self.layers.append(part)
        self.method = METHODS[type(layer)]

    def __call__(self, x: mx.array) -> mx.array:
        outputs = [getattr(self.layers[0], self.method)(x)]
        for layer, stream in zip(self.layers[1:], STREAMS, strict=False):
            with mx.stream(stream):
                outputs.append(getattr(layer, self.method)(x))
        return mx.concatenate(outputs, axis=-1)


def _spread_kind(kind: Any) -> Any:
    """The kind of a layer that is in parts. It has the other's name, for a model is described by those."""
    whole = getattr(kind, METHODS[kind])

    def product(self: Any, x: mx.array) -> mx.array:
        return self.parts(x) if x.size >= self.least_rows * x.shape[-1] else whole(self, x)

    return type(kind.__name__, (kind,), {METHODS[kind]: product})


SPREAD_KINDS = {kind: _spread_kind(kind) for kind in METHODS}


def layers_of(modules: Iterable[nn.Module]) -> list[Any]:
    """The layers that can be in parts; an embedding is one only where it is the head, too."""
    found: dict[int, Any] = {}  # by identity: models may share one
    for module in modules:
        named = module.named_modules()
        tied = not any(path.endswith("lm_head") for path, _ in named)
        for path, layer in named:
            product = METHODS.get(type(layer), "")
            product = "" if product == "as_linear" and not (tied and path.endswith("embed_tokens")) else product
            if product and layer.weight.nbytes >= LEAST_BYTES and layer.weight.shape[0] >= 2 * BLOCK:
                layer.is_head = path.rpartition(".")[2] in HEADS
                found[id(layer)] = layer
    return list(found.values())


def install(layers: Iterable[Any], spread: Spread) -> None:
    """Have them computed in parts."""
    for layer in layers:
        layer.parts = Parts(layer, spread.parts)
        layer.least_rows = spread.heads if is_dense_head(layer) else spread.rows
        layer.__class__ = SPREAD_KINDS[type(layer)]


def remove(layers: Iterable[Any]) -> None:
    """Have them whole again."""
    for layer in layers:
        layer.__class__ = type(layer).__mro__[1]
        del layer.parts


def is_dense_head(layer: Any) -> bool:
    return layer.is_head and not hasattr(layer, "bits")


# ---- the decision ----------------------------------------------------------------------------------------


def usable_cores(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Cores that this process may use: those it is bound to, or fewer, as control groups give it processor time."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    places = [groups, groups / "cpu"]
    with suppress(OSError):
        for line in own.read_text("utf-8").splitlines():
            below = Path(line.split(":", 2)[-1].lstrip("/"))
            places += [base / part for part in (below, *below.parents) for base in (groups, groups / "cpu")]
    for place in places:
        with suppress(OSError, ValueError):  # no such limit, or none ("max")
            if (place / "cpu.max").exists():
                quota, period = (place / "cpu.max").read_text().split()
            else:
                quota, period = ((place / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            if float(quota) > 0 and float(period) > 0:
                cores = min(cores, float(quota) / float(period))
    return int(cores)


def settle(modules: Sequence[nn.Module], cores: int) -> Generator[None, None, Spread | None]:
    """Decide for the layers of what is loaded, the target first, and install it; nothing where it does not pay, on a
    GPU, or with fewer cores than parts. A step is an operation on the device. What was decided on a quiet machine is
    on disk."""
    counts = [count for count in PARTS if count <= cores]
    layers = layers_of(modules)
    sample = _sample(layers_of(modules[:1]))
    if not counts or not sample or mx.default_device() != mx.Device(mx.cpu):
        return None
    here = machine()
    about = {fact: here[fact] for fact in ("device", "processor")} | {"mlx": versions()["mlx"], "cores": str(cores)}
    about["layers"] = short_digest("; ".join(_signature(layer) for layer in sample))
    known = Store().load(KIND, about)
    if _is_decision(known, counts):
        spread = Spread(*known) if known else None
    else:
        head = next((layer for layer in layers if is_dense_head(layer)), None)
        spread, quiet = yield from _measured(sample, counts, head)
        if quiet:
            with suppress(OSError):  # then it is measured at the next start, too
                Store().save(KIND, about, list(astuple(spread)) if spread else [])
    if spread is None or not (yield from _proved(layers, spread)):
        return None
    install(layers, spread)
    return spread


def join(modules: Iterable[nn.Module], spread: Spread) -> None:
    """Have what is read later computed as the rest is, where its products, too, stay what they are, bit for bit."""
    layers = layers_of(modules)

    def work() -> Generator[None, None, None]:
        if (yield from _proved(layers, spread)):
            install(layers, spread)

    for _ in work():
        pass


def _is_decision(known: Any, counts: Collection[int]) -> bool:
    whole = isinstance(known, list) and len(known) == 3 and all(type(number) is int for number in known)
    return known == [] or (whole and known[0] in counts and known[1] in ROWS and known[2] in (1, known[1]))


def _sample(layers: Collection[Any]) -> list[Any]:
    """Some that follow each other, from the middle: about one layer of a small model."""
    inner = [layer for layer in layers if not layer.is_head]
    found: list[Any] = []
    for layer in inner[len(inner) // 2 :]:
        if found and sum(each.weight.nbytes for each in (*found, layer)) > SAMPLE_BYTES:
            break
        found.append(layer)
    return found[:7]


def _signature(layer: Any) -> str:
    shapes = ", ".join(f"{name} {list(weight.shape)} {weight.dtype}" for name, weight in sorted(layer.items()))
    return f"{layer!r}: {shapes}"


def rows_for(layer: Any, rows: int) -> mx.array:
    """An input [1, rows, d] of a layer."""
    bits = getattr(layer, "bits", 0)
    columns = layer.weight.shape[1] * 32 // bits if bits else layer.weight.shape[1]
    floating = layer.weight.dtype if not bits else layer.scales.dtype
    dtype = floating if mx.issubdtype(floating, mx.floating) else mx.bfloat16
    x = mx.random.normal((1, rows, columns), key=mx.random.key(rows)).astype(dtype)
    mx.eval(x)
    return x


def timed(products: Iterable[Any], inputs: Iterable[mx.array]) -> tuple[float, float]:
    """Seconds that products one after the other take, by the clock and of this process's own work."""
    began, worked = time.perf_counter(), time.process_time()
    tie: Any = 0
    for product, x in zip(products, inputs, strict=True):
        tie = product(x + tie)[..., :1].astype(x.dtype) * 0
    mx.eval(tie)
    return time.perf_counter() - began, time.process_time() - worked


def _measured(sample: list[Any], counts: list[int], head: Any) -> Generator[None, None, tuple[Spread | None, bool]]:
    """What pays, and whether nothing else ran beside the measurement."""
    whole = [getattr(layer, METHODS[type(layer)]) for layer in sample]
    ways: dict[int, list[Any]] = {1: whole} | {n: [Parts(layer, n) for layer in sample] for n in counts}
    best, spent, alone = None, 0.0, []
    for rows in ROWS:
        inputs = [rows_for(layer, rows) for layer in sample]
        seconds: dict[int, list[float]] = {count: [] for count in ways}
        for turn in range(1 + SAMPLES):  # the first is off the clock
            if turn > 1 and spent > LIMIT_S:
                break
            for count, products in ways.items():
                took, worked = timed(products, inputs)
                spent += took
                seconds[count] += [took] if turn else []
                alone += [worked / took] if turn and count == 1 else []
                yield
        least = {count: min(taken) for count, taken in seconds.items()}
        count = min(ways, key=lambda n: least[n] * (1.1 if n == max(counts) > min(counts) else 1.0))
        if least[1] < PAYS * least[count]:
            break
        best = Spread(count, rows, rows)
        ways = {n: products for n, products in ways.items() if n in (1, count)}
        if spent > LIMIT_S:
            break
    if best and head is not None and best.rows > 1:  # does its single row pay, beside the two parts that it has?
        halves, parts, x = Parts(head, 2), Parts(head, best.parts), rows_for(head, 1)
        pair: tuple[list[float], list[float]] = [], []
        for _ in range(1 + SAMPLES):
            for taken, product in zip(pair, (halves, parts), strict=True):
                taken.append(timed([product], [x])[0])
                yield
        two, more = (min(taken[1:]) for taken in pair)
        best = replace(best, heads=1 if two > PAYS * more else best.rows)
    return best, sorted(alone)[len(alone) // 2] > 0.8


def _proved(layers: Iterable[Any], spread: Spread) -> Generator[None, None, bool]:
    """Are the parts' products those of the whole layers, bit for bit? One layer of every shape is tried."""
    for layer in {_signature(layer): layer for layer in layers}.values():
        parts = Parts(layer, spread.parts)
        for rows in sorted({spread.heads if is_dense_head(layer) else spread.rows, PROOF_ROWS}):
            x = rows_for(layer, rows)
            one = getattr(layer, METHODS[type(layer)])(x)
            mx.eval(one)
            yield
            if not mx.array_equal(one, parts(x), equal_nan=True).item():
                return False
            yield
    return True
