"""Measures without the page: speed, whether sharing the device is fair, exactness, and reports.

    python -m dspark_core.bench [speed] ...     decode speed, lane by lane; what is meant where no subcommand is named
    python -m dspark_core.bench fair ...        the same lanes raced together and alone
    python -m dspark_core.bench exact ...       greedy outputs against plain decoding's, in normal and in strict mode
    python -m dspark_core.bench report ...      sets of prompts x lanes, in alternation, as a report

Every one of them has a --help of its own.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import Refused
from ..models import drafters as methods
from ..models.group import take_place
from ..models.weights import PRECISIONS
from ..presets import load_presets
from ..race.records import BLOCK, CAP, CONFIDENCE, FULL, HARDWARE, PLAIN
from . import exactness, report, speed
from .plan import MLX_LM, BenchDrafter, add_drafters, preset_drafters

DEFAULT_COMMAND = "speed"


def main(arguments: Sequence[str] | None = None) -> None:
    take_place()
    line, words = CommandLine(), list(sys.argv[1:] if arguments is None else arguments)
    try:
        parser, commands = line.build_parser()
        if words[:1] not in ([name] for name in (*commands, "-h", "--help")):
            words = [DEFAULT_COMMAND, *words]
        a = parser.parse_args(words)
        a.drafters = line.drafters_of(a)
        a.do(a)
    except (Refused, ValueError) as e:
        sys.exit(f"error: {e}")


class CommandLine:
    """The options of the subcommands."""

    def drafters_of(self, a: argparse.Namespace) -> dict[str, BenchDrafter]:
        """By id: the embedded preset's, or what the arguments name instead. Raises ModelError and ValueError."""
        usual = preset_drafters()
        at = {id_: replace(d, place=getattr(a, id_.replace("-", "_"), None)) for id_, d in usual.items()}
        drafters = add_drafters(at, a.drafter)
        more = [id_ for id_ in drafters if id_ not in usual]
        if a.lanes == a.usual_lanes:
            a.lanes = ",".join([a.lanes, *more])
        return drafters

    @staticmethod
    def speed(a: argparse.Namespace) -> None:
        given = ((BLOCK, a.block), (CAP, a.cap), (CONFIDENCE, a.threshold))
        a.schedule = a.schedule or next((schedule for schedule, value in given if value is not None), FULL)
        speed.measure_speed(a)

    def build_parser(self) -> tuple[argparse.ArgumentParser, Sequence[str]]:
        """The parser, and the names of its subcommands."""
        plain_text = argparse.RawDescriptionHelpFormatter
        top = argparse.ArgumentParser("python -m dspark_core.bench", description=__doc__, formatter_class=plain_text)
        commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
        named = {
            *load_presets()[0].on_request,
            *map(str.lower, methods.marked("EVERYWHERE")),
        }  # for who names their lanes
        models, drafters = self.model_options(), [id_ for id_ in preset_drafters() if id_ not in named]
        all_lanes = ",".join([PLAIN, MLX_LM, *drafters])

        def add(name: str, do: Callable[[argparse.Namespace], None], text: str, about: str | None, *parents):
            p = commands.add_parser(
                name, help=text, description=about, formatter_class=plain_text, parents=[models, *parents]
            )
            p.set_defaults(do=do)
            return p

        p = add(
            DEFAULT_COMMAND,
            self.speed,
            "decode speed, lane by lane (the default)",
            speed.__doc__,
            self.decode_options(64),
        )
        self.add_lane_options(p, drafters)
        p.add_argument("--profile", action="store_true", help="where the time goes")
        p.add_argument("--raced", action="store_true", help="each lane in a race and alone, with the ratio: `fair`")
        p.add_argument("--against", metavar="COMMAND", help="another engine to alternate with")
        p.add_argument("--pair", help="ours:theirs,... with --against")
        p.add_argument("--repeat", type=int, help="alternations a prompt; default 1, with --against 3")

        text = "each lane in a race and alone, with the ratio"
        p = add(
            "fair",
            self.speed,
            text,
            "Does sharing the device change a lane's speed?",
            self.decode_options(64),
        )
        self.add_lane_options(p, drafters)
        p.set_defaults(raced=True, profile=False, against=None, pair=None, repeat=None)

        p = add("exact", exactness.measure_exactness, "is greedy output the target's own?", exactness.__doc__)
        self.add_set_options(p, lanes=",".join(drafters), schedule=FULL)
        p.add_argument("--tokens", type=int, default=64)

        p = add(
            "report",
            lambda a: report.Report(a).make(),
            "sets of prompts x lanes as a report",
            report.__doc__,
            self.decode_options(96),
        )
        self.add_set_options(p, lanes=all_lanes, schedule=HARDWARE)
        p.add_argument("--out", type=Path, required=True, help="directory of the report")
        p.add_argument("--uncounted", type=int, default=0, help="leave the first N alternations out of the figures")
        p.add_argument("--together", nargs="+", default=[], metavar="SET+SET", help="sets with figures in common")
        p.add_argument("--extra-lanes", default="", help="lanes for the first prompts of each set")
        p.add_argument("--extra-limit", type=int, help="how many prompts of each set those are")
        p.add_argument("--against", metavar="COMMAND", help="another engine, for lanes peer:NAME")
        p.add_argument("--from-log", action="store_true", help="write the report again; measure nothing")
        p.add_argument("--repeat", type=int, default=3, help="alternations a prompt")
        return top, list(commands.choices)

    def model_options(self) -> argparse.ArgumentParser:
        preset = load_presets()[0]
        p = argparse.ArgumentParser(add_help=False)
        p.add_argument("--target", type=Path, default=preset.target)
        for id_, drafter in preset_drafters(preset).items():
            if drafter.place is None:
                continue
            p.add_argument(
                f"--{id_}", type=Path, default=drafter.place, metavar="DIR", help=f"drafter of the lane {id_}"
            )
        text = "a drafter more, for lanes of this name, such as dspark-2; may be given several times"
        p.add_argument("--drafter", action="append", default=[], metavar="ID=DIR", help=text)
        p.add_argument("--precision", default="auto", choices=PRECISIONS)
        p.add_argument("--draft-precision", default="auto", choices=PRECISIONS)
        p.add_argument("--draft-newest", type=int, default=0, help="drafters look at so many newest tokens; 0: all")
        return p

    def decode_options(self, tokens: int) -> argparse.ArgumentParser:
        p = argparse.ArgumentParser(add_help=False)
        p.add_argument("--tokens", type=int, default=tokens)
        p.add_argument("--temperature", type=float, default=0.0)
        p.add_argument("--seed", type=int, default=0)
        return p

    def add_lane_options(self, p: argparse.ArgumentParser, drafters: Sequence[str]) -> None:
        """One set of prompts, and one schedule for all lanes with a drafter."""
        p.add_argument("--prompts", type=Path, metavar="FILE", help="one {'prompt': ...} a line")
        p.add_argument("--limit", type=int, help="only the first N prompts")
        self.add_lanes(p, ",".join([PLAIN, *drafters]), f"of {', '.join([PLAIN, MLX_LM, *drafters])}")
        p.add_argument("--schedule", choices=(FULL, BLOCK, CAP, CONFIDENCE, HARDWARE), help="default: full")
        p.add_argument("--cap", type=int, help="send at most N drafts a round")
        p.add_argument("--block", type=int, help="send the drafts of an effective block of N slots")
        p.add_argument("--threshold", type=float, help="send drafts up to the first with a lower confidence")

    def add_lanes(self, p: argparse.ArgumentParser, usual: str, text: str) -> None:
        """Unless it is given, the option has further drafters' lanes too."""
        p.add_argument("--lanes", default=usual, help=text)
        p.set_defaults(usual_lanes=usual)

    def add_set_options(self, p: argparse.ArgumentParser, lanes: str, schedule: str) -> None:
        """Several sets of prompts, and a schedule for every lane."""
        p.add_argument("--prompts", nargs="+", default=[], metavar="NAME=FILE", help="one {'prompt': ...} a line")
        p.add_argument("--limit", type=int, help="only the first N prompts of each set")
        self.add_lanes(p, lanes, "which, and how: see above")
        p.add_argument("--schedule", default=schedule, help="of drafters without one of their own, separated by commas")


if __name__ == "__main__":
    main()
