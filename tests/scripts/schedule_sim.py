"""The hardware-aware schedule on recorded blocks and measured cost curves, against every fixed cap in hindsight.

    python -m tests.scripts.schedule_sim [RECORDING.json ...] [--wait SHARE ...]

The recording (record_acceptance.py makes one) says what a block at any position of an answer comes to, so any schedule
can be replayed on it without a model; tests/golden/curves says what its rounds cost. The target's own plain step is
that of mlx-lm where a curve names it. Printed is, set by set and curve by curve, the best cap, its speed over plain
decoding's, the schedule's speed over that cap's, and over plain decoding's; `--wait`: what waiting for the confidences
costs, as a share of a plain step (the curves do not have it).
"""

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from dspark_core.decode.adaptive import HardwareAware
from dspark_core.decode.cost_curve import BLIND, WAITED, CostCurve, Costs, Timing
from dspark_core.decode.rounds import Round
from dspark_core.decode.schedule import FixedCap, Schedule

GOLDEN = Path(__file__).parents[1] / "golden"
RECORDING = GOLDEN / "acceptance.json"
METHOD, SLOTS, CONTEXT = "dspark", 7, 64
OUTLIER_MS, OUTLIER_IS_MS = 793.3, 60.0  # a draft point measured once, while something else ran
UNPUBLISHED_MS = (10, 20, 30)  # draft times, where a curve has none
LEAST = 0.97  # of the best cap, and of plain decoding


@dataclass(frozen=True)
class Place:
    """What a block at one position of an answer comes to: drafts accepted, and the confidence of each slot."""

    accepted: int
    confidence: tuple[float, ...]


def recorded(file: Path = RECORDING) -> tuple[tuple[float, ...], dict[str, list[list[Place]]]]:
    """What is known of the drafter's acceptance, a number a slot; and by set the places of every answer."""
    raw = json.loads(file.read_text())

    def places(text: str) -> list[Place]:
        groups = re.findall("." * (1 + 2 * SLOTS), text)
        return [Place(int(g[0]), tuple(int(c) / 100 for c in re.findall("..", g[1:]))) for g in groups]

    return tuple(raw["acceptance"]), {name: [places(a) for a in answers] for name, answers in raw["answers"].items()}


def timing(raw: dict[str, float] | float) -> Timing:
    ms = raw if isinstance(raw, dict) else {"median_ms": raw}
    median = OUTLIER_IS_MS if ms["median_ms"] == OUTLIER_MS else ms["median_ms"]
    low, high = ms.get("low_ms", median), ms.get("high_ms", median)
    return Timing(median / 1e3, low / 1e3, high / 1e3, 5)


def curves() -> Iterator[tuple[str, CostCurve]]:
    """(name, curve) of every file, and of every draft time where it has none."""
    for file in sorted((GOLDEN / "curves").glob("*.json")):
        raw = json.loads(file.read_text())
        own = re.search(r"([0-9.]+) ms", raw.get("plain_note", ""))
        plain = timing(float(own[1]) if own else raw["plain"])
        verify = {int(w): timing(t) for w, t in raw["verify"].items()}
        measured = {int(n): timing(t) for n, t in raw.get("draft", {}).get("DSpark", {}).items()}
        for ms in (None,) if measured else UNPUBLISHED_MS:
            draft = measured or dict.fromkeys(range(SLOTS + 1), timing(float(ms or 0)))
            costs = Costs(CONTEXT, plain, verify, {METHOD: draft})
            name = file.stem + (f" {ms} ms" if ms else "")
            yield name, CostCurve({}, "2026-11-26T00:00:00+00:00", 0.0, (costs,))


def with_wait(curve: CostCurve, seconds: float) -> CostCurve:
    """The curve with what waiting for the confidences costs."""
    costs = curve.costs[0]
    parts = curve.draft_s(METHOD, SLOTS, CONTEXT) + curve.verify_s(SLOTS + 1, CONTEXT)
    whole = {mode: Timing(s, s, s, 5) for mode, s in ((BLIND, parts), (WAITED, parts + seconds))}
    return replace(curve, costs=(replace(costs, whole={METHOD: whole}),))


def bent(curve: CostCurve, plain: float, verify: float, draft: float, wide: float = 1.0) -> CostCurve:
    """As it would have been measured with something else running at times: so many times as long a plain step, every
    verification, every draft, and on top every verification of more than two tokens."""
    c = curve.costs[0]
    by_width = {w: t.times(verify * (wide if w > 2 else 1.0)) for w, t in c.verify.items()}
    drafts = {n: t.times(draft) for n, t in c.draft[METHOD].items()}
    return replace(
        curve, costs=(replace(c, plain=c.plain.times(plain), verify=by_width, draft={METHOD: drafts}, whole={}),)
    )


def replay(schedule: Schedule, places: list[Place], curve: CostCurve) -> list[Round]:
    """The rounds of a decode of one answer, which take what `curve` says, whatever the schedule goes by."""
    s, at, ahead, rounds, now = schedule.begin(SLOTS), 0, False, list[Round](), 0.0
    while at < len(places):
        n, looked, here = 0 if ahead else s.drafts(SLOTS, CONTEXT), False, places[at]
        if n and s.looks:
            looked, n = True, s.look(here.confidence[0], n)
        waits = n > 0 and s.needs_confidence
        sent = s.proposed(n, here.confidence[:n]) if waits else n
        k, sure = min(here.accepted, sent), here.confidence[:n] if waits else None
        rounds.append(Round(len(rounds), CONTEXT, 0, (0,) * n, sent, k, 0, k == sent, (0,) * (k + 1), 0.0, None, sure))
        if looked:
            rounds[-1] = replace(rounds[-1], looked=True)
        now += curve.recorded_s(METHOD, rounds[-1])
        rounds[-1] = replace(rounds[-1], time_s=now)
        ahead = not n and not looked and s.parked()
        s.observe(rounds[-1])
        at += k + 1
    return rounds


@dataclass(frozen=True)
class Outcome:
    """Of one set on one curve: the best cap in hindsight, its speed and the schedule's over plain decoding's, and the
    shares of its rounds that waited for confidences, and that drafted nothing."""

    cap: int
    best: float
    aware: float
    waited: float
    plain: float


def outcome(answers: list[list[Place]], acceptance: tuple[float, ...], curve: CostCurve) -> Outcome:
    schedules: list[Schedule] = [FixedCap(cap) for cap in range(SLOTS + 1)]
    schedules.append(HardwareAware(curve, METHOD, acceptance, True))
    rounds = [[r for places in answers for r in replay(s, places, curve)] for s in schedules]
    *caps, aware = (curve.seconds(METHOD, of) for of in rounds)
    best, own = min(range(len(caps)), key=caps.__getitem__), rounds[-1]
    waited = sum(r.confidence is not None or r.looked for r in own) / len(own)
    return Outcome(best, caps[0] / caps[best], caps[0] / aware, waited, sum(not r.draft_ids for r in own) / len(own))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", nargs="*", type=Path, default=[RECORDING])
    parser.add_argument("--wait", nargs="+", type=float, default=[0.0, 0.1, 0.37])
    args = parser.parse_args()
    for file in args.recordings:
        acceptance, sets = recorded(file)
        for name, curve in curves():
            for wait in args.wait:
                cells = []
                for which, answers in sets.items():
                    o = outcome(answers, acceptance, with_wait(curve, wait * curve.plain_s(CONTEXT)))
                    bad = "!" if o.aware / o.best < LEAST else " "
                    cells.append(f"{which[:9]:9} {o.cap} {o.best:.2f} {o.aware / o.best:.3f}{bad}{o.aware:.2f}")
                print(f"{name[:22]:22} {wait:.2f} | " + " | ".join(cells), flush=True)


if __name__ == "__main__":
    main()
