"""Records from JSON values: as strict as the file format says, and refused with the place."""

import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dspark_core.race.schema import Misfit, Schema, encode
from dspark_core.race.trace import dumps, loads

RACES = sorted(Path(__file__).parents[1].joinpath("fixtures", "races").glob("*.json"))


@dataclass(frozen=True, slots=True)
class Leaf:
    count: int
    share: float = 0.5
    pair: tuple[str, int] = ("a", 1)

    def __post_init__(self):
        if self.count < 0:
            raise ValueError("count must be 0 or more.")


@dataclass(slots=True)
class Tree:
    name: str
    leaves: tuple[Leaf, ...] = ()
    ids: frozenset[int] | None = None
    on: bool = False
    notes: dict[str, str] = field(default_factory=dict)
    rows: list[float] = field(default_factory=list)
    hidden: object = field(default=None, metadata={"saved": False})


TREE = Schema(Tree)


def test_what_is_encoded_is_decoded():
    tree = Tree("t", (Leaf(1), Leaf(2, 1.0, ("b", 2))), frozenset({3, 1, 2}), True, {"k": "v"}, [1.5], hidden=object())
    value = encode(tree)
    assert value == {
        "name": "t",
        "leaves": [{"count": 1}, {"count": 2, "share": 1.0, "pair": ["b", 2]}],
        "ids": [1, 2, 3],
        "on": True,
        "notes": {"k": "v"},
        "rows": [1.5],
    }
    assert list(value) == ["name", "leaves", "ids", "on", "notes", "rows"]
    again = TREE.decode(value)
    assert encode(again) == value and again.hidden is None
    assert isinstance(again.leaves, tuple) and isinstance(again.leaves[1].pair, tuple)
    whole = TREE.decode({"name": "t", "rows": [3]}).rows[0]
    assert type(whole) is float and encode(Tree("t")) == {"name": "t"}


REFUSED = [
    ([], "", "must be an object, not a list"),
    (None, "", "must be an object, not null"),
    ({}, "name", "is missing"),
    ({"name": 5}, "name", "must be text, not 5"),
    ({"name": "x" * 100_001}, "name", "has 100,001 characters; at most 100,000 are taken"),
    ({"name": "\ud800"}, "name", "is not valid Unicode text"),
    ({"name": "t", "hidden": None}, "hidden", "is not a field that is known here"),
    ({"name": "t", "x" * 60: 1}, "x" * 40 + "…", "is not a field that is known here"),
    ({"name": "t", "on": 1}, "on", "must be true or false, not 1"),
    ({"name": "t", "on": "true"}, "on", "must be true or false, not the text 'true'"),
    ({"name": "t", "leaves": {}}, "leaves", "must be a list, not an object"),
    ({"name": "t", "leaves": "ab"}, "leaves", "must be a list, not the text 'ab'"),
    ({"name": "t", "leaves": [{"count": True}]}, "leaves[0].count", "must be a whole number, not true"),
    ({"name": "t", "leaves": [{"count": 1.0}]}, "leaves[0].count", "must be a whole number, not 1.0"),
    ({"name": "t", "leaves": [{"count": "1"}]}, "leaves[0].count", "must be a whole number, not the text '1'"),
    ({"name": "t", "leaves": [{"count": 2**53 + 1}]}, "leaves[0].count", f"must be a whole number, not {2**53 + 1}"),
    (
        {"name": "t", "leaves": [{"count": -(10**40)}]},
        "leaves[0].count",
        "must be a whole number, not so large a number",
    ),
    ({"name": "t", "leaves": [{"count": -1}]}, "leaves[0]", "cannot be: count must be 0 or more"),
    ({"name": "t", "leaves": [{"count": 1}, {"share": 1}]}, "leaves[1].count", "is missing"),
    ({"name": "t", "leaves": [{"count": 1, "share": False}]}, "leaves[0].share", "must be a finite number, not false"),
    ({"name": "t", "rows": [1, float("nan")]}, "rows[1]", "must be a finite number, not a number that is not finite"),
    ({"name": "t", "rows": [float("-inf")]}, "rows[0]", "must be a finite number, not a number that is not finite"),
    ({"name": "t", "rows": [1e301]}, "rows[0]", "must be a finite number, not so large a number"),
    ({"name": "t", "rows": [10**400]}, "rows[0]", "must be a finite number, not so large a number"),
    ({"name": "t", "rows": ["1"]}, "rows[0]", "must be a finite number, not the text '1'"),
    ({"name": "t", "leaves": [{"count": 1, "pair": []}]}, "leaves[0].pair", "must be a list of 2"),
    ({"name": "t", "leaves": [{"count": 1, "pair": ["a", 1, 1]}]}, "leaves[0].pair", "must be a list of 2"),
    (
        {"name": "t", "leaves": [{"count": 1, "pair": ["a", "b"]}]},
        "leaves[0].pair[1]",
        "must be a whole number, not the",
    ),
    ({"name": "t", "ids": ["x"]}, "ids[0]", "must be a whole number, not the text 'x'"),
    ({"name": "t", "ids": {"1": 1}}, "ids", "must be a list, not an object"),
    ({"name": "t", "notes": {"k": 1}}, "notes.k", "must be text, not 1"),
    ({"name": "t", "notes": {"\ud800": "v"}}, "notes.\ufffd\ufffd\ufffd", "is not valid Unicode text"),
    ({"name": "t", "notes": []}, "notes", "must be an object, not a list"),
]


@pytest.mark.parametrize(("value", "place", "words"), REFUSED, ids=[f"{p}-{w[:30]}" for _, p, w in REFUSED])
def test_what_does_not_fit_is_refused_with_its_place(value, place, words):
    with pytest.raises(Misfit) as refusal:
        TREE.decode(value)
    assert refusal.value.place == place and refusal.value.words.startswith(words)


@pytest.mark.parametrize(
    "value",
    [
        {"name": "t", "rows": ["x"] * 1_000_000},
        {"name": "t", "leaves": [{}] * 1_000_000},
        {"name": "t", "notes": {str(k): k for k in range(500_000)}},
        {"name": "t", **{str(k): k for k in range(500_000)}},
        {"name": "t", "leaves": [{"count": 1, "pair": [[]] * 500_000}]},
    ],
    ids=["numbers", "records", "notes", "fields", "pair"],
)
def test_a_million_misfits_take_no_longer_than_one(value):
    began = time.process_time()
    with pytest.raises(Misfit):
        TREE.decode(value)
    assert time.process_time() - began < 1


@pytest.mark.parametrize("path", RACES, ids=[path.stem for path in RACES])
def test_races_that_an_older_version_saved_are_written_byte_for_byte(path):
    assert dumps(loads(path.read_bytes())).encode() == path.read_bytes()


def test_there_are_races_of_an_older_version():
    assert len(RACES) >= 5


def test_decoding_needs_no_pydantic():
    code = "import sys, dspark_core.decode.rounds, dspark_core.race.records; sys.exit('pydantic' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300, cwd=Path(__file__).parents[2])
