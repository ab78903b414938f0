"""`python -m dspark_core.bench report`: sets of prompts × lanes × schedules, in alternation, as a report.

    python -m dspark_core.bench report --out DIR [--prompts NAME=FILE.jsonl ...] [--limit 8] [--tokens 96] [--repeat 3]
        [--lanes plain,mlx-lm,dspark,dflash:cap=3] [--schedule hardware,full]
        [--extra-lanes dspark:best,peer:mlx-dspark,peer:mlx-dspark=auto --extra-limit 2]

Lanes are plain, mlx-lm (its own plain decoding, on the same loaded weights), dspark and dflash with a schedule after
a colon (full, block=N, cap=N, confidence=X, cumulative=X, hardware, or best: the best fixed cap in hindsight, prompt by
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

from ..decode.cost_curve import CostCurve
from ..decode.rounds import Settings
from ..machine import machine, versions
from ..models.info import DrafterInfo
from ..race.forecast import draft_outcomes, middle_position
from ..race.loaded import Models
from .figures import Figures, best_cap, figures
from .log import Header, Log, Row
from .peers import Peer, Peers, installed, mlx_dspark
from .plan import (
    AGAINST,
    MLX_DSPARK,
    BestCapLane,
    PlannedLane,
    SetPrompt,
    alternations,
    excess,
    plan_lanes,
    read_sets,
)
from .report_markdown import markdown
from .run import decode_lane, load_models, prepare, warm_up


class Report:
    """What the arguments of the command ask for, and its log once there is one."""

    def __init__(self, a: argparse.Namespace):
        self.arguments, self.out = a, a.out
        self.lanes = plan_lanes(a.lanes, a.schedule, a.extra_lanes, a.extra_limit, a.drafters)
        self.prompts = read_sets(a.prompts, a.limit)
        self.log: Log | None = Log.read(self.out / "log.jsonl")

    def make(self) -> None:
        """Measure what the log does not hold yet, and write the report. Raises ValueError."""
        try:
            if not self.arguments.from_log:
                self._measure()
        except KeyboardInterrupt:
            sys.exit("stopped; the same command goes on from here")
        if self.log is None:
            raise ValueError(f"There is no {self.out / 'log.jsonl'}.")
        self._write(self.log)
        print_progress(f"wrote {self.out / 'report.md'}")
        self._write_page(self.log)

    def _measure(self) -> None:
        a, models = self.arguments, load_models(self.arguments, self.lanes)
        for words in excess(self.lanes, models.infos):
            print_progress(words)
        header = self._header(models)
        if self.log is None:
            print_progress("measuring the cost curve")
            *_, curve = models.measure_curve()
            assert isinstance(curve, CostCurve)
            self.log = Log.create(self.out / "log.jsonl", header, curve)
        self.log.require_same(header)
        models.curve = self.log.curve
        starts = {MLX_DSPARK: lambda: mlx_dspark(models, a.target, a.drafters, a.out)}
        if a.against:
            starts[AGAINST] = lambda: Peer(a.against)
        with Peers(starts) as peers:
            runs = PromptRuns(models, peers, self.log, Settings(a.tokens, a.temperature, seed=a.seed))
            for number, prompt in enumerate(self.prompts):
                lanes = [lane for lane in self.lanes if lane.runs_on(prompt)]
                runs.measure_prompt(prompt, lanes, number, a.repeat)
                self._write(self.log)
                print_progress(f"{number + 1} of {len(self.prompts)}: {prompt.set} {prompt.index}")

    def _figures(self, log: Log) -> Figures:
        together = [group.split("+") for group in self.arguments.together]
        return figures(log, self.lanes, together, self.arguments.uncounted)

    def _write(self, log: Log) -> None:
        """The report as Markdown and JSON, from the log."""
        found = self._figures(log)
        document = {"header": asdict(log.header), "curve": json.loads(log.curve.to_json())} | asdict(found)
        (self.out / "report.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        (self.out / "report.md").write_text(markdown(log.header, found), encoding="utf-8")

    def _write_page(self, log: Log) -> None:
        try:
            from .report_html import report_page
        except ModuleNotFoundError as e:
            if e.name != "plotly":
                raise
            print_progress("plotly is not installed: no report.html (--from-log writes it where plotly is)")
            return
        text = report_page(log.header, log.curve, self._figures(log), self.prompts)
        (self.out / "report.html").write_text(text, encoding="utf-8")
        print_progress(f"wrote {self.out / 'report.html'}")

    def _header(self, models: Models) -> Header:
        a = self.arguments

        def digest(directory: Path) -> str:
            """Of a model's weights: sizes, and the first megabyte of each file."""
            out = hashlib.sha256()
            for file in sorted(Path(directory).glob("*.safetensors")):
                out.update(f"{file.name} {file.stat().st_size} ".encode())
                with file.open("rb") as opened:
                    out.update(opened.read(2**20))
            return out.hexdigest()[:12]

        def described(info: DrafterInfo) -> str:
            place = a.drafters[info.id].place
            return ", ".join(filter(None, (info.name, info.precision, place and digest(place))))

        peer = installed()
        return Header(
            target=f"{models.target.name}, {digest(a.target)}",
            precision=models.target.precision,
            drafters={i.lane_drafter or i.method: described(i) for i in models.infos},
            tokens=a.tokens,
            temperature=a.temperature,
            seed=a.seed,
            machine=machine() | models.streams,
            versions=versions(),
            when=datetime.now(UTC).isoformat(timespec="seconds"),
            peers={MLX_DSPARK: peer} if peer else {},
        )


class PromptRuns:
    """Decodes prompt by prompt into a log; each lane is warmed up before its first decode."""

    def __init__(self, models: Models, peers: Peers, log: Log, settings: Settings):
        self.models, self.peers, self.log, self.settings = models, peers, log, settings
        self._warm: set[str] = set()

    def measure_prompt(self, prompt: SetPrompt, lanes: Sequence[PlannedLane], number: int, repeat: int) -> None:
        """What the log does not hold yet of prompt `number` of the run, `repeat` alternations."""
        key = prompt.set, prompt.index
        todo = [
            (place, turn, lane)
            for place, (turn, lane) in enumerate(alternations(lanes, number, repeat))
            if (*key, lane.name, turn) not in self.log.rows
        ]
        if not todo:
            return
        ids = self.models.target.encode_chat([{"role": "user", "content": prompt.text}])
        prefilled = prepare(self.models, ids)
        for place, turn, lane in todo:
            if lane.name not in self._warm:
                warm_up(self.models, self.peers, lane, ids[:16])
                self._warm.add(lane.name)
            cap: int | None = None
            run = lane
            if isinstance(lane, BestCapLane):
                cap = self._best_cap(lanes, lane, key)
                run = lane.with_cap(cap)
            row = decode_lane(self.models, self.peers, run, ids, self.settings, prefilled)
            self.log.add(Row(*key, lane.name, turn, place % len(lanes), cap=cap, **row))

    def _best_cap(self, lanes: Sequence[PlannedLane], lane: BestCapLane, key: tuple[str, int]) -> int:
        """The best fixed cap in hindsight of what the drafter's other lanes did on this prompt in the first turn."""
        others = [o for o in lanes if lane.learns_from(o)]
        rows = [self.log.rows[*key, o.name, 0] for o in others]
        outcomes = [x for row in rows for x in draft_outcomes(row.record(lane.spec), True)]
        context = middle_position(rows[0].rounds) if rows and rows[0].rounds else 0
        return best_cap(self.log.curve, lane.spec.drafter_id, outcomes, context)[0]


def print_progress(text: str) -> None:
    print(f"{datetime.now().strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
