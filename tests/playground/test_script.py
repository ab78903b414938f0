"""The README's script runs as it stands there, against a page with recorded rounds."""

import http.client
import json
import re
import threading
from contextlib import closing
from dataclasses import MISSING, fields
from pathlib import Path

import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from dspark_core.errors import ModelError
from dspark_core.models.info import DrafterInfo
from dspark_core.playground.page import RaceCall
from dspark_core.playground.worker import Job
from dspark_core.race.trace import loads
from tests.playground.replay import Pieces, ReplayEngine, recorded_rounds, three_lanes
from tests.playground.serving import served

README = Path(__file__).resolve().parents[2] / "README.md"


def engine(**how):
    return ReplayEngine(*three_lanes([f" w{k}" for k in range(40)]), **how)


@pytest.fixture(scope="module")
def page():
    with served(lambda progress: engine()) as page:
        page.until_idle()
        yield page


def of_the_example():
    """A recording of what the example asks for: 64 tokens, 3 and 5 drafts a round."""
    pieces = Pieces()
    ids, (wrong,) = pieces.ids([f" w{k}" for k in range(64)]), pieces.ids([" WRONG"])
    drafted = [recorded_rounds(ids, block, (1, 5, 0), wrong, 0.2) for block in (3, 5)]
    return ReplayEngine(pieces, [recorded_rounds(ids), *drafted])


def test_the_example_in_the_readme_runs(page, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(page.worker, "engine", of_the_example())
    (code,) = re.findall(r"<!-- script -->\s*```python\n(.*?)```", README.read_text("utf-8"), re.S)
    assert "http://127.0.0.1:7860" in code
    exec(code.replace("http://127.0.0.1:7860", page.url), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["plain", "DSpark cap 3", "DFlash cap 5"]
    assert lines[0] == "plain: 10.0 tok/s"
    trace = loads((tmp_path / "race.json").read_bytes())
    assert trace.race.verdict.kind == "identical" and trace.race.request.settings.max_tokens == 64


def test_a_script_sees_progress_and_can_cancel(page):
    page.worker.engine = engine(pace=0.01)  # a round takes ten seconds
    job = Client(page.url, verbose=False).submit("Say hello.", api_name="/race")
    updates = [next(job), next(job)]
    assert [u["state"] for u in updates] == ["racing"] * 2 and updates[1]["seconds"] >= 0.5
    assert not page.worker.idle
    job.cancel()
    page.until_idle()
    page.worker.engine = engine()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"prompt": "Half \ud83d."}, "Half \ufffd."),
        ({"system": "Half \ud83d."}, "Half \ufffd."),
        ({"lanes": "plain,\ud83d"}, "There is no lane '\ufffd'"),
    ],
)
def test_half_an_emoji_gets_an_answer(page, changed, words):
    """As a script's JSON may have it; gradio's own client would not send it."""
    page.worker.engine = engine()
    asked = {f.name: None if f.default is MISSING else f.default for f in fields(RaceCall)}
    asked |= {"prompt": "Hi", "max_tokens": 8} | changed
    call = f"{page.url}/gradio_api/call/race"
    headers = {"Content-Type": "application/json"}
    event = httpx.post(call, content=json.dumps({"data": list(asked.values())}), headers=headers).json()
    answer = httpx.get(f"{call}/{event['event_id']}", timeout=30).text.strip().rpartition("data: ")[2]
    found = json.loads(answer)
    assert words in (found["error"] if "lanes" in changed else found[0]["race"]["request"][next(iter(changed))])
    page.until_idle()


def called(page, name, values):
    """What a call over plain HTTP comes to, as a client has it that knows nothing of gradio's."""
    call = f"{page.url}/gradio_api/call/{name}"
    event = httpx.post(call, json={"data": values}).json()
    return json.loads(httpx.get(f"{call}/{event['event_id']}", timeout=30).text.strip().rpartition("data: ")[2])


def test_a_call_over_plain_http_may_leave_out_what_has_a_default(page):
    page.worker.engine = engine()
    for values in (["Hi"], ["Hi", "plain,dspark", 8], ["Hi", "plain,dspark", 8, 0, 0, 1, 0, "", False]):
        (race,) = called(page, "race", values)
        assert race["race"]["request"]["prompt"] == "Hi" and not race["race"]["request"].get("thinking")
    (race,) = called(page, "race", [*values, True])
    assert race["race"]["request"]["thinking"] is True
    assert called(page, "race", [])["error"] == "Type a prompt, or pick one of the examples."
    assert called(page, "prove_greedy", [])["error"].startswith("/prove_greedy takes ")
    for name, body in (("call/nope", {"data": []}), ("call/v2/race", {}), ("call/v2/race", {"prompt": "Hi", "x": 1})):
        answer = httpx.post(f"{page.url}/gradio_api/{name}", json=body)
        assert answer.status_code == 400 and answer.text.startswith("There is no such call here, or")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("", "plain,dspark"), "Type a prompt"),
        (("hi", "plain"), "2 to 4 lanes, not 1"),
        (("hi", "plain,x"), "There is no lane 'x'"),
        (("x" * 100_001,), "at most 100,000"),
    ],
)
def test_what_is_wrong_is_said(page, asked, words):
    with pytest.raises(AppError, match=words):
        Client(page.url, verbose=False).predict(*asked, api_name="/race")


def test_a_script_that_asks_for_more_gets_all_there_is_and_is_told(page):
    page.worker.engine = engine()
    page.worker.engine.infos = (DrafterInfo(id="dflash", method="DFlash", title="b7", block=7, max_drafts=7),)
    job = Client(page.url, verbose=False).submit("hi", "plain,dflash:block=16", api_name="/race")
    assert job.result()["race"]["lanes"][1]["spec"]["label"] == "cap 7"
    assert job.outputs()[0]["cut"] == "Lane 2: block 16 was asked for; b7 has a block of 7."
    page.worker.engine = engine()


def posted(page, path, **body):
    with closing(http.client.HTTPConnection("127.0.0.1", page.port)) as connection:
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        return json.loads(connection.getresponse().read())


@pytest.mark.parametrize("listens", ["never", "for a moment"])
def test_a_race_that_nobody_listens_to_ends(page, monkeypatch, listens):
    monkeypatch.setattr("dspark_core.playground.page.UNHEARD_S", 1.0)
    page.worker.engine = engine(pace=0.01)  # a round takes ten seconds
    event = posted(page, "/gradio_api/call/race", data=["hi", "", 96, 0, 0, 1, 0, "", False])["event_id"]
    if listens != "never":
        connection = http.client.HTTPConnection("127.0.0.1", page.port)
        connection.request("GET", f"/gradio_api/call/race/{event}")
        with connection.getresponse() as stream:
            assert b"racing" in stream.read(60)
        connection.close()
    assert page.worker.engine.running.wait(60) or page.worker.idle
    page.until_idle()
    page.worker.engine = engine()


def test_why_a_race_was_refused_or_failed_is_said(page, monkeypatch):
    def race(request, cancelled):
        raise ModelError("The model's chat template cannot render this conversation.")

    monkeypatch.setattr(page.worker.engine, "race", race, raising=False)
    with pytest.raises(AppError, match="cannot render this conversation"):
        Client(page.url, verbose=False).predict("hi", api_name="/race")
    gate = threading.Event()
    for k in range(9):
        assert page.worker.submit(Job(f"page {k}", "proof", lambda engine, job: gate.wait(10) and ()))
    with pytest.raises(AppError, match="8 jobs of other pages wait for the engine already"):
        Client(page.url, verbose=False).predict("hi", api_name="/race")
    gate.set()
