"""Every tensor of the golden sets within 1e-4, float32 on the CPU."""

import mlx.core as mx

from dspark_core.models.info import MOST_MARGIN, USUAL_MARGIN
from tests.decode.helpers import worst

from .parity import TOLERANCE, greedy


def test_target_logits_and_taps(golden):
    t, e = golden.target, golden.expected
    hidden, _ = t.forward(e["prompt_ids"], t.new_cache())
    assert worst(t.head(hidden), e["target_logits"]) < TOLERANCE
    hidden, taps = t.forward(e["greedy_ids"], t.new_cache(), golden.drafter.taps)
    assert worst(t.head(hidden), e["full_target_logits"]) < TOLERANCE
    assert worst(taps, e["full_tapped_hidden"]) < TOLERANCE


def test_every_layer_and_the_embedding_can_be_tapped(golden):
    t, e = golden.target, golden.expected
    layers = tuple(range(-1, t.num_layers - 1))
    hidden, taps = t.forward(e["prompt_ids"], t.new_cache(), layers)
    for i, tap in enumerate(mx.split(taps, len(layers), axis=-1)):
        assert worst(tap, e["target_hidden_states"][i]) < TOLERANCE, f"tap {layers[i]}"
    assert worst(hidden, e["target_hidden_states"][-1]) < TOLERANCE


def test_fused_context(golden):
    e = golden.expected
    assert worst(golden.drafter.weights.fuse(e["tapped_hidden"]), e["fused_context"]) < TOLERANCE


def test_first_block_without_cache(golden):
    d, e = golden.drafter, golden.expected
    embeddings = d.embed(e["block_ids"])
    assert worst(embeddings, e["block_embeds"]) < TOLERANCE
    context = d.begin()
    context.extend(e["prompt_ids"], e["tapped_hidden"])
    hidden = d.weights.block(embeddings, context.cache)
    assert worst(hidden, e["block_hidden"]) < TOLERANCE
    assert worst(d.head(hidden), e["base_logits"]) < TOLERANCE


def test_every_round_of_the_greedy_run(golden):
    """Block hidden states, base and Markov-corrected logits, confidence, layer outputs and verify logits."""
    t, d, e = golden.target, golden.drafter, golden.expected
    context, cache = d.begin(), t.new_cache()
    t.forward(e["prompt_ids"], cache)
    first, before = d.config.first_slot, 0
    for r, start in enumerate(e["rounds.start"].tolist()):
        context.extend(e["greedy_ids"][before:start], e["full_tapped_hidden"][before:start])
        assert context.length == start
        anchor = e["rounds.anchor"][r : r + 1]
        block = context.propose(anchor, d.info.max_drafts, greedy, confidence=True)
        assert context.length == start, "the block's own keys must leave the context"
        assert block.ids.tolist() == e["rounds.tokens"][r].tolist()
        assert worst(block.hidden, e["rounds.block_hidden"][r][first:]) < TOLERANCE
        if "rounds.base_logits" in e:
            assert worst(block.base, e["rounds.base_logits"][r][first:]) < TOLERANCE
        if "rounds.draft_logits" in e:
            assert worst(block.logits, e["rounds.draft_logits"][r]) < TOLERANCE
        if "rounds.confidence_logits" in e:
            assert worst(block.confidence, e["rounds.confidence_logits"][r]) < TOLERANCE
        else:
            best = mx.sort(block.logits, axis=-1)[:, -2:]  # no head: the margin of the two best
            margin = mx.minimum(best[:, 1] - best[:, 0], MOST_MARGIN)
            assert worst(block.confidence, USUAL_MARGIN[0] * margin + USUAL_MARGIN[1]) < TOLERANCE
        hidden, _ = t.forward(mx.concatenate([anchor, block.ids]), cache)
        assert worst(t.head(hidden), e["rounds.target_logits"][r]) < TOLERANCE
        for c in cache:
            c.trim(d.info.max_drafts - e["rounds.accepted"][r].item())
        before = start


def test_drafting_fewer_tokens_gives_the_same_first_ones(golden):
    d, e = golden.drafter, golden.expected
    for n in range(1, d.info.max_drafts + 1):
        context = d.begin()
        start = e["rounds.start"][0].item()
        context.extend(e["greedy_ids"][:start], e["full_tapped_hidden"][:start])
        block = context.propose(e["rounds.anchor"][:1], n, greedy)
        assert block.ids.tolist() == e["rounds.tokens"][0].tolist()[:n]
