"""Decode speed of two checkouts of this project, alternated: `python -m tests.scripts.compare_trees OLD NEW`.

Each checkout runs in a process of its own that stays loaded; the two take turns on the same prompts, and which goes
first changes from pair to pair. Given are ratios new / old: by the wall clock, and by processor time, which other work
on the machine disturbs less. The interval is the 95 % bootstrap interval of the median.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
from pathlib import Path

PROMPTS = (
    "Write a Python function that checks if a number is prime.",
    "Tom has 12 apples, gives away 5 and buys 9 more. How many has he now?",
    "Explain in three sentences why the sky is blue.",
    "Write a Python class for a stack with push, pop and peek.",
)
SERVER = """
import json, sys, time
import mlx.core as mx
from dspark_core.models.target import load_target
try:
    from dspark_core.models.drafter import load_drafter
except ImportError:  # before drafters were files of their own
    from dspark_core.models.checkpoint import load_drafter
from dspark_core.decode.plain import plain
from dspark_core.decode.speculative import speculative
from dspark_core.decode.schedule import FullBlock
from dspark_core.decode.rounds import Round, Settings

target = load_target(sys.argv[1])
drafter = load_drafter(sys.argv[2], target)
print("ready", flush=True)
for line in sys.stdin:
    lane, text, tokens = json.loads(line)
    ids = target.encode_chat([{"role": "user", "content": text}])
    settings = Settings(tokens, stop_ids=frozenset())
    if lane == "plain":
        events = plain(target, ids, settings)
    else:
        events = speculative(target, drafter, ids, settings, FullBlock())
    used, out, seconds = 0.0, 0, 0.0
    for event in events:
        if isinstance(event, Round):
            out, seconds = out + len(event.committed), event.time_s
        else:
            used = time.process_time()
    mx.synchronize()
    print(json.dumps([out / seconds, out / (time.process_time() - used)]), flush=True)
"""


class Checkout:
    """The process of one checkout."""

    def __init__(self, root: Path, target: Path, drafter: Path):
        command = [sys.executable, "-c", SERVER, str(target), str(drafter)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, cwd=root, stdin=pipe, stdout=pipe, text=True)
        if self._line() != "ready":
            sys.exit(f"error: {root} does not load the models.")

    def speeds(self, lane: str, text: str, tokens: int) -> list[float]:
        """Tokens per second of wall and of processor time."""
        assert self._process.stdin
        print(json.dumps([lane, text, tokens]), file=self._process.stdin, flush=True)
        return json.loads(self._line())

    def _line(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()


def interval(values: list[float]) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    draw = random.Random(1)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(4000))
    return medians[100], medians[-101]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--target", type=Path, default=Path("assets/models/smollm2-135m-instruct"))
    parser.add_argument("--drafter", type=Path, default=Path("assets/models/dspark-smollm2-135m-b7"))
    a = parser.parse_args()
    models = a.target.resolve(), a.drafter.resolve()
    trees = [Checkout(root, *models) for root in (a.old, a.new)]
    for lane in ("plain", "drafter"):
        ratios: list[list[float]] = []
        for pair in range(-1, a.pairs):  # the first warms up
            text, order = PROMPTS[pair % len(PROMPTS)], (0, 1) if pair % 2 else (1, 0)
            speeds = {k: trees[k].speeds(lane, text, a.tokens) for k in order}
            if pair >= 0:
                ratios.append([new / old for new, old in zip(speeds[1], speeds[0], strict=True)])
        for clock, values in zip(("wall", "processor"), map(list, zip(*ratios, strict=True)), strict=True):
            low, high = interval(values)
            median = statistics.median(values)
            print(
                f"{lane}, {clock}: median new / old {median:.3f} [{low:.3f}, {high:.3f}], {len(values)} pairs",
                flush=True,
            )


if __name__ == "__main__":
    main()
