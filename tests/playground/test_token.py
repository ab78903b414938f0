"""With a token, everything stands behind it: the page, its scripts, its queue, the API."""

import http.client
import json

import pytest
from gradio_client import Client

from dspark_core.playground.page import build
from dspark_core.playground.serve import launch
from dspark_core.playground.worker import Worker
from dspark_core.presets import load_prompts
from tests.playground.replay import ReplayEngine, three_lanes

TOKEN = "not-a-secret-for-tests"


@pytest.fixture(scope="module")
def guarded():
    """(port, the address that was printed) of a page with a token."""
    printed = []
    page = build(Worker(lambda progress: ReplayEngine(*three_lanes(["a", "b"]))), load_prompts())
    launch(page, 0, browser=False, block=False, ready=printed.append, token=TOKEN)
    try:
        yield page.server_port, printed[0]
    finally:
        page.close(verbose=False)


def ask(port, path, method="GET", body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read().decode()
    finally:
        connection.close()


PATHS = ["/", "/config", "/channel.js", "/theme.css", "/assets/x.js", "/static/img/logo.svg", "/gradio_api/info"]
STREAMS = ["/gradio_api/queue/data?session_hash=x", "/gradio_api/heartbeat/x", "/gradio_api/app_id"]
WRONG = [
    {},
    {"Authorization": "Bearer no"},
    {"Authorization": f"Bearer {TOKEN[:-1]}"},
    {"Authorization": TOKEN},
    {"Authorization": f"Basic {TOKEN}"},
    {"Cookie": "dspark-token-1=" + TOKEN},
]


@pytest.mark.parametrize("wrong", WRONG)
def test_nothing_is_answered_without_it(guarded, wrong):
    port, _ = guarded
    for path in [*PATHS, *STREAMS, "/?token=wrong", "/?token=", "/?token=%ff"]:
        status, headers, words = ask(port, path, **wrong)
        assert status == 401 and "the address that the program printed" in words and "set-cookie" not in headers
    for path in ("/gradio_api/queue/join", "/gradio_api/call/race", "/gradio_api/run/predict", "/gradio_api/cancel"):
        assert ask(port, path, "POST", json.dumps({"data": []}), Content_Type="application/json", **wrong)[0] == 401
    assert ask(port, "/", Host="evil.example", Authorization=f"Bearer {TOKEN}")[0] == 400, "the other guards stay"


def test_the_printed_address_leaves_a_cookie_and_no_trace(guarded):
    port, printed = guarded
    assert printed == f"http://127.0.0.1:{port}/?token={TOKEN}"
    status, headers, _ = ask(port, f"/?prompt=Hi%20you&token={TOKEN}&system=")
    assert (status, headers["location"]) == (303, "/?prompt=Hi+you&system=")
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie and headers["cache-control"] == "no-store"
    sent = {"Cookie": f'other="{{1}}; x; {cookie.split(";")[0]}; more=2'}
    assert ask(port, "/?prompt=Hi", **sent)[0] == 200 and ask(port, "/config", **sent)[0] == 200
    assert ask(port, "/gradio_api/file=/etc/passwd", **sent)[0] == 403


def test_a_script_sends_a_header(guarded):
    port, _ = guarded
    client = Client(f"http://127.0.0.1:{port}", verbose=False, headers={"Authorization": f"Bearer {TOKEN}"})
    assert ask(port, "/config", Authorization=f"bearer  {TOKEN}")[0] == 200, "a scheme has no case"
    race = client.predict("Hi", "plain,dspark", 8, api_name="/race")
    assert race["race"]["verdict"]["kind"] == "identical"
