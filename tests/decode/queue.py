"""What a decode loop waits for, without a device that shows it: every read of the host, held against what was enqueued.

A device works through its queue in order. So a loop that has put the next step there must read nothing that still has
operations to run: they would stand behind that step, and the host would wait for it.
"""

import tempfile
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten


class Queue:
    """Watches `mx.eval`, `mx.async_eval`, `item` and `tolist` while it is a context.

    late:    reads of arrays with operations not yet enqueued, while a step was under way that nobody had read
    ahead:   reads of arrays enqueued before the newest step: the pipelining at work
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.late, self.ahead = [], 0
        self._newest: list[mx.array] = []  # outputs of what was enqueued last, until one of them is read
        self._eval, self._async = mx.eval, mx.async_eval
        with tempfile.NamedTemporaryFile(suffix=".dot", delete=False) as file:
            self._file = Path(file.name)
        monkeypatch.setattr(mx, "eval", self._evaluated)
        monkeypatch.setattr(mx, "async_eval", self._enqueued)
        for name in ("item", "tolist"):
            monkeypatch.setattr(mx.array, name, self._reader(name, getattr(mx.array, name)))

    def _enqueued(self, *trees) -> None:
        self._async(*trees)
        self._newest = _arrays(trees)

    def _evaluated(self, *trees) -> None:
        self._read(_arrays(trees), "eval")
        self._eval(*trees)

    def _reader(self, name, read):
        def reading(array):
            self._read([array], name)
            return read(array)

        return reading

    def _read(self, arrays: list[mx.array], how: str) -> None:
        if any(a is b for a in arrays for b in self._newest):
            self._newest = []
        elif self._newest and any(self._pending(a) for a in arrays):
            self.late.append(f"{how} of {[(a.shape, a.dtype) for a in arrays]}")
        elif self._newest:
            self.ahead += 1

    def _pending(self, array: mx.array) -> bool:
        """Are there operations to run for it? A graph has a label for each."""
        mx.export_to_dot(str(self._file), array)
        return "label" in self._file.read_text()


def _arrays(trees) -> list[mx.array]:
    return [a for _, a in tree_flatten(trees) if isinstance(a, mx.array)]
