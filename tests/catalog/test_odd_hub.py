"""A hub that answers oddly, slowly or without end: one sentence, and Cancel within a second, whatever it is doing."""

import hashlib
import json
import threading
import time

import pytest

from dspark_core.catalog import hub
from dspark_core.catalog.download import Downloads
from dspark_core.catalog.hub import Hub
from dspark_core.catalog.names import HubName
from dspark_core.errors import Cancelled, HubError, ModelError

from ..conftest import as_here
from ..models.build import GOLDEN
from .hub_server import FakeHub, Repo, serving

NAME, WEIGHTS = HubName("org/odd"), "model.safetensors"


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(hub, "BACKOFF_S", 0.01)
    fake = FakeHub()
    fake.repos = {NAME.repo: Repo({f.name: f.read_bytes() for f in (GOLDEN / "A" / "target").iterdir()})}
    return fake


@pytest.fixture
def a_hub(fake, tmp_path):
    with serving(fake) as endpoint:
        yield Hub(endpoint, tmp_path / "cache", "good", tmp_path / "verified.json", tmp_path / "none")


def said(call) -> str:
    with pytest.raises(ModelError) as error:
        call()
    words = str(error.value)
    assert words.endswith(".") and "\n" not in words and len(words) < 400, words
    assert not any(w in words for w in ("Error", "Exception", "Traceback", "httpx", "<class")), words
    assert NAME.repo in words or "hub" in words, words
    return words


def reply(handler, body: bytes, **headers: str) -> None:
    handler._answer(200, body, headers)


def listing(fake, change) -> bytes:
    """The hub's own listing, its text changed by `change(dict)`."""
    repo = fake.repos[NAME.repo]
    siblings = [
        {"rfilename": n, "size": len(d), "blobId": hashlib.sha1(b"blob %d\0" % len(d) + d).hexdigest()}
        for n, d in repo.files.items()
    ]
    whole = {"id": NAME.repo, "sha": repo.commit, "gated": False, "siblings": siblings}
    change(whole)
    return json.dumps(whole).encode()


def of_weights(field, value):
    def change(whole):
        for entry in whole["siblings"]:
            if entry["rfilename"] == WEIGHTS:
                entry[field] = value

    return change


ODD_LISTINGS = {
    "a size of 10^400": of_weights("size", 10**400),
    "a size of text": of_weights("size", "12"),
    "a size that is true": of_weights("size", True),
    "a size below 0": of_weights("size", -5),
    "a size of null": of_weights("size", None),
    "half a byte": of_weights("size", 0.5),
    "a digest that is a list": of_weights("blobId", [1]),
    "a digest that is a path": of_weights("blobId", "../../../../etc/passwd"),
    "an lfs without a digest": of_weights("lfs", {"sha256": 7}),
    "an lfs of text": of_weights("lfs", {"sha256": "x" * 64}),
    "a commit that is a path": lambda w: w.update(sha="../../x"),
    "a commit that is a number": lambda w: w.update(sha=7),
    "siblings that are text": lambda w: w.update(siblings="config.json"),
    "siblings of numbers": lambda w: w.update(siblings=[1, None, [], {"rfilename": 7}, {}]),
    "no siblings": lambda w: w.pop("siblings"),
}


@pytest.mark.parametrize("odd", ODD_LISTINGS)
def test_listings_of_wrong_types(a_hub, fake, odd):
    body = listing(fake, ODD_LISTINGS[odd])
    fake.instead["api"] = lambda handler: reply(handler, body)
    said(lambda: a_hub.plan(NAME))


def test_other_entries_may_be_anything(a_hub, fake):
    body = listing(fake, lambda w: w["siblings"].extend([None, {"rfilename": "notes.md", "size": 10**400}]))
    fake.instead["api"] = lambda handler: reply(handler, body)
    assert a_hub.plan(NAME).bytes == sum(map(len, fake.repos[NAME.repo].files.values()))


BODIES = [b"", b"null", b"[]", b"[" * 200_000, b'{"a":' * 200_000, b"\xff\xfe", b'"x"', b'{"sha": NaN}', b"<html>"]
BODIES += [b'{"sha": 1%s}' % (b"0" * 5000), b"{" * 10]


@pytest.mark.parametrize("body", BODIES, ids=lambda b: repr(b[:12]))
def test_listings_that_are_none(a_hub, fake, body):
    fake.instead["api"] = lambda handler: reply(handler, body)
    said(lambda: a_hub.plan(NAME))


def endless(handler) -> None:
    """An answer that does not stop; counts its bytes."""
    handler.send_response(200)
    handler.end_headers()
    handler.close_connection = True
    try:
        while True:
            handler.wfile.write(b'{"a":1,' * 10_000)
            handler.hub.sent += 70_000
    except OSError:
        pass


@pytest.mark.parametrize("what", ["api", "config.json"])
def test_answers_without_an_end_are_not_read_to_it(a_hub, fake, what):
    if what == "api":
        fake.instead["api"] = endless
        assert "longer than 20 MB" in said(lambda: a_hub.plan(NAME))
    else:
        plan = a_hub.plan(NAME)
        fake.instead["config.json"] = endless
        assert "does not have the checksum" in said(lambda: a_hub.facts(plan))
    assert fake.sent < 60_000_000


def test_a_header_is_read_once_where_ranges_are_not_known(a_hub, fake):
    plan = a_hub.plan(NAME)
    fake.instead[WEIGHTS] = endless
    assert "is not a whole safetensors file" in said(lambda: a_hub.facts(plan))
    assert fake.sent < 60_000_000


def dripping(handler, headers=True) -> None:
    """A byte now and then, for ever."""
    handler.close_connection = True
    try:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + (b"Content-Length: 1000000\r\n\r\n" if headers else b"X-A: "))
        while not handler.hub.over.wait(0.2):
            handler.wfile.write(b" ")
    except OSError:
        pass


def stalled(handler) -> None:
    """Nothing at all."""
    handler.hub.over.wait(20)
    handler.close_connection = True


SLOW = {"drips": dripping, "drips its head": lambda h: dripping(h, False), "stalls": stalled}


@pytest.mark.parametrize("how", SLOW)
@pytest.mark.parametrize("phase", ["listing", "header", "file", "busy"])
def test_cancel_waits_for_no_hub(a_hub, fake, how, phase):
    fake.over = threading.Event()
    plan = None if phase == "listing" else a_hub.plan(NAME)
    fake.instead["api" if phase == "listing" else WEIGHTS] = SLOW[how]
    if phase == "busy":
        if how != "stalls":
            pytest.skip("one is enough")
        fake.instead[WEIGHTS] = lambda h: h._answer(503, b"", {"Retry-After": "9"})
    stop, ended = threading.Event(), []

    def ask():
        try:
            a_hub.plan(NAME, stop.is_set) if plan is None else a_hub.facts(plan, stop.is_set)
        except Cancelled:
            ended.append(True)

    download = Downloads(a_hub).start(plan) if phase == "file" else None
    thread = threading.Thread(target=ask, daemon=True)
    if download is None:
        thread.start()
    time.sleep(0.3)
    if download:
        download.cancel()
        assert download.wait(as_here(5)) and download.state == "cancelled", download.words
    else:
        stop.set()
        thread.join(as_here(5))
        assert ended
    fake.over.set()


def test_a_hub_that_drips_ends_by_itself(a_hub, fake, monkeypatch):
    monkeypatch.setattr(hub, "SMALL_S", 0.5)
    fake.over = threading.Event()
    fake.instead["api"] = dripping
    assert "did not end within" in said(lambda: a_hub.plan(NAME))
    fake.over.set()


RETRY = ["x", "1e9", "-5", "²", "٣", "9" * 5000, "Wed, 21 Oct 2065 07:28:00 GMT", "0.01", "999999999"]


@pytest.mark.parametrize("when", RETRY, ids=lambda w: ascii(w[:12]))
@pytest.mark.parametrize("field", ["Retry-After", "ratelimit"])
def test_waits_that_are_no_numbers(a_hub, when, field):
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    value = when if field == "Retry-After" else f'"api";r=0;t={when}'
    response = httpx2.Response(429, headers={field: value.encode()}, request=httpx2.Request("GET", "http://x/"))
    error = HfHubHTTPError("x", response=response)
    wait = a_hub.wait_of(error, 1)
    assert wait is None or 0 <= wait <= hub.MAX_WAIT_S
    assert "too many requests" in a_hub.sentence(error, NAME)


@pytest.mark.parametrize("where", ["file:///etc/passwd", "ftp://x/y", "http://", "gopher:x", "http://[::1", "/again"])
@pytest.mark.parametrize("what", ["api", "config.json", WEIGHTS])
def test_redirects_elsewhere(a_hub, fake, where, what):
    plan = a_hub.plan(NAME)
    where = f"/api/models/{NAME.repo}" if where == "/again" and what == "api" else where
    fake.instead[what] = lambda handler: handler._answer(302, b"", {"Location": where})
    words = said(lambda: a_hub.plan(NAME) if what == "api" else a_hub.facts(plan))
    assert where.startswith(("/", "http")) or "to an address that is not followed" in words, words
    if what != "api":
        download = Downloads(a_hub).start(plan)
        assert download.wait(10) and download.state == "failed"
        assert "\n" not in download.words and "Error" not in download.words and download.words.endswith(".")


def test_the_token_stays_with_the_hub(a_hub, fake):
    """Another origin gets no token, wherever the hub sends a request."""
    tokens, other = [], FakeHub()
    other.repos = fake.repos
    with serving(other) as address:
        for what in ("api", "config.json", WEIGHTS):
            other.instead[what] = lambda h: (tokens.append(h.headers.get("Authorization")), h._answer(404, b""))
        plan = a_hub.plan(NAME)
        for what in ("api", "config.json", WEIGHTS):
            fake.instead[what] = lambda h: h._answer(
                302, b"", {"Location": address.replace("127.0.0.1", "localhost") + h.path}
            )
        for call in (lambda: a_hub.plan(NAME), lambda: a_hub.facts(plan)):
            with pytest.raises(HubError):
                call()
        assert Downloads(a_hub).start(plan).wait(10)
    assert len(tokens) >= 3 and set(tokens) == {None}
