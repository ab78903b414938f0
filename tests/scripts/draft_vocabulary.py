"""The embedded drafters' reduced draft vocabulary: how its tokens were chosen, what it costs and what it gains.

    python -m tests.scripts.draft_vocabulary count  COUNTS.json [--rows 64] [--length 160] [--seed 41]
    python -m tests.scripts.draft_vocabulary choose COUNTS.json DRAFTER ... [--size 16384] [--lowest 4096]
    python -m tests.scripts.draft_vocabulary walk   TEXT.json DRAFTER ... [--counts COUNTS.json --sizes 8192 ...]
    python -m tests.scripts.draft_vocabulary time   DRAFTER ... [--rows 1 7] [--samples 9]

`count` has the embedded target write answers to turns that begin as training data does, and adds up the probabilities
that it gives every token at every position of them: a few thousand positions say more of rare tokens so than by what
was written. `choose` takes the likeliest and, for what such little text does not come to, those with the lowest ids,
which are the special tokens, the single bytes and the merges that were made first; it writes draft_vocab.json beside
the weights. `walk` goes through the target's answers (`confidence_quality write` writes them) with each drafter's list
and without it, and with the lists of other sizes: tokens per round by set. `time` takes drafters with and without their
list in alternation; seconds are this process's own, so that what else the machine does is left out.
"""

import argparse
import json
import os
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from dspark_core.models.config import DRAFT_VOCABULARY, read_calibration, read_draft_ids

TARGET = Path(__file__).resolve().parents[2] / "assets" / "models" / "smollm2-135m-instruct"
VOCABULARY = 49152
WHOLE = "whole vocabulary"


def count(args: argparse.Namespace) -> None:
    import torch

    from dspark_core.training.data import Chat
    from dspark_core.training.synthesize import Openings, Writer
    from dspark_core.training.torch_target import TorchTarget

    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    target, chat = TorchTarget.load(TARGET, dtype=torch.bfloat16), Chat.load(TARGET)
    source = (o for o in Openings(chat, args.seed) if o.answering)
    starts = [next(source) for _ in range(args.rows)]
    temperatures = [1.0 if i % 4 == 3 else 0.0 for i in range(args.rows)]
    ids, answered = Writer(target, chat, args.rows, args.length).write(starts, temperatures)
    total = torch.zeros(target.vocab_size, dtype=torch.float64)
    with torch.inference_mode():
        for row, inside in zip(ids, answered, strict=True):
            hidden, _ = target.forward(row[None, :-1])
            logits = (hidden[0, inside[1:]] @ target.head.T).float()
            total += logits.softmax(-1).sum(0, dtype=torch.float64)
    args.counts.write_text(json.dumps([float(f"{x:.4g}") for x in total.tolist()]))
    shares = total.sort(descending=True).values.cumsum(0) / total.sum()
    print(
        int(answered.sum()),
        "positions; share of the likeliest",
        {n: round(float(shares[n - 1]), 5) for n in args.sizes},
    )


def chosen(counts: Path, size: int, lowest: int) -> np.ndarray:
    """Token ids [size], ascending: the `lowest` ids, and the likeliest of the others."""
    likely = np.array(json.loads(counts.read_text()))
    likely[:lowest] = np.inf
    return np.sort(np.argsort(-likely, kind="stable")[:size])


def choose(args: argparse.Namespace) -> None:
    ids = chosen(args.counts, args.size, args.lowest).tolist()
    for drafter in args.drafters:
        (drafter / DRAFT_VOCABULARY).write_text(json.dumps({"ids": ids}, separators=(",", ":")) + "\n")


def walk(args: argparse.Namespace) -> None:
    """In PyTorch and bfloat16, as training's own walk. Up to its first wrong draft a block has the answer's own tokens
    before every slot, so one set of logits serves all vocabularies."""
    import torch

    from dspark_core.training.torch_drafter import TorchDrafter
    from dspark_core.training.torch_target import TorchTarget

    class Walked(TorchDrafter):
        whole: torch.Tensor

        def logits(self, hidden, head):
            return self.whole if self.left_out is None else self.whole.masked_fill(self.left_out, float("-inf"))

    @torch.inference_mode()
    def rounds(drafter: TorchDrafter, row: dict, taps: torch.Tensor) -> dict[str, list[int]]:
        """By vocabulary, the lengths of the rounds over an answer that had room for a whole block."""
        ids, start = torch.tensor([row["ids"]]), row["start"]
        anchors = torch.arange(start, len(row["ids"]) - drafter.config.drafts)
        with torch.autocast("cpu", torch.bfloat16):
            hidden = drafter(target.embed, taps, ids, anchors[None])[0]
        alive = {name: torch.ones(len(anchors), dtype=torch.bool) for name in lists}
        accepted = {name: torch.zeros(len(anchors), dtype=int) for name in lists}
        for k in range(drafter.config.drafts):
            at = torch.nonzero(torch.stack(list(alive.values())).any(0)).flatten()
            drafter.left_out = None
            drafter.whole = TorchDrafter.logits(drafter, hidden[at, k], target.head)
            for name, left_out in lists.items():
                drafter.left_out = left_out
                drafts, margins = drafter.draft_by_margin(hidden[at, k], target.head, ids[0, anchors[at] + k])
                right, reached = drafts == ids[0, anchors[at] + k + 1], alive[name][at]
                slots[drafter, name, k] += zip(margins[reached].tolist(), right[reached].tolist(), strict=True)
                alive[name][at] &= right
                accepted[name] += alive[name]
        found = {}
        for name in lists:
            at, found[name] = 0, []
            while at < len(anchors) and at + start < row["end"] - 1:
                found[name].append(int(accepted[name][at]) + 1)
                at += found[name][-1]
        return found

    torch.set_num_threads(1)
    target, text = TorchTarget.load(TARGET, dtype=torch.bfloat16), json.loads(args.text.read_text())[: args.answers]
    written = np.concatenate([row["ids"][row["start"] : row["end"]] for row in text])
    vocabularies = {"its list": np.array(read_draft_ids(args.drafters[0], VOCABULARY))}
    for size in args.sizes if args.counts else ():
        vocabularies[str(size)] = chosen(args.counts, size, args.lowest)
    lists: dict[str, torch.Tensor | None] = {WHOLE: None}
    for name, ids in vocabularies.items():
        if len(ids):
            left_out = lists[name] = torch.ones(VOCABULARY, dtype=torch.bool)
            left_out[torch.from_numpy(ids)] = False
            print(f"{name}: {len(ids)} tokens, with {100 * np.isin(written, ids).mean():.2f} % of the {len(written)}")
    drafters = {d.name: Walked.load(d) for d in args.drafters}
    slots: dict[tuple[TorchDrafter, str, int], list[tuple[float, bool]]] = defaultdict(list)
    found: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for row in text:
        with torch.inference_mode():
            taps = {d.config.taps: None for d in drafters.values()}
            taps = {t: target.forward(torch.tensor([row["ids"]]), t)[1] for t in taps}
        for id_, drafter in drafters.items():
            for vocabulary, lengths in rounds(drafter, row, taps[drafter.config.taps]).items():
                for name in (row["set"], "all"):
                    found[id_, name, vocabulary] += lengths
    for id_, name in dict.fromkeys((id_, name) for id_, name, _ in found):
        whole = statistics.mean(found[id_, name, WHOLE])
        parts = [f"{id_:26s} {name:10s} {len(found[id_, name, WHOLE]):5d} rounds  {whole:.3f}"]
        for vocabulary in list(lists)[1:]:
            mean = statistics.mean(found[id_, name, vocabulary])
            parts.append(f"{vocabulary} {mean:.3f} ({100 * (mean / whole - 1):+.2f} %)")
        print("  ".join(parts), flush=True)
    for directory, drafter in zip(args.drafters, drafters.values(), strict=True):
        for vocabulary in lists:
            print_margins(directory, vocabulary, [slots[drafter, vocabulary, k] for k in range(drafter.config.drafts)])


def print_margins(drafter: Path, vocabulary: str, slots: list[list[tuple[float, bool]]]) -> None:
    """How good the margin's fit of calibration.json is, a round at every position, where a drafter has one."""
    from dspark_core.training.calibrate import auc, ece, noise_floor, sigmoid

    fits = read_calibration(drafter, len(slots)).margins
    if fits:
        p = np.concatenate(
            [sigmoid(w * np.array([m for m, _ in s]) + b) for (w, b), s in zip(fits, slots, strict=True)]
        )
        y = np.array([right for s in slots for _, right in s], float)
        print(
            f"{drafter.name:26s} {vocabulary:16s} {len(y):6d} slots  AUC {auc(p, y):.3f}  ECE {100 * ece(p, y):.2f} %, "
            f"by chance {100 * noise_floor(p):.2f}",
            flush=True,
        )


def without_list(drafter: Path, within: Path) -> Path:
    """The same drafter, its vocabulary the target's."""
    twin = within / f"{drafter.name}-whole"
    twin.mkdir()
    for file in drafter.iterdir():
        if file.name != DRAFT_VOCABULARY:
            (twin / file.name).symlink_to(file.resolve())
    return twin


def timing(args: argparse.Namespace) -> None:
    from dspark_core.decode.measure import Bench
    from dspark_core.models.checkpoint import load_drafter
    from dspark_core.models.target import load_target

    target = load_target(TARGET)
    with tempfile.TemporaryDirectory() as place:
        pairs = [(without_list(d, Path(place)), d) for d in args.drafters]
        drafters = {d.name: load_drafter(d, target) for pair in pairs for d in pair}
    bench = Bench(target, drafters, 256)
    for pair in pairs:
        most = drafters[pair[1].name].info.max_drafts
        for rows in sorted({min(rows, most) for rows in args.rows}):
            samples = defaultdict(list)
            for k in range(args.samples + 1):
                for d in pair:
                    seconds = bench.draft(d.name, rows)
                    if k:
                        samples[d.name].append(seconds)
            first = statistics.median(samples[pair[0].name])
            for name, s in samples.items():
                middle = statistics.median(s)
                spread = f"{1e3 * min(s):.1f} to {1e3 * max(s):.1f}"
                print(f"{rows:2d} rows  {name:34s} {1e3 * middle:7.1f} ms ({spread})  {middle / first:.3f}", flush=True)


def main() -> None:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(required=True)

    def add(name: str, do) -> argparse.ArgumentParser:
        p = commands.add_parser(name)
        p.set_defaults(do=do)
        return p

    sizes = {"type": int, "nargs": "+", "default": [8192, 12288, 16384]}
    lowest = {"type": int, "default": 4096, "help": "ids that are taken whatever their probability"}
    p = add("count", count)
    p.add_argument("counts", type=Path)
    p.add_argument("--rows", type=int, default=64)
    p.add_argument("--length", type=int, default=160)
    p.add_argument("--seed", type=int, default=41)
    p.add_argument("--sizes", **sizes)
    p = add("choose", choose)
    p.add_argument("counts", type=Path)
    p.add_argument("drafters", type=Path, nargs="+")
    p.add_argument("--size", type=int, default=16384)
    p.add_argument("--lowest", **lowest)
    p = add("walk", walk)
    p.add_argument("text", type=Path)
    p.add_argument("drafters", type=Path, nargs="+")
    p.add_argument("--counts", type=Path)
    p.add_argument("--sizes", **sizes)
    p.add_argument("--lowest", **lowest)
    p.add_argument("--answers", type=int, default=1000)
    p = add("time", timing)
    p.add_argument("drafters", type=Path, nargs="+")
    p.add_argument("--rows", type=int, nargs="+", default=[1, 7, 15])
    p.add_argument("--samples", type=int, default=9)
    args = top.parse_args()
    args.do(args)


if __name__ == "__main__":
    main()
