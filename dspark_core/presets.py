"""Reads presets/*.toml: which models go together, and the demo prompts.

title = "Qwen3-4B"
note = "One sentence for the visitor."
trained_with = "Qwen/Qwen3-4B"      # what the drafters were trained on
drafter_precision = "4-bit"         # of the drafters, at load; "auto" if it is not given
token_bytes = 147456                # keys and values of one token in bf16, in the target's layers that see all tokens
lane_bytes = 0                      # what a lane holds beside them, whatever its length: sliding windows, states
experts = true                      # where layers have experts: on a CPU these stay quantized

[[target]]                          # one for each precision that is offered; the first one is the default
precision = "8-bit"
hub = "mlx-community/Qwen3-4B-8bit" # or: path = "a directory, from the root of this project"
note = "What is known of it."
licence = "Apache-2.0"              # of this download, as far as it is known
bytes = 4274056192                  # of its weights as stored
assumed = true                      # where the figures above could not be held against anything published

[[drafter]]                         # the first of a method is the default
method = "DSpark"                   # a file of models/drafters, in any case; "Small-Model" has a target as drafter
title = "DSpark, block 7 (DeepSpec)"
hub = "deepseek-ai/dspark_qwen3_4b_block7"  # or path; neither where the method needs no weights
licence = "MIT"
bytes = 2786267138                  # in bf16; and `assumed`, as of a target
on_request = true                   # its weights are read when a lane first names it

Sizes are what a page without a network knows of a download: whether it fits this machine, how much is to come. They are
facts, or computed from published shapes (two bytes a number in bf16; 8.5 or 4.5 bits a number in MLX's 8 and 4 bits).
Without `bytes` the page asks the hub for the size first; files that are here are measured.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .catalog.memory import PublishedSizes
from .catalog.names import HubName
from .errors import ModelError, PresetError
from .models import drafters as methods
from .models.config import PRECISIONS
from .models.info import drafter_ids
from .paths import root
from .store import read_bytes

ROOT = root()
PRESETS = ROOT / "presets"
EMBEDDED = "smollm2-135m"  # the preset that needs no download: what the page starts with
KINDS = ("chat", "code", "math", "rewriting")

Place = Path | HubName


@dataclass(frozen=True)
class PresetDrafter:
    """`path` is None where the method needs no weights; `sizes` where they are not known; `on_request`: see
    DrafterInfo."""

    method: str
    path: Place | None = None
    title: str = ""
    licence: str = ""
    sizes: PublishedSizes | None = None
    on_request: bool = False


@dataclass(frozen=True)
class PresetTarget:
    """The target in one precision, and what is known of that, in a sentence."""

    precision: str
    path: Place
    note: str = ""
    licence: str = ""
    sizes: PublishedSizes | None = None


@dataclass(frozen=True)
class Preset:
    """One target with its drafters. Paths are absolute; what is on the hub has a HubName.

    target:        where the default precision is
    targets:       every precision that is offered, the default first; empty if there is no choice
    trained_with:  hub name of the model that the drafters were trained on; empty if that is not said
    """

    name: str
    title: str
    target: Place
    drafters: tuple[PresetDrafter, ...]
    note: str = ""
    targets: tuple[PresetTarget, ...] = ()
    trained_with: str = ""
    drafter_precision: str = "auto"

    def of(self, method: str) -> list[PresetDrafter]:
        """The drafters of a method, the default first."""
        return [d for d in self.drafters if d.method.lower() == method.lower()]

    def licences(self, precision: str) -> str:
        """What is downloaded under which licence, in a sentence; empty where the preset names none."""
        target = [(f"{self.title}, {t.precision}", t.licence) for t in self.targets if t.precision == precision]
        named = [*target, *((d.title or d.method, d.licence) for d in self.drafters)]
        parts = [f"{title}: {licence}" for title, licence in named if licence]
        return f"Licences: {'; '.join(parts)}." if parts else ""

    @property
    def first_drafters(self) -> dict[str, PresetDrafter]:
        """The default drafter of each method, by id; not those that are read on request."""
        ids = drafter_ids(d.method for d in self.drafters)
        firsts = {id_: d for id_, d in zip(ids, self.drafters, strict=True) if id_ == d.method.lower()}
        return {id_: d for id_, d in firsts.items() if not d.on_request}

    @property
    def on_request(self) -> dict[str, PresetDrafter]:
        """The drafters that are read on request, by the ids that they have behind those of `first_drafters`."""
        later = [d for d in self.drafters if d.on_request]
        ids = drafter_ids([*self.first_drafters, *(d.method for d in later)])
        return dict(zip(ids[len(self.first_drafters) :], later, strict=True))


@dataclass(frozen=True)
class Prompt:
    """`lead`: which lanes are expected to lead on prompts of this kind, in tokens per round; `why`: the reason;
    `drafter`: id of one that gets a lane where this prompt is chosen; empty leaves the lanes as they are."""

    kind: str
    title: str
    text: str
    lead: str = ""
    why: str = ""
    drafter: str = ""


def load_presets(directory: Path = PRESETS) -> list[Preset]:
    """Every preset file, the embedded one first, then by file name, 4b before 14b. Raises PresetError at the first bad
    one."""
    return [_preset(f) for f in _files(directory)]


def read_presets(directory: Path = PRESETS) -> tuple[list[Preset], list[str]]:
    """The presets that can be used, and for each other file a sentence that says why it cannot."""
    presets, bad = [], []
    for file in _files(directory):
        try:
            presets.append(_preset(file))
        except PresetError as error:
            bad.append(str(error))
    return presets, bad


def load_prompts(path: Path = PRESETS / "prompts.toml") -> list[Prompt]:
    """The demo prompts in file order. Raises PresetError."""
    file = _read_toml(path, _PromptsFile)
    entries: list[_KindTable | _PromptTable] = [*file.kind, *file.prompt]
    for entry in entries:
        if entry.kind not in KINDS:
            name = getattr(entry, "title", "an expectation")
            raise PresetError(f"{path}: {name!r} has kind {entry.kind!r}; use {', '.join(KINDS)}.")
    expected = {k.kind: k for k in file.kind}
    known = [(p, expected.get(p.kind)) for p in file.prompt]
    return [Prompt(p.kind, p.title, p.text, k.lead if k else "", k.why if k else "", p.drafter) for p, k in known]


# ---- the files' tables -------------------------------------------------------------------------------------


MAX_BYTES = 100_000  # of a file
MAX_TEXT = 2000  # characters of a field
MAX_SIZE = 10**14  # bytes of a model
# Python's reader takes a minute for a key of 50,000 parts.
DEEP = re.compile(r"""(?:(?:[\w-]{1,80}|"[^"\n]{0,80}"|'[^'\n]{0,80}')[ \t]*\.[ \t]*){50}""")


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, str_max_length=MAX_TEXT)


class _ModelTable(_Table):
    path: str | None = None
    hub: str | None = None
    licence: str = ""
    bytes: Annotated[int | None, Field(ge=1, le=MAX_SIZE)] = None
    assumed: bool = False

    def sizes(
        self, stored: str = "bf16", token_bytes: int = 0, lane_bytes: int = 0, experts: bool = False
    ) -> PublishedSizes | None:
        if not self.bytes:
            return None
        return PublishedSizes(self.bytes, stored, token_bytes, lane_bytes, self.assumed, experts)


class _TargetTable(_ModelTable):
    precision: str
    note: str = ""


class _DrafterTable(_ModelTable):
    method: str
    title: str = ""
    on_request: bool = False


class _PresetFile(_Table):
    title: str
    note: str = ""
    trained_with: str = ""
    drafter_precision: str = "auto"
    token_bytes: Annotated[int, Field(ge=0, le=MAX_SIZE)] = 0
    lane_bytes: Annotated[int, Field(ge=0, le=MAX_SIZE)] = 0
    experts: bool = False
    target: Annotated[list[_TargetTable], Field(max_length=20)]
    drafter: Annotated[list[_DrafterTable], Field(max_length=100)] = []


class _KindTable(BaseModel):
    kind: str
    lead: str
    why: str


class _PromptTable(BaseModel):
    kind: str
    title: str
    text: str
    drafter: str = ""


class _PromptsFile(_Table):
    kind: list[_KindTable] = []
    prompt: list[_PromptTable] = []


Read = TypeVar("Read", bound=BaseModel)
WANTED = {
    "string_type": "of type str",
    "list_type": "of type list",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "greater_than_equal": "a number of bytes",
    "less_than_equal": "a number of bytes",
    "string_too_long": f"at most {MAX_TEXT:,} characters long",
    "too_long": "a shorter list of tables",
}


def _files(directory: Path) -> list[Path]:
    files = [f for f in directory.glob("*.toml") if f.name != "prompts.toml"]
    return sorted(files, key=lambda f: (f.stem != EMBEDDED, re.sub(r"\d+", lambda n: n[0].zfill(20), f.name)))


def _preset(path: Path) -> Preset:
    file = _read_toml(path, _PresetFile)
    lane = file.token_bytes, file.lane_bytes, file.experts
    targets = tuple(
        PresetTarget(t.precision, _place(path, "target", t), t.note, t.licence, t.sizes(t.precision, *lane))
        for t in file.target
    )
    if not targets:
        raise PresetError(f"{path}: there is no [[target]].")
    drafters = tuple(_drafter(path, d) for d in file.drafter)
    if not drafters:
        raise PresetError(f"{path}: there is no [[drafter]], and a race needs one.")
    precision = file.drafter_precision
    if precision not in PRECISIONS:
        raise PresetError(f"{path}: drafter_precision {precision!r} is not known; use {', '.join(PRECISIONS)}.")
    if len({t.precision for t in targets}) < len(targets):
        raise PresetError(f"{path}: two [[target]] tables have the same precision.")
    if file.trained_with:
        _hub_name(path, file.trained_with)
    return Preset(path.stem, file.title, targets[0].path, drafters, file.note, targets, file.trained_with, precision)


def _drafter(path: Path, table: _DrafterTable) -> PresetDrafter:
    if table.method.lower() not in methods.names():
        known = ", ".join(methods.names())
        raise PresetError(f"{path}: method {table.method!r} is not known; there are {known}.")
    title = table.title or table.method
    if table.path is None and table.hub is None and methods.constants(table.method).get("needs_weights") is False:
        return PresetDrafter(table.method, None, title, table.licence)
    place = _place(path, "drafter", table)
    return PresetDrafter(table.method, place, title, table.licence, table.sizes(), table.on_request)


def _place(path: Path, what: str, table: _ModelTable) -> Place:
    if table.path is not None and table.hub is None:
        return ROOT / table.path
    if table.hub is not None and table.path is None:
        return _hub_name(path, table.hub)
    raise PresetError(f"{path}: every {what} needs either a path or a hub name.")


def _hub_name(path: Path, name: str) -> HubName:
    try:
        return HubName(name)
    except ModelError as error:
        raise PresetError(f"{path}: {error}") from None


def _read_toml(path: Path, kind: type[Read]) -> Read:
    """A TOML file as this kind of table. Raises PresetError."""
    try:
        text = read_bytes(path, MAX_BYTES).decode("utf-8")
        if DEEP.search(text):
            raise RecursionError
        raw = tomllib.loads(text)
    except (OSError, ValueError) as e:
        raise PresetError(f"{path} cannot be read as TOML ({str(e)[:200]}).") from None
    except RecursionError:
        raise PresetError(f"{path} cannot be read as TOML: it is nested too deeply.") from None
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise PresetError(_fault_words(path, error.errors()[0], kind)) from None


def _fault_words(path: Path, fault: Mapping[str, Any], kind: type[BaseModel]) -> str:
    """What pydantic found first, with its place: "target 2: hub must be of type str"."""
    steps, what = list(fault["loc"]), fault["type"]
    where = f"{path}: {steps[0]} {steps[1] + 1}" if len(steps) > 1 else str(path)
    name = str(steps[-1])[:80]
    if what == "extra_forbidden":
        table = kind.model_fields[steps[0]].annotation.__args__[0] if len(steps) > 1 else kind
        return f"{where} has an unknown field {name!r}; known are {', '.join(table.model_fields)}."
    if what == "missing":
        return f"{where}: {name} is missing."
    if what == "model_type":
        return f"{where} must be a table, not {str(fault['input'])[:80]!r}."
    return f"{where}: {name} must be {WANTED.get(what, 'something else')}."
