"""Saved races: of a race that ended, its trace; of a trace, what the board shows and what files are called.

A race as one HTML file that replays by itself, without this program and without a network.

The board's own script and style stand in it with the race's records as data.
"""

import itertools
import json
import re
from dataclasses import replace
from datetime import datetime

from ..models.token_bytes import TextStream
from ..offline_page import offline_page
from ..race.outcome import outcome
from ..race.records import Failed, LaneRecord, RaceRecord, exact
from ..race.trace import Trace, trace_of
from .stream import RUNS, BoardText, announcement, source_of
from .widgets import BOARD_SCRIPTS, page_file, script

MAX_SAVED = 8  # races of one page; the oldest goes first


def traced(race: RaceRecord) -> Trace:
    """The trace of a race that has just ended, on whatever is loaded by now."""
    ran = source_of(race)
    trace = trace_of(race, ran.token_bytes, ran.stop_ids, ran.drafters, ran.machine, ran.versions)
    race.source = replace(ran, token_bytes=trace.token_text)  # a saved race holds no tokenizer
    return trace


def board_of(trace: Trace) -> str:
    """The board's value for a race that is over. No model is asked."""
    race = trace.race
    board = BoardText(next(RUNS), race.request)
    board.begin(trace.token_text, trace.stop_ids, len(race.lanes), race.thought)
    board.begin_passes(race, trace.machine)
    timed = []
    for i, lane in enumerate(race.lanes):
        if lane.start:
            before = lane.start.prefill_s
            timed += [(before, i, lane.start), *((before + r.time_s, i, r) for r in lane.rounds)]
        if lane.error is not None:
            words = f"This lane failed; the saved race gives as the reason: “{one_line(lane.error)}”"
            timed.append((float("inf"), i, Failed(words)))
    board.add_all((i, event) for _, i, event in sorted(timed, key=lambda t: t[0]))
    board.strict(race)
    if race.verdict:
        board.verdict(race.verdict)
    board.outcome(race)
    board.over("stopped" if race.interrupted else "done", announcement(race))
    board.status(f"A saved race: {title(trace)}. Its prompt: {one_line(prompt_words(trace, 90))}")
    return board.whole


def title(trace: Trace) -> str:
    """A race in a few words, the same for the list of kept races and for a table's head."""
    return f"{one_line(trace.race.target)}, {one_line(trace.race.precision)}, {moment(trace)}"


def one_line(text: str) -> str:
    """A file's own words inside a sentence of the page: nothing that ends the line, turns its direction or closes the
    quotation marks around them."""
    return "".join(c if c.isprintable() else " " for c in text).translate({0x201C: '"', 0x201D: '"'})


def moment(trace: Trace) -> str:
    """When it was made, on this machine's clock."""
    try:
        return f"{datetime.fromisoformat(trace.made).astimezone():%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return "at an unknown time"


def file_name(trace: Trace, ending: str) -> str:
    """Letters, digits and dashes only, whatever the trace says."""
    words = re.sub(r"[^A-Za-z0-9]+", "-", f"{trace.race.target} {trace.race.precision} {moment(trace)}")
    return f"race-{words.strip('-')[:80]}.{ending}"


def prompt_words(trace: Trace, length: int = 40) -> str:
    words = " ".join(trace.race.request.prompt.split())
    return words if len(words) <= length else words[: length - 1] + "…"


def reference(race: RaceRecord) -> LaneRecord:
    """The lane whose text is the one to match: the plain one, or the first."""
    return next((lane for lane in race.lanes if not lane.spec.speculative), race.lanes[0])


def answer_ids(trace: Trace) -> list[int]:
    """That lane's answer without its stop token."""
    return [i for i in reference(trace.race).output if i not in trace.stop_ids]


def answer_text(trace: Trace) -> str:
    """That lane's answer as the board shows it."""
    stream = TextStream(trace.token_text)
    return "".join(map(stream.add, answer_ids(trace))) + stream.end()


def with_newest(races: list[Trace], trace: Trace) -> list[Trace]:
    """The races with this one behind them; the oldest goes where there are too many."""
    return [*races, trace][-MAX_SAVED:]


def race_names(races: list[Trace]) -> list[str]:
    """One name a race, all different."""
    return [f"{k}. {title(trace)}: {prompt_words(trace)}" for k, trace in enumerate(races, start=1)]


# ---- what assets/page/saved.js reads ---------------------------------------------------------------------

_VALUES = itertools.count(1)


def bar_value(**fields) -> str:
    """The bar's value, as JSON in which no tag can begin; two values are never the same string."""
    return json.dumps({"n": next(_VALUES), **fields}, ensure_ascii=False).replace("<", "\\u003c")


def file_value(name: str, kind: str, text: str) -> str:
    """Save a file of this name and media type."""
    return bar_value(name=name, type=kind, text=text)


def message_value(words: str, failed: bool = False) -> str:
    return bar_value(words=words, failed=failed)


def races_value(races: list[Trace], on_board: Trace, words: str = "") -> str:
    """The races to choose from."""
    return bar_value(words=words, races=race_names(races), on=races.index(on_board))


# ---- one file that replays by itself ---------------------------------------------------------------------

STYLE = """
:root { --font-mono: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
body { margin: 0 auto; max-width: 1560px; padding: 20px 28px 40px; font: 15px system-ui, sans-serif; }
h1 { font-size: 24px; margin: 0 0 2px; }
.asked { margin: 0 0 14px; white-space: pre-wrap; overflow-wrap: anywhere; max-height: 9em; overflow: auto; }
.facts { color: var(--soft); font-size: 13px; margin: 18px 0 0; overflow-wrap: anywhere; }
"""


def saved_page(trace: Trace) -> str:
    code = "(() => {\n" + script("offline", *BOARD_SCRIPTS, "stage", "next") + "})();\n"
    style = STYLE + "".join(map(page_file, ("board.css", "saved.css", "passes.css")))
    race = trace.race
    words = {
        "h1": f"A race on “{one_line(prompt_words(trace, 90))}”",
        ".came": " ".join(filter(None, (outcome(race).words, race.verdict.words if race.verdict else ""))),
        ".asked": "\n\n".join(m["content"] for m in race.request.messages),
        ".facts": _facts(trace),
    }
    body = f"""<h1></h1>
<p class="came"></p>
<p class="asked"></p>
<div id="board">{page_file("board.html")}</div>
<p class="facts"></p>"""
    return offline_page("A race", style, body, ("race", {"records": board_of(trace), "words": words}), [code])


def _facts(trace: Trace) -> str:
    request = trace.race.request
    how = request.settings
    told = [
        title(trace),
        f"{trace.race.prompt_tokens} prompt tokens, at most {how.max_tokens} new ones, "
        f"temperature {exact(how.temperature)}" + ", thinking" * request.thinking,
        *(f"{method}: {text}" for method, text in trace.drafters.items()),
        *(f"{name} {text}" for name, text in trace.machine.items()),
        *(f"{name} {text}" for name, text in trace.versions.items()),
        "made by DSpark Playground",
    ]
    return " · ".join(told)
