"""Is greedy output the target's own? Many prompts, every lane, and how near a tie the answers came."""

import time
from collections.abc import Callable, Iterator

import mlx.core as mx

from ..decode.prefill import walk_prefix
from ..decode.rounds import Round, Settings
from ..models.drafter import gaps
from ..models.target import Target
from ..race.loaded import Models
from ..race.race import race
from ..race.records import PLAIN, LaneSpec, RaceRecord, RaceRequest
from ..race.verdict_words import first_difference
from .evidence import Agreement, AgreementRequest, Step


def agreement(
    models: Models,
    request: AgreementRequest,
    cancelled: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[tuple[int, Step | Agreement]]:
    """Yields (-1, Step) while it works and (-1, Agreement) for every prompt that was decoded to its end."""
    infos = [i for i in models.infos if i.id in models.loaded]
    lanes = LaneSpec(PLAIN), *(LaneSpec(i.method, label="full block", drafter=i.lane_drafter) for i in infos)
    settings, began = Settings(max_tokens=request.tokens), clock()
    for k, prompt in enumerate(request.prompts):
        asked = RaceRequest(prompt, lanes, settings, together=False)
        events = race(models, asked, cancelled)
        record: RaceRecord | None = None
        committed = 0
        try:
            for _, event in events:
                if isinstance(event, RaceRecord):
                    record = event
                elif isinstance(event, Round):
                    committed += len(event.committed)
                    share = (k + min(1.0, committed / (request.tokens * len(lanes)))) / len(request.prompts)
                    left = (clock() - began) * (1 / share - 1)
                    yield -1, Step(share, f"prompt {k + 1} of {len(request.prompts)}", left)
        finally:
            events.close()
        if record is None or record.verdict is None or record.stopped or cancelled():
            return
        output = record.lanes[0].output
        if not output:
            continue
        prompt_ids = models.target.encode_chat(asked.messages, **asked.switches)
        distances, best = choices_along(models.target, prompt_ids, output)
        tied = [k for k, gap in enumerate(distances.tolist()) if gap == 0]
        verdict = record.verdict
        yield (
            -1,
            Agreement(
                prompt,
                tuple(lane.name for lane in lanes),
                len(output),
                verdict.kind,
                verdict.words,
                verdict.differences,
                distances.min().item(),
                len(tied),
                tuple(_lower(lane.output, output, tied, best.tolist()) for lane in record.lanes),
            ),
        )


def _lower(output: list[int], plain: list[int], tied: list[int], best: list[int]) -> tuple[int, int]:
    """How many of the tied positions a lane reached with plain's text before it, and where it took the lowest id."""
    parted = first_difference(plain, output)
    reached = [k for k in tied if k < len(output) and (parted is None or k <= parted)]
    return len(reached), sum(output[k] == best[k] for k in reached)


def gaps_along(target: Target, prompt: list[int], output: list[int]) -> mx.array:
    """[n] best logit minus second best at every position of the output."""
    return choices_along(target, prompt, output)[0]


def choices_along(target: Target, prompt: list[int], output: list[int]) -> tuple[mx.array, mx.array]:
    """[n] best logit minus second best at every position of the output, and [n] the lowest id with the best, in
    chunks."""
    cache, ids = target.new_cache(), mx.array([*prompt, *output[:-1]], dtype=mx.int32)
    distances, best = [], []
    for start, hidden in walk_prefix(lambda chunk, cache: (target.forward(chunk, cache)[0], []), ids, cache):
        first = max(0, len(prompt) - 1 - start)  # rows before the prompt's last choose nothing of the output
        if first < hidden.shape[0]:
            logits = target.head(hidden[first:])
            distances.append(gaps(logits))
            best.append(mx.argmax(logits, axis=-1))
            mx.eval(distances[-1], best[-1])  # so that no chunk's logits outlive it
    return mx.concatenate(distances), mx.concatenate(best)
