"""Raw HTTP against the running page: rebinding, foreign origins, uploads and paths are refused."""

import http.client
import inspect
import json
import os
from pathlib import Path

import gradio as gr
import pytest

from dspark_core.playground.serve import CONTENT_SECURITY_POLICY, launch, refused
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
    assert b"root:" not in content


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


def test_a_body_in_chunks_is_refused(page):
    body = (chunk.encode() for chunk in ["x" * 1000] * 10)  # an iterable is sent in chunks
    status, _, _ = send(page, "POST", JOIN, JSON, body)
    assert status == 411
