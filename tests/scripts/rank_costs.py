"""Ranks on this machine: what steps cost on one process, on two and on three, and races in a row without growth.

    python tests/scripts/rank_costs.py costs [--ranks 1 2 3] [--model DIR] [--passes N]
    python tests/scripts/rank_costs.py races [--ranks 2] [--races 40]

`costs` holds all groups at once and has them take turns, width by width, for other programs run here, too: given are
the least of the passes, and the median of the ratios to one process's pass of the same turn. Beside them stands what
machine_links.py makes of one process's step and of what an empty sum takes between these ranks. `races` prints memory,
threads and open files of every rank's process, and ends with status 1 where a race's outputs differ or one of these
grows.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from tests.models.rank_group import ranks  # noqa: E402

WIDTHS = (1, 2, 4, 8, 16)
GROWTH = 1.1  # of a process's memory, from the fifth race to the last


def random_model(place: Path) -> Path:
    """A Llama of the embedded model's size whose 12 and 6 heads 2 ranks share as well as 3."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models.llama import Model, ModelArgs

    config = {"model_type": "llama", "hidden_size": 576, "num_hidden_layers": 30, "intermediate_size": 1536}
    config |= {"num_attention_heads": 12, "num_key_value_heads": 6, "head_dim": 48, "vocab_size": 49152}
    config |= {"rms_norm_eps": 1e-5, "tie_word_embeddings": True}
    model = Model(ModelArgs.from_dict(config))
    model.set_dtype(mx.bfloat16)
    (place / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(place / "model.safetensors"), dict(tree_flatten(model.parameters())))
    return place


@contextmanager
def spread_target(model: Path, size: int) -> Iterator[Any]:
    """The model on so many ranks, or in this process alone."""
    from dspark_core.models.sharded import load_spread

    with ranks(size, Path(tempfile.mkdtemp())) if size > 1 else nullcontext():
        yield load_spread(model)


class Timed:
    """A target on some ranks, with 64 tokens in its cache; milliseconds of passes by their rows."""

    def __init__(self, target: Any):
        import mlx.core as mx

        self.mx, self.target, self.cache = mx, target, target.new_cache()
        mx.eval(target.forward(mx.arange(64), self.cache)[0])
        self.took: dict[int, list[float]] = {width: [] for width in WIDTHS}
        self.messages: list[float] = []

    def run(self, width: int, counts: bool) -> None:
        from dspark_core.models.cache import trim

        began = time.perf_counter()
        self.mx.eval(self.target.head(self.target.forward(self.mx.arange(width), self.cache)[0]))
        if counts:
            self.took[width].append(1e3 * (time.perf_counter() - began))
        trim(self.cache, width)

    def ask(self) -> None:
        """An operation that does nothing: one sum that says so, and the way to rank 0 and back."""
        began = time.perf_counter()
        self.target.ask("trim", self.cache[0].number, 0, True)
        self.messages.append(time.perf_counter() - began)

    def foretold(self, alone: "Timed") -> str:
        """What machine_links.py makes of one process's passes; ranks that share a core take turns."""
        from dspark_core.decode.machine_links import Link, Split

        size, target = self.target.machines, self.target
        link = Link("", "", median(self.messages) / (size - 1), 5e9, False, "")
        split = Split(size, link, target.num_layers, target.hidden_size * target.dtype.size)
        turns = max(1.0, size / (os.cpu_count() or 1))
        by_width = {w: 1e3 * split.seconds(w, turns * 1e-3 * median(alone.took[w])) for w in WIDTHS}
        each = ", ".join(f"{w}: {ms:.1f} (median {median(self.took[w]):.1f})" for w, ms in by_width.items())
        return f"by machine_links.py, with {1e6 * link.latency_s:.0f} µs a message, ms: {each}"


def costs(model: Path, sizes: list[int], passes: int) -> None:
    with ExitStack() as held:
        groups = [Timed(held.enter_context(spread_target(model, size))) for size in sizes]
        for turn in range(passes + 1):  # the first warms up
            for width in random.sample(WIDTHS, len(WIDTHS)):
                for group in random.sample(groups, len(groups)):
                    group.run(width, turn > 0)
            for group in groups:
                if group.target.machines > 1:
                    group.ask()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, {passes} turns")
    for group, size in zip(groups, sizes, strict=True):
        print(f"{size} processes, least ms: " + ", ".join(f"{w}: {min(group.took[w]):.1f}" for w in WIDTHS))
        if group is not groups[0]:
            pairs = {w: zip(group.took[w], groups[0].took[w], strict=True) for w in WIDTHS}
            ratios = ", ".join(f"{w}: {median(a / b for a, b in pair):.2f}" for w, pair in pairs.items())
            print(f"  over those of {sizes[0]}: {ratios}\n  {group.foretold(groups[0])}")


def footprint(pid: int) -> tuple[float, int, int]:
    """Megabytes, threads and open files of a process."""
    rss, threads = subprocess.check_output(["ps", "-o", "rss=,nlwp=", "-p", str(pid)]).split()
    files = Path(f"/proc/{pid}/fd")
    return int(rss) / 1e3, int(threads), len(list(files.iterdir())) if files.exists() else 0


def races(size: int, count: int, tokens: int) -> bool:
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
        settings, good, before = Settings(tokens, stop_ids=frozenset()), True, []
        for i in range(count):
            record = None
            for _, event in race(models, RaceRequest("x", lanes, settings)):
                record = record or event
            words = str(record.verdict)
            good = good and "identical" in words.lower()
            pids = [os.getpid(), group._process.process.pid, *(followers.rank_process(k) for k in range(1, size))]
            taken = [footprint(pid) for pid in pids]
            each = ", ".join(f"{mb:.0f} MB {threads} threads {files} files" for mb, threads, files in taken)
            print(f"race {i + 1}: {words[:60]}; {each}", flush=True)
            before = taken if i == min(4, count - 1) else before
    return good and all(
        now[0] <= GROWTH * then[0] and now[1:] <= then[1:] for now, then in zip(taken, before, strict=True)
    )


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=("costs", "races"))
    p.add_argument("--ranks", type=int, nargs="+", default=[])
    p.add_argument("--model", type=Path, help="by default one of random weights and of the embedded one's size")
    p.add_argument("--passes", type=int, default=8)
    p.add_argument("--races", type=int, default=40)
    p.add_argument("--tokens", type=int, default=24, help="of each lane of a race")
    a = p.parse_args()
    if a.what == "costs":
        with tempfile.TemporaryDirectory() as place:
            costs(a.model or random_model(Path(place)), sorted(a.ranks or [1, 2, 3]), a.passes)
    elif not races((a.ranks or [2])[0], a.races, a.tokens):
        sys.exit(1)


if __name__ == "__main__":
    main()
