"""What the embedded DSpark drafter's block comes to at every position of greedy answers, for schedule_sim.py.

    python -m tests.scripts.record_acceptance PROMPTS_DIRECTORY OUT.json [--answers 12] [--tokens 96]

PROMPTS_DIRECTORY holds a .jsonl file of {"prompt": ...} lines for each set, of which the shortest prompts are taken.
The target answers them greedily (PyTorch, in bfloat16, as the engine runs); then a block is drafted at every position
of every answer at once. Written is {"acceptance": what the drafter is known to accept, a number a slot; "answers":
{set: [text]}}: a text has one group for each position, the accepted drafts as one digit and then two digits for each
slot's calibrated confidence, in hundredths. Ten CPU minutes, most of it the answers.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from dspark_core.models.config import read_calibration
from dspark_core.training.data import Chat
from dspark_core.training.evaluate import draft_everywhere, greedy_answers, read_prompts
from dspark_core.training.torch_drafter import TorchDrafter
from dspark_core.training.torch_target import TorchTarget

ASSETS = Path(__file__).resolve().parents[2] / "assets" / "models"
TARGET, DRAFTER = ASSETS / "smollm2-135m-instruct", ASSETS / "dspark-smollm2-135m-b7"
ROWS = 4  # answers walked at once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--answers", type=int, default=12, help="of each set")
    parser.add_argument("--tokens", type=int, default=96)
    args = parser.parse_args()
    target, chat = TorchTarget.load(TARGET, dtype=torch.bfloat16), Chat.load(TARGET)
    drafter = TorchDrafter.load(DRAFTER)
    calibration = read_calibration(DRAFTER, drafter.config.drafts)
    sets = {f.stem: sorted(read_prompts(f), key=len)[: args.answers] for f in sorted(args.prompts.glob("*.jsonl"))}
    began = time.perf_counter()
    everything = [p for prompts in sets.values() for p in prompts]
    answers = iter(greedy_answers(target, chat, everything, args.tokens, drafter.config.drafts))
    print(f"answers: {time.perf_counter() - began:.0f} s", flush=True)
    found: dict[str, list[str]] = {}
    for name, prompts in sets.items():
        own = [next(answers) for _ in prompts]
        found[name] = []
        for i in range(0, len(own), ROWS):
            part = own[i : i + ROWS]
            with torch.inference_mode():
                accepted, logits = draft_everywhere(target, drafter, part)
            if calibration.temperatures:
                logits = logits / torch.tensor(calibration.temperatures)
            percent = (100 * logits.sigmoid()).round().clamp(1, 99).int().tolist()
            for a, row, sure in zip(part, accepted.tolist(), percent, strict=True):
                places = range(a.end - a.start - 1)
                found[name].append("".join(f"{row[at]}" + "".join(f"{c:02d}" for c in sure[at]) for at in places))
        acceptance = [round(a, 4) for a in calibration.acceptance]
        args.out.write_text(json.dumps({"acceptance": acceptance, "answers": found}, indent=1) + "\n")
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
