"""What is on this machine is whole, or is said not to be, and Download makes it whole: damaged snapshots, disks without
links, caches in which something cannot be written."""

import errno
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from dspark_core.catalog import checksums
from dspark_core.catalog.download import Downloads
from dspark_core.catalog.facts import INDEX
from dspark_core.catalog.hub import Hub
from dspark_core.catalog.names import HubName
from dspark_core.errors import ModelError
from dspark_core.models.target import load_target
from dspark_core.playground.selection import OWN_MODELS, ModelForm, ModelSources
from dspark_core.playground.tabs.models_tab import ModelsTab
from dspark_core.playground.widgets import Call

from ..models.build import GOLDEN, talking_target
from .hub_server import SMALL, FakeHub, Repo, git_sha, serving, sha256

TARGET, DRAFTER = HubName("org/target"), HubName("org/drafter")
ALL_HERE = "All of it is on this machine."


@pytest.fixture(scope="module")
def target_files(tmp_path_factory) -> dict[str, bytes]:
    """A target with all that loading reads: two shards and their index, a tokenizer, templates."""
    import mlx.core as mx

    directory = talking_target(tmp_path_factory.mktemp("target"))
    weights = mx.load(str(directory / "model.safetensors"))
    (directory / "model.safetensors").unlink()
    where = {}
    for i, names in enumerate((sorted(weights)[::2], sorted(weights)[1::2]), 1):
        shard = f"model-0000{i}-of-00002.safetensors"
        mx.save_safetensors(str(directory / shard), {n: weights[n] for n in names})
        where |= dict.fromkeys(names, shard)
    (directory / INDEX).write_text(json.dumps({"weight_map": where}))
    (directory / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    (directory / "added_tokens.json").write_text("{}")
    return {f.name: f.read_bytes() for f in directory.iterdir()}


@pytest.fixture
def fake(target_files, monkeypatch, tmp_path):
    monkeypatch.setattr("dspark_core.store.cache_directory", lambda: tmp_path / "store")
    monkeypatch.setattr("dspark_core.catalog.hub.BACKOFF_S", 0.01)
    fake = FakeHub()
    template = {"additional_chat_templates/tool_use.jinja": b"{{ messages }}"}
    drafter = {f.name: f.read_bytes() for f in (GOLDEN / "A" / "drafter").iterdir()}
    drafter["calibration.json"] = json.dumps({"temperatures": [1.5] * 7}).encode()
    fake.repos = {TARGET.repo: Repo(dict(target_files) | template), DRAFTER.repo: Repo(drafter)}
    return fake


@pytest.fixture
def sources(fake, tmp_path):
    with serving(fake) as endpoint:
        yield ModelSources([], (), Hub(endpoint, tmp_path / "cache", False, lm_studio=tmp_path / "lm"))


class Page:
    """The Models tab with the two models typed in."""

    def __init__(self, sources: ModelSources):
        self.sources = sources
        form = ModelForm(OWN_MODELS, own_target=TARGET.repo, own_drafters=[DRAFTER.repo])
        self.tab = ModelsTab(type("Worker", (), {"engine": None, "ready": False})(), sources)
        self.call = Call("a page", {f.name: getattr(form, f.name) for f in fields(ModelForm)})

    def says(self) -> str:
        told = json.loads(self.tab.local_report(self.call)["report"])
        return "\n".join(line["words"] for line in told["lines"])

    def downloads(self) -> str:
        return json.dumps(list(self.tab.download(self.call))[-1]["verdict"])

    @property
    def target(self) -> Path:
        (snapshot,) = (self.sources.hub.folder(TARGET.repo) / "snapshots").iterdir()
        return snapshot


@pytest.fixture
def page(sources) -> Page:
    page = Page(sources)
    assert "Press Load" in page.downloads()
    assert ALL_HERE in page.says()
    return page


def change_blob(change: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda file: change(file.resolve())


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


DAMAGES = {
    "the link is gone": lambda file: file.unlink(),
    "its content is gone": change_blob(lambda blob: blob.unlink()),
    "cut": change_blob(cut),
    "empty": change_blob(lambda blob: blob.write_bytes(b"")),
    "one bit": change_blob(flip),
    "a file in the place of the link": lambda file: (file.unlink(), file.write_bytes(b"{ }")),
    "a directory": lambda file: (file.unlink(), file.mkdir()),
    "a pipe": lambda file: (file.unlink(), os.mkfifo(file)),
    "a link elsewhere": lambda file: (file.unlink(), file.symlink_to("../../blobs/none")),
}


@pytest.mark.parametrize("damage", [*DAMAGES][::2])
def test_download_repairs_every_file_that_loading_needs(page, fake, damage):
    files = fake.repos[TARGET.repo].files
    start = [*DAMAGES].index(damage)
    for name in sorted(files)[start % 5 :: 5]:
        DAMAGES[damage](page.target / name)
        assert ALL_HERE not in page.says(), f"{name}: {damage}"
        assert "Press Load" in page.downloads(), f"{name}: {damage}"
        assert (page.target / name).read_bytes() == files[name]
        assert ALL_HERE in page.says()


def test_download_repairs_all_at_once(page, fake):
    files = fake.repos[TARGET.repo].files
    for i, name in enumerate(sorted(files)):
        [*DAMAGES.values()][i % len(DAMAGES)](page.target / name)
    assert "Press Load" in page.downloads() and ALL_HERE in page.says()
    assert {name: (page.target / name).read_bytes() for name in files} == files
    assert load_target(page.target).text is not None


def test_what_loading_refuses_download_does_not_call_whole(page):
    """The checksums that loading looks at are those by which Download decides, and it asks for what is wrong alone."""
    shard = "model-00002-of-00002.safetensors"
    flip((page.target / shard).resolve())
    with pytest.raises(ModelError, match=f"{shard} does not have the checksum that the hub gives for it"):
        checksums.verify(page.target)
    before = page.sources.hub
    assert "Press Load" in page.downloads() and checksums.verify(page.target) == 0
    assert page.sources.hub is before and "All of it is here already" in page.downloads()


def test_what_another_program_left_is_compared(sources, fake, tmp_path):
    """huggingface_hub's own downloads, of which it is not known what the hub has beside them."""
    for name in (TARGET, DRAFTER):
        repo, folder = fake.repos[name.repo], sources.hub.folder(name.repo)
        snapshot = folder / "snapshots" / repo.commit
        for part in (snapshot, folder / "blobs", folder / "refs"):
            part.mkdir(parents=True)
        (folder / "refs" / "main").write_text(repo.commit)
        for file, data in repo.files.items():
            if not file.startswith("generation") and not file.endswith(".jinja"):
                blob = folder / "blobs" / (git_sha(data) if file.endswith(SMALL) else sha256(data))
                blob.write_bytes(data)
                (snapshot / file).symlink_to(f"../../blobs/{blob.name}")
    page = Page(sources)
    assert ALL_HERE not in page.says() and "All that loading needs is on this machine; the checksums of" in page.says()
    for directory in (page.target, sources.hub.local(DRAFTER)):
        checksums.verify(directory)
    assert ALL_HERE not in page.says() and "“Download” compares it with the hub" in page.says()
    sent = fake.sent
    assert "Press Load" in page.downloads() and ALL_HERE in page.says()
    assert fake.sent - sent < 5000, "what was here stays"
    for gone in ("tokenizer.json", "model-00001-of-00002.safetensors", INDEX):
        (page.target / gone).unlink()
    (page.target / INDEX).write_text("{}")
    assert ALL_HERE not in page.says() and "Press Load" in page.downloads() and ALL_HERE in page.says()


def test_without_the_hub_nothing_is_promised(page, fake):
    fake.repos.clear()
    assert "All of it is here already" not in (words := page.downloads())
    assert "org/target is here, but was not compared with the hub" in words


def test_a_copy_elsewhere_is_compared_too(sources, fake, tmp_path):
    """LM Studio's folder, taken as it is until Download is pressed."""
    for name in (TARGET, DRAFTER):
        for file, data in fake.repos[name.repo].files.items():
            (tmp_path / "lm" / name.repo / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "lm" / name.repo / file).write_bytes(data)
    page = Page(sources)
    assert ALL_HERE in page.says() and "All of it is here already" in page.downloads()
    flip(tmp_path / "lm" / TARGET.repo / "model-00001-of-00002.safetensors")
    assert "Press Load" in page.downloads()
    assert sources.hub.local(TARGET) == page.target and sources.hub.local(DRAFTER) == tmp_path / "lm" / DRAFTER.repo
    (tmp_path / "lm" / DRAFTER.repo / "model.safetensors").unlink()
    assert "Not all of it is on this machine" in page.says() and "Press Load" in page.downloads()


# ---- disks -----------------------------------------------------------------------------------------------


LINKLESS = [errno.EPERM, errno.ENOSYS]


@pytest.fixture
def linkless(monkeypatch):
    def refuse(*_args, **_more):
        raise OSError(refuse.errno, os.strerror(refuse.errno))

    refuse.errno = errno.EPERM
    monkeypatch.setattr(os, "symlink", refuse)
    return refuse


@pytest.mark.parametrize("number", LINKLESS, ids=errno.errorcode.get)
def test_a_disk_without_links_gets_the_files_themselves(sources, fake, linkless, number):
    linkless.errno = number
    page = Page(sources)
    assert "Press Load" in page.downloads() and ALL_HERE in page.says()
    files = fake.repos[TARGET.repo].files
    assert {f.relative_to(page.target).as_posix() for f in page.target.rglob("*") if f.is_file()} == files.keys()
    assert not any(f.is_symlink() for f in page.target.rglob("*"))
    blobs = page.target.parents[1] / "blobs"
    assert sum(f.stat().st_size for f in blobs.iterdir()) == 0, "nothing is there twice"
    assert load_target(page.target).text is not None and checksums.verify(page.target) == 0
    sent = fake.sent
    assert "All of it is here already" in page.downloads() and fake.sent == sent
    flip(page.target / "model-00001-of-00002.safetensors")
    with pytest.raises(ModelError, match="does not have the checksum"):
        checksums.verify(page.target)
    assert "Press Load" in page.downloads() and checksums.verify(page.target) == 0


def test_two_files_of_one_content_on_a_disk_without_links(sources, fake, linkless):
    fake.repos[TARGET.repo].files["special_tokens_map.json"] = fake.repos[TARGET.repo].files["added_tokens.json"]
    page = Page(sources)
    assert "Press Load" in page.downloads() and ALL_HERE in page.says()
    assert "All of it is here already" in page.downloads()


def test_a_record_that_cannot_be_written_costs_a_check(sources, fake, tmp_path):
    (tmp_path / "store").write_text("a file in its place")
    page = Page(sources)
    assert "Press Load" in page.downloads()
    assert "All of it is on this machine; the checksums of" in page.says()
    assert checksums.verify(page.target) == checksums.verify(page.target) > 0
    assert "All of it is here already" in page.downloads()


@pytest.fixture
def nobody(tmp_path):
    """Called with places that anybody may write to, this test goes on as a user who owns nothing here."""

    def become(*open_places: Path) -> None:
        for above in tmp_path.parents[:-2]:
            above.chmod(0o755)
        for path in (tmp_path, *open_places):
            path.chmod(0o777)
        os.seteuid(65534)

    was = os.geteuid()
    yield become
    os.seteuid(was)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs files of another user")
def test_refs_that_cannot_be_written(sources, fake, nobody):
    """A cache whose refs are another user's: what came is found without them."""
    hub = sources.hub
    refs = hub.folder(TARGET.repo) / "refs"
    refs.mkdir(parents=True)
    plan = hub.plan(TARGET)
    nobody(hub.cache, refs.parent)
    download = Downloads(hub).start(plan)
    assert download.wait(20) and download.state == "done", download.words
    assert hub.local(TARGET) == download.directory and not [*refs.iterdir()]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs files of another user")
def test_download_in_a_cache_that_may_only_be_read(page, fake, nobody):
    """What is whole there is here; what is not cannot be put right, and where to is said."""
    for place in (page.sources.hub.cache, *page.sources.hub.cache.rglob("*")):
        if not place.is_symlink():
            place.chmod(0o755 if place.is_dir() else 0o644)
    flip((page.target / "model-00002-of-00002.safetensors").resolve())
    nobody()
    words = page.downloads()
    assert "cannot be written (Permission denied): choose a cache of your own by HF_HUB_CACHE." in words
    os.seteuid(0)
    assert "Press Load" in page.downloads()
    os.seteuid(65534)
    assert "All of it is here already" in page.downloads()


def test_what_a_killed_program_left_is_swept_up(page, tmp_path):
    """Half-made links in a snapshot, and half-written values in the store."""
    (page.target / "config.json").unlink()
    (page.target / "config.json.999.new").write_bytes(b"")
    store = tmp_path / "store"
    old, new = store / "checksums.1.2.part", store / "checksums.3.4.part"
    for part in (old, new):
        part.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    assert "Press Load" in page.downloads()
    flip((page.target / "config.json").resolve())
    page.downloads()
    assert not [*page.target.glob("*.new")] and not old.exists() and new.exists(), "another program may be writing"


# ---- Cancel ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("button", ["look_up", "download"])
def test_cancel_ends_a_question_to_the_hub(sources, fake, button):
    asked, over = threading.Event(), threading.Event()
    fake.instead["api"] = lambda handler: (asked.set(), over.wait(60))
    page, last = Page(sources), []
    thread = threading.Thread(target=lambda: last.extend(getattr(page.tab, button)(page.call)), daemon=True)
    thread.start()
    assert asked.wait(30)
    assert "No download is running" in page.tab.stop_downloads(Call("another page"))["verdict"]
    assert page.tab.stop_downloads(page.call) == {}
    thread.join(20)
    assert not thread.is_alive() and "Stopped." in last[-1]["verdict"]
    over.set()
