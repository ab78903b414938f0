"""Published drafters in further packagings on their targets: at true shapes up to the weights, and narrow through whole
decodes. What of them is known and what is assumed, published.py says."""

import math
from dataclasses import replace

import mlx.core as mx
import pytest

from dspark_core.catalog import facts
from dspark_core.decode.rounds import Settings
from dspark_core.decode.schedule import FullBlock
from dspark_core.decode.speculative import speculative
from dspark_core.models.checkpoint import load_drafter, open_drafter
from dspark_core.models.target import load_target, open_target
from tests.decode.helpers import NEVER, output, plain_output, rounds

from .published import (
    LLAMA31_8B,
    LLAMA32_1B,
    MINICPM5_2B,
    QWEN3_4B,
    QWEN3_8B,
    minicpm,
    narrow,
    speculators,
    target,
    write_hollow,
    write_random,
    zlab_llama,
)

# target, its drafter, published number of parameters (0: not known), method, taps, drafts a round, draft vocabulary
PUBLISHED = {
    "RedHatAI/Qwen3-4B-speculator.dspark": (
        *(QWEN3_4B, lambda s: speculators(s, "dspark", block=7), 1_393_133_569),
        *("DSpark", (1, 9, 17, 25, 33), 7, 0),
    ),
    "RedHatAI/Qwen3-4B-speculator.dflash2": (
        *(QWEN3_4B, lambda s: speculators(s, "dflash2"), 1_410_272_512),
        *("DFlash2", (1, 9, 17, 25, 33), 7, 0),
    ),
    "RedHatAI/Qwen3-8B-speculator.dflash2": (
        *(QWEN3_8B, lambda s: speculators(s, "dflash2", block=16, own=False), 1_169_573_120),
        *("DFlash2", (1, 9, 17, 25, 33), 15, 0),
    ),
    "openbmb/MiniCPM5-2B-DSpark": (
        *(MINICPM5_2B, minicpm, 323_776_001),
        *("DSpark", (1, 10, 20, 30, 39), 7, 0),
    ),
    "rasyosef/Llama-3.2-1B-Instruct-speculator.dspark": (
        *(
            LLAMA32_1B,
            lambda s: speculators(s, "dspark", layers=3, block=4, rows=min(32000, s.vocabulary // 4)),
            310_164_609,
        ),
        *("DSpark", (1, 4, 7, 10, 13), 4, 32000),
    ),
    "z-lab/LLaMA3.1-8B-Instruct-DFlash-UltraChat": (LLAMA31_8B, zlab_llama, 0, "DFlash", (1, 8, 15, 21, 28), 9, 0),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_true_shapes_open_and_no_weight_is_read(name, tmp_path):
    shape, make, parameters, method, taps, drafts, rows = PUBLISHED[name]
    checkpoint = make(shape)
    assert not parameters or sum(map(math.prod, checkpoint.tensors.values())) == parameters
    directory = write_hollow(tmp_path / "target", target(shape))
    place = write_hollow(tmp_path / "drafter", checkpoint)
    known = facts.Facts.read(place)
    config = facts.check_pair(facts.Facts.read(directory), known)
    assert (config.method, config.taps, config.max_drafts) == (method, taps, drafts)
    assert config.draft_vocab_size == rows and config.backbone.rope_theta == shape.theta
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    drafter = open_drafter(place, open_target(directory, "stored"), "stored")
    assert mx.get_peak_memory() - before < 10_000_000
    assert drafter.info.max_drafts == drafts and facts.sort_of(known).family == method


@pytest.mark.parametrize("name", [n for n in PUBLISHED if "Qwen3-8B" not in n])
def test_narrow_ones_are_exact(name, tmp_path):
    shape, make, _, _, _, drafts, rows = PUBLISHED[name]
    small = replace(narrow(shape), vocabulary=4096, mask=4095)
    weights = write_random(tmp_path / "target", target(small), 1)
    embedding = weights["model.embed_tokens.weight"]
    checkpoint = make(small)
    own = {"embed_tokens.weight": embedding, "lm_head.weight": weights.get("lm_head.weight", embedding)}
    own = {n: w for n, w in own.items() if checkpoint.tensors.get(n) == w.shape}
    write_random(tmp_path / "drafter", checkpoint, 2, own)
    model = load_target(tmp_path / "target", "stored")
    drafter = load_drafter(tmp_path / "drafter", model, "stored")
    prompt = [7919 * i % 2039 for i in range(21)]
    expected = plain_output(model, prompt, 8)
    assert len(set(expected)) > 3
    greedy = list(speculative(model, drafter, prompt, Settings(8, stop_ids=NEVER), FullBlock()))
    assert output(greedy) == expected
    drafted = {t for r in rounds(greedy) for t in r.draft_ids}
    assert {r.proposed for r in rounds(greedy)} == {drafts}
    assert not rows or all(t % 3 == 0 for t in drafted)
    hot = Settings(12, temperature=100.0, stop_ids=NEVER)
    warm = rounds(speculative(model, drafter, prompt, hot, FullBlock()))
    assert all(0 <= t < model.vocab_size for r in warm for t in r.committed)
