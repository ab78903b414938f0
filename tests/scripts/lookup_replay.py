"""What text lookup would send, accept and win on recorded answers, by a machine's costs: nothing is timed.

    python -m tests.scripts.lookup_speed --prompts chat --record answers.jsonl
    python -m tests.scripts.lookup_replay answers.jsonl [--device CPU|CUDA|Metal] [--limit N]

A line of the file is {"prompt": [ids], "answer": [ids]}, greedy. The schedule is run as a decode runs it, round by
round, against what the answer says; a round takes what the shape of such a device has for it (bundled_curve.py), and a
plain step that was not on the device when its round began what a verification of one token takes. Printed are x plain
over all answers, and by tokens in common how often lookup was right with its first draft, sent or not.
"""

import argparse
import json
import statistics
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from dspark_core.decode.bundled_curve import bundled_curve
from dspark_core.decode.cost_curve import WAITED, CostCurve
from dspark_core.decode.previewing import PreviewAware
from dspark_core.decode.rounds import Round
from dspark_core.models.drafters.lookup import MAX_DRAFTS, METHOD, PairIndex

NAME = METHOD.lower()


@dataclass
class Replay:
    """One answer under the schedule. `right`: of first drafts, by tokens in common; `tried`: all of them."""

    curve: CostCurve
    right: Counter[int]
    tried: Counter[int]
    sent: int = 0
    accepted: int = 0

    def times(self, prompt: list[int], answer: list[int]) -> float:
        """x plain, from the first token on."""
        context, schedule = PairIndex(), PreviewAware(self.curve, NAME).begin(MAX_DRAFTS)
        context.extend(mx.array(prompt, dtype=mx.int32), None)
        at, ahead, seconds, plain, index = 1, False, 0.0, 0.0, 0
        while at < len(answer):
            anchor, position = answer[at - 1], len(prompt) + at - 1
            found, common = context.preview(anchor), context.longest(anchor)[1]
            schedule.preview(found.ids, found.confidence, position)
            n = 0 if ahead else min(schedule.drafts(MAX_DRAFTS, position), len(found.ids))
            if found.ids:
                self.tried[common] += 1
                self.right[common] += found.ids[0] == answer[at]
            accepted = 0
            while accepted < min(n, len(answer) - 1 - at) and found.ids[accepted] == answer[at + accepted]:
                accepted += 1
            committed = answer[at : at + accepted + 1]
            step = self.curve.plain_s(position)
            alone = step if ahead else max(step, self.curve.verify_s(1, position))
            seconds += self.curve.round_s(NAME, n, n, position, WAITED) if n else alone
            plain += step * len(committed)
            ahead = not n and schedule.parked()
            drafts = tuple(found.ids[:n])
            schedule.observe(
                Round(index, position, anchor, drafts, n, accepted, committed[-1], False, tuple(committed), seconds)
            )
            context.extend(mx.array([anchor, *committed[:-1]], dtype=mx.int32), None)
            self.sent, self.accepted, at, index = self.sent + n, self.accepted + accepted, at + accepted + 1, index + 1
        return plain / seconds


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("answers", type=Path)
    p.add_argument("--device", default="CPU")
    p.add_argument("--limit", type=int)
    a = p.parse_args()
    rows = [json.loads(line) for line in a.answers.read_text("utf-8").splitlines()[: a.limit]]
    replay = Replay(bundled_curve({"device": a.device}, [NAME], hosted=[NAME]), Counter(), Counter())
    found = sorted(replay.times(row["prompt"], row["answer"]) for row in rows if len(row["answer"]) > 1)
    tenths = [round(found[min(k * len(found) // 10, len(found) - 1)], 3) for k in range(11)]
    print(json.dumps({"answers": len(found), "mean": round(statistics.mean(found), 3), "tenths": tenths}))
    print(json.dumps({"sent": replay.sent, "accepted": replay.accepted}))
    for common in sorted(replay.tried):
        n = replay.tried[common]
        print(json.dumps({"in_common": common, "first_drafts": n, "right": round(replay.right[common] / n, 3)}))


if __name__ == "__main__":
    main()
