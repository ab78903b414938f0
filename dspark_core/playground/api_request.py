"""What a client may ask of the endpoint, in the words of OpenAI's API, and how it is told that it may not.

Fields that are not known are ignored. Those that would change the answer and cannot be had are refused by name, unless
they ask for what happens anyway (`n` of 1, an empty list of tools).
"""

import secrets
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError, model_validator

from ..decode.rounds import Settings
from ..errors import ApiError
from ..models.info import DrafterInfo
from ..models.token_bytes import whole_characters
from ..race.answer import AnswerRequest
from ..race.lane_spec import lane_text, read_lane
from ..race.records import PLAIN, LaneSpec
from .worker import Engine

BASE = "/v1"
MAX_STOPS, MAX_STOP = 16, 500  # stop strings, and characters of one
MAX_COMPLETION = 16  # tokens of a completion that does not say how many it wants, as OpenAI has it
MAX_SEED = 2**63
AT = "@"  # between a model and a lane
SILENT = ("none", "minimal")  # efforts that are no thought
# What a field may say although the endpoint has no such thing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "min_p": (0,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "echo": (False,),
    "suffix": ("",),
}


def error_body(error: ApiError) -> dict[str, Any]:
    """OpenAI's form of a refusal."""
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = kinds.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    return {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}}


class StreamOptions(BaseModel):
    include_usage: bool = False


class TemplateOptions(BaseModel):
    enable_thinking: bool | None = None
    thinking: bool | None = None  # what some chat templates call the same

    @property
    def switch(self) -> bool | None:
        return self.thinking if self.enable_thinking is None else self.enable_thinking


class Asked(BaseModel):
    """What both kinds of requests have in common."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: StrictStr = Field(min_length=1, max_length=500)
    max_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: StrictInt | None = Field(None, ge=-1)
    seed: StrictInt | None = None
    stop: StrictStr | list[StrictStr] | None = None
    stop_token_ids: list[Annotated[StrictInt, Field(ge=0)]] | None = Field(None, max_length=1000)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = None

    @model_validator(mode="after")
    def _refuse(self) -> "Asked":
        for name, value in (self.model_extra or {}).items():
            if name in NEUTRAL and value is not None and value not in NEUTRAL[name]:
                words = f"{name!r} with this value is not supported by this endpoint: leave it out."
                raise ApiError(words, param=name, code="unsupported_parameter")
        if self.stream_options and not self.stream:
            raise ApiError("'stream_options' is for requests with 'stream': true.", param="stream_options")
        return self

    @classmethod
    def read(cls, body: bytes) -> "Asked":
        """Raises ApiError."""
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            place = [str(part) for part in first["loc"]]
            if first["type"] == "json_invalid":
                raise ApiError(f"The body is no JSON ({first['msg'].rpartition(': ')[2]}).") from None
            name = place[0] if place else None
            where = f"{'.'.join(place)}: " if place else ""
            raise ApiError(f"{where}{first['msg'][:300].rstrip('.')}.", param=name, code="invalid_value") from None

    @property
    def limit(self) -> int | None:
        """How many tokens at most; None for as many as fit."""
        return self.max_tokens

    @property
    def usage_streamed(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def thinking(self) -> bool:
        return False

    def prompt_of(self) -> Any:
        """As AnswerRequest has it. Raises ApiError."""
        raise NotImplementedError

    def stops(self) -> tuple[str, ...]:
        """Raises ApiError."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(stops) > MAX_STOPS or not all(0 < len(s) <= MAX_STOP for s in stops):
            words = f"'stop' takes up to {MAX_STOPS} strings of 1 to {MAX_STOP} characters."
            raise ApiError(words, param="stop", code="invalid_value")
        return tuple(whole_characters(s) for s in stops)

    def answer_request(self, lane: LaneSpec) -> AnswerRequest:
        """Raises ApiError."""
        settings = Settings(
            max_tokens=min(self.limit or MAX_SEED, MAX_SEED),
            temperature=self.temperature or 0.0,
            top_k=max(self.top_k or 0, 0),
            top_p=max(1.0 if self.top_p is None else self.top_p, 1e-9),
            seed=secrets.randbits(48) if self.seed is None else self.seed % MAX_SEED,
        )
        ids = frozenset(self.stop_token_ids or [])
        return AnswerRequest(self.prompt_of(), lane, settings, self.stops(), ids, self.thinking)


class ContentPart(BaseModel):
    model_config = ConfigDict(strict=True)

    type: StrictStr
    text: StrictStr = ""


class Message(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    role: StrictStr
    content: StrictStr | list[ContentPart] | None = None

    def turn(self, number: int) -> dict[str, str]:
        """As a chat template takes it. Raises ApiError."""
        at = f"messages[{number}]"
        if self.role not in ("system", "developer", "user", "assistant") or (self.model_extra or {}).get("tool_calls"):
            words = f"{at}: this endpoint knows the roles system, developer, user and assistant, and no tools."
            raise ApiError(words, param="messages", code="unsupported_value")
        parts = [ContentPart(type="text", text=self.content)] if isinstance(self.content, str) else self.content or []
        if other := next((part.type for part in parts if part.type != "text"), None):
            words = f"{at}: a part of type {other[:40]!r} is not supported, only text is."
            raise ApiError(words, param="messages", code="unsupported_value")
        text = whole_characters("".join(part.text for part in parts))
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatAsked(Asked):
    """POST /v1/chat/completions"""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    reasoning_effort: StrictStr | None = None
    chat_template_kwargs: TemplateOptions | None = None

    @property
    def limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def thinking(self) -> bool:
        switch = self.chat_template_kwargs.switch if self.chat_template_kwargs else None
        return self.reasoning_effort not in (None, *SILENT) if switch is None else switch

    def prompt_of(self) -> list[dict[str, str]]:
        return [message.turn(i) for i, message in enumerate(self.messages)]


class CompletionAsked(Asked):
    """POST /v1/completions"""

    prompt: StrictStr | list[StrictStr] | list[StrictInt] | list[list[StrictInt]]

    @property
    def limit(self) -> int:
        return self.max_tokens or MAX_COMPLETION

    def prompt_of(self) -> str | list[int]:
        prompt: Any = self.prompt
        if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
            if len(prompt) > 1:
                words = "This endpoint answers one prompt a request."
                raise ApiError(words, param="prompt", code="unsupported_value")
            prompt = prompt[0]
        return whole_characters(prompt) if isinstance(prompt, str) else prompt


class ServedModels:
    """The names under which what is loaded can be asked: the target's alone for its best usual lane, or with a lane in
    the words of race/lane_spec.py, as in NAME@dspark:cap=3. A lane alone will do, too.
    """

    def __init__(self, engine: Engine):
        self.name: str = engine.name
        self.infos: tuple[DrafterInfo, ...] = getattr(engine, "infos", ())

    @property
    def usual(self) -> str:
        """The lane of the bare name: the first drafter's, as this machine's costs decide."""
        return self.infos[0].id if self.infos else PLAIN

    def names(self) -> list[str]:
        return [self.name, *(f"{self.name}{AT}{lane}" for lane in (PLAIN, *(info.id for info in self.infos)))]

    def name_of(self, spec: LaneSpec) -> str:
        return f"{self.name}{AT}{lane_text(spec)}"

    def lane(self, model: str) -> LaneSpec:
        """Raises ApiError."""
        name, at, lane = model.rpartition(AT)
        if not at or model == self.name:
            name, lane = self.name, self.usual if model == self.name else model
        try:
            if name != self.name:
                raise ValueError("it is not loaded")
            return read_lane(lane, self.infos).spec
        except ValueError as error:
            why = str(error).rstrip(".")
            words = f"The model {model[:100]!r} cannot be had ({why}): ask for one of {', '.join(self.names())}."
            raise ApiError(words, 404, "model", "model_not_found") from None
