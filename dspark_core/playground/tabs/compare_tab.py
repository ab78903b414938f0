"""Two finished races in one table, and the two answers where they part.

The compare tab: two of the races this page keeps, side by side.
"""

import itertools
import json
import math
from itertools import zip_longest
from statistics import variance

import gradio as gr

from ...machine import DEVICE, device_of
from ...race.metrics import metrics, plain_metrics, times_plain
from ...race.records import RaceRecord
from ...race.trace import Trace
from ..saved import answer_text, race_names, reference, title
from ..saved_bar import SavedRaces
from ..widgets import QUIET, Call, Updates, listen, page_file, script, static

IDENTICAL = 0.16  # of the larger: speeds of identical decodes differ by as much (README)
# figure: (words, digits, unit, whether more is better: None if that is no question)
FIGURES = {
    "tok_s": ("tok/s", 1, "", True),
    "times": ("× plain", 2, "", True),
    "tokens_per_round": ("tokens per round", 2, "", True),
    "acceptance": ("acceptance rate", 0, "%", True),
    "first_token_s": ("first token, s", 2, "", False),
    "tokens": ("tokens", 0, "", None),
    "rounds": ("rounds", 0, "", None),
}


class ComparedRaces:
    """Two races as assets/page/compare.js shows them."""

    def __init__(self, left: Trace, right: Trace):
        self.left, self.right = left, right

    def value(self) -> str:
        """JSON: heads, notes, groups of rows, answers."""
        groups = [{"name": "The race", "rows": self._race_rows()}]
        groups += [{"name": name, "rows": self._lane_rows(i, j)} for name, i, j in self.pairs()]
        heads = [title(self.left), title(self.right)]
        value = {"heads": heads, "notes": self.notes(), "groups": groups, "answers": self.answers()}
        return json.dumps(value, ensure_ascii=False)

    def pairs(self) -> list[tuple[str, int | None, int | None]]:
        """(name, lane of the left, of the right): of one name, then of one method in order, then single ones."""
        a, b = self.left.race, self.right.race
        left, right = list(range(len(a.lanes))), list(range(len(b.lanes)))
        found: list[tuple[int, str, int | None]] = []
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

    @property
    def one_text(self) -> bool:
        return self.left.race.request.messages == self.right.race.request.messages

    def notes(self) -> list[str]:
        """What a reader must know before taking one figure over another."""
        a, b = self.left.race, self.right.race
        words = []
        if not self.one_text:
            words.append("The prompts differ: figures that depend on the text cannot be compared, so none is marked.")
        words += self._machine_notes()
        if self.left.versions != self.right.versions:
            words.append("The software differed.")
        ours, theirs = a.request.settings, b.request.settings
        if (ours.temperature, ours.top_k, ours.top_p) != (theirs.temperature, theirs.top_k, theirs.top_p):
            words.append("Sampling differs.")
        if a.request.thinking != b.request.thinking:
            words.append("One was raced with thinking: the texts differ from their beginning.")
        for name, race in (("left", a), ("right", b)):
            if race.interrupted:
                words.append(f"The race on the {name} was stopped before its end.")
        return words

    def _machine_notes(self) -> list[str]:
        """What the two descriptions of a machine differ in. A race that was saved before devices were written down may
        have run on any: no difference is claimed then."""
        machines = self.left.machine, self.right.machine
        one, other = map(device_of, machines)
        if one and other and one != other:
            return [f"They ran on different devices ({one}; {other}): compare × plain with care, and not tok/s."]
        rest = [{name: text for name, text in facts.items() if name != DEVICE} for facts in machines]
        if rest[0] != rest[1]:
            return ["They ran on different machines, or on the same one in another state: compare × plain, not tok/s."]
        if bool(one) != bool(other):
            where = "right" if one else "left"
            return [f"The race on the {where} does not say which device it ran on (CPU or GPU): it may be another one."]
        return []

    def answers(self) -> list[dict]:
        """Both plain answers (the first lanes' where one has none). Those to one prompt are parted where they first
        differ; those to two prompts are not compared, and `rest` is None."""
        traces = self.left, self.right
        lanes = [reference(t.race) for t in traces]
        texts = [answer_text(t) for t in traces]
        if not self.one_text:
            return [
                {"name": lane.spec.name, "same": text, "rest": None} for lane, text in zip(lanes, texts, strict=True)
            ]
        same = next((k for k, (x, y) in enumerate(zip_longest(*texts)) if x != y), len(texts[0]))
        return [
            {"name": lane.spec.name, "same": text[:same], "rest": text[same:]}
            for lane, text in zip(lanes, texts, strict=True)
        ]

    def _race_rows(self) -> list[list]:
        rows = []
        for name, of in {
            "target": lambda t: t.race.target,
            "precision": lambda t: t.race.precision,
            "drafters": lambda t: "\n".join(f"{method}: {how}" for method, how in t.drafters.items()),
            "device": lambda t: device_of(t.machine) or "unknown",
            "machine": lambda t: ", ".join(
                f"{text} cores" if name == "cores" else text for name, text in t.machine.items() if name != DEVICE
            ),
            "versions": lambda t: ", ".join(f"{name} {version}" for name, version in t.versions.items()),
            "system turn": lambda t: t.race.request.system or "the template’s own",
            "context": lambda t: "\n\n".join(itertools.chain(*t.race.request.earlier)),
            "prompt": lambda t: t.race.request.prompt,
            "verdict": lambda t: t.race.verdict.words if t.race.verdict else "–",
        }.items():
            a, b = of(self.left) or "–", of(self.right) or "–"
            rows.append([name, a, b, "" if a != b else "same", None])
        return rows

    def _lane_rows(self, i: int | None, j: int | None) -> list[list]:
        """[figure, left, right, right ÷ left, which is better: 0, 1 or None]"""
        ours, theirs = self._lane_figures(self.left.race, i), self._lane_figures(self.right.race, j)
        rows = []
        for key, (words, digits, unit, more) in FIGURES.items():
            x, y = ours.get(key), theirs.get(key)
            if x is None and y is None:
                continue
            form = f".{digits}f"
            in_unit = [None if v is None else f"{100 * v:{form}} %" if unit == "%" else f"{v:{form}}" for v in (x, y)]
            shown = [words or "–" for words in in_unit]
            ratio = f"{y / x:.2f}" if x and y and more is not None else ""
            better = None
            if self.one_text and more is not None and x is not None and y is not None:
                better = int((y > x) == more) if abs(y - x) > self._noise(key, x, y, i, j) else None
            rows.append([words, *shown, ratio, better])
        return rows

    def _noise(self, key: str, x: float, y: float, i: int | None, j: int | None) -> float:
        """What two identical runs may differ by in a figure: of speeds what was measured (IDENTICAL), of counts two
        standard errors of the difference."""
        if key not in ("acceptance", "tokens_per_round") or i is None or j is None:
            return IDENTICAL * max(x, y)
        squares = 0.0
        for rounds in (self.left.race.lanes[i].rounds, self.right.race.lanes[j].rounds):
            proposed = sum(r.proposed for r in rounds)
            # Drafts of one round share their fate, so a round counts once.
            drafts = [(r.acceptance_length, r.accepted * len(rounds) / proposed if proposed else 0.0) for r in rounds]
            values = [draft[key == "acceptance"] for draft in drafts]
            squares += variance(values) / len(values) if len(values) > 1 else math.inf
        return 2 * math.sqrt(squares)

    @staticmethod
    def _lane_figures(race: RaceRecord, lane: int | None) -> dict[str, float | None]:
        if lane is None:
            return {}
        record = race.lanes[lane]
        m = metrics(record)
        times = times_plain(m, plain_metrics(race.lanes)) if record.spec.speculative else None
        return {"times": times} | {key: getattr(m, key) for key in FIGURES if key != "times"}


NOTHING = '{"notes": ["Race twice, or open a saved race on the Race tab: any two of them can be compared here."]}'


class CompareTab:
    def __init__(self, saved: SavedRaces):
        self.saved = saved

    def build(self) -> None:
        with gr.Tab("Compare", id="compare"):
            static(
                "<p>Two races of this page, raced or opened: 8-bit against bf16, one model against another, "
                "a cap against a full block. ✓ marks only what is further apart than identical races may be: 16 % of a "
                "speed, two standard errors of a count.</p>"
            )
            with gr.Row():
                left = gr.Dropdown([], label="Left", elem_id="compare-left")
                right = gr.Dropdown([], label="Right", elem_id="compare-right")
            table = gr.HTML(
                NOTHING,
                html_template=page_file("compare.html"),
                js_on_load=script("compare"),
                apply_default_css=False,
                elem_id="compared",
            )
        races, places = self.saved.races, {"left": left, "right": right, "table": table}
        listen(races.change, self.offer, {"races": races}, places, **QUIET)
        for side in (left, right):
            listen(side.input, self.show, {"left": left, "right": right, "races": races}, places, **QUIET)

    def offer(self, call: Call) -> Updates:
        """Every race to choose from; the newest two are compared, the older one on the left."""
        races = call["races"]
        names = race_names(races)
        if len(names) < 2:
            return {side: gr.update(choices=names, value=None) for side in ("left", "right")} | {"table": NOTHING}
        left, right = names[-2:]
        return {
            "left": gr.update(choices=names, value=left),
            "right": gr.update(choices=names, value=right),
            "table": ComparedRaces(races[-2], races[-1]).value(),
        }

    def show(self, call: Call) -> Updates:
        """The two that were chosen."""
        named = dict(zip(race_names(call["races"]), call["races"], strict=True))
        left, right = named.get(call["left"]), named.get(call["right"])
        return {"table": ComparedRaces(left, right).value() if left and right else NOTHING}
