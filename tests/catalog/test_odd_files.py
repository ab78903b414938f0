"""Model directories as disks, other users and other programs leave them: what is odd is one sentence about the right
file, hides nothing beside it, and is never waited for."""

import json
import os
import socket
from pathlib import Path

import pytest

from dspark_core.catalog import checksums, local
from dspark_core.catalog.facts import INDEX, OTHER, Facts, sort_of, stored
from dspark_core.catalog.hub import Hub
from dspark_core.catalog.names import HubName
from dspark_core.models.checkpoint import load_drafter
from dspark_core.models.target import load_target
from dspark_core.playground.selection import listing

from ..models.build import GOLDEN, copy, edit_config, refusal, talking_target
from ..scripts.damage_models import header_change, run
from .hub_server import sha256


def a_socket(path):
    server = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's name may have 100 letters
    try:
        server.bind(path.name)
    finally:
        os.chdir(here)
        server.close()


SPECIAL = {
    "a pipe": (os.mkfifo, "is a pipe, not a file"),
    "a socket": (a_socket, "is a socket, not a file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "is a device, not a file"),
    "a directory": (lambda path: path.mkdir(), "is a directory, not a file"),
    "a link to nothing": (lambda path: path.symlink_to("/nowhere/at/all"), "is a link to a file that is not there"),
    "a link to itself": (lambda path: path.symlink_to(path), "cannot be read"),
}
if Path("/proc/self/status").exists():  # the log of the kernel beside it is regular, and reading it never ends
    SPECIAL["a report"] = (lambda path: path.symlink_to("/proc/self/status"), "is a report of the system, not a file")
OPENED = ["config.json", "model.safetensors", INDEX, "generation_config.json", "tokenizer.json"]
OPENED += ["tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "processor_config.json"]


@pytest.mark.parametrize("special", SPECIAL)
def test_only_regular_files_are_opened(tmp_path, special):
    make, words = SPECIAL[special]
    directory = copy("target", "A", tmp_path)
    for name in OPENED:
        path, aside = directory / name, tmp_path / "aside"
        if path.exists():
            path.rename(aside)
        make(path)
        for reader in (Facts.read, load_target):
            assert f"{path} {words}" in refusal(lambda reader=reader: reader(directory))
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        if aside.exists():
            aside.rename(path)
    assert sort_of(Facts.read(directory)).kind == "target"


def test_special_files_of_a_drafter(tmp_path, golden_a):
    directory = copy("drafter", "A", tmp_path)
    os.mkfifo(directory / "calibration.json")
    said = refusal(lambda: load_drafter(directory, golden_a.target))
    assert f"{directory / 'calibration.json'} is a pipe" in said


@pytest.mark.parametrize("name", OPENED[:1] + OPENED[2:])
def test_a_text_of_10_gb_is_not_read(tmp_path, name):
    directory = copy("target", "A", tmp_path)
    with open(directory / name, "ab") as file:
        file.truncate(10_000_000_000)
    assert f"{directory / name} is larger than" in refusal(lambda: load_target(directory))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "tokenizer.model"])
def test_what_git_leaves_of_a_large_file(tmp_path, name):
    directory = copy("target", "A", tmp_path)
    (directory / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    for reader in (Facts.read, load_target):
        assert f"{directory / name} is a pointer of Git LFS" in refusal(lambda reader=reader: reader(directory))


def test_other_files_of_a_directory_may_be_anything(tmp_path):
    directory = copy("target", "A", tmp_path)
    (directory / "README.txt").symlink_to("/nowhere/at/all")
    (directory / "original.model").mkdir()
    os.mkfifo(directory / "notes")
    assert load_target(directory).num_layers == 4


# ---- one bad entry hides no good one ---------------------------------------------------------------------


def bad_header(text):
    return lambda d: header_change(lambda header: header.replace('"F32"', text, 1))(d / "model.safetensors")


def offset_out_of_range(directory):
    header_change(lambda h: h.replace('"data_offsets":[0,', '"data_offsets":[1e999,', 1))(
        directory / "model.safetensors"
    )


def deep_header(directory):
    (directory / "model.safetensors").write_bytes((200_000).to_bytes(8, "little") + b"[" * 200_000)


ODD = {
    "a list as model_type": (lambda d: edit_config(d, model_type=[["x"]]), "model_type [['x']]"),
    "a dict as model_type": (lambda d: edit_config(d, model_type={"a": 1}), "model_type"),
    "a list as dtype": (bad_header('["F32"]'), "model.safetensors has a safetensors header that cannot be read"),
    "an offset of 1e999": (offset_out_of_range, "model.safetensors has a safetensors header that cannot be read"),
    "a deep header": (deep_header, "model.safetensors has a safetensors header that is nested too deeply"),
    "a deep config": (lambda d: (d / "config.json").write_text("[" * 100_000), "config.json is not valid JSON"),
    "a list as text_config": (lambda d: edit_config(d, text_config=[1]), "text_config must be an object"),
    "10^5000": (lambda d: (d / "config.json").write_text('{"a": 1%s}' % ("0" * 5000)), "config.json is not valid JSON"),
    "a config that is a directory": (
        lambda d: ((d / "config.json").unlink(), (d / "config.json").mkdir()),
        "config.json is a directory, not a file",
    ),
    "a shard that is missing": (
        lambda d: (d / "model.safetensors").rename(d / "model-00001-of-00002.safetensors"),
        "1 of the 2 files model-*.safetensors are there",
    ),
}


def test_every_bad_directory_is_its_own_line_beside_the_good_one(tmp_path):
    for i, (change, _) in enumerate(ODD.values()):
        change(copy("target", "A", tmp_path / f"odd-{i:02}"))
    good = copy("target", "A", tmp_path / "good")
    no_text = Path(os.fsdecode(b"caf\xe9"))
    os.mkdir(tmp_path / no_text)
    copy("target", "A", tmp_path / no_text).rename(tmp_path / no_text / no_text)
    found = local.find([tmp_path], Path("/none"), Path("/none"))
    assert found[0].path == good and len(found) == 2 + len(ODD)
    said = {f.path.parent.name: f for f in found}
    for i, (_, words) in enumerate(ODD.values()):
        odd = said[f"odd-{i:02}"]
        assert odd.sort.kind == OTHER and words in odd.sort.words and odd.sort.words.endswith("."), odd.sort
    assert "no UTF-8: rename it" in said[str(no_text)].sort.words
    assert len(listing(found)["rows"]) == len(found) and json.dumps(listing(found)).encode("utf-8")
    for row in listing(found)["rows"]:
        " ".join(row).encode("utf-8")


@pytest.mark.parametrize("name", ["two\nlines", "\x1b[31mred", "\u202egnp", "a\u2028b"])
def test_a_name_that_is_no_line_of_its_own_is_said_in_one(tmp_path, name):
    copy("target", "A", tmp_path).rename(tmp_path / name)
    (found,) = local.find([tmp_path], Path("/none"), Path("/none"))
    assert found.sort.words.endswith("has signs that end or turn a line in its name: rename it.")
    assert all(text.isprintable() for text in listing([found])["rows"][0])


def test_links_to_models_on_another_disk_are_followed_and_loops_are_not(tmp_path):
    root, owner = tmp_path / "models", tmp_path / "disk" / "owner"
    owner.mkdir(parents=True)
    place = copy("target", "A", owner)
    root.mkdir()
    for name, to in {"linked": place, "owner": owner, "loop": root, "self": root / "self", "gone": "/nowhere"}.items():
        (root / name).symlink_to(to)
    nowhere = tmp_path / "nowhere"
    listed = local.find([root], nowhere, nowhere)
    assert [(found.sort.kind, os.path.realpath(found.path)) for found in listed] == [("target", str(place.resolve()))]
    assert [found.name for found in local.find([], nowhere, root)] == ["models/linked"]


def test_a_bits_field_of_any_type_is_listed(tmp_path):
    directory = copy("target", "A", tmp_path)
    for odd in ([], {"bits": [8]}, {"bits": 10**400}, "8", 8):
        edit_config(directory, quantization=odd)
        facts = Facts.read(directory)
        assert sort_of(facts).words and stored(facts)


# ---- of other users --------------------------------------------------------------------------------------


@pytest.fixture
def nobody(tmp_path, monkeypatch):
    """Called, this test goes on as a user who owns nothing here and may write nothing down."""
    monkeypatch.setattr("dspark_core.store.cache_directory", lambda: tmp_path / "store")
    local.find([GOLDEN], Path("/none"), Path("/none"))  # whatever that imports is imported
    was = os.geteuid()
    yield lambda: os.seteuid(65534 if was == 0 else was)
    os.seteuid(was)


@pytest.fixture
def shared_cache(tmp_path):
    """A cache of another user's, of which everything may be read and nothing written, refs not even read."""
    home = tmp_path / "hf"
    for repo, source in (("org/target", talking_target(tmp_path)), ("org/drafter", GOLDEN / "A" / "drafter")):
        folder = home / "hub" / f"models--{repo.replace('/', '--')}"
        snapshot = folder / "snapshots" / ("0123456789" * 4)
        snapshot.mkdir(parents=True)
        (folder / "blobs").mkdir()
        for file in source.iterdir():
            data = file.read_bytes()
            (folder / "blobs" / sha256(data)).write_bytes(data)
            (snapshot / file.name).symlink_to(f"../../blobs/{sha256(data)}")
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("0123456789" * 4)
    return home


def open_to_all(path: Path) -> None:
    for above in path.parents:
        if above.is_relative_to("/tmp") and above != Path("/tmp"):
            above.chmod(0o755)
    for inside in (path, *path.rglob("*")):
        if not inside.is_symlink():
            inside.chmod(0o555 if inside.is_dir() else 0o444)


def test_a_cache_that_may_only_be_read_loads(shared_cache, nobody, tmp_path):
    (tmp_path / "store").mkdir()
    open_to_all(tmp_path)
    folder = shared_cache / "hub" / "models--org--target"
    (folder / "refs" / "main").chmod(0)
    snapshot = folder / "snapshots" / ("0123456789" * 4)
    hub = Hub(cache=shared_cache / "hub", lm_studio=Path("/none"))
    nobody()
    found = {f.name: f for f in local.find(cache=hub.cache, lm_studio=Path("/none"))}
    assert (found["org/target"].sort.kind, found["org/drafter"].sort.kind) == ("target", "drafter"), found
    assert hub.find(HubName("org/target")) == (snapshot, "")
    assert checksums.verify(snapshot) == checksums.verify(snapshot) == len([*snapshot.iterdir()]), "noted nowhere"
    assert load_target(snapshot).text is not None


@pytest.mark.skipif(os.getuid() != 0, reason="needs files of another user")
def test_a_repository_that_may_not_be_read_is_a_line(shared_cache, nobody, tmp_path):
    open_to_all(tmp_path)
    folder = shared_cache / "hub" / "models--org--target"
    folder.chmod(0)
    hub = Hub(cache=shared_cache / "hub", lm_studio=Path("/none"))
    nobody()
    words = f"{folder} cannot be read (Permission denied)."
    found = {f.name: f.sort for f in local.find(cache=hub.cache, lm_studio=Path("/none"))}
    assert found["org/drafter"].kind == "drafter" and found["org/target"].words.replace("/snapshots", "") == words
    assert hub.find(HubName("org/target"))[0] is None and hub.find(HubName("org/target"))[1] == words


@pytest.mark.skipif(os.getuid() != 0, reason="needs files of another user")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_file_that_may_not_be_read(nobody, tmp_path, name):
    directory = talking_target(tmp_path)
    open_to_all(tmp_path)
    (directory / name).chmod(0)
    nobody()
    (found,) = local.find([tmp_path], Path("/none"), Path("/none"))
    assert found.sort.words == f"{directory / name} cannot be read (Permission denied)."
    assert str(directory / name) in refusal(lambda: load_target(directory))


# ---- every way of damage ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["target", "drafter"])
def test_a_damaged_file_is_the_one_that_is_blamed(kind):
    """A few of the damages that tests/scripts/damage_models.py goes through."""
    for file, name, said, fault, _ in run(kind, every=401 if kind == "target" else 251, offset=11):
        assert not fault, f"{file}, {name}: {fault}: {said}"


@pytest.mark.parametrize("kind", ["target", "drafter"])
def test_the_models_tab_says_something_of_every_damage(kind):
    only = r"^config\.json (head_dim|layer_types|num_key_value_heads) = (dict|list|huge|infinity|text)"
    for file, name, said, fault, _ in run(kind, only=only, load=False):
        assert not fault, f"{file}, {name}: {fault}: {said}"
