"""The record of checked files: whatever is in it, a file is checked anew rather than believed or crashed on."""

import hashlib
import json
import os

import pytest

from dspark_core.catalog.checksums import CheckedFiles, verify


@pytest.fixture
def snapshot(tmp_path):
    """A snapshot with one file as the hub's cache lays it, that file's digest, and a record of it."""
    data = b"weights"
    digest = hashlib.sha256(data).hexdigest()
    blob = tmp_path / "blobs" / digest
    blob.parent.mkdir()
    blob.write_bytes(data)
    directory = tmp_path / "snapshots" / "one"
    directory.mkdir(parents=True)
    (directory / "model.safetensors").symlink_to(blob)
    record = tmp_path / "record" / "verified.json"
    assert verify(directory, record=record) == 1 and verify(directory, record=record) == 0
    return directory, digest, record


def test_a_damaged_record_means_checked_anew(snapshot):
    directory, digest, record = snapshot
    whole = json.loads(record.read_text())
    ((path, (_, size, time)),) = whole.items()
    entries = [None, 5, "x", {}, [], [digest], [digest, size], [digest, size, time, 1], [digest, str(size), time]]
    entries += [[digest, True, time], [digest, float("nan"), time], [digest, 10**400, time], [[digest], size, time]]
    texts = [json.dumps({path: entry}) for entry in entries]
    texts += ["", "null", "[1]", "{", json.dumps(whole)[:-3], json.dumps(whole) + "x", "[" * 100_000]
    texts += ['{"a":' * 50_000 + "1" + "}" * 50_000, json.dumps(whole) + " " * 21_000_000]
    texts.append(json.dumps(whole)[:-1] + ", " + json.dumps(whole)[1:])  # one path twice
    for data in [*(t.encode() for t in texts), b"\xff\xfe", record.read_bytes().decode().encode("utf-16")]:
        record.write_bytes(data)
        assert (directory / "model.safetensors", digest) not in CheckedFiles(record), data[:80]
        assert verify(directory, record=record) == 1, data[:80]
        assert verify(directory, record=record) == 0, "it was put right"


def test_what_is_no_file_is_no_record(snapshot):
    directory, _, record = snapshot
    for make in (record.mkdir, lambda: os.mkfifo(record), lambda: record.symlink_to(record)):
        record.rmdir() if record.is_dir() else record.unlink()
        make()
        assert verify(directory, record=record) == 1 and verify(directory, record=record) == 0
    record.unlink()
    (record / "full").mkdir(parents=True)
    assert verify(directory, record=record) == 1 == verify(directory, record=record), "it cannot be remembered"


def test_other_entries_stay(snapshot, tmp_path):
    directory, digest, record = snapshot
    other = tmp_path / "other"
    other.write_text("x")
    record.write_text(json.dumps(json.loads(record.read_text()) | {"broken": [1]}))
    checked = CheckedFiles(record)
    checked.add(other, "0" * 64)
    assert (other, "0" * 64) in checked and (directory / "model.safetensors", digest) in checked
    assert "broken" not in json.loads(record.read_text())
