"""Every trace of the golden sets, token for token and round for round."""

import pytest

from dspark_core.bench.speed import summarise
from dspark_core.decode.rounds import Settings, tau
from dspark_core.decode.schedule import ConfidenceThreshold, FullBlock
from dspark_core.decode.speculative import speculative
from dspark_core.race.metrics import lengths as length_counts
from dspark_core.race.metrics import metrics
from dspark_core.race.records import LaneRecord, LaneSpec

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


def test_acceptance_lengths(golden):
    """One count for all, DeepSpec's: accepted + 1, but accepted where a stop token ends the round inside the draft.
    (z-lab's reference adds the token that it then drops; for it only the rounds before the last are compared.)"""
    limit, ended_inside = golden.trace["max_new_tokens"], 0
    asked = [(golden.trace["speculative"], limit + 1, NEVER), (golden.trace["max_new_tokens_10"], 11, NEVER)]
    asked += [(reference, 500, frozenset(reference["stop_token_ids"])) for reference in golden.trace["stop"]]
    for reference, tokens, stops in asked:
        events = decode(golden, tokens, stop_ids=stops)
        ours, wanted = rounds(events), reference["acceptance_lengths"]
        lengths, tells = [r.acceptance_length for r in ours], "proposal_lengths" in reference
        assert lengths == wanted if tells else lengths[:-1] == wanted[:-1]
        if tells:
            assert tau(ours) == pytest.approx(reference["tau"])
        if stops:  # every token after the first belongs to one round
            assert sum(lengths) == len(reference["output_ids"]) - 1
        ended_inside += ours[-1].acceptance_length == ours[-1].accepted
        assert summarise(events)["tokens_per_round"] == pytest.approx(tau(ours), abs=6e-4)
        lane = LaneRecord(LaneSpec("DSpark"), rounds=ours)
        assert metrics(lane).tokens_per_round == tau(ours)
        assert sum(n * count for n, count in length_counts(ours).items()) == sum(lengths)
    assert ended_inside, "no stop token stands inside a draft: this tests nothing"


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
