"""A target on several machines: what the page's process has of it, and the group of ranks that computes the rest.

`spread` puts a ShardedTarget in the place of an opened target where `mlx.launch` started more than one rank. Its layers
are on the ranks (shard_process.py), split by mlx-lm; embedding, last norm and head are here, where drafters need them.
A forward takes ids from the host and gives arrays, so that whatever decodes, races or proves goes on as on one machine.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn

from ..store import short_digest
from .cache import Cache
from .group import Group
from .shard_process import places_of
from .shards import Splits
from .target import Cancelling, Reading, Target, load_target, open_target

CHUNK = 256  # rows of one forward: more than that takes too long to say nothing


class ShardedCache:
    """What all layers hold of a text, on all ranks: the one entry of a target's cache here.

    offset: positions in it
    exact:  it can go back to any of them
    """

    def __init__(self, target: "ShardedTarget", offset: int = 0, own: bool = False) -> None:
        self.target, self.offset, self.exact = target, offset, target.exact
        self.number = target.group.number()
        if not offset:
            target.later("new", self.number, own)

    def trim(self, n: int) -> int:
        """Drop the newest n positions. Raises ValueError where a layer cannot, RankLost."""
        if self.exact:
            self.target.later("trim", self.number, n, False)
        else:
            self.target.ask("trim", self.number, n, True)
        self.offset -= n
        return n

    def is_trimmable(self) -> bool:
        return True

    @property
    def state(self) -> list[mx.array]:
        """Nothing is left to be evaluated here."""
        return []

    @property
    def nbytes(self) -> int:
        """On one machine, about."""
        return self.offset * self.target.position_bytes

    def __deepcopy__(self, memo: dict[int, Any]) -> "ShardedCache":
        twin = ShardedCache.__new__(ShardedCache)
        twin.target, twin.offset, twin.exact = self.target, self.offset, self.exact
        twin.number = self.target.group.number()
        self.target.later("copy", self.number, twin.number)
        return twin

    def __del__(self) -> None:
        with suppress(Exception):  # at the end of the program
            self.target.later("drop", self.number)


class Ends(nn.Module):
    """What of a model is here, in mlx-lm's place: called as it is, its layers are computed by its own forward on the
    ranks."""

    def __init__(self, target: "ShardedTarget", words: str) -> None:
        super().__init__()
        self._words, self._target = words, [target]
        self.lm = target.language_model

    def __call__(self, ids: mx.array, cache: list[Any] | None = None) -> mx.array:
        target, held = self._target[0], cache if cache is not None else self.make_cache()
        parts = [target.own_hidden(ids[0, at : at + CHUNK], held) for at in range(0, ids.shape[1], CHUNK)]
        return target.head(mx.concatenate(parts))[None]

    def make_cache(self) -> list[Any]:
        return [ShardedCache(self._target[0], own=True)]

    def __repr__(self) -> str:
        return self._words


class ShardedTarget(Target):
    """A target whose layers are on the ranks of a group. Raises RankLost where one of them is gone."""

    def __init__(self, opened: Target, group: Group, generation: int, precision: str) -> None:
        """`opened`: as open_target gives it; its layers are dropped."""
        self.__dict__.update(opened.__dict__)
        self.group, self.generation, self.machines = group, generation, group.size
        self.number = group.number()
        self.exact = all(type(c).__name__ == "KVCache" for c in opened.new_cache())
        words = f"{short_digest(repr(opened.model))} on {group.size} ranks, {group.backend}"
        self.position_bytes = self._position_bytes()
        self._body.layers = []
        self.model = Ends(self, words)
        assert opened.directory is not None
        self._ask_of = places_of(opened.directory), precision

    @property
    def lost(self) -> str:
        return self.group.problem if self.generation != self.group.generation else ""

    @property
    def language_model(self) -> nn.Module:
        """Embedding, last norm and head."""
        return self._lm

    def _position_bytes(self) -> int:
        """Of keys and values, on one machine."""
        args = self._lm.args
        heads = getattr(args, "num_key_value_heads", None) or args.num_attention_heads
        dim = getattr(args, "head_dim", None) or args.hidden_size // args.num_attention_heads
        return int(2 * heads * dim * self.num_layers * self.dtype.size / self.machines)

    def later(self, operation: str, *arguments: Any) -> None:
        self.group.later(self.generation, operation, self.number, *arguments)

    def ask(self, operation: str, *arguments: Any, **how: Any) -> Any:
        return self.group.ask(self.generation, operation, self.number, *arguments, **how)

    def open(self) -> None:
        """Have every rank open it, and hold its files against the others'. Raises ModelError."""
        places, precision = self._ask_of
        words = self.ask("open", places, precision)
        self.precision = f"{words}, on {self.machines} machines"

    def read(self, progress: Reading = lambda done, total: None, cancelled: Cancelling = lambda: False) -> None:
        self.ask("read", progress=progress, cancelled=cancelled)
        super().read(lambda done, total: None, cancelled)

    def new_cache(self) -> Cache:
        return [ShardedCache(self)]

    def forward(self, ids: mx.array, cache: Cache, taps: tuple[int, ...] = ()) -> tuple[mx.array, mx.array | None]:
        (held,) = cast(list[ShardedCache], cache)
        asked = [int(i) for i in ids.tolist()]
        hidden, features = self.ask("forward", held.number, list(taps), asked)
        held.offset += len(asked)
        return self._array(hidden), None if features is None else self._array(features)

    def own_hidden(self, ids: mx.array, cache: list[Any]) -> mx.array:
        asked = [int(i) for i in ids.tolist()]
        (hidden, _) = self.ask("own", cache[0].number, asked)
        cache[0].offset += len(asked)
        return self._array(hidden)

    @staticmethod
    def _array(sent: Any) -> mx.array:
        dtype, shape, data = sent
        return mx.array(memoryview(data)).view(getattr(mx, dtype.removeprefix("mlx.core."))).reshape(shape)

    def __del__(self) -> None:
        with suppress(Exception):
            self.later("close")


def spread(
    opened: Target,
    precision: str = "auto",
    progress: Callable[[str], None] = lambda step: None,
    cancelled: Cancelling = lambda: False,
) -> Target:
    """An opened target on the machines of this group, every one of which has opened it; the same one where it is alone.
    `precision`: as it was opened with. Raises ModelError, Cancelled."""
    group = Group.here()
    if group is None or opened.directory is None:
        return opened
    Splits.of_directory(opened.directory).require(opened.name, group.size)
    target = ShardedTarget(opened, group, group.join(progress, cancelled), precision)
    progress("comparing the files of all machines")
    target.open()
    return target


def load_spread(directory: Any, precision: str = "auto", progress: Callable[[str], None] = lambda step: None) -> Target:
    """`load_target`, on the machines of this group. Raises ModelError."""
    if Group.here() is None:
        return load_target(directory, precision, progress)
    target = spread(open_target(directory, precision, progress), precision, progress)
    progress("reading weights")
    target.read()
    progress("checking the taps")
    target.prove_taps()
    return target
