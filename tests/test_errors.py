"""The hierarchy of errors is the one that is drawn, and no room makes one of its own beside it."""

import ast
import re
from pathlib import Path

import pytest

from dspark_core import errors

CLASSES = {name: c for name, c in vars(errors).items() if isinstance(c, type)}


def drawn() -> dict[str, str]:
    """Name -> the name above it in the drawing of errors.py; that of a line without indentation is Exception."""
    above, found = {0: "Exception"}, {}
    for indent, name in re.findall(r"^    ( *)([A-Z]\w+)(?= {2,}|$)", errors.__doc__, re.MULTILINE):
        depth = len(indent) // 2
        found[name], above[depth + 1] = above[depth], name
    return found


def test_the_drawing_is_true():
    assert drawn() == {name: c.__bases__[0].__name__ for name, c in CLASSES.items()}
    also = re.findall(r"^ *(\w+) .*\(also a ValueError\)$", errors.__doc__, re.MULTILINE)
    assert set(also) == {name for name, c in CLASSES.items() if issubclass(c, ValueError)}


@pytest.mark.parametrize("name", CLASSES)
def test_an_error_is_caught_as_what_it_is(name):
    with pytest.raises(CLASSES[name], match="in one sentence"):
        raise CLASSES[name]("Said in one sentence.")
    assert issubclass(CLASSES[name], errors.Refused) != (name == "Cancelled")


def test_no_other_file_has_errors_of_its_own():
    """But training, which imports nothing of the rest, and what every reader of a document puts into a sentence."""
    inner = {"race/schema.py: Misfit"}
    root = Path(errors.__file__).parent
    found = set()
    for file in root.rglob("*.py"):
        name = file.relative_to(root).as_posix()
        if name == "errors.py" or name.startswith("training/"):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and any(
                isinstance(b, ast.Name) and b.id.endswith(("Error", "Exception", "Refused")) for b in node.bases
            ):
                found.add(f"{name}: {node.name}")
    assert found <= inner
