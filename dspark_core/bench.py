"""Decode speed without the page: one JSON object a line.

    python -m dspark_core.bench [--target DIR --dspark DIR --dflash DIR] [--prompts FILE.jsonl] [--lanes LANES]

Fields: engine, prompt (its number), tokens, tok_s (decode only: without prefill and without the prefill token),
tokens_per_round, ids. Defaults are the embedded model and the demo prompts. `--profile` adds the shares of a round's
time (draft, verify, rest) and ends the pipelining.

`--against 'COMMAND'` starts COMMAND, which must answer one JSON request a line ({"engine": ..., "ids": [...]}) with one
JSON result a line, after a first line {"ready": true}. Every measurement alternates with the same one there; for each
prompt and pair of engines the median of `--repeat` alternations is printed with the ratio, at the end the median
ratio.
Pairs are lanes of the same name, or what `--pair ours:theirs,...` says.

`python -m dspark_core.bench report` measures sets of prompts and writes a report; its `--help` says more.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from .decode.plain import plain
from .decode.rounds import Round, Settings, Start
from .decode.schedule import ConfidenceThreshold, FixedCap, FullBlock, Schedule
from .decode.speculative import speculative
from .models.checkpoint import load_drafter
from .models.drafter import Drafter
from .models.errors import ModelError
from .models.precision import PRECISIONS
from .models.target import Target, load_target
from .presets import load_presets, load_prompts
from .race.fairness import compare
from .race.race import Models
from .race.record import CAP, CONFIDENCE, FULL, PLAIN, LaneSpec, RaceRequest
from .report.command import main as report


def main() -> None:
    if sys.argv[1:2] == ["report"]:
        report(sys.argv[2:])
        return
    a = _arguments()
    try:
        run(a)
    except (ModelError, ValueError) as e:
        sys.exit(f"error: {e}")


def run(a: argparse.Namespace) -> None:
    target = load_target(a.target, a.precision)
    lanes = a.lanes.split(",")
    drafters = {k: load_drafter(getattr(a, k), target, a.draft_precision) for k in ("dspark", "dflash") if k in lanes}
    prompts = [target.encode_chat([{"role": "user", "content": text}]) for text in _texts(a)][: a.limit]
    settings = Settings(a.tokens, a.temperature, seed=a.seed)
    schedule = _schedule(a)
    if a.raced:
        _raced(target, drafters, lanes, _texts(a)[: a.limit], a)
        return
    for lane in lanes:  # warm-up: kernels compile and caches fill outside the figures
        measure(target, drafters.get(lane), prompts[0], Settings(4), schedule)
    peer = Peer(a.against) if a.against else None
    pairs = [p.split(":") for p in a.pair.split(",")] if a.pair else [[lane, lane] for lane in lanes]
    ratios: dict[str, list[float]] = {}
    for i, ids in enumerate(prompts):
        if peer is None:
            for lane in lanes:
                result = measure(target, drafters.get(lane), ids, settings, schedule, a.profile)
                emit({"engine": lane, "prompt": i} | result)
            continue
        for ours, theirs in pairs:
            runs = {ours: [], "peer " + theirs: []}
            for _ in range(a.repeat):
                runs[ours].append(measure(target, drafters.get(ours), ids, settings, schedule))
                runs["peer " + theirs].append(peer.measure(theirs, ids))
            medians = {}
            for engine, results in runs.items():
                medians[engine] = statistics.median(r["tok_s"] for r in results)
                row = {"engine": engine, "prompt": i} | results[0]
                emit(row | {"engine": engine, "tok_s": round(medians[engine], 3)})
            ratio = medians[ours] / medians["peer " + theirs]
            ratios.setdefault(f"{ours} / peer {theirs}", []).append(ratio)
            emit({"ratio": f"{ours} / peer {theirs}", "prompt": i, "value": round(ratio, 4)})
    for name, values in ratios.items():
        emit({"median_ratio": name, "value": round(statistics.median(values), 4), "prompts": len(values)})


def _raced(target: Target, drafters: dict[str, Drafter], lanes: list[str], texts: list[str], a) -> None:
    """Every lane in a race on the fair clock and alone, in alternation, to exactly `--tokens` tokens."""
    schedule = (FULL, 0, 0.0) if a.cap is None else (CAP, a.cap, 0.0)
    if a.threshold is not None:
        schedule = (CONFIDENCE, 0, a.threshold)
    specs = [LaneSpec(PLAIN) if lane == "plain" else LaneSpec(drafters[lane].method, *schedule) for lane in lanes]
    models = Models(target, {d.method: d for d in drafters.values()})
    settings = Settings(a.tokens, a.temperature, seed=a.seed, stop_ids=frozenset())
    for row in compare(models, [RaceRequest(text, tuple(specs), settings) for text in texts]):
        emit(row)


def measure(
    target: Target,
    drafter: Drafter | None,
    ids: list[int],
    settings: Settings,
    schedule: Schedule,
    profile: bool = False,
) -> dict:
    """Decode one prompt; a result with the fields of this module's docstring."""
    if drafter is None:
        events = plain(target, ids, settings, profile=profile)
    else:
        events = speculative(target, drafter, ids, settings, schedule, profile=profile)
    return summarise(events)


def summarise(events: Iterator) -> dict:
    """tokens, tok_s, tokens_per_round, ids (and shares of time where profiled) of a decode's events."""
    out, rounds = [], []
    for event in events:
        if isinstance(event, Start):
            out.append(event.token_id)
        elif isinstance(event, Round):
            out.extend(event.committed)
            rounds.append(event)
    seconds = rounds[-1].time_s if rounds else 0.0
    decoded = len(out) - 1
    result = {
        "tokens": len(out),
        "tok_s": round(decoded / seconds, 3) if seconds else 0.0,
        "tokens_per_round": round(sum(r.accepted + 1 for r in rounds) / len(rounds), 3) if rounds else 1.0,
        "ids": out,
    }
    if rounds and rounds[0].spent:
        parts = {k: sum(getattr(r.spent, k) for r in rounds) for k in ("draft", "verify", "rest")}
        result["round_ms"] = round(1e3 * seconds / len(rounds), 2)
        result["shares"] = {k: round(v / sum(parts.values()), 4) for k, v in parts.items()}
    return result


class Peer:
    """Another engine, behind a command that speaks the protocol above."""

    def __init__(self, command: str):
        self.process = subprocess.Popen(
            shlex.split(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        if not self._answer().get("ready"):
            raise ValueError(f"{command!r} did not begin with a ready line.")

    def measure(self, engine: str, ids: list[int]) -> dict:
        self.process.stdin.write(json.dumps({"engine": engine, "ids": ids}) + "\n")
        return self._answer()

    def _answer(self) -> dict:
        for line in self.process.stdout:
            if line.startswith("{"):  # a peer may print notices of its own
                return json.loads(line)
        raise ValueError("The command given with --against ended before it answered.")


def emit(result: dict) -> None:
    print(json.dumps(result), flush=True)


def _texts(a: argparse.Namespace) -> list[str]:
    if a.prompts is None:
        return [p.text for p in load_prompts()]
    return [json.loads(line)["prompt"] for line in a.prompts.read_text(encoding="utf-8").splitlines() if line.strip()]


def _schedule(a: argparse.Namespace) -> Schedule:
    if a.threshold is not None:
        return ConfidenceThreshold(a.threshold)
    return FullBlock() if a.cap is None else FixedCap(a.cap)


def _arguments() -> argparse.Namespace:
    preset = load_presets()[0]
    paths = {d.method.lower(): d.path for d in preset.drafters}
    p = argparse.ArgumentParser(
        prog="python -m dspark_core.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--target", type=Path, default=preset.target)
    p.add_argument("--dspark", type=Path, default=paths["dspark"])
    p.add_argument("--dflash", type=Path, default=paths["dflash"])
    p.add_argument("--prompts", type=Path, help="one {'prompt': ...} a line")
    p.add_argument("--limit", type=int, help="only the first N prompts")
    p.add_argument("--tokens", type=int, default=64)
    p.add_argument("--lanes", default="plain,dspark,dflash")
    p.add_argument("--cap", type=int, help="send at most N drafts a round")
    p.add_argument("--threshold", type=float, help="send drafts up to the first with a lower confidence (dspark)")
    p.add_argument("--temperature", type=float, default=0.0)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--precision", default="auto", choices=PRECISIONS)
    p.add_argument("--draft-precision", default="auto", choices=PRECISIONS)
    p.add_argument("--profile", action="store_true")
    p.add_argument("--raced", action="store_true", help="each lane in a race and alone, with the ratio")
    p.add_argument("--against", metavar="COMMAND")
    p.add_argument("--pair", help="ours:theirs,... with --against")
    p.add_argument("--repeat", type=int, default=3, help="alternations a prompt with --against")
    return p.parse_args()


if __name__ == "__main__":
    main()
