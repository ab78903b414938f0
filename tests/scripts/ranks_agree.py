"""The ranks of a launched group against one process: tokens, logits and times; no page, no network, no browser.

    mlx.launch -n 2 -- python -m tests.scripts.ranks_agree
    mlx.launch -n 2 --backend nccl -- python -m tests.scripts.ranks_agree --golden A C D --tokens 300

Golden targets with their drafters, the embedded one where its heads divide, then times of a model of random weights.
Ends with status 1 where tokens differ.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from dspark_core.models.group import Group, take_place
from dspark_core.paths import assets

ROOT = Path(__file__).resolve().parents[2]
PAIRS = {
    name: (ROOT / "tests" / "golden" / name / "target", ROOT / "tests" / "golden" / name / "drafter") for name in "ACD"
}
PAIRS["embedded"] = assets() / "models" / "smollm2-135m-instruct", assets() / "models" / "dspark-smollm2-135m-b7"


def decoded(events: Any) -> tuple[list[int], float]:
    """Output, and tokens per second."""
    from dspark_core.decode.rounds import Round, Start

    out, seconds = list[int](), 0.0
    for event in events:
        out += [event.token_id] if isinstance(event, Start) else event.committed if isinstance(event, Round) else []
        seconds = event.time_s if isinstance(event, Round) else seconds
    return out, (len(out) - 1) / seconds


def agree(name: str, count: int) -> bool:
    """Print how one pair's outputs compare; do they?"""
    import mlx.core as mx

    from dspark_core.decode.plain import plain
    from dspark_core.decode.rounds import Settings
    from dspark_core.decode.schedule import FullBlock
    from dspark_core.decode.speculative import speculative
    from dspark_core.models.checkpoint import load_drafter
    from dspark_core.models.sharded import load_spread
    from dspark_core.models.target import load_target

    place, drafter = PAIRS[name]
    alone, spread = load_target(place), load_spread(place)
    prompt, settings = [5, 6, 7, 8], Settings(count, stop_ids=frozenset())
    ids = mx.arange(3, 60) % alone.vocab_size
    rows = [t.head(t.forward(ids, t.new_cache())[0]).astype(mx.float32) for t in (alone, spread)]
    apart = mx.abs(rows[0] - rows[1]).max().item()
    (here, fast), (there, slow) = (decoded(plain(t, prompt, settings)) for t in (alone, spread))
    drafted, quick = decoded(speculative(spread, load_drafter(drafter, spread), prompt, settings, FullBlock()))
    differs = next((k for k, (a, b) in enumerate(zip(here, there, strict=True)) if a != b), None)
    words = "same tokens as one process" if differs is None else f"another token than one process at {differs}"
    own = "drafting equals it" if drafted == there else "DRAFTING DIFFERS"
    print(
        f"{name}, {spread.precision}: {words}, {own}; logits within {apart:.2g}; tok/s one process {fast:.0f}, "
        f"ranks {slow:.0f}, ranks with drafts {quick:.0f}",
        flush=True,
    )
    return differs is None and drafted == there


def passes(run: Callable[[int], Any], widths: tuple[int, ...], count: int = 20) -> dict[int, float]:
    """Median milliseconds."""
    found = {}
    for width in widths:
        took = []
        for _ in range(3 + count):
            began = time.perf_counter()
            run(width)
            took.append(1e3 * (time.perf_counter() - began))
        found[width] = median(took[3:])
    return found


def times(group: Group) -> None:
    import mlx.core as mx

    from dspark_core.models.cache import trim
    from dspark_core.models.sharded import load_spread
    from dspark_core.models.target import load_target

    from .rank_costs import WIDTHS, random_model

    # On the same machine all ranks find it; on several it has to be copied first.
    with tempfile.TemporaryDirectory(dir=ROOT) as directory:
        place = random_model(Path(directory))
        for load in (load_target, load_spread):
            target = load(place)
            cache = target.new_cache()

            def run(width: int, target: Any = target, cache: Any = cache) -> None:
                mx.eval(target.head(target.forward(mx.arange(width), cache)[0]))
                trim(cache, width)

            mx.eval(target.forward(mx.arange(64), cache)[0])
            ms = ", ".join(f"{w}: {t:.2f}" for w, t in passes(run, WIDTHS).items())
            print(f"random weights, {target.precision}, ms a pass by its tokens: {ms}", flush=True)


def main() -> None:
    take_place()
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--golden", nargs="*", choices=[*"ACD"], default=[*"ACD"])
    p.add_argument("--tokens", type=int, default=100)
    p.add_argument("--no-times", action="store_true")
    a = p.parse_args()
    group = Group.here()
    if group is None:
        p.error("start it by mlx.launch")
    print(f"{group.size} ranks by {group.backend}", flush=True)
    embedded = ["embedded"] if group.size == 3 else []
    good = [agree(name, a.tokens) for name in [*a.golden, *embedded]]
    if not a.no_times:
        times(group)
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
