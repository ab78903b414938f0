"""Does every drafter draft on a text that it is good at, from a fresh start, whatever else the machine does?

    python -m tests.scripts.fresh_starts [--times 10] [--wait SECONDS ...] [--tokens 64] [--load PROCESSES]

Each start is a process of its own without anything on disk: it loads the embedded model, prepares a race for `--wait`
seconds, in turn (a negative number: to the end), and races "Binary search" with every drafter hardware-aware.
`--load` keeps so many other processes busy meanwhile. Prints a JSON object for each start: the share of its measuring
in which the machine was busy, points of the curve in plain steps, and of each lane its speed over plain decoding's and
the rounds that drafted, of all; at the end, how far any point of two curves that were measured to the end is apart.
"""

import argparse
import json
import math
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from itertools import combinations
from typing import Any

ASKED = "Binary search"


def start(wait: float, tokens: int) -> dict[str, Any]:
    """One start, in this process."""
    from dspark_core.decode.rounds import Settings
    from dspark_core.playground.engine import PresetEngine
    from dspark_core.presets import load_presets, load_prompts
    from dspark_core.race.metrics import metrics
    from dspark_core.race.records import HARDWARE, PLAIN, LaneSpec, RaceRecord, RaceRequest

    engine = PresetEngine(load_presets()[0], "auto", lambda step: None)
    models, began = engine.models, time.monotonic()
    while (wait < 0 or time.monotonic() < began + wait) and engine.prepare():
        pass
    prepared, curve = time.monotonic() - began, models.usable_curve()
    text = next(p.text for p in load_prompts() if p.title == ASKED)
    specs = [LaneSpec(i.method, HARDWARE, drafter=i.lane_drafter) for i in models.infos if not i.has_preview]
    settings = Settings(tokens, stop_ids=models.target.stop_ids)
    events = [event for _, event in engine.race(RaceRequest(text, (LaneSpec(PLAIN), *specs), settings), lambda: False)]
    record = next(event for event in events if isinstance(event, RaceRecord))
    plain = metrics(record.lanes[0]).tok_s
    lanes = {
        lane.spec.drafter_id: {
            "x_plain": round(metrics(lane).tok_s / plain, 2),
            "drafted": sum(bool(r.draft_ids) for r in lane.rounds),
            "rounds": len(lane.rounds),
        }
        for lane in record.lanes[1:]
    }
    points = {}
    if not curve.borrowed:
        step, costs = curve.plain_s(64), curve.costs[0]
        points = {f"verify {w}": round(s / step, 3) for w, s in costs.verify_s.items()}
        points |= {f"{id_} {n}": round(s / step, 3) for id_, of in costs.draft_s.items() for n, s in of.items()}
        points["plain"] = round(1e3 * step, 1)
    where = {"wait": wait, "prepared_s": round(prepared, 1), "load": round(os.getloadavg()[0], 1), "busy": curve.busy}
    return where | {"lanes": lanes, "whole": models.known_curve() is not None, "points": points}


def spin() -> None:
    while True:
        math.sqrt(2.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--wait", type=float, nargs="+", default=[-1.0, 2.0, 8.0, 20.0])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--load", type=int, default=0)
    parser.add_argument("--one", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        print(json.dumps(start(args.one, args.tokens)))
        return
    others = [multiprocessing.Process(target=spin, daemon=True) for _ in range(args.load)]
    for other in others:
        other.start()
    started: list[dict[str, Any]] = []
    for i in range(args.times):
        wait = args.wait[i % len(args.wait)]
        with tempfile.TemporaryDirectory() as cache:
            command = [
                sys.executable,
                "-m",
                "tests.scripts.fresh_starts",
                "--one",
                str(wait),
                "--tokens",
                str(args.tokens),
            ]
            environment = os.environ | {"XDG_CACHE_HOME": cache}
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        started.append(json.loads(done.stdout.splitlines()[-1]))
        print(json.dumps(started[-1]), flush=True)
    for other in others:
        other.terminate()
    apart = {
        point: max(a["points"][point], b["points"][point]) / min(a["points"][point], b["points"][point])
        for a, b in combinations([s for s in started if s["whole"]], 2)
        for point in a["points"].keys() & b["points"].keys()
    }
    idle = [
        f"start {i}: {id_}" for i, s in enumerate(started, 1) for id_, lane in s["lanes"].items() if not lane["drafted"]
    ]
    print(json.dumps({"apart": {p: round(x, 2) for p, x in apart.items() if x > 1.5}, "never drafted": idle}))


if __name__ == "__main__":
    main()
