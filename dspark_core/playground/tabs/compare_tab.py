"""Two finished races in one table, and the two answers where they part.

The compare tab: two of the races this page keeps, side by side.
"""

import itertools
import json
from collections.abc import Mapping
from itertools import zip_longest

import gradio as gr

from ...machine import DEVICE, device_of
from ...race.metrics import metrics, plain_metrics, times_plain
from ...race.records import RaceRecord
from ...race.trace import Trace
from ..saved import answer_text, names, reference, title
from ..saved_bar import Kept
from ..widgets import page_file, script, static

# figure: (words, digits, how it is told, whether more is better: None if that is no question)
FIGURES = {
    "tok_s": ("tok/s", 2, "", True),
    "times": ("× plain", 2, "", True),
    "tokens_per_round": ("tokens per round", 2, "", True),
    "acceptance": ("acceptance rate", 1, "%", True),
    "first_token_s": ("first token, s", 2, "", False),
    "tokens": ("tokens", 0, "", None),
    "rounds": ("rounds", 0, "", None),
}


def compared(left: Trace, right: Trace) -> str:
    """What assets/page/compare.js shows, as JSON: heads, notes, groups of rows, answers."""
    a, b = left.race, right.race
    groups = [{"name": "The race", "rows": _facts(left, right)}]
    groups += [{"name": name, "rows": _rows(a, i, b, j)} for name, i, j in pairs(a, b)]
    return json.dumps(
        {
            "heads": [title(left), title(right)],
            "notes": notes(left, right),
            "groups": groups,
            "answers": answers(left, right),
        },
        ensure_ascii=False,
    )


def pairs(a: RaceRecord, b: RaceRecord) -> list[tuple[str, int | None, int | None]]:
    """(name, lane of a, lane of b): lanes of the same name, then of the same method in order, then single ones."""
    left, right = list(range(len(a.lanes))), list(range(len(b.lanes)))
    found = []
    for same in (lambda x, y: x.name == y.name, lambda x, y: x.method == y.method):
        for i in list(left):
            j = next((j for j in right if same(a.lanes[i].spec, b.lanes[j].spec)), None)
            if j is not None:
                x, y = a.lanes[i].spec, b.lanes[j].spec
                found.append((i, x.name if x.name == y.name else f"{x.name} / {y.name}", j))
                left.remove(i)
                right.remove(j)
    found += [(i, a.lanes[i].spec.name, None) for i in left]
    found.sort(key=lambda pair: pair[0])
    return [(name, i, j) for i, name, j in found] + [(b.lanes[j].spec.name, None, j) for j in right]


def notes(left: Trace, right: Trace) -> list[str]:
    """What a reader must know before taking one figure over another."""
    a, b = left.race, right.race
    told = []
    if a.request.messages != b.request.messages:
        told.append("The prompts differ: figures that depend on the text cannot be compared.")
    told += _machine_notes(left.machine, right.machine)
    if left.versions != right.versions:
        told.append("The software differed.")
    ours, theirs = a.request.settings, b.request.settings
    if (ours.temperature, ours.top_k, ours.top_p) != (theirs.temperature, theirs.top_k, theirs.top_p):
        told.append("Sampling differs.")
    for name, race in (("left", a), ("right", b)):
        if race.interrupted:
            told.append(f"The race on the {name} was stopped before its end.")
    return told


def _machine_notes(left: Mapping[str, str], right: Mapping[str, str]) -> list[str]:
    """What the two descriptions of a machine differ in. A race that was saved before devices were written down may
    have run on any: no difference is claimed then."""
    one, other = device_of(left), device_of(right)
    if one and other and one != other:
        return [f"They ran on different devices ({one}; {other}): compare × plain with care, and not tok/s."]
    rest = [{name: text for name, text in facts.items() if name != DEVICE} for facts in (left, right)]
    if rest[0] != rest[1]:
        return ["They ran on different machines, or on the same one in another state: compare × plain, not tok/s."]
    if bool(one) != bool(other):
        where = "right" if one else "left"
        return [f"The race on the {where} does not say which device it ran on (CPU or GPU): it may be another one."]
    return []


def answers(left: Trace, right: Trace) -> list[dict]:
    """Both plain answers (the first lanes' where one has none). Those to one prompt are parted where they first
    differ; those to two prompts are not compared, and `rest` is None."""
    lanes = [reference(t.race) for t in (left, right)]
    texts = [answer_text(t) for t in (left, right)]
    if left.race.request.messages != right.race.request.messages:
        return [{"name": lane.spec.name, "same": text, "rest": None} for lane, text in zip(lanes, texts, strict=True)]
    same = next((k for k, (x, y) in enumerate(zip_longest(*texts)) if x != y), len(texts[0]))
    return [
        {"name": lane.spec.name, "same": text[:same], "rest": text[same:]}
        for lane, text in zip(lanes, texts, strict=True)
    ]


def _facts(left: Trace, right: Trace) -> list[list]:
    rows = []
    for name, of in {
        "target": lambda t: t.race.target,
        "precision": lambda t: t.race.precision,
        "drafters": lambda t: "\n".join(f"{method}: {how}" for method, how in t.drafters.items()),
        "device": lambda t: device_of(t.machine) or "unknown",
        "machine": lambda t: ", ".join(text for name, text in t.machine.items() if name != DEVICE),
        "versions": lambda t: ", ".join(f"{name} {version}" for name, version in t.versions.items()),
        "system turn": lambda t: t.race.request.system or "the template’s own",
        "context": lambda t: "\n\n".join(itertools.chain(*t.race.request.earlier)),
        "prompt": lambda t: t.race.request.prompt,
        "verdict": lambda t: t.race.verdict.words if t.race.verdict else "–",
    }.items():
        a, b = of(left) or "–", of(right) or "–"
        rows.append([name, a, b, "" if a != b else "same", None])
    return rows


def _rows(a: RaceRecord, i: int | None, b: RaceRecord, j: int | None) -> list[list]:
    """[figure, left, right, right ÷ left, which is better: 0, 1 or None]"""
    ours, theirs = _figures(a, i), _figures(b, j)
    rows = []
    for key, (words, digits, unit, more) in FIGURES.items():
        x, y = ours.get(key), theirs.get(key)
        if x is None and y is None:
            continue
        shown = [_told(v, digits, unit) for v in (x, y)]
        ratio = f"{y / x:.2f}" if x and y and more is not None else ""
        better = None if more is None or not x or not y or shown[0] == shown[1] else int((y > x) == more)
        rows.append([words, *shown, ratio, better])
    return rows


def _figures(race: RaceRecord, lane: int | None) -> dict[str, float | None]:
    if lane is None:
        return {}
    record = race.lanes[lane]
    m = metrics(record)
    times = times_plain(m, plain_metrics(race.lanes)) if record.spec.speculative else None
    return {"times": times} | {key: getattr(m, key) for key in FIGURES if key != "times"}


def _told(value: float | None, digits: int, unit: str) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.{digits}f} %" if unit == "%" else f"{value:.{digits}f}"


NOTHING = '{"notes": ["Race twice, or open a saved race on the Race tab: any two of them can be compared here."]}'


def compare_tab(kept: Kept) -> None:
    with gr.Tab("Compare", id="compare"):
        static(
            "<p>Two races of this page, raced or opened: 8-bit against bf16, one model against another, "
            "a cap against a full block.</p>"
        )
        with gr.Row():
            left, right = (gr.Dropdown([], label=side, elem_id=f"compare-{side.lower()}") for side in ("Left", "Right"))
        table = gr.HTML(
            NOTHING,
            html_template=page_file("compare.html"),
            js_on_load=script("compare"),
            apply_default_css=False,
            elem_id="compared",
        )
    quiet = {"show_progress": "hidden", "api_visibility": "private"}

    def show(a: str, b: str, races: list[Trace]) -> str:
        named = dict(zip(names(races), races, strict=True))
        return compared(named[a], named[b]) if a in named and b in named else NOTHING

    def offer(races: list[Trace]):
        """The newest two, the older one on the left."""
        told = names(races)
        a, b = told[-2:] if len(told) > 1 else (None, None)
        return gr.update(choices=told, value=a), gr.update(choices=told, value=b), show(a, b, races)

    kept.races.change(offer, kept.races, [left, right, table], **quiet)
    for side in (left, right):
        side.input(show, [left, right, kept.races], table, **quiet)
