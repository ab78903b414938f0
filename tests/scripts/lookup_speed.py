"""How fast text lookup decodes against plain decoding, prompt by prompt, in alternation.

    python -m tests.scripts.lookup_speed [--prompts FILE] [--tokens 128] [--repeat 3] [--limit N] [--lane lookup]
        [--record OUT.jsonl]

With the embedded model, greedily; FILE has one {"prompt": ...} a line (default: rewriting.jsonl beside this file,
"chat" stands for the page's chat prompts). A line of JSON a prompt: tok/s over plain by the clock and by this process's
own time (which another program's work does not touch), the median of the alternations; tokens per round; are the tokens
plain decoding's? Then the median, the mean and the least of all prompts. On a quiet machine the clock is what counts.
`--record` adds prompts and answers to a file for lookup_replay.py.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from dspark_core.bench.plan import read_prompt_lines
from dspark_core.decode.plain import plain
from dspark_core.decode.prefill import Prefilled, prefill_once
from dspark_core.decode.rounds import Round, Settings, Start, tau
from dspark_core.decode.speculative import Options, speculative
from dspark_core.models.checkpoint import load_drafter
from dspark_core.models.target import load_target
from dspark_core.presets import load_presets, load_prompts
from dspark_core.race.lane_spec import read_lane
from dspark_core.race.loaded import Models
from dspark_core.race.race import schedule_of

REWRITING = Path(__file__).with_name("rewriting.jsonl")


def timed(decode: Callable, prefilled: Prefilled) -> tuple[list[int], list[Round], float, float]:
    """Output, rounds, and seconds from the first token to the last by the clock and by this process."""
    out, rounds, wall, own = [], [], 0.0, 0.0
    for event in decode(prefilled):
        if isinstance(event, Start):
            out, wall, own = [event.token_id], time.perf_counter(), time.process_time()
        elif isinstance(event, Round):
            out += event.committed
            rounds.append(event)
    return out, rounds, time.perf_counter() - wall, time.process_time() - own


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--prompts", default=str(REWRITING))
    p.add_argument("--tokens", type=int, default=128)
    p.add_argument("--repeat", type=int, default=3)
    p.add_argument("--limit", type=int)
    p.add_argument("--lane", default="lookup")
    p.add_argument("--record", type=Path)
    a = p.parse_args()
    target = load_target(load_presets()[0].target)
    name = a.lane.partition(":")[0]
    models = Models(target, {name: load_drafter(None, target, method=name)})
    if models.known_curve() is None:
        for _ in models.measure_curve():
            pass
    spec = read_lane(a.lane, models.infos).spec
    chat = [prompt.text for prompt in load_prompts() if prompt.kind == "chat"]
    texts = (chat if a.prompts == "chat" else read_prompt_lines(Path(a.prompts)))[: a.limit]
    settings, drafter = Settings(a.tokens), models.loaded[name]

    def by_lookup(prefilled: Prefilled):
        schedule = schedule_of(spec, models, drafter)
        return speculative(target, drafter, list(prefilled.prompt), settings, schedule, Options(prefilled=prefilled))

    def by_plain(prefilled: Prefilled):
        return plain(target, list(prefilled.prompt), settings, prefilled=prefilled)

    ratios: dict[str, list[float]] = {"clock": [], "own": []}
    for i, text in enumerate(texts):
        prompt = target.encode_chat([{"role": "user", "content": text}])
        prefilled = prefill_once(target, prompt)
        wall, own, same, rounds = [], [], True, []
        for turn in range(a.repeat):
            order = (by_plain, by_lookup) if (i + turn) % 2 else (by_lookup, by_plain)
            found = {decode: timed(decode, prefilled) for decode in order}
            (out, _, *slow), (again, rounds, *fast) = found[by_plain], found[by_lookup]
            same &= out == again
            wall.append(slow[0] / fast[0])
            own.append(slow[1] / fast[1])
        if a.record:
            with a.record.open("a", encoding="utf-8") as file:
                print(json.dumps({"prompt": list(prompt), "answer": out}), file=file)
        drafted, sent = sum(len(r.draft_ids) for r in rounds), sum(r.proposed for r in rounds)
        row = {"prompt": i, "clock": statistics.median(wall), "own": statistics.median(own), "tokens": len(out)}
        ratios["clock"].append(row["clock"])
        ratios["own"].append(row["own"])
        row |= {"tokens_per_round": tau(rounds), "drafted": drafted, "sent": sent, "identical": same}
        row["accepted"] = sum(r.accepted for r in rounds)
        print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}), flush=True)
    for name, values in ratios.items():
        figures = statistics.median(values), statistics.mean(values), min(values)
        print(json.dumps({name: dict(zip(("median", "mean", "least"), (round(f, 3) for f in figures), strict=True))}))


if __name__ == "__main__":
    main()
