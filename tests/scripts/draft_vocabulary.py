"""What a reduced draft vocabulary costs in acceptance and gains in time, on the CPU; and the drafter that has one.

    python -m tests.scripts.draft_vocabulary count COUNTS.json DATA.jsonl.xz ... [--rows 15000]
    python -m tests.scripts.draft_vocabulary make  DRAFTER OUT --counts COUNTS.json --size 16384
    python -m tests.scripts.draft_vocabulary walk  TEXT.json --counts COUNTS.json --drafter DRAFTER [--sizes 8192 ...]
    python -m tests.scripts.draft_vocabulary time  DRAFTER OTHER ... [--rows 1 7] [--samples 9]

`count` counts the tokens of answers in training data. `make` writes a packed drafter that drafts from the most frequent
ones only: rows of the target's head, of the Markov head's second table, and `d2t`; every other tensor as it was. `walk`
goes through the target's answers (`confidence_quality write` writes them), with the same drafter at each size: tokens
per round by set. `time` takes drafters in alternation; seconds are this process's own, so that what else the machine
does is left out.
"""

import argparse
import json
import lzma
import os
import shutil
import statistics
import time
from collections import defaultdict
from itertools import islice
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

TARGET = Path(__file__).resolve().parents[2] / "assets" / "models" / "smollm2-135m-instruct"
HEAD, SECOND = "lm_head", "markov_head.markov_w2"


def count(args: argparse.Namespace) -> None:
    counts = np.zeros(49152, np.int64)
    for file in args.data:
        with lzma.open(file, "rt") as lines:
            for row in map(json.loads, islice(lines, args.rows)):
                for first, last in row["answers"]:
                    np.add.at(counts, row["ids"][first:last], 1)
    args.counts.write_text(json.dumps(counts.tolist()))
    best = np.sort(counts)[::-1].cumsum() / counts.sum()
    print(
        int(counts.sum()), "tokens; share of the most frequent", {n: round(float(best[n - 1]), 5) for n in args.sizes}
    )


def most_frequent(file: Path, size: int) -> np.ndarray:
    """Token ids [size], ascending; of equally frequent ones the lowest."""
    counts = np.array(json.loads(file.read_text()))
    return np.sort(np.argsort(-counts, kind="stable")[:size])


def make(args: argparse.Namespace) -> None:
    import mlx.core as mx

    ids = most_frequent(args.counts, args.size)
    config = json.loads((args.drafter / "config.json").read_text())
    tensors, packing = dict(mx.load(str(args.drafter / "model.safetensors"))), config["quantization"]
    if any("selector" in name or name.startswith(HEAD) for name in tensors):
        raise SystemExit(f"{args.drafter} has a selector or a head of its own, which is not cut here.")
    rows = mx.array(ids)
    whole = {n: w for file in sorted(TARGET.glob("*.safetensors")) for n, w in mx.load(str(file)).items()}
    at = "lm_head" if "lm_head.weight" in whole else "model.embed_tokens"
    head = {part: whole[f"{at}.{part}"][rows] for part in ("weight", "scales", "biases") if f"{at}.{part}" in whole}
    stored = json.loads((TARGET / "config.json").read_text()).get("quantization", {})
    if "scales" not in head:
        head = dict(zip(("weight", "scales", "biases"), mx.quantize(head["weight"], **packing), strict=True))
    elif at in stored:  # as they are: the rows of the target's own head
        config["quantization"] = packing | {HEAD: stored[at]}
    for name in [n for n in tensors if n.startswith(f"{SECOND}.")]:  # packed along its columns
        tensors[name] = tensors[name][rows]
    tensors |= {"d2t": mx.array(ids - np.arange(len(ids)))}
    tensors |= {f"{HEAD}.{name}": rows for name, rows in head.items()}
    args.out.mkdir(parents=True, exist_ok=True)
    for file in ("LICENSE", "calibration.json", "run.json"):
        if (args.drafter / file).exists():
            shutil.copy(args.drafter / file, args.out / file)
    mx.save_safetensors(str(args.out / "model.safetensors"), tensors, {"format": "mlx"})
    (args.out / "config.json").write_text(json.dumps(config | {"draft_vocab_size": len(ids)}, indent=1) + "\n")
    print(args.out, f"{(args.out / 'model.safetensors').stat().st_size / 1e6:.1f} MB")


def walk(args: argparse.Namespace) -> None:
    """In PyTorch and bfloat16, as training's own walk: the tokens that are left out have a logit of minus infinity."""
    import torch

    from dspark_core.training.torch_drafter import TorchDrafter
    from dspark_core.training.torch_target import TorchTarget

    class Reduced(TorchDrafter):
        barred: torch.Tensor | None = None

        def logits(self, hidden, head):
            z = super().logits(hidden, head)
            return z if self.barred is None else z.masked_fill(self.barred, float("-inf"))

    @torch.inference_mode()
    def rounds(row: dict) -> dict[int, list[int]]:
        """By size, the lengths of the rounds over an answer that had room for a whole block."""
        ids, start = torch.tensor([row["ids"]]), row["start"]
        anchors = torch.arange(start, len(row["ids"]) - drafter.config.drafts)
        _, taps = target.forward(ids, drafter.config.taps)
        with torch.autocast("cpu", torch.bfloat16):
            hidden = drafter(target.embed, taps, ids, anchors[None])[0]
        found = {}
        for size in (0, *args.sizes):
            drafter.barred = barred.get(size)
            alive, previous, accepted = (
                torch.arange(len(anchors)),
                ids[0, anchors],
                torch.zeros(len(anchors), dtype=int),
            )
            for k in range(drafter.config.drafts):
                drafts, _ = drafter.draft_by_margin(hidden[alive, k], target.head, previous)
                right = drafts == ids[0, anchors[alive] + k + 1]
                alive, previous = alive[right], drafts[right]
                accepted[alive] += 1
            at, found[size] = 0, []
            while at < len(anchors) and at + start < row["end"] - 1:
                found[size].append(int(accepted[at]) + 1)
                at += found[size][-1]
        return found

    torch.set_num_threads(1)
    target, drafter = TorchTarget.load(TARGET, dtype=torch.bfloat16), TorchDrafter.load(args.drafter)
    drafter.__class__, barred = Reduced, {}
    for size in args.sizes:
        barred[size] = torch.ones(target.vocab_size, dtype=torch.bool)
        barred[size][torch.from_numpy(most_frequent(args.counts, size))] = False
    found: dict[tuple[str, int], list[int]] = defaultdict(list)
    until = time.monotonic() + args.seconds
    for row in json.loads(args.text.read_text())[: args.answers]:
        if time.monotonic() > until:
            break
        for size, lengths in rounds(row).items():
            for name in (row["set"], "all"):
                found[name, size] += lengths
    for name in sorted({name for name, _ in found}):
        whole = statistics.mean(found[name, 0])
        parts = [f"{name:10s} {len(found[name, 0]):5d} rounds  all {whole:.3f}"]
        for size in args.sizes:
            mean = statistics.mean(found[name, size])
            parts.append(f"{size} {mean:.3f} ({100 * (mean / whole - 1):+.2f} %)")
        print("  ".join(parts), flush=True)


def timing(args: argparse.Namespace) -> None:
    from dspark_core.decode.measure import Bench
    from dspark_core.models.checkpoint import load_drafter
    from dspark_core.models.target import load_target

    target = load_target(TARGET)
    drafters = {d.name: load_drafter(d, target) for d in args.drafters}
    bench = Bench(target, drafters, 256)
    for rows in args.rows:
        samples = defaultdict(list)
        for k in range(args.samples + 1):
            for name in drafters:
                seconds = bench.draft(name, rows)
                if k:
                    samples[name].append(seconds)
        first = statistics.median(samples[next(iter(drafters))])
        for name, s in samples.items():
            middle = statistics.median(s)
            spread = f"{1e3 * min(s):.1f} to {1e3 * max(s):.1f}"
            print(f"{rows} rows  {name:40s} {1e3 * middle:7.1f} ms ({spread})  {middle / first:.3f}", flush=True)


def main() -> None:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(required=True)

    def add(name: str, do) -> argparse.ArgumentParser:
        p = commands.add_parser(name)
        p.set_defaults(do=do)
        return p

    sizes = {"type": int, "nargs": "+", "default": [8192, 16384, 24576]}
    p = add("count", count)
    p.add_argument("counts", type=Path)
    p.add_argument("data", type=Path, nargs="+")
    p.add_argument("--rows", type=int, default=15000, help="first rows of each file")
    p.add_argument("--sizes", **sizes)
    p = add("make", make)
    p.add_argument("drafter", type=Path)
    p.add_argument("out", type=Path)
    p.add_argument("--counts", type=Path, required=True)
    p.add_argument("--size", type=int, required=True)
    p = add("walk", walk)
    p.add_argument("text", type=Path)
    p.add_argument("--counts", type=Path, required=True)
    p.add_argument("--drafter", type=Path, required=True)
    p.add_argument("--answers", type=int, default=1000)
    p.add_argument("--seconds", type=float, default=150)
    p.add_argument("--sizes", **sizes)
    p = add("time", timing)
    p.add_argument("drafters", type=Path, nargs="+")
    p.add_argument("--rows", type=int, nargs="+", default=[1, 7])
    p.add_argument("--samples", type=int, default=9)
    args = top.parse_args()
    args.do(args)


if __name__ == "__main__":
    main()
