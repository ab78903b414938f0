"""Four users at once: the simulation (dspark_core/race/many_users.py) against timed passes of the embedded model.

    python tests/scripts/many_users_passes.py [--times 3]

Costs are measured as the page measures them: the cost curve, and passes of up to 64 tokens. Then passes of [4, w]
tokens are timed on four caches, for w of 1 to 16, in mixed order, and held against what the simulation takes such a
step to cost; and tokens a second of four users who replay a recorded race, by both. Ends with 1 where a step is off by
more than 10 %. Best on a machine at rest: its load stands in the first line. On a CPU, time in which another program
had it does not count, as in the curve.
"""

import argparse
import os
import random
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import mlx.core as mx
from mlx_lm.models.cache import KVCache, make_prompt_cache, trim_prompt_cache

from dspark_core.decode.batch_rows import measure_rows
from dspark_core.decode.cost_curve import CostCurve
from dspark_core.decode.measure import SHORT, measure
from dspark_core.models.target import Target
from dspark_core.playground.cost_parts import groups_of, shipped_races
from dspark_core.playground.engine import PresetEngine
from dspark_core.presets import load_presets
from dspark_core.race.many_users import BatchCosts, ManyUsers, Recording
from dspark_core.race.what_if import MACHINE, WhatIf

USERS, WIDTHS, ALLOWED = 4, (1, 2, 4, 8, 16), 0.10


class Caches:
    """One layer's caches of all users, each of its own request, as a pass over all of them together sees them."""

    def __init__(self, own: list[KVCache]):
        self.own = own

    @property
    def offset(self) -> int:
        return self.own[0].offset

    def make_mask(self, *args: object, **kwargs: object) -> object:
        return self.own[0].make_mask(*args, **kwargs)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        found = [c.update_and_fetch(keys[k : k + 1], values[k : k + 1]) for k, c in enumerate(self.own)]
        keys, values = (mx.concatenate(part) for part in zip(*found, strict=True))
        return keys, values


class Crowd:
    """Four caches, each with as much in it as a cost curve is measured with. The requests' texts differ."""

    def __init__(self, target: Target):
        self.target = target
        self.caches = [make_prompt_cache(target.model) for _ in range(USERS)]
        for cache in self.caches:
            ids = mx.random.randint(0, target.vocab_size, (1, SHORT))
            mx.eval(target._body(ids, cache=cache), [c.state for c in cache])
        self.layers = [Caches(list(own)) for own in zip(*self.caches, strict=True)]

    def passed(self, width: int) -> float:
        """Seconds of one pass over [4, width] tokens, up to the choice of a token each."""
        ids = mx.random.randint(0, self.target.vocab_size, (USERS, width))
        mx.eval(ids)
        wall, worked = time.perf_counter(), time.process_time()
        logits = self.target.head(self.target._body(ids, cache=self.layers))
        mx.eval(mx.argmax(logits, axis=-1), logits.max(axis=-1))
        took, worked = time.perf_counter() - wall, time.process_time() - worked
        if mx.default_device() == mx.Device(mx.cpu):
            took = min(took, worked)
        for cache in self.caches:
            trim_prompt_cache(cache, width)
        return took


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--times", type=int, default=3)
    times = asked.parse_args().times
    print(f"load {os.getloadavg()[0]:.1f}", flush=True)
    engine = PresetEngine(load_presets()[0], "auto", lambda _: None)
    models = engine.models
    curve = next(event for event in measure(models.target, models.loaded, quick=True) if isinstance(event, CostCurve))
    rows, measuring = None, measure_rows(models.target, models.loaded)
    while rows is None:
        try:
            next(measuring)
        except StopIteration as end:
            rows = end.value
    crowd, order = Crowd(models.target), random.Random(0)
    taken: dict[int, list[float]] = {w: [] for w in WIDTHS}
    for k in range(times + 1):
        for w in order.sample(WIDTHS, len(WIDTHS)):
            seconds = crowd.passed(w)
            taken[w] += [seconds] if k else []  # the first is off the clock
    group = groups_of(shipped_races(), True)[0]
    start = next(s for s in WhatIf.of(curve, None, (), rows=rows, lines=(group.line(0),)).starts if s.id == MACHINE)
    costs = BatchCosts(start.rounds[0], start.passes)
    users = ManyUsers(Recording.together(group.lanes), costs)
    worst = 0.0
    for w, seconds in taken.items():
        timed, n = statistics.median(seconds), w - 1
        simulated = costs.step_s(USERS, 0, USERS * n) if n <= costs.most else start.passes.seconds(USERS * w)
        error = simulated / timed - 1
        worst = max(worst, abs(error))
        line = f"[4, {w:2}]: simulated {1000 * simulated:.0f} ms, timed {1000 * timed:.0f} ms, {100 * error:+.1f} %"
        if 0 < n <= users.drafts:
            served = users.fixed(USERS, n)
            draft = costs.draft_s(USERS, n)
            tok_s = served.tok_s * costs.step_s(USERS, n, USERS * n) / (draft + timed)
            line += f"; {served.tok_s:.1f} tok/s simulated, {tok_s:.1f} with the timed pass"
        print(line, flush=True)
    print(f"the worst step is {100 * worst:.1f} % off")
    sys.exit(worst > ALLOWED)


if __name__ == "__main__":
    main()
