"""`python -m dspark_core.training`: synthesize, train, evaluate, calibrate, export."""

import argparse
import json
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch

from . import TrainingError
from .calibrate import acceptance, calibrate
from .chat import load_chat
from .data import Rows, read_rows, split
from .evaluate import Answer, evaluate, walk
from .export import export
from .synthesize import read_texts, record_beside, synthesize
from .torch_drafter import Drafter, load_drafter
from .torch_target import Target, load_target
from .train import METHODS, Plan, Trainer, parse_recipe


def say(text: str) -> None:
    print(text, flush=True)


def open_target(args) -> Target:
    device = args.device
    if device == "auto":
        mps = torch.backends.mps.is_available()
        device = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    dtype = {"auto": None, "bfloat16": torch.bfloat16, "float32": torch.float32}[args.precision]
    return load_target(args.target, device, dtype)


def do_synthesize(args) -> None:
    target, chat = open_target(args), load_chat(args.target)
    record = synthesize(
        target.compiled() if args.compile else target,
        chat,
        args.out,
        tokens=args.tokens,
        minutes=args.minutes,
        rows=args.rows,
        length=args.length,
        seed=args.seed,
        avoid=[text for file in args.avoid for text in read_texts(file)],
        openings_file=args.openings,
        say=say,
    )
    say(json.dumps(record))


def do_train(args) -> None:
    target = open_target(args)
    rows = read_rows(args.data, target.vocab_size, say=say)
    training, held_out = split(rows, args.hold_out)
    say(f"{len(training)} rows to train on, {len(held_out)} held out")
    plan = Plan(**{f.name: getattr(args, f.name) for f in fields(Plan)})
    recipes = [parse_recipe(text) for text in args.drafter]
    if not args.resume and (args.out / "checkpoint.pt").exists():
        raise TrainingError(f"{args.out} holds a run already: add --resume, or choose another --out.")
    trainer = Trainer(target, training, recipes, plan, args.out, mask_token(args.target, target), args.compile, say)
    if args.resume:
        trainer.resume()
    trainer.run()
    data = {"files": [f.name for f in args.data], "rows": len(training), "held_out": len(held_out)}
    for file in args.data:
        record = record_beside(file)
        if record.exists():
            data.setdefault("written_by", []).append(json.loads(record.read_text()))
    for directory in trainer.write_drafters(data):
        say(f"wrote {directory}")


def mask_token(directory: Path, target: Target) -> int:
    """A token that no chat uses: the first row of the embedding past the tokenizer's vocabulary (what DeepSpec takes
    for Qwen3), else the last special token that the template leaves alone, else the last id."""
    chat = load_chat(directory)
    size = chat.tokenizer.get_vocab_size(with_added_tokens=True)
    if size < target.vocab_size:
        return size
    used = {*chat.start, *chat.to_answer, *chat.to_user, *target.stop_ids}
    special = sorted(i for i, t in chat.tokenizer.get_added_tokens_decoder().items() if t.special)
    free = [i for i in special if i not in used and i < target.vocab_size]
    return free[-1] if free else target.vocab_size - 1


def do_evaluate(args) -> None:
    target, chat = open_target(args), load_chat(args.target)
    drafters = {d.name: load_drafter(d, str(target.device)) for d in args.drafter}
    results, details = evaluate(target, chat, drafters, args.prompts, args.new_tokens, args.limit)
    for name, sets in results.items():
        say(name + "  " + "  ".join(f"{s} {r['tokens_per_round']:.3f}" for s, r in sets.items()))
    protocol = {
        "protocol": "greedy, teacher-forced walk; bonus included, prefill token not",
        "new_tokens": args.new_tokens,
        "target_precision": str(target.dtype).removeprefix("torch."),
    }
    for d in args.drafter:
        (d / "evaluation.json").write_text(json.dumps(protocol | {"sets": results[d.name]}, indent=1) + "\n")
    if args.details:
        args.details.write_text(json.dumps(details) + "\n")


def do_calibrate(args) -> None:
    target = open_target(args)
    drafter = load_drafter(args.drafter, str(target.device))
    _, rows = split(read_rows(args.data, target.vocab_size, say=say), args.hold_out)
    rows = rows.part(torch.nonzero(rows.temperature == 0).flatten())
    sides = halves(rows, args.new_tokens)
    fitted, judged = (full_rounds(target, drafter, answers, args.batch) for answers in sides)
    if drafter.config.confidence:
        result = calibrate(*fitted, *judged) | {"prompts": len(sides[1]), "fit_prompts": len(sides[0])}
    else:
        result = acceptance(np.concatenate([fitted[1], judged[1]])) | {"prompts": len(sides[0]) + len(sides[1])}
    (args.drafter / "calibration.json").write_text(json.dumps(result, indent=1) + "\n")
    say(json.dumps(result))


def halves(rows: Rows, new_tokens: int) -> tuple[list[Answer], list[Answer]]:
    """The first answer of each row, cut at `new_tokens`: those to fit on and those to judge on. The same prompt always
    falls on the same side."""
    sides: tuple[list[Answer], list[Answer]] = ([], [])
    for i, key in enumerate(rows.prompts()):
        ids, inside = rows.ids[i].tolist(), rows.answer[i].tolist()
        start = inside.index(True)
        end = start
        while end < min(len(ids), start + new_tokens) and inside[end]:
            end += 1
        sides[sum(key) % 2].append(Answer(ids[:end], start, end))
    return sides


def full_rounds(target: Target, drafter: Drafter, answers: list[Answer], batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Of every round that had room for a whole block: confidence logits [N, K] (K 0 without a head) and whether the
    first k + 1 drafts were all accepted [N, K]."""
    K = drafter.config.drafts
    rounds = [r for walked in walk(target, drafter, answers, batch) for r in walked if r.possible == K]
    logits = np.array([r.confidence for r in rounds]).reshape(len(rounds), -1)
    return logits, np.array([[r.accepted > k for k in range(K)] for r in rounds], float).reshape(-1, K)


def do_export(args) -> None:
    target = None
    if args.format == "native":
        target = load_target(args.target, "cpu", torch.float32)
    out = export(args.drafter, args.out, target, args.format, args.bits, args.group_size)
    size = (out / "model.safetensors").stat().st_size
    say(f"wrote {out}: {size / 1e6:.1f} MB")


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
        "--drafter", action="append", required=True, help=f"METHOD[:key=value,...]; methods {', '.join(METHODS)}"
    )
    p.add_argument("--hold-out", type=int, default=0, help="last rows kept for calibration")
    p.add_argument("--resume", action="store_true")
    p.add_argument("--compile", action="store_true")
    for f in fields(Plan):
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
        "acceptance by position on held-out rows; temperatures of a confidence head",
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
