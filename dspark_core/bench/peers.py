"""Engines outside this process, one request a line: while this project's lanes decode, they wait and do nothing.

A peer's first line is {"ready": true}. It answers {"engine": ..., "ids": [...], "tokens": N} with one line that has
tok_s, tokens_per_round and ids (the output), counted as this project counts: decoding only, without the prefill and the
token it gives.
"""

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..models.drafter import BlockDrafter
from ..models.target import Target
from ..race.loaded import Models
from .plan import MLX_DSPARK, BenchDrafter

TOKENIZER_FILES = ("*token*", "*.jinja", "vocab*", "merges*")


class Peer:
    """A command that speaks the protocol above. Raises ValueError where it does not."""

    def __init__(self, command: str | Sequence[str]):
        words = shlex.split(command) if isinstance(command, str) else list(command)
        self._command = " ".join(words)
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", bufsize=1
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self._requests, self._answers = self.process.stdin, self.process.stdout
        if not self._answer().get("ready"):
            raise ValueError(f"{self._command!r} did not begin with a ready line.")

    def measure(self, engine: str, ids: list[int], tokens: int | None = None) -> dict:
        request = {"engine": engine, "ids": ids} | ({"tokens": tokens} if tokens else {})
        self._requests.write(json.dumps(request) + "\n")
        answer = self._answer()
        if "error" in answer:
            raise ValueError(f"{self._command!r} answered: {answer['error']}")
        return answer

    def close(self) -> None:
        """End of its input is the end of its work; one that stays is ended."""
        self._requests.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._answers.close()

    def _answer(self) -> dict:
        for line in self._answers:
            if line.startswith("{"):  # a peer may print notices of its own
                return json.loads(line)
        raise ValueError(f"The peer {self._command!r} ended before it answered.")


class Peers:
    """The peers of a report by name, each started when it is first asked; a context manager that ends them."""

    def __init__(self, starts: Mapping[str, Callable[[], Peer]]):
        self._starts = starts
        self._running: dict[str, Peer] = {}

    def __getitem__(self, name: str) -> Peer:
        if name not in self._running:
            if name not in self._starts:
                raise ValueError("A lane of another engine needs --against COMMAND.")
            self._running[name] = self._starts[name]()
        return self._running[name]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for peer in self._running.values():
            peer.close()


def mlx_dspark(models: Models, target: Path, drafters: Mapping[str, BenchDrafter], curves: Path) -> Peer:
    """mlx-dspark on exactly the weights of `models`, written out for it; `target` and `drafters` say where these
    came from, `curves` is where it keeps its own cost curves."""
    if installed() is None:
        raise ValueError("mlx-dspark is not installed here: pip install --no-deps mlx-dspark mlx-vlm.")
    drafter = drafters.get(MLX_DSPARK.removeprefix("mlx-"))
    loaded = drafter and models.loaded.get(drafter.id)
    if drafter is None or drafter.place is None or not isinstance(loaded, BlockDrafter):
        raise ValueError("The lanes of mlx-dspark run this report's DSpark drafter: there is none.")
    with TemporaryDirectory() as place:
        where = Path(place)
        native = where / "target" / target.name, where / "drafter" / drafter.place.name
        weights = write_target(models.target, target, native[0])
        write_drafter(loaded, drafter.place, weights, native[1])
        del weights
        module = [sys.executable, "-m", "dspark_core.bench.mlx_dspark_peer"]
        return Peer([*module, *map(str, native), "--mode", drafter.method.lower(), "--curves", str(curves)])


def installed() -> str | None:
    """mlx-dspark's version."""
    try:
        return version(MLX_DSPARK)
    except PackageNotFoundError:
        return None


# The weights that run here as directories that other engines load: dense, in the formats' own names.


def write_target(target: Target, source: Path, out: Path) -> dict[str, mx.array]:
    """Write the loaded target, which came from `source`, and return its weights by name. Raises ValueError if it runs
    quantized: another engine's kernels would then run on other weights."""
    if target.machines > 1:
        raise ValueError("Another engine can be compared on one machine only: start without mlx.launch.")
    if any(hasattr(layer, "bits") for layer in target.model.modules()):
        raise ValueError("Another engine can be compared on dense weights only: choose --precision bf16.")
    weights = dense_weights(target.model)
    _write_directory(out, source, weights, "mlx")
    for pattern in TOKENIZER_FILES:
        for file in source.glob(pattern):
            shutil.copy(file, out)
    return weights


def write_drafter(drafter: BlockDrafter, source: Path, target_weights: dict[str, mx.array], out: Path) -> None:
    """Write the loaded drafter, which came from `source`, in its native format, which holds the target's embedding and
    head."""
    embed = next(w for n, w in target_weights.items() if n.endswith("embed_tokens.weight"))
    head = next((w for n, w in target_weights.items() if n.endswith("lm_head.weight")), embed)
    shared = {"embed_tokens.weight": embed, "lm_head.weight": head}
    _write_directory(out, source, shared | dense_weights(drafter.weights), "pt")


def dense_weights(module: nn.Module) -> dict[str, mx.array]:
    """Weights by name, with quantized layers dequantized to bfloat16."""
    layers, out = dict(module.named_modules()), {}
    for name, value in tree_flatten(module.parameters()):
        place, _, kind = name.rpartition(".")
        layer = layers.get(place)
        if layer is None or getattr(layer, "bits", None) is None:
            out[name] = value
        elif kind == "weight":
            plain = mx.dequantize(value, layer.scales, layer.biases, layer.group_size, layer.bits, layer.mode)
            out[name] = plain.astype(mx.bfloat16)
        elif kind not in ("scales", "biases"):
            out[name] = value
    return out


def _write_directory(out: Path, source: Path, weights: dict[str, mx.array], form: str) -> None:
    out.mkdir(parents=True)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    for name in ("quantization", "quantization_config"):
        config.pop(name, None)
    mx.save_safetensors(str(out / "model.safetensors"), weights, metadata={"format": form})
    (out / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
