"""Acceptance at temperature 1: what share of a slot's probability drafter and target have in common, sum of min(p, q).

    python -m tests.scripts.sampled_acceptance DATA.jsonl.xz DRAFTER ... [--rows 20] [--blocks 10] [--last 2500]

Goes through rows that the target wrote at temperature 1, of the last ones of the data, which no training saw: the
text before a slot is the row's own, so each slot is judged given that all before it were accepted. Tokens per round are
1 + the sum over k of the product of the first k: their mean over rows and its standard error, then each slot's mean.
"""

import argparse
import json
import lzma
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor

from dspark_core.training.torch_drafter import TorchDrafter
from dspark_core.training.torch_target import TorchTarget

TARGET = Path(__file__).resolve().parents[2] / "assets" / "models" / "smollm2-135m-instruct"
MARGIN = 16  # tokens behind a block's anchor that every drafter can be judged by


def held_out(file: Path, last: int, rows: int) -> list[dict]:
    with lzma.open(file, "rt") as lines:
        found = [row for row in map(json.loads, lines.readlines()[-last:]) if row["temperature"] == 1.0]
    found = [row for row in found if max(b - a for a, b in row["answers"]) > 2 * MARGIN]
    return found[:: max(1, len(found) // rows)][:rows]


@torch.inference_mode()
def shared(target: TorchTarget, drafters: list[TorchDrafter], row: dict, blocks: int) -> list[Tensor]:
    """Of each drafter, the overlap [blocks, drafts] on a row's longest answer."""
    first, last = max(row["answers"], key=lambda a: a[1] - a[0])
    ids = torch.tensor([row["ids"][:last]])
    every = sorted({t for d in drafters for t in d.config.taps})
    hidden, taps = target.forward(ids, tuple(every))
    parts, out = dict(zip(every, taps.chunk(len(every), -1), strict=True)), []
    anchors = torch.linspace(first, last - MARGIN - 2, blocks).long().unique()
    for drafter in drafters:
        c = drafter.config
        with torch.autocast("cpu", torch.bfloat16):
            states = torch.cat([parts[t] for t in c.taps], -1)
            drafted = drafter(target.embed, states, ids, anchors[None])[0]
        at = anchors[:, None] + torch.arange(c.drafts)
        p = torch.softmax(hidden[0, at].float() @ target.head.float().T, -1)
        z, previous = drafter.logits(drafted, target.head), ids[0, at]
        if c.selector_rank:
            candidates, z = drafter.select(z, drafted, previous)
            p = p.gather(-1, candidates)
        elif c.markov_rank:
            z = z + drafter.markov_head.markov_w2(drafter.markov_head.markov_w1(previous))
        out.append(torch.minimum(p, torch.softmax(z, -1)).sum(-1))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("drafters", type=Path, nargs="+")
    parser.add_argument("--rows", type=int, default=20)
    parser.add_argument("--blocks", type=int, default=10, help="of a row, evenly over its longest answer")
    parser.add_argument("--last", type=int, default=2500, help="rows at the data's end that training left out")
    args = parser.parse_args()
    torch.set_num_threads(1)
    target, rows = TorchTarget.load(TARGET, dtype=torch.bfloat16), held_out(args.data, args.last, args.rows)
    drafters = [TorchDrafter.load(d) for d in args.drafters]
    found = [shared(target, drafters, row, args.blocks) for row in rows]
    for i, directory in enumerate(args.drafters):
        overlaps = [of_row[i] for of_row in found]
        each = torch.stack([(1 + o.cumprod(-1).sum(-1)).mean() for o in overlaps])
        slots = " ".join(f"{x:.3f}" for x in torch.cat(overlaps).mean(0).tolist())
        error = float(each.std() / len(each) ** 0.5)
        print(f"{directory}  {sum(map(len, overlaps))} blocks  {each.mean():.3f} ± {error:.3f}  {slots}", flush=True)


if __name__ == "__main__":
    main()
