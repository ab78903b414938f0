"""A drafting method is a file of this package, found by its name in lower case: see models/drafter.py. No MLX here."""

import pkgutil


def names() -> list[str]:
    """The methods there are, in lower case, by alphabet."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__))
