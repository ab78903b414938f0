"""What the races of all pages together may take. A page keeps its last few; closed pages are not forgotten at once, for
a tab may come back; and one race may have tens of megabytes.
"""

import threading
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from ..race.trace import Trace

MAX_RACES_BYTES = 400_000_000


def bytes_of(trace: Trace) -> int:
    """About how much memory a race takes, measured on long ones."""
    rounds = [r for lane in trace.race.lanes for r in lane.rounds]
    tokens = sum((len(r.draft_ids) + len(r.committed)) * (140 if r.detail else 50) for r in rounds)
    texts = sum(len(m["content"]) for m in trace.race.request.messages)
    return 10_000 + 300 * len(rounds) + tokens + 4 * texts


@dataclass(frozen=True, eq=False)
class _Held:
    """One race that a page keeps."""

    session: str
    trace: Trace
    bytes: int


class RaceMemory:
    """Who keeps which races. Where they are too much together, those of closed pages go first, then the oldest of any;
    the newest of a page that is open stays.

    sessions: gradio's states of pages, by session; asked whenever it is needed
    """

    def __init__(self, sessions: Callable[[], MutableMapping[str, Any]], budget: int = MAX_RACES_BYTES):
        self.sessions, self.budget = sessions, budget
        self._held: list[_Held] = []  # the oldest first
        self._lists: dict[str, list[Trace]] = {}
        self._gone: dict[str, int] = {}
        self._lock = threading.Lock()

    def keep(self, session: str, races: list[Trace], document: int = 0) -> list[Trace]:
        """Note that a page keeps these races from now on, the newest last; `document` is the length of the newest
        one's file, if it was opened from one. Returns the list, from which the oldest go when there is no room."""
        with self._lock:
            known = {id(held.trace) for held in self._held if held.session == session}
            kept = {id(trace) for trace in races}
            self._held = [h for h in self._held if h.session != session or id(h.trace) in kept]
            new = [trace for trace in races if id(trace) not in known]
            self._held += [_Held(session, trace, max(bytes_of(trace), 5 * document // 2)) for trace in new]
            self._lists[session] = races
            self._make_room(session)
        return races

    def take_gone(self, session: str) -> int:
        """How many of a page's races went since it was last asked for: always its oldest ones."""
        with self._lock:
            return self._gone.pop(session, 0)

    def _make_room(self, session: str) -> None:
        pages = self.sessions()
        for closed in [s for s in self._lists if s != session and getattr(pages.get(s), "is_closed", s not in pages)]:
            if closed not in pages or self._total() > self.budget:
                pages.pop(closed, None)  # with what else gradio keeps of it: the board's text, the charts
                self._drop([held for held in self._held if held.session == closed])
        while self._total() > self.budget:
            newest = {held.session: held for held in self._held}.values()
            oldest = next((held for held in self._held if held not in newest), None)
            if oldest is None:
                break
            self._drop([oldest])

    def _total(self) -> int:
        return sum(held.bytes for held in self._held)

    def _drop(self, gone: list[_Held]) -> None:
        for held in gone:
            self._held = [h for h in self._held if h is not held]
            races = self._lists[held.session]
            races[:] = [trace for trace in races if trace is not held.trace]  # the page's own list, in place
            self._gone[held.session] = self._gone.get(held.session, 0) + 1
            if not races:
                del self._lists[held.session]
        while len(self._gone) > 1000:
            del self._gone[next(iter(self._gone))]


def gone_words(count: int) -> str:
    """What a page is told of races that went; empty for none."""
    if not count:
        return ""
    which = "The oldest race of this page was" if count == 1 else f"The {count} oldest races of this page were"
    return f"{which} dropped: all pages together keep about {MAX_RACES_BYTES // 1_000_000} MB of races."
