"""The conversation so far: a finished race's exchange can be kept as context, so that the next race goes on from it.

It lives as long as the page does. The place's value is one JSON document, for assets/page/conversation.js:

    {"words": ..., "failed": whether they say why nothing was kept, "turns": [[user's turn, answer], ...]}
"""

import json
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ..models.thoughts import CHANNEL, THOUGHTS
from ..race.records import MAX_EARLIER, MAX_EXCHANGES, RaceRecord
from ..race.trace import Trace
from .saved import answer_ids, reference, traced
from .widgets import script, static
from .worker import Worker

TEMPLATE = """
<p role="status"></p>
<details hidden><summary>Read it</summary>
<div tabindex="0" role="region" aria-label="The conversation so far"><dl></dl></div></details>
"""
TO_PROMPT = "() => document.querySelector('#prompt textarea').focus()"


@dataclass(frozen=True)
class Conversation:
    """The conversation so far as (user's turn, answer) pairs, with about how many tokens of context it is.

    cut: the last answer ended at its token limit
    """

    earlier: tuple[tuple[str, str], ...] = ()
    tokens: int = 0
    cut: bool = False


@dataclass(frozen=True)
class ConversationRow:
    """`earlier` holds the pairs that go before the next prompt; `shown` shows them. `take` and `over` are buttons."""

    earlier: gr.State
    shown: gr.HTML
    take: gr.Button
    over: gr.Button


def conversation_after(trace: Trace | None) -> Conversation:
    """The conversation that a race on the board ends with: what it began with, its prompt and the plain lane's
    answer, or the first lane's where there is no plain. Raises ValueError, in one sentence, if it ends with none."""
    if trace is None:
        raise ValueError("There is no finished race yet whose answer could be kept.")
    race, lane = trace.race, reference(trace.race)
    if lane.error is not None:
        raise ValueError(f"The {lane.spec.name} lane failed, so there is no answer to keep.")
    if race.stopped or lane.finish is None:
        raise ValueError("This race was stopped before its end, so its answer is not kept.")
    answer = _without_thoughts(trace)
    if not answer:
        raise ValueError("The answer is empty, so there is nothing to keep.")
    earlier = (*race.request.earlier, (race.request.prompt, answer))
    if len(earlier) > MAX_EXCHANGES:
        raise ValueError(f"A conversation has at most {MAX_EXCHANGES} exchanges here: start over.")
    if sum(len(user) + len(reply) for user, reply in earlier) > MAX_EARLIER:
        raise ValueError(f"A conversation has at most {MAX_EARLIER:,} characters here: start over.")
    return Conversation(earlier, race.prompt_tokens + len(lane.output), lane.finish != "stop")


def _without_thoughts(trace: Trace) -> str:
    """The answer that a race gave. Half characters are left out, and thoughts, as the chat template would: what is
    between their two tokens, or before the second where the prompt brought the first, which the files of older races
    do not say. A model speaks of these tags in other tokens than it thinks with; if in these, then after it has
    thought."""
    ids = answer_ids(trace)
    texts = [trace.tokens[i].decode(errors="ignore").strip() for i in ids]
    for begin, end in THOUGHTS.items():
        earlier = 0
        while thought := _thought(texts, begin, end, earlier):
            del ids[thought], texts[thought]
            earlier += 1
    answer = b"".join(map(trace.token_text, ids)).decode(errors="ignore").strip()
    if len(ids) == len(answer_ids(trace)):  # a vocabulary without such tokens spells the tags, at the beginning
        spelled = next(filter(answer.startswith, THOUGHTS), "")
        begun = trace.race.thought.begin if trace.race.thought else ""
        if begun or (spelled and (THOUGHTS[spelled] in answer or reference(trace.race).finish != "stop")):
            answer = answer.partition(THOUGHTS[begun or spelled])[2].strip()
    return answer


def _thought(texts: list[str], begin: str, end: str, earlier: int) -> slice | None:
    """Where the next thought stands among an answer's tokens, after so many earlier ones that are cut out."""
    if earlier and begin != CHANNEL:
        return None
    if end in texts:
        last = texts.index(end) + 1
        if begin in texts[:last]:
            return slice(texts.index(begin), last)
        return None if earlier else slice(0, last)
    unfinished = begin in (texts if begin == CHANNEL else [text for text in texts if text][:1])
    return slice(texts.index(begin), None) if unfinished else None


def conversation_json(conversation: Conversation, refusal: str = "") -> str:
    """What the place shows: why nothing was kept if there is a `refusal`, and what is kept anyway."""
    n = len(conversation.earlier)
    words = f"Context of the next race: {n} exchange{'s' * (n > 1)}, about {conversation.tokens:,} tokens."
    if conversation.cut:
        words += " The last answer was cut off at its token limit."
    shown = " ".join([refusal] * bool(refusal) + [words] * bool(n))
    return json.dumps({"words": shown, "failed": bool(refusal), "turns": conversation.earlier}, ensure_ascii=False)


def conversation_row() -> ConversationRow:
    """The row, without its deeds: see `wire`."""
    with gr.Row(elem_id="talk"):
        take = gr.Button("Keep this exchange as context", size="sm", elem_id="take")
        over = gr.Button("Start over", size="sm", elem_id="over", visible=False)
        place = static(TEMPLATE, script("conversation"), elem_id="talk-told")
    return ConversationRow(gr.State(Conversation()), place, take, over)


def wire(worker: Worker, row: ConversationRow, trace: gr.State, last: gr.State) -> None:
    """`trace` is the race on the board; `last` is that race as soon as it is over, a moment before its trace."""
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

    def take(visitor: gr.Request, values: dict):
        on_board: Trace | None = values[trace]
        newest: RaceRecord | None = values[last]
        try:
            if worker.busy(visitor.session_hash):
                raise ValueError("A race is running: its exchange can be kept when it has ended.")
            fresh = on_board is None or on_board.race is not newest
            after = conversation_after(traced(newest) if newest is not None and fresh else on_board)
        except ValueError as error:
            return {row.shown: conversation_json(values[row.earlier], str(error))}
        return {row.earlier: after, row.shown: conversation_json(after), row.over: gr.update(visible=True)}

    def over():
        empty = Conversation()
        return {row.earlier: empty, row.shown: conversation_json(empty), row.over: gr.update(visible=False)}

    row.take.click(take, {trace, last, row.earlier}, [row.earlier, row.shown, row.over], **quiet)
    row.over.click(over, None, [row.earlier, row.shown, row.over], **quiet).then(None, js=TO_PROMPT)
