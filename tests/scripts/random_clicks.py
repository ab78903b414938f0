"""Is a click on Race, at any moment of the preparation, delayed by more than the one operation under way?

    python -m tests.scripts.random_clicks [--clicks 20] [--seed 0]

The embedded model is loaded by the page's own worker, nothing is on disk, and clicks come at random moments until the
preparation has ended. A click is a job that ends as soon as it begins. Prints for each what was under way, how much
longer that took and how long the job waited, in milliseconds; at the end the most that one waited longer than that.
"""

import argparse
import os
import random
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from dspark_core.playground.engine import PresetEngine
from dspark_core.playground.worker import Job, Worker
from dspark_core.presets import load_presets

BETWEEN_S = 0.3, 2.5  # from one click to the next


class Steps:
    """The preparation, step by step, with the clock's time at which each ended."""

    def __init__(self) -> None:
        self.words, self.ended, self.running = "", 0.0, False

    def __call__(self, engine: Any) -> str:
        self.running = True
        try:
            self.words = engine.prepare()
            return self.words
        finally:
            self.ended, self.running = time.monotonic(), False


def click(worker: Worker, steps: Steps) -> tuple[float, float, str]:
    """Seconds for which the step under way went on, and until the job began; what was under way."""
    begun: list[float] = []

    def work(engine: Any, job: Job) -> Iterator[tuple[int, Any]]:
        begun.append(time.monotonic())
        yield -1, None

    asked, words = time.monotonic(), steps.words
    for _ in worker.events(Job("somebody", "race", work)):
        pass
    return max(0.0, min(steps.ended, begun[0]) - asked), begun[0] - asked, words


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clicks", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, most, steps = random.Random(args.seed), 0.0, Steps()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        worker = Worker(lambda progress: PresetEngine(load_presets()[0], "auto", progress), steps)
        while not worker.ready:
            time.sleep(0.05)
        for i in range(args.clicks):
            time.sleep(rng.uniform(*BETWEEN_S))
            left, waited, words = click(worker, steps)
            most = max(most, waited - left)
            print(f"{i + 1:2}  {1e3 * left:6.0f}  {1e3 * waited:6.0f}  {words or 'all is ready'}", flush=True)
        worker.rest()
    print(f"waited at most {1e3 * most:.0f} ms longer than the operation under way")


if __name__ == "__main__":
    main()
