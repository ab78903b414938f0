"""Decode speed of two checkouts of this project, alternated: `python -m tests.scripts.compare_trees OLD NEW`.

Both run in one process and on the same arrays. In processes of their own, each had its luck for as long as it lived
(where its weights came to lie, on which core it began), and every pair shared it: the same checkout against itself came
to 0.985. Which goes first changes from pair to pair and, for every prompt, as often one way as the other.

Given are ratios new / old: by the wall clock, and by processor time, which other work on the machine disturbs less. The
interval is the 95 % bootstrap interval of the median. With one and the same checkout twice it has to hold 1.
"""

import argparse
import gc
import importlib
import os
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "assets" / "models"
PACKAGE = "dspark_core"
PROMPTS = (
    "Write a Python function that checks if a number is prime.",
    "Tom has 12 apples, gives away 5 and buys 9 more. How many has he now?",
    "Explain in three sentences why the sky is blue.",
    "Write a Python class for a stack with push, pop and peek.",
)


def own_modules() -> dict[str, Any]:
    return {name: module for name, module in sys.modules.items() if name.split(".")[0] == PACKAGE}


class Checkout:
    """One checkout's package, with the models loaded by it."""

    def __init__(self, root: Path, target: Path, drafter: Path):
        self._root, self._modules = str(root.resolve()), dict[str, Any]()
        self._enter()
        if not hasattr(self._part("models.checkpoint"), "load_drafter"):
            sys.exit(f"error: {root} is too old or no checkout.")
        self.target = self._part("models.target").load_target(target)
        self.drafter = self._part("models.checkpoint").load_drafter(drafter, self.target)
        self._modules = own_modules()

    def _enter(self) -> None:
        """What is imported from here on, inside functions too, is this checkout's."""
        for name in own_modules():
            del sys.modules[name]
        sys.modules.update(self._modules)
        sys.path[0] = self._root

    @staticmethod
    def _part(name: str) -> Any:
        return importlib.import_module(f"{PACKAGE}.{name}")

    def share(self, other: "Checkout") -> None:
        """Compute with another's arrays. Exits where the two have other ones."""
        for mine, theirs in ((self.target.model, other.target.model), (self.drafter.weights, other.drafter.weights)):
            shapes = [{n: (w.shape, w.dtype) for n, w in tree_flatten(m.parameters())} for m in (mine, theirs)]
            if shapes[0] != shapes[1]:
                sys.exit("error: the two load these models in other precisions.")
            mine.update(theirs.parameters())
        gc.collect()
        mx.clear_cache()

    def speeds(self, lane: str, text: str, tokens: int) -> tuple[list[int], float, float]:
        """Output, and tokens per second of wall and of processor time."""
        self._enter()
        rounds = self._part("decode.rounds")
        ids = self.target.encode_chat([{"role": "user", "content": text}])
        settings = rounds.Settings(tokens, stop_ids=frozenset())
        if lane == "plain":
            events = self._part("decode.plain").plain(self.target, ids, settings)
        else:
            full = self._part("decode.schedule").FullBlock()
            events = self._part("decode.speculative").speculative(self.target, self.drafter, ids, settings, full)
        gc.collect()
        used, out, seconds = 0.0, list[int](), 0.0
        for event in events:
            if isinstance(event, rounds.Round):
                out += event.committed
                seconds = event.time_s
            else:
                used = time.process_time()
        mx.synchronize()
        used = time.process_time() - used
        self._modules = own_modules()
        return out, len(out) / seconds, len(out) / used


def interval(values: list[float]) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    draw = random.Random(1)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(4000))
    return medians[100], medians[-101]


def compare(trees: list[Checkout], lane: str, pairs: int, tokens: int) -> None:
    ratios: list[list[float]] = []
    for pair in range(-len(trees), pairs):  # the first ones warm up
        order = (0, 1) if (pair + pair // len(PROMPTS)) % 2 else (1, 0)
        found = {k: trees[k].speeds(lane, PROMPTS[pair % len(PROMPTS)], tokens) for k in order}
        if found[0][0] != found[1][0]:
            print(f"{lane}: other output at pair {pair + 1}", flush=True)
        if pair >= 0:
            ratios.append([new / old for new, old in zip(found[1][1:], found[0][1:], strict=True)])
    for clock, values in zip(("wall", "processor"), map(list, zip(*ratios, strict=True)), strict=True):
        low, high = interval(values)
        words = f"median new / old {statistics.median(values):.4f} [{low:.4f}, {high:.4f}]"
        print(f"{lane}, {clock}: {words}, {len(values)} pairs of {tokens} tokens", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--lanes", nargs="+", choices=("plain", "drafter"), default=["plain", "drafter"])
    parser.add_argument("--target", type=Path, default=MODELS / "smollm2-135m-instruct")
    parser.add_argument("--drafter", type=Path, default=MODELS / "dspark-smollm2-135m-b7")
    a = parser.parse_args()
    models = a.target.resolve(), a.drafter.resolve()
    trees = [Checkout(root, *models) for root in (a.old, a.new)]
    trees[1].share(trees[0])
    print(f"load of this machine {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores", flush=True)
    for lane in a.lanes:
        compare(trees, lane, a.pairs, a.tokens)
    print(f"load of this machine {os.getloadavg()[0]:.1f}", flush=True)


if __name__ == "__main__":
    main()
