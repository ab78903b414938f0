"""Every trace of the golden sets, token for token and round for round."""

import pytest

from dspark_core.decode.rounds import Settings
from dspark_core.decode.schedule import ConfidenceThreshold, FullBlock
from dspark_core.decode.speculative import speculative

from .helpers import NEVER, Recorded, output, plain_output, rounds

FULL = FullBlock()


def decode(golden, max_tokens, schedule=FULL, **more):
    settings = Settings(max_tokens, temperature=more.pop("temperature", 0.0), stop_ids=more.pop("stop_ids", NEVER))
    return list(speculative(golden.target, golden.drafter, golden.trace["prompt_ids"], settings, schedule, **more))


def reproduces(golden, reference, limit, **more):
    """The reference checks its limit before a round, so one that is exactly full gets another round: asking for
    one token more does the same. Then ask for exactly the limit: the same output, no token more."""
    recorded = more.pop("numbers", None)

    def uniforms():
        return {"uniforms": Recorded(recorded)} if recorded else {}

    events = decode(golden, limit + 1, **uniforms(), **more)
    assert output(events)[:limit] == reference["output_ids"]
    ours = rounds(events)
    assert len(ours) == len(reference["rounds"])
    stops = more.get("stop_ids", NEVER)
    for a, b in zip(ours, reference["rounds"], strict=True):
        assert (a.position, list(a.draft_ids)) == (b["start"], b["drafted"])
        assert a.anchor_id == b.get("anchor", a.anchor_id)
        assert a.proposed == b.get("proposed", len(b["drafted"]))
        # z-lab's reference counts accepted drafts beyond a stop token, DeepSpec's (and this project) does not.
        end = next((k + 1 for k, t in enumerate(b["drafted"]) if t in stops), len(b["drafted"]))
        assert a.accepted == min(b["accepted"], end)
        if b["accepted"] <= end:
            assert a.next_id == b["next_token"]
    assert output(decode(golden, limit, **uniforms(), **more)) == reference["output_ids"]


def test_plain(golden):
    trace = golden.trace
    assert plain_output(golden.target, trace["prompt_ids"], trace["max_new_tokens"]) == trace["greedy_output_ids"]


def test_greedy(golden):
    reproduces(golden, golden.trace["speculative"], golden.trace["max_new_tokens"])


def test_tokens_per_round(golden):
    """An anchor read one slot off changes this and nothing else."""
    trace = golden.trace
    ours = rounds(decode(golden, trace["max_new_tokens"] + 1))
    assert sum(r.accepted + 1 for r in ours) / len(ours) == pytest.approx(trace["speculative"]["tau"])


def test_confidence_thresholds(golden):
    for threshold, reference in golden.trace.get("thresholds", {}).items():
        schedule = ConfidenceThreshold(float(threshold))
        reproduces(golden, reference, golden.trace["max_new_tokens"], schedule=schedule)


def test_stop_tokens(golden):
    for reference in golden.trace["stop"]:
        reproduces(golden, reference, 500, stop_ids=frozenset(reference["stop_token_ids"]))


def test_stop_tokens_in_plain_decoding(golden):
    for reference in golden.trace["stop"]:
        stops = frozenset(reference["stop_token_ids"])
        assert plain_output(golden.target, golden.trace["prompt_ids"], 500, stops) == reference["output_ids"]


def test_limit(golden):
    reproduces(golden, golden.trace["max_new_tokens_10"], 10)


def test_recorded_uniforms(golden):
    for reference in golden.trace.get("sampled", []):
        threshold = reference["confidence_threshold"]
        reproduces(
            golden,
            reference,
            reference["max_new_tokens"],
            schedule=ConfidenceThreshold(threshold) if threshold else FullBlock(),
            temperature=reference["temperature"],
            numbers=[u for _, numbers in reference["uniforms"] for u in numbers],
        )
