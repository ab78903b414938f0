"""The models on this machine: the Hugging Face cache, LM Studio's folder, and directories the user names.

Only configs and tensor headers are read. A broken or foreign model is listed with the reason why it cannot run.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import constants

from ..errors import ModelError, in_one_line
from ..models.files import WEIGHTS
from ..store import home_directory, parse_json, read_bytes
from .facts import OTHER, Facts, Sort, sort_of, stored

HF, LM_STUDIO, DIRECTORY = "Hugging Face cache", "LM Studio", "directory"
MAX_DEPTH = 3  # below a directory that the user names
MAX_DIRECTORIES = 5000
UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")  # controls, ends of lines, turns of direction


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
    """Every model directory on this machine, targets first, then drafters, then what cannot be used or looked at, each
    with the reason."""
    found = [
        *hub_models(Path(cache or constants.HF_HUB_CACHE)),
        *models_in(lm_studio or lm_studio_models(), LM_STUDIO, 2),
        *(model for d in directories for model in models_in(Path(d).expanduser(), DIRECTORY, MAX_DEPTH)),
    ]
    order = ("target", "drafter", OTHER)
    unique = {os.path.realpath(f.path): f for f in reversed(found)}
    return sorted(unique.values(), key=lambda f: (order.index(f.sort.kind), f.name.lower()))


def describe(path: Path, source: str = DIRECTORY, name: str = "") -> Found:
    """One model directory. What is wrong with it is in its `sort`, not an exception."""
    if shown_path(path) != str(path):
        words = "signs that end or turn a line in its name" if UNSHOWN.search(str(path)) else "a name that is no UTF-8"
        return unusable(path, source, f"{shown_path(path)} has {words}: rename it.")
    found = Found(name or path.name, path, source, Sort(OTHER, "", ""), 0)
    try:
        found = replace(found, bytes=sum(f.stat().st_size for f in path.iterdir() if f.is_file()))
        facts = Facts.read(path, name)
        return replace(found, name=facts.name, sort=sort_of(facts), stored=stored(facts))
    except ModelError as error:
        words = str(error)
    except OSError as error:
        words = f"{path} cannot be read ({in_one_line(error)})."
    except Exception as error:  # what nobody thought of must not hide the models beside it
        words = f"{path / 'config.json'} cannot be read as a model's configuration ({in_one_line(error)})."
    return replace(found, sort=Sort(OTHER, "", words))


def weight_bytes(directory: Path) -> int:
    """Bytes of a model's weight files; 0 where they cannot be looked at."""
    try:
        return sum(f.stat().st_size for f in directory.iterdir() if WEIGHTS.fullmatch(f.name))
    except OSError:
        return 0


def unusable(path: Path, source: str, words: str) -> Found:
    """What stands in a list for a place that cannot be looked at."""
    return Found(shown_path(Path(path.name)), path, source, Sort(OTHER, "", words), 0)


def shown_path(path: Path) -> str:
    """A path as text in one line, also one whose bytes are none."""
    return UNSHOWN.sub("\ufffd", str(path).encode("utf-8", "replace").decode())


def cache_folder(cache: Path, repo: str) -> Path:
    """Where the Hugging Face cache has a model: "owner/name" stands in the folder's name."""
    return cache / f"models--{repo.replace('/', '--')}"


def name_of(directory: Path) -> str:
    """How a model's directory is called: "owner/name" for a snapshot of the Hugging Face cache, else its own name."""
    folder = directory.parent.parent.name
    if directory.parent.name == "snapshots" and folder.startswith("models--"):
        return folder.removeprefix("models--").replace("--", "/", 1)
    return directory.name


def hub_models(cache: Path) -> Iterator[Found]:
    """Every model in the Hugging Face cache: its main revision, else its newest. A repository without files, as a
    download that was stopped leaves it, is none."""
    try:
        folders = sorted(f for f in cache.iterdir() if f.name.startswith("models--"))
    except FileNotFoundError:
        return
    except OSError as error:
        yield unusable(cache, HF, f"{cache} cannot be read ({in_one_line(error)}).")
        return
    for folder in folders:
        name = folder.name.removeprefix("models--").replace("--", "/", 1)
        try:
            if snapshot := _newest(folder):
                yield describe(snapshot, HF, name)
        except OSError as error:
            yield replace(
                unusable(folder, HF, f"{shown_path(folder)} cannot be read ({in_one_line(error)})."),
                name=shown_path(Path(name)),
            )


def _newest(folder: Path) -> Path | None:
    """The snapshot of a repository's main revision, else its newest. Raises OSError."""
    there: list[Path] = []
    with suppress(FileNotFoundError, NotADirectoryError):
        there = [d for d in (folder / "snapshots").iterdir() if d.is_dir()]
    with suppress(OSError, ValueError):
        main = read_bytes(folder / "refs" / "main", 1000).decode().strip()
        there = [d for d in there if d.name == main] or there
    return max(there, key=lambda d: d.stat().st_mtime, default=None)


def lm_studio_models() -> Path:
    """LM Studio's models folder: where its settings say, else where it usually is."""
    home = home_directory()

    def text(path: Path) -> str:
        try:
            return read_bytes(path).decode()
        except (OSError, ValueError):
            return ""

    root = Path(text(home / ".lmstudio-home-pointer").strip("\0 \r\n") or home / ".lmstudio")
    try:
        chosen = parse_json(text(root / "settings.json") or "{}").get("downloadsFolder")
    except (ValueError, AttributeError):
        chosen = None
    candidates = [Path(chosen)] if isinstance(chosen, str) and chosen else []
    candidates += [root / "models", home / ".cache" / "lm-studio" / "models"]
    return next((c for c in candidates if c.is_dir()), candidates[-1])


def models_in(root: Path, source: str, depth: int) -> Iterator[Found]:
    """Directories with a config.json, at most `depth` levels below `root`, each once; hidden ones are left out. Links
    are followed: models are large, and lie on another disk as often as not."""
    unread: list[Found] = []
    there: set[str] = set()

    def note(error: OSError) -> None:
        place = Path(os.fsdecode(error.filename or root))
        if not isinstance(error, FileNotFoundError):
            unread.append(unusable(place, source, f"{shown_path(place)} cannot be read ({in_one_line(error)})."))

    for count, (path, below, files) in enumerate(os.walk(root, onerror=note, followlinks=True)):
        if count >= MAX_DIRECTORIES:
            words = f"{shown_path(root)} has more than {MAX_DIRECTORIES:,} directories: name one further down."
            unread.append(unusable(root, source, words))
            break
        place, real = Path(path), os.path.realpath(path)
        if real in there:  # a link that leads back, or a second one
            below.clear()
            continue
        there.add(real)
        if "config.json" in (*files, *below):
            yield describe(place, source, f"{place.parent.name}/{place.name}" if source == LM_STUDIO else "")
            below.clear()
        level = len(place.relative_to(root).parts)
        below[:] = sorted(d for d in below if not d.startswith(".")) if level < depth else []
    yield from unread
