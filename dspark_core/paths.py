"""Where what is no code lies: the page's front end and the embedded models."""

from pathlib import Path


def assets() -> Path:
    """The directory `assets`: page/ (scripts, styles and markup of the page), models/ (embedded), screenshots/."""
    return Path(__file__).resolve().parent.parent / "assets"
