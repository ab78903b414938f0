"""The download code against a server that speaks the hub's API. Nothing half-written is ever taken for whole."""

import json
import os
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest
from huggingface_hub import scan_cache_dir, snapshot_download

from dspark_core.catalog import checksums, facts, hub, local
from dspark_core.catalog.download import Downloads
from dspark_core.catalog.hub import Hub
from dspark_core.catalog.names import HubName
from dspark_core.errors import Cancelled, HubError, ModelError

from ..conftest import as_here
from .hub_server import FakeHub, Repo, serving

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
SINGLE, SHARDED, GATED, PRIVATE = (HubName(f"org/{n}") for n in ("single", "sharded", "gated", "private"))
WEIGHTS = "model.safetensors"
NEVER = {"modeling_evil.py": b"raise SystemExit", "pytorch_model.bin": b"pickle", "original/model.safetensors": b"x"}


def single() -> dict[str, bytes]:
    """A whole model of one file: a golden target, with the extra files that real repositories have."""
    files = {f.name: f.read_bytes() for f in (GOLDEN / "A" / "target").iterdir()}
    return files | {"tokenizer_config.json": b'{"chat_template": "x"}', "README.md": b"words"} | NEVER


def sharded() -> dict[str, bytes]:
    """The same weights in two shards with an index."""
    import mlx.core as mx

    files = single()
    weights = mx.load(str(GOLDEN / "A" / "target" / WEIGHTS))
    names = sorted(weights)
    index = {}
    for i, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), 1):
        shard = f"model-0000{i}-of-00002.safetensors"
        path = Path(os.environ["PYTEST_TMP"]) / shard
        mx.save_safetensors(str(path), {n: weights[n] for n in part})
        files[shard] = path.read_bytes()
        index |= dict.fromkeys(part, shard)
    del files[WEIGHTS]
    return files | {facts.INDEX: json.dumps({"metadata": {}, "weight_map": index}).encode()}


@pytest.fixture(scope="module")
def repos(tmp_path_factory):
    os.environ["PYTEST_TMP"] = str(tmp_path_factory.mktemp("shards"))
    return {"single": single(), "sharded": sharded()}


@pytest.fixture
def fake(repos):
    fake = FakeHub()
    fake.repos = {
        SINGLE.repo: Repo(dict(repos["single"])),
        SHARDED.repo: Repo(dict(repos["sharded"])),
        GATED.repo: Repo(dict(repos["single"]), gated="manual", needs="good"),
        PRIVATE.repo: Repo(dict(repos["single"]), private=True, needs="good"),
    }
    return fake


@pytest.fixture
def endpoint(fake):
    with serving(fake) as address:
        yield address


@pytest.fixture
def a_hub(endpoint, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(hub, "BACKOFF_S", 0.01)
    return Hub(
        endpoint, tmp_path / "cache", token=False, record=tmp_path / "verified.json", lm_studio=tmp_path / "none"
    )


def start(a_hub, name=SINGLE):
    return Downloads(a_hub).start(a_hub.plan(name))


def fetch(a_hub, name=SINGLE):
    download = start(a_hub, name)
    assert download.wait(10), download.words
    return download


def one_sentence(words: str) -> str:
    assert words.endswith(".") and "\n" not in words and len(words) < 400, words
    return words


def names_in(directory: Path) -> set[str]:
    return {f.name for f in directory.iterdir()}


# ---- before anything starts ------------------------------------------------------------------------------


def test_a_plan_says_what_would_come_and_nothing_is_written(a_hub, fake, tmp_path):
    plan = a_hub.plan(SHARDED)
    wanted = {"config.json", "generation_config.json", "tokenizer_config.json", facts.INDEX}
    wanted |= {f"model-0000{i}-of-00002.safetensors" for i in (1, 2)}
    assert {f.name for f in plan.files} == wanted
    assert plan.bytes == plan.missing == sum(len(fake.repos[SHARDED.repo].files[n]) for n in wanted)
    assert not (tmp_path / "cache").exists() and fake.sent == 0


@pytest.mark.parametrize("name", [SINGLE, SHARDED], ids=lambda n: n.repo)
def test_facts_before_a_download_are_those_after_it(a_hub, fake, name):
    before = a_hub.facts(a_hub.plan(name))
    assert all(r for r in fake.gets(".safetensors")), "headers are read by range"
    after = a_hub.facts(fetch(a_hub, name).plan)
    assert {n: (t.dtype, t.shape) for n, t in before.tensors.items()} == {
        n: (t.dtype, t.shape) for n, t in after.tensors.items()
    }
    assert before.config == after.config and before.has_template and after.has_template
    assert facts.sort_of(before).words == facts.sort_of(after).words == "Qwen3 target of 4 layers, f32."


# ---- a download ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [SINGLE, SHARDED], ids=lambda n: n.repo)
def test_a_download_is_whole_and_other_programs_find_it(a_hub, fake, name):
    download = fetch(a_hub, name)
    assert (download.state, download.done) == ("done", download.plan.bytes), download.words
    assert names_in(download.directory) == {f.name for f in download.plan.files}
    assert not names_in(download.directory) & {*NEVER, "README.md"}
    for file in download.plan.files:
        assert (download.directory / file.name).read_bytes() == fake.repos[name.repo].files[file.name]
    assert a_hub.local(name) == download.directory
    assert Path(snapshot_download(name.repo, cache_dir=a_hub.cache, local_files_only=True)) == download.directory
    (repo,) = scan_cache_dir(a_hub.cache).repos
    assert repo.repo_id == name.repo and not scan_cache_dir(a_hub.cache).warnings
    (found,) = local.find(cache=a_hub.cache, lm_studio=a_hub.cache)
    assert (found.name, found.sort.kind, found.bytes) == (name.repo, "target", download.plan.bytes)
    assert checksums.verify(download.directory, record=a_hub.record) == 0, "checked while it arrived"
    assert a_hub.plan(name).missing == 0


def test_a_second_download_of_what_is_here_asks_for_no_file(a_hub, fake):
    fetch(a_hub)
    sent = fake.sent
    assert fetch(a_hub).state == "done" and fake.sent == sent + 0


def test_progress_and_speed(a_hub, fake):
    fake.pace = 0.01
    download, began = start(a_hub), time.monotonic()
    seen, speeds = [0], []
    while not download.over:
        seen.append(download.done)
        speeds.append(download.speed)
        time.sleep(0.01)
    assert download.state == "done" and seen == sorted(seen) and len(set(seen)) > 5
    assert 0.5 * download.done / (time.monotonic() - began) < max(speeds) < 70 / 0.01 * 100_000


def test_a_model_in_lm_studios_folder_need_not_be_downloaded(a_hub, repos, tmp_path):
    a_hub.lm_studio = tmp_path / "lm"
    directory = a_hub.lm_studio / SINGLE.repo
    directory.mkdir(parents=True)
    for file in ("config.json", WEIGHTS):
        assert a_hub.local(SINGLE) is None
        (directory / file).write_bytes(repos["single"][file])
    assert a_hub.local(SINGLE) == directory
    assert a_hub.local(HubName(SINGLE.repo, "v1")) is None


# ---- broken connections, cancel, resume ------------------------------------------------------------------


def test_a_connection_that_drops_goes_on_from_there(a_hub, fake):
    fake.fail(WEIGHTS, drop_after=200_000, times=2)
    download = fetch(a_hub)
    assert download.state == "done", download.words
    ranges = fake.gets(f"cdn/{SINGLE.repo}/{WEIGHTS}")
    starts = [int(r.removeprefix("bytes=").rstrip("-") or 0) for r in ranges]
    assert len(starts) == 3 and starts[0] == 0 and 0 < starts[1] < starts[2]
    assert fake.sent < download.plan.bytes + 2 * 65536


def test_a_connection_that_keeps_breaking_is_given_up_and_its_bytes_are_kept(a_hub, fake):
    fake.fail(WEIGHTS, drop_after=100_000, times=1)
    fake.fail(WEIGHTS, drop_after=0, times=20)
    download = fetch(a_hub)
    assert download.state == "failed" and "broke 5 times" in one_sentence(download.words)
    assert a_hub.local(SINGLE) is None and not (a_hub.folder(SINGLE.repo) / "snapshots").exists()
    plan = a_hub.plan(SINGLE)
    assert 0 < plan.missing < len(fake.repos[SINGLE.repo].files[WEIGHTS])
    fake.faults.clear()
    assert fetch(a_hub).state == "done"


def test_a_program_started_anew_goes_on_in_the_middle_of_the_last_shard(a_hub, fake, endpoint):
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    first, last = sorted(shards, key=lambda n: len(fake.repos[SHARDED.repo].files[n]))
    fake.fail(last, drop_after=100_000)
    fake.fail(last, drop_after=0, times=20)
    assert fetch(a_hub, SHARDED).state == "failed"
    assert a_hub.local(SHARDED) is None and not local.find(cache=a_hub.cache, lm_studio=a_hub.lm_studio)
    fake.faults.clear()
    fake.requests.clear()
    anew = Hub(endpoint, a_hub.cache, token=False, record=a_hub.record, lm_studio=a_hub.lm_studio)
    plan = anew.plan(SHARDED)
    assert plan.here > 100_000 and fetch(anew, SHARDED).state == "done"
    assert fake.gets(last)[-1].startswith("bytes=") and not fake.gets(first)
    assert checksums.verify(anew.local(SHARDED), record=a_hub.record.with_name("none.json")) == len(plan.files)


def test_a_server_without_ranges_sends_it_all_again(a_hub, fake):
    fake.fail(WEIGHTS, drop_after=200_000)
    fake.fail(WEIGHTS, ignore_range=True)
    download = fetch(a_hub)
    assert (download.state, download.done) == ("done", download.plan.bytes), download.words


def test_cancel_keeps_what_arrived_and_the_next_download_goes_on(a_hub, fake):
    fake.pace = 0.05
    download = start(a_hub)
    while download.done < 200_000:
        time.sleep(0.005)
    download.cancel()
    assert download.wait(60) and download.state == "cancelled"
    one_sentence(download.words)
    assert a_hub.local(SINGLE) is None
    fake.pace = 0.0
    (partial,) = [f.stat().st_size for f in (a_hub.folder(SINGLE.repo) / "blobs").glob("*.incomplete")]
    assert 100_000 < partial < len(fake.repos[SINGLE.repo].files[WEIGHTS])
    assert a_hub.plan(SINGLE).here >= 200_000
    assert fetch(a_hub).state == "done"
    assert fake.gets(f"cdn/{SINGLE.repo}/{WEIGHTS}")[-1] == f"bytes={partial}-"


def test_two_pages_share_one_download(a_hub, fake):
    fake.pace = 0.02
    plan = a_hub.plan(SINGLE)
    downloads = Downloads(a_hub)
    first, second = downloads.start(plan), downloads.start(a_hub.plan(SINGLE))
    assert first is second and first.wait(10) and first.state == "done"
    assert len(fake.gets(f"cdn/{SINGLE.repo}/{WEIGHTS}")) == 1
    assert [*downloads] == [first]


def test_two_programs_do_not_write_the_same_file(a_hub, fake, endpoint, tmp_path):
    """Two processes' worth of hubs on one cache: the second waits for the first's file and finds it whole."""
    fake.pace = 0.02
    other = Hub(endpoint, a_hub.cache, token=False, record=a_hub.record)
    both = [start(h) for h in (a_hub, other)]
    assert all(d.wait(10) for d in both) and [d.state for d in both] == ["done"] * 2, [d.words for d in both]
    assert len(fake.gets(f"cdn/{SINGLE.repo}/{WEIGHTS}")) == 1


# ---- checksums -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", [WEIGHTS, "config.json"])
def test_a_wrong_checksum_is_refused_and_deleted(a_hub, fake, file):
    fake.fail(file, corrupt=True)
    download = fetch(a_hub)
    assert download.state == "failed" and f"{file} arrived with a wrong checksum" in one_sentence(download.words)
    assert a_hub.local(SINGLE) is None and not (a_hub.folder(SINGLE.repo) / "snapshots").exists()
    assert fetch(a_hub).state == "done"


def test_bytes_left_by_something_else_do_not_pass(a_hub, fake):
    plan = a_hub.plan(SINGLE)
    file = next(f for f in plan.files if f.name == WEIGHTS)
    blobs = a_hub.folder(SINGLE.repo) / "blobs"
    blobs.mkdir(parents=True)
    (blobs / file.digest).write_bytes(b"\0" * file.bytes)  # the right name and size
    assert fetch(a_hub).state == "done"
    assert (blobs / file.digest).read_bytes() == fake.repos[SINGLE.repo].files[WEIGHTS]


@pytest.mark.parametrize("length", ["short", "long"])
def test_a_size_other_than_the_listings(a_hub, fake, length):
    real = len(fake.repos[SINGLE.repo].files[WEIGHTS])
    fake.sizes[WEIGHTS] = real - 10 if length == "long" else real + 10
    download = fetch(a_hub)
    assert download.state == "failed" and a_hub.local(SINGLE) is None, download.words
    one_sentence(download.words)


def test_a_file_that_was_changed_later_is_found_before_its_first_use(a_hub):
    directory = fetch(a_hub).directory
    blob = (directory / WEIGHTS).resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    with pytest.raises(ModelError, match="does not have the checksum"):
        checksums.verify(directory, record=a_hub.record)


def test_what_another_program_downloaded_is_checked_once(a_hub, tmp_path):
    directory = fetch(a_hub).directory
    seen, record = [], tmp_path / "new.json"
    assert checksums.verify(directory, lambda done, total: seen.append((done, total)), record=record) == 4
    assert seen[-1][0] == seen[-1][1] > 500_000
    assert checksums.verify(directory, record=record) == 0
    with pytest.raises(Cancelled):
        checksums.verify(directory, cancelled=lambda: True, record=tmp_path / "other.json")


# ---- what the hub says no to -----------------------------------------------------------------------------


REFUSALS = {
    "no such repository": (HubName("org/nothing"), False, "not on the hub, or it is private and this machine has no"),
    "no such repository, signed in": (HubName("org/nothing"), "good", "the token on this machine may not read it"),
    "private": (PRIVATE, False, "private and this machine has no token"),
    "gated without a token": (GATED, False, "accept its terms at https://huggingface.co/org/gated, then sign in"),
    "gated with a token": (GATED, "bad", "accept its terms at https://huggingface.co/org/gated, then try again"),
    "a token that is not accepted": (SINGLE, "wrong", "does not accept the token on this machine"),
    "no such revision": (HubName("org/single", "v9"), False, "no revision 'v9'"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(endpoint, tmp_path, case):
    name, token, words = REFUSALS[case]
    with pytest.raises(HubError) as e:
        Hub(endpoint, tmp_path, token=token).plan(name)
    assert words in one_sentence(str(e.value))


def test_a_token_opens_what_it_may(endpoint, tmp_path):
    for name in (GATED, PRIVATE):
        a_hub = Hub(endpoint, tmp_path / "cache", token="good", record=tmp_path / "r.json")
        assert fetch(a_hub, name).state == "done"


def test_too_many_requests_are_waited_out(a_hub, fake):
    fake.fail("api", status=429, headers={"Retry-After": "0"}, times=2)
    fake.fail(WEIGHTS, status=429, headers={"ratelimit": '"resolvers";r=0;t=1'})
    fake.fail(WEIGHTS, status=503)
    start = time.monotonic()
    download = fetch(a_hub)
    assert download.state == "done" and 1 <= time.monotonic() - start < as_here(10)
    assert len(fake.gets(f"cdn/{SINGLE.repo}/{WEIGHTS}")) == 3


def test_too_many_requests_without_end(a_hub, fake):
    fake.fail("api", status=429, headers={"Retry-After": "600"})
    with pytest.raises(HubError, match="too many requests"):
        a_hub.plan(SINGLE)
    fake.fail(WEIGHTS, status=429, headers={"Retry-After": "0"}, times=20)
    download = fetch(a_hub)
    assert download.state == "failed" and "too many requests" in one_sentence(download.words)


def test_waiting_can_be_cancelled(a_hub, fake):
    fake.fail(WEIGHTS, status=429, headers={"Retry-After": "100"})
    download = start(a_hub)
    while "asks to wait 100 s" not in download.words:
        assert not download.over
        time.sleep(0.01)
    download.cancel()
    assert download.wait(60) and download.state == "cancelled"


def test_no_network(tmp_path):
    with pytest.raises(HubError) as e:
        Hub("http://127.0.0.1:9", tmp_path).plan(SINGLE)
    assert "seems to have no network" in one_sentence(str(e.value))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.pop(WEIGHTS), "no model*.safetensors"),
        (lambda f: f.pop("config.json"), "no config.json"),
        (lambda f: f.update({"config.json": b" " * 11_000_000}), "config.json has 11,000,000 bytes"),
    ],
    ids=["pickles only", "no config", "a huge config"],
)
def test_repositories_that_are_no_models(a_hub, fake, change, words):
    change(fake.repos[SINGLE.repo].files)
    with pytest.raises(HubError) as e:
        a_hub.plan(SINGLE)
    assert words in one_sentence(str(e.value))


def test_a_config_of_100_mb_is_not_fetched(a_hub, fake):
    fake.sizes["config.json"] = 100_000_000
    with pytest.raises(HubError, match="100,000,000 bytes"):
        a_hub.plan(SINGLE)
    assert fake.sent == 0


def test_small_files_are_never_read_beyond_their_listed_size(a_hub, fake):
    """A listing that gives a small size for what is 20 MB, and one that gives 100 MB."""
    plan = a_hub.plan(SHARDED)
    fake.repos[SHARDED.repo].files["config.json"] = b" " * 20_000_000
    assert fake.repos[SHARDED.repo].commit != plan.revision
    fake.moved = plan.revision
    with pytest.raises(HubError, match="does not have the checksum"):
        a_hub.facts(plan)
    assert fake.sent < 10_000_000, "the rest was not fetched"
    fake.sizes[facts.INDEX] = 100_000_000
    fake.repos[SHARDED.repo].files["config.json"] = b"{}"
    with pytest.raises(HubError, match="100,000,000 bytes, which no such file has"):
        a_hub.facts(a_hub.plan(SHARDED))


def test_an_index_that_points_elsewhere(a_hub, fake):
    fake.repos[SHARDED.repo].files[facts.INDEX] = b'{"weight_map": {"a": "../../../etc/passwd"}}'
    with pytest.raises(ModelError, match="not a file of its own directory"):
        a_hub.facts(a_hub.plan(SHARDED))


# ---- the disk --------------------------------------------------------------------------------------------


def test_a_disk_without_room_is_said_before_anything_starts(a_hub, fake, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("dspark_core.catalog.download.shutil.disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))
    download = fetch(a_hub)
    assert download.state == "failed" and "needs 0.7 MB more" in one_sentence(download.words)
    assert fake.sent == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_up(a_hub, fake):
    """Every write to /dev/full fails with the kernel's own "no space left on device"."""
    plan = a_hub.plan(SINGLE)
    file = next(f for f in plan.files if f.name == WEIGHTS)
    partial = a_hub.folder(SINGLE.repo) / "blobs" / f"{file.digest}.incomplete"
    partial.parent.mkdir(parents=True)
    partial.symlink_to("/dev/full")
    download = fetch(a_hub)
    assert download.state == "failed" and "The disk is full" in one_sentence(download.words)
    assert a_hub.local(SINGLE) is None
    partial.unlink()
    assert fetch(a_hub).state == "done"


def test_a_cache_that_cannot_be_written(a_hub):
    a_hub.cache.write_text("a file in its place")
    download = fetch(a_hub)
    assert download.state == "failed" and "cannot be written" in one_sentence(download.words)


# ---- as the app runs it ----------------------------------------------------------------------------------


def test_the_default_hub_is_the_environments(endpoint, tmp_path):
    """HF_ENDPOINT and HF_HOME are read when huggingface_hub is imported, so a fresh interpreter."""
    script = (
        "from dspark_core.catalog.download import Downloads, Hub; from dspark_core.catalog.names import parse;"
        "h = Hub(); d = Downloads(h).start(h.plan(parse('org/single'))); d.wait(10); print(d.state, d.directory);"
        "import sys; assert not {'mlx.core', 'gradio'} & sys.modules.keys(), 'page threads use this'"
    )
    env = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1,localhost"}
    env |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    run = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=120)
    assert run.stdout.startswith(f"done {tmp_path / 'home' / 'hub' / 'models--org--single'}"), run.stderr
    assert len([*tmp_path.rglob("dspark-playground/checksums.json")]) == 1, "what was checked is noted there"


def test_offline_mode_asks_nobody(endpoint, fake, tmp_path):
    script = (
        "from dspark_core.catalog.hub import Hub; from dspark_core.catalog.names import parse\n"
        "try: Hub().plan(parse('org/single'))\n"
        "except Exception as e: print(type(e).__name__, e)"
    )
    env = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=120)
    assert run.stdout.strip() == "HubError The hub is not asked for org/single because HF_HUB_OFFLINE is set."
    assert fake.requests == []
