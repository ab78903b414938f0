"""One answer by one lane, alone on the device: a decode whose text ends where it was asked to, and which goes on from
what earlier answers left behind."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace

import mlx.core as mx

from ..decode.plain import plain
from ..decode.prefill import check
from ..decode.prefixes import Prefix, Prefixes
from ..decode.rounds import Prefill, Round, Settings, Start
from ..decode.speculative import Options, speculative
from ..errors import ContextError, DecodeError, LaneError
from ..models.drafter import Drafter
from ..models.target import Target
from .answer import AnswerRequest, AnswerText, Began, ChatText, Ended, Piece
from .loaded import Models
from .race import schedule_of
from .records import LaneRecord, LaneSpec


def complete(
    models: Models, request: AnswerRequest, cancelled: Callable[[], bool] = lambda: False
) -> Generator[Began | Prefill | Piece | Ended, None, None]:
    """Run a request on the thread that owns MLX: Began, Prefill events, a Piece for every step, Ended.

    `cancelled` is asked after every event of the decode. Raises LaneError for a drafter that cannot be used, ModelError
    for a conversation or a text that cannot, ContextError for a prompt that does not fit, DecodeError for one that is
    none or for logits that are not finite.
    """
    target, spec = models.target, request.lane
    for _ in models.read([spec.drafter_id]):
        pass
    drafter = models.drafters.get(spec.drafter_id, "there is none of this name.") if spec.speculative else None
    if isinstance(drafter, str):
        raise LaneError(f"{spec.method} is not running: {drafter}")
    prompt = prompt_ids(target, request)
    if len(prompt) >= target.context_length:
        raise ContextError(
            f"The prompt has {len(prompt):,} tokens; the context of {target.name} holds {target.context_length:,}."
        )
    stop_ids = target.stop_ids if request.settings.stop_ids is None else request.settings.stop_ids
    more = frozenset(i for i in request.stop_ids if i < target.vocab_size)
    settings = replace(request.settings, stop_ids=stop_ids | more)
    check(target, prompt, settings)
    noise = _noise(models, request)
    prefixes = models.prefixes if not noise else Prefixes(0)  # what others left behind may have been written wide
    prefix = prefixes.begin(target, drafter, prompt)
    yield Began(tuple(prompt), len(prefix.ids))
    lane, text, finish = LaneRecord(spec), _answer_text(target, request), ""
    events = _decode(models, spec, prompt, settings, prefix, noise)
    for event in events:
        lane.add(event)
        if cancelled():
            finish = "cancelled"
        elif isinstance(event, Prefill):
            yield event
        else:
            piece = _piece(event, text, settings.stop_ids or frozenset())
            finish = "stop" if text.stopped else event.finish or ""
            if finish and not text.stopped:
                rest = text.end()
                piece = replace(piece, texts=(*piece.texts, *rest), thought=(*piece.thought, *text.take_thought()))
                finish = "stop" if text.stopped else finish
            yield piece
        if finish:
            break
    yield Ended("length" if finish == "context" else finish, lane)
    events.close()
    mx.synchronize()
    prefixes.keep(prefix, [*prompt, *lane.output], len(prompt))


def _noise(models: Models, request: AnswerRequest) -> float:
    """How far logits move with the width here, where that is to be made up for. Raises DecodeError."""
    if request.strict and not request.settings.greedy:
        raise DecodeError("Strict mode is for greedy answers: leave the temperature at 0.")
    return models.verdict_noise().largest if request.strict and request.lane.speculative else 0.0


def _answer_text(target: Target, request: AnswerRequest) -> AnswerText:
    """Where the answer becomes text: a conversation's has its thoughts apart."""
    if request.prompt and isinstance(request.prompt[0], dict):
        return ChatText(target.token_bytes, request.stop, target.begun_thought(request.thinking))
    return AnswerText(target.token_bytes, request.stop)


def prompt_ids(target: Target, request: AnswerRequest) -> list[int]:
    """The token ids of a request's prompt. Raises ModelError."""
    prompt = request.prompt
    if isinstance(prompt, str):
        return target.encode_text(prompt)
    if prompt and isinstance(prompt[0], dict):
        return target.encode_chat(list(prompt), request.thinking)  # type: ignore[arg-type]
    return list(prompt)  # type: ignore[arg-type]


def _decode(
    models: Models, spec: LaneSpec, prompt: list[int], settings: Settings, prefix: Prefix, noise: float
) -> Generator[Prefill | Start | Round, None, None]:
    if prefix.context is None:
        yield from plain(models.target, prompt, settings, prefilled=prefix)
        return
    drafter: Drafter = prefix.context
    schedule = schedule_of(spec, models, drafter)
    yield from speculative(models.target, drafter, prompt, settings, schedule, Options(prefilled=prefix, strict=noise))


def _piece(event: Start | Round, text: AnswerText, stop_ids: frozenset[int]) -> Piece:
    """What a step adds to the text, up to a stop string."""
    tokens: Sequence[int] = [event.token_id] if isinstance(event, Start) else event.committed
    accepted = event.accepted if isinstance(event, Round) else 0
    texts: list[tuple[str, bool]] = []
    ids: list[int] = []
    for i, token in enumerate(tokens):
        if text.stopped:
            break
        ids.append(token)
        if token not in stop_ids:
            texts += text.add(token, i < accepted)
    return Piece(tuple(texts), tuple(ids), tuple(text.take_thought()))
