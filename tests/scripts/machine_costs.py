"""What steps cost here, as a file of assets/machines: up to 64 tokens verified at once, as Many users needs them.

    python -m tests.scripts.machine_costs OUT.json [--samples 7] [--widths 1 2 4 ...] [--title "H200 (measured)"]

Measured is the embedded model with its drafters as it is loaded; `scripted_rounds --costs` writes the same of random
weights at Qwen3-4B's shapes. Every point is run once off the clock, then in mixed order.
"""

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import mlx.core as mx

from dspark_core.decode.cost_curve import Timing
from dspark_core.decode.measure import SHORT, Bench, _text_of, points_of
from dspark_core.machine import mlx_device, versions
from dspark_core.models.drafter import Drafter
from dspark_core.models.target import Target
from dspark_core.models.weights import PRECISIONS

ROWS = (*range(1, 18), 20, 24, 28, 32, 40, 48, 56, 64)


def write_costs(
    out: Path, target: Target, drafters: Mapping[str, Drafter], title: str, samples: int, widths: Sequence[int]
) -> None:
    """Time a plain step, verifications of `widths` tokens and every length of draft; `out` is the file."""
    timed = {id_: d for id_, d in drafters.items() if not d.info.has_preview}
    bench, order = Bench(target, timed, SHORT), random.Random(0)
    bench.ids = _text_of(target, SHORT + max(widths))[SHORT:]
    points = [("plain", 0), *(("verify", w) for w in widths)]
    for id_, d in timed.items():
        few, most = points_of(d)
        points += [(id_, n) for n in range(few, most + 1)]
    seconds: dict[tuple[str, int], list[float]] = {point: [] for point in points}
    for turn in range(samples + 1):
        for point in order.sample(points, len(points)) if turn else points:
            seconds[point] += [bench.run(*point)][: turn > 0]  # the first is off the clock
    found = {point: [round(1e3 * s, 3) for s in _ends(Timing.of(taken))] for point, taken in seconds.items()}
    device, mlx = mlx_device(), versions()["mlx"]
    about = f"Measured for this project on an {device.name} with MLX {mlx} on {device.kind}: {target.name} with "
    about += ", ".join(f"{d.info.name} ({d.info.precision})" for d in timed.values())
    about += f", the target in {target.precision}, {SHORT} tokens of context, the median of {samples} samples a point, "
    document = {
        "title": title,
        "source": f"{about}up to {max(widths)} tokens at once.",
        "samples": samples,
        "context": SHORT,
        "plain_ms": found["plain", 0],
        "verify_ms": {str(n): ms for (kind, n), ms in found.items() if kind == "verify"},
        "draft_ms": {id_: {str(n): ms for (kind, n), ms in found.items() if kind == id_} for id_ in timed},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    print(f"{out}: plain {found['plain', 0][0]} ms, {len(points)} points on {mx.default_device()}", flush=True)


def _ends(timing: Timing) -> tuple[float, float, float]:
    return timing.median, timing.low, timing.high


def main() -> None:
    from .record_races import loaded

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--samples", type=int, default=7)
    parser.add_argument("--widths", type=int, nargs="+", default=ROWS)
    parser.add_argument("--title", default="")
    parser.add_argument("--precision", default="auto", choices=PRECISIONS)
    for id_ in ("dspark", "dflash"):
        parser.add_argument(f"--{id_}", type=Path, metavar="DIR", help="in place of the embedded one")
    given = parser.parse_args()
    models = loaded(given)
    title = given.title or f"{mlx_device().name} (measured)"
    write_costs(given.out, models.target, models.loaded, title, given.samples, given.widths)


if __name__ == "__main__":
    main()
