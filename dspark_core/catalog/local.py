"""The models on this machine: the Hugging Face cache, LM Studio's folder, and directories the user names.

Only configs and tensor headers are read. A broken or foreign model is listed with the reason why it cannot run.
"""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import scan_cache_dir
from huggingface_hub.errors import CacheNotFound

from ..errors import ModelError
from .facts import OTHER, Facts, Sort, sort_of, stored

HF, LM_STUDIO, DIRECTORY = "Hugging Face cache", "LM Studio", "directory"
MAX_DEPTH = 3  # below a directory that the user names
MAX_DIRECTORIES = 5000


@dataclass(frozen=True)
class Found:
    """One model on this machine.

    name:   "owner/name" where that is known, else the directory's name
    bytes:  of the files in its directory
    stored: the precision that most weights are stored in; empty if that cannot be read
    """

    name: str
    path: Path
    source: str
    sort: Sort
    bytes: int
    stored: str = ""


def find(directories: Iterable[Path] = (), cache: Path | None = None, lm_studio: Path | None = None) -> list[Found]:
    """Every model directory on this machine, targets first, then drafters, then what cannot be used."""
    found = [
        *(describe(path, HF, name) for name, path in hub_snapshots(cache)),
        *(describe(p, LM_STUDIO, f"{p.parent.name}/{p.name}") for p in _models_in(lm_studio or lm_studio_models(), 2)),
        *(describe(p, DIRECTORY) for d in directories for p in _models_in(Path(d).expanduser(), MAX_DEPTH)),
    ]
    order = ("target", "drafter", OTHER)
    unique = {f.path.resolve(): f for f in reversed(found)}
    return sorted(unique.values(), key=lambda f: (order.index(f.sort.kind), f.name.lower()))


def describe(path: Path, source: str = DIRECTORY, name: str = "") -> Found:
    """One model directory. What is wrong with it is in its `sort`, not an exception."""
    try:
        size = sum(f.stat().st_size for f in path.iterdir() if f.is_file())
        facts = Facts.read(path, name)
    except (ModelError, OSError) as error:
        words = str(error) if isinstance(error, ModelError) else f"{path} cannot be read ({error.strerror})."
        return Found(name or path.name, path, source, Sort(OTHER, "", words), 0 if isinstance(error, OSError) else size)
    return Found(facts.name, path, source, sort_of(facts), size, stored(facts))


def cache_folder(cache: Path, repo: str) -> Path:
    """Where the Hugging Face cache has a model: "owner/name" stands in the folder's name."""
    return cache / f"models--{repo.replace('/', '--')}"


def name_of(directory: Path) -> str:
    """How a model's directory is called: "owner/name" for a snapshot of the Hugging Face cache, else its own name."""
    folder = directory.parent.parent.name
    if directory.parent.name == "snapshots" and folder.startswith("models--"):
        return folder.removeprefix("models--").replace("--", "/", 1)
    return directory.name


def hub_snapshots(cache: Path | None = None) -> Iterator[tuple[str, Path]]:
    """(repository, directory) of every model in the Hugging Face cache: its main revision, else its newest."""
    try:
        repos = scan_cache_dir(cache).repos
    except (CacheNotFound, ValueError, OSError):
        return
    for repo in repos:
        if repo.repo_type == "model" and repo.revisions:
            newest = max(repo.revisions, key=lambda r: ("main" in r.refs, r.last_modified))
            yield repo.repo_id, newest.snapshot_path


def lm_studio_models() -> Path:
    """LM Studio's models folder: where its settings say, else where it usually is."""
    home = Path.home()

    def text(path: Path) -> str:
        try:
            return path.read_text(encoding="utf-8")[:1_000_000]
        except (OSError, ValueError):
            return ""

    root = Path(text(home / ".lmstudio-home-pointer").strip() or home / ".lmstudio")
    try:
        chosen = json.loads(text(root / "settings.json") or "{}").get("downloadsFolder")
    except (ValueError, AttributeError):
        chosen = None
    candidates = [Path(chosen)] if isinstance(chosen, str) and chosen else []
    candidates += [root / "models", home / ".cache" / "lm-studio" / "models"]
    return next((c for c in candidates if c.is_dir()), candidates[-1])


def _models_in(root: Path, depth: int) -> Iterator[Path]:
    """Directories with a config.json, at most `depth` levels below `root`; hidden ones are left out."""
    for count, (path, below, files) in enumerate(os.walk(root)):
        level = len(Path(path).relative_to(root).parts)
        if "config.json" in files:
            yield Path(path)
            below.clear()
        below[:] = sorted(d for d in below if not d.startswith(".")) if level < depth else []
        if count >= MAX_DIRECTORIES:
            return
