"""What is loaded: one target with its drafters. Only the thread that owns MLX calls `load`, `unload` and `race`.

MLX and mlx-lm are imported inside the functions, so that importing this module stays on the page's thread.
"""

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ..catalog.checksums import verify
from ..catalog.facts import Facts
from ..catalog.local import name_of
from ..catalog.memory import too_big
from ..errors import Cancelled, ModelError
from ..machine import Device, mlx_device
from ..models.info import DrafterInfo, drafter_ids
from ..presets import Place, Preset
from .worker import Job


@dataclass(frozen=True)
class Choice:
    """What to load. `drafters`: method -> directory, or the reason, in a sentence, why there is none.

    notice: what the visitor should know of the pair while it is loaded, in a sentence
    """

    title: str
    target: Path
    drafters: dict[str, Path | str]
    precision: str = "auto"
    drafter_precision: str = "auto"
    notice: str = ""


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


class PresetEngine:
    """A target and its drafters, as the page sees them. Without a model its name is empty, and nothing races."""

    def __init__(self, preset: Preset, precision: str, progress: Callable[[str], None]):
        """Starts with `preset`, which must be on this machine; without a model, and with the reason, if it cannot."""
        self.machine: Device = mlx_device()
        self._clear()
        if not isinstance(preset.target, Path):
            self.problem = _here_or_why(preset.target)
            return
        drafters = {method: _here_or_why(place) for method, place in preset.first_drafters.items()}
        choice = Choice(preset.title, preset.target, drafters, precision)
        try:
            self._load(choice, lambda step: progress(step.words), lambda: False, strict=False)
        except ModelError as error:
            self._clear()
            self.problem = str(error)

    # ---- loading -------------------------------------------------------------------------------------

    def load(
        self, choice: Choice, tell: Tell = lambda _: None, cancelled: Callable[[], bool] = lambda: False
    ) -> Loaded:
        """Put `choice` in the place of what is loaded; only one target is loaded at a time.

        Everything that can be checked without weights is checked first. If reading them fails then, or the
        visitor stops it, what was there before is loaded again. Raises ModelError if the choice is not loaded.
        """
        before = self.choice
        if choice == before:
            return Loaded(f"{choice.title} is loaded already.", False)
        try:
            self._load(choice, tell, cancelled, strict=True)
            return Loaded(f"{choice.title} is loaded.", True)
        except Cancelled:
            failure = None
        except ModelError as error:
            failure = str(error)  # not the error itself: its frames hold the weights
        except Exception as error:
            failure = f"{choice.title} cannot be loaded ({type(error).__name__}: {error})."
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
            self._load(before, lambda step: tell(Loading(f"Putting back {step.words}")), lambda: False)
            return f"{before.title} is loaded again."
        except Exception as error:
            self.unload()
            return f"{before.title} cannot be loaded again either, so no model is loaded ({error})."

    def unload(self) -> None:
        """Drop everything and give its memory back."""
        import mlx.core as mx

        self._clear()
        gc.collect()
        mx.clear_cache()

    def _clear(self) -> None:
        self.choice: Choice | None = None
        self._models = None
        self.notice = self.problem = ""
        self.name = self.precision = ""
        self.stop_ids: frozenset[int] = frozenset()
        self.token_bytes: Callable[[int], bytes] = lambda token_id: b""
        self.drafters: dict[str, str] = {}
        self.drafter_info: dict[str, DrafterInfo] = {}

    def _load(self, choice: Choice, tell: Tell, cancelled: Callable[[], bool], strict: bool = False) -> None:
        """Open all, then unload, then read. `strict`: a drafter that does not fit refuses the whole choice."""
        from ..models.checkpoint import read_drafter
        from ..models.weights import read_weights
        from ..race.race import Models

        target, drafters = self._open(choice, tell, cancelled, strict)
        self.unload()

        def progress(what):
            return lambda done, total: tell(Loading(f"{choice.title}: reading {what}", done, total))

        for method, drafter in drafters.items():  # first, for they are converted: see read_weights
            if not isinstance(drafter, str):
                read_drafter(drafter, progress(f"the {method} drafter"), cancelled)
        read_weights(target.model, target.name, progress("the target"), cancelled)
        tell(Loading(f"{choice.title}: checking the taps"))
        target.prove_taps()
        methods = [name if isinstance(d, str) else d.info.method for name, d in drafters.items()]
        ids = drafter_ids(methods)
        self.choice, self._models = choice, Models(target, dict(zip(ids, drafters.values(), strict=True)))
        self.notice = choice.notice
        self.name, self.precision, self.stop_ids = target.name, target.precision, target.stop_ids
        if target.text is not None:
            self.token_bytes = target.text.token_bytes  # of the text alone: a page may keep it after a switch
        self.drafters = self._models.descriptions
        self.drafter_info = {i.method: i for i in reversed(self._models.infos)}

    def _open(self, choice: Choice, tell: Tell, cancelled: Callable[[], bool], strict: bool):
        """Target and drafters with everything checked but their weights unread; what is loaded is not touched."""
        from ..models.checkpoint import open_drafter
        from ..models.target import open_target

        def check(path):
            if cancelled():
                raise Cancelled
            verify(path, lambda done, total: tell(Loading(f"Checking {name_of(path)}", done, total)), cancelled)

        tell(Loading(f"{choice.title}: checking files"))
        paths = [d for d in choice.drafters.values() if isinstance(d, Path)]
        if strict and (words := self._too_big(choice, paths)):
            raise ModelError(words)
        check(choice.target)
        target = open_target(choice.target, choice.precision, lambda step: tell(Loading(f"{choice.title}: {step}")))
        target.name = name_of(choice.target)
        drafters = {}
        for method, where in choice.drafters.items():
            if isinstance(where, str):
                drafters[method] = where
                continue
            tell(Loading(f"{choice.title}: the {method} drafter"))
            try:
                check(where)
                drafter = drafters[method] = open_drafter(where, target, choice.drafter_precision)
                drafter.info = replace(drafter.info, name=name_of(where))
            except ModelError as error:
                if strict:
                    raise
                drafters[method] = str(error)
        if cancelled():
            raise Cancelled
        return target, drafters

    def _too_big(self, choice: Choice, drafters: list[Path]) -> str:
        facts = [Facts.read(d) for d in drafters]
        return too_big(Facts.read(choice.target), facts, self.machine, choice.precision, choice.drafter_precision)

    @property
    def models(self):
        """Target and drafters. Raises ModelError if nothing is loaded."""
        if self._models is None:
            raise ModelError(self.problem or "No model is loaded: choose one first.")
        return self._models

    # ---- running -------------------------------------------------------------------------------------

    def race(self, request, cancelled):
        from ..race.race import race

        return race(self.models, request, cancelled)

    def inspect(self, record, lane, index, cancelled, progress):
        from ..race.inspector import inspect

        if record.target != self.models.target.name:
            raise ModelError(f"This race ran on {record.target}, which is not loaded: load it to look into its rounds.")
        return inspect(self.models, record, lane, index, cancelled, progress)


def _here_or_why(place: Place) -> Path | str:
    """A directory as it is; for a hub name why it cannot be loaded as the page starts, in a sentence."""
    return place if isinstance(place, Path) else f"{place.repo} is to be downloaded first: see the Models tab."


def load_job(choice: Choice, session: str) -> Job:
    """A job for the worker that loads `choice`: (-1, Loading) events, then (-1, Loaded) or (-1, Failed)."""
    job = Job(None, session)

    def work(engine: PresetEngine, cancelled):
        yield -1, engine.load(choice, lambda step: job.events.put((-1, step)), cancelled)

    job.work = work
    return job


def unload_job(session: str) -> Job:
    def work(engine: PresetEngine, cancelled):
        engine.unload()
        yield -1, Loaded("No model is loaded.", True)

    return Job(None, session, work)
