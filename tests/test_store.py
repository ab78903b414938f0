"""What is on disk between two runs lies in one directory; whatever a file holds, reading it gives a value or none."""

import json
import threading
from pathlib import Path

import pytest

from dspark_core import store
from dspark_core.store import Store, cache_directory


@pytest.mark.parametrize(
    ("system", "chosen", "where"),
    [
        ("Darwin", "", "home/Library/Caches"),
        ("Darwin", "chosen", "home/Library/Caches"),
        ("Linux", "", "home/.cache"),
        ("Linux", "chosen", "chosen"),
        ("Linux", "./relative", "home/.cache"),
    ],
)
def test_the_directory_is_that_of_the_platform(system, chosen, where, tmp_path, monkeypatch):
    monkeypatch.setattr(store.platform, "system", lambda: system)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / chosen) if chosen == "chosen" else chosen)
    assert cache_directory() == Store().directory == tmp_path / where / "dspark-playground"


def test_values_are_found_by_kind_and_key(tmp_path):
    here = Store(tmp_path)
    keys = [{"a": "1", "b": "2"}, {"a": "1", "b": "3"}, {"a": "1"}, {}]
    for number, key in enumerate(keys):
        assert here.load("x", key) is None
        here.save("x", key, [number])
    here.save("x", None, "the only one")
    here.save("y", keys[0], "of another kind")
    assert [here.load("x", key) for key in keys] == [[0], [1], [2], [3]]
    assert here.load("x", {"b": "2", "a": "1"}) == [0], "the order of a key's parts is none"
    assert here.load("x") == "the only one" and here.load("y", keys[0]) == "of another kind"
    assert all(f.is_relative_to(tmp_path) for f in (here.file("x"), here.file("x", {"a": "../../b"})))


@pytest.mark.parametrize(
    "data", [b"", b"{", b"NaN", b"\xff", b'{"a": 1, "a": 2}', b"[" * 100_000, b" " * 2_000_000 + b"1"], ids=range(7)
)
def test_what_cannot_be_read_is_none(data, tmp_path):
    here = Store(tmp_path)
    here.save("x", {}, 1).write_bytes(data)
    assert here.load("x", {}) is None
    here.save("x", {}, 2)
    assert here.load("x", {}) == 2 and len([*tmp_path.rglob("*.*")]) == 1


def test_no_reader_finds_half_a_file(tmp_path):
    """Two threads write one value over the other's while it is read: what is read is whole, and one of the two."""
    here, values = Store(tmp_path), [["a"] * 20_000, ["b"] * 20_000]
    file: Path = here.save("x", None, values[0])
    writers = [threading.Thread(target=lambda v=v: [here.save("x", None, v) for _ in range(20)]) for v in values]
    for writer in writers:
        writer.start()
    while any(w.is_alive() for w in writers):
        assert json.loads(file.read_text()) in values
    assert [*tmp_path.iterdir()] == [file]
