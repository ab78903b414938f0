"""What looking at a greedy round costs: recomputing it on demand against the prefill of its prefix. Prints the figures.

    python tests/scripts/inspect_cost.py [ROUNDS] [PROMPT_TOKENS]

The embedded model's target prefills the same prefix as the plain loop does, and the inspector recomputes the round with
nothing at hand, in alternation; the ratio of each pair, and their median. `again` is a neighbouring round, with the
prefix of the one before still at hand. PROMPT_TOKENS lengthens the prompt to about that many.
"""

import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dspark_core.decode.plain import plain
from dspark_core.decode.rounds import Round, Settings, Start
from dspark_core.decode.schedule import FullBlock
from dspark_core.decode.speculative import speculative
from dspark_core.models.checkpoint import load_drafter
from dspark_core.models.target import load_target
from dspark_core.presets import load_presets, load_prompts
from dspark_core.race.inspector import Inspector
from dspark_core.race.race import Models
from dspark_core.race.records import LaneRecord, LaneSpec


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    wanted = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    preset, words = load_presets()[0], next(p.text for p in load_prompts() if p.title == "Binary search")
    target = load_target(preset.target)
    drafters = {d.method: load_drafter(d.path, target) for d in preset.drafters}
    prompt = target.encode_chat([{"role": "user", "content": words}])
    while len(prompt) < wanted:
        words = f"{words} {words}"
        prompt = target.encode_chat([{"role": "user", "content": words}])[: wanted or None]
    settings = Settings(48)
    models = Models(target, drafters)
    for method, drafter in drafters.items():
        lane = LaneRecord(LaneSpec(method))
        for event in speculative(target, drafter, prompt, settings, FullBlock()):
            if isinstance(event, Start | Round):
                lane.add(event)
        look, ratios, again = Inspector(models), [], []
        look.inspect(prompt, lane, 0, settings)  # what is compiled once
        for k in range(min(count, len(lane.rounds))):
            r = lane.rounds[k]
            prefix = [*prompt, *lane.output][: r.position]
            began = time.perf_counter()
            next(e for e in plain(target, prefix, Settings(1)) if isinstance(e, Start))
            prefill = time.perf_counter() - began
            look.forget()
            seen = look.inspect(prompt, lane, k, settings)
            ratios.append(seen.seconds / prefill)
            if k + 1 < len(lane.rounds):
                again.append(look.inspect(prompt, lane, k + 1, settings).seconds)
            told = f"{method} {k + 1}: prefix {len(prefix)}, prefill {prefill:.2f} s, look {seen.seconds:.2f} s"
            print(told, file=sys.stderr)
        print(json.dumps({
            "method": method, "rounds": len(ratios), "prompt_tokens": len(prompt),
            "look_over_prefill": {"median": round(statistics.median(ratios), 2), "max": round(max(ratios), 2)},
            "again_s": round(statistics.median(again), 2),
        }))  # fmt: skip


if __name__ == "__main__":
    main()
