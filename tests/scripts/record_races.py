"""Record races for assets/races/, on this machine, as the page would run them once it has prepared itself.

    python tests/scripts/record_races.py DIRECTORY [--times 3] [--only 1 2 3] [--tokens 96] [--dspark DIR --dflash DIR]

Each race of RACES for this kind of device is run TIMES times; of these the one whose plain lane was fastest is written
to DIRECTORY, as the page itself would save it: the one that was disturbed least by whatever else the machine had to do.
A recording goes on the page by lying in assets/races/: its machine, models and settings stand in the file. It needs no
gradio, so that it runs where only the engine does.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dspark_core.decode.rounds import Settings
from dspark_core.machine import mlx_device
from dspark_core.models.checkpoint import load_drafter
from dspark_core.models.target import load_target
from dspark_core.models.weights import PRECISIONS
from dspark_core.presets import load_presets, load_prompts
from dspark_core.race.lane_spec import read_lanes
from dspark_core.race.loaded import Models
from dspark_core.race.metrics import metrics, plain_metrics, times_plain
from dspark_core.race.preparation import prepare
from dspark_core.race.race import race
from dspark_core.race.records import RaceRecord, RaceRequest
from dspark_core.race.trace import Trace, dumps, trace_of

# file name -> (device, title of a prompt, lanes); the same prompt is there once for each kind of device
RACES = {
    "1-binary-search-cpu": ("cpu", "Binary search", "plain,dspark,dflash"),
    "2-binary-search-gpu": ("gpu", "Binary search", "plain,dspark,dflash"),
    "3-rainy-sunday-cpu": ("cpu", "Rainy Sunday", "plain,dspark:full,dflash:full"),
}


def loaded(given: argparse.Namespace) -> Models:
    """What the page starts with, or other drafters in the place of its own."""
    preset = load_presets()[0]
    assert isinstance(preset.target, Path), "the embedded preset's files are here"
    precision: str = getattr(given, "precision", "auto")
    target = load_target(preset.target, precision)
    places = {id_: getattr(given, id_, None) or d.path for id_, d in preset.first_drafters.items()}
    return Models(target, {id_: load_drafter(place, target, precision) for id_, place in places.items()})


def raced(models: Models, prompt: str, lanes: str, tokens: int) -> Trace:
    specs = tuple(lane.spec for lane in read_lanes(lanes, models.infos))
    record = None
    for _, event in race(models, RaceRequest(prompt, specs, Settings(tokens))):
        record = event if isinstance(event, RaceRecord) else record
    assert record is not None and record.source is not None and record.verdict is not None
    assert not any(lane.error for lane in record.lanes), [lane.error for lane in record.lanes]
    plain = plain_metrics(record.lanes)
    speeds = [f"{m.tok_s:.1f} ({times_plain(m, plain):.2f} x)" for m in map(metrics, record.lanes)]
    print(", ".join(speeds), record.verdict.words, flush=True)
    ran = record.source
    return trace_of(record, ran.token_bytes, ran.stop_ids, ran.drafters, ran.machine, ran.versions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=[], help="beginnings of the names of races to run")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--lanes", default="", help="in place of the race's own")
    parser.add_argument("--precision", default="auto", choices=PRECISIONS)
    parser.add_argument("--ready-within", type=float, default=600.0, help="seconds that getting ready may take")
    parser.add_argument("--trial", action="store_true", help="of every kind of device, too: to try the script")
    for id_ in ("dspark", "dflash"):
        parser.add_argument(f"--{id_}", type=Path, metavar="DIR", help="in place of the embedded one")
    given = parser.parse_args()
    given.directory.mkdir(parents=True, exist_ok=True)
    models, words = loaded(given), ""
    began, steps = time.monotonic(), prepare(models)  # held until the end: what is measured by then serves
    for step in steps:
        if time.monotonic() - began > given.ready_within:
            print("Not ready in time: the races go by what is known by now.", flush=True)
            break
        words, before = step, words
        if words.partition(",")[0] != before.partition(",")[0]:
            print(words, flush=True)
    prompts = {p.title: p.text for p in load_prompts()}
    device = "cpu" if mlx_device().kind == "CPU" else "gpu"
    for name, (wanted, title, lanes) in RACES.items():
        if (wanted != device and not given.trial) or (given.only and not name.startswith(tuple(given.only))):
            continue
        runs = [raced(models, prompts[title], given.lanes or lanes, given.tokens) for _ in range(given.times)]
        best = max(runs, key=lambda trace: plain_metrics(trace.race.lanes).tok_s)
        document = dumps(best)
        (given.directory / f"{name}.json").write_text(document + "\n", "utf-8")
        print(f"{name}: {len(document) / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
