"""What is loaded: one target with its drafters. Only the thread that owns MLX calls `load`, `unload` and `race`.

MLX and mlx-lm are imported inside the functions, so that importing this module stays on the page's thread.
"""

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..catalog.checksums import verify
from ..catalog.facts import Facts
from ..catalog.local import name_of
from ..catalog.memory import too_big
from ..catalog.names import HubName
from ..decode.machine_links import Split
from ..errors import Cancelled, ModelError, RankLost, in_one_line
from ..machine import Device, mlx_device
from ..models import drafters as methods
from ..models.group import Group
from ..models.info import DrafterInfo
from ..models.shards import Splits
from ..models.text_process import TextProcess, interruptible, is_foreign
from ..presets import Preset
from ..race.inspection import Inspection
from ..race.lane_spec import method_name
from ..race.records import RaceRecord, RaceRequest
from .worker import Job, Worker

if TYPE_CHECKING:
    from ..models.drafter import Drafter
    from ..models.target import Target
    from ..race.loaded import Models


@dataclass(frozen=True)
class Choice:
    """What to load.

    drafters: id (models/info.drafter_ids) -> directory, None where its method needs none, or the reason, in a sentence,
              why there is none
    notice:   what the visitor should know of the pair while it is loaded, in a sentence
    titles:   id -> what a preset calls the drafter
    newest:   rows of its context that a drafter looks at; 0 for all
    unread:   id -> directory of drafters whose weights are read when a lane first names them
    """

    title: str
    target: Path
    drafters: Mapping[str, Path | str | None]
    precision: str = "auto"
    drafter_precision: str = "auto"
    notice: str = ""
    titles: Mapping[str, str] = field(default_factory=dict)
    newest: int = 0
    unread: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Loading:
    """How far a load is; `done` of `total` in bytes, both 0 where that says nothing."""

    words: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Loaded:
    """How a load ended, if not in an error: with the choice, or stopped by the visitor with what was there."""

    words: str
    changed: bool


Tell = Callable[[Loading], None]
TO_FETCH = "{} is to be downloaded first: see the Models tab."


class PresetEngine:
    """A target and its drafters, as the page sees them. Without a model its name is empty, and nothing races."""

    def __init__(self, preset: Preset, precision: str, progress: Callable[[str], None]):
        """Starts with `preset`, which must be on this machine; without a model, and with the reason, if it cannot."""
        self.machine: Device = mlx_device()
        self._clear()
        if isinstance(preset.target, HubName):
            self.problem = TO_FETCH.format(preset.target.repo)
            return
        firsts = preset.first_drafters
        drafters: dict[str, Path | str | None] = {}
        for id_, d in firsts.items():
            place = d.path
            drafters[id_] = TO_FETCH.format(place.repo) if isinstance(place, HubName) else place
        waiting = preset.on_request
        titles = {id_: d.title for id_, d in (firsts | waiting).items() if d.title}
        unread = {id_: d.path for id_, d in waiting.items() if isinstance(d.path, Path)}
        choice = Choice(preset.title, preset.target, drafters, precision, titles=titles, unread=unread)
        try:
            self._load(choice, lambda step: progress(step.words), lambda: False, strict=False)
        except BaseException as error:  # the page must come up, so that another model can be loaded
            self._clear()
            self.problem = _cannot_load(choice, error)

    # ---- loading -------------------------------------------------------------------------------------

    def load(
        self, choice: Choice, tell: Tell = lambda _: None, cancelled: Callable[[], bool] = lambda: False
    ) -> Loaded:
        """Put `choice` in the place of what is loaded; only one target is loaded at a time.

        Everything that can be checked without weights is checked first. If reading them fails then, or the
        visitor stops it, what was there before is loaded again. Raises ModelError if the choice is not loaded.
        """
        if self.lost:
            self.unload()
        before, lost = self.choice, ""
        if choice == before:
            return Loaded(f"{choice.title} is loaded already.", False)
        try:
            with interruptible(cancelled):
                self._load(choice, tell, cancelled, strict=True)
            return Loaded(f"{choice.title} is loaded.", True)
        except Cancelled:
            failure = None
        except RankLost as error:  # and with it what was there before
            failure = lost = str(error)
        except BaseException as error:
            failure = _cannot_load(choice, error)  # not the error itself: its frames hold the weights
        if lost:
            self.unload(lost)
            raise ModelError(lost)
        if before is None:
            after = "No model is loaded."
        elif self.choice is before:
            after = f"{before.title} stays loaded."
        else:
            after = self._put_back(before, tell)
        if failure is None:
            return Loaded(f"Stopped. {after}", False)
        raise ModelError(f"{failure} {after}")

    def _put_back(self, before: Choice, tell: Tell) -> str:
        self.unload()
        try:
            with interruptible(lambda: False):
                self._load(before, lambda step: tell(Loading(f"Putting back {step.words}")), lambda: False)
            return f"{before.title} is loaded again."
        except BaseException as error:
            self.unload()
            return f"{before.title} cannot be loaded again either, so no model is loaded ({in_one_line(error)})."

    def unload(self, problem: str = "") -> None:
        """Drop everything and give its memory back. `problem`: why nothing is loaded from here on, if it is one."""
        import mlx.core as mx

        self._clear()
        self.problem = problem
        gc.collect()
        mx.clear_cache()
        if group := Group.here():
            group.flush()  # on the other machines, too

    def _clear(self) -> None:
        self.choice: Choice | None = None
        self._models: Models | None = None
        self._preparation: Iterator[str] | None = None
        self._prepared: list[str] = []  # ids of the drafters that this is for
        self.notice = self.problem = ""
        self.name = self.precision = ""
        self.stop_ids: frozenset[int] = frozenset()
        self.token_bytes: Callable[[int], bytes] = lambda token_id: b""
        self.splits: tuple[Split, ...] = ()  # what is loaded, were there several machines such as this one

    def _load(self, choice: Choice, tell: Tell, cancelled: Callable[[], bool], strict: bool = False) -> None:
        """Open all, then unload, then read. `strict`: a drafter that does not fit refuses the whole choice."""
        from ..models.checkpoint import read_drafter
        from ..models.probe import TEXT, doubts
        from ..race.loaded import Models

        target, drafters = self._open(choice, tell, cancelled, strict)
        unread: dict[str, Drafter] = {}
        for id_ in choice.unread:
            if not isinstance(drafter := drafters[id_], str):
                unread[id_] = drafter
                del drafters[id_]
        self.unload()

        def progress(what: str) -> Callable[[int, int], None]:
            return lambda done, total: tell(Loading(f"{choice.title}: reading {what}", done, total))

        for id_, drafter in drafters.items():  # first, for they are converted: see read_weights
            if not isinstance(drafter, str):
                with _costing_its_drafter(id_, drafters, strict):
                    read_drafter(drafter, progress(f"the {drafter.info.method} drafter"), cancelled)
        target.read(progress("the target"), cancelled)
        tell(Loading(f"{choice.title}: checking the taps"))
        target.prove_taps()
        if target.no_rollback:
            drafters, unread = dict.fromkeys(drafters, target.no_rollback), {}
        self.choice, self._models = choice, Models(target, drafters, unread)
        notices = [choice.notice, target.no_rollback, getattr(target.text, "unlimited", "")]
        if target.text is not None:
            tell(Loading(f"{choice.title}: trying the drafters"))
            with suppress(ModelError):  # without a chat template that can be used nothing is tried
                prompt = target.encode_chat([{"role": "user", "content": TEXT}])
                notices += doubts(target, self._models.loaded, prompt).values()
        self.notice = " ".join(filter(None, notices))
        self.name, self.precision, self.stop_ids = target.name, target.precision, target.stop_ids
        if target.text is not None:
            self.token_bytes = target.text.token_bytes  # of the text alone: a page may keep it after a switch
        if target.machines == 1:
            counts = Splits.of_directory(choice.target).counts
            self.splits = Split.offered(counts, target.num_layers, target.hidden_size * target.dtype.size)

    def _open(
        self, choice: Choice, tell: Tell, cancelled: Callable[[], bool], strict: bool
    ) -> "tuple[Target, dict[str, Drafter | str]]":
        """Target and drafters with everything checked but their weights unread; what is loaded is not touched."""
        from ..models.sharded import spread
        from ..models.target import open_target

        def check(path: Path) -> None:
            if cancelled():
                raise Cancelled
            verify(path, lambda done, total: tell(Loading(f"Checking {name_of(path)}", done, total)), cancelled)

        if is_foreign(choice.target):  # it takes as long to start as the files to be checked
            with suppress(OSError):
                TextProcess.shared()
        tell(Loading(f"{choice.title}: checking files"))
        wanted = {**choice.drafters, **choice.unread}
        paths = [d for d in wanted.values() if isinstance(d, Path)]
        if strict and (words := self._too_big(choice, paths)):
            raise ModelError(words)
        check(choice.target)

        def step(words: str) -> None:
            tell(Loading(f"{choice.title}: {words}"))

        target = open_target(choice.target, choice.precision, step)
        target.name = name_of(choice.target)
        target = spread(target, choice.precision, step, cancelled)
        drafters: dict[str, Drafter | str] = {}
        everywhere: dict[str, Path | str | None] = {m.lower(): None for m in methods.marked("EVERYWHERE")}
        further = {id_: where for id_, where in everywhere.items() if id_ not in choice.drafters}
        for id_, where in {**wanted, **further}.items():
            if isinstance(where, str):
                drafters[id_] = where
                continue
            tell(Loading(f"{choice.title}: the drafter {id_}"))
            with _costing_its_drafter(id_, drafters, strict):
                if where is not None:
                    check(where)
                drafters[id_] = self._open_drafter(id_, where, target, choice)
        if cancelled():
            raise Cancelled
        return target, drafters

    @staticmethod
    def _open_drafter(id_: str, where: Path | None, target: "Target", choice: Choice) -> "Drafter":
        """The drafter of an id, everything checked but its weights unread. Raises ModelError."""
        from ..models.checkpoint import open_drafter

        drafter = open_drafter(where, target, choice.drafter_precision, method_name(id_), choice.newest)
        info = drafter.info if where is None else replace(drafter.info, name=name_of(where))
        drafter.info = replace(info, title=choice.titles.get(id_, info.title), on_request=id_ in choice.unread)
        return drafter

    def _too_big(self, choice: Choice, drafters: list[Path]) -> str:
        facts = [Facts.read(d) for d in drafters]
        return too_big(Facts.read(choice.target), facts, self.machine, choice.precision, choice.drafter_precision)

    @property
    def models(self) -> "Models":
        """Target and drafters. Raises ModelError if nothing is loaded."""
        if self._models is None:
            raise ModelError(self.problem or "No model is loaded: choose one first.")
        return self._models

    @property
    def infos(self) -> tuple[DrafterInfo, ...]:
        """Of the drafters that run; those that are read on request change as they are."""
        return models.infos if (models := self._models) else ()  # other threads read it, while it is replaced

    @property
    def problems(self) -> dict[str, str]:
        """Id -> why a drafter does not run."""
        return models.problems if (models := self._models) else {}

    @property
    def drafters(self) -> dict[str, str]:
        """All of them in words: Models.descriptions."""
        return models.descriptions if (models := self._models) else {}

    @property
    def lost(self) -> str:
        """Why machines are gone that had a part of what is loaded; empty where all are there."""
        return models.target.lost if (models := self._models) else ""

    @property
    def thinks(self) -> bool:
        """Has the target's chat template a switch for a thought before the answer?"""
        return bool(self._models and getattr(self._models.target.text, "thinks", False))

    # ---- running -------------------------------------------------------------------------------------

    def prepare(self) -> str:
        """One step of getting ready for a race: a single operation on the device. What the next one is a part of, in
        words; empty once there is none."""
        from ..race.preparation import prepare

        if self._models is None:
            return ""
        if self._preparation is None or self._prepared != [*self._models.loaded]:  # a race had one more read
            self._preparation, self._prepared = prepare(self._models), [*self._models.loaded]
        return next(self._preparation, "")

    def race(self, request: RaceRequest, cancelled: Callable[[], bool]) -> Iterator[tuple[int, Any]]:
        from ..race.race import race

        return race(self.models, request, cancelled)

    def inspect(
        self,
        record: RaceRecord,
        lane: int,
        index: int,
        cancelled: Callable[[], bool],
        progress: Callable[[int, int], None],
    ) -> Inspection | None:
        from ..race.inspector import inspect

        if record.target != self.models.target.name:
            raise ModelError(f"This race ran on {record.target}, which is not loaded: load it to look into its rounds.")
        return inspect(self.models, record, lane, index, cancelled, progress)


@contextmanager
def _costing_its_drafter(id_: str, drafters: "dict[str, Drafter | str]", strict: bool) -> Iterator[None]:
    """What goes wrong inside takes the drafter's place, unless it is `strict`."""
    try:
        yield
    except Exception as error:
        if strict or isinstance(error, Cancelled):
            raise
        drafters[id_] = str(error) if isinstance(error, ModelError) else f"it cannot be loaded ({in_one_line(error)})."


def _cannot_load(choice: Choice, error: BaseException) -> str:
    return (
        str(error)
        if isinstance(error, ModelError)
        else f"{choice.title} cannot be loaded ({in_one_line(error)}), of {choice.target}."
    )


def load_job(choice: Choice, session: str) -> Job:
    """A job for the worker that loads `choice`: (-1, Loading) events, then (-1, Loaded) or (-1, Failed)."""

    def work(engine: PresetEngine, job: Job):
        yield -1, engine.load(choice, job.post, job.cancelled)

    return Job(session, "load", work)


def unload_job(session: str) -> Job:
    """A job that drops what is loaded."""

    def work(engine: PresetEngine, job: Job):
        engine.unload()
        yield -1, Loaded("No model is loaded.", True)

    return Job(session, "unload", work)


def unload_lost(worker: Worker, problem: str) -> None:
    """Have what ran on machines that are gone dropped, as soon as the queue has a place; `problem`: why they are. What
    another job has loaded since stays."""

    def work(engine: PresetEngine, job: Job):
        if engine.lost:
            engine.unload(problem)
        yield from ()

    while not worker.submit(Job("the group", "unload", work)):
        time.sleep(0.1)
