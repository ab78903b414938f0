"""The torch forward, the losses and their gradients against the reference's golden sets."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402

from dspark_core.training import TrainingError, calibrate  # noqa: E402
from dspark_core.training.data import Rows  # noqa: E402
from dspark_core.training.muon import StackedMuon  # noqa: E402
from dspark_core.training.torch_drafter import DrafterShape, TorchDrafter  # noqa: E402
from dspark_core.training.torch_target import TorchTarget  # noqa: E402
from dspark_core.training.train import (  # noqa: E402
    Batch,
    Course,
    Heads,
    LossWeights,
    Recipe,
    SlotBatch,
    Trainer,
    TrainingPlan,
    slot_losses,
)

GOLDEN = Path(os.environ.get("GOLDEN_DIR") or Path(__file__).parents[1] / "golden")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def golden(name):
    folder = GOLDEN / name
    return folder, load_file(folder / "expected.safetensors"), json.loads((folder / "trace.json").read_text())


def dflash_2_set(name):
    """Sets of further formats lie together; Qwen3 ones there share zlab_causal's target."""
    folder = next((f for f in (GOLDEN / "formats" / name, GOLDEN / name) if f.exists()), None)
    if folder is None:
        pytest.skip(f"{GOLDEN} has no set {name}")
    target = folder / "target" if (folder / "target").exists() else GOLDEN / "zlab_causal" / "target"
    return folder, load_file(folder / "expected.safetensors"), TorchTarget.load(target)


def own(folder, name):
    """The drafter's own embedding and head, which training takes from the target."""
    return load_file(folder / "drafter" / "model.safetensors")[name]


@pytest.mark.parametrize("name", ["A", "D"])
def test_target_forward(name):
    folder, expected, _ = golden(name)
    target = TorchTarget.load(folder / "target")
    hidden, taps = target.forward(expected["prompt_ids"][None].long(), (0, 1, 2))
    torch.testing.assert_close(taps[0], expected["tapped_hidden"], rtol=0, atol=2e-5)
    torch.testing.assert_close(hidden[0] @ target.head.T, expected["target_logits"], rtol=0, atol=2e-4)


def test_target_step_by_step():
    """The static cache gives what the whole row gives."""
    folder, expected, _ = golden("A")
    target = TorchTarget.load(folder / "target")
    ids = expected["prompt_ids"][None].long().repeat(2, 1)
    n = ids.shape[1]
    cache, tables = target.new_cache(2, 24), target.rope(24)
    for i in range(n):
        mask = torch.zeros(24).masked_fill(torch.arange(24) > i, float("-inf"))
        hidden = target.step(ids[:, i], torch.tensor([i]), cache, tables, mask)
        torch.testing.assert_close(
            hidden[1] @ target.head.T, expected["target_logits"][i], rtol=0, atol=2e-4, msg=f"position {i}"
        )


@pytest.mark.parametrize("name", ["A", "C", "D"])
def test_drafter_blocks(name):
    """Every round's block hidden states, all rounds at once as blocks of one row."""
    folder, expected, _ = golden(name)
    drafter = TorchDrafter.load(folder / "drafter")
    target = TorchTarget.load(folder / "target")
    embed = target.embed if name == "D" else own(folder, "embed_tokens.weight")
    starts = expected["rounds.start"].long()[None]
    ids = expected["greedy_ids"][None].long()
    with torch.no_grad():
        hidden = drafter(embed, expected["full_tapped_hidden"][None], ids, starts)[0]
    wanted = expected["rounds.block_hidden"][:, drafter.config.first_slot :]
    torch.testing.assert_close(hidden, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["S6_dflash2_zlab", "S7_dflash2_speculators", "S10_dflash2_zlab_scaled"])
def test_dflash_2(name):
    """Blocks, logits, the selector's candidates and scores and every draft of every round. S7 has S6's weights under
    speculators' rule of the window, in a packaging that is not trained here."""
    folder, expected, target = dflash_2_set(name)
    speculators = name.startswith("S7")
    config = folder.with_name("S6_dflash2_zlab") if speculators else folder
    shape = DrafterShape.from_json(json.loads((config / "drafter" / "config.json").read_text()))
    drafter = TorchDrafter(replace(shape, window_of_block=speculators))
    drafter.load_state_dict(load_file(folder / "drafter" / "model.safetensors"))
    starts = expected["rounds.start"].long()[None]
    with torch.no_grad():
        hidden = drafter(
            target.embed, expected["full_tapped_hidden"][None], expected["greedy_ids"][None].long(), starts
        )
        hidden = hidden[0]
        logits = drafter.logits(hidden, target.head)
        torch.testing.assert_close(hidden, expected["rounds.block_hidden"][:, 1:], rtol=0, atol=1e-4)
        base = expected["rounds.base_logits"][:, 1:]
        torch.testing.assert_close(logits[: len(base)], base, rtol=0, atol=1e-4)
        previous = expected["rounds.anchor"].long()
        for k in range(shape.drafts):
            candidates, scores = drafter.select(logits[:, k], hidden[:, k], previous)
            wanted, order = expected["rounds.candidates"][:, k].long().sort(-1)
            assert torch.equal(candidates[: len(wanted)], wanted)
            theirs = expected["rounds.scores"][:, k].gather(-1, order)
            torch.testing.assert_close(scores[: len(wanted)], theirs, rtol=0, atol=1e-4)
            previous, _ = drafter.draft(hidden[:, k], target.head, previous)
            assert torch.equal(previous, expected["rounds.tokens"][:, k].long())


def test_dflash_2_is_written_as_it_is_read():
    folder, _, _ = dflash_2_set("S6_dflash2_zlab")
    raw = json.loads((folder / "drafter" / "config.json").read_text())
    shape = DrafterShape.from_json(raw)
    assert (shape.window, shape.selector_rank, shape.selector_top_k, shape.conv_group) == (12, 8, 8, 16)
    assert DrafterShape.from_json(shape.to_json()) == replace(shape, window=0)
    for change in ({"is_causal": True}, {"is_causal": None}, {"layer_types": ["sliding_attention", "full_attention"]}):
        with pytest.raises(TrainingError, match="causal"):
            DrafterShape.from_json(raw | change)


def test_the_selector_is_trained_among_its_candidates():
    """Four tokens, two candidates. Block 0: the label is one of them; block 1: it is not and takes the weaker's
    place. The backbone's own logits count beside it."""
    logits = torch.tensor([[[3.0, 2.0, 1.0, 0.0]], [[3.0, 2.0, 1.0, 0.0]]])
    successors = torch.tensor([[0.0], [2.0], [5.0], [9.0]])
    slots = SlotBatch(logits, torch.ones(2, 1, 1), logits, torch.tensor([[1], [2]]), torch.full((2, 1), 0.5))
    loss, figures = slot_losses(slots, Heads(torch.eye(4), successors, None, top_k=2), LossWeights(1.0, 0.0, 0.0))
    among = [[3.0, 4.0], [3.0, 6.0]]  # token 0 with either label, its row of the codebook added
    selector = [-torch.tensor(z).log_softmax(-1)[1].item() for z in among]
    own = [-logits[0, 0].log_softmax(-1)[i].item() for i in (1, 2)]
    assert figures[0].flatten().tolist() == pytest.approx(selector)
    assert loss.item() == pytest.approx(sum(selector + own) / 2)
    assert figures[4].flatten().tolist() == [1.0, 0.0]  # what decoding could not choose is not right


def test_dpace_weighs_slots_by_what_they_gain():
    """Without smoothing: the gradient of the expected number of accepted drafts after each label's log-probability."""
    log_q = (torch.tensor([[0.9, 0.5, 0.7, 0.2]], dtype=torch.float64).log()).requires_grad_()
    log_q.exp()[:, :3].cumprod(-1).sum().backward()
    weights = torch.tensor([[1.0, 1.0, 1.0, 0.0]], dtype=torch.float64)  # the fourth is not supervised
    found = LossWeights(dpace=1e-12).by_path(weights, -log_q)
    torch.testing.assert_close(found, log_q.grad, rtol=1e-6, atol=1e-9)
    assert torch.equal(LossWeights().by_path(weights, -log_q), weights)


def test_dpace_does_not_weigh_the_confidence_head():
    """D-PACE counts a slot by how likely its label is, which is what the head is to tell: weighed by it the head
    would find more slots sure than are accepted."""
    logits = torch.tensor([[[8.0, 0.0], [0.0, 0.1]]])
    weights = torch.full((1, 2), 0.5)
    slots = SlotBatch(logits, None, logits.flip(-1), torch.tensor([[0, 0]]), weights)
    sure = (torch.tensor([[1.0, -1.0]]), torch.zeros(1))
    kinds = LossWeights(0.0, 0.0, 1.0, greedy_confidence=True, dpace=0.5)
    loss, figures = slot_losses(slots, Heads(torch.eye(2), None, sure), kinds)
    assert loss.item() == pytest.approx((weights * figures[2]).sum().item())


def test_greedy_labels_end_where_the_row_departs_from_them():
    ids = torch.tensor([[0, 1, 2, 3, 4, 5, 6]])
    best = torch.tensor([[1, 2, 9, 4, 5, 6, 0]])  # after token 2 the target would have said 9
    batch = Batch(
        ids, torch.ones_like(ids, dtype=torch.bool), *[None] * 2, torch.tensor([[0, 3]]),
        torch.ones(1, 2, dtype=torch.bool), *[None] * 4, best=best,
    )  # fmt: skip
    _, labels, inside = batch.slots(2, 4, greedy=True)
    assert labels[0, 0].tolist() == [1, 2, 9, 4] and inside[0, 0].tolist() == [True, True, True, False]
    assert labels[0, 1].tolist()[:3] == [4, 5, 6] and inside[0, 1].tolist() == [True, True, True, False]
    assert batch.slots(2, 4)[1][0, 0].tolist() == [1, 2, 3, 4]


def test_stacked_muon_is_torchs():
    g = torch.Generator().manual_seed(0)
    shapes = [(24, 8), (8, 24), (8, 24), (16, 16)]
    mine = [torch.nn.Parameter(torch.randn(s, generator=g)) for s in shapes]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in mine]
    pair = (
        StackedMuon(mine, lr=1e-2),
        torch.optim.Muon(theirs, lr=1e-2, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(3):
        for a, b in zip(mine, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=g)
            b.grad = a.grad.clone()
        for optimizer in pair:
            optimizer.step()
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5)


def test_a_drafter_goes_on_from_one_of_another_method():
    """DFlash 2 begins as the DFlash it comes from: its convolutions are the identity."""
    shape = DrafterShape.from_json(json.loads((GOLDEN / "D" / "drafter" / "config.json").read_text()))
    old = TorchDrafter.load(GOLDEN / "D" / "drafter")
    new = TorchDrafter(replace(shape, selector_rank=8, selector_top_k=4, block_size=8))
    new.go_on_from(old)
    _, expected, _ = golden("D")
    embed = TorchTarget.load(GOLDEN / "D" / "target").embed
    old.config = replace(shape, block_size=8)
    blocks = [expected["full_tapped_hidden"][None], expected["greedy_ids"][None].long(), torch.tensor([[21, 40]])]
    with torch.no_grad():
        torch.testing.assert_close(new(embed, *blocks), old(embed, *blocks))
    with pytest.raises(TrainingError, match="taps"):
        TorchDrafter(replace(shape, taps=(0,))).go_on_from(old)


@pytest.mark.parametrize("name", ["A", "C"])
@pytest.mark.parametrize("chunk", [8192, 13])
def test_losses_and_gradients(name, chunk):
    folder, expected, trace = golden(name)
    e = {k.removeprefix("train."): v for k, v in expected.items() if k.startswith("train.")}
    t = trace["train"]
    drafter = TorchDrafter.load(folder / "drafter")
    c = drafter.config
    recipe = Recipe(
        "dspark", name, c.block_size, confidence=c.confidence, anchors=6,
        ce=t["ce_loss_alpha"], tv=t["l1_loss_alpha"], gamma=t["loss_decay_gamma"],
    )  # fmt: skip
    head = own(folder, "lm_head.weight")
    V = torch.arange(len(head))
    batch = Batch(
        ids=e["input_ids"].long(),
        answer=e["loss_mask"].bool(),
        hidden=e["last_hidden"],
        taps={c.taps: e["tapped_hidden"]},
        anchors=e["anchor_positions"].long(),
        usable=e["block_keep_mask"].bool(),
        head=head,
        candidates=V,
        place=V,
        embed=own(folder, "embed_tokens.weight"),
    )
    loss, figures, weights = Course(recipe, drafter).backward(batch, chunk)
    assert torch.equal(weights > 0, e["eval_mask"].bool())
    assert loss.item() == pytest.approx(t["loss"], rel=1e-4)
    means = [(figures[i] * weights).sum() / (weights.sum() + 1e-6) for i in range(3)]
    assert means[0].item() == pytest.approx(t["ce_loss"], rel=1e-4)
    if c.confidence:
        assert means[1].item() == pytest.approx(t["l1_loss"], rel=1e-4)
        assert means[2].item() == pytest.approx(t["confidence_loss"], rel=1e-4)
        known = e["eval_mask"].bool()
        torch.testing.assert_close(figures[3][known], e["confidence_logits"][known], rtol=1e-4, atol=1e-4)
    gradients = {n: p.grad for n, p in drafter.named_parameters()}
    checked = [k for k in e if k.startswith("grad.")]
    assert len(checked) == (3 if c.confidence else 2)
    for k in checked:
        g = gradients[k.removeprefix("grad.")]
        assert (g - e[k]).norm() / e[k].norm() < 1e-4, k
    norm = torch.nn.utils.clip_grad_norm_(drafter.parameters(), 1.0)
    assert norm.item() == pytest.approx(t["grad_norm"], rel=1e-3)


def test_a_qwen3_target_trains(tmp_path):
    """The drafter begins as the target's last layers, their query and key norms included, and learns from there."""
    target = TorchTarget.load(GOLDEN / "A" / "target")
    g = torch.Generator().manual_seed(0)
    start = torch.randint(0, target.vocab_size, (8, 1), generator=g)
    ids = ((start + 3 * torch.arange(48)) % target.vocab_size).int()
    answer = torch.zeros(8, 48, dtype=torch.bool)
    answer[:, 4:] = True
    recipe = Recipe.parse("dspark:rank=8,layers=1,anchors=4,lr=5e-3,optimizer=muon,taps=0-1")
    plan = TrainingPlan(steps=20, rows=8, log_every=1)
    trainer = Trainer(
        target, Rows(ids, answer, torch.zeros(8)), [recipe], plan, tmp_path / "run", 1, notify=lambda _: None
    )
    (course,) = trainer.courses
    mine, theirs = course.drafter.layers[0].self_attn, target.layers[-1]
    assert theirs.q_norm is not None
    assert torch.equal(mine.q_norm.weight, theirs.q_norm) and torch.equal(mine.k_norm.weight, theirs.k_norm)
    trainer.run()
    losses = [e["dspark"]["ce"] for e in trainer.log]
    assert len(losses) == 20 and losses[-1] < losses[0] - 0.5


def test_slot_weights_stop_at_the_first_gap():
    inside = torch.tensor([[True, True, False, True]])
    w = LossWeights(gamma=4.0).by_slot(inside)
    assert w[0].tolist() == pytest.approx([1.0, float(np.exp(-0.25)), 0.0, 0.0])
    assert LossWeights().gamma == 4.0


def test_sequential_temperature_scaling():
    sts = json.loads((GOLDEN / "sched.json").read_text())["sts"]
    logits, labels = np.array(sts["logits"]), np.array(sts["prefix_accept"], float)
    grid = np.array(sts["grid"])
    temperatures = calibrate.fit_temperatures(logits, labels, grid, sts["bins"])
    assert temperatures.tolist() == pytest.approx(sts["temperatures"])
    before, after = calibrate.survival(logits), calibrate.survival(logits, temperatures)
    for k in range(logits.shape[1]):
        assert calibrate.ece(before[:, k], labels[:, k], sts["bins"]) == pytest.approx(sts["ece_before"][k], abs=1e-6)
        assert calibrate.ece(after[:, k], labels[:, k], sts["bins"]) == pytest.approx(sts["ece_after"][k], abs=1e-6)


def test_auc_and_noise_floor():
    rng = np.random.default_rng(1)
    p = rng.integers(1, 20, 300) / 20  # many ties
    y = (rng.random(300) < p).astype(float)
    pairs = np.sign(p[y > 0][:, None] - p[y == 0][None, :])
    assert calibrate.auc(p, y) == pytest.approx((pairs / 2 + 0.5).mean())
    # A perfectly calibrated head errs by chance alone, less with more rounds: the mean of |gaps| of 20 bins.
    p = rng.random(20_000)
    y = (rng.random(20_000) < p).astype(float)
    assert calibrate.noise_floor(p) == pytest.approx(calibrate.ece(p, y), rel=0.5)
    assert calibrate.noise_floor(p[:200]) > 5 * calibrate.noise_floor(p)


def test_calibration_mends_an_overconfident_head():
    rng = np.random.default_rng(2)
    true = rng.normal(1.0, 1.5, (40_000, 3))
    labels = np.cumprod(rng.random(true.shape) < calibrate.sigmoid(true), axis=1).astype(float)
    logits = true * 2.0  # as if twice as sure
    found = calibrate.calibrate(logits[:20_000], labels[:20_000], logits[20_000:], labels[20_000:])
    assert found["temperatures"] == pytest.approx([2.0] * 3, rel=0.2)
    assert all(b > 0.04 for b in found["ece_before"])
    for after, floor in zip(found["ece_after"], found["ece_noise_floor"], strict=True):
        assert after < 2 * floor


def test_margins_are_fitted_slot_by_slot_to_the_rounds_that_reach_it():
    rng = np.random.default_rng(5)
    weights, biases = np.array([0.8, 1.4, 0.5]), np.array([-0.5, -1.0, 0.5])
    margins = rng.gamma(1.5, 1.5, (12_000, 3))
    labels = np.cumprod(rng.random(margins.shape) < calibrate.sigmoid(weights * margins + biases), axis=1).astype(float)
    found = calibrate.calibrate_margins(margins[:8000], labels[:8000], margins[8000:], labels[8000:])
    assert found["margin_weights"] == pytest.approx(weights, abs=0.15)
    assert found["margin_biases"] == pytest.approx(biases, abs=0.2)
    assert found["slots"] == len(labels[8000:]) + labels[8000:, :2].sum() and found["ece"] < 0.02 and found["auc"] > 0.7
    few = calibrate.calibrate_margins(margins[:150], labels[:150], margins, labels)
    assert len({*few["margin_weights"]}) == 1, "a slot that few rounds reach is as the one before it"
    never = calibrate.calibrate_margins(margins[:500], 0 * labels[:500], margins, labels)
    assert calibrate.sigmoid(np.array(never["margin_biases"]) + 3 * np.array(never["margin_weights"])).max() < 0.1
    backwards = calibrate.calibrate_margins(margins, (margins < 2).astype(float), margins, labels)
    assert min(backwards["margin_weights"]) == 0, "surer is never less often right"
    with pytest.raises(TrainingError, match="no held-out rounds"):
        calibrate.calibrate_margins(margins[:0], labels[:0], margins, labels)
