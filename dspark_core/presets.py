"""Reads presets/*.toml: which models go together, and the demo prompts.

title = "Qwen3-4B"
note = "One sentence for the visitor."
trained_with = "Qwen/Qwen3-4B"      # what the drafters were trained on
drafter_precision = "4-bit"         # of the drafters, at load; "auto" if it is not given

[[target]]                          # one for each precision that is offered; the first one is the default
precision = "8-bit"
hub = "mlx-community/Qwen3-4B-8bit" # or: path = "a directory, from the root of this project"
note = "What is known of it."

[[drafter]]                         # the first of a method is the default
method = "DSpark"
title = "DSpark, block 7 (DeepSpec)"
hub = "deepseek-ai/dspark_qwen3_4b_block7"
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from .catalog.names import HubName
from .errors import ModelError, PresetError
from .models.config import PRECISIONS
from .paths import root

ROOT = root()
PRESETS = ROOT / "presets"
EMBEDDED = "smollm2-135m"  # the preset that needs no download: what the page starts with
KINDS = ("chat", "code", "math")
METHODS = ("DSpark", "DFlash")
TEXT = {"title": str, "note": str, "trained_with": str, "drafter_precision": str}

Place = Path | HubName


@dataclass(frozen=True)
class PresetDrafter:
    method: str
    path: Place
    title: str = ""


@dataclass(frozen=True)
class PresetTarget:
    """The target in one precision, and what is known of that, in a sentence."""

    precision: str
    path: Place
    note: str = ""


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
        return [d for d in self.drafters if d.method == method]

    @property
    def first_drafters(self) -> dict[str, Place]:
        """The default drafter of each method."""
        return {d.method: d.path for d in reversed(self.drafters)}


@dataclass(frozen=True)
class Prompt:
    """`lead`: which lanes are expected to lead on prompts of this kind, in tokens per round; `why`: the reason."""

    kind: str
    title: str
    text: str
    lead: str = ""
    why: str = ""


def load_presets(directory: Path = PRESETS) -> list[Preset]:
    """Every preset file, the embedded one first, then by file name. Raises PresetError at the first bad one."""
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
    raw = _read(path, {"prompt": list, "kind": list})
    kinds = [_fields(path, k, {"kind": str, "lead": str, "why": str}) for k in raw.get("kind", [])]
    expected = {k["kind"]: k for k in kinds}
    prompts = [_fields(path, p, {"kind": str, "title": str, "text": str}) for p in raw.get("prompt", [])]
    for entry in [*kinds, *prompts]:
        if entry["kind"] not in KINDS:
            name = entry.get("title", "an expectation")
            raise PresetError(f"{path}: {name!r} has kind {entry['kind']!r}; use {', '.join(KINDS)}.")
    return [Prompt(**expected.get(p["kind"], {}) | p) for p in prompts]


def _files(directory: Path) -> list[Path]:
    files = [f for f in directory.glob("*.toml") if f.name != "prompts.toml"]
    return sorted(files, key=lambda f: (f.stem != EMBEDDED, f.name))


def _preset(path: Path) -> Preset:
    raw = _read(path, TEXT | {"target": list, "drafter": list})
    title = _fields(path, raw, {"title": str, "target": list})["title"]
    targets = tuple(_target(path, t) for t in raw["target"])
    if not targets:
        raise PresetError(f"{path}: there is no [[target]].")
    drafters = tuple(_drafter(path, d) for d in raw.get("drafter", []))
    if not drafters:
        raise PresetError(f"{path}: there is no [[drafter]], and a race needs one.")
    precision = raw.get("drafter_precision", "auto")
    if precision not in PRECISIONS:
        raise PresetError(f"{path}: drafter_precision {precision!r} is not known; use {', '.join(PRECISIONS)}.")
    if len({t.precision for t in targets}) < len(targets):
        raise PresetError(f"{path}: two [[target]] tables have the same precision.")
    trained_with = raw.get("trained_with", "")
    if trained_with:
        _hub_name(path, trained_with)
    return Preset(path.stem, title, targets[0].path, drafters, raw.get("note", ""), targets, trained_with, precision)


def _target(path: Path, table: dict) -> PresetTarget:
    fields = _fields(path, table, {"precision": str}, {"path": str, "hub": str, "note": str})
    return PresetTarget(fields["precision"], _place(path, "target", fields), fields.get("note", ""))


def _drafter(path: Path, table: dict) -> PresetDrafter:
    d = _fields(path, table, {"method": str}, {"path": str, "hub": str, "title": str})
    if d["method"] not in METHODS:
        raise PresetError(f"{path}: method {d['method']!r} is not known; use {' or '.join(METHODS)}.")
    return PresetDrafter(d["method"], _place(path, "drafter", d), d.get("title", d["method"]))


def _place(path: Path, what: str, fields: dict) -> Place:
    if ("path" in fields) == ("hub" in fields):
        raise PresetError(f"{path}: every {what} needs either a path or a hub name.")
    return ROOT / fields["path"] if "path" in fields else _hub_name(path, fields["hub"])


def _hub_name(path: Path, name: str) -> HubName:
    try:
        return HubName(name)
    except ModelError as error:
        raise PresetError(f"{path}: {error}") from None


def _read(path: Path, allowed: dict[str, type]) -> dict:
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise PresetError(f"{path} cannot be read as TOML ({e}).") from None
    for key, value in raw.items():
        if key not in allowed:
            raise PresetError(f"{path} has an unknown field {key[:80]!r}; known are {', '.join(allowed)}.")
        if not isinstance(value, allowed[key]):
            raise PresetError(f"{path}: {key} must be of type {allowed[key].__name__}.")
    return raw


def _fields(path: Path, table: dict, wanted: dict[str, type], optional: dict[str, type] | None = None) -> dict:
    """The fields of a table. `optional` names all others that it may have; without it others are not looked at."""
    if not isinstance(table, dict):
        raise PresetError(f"{path}: every entry must be a table, not {table!r}.")
    for key, kind in wanted.items():
        if not isinstance(table.get(key), kind):
            raise PresetError(f"{path}: {key} is missing or not of type {kind.__name__}.")
    if optional is None:
        return {key: table[key] for key in wanted}
    for key, value in table.items():
        if key not in wanted | optional:
            raise PresetError(f"{path} has an unknown field {key[:80]!r}; known are {', '.join(wanted | optional)}.")
        if not isinstance(value, (wanted | optional)[key]):
            raise PresetError(f"{path}: {key} must be of type {(wanted | optional)[key].__name__}.")
    return dict(table)
