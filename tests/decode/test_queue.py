"""The host waits for the step that it reads and for nothing behind it."""

import mlx.core as mx
import pytest

from dspark_core.decode import speculative as module
from dspark_core.decode.plain import plain
from dspark_core.decode.prefill import prefill_once
from dspark_core.decode.rounds import Settings
from dspark_core.decode.schedule import ConfidenceThreshold, FixedCap, FullBlock, Schedule
from dspark_core.decode.speculative import Options, speculative

from .helpers import NEVER, output, rounds
from .queue import Queue

GREEDY, SAMPLED = Settings(24, stop_ids=NEVER), Settings(24, temperature=1.0, top_k=20, top_p=0.9, stop_ids=NEVER)


class Parked(Schedule):
    """Drafts nothing, but for one round in seven."""

    def __init__(self):
        self._round = 0

    def begin(self, max_drafts):
        return self

    def drafts(self, max_drafts, position):
        return 2 if self._round % 7 == 3 else 0

    def parked(self):
        return self._round % 7 not in (2, 3)

    def observe(self, r):
        self._round += 1


def watched(monkeypatch, events) -> tuple[list, Queue]:
    with monkeypatch.context() as patch:
        queue = Queue(patch)
        return list(events()), queue


def test_the_watch_sees_a_flag_that_is_built_too_late(monkeypatch):
    """The loop's old fault, in small."""

    def late():
        a = mx.arange(4) + 1
        mx.async_eval(a)
        b = a * 2
        mx.async_eval(b)
        assert a.tolist() == [1, 2, 3, 4]
        yield (a > 1).tolist()
        yield b.tolist()

    _, queue = watched(monkeypatch, late)
    assert len(queue.late) == 1 and queue.ahead == 1


@pytest.mark.parametrize("settings", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("stops", [False, True])
@pytest.mark.parametrize("once", [False, True])
def test_plain(golden_a, monkeypatch, settings, stops, once):
    prompt = golden_a.trace["prompt_ids"]
    settings = settings if not stops else Settings(24, settings.temperature, stop_ids=frozenset([3, 5]))
    prefilled = prefill_once(golden_a.target, prompt) if once else None
    events, queue = watched(monkeypatch, lambda: plain(golden_a.target, prompt, settings, prefilled=prefilled))
    assert not queue.late
    assert queue.ahead >= len(rounds(events)) - 1  # each but the last was read with its successor on the way


@pytest.mark.parametrize("settings", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_parked_rounds(golden, monkeypatch, settings):
    """Plain steps of a lane that drafts now and then, with taps handed over while it is parked."""
    monkeypatch.setattr(module, "PREFILL_CHUNK", 4)
    prompt = golden.trace["prompt_ids"]
    events, queue = watched(
        monkeypatch,
        lambda: speculative(golden.target, golden.drafter, prompt, settings, Parked(), Options(confidence=True)),
    )
    assert not queue.late
    assert queue.ahead >= 8
    assert {r.proposed for r in rounds(events)} == {0, 2}
    if settings.greedy:
        assert output(events) == golden.trace["greedy_output_ids"][: settings.max_tokens]


@pytest.mark.parametrize("settings", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("schedule", [FullBlock(), FixedCap(0), FixedCap(2), ConfidenceThreshold(0.5)], ids=repr)
@pytest.mark.parametrize("profile", [False, True])
def test_drafted_rounds(golden_a, monkeypatch, settings, schedule, profile):
    prompt, stops = golden_a.trace["prompt_ids"], frozenset([3, 5])
    settings = Settings(24, settings.temperature, stop_ids=stops)
    _, queue = watched(
        monkeypatch,
        lambda: speculative(
            golden_a.target, golden_a.drafter, prompt, settings, schedule, Options(confidence=True, profile=profile)
        ),
    )
    assert not queue.late


def test_strict_rounds(golden_a, monkeypatch):
    prompt = golden_a.trace["prompt_ids"]
    _, queue = watched(
        monkeypatch,
        lambda: speculative(golden_a.target, golden_a.drafter, prompt, GREEDY, Parked(), Options(strict=1e-9)),
    )
    assert not queue.late
