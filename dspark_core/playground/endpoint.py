"""An endpoint in the form of OpenAI's API, on the page's own engine, port and guard.

A request is a job of the worker's like a race, in order of arrival. What comes of it goes from the owner thread to the
server's loop; a connection that is closed cancels it, and its decode ends within a round.
"""

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, ClassVar

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ..decode.rounds import Prefill
from ..errors import ApiError, ContextError, DecodeError, LaneError, ModelError, Refused
from ..race.answer import Began, Ended, Piece
from ..race.records import Failed
from .api_request import AT, BASE, MAX_BODY_BYTES, TOO_LONG, Asked, ChatAsked, CompletionAsked, ServedModels, error_body
from .bodies import MAX_STRINGS, too_many_parts
from .worker import Job, NoEngine, Worker

RETRY_S = 2  # when a client that was turned away may try again
LOAD_S = 60.0  # how long a request waits for the program's first load
LANE_HEADER = "x-dspark-lane"
INTERRUPTED = "The request was ended before its answer was there."


class Mailbox:
    """Takes a job's events on the owner thread and gives them on the server's loop; None is the last."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[int, Any] | None] = asyncio.Queue()

    def put(self, pair: tuple[int, Any] | None) -> None:
        with contextlib.suppress(RuntimeError):  # the server has ended
            self._loop.call_soon_threadsafe(self._events.put_nowait, pair)

    async def get(self) -> Any:
        pair = await self._events.get()
        return pair and pair[1]


class Answer:
    """One request: its job, and OpenAI's form of what comes of it."""

    def __init__(self, asked: Asked, model: str):
        self.asked, self.model = asked, model
        self.chat = isinstance(asked, ChatAsked)
        self.param = "messages" if self.chat else "prompt"
        self.id = f"{'chatcmpl' if self.chat else 'cmpl'}-{secrets.token_hex(12)}"
        self.created = int(time.time())
        self.mailbox = Mailbox()
        # A page names its own session, so that this one's name is nobody's to guess.
        self.job = Job(self.id, "request", self._work, _events=self.mailbox)  # type: ignore[arg-type]

    @property
    def lane(self) -> str:
        return self.model.rpartition(AT)[2]

    def _work(self, engine: Any, job: Job) -> Iterator[tuple[int, Any]]:
        """On the owner thread."""
        from ..race.completion import complete

        began = False
        try:
            served = ServedModels(engine)
            models = engine.models
            lane = served.lane(self.asked.model)
            self.model = served.name_of(lane)
            if self.asked.thinking and not getattr(models.target.text, "thinks", True):
                words = f"The chat template of {models.target.name} has no switch for thinking: leave it out."
                raise ApiError(words, param=self.asked.switch_name, code="unsupported_parameter")
            for event in complete(models, self.asked.answer_request(lane), job.cancelled):
                began = True
                if not isinstance(event, Prefill):
                    yield -1, event
        except ApiError as error:
            yield -1, error
        except ContextError as error:
            longest = engine.models.target.context_length  # in OpenAI's words, by which clients know what it is
            words = f"This model's maximum context length is {longest} tokens. {error}"
            yield -1, ApiError(words, 400, self.param, "context_length_exceeded")
        except DecodeError as error:  # of the prompt, or later of logits that are not finite
            yield -1, ApiError(str(error), 500, code="failed") if began else ApiError(str(error), 400, self.param)
        except LaneError as error:
            yield -1, ApiError(str(error), 400, "model")
        except Refused as error:  # the chat template's or the tokenizer's word, if there is one
            unready = isinstance(error, ModelError) and not engine.name
            yield -1, ApiError(str(error), 503) if unready else ApiError(str(error), 400, self.param)

    async def next_event(self) -> Any:
        """Began, then Pieces, then Ended; None where the job ends without. Raises ApiError."""
        event = await self.mailbox.get()
        if isinstance(event, Failed):
            raise ApiError(event.message, 500, code="failed")
        if isinstance(event, ApiError):
            raise event
        return event

    def usage(self, began: Began, ended: Ended, tokens: int) -> dict[str, Any]:
        prompt, figures = len(began.prompt_ids), ended.figures
        accepted = figures["accepted"]
        return {
            "prompt_tokens": prompt,
            "completion_tokens": tokens,
            "total_tokens": prompt + tokens,
            "prompt_tokens_details": {"cached_tokens": began.cached},
            "completion_tokens_details": {
                "accepted_prediction_tokens": accepted,
                "rejected_prediction_tokens": (figures["proposed"] or 0) - (accepted or 0),
            },
            "speculation": {"lane": self.lane, **figures},
        }

    def document(self, choices: list[dict[str, Any]], streamed: bool, **more: Any) -> dict[str, Any]:
        kind = ("chat.completion" if self.chat else "text_completion") + ".chunk" * (streamed and self.chat)
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return {**head, "choices": choices, **more}

    def chunk(
        self,
        text: str | None,
        finish: str | None = None,
        first: bool = False,
        token_ids: tuple[int, ...] | None = None,
        thought: str = "",
    ) -> bytes:
        """A server-sent event with a piece of the answer."""
        if self.chat:
            delta = {"role": "assistant"} if first else {}
            delta |= {} if text is None or (thought and not text) else {"content": text}
            said: dict[str, Any] = {"delta": delta | _reasoning(thought)}
        else:
            said = {"text": text or ""}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": finish}
        choice |= {} if token_ids is None else {"token_ids": token_ids}
        usage = {"usage": None} if self.asked.usage_streamed else {}
        return event_of(self.document([choice], True, **usage))

    async def whole(self, began: Began) -> dict[str, Any]:
        """The answer in one document. Raises ApiError."""
        texts: list[str] = []
        thoughts: list[str] = []
        ids: list[int] = []
        while isinstance(event := await self.next_event(), Piece):
            texts.append(event.text)
            thoughts += (text for text, _ in event.thought)
            ids += event.token_ids
        if not isinstance(event, Ended):
            raise ApiError(INTERRUPTED, 503, code="cancelled")
        text = "".join(texts)
        message = {"role": "assistant", "content": text, "refusal": None, **_reasoning("".join(thoughts))}
        answer = {"message": message} if self.chat else {"text": text}
        choice: dict[str, Any] = {"index": 0, **answer, "logprobs": None, "finish_reason": event.finish}
        if self.asked.return_token_ids:
            choice |= {"token_ids": ids, "prompt_token_ids": list(began.prompt_ids)}
        return self.document([choice], False, usage=self.usage(began, event, len(ids)))

    async def stream(self, began: Began) -> AsyncIterator[bytes]:
        """The answer in server-sent events; an error in the middle of it is one of them."""
        tokens = 0
        with_ids = self.asked.return_token_ids
        if self.chat:
            yield self.chunk("", first=True)
        try:
            while isinstance(event := await self.next_event(), Piece):
                tokens += len(event.token_ids)
                thought = "".join(text for text, _ in event.thought)
                if event.text or thought or with_ids:
                    ids = event.token_ids if with_ids else None
                    yield self.chunk(event.text, token_ids=ids, thought=thought)
            if not isinstance(event, Ended):
                raise ApiError(INTERRUPTED, 503, code="cancelled")
            yield self.chunk(None, event.finish)
            if self.asked.usage_streamed:
                yield event_of(self.document([], True, usage=self.usage(began, event, tokens)))
            yield b"data: [DONE]\n\n"
        except ApiError as error:
            yield event_of(error_body(error))


def _reasoning(thought: str) -> dict[str, str]:
    """What was thought before an answer, under DeepSeek's name for it, which most clients read, and under that of
    newer ones (vllm#27752)."""
    return dict.fromkeys(("reasoning_content", "reasoning"), thought) if thought else {}


def event_of(document: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


class Endpoint:
    """Answers what is below BASE; everything else goes on to `app`, which stands behind it."""

    def __init__(self, app: ASGIApp, worker: Worker):
        self.app, self.worker = app, worker

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not f"{scope['path']}/".startswith(f"{BASE}/"):
            await self.app(scope, receive, send)
            return
        # A base URL with a slash at its end is a usual slip.
        path = "".join(f"/{part}" for part in scope["path"].removeprefix(BASE).split("/") if part)
        try:
            response = await self._answer(scope["method"], path, receive, send)
        except ApiError as error:
            headers = {"retry-after": str(RETRY_S)} if error.status in (429, 503) else {}
            headers |= {"allow": self._methods(path)} if error.status == 405 else {}
            response = JSONResponse(error_body(error), error.status, headers)
        if response:
            await response(scope, receive, send)

    KINDS: ClassVar[dict[str, type[Asked]]] = {"/chat/completions": ChatAsked, "/completions": CompletionAsked}

    def _methods(self, path: str) -> str:
        """The methods that a path takes; empty where there is no such path."""
        return "POST" if path in self.KINDS else "GET, HEAD" if f"{path}/".startswith("/models/") else ""

    async def _answer(self, method: str, path: str, receive: Receive, send: Send) -> JSONResponse | None:
        """None where it has been sent already. Raises ApiError."""
        if not (methods := self._methods(path)):
            raise ApiError(f"There is no {BASE}{path[:100]} here.", 404, code="not_found")
        if method not in methods.split(", "):
            raise ApiError(f"{BASE}{path[:100]} takes {methods}, not {method[:20]}.", 405, code="method_not_allowed")
        if path not in self.KINDS:
            return JSONResponse(await self._models(path.removeprefix("/models").removeprefix("/")))
        return await self._complete(self.KINDS[path].read(await self._body(receive)), receive, send)

    async def _served(self) -> ServedModels:
        """What is loaded; while models are being loaded, that is waited for. Raises ApiError."""
        until = asyncio.get_running_loop().time() + LOAD_S
        while (loading := self._loading()) and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.05)
        engine = self.worker.engine
        if loading:
            raise ApiError(f"Models are being loaded{loading}: try again in a while.", 503, code="loading")
        if isinstance(engine, NoEngine) or not engine.name:
            words = getattr(engine, "problem", "") or "No model is loaded: load one on the page's Models tab."
            raise ApiError(words, 503, code="no_model")
        return ServedModels(engine)

    def _loading(self) -> str:
        """What is being loaded, in words to go on with; empty where something is there, or nothing will be."""
        if not self.worker.ready:
            return f" ({self.worker.progress})"
        running = self.worker.running["running"]  # first: what it leaves is there before it is over
        return " in the place of others" if not self.worker.engine.name and running == "load" else ""

    async def _models(self, name: str) -> dict[str, Any]:
        served = await self._served()
        facts = {"object": "model", "created": 0, "owned_by": "dspark-playground"}
        if not name:
            return {"object": "list", "data": [{"id": n, **facts} for n in served.names()]}
        served.lane(name)
        return {"id": name, **facts}

    async def _complete(self, asked: Asked, receive: Receive, send: Send) -> JSONResponse | None:
        """Run a request; its client may go away at any time. Raises ApiError, but not once anything was sent."""
        served = await self._served()
        lane = served.lane(asked.model)
        asked.answer_request(lane)  # what is wrong with it is said at once
        answer = Answer(asked, served.name_of(lane))
        if not self.worker.submit(answer.job):
            raise ApiError(answer.job.refusal, 429, code="queue_full")
        replying = asyncio.create_task(self._reply(answer, send))
        leaving = asyncio.create_task(self._left(receive))
        try:
            await asyncio.wait([replying, leaving], return_when=asyncio.FIRST_COMPLETED)
            return replying.result() if replying.done() else None
        finally:
            answer.job.cancel()  # of no effect on one that is over
            for task in (replying, leaving):
                task.cancel()
            await asyncio.wait([replying, leaving])

    @staticmethod
    async def _reply(answer: Answer, send: Send) -> JSONResponse | None:
        """Nothing is sent before the answer begins: until then an error has a status of its own. Raises ApiError."""
        began = await answer.next_event()
        if not isinstance(began, Began):
            raise ApiError(INTERRUPTED, 503, code="cancelled")
        headers = {LANE_HEADER: answer.lane, "cache-control": "no-store"}
        if not answer.asked.stream:
            return JSONResponse(await answer.whole(began), 200, headers)
        headers |= {"content-type": "text/event-stream; charset=utf-8"}
        listed = [(k.encode(), v.encode()) for k, v in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": listed})
        async for chunk in answer.stream(began):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return None

    @staticmethod
    async def _body(receive: Receive) -> bytes:
        """The guard has limited it where it says its length. Raises ApiError if the client went away."""
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise ApiError("The request was not sent to its end.")
            body += message.get("body", b"")
            if len(body) > MAX_BODY_BYTES:
                raise ApiError(TOO_LONG, 413)
            if not message.get("more_body"):
                break
        if too_many_parts(body, MAX_STRINGS, MAX_BODY_BYTES):
            raise ApiError("The body has more parts than any conversation.", 413)
        return bytes(body)

    @staticmethod
    async def _left(receive: Receive) -> None:
        """Returns when the client has closed its connection."""
        while (await receive())["type"] != "http.disconnect":
            pass
