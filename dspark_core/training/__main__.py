"""`python -m dspark_core.training`: synthesize, train, evaluate, calibrate, export."""

import argparse
import json
import sys
from dataclasses import fields
from functools import partial
from pathlib import Path

import torch

from . import TrainingError
from .calibrate import calibrate, calibrate_margins
from .data import Chat, Rows
from .evaluate import answers_by_side, evaluate, full_rounds
from .export import export
from .synthesize import Avoid, SynthesisPlan, read_texts, record_beside, synthesize
from .torch_drafter import TorchDrafter
from .torch_target import TorchTarget
from .train import RECIPES, Recipe, Trainer, TrainingPlan

notify = partial(print, flush=True)


def target_of(args: argparse.Namespace) -> TorchTarget:
    device = args.device
    if device == "auto":
        mps = torch.backends.mps.is_available()
        device = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    dtype = {"auto": None, "bfloat16": torch.bfloat16, "float32": torch.float32}[args.precision]
    return TorchTarget.load(args.target, device, dtype)


def do_synthesize(args: argparse.Namespace) -> None:
    target, chat = target_of(args), Chat.load(args.target)
    plan = SynthesisPlan(args.tokens, args.minutes, args.rows, args.length, args.seed)
    avoid = Avoid(chat, [text for file in args.avoid for text in read_texts(file)])
    target = target.compiled() if args.compile else target
    notify(json.dumps(synthesize(target, chat, args.out, plan, avoid, args.openings, notify)))


def do_train(args: argparse.Namespace) -> None:
    target = target_of(args)
    training, held_out = Rows.read(args.data, target.vocab_size, notify=notify).split(args.hold_out)
    notify(f"{len(training)} rows to train on, {len(held_out)} held out")
    plan = TrainingPlan(**{f.name: getattr(args, f.name) for f in fields(TrainingPlan)})
    recipes = [Recipe.parse(text) for text in args.drafter]
    if not args.resume and (args.out / "checkpoint.pt").exists():
        raise TrainingError(f"{args.out} holds a run already: add --resume, or choose another --out.")
    mask_token_id = Chat.load(args.target).mask_token(target.vocab_size, target.stop_ids)
    target = target.compiled() if args.compile else target
    trainer = Trainer(target, training, recipes, plan, args.out, mask_token_id, notify)
    if args.resume:
        trainer.resume()
    trainer.run()
    data: dict = {"files": [f.name for f in args.data], "rows": len(training), "held_out": len(held_out)}
    for file in args.data:
        record = record_beside(file)
        if record.exists():
            data.setdefault("written_by", []).append(json.loads(record.read_text()))
    for directory in trainer.write_drafters(data):
        notify(f"wrote {directory}")


def do_evaluate(args: argparse.Namespace) -> None:
    target, chat = target_of(args), Chat.load(args.target)
    drafters = {d.name: TorchDrafter.load(d, str(target.device)) for d in args.drafter}
    results, details = evaluate(target, chat, drafters, args.prompts, args.new_tokens, args.limit)
    for name, sets in results.items():
        notify(name + "  " + "  ".join(f"{s} {r['tokens_per_round']:.3f}" for s, r in sets.items()))
    protocol = {
        "protocol": "greedy, teacher-forced walk; bonus included, prefill token not",
        "new_tokens": args.new_tokens,
        "target_precision": str(target.dtype).removeprefix("torch."),
    }
    for d in args.drafter:
        (d / "evaluation.json").write_text(json.dumps(protocol | {"sets": results[d.name]}, indent=1) + "\n")
    if args.details:
        args.details.write_text(json.dumps(details) + "\n")


def do_calibrate(args: argparse.Namespace) -> None:
    target = target_of(args)
    drafter = TorchDrafter.load(args.drafter, str(target.device))
    _, rows = Rows.read(args.data, target.vocab_size, notify=notify).split(args.hold_out)
    rows = rows.part(torch.nonzero(rows.temperature == 0).flatten())
    sides = answers_by_side(rows, args.new_tokens)
    fitted, judged = (full_rounds(target, drafter, answers, args.batch) for answers in sides)
    result = (calibrate if drafter.config.confidence else calibrate_margins)(*fitted, *judged)
    result |= {"prompts": len(sides[1]), "fit_prompts": len(sides[0])}
    (args.drafter / "calibration.json").write_text(json.dumps(result, indent=1) + "\n")
    notify(json.dumps(result))


def do_export(args: argparse.Namespace) -> None:
    target = None
    if args.format == "native":
        target = TorchTarget.load(args.target, "cpu", torch.float32)
    out = export(args.drafter, args.out, target, args.format, args.bits, args.group_size)
    size = (out / "model.safetensors").stat().st_size
    notify(f"wrote {out}: {size / 1e6:.1f} MB")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m dspark_core.training", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)

    def add(name, do, text):
        p = commands.add_parser(name, help=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        p.set_defaults(do=do)
        p.add_argument("target", type=Path, help="the target's directory (mlx-lm or Hugging Face)")
        p.add_argument("--device", default="auto", help="auto, cuda, mps or cpu")
        p.add_argument("--precision", default="auto", choices=["auto", "bfloat16", "float32"])
        return p

    p = add("synthesize", do_synthesize, "let the target write training data")
    p.add_argument("--out", type=Path, required=True, help="the .jsonl or .jsonl.xz file to write")
    p.add_argument("--tokens", type=int, default=0)
    p.add_argument("--minutes", type=float, default=0.0)
    p.add_argument("--rows", type=int, default=1024, help="rows written at a time")
    p.add_argument("--length", type=int, default=512, help="tokens a row")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--avoid", type=Path, nargs="*", default=[], help="files whose texts must not be in the data")
    p.add_argument("--openings", type=Path, default=None, help="another openings.toml")
    p.add_argument("--compile", action="store_true")

    p = add("train", do_train, "train one or several drafters on the same batches")
    p.add_argument("data", type=Path, nargs="+")
    p.add_argument("--out", type=Path, required=True)
    p.add_argument(
        "--drafter", action="append", required=True, help=f"METHOD[:key=value,...]; methods {', '.join(RECIPES)}"
    )
    p.add_argument("--hold-out", type=int, default=0, help="last rows kept for calibration")
    p.add_argument("--resume", action="store_true")
    p.add_argument("--compile", action="store_true")
    for f in fields(TrainingPlan):
        p.add_argument("--" + f.name.replace("_", "-"), type=f.type, default=f.default)

    p = add("evaluate", do_evaluate, "tokens per round on prompt files")
    p.add_argument("drafter", type=Path, nargs="+")
    p.add_argument("--prompts", type=Path, nargs="+", required=True, help='files of {"prompt": ...} lines')
    p.add_argument("--new-tokens", type=int, default=128)
    p.add_argument("--limit", type=int, default=0, help="first prompts of each file only")
    p.add_argument("--details", type=Path, default=None, help="where to write answers and rounds")

    p = add(
        "calibrate",
        do_calibrate,
        "acceptance by position on held-out rows; how its confidence is to be read",
    )
    p.add_argument("drafter", type=Path)
    p.add_argument("data", type=Path, nargs="+")
    p.add_argument("--hold-out", type=int, required=True)
    p.add_argument("--new-tokens", type=int, default=128)
    p.add_argument("--batch", type=int, default=8)

    p = add("export", do_export, "write a drafter for engines to load")
    p.add_argument("drafter", type=Path)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--format", choices=["native", "packed"], required=True)
    p.add_argument("--bits", type=int, default=8, choices=[4, 8])
    p.add_argument("--group-size", type=int, default=64, choices=[32, 64, 128])
    return top


def main() -> None:
    args = parser().parse_args()
    try:
        args.do(args)
    except TrainingError as e:
        sys.exit(str(e))
    except OSError as e:  # a full disk, a folder that cannot be written
        sys.exit(f"{e.filename}: {e.strerror}." if e.filename else f"{e.strerror or e}.")


if __name__ == "__main__":
    main()
