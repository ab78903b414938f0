"""Does the MLX engine speculate in the rounds that the teacher-forced walk (PyTorch) finds?

    .venv/bin/python -m tests.scripts.rounds_agree assets/models/smollm2-135m-instruct \\
        assets/models/dspark-smollm2-135m-b7 \\
        --prompts FILE.jsonl ... --limit 4 --tokens 128 --log rounds.jsonl

Not part of the test suite: on 2 cores a prompt of 128 tokens takes half a minute with each drafter. Both sides read the
same dense copies of the models, made in a temporary folder. In float32 the two differ by the order of their sums only;
in bfloat16, as the engine ships, near ties fall differently now and then. The text is the engine's own greedy answer.
Each of the engine's rounds is held against the walk's round from the same place, so that one difference is counted
once and does not shift what follows. A log is gone on with: pairs that it holds are not decoded again.
"""

import argparse
import json
import tempfile
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import mlx.core as mx
import torch

from dspark_core.decode.rounds import Round, Settings, Start
from dspark_core.decode.schedule import FullBlock
from dspark_core.decode.speculative import speculative
from dspark_core.models.checkpoint import load_drafter as load_mlx_drafter
from dspark_core.models.target import load_target as load_mlx_target
from dspark_core.training.data import Chat
from dspark_core.training.evaluate import Answer, draft_everywhere, read_prompts, walk_answers
from dspark_core.training.torch_drafter import TorchDrafter
from dspark_core.training.torch_target import TorchTarget

DTYPES = {"float32": (mx.float32, torch.float32), "bfloat16": (mx.bfloat16, torch.bfloat16)}


@dataclass(frozen=True)
class Rounds:
    """One answer of `tokens` tokens with one drafter. engine: tokens each of the engine's rounds committed; walk:
    those of the walk, over the whole answer; agree: how many of the engine's rounds the walk finds from the same
    place."""

    tokens: int
    engine: list[int]
    walk: list[int]
    agree: int


def compare(mlx_target, mlx_drafter, target, drafter, prompt: list[int], new_tokens: int) -> Rounds:
    """The engine's greedy answer to `prompt` at full block, and the walk over that answer."""
    events = list(speculative(mlx_target, mlx_drafter, prompt, Settings(max_tokens=new_tokens), FullBlock()))
    said = [e.token_id for e in events if isinstance(e, Start)]
    rounds = [e for e in events if isinstance(e, Round)]
    for r in rounds:
        said += r.committed
    answer = Answer(prompt + said, len(prompt), len(prompt) + len(said))
    engine = agree = [len(r.committed) for r in rounds]
    with torch.inference_mode():
        walked = [w.tokens for w in walk_answers(target, drafter, [answer])[0]]
        if walked != engine:
            accepted = draft_everywhere(target, drafter, [answer])[0][0].tolist()
            # What follows the answer's end is unknown to the walk.
            there = [min(accepted[r.position - answer.start] + 1, answer.end - 1 - r.position) for r in rounds]
            agree = [a for a, b in zip(engine, there, strict=True) if a == b]
    return Rounds(len(said), engine, walked, len(agree))


def dense_copy(source: Path, out: Path, dtype: mx.Dtype) -> Path:
    """`source`, an MLX directory, with no weight quantized and all of them in `dtype`."""
    out.mkdir()
    config = json.loads((source / "config.json").read_text())
    q = config.pop("quantization", None) or {}
    config.pop("quantization_config", None)
    raw = {}
    for file in sorted(source.glob("model*.safetensors")):
        raw |= mx.load(str(file))
    dense = {}
    for name, w in raw.items():
        base = name.removesuffix(".weight")
        if name.endswith((".scales", ".biases")):
            continue
        if f"{base}.scales" in raw:
            scales, biases = (raw[f"{base}.{n}"].astype(mx.float32) for n in ("scales", "biases"))
            own = q.get(base)
            own = own if isinstance(own, dict) else q
            w = mx.dequantize(w, scales, biases, group_size=own["group_size"], bits=own["bits"])
        dense[name] = w.astype(dtype)
    mx.save_safetensors(str(out / "model.safetensors"), dense, metadata={"format": "mlx"})
    (out / "config.json").write_text(json.dumps(config))
    for file in source.glob("tokenizer*"):
        (out / file.name).write_bytes(file.read_bytes())
    return out


class Pair:
    """A target and drafters on both sides, from the same dense copies in `folder`."""

    def __init__(self, target: Path, drafters: list[Path], folder: Path, precision: str):
        mlx_dtype, torch_dtype = DTYPES[precision]
        copy = dense_copy(target, folder / target.name, mlx_dtype)
        self.chat = Chat.load(copy)
        self.mlx_target, self.target = load_mlx_target(copy), TorchTarget.load(copy, dtype=torch_dtype)
        copies = [dense_copy(d, folder / d.name, mlx_dtype) for d in drafters]
        self.mlx_drafters = {c.name: load_mlx_drafter(c, self.mlx_target) for c in copies}
        self.drafters = {c.name: TorchDrafter.load(c) for c in copies}

    def compare(self, name: str, text: str, new_tokens: int) -> Rounds:
        engine, walking = (self.mlx_target, self.mlx_drafters[name]), (self.target, self.drafters[name])
        return compare(*engine, *walking, self.chat.prompt(text), new_tokens)


def table(found: list[dict]) -> str:
    """Markdown: a line for each drafter and set."""
    groups = defaultdict(list)
    for c in found:
        groups[c["drafter"], c["set"]].append(c)
    lines = ["| drafter | set | prompts | rounds | the same | tokens per round: engine | walk |", "|---" * 7 + "|"]
    for (drafter, name), group in sorted(groups.items()):
        rounds, walked = sum(len(c["engine"]) for c in group), sum(len(c["walk"]) for c in group)
        tokens, agree = sum(sum(c["engine"]) for c in group), sum(c["agree"] for c in group)
        rates = f"{tokens / rounds:.3f} | {tokens / walked:.3f}"
        lines.append(f"| {drafter} | {name} | {len(group)} | {rounds} | {agree} | {rates} |")
    return "\n".join(lines)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("target", type=Path)
    p.add_argument("drafter", type=Path, nargs="+")
    p.add_argument("--prompts", type=Path, nargs="+", required=True)
    p.add_argument("--limit", type=int, default=4)
    p.add_argument("--tokens", type=int, default=128)
    p.add_argument("--precision", choices=DTYPES, default="float32")
    p.add_argument("--log", type=Path, required=True)
    args = p.parse_args()
    found = []
    if args.log.exists():
        found = [json.loads(line) for line in args.log.read_text().splitlines()]
    done = {(c["set"], c["prompt"], c["drafter"]) for c in found}
    prompts = {f.stem: read_prompts(f)[: args.limit] for f in args.prompts}
    with tempfile.TemporaryDirectory() as folder, open(args.log, "a") as log:
        pair = Pair(args.target, args.drafter, Path(folder), args.precision)
        for i in range(args.limit):
            for name, texts in prompts.items():
                for drafter in pair.drafters:
                    if i >= len(texts) or (name, i, drafter) in done:
                        continue
                    rounds = asdict(pair.compare(drafter, texts[i], args.tokens))
                    found.append({"set": name, "prompt": i, "drafter": drafter} | rounds)
                    print(json.dumps(found[-1]), file=log, flush=True)
    print(table(found))


if __name__ == "__main__":
    main()
