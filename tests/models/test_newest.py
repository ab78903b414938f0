"""A drafter that looks at the newest rows of its context only: it drafts otherwise, and nothing else changes."""

from dataclasses import replace

import mlx.core as mx
import pytest

from dspark_core.decode.rounds import Settings
from dspark_core.decode.sampling import Greedy
from dspark_core.decode.schedule import FullBlock
from dspark_core.decode.speculative import speculative
from dspark_core.models.checkpoint import load_drafter
from dspark_core.models.drafter import BlockDrafter
from tests.conftest import GOLDEN, load_golden
from tests.decode.helpers import NEVER, output, plain_output, rounds

SETS = ("A", "C", "E", "formats/S3_dspark_swa_causal", "formats/S6_dflash2_zlab")
ROWS = 40  # of the context


def logits(drafter: BlockDrafter, taps: mx.array) -> mx.array:
    """Of a block behind these rows, which come in two parts, a rejected one between them."""
    context, ids = drafter.begin(), mx.zeros((len(taps),), dtype=mx.int32)
    half = len(taps) // 2
    context.extend(ids[:half], taps[:half])
    context.extend(ids[:3], taps[:3] + 1)
    context.rollback(3)
    context.extend(ids[half:], taps[half:])
    return context.propose(mx.array([7]), drafter.info.max_drafts, Greedy()).logits.astype(mx.float32)


@pytest.mark.parametrize("name", SETS)
def test_older_rows_are_not_seen_and_newer_ones_are(name):
    golden = load_golden(GOLDEN / name)
    drafter = load_drafter(golden.path / "drafter", golden.target, newest=5)
    assert drafter.info.newest == 5 and drafter.info.shapes != golden.drafter.info.shapes
    taps = mx.random.normal((ROWS, len(drafter.taps) * golden.target.hidden_size), key=mx.random.key(3))
    out = logits(drafter, taps)
    other = mx.concatenate([taps[: ROWS - 5] * 3 + 1, taps[ROWS - 5 :]])
    assert mx.array_equal(logits(drafter, other), out)
    edge = mx.concatenate([taps[: ROWS - 5], taps[ROWS - 5 : ROWS - 4] * 3 + 1, taps[ROWS - 4 :]])
    assert not mx.array_equal(logits(drafter, edge), out)


@pytest.mark.parametrize("name", SETS)
def test_a_limit_that_is_not_reached_is_none(name):
    golden = load_golden(GOLDEN / name)
    drafter = load_drafter(golden.path / "drafter", golden.target, newest=ROWS)
    taps = mx.random.normal((ROWS, len(drafter.taps) * golden.target.hidden_size), key=mx.random.key(3))
    assert mx.allclose(logits(drafter, taps), logits(golden.drafter, taps), atol=1e-4, rtol=1e-5).item()


def test_rows_keep_their_positions(golden_a):
    """As in a checkpoint whose layers all slide, by block, with the same weights."""
    limited = load_drafter(golden_a.path / "drafter", golden_a.target, newest=6)
    sliding = load_drafter(golden_a.path / "drafter", golden_a.target)
    sliding.weights._by_block = True
    for layer in sliding.weights.layers:
        layer.self_attn.window, layer.self_attn._by_block = 6, True
    taps = mx.random.normal((ROWS, len(limited.taps) * golden_a.target.hidden_size), key=mx.random.key(4))
    assert mx.allclose(logits(limited, taps), logits(sliding, taps), atol=1e-5).item()
    assert not mx.allclose(logits(limited, taps), logits(golden_a.drafter, taps), atol=1e-2).item()


@pytest.mark.parametrize("name", SETS)
def test_the_text_is_the_targets_whatever_the_drafter_sees(name, monkeypatch):
    golden = load_golden(GOLDEN / name)
    prompt, settings = golden.trace["prompt_ids"], Settings(48, stop_ids=NEVER)
    whole = list(speculative(golden.target, golden.drafter, prompt, settings, FullBlock()))
    monkeypatch.setattr(golden.drafter, "info", replace(golden.drafter.info, newest=2))
    events = list(speculative(golden.target, golden.drafter, prompt, settings, FullBlock()))
    assert output(events) == output(whole) == plain_output(golden.target, prompt, 48)
    drafted, before = ([r.draft_ids for r in rounds(e)] for e in (events, whole))
    assert drafted != before
