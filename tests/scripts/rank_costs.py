"""Ranks on this machine: what steps cost on one process, on two and on three, and races in a row without growth.

    python tests/scripts/rank_costs.py costs [--ranks 1 2 3] [--model DIR] [--passes N]
    python tests/scripts/rank_costs.py races [--ranks 2] [--races 40]

`costs` takes the least of some passes in mixed order, for other programs run here, too. `races` prints the memory of
every rank's process, and ends with status 1 where a race's outputs differ or memory grows.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from tests.models.rank_group import ranks  # noqa: E402

WIDTHS = (1, 2, 4, 8, 16)
GROWTH = 1.1  # of a process's memory, from the fifth race to the last


def costs(model: Path, sizes: list[int], passes: int) -> None:
    import mlx.core as mx

    from dspark_core.models.cache import trim
    from dspark_core.models.sharded import load_spread

    found: dict[int, dict[int, float]] = {}
    for size in sizes:
        with ranks(size, Path(tempfile.mkdtemp())) if size > 1 else nullcontext():
            target = load_spread(model)
            cache = target.new_cache()
            mx.eval(target.forward(mx.arange(64), cache)[0])
            best = found[size] = dict.fromkeys(WIDTHS, float("inf"))
            for width in random.sample(WIDTHS * passes, len(WIDTHS) * passes):
                began = time.perf_counter()
                mx.eval(target.head(target.forward(mx.arange(width), cache)[0]))
                best[width] = min(best[width], 1e3 * (time.perf_counter() - began))
                trim(cache, width)
        print(f"{size} processes, ms: " + ", ".join(f"{w}: {ms:.1f}" for w, ms in best.items()), flush=True)


def resident(pid: int) -> float:
    """Megabytes."""
    return int(subprocess.check_output(["ps", "-o", "rss=", "-p", str(pid)])) / 1e3


def races(size: int, count: int) -> bool:
    from dspark_core.decode.rounds import Settings
    from dspark_core.models.checkpoint import load_drafter
    from dspark_core.models.sharded import load_spread
    from dspark_core.race.loaded import Models
    from dspark_core.race.race import race
    from dspark_core.race.records import LaneSpec, RaceRequest
    from tests.playground.tiny import GOLDEN, Words

    with ranks(size, Path(tempfile.mkdtemp())) as (group, followers):
        target = load_spread(GOLDEN / "A" / "target")
        target.text, target.stop_ids = Words(), frozenset()
        drafters = {"dspark": "A", "dflash": "C"}
        models = Models(target, {id_: load_drafter(GOLDEN / d / "drafter", target) for id_, d in drafters.items()})
        lanes = tuple(LaneSpec(m) for m in ("plain", "DSpark", "DFlash"))
        settings, good, before = Settings(48, stop_ids=frozenset()), True, {}
        for i in range(count):
            record = None
            for _, event in race(models, RaceRequest("x", lanes, settings)):
                record = record or event
            words = str(record.verdict)
            good = good and "identical" in words.lower()
            pids = [os.getpid(), group._process.process.pid, *(followers.rank_process(k) for k in range(1, size))]
            taken = [resident(pid) for pid in pids]
            print(f"race {i + 1}: {words[:60]}; MB {', '.join(f'{mb:.0f}' for mb in taken)}", flush=True)
            before = taken if i == min(4, count - 1) else before
    return good and all(now <= GROWTH * then for now, then in zip(taken, before, strict=True))


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=("costs", "races"))
    p.add_argument("--ranks", type=int, nargs="+", default=[])
    p.add_argument("--model", type=Path, default=ROOT / "assets" / "models" / "smollm2-135m-instruct")
    p.add_argument("--passes", type=int, default=8)
    p.add_argument("--races", type=int, default=40)
    a = p.parse_args()
    if a.what == "costs":
        costs(a.model, a.ranks or [1, 3], a.passes)
    elif not races((a.ranks or [2])[0], a.races):
        sys.exit(1)


if __name__ == "__main__":
    main()
