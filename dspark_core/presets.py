"""Reads presets/*.toml: which models go together, and the demo prompts."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("chat", "code", "math")
METHODS = ("DSpark", "DFlash")


class PresetError(Exception):
    """A preset file that cannot be used; the message is one sentence naming file and field."""


@dataclass(frozen=True)
class PresetDrafter:
    method: str
    path: Path


@dataclass(frozen=True)
class Preset:
    """One target with its drafters. Paths are absolute."""

    name: str
    title: str
    target: Path
    drafters: tuple[PresetDrafter, ...]
    note: str = ""


@dataclass(frozen=True)
class Prompt:
    """`lead`: which lanes are expected to lead on prompts of this kind, in tokens per round; `why`: the reason."""

    kind: str
    title: str
    text: str
    lead: str = ""
    why: str = ""


def load_presets(directory: Path = ROOT / "presets") -> list[Preset]:
    """Every preset file but prompts.toml, by file name. Raises PresetError."""
    return [_preset(f) for f in sorted(directory.glob("*.toml")) if f.name != "prompts.toml"]


def load_prompts(path: Path = ROOT / "presets" / "prompts.toml") -> list[Prompt]:
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


def _preset(path: Path) -> Preset:
    raw = _read(path, {"title": str, "target": str, "drafter": list, "note": str})
    fields = _fields(path, raw, {"title": str, "target": str})
    drafters = []
    for d in raw.get("drafter", []):
        d = _fields(path, d, {"method": str, "path": str})
        if d["method"] not in METHODS:
            raise PresetError(f"{path}: method {d['method']!r} is not known; use {' or '.join(METHODS)}.")
        drafters.append(PresetDrafter(d["method"], ROOT / d["path"]))
    return Preset(path.stem, fields["title"], ROOT / fields["target"], tuple(drafters), raw.get("note", ""))


def _read(path: Path, allowed: dict[str, type]) -> dict:
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise PresetError(f"{path} cannot be read as TOML ({e}).") from None
    for key, value in raw.items():
        if key not in allowed:
            raise PresetError(f"{path} has an unknown field {key!r}; known are {', '.join(allowed)}.")
        if not isinstance(value, allowed[key]):
            raise PresetError(f"{path}: {key} must be of type {allowed[key].__name__}.")
    return raw


def _fields(path: Path, table: dict, wanted: dict[str, type]) -> dict:
    if not isinstance(table, dict):
        raise PresetError(f"{path}: every entry must be a table, not {table!r}.")
    for key, kind in wanted.items():
        if not isinstance(table.get(key), kind):
            raise PresetError(f"{path}: {key} is missing or not of type {kind.__name__}.")
    return {key: table[key] for key in wanted}
