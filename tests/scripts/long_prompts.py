"""Does a drafter draft better behind a long prompt if it looks at the newest rows of its context alone?

    python -m tests.scripts.long_prompts PROMPTS.jsonl ... [--lengths 500 2000 4000 6000] [--newest 0 4096 1024 512]
        [--drafter assets/models/NAME ...] [--questions 2] [--tokens 64] [--log LOG.jsonl]

A prompt is as many of the files' prompts as make a list of the wished length, and a question about them. The target's
greedy answer is decoded once; then it is walked through with every drafter and limit, whole blocks. Printed are tokens
per round. A log is gone on with.
"""

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path

import mlx.core as mx

from dspark_core.decode.sampling import Greedy
from dspark_core.models.checkpoint import load_drafter
from dspark_core.models.drafter import BlockDrafter
from dspark_core.models.target import Target, load_target

ASSETS = Path(__file__).resolve().parents[2] / "assets" / "models"
CHUNK = 512
QUESTIONS = (
    "Pick one of these tasks, say which one, and solve it step by step.",
    "Write a short plan for a student who wants to learn to solve tasks of these kinds.",
    "Write a Python function that counts how many of these tasks mention a number.",
    "Which of these tasks are about mathematics? Explain how you can tell.",
)


def prompt_of(target: Target, tasks: list[str], length: int, question: str) -> list[int]:
    """Token ids of about `length` tokens."""
    chosen: list[str] = []
    ids: list[int] = []
    for n, task in enumerate(tasks, 1):
        longer = [*chosen, f"Task {n}: {task}"]
        ids_longer = target.encode_chat([{"role": "user", "content": "\n\n".join([*longer, question])}])
        if len(ids_longer) > length and chosen:
            break
        chosen, ids = longer, ids_longer
    return ids


def answered(target: Target, prompt: list[int], taps: tuple[int, ...], tokens: int) -> tuple[list[int], mx.array]:
    """Prompt and greedy answer, and the taps [T - 1, m*d] of all but its last token."""
    cache, text, rows = target.new_cache(), list(prompt), []
    for at in range(0, len(prompt), CHUNK):
        hidden, features = target.forward(mx.array(prompt[at : at + CHUNK]), cache, taps)
        mx.eval(hidden, features, [c.state for c in cache])
        rows.append(features)
    while True:
        text.append(int(mx.argmax(target.head(hidden[-1:]), axis=-1).item()))
        if len(text) == len(prompt) + tokens or text[-1] in target.stop_ids:
            return text, mx.concatenate(rows)
        hidden, features = target.forward(mx.array(text[-1:]), cache, taps)
        rows.append(features)


def walk(drafter: BlockDrafter, text: list[int], start: int, taps: mx.array) -> list[int]:
    """Tokens of each round over text[start:]."""
    context, at, rounds = drafter.begin(), start, []
    for i in range(0, start, CHUNK):
        context.extend(mx.array(text[i : min(i + CHUNK, start)]), taps[i : min(i + CHUNK, start)])
        mx.eval(context.state)
    while at < len(text) - 1:
        n = min(drafter.info.max_drafts, len(text) - 1 - at)
        drafts = context.propose(mx.array(text[at : at + 1]), n, Greedy()).ids.tolist()
        k = next((k for k, d in enumerate(drafts) if d != text[at + 1 + k]), n)
        context.extend(mx.array(text[at : at + k + 1]), taps[at : at + k + 1])
        if n == drafter.info.max_drafts:  # what the answer's end cuts off counts for nothing
            rounds.append(k + 1)
        at += k + 1
    return rounds


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("prompts", type=Path, nargs="+")
    p.add_argument("--lengths", type=int, nargs="+", default=[500, 2000, 4000, 6000])
    p.add_argument("--newest", type=int, nargs="+", default=[0, 4096, 1024, 512])
    p.add_argument("--drafter", type=Path, nargs="+", default=[ASSETS / "dspark-smollm2-135m-b7"])
    p.add_argument("--questions", type=int, default=2)
    p.add_argument("--tokens", type=int, default=64)
    p.add_argument("--log", type=Path, default=Path("long_prompts.jsonl"))
    args = p.parse_args()
    target = load_target(ASSETS / "smollm2-135m-instruct")
    files = [[json.loads(line)["prompt"] for line in f.read_text().splitlines()] for f in args.prompts]
    tasks = [task for several in zip(*files, strict=False) for task in several]
    drafters = {
        (d.name, n): load_drafter(d, target, newest=n)
        for d in args.drafter
        for n in sorted({0, *args.newest}, key=lambda n: n or 1 << 30, reverse=True)
    }
    taps = next(iter(drafters.values())).taps
    found = [json.loads(line) for line in args.log.read_text().splitlines()] if args.log.exists() else []
    done = {(x["length"], x["question"], x["drafter"], x["newest"]) for x in found}
    with args.log.open("a") as log:
        for q, question in enumerate(QUESTIONS[: args.questions]):
            for length in args.lengths:
                todo = [k for k in drafters if k[1] < length and (length, q, *k) not in done]
                if not todo:
                    continue
                prompt, began = prompt_of(target, tasks[7 * q :], length, question), time.perf_counter()
                text, features = answered(target, prompt, taps, args.tokens)
                for name, n in todo:
                    assert drafters[name, n].taps == taps
                    rounds = walk(drafters[name, n], text, len(prompt), features)
                    seconds = round(time.perf_counter() - began, 1)
                    found.append({"length": length, "question": q, "drafter": name, "newest": n, "rounds": rounds})
                    print(json.dumps(found[-1]), file=log, flush=True)
                    print(name, "newest", n, "prompt", len(prompt), "rounds", len(rounds), seconds, "s", flush=True)
    groups = defaultdict(list)
    for x in found:
        groups[x["drafter"], x["length"], x["newest"]] += x["rounds"]
    for (name, length, n), rounds in sorted(groups.items()):
        print(f"{name} | {length} | {n or 'all'} | {sum(rounds) / max(1, len(rounds)):.2f} | {len(rounds)} rounds")


if __name__ == "__main__":
    main()
