"""How the code is built, in figures that can be held against those of another checkout.

    python tests/scripts/structure.py [ROOT ...] [--list] [--no-mypy]

Counted are app.py and every .py file below dspark_core, training included, with all their lines: blank ones, comments
and docstrings too. A name is a function or class at the top level of a module, private ones included. A function's
length is from its `def` to its last line, its parameters are all that it declares but self and cls; a `**keywords`
stands for those that callers in these files hand it by other names. A place that knows a method's name is a line that
has it as a string or an identifier by itself (or in a list such as "plain,dspark"), outside docstrings, prose,
models/drafters/ and training/. `--list` shows what is behind the figures.
"""

import argparse
import ast
import re
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

METHODS = {"dspark", "dflash", "dflash2", "lookup", "small-model"}
LESSONS = ("dspark_core/playground/lessons.py", "dspark_core/playground/lesson_answers.py")  # each is about a method
EXEMPT = ("dspark_core/training/", "dspark_core/models/drafters/", *LESSONS)
SHOWN = 8
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Function:
    place: str
    name: str
    lines: int
    parameters: int


@dataclass
class Structure:
    """What was found in one checkout. files: lines of each; names: the files that define each; places as file:line."""

    files: dict[str, int] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    functions: list[Function] = field(default_factory=list)
    method_places: list[str] = field(default_factory=list)
    type_errors: list[str] | None = None

    def figures(self) -> dict[str, str]:
        lines = sum(self.files.values())
        names = sum(len(files) for files in self.names.values())
        file = max(self.files, key=self.files.__getitem__)
        longest = max(self.functions, key=lambda f: f.lines)
        widest = max(self.functions, key=lambda f: f.parameters)
        lengths = sorted(f.lines for f in self.functions)
        stems = [Path(f).name for f in self.files if Path(f).stem not in ("__init__", "__main__")]
        return {
            "files": str(len(self.files)),
            "lines": str(lines),
            "top-level functions and classes": str(names),
            "the same per 1,000 lines": f"{1e3 * names / lines:.1f}",
            "names defined in more than one file": str(len(self.shared_names())),
            "file names used twice": str(len(stems) - len(set(stems))),
            "longest function": f"{longest.lines} ({longest.name})",
            "functions above 80 lines": str(sum(n > 80 for n in lengths)),
            "longest file": f"{self.files[file]} ({Path(file).name})",
            "function length, median": f"{statistics.median(lengths):g}",
            "function length, p95": str(lengths[int(0.95 * len(lengths))]),
            "most parameters": f"{widest.parameters} ({widest.name})",
            "functions with more than 8": str(sum(f.parameters > 8 for f in self.functions)),
            "places that know a method's name": str(len(self.method_places)),
            "mypy errors": "not run" if self.type_errors is None else str(len(self.type_errors)),
        }

    def shared_names(self) -> dict[str, list[str]]:
        return {name: files for name, files in sorted(self.names.items()) if len(set(files)) > 1}


def read(root: Path, run_mypy: bool = True) -> Structure:
    """Raises SyntaxError for a file that is no Python, FileNotFoundError for a directory that is no checkout."""
    files = [root / "app.py", *sorted((root / "dspark_core").rglob("*.py"))]
    trees = {str(f.relative_to(root)): ast.parse(f.read_text(encoding="utf-8"), str(f)) for f in files}
    found = Structure({str(f.relative_to(root)): len(f.read_text(encoding="utf-8").splitlines()) for f in files})
    keywords = keywords_of_calls(trees.values())
    for file, tree in trees.items():
        for node in tree.body:
            if isinstance(node, FunctionNode | ast.ClassDef):
                found.names[node.name].append(file)
        for node in ast.walk(tree):
            if isinstance(node, FunctionNode):
                length = node.end_lineno - node.lineno + 1
                place = f"{file}:{node.lineno}"
                found.functions.append(Function(place, node.name, length, parameter_count(node, keywords)))
        if not file.startswith(EXEMPT):
            found.method_places += sorted({f"{file}:{line}" for line in method_lines(tree)}, key=natural)
    for script in sorted((root / "assets").rglob("*.js")):
        for number, text in enumerate(script.read_text(encoding="utf-8").splitlines(), 1):
            if re.search(r"""(["'`])(?:dspark|dflash2?)\1""", text, re.IGNORECASE):
                found.method_places.append(f"{script.relative_to(root)}:{number}")
    if run_mypy and find_spec("mypy"):
        found.type_errors = type_errors(root)
    return found


def keywords_of_calls(trees) -> dict[str, set[str]]:
    """By the name of what is called: every keyword that some call hands it."""
    out: dict[str, set[str]] = defaultdict(set)
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", None) or getattr(node.func, "attr", None)
                out[name] |= {k.arg for k in node.keywords if k.arg}
    return out


def parameter_count(node: FunctionNode, keywords: dict[str, set[str]]) -> int:
    a = node.args
    declared = {x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs)} - {"self", "cls"}
    hidden = max(1, len(keywords[node.name] - declared)) if a.kwarg else 0
    return len(declared) + (a.vararg is not None) + hidden


def method_lines(tree: ast.Module) -> Iterator[int]:
    """Lines on which a method's name stands by itself."""
    for node in ast.walk(tree):
        words: list[str] = []
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and not re.search(r"\s", node.value):
            words = [w.removeprefix("--") for w in re.split(r"[^\w-]+", node.value)]
        elif isinstance(node, ast.Name):
            words = [node.id]
        elif isinstance(node, ast.Attribute):
            words = [node.attr]
        elif isinstance(node, ast.arg | ast.keyword):
            words = [node.arg or ""]
        if METHODS & {w.lower() for w in words}:
            yield node.lineno


def natural(place: str) -> tuple[str, int]:
    file, _, line = place.rpartition(":")
    return file, int(line)


def type_errors(root: Path) -> list[str]:
    """mypy's, of dspark_core alone: libraries count as untyped, so that the figure hangs on no version of theirs. The
    checkout's own settings of mypy apply, if it has any."""
    command = [sys.executable, "-m", "mypy", "--no-site-packages", "--ignore-missing-imports", "dspark_core"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"mypy failed: {(done.stderr or done.stdout).strip()}")
    return [line for line in done.stdout.splitlines() if ": error:" in line]


def behind(found: Structure) -> Iterator[str]:
    """The names, functions and lines that the figures count."""
    yield "Names defined in more than one file:"
    yield from (f"    {name}: {', '.join(sorted(set(files)))}" for name, files in found.shared_names().items())
    yield "Longest functions:"
    for f in sorted(found.functions, key=lambda f: -f.lines)[:SHOWN]:
        yield f"    {f.lines} {f.name} {f.place}"
    yield "Most parameters:"
    for f in sorted(found.functions, key=lambda f: -f.parameters)[:SHOWN]:
        yield f"    {f.parameters} {f.name} {f.place}"
    yield "Longest files:"
    yield from (f"    {found.files[f]} {f}" for f in sorted(found.files, key=lambda f: -found.files[f])[:SHOWN])
    yield "Places that know a method's name:"
    yield from (f"    {place}" for place in found.method_places)
    yield from ("    " + line for line in found.type_errors or [])


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("root", type=Path, nargs="*", default=[Path(__file__).resolve().parents[2]])
    p.add_argument("--list", action="store_true", help="what is behind the figures")
    p.add_argument("--no-mypy", action="store_true")
    args = p.parse_args()
    found = [read(root.resolve(), not args.no_mypy) for root in args.root]
    figures = [f.figures() for f in found]
    for name in figures[0]:
        print(f"{name:36}" + "".join(f"{f[name]:>28}" for f in figures))
    if args.list:
        for root, structure in zip(args.root, found, strict=True):
            print("", root, *behind(structure), sep="\n")


if __name__ == "__main__":
    main()
