"""The order of the rooms: who may import whom, read from the source, so that nothing need be installed or run."""

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.scripts import structure

ROOT = Path(__file__).parents[1]
HOUSE = "dspark_core"

# The rooms from the ground up: packages, or single files beside them. A module imports from its own room and from those
# on lower floors; rooms of one floor know nothing of each other.
FLOORS = (
    ("errors", "paths", "chart_style", "offline_page"),
    ("store", "machine"),
    ("models",),  # weights in, logits out
    ("catalog",),  # what models there are; reads their configs and headers
    ("presets",),
    ("decode",),  # logits in, rounds out
    ("race",),  # several decodes in one run
    ("proof",),
    ("bench", "playground", "generate"),
)
ALONE = ("training",)  # imports nothing of the rest, and the rest nothing of it
ONLY = {"gradio": "playground", "torch": "training"}  # a library that a single room imports
# Nor anything that imports it: any thread may use these rooms and modules.
WITHOUT_MLX = (
    *("errors", "paths", "store", "presets", "machine", "chart_style", "offline_page", "catalog", "playground"),
    "generate",
    *("models.info", "models.config", "models.fields", "models.headers", "models.quantization", "models.text"),
    *("decode.batch_rows", "decode.cost_curve", "decode.rounds", "decode.schedule"),
    *(
        "race.answer",
        "race.lane_spec",
        "race.records",
        "race.trace",
        "race.metrics",
        "race.forecast",
        "race.what_if",
        "race.many_users",
        "race.inspection",
        "proof.evidence",
    ),
    *("bench.plan", "bench.log", "bench.figures", "bench.report_markdown", "bench.report_html"),
)


@dataclass(frozen=True)
class Import:
    """`module` imports `name`, in full ("dspark_core.race.race"); eager: as it is imported itself."""

    module: str
    name: str
    line: int
    eager: bool

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.name}"


@dataclass(frozen=True)
class House:
    modules: frozenset[str]
    imports: tuple[Import, ...]

    @staticmethod
    def read(root: Path) -> "House":
        files = {module_of(f.relative_to(root)): f for f in sorted((root / HOUSE).rglob("*.py"))}
        found = [i for module, file in files.items() for i in imports_of(module, file, files)]
        return House(frozenset(files), tuple(found))

    def inside(self) -> Iterator[Import]:
        return (i for i in self.imports if i.name in self.modules)

    def wrong_floors(self) -> list[str]:
        """Imports that go up, sideways, or into or out of a room that stands alone."""
        floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
        out = []
        for i in self.inside():
            here, there = room_of(i.module), room_of(i.name)
            if here == there or not here or not there:
                continue
            if here in ALONE or there in ALONE or floor.get(there, 0) >= floor.get(here, len(FLOORS)):
                out.append(str(i))
        return out

    def circle(self) -> list[str]:
        """The modules of one import circle, imports inside functions included; empty if there is none."""
        graph: dict[str, set[str]] = defaultdict(set)
        for i in self.inside():
            graph[i.module].add(i.name)
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as e:
            return e.args[1]
        return []

    def foreign(self, library: str, room: str) -> list[str]:
        """Imports of a library outside its room."""
        return [str(i) for i in self.imports if i.name.split(".")[0] == library and room_of(i.module) != room]

    def reaching(self, library: str, places: tuple[str, ...]) -> dict[str, str]:
        """Modules of `places` (rooms, and modules in them) that bring a library in as they are imported, each with the
        import that does."""
        eager: dict[str, list[Import]] = defaultdict(list)
        for i in self.imports:
            if i.eager:
                eager[i.module].append(i)
        out = {}
        for module in sorted(m for m in self.modules if {room_of(m), m.removeprefix(f"{HOUSE}.")} & {*places}):
            todo, done = [module], set()
            while todo:
                name = todo.pop()
                done.add(name)
                for i in eager[name]:
                    if i.name.split(".")[0] == library:
                        out[module] = str(i)
                packages = {name.rsplit(".", n)[0] for n in range(1, name.count(".") + 1)}  # run before the module is
                todo += ({i.name for i in eager[name]} | packages) & self.modules - done
        return out

    def rooms(self) -> set[str]:
        return {room_of(m) for m in self.modules} - {""}

    def file_names_used_twice(self) -> set[str]:
        names = Counter(m.rsplit(".", 1)[-1] for m in self.modules if m not in packages_of(self.modules))
        return {name for name, n in names.items() if n > 1 and name != "__main__"}


def module_of(file: Path) -> str:
    return ".".join(file.with_suffix("").parts).removesuffix(".__init__")


def packages_of(modules: frozenset[str]) -> set[str]:
    return {m.rsplit(".", 1)[0] for m in modules if "." in m}


def room_of(module: str) -> str:
    """The part of a module's name after the house's; empty for the house itself."""
    return [*module.split("."), ""][1]


def imports_of(module: str, file: Path, modules: Mapping[str, Path]) -> Iterator[Import]:
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]

    def targets(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
            return
        base = [*package[: len(package) - node.level + 1]] if node.level else []
        source = ".".join([*base, *([node.module] if node.module else [])])
        for alias in node.names:  # of a package: a module in it, or else a name in its __init__
            yield f"{source}.{alias.name}" if f"{source}.{alias.name}" in modules else source

    def walk(node: ast.AST, eager: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import | ast.ImportFrom):
                yield from (Import(module, name, child.lineno, eager) for name in dict.fromkeys(targets(child)))
            checking = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from walk(child, eager and not function and not checking)

    yield from walk(ast.parse(file.read_text(encoding="utf-8")), True)


@pytest.fixture(scope="module")
def house() -> House:
    return House.read(ROOT)


def test_every_room_has_its_floor(house):
    assert house.rooms() == {room for rooms in FLOORS for room in rooms} | set(ALONE)
    assert len(list(house.inside())) > 200, "imports are not found any more"


def test_rooms_import_only_downward(house):
    assert not house.wrong_floors()


def test_no_import_goes_in_a_circle(house):
    assert not house.circle()


@pytest.mark.parametrize(("library", "room"), ONLY.items())
def test_a_library_of_one_room_is_imported_nowhere_else(house, library, room):
    assert not house.foreign(library, room)
    assert house.foreign(library, ""), f"{room} does not import {library} any more"


def test_what_any_thread_may_use_imports_no_mlx(house):
    places = {part for m in house.modules for part in (room_of(m), m.removeprefix(f"{HOUSE}."))}
    assert set(WITHOUT_MLX) <= places
    assert not house.reaching("mlx", WITHOUT_MLX)
    assert house.reaching("mlx", ("models", "decode"))


def test_no_two_files_share_a_name(house):
    assert not house.file_names_used_twice()


def test_no_place_knows_a_method_but_its_own_file_and_names_stay_few():
    found = structure.read(ROOT, run_mypy=False)
    assert not found.method_places
    assert len(found.shared_names()) <= 15, found.shared_names()
    assert 1e3 * sum(map(len, found.names.values())) / sum(found.files.values()) <= 38
    assert all(f.lines <= 80 and f.parameters <= 8 for f in found.functions)


def test_the_map_has_every_room_and_shows_the_code_as_it_is(house):
    words = (ROOT / HOUSE / "README.md").read_text("utf-8")
    rooms = words[: words.index("## Words")]
    assert not [room for room in house.rooms() if f"`{room}/`" not in rooms and f"`{room}.py`" not in rooms]
    shown = [block.partition("```")[0] for block in words.split("```python\n")[1:]]
    examples = [f for kind in ("drafters", "targets") for f in (ROOT / HOUSE / "models" / kind).glob("*.py")]
    assert len(shown) == 2 and {*shown} <= {f.read_text("utf-8") for f in examples}
    named = set(re.findall(r"`([\w/]+\.py)`", words))
    files = [f"/{f.relative_to(ROOT)}" for place in (HOUSE, "tests") for f in (ROOT / place).rglob("*.py")]
    assert not [name for name in named if not any(file.endswith(f"/{name}") for file in files)]


@pytest.fixture
def built(tmp_path):
    """A house of the given files, {"race/lane.py": text}."""

    def build(files: dict[str, str]) -> House:
        for name, text in files.items():
            file = tmp_path / HOUSE / name
            file.parent.mkdir(parents=True, exist_ok=True)
            (file.parent / "__init__.py").touch()
            file.write_text(text)
        return House.read(tmp_path)

    return build


@pytest.mark.parametrize(
    ("importer", "text"),
    [
        ("models/a.py", "from ..decode.x import y"),
        ("models/a.py", "def f():\n    from dspark_core.decode import x"),
        ("models/a.py", "import dspark_core.decode.x as x"),
        ("training/a.py", "from ..decode.x import y"),
        ("bench/a.py", "from ..training import x"),
    ],
)
def test_a_wrong_import_is_found(built, importer, text):
    files = {"decode/x.py": "", "training/x.py": "", "race/right.py": "from ..decode import x"}
    assert not built(files).wrong_floors()
    (wrong,) = built(files | {importer: text}).wrong_floors()
    assert wrong.startswith(f"dspark_core.{importer.removesuffix('.py').replace('/', '.')}:")


def test_a_circle_and_what_is_reached_are_found(built):
    files = {"catalog/a.py": "from .b import c", "catalog/b.py": "from ..models import d", "models/d.py": ""}
    house = built(files)
    assert not house.circle() and not house.reaching("mlx", WITHOUT_MLX) and not house.file_names_used_twice()
    assert not built({"models/d.py": "def f():\n    import mlx.core as mx"}).reaching("mlx", WITHOUT_MLX)
    house = built({"models/d.py": "import mlx.core as mx", "catalog/b.py": "from . import a\nfrom ..models.d import e"})
    assert set(house.circle()) == {"dspark_core.catalog.a", "dspark_core.catalog.b"}
    assert set(house.reaching("mlx", WITHOUT_MLX)) == {"dspark_core.catalog.a", "dspark_core.catalog.b"}
    assert built({"race/d.py": "import gradio"}).file_names_used_twice() == {"d"}
    assert house.foreign("mlx", "models") == [] and built({}).foreign("gradio", "playground")


def test_no_test_imports_from_another_test():
    """What two of them need stands in a module of its own, so that neither is changed for the other's sake."""
    for file in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").rpartition(".")[2].startswith("test_"), f"{file}:{node.lineno}"
