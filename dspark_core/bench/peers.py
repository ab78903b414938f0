"""Engines outside this process, one request a line: while this project's lanes decode, they wait and do nothing.

A peer's first line is {"ready": true}. It answers {"engine": ..., "ids": [...], "tokens": N} with one line that has
tok_s, tokens_per_round and ids (the output), counted as this project counts: decoding only, without the prefill and the
token it gives.
"""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

from ..race.loaded import Models
from .native import write_drafter, write_target
from .plan import MLX_DSPARK


class Peer:
    """A command that speaks the protocol above. Raises ValueError where it does not."""

    def __init__(self, command: str | Sequence[str]):
        words = shlex.split(command) if isinstance(command, str) else list(command)
        self._told = " ".join(words)
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", bufsize=1
        )
        if not self._answer().get("ready"):
            raise ValueError(f"{self._told!r} did not begin with a ready line.")

    def measure(self, engine: str, ids: list[int], tokens: int | None = None) -> dict:
        request = {"engine": engine, "ids": ids} | ({"tokens": tokens} if tokens else {})
        self.process.stdin.write(json.dumps(request) + "\n")
        answer = self._answer()
        if "error" in answer:
            raise ValueError(f"{self._told!r} answered: {answer['error']}")
        return answer

    def close(self) -> None:
        """End of its input is the end of its work; one that stays is ended."""
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def _answer(self) -> dict:
        for line in self.process.stdout:
            if line.startswith("{"):  # a peer may print notices of its own
                return json.loads(line)
        raise ValueError(f"The peer {self._told!r} ended before it answered.")


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


def mlx_dspark(models: Models, target: Path, drafter: Path, curves: Path) -> Peer:
    """mlx-dspark on exactly the weights of `models`, written out for it; `target` and `drafter` are where these came
    from, `curves` is where it keeps its own cost curves."""
    if installed() is None:
        raise ValueError("mlx-dspark is not installed here: pip install --no-deps mlx-dspark mlx-vlm.")
    if "dspark" not in models.loaded:
        raise ValueError("The lanes of mlx-dspark run this report's DSpark drafter: there is none.")
    with TemporaryDirectory() as place:
        where = Path(place)
        native = where / "target" / target.name, where / "drafter" / drafter.name
        weights = write_target(models.target, target, native[0])
        write_drafter(models.loaded["dspark"], drafter, weights, native[1])
        del weights
        module = [sys.executable, "-m", "dspark_core.bench.mlx_dspark_peer"]
        return Peer([*module, *map(str, native), "--curves", str(curves)])


def installed() -> str | None:
    """mlx-dspark's version."""
    try:
        return version(MLX_DSPARK)
    except PackageNotFoundError:
        return None
