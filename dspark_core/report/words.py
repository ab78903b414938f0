"""The figures as Markdown."""

from collections.abc import Sequence

from .figures import ALL, LOSS, SLOWER, Figures, Interval
from .log import Header


def markdown(header: Header, figures: Figures) -> str:
    """The whole report; every prompt is in it, the slower ones too."""
    parts = [
        "# Decode speed",
        "\n".join(f"- {name}: {value}" for name, value in facts(header)),
        "× plain is a lane's tok/s over plain decoding's in the same alternation: per prompt the median of the "
        "alternations, then the median over prompts with its bootstrap 95 % interval. Decoding only: prefill is done "
        "once a prompt and not measured. No prompt is left out"
        + (f", but {figures.undecoded} whose answer is a single token." if figures.undecoded else "."),
    ]
    for name in dict.fromkeys(row.set for row in figures.lanes):
        parts += [f"## {name if name != ALL else 'All sets'}", _lanes(figures, name)]
        versus = [v for v in figures.versus if v.set == name]
        if versus:
            rows = [[v.lane, v.other, str(v.ratio.n), interval(v.ratio)] for v in versus]
            parts.append(_table(["lane", "against", "prompts", "tok/s over tok/s"], rows))
    parts += ["## Slowdowns", _slow(figures), "## Every prompt", _prompts(figures)]
    return "\n\n".join(parts) + "\n"


def facts(header: Header) -> list[tuple[str, str]]:
    return [
        ("target", f"{header.target}, {header.precision}"),
        *(("drafter", f"{method}: {text}") for method, text in header.drafters.items()),
        ("tokens", f"at most {header.tokens}, temperature {header.temperature:g}"),
        ("machine", ", ".join(f"{k} {v}" for k, v in header.machine.items())),
        ("versions", ", ".join(f"{k} {v}" for k, v in header.versions.items())),
        ("begun", header.when),
    ]


def _lanes(figures: Figures, name: str) -> str:
    head = ["lane", "prompts", "tok/s", "× plain (95 %)", "worst", f"< {LOSS}", f"< {SLOWER}", "tokens per round"]
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
        for f in figures.lanes
        if f.set == name
    ]
    return _table(head, rows)


def _slow(figures: Figures) -> str:
    slow = sorted((p for p in figures.prompts if p.times_plain < SLOWER), key=lambda p: p.times_plain)
    if not slow:
        return f"No prompt below {SLOWER} × plain in any lane."
    return _table(
        ["× plain", "lane", "set", "prompt"], [[f"{p.times_plain:.3f}", p.lane, p.set, str(p.prompt)] for p in slow]
    )


def _prompts(figures: Figures) -> str:
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
        for p in figures.prompts
    ]
    return _table(head, rows)


def interval(i: Interval | None) -> str:
    return "" if i is None else f"{i.median:.3f} ({i.low:.3f} to {i.high:.3f})"


def percent(share: float | None, digits: int = 1) -> str:
    return "" if share is None else f"{100 * share:.{digits}f} %"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
