"""What a client may ask of the endpoint, in the words of OpenAI's API, and how it is told that it may not.

Fields that are not known are ignored. Those that would change the answer and cannot be had are refused by name, unless
they ask for what happens anyway (`n` of 1, an empty list of tools).
"""

import json
import secrets
from contextlib import suppress
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
    ValidationError,
    model_validator,
)

from ..decode.rounds import Settings
from ..errors import ApiError
from ..models.info import DrafterInfo
from ..models.token_bytes import whole_characters
from ..race.answer import AnswerRequest
from ..race.lane_spec import lane_text, read_lane
from ..race.records import PLAIN, LaneSpec
from .worker import Engine

BASE = "/v1"
MAX_BODY_BYTES = 2_000_000
TOO_LONG = f"A request has at most {MAX_BODY_BYTES:,} bytes."
MAX_STOPS, MAX_STOP = 16, 500  # stop strings, and characters of one
MAX_COMPLETION = 16  # tokens of a completion that does not say how many it wants, as OpenAI has it
MAX_SEED = 2**63
AT = "@"  # between a model and a lane
SILENT = ("none", "minimal")  # efforts that are no thought
# Not every language that clients are written in has whole numbers.
Whole = Annotated[StrictInt, BeforeValidator(lambda x: int(x) if isinstance(x, float) and x.is_integer() else x)]
# -1, as LM Studio and llama.cpp have it, is as many as fit.
Tokens = Annotated[Whole, BeforeValidator(lambda x: MAX_SEED if x == -1 else x), Field(ge=1)]
T = TypeVar("T")
Listed = Annotated[list[T], Field(fail_fast=True)]  # else a million of wrong entries are a million of errors
# What a field may say although the endpoint has no such thing: OpenAI's, then what vLLM, SGLang, llama.cpp and mlx-lm
# have beside them.
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
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "echo": (False,),
    "suffix": ("",),
    **dict.fromkeys(("min_p", "min_tokens", "top_a", "mirostat", "dynatemp_range", "smoothing_factor"), (0,)),
    **dict.fromkeys(("xtc_probability", "dry_multiplier", "top_n_sigma"), (0, -1)),
    **dict.fromkeys(("repetition_penalty", "repeat_penalty", "length_penalty", "typical_p", "tfs_z"), (1,)),
    **dict.fromkeys(("ignore_eos", "use_beam_search", "continue_final_message"), (False,)),
    **dict.fromkeys(("include_stop_str_in_output", "no_stop_trim"), (False,)),
    **dict.fromkeys(("skip_special_tokens", "add_generation_prompt"), (True,)),
    **dict.fromkeys(("grammar", "regex", "ebnf", "guided_regex", "guided_grammar", "chat_template"), ("",)),
    **dict.fromkeys(("json_schema", "guided_json", "structured_outputs"), ({}, "")),
    **dict.fromkeys(("bad_words", "allowed_token_ids", "guided_choice", "logits_processors", "documents"), ([],)),
    **dict.fromkeys(("truncate_prompt_tokens", "prompt_logprobs", "adapters"), ()),
}
# Of a message: what it would say besides its content.
BESIDES = ("tool_calls", "function_call", "images", "audio", "prefix")


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
    max_tokens: Tokens | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: Whole | None = Field(None, ge=-1)
    seed: Whole | None = None
    stop: StrictStr | Listed[StrictStr] | None = None
    stop_token_ids: Listed[Annotated[StrictInt, Field(ge=0)]] | None = Field(None, max_length=1000)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = None
    strict: bool | None = None

    @model_validator(mode="after")
    def _refuse(self) -> "Asked":
        for name, value in (self.model_extra or {}).items():
            neutral = [(isinstance(v, bool), v) for v in NEUTRAL.get(name, ())]  # False is no 0 here
            if name in NEUTRAL and value is not None and (isinstance(value, bool), value) not in neutral:
                words = f"{name!r} with this value is not supported by this endpoint: leave it out."
                raise ApiError(words, param=name, code="unsupported_parameter")
        if self.stream_options and not self.stream:
            raise ApiError("'stream_options' is for requests with 'stream': true.", param="stream_options")
        if self.strict and self.temperature:
            raise ApiError("'strict' is for greedy answers: leave 'temperature' out.", param="strict")
        return self

    @classmethod
    def read(cls, body: bytes) -> "Asked":
        """Raises ApiError."""
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            if first["type"] == "json_invalid":
                with suppress(ValueError, RecursionError):  # half a character in an escape, which is no fault in JSON
                    clean = whole_characters(json.dumps(json.loads(body), ensure_ascii=False)).encode()
                    if clean != body:
                        return cls.read(clean)
                raise ApiError(f"The body is no JSON ({first['msg'].rpartition(': ')[2]}).") from None
            name = str(first["loc"][0]) if first["loc"] else None
            place = ""
            for part in first["loc"]:
                if part == "str" or str(part).startswith(("list[", "function-")):  # a type, of several
                    break
                place += f"[{part}]" if isinstance(part, int) else f"{'.' * bool(place)}{part}"
            words = f"{place}{': ' * bool(place)}{first['msg'][:300].rstrip('.')}."
            raise ApiError(words, param=name, code="invalid_value") from None

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

    @property
    def switch_name(self) -> str:
        """The field that asks for thinking."""
        return "reasoning_effort"

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
        return AnswerRequest(
            self.prompt_of(), lane, settings, self.stops(), ids, self.thinking, strict=bool(self.strict)
        )


class ContentPart(BaseModel):
    model_config = ConfigDict(strict=True)

    type: StrictStr
    text: StrictStr | None = None
    refusal: StrictStr | None = None


class Message(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    role: StrictStr
    content: StrictStr | Listed[ContentPart] | None = None

    def turn(self, number: int) -> dict[str, str]:
        """As a chat template takes it. Raises ApiError."""
        answer, texts, words = self.role == "assistant", [], ""
        besides = next((name for name in BESIDES if (self.model_extra or {}).get(name)), "")
        for part in self.content if isinstance(self.content, list) else ():
            text = part.refusal if part.type == "refusal" and answer else part.text if part.type == "text" else None
            texts.append(text or "")
            if text is None:
                words = f"a part of type {part.type[:40]!r} is not supported, only text is"
                words = words if part.type != "text" else "a part of type 'text' has no 'text'"
        if self.role not in ("system", "developer", "user", "assistant"):
            words = "this endpoint knows the roles system, developer, user and assistant, and no tools"
        elif besides:
            words = f"{besides!r} is not supported by this endpoint"
        elif self.content is None and not answer:
            words = f"the {self.role} turn has no 'content'"
        if words:
            raise ApiError(f"messages[{number}]: {words}.", param="messages", code="unsupported_value")
        text = self.content if isinstance(self.content, str) else "".join(texts)
        return {"role": "system" if self.role == "developer" else self.role, "content": whole_characters(text)}


class ChatAsked(Asked):
    """POST /v1/chat/completions"""

    messages: list[Message] = Field(min_length=1, fail_fast=True)
    max_completion_tokens: Tokens | None = None
    reasoning_effort: StrictStr | None = None
    chat_template_kwargs: TemplateOptions | None = None
    enable_thinking: bool | None = None  # where DashScope's clients have it

    @property
    def limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def thinking(self) -> bool:
        switch = self.chat_template_kwargs.switch if self.chat_template_kwargs else None
        switch = self.enable_thinking if switch is None else switch
        return self.reasoning_effort not in (None, *SILENT) if switch is None else switch

    @property
    def switch_name(self) -> str:
        options = self.chat_template_kwargs
        return "chat_template_kwargs" if options and options.switch else super().switch_name

    def prompt_of(self) -> list[dict[str, str]]:
        return [message.turn(i) for i, message in enumerate(self.messages)]


class CompletionAsked(Asked):
    """POST /v1/completions"""

    prompt: StrictStr | Listed[StrictStr] | Listed[StrictInt] | Listed[Listed[StrictInt]]

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
