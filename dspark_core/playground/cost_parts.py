"""Two parts of the Cost model tab that a visitor plays with: What if, and Many users.

What if is worked out in the browser (assets/page/what_if.js); here are its inputs. Many users is a simulation that is
run here (race/many_users.py) for every number of users at once, over the rounds of the races that this page keeps, or
of those that come with the program before there is one.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

import gradio as gr

from ..decode.batch_rows import load_rows, measure_rows
from ..decode.cost_curve import CostCurve
from ..decode.machine_links import Split
from ..errors import TraceError
from ..models.info import DrafterInfo
from ..paths import assets
from ..race.many_users import USERS, BatchCosts, ManyUsers, Recording, Throughput
from ..race.metrics import metrics
from ..race.records import Failed, LaneRecord, RaceRecord, Waiting
from ..race.trace import Trace, loads
from ..race.what_if import RACE, Line, StartPoint, WhatIf
from .saved import one_line
from .widgets import Call, page_file, progressed, script
from .worker import Job, Worker

MOST_SEED = 999_999
MOST_TITLE = 60  # characters of a target's name, which may be a file's


@dataclass(frozen=True)
class RoundsGroup:
    """What one drafter drafted for one target in all finished races: its lanes, each with whether its race was greedy.
    id: in links."""

    id: str
    title: str
    words: str
    lanes: tuple[tuple[LaneRecord, bool], ...]

    def line(self, place: int) -> Line:
        spec, most = self.lanes[0][0].spec, max(len(r.draft_ids) for lane, _ in self.lanes for r in lane.rounds)
        return Line(self.title, spec.drafter_id, spec.method, place, most, ())


@cache
def shipped_races() -> tuple[Trace, ...]:
    """The recorded races that come with the program."""
    found = []
    for file in sorted((assets() / "races").glob("*.json")):
        with suppress(TraceError, OSError):
            found.append(loads(file.read_bytes()))
    return tuple(found)


def groups_of(traces: Sequence[Trace], shipped: bool) -> list[RoundsGroup]:
    """Of races, the newest last; a group's races are one target's."""
    lanes: dict[tuple[str, str], list[tuple[LaneRecord, bool]]] = {}
    for race in (trace.race for trace in reversed(traces)):
        for lane in race.lanes:
            if lane.spec.speculative and lane.rounds:
                key = lane.spec.drafter_id, race.target
                lanes.setdefault(key, []).append((lane, race.request.settings.greedy))
    out: list[RoundsGroup] = []
    for (drafter, target), found in lanes.items():
        recordings = Recording.together(found)
        if not recordings:
            continue
        rounds, sure = sum(len(r.rounds) for r in recordings), sum(r.sure for r in recordings)
        title, target = found[0][0].spec.title, one_line(target)[:MOST_TITLE]
        same = sum(group.id.partition(".")[0] == drafter for group in out)
        where = "recorded races that come with this program" if shipped else "finished races of this page"
        words = (
            f"{rounds} round{'s' * (rounds != 1)} of {title} on {target}, from {len(found)} "
            f"{'lane' if len(found) == 1 else 'lanes'} of {where}; {sure} with confidences."
        )
        out.append(
            RoundsGroup(f"{drafter}.{same + 1}" if same else drafter, f"{title} on {target}", words, tuple(found))
        )
    return out


@dataclass(frozen=True)
class Parts:
    """What both parts show of one moment: the curve of what is loaded, the race on the board, and all finished races.

    judged: does the curve say something about that race?
    splits: what is loaded on several machines
    """

    curve: CostCurve | None
    race: RaceRecord | None
    judged: bool
    infos: Sequence[DrafterInfo]
    races: Sequence[Trace] = field(default=())
    splits: Sequence[Split] = ()

    def _what_if(self, lines: tuple[Line, ...] = ()) -> WhatIf:
        own = self.curve is not None and not self.curve.borrowed
        rows = load_rows(self.curve.made_of) if self.curve and own else {}
        return WhatIf.of(self.curve, self.race, self.infos, self.judged, rows, lines, self.splits)

    def what_if(self) -> str:
        """The value of what_if.js."""
        return json.dumps(self._what_if().value())

    def users(self, asked: dict[str, Any]) -> str:
        """The value of users.js. `asked`: start, group and seed, where they are of what there is."""
        groups = groups_of(self.races, False) or groups_of(shipped_races(), True)
        lines = tuple(group.line(k) for k, group in enumerate(groups))
        starts = self._what_if(lines).starts if lines else ()
        if not starts:
            return ""
        k = next((k for k, group in enumerate(groups) if group.id == asked.get("group")), 0)
        start = next((s for s in starts if s.id == asked.get("start")), starts[0])
        seed = asked.get("seed")
        seed = seed if type(seed) is int and 0 <= seed <= MOST_SEED else 1
        recordings = Recording.together(groups[k].lanes)
        crowd = ManyUsers(recordings, BatchCosts(start.rounds[k], start.passes), seed)
        lengths = sorted({1, (crowd.drafts + 1) // 2, crowd.drafts})
        points = [self._point(crowd, users, lengths) for users in USERS]
        choices = [{"id": s.id, "title": s.title, "source": s.source, "measured": s.passes.measured} for s in starts]
        value = {
            "starts": choices,
            "groups": [{"id": g.id, "title": g.title, "words": g.words} for g in groups],
            **{"start": start.id, "group": groups[k].id, "seed": seed, "lengths": lengths, "points": points},
            "check": self._check(groups[k], start, start.rounds[k], seed),
        }
        return json.dumps(value)

    @staticmethod
    def _point(crowd: ManyUsers, users: int, lengths: Sequence[int]) -> dict[str, Any]:
        def shown(served: Throughput) -> dict[str, Any]:
            return {name: value for name, value in asdict(served).items() if name != "users"}

        fixed = [shown(crowd.fixed(users, n)) for n in lengths]
        return {
            **{"users": users, "plain": shown(crowd.plain(users)), "fixed": fixed},
            "schedule": shown(crowd.schedule(users)),
        }

    def _check(self, group: RoundsGroup, start: StartPoint, costs: Any, seed: int) -> str:
        """How one user, who sends what the race sent, comes out against that race."""
        words = []
        for lane in self.race.lanes if self.race and start.id == RACE else ():
            measured = metrics(lane).tok_s
            if any(lane is one for one, _ in group.lanes) and measured:
                alone = Recording.together([(lane, self.race.request.settings.greedy)] if self.race else [])
                if alone:
                    one = ManyUsers(alone, BatchCosts(costs, start.passes), seed).as_raced(1)
                    words.append(f"{lane.spec.name} {one.tok_s:.3g} tok/s, measured {measured:.3g}")
        return f"One user who sends what the race sent: {'; '.join(words)}." if words else ""


class CostParts:
    """Both parts of the tab, and the measurement of what many tokens in one pass take."""

    def __init__(self, worker: Worker):
        self.worker, self.asked = worker, gr.State({})
        self.what_if = self._part("what_if", "what-if", render=False)
        self.users = self._part("users", "many-users", render=False)

    @staticmethod
    def _part(name: str, elem_id: str, render: bool) -> gr.HTML:
        markup, code = page_file(f"{name}.html"), script(name)
        where: dict[str, Any] = {"elem_id": elem_id, "render": render}
        return gr.HTML("", html_template=markup, js_on_load=code, apply_default_css=False, **where)

    @staticmethod
    def asked_of(call: Call) -> dict[str, Any]:
        """What a visitor asks of the simulation; anything may have been sent."""
        return {"seed": call.sent_as("seed", int, 1)} | {k: call.sent_as(k, str, "") for k in ("start", "group")}

    def rows_job(self, session: str) -> Job:
        """Its events: the share done."""

        def work(engine: Any, job: Job) -> Iterator[tuple[int, Any]]:
            for share in measure_rows(engine.models.target, engine.models.loaded):
                yield -1, share
                if job.cancelled():
                    return

        return Job(session, "measurement of batches", work)

    def measure(self, session: str) -> Iterator[str]:
        """Time passes of many tokens; the progress line's values, of which the last says how it ended."""
        words = "Stopped."
        for _, event in self.worker.events(self.rows_job(session)):
            if isinstance(event, Failed):
                words = event.message
            elif isinstance(event, Waiting):
                yield progressed(0, event.words)
            else:
                words = "Measured." if event >= 1 else words
                yield progressed(min(event, 0.99), "measuring passes of many tokens")
        yield progressed(1, words)
