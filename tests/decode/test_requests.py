"""Requests at and beyond the limits."""

import dataclasses

import mlx.core as mx
import pytest

from dspark_core.decode.plain import plain
from dspark_core.decode.prefill import PREFILL_CHUNK
from dspark_core.decode.rounds import Prefill, Round, Settings, Start
from dspark_core.decode.schedule import ConfidenceThreshold, FixedCap, FullBlock
from dspark_core.decode.speculative import Options, speculative
from dspark_core.errors import DecodeError

from .helpers import NEVER, output, plain_output, rounds


def lanes(golden, prompt, settings, **more):
    yield list(plain(golden.target, prompt, settings, **more))
    yield list(speculative(golden.target, golden.drafter, prompt, settings, FullBlock(), **more))


@pytest.mark.parametrize("n", [0, -1, -100])
def test_max_tokens_below_one(n):
    with pytest.raises(DecodeError, match="max_tokens"):
        Settings(n)


@pytest.mark.parametrize(
    "field", [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}]
)
def test_settings_out_of_range(field):
    with pytest.raises(DecodeError, match=next(iter(field))):
        Settings(8, **field)


@pytest.mark.parametrize("n", [1, 2, 3, 9, 10])
def test_max_tokens_is_exact(golden, n):
    for events in lanes(golden, golden.trace["prompt_ids"], Settings(n, stop_ids=NEVER)):
        assert output(events) == golden.trace["greedy_output_ids"][:n]
        assert events[-1].finish == "length"


def test_empty_prompt(golden_a):
    for decode in (plain, lambda t, p, s: speculative(t, golden_a.drafter, p, s, FullBlock())):
        with pytest.raises(DecodeError, match="empty"):
            next(decode(golden_a.target, [], Settings(4)))


def test_ids_outside_the_vocabulary(golden_a):
    with pytest.raises(DecodeError, match="vocabulary"):
        next(plain(golden_a.target, [3, 256], Settings(4)))


def test_prompt_longer_than_the_context(golden_a):
    with pytest.raises(DecodeError, match="512"):
        next(plain(golden_a.target, [5] * 512, Settings(4)))


def test_the_context_ends_a_decode(golden_a):
    prompt = (golden_a.trace["prompt_ids"] * 30)[:505]
    expected = None
    for events in lanes(golden_a, prompt, Settings(50, stop_ids=NEVER)):
        assert len(output(events)) == 7 and events[-1].finish == "context"
        expected = expected or output(events)
        assert output(events) == expected


def test_prefill_comes_in_chunks_with_progress(golden):
    if golden.target.context_length < 2 * PREFILL_CHUNK:
        pytest.skip("the context of this set holds fewer than two chunks")
    prompt = (golden.trace["prompt_ids"] * 30)[: PREFILL_CHUNK + 150]
    results = set()
    for events in lanes(golden, prompt, Settings(12, stop_ids=NEVER)):
        progress = [(e.done, e.total) for e in events if isinstance(e, Prefill)]
        assert progress == [(0, 406), (256, 406), (406, 406)]
        results.add(tuple(output(events)))
    assert len(results) == 1


def test_first_token_is_a_stop_token(golden_a):
    first = golden_a.trace["greedy_output_ids"][0]
    for events in lanes(golden_a, golden_a.trace["prompt_ids"], Settings(20, stop_ids=frozenset([first]))):
        assert isinstance(events[-1], Start) and events[-1].finish == "stop" and not rounds(events)


def test_cancel_between_rounds(golden_a):
    events = speculative(golden_a.target, golden_a.drafter, golden_a.trace["prompt_ids"], Settings(100), FullBlock())
    for event in events:
        if isinstance(event, Round):
            break
    events.close()
    assert list(events) == []


def test_confidence_schedule_needs_a_confidence(golden_a, monkeypatch):
    a = golden_a
    monkeypatch.setattr(a.drafter, "info", dataclasses.replace(a.drafter.info, has_confidence=False))
    with pytest.raises(DecodeError, match="gives no confidence"):
        next(speculative(a.target, a.drafter, a.trace["prompt_ids"], Settings(4), ConfidenceThreshold(0.5)))


def test_rounds_tell_their_story(golden):
    """Positions follow each other, own time grows, committed tokens are the accepted drafts and the next token."""
    events = list(speculative(*_greedy(golden, 48), FullBlock(), Options(confidence=True)))
    start = next(e for e in events if isinstance(e, Start))
    position, anchor, time_s = start.position, start.token_id, 0.0
    for i, r in enumerate(rounds(events)):
        assert (r.index, r.position, r.anchor_id) == (i, position, anchor)
        assert r.proposed == len(r.draft_ids) == golden.drafter.info.max_drafts
        assert r.bonus == (r.accepted == r.proposed)
        whole = (*r.draft_ids[: r.accepted], r.next_id)
        assert r.committed == whole or (r.finish == "length" and r.committed == whole[: len(r.committed)])
        assert r.time_s > time_s
        assert len(r.confidence) == r.proposed and all(0 < c < 1 for c in r.confidence)
        assert r.detail is None and r.spent is None
        position, anchor, time_s = position + r.accepted + 1, r.next_id, r.time_s


def _greedy(golden, n):
    return golden.target, golden.drafter, golden.trace["prompt_ids"], Settings(n, stop_ids=NEVER)


def test_sampled_rounds_carry_q_p_and_accept_probability(golden_a):
    settings = Settings(40, temperature=1.0, seed=5, stop_ids=NEVER)
    events = list(speculative(golden_a.target, golden_a.drafter, golden_a.trace["prompt_ids"], settings, FixedCap(4)))
    for r in rounds(events):
        assert len(r.detail.q) == len(r.detail.p) == len(r.detail.accept) == r.proposed == 4
        for q, p, a in zip(r.detail.q, r.detail.p, r.detail.accept, strict=True):
            assert 0 < q <= 1 and 0 <= p <= 1 and a == pytest.approx(min(1, p / q), abs=1e-6)


def test_same_seed_same_output(golden):
    def sampled(seed):
        settings = Settings(30, temperature=0.9, top_k=20, top_p=0.95, seed=seed, stop_ids=NEVER)
        return [output(events) for events in lanes(golden, golden.trace["prompt_ids"], settings)]

    assert sampled(1) == sampled(1) != sampled(2)


def test_profile_splits_a_round(golden_a):
    events = list(speculative(*_greedy(golden_a, 48), FullBlock(), Options(profile=True)))
    assert output(events) == golden_a.trace["greedy_output_ids"]
    for before, r in zip([None, *rounds(events)], rounds(events), strict=False):
        took = r.time_s - (before.time_s if before else 0.0)
        assert r.spent.draft > 0 and r.spent.verify > 0 and r.spent.rest > 0
        assert r.spent.draft + r.spent.verify + r.spent.rest <= took + 1e-9


def test_own_clock(golden_a):
    """Round.time_s and Start.prefill_s come from the clock that was passed in."""
    ticks = iter(range(10_000))
    events = list(plain(golden_a.target, golden_a.trace["prompt_ids"], Settings(5), clock=lambda: float(next(ticks))))
    times = [r.time_s for r in rounds(events)]
    assert all(t == int(t) for t in times) and times == sorted(set(times))


def test_ties_go_to_the_lowest_id_in_every_path(golden_a):
    """A head whose rows come in equal pairs: both of a pair tie at every position."""

    class Tied(type(golden_a.target)):
        def raw_head(self, hidden):
            z = super().raw_head(hidden)
            return mx.repeat(z[..., ::2], 2, axis=-1)

    tied = object.__new__(Tied)
    tied.__dict__ = dict(golden_a.target.__dict__)
    prompt = golden_a.trace["prompt_ids"]
    expected = plain_output(tied, prompt, 60)
    assert all(t % 2 == 0 for t in expected)
    settings = Settings(60, stop_ids=NEVER)
    assert output(speculative(tied, golden_a.drafter, prompt, settings, FullBlock())) == expected


def test_settings_are_values():
    assert dataclasses.replace(Settings(8), temperature=0.0) == Settings(8)
    assert Settings(8).greedy and not Settings(8, temperature=0.7).greedy
