"""Raw HTTP against the running page: rebinding, foreign origins, uploads and paths are refused."""

import http.client
import inspect
import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

import gradio as gr
import pytest

from dspark_core.playground.listening import MAX_UNFINISHED, PatientProtocol
from dspark_core.playground.serve import CONTENT_SECURITY_POLICY, launch, refused
from tests.conftest import as_here
from tests.playground.replay import ReplayEngine, three_lanes
from tests.playground.serving import served

JSON = {"Content-Type": "application/json"}
MULTIPART = {"Content-Type": "multipart/form-data; boundary=XX"}
JOIN = "/gradio_api/queue/join"
BODY = json.dumps({"data": [], "fn_index": 0, "session_hash": "s"})


def upload(size):
    return f'--XX\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\n{"x" * size}\r\n--XX--\r\n'


@pytest.fixture(scope="module")
def page():
    os.environ["GRADIO_ALLOWED_PATHS"] = "/"  # an environment that would open the page up must not
    os.environ["GRADIO_SHARE"] = "True"
    os.environ["GRADIO_SERVER_NAME"] = "0.0.0.0"
    os.environ["GRADIO_MCP_SERVER"] = "True"
    try:
        with served(lambda progress: ReplayEngine(*three_lanes(["a", "b"]))) as page:
            yield page
    finally:
        for name in ("GRADIO_ALLOWED_PATHS", "GRADIO_SHARE", "GRADIO_SERVER_NAME", "GRADIO_MCP_SERVER"):
            os.environ.pop(name, None)


def send(page, method, path, headers=None, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=10)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        response = connection.getresponse()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
    finally:
        connection.close()


EVIL = "http://evil.example"
TABLE = [
    # DNS rebinding: the name is foreign, whatever else matches
    ("GET", "/", {"Host": "evil.example"}, None, 400),
    ("GET", "/", {"Host": "127.0.0.1.evil.example"}, None, 400),
    ("GET", "/config", {"Host": "evil.example:{port}"}, None, 400),
    ("POST", JOIN, {**JSON, "Host": "evil.example", "Origin": EVIL}, BODY, 400),
    # another site's page
    ("POST", JOIN, {**JSON, "Origin": EVIL}, BODY, 403),
    ("POST", JOIN, {**JSON, "Origin": "null"}, BODY, 403),
    ("POST", JOIN, {"Content-Type": "text/plain", "Origin": EVIL}, BODY, 403),
    ("POST", JOIN, {"Origin": EVIL}, BODY, 403),
    ("POST", JOIN, {**JSON, "Sec-Fetch-Site": "cross-site"}, BODY, 403),
    ("POST", JOIN, {**JSON, "Sec-Fetch-Site": "same-site"}, BODY, 403),
    ("GET", "/config", {"Origin": EVIL}, None, 403),
    ("GET", "/gradio_api/deep_link?session_hash=abc", {"Sec-Fetch-Site": "cross-site"}, None, 403),
    # another page of this machine
    ("POST", JOIN, {**JSON, "Origin": "http://127.0.0.1:1"}, BODY, 403),
    ("POST", JOIN, {**JSON, "Origin": "https://127.0.0.1:{port}"}, BODY, 403),
    # uploads
    ("POST", "/gradio_api/upload", {**MULTIPART, "Origin": EVIL}, upload(10), 403),
    ("POST", "/gradio_api/upload", MULTIPART, upload(5000), 413),
    ("POST", "/gradio_api/upload", MULTIPART, upload(3_000_000), 413),
    ("POST", JOIN, {**JSON, "Content-Length": "nonsense"}, None, 400),
    # paths
    ("GET", "/gradio_api/file=/etc/passwd", {}, None, 403),
    ("GET", "/gradio_api/file=../../etc/passwd", {}, None, 403),
    ("GET", "/gradio_api/file=app.py", {}, None, 403),
    ("GET", "/gradio_api/file=http://127.0.0.1:1/", {}, None, 403),
    ("GET", "/gradio_api/proxy=http://127.0.0.1:1/", {}, None, 400),
    ("GET", "/static/..%2f..%2f..%2fapp.py", {}, None, 403),
    ("GET", "/assets/..%2f..%2f..%2fetc/passwd", {}, None, 403),
    # what this page does not have
    ("GET", "/monitoring", {}, None, 403),
    ("GET", "/gradio_api/runs", {}, None, 404),
    ("GET", "/gradio_api/mcp/sse", {}, None, 404),
    ("GET", "/docs", {}, None, 404),
    ("GET", "/openapi.json", {}, None, 404),
    # what gradio has and this page does not use
    ("POST", "/gradio_api/process_recording", MULTIPART, upload(10), 404),
    ("GET", "/gradio_api/deep_link?session_hash=abc", {}, None, 404),
    ("POST", "/gradio_api/stream/abc", JSON, "{}", 404),
    ("GET", "/gradio_api/stream/a/1/2/playlist.m3u8", {}, None, 404),
    ("GET", "/gradio_api/dev/reload", {}, None, 404),
    ("GET", "/gradio_api/heartbeat/%00", {}, None, 404),
    ("GET", "/gradio_api/heartbeat/a%0Ab%ED%A0%80", {}, None, 404),
    ("POST", "/gradio_api/upload", MULTIPART, upload(10), 404),
    ("GET", "/gradio_api/upload_progress?upload_id=x", {}, None, 404),
    ("POST", "/gradio_api/component_server", JSON, "{}", 404),
    ("POST", "/gradio_api/vibe-edit", JSON, "{}", 404),
    ("GET", "/gradio_api/vibe-code", {}, None, 404),
    ("POST", "/gradio_api/run-history/connect", JSON, "{}", 404),
    ("GET", "/gradio_api/custom_component/1/client/component/x.js", {}, None, 404),
    ("GET", "/gradio_api/openapi.json", {}, None, 404),
    ("GET", "/gradio_api/startup-events", {}, None, 404),
    ("GET", "/gradio_api/file/etc/passwd", {}, None, 404),
    ("GET", "/gradio_api//file=/etc/passwd", {}, None, 404),
    ("GET", "/gradio_api/call/../file=/etc/passwd", {}, None, 404),
    ("POST", "/login", {"Content-Type": "application/x-www-form-urlencoded"}, "username=a&password=b", 404),
    ("GET", "/pwa_icon", {}, None, 404),
    ("GET", "/manifest.json", {}, None, 404),
    # another site asks first whether it may
    ("OPTIONS", JOIN, {"Origin": EVIL, "Access-Control-Request-Method": "POST"}, None, 403),
    ("OPTIONS", "/", {"Origin": "http://localhost:1", "Access-Control-Request-Method": "GET"}, None, 403),
    ("OPTIONS", JOIN, {"Host": "evil.example", "Access-Control-Request-Method": "POST"}, None, 400),
    # calls of another version's page, and streams that are not there: answered to the end
    ("POST", JOIN, JSON, '{"data": [], "fn_index": 99999, "session_hash": "s"}', 400),
    ("POST", JOIN, JSON, '{"data": [], "fn_index": -1, "session_hash": "s"}', 400),
    ("GET", "/gradio_api/call/race/none", {}, None, 200),
    ("GET", "/gradio_api/queue/data?session_hash=%ED%A0%BD", {}, None, 200),
    # what it must still do
    ("GET", "/", {}, None, 200),
    ("GET", "/", {"Host": "localhost:{port}"}, None, 200),
    ("GET", "/", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, None, 200),
    ("GET", "/config", {"Origin": "http://127.0.0.1:{port}"}, None, 200),
    ("GET", "/config", {"Sec-Fetch-Site": "same-origin"}, None, 200),
]


@pytest.mark.parametrize(("method", "path", "headers", "body", "status"), TABLE)
def test_table(page, method, path, headers, body, status):
    headers = {k: v.format(port=page.port) for k, v in headers.items()}
    got, _, content = send(page, method, path, headers, body)
    assert got == status, content[:300]
    assert b"root:x:" not in content


def test_headers(page):
    _, headers, _ = send(page, "GET", "/")
    assert headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in headers


def test_every_option_of_gradio_is_given_so_that_none_comes_from_elsewhere(monkeypatch):
    given = {}
    queueing, mounting = gr.Blocks.queue, gr.mount_gradio_app

    def queue(page, **options):
        given["queue"] = options
        return queueing(page, **options)

    def mount(app, blocks, **options):
        given["mount"] = options | {"app": app, "blocks": blocks}
        return mounting(app, blocks, **options)

    wanted = {"queue": inspect.signature(queueing), "mount": inspect.signature(mounting)}
    monkeypatch.setattr(gr.Blocks, "queue", queue)
    monkeypatch.setattr(gr, "mount_gradio_app", mount)
    page = gr.Blocks()
    launch(page, 0, browser=False, block=False)
    page.close(verbose=False)
    for name, signature in wanted.items():
        left = {option for option in signature.parameters.keys() - given[name].keys() if option != "self"}
        assert not {option for option in left if option[0] != "_"}, f"{name} decides these by itself"
    assert given["mount"]["server_name"] == "127.0.0.1" and given["mount"]["allowed_paths"] == []


def test_it_listens_on_this_machine_only(page):
    table = Path("/proc/net/tcp")
    lines = table.read_text().splitlines()[1:] if table.exists() else []
    bound = [line.split()[1] for line in lines if line.split()[3] == "0A"]
    bound = [address for address in bound if address.endswith(f":{page.port:04X}")]
    assert bound in ([], [f"0100007F:{page.port:04X}"])


def test_a_body_without_a_length_is_no_way_around():
    headers = {"host": b"127.0.0.1:1", "origin": b"http://evil.example"}
    assert refused("POST", "/", headers)[0] == 403
    assert refused("POST", "/", {"host": b"127.0.0.1:1", "origin": b"http://127.0.0.1:1"}) is None


def test_only_a_saved_race_may_be_long_and_every_body_says_its_length():
    def asked(path, **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = refused("POST", path, {"host": b"127.0.0.1:1", **headers})
        return answer and answer[0]

    assert asked(JOIN, content_length=b"25000000") is None
    assert asked(JOIN, content_length=b"35000000") == 413
    assert asked("/gradio_api/upload", content_length=b"2500000") == 413
    assert asked(JOIN, transfer_encoding=b"chunked") == 411


def test_a_body_of_too_many_parts_is_refused_before_it_is_parsed(page):
    """A few megabytes of empty lists kept the server busy for seconds; text may be long, whatever stands in it."""
    events = {"data": [], "fn_index": 0, "session_hash": "s"}
    many = ([[]] * 30_000, [{}] * 30_000, [0] * 30_000)
    for path in (JOIN, "/gradio_api/call/race", "/gradio_api/call/race/", "/gradio_api/run/race"):
        for data in many if path == JOIN else many[:1]:
            status, _, content = send(page, "POST", path, JSON, json.dumps(events | {"data": data}))
            assert (status, content) == (413, b"That has more parts than any form of this page sends.")
    saved = json.dumps([{'"': "\\"}] * 300_000)
    assert send(page, "POST", "/gradio_api/call/race", JSON, json.dumps({"data": [saved[:900_000]]}))[0] == 200


def test_a_body_in_chunks_is_refused(page):
    body = (chunk.encode() for chunk in ["x" * 1000] * 10)  # an iterable is sent in chunks
    status, _, _ = send(page, "POST", JOIN, JSON, body)
    assert status == 411


def test_three_hundred_slow_clients_leave_the_page_its_place(page):
    """Of each kind: silent ones, half a head, half a body."""
    head = b"POST /gradio_api/queue/join HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    slow = []
    try:
        for k in range(300):
            slow.append(socket.create_connection(("127.0.0.1", page.port), timeout=5))
            slow[-1].sendall((b"", head, head + b"Content-Length: 900\r\n\r\n{")[k % 3])
        assert send(page, "GET", "/")[0] == 200
        assert len(PatientProtocol.unfinished) <= MAX_UNFINISHED
        slow[0].settimeout(5)
        with suppress(ConnectionError):
            assert slow[0].recv(10) == b"", "the oldest is closed first"
    finally:
        for connection in slow:
            connection.close()


def test_a_stream_in_pieces_holds_no_connection(page):
    """A heartbeat never ends; asked for under a name it is read behind the page's back."""

    def ask(wish=b"one"):
        began = time.monotonic()
        status, headers, body = send(page, "GET", "/gradio_api/heartbeat/abc", {"X-Stream": wish})
        assert time.monotonic() - began < as_here(2)
        return status, body, "x-stream-over" in headers

    assert ask() == (200, b"data: ALIVE\n\n", False)
    assert ask() == (200, b"", False)
    assert ask(b"another")[1] == b"data: ALIVE\n\n"
    assert ask(b"one leave")[0] == 204
    deadline = time.monotonic() + 60
    while not (ended := ask())[2] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ended == (200, b"", True)
    ask(b"another leave")
