"""`python -m dspark_core.bench exact`: is greedy output the target's own, in normal and in strict mode?

    python -m dspark_core.bench exact [--prompts NAME=FILE.jsonl ...] [--limit N] [--tokens 64]
        [--lanes dspark,dflash] [--schedule full]

Every prompt is decoded plainly and by every lane, and compared token by token; where the device's logits depend on the
width, all of it once more in strict mode. One JSON object a line. First what was measured of the device:

    device, target, precision, noise (how far a logit moves with the width), noise_alone (before any cache entry was
    written wide)

Then for every prompt, mode and lane: set, prompt (its number), mode ("normal" or "strict"), lane, tokens, kind
("identical", "tie" or "divergence"), first_difference (index of the token), gap, needed and rounding there (see
race/record.py), again, changed (positions that strict mode decided again, and differently), share (of the lane's time),
times_plain; and of the plain answer closest (the smallest gap of the two best logits along it) and tied (positions
where they are equal). Last, for every mode and lane, how many were identical, tied and divergent.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Sequence

from ..decode.rounds import Settings
from ..machine import device_of, machine
from ..proof.agreement import gaps_along
from ..race.loaded import Models
from ..race.metrics import metrics, plain_metrics, strictness, times_plain
from ..race.race import race
from ..race.records import RaceRecord, RaceRequest
from .plan import SetPrompt, SpecLane, excess, plan_lanes, read_sets
from .run import load_models

NORMAL_MODE, STRICT_MODE = "normal", "strict"


def measure_exactness(a: argparse.Namespace) -> None:
    """The rows of `exactness` for the arguments of the command, one JSON object a line."""
    planned = plan_lanes(f"plain,{a.lanes}", a.schedule, drafters=a.drafters)
    lanes = [lane for lane in planned if isinstance(lane, SpecLane)]
    prompts = read_sets(a.prompts, a.limit)
    models = load_models(a, lanes)
    for words in excess(lanes, models.infos):
        print(words, file=sys.stderr)
    for row in exactness(models, prompts, lanes, a.tokens):
        print(json.dumps(row), flush=True)


def exactness(models: Models, prompts: Sequence[SetPrompt], lanes: Sequence[SpecLane], tokens: int) -> Iterator[dict]:
    """The rows of this module's docstring. The first of `lanes` is plain."""
    noise = models.measured_noise()
    yield {
        "device": device_of(machine()),
        "target": models.target.name,
        "precision": models.target.precision,
        **models.streams,
        "noise": noise.largest,
        "noise_alone": noise.alone,
    }
    modes, rows = [NORMAL_MODE, *([STRICT_MODE] if noise.largest else [])], []
    specs, settings = tuple(lane.spec for lane in lanes), Settings(tokens)
    for prompt in prompts:
        for mode in modes:
            asked = RaceRequest(prompt.text, specs, settings, together=False, strict=mode == STRICT_MODE)
            *_, record = (e for _, e in race(models, asked) if isinstance(e, RaceRecord))
            for row in _compared(models, record, lanes):
                rows.append({"set": prompt.set, "prompt": prompt.index, "mode": mode} | row)
                yield rows[-1]
    for mode in modes:
        for lane in lanes[1:]:
            of = [r for r in rows if (r["mode"], r["lane"]) == (mode, lane.name)]
            kinds = [r["kind"] for r in of]
            counts = {kind: kinds.count(kind) for kind in ("identical", "tie", "divergence")}
            totals = {name: sum(r[name] for r in of) for name in ("tokens", "again", "changed")}
            times = [r["times_plain"] for r in of if r["times_plain"]]
            median = {"median_times_plain": round(statistics.median(times), 4) if times else None}
            yield {"mode": mode, "lane": lane.name, "prompts": len(of)} | counts | totals | median
    if STRICT_MODE not in modes:
        yield {"mode": STRICT_MODE, "words": "not needed: logits are the same at every width, bit for bit"}


def _compared(models: Models, record: RaceRecord, lanes: Sequence[SpecLane]) -> Iterator[dict]:
    """A row for every lane with a drafter."""
    assert record.verdict is not None, "a finished race has a verdict"
    differences = {d.lane: d for d in record.verdict.differences}
    output = record.lanes[0].output
    gaps = gaps_along(models.target, models.target.encode_chat(record.request.messages), output)
    for i, (lane, ran) in enumerate(zip(lanes, record.lanes, strict=True)):
        if ran.error:
            raise ValueError(f"{lane.name}: {ran.error}")
        if not i:
            continue
        d, s = differences.get(i), strictness(ran.rounds)
        times = times_plain(metrics(ran), plain_metrics(record.lanes))
        yield {
            "lane": lane.name,
            "tokens": len(ran.output),
            "kind": "identical" if d is None else "tie" if d.tie else "divergence",
            "first_difference": d and d.index,
            "gap": d and d.gap,
            "needed": d and d.needed,
            "rounding": d and d.rounding,
            "again": s.positions,
            "changed": s.changed,
            "share": round(s.share, 4),
            "times_plain": times and round(times, 4),
            "closest": gaps.min().item(),
            "tied": (gaps == 0).sum().item(),
        }
