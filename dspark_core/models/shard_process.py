"""What computes on one rank: its part of the targets and of their caches, on the thread that owns MLX in this process.

Rank 0 is asked by the page's process and tells the others, all of it by MLX's own collective operations. What is to be
done is done on every rank in the same order, so that the operations inside a forward meet each other. Between two of
them no rank computes for long: where that takes its time (reading weights, a long prefill), it goes on in steps.
"""

import gc
import hashlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import resources
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ..errors import ModelError, in_one_line, reason
from ..machine import versions
from ..paths import root
from ..store import Store, home_directory
from .ranks import STALL_S, START_S, Beats

FORM_S = 60.0  # for the ranks to find each other; then all over again: one may wait for a process that is gone
LOAD_S = 30.0  # for a step of opening and reading files
STEP_S = 0.5
HEAD, STATUS = 128, 2048  # bytes of a message's first part, and of what a rank says of itself
FRESH_S, REST_S = 1.0, 0.1  # ranks that were asked just now do not sleep; then they do, for so long
NARROW, SLOW_S = 32, 0.5  # rows of a forward that is not evaluated layer by layer; seconds of one after which it is
LARGE = 1 << 26  # bytes of a file whose digest is worth keeping
COMPARED = ("mlx", "mlx-lm")  # versions that have to be the same everywhere
PROGRAM = "this program"

Step = Generator[tuple[int, int], None, dict[str, Any]]  # bytes done and in all, then what came of it


def follow(requests: int, beats: int, parent: int, rank: int, size: int, backend: str) -> None:
    """The process: `requests` and `beats` are handles of Connections, `parent` who started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches every process: whoever started this one ends it
    life = Beats(Connection(beats), parent)
    with suppress(KeyboardInterrupt):
        asked = Connection(requests)
        try:
            Shard(asked, life, rank, size, backend).run()
        except ModelError as error:  # so it would be the next time
            print(f"Rank {rank}: {error}", file=sys.stderr, flush=True)
            asked.send(("absent", str(error)))
            os._exit(Beats.ENDED)
        except Exception as error:
            print(f"Rank {rank} leaves its group ({reason(error)}).", file=sys.stderr, flush=True)
            with suppress(OSError):
                asked.send(("failed", in_one_line(error)))
    os._exit(Beats.LOST)


@dataclass
class Part:
    """One rank's part of a target, and of the caches of its texts, by their numbers.

    warm: it has been computed with, so that kernels are there
    slow: it took long at last
    """

    target: Any
    warm: bool = False
    slow: bool = True
    caches: dict[int, list[Any]] = field(default_factory=dict)


class Shard:
    """The main loop of a rank process. Every operation of OPERATIONS is a method, which runs on all ranks."""

    OPERATIONS = ("open", "read", "close", "new", "forward", "own", "trim", "copy", "drop", "rest", "end")

    def __init__(self, requests: Connection, life: Beats, rank: int, size: int, backend: str) -> None:
        import mlx.core as mx
        import numpy as np

        self.mx, self.np, self.life, self.rank, self.requests = mx, np, life, rank, requests
        self.all_sum = mx.distributed.all_sum
        mx.distributed.all_sum = (
            self.steady_sum
        )  # which the layers of mlx and mlx-lm call, here and in no other process
        if not mx.distributed.is_available(backend):
            raise ModelError(
                f"MLX {versions()['mlx']} has no {backend} on this machine: have mlx.launch use --backend ring."
            )
        with life.waiting(FORM_S):
            self.group = mx.distributed.init(strict=True, backend=backend)
        life.begin()
        if self.group.size() != size:
            raise RuntimeError(f"the group has {self.group.size()} ranks, not {size}")
        self.parts: dict[int, Part] = {}
        self.asked = time.monotonic()
        self.pending: list[Any] = []
        self.hosts: list[str] = []
        self.hosts = [h["host"] for h in self.gather({"host": socket.gethostname()[:60]})]
        life.limit(START_S)  # for what is imported next
        from . import target  # noqa: F401 - it takes its time, and finding each other began without

        self.gather({})
        self.answer("formed", self.hosts)

    # ---- between the ranks -----------------------------------------------------------------------------

    def share(self, operations: list[list[Any]] | None) -> list[list[Any]]:
        """What rank 0 has to be done, on every rank."""
        text = json.dumps(operations).encode() if operations is not None else b""
        head = self.sum(len(text).to_bytes(4, "little") + text[: HEAD - 4], HEAD)
        size = int.from_bytes(head[:4], "little")
        whole = head[4:] + (self.sum(text[HEAD - 4 :], size - (HEAD - 4)) if size > HEAD - 4 else b"")
        self.life.limit()
        found: list[list[Any]] = json.loads(whole[:size])
        return found

    def sum(self, data: bytes, size: int) -> bytes:
        """Rank 0's bytes, everywhere: the others add nothing to them."""
        numbers = self.np.frombuffer(data.ljust(size, b"\0")[:size], self.np.uint8).astype(self.np.int32)
        total = self.all_sum(self.mx.array(numbers), group=self.group)
        self.mx.eval(total)
        return bytes(self.np.array(total).astype(self.np.uint8))

    def steady_sum(self, x: Any, **more: Any) -> Any:
        """The sum over all ranks of what their layers computed, added up in the order of the ranks.

        A ring adds a number up from another rank on by where it stands among all, so that a row's sum depends on how
        many others there are, and in 16 bits a rejected draft would move the choices behind it. Besides, gathering
        takes half as many messages one after another, and for few rows these are what it costs.
        """
        first, *others = self.mx.distributed.all_gather(x[None], group=self.group).astype(self.mx.float32)
        for other in others:
            first = first + other
        return first.astype(x.dtype)

    def gather(self, status: dict[str, Any]) -> list[dict[str, Any]]:
        """What every rank says of itself, by rank."""
        text = json.dumps(status).encode()
        if len(text) > STATUS:
            text = json.dumps({"error": str(status.get("error", "it has too much to say"))[:300]}).encode()
        row = self.np.frombuffer(text.ljust(STATUS), self.np.uint8).astype(self.np.int32)
        rows = self.mx.distributed.all_gather(self.mx.array(row)[None], group=self.group)
        self.mx.eval(rows)
        self.life.limit()
        return [json.loads(bytes(r.astype(self.np.uint8))) for r in self.np.array(rows)]

    def together(self, steps: Step) -> list[dict[str, Any]]:
        """Go through `steps`, each rank its own, until all have done so; what came of it, by rank. Raises ModelError on
        all of them, with what one met or because the page's visitor has enough of it."""
        status: dict[str, Any] = {}
        while True:
            self.life.limit(LOAD_S)
            until = time.monotonic() + STEP_S
            try:
                while "end" not in status and time.monotonic() < until:
                    status["done"] = next(steps)
            except StopIteration as end:
                status["end"] = end.value
            except Exception as error:
                status["error"] = str(error) if isinstance(error, ModelError) else in_one_line(error)
            if self.rank == 0 and self.requests.poll():
                message = self.requests.recv()
                if message == "stopped":
                    status["error"] = message
                else:
                    self.pending.append(message)
            everywhere = self.gather(status)
            for rank, of in enumerate(everywhere):
                if why := of.get("error", ""):
                    raise ModelError(why if rank == 0 else f"Rank {rank} ({self.hosts[rank]}): {why}")
            if all("end" in of for of in everywhere):
                return [of["end"] for of in everywhere]
            self.answer("progress", [sum(of.get("done", (0, 0))[i] for of in everywhere) for i in (0, 1)])

    # ---- what is asked ---------------------------------------------------------------------------------

    def run(self) -> None:
        while True:
            for operation, *arguments in self.share(self.next() if self.rank == 0 else None):
                if operation not in self.OPERATIONS:
                    raise ValueError(f"there is no operation {operation!r}")
                try:
                    self.answer("done", getattr(self, operation)(*arguments))
                except ModelError as error:
                    self.answer("refused", str(error))
                except ValueError as error:  # of a cache, and the same one on every rank
                    self.answer("impossible", str(error))

    def next(self) -> list[list[Any]]:
        """What the page's process wants done; sleep, if that is nothing."""
        fresh = time.monotonic() - self.asked < FRESH_S
        if self.pending:
            waiting: list[list[Any]] = self.pending.pop(0)
            return waiting
        if not self.requests.poll(STEP_S if fresh else REST_S):
            return [["rest", 0.0 if fresh else 0.8 * REST_S]]
        self.asked = time.monotonic()
        operations = self.requests.recv()
        return [] if operations == "stopped" else operations  # too late for what it was to stop

    def answer(self, kind: str, what: Any = None) -> None:
        if self.rank == 0 and what is not None:
            self.requests.send((kind, what))

    def rest(self, seconds: float) -> None:
        if self.rank:
            time.sleep(seconds)

    def end(self) -> None:
        os._exit(Beats.ENDED)

    # ---- targets ---------------------------------------------------------------------------------------

    def open(self, number: int, places: list[list[str]], precision: str) -> str:
        """Names, shapes and what is in the files, the same everywhere. What is computed in, in words."""
        try:
            prints = self.together(self._open(number, places, precision))
        except ModelError:
            self.parts.pop(number, None)
            raise
        for rank, other in enumerate(prints):
            for name, mine in prints[0].items():
                if other.get(name) != mine:
                    del self.parts[number]
                    raise ModelError(self._unlike(f"Rank {rank} ({self.hosts[rank]})", name, other.get(name), mine))
        return str(prints[0]["precision"])

    def _open(self, number: int, places: list[list[str]], precision: str) -> Step:
        from .target import open_target

        directory = find_directory(places)
        prints = {name: versions().get(name, "") for name in COMPARED} | {PROGRAM: program_digest()}
        digest = yield from weights_digest(directory)
        target = open_target(directory, precision, with_text=False)
        try:
            target.leave_part(self.group)
        except ValueError as error:  # of weights in groups that do not divide: shards.py does not know the precision
            raise ModelError(
                f"{target.name} in {target.precision} cannot be split over {self.group.size()} machines "
                f"({in_one_line(error)}): load it in bf16."
            ) from error
        self.parts[number] = Part(target)
        walk, life = target.walk, self.life

        def stepwise(body: Any, ids: Any, cache: list[Any]) -> Iterator[Any]:
            part = self.parts[number]
            for h in walk(body, ids, cache):
                if ids.size > NARROW or part.slow:  # then every layer counts as a step forward
                    life.limit(STALL_S if part.warm else LOAD_S)
                    self.mx.eval(h)
                yield h

        target.walk = stepwise
        return prints | {"weights": digest, "precision": target.precision}

    @staticmethod
    def _unlike(rank: str, name: str, other: Any, mine: Any) -> str:
        if name == "weights":
            return f"{rank} has other files of this model: copy the directory of rank 0 there."
        if name == PROGRAM:
            return f"{rank} has another version of this program: bring all machines to the same one."
        if name == "precision":
            return f"{rank} runs this model in {other}, rank 0 in {mine}: choose a precision on the Models tab."
        return f"{rank} has {name} {other or 'in no version'}, rank 0 has {mine}: install the same on both."

    def read(self, number: int) -> bool:
        self.together(self._read(number))
        return True

    def _read(self, number: int) -> Step:
        from mlx.utils import tree_flatten

        arrays = [w for _, w in tree_flatten(self.parts[number].target.model.parameters())]
        arrays.sort(key=lambda w: w.nbytes, reverse=True)  # as read_weights does, and for its reason
        total, done = sum(w.nbytes for w in arrays), 0
        for array in arrays:
            self.mx.eval(array)
            done += array.nbytes
            yield done, total
        return {}

    def close(self, number: int) -> None:
        self.parts.pop(number, None)
        gc.collect()
        self.mx.clear_cache()

    # ---- caches and forwards ---------------------------------------------------------------------------

    def new(self, number: int, cache: int, own: bool) -> None:
        """An empty cache; `own`: as mlx-lm's model makes it."""
        from mlx_lm.models.cache import make_prompt_cache

        target = self.parts[number].target
        self.parts[number].caches[cache] = make_prompt_cache(target.model) if own else target.new_cache()

    def forward(self, number: int, cache: int, taps: list[int], ids: list[int]) -> Any:
        part = self.parts[number]
        mx, held, wanted = self.mx, part.caches[cache], () if self.rank else tuple(taps)
        began = time.monotonic()
        hidden, features = part.target.forward(mx.array(ids, dtype=mx.int32), held, wanted)
        mx.eval(hidden, [] if features is None else features, [c.state for c in held] if len(ids) > NARROW else [])
        part.warm, part.slow = True, time.monotonic() - began > SLOW_S
        return self._sent(hidden, features)

    def own(self, number: int, cache: int, ids: list[int]) -> Any:
        part = self.parts[number]
        self.life.limit(LOAD_S if part.slow else STALL_S)
        hidden = part.target.own_hidden(self.mx.array(ids, dtype=self.mx.int32), part.caches[cache])
        self.mx.eval(hidden)
        return self._sent(hidden, None)

    def _sent(self, *arrays: Any) -> Any:
        """Arrays as bytes, with what makes arrays of them again."""
        if self.rank:
            return None
        return [a if a is None else (str(a.dtype), a.shape, bytes(self._bytes(a))) for a in arrays]

    def _bytes(self, array: Any) -> Any:
        return self.np.array(self.mx.contiguous(array).reshape(-1).view(self.mx.uint8))

    def trim(self, number: int, cache: int, n: int, answered: bool) -> bool | None:
        from .cache import trim

        trim(self.parts[number].caches[cache], n)
        return True if answered else None

    def copy(self, number: int, cache: int, twin: int) -> None:
        from .cache import copy_cache

        caches = self.parts[number].caches
        caches[twin] = copy_cache(caches[cache])

    def drop(self, number: int, cache: int) -> None:
        if number in self.parts:
            self.parts[number].caches.pop(cache, None)


# ---- the same files everywhere ---------------------------------------------------------------------------


def places_of(directory: Path) -> list[list[str]]:
    """Where another machine may have what is in `directory` here: by the name of a place that each knows as its own,
    and the path below it."""
    found, whole = [], Path(os.path.abspath(directory))
    for name, base in _bases().items():
        if whole.is_relative_to(base):
            found.append([name, str(whole.relative_to(base))])
    return [*found, ["", str(whole)]]


def find_directory(places: list[list[str]]) -> Path:
    """The same on this machine. Raises ModelError."""
    bases = _bases()
    tried = [bases[name] / path if name else Path(path) for name, path in places if not name or name in bases]
    for directory in tried:
        if directory.is_dir():
            return directory
    raise ModelError(f"{tried[0]} is not on this machine: copy it there, or download the model.")


def _bases() -> dict[str, Path]:
    from huggingface_hub import constants

    return {"hub": Path(constants.HF_HUB_CACHE), "program": root(), "home": home_directory()}


def weights_digest(directory: Path) -> Generator[tuple[int, int], None, str]:
    """A digest of the files that decide what a target computes; bytes done and in all as it goes on."""
    files = sorted([*directory.glob("*.safetensors"), directory / "config.json"])
    total, done, whole = sum(f.stat().st_size for f in files), 0, hashlib.sha256()
    for file in files:
        found = file.stat()
        key = {"file": str(file.resolve()), "bytes": str(found.st_size), "changed": str(found.st_mtime_ns)}
        known = Store().load("digests", key) if found.st_size > LARGE else None
        if not isinstance(known, str):
            one = hashlib.sha256()
            with file.open("rb") as stream:
                while piece := stream.read(1 << 22):
                    one.update(piece)
                    yield done + stream.tell(), total
            known = one.hexdigest()
            if found.st_size > LARGE:
                with suppress(OSError):
                    Store().save("digests", key, known)
        done += found.st_size
        whole.update(f"{file.name} {known}\n".encode())
    return whole.hexdigest()


def program_digest() -> str:
    """A digest of the code that computes a target: its parts speak to each other on all ranks."""
    whole, todo = hashlib.sha256(), [resources.files(__package__)]
    while todo:
        for place in sorted(todo.pop().iterdir(), key=lambda p: p.name):
            if place.is_dir():
                todo.append(place)
            elif place.name.endswith(".py"):
                whole.update(place.name.encode() + place.read_bytes())
    return whole.hexdigest()
