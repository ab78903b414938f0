"""The page's scripts without a browser: types, lint, tests of their pure functions, how they are put together."""

import ast
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import dspark_core
from dspark_core.paths import assets
from dspark_core.playground.widgets import BOARD_SCRIPTS, script

from .tab import missing

HERE = Path(__file__).parent
PAGE = assets() / "page"
NAMES = sorted(file.stem for file in PAGE.glob("*.js"))
NODE_TESTS = sorted(str(file) for file in (HERE / "js").glob("*.test.mjs"))


def passes(*command, **options):
    done = subprocess.run(command, cwd=HERE.parents[1], capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def node():
    return shutil.which("node") or missing("node is not installed")


def test_types(node_modules):
    passes(node_modules / ".bin" / "tsc", "--project", HERE / "tsconfig.json")


def test_lint(node_modules):
    config = HERE / "eslint.config.mjs"
    passes(node_modules / ".bin" / "eslint", "--max-warnings=0", "--config", config, PAGE, HERE / "js", config)


def test_pure_functions(node):
    assert NODE_TESTS
    passes(node, "--test", *NODE_TESTS)


def test_every_script_is_the_body_of_one_function(node):
    """No name is taken twice in what is put together, and nothing of a module is left in it."""
    bodies = {name: script(name) for name in NAMES} | {
        "a saved page": script("offline", *BOARD_SCRIPTS, "stage", "next"),
        "the first picture": script("first", *BOARD_SCRIPTS, "recorded"),
        "the board": script(*BOARD_SCRIPTS, "stage", "next", "recorded"),
    }
    for name, body in bodies.items():
        assert not re.search(r"^\s*(import|export)\b", body, re.MULTILINE), name
    compiled = "for (const body of JSON.parse(require('fs').readFileSync(0, 'utf-8'))) new Function(body)"
    passes(node, "--eval", compiled, input=json.dumps(list(bodies.values())))


def test_what_a_script_imports_comes_before_it_and_once():
    body = script("offline", "replay")
    places = [
        body.index(text) for text in ("getElementById('race')", "function make(", "function draw(", "function seek(")
    ]
    assert places == sorted(places)
    assert body.count("function make(") == 1
    assert script("replay", "replay") == script("replay") and body.endswith(script("replay"))


def test_shared_helpers_are_in_one_file():
    shared = re.findall(r"^export (?:const|function) ([\w$]+)", (PAGE / "dom.js").read_text("utf-8"), re.MULTILINE)
    assert {"$", "make", "visible", "remember"} <= set(shared)
    for name in NAMES:
        if name != "dom":
            text = (PAGE / f"{name}.js").read_text("utf-8")
            again = [s for s in shared if re.search(rf"\b(const|let|function) {re.escape(s)}[\s(=]", text)]
            assert not again, name


def test_no_script_is_inside_a_python_string():
    """One line that gradio wants as a string is none."""
    inside = []
    for file in Path(dspark_core.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value.strip()
                if "\n" in text and re.search(r"=> *[{(]|\bdocument\.\w+\(|addEventListener|querySelector", text):
                    inside.append(f"{file.name}:{node.lineno}")
    assert not inside
