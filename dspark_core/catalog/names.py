"""What a visitor types for a model: a path on this machine, or a name on the hub."""

import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..errors import ModelError

ADDRESS = re.compile(r"^(https?://)?(www\.)?(huggingface\.co|hf\.co)/", re.IGNORECASE)
REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class HubName:
    """`repo` is "owner/name"; `revision` a branch, a tag or a commit. Raises ModelError for anything else."""

    repo: str
    revision: str = "main"

    def __post_init__(self) -> None:
        repo, shown = self.repo, f"{self.repo[:200]!r}"
        if "\\" in repo or repo.count("/") != 1 or repo[0] in "/~." or ".." in repo:
            raise ModelError(f"{shown} is not a hub name (owner/name); a path begins with /, ~ or a dot.")
        try:
            validate_repo_id(repo)
        except HFValidationError:
            raise ModelError(f"{shown} is not a hub name: owner/name has letters, digits and - _ . only.") from None
        if not REVISION.fullmatch(self.revision) or ".." in self.revision:
            raise ModelError(f"{self.revision[:200]!r} is not a revision: give a branch, a tag or a commit.")

    @property
    def link(self) -> str:
        return f"https://huggingface.co/{self.repo}"


def parse(text: str) -> Path | HubName:
    """A directory if `text` begins like a path (/, ~ or .), else a hub name. Raises ModelError."""
    text = text.strip() if isinstance(text, str) else ""
    if not text:
        raise ModelError("Type a hub name (owner/name) or the path of a model's directory.")
    if text[0] in "/~." or re.match(r"[A-Za-z]:[\\/]", text):
        return directory(text)
    repo, _, revision = ADDRESS.sub("", text).removesuffix("/").removesuffix("/tree/main").partition("@")
    return HubName(repo, revision or "main")


def directory(text: str) -> Path:
    """An existing directory. Raises ModelError."""
    try:
        path = Path(text).expanduser().resolve()
        there = path.is_dir()
    except (OSError, RuntimeError, ValueError) as e:  # a name too long, ~nobody, a null byte
        why = getattr(e, "strerror", None) or str(e)
        raise ModelError(f"{text[:200]!r} is not a path that can be read ({why}).") from None
    if not there:
        raise ModelError(f"{path} is not a directory on this machine.")
    return path
