"""The races of all pages have a budget: closed pages go first, then the oldest; and a page is told of its own."""

import json
from types import SimpleNamespace

from dspark_core.playground.links import MAX_LINK
from dspark_core.playground.race_memory import RaceMemory, bytes_of
from dspark_core.playground.saved_bar import SavedBar
from dspark_core.playground.widgets import Call
from dspark_core.race.trace import dumps, loads

from ..race.long_trace import long_trace

TEXT = dumps(long_trace(tokens=64, sampled=True))
ONE = max(bytes_of(loads(TEXT)), 5 * len(TEXT) // 2)


class Pages:
    """Pages as gradio holds them, each with its list of races."""

    def __init__(self, budget):
        self.sessions = {}
        self.bar = SavedBar(None, RaceMemory(lambda: self.sessions, budget))
        self.races = {}

    def open_race(self, session):
        self.sessions.setdefault(session, SimpleNamespace(is_closed=False))
        call = Call(session, {"races": self.races.get(session, [])}, {"text": TEXT})
        updates = self.bar.open_file(call)
        self.races[session] = updates["races"]
        return json.loads(updates["bar"])

    def show(self, session, which):
        return self.bar.show(Call(session, {"races": self.races[session]}, {"which": which}))


def test_closed_pages_go_first_the_longest_closed_at_first():
    pages = Pages(budget=4 * ONE)
    for name in ("a", "b", "c", "open"):
        pages.open_race(name)
    for name in ("a", "b", "c"):
        pages.sessions[name].is_closed = True
    assert "dropped" not in pages.open_race("open")["words"]
    assert [*pages.sessions] == ["b", "c", "open"] and pages.races["a"] == [] and len(pages.races["open"]) == 2
    pages.open_race("open")
    assert [*pages.sessions] == ["c", "open"]


def test_seventeen_openings_stay_within_the_budget():
    pages = Pages(budget=3 * ONE)
    words = [pages.open_race(f"page {k % 2}")["words"] for k in range(17)]
    assert sum(len(races) for races in pages.races.values()) == 3
    assert sum("The oldest race of this page was dropped" in w for w in words) >= 6


def test_a_page_is_told_what_another_one_s_race_cost_it():
    pages = Pages(budget=3 * ONE)
    first, second = pages.open_race("a"), pages.open_race("a")
    assert len(second["races"]) == 2 and "dropped" not in first["words"] + second["words"]
    newest = pages.races["a"][1]
    pages.open_race("b")
    pages.open_race("b")
    shown = pages.show("a", which=1)  # as the page numbers them, which does not know yet
    assert shown["trace"] is newest
    bar = json.loads(shown["bar"])
    assert bar["words"].startswith("The oldest race of this page was dropped: ") and len(bar["races"]) == 1
    assert "bar" not in pages.show("a", which=0), "once"


def test_a_link_that_the_server_would_not_take_is_not_offered():
    bar = SavedBar(SimpleNamespace(offers=lambda: SimpleNamespace(infos=())))
    short, longer = (json.loads(bar.link(Call("a", {"prompt": "é" * n}))["bar"]) for n in (100, MAX_LINK // 6 + 1))
    assert short["link"].startswith("?prompt=%C3%A9")
    assert (
        longer["failed"] and "too long for a link" in longer["words"] and "save the race as a file" in longer["words"]
    )
