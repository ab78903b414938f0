"""Drafters in the packagings of speculators, SpecForge and DFlash 2, and DeepSpec's without embedding: against what the
reference packages gave. `further` goes through every golden set of these, and those of GOLDEN_DIR."""

import json
import shutil

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from dspark_core.decode.rounds import Settings
from dspark_core.decode.schedule import FullBlock
from dspark_core.decode.speculative import speculative
from dspark_core.errors import ModelError
from dspark_core.models.checkpoint import load_drafter, open_drafter
from dspark_core.models.config import DRAFT_VOCABULARY
from dspark_core.models.info import MOST_MARGIN, USUAL_MARGIN
from dspark_core.models.target import load_target
from tests.conftest import golden_paths, load_golden
from tests.decode.helpers import NEVER, Recorded, output, plain_output, rounds, worst

from .build import GOLDEN, edit_config, edit_weights, list_vocabulary, refusal
from .parity import TOLERANCE, greedy

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
            best = mx.sort(block.logits, axis=-1)[:, -2:]  # no head: the margin of the two best
            margin = mx.minimum(best[:, 1] - best[:, 0], MOST_MARGIN)
            assert worst(block.confidence, USUAL_MARGIN[0] * margin + USUAL_MARGIN[1]) < TOLERANCE
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


def test_the_target_s_own_tensors(further):
    """Where a set has them: here those are left out that another one implies."""
    e, t = further.expected, further.target
    hidden, taps = t.forward(e["greedy_ids"], t.new_cache(), further.drafter.taps)
    assert worst(taps, e["full_tapped_hidden"]) < TOLERANCE
    if "target_logits" in e:
        assert worst(t.head(hidden)[: len(e["target_logits"])], e["target_logits"]) < TOLERANCE


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
    references = further.trace.get("sampled") or []
    for reference in references[:1] if further.path.parent == FORMATS else references:
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


@pytest.fixture
def changed(tmp_path):
    """A golden drafter of a further format with its config.json changed, opened: its config, or the refusal."""

    def change(which, **changes):
        golden = load_golden(FORMATS / which)
        directory = tmp_path / str(len(list(tmp_path.iterdir()))) / "drafter"
        shutil.copytree(FORMATS / which / "drafter", directory)
        edit_config(directory, **changes)
        try:
            return open_drafter(directory, golden.target).config
        except ModelError:
            return refusal(lambda: open_drafter(directory, golden.target))

    return change


def proposal(tokens, algorithm="dspark"):
    return {"algorithm": algorithm, "proposal_methods": [{"speculative_tokens": tokens}]}


def test_the_first_slot_of_speculators(changed):
    """By the width, else by sample_from_anchor; a file with neither means 1, whatever its class would take."""
    for tokens, anchor, slot in ((8, None, 0), (7, None, 1), (7, True, 1), (4, True, 0), (4, None, 1), (4, False, 1)):
        config = changed("S1_dspark_slot0", speculators_config=proposal(tokens), sample_from_anchor=anchor)
        assert (config.first_slot, config.max_drafts) == (slot, 8 - slot), (tokens, anchor)
    assert changed("S1_dspark_slot0", speculators_config=None, sample_from_anchor=None).first_slot == 1
    assert "speculative_tokens" in changed("S1_dspark_slot0", speculators_config=proposal("8"))
    for odd in ([], {"proposal_methods": [7]}, "x", 3):
        assert "speculators_config" in changed("S1_dspark_slot0", speculators_config=odd), odd


def layer_config(which, **changes):
    config = json.loads((FORMATS / which / "drafter" / "config.json").read_text())["transformer_layer_config"] | changes
    return {"transformer_layer_config": {k: v for k, v in config.items() if v is not None}}


def test_the_window_of_speculators_exists_only_where_it_is_switched_on(changed):
    name = "S4_dspark_swa_noncausal_rnn"
    assert changed(name).backbone.window == 12
    for switch in (False, None):
        backbone = changed(name, **layer_config(name, use_sliding_window=switch)).backbone
        assert (backbone.window, backbone.layer_types) == (None, ("full_attention",) * 2)
        backbone = changed(name, **layer_config(name, use_sliding_window=switch, model_type="llama")).backbone
        assert backbone.window == 12, "llama has no such switch"
    for non_causal, causal in ((True, (False, False)), (False, (True, False)), (None, (True, False))):
        assert changed(name, sliding_window_non_causal=non_causal).backbone.causal == causal
    assert changed("S7_dflash2_speculators", sliding_window_non_causal=None).backbone.causal == (False, False)
    numbered = layer_config(name, layer_types=None, max_window_layers=1)
    assert changed(name, **numbered).backbone.layer_types == ("full_attention", "sliding_attention")


def test_what_a_config_of_speculators_leaves_out_is_its_class_s(changed):
    name = "S3_dspark_swa_causal"  # written as a difference to the class
    assert (changed(name).backbone.rope_theta, changed(name).backbone.rms_norm_eps) == (1e4, 1e-6)
    assert changed(name, markov_head_type=None, enable_confidence_head=None) == changed(name)
    assert "num_key_value_heads is 32, but the tensors" in changed(name, **layer_config(name, num_key_value_heads=None))
    assert "head_dim is 128, but the tensors" in changed(name, **layer_config(name, head_dim=None))
    assert "block_size" in changed(name, block_size=4000) and "block_size" in changed(name, block_size=10**9)
    assert "draft_vocab_size 32000" in changed(name, draft_vocab_size=None)
    assert changed("S1_dspark_slot0", num_speculative_tokens=8) == changed("S1_dspark_slot0")
    nested = {"sliding_attention": {"rope_type": "default", "rope_theta": 5e5}, "full_attention": {"rope_theta": 7e5}}
    assert changed(name, **layer_config(name, rope_parameters=nested)).backbone.rope_theta == 5e5


def test_what_speculators_drafters_are_refused_for(changed):
    name = "S1_dspark_slot0"
    for words, changes in {
        "aux_hidden_state_layer_ids, less one, [0, 1, 3]": {"aux_hidden_state_layer_ids": [1, 2, 4]},
        "aux_hidden_state_layer_ids": {"aux_hidden_state_layer_ids": None},
        "mask_token_id": {"mask_token_id": None},
        "target_hidden_size 128": {"target_hidden_size": 128},
        "contradict": {"speculators_config": proposal(8, "dflash")},
        "transformer_layer_config is 3": {"transformer_layer_config": 3},
        "transformer_layer_config.model_type": layer_config(name, model_type="gemma3"),
        "transformer_layer_config.model_type is [1]": layer_config(name, model_type=[1]),
        "transformer_layer_config.hidden_act 'gelu'": layer_config(name, hidden_act="gelu"),
        "transformer_layer_config.something_new 1": layer_config(name, something_new=1),
        "something_new 1": {"something_new": 1},
        "attention_sink_bias: attention sinks": layer_config(name, attention_sink_bias=True),
        "num_speculative_tokens 7": {"num_speculative_tokens": 7},
        "conv_kernel_size 2": {"conv_kernel_size": 2},
        "made for tiny/S1_dspark_slot0-target": layer_config(name, vocab_size=300),
    }.items():
        message = changed(name, **changes)
        assert isinstance(message, str) and words in message, (words, message)


def test_dflash_2_is_checked_number_by_number(changed):
    name = "S6_dflash2_zlab"
    nested = json.loads((FORMATS / name / "drafter" / "config.json").read_text())["dflash_config"]
    for field, values in {
        "conv_kernel_size": [None, 0, 17, "2", 3],
        "conv_group_size": [None, 0, 24, 10**9, 8],
        "selector_rank": [None, 0, 10**9, 16],
        "selector_top_k": [None, 0, 257, 10**9, True],
        "block_size": [1, 4000, 10**9],
    }.items():
        for value in values:
            message = changed(name, dflash_config={k: v for k, v in (nested | {field: value}).items() if v is not None})
            known = field in ("conv_kernel_size", "conv_group_size", "selector_rank") and "tensor" in str(message)
            assert isinstance(message, str) and (field in message or known), (field, value, message)
    assert changed(name, is_causal=True).backbone.causal == (True, True)
    assert "use_sliding_window" in changed(name, use_sliding_window=False)
    scaled = changed("S10_dflash2_zlab_scaled")
    assert (scaled.embedding_scale, scaled.multiplier, scaled.softcap) == (1.25, 0.75, 12.0)


def test_specforge_s_own_fields(changed):
    name = "P2_specforge_dspark_swa_gated"
    nested = json.loads((FORMATS / name / "drafter" / "config.json").read_text())["dflash_config"]
    assert "use_sliding_window is false" in changed(name, use_sliding_window=False)
    by_loss = {k: v for k, v in nested.items() if k != "enable_confidence_head"} | {"confidence_head_alpha": 1.0}
    assert changed(name, dflash_config=by_loss) == changed(name)
    for field, value in {
        "projector_type": "mixer",
        "shift_label": True,
        "pure_draft_prefix_len": 2,
        "dspark_backbone_conv_enabled": True,
        "markov_head_type": "bigram",
        "attention_mode": "mla",
    }.items():
        message = changed(name, dflash_config=nested | {field: value})
        assert isinstance(message, str) and field in message, (field, message)
    assert "projector_type is 'mixer'" in str(changed(name, projector_type="mixer")), "at the top, beside a known one"


@pytest.mark.parametrize("which", ["S1_dspark_slot0", "P2_specforge_dspark_swa_gated", "S7_dflash2_speculators"])
def test_the_activation_of_a_gemma_target(which, tmp_path):
    """Trainers copy the target's into Qwen3 layers; other packagings' readers do not agree on it."""
    torch = pytest.importorskip("torch")
    golden, place = load_golden(FORMATS / which), tmp_path / "drafter"
    shutil.copytree(golden.path / "drafter", place)
    act = {"hidden_act": "gelu_pytorch_tanh"}
    edit_config(place, **layer_config(which, **act) if which.startswith("S") else act)
    mlp = load_drafter(place, golden.target).weights.layers[0].mlp
    x = mx.random.normal((5, 64), key=mx.random.key(0))
    gate, up, down = (torch.tensor(p.weight.tolist()) for p in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
    rows = torch.tensor(x.tolist())
    expected = (torch.nn.functional.gelu(rows @ gate.T, approximate="tanh") * (rows @ up.T)) @ down.T
    assert worst(mlp(x), mx.array(expected.tolist())) < TOLERANCE


def test_the_activation_of_other_packagings_is_silu(changed):
    for which in ("L1_llama_deepspec_no_embed", "S6_dflash2_zlab"):
        assert "hidden_act 'gelu_pytorch_tanh'" in str(changed(which, hidden_act="gelu_pytorch_tanh")), which


def test_specforge_s_early_names(tmp_path):
    directory, golden = tmp_path / "drafter", load_golden(FORMATS / "P2_specforge_dspark_swa_gated")
    shutil.copytree(golden.path / "drafter", directory)

    def prefix(weights):
        for name in [n for n in weights if n.startswith(("markov_head", "confidence_head"))]:
            weights[f"logit_head.{name}"] = weights.pop(name)

    edit_weights(directory, prefix)
    again = load_drafter(directory, golden.target)
    assert mx.array_equal(
        again.weights.markov_head.markov_w1.weight, golden.drafter.weights.markov_head.markov_w1.weight
    )


@pytest.mark.parametrize("which", ["S1_dspark_slot0", "S7_dflash2_speculators"])
def test_a_speculators_drafter_that_mlx_quantized(which, tmp_path):
    """Its config.json says so at the top; what the backbone's says is of the target."""
    golden, directory = load_golden(FORMATS / which), tmp_path / "drafter"
    shutil.copytree(golden.path / "drafter", directory)
    of_target = layer_config(which, quantization_config={"quant_method": "modelopt", "quant_algo": "NVFP4"})
    edit_config(directory, quantization={"group_size": 32, "bits": 8}, **of_target)

    def pack(weights):
        wide = [name for name, weight in weights.items() if weight.ndim == 2 and weight.shape[-1] == 64]
        for name in [n for n in wide if n.startswith("layers.") and n.endswith("_proj.weight")]:
            packed = mx.quantize(weights.pop(name), group_size=32, bits=8)
            weights |= zip([name, *(name[:-6] + part for part in ("scales", "biases"))], packed, strict=True)

    edit_weights(directory, pack)
    packed = load_drafter(directory, golden.target, "stored")
    events = list(speculative(golden.target, packed, [3, 1, 4], Settings(12, stop_ids=NEVER), FullBlock()))
    assert output(events) == plain_output(golden.target, [3, 1, 4], 12)


@pytest.mark.parametrize("which", ["L1_llama_deepspec_no_embed", "S5_dflash", "P2_specforge_dspark_swa_gated"])
def test_names_that_a_trainer_wrapped(which, tmp_path):
    golden, directory = load_golden(FORMATS / which), tmp_path / "drafter"
    shutil.copytree(golden.path / "drafter", directory)
    settings, drafts = Settings(12, stop_ids=NEVER), []
    for prefix in ("", "_orig_mod.", "module."):  # one wrapper about the other
        edit_weights(directory, lambda w, p=prefix: [w.update({p + name: w.pop(name)}) for name in [*w]])
        drafter = load_drafter(directory, golden.target, "stored")
        drafts.append([r.draft_ids for r in rounds(speculative(golden.target, drafter, [3, 1], settings, FullBlock()))])
    assert drafts[0] == drafts[1] == drafts[2]
    edit_weights(directory, lambda w: w.update({"norm.weight": mx.zeros((64,))}))
    message = refusal(lambda: load_drafter(directory, golden.target, "stored"))
    assert "norm.weight and module._orig_mod.norm.weight" in message or "_orig_mod.norm.weight and norm" in message


def test_a_reduced_vocabulary_is_checked(tmp_path):
    golden = load_golden(FORMATS / "S5_dflash")

    def refused(change):
        directory = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(golden.path / "drafter", directory)
        edit_weights(directory, change)
        return refusal(lambda: open_drafter(directory, golden.target))

    def set_d2t(value):
        return lambda weights: weights.update(d2t=value(weights["d2t"]))

    assert "ascending ids of a vocabulary of 256" in refused(set_d2t(lambda d: d + 200))
    assert "ascending" in refused(set_d2t(lambda d: -mx.arange(96)))  # every draft id the same token
    assert "ascending" in refused(set_d2t(lambda d: d - 50))
    assert "d2t has shape [95], expected [96]" in refused(set_d2t(lambda d: d[:95]))
    assert "d2t has dtype F32" in refused(set_d2t(lambda d: d.astype(mx.float32)))
    assert "lm_head.weight" in refused(lambda weights: weights.pop("lm_head.weight"))
    assert "needs a smaller draft vocabulary" in refused(lambda weights: weights.pop("d2t"))


def test_a_listed_vocabulary_is_checked(tmp_path):
    golden = load_golden(GOLDEN / "A")
    for n, ids in enumerate(([], [3, 2], [2, 2], [-1, 4], [4, 256], [True, 4], ["4"], 4, None)):
        directory = list_vocabulary(golden, tmp_path / str(n), ids)
        message = refusal(lambda directory=directory: open_drafter(directory, golden.target))
        assert "draft_vocab.json must list `ids`, ascending ones of a vocabulary of 256" in message, ids
    both = list_vocabulary(load_golden(FORMATS / "S5_dflash"), tmp_path / "both", [4, 5])
    assert "and, another one, in the tensor d2t" in refusal(lambda: open_drafter(both, golden.target))
    few = load_golden(FORMATS / "S6_dflash2_zlab")
    few_ids = list_vocabulary(few, tmp_path / "few", [4, 5])
    assert "selector_top_k 8 is more than its vocabulary has" in refusal(lambda: open_drafter(few_ids, few.target))


def test_a_listed_vocabulary_at_every_precision(tmp_path):
    """The target's rows are in the target's precision, whatever the drafter's is; a head of its own is in that."""
    golden, places = load_golden(GOLDEN / "D"), {}
    for which in ("A", "D"):
        places[which] = list_vocabulary(load_golden(GOLDEN / which), tmp_path / which, list(range(1, 256, 2)))
    x = mx.random.normal((3, 64), key=mx.random.key(0))
    for precision in ("stored", "bf16", "8-bit", "4-bit"):
        target = load_target(golden.path / "target", precision)
        drafter = load_drafter(places["D"], target, "bf16" if precision == "8-bit" else "8-bit")
        assert worst(drafter.head(x), target.raw_head(x)[:, 1::2]) < TOLERANCE, precision
        own = load_drafter(places["A"], golden.target, precision)
        whole = load_drafter(GOLDEN / "A" / "drafter", golden.target, precision)
        assert worst(own.head(x), whole.head(x)[:, 1::2]) < TOLERANCE, precision
        assert type(own.weights.markov_head.markov_w2) is type(whole.weights.markov_head.markov_w2), precision


@pytest.mark.parametrize("reduced", [False, True])
def test_a_packed_dflash_2(reduced, tmp_path):
    """At 8 bits as a trained drafter is packed, with plain codebooks made tables; and with a draft vocabulary of its
    own, whose successor codebook goes by draft ids or by the target's, or which is a list beside the weights."""
    golden = load_golden(FORMATS / "S6_dflash2_zlab")
    wide = 64  # columns of a group
    own = {
        "hidden_size": 64,
        "dflash_config": json.loads((golden.path / "drafter" / "config.json").read_text())["dflash_config"],
    }
    own["dflash_config"] |= {"selector_rank": wide}
    ids = mx.array(sorted({*range(0, 256, 2), 255}))
    outputs = []
    for form in ("by target", "by draft", "listed") if reduced else ("whole",):
        directory = tmp_path / form / "drafter"
        shutil.copytree(golden.path / "drafter", directory)
        more = {"draft_vocab_size": ids.size} if form.startswith("by") else {}
        edit_config(directory, quantization={"group_size": 64, "bits": 8}, **own, **more)

        def pack(weights, form=form):
            select = "candidate_selector."
            shapes = {
                "predecessor_codebook": (256, wide),
                "successor_codebook": (256, wide),
                "hidden_projection.weight": (wide, 64),
            }
            for i, (name, shape) in enumerate(shapes.items()):
                weights[select + name] = 0.3 * mx.random.normal(shape, key=mx.random.key(i))
            if form.startswith("by"):
                weights["d2t"] = ids - mx.arange(ids.size)
                weights["lm_head.weight"] = golden.target.model.model.embed_tokens.weight[ids]
                if form == "by draft":
                    weights[select + "successor_codebook"] = weights[select + "successor_codebook"][ids]
            for name in list(weights):
                base, w = name.removesuffix(".weight"), weights[name]
                if w.ndim == 2 and w.shape[1] % 64 == 0 and name != "lm_head.weight":
                    del weights[name]
                    weights |= zip(
                        (f"{base}.weight", f"{base}.scales", f"{base}.biases"), mx.quantize(w, 64, 8), strict=True
                    )

        edit_weights(directory, pack)
        if form == "listed":
            (directory / DRAFT_VOCABULARY).write_text(json.dumps({"ids": ids.tolist()}))
        drafter = load_drafter(directory, golden.target, "stored")
        assert drafter.info.precision == "8-bit" and drafter.info.title == "DFlash 2"
        settings, prompt = Settings(40, stop_ids=NEVER), golden.trace["prompt_ids"]
        events = list(speculative(golden.target, drafter, prompt, settings, FullBlock()))
        assert output(events) == plain_output(golden.target, prompt, 40)
        drafts = {t for r in rounds(events) for t in r.draft_ids}
        assert not reduced or drafts <= set(ids.tolist())
        outputs.append([r.draft_ids for r in rounds(events)])
    assert all(o == outputs[0] for o in outputs)


@pytest.mark.parametrize("which", ["A", "B_rnn", "D"])
def test_a_reduced_vocabulary_in_the_older_formats(which, tmp_path):
    """As a packed drafter may have it: the head, and the Markov bias, over a part of the target's vocabulary. What is
    drafted is what the whole vocabulary's logits give among that part."""
    golden, ids = load_golden(GOLDEN / which), mx.arange(1, 256, 2)
    directory = tmp_path / "drafter"
    shutil.copytree(golden.path / "drafter", directory)
    edit_config(directory, draft_vocab_size=ids.size, tie_word_embeddings=which == "D")

    def reduce(weights):
        weights["d2t"] = ids - mx.arange(ids.size)
        head = weights.get("lm_head.weight", golden.target.model.model.embed_tokens.weight)
        weights["lm_head.weight"] = head[ids]
        if "markov_head.markov_w2.weight" in weights:
            weights["markov_head.markov_w2.weight"] = weights["markov_head.markov_w2.weight"][ids]

    edit_weights(directory, reduce)
    drafter, e = load_drafter(directory, golden.target), golden.expected
    allowed = mx.where(mx.arange(256) % 2 == 1, 0.0, -mx.inf)
    blocks = []
    for d, pick in ((golden.drafter, lambda logits, first: greedy(logits + allowed, first)), (drafter, greedy)):
        context, start = d.begin(), e["rounds.start"][0].item()
        context.extend(e["greedy_ids"][:start], e["full_tapped_hidden"][:start])
        blocks.append(context.propose(e["rounds.anchor"][:1], d.info.max_drafts, pick))
    assert blocks[0].ids.tolist() == blocks[1].ids.tolist()
    assert worst(blocks[0].logits[:, ids], blocks[1].logits[:, ids]) < TOLERANCE
    listed = load_drafter(list_vocabulary(golden, tmp_path / "listed", ids.tolist()), golden.target)
    assert {name: w.tolist() for name, w in tree_flatten(listed.weights.parameters())} == {
        name: w.tolist() for name, w in tree_flatten(drafter.weights.parameters())
    }
    prompt = golden.trace["prompt_ids"]
    events = speculative(golden.target, drafter, prompt, Settings(24, stop_ids=NEVER), FullBlock())
    assert output(events) == plain_output(golden.target, prompt, 24)
