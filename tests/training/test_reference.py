"""The torch forward, the losses and their gradients against the reference's golden sets."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402

from dspark_core.training import calibrate  # noqa: E402
from dspark_core.training.data import Rows  # noqa: E402
from dspark_core.training.torch_drafter import TorchDrafter  # noqa: E402
from dspark_core.training.torch_target import TorchTarget  # noqa: E402
from dspark_core.training.train import Batch, Course, LossWeights, Recipe, Trainer, TrainingPlan  # noqa: E402

GOLDEN = Path(os.environ.get("GOLDEN_DIR") or Path(__file__).parents[1] / "golden")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def golden(name):
    folder = GOLDEN / name
    return folder, load_file(folder / "expected.safetensors"), json.loads((folder / "trace.json").read_text())


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
