"""Decoding at Qwen3-4B's shapes with random weights, where drafts are accepted as they were in recorded answers.

    python -m tests.scripts.scripted_rounds DIRECTORY OUT.jsonl [--answers 2] [--repeat 3] [--costs FILE.json]

Target and drafter (DSpark, of true shapes, at 4 bits; written to DIRECTORY once, 3 GB) do all their work; of what the
drafter proposes only the token ids and confidences are replaced, by what the embedded drafter's came to at that
position of a recorded answer (record_acceptance.py). The target's own answer is one token over and over, because its
layers add next to nothing to the embedding, so whatever the kernels the script is what happens. Lanes: plain, mlx-lm's
own loop, hardware-aware, full block, the best cap in hindsight; in alternation, the first turn off the record, for
kernels compile. One JSON object a decode, then one a set. --costs writes a file for assets/machines, too.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from dspark_core.bench.figures import best_cap
from dspark_core.bench.peers import Peers
from dspark_core.bench.plan import BenchDrafter, BestCapLane, PlannedLane, SpecLane, alternations, plan_lanes
from dspark_core.bench.run import decode_lane, prepare, warm_up
from dspark_core.decode.rounds import Settings
from dspark_core.machine import mlx_device
from dspark_core.models.checkpoint import load_drafter
from dspark_core.models.drafter import Context, Drafter, Look, Pick, Proposal, Unasked
from dspark_core.models.target import Target, _classes
from dspark_core.models.target_config import read_target
from dspark_core.race.forecast import draft_outcomes
from dspark_core.race.loaded import Models
from dspark_core.race.records import LaneRecord

from ..models.published import DSPARK, QWEN3_4B, Shape, drafters, target
from .machine_costs import ROWS, write_costs
from .schedule_sim import Place, recorded
from .true_size import write

TOKEN, OTHER, PROMPT = 1234, 4321, 64  # what the target says; what it refuses; tokens of the prompt
NOWHERE = Place(0, (0.5,))
DECODED = "plain,mlx-lm,dspark:hardware,dspark:full,dspark:best"
NARROW: dict[str, Any] = {"hidden": 128, "layers": 4, "heads": 4, "kv_heads": 2, "head_dim": 16, "inner": 128}
NARROW |= {"vocabulary": 8192, "mask": 8000, "taps": (0, 1, 2), "rank": 16}
ADDED = 1e-4  # of what a layer would add to the residual stream


class Scripted:
    """A drafter whose drafts fare as `places` says, from the first token of an answer after PROMPT tokens on."""

    def __init__(self, drafter: Drafter):
        self.drafter, self.info, self.taps = drafter, drafter.info, drafter.taps
        self.places: Sequence[Place] = ()

    def begin(self) -> "ScriptedContext":
        return ScriptedContext(self, self.drafter.begin())


class ScriptedContext(Unasked):
    """The true context, and the true work, with other tokens and confidences in the end."""

    def __init__(self, scripted: Scripted, inner: Context):
        self.scripted, self.inner, self.length = scripted, inner, 0

    @property
    def state(self) -> list[mx.array]:
        return self.inner.state

    def extend(self, ids: mx.array, taps: mx.array | None) -> None:
        self.inner.extend(ids, taps)
        self.length += ids.shape[0]

    def rollback(self, n: int) -> None:
        self.inner.rollback(n)
        self.length -= n

    def _place(self) -> Place:
        at = self.length - PROMPT
        return self.scripted.places[at] if 0 <= at < len(self.scripted.places) else NOWHERE

    def _confidence(self, own: mx.array | None, n: int) -> mx.array | None:
        sure = [*self._place().confidence, *[0.5] * n][:n]
        return None if own is None else 0 * own + mx.array([math.log(c / (1 - c)) for c in sure], own.dtype)

    def look(self, anchor: mx.array) -> Look:
        look = self.inner.look(anchor)
        return Look(look.hidden, self._confidence(look.confidence, 1))

    def propose(
        self, anchor: mx.array, n: int, pick: Pick, confidence: bool = False, look: Look | None = None
    ) -> Proposal:
        own = self.inner.propose(anchor, n, pick, confidence, look)
        n = own.ids.shape[0]
        ids = [TOKEN if k < self._place().accepted else OTHER for k in range(n)]
        scripted = 0 * own.ids + mx.array(ids, own.ids.dtype)
        return replace(own, ids=scripted, confidence=self._confidence(own.confidence, n))


def repeating_target(shape: Shape, bits: int) -> Target:
    """In memory; its greedy answer repeats the newest token."""
    mx.random.seed(0)
    config: dict[str, Any] = target(shape).config
    read = read_target(Path("random"), config, {})
    model_class, args = _classes(read, True, config)
    model = model_class(args.from_dict(read.for_mlx(True)))
    model.set_dtype(mx.bfloat16)
    for layer in model.layers:
        for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
            linear.weight = linear.weight * ADDED
        mx.eval(layer.parameters())
    mx.eval(model.parameters())
    if bits < 16:
        import mlx.nn as nn

        nn.quantize(model, 64, bits)
        mx.eval(model.parameters())
    return Target(model, read, config, None, f"random {shape.name}", "bf16" if bits == 16 else f"{bits}-bit")


def scripted_models(directory: Path, shape: Shape, bits: int) -> tuple[Models, Scripted]:
    mx.random.seed(1)
    checkpoint = drafters(shape)[DSPARK]
    write(directory / "drafter", checkpoint.config, checkpoint.tensors, None)
    loaded = repeating_target(shape, bits)
    scripted = Scripted(load_drafter(directory / "drafter", loaded, "4-bit"))
    assert isinstance(scripted, Drafter), "it has what the loop asks of a drafter"
    return Models(loaded, {"dspark": scripted}), scripted


class Answers:
    """Decodes of recorded answers by every lane."""

    def __init__(self, models: Models, scripted: Scripted, lanes: Sequence[PlannedLane]):
        self.models, self.scripted, self.lanes = models, scripted, lanes
        self.prompt = [TOKEN] * PROMPT
        self.prefilled = prepare(models, self.prompt)
        for lane in lanes:
            warm_up(models, Peers({}), lane, self.prompt[:16])

    def rows(self, name: str, number: int, places: Sequence[Place], repeat: int) -> Iterator[dict]:
        """One a decode, of `repeat` turns behind one that only warms up."""
        self.scripted.places, outcomes = places, list[tuple[int, int]]()
        settings, cap = Settings(len(places), stop_ids=frozenset()), None
        for turn, lane in alternations(self.lanes, number, repeat + 1):
            run = lane
            if isinstance(lane, BestCapLane):
                curve = self.models.usable_curve(lane.spec.drafter_id)
                cap = best_cap(curve, lane.spec.drafter_id, outcomes, PROMPT + len(places) // 2)[0]
                run = lane.with_cap(cap)
            row = decode_lane(self.models, Peers({}), run, self.prompt, settings, self.prefilled)
            if turn == 0 and isinstance(lane, SpecLane) and not isinstance(lane, BestCapLane) and row["rounds"]:
                outcomes += draft_outcomes(LaneRecord(lane.spec, rounds=list(row["rounds"])), True)
            own = {"set": name, "prompt": number, "lane": lane.name, "turn": turn - 1, "cap": cap}
            own["as scripted"] = set(row["ids"]) == {TOKEN}
            if turn:
                yield own | {key: row.get(key, 1.0) for key in ("tok_s", "tokens_per_round")}


def summary(rows: Sequence[dict]) -> dict[str, float]:
    """Medians over answers of ratios within a turn."""
    speeds = {(r["prompt"], r["turn"], r["lane"]): r["tok_s"] for r in rows}
    turns = sorted({key[:2] for key in speeds})

    def ratio(lane: str, *others: str) -> float:
        by_prompt: dict[int, list[float]] = {}
        for p, t in turns:
            by_prompt.setdefault(p, []).append(speeds[p, t, lane] / max(speeds[p, t, o] for o in others))
        return round(statistics.median(map(statistics.median, by_prompt.values())), 4)

    best = "dspark:full", "dspark:best"
    return {
        "plain over mlx-lm": ratio("plain", "mlx-lm"),
        "hardware over plain": ratio("dspark:hardware", "plain"),
        "hardware over the better of full and best": ratio("dspark:hardware", *best),
        **{
            f"{lane} tok/s": round(statistics.median(r["tok_s"] for r in rows if r["lane"] == lane), 1)
            for lane in dict.fromkeys(r["lane"] for r in rows)
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--answers", type=int, default=2, help="of each set")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--bits", type=int, default=16, choices=(16, 8, 4))
    parser.add_argument("--costs", type=Path)
    parser.add_argument("--widths", type=int, nargs="+", default=ROWS, help="of --costs")
    parser.add_argument("--narrow", action="store_true", help="tiny sizes, to try the command")
    given = parser.parse_args()
    shape = replace(QWEN3_4B, **NARROW) if given.narrow else QWEN3_4B
    began = time.perf_counter()

    def say(words: str) -> None:
        print(f"{time.perf_counter() - began:6.1f} s  {words}", flush=True)

    models, scripted = scripted_models(given.directory, shape, given.bits)
    say(f"made; MLX holds {mx.get_active_memory():,} bytes")
    if given.costs:
        title = f"{mlx_device().name}, Qwen3-4B's shapes (measured)"
        write_costs(given.costs, models.target, models.loaded, title, 5, given.widths)
        say("costs written")
    for _ in models.measure_curve(quick=given.narrow):
        pass
    say("curve measured")
    bench = {"dspark": BenchDrafter("dspark", "DSpark", None)}
    answers = Answers(models, scripted, plan_lanes(DECODED, drafters=bench))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    _, sets = recorded()
    with given.out.open("w") as out:
        found: dict[str, list[dict]] = {name: [] for name in sets}
        for k in range(given.answers):
            for name, places in sets.items():
                for row in answers.rows(name, k, places[k][: given.tokens], given.repeat):
                    found[name].append(row)
                    print(json.dumps(row), file=out, flush=True)
                result = {"summary": name, "answers": k + 1, "device": str(mlx_device()), "bits": given.bits}
                result |= summary(found[name])
                print(json.dumps(result), file=out, flush=True)
                say(json.dumps(result))


if __name__ == "__main__":
    main()
