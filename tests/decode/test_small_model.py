"""A small language model as drafter: its own cache goes on and back exactly, and the output stays the target's."""

import json
import shutil

import mlx.core as mx
import pytest

from dspark_core.decode.adaptive import HardwareAware
from dspark_core.decode.rounds import Settings, tau
from dspark_core.decode.sampling import Greedy, Sampled, Uniforms
from dspark_core.decode.schedule import ConfidenceThreshold, FixedCap, FullBlock
from dspark_core.decode.speculative import Options, speculative
from dspark_core.errors import ModelError
from dspark_core.models.checkpoint import load_drafter
from dspark_core.models.drafters.small_model import MAX_DRAFTS
from dspark_core.models.target import load_target

from ..conftest import GOLDEN
from ..models.build import QWEN, QWEN_TOKENS, VOCABULARIES, copy, edit_config, edit_weights, refusal, write_tokenizer
from .curves import curve
from .helpers import NEVER, output, plain_output, rounds

PROMPT = [5, 17, 42, 5, 17, 9, 88, 3]
COSTS = curve({1: 100, 8: 130}, draft=5, row=5)


@pytest.fixture(scope="module", params=["A", "E"])
def twin(request):
    """A target (full attention; sliding windows and full) that is its own drafter, loaded a second time."""
    place = GOLDEN / request.param / "target"
    target = load_target(place)
    return target, load_drafter(place, target)


@pytest.fixture(scope="module")
def other(golden_a):
    """Another model of golden set A's size of vocabulary as its drafter."""
    return load_drafter(GOLDEN / "zlab_causal" / "target", golden_a.target)


@pytest.mark.parametrize("cap", [3, MAX_DRAFTS])
def test_a_target_that_drafts_for_itself_accepts_everything(twin, cap):
    target, drafter = twin
    events = [*speculative(target, drafter, PROMPT, Settings(25, stop_ids=NEVER), FixedCap(cap))]
    done = rounds(events)
    assert output(events) == plain_output(target, PROMPT, 25)
    assert all(r.accepted == r.proposed == cap for r in done) and tau(done) == cap + 1


def test_sampled_a_target_that_drafts_for_itself_accepts_everything(twin):
    target, drafter = twin
    settings = Settings(24, temperature=1.5, top_k=12, top_p=0.9, stop_ids=NEVER, seed=4)
    done = rounds(speculative(target, drafter, PROMPT, settings, FullBlock()))
    assert all(r.accepted == r.proposed for r in done)
    assert all(abs(q - p) < 1e-4 for r in done for q, p in zip(r.detail.q, r.detail.p, strict=True))


SCHEDULES = {
    "full": FullBlock(),
    "cap": FixedCap(2),
    "confidence": ConfidenceThreshold(0.6),
    "hardware": HardwareAware(COSTS, "DSpark", confident=True, can_look=False),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_greedy_output_is_the_targets_under_every_schedule(golden_a, other, schedule):
    target, settings = golden_a.target, Settings(32, stop_ids=NEVER)
    events = [*speculative(target, other, PROMPT, settings, SCHEDULES[schedule], Options(confidence=True))]
    assert output(events) == plain_output(target, PROMPT, 32)
    assert all(r.confidence is not None for r in rounds(events) if r.draft_ids)


def rows(context, anchor: int, pick=None) -> mx.array:
    return context.propose(mx.array([anchor]), MAX_DRAFTS, pick or Greedy()).logits


def test_its_cache_goes_on_from_what_was_accepted_and_back(twin):
    """After any history, drafts are those of a context that read the same text at once."""
    _, drafter = twin
    context, text = drafter.begin(), []

    def extend(ids):
        context.extend(mx.array(ids, dtype=mx.int32), None)
        text.extend(ids)

    def check(anchor=11):
        fresh = drafter.begin()
        fresh.extend(mx.array(text, dtype=mx.int32), None)
        assert mx.allclose(rows(context, anchor), rows(fresh, anchor), atol=2e-3)

    extend(PROMPT)
    for taken in (MAX_DRAFTS, 3, 0, 5):
        drafts = context.propose(mx.array([7]), MAX_DRAFTS, Greedy()).ids.tolist()
        extend([7, *drafts[:taken]])
        check()
    context.rollback(4)
    del text[-4:]
    check()
    extend(list(range(20)))
    extend([1, 2])
    context.rollback(5)
    del text[-5:]
    check()
    check()  # what was drafted and never taken up leaves no trace
    with pytest.raises(ValueError, match="cannot drop"):
        context.rollback(len(text) + 1)


def test_it_draws_from_its_softmax_under_the_lanes_settings(golden_a, other):
    settings = Settings(8, temperature=1.3, top_k=9, stop_ids=NEVER)
    context = other.begin()
    context.extend(mx.array(PROMPT), None)
    proposal = context.propose(mx.array([7]), 4, Sampled(settings, Uniforms(1)))
    expected = Sampled(settings, Uniforms(1)).distribution(proposal.logits)
    assert mx.array_equal(proposal.q, expected) and ((proposal.q > 0).sum(axis=-1) == 9).all()


def talking(to, name="target", special=QWEN_TOKENS, rows=256):
    """Golden set A's target with a tokenizer, and so many rows in its vocabulary's table."""
    path = copy("target", "A", to / name)
    write_tokenizer(path, special, QWEN)
    if rows != 256:
        edit_config(path, vocab_size=rows)

        def change(weights):
            for key in [k for k, w in weights.items() if w.shape[0] == 256 and ("embed" in k or "lm_head" in k)]:
                w = weights[key]
                more = mx.full((rows - 256, w.shape[1]), 0.5, w.dtype) if rows > 256 else None
                weights[key] = w[:rows] if more is None else mx.concatenate([w, more])

        edit_weights(path, change)
    return path


def test_padding_may_differ_where_the_tokens_are_the_same(tmp_path):
    narrow, wide = talking(tmp_path, "narrow"), talking(tmp_path, "wide", rows=320)
    for target_place, place in ((narrow, wide), (wide, narrow)):
        target = load_target(target_place)
        drafter = load_drafter(place, target)
        events = [*speculative(target, drafter, PROMPT, Settings(12, stop_ids=NEVER), FullBlock())]
        assert output(events) == plain_output(target, PROMPT, 12)
        proposal = next(iter([drafter.begin().propose(mx.array([3]), 2, Greedy())]))
        assert proposal.logits.shape == (2, target.vocab_size) and (proposal.ids < 256).all()
    # An id that only the target's padding has is no reason to read past the small model's table.
    context = drafter.begin()
    context.extend(mx.array([300, 319]), None)
    assert mx.isfinite(rows(context, 310)[:, :256]).all()


def test_other_tokens_are_refused_in_one_sentence(tmp_path):
    target = load_target(talking(tmp_path))
    swapped = [*QWEN_TOKENS[:-2], QWEN_TOKENS[-1], QWEN_TOKENS[-2]]
    words = refusal(lambda: load_drafter(talking(tmp_path, "swapped", swapped), target))
    assert f"first at id {255 - 1}" in words and "'<think>' to the target and '</think>' to the drafter" in words
    fewer = talking(tmp_path, "fewer", QWEN_TOKENS[:-1])
    assert "vocabularies differ, first at id" in refusal(lambda: load_drafter(fewer, target))
    bare = copy("target", "A", tmp_path / "bare")
    assert "has no tokenizer files" in refusal(lambda: load_drafter(bare, target))
    bare_target = load_target(bare)
    other_size = talking(tmp_path, "other size", rows=240)
    for file in other_size.glob("*token*"):
        file.unlink()
    (other_size / "chat_template.jinja").unlink(missing_ok=True)
    assert "has 240 tokens, the target's 256" in refusal(lambda: load_drafter(other_size, bare_target))


@pytest.mark.parametrize(("one", "two"), [("qwen3", "llama3")])
def test_published_vocabularies_are_told_apart(tmp_path, one, two):
    places = []
    for name in (one, two, one):
        place = copy("target", "A", tmp_path / f"{len(places)}")
        for file in (VOCABULARIES / name).iterdir():
            shutil.copy(file, place / file.name) if file.name != "config.json" else None
        size = len(json.loads((place / "tokenizer.json").read_text())["model"]["vocab"])
        places.append(place)
        assert size
    target = load_target(places[0])
    assert "vocabularies differ, first at id" in refusal(lambda: load_drafter(places[1], target))
    assert load_drafter(places[2], target).info.method == "Small-Model"


def test_what_is_neither_a_drafter_nor_a_target_is_refused(tmp_path, golden_a):
    place = copy("target", "A", tmp_path)
    edit_config(place, model_type="mamba9", architectures=["Mamba9ForCausalLM"])
    with pytest.raises(ModelError, match="mamba9"):
        load_drafter(place, golden_a.target)
    with pytest.raises(ModelError, match="needs a directory"):
        load_drafter(None, golden_a.target, method="Small-Model")


def test_behind_the_end_of_its_own_context_it_drafts_nothing(tmp_path, golden_a):
    place = copy("target", "A", tmp_path)
    edit_config(place, max_position_embeddings=24)
    drafter = load_drafter(place, golden_a.target)
    events = [*speculative(golden_a.target, drafter, PROMPT, Settings(40, stop_ids=NEVER), FullBlock())]
    assert output(events) == plain_output(golden_a.target, PROMPT, 40)
    sent = [r.proposed for r in rounds(events)]
    assert sent[0] == MAX_DRAFTS and sent[-1] == 0
    context = drafter.begin()
    context.extend(mx.array([*range(40)]), None)
    context.rollback(30)
    fresh = drafter.begin()
    fresh.extend(mx.array([*range(10)]), None)
    assert mx.allclose(rows(context, 3), rows(fresh, 3), atol=2e-3)
