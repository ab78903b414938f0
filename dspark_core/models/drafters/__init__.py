"""A drafting method is a file of this package, found by its name in lower case: see models/drafter.py. No MLX here.

The files import MLX. What they say of their methods in constants is read from their source, so that any thread may ask.
"""

import ast
import pkgutil
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def names() -> list[str]:
    """The methods there are, in lower case, by alphabet: "small-model" is in small_model.py."""
    return sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(__path__))


def module_name(method: str) -> str:
    """Of a method's file, in full."""
    return f"{__name__}.{method.lower().replace('-', '_')}"


def marked(constant: str) -> list[str]:
    """Methods whose files set a constant to True: EVERYWHERE, OF_TARGETS (models/drafter.py)."""
    return [str(known["METHOD"]) for name in names() if (known := constants(name)).get(constant) is True]


def constants(method: str) -> dict[str, Any]:
    """The constants at the top of a method's file, such as METHOD and HEADS, by name; and `needs_weights`: False where
    the file says so in a call, as of a DrafterInfo. Empty for a method that has no file."""
    spec = find_spec(module_name(method)) if method.lower() in names() else None
    return _read(Path(spec.origin)) if spec and spec.origin else {}


def title(method: str) -> str:
    """A method's name for the visitor: "DFlash 2" of DFlash2. A method that has no file is called as it is written."""
    known = constants(method)
    return str(known.get("TITLE", known.get("METHOD", method)))


def heads_by_method() -> dict[str, tuple[str, ...]]:
    """By method, in lower case: the heads, "markov" and "selector", that its checkpoints have beside the target's. Of
    methods that are read from checkpoints alone."""
    found = {method: constants(method).get("HEADS") for method in names()}
    return {method: tuple(named) for method, named in found.items() if named is not None}


def of_heads(*wanted: str) -> str:
    """The method, in lower case, whose checkpoints have these heads and no others; empty if there is none."""
    return next((method for method, named in heads_by_method().items() if {*named} == {*wanted}), "")


@cache
def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return found
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "needs_weights" and isinstance(node.value, ast.Constant):
            found["needs_weights"] = node.value.value
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            try:
                found[statement.targets[0].id] = ast.literal_eval(statement.value)
            except ValueError:  # computed
                continue
    return found
