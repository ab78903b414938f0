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
    peers, turns = Peers({}), Turns(len(prompts), repeat)
    for number, ids in enumerate(prompts):
        prefilled = prepare(models, ids)
        for lane in lanes if number == 0 else ():
            warm_up(models, peers, lane, ids[:16])
            decode_lane(models, peers, lane, ids, settings, prefilled)
        for turn, lane in alternations(lanes, number, repeat):
            turns.runs[lane.name, number, turn] = decode_lane(models, peers, lane, ids, settings, prefilled)
        yield from (turns.prompt_row(lane.name, number) for lane in lanes)
    names = [lane.name for lane in lanes]
    yield from map(turns.lane_row, names)
    for reference in REFERENCES:
        if reference in names:
            yield from (turns.ratio_row(name, reference) for name in names if name != reference)


class Turns:
    """What every lane did: `runs` by lane, prompt and turn."""

    def __init__(self, prompts: int, repeat: int):
        self.prompts, self.repeat = prompts, repeat
        self.runs: dict[tuple[str, int, int], dict] = {}

    def prompt_row(self, name: str, prompt: int) -> dict:
        results = [self.runs[name, prompt, turn] for turn in range(self.repeat)]
        ids, tokens_per_round = list(results[0]["ids"]), results[0].get("tokens_per_round", 1.0)
        row = {"engine": name, "prompt": prompt, "tokens": len(ids)}
        row |= self._spread("tok_s", [r["tok_s"] for r in results])
        return row | {"tokens_per_round": round(tokens_per_round, 3), "ids": ids}

    def lane_row(self, name: str) -> dict:
        speeds = self._spread("tok_s", [r["tok_s"] for r in self._of(name)])
        return {"lane": name} | speeds | {"prompts": self.prompts, "alternations": self.repeat}

    def ratio_row(self, name: str, reference: str) -> dict:
        """`same_ids`: the share of turns in which both decoded the same tokens."""
        pairs = list(zip(self._of(name), self._of(reference), strict=True))
        ratios = [ours["tok_s"] / theirs["tok_s"] for ours, theirs in pairs if theirs["tok_s"]]
        same = sum(ours["ids"] == theirs["ids"] for ours, theirs in pairs) / len(pairs)
        return {"lane": name, "over": reference} | self._spread("ratio", ratios, 4) | {"same_ids": round(same, 4)}

    def _of(self, name: str) -> list[dict]:
        return [self.runs[name, prompt, turn] for prompt in range(self.prompts) for turn in range(self.repeat)]

    @staticmethod
    def _spread(name: str, values: list[float], digits: int = 3) -> dict[str, float]:
        middle = statistics.median(values) if values else 0.0
        ends = {"low": min(values, default=0.0), "high": max(values, default=0.0)}
        return {key: round(value, digits) for key, value in ({name: middle} | ends).items()}
