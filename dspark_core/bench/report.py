"""`python -m dspark_core.bench report`: sets of prompts × lanes × schedules, in alternation, as a report.

    python -m dspark_core.bench report --out DIR [--prompts NAME=FILE.jsonl ...] [--limit 8] [--tokens 96] [--repeat 3]
        [--lanes plain,mlx-lm,dspark,dflash:cap=3] [--schedule hardware,full]
        [--extra-lanes dspark:best,peer:mlx-dspark,peer:mlx-dspark=auto --extra-limit 2]

Lanes are plain, mlx-lm (its own plain decoding, on the same loaded weights), dspark and dflash with a schedule after
a colon (full, cap=N, confidence=X, cumulative=X, hardware, or best: the best fixed cap in hindsight, prompt by
prompt), or with each of --schedule. peer:mlx-dspark is that engine, where it is installed, in a process of its own on
the same weights, as its library is called by default (cap 2); with =auto at its automatic cap, with =full at the full
block. peer:NAME is lane NAME of the command given with --against (peers.py has the protocol). Lanes of --extra-lanes
run on the first --extra-limit prompts of each set only.

Writes to DIR: log.jsonl (every measurement as it is made; the same command goes on where it was stopped), report.md and
report.json (after every prompt) and, at the end, report.html where plotly is installed. --from-log writes them again
from the log and measures nothing. --uncounted 1 leaves every prompt's first alternation out of the figures: a device
that prepares its kernels anew for every shape (MLX on CUDA) does so there. A prompt's prefill is done once and shared
by its decodes. The machine's cost curve is measured first.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from ..decode.cost import CostCurve
from ..decode.rounds import Settings
from ..models.checkpoint import load_drafter
from ..models.errors import ModelError
from ..models.precision import PRECISIONS
from ..models.target import load_target
from ..presets import load_presets
from ..race.advice import judged, middle
from ..race.costs import measured
from ..race.machine import machine, versions
from ..race.models import Models
from ..race.record import HARDWARE
from . import log
from . import run as runs
from .figures import Figures, best_cap, figures
from .peers import Peer, Peers, installed, mlx_dspark
from .plan import AGAINST, METHODS, MLX_DSPARK, Lane, Prompt, alternations, parse_lanes, read_sets, with_cap
from .report_markdown import markdown


def main(arguments: Sequence[str]) -> None:
    a = _arguments(arguments)
    try:
        run(a)
    except (ModelError, ValueError) as e:
        sys.exit(f"error: {e}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from here")


def run(a: argparse.Namespace) -> None:
    lanes = parse_lanes(a.lanes, a.schedule, a.extra_lanes, a.extra_limit)
    prompts = read_sets(a.prompts, a.limit)
    kept = log.read(a.out / "log.jsonl")
    if not a.from_log:
        kept = _measure(a, lanes, prompts, kept)
    if kept is None:
        raise ValueError(f"There is no {a.out / 'log.jsonl'}.")
    write(a, kept, lanes)
    say(f"wrote {a.out / 'report.md'}")
    _write_page(a, kept, lanes, prompts)


def _measure(a: argparse.Namespace, lanes: Sequence[Lane], prompts: Sequence[Prompt], kept: log.Log | None) -> log.Log:
    """Everything that the log does not hold yet; returns the log."""
    settings = Settings(a.tokens, a.temperature, seed=a.seed)
    models = _load(a, lanes)
    header = _header(a, models)
    if kept is None:
        say("measuring the cost curve")
        kept = log.create(a.out / "log.jsonl", header, _curve(models))
    log.require_same(kept, header)
    models.curve = kept.curve
    starts = {MLX_DSPARK: lambda: mlx_dspark(models, a.target, a.dspark, a.out)}
    if a.against:
        starts[AGAINST] = lambda: Peer(a.against)
    warm: set[str] = set()
    with Peers(starts) as peers:
        for number, prompt in enumerate(prompts):
            here = [lane for lane in lanes if lane.runs_on(prompt)]
            _prompt(models, peers, here, prompt, number, a.repeat, settings, kept, warm)
            write(a, kept, lanes)
            say(f"{number + 1} of {len(prompts)}: {prompt.set} {prompt.index}")
    return kept


def _prompt(models, peers, lanes, prompt: Prompt, number: int, repeat: int, settings, kept: log.Log, warm) -> None:
    """Measure what the log does not hold yet of one prompt."""
    key = prompt.set, prompt.index
    todo = [
        (place, turn, lane)
        for place, (turn, lane) in enumerate(alternations(lanes, number, repeat))
        if (*key, lane.name, turn) not in kept.rows
    ]
    if not todo:
        return
    ids = models.target.encode_chat([{"role": "user", "content": prompt.text}])
    prefilled = runs.prepare(models, ids)
    for place, turn, lane in todo:
        if lane.name not in warm:
            runs.warm_up(models, peers, lane, ids[:16])
            warm.add(lane.name)
        cap = None
        if lane.best:
            cap = _best(models.curve, lanes, lane, key, kept)
            lane = with_cap(lane, cap)
        told = runs.decode_lane(models, peers, lane, ids, settings, prefilled)
        kept.add(log.Row(*key, lane.name, turn, place % len(lanes), cap=cap, **told))


def _best(curve: CostCurve, lanes: Sequence[Lane], lane: Lane, key: tuple, kept: log.Log) -> int:
    """The best fixed cap in hindsight of what the drafter's other lanes did on this prompt in the first turn."""
    method = lane.spec.method
    others = [o for o in lanes if o.spec and o.spec.method == method and not o.best]
    rows = [kept.rows[*key, o.name, 0] for o in others]
    outcomes = [x for row in rows for x in judged(row.record(lane.spec), True)]
    context = middle(rows[0].rounds) if rows and rows[0].rounds else 0
    return best_cap(curve, method, outcomes, context)[0]


def write(a: argparse.Namespace, kept: log.Log, lanes: Sequence[Lane]) -> None:
    """The report as Markdown and JSON, from the log."""
    told = _figures(a, kept, lanes)
    document = {"header": asdict(kept.header), "curve": json.loads(kept.curve.to_json())} | asdict(told)
    (a.out / "report.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (a.out / "report.md").write_text(markdown(kept.header, told), encoding="utf-8")


def _write_page(a: argparse.Namespace, kept: log.Log, lanes: Sequence[Lane], prompts: Sequence[Prompt]) -> None:
    try:
        from .report_html import report_page  # plotly is not everywhere where there is something to measure
    except ModuleNotFoundError as e:
        if e.name != "plotly":
            raise
        say("plotly is not installed: no report.html (--from-log writes it where plotly is)")
        return
    text = report_page(kept.header, kept.curve, _figures(a, kept, lanes), prompts)
    (a.out / "report.html").write_text(text, encoding="utf-8")
    say(f"wrote {a.out / 'report.html'}")


def _figures(a: argparse.Namespace, kept: log.Log, lanes: Sequence[Lane]) -> Figures:
    return figures(kept, lanes, [g.split("+") for g in a.together], a.uncounted)


def say(text: str) -> None:
    print(f"{datetime.now().strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _load(a: argparse.Namespace, lanes: Sequence[Lane]) -> Models:
    target = load_target(a.target, a.precision)
    wanted = {lane.spec.method for lane in lanes if lane.spec and lane.spec.speculative}
    names = [name for name, method in METHODS.items() if method in wanted]
    drafters = [load_drafter(getattr(a, name), target, a.draft_precision) for name in names]
    return Models(target, {METHODS[name]: d for name, d in zip(names, drafters, strict=True)})


def _header(a: argparse.Namespace, models: Models) -> log.Header:
    paths = {METHODS[name]: getattr(a, name) for name in METHODS}
    return log.Header(
        target=f"{models.target.name}, {_digest(a.target)}",
        precision=models.target.precision,
        drafters={m: f"{d.name}, {d.precision}, {_digest(paths[m])}" for m, d in models.loaded.items()},
        tokens=a.tokens,
        temperature=a.temperature,
        seed=a.seed,
        machine=machine(),
        versions=versions(),
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        peers={MLX_DSPARK: installed()} if installed() else {},
    )


def _digest(directory: Path) -> str:
    """Of a model's weights: sizes, and the first megabyte of each file."""
    told = hashlib.sha256()
    for file in sorted(Path(directory).glob("*.safetensors")):
        told.update(f"{file.name} {file.stat().st_size} ".encode())
        with file.open("rb") as opened:
            told.update(opened.read(2**20))
    return told.hexdigest()[:12]


def _curve(models: Models) -> CostCurve:
    *_, curve = measured(models)
    return curve


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    preset = load_presets()[0]
    paths = {d.method: d.path for d in preset.drafters}
    p = argparse.ArgumentParser(
        prog="python -m dspark_core.bench report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--out", type=Path, required=True, help="directory of the report")
    p.add_argument("--target", type=Path, default=preset.target)
    for name, method in METHODS.items():
        p.add_argument(f"--{name}", type=Path, default=paths[method])
    p.add_argument("--prompts", nargs="+", default=[], metavar="NAME=FILE", help="one {'prompt': ...} a line")
    p.add_argument("--limit", type=int, help="only the first N prompts of each set")
    p.add_argument("--uncounted", type=int, default=0, help="leave the first N alternations out of the figures")
    p.add_argument("--together", nargs="+", default=[], metavar="SET+SET", help="sets with figures in common")
    p.add_argument("--lanes", default="plain,mlx-lm,dspark,dflash")
    p.add_argument("--schedule", default=HARDWARE, help="of drafters without one of their own, separated by commas")
    p.add_argument("--extra-lanes", default="", help="lanes for the first prompts of each set")
    p.add_argument("--extra-limit", type=int, help="how many prompts of each set those are")
    p.add_argument("--against", metavar="COMMAND", help="another engine, for lanes peer:NAME")
    p.add_argument("--from-log", action="store_true", help="write the report again; measure nothing")
    p.add_argument("--tokens", type=int, default=96)
    p.add_argument("--repeat", type=int, default=3, help="alternations a prompt")
    p.add_argument("--temperature", type=float, default=0.0)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--precision", default="auto", choices=PRECISIONS)
    p.add_argument("--draft-precision", default="auto", choices=PRECISIONS)
    return p.parse_args(arguments)
