"""How far is what the cost curve says of a race from what the race measures? Real races of the embedded model.

    python -m tests.scripts.forecast_error [--races 24] [--tokens 48] [--quick]

From a fresh start: nothing is on disk, the curve is measured (`--quick`: fewer points), then prompts of the page and
of the lessons are raced in turn, plain decoding beside every drafter hardware-aware and with whole blocks. Before each
race the curve is taken as it is by then, with what the races before have taught; after it, it is anchored on the race's
own plain lane and held against each drafting lane's own rounds. Prints a line a race (errors in per cent, positive: too
fast was predicted), then the medians without sign of races 2 to 10 and of the later ones, with their medians with sign
by lane, and how many times as long as predicted the rounds took by their place in a lane. About seven minutes on two
cores with nothing else running.
"""

import argparse
import os
import statistics
import tempfile
from collections import defaultdict

FIRSTS = 3  # rounds of a lane that have a place of their own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--races", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    from dspark_core.decode.rounds import Settings
    from dspark_core.playground.engine import PresetEngine
    from dspark_core.presets import load_presets, load_prompts
    from dspark_core.race.forecast import anchored, predictions
    from dspark_core.race.records import FULL, HARDWARE, PLAIN, LaneSpec, RaceRecord, RaceRequest

    cache = tempfile.TemporaryDirectory()
    os.environ["XDG_CACHE_HOME"] = cache.name
    models = (engine := PresetEngine(load_presets()[0], "auto", lambda step: None)).models
    if args.quick:
        for _ in models.measure_curve(quick=True):
            pass
    while engine.prepare():
        pass
    lanes = [LaneSpec(PLAIN)]
    for i in models.infos:
        if i.id in models.loaded and not i.has_preview:
            lanes += [LaneSpec(i.method, schedule, drafter=i.lane_drafter) for schedule in (HARDWARE, FULL)]
    texts = [p.text for p in load_prompts()]
    settings = Settings(args.tokens, stop_ids=models.target.stop_ids)
    errors: list[dict[str, float]] = []
    by_place = defaultdict[str, list[float]](list)
    for i in range(args.races):
        before = models.known_curve()
        assert before is not None
        # Two drafting lanes a race, so that it stays short: in turn hardware-aware and whole blocks.
        schedule, specs = (HARDWARE, FULL)[i % 2], (lanes[0], *lanes[1 + i % 2 :: 2])
        request = RaceRequest(texts[i % len(texts)], specs, settings)
        record = next(e for e in [e for _, e in engine.race(request, lambda: False)] if isinstance(e, RaceRecord))
        curve = anchored(before, record)
        found = [p for p in predictions(curve, record) if p.lane != lanes[0].name]
        errors.append({f"{p.lane} {schedule}": p.error for p in found})
        for lane in record.lanes:
            times = zip((0.0, *(r.time_s for r in lane.rounds)), lane.rounds, strict=False)
            for k, (began, r) in enumerate(times, 1):
                place = f"round {k}" if k <= FIRSTS else "later"
                kind = "drafted" if r.draft_ids else "plain lane" if not lane.spec.speculative else "parked"
                ratio = (r.time_s - began) / curve.recorded_s(lane.spec.drafter_id, r)
                by_place[f"{kind}, {place}"].append(ratio)
        print(f"{i + 1:2}  " + ", ".join(f"{name} {100 * e:+.1f}" for name, e in errors[-1].items()), flush=True)
    for words, some in (("races 2 to 10", errors[1:10]), ("races 11 and on", errors[10:])):
        lane_errors = defaultdict[str, list[float]](list)
        for name, e in (lane for race in some for lane in race.items()):
            lane_errors[name].append(e)
        if lane_errors:
            median = statistics.median(abs(e) for es in lane_errors.values() for e in es)
            signed = ", ".join(f"{name} {100 * statistics.median(es):+.1f}" for name, es in lane_errors.items())
            print(f"{words}: median error {100 * median:.1f} % ({signed})")
    for place, ratios in sorted(by_place.items()):
        print(f"{place}: {statistics.median(ratios):.2f} times as long as predicted (median of {len(ratios)})")
    cache.cleanup()


if __name__ == "__main__":
    main()
