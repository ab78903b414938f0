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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace

from ..decode.plain import plain
from ..decode.rounds import Settings
from ..decode.schedule import Schedule
from ..decode.speculative import Options, speculative
from ..presets import load_prompts
from ..race.loaded import Models
from ..race.race import schedule_of
from ..race.records import BLOCK, CAP, CONFIDENCE, HARDWARE, RaceRequest
from .alternate import alternate
from .peers import Peer, Peers
from .plan import BestCapLane, MlxLmLane, PeerLane, PlannedLane, SpecLane, excess, parse_lane_name, read_prompt_lines
from .run import compare_raced_and_alone, decode_mlx_lm, load_models, loaded_drafter, row_fields, warm_up

DEFAULT_REPEAT = 3  # alternations with another engine


def measure_speed(a: argparse.Namespace) -> None:
    """The lines of this module's docstring, for the arguments of the command. Raises ModelError and ValueError."""
    if a.repeat is not None and (a.repeat < 1 or a.profile):
        raise ValueError("--repeat takes a number from 1 on, and no --profile.")
    lanes = speed_lanes(a)
    models = load_models(a, lanes)
    for words in excess(lanes, models.infos):
        print(words, file=sys.stderr)
    specs = tuple(lane.spec for lane in lanes if isinstance(lane, SpecLane))
    if any(spec.schedule == HARDWARE for spec in specs) and models.known_curve() is None:
        for _ in models.measure_curve():
            pass
    texts = [p.text for p in load_prompts()] if a.prompts is None else read_prompt_lines(a.prompts)
    texts = texts[: a.limit]
    prompts = [models.target.encode_chat([{"role": "user", "content": text}]) for text in texts]
    settings = Settings(a.tokens, a.temperature, seed=a.seed)
    if a.raced:  # to exactly `--tokens` tokens
        endless = replace(settings, stop_ids=frozenset())
        rows = compare_raced_and_alone(models, [RaceRequest(text, specs, endless) for text in texts])
    elif a.repeat and not a.against:
        rows = alternate(models, lanes, prompts, settings, a.repeat)
    elif a.against:
        rows = Decodes(models, lanes, settings).against(a.against, a.pair, prompts, a.repeat or DEFAULT_REPEAT)
    else:
        rows = Decodes(models, lanes, settings).one_by_one(prompts, a.profile)
    for row in rows:
        print(json.dumps(row | models.streams), flush=True)


def speed_lanes(a: argparse.Namespace) -> list[PlannedLane]:
    """The lanes of the arguments under the names that were typed. Raises ValueError for a lane that there is not, and
    a schedule without what it needs."""
    options = {BLOCK: (a.block, "--block"), CAP: (a.cap, "--cap"), CONFIDENCE: (a.threshold, "--threshold")}
    for schedule, (value, option) in options.items():
        if (a.schedule == schedule) != (value is not None):
            raise ValueError(f"--schedule {schedule} and {option} go together.")
    value, _ = options.get(a.schedule, (None, ""))
    out: list[PlannedLane] = []
    for name in a.lanes.split(","):
        (lane,) = parse_lane_name(name, a.drafters, a.schedule if value is None else f"{a.schedule}={value}")
        if isinstance(lane, PeerLane | BestCapLane):
            raise ValueError(f"The lane {name} is one of a report: python -m dspark_core.bench report --lanes {name}.")
        if isinstance(lane, MlxLmLane) and (a.temperature or a.raced):
            raise ValueError("The lane mlx-lm decodes greedily and alone: use it without --temperature and --raced.")
        out.append(replace(lane, name=name))
    return out


class Decodes:
    """Lanes that decode one prompt after the other; what a schedule learns it keeps from prompt to prompt."""

    def __init__(self, models: Models, lanes: Sequence[PlannedLane], settings: Settings):
        self.models, self.settings = models, settings
        self.lanes: Mapping[str, PlannedLane] = {lane.name: lane for lane in lanes}
        drafting = [lane for lane in lanes if isinstance(lane, SpecLane) and lane.spec.speculative]
        self.schedules: dict[str, Schedule] = {
            lane.name: schedule_of(lane.spec, models, loaded_drafter(models, lane.spec)) for lane in drafting
        }

    def one_by_one(self, prompts: Sequence[list[int]], profile: bool) -> Iterator[dict]:
        self._warm_up(prompts[0])
        for i, ids in enumerate(prompts):
            for name in self.lanes:
                yield {"engine": name, "prompt": i} | self.decode(name, ids, profile)

    def against(self, command: str, pairs: str | None, prompts: Sequence[list[int]], repeat: int) -> Iterator[dict]:
        """`pairs` is "ours:theirs,..."; without it lanes of the same name."""
        self._warm_up(prompts[0])
        named = [p.split(":") for p in pairs.split(",")] if pairs else [[name, name] for name in self.lanes]
        ratios: dict[str, list[float]] = {}
        with closing(Peer(command)) as peer:
            for i, ids in enumerate(prompts):
                for ours, theirs in named:
                    runs: dict[str, list[dict]] = {ours: [], "peer " + theirs: []}
                    for _ in range(repeat):
                        runs[ours].append(self.decode(ours, ids))
                        runs["peer " + theirs].append(peer.measure(theirs, ids, self.settings.max_tokens))
                    medians = {
                        engine: statistics.median(r["tok_s"] for r in results) for engine, results in runs.items()
                    }
                    for engine, results in runs.items():
                        row = {"engine": engine, "prompt": i} | results[0]
                        yield row | {"engine": engine, "tok_s": round(medians[engine], 3)}
                    ratio = medians[ours] / medians["peer " + theirs]
                    ratios.setdefault(f"{ours} / peer {theirs}", []).append(ratio)
                    yield {"ratio": f"{ours} / peer {theirs}", "prompt": i, "value": round(ratio, 4)}
        for name, values in ratios.items():
            yield {"median_ratio": name, "value": round(statistics.median(values), 4), "prompts": len(values)}

    def decode(self, name: str, ids: list[int], profile: bool = False) -> dict:
        """The fields of this module's docstring. Raises DecodeError."""
        lane, target = self.lanes[name], self.models.target
        if isinstance(lane, MlxLmLane):
            return rounded(decode_mlx_lm(target, ids, self.settings))
        if name not in self.schedules or not isinstance(lane, SpecLane):
            return summarise(plain(target, ids, self.settings, profile=profile))
        drafter = loaded_drafter(self.models, lane.spec)
        options = Options(profile=profile)
        return summarise(speculative(target, drafter, ids, self.settings, self.schedules[name], options))

    def _warm_up(self, ids: list[int]) -> None:
        for lane in self.lanes.values():
            warm_up(self.models, Peers({}), lane, ids)


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
