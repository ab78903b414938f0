"""The same decodes again and again in alternation, in one process: medians, their spread, and ratios within a turn,
which a machine that warms up or slows down does not tilt."""

import statistics
from collections.abc import Iterator, Sequence

from ..decode.rounds import Settings
from ..race.loaded import Models
from .peers import Peers
from .plan import MLX_LM, PLAIN, PlannedLane, alternations
from .run import decode_lane, prepare, warm_up

REFERENCES = PLAIN, MLX_LM


def alternate(
    models: Models, lanes: Sequence[PlannedLane], prompts: Sequence[list[int]], settings: Settings, repeat: int
) -> Iterator[dict]:
    """One row a lane and prompt, then one a lane, then one a lane and reference (plain, mlx-lm) among the lanes.

    `tok_s` and `ratio` are medians, `low` and `high` the extremes; all of `repeat` turns, the last two of all prompts.
    A ratio is that of two decodes of one turn. Every lane has decoded the first prompt before anything is measured.
    Raises DecodeError.
    """
    peers, runs = Peers({}), dict[tuple[str, int, int], dict]()
    for number, ids in enumerate(prompts):
        prefilled = prepare(models, ids)
        for lane in lanes if number == 0 else ():
            warm_up(models, peers, lane, ids[:16])
            decode_lane(models, peers, lane, ids, settings, prefilled)
        for turn, lane in alternations(lanes, number, repeat):
            runs[lane.name, number, turn] = decode_lane(models, peers, lane, ids, settings, prefilled)
        for lane in lanes:
            yield _row(lane.name, number, [runs[lane.name, number, turn] for turn in range(repeat)])
    turns = [(number, turn) for number in range(len(prompts)) for turn in range(repeat)]
    for lane in lanes:
        speeds = [runs[lane.name, *at]["tok_s"] for at in turns]
        yield {"lane": lane.name} | _spread("tok_s", speeds) | {"prompts": len(prompts), "alternations": repeat}
    for reference in REFERENCES:
        for lane in lanes if reference in (lane.name for lane in lanes) else ():
            if lane.name != reference:
                pairs = [(runs[lane.name, *at], runs[reference, *at]) for at in turns]
                yield _ratio(lane.name, reference, pairs)


def _row(name: str, prompt: int, results: list[dict]) -> dict:
    row = {"engine": name, "prompt": prompt, "tokens": len(results[0]["ids"])}
    row |= _spread("tok_s", [r["tok_s"] for r in results])
    return row | {
        "tokens_per_round": round(results[0].get("tokens_per_round", 1.0), 3),
        "ids": list(results[0]["ids"]),
    }


def _ratio(name: str, reference: str, pairs: list[tuple[dict, dict]]) -> dict:
    """`same_ids`: the share of turns in which both decoded the same tokens."""
    ratios = [ours["tok_s"] / theirs["tok_s"] for ours, theirs in pairs if theirs["tok_s"]]
    same = sum(ours["ids"] == theirs["ids"] for ours, theirs in pairs) / len(pairs)
    return {"lane": name, "over": reference} | _spread("ratio", ratios, 4) | {"same_ids": round(same, 4)}


def _spread(name: str, values: list[float], digits: int = 3) -> dict[str, float]:
    middle = statistics.median(values) if values else 0.0
    ends = {"low": min(values, default=0.0), "high": max(values, default=0.0)}
    return {key: round(value, digits) for key, value in ({name: middle} | ends).items()}
