"""Decode speed without the page: one JSON object a line.

    python -m dspark_core.bench [speed] [--target DIR --dspark DIR --dflash DIR] [--prompts FILE.jsonl] [--lanes LANES]

Fields: engine, prompt (its number), tokens, tok_s (decode only: without prefill and without the prefill token),
tokens_per_round, ids. Defaults are the embedded model and the demo prompts. `--profile` adds the shares of a round's
time (draft, verify, rest) and ends the pipelining.

`--schedule` says how many of a block's drafts are sent: full (all), cap (at most `--cap`), block (those of an effective
block of `--block` slots, as the drafter's first slot has it), confidence (those before the first whose confidence is
below `--threshold`) or hardware (what this machine's cost curve makes worthwhile; measured first, in half a minute,
where it is not measured yet). `--block`, `--cap` or `--threshold` alone name their schedule; more than the drafter has
is all it has, with a line on stderr.

The lane mlx-lm is mlx-lm's own plain decoding (`generate_step`, greedy) of the same loaded weights, timed as plain is.
With `--repeat N` every lane decodes every prompt N times, in alternation and after a turn that is not measured: tok_s
is then a median with its extremes low and high; at the end comes a line for every lane, and one for every ratio to
plain and to mlx-lm (the median over pairs of the same turn).

`--against 'COMMAND'` starts COMMAND, which must answer one JSON request a line ({"engine": ..., "ids": [...]}) with one
JSON result a line, after a first line {"ready": true}. Every measurement alternates with the same one there; for each
prompt and pair of engines the median of `--repeat` alternations (3) is printed with the ratio, at the end the median
ratio.
Pairs are lanes of the same name, or what `--pair ours:theirs,...` says.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator

from ..decode.plain import plain
from ..decode.rounds import Settings
from ..decode.schedule import FullBlock, Schedule
from ..decode.speculative import speculative
from ..models.checkpoint import load_drafter
from ..models.drafter import Drafter
from ..models.target import Target, load_target
from ..presets import load_prompts
from ..race.loaded import Models, known, measured
from ..race.race import schedule_of
from ..race.records import BLOCK, CAP, CONFIDENCE, HARDWARE, PLAIN, LaneSpec, RaceRequest
from .alternate import alternate
from .peers import Peer
from .plan import LANE_METHODS, MLX_LM, PlannedLane, excess, read_prompt_lines
from .run import compare_raced_and_alone, decode_mlx_lm, row_fields

DEFAULT_REPEAT = 3  # alternations with another engine


def measure_speed(a: argparse.Namespace) -> None:
    """The lines of this module's docstring, for the arguments of the command. Raises ModelError and ValueError."""
    if a.repeat is not None and (a.repeat < 1 or a.profile):
        raise ValueError("--repeat takes a number from 1 on, and no --profile.")
    lanes = a.lanes.split(",")
    specs = {lane: _spec(lane, a) for lane in lanes}
    target = load_target(a.target, a.precision)
    drafters = {k: load_drafter(getattr(a, k), target, a.draft_precision) for k in LANE_METHODS if k in lanes}
    models = Models(target, {LANE_METHODS[k]: d for k, d in drafters.items()})
    for words in excess(list(specs.items()), models.info):
        print(words, file=sys.stderr)
    if drafters and a.schedule == HARDWARE and known(models) is None:
        for _ in measured(models):
            pass
    prompts = [target.encode_chat([{"role": "user", "content": text}]) for text in _texts(a)][: a.limit]
    settings = Settings(a.tokens, a.temperature, seed=a.seed)
    if a.raced:
        _raced(models, [specs[lane] for lane in lanes], _texts(a)[: a.limit], a)
        return
    if a.repeat and not a.against:
        for row in alternate(models, [_planned(k, specs[k]) for k in lanes], prompts, settings, a.repeat):
            print_row(row)
        return
    schedules = {k: schedule_of(specs[k], models, d) for k, d in drafters.items()}

    def decode(lane: str, ids: list[int], profile: bool = False) -> dict:
        if lane == MLX_LM:
            return rounded(decode_mlx_lm(target, ids, settings))
        return measure_decode(target, drafters.get(lane), ids, settings, schedules.get(lane), profile)

    for lane in lanes:  # warm-up: kernels compile and caches fill outside the figures
        measure_decode(target, drafters.get(lane), prompts[0], Settings(4), FullBlock())
    peer = Peer(a.against) if a.against else None
    pairs = [p.split(":") for p in a.pair.split(",")] if a.pair else [[lane, lane] for lane in lanes]
    ratios: dict[str, list[float]] = {}
    for i, ids in enumerate(prompts):
        if peer is None:
            for lane in lanes:
                print_row({"engine": lane, "prompt": i} | decode(lane, ids, a.profile))
            continue
        for ours, theirs in pairs:
            runs: dict[str, list[dict]] = {ours: [], "peer " + theirs: []}
            for _ in range(a.repeat or DEFAULT_REPEAT):
                runs[ours].append(decode(ours, ids))
                runs["peer " + theirs].append(peer.measure(theirs, ids, a.tokens))
            medians = {}
            for engine, results in runs.items():
                medians[engine] = statistics.median(r["tok_s"] for r in results)
                row = {"engine": engine, "prompt": i} | results[0]
                print_row(row | {"engine": engine, "tok_s": round(medians[engine], 3)})
            ratio = medians[ours] / medians["peer " + theirs]
            ratios.setdefault(f"{ours} / peer {theirs}", []).append(ratio)
            print_row({"ratio": f"{ours} / peer {theirs}", "prompt": i, "value": round(ratio, 4)})
    for name, values in ratios.items():
        print_row({"median_ratio": name, "value": round(statistics.median(values), 4), "prompts": len(values)})


def _raced(models: Models, specs: list[LaneSpec], texts: list[str], a) -> None:
    """Every lane in a race on the fair clock and alone, in alternation, to exactly `--tokens` tokens."""
    settings = Settings(a.tokens, a.temperature, seed=a.seed, stop_ids=frozenset())
    for row in compare_raced_and_alone(models, [RaceRequest(text, tuple(specs), settings) for text in texts]):
        print_row(row)


def measure_decode(
    target: Target,
    drafter: Drafter | None,
    ids: list[int],
    settings: Settings,
    schedule: Schedule | None,
    profile: bool = False,
) -> dict:
    """Decode one prompt (without a drafter: plainly); a result with the fields of this module's docstring."""
    if drafter is None:
        events = plain(target, ids, settings, profile=profile)
    else:
        events = speculative(target, drafter, ids, settings, schedule or FullBlock(), profile=profile)
    return summarise(events)


def summarise(events: Iterator) -> dict:
    """tokens, tok_s, tokens_per_round, ids (and shares of time where profiled) of a decode's events."""
    row = row_fields(events)
    rounds, seconds, result = row["rounds"], row["seconds"], rounded(row)
    if rounds and rounds[0].spent:
        parts = {k: sum(getattr(r.spent, k) for r in rounds) for k in ("draft", "verify", "rest")}
        result["round_ms"] = round(1e3 * seconds / len(rounds), 2)
        result["shares"] = {k: round(v / sum(parts.values()), 4) for k, v in parts.items()}
    return result


def rounded(row: dict) -> dict:
    """What of a decode's measured fields is printed, with as many digits as they are worth."""
    return {
        "tokens": len(row["ids"]),
        "tok_s": round(row["tok_s"], 3),
        "tokens_per_round": round(row.get("tokens_per_round", 1.0), 3),
        "ids": list(row["ids"]),
    }


def print_row(row: dict) -> None:
    print(json.dumps(row), flush=True)


def _texts(a: argparse.Namespace) -> list[str]:
    if a.prompts is None:
        return [p.text for p in load_prompts()]
    return read_prompt_lines(a.prompts)


def _spec(lane: str, a: argparse.Namespace) -> LaneSpec:
    """Raises ValueError for a lane that there is not, and a schedule without what it needs."""
    if lane == MLX_LM and (a.temperature or a.raced):
        raise ValueError("The lane mlx-lm decodes greedily and alone: use it without --temperature and --raced.")
    if lane in (PLAIN, MLX_LM):
        return LaneSpec(PLAIN)
    if lane not in LANE_METHODS:
        raise ValueError(f"There is no lane {lane!r}: use {', '.join([PLAIN, MLX_LM, *LANE_METHODS])}.")
    options = ((BLOCK, a.block, "--block"), (CAP, a.cap, "--cap"), (CONFIDENCE, a.threshold, "--threshold"))
    for schedule, value, option in options:
        if (a.schedule == schedule) != (value is not None):
            raise ValueError(f"--schedule {schedule} and {option} go together.")
    return LaneSpec(LANE_METHODS[lane], a.schedule, a.block or a.cap or 0, a.threshold or 0.0, label=a.schedule)


def _planned(name: str, spec: LaneSpec) -> PlannedLane:
    return PlannedLane(name, name if name in (PLAIN, MLX_LM) else "speculative", spec)
