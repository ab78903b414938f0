"""Record races for assets/races/, on this machine, as the page would run them.

    python tests/scripts/record_races.py DIRECTORY [TIMES]

Each race of RACES is run TIMES (3) times; of these the one whose plain lane was fastest is written to DIRECTORY, as the
page itself would save it: the one that was disturbed least by whatever else the machine had to do. A recording goes on
the page by lying in assets/races/: its machine, models and settings stand in the file.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dspark_core.machine import machine
from dspark_core.playground.engine import PresetEngine
from dspark_core.playground.page import RaceCall
from dspark_core.playground.race_request import offers_of
from dspark_core.playground.saved import traced
from dspark_core.playground.stream import RaceView, announcement
from dspark_core.presets import load_presets, load_prompts
from dspark_core.race.metrics import plain_metrics
from dspark_core.race.trace import Trace, dumps

# file name -> (title of a prompt, lanes)
RACES = {
    "1-binary-search": ("Binary search", "plain,dspark,dflash"),
    "3-rainy-sunday": ("Rainy Sunday", "plain,dspark:full,dflash:full"),
}


def raced(engine: PresetEngine, prompt: str, lanes: str) -> Trace:
    request, _ = RaceCall(prompt, lanes).asked(offers_of(engine))
    view = RaceView(request)
    for lane, event in engine.race(request, lambda: False):
        view.add(lane, event)
    view.end(cancelled=False)
    assert view.race is not None and view.race.verdict is not None
    print(announcement(view.race), flush=True)
    return traced(view.race)


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    where, times = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3
    where.mkdir(parents=True, exist_ok=True)
    engine = PresetEngine(load_presets()[0], "auto", lambda words: None)
    prompts = {p.title: p.text for p in load_prompts()}
    device = "gpu" if machine()["device"] == "GPU" else "cpu"
    for name, (title, lanes) in RACES.items():
        runs = [raced(engine, prompts[title], lanes) for _ in range(times)]
        best = max(runs, key=lambda trace: plain_metrics(trace.race.lanes).tok_s)
        document = dumps(best)
        (where / f"{name}-{device}.json").write_text(document + "\n", "utf-8")
        print(f"{name}: {len(document) / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
