"""Drafters in the packagings of speculators, SpecForge and DFlash 2, and DeepSpec's without embedding: against what the
reference packages gave. `further` goes through every golden set of these, and those of GOLDEN_DIR."""

import mlx.core as mx
import pytest

from dspark_core.decode.rounds import Settings
from dspark_core.decode.schedule import FullBlock
from dspark_core.decode.speculative import speculative
from tests.conftest import golden_paths, load_golden
from tests.decode.helpers import NEVER, Recorded, output, rounds, worst

from .build import GOLDEN
from .test_parity import TOLERANCE, greedy

FORMATS = GOLDEN / "formats"


def test_every_round_is_the_reference_s(further):
    """Hidden states, base, biased and selector's logits, confidences, drafts. Tokens that cannot be drafted have no
    logit; `draft_ids` are the others'."""
    d, e, trace = further.drafter, further.expected, further.trace
    c, first = d.config, trace["first_slot"]
    assert (c.first_slot, list(d.taps), c.block_size) == (first, trace["target_layer_ids"], trace["block_size"])
    assert d.info.max_drafts == trace["drafts_per_round"]
    assert worst(d.weights.fuse(e["tapped_hidden"]), e["fused_context"]) < TOLERANCE
    assert worst(d.embed(e["block_ids"]), e["block_embeds"]) < TOLERANCE
    context, before = d.begin(), 0
    for r, start in enumerate(e["rounds.start"].tolist()):
        context.extend(e["greedy_ids"][before:start], e["full_tapped_hidden"][before:start])
        before = start
        block = context.propose(e["rounds.anchor"][r : r + 1], d.info.max_drafts, greedy, confidence=True)
        assert block.ids.tolist() == e["rounds.tokens"][r].tolist()
        assert worst(block.hidden, e["rounds.block_hidden"][r][first:]) < TOLERANCE
        if "rounds.confidence_logits" in e:
            assert worst(block.confidence, e["rounds.confidence_logits"][r]) < TOLERANCE
        else:
            assert block.confidence is None
        if r >= len(e["rounds.base_logits"]):
            continue
        assert block.logits.shape == block.base.shape == (d.info.max_drafts, further.target.vocab_size)
        assert worst(block.base[:, d.draft_ids], e["rounds.base_logits"][r][first:]) < TOLERANCE
        if "rounds.draft_logits" in e:
            assert worst(block.logits[:, d.draft_ids], e["rounds.draft_logits"][r]) < TOLERANCE
        if "rounds.scores" in e:
            candidates = e["rounds.candidates"][r]
            assert worst(mx.take_along_axis(block.logits, candidates, axis=-1), e["rounds.scores"][r]) < TOLERANCE
            assert mx.isfinite(block.logits).sum(axis=-1).tolist() == [candidates.shape[1]] * d.info.max_drafts


def decode(golden, n, temperature=0.0, numbers=None):
    settings = Settings(n, temperature=temperature, stop_ids=NEVER)
    uniforms = {} if numbers is None else {"uniforms": Recorded(numbers)}
    prompt = golden.trace["prompt_ids"]
    return list(speculative(golden.target, golden.drafter, prompt, settings, FullBlock(), **uniforms))


def test_the_greedy_trace(further):
    """An anchor, a tap or a first slot read one off changes tokens per round, and nothing else."""
    wanted = further.trace["greedy_output_ids"]
    events = decode(further, len(wanted))
    assert output(events) == wanted
    assert [r.accepted for r in rounds(events)] == further.trace["accepted"]
    drafted = [(list(r.draft_ids), r.next_id) for r in rounds(events)]
    assert drafted == [(r["drafted"], r["next_token"]) for r in further.trace["rounds_detail"]]


def test_the_sampled_traces(further):
    for reference in further.trace.get("sampled") or []:
        numbers = [u for taken in reference["uniforms"] for u in taken]
        events = decode(further, len(reference["output_ids"]), reference["temperature"], numbers)
        assert output(events) == reference["output_ids"]
        assert [r.accepted for r in rounds(events)] == reference["accepted"]


def test_the_first_distribution_at_temperature_1(further):
    """q has nothing outside a reduced vocabulary, or outside the selector's candidates."""
    d, e = further.drafter, further.expected
    if "t1.q" not in e:
        pytest.skip("this set has none")
    context, start = d.begin(), e["rounds.start"][0].item()
    context.extend(e["greedy_ids"][:start], e["full_tapped_hidden"][:start])
    block = context.propose(e["rounds.anchor"][:1], d.info.max_drafts, greedy)
    assert worst(mx.softmax(block.logits, axis=-1), e["t1.q"]) < TOLERANCE


def test_the_sets_hold_what_they_are_to_prove():
    """A reduced vocabulary with tokens outside it in the output, both slots, both window rules, every head."""
    sets = {p.name: load_golden(p) for p in golden_paths(further=True) if p.parent == FORMATS}
    configs = [g.drafter.config for g in sets.values()]
    assert {c.method for c in configs} == {"DSpark", "DFlash", "DFlash2"}
    assert {c.markov_type for c in configs} == {None, "vanilla", "gated", "rnn"}
    assert {c.first_slot for c in configs} == {0, 1} == {c.backbone.by_block for c in configs}
    assert any(g.trace.get("output_tokens_outside_draft_vocab", 0) > 3 for g in sets.values())
    assert {True, False} == {c.own_embedding for c in configs} == {c.own_head for c in configs}
