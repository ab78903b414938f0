"""The endpoint over HTTP: exact, in OpenAI's form, in turn with races, and gone with the connection."""

import asyncio
import gzip
import http.client
import itertools
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress

import gradio as gr
import pytest

from dspark_core.decode.rounds import Settings
from dspark_core.errors import DecodeError, ModelError
from dspark_core.models.thoughts import THOUGHTS, Thought
from dspark_core.models.token_bytes import TextStream
from dspark_core.playground import serve
from dspark_core.playground.access import TokenGate, chosen_api_key
from dspark_core.playground.api_request import ChatAsked
from dspark_core.playground.serve import launch
from dspark_core.playground.worker import MAX_WAITING, Job, NoEngine, Worker
from dspark_core.race.records import LaneSpec
from tests.conftest import as_here
from tests.playground.serving import served
from tests.playground.talking import NAME, TalkingEngine, ask, asked, events, plain_ids, talking_models

LONG = 400  # tokens: seconds


@pytest.fixture(scope="module")
def page():
    with served(TalkingEngine) as page:
        until(lambda: page.worker.ready)
        yield page
        page.until_idle()


def until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def chat(text="Hello.", lane="plain", **more):
    return {"model": f"{NAME}@{lane}", "messages": [{"role": "user", "content": text}], "max_tokens": 12, **more}


def expected(messages, tokens=12):
    """(ids, text) of plain decoding."""
    target, _ = talking_models()
    ids = plain_ids(target, target.encode_chat(messages), Settings(tokens))
    stream = TextStream(target.token_bytes)
    text = "".join(stream.add(i) for i in ids if i not in target.stop_ids)
    return ids, text + stream.end().rstrip("\ufffd")


@contextmanager
def occupied(page, session="somebody's page", name="race"):
    """The engine is at work for somebody else, until the end of the block."""
    free, runs = threading.Event(), threading.Event()

    def work(engine, job):
        runs.set()
        free.wait(60)
        yield -1, None

    job = Job(session, name, work)
    assert page.worker.submit(job)
    runs.wait(10)
    try:
        yield job
    finally:
        free.set()


@pytest.mark.parametrize("lane", ["plain", "dspark", "dflash:cap=4"])
def test_chat_is_the_plain_lanes_streamed_and_not(page, lane):
    talk = [{"role": "system", "content": "Be brief."}, *chat("Name three primes.")["messages"]]
    ids, text = expected(talk)
    body = chat(lane=lane, messages=talk, temperature=0, return_token_ids=True, user="somebody", unheard_of=[1])
    status, headers, whole = ask(page.port, "/chat/completions", body)
    (choice,), usage = whole["choices"], whole["usage"]
    assert status == 200 and whole["object"] == "chat.completion" and whole["model"].startswith(f"{NAME}@{lane}")
    assert choice["message"] == {"role": "assistant", "content": text, "refusal": None}
    assert choice["token_ids"] == ids and choice["finish_reason"] in ("stop", "length")
    assert usage["completion_tokens"] == len(ids) and usage["prompt_tokens"] == len(choice["prompt_token_ids"])
    drafts, figures = usage["completion_tokens_details"], usage["speculation"]
    assert figures["accepted"] == drafts["accepted_prediction_tokens"]
    assert figures["proposed"] - figures["accepted"] == drafts["rejected_prediction_tokens"]
    assert headers["x-dspark-lane"] == figures["lane"] == whole["model"].partition("@")[2]
    assert figures["rounds"] > 0 and "access-control-allow-origin" not in headers

    more = {"stream": True, "stream_options": {"include_usage": True}}
    with asked(page.port, "/chat/completions", body | more) as answer:
        assert answer.getheader("content-type").startswith("text/event-stream")
        *chunks, last, done = events(answer)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""} and done == "[DONE]"
    assert "".join(d.get("content", "") for d in deltas) == text
    assert [i for chunk in chunks for i in chunk["choices"][0].get("token_ids", [])] == ids
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None] * (len(chunks) - 1) + [choice["finish_reason"]]
    assert last["choices"] == [] and {c["id"] for c in chunks} == {last["id"]}
    again = last["usage"]
    assert again["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"] - 1
    assert again["completion_tokens"] == len(ids)


def test_completions_of_a_text_and_of_ids(page):
    target, _ = talking_models()
    prompt = target.encode_text("Once upon")
    ids = plain_ids(target, prompt, Settings(16))
    for asked_for in ("Once upon", ["Once upon"], prompt, [prompt]):
        body = {"model": "dspark:cap=2", "prompt": asked_for, "return_token_ids": True}
        whole = ask(page.port, "/completions", body)[2]
        assert whole["object"] == "text_completion" and whole["choices"][0]["token_ids"] == ids
    with asked(page.port, "/completions", body | {"stream": True}) as answer:
        *chunks, done = events(answer)
    assert "".join(c["choices"][0]["text"] for c in chunks) == whole["choices"][0]["text"] and done == "[DONE]"
    bad = ({"prompt": []}, {"prompt": [10**9]}, {"logprobs": 0}, {"prompt": ["a", 1]}, {"prompt": [5] * 600})
    for field in bad:
        status, _, document = ask(page.port, "/completions", body | field | {"stream": True})
        assert status == 400 and document["error"]["param"] == next(iter(field))
    assert document["error"]["message"].startswith("This model's maximum context length is 512 tokens. ")


def test_models_are_named_with_their_lanes(page):
    names = [NAME, f"{NAME}@plain", f"{NAME}@dspark", f"{NAME}@dflash"]
    assert [m["id"] for m in ask(page.port, "/models")[2]["data"]] == names
    for name in (*names, f"{NAME}@dspark:cap=2", "dflash:block=3"):
        status, _, model = ask(page.port, f"/models/{name.replace('@', '%40')}")
        assert (status, model["id"], model["object"]) == (200, name, "model")
    used = {
        ask(page.port, "/chat/completions", chat() | {"model": n, "max_tokens": 1})[1]["x-dspark-lane"] for n in names
    }
    assert used == {"dspark:hardware", "plain", "dflash:hardware"}


REFUSED = [
    (b"{", 400, None),
    (b"[]", 400, None),
    (b"\xff\xfe", 400, None),
    (b"[" * 100_000, 400, None),
    ({"messages": []}, 400, "model"),
    (chat() | {"messages": []}, 400, "messages"),
    (chat() | {"messages": "x"}, 400, "messages"),
    (chat() | {"messages": [{"role": "tool", "content": "x"}]}, 400, "messages"),
    (chat() | {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, 400, "messages"),
    (chat() | {"model": "gpt-4o"}, 404, "model"),
    (chat(lane="plain:cap=3"), 404, "model"),
    (chat(n=2), 400, "n"),
    (chat(tools=[{"type": "function"}]), 400, "tools"),
    (chat(logit_bias={"5": 1}), 400, "logit_bias"),
    (chat(logprobs=True), 400, "logprobs"),
    (chat(response_format={"type": "json_object"}), 400, "response_format"),
    (chat(presence_penalty=0.5), 400, "presence_penalty"),
    (chat(logprobs=0), 400, "logprobs"),
    (chat(n=True), 400, "n"),
    (chat(guided_json={"type": "object"}), 400, "guided_json"),
    (chat(grammar='root ::= "a"'), 400, "grammar"),
    (chat(ignore_eos=True), 400, "ignore_eos"),
    (chat(min_tokens=3), 400, "min_tokens"),
    (chat(repeat_penalty=1.1), 400, "repeat_penalty"),
    (chat(continue_final_message=True), 400, "continue_final_message"),
    (chat(strict=True, temperature=1), 400, "strict"),
    (chat() | {"messages": [{"role": "user"}]}, 400, "messages"),
    (chat() | {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, 400, "messages"),
    (chat() | {"messages": [{"role": "user", "content": "x", "images": ["x"]}]}, 400, "messages"),
    (chat() | {"messages": [{"role": "assistant", "function_call": {"name": "f"}}]}, 400, "messages"),
    (chat(max_tokens=0), 400, "max_tokens"),
    (chat(max_tokens=-2), 400, "max_tokens"),
    (chat(max_tokens=1.5), 400, "max_tokens"),
    (chat(max_tokens="many"), 400, "max_tokens"),
    (chat(temperature=3), 400, "temperature"),
    (chat(top_p=-0.1), 400, "top_p"),
    (chat(stop=[""]), 400, "stop"),
    (chat(stop=["x"] * 100), 400, "stop"),
    (chat(stream_options={"include_usage": True}), 400, "stream_options"),
    (chat("long " * 200), 400, "messages"),
]


@pytest.mark.parametrize(("body", "status", "param"), REFUSED)
def test_what_cannot_be_had_is_refused_by_name(page, body, status, param):
    for stream in (False, True) if isinstance(body, dict) and "stream_options" not in body else (False,):
        asked_for = body | {"stream": stream} if isinstance(body, dict) else body
        got, headers, document = ask(page.port, "/chat/completions", asked_for)
        error = document["error"]
        assert (got, error["param"]) == (status, param), error
        assert error["type"] == "invalid_request_error" and headers["content-type"] == "application/json"
        assert error["message"].endswith((".", ")")) and "\n" not in error["message"] and len(error["message"]) < 500


def test_what_means_nothing_else_is_taken(page):
    neutral = {"n": 1, "tools": [], "tool_choice": "none", "logit_bias": {}, "logprobs": False, "presence_penalty": 0}
    more = {"response_format": {"type": "text"}, "top_k": -1, "top_p": 1, "seed": -5, "stop": None, "stream": False}
    more |= {"max_tokens": 12.0, "repeat_penalty": 1.0, "min_tokens": 0, "ignore_eos": False, "strict": True}
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo."}]
    body = chat(messages=[{"role": "user", "content": parts, "name": "x"}], **neutral, **more)
    answer = ask(page.port, "/chat/completions", body)[2]
    assert answer["choices"][0]["message"]["content"] == expected(chat()["messages"])[1]
    without, unlimited = (ChatAsked.read(json.dumps(chat(max_tokens=n)).encode()) for n in (None, -1))  # LM Studio's
    assert without.answer_request(LaneSpec("plain")).settings.max_tokens == unlimited.limit
    refusal = {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}], "tool_calls": None}
    body["messages"][:0] = [*chat()["messages"], refusal]
    talk = [*chat()["messages"], {"role": "assistant", "content": "No."}, *chat()["messages"]]
    assert ask(page.port, "/chat/completions", body)[2]["choices"][0]["message"]["content"] == expected(talk)[1]


@pytest.mark.parametrize("text", ["a\ud83d", "a\ude00b", "\ud83d\ud83d\ude00", "\ude00\ud83d"])
def test_half_a_character_is_cleaned_on_the_way_in(page, text):
    """As programs send it that cut texts by UTF-16."""
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    got = ask(page.port, "/chat/completions", chat(text, max_tokens=3, return_token_ids=True))[2]["choices"][0]
    target, _ = talking_models()
    assert got["prompt_token_ids"] == target.encode_chat(chat(whole)["messages"])


def test_paths_and_methods(page):
    for path, method, status in (("/nope", "GET", 404), ("/models", "DELETE", 405), ("/completions", "GET", 405)):
        got, headers, document = ask(page.port, path, method=method)
        assert got == status and document["error"]["message"]
        assert headers.get("allow") == {"/models": "GET, HEAD", "/completions": "POST"}.get(path)
    assert ask(page.port, "", method="GET")[2]["error"]["code"] == "not_found"
    for path in ("/models/", "//models", "/models//talking@plain/"):
        assert ask(page.port, path)[0] == 200
    assert ask(page.port, "//chat/completions/", chat(max_tokens=1))[0] == 200
    with asked(page.port, "/models", method="HEAD") as answer:
        assert answer.status == 200 and int(answer.getheader("content-length")) > 9 and answer.read() == b""


GUARDED = [
    ({"Host": "evil.example"}, 400),
    ({"Origin": "http://evil.example"}, 403),
    ({"Origin": "null"}, 403),
    ({"Sec-Fetch-Site": "cross-site"}, 403),
    ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 403),
]


@pytest.mark.parametrize(("headers", "status"), GUARDED)
def test_the_pages_guard_stands_before_it(page, headers, status):
    for path, body in (("/models", None), ("/chat/completions", chat())):
        with asked(page.port, path, body, headers) as answer:
            assert answer.status == status and answer.getheader("access-control-allow-origin") is None
            kind = {400: "invalid_request_error", 403: "permission_error"}[status]
            assert json.loads(answer.read())["error"]["type"] == kind


@pytest.mark.parametrize("name", ["Origin", "Sec-Fetch-Site"])
def test_a_header_that_is_there_twice_opens_nothing(page, name):
    good = {"Origin": f"http://127.0.0.1:{page.port}", "Sec-Fetch-Site": "same-origin"}[name]
    for values in (("http://evil.example", good), (good, "http://evil.example")):
        with closing(http.client.HTTPConnection("127.0.0.1", page.port, timeout=60)) as connection:
            connection.putrequest("GET", "/v1/models")
            for value in values:
                connection.putheader(name, value)
            connection.endheaders()
            assert connection.getresponse().status == 400


def test_bodies_are_limited_whole_or_in_chunks_and_encoded_ones_refused(page):
    status, _, document = ask(page.port, "/chat/completions", chat("x" * 2_100_000))
    assert status == 413 and document["error"]["message"] == "A request has at most 2,000,000 bytes."
    for many in ([[]], [{}]):  # seconds of parsing, and a million of errors
        status, _, document = ask(page.port, "/chat/completions", {"messages": many * 300_000})
        assert status == 413 and "more parts" in document["error"]["message"]
    status, _, document = ask(page.port, "/chat/completions", gzip.compress(b"{}"), {"Content-Encoding": "gzip"})
    assert status == 415 and "encod" in document["error"]["message"]
    assert ask(page.port, "/chat/completions", chat(max_tokens=1), {"Content-Encoding": "Identity"})[0] == 200
    for text, status in (("Hello.", 200), ("x" * 2_100_000, 413)):
        data = json.dumps(chat(text)).encode()
        with closing(http.client.HTTPConnection("127.0.0.1", page.port, timeout=60)) as connection:
            parts = (data[i : i + 50_000] for i in range(0, len(data), 50_000))
            with suppress(ConnectionError):  # nothing of it is read behind the limit
                connection.request("POST", "/v1/chat/completions", parts, encode_chunked=True)
            answer = connection.getresponse()
            assert answer.status == status
            document = json.loads(answer.read())
    assert document["error"]["type"] == "invalid_request_error"


def test_a_request_waits_its_turn_and_so_does_a_race(page, monkeypatch):
    run, ran, threads = Job.run, [], []
    monkeypatch.setattr(Job, "run", lambda job, engine: (ran.append(job.name), run(job, engine)))
    with occupied(page):
        for n in range(3):
            if n == 2:
                race = Job("another page", "race", lambda engine, job: iter([]))
                assert page.worker.submit(race)
                assert page.worker._waiting(race) == "Waiting: 3 jobs before this one."
            body = chat(str(n), max_tokens=2)
            threads.append(threading.Thread(target=ask, args=(page.port, "/chat/completions", body)))
            threads[-1].start()
            until(lambda: len(page.worker._jobs) == n + 2 + (n == 2))  # noqa: B023
    for thread in threads:
        thread.join(30)
    page.until_idle()
    assert ran == ["race", "request", "request", "race", "request"]


def test_a_full_queue_says_when_to_try_again_and_who_went_away_leaves_a_place(page):
    with occupied(page), ExitStack() as waiting:
        page.worker.stop("nobody")
        clients = [waiting.enter_context(_silent(page.port, chat(max_tokens=1))) for _ in range(MAX_WAITING)]
        until(lambda: len(page.worker._jobs) == MAX_WAITING + 1)
        status, headers, document = ask(page.port, "/chat/completions", chat())
        assert status == 429 and int(headers["retry-after"]) > 0 and document["error"]["type"] == "rate_limit_error"
        clients[3].close()
        until(lambda: any(job.cancelled() for job in page.worker._jobs))
        waiting.enter_context(_silent(page.port, chat(max_tokens=1)))
        until(lambda: sum(not job.cancelled() for job in page.worker._jobs) == MAX_WAITING + 1)
        assert len(page.worker._jobs) == MAX_WAITING + 1
    page.until_idle()


@contextmanager
def _silent(port, body):
    """A connection that has sent a request and does not read."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    try:
        yield connection
    finally:
        connection.close()


@pytest.mark.parametrize("stream", [True, False])
def test_a_closed_connection_ends_its_decode(page, stream):
    prefixes, began = page.worker.engine.models.prefixes, time.monotonic()
    text = f"Go on for ever, {'with' if stream else 'without'} a stream."
    with asked_or_left(page, chat(text, max_tokens=LONG, stop_token_ids=None, stream=stream)) as answer:
        if stream:
            next(events(answer))
    page.until_idle()
    ids = prefixes._kept[-1][0].ids
    assert len(ids) < LONG and time.monotonic() - began < as_here(10)
    assert ask(page.port, "/chat/completions", chat())[0] == 200


@contextmanager
def asked_or_left(page, body):
    """The open answer of a stream, or a connection that is closed once its request runs."""
    if body["stream"]:
        with asked(page.port, "/chat/completions", body) as answer:
            yield answer
        return
    with _silent(page.port, body):
        until(lambda: page.worker._running is not None)
        yield None


def test_a_races_stop_ends_nobodys_request(page):
    with asked(page.port, "/chat/completions", chat("Run.", max_tokens=40, stream=True)) as answer:
        stream = events(answer)
        next(stream)
        for session in ("", "a page", "script 1"):
            page.worker.stop(session)
        assert [*stream][-1] == "[DONE]"


def test_an_error_in_the_middle_is_an_event_of_the_stream(page, monkeypatch):
    from dspark_core.race import completion

    plain = completion.plain

    def failing(*args, **more):
        for n, event in enumerate(plain(*args, **more)):
            if n == 5:
                raise RuntimeError("the device is gone")
            yield event

    monkeypatch.setattr(completion, "plain", failing)
    with asked(page.port, "/chat/completions", chat("Fail.", stream=True)) as answer:
        *_, last = events(answer)
    assert last["error"]["type"] == "server_error" and "the device is gone" in last["error"]["message"]
    status, _, document = ask(page.port, "/chat/completions", chat("Fail."))
    assert status == 500 and "the device is gone" in document["error"]["message"]

    def overflowing(*args, **more):
        yield from itertools.islice(plain(*args, **more), 3)
        raise DecodeError("The target's logits are not finite at position 9: decoding stops here.")

    monkeypatch.setattr(completion, "plain", overflowing)
    status, _, document = ask(page.port, "/chat/completions", chat("Fail."))
    assert status == 500 and document["error"]["type"] == "server_error"


def test_nothing_is_loaded_yet_or_never(page, monkeypatch):
    monkeypatch.setattr(page.worker, "ready", False)
    monkeypatch.setattr(page.worker, "progress", "weights")
    threading.Timer(0.2, setattr, (page.worker, "ready", True)).start()  # who asks while the program starts waits
    assert ask(page.port, "/models")[0] == 200
    monkeypatch.setattr(page.worker, "ready", False)
    monkeypatch.setattr("dspark_core.playground.endpoint.LOAD_S", 0.01)
    status, headers, document = ask(page.port, "/models")
    assert status == 503 and headers["retry-after"] and "weights" in document["error"]["message"]
    assert ask(page.port, "/chat/completions", chat())[0] == 503
    monkeypatch.setattr(page.worker, "ready", True)
    with occupied(page, name="load"):  # another model is on its way: there is none until it is there
        monkeypatch.setattr(page.worker.engine, "name", "")
        status, headers, document = ask(page.port, "/chat/completions", chat())
        assert status == 503 and headers["retry-after"] and document["error"]["code"] == "loading"
        monkeypatch.setattr("dspark_core.playground.endpoint.LOAD_S", 60.0)
        threading.Timer(0.2, setattr, (page.worker.engine, "name", NAME)).start()
        assert ask(page.port, "/models")[0] == 200
    monkeypatch.setattr(page.worker, "engine", NoEngine("There is no such model."))
    status, _, document = ask(page.port, "/chat/completions", chat())
    assert status == 503 and "no such model" in document["error"]["message"]


@pytest.mark.parametrize("words", [["--serve"], ["--serve", "--api-key", "key-for-tests"], ["--serve", "--token"]])
def test_serve_opens_no_browser_and_prints_what_a_client_needs(words, monkeypatch, capsys):
    launched = []

    def launch(page, port, browser, ready, token="", api_key=""):
        launched.append((browser, bool(token), api_key))
        ready(f"http://127.0.0.1:7870/{'?token=x' if token else ''}")

    monkeypatch.setattr(serve, "launch", launch)
    monkeypatch.setattr(serve, "build", lambda *asked: None)
    monkeypatch.setattr(serve, "PresetEngine", lambda *asked: NoEngine("none"))
    monkeypatch.setenv("DSPARK_TOKEN", TOKEN)
    serve.main(words if "--token" in words else [*words, "--no-token"])
    key = {2: "the token", 3: "the key"}.get(len(words), "anything")
    assert launched == [(False, "--token" in words, KEY if "--api-key" in words else "")]
    told = capsys.readouterr().out.splitlines()[-1]
    assert told.startswith(f"OpenAI-compatible: base URL http://127.0.0.1:7870/v1, API key: {key}, models: ")


KEY, TOKEN = "key-for-tests", "not-a-secret-for-tests"


def test_with_a_key_or_the_token_only_who_has_it_is_answered():
    page = gr.Blocks()
    page.worker = Worker(TalkingEngine)
    launch(page, 0, browser=False, block=False, token=TOKEN, api_key=KEY)
    try:
        port = page.server.listener.getsockname()[1]
        until(lambda: page.worker.ready)
        for wrong in ({}, {"Authorization": KEY}, {"Authorization": f"Bearer {KEY}x"}, {"Authorization": "Bearer "}):
            for path, body in (("/models", None), ("/chat/completions", chat())):
                status, headers, document = ask(port, path, body, wrong)
                assert status == 401 and document["error"]["code"] == "invalid_api_key"
                assert headers["www-authenticate"] == "Bearer"
        for right in (KEY, TOKEN):
            assert ask(port, "/models", None, {"Authorization": f"Bearer {right}"})[0] == 200
    finally:
        page.close(verbose=False)


@pytest.mark.parametrize(
    ("token", "key", "path", "given", "passes"),
    [
        ("", KEY, "/v1/models", "", False),
        ("", KEY, "/v1/models", KEY, True),
        ("", KEY, "/config", "", True),
        (TOKEN, "", "/v1/models", "", False),
        (TOKEN, "", "/v1/models", TOKEN, True),
        (TOKEN, KEY, "/config", KEY, False),
    ],
)
def test_the_key_is_the_endpoints_and_the_token_is_for_all(token, key, path, given, passes):
    passed = []

    async def app(*asked):
        passed.append(asked)

    async def send(message):
        passed.append(message) if message.get("status") == 200 else None

    headers = [(b"authorization", f"Bearer {given}".encode())] if given else []
    scope = {"type": "http", "method": "GET", "path": path, "headers": headers, "query_string": b""}
    with ThreadPoolExecutor() as thread:  # in this one, the browser's loop may be running
        thread.submit(asyncio.run, TokenGate(app, token, 1, key)(scope, None, send)).result()
    assert bool(passed) == passes


def test_a_key_that_can_be_none_is_one_sentence(monkeypatch):
    monkeypatch.setenv("DSPARK_API_KEY", KEY)
    assert chosen_api_key(None) == KEY and chosen_api_key("another-key") == "another-key"
    monkeypatch.delenv("DSPARK_API_KEY")
    assert chosen_api_key(None) == ""
    for bad in ("", "short", "with a space", "é" * 20, "x" * 201):
        with pytest.raises(ValueError, match="--api-key and DSPARK_API_KEY take 8 to 200"):
            chosen_api_key(bad)


def test_a_thought_has_fields_of_its_own(page, monkeypatch):
    """Under both names that clients read, streamed and not; the conversation it is left out of stays exact."""
    target, _ = talking_models()
    messages = chat("Think.")["messages"]
    ids = plain_ids(target, target.encode_chat(messages, thinking=True), Settings(40))
    stream = TextStream(target.token_bytes)
    whole = "".join(map(stream.add, ids))
    tag = next(c for c in whole[3:] if c.isascii() and c.isalpha())  # what ends the thought here
    thought, _, answer = whole.partition(tag)
    monkeypatch.setitem(THOUGHTS, "<think>", tag)
    begun = Thought("<think>", spelled=True)
    monkeypatch.setattr(target, "begun_thought", lambda thinking: begun if thinking else None)
    inside = [{"chat_template_kwargs": {switch: True}} for switch in ("enable_thinking", "thinking")]
    both = {"enable_thinking": False, "chat_template_kwargs": {"enable_thinking": True}}
    for switch in (*inside, {"enable_thinking": True}, both):
        body = chat("Think.", "dspark", max_tokens=40, temperature=0, **switch)
        said = ask(page.port, "/chat/completions", body)[2]["choices"][0]["message"]
        assert said["reasoning_content"] == said["reasoning"] == thought.strip()
        assert said["content"] == answer.lstrip().rstrip("\ufffd")
        with asked(page.port, "/chat/completions", body | {"stream": True}) as streamed:
            deltas = [chunk["choices"][0]["delta"] for chunk in events(streamed) if chunk != "[DONE]"]
        for name in ("content", "reasoning", "reasoning_content"):
            assert "".join(d.get(name, "") for d in deltas) == said[name]
    for switch in ({"chat_template_kwargs": {}}, {"enable_thinking": False, "reasoning_effort": "high"}):
        quiet = ask(page.port, "/chat/completions", chat("Think.", "dspark", **switch))[2]
        assert "reasoning" not in quiet["choices"][0]["message"]
    assert ask(page.port, "/chat/completions", chat("Think.", "dspark", enable_thinking="no"))[0] == 400


def test_what_model_and_template_refuse_names_its_field(page, monkeypatch):
    """That is known on the engine's thread only, and told in the same form."""
    target, _ = talking_models()

    def blamed(path, body):
        status, _, document = ask(page.port, path, body)
        assert (status, document["error"]["type"]) == (400, "invalid_request_error")
        return document["error"]["param"], document["error"]["code"]

    monkeypatch.setattr(type(target.text), "thinks", False)
    for field, value in (("reasoning_effort", "high"), ("chat_template_kwargs", {"enable_thinking": True})):
        assert blamed("/chat/completions", chat(**{field: value})) == (field, "unsupported_parameter")
    for empty in ("", [""], []):
        assert blamed("/completions", {"model": "plain", "prompt": empty}) == ("prompt", None)
    with monkeypatch.context() as patch:
        patch.setattr(target, "encode_chat", lambda *_: fail(ModelError("The template cannot render this.")))
        assert blamed("/chat/completions", chat()) == ("messages", None)
    models = page.worker.engine.models
    monkeypatch.setattr(models, "drafters", dict(models.drafters))

    def unreadable(ids):  # as one that was to be read on request
        models.drafters["dspark"] = "it is broken."
        return iter(())

    monkeypatch.setattr(models, "read", unreadable)
    assert blamed("/chat/completions", chat(lane="dspark")) == ("model", None)


def fail(error):
    raise error
