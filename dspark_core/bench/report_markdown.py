"""The figures in words and tables, and those as Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..decode.cost_curve import CostCurve
from ..race.records import exact
from .figures import ALL, LOSS_RATIO, SLOWER_RATIO, Figures, Interval, LaneFigures
from .log import Header
from .plan import MLX_LM, PLAIN

NONE_SLOWER = f"No prompt below {SLOWER_RATIO} × plain in any lane."
METHOD = (
    "× plain is a lane's tok/s over plain decoding's in the same alternation: per prompt the median of the "
    "alternations, then the median over prompts with its bootstrap 95 % interval. Decoding only: prefill is done once "
    "a prompt and not measured."
)


@dataclass(frozen=True, slots=True)
class Table:
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


class ReportTables:
    """What the figures come to, in sentences and tables."""

    def __init__(self, figures: Figures):
        self.figures = figures

    def method(self) -> str:
        undecoded = f", but {self.figures.undecoded} whose answer is a single token" if self.figures.undecoded else ""
        turns = "alternation" if self.figures.uncounted == 1 else f"{self.figures.uncounted} alternations"
        words = f" The first {turns} of every prompt prepared the device and is not counted."
        return f"{METHOD} No prompt is left out{undecoded}.{words if self.figures.uncounted else ''}"

    def sets(self) -> list[str]:
        """Names of the sets, then of those taken together."""
        return list(dict.fromkeys(row.set for row in self.figures.lanes))

    def sentences(self) -> list[str]:
        """What came out for every drafting lane, where sets are taken together; set by set if none are."""
        single, names = {p.set for p in self.figures.prompts}, self.sets()
        names = [n for n in names if n not in single] or names
        drafting = [f for f in self.figures.lanes if f.lane not in (PLAIN, MLX_LM)]
        return [self._lane_sentence(f) for name in names for f in drafting if f.set == name]

    def _lane_sentence(self, f: LaneFigures) -> str:
        where = "all sets" if f.set == ALL else f.set
        words = [
            f"{f.lane}, {where}, {_counted(f.prompts, 'prompt')}: {f.times_plain.median:.3f} × plain (median; 95 %: "
            f"{f.times_plain.low:.3f} to {f.times_plain.high:.3f}), the slowest {f.worst:.3f}; {f.below_95} below "
            f"{LOSS_RATIO} and {f.below_97} below {SLOWER_RATIO}."
        ]
        words.append(
            f"{_counted(f.different, 'output')} {'differs' if f.different == 1 else 'differ'} from plain decoding's."
            if f.different
            else "Every output is plain decoding's."
        )
        if f.error is not None:
            words.append(
                f"The cost curve foretells its speed with a median error of {percent(f.error)}, and its schedule takes "
                f"{percent(f.scheduler, 3)} of its time."
            )
        if f.of_best is not None:
            words.append(f"Predicted, it reaches {f.of_best.median:.3f} of the best fixed cap in hindsight.")
        versus = [v for v in self.figures.versus if (v.set, v.lane) == (f.set, f.lane)]
        if versus:
            against = [f"{v.ratio.median:.3f} × {v.other} ({_counted(v.ratio.n, 'prompt')})" for v in versus]
            words.append(f"Its speed, measured in alternation: {'; '.join(against)}.")
        return " ".join(words)

    def lanes_table(self, name: str) -> Table:
        head = [
            "lane",
            "prompts",
            "tok/s",
            "× plain (95 %)",
            "worst",
            f"< {LOSS_RATIO}",
            f"< {SLOWER_RATIO}",
            "tokens per round",
        ]
        head += ["other output", "prediction error: speed", "× plain", "scheduler", "of best fixed cap (predicted)"]
        rows = [
            [
                f.lane,
                str(f.prompts),
                f"{f.tok_s:.2f}",
                interval(f.times_plain),
                f"{f.worst:.3f}",
                str(f.below_95),
                str(f.below_97),
                f"{f.tokens_per_round:.2f}",
                str(f.different),
                percent(f.error),
                percent(f.times_error),
                percent(f.scheduler, 3),
                interval(f.of_best),
            ]
            for f in self.figures.lanes
            if f.set == name
        ]
        return Table(head, rows)

    def versus_table(self, name: str) -> Table:
        rows = [[v.lane, v.other, str(v.ratio.n), interval(v.ratio)] for v in self.figures.versus if v.set == name]
        return Table(["lane", "against", "prompts", "tok/s over tok/s"], rows)

    def slots_table(self) -> Table:
        rows = [[s.lane, str(s.slot), f"{s.accepted / s.reached:.3f}", str(s.reached)] for s in self.figures.slots]
        return Table(["lane", "position", "accepted, where all before were", "of"], rows)

    def slow_table(self) -> Table:
        slow = sorted((p for p in self.figures.prompts if p.times_plain < SLOWER_RATIO), key=lambda p: p.times_plain)
        rows = [[f"{p.times_plain:.3f}", p.lane, p.set, str(p.prompt)] for p in slow]
        return Table(["× plain", "lane", "set", "prompt"], rows)

    def prompts_table(self) -> Table:
        head = ["set", "prompt", "lane", "tokens", "tok/s", "× plain", "tokens per round", "predicted tok/s", "error"]
        head += ["best cap", "of it", "scheduler", "same output"]
        rows = [
            [
                p.set,
                str(p.prompt),
                p.lane,
                str(p.tokens),
                f"{p.tok_s:.2f}",
                f"{p.times_plain:.3f}",
                f"{p.tokens_per_round:.2f}",
                "" if p.predicted is None else f"{p.predicted:.2f}",
                percent(p.error),
                "" if p.best_cap is None else str(p.best_cap),
                "" if p.of_best is None else f"{p.of_best:.3f}",
                percent(p.scheduler, 3),
                "yes" if p.same else "no",
            ]
            for p in self.figures.prompts
        ]
        return Table(head, rows)


def markdown(header: Header, figures: Figures) -> str:
    """The whole report; every prompt is in it, the slower ones too."""
    report = ReportTables(figures)
    parts = [
        "# Decode speed",
        "\n".join(f"- {name}: {value}" for name, value in facts(header)),
        report.method(),
        "\n".join(f"- {line}" for line in report.sentences()),
    ]
    for name in report.sets():
        parts += [f"## {heading(name)}", report.lanes_table(name).markdown()]
        versus = report.versus_table(name)
        parts += [versus.markdown()] if versus.rows else []
    slots, slow = report.slots_table(), report.slow_table()
    parts += ["## Acceptance by position", slots.markdown()] if slots.rows else []
    parts += ["## Slowdowns", slow.markdown() if slow.rows else NONE_SLOWER]
    parts += ["## Every prompt", report.prompts_table().markdown()]
    return "\n\n".join(parts) + "\n"


def heading(name: str) -> str:
    return "All sets" if name == ALL else name


def _counted(n: int, word: str) -> str:
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def facts(header: Header) -> list[tuple[str, str]]:
    return [
        ("target", f"{header.target}, {header.precision}"),
        *(("drafter", f"{method}: {text}") for method, text in header.drafters.items()),
        ("tokens", f"at most {header.tokens}, temperature {exact(header.temperature)}"),
        ("machine", ", ".join(f"{k} {v}" for k, v in header.machine.items())),
        ("versions", ", ".join(f"{k} {v}" for k, v in header.versions.items())),
        *(("other engine", f"{name} {version}") for name, version in header.peers.items()),
        ("begun", header.when),
    ]


def curve_table(curve: CostCurve) -> Table:
    """What a step costs, in ms, as measured."""
    rows = []
    for c in curve.costs:
        kinds = {"plain step": {1: c.plain}, "verify": c.verify} | {f"draft {m}": p for m, p in c.draft.items()}
        for kind, points in kinds.items():
            for n, t in points.items():
                spread = f"{1e3 * t.low:.2f} to {1e3 * t.high:.2f}"
                rows.append([kind, str(n), str(c.context), f"{1e3 * t.median:.2f}", spread, str(t.n)])
    return Table(["what", "tokens", "context", "median ms", "range ms", "times"], rows)


def interval(i: Interval | None) -> str:
    return "" if i is None else f"{i.median:.3f} ({i.low:.3f} to {i.high:.3f})"


def percent(share: float | None, digits: int = 1) -> str:
    return "" if share is None else f"{100 * share:.{digits}f} %"
