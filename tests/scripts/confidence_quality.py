"""How good a confidence is: AUC and calibration error over slots, of the logits' margin and of the trained head.

    python -m tests.scripts.confidence_quality write  TEXT.json [--prompts FILE.jsonl ...] [--answers 50] [--seed 1]
    python -m tests.scripts.confidence_quality draft  ROUNDS.npz TEXT.json --drafter assets/models/NAME
    python -m tests.scripts.confidence_quality fit    assets/models/NAME --on ROUNDS.npz ... --judge ROUNDS.npz ...
    python -m tests.scripts.confidence_quality judge  ROUNDS.npz ... --calibration assets/models/NAME
    python -m tests.scripts.confidence_quality pays   ROUNDS.npz ... --calibration assets/models/NAME --curve CURVE.json

`write` lets the embedded target answer prompts greedily, or, without --prompts, turns of its own that begin as
training data does (seeds other than training's). `draft` anchors a round at every position of these answers. A slot
counts where all before it were accepted. `fit` writes calibration.json for a drafter without a head, fitted to some
rounds and judged on others; `judge` says how good a drafter's confidences are, and how the online fit does beside the
offline one; `pays` what the hardware-aware schedule makes of them, by a measured curve. In PyTorch and bfloat16, whose
rounds are the engine's (rounds_agree.py).
"""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor

from dspark_core.decode.adaptive import HardwareAware, logit
from dspark_core.decode.confidence import ConfidenceFit
from dspark_core.decode.cost_curve import CostCurve
from dspark_core.decode.rounds import Round
from dspark_core.decode.schedule import CumulativeThreshold, FixedCap, Schedule
from dspark_core.models.config import read_calibration
from dspark_core.models.info import USUAL_MARGIN
from dspark_core.race.reliability import judged_drafts
from dspark_core.training.calibrate import auc, calibrate_margins, ece, noise_floor, reached, sigmoid
from dspark_core.training.data import Chat
from dspark_core.training.evaluate import Answer, greedy_answers, read_prompts
from dspark_core.training.synthesize import Openings, Writer
from dspark_core.training.torch_drafter import TorchDrafter
from dspark_core.training.torch_target import TorchTarget

TARGET = Path(__file__).resolve().parents[2] / "assets" / "models" / "smollm2-135m-instruct"
TOKENS, BEYOND, LENGTH, ROWS = 128, 15, 256, 8


def write(args: argparse.Namespace) -> None:
    target, chat = TorchTarget.load(TARGET, dtype=torch.bfloat16), Chat.load(TARGET)
    if args.prompts:
        found = [{"set": f.stem, "prompt": p} for f in args.prompts for p in read_prompts(f)]
        found = sorted(found, key=lambda x: len(x["prompt"]))[args.skip : args.skip + args.answers]
        answers = greedy_answers(target, chat, [x["prompt"] for x in found], TOKENS, BEYOND)
        rows = [
            {"set": x["set"], "ids": a.ids, "start": a.start, "end": a.end} for x, a in zip(found, answers, strict=True)
        ]
    else:
        torch.manual_seed(args.seed)
        source = (o for o in Openings(chat, args.seed) if not o.answering)
        starts = [next(source) for _ in range(args.answers)]
        written = Writer(target, chat, len(starts), LENGTH).write(starts, [0.0] * len(starts))
        rows = []
        for ids, inside in zip(*(t.tolist() for t in written), strict=True):
            start = inside.index(True) if True in inside else LENGTH
            end = next((i for i in range(start, LENGTH) if not inside[i]), LENGTH)
            if end - start > BEYOND:
                rows.append({"set": "generator", "ids": ids[:end], "start": start, "end": min(end, start + TOKENS)})
    args.out.write_text(json.dumps(rows))


@torch.inference_mode()
def rounds_everywhere(target: TorchTarget, drafter: TorchDrafter, a: Answer) -> dict[str, Tensor]:
    """Of a round at every position of an answer where a whole block can be judged: accepted [A] drafts, and up to the
    first rejected one the margin and the head's logit [A, K] (NaN behind it, and without a head)."""
    c = drafter.config
    ids = torch.tensor([a.ids + [0] * c.block_size])
    anchors = torch.arange(a.start, min(a.end, len(a.ids) - c.drafts) - 1)
    _, taps = target.forward(ids[:, : len(a.ids)], c.taps)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = drafter(target.embed, taps, ids[:, : len(a.ids)], anchors[None])[0]
    alive, previous = torch.arange(len(anchors)), ids[0, anchors]
    accepted = torch.zeros(len(anchors), dtype=torch.long)
    margins, heads = torch.full((2, len(anchors), c.drafts), torch.nan)
    for k in range(c.drafts):
        if not len(alive):
            break
        drafts, margins[alive, k] = drafter.draft_by_margin(hidden[alive, k], target.head, previous)
        if c.confidence:
            heads[alive, k] = drafter.confidence(hidden[alive, k], previous)
        right = drafts == ids[0, anchors[alive] + k + 1]
        alive, previous = alive[right], drafts[right]
        accepted[alive] += 1
    return {"accepted": accepted, "margins": margins, "heads": heads, "at": anchors - a.start}


def draft(args: argparse.Namespace) -> None:
    target, drafter = TorchTarget.load(TARGET, dtype=torch.bfloat16), TorchDrafter.load(args.drafter)
    found: dict[str, list] = {}
    for i, row in enumerate(json.loads(args.text.read_text())[: args.answers]):
        answer = Answer(row["ids"], row["start"], row["end"])
        if answer.end - answer.start < 2 or len(answer.ids) - drafter.config.drafts - 1 <= answer.start:
            continue
        one = {k: v.numpy() for k, v in rounds_everywhere(target, drafter, answer).items()}
        one |= {"answer": np.full(len(one["at"]), i), "set": np.full(len(one["at"]), row["set"])}
        for name, values in one.items():
            found.setdefault(name, []).append(values)
    whole = {name: np.concatenate(values) for name, values in found.items()}
    np.savez_compressed(args.out, **whole)
    print(args.out, len(whole["at"]), "rounds", int((~np.isnan(whole["margins"])).sum()), "slots", flush=True)


class Rounds:
    """Rounds of some files, in the order of the text; `walked`: only those that a decode would come to."""

    def __init__(self, files: list[Path], walked: bool = False):
        parts = [dict(np.load(f)) for f in files]
        self.all = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
        if walked:
            kept, due, before = [], 0, None
            for i, (at, n) in enumerate(zip(self.all["at"], self.all["accepted"], strict=True)):
                due = at if at == 0 and before != 0 else due
                if at == due:
                    kept.append(i)
                    due = at + n + 1
                before = at
            self.all = {name: values[kept] for name, values in self.all.items()}
        K = self.all["margins"].shape[1]
        self.labels = (self.all["accepted"][:, None] > np.arange(K)).astype(float)

    def quality(self, p: np.ndarray) -> dict[str, float]:
        """Of probabilities [N, K]."""
        slots = reached(p, self.labels)
        p, y = (np.concatenate(x) for x in zip(*slots, strict=True))
        return {"slots": len(y), "auc": auc(p, y), "ece": ece(p, y), "by chance": noise_floor(p), "accepted": y.mean()}


def fit(args: argparse.Namespace) -> None:
    on, judged = Rounds(args.on), Rounds(args.judge)
    found = calibrate_margins(
        np.nan_to_num(on.all["margins"]), on.labels, np.nan_to_num(judged.all["margins"]), judged.labels
    )
    file = args.drafter / "calibration.json"
    old = json.loads(file.read_text()) if file.exists() else {}
    known = {name: old[name] for name in ("survival", "prompts") if name in old}  # of more rounds than these
    origin = {"fitted_on": "answers to turns of the target's own", "judged_on": "answers to prompts of other origin"}
    file.write_text(json.dumps(found | known | origin, indent=1) + "\n")
    print(json.dumps(found))


def online(z: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Probabilities [N, K] of a ConfidenceFit that sees the rounds one after the other, each before its outcome."""
    fitted, out = ConfidenceFit(z.shape[1]), np.zeros_like(z)
    for i, (row, y) in enumerate(zip(z.tolist(), labels, strict=True)):
        out[i] = fitted.logits(row)
        n = int(y.sum())
        fitted.observe(row[: min(n + 1, len(row))], n)
    return sigmoid(out)


def judge(args: argparse.Namespace) -> None:
    for walked in (False, True):
        rounds = Rounds(args.files, walked)
        K, margins = rounds.labels.shape[1], np.nan_to_num(rounds.all["margins"])
        known = read_calibration(args.calibration, K)
        w, b = np.array(known.margins or [args.fit] * K).T
        z = w * margins + b
        lines = {"margin": sigmoid(z), "margin, fitted online": online(z, rounds.labels)}
        if not np.isnan(rounds.all["heads"]).all():
            heads = np.nan_to_num(rounds.all["heads"])
            lines |= {"head": sigmoid(heads / np.array(known.temperatures or 1)), "head, uncalibrated": sigmoid(heads)}
        for name, p in lines.items():
            q = rounds.quality(p)
            words = "  ".join(f"{k} {v:.4f}" if k != "slots" else f"{k} {v}" for k, v in q.items())
            print(f"{'walked' if walked else 'everywhere':10s} {len(rounds.labels):6d} rounds  {name:22s} {words}")


def replayed(schedule: Schedule, accepted: list[int], sure: list[list[float]], context: int) -> list[Round]:
    """The rounds of a decode of one answer, of which a round at every position is known."""
    K = len(sure[0])
    s, at, ahead, out = schedule.begin(K), 0, False, list[Round]()
    while at < len(accepted):
        n = 0 if ahead else s.drafts(K, context)
        waits = n > 0 and s.needs_confidence
        sent = s.proposed(n, sure[at][:n]) if waits else n
        k, c = min(accepted[at], sent), tuple(sure[at][:n]) if waits else None
        out.append(Round(len(out), context, 0, (0,) * n, sent, k, 0, k == sent, (0,) * (k + 1), 0.0, None, c))
        ahead = not n and s.parked()
        s.observe(out[-1])
        at += k + 1
    return out


class FixedRows(CumulativeThreshold):
    """Always so many head rows, and of them what the product of the confidences lets through."""

    def __init__(self, rows: int, threshold: float):
        super().__init__(threshold)
        object.__setattr__(self, "rows", rows)

    def drafts(self, max_drafts: int, position: int) -> int:
        return min(self.rows, max_drafts)


def pays(args: argparse.Namespace) -> None:
    """What the schedule makes of it, in a measured curve's own time: no model, no machine."""
    rounds, curve = Rounds(args.files), CostCurve.from_json(args.curve.read_text())
    (method,), context = curve.costs[0].draft, curve.costs[0].context
    K = rounds.labels.shape[1]
    known = read_calibration(args.calibration, K)
    w, b = np.array(known.margins or [args.fit] * K).T
    sure = sigmoid(w * np.nan_to_num(rounds.all["margins"], nan=-1.0) + b)
    begins = np.flatnonzero(np.diff(np.concatenate([[-1], rounds.all["answer"]])))
    fit = ConfidenceFit(K)
    found: dict[str, dict[str, list[float]]] = {}
    for i, j in zip(begins, [*begins[1:], len(sure)], strict=True):
        accepted, confidence = rounds.all["accepted"][i:j].tolist(), sure[i:j].tolist()
        ways: dict[str, Schedule] = {f"cap {n}": FixedCap(n) for n in range(1, K + 1)}
        ways["blindly"] = HardwareAware(curve, method, known.acceptance, False, False)
        ways["by confidence"] = HardwareAware(curve, method, known.acceptance, True, False)
        ways |= {f"{n} rows, product {t}": FixedRows(n, t) for n in (4, 6, 8) for t in (0.1, 0.2, 0.35)}
        ways["fitted online"] = HardwareAware(curve, method, known.acceptance, True, False, fit)
        for name, schedule in ways.items():
            own = replayed(schedule, accepted, confidence, context)
            tokens = sum(r.accepted + 1 for r in own)
            speed = tokens * curve.plain_s(context) / curve.seconds(method, own)
            found.setdefault(str(rounds.all["set"][i]), {}).setdefault(name, []).append(speed)
        for r in own:
            if judged := judged_drafts(r):
                fit.observe([logit(c) for c, _ in judged], r.accepted)
    for name, speeds in found.items():
        means = {way: float(np.exp(np.log(s).mean())) for way, s in speeds.items()}
        words = "  ".join(f"{way} {means[way]:.3f} x" for way in ("blindly", "by confidence", "fitted online"))
        words += f"  (worst {min(speeds['fitted online']):.3f})"
        for kind in ("cap", "product"):
            best = max((m, way) for way, m in means.items() if kind in way)
            words += f"  best {best[1]} {best[0]:.3f} x"
        print(f"{name:10s} {len(speeds['blindly']):3d} answers  {words}")


def main() -> None:
    torch.set_num_threads(1)
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(required=True)

    def add(do):
        p = commands.add_parser(do.__name__)
        p.set_defaults(do=do)
        return p

    p = add(write)
    p.add_argument("out", type=Path)
    p.add_argument("--prompts", type=Path, nargs="+")
    p.add_argument("--answers", type=int, default=50)
    p.add_argument("--skip", type=int, default=0, help="shorter prompts that are left out")
    p.add_argument("--seed", type=int, default=1)
    p = add(draft)
    p.add_argument("out", type=Path)
    p.add_argument("text", type=Path)
    p.add_argument("--drafter", type=Path, required=True)
    p.add_argument("--answers", type=int, default=None)
    p = add(fit)
    p.add_argument("drafter", type=Path)
    p.add_argument("--on", type=Path, nargs="+", required=True)
    p.add_argument("--judge", type=Path, nargs="+", required=True)
    p = add(judge)
    p.add_argument("files", type=Path, nargs="+")
    p.add_argument("--calibration", type=Path, required=True)
    p.add_argument("--fit", type=float, nargs=2, default=USUAL_MARGIN, help="w and b where it has none")
    p = add(pays)
    p.add_argument("files", type=Path, nargs="+")
    p.add_argument("--calibration", type=Path, required=True)
    p.add_argument("--curve", type=Path, required=True, help="a cost curve of one drafter, as the store has it")
    p.add_argument("--fit", type=float, nargs=2, default=USUAL_MARGIN)
    args = top.parse_args()
    args.do(args)


if __name__ == "__main__":
    main()
