"""Where what is no code lies: the page's front end, the embedded models and the presets."""

from pathlib import Path


def root() -> Path:
    """The directory that holds `assets` and `presets`: the project's, or, where the package is installed, its own copy
    of both."""
    installed = Path(__file__).resolve().parent / "_data"
    return installed if installed.is_dir() else installed.parents[1]


def assets() -> Path:
    """The directory `assets`: page/ (scripts, styles and markup of the page), models/ (embedded), screenshots/."""
    return root() / "assets"
