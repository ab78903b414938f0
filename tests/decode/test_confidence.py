"""A confidence for every drafter: the margin of its two best logits, calibrated, and fitted anew while decoding."""

import json
import math
import random
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from dspark_core.decode.adaptive import HardwareAware
from dspark_core.decode.confidence import ConfidenceFit
from dspark_core.decode.rounds import Settings
from dspark_core.decode.sampling import Greedy
from dspark_core.decode.schedule import ConfidenceThreshold, CumulativeThreshold, FullBlock
from dspark_core.decode.speculative import Options, speculative
from dspark_core.errors import ModelError
from dspark_core.models.config import read_calibration
from dspark_core.models.drafter import calibrated
from dspark_core.models.info import USUAL_MARGIN, Calibration
from tests.conftest import GOLDEN, load_golden

from .curves import BUS, TAXI
from .helpers import NEVER, output, plain_output, rounds

HEADLESS = ("C", "formats/S2_dspark_gated_slot1", "formats/S5_dflash", "formats/S6_dflash2_zlab")


def headless():
    """Golden sets whose drafters have no confidence head: DFlash, with a vocabulary of its own, and DFlash 2."""
    sets = [load_golden(GOLDEN / name) for name in HEADLESS if (GOLDEN / name).exists()]
    return [g for g in sets if not g.drafter.info.has_look]


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def test_without_a_head_the_margin_of_the_two_best_logits_is_the_confidence(monkeypatch):
    """Of what the draft was decided by: the selector's scores, among what can be drafted. It costs the host nothing."""
    assert len(headless()) >= 2
    for g in headless():
        info = g.drafter.info
        margins = tuple((0.3 + 0.1 * k, 0.2 - 0.1 * k) for k in range(info.max_drafts))
        for calibration, fits in (
            (Calibration(), (USUAL_MARGIN,) * info.max_drafts),
            (Calibration(margins=margins), margins),
        ):
            monkeypatch.setattr(g.drafter, "info", replace(info, calibration=calibration))
            context, prompt = g.drafter.begin(), g.trace["prompt_ids"]
            _, taps = g.target.forward(mx.array(prompt), g.target.new_cache(), g.drafter.taps)
            context.extend(mx.array(prompt), taps)
            for n in (1, info.max_drafts):
                proposal = context.propose(mx.array(prompt[-1:]), n, Greedy(), confidence=True)
                best = np.sort(np.array(proposal.logits.astype(mx.float32)), axis=-1)
                margin = np.minimum(best[:, -1] - best[:, -2], 40)
                expected = sigmoid(np.array([w * m + b for m, (w, b) in zip(margin, fits, strict=False)]))
                assert np.allclose(np.array(calibrated(proposal.confidence, calibration)), expected, atol=1e-6), g.name
            assert context.propose(mx.array(prompt[-1:]), 2, Greedy()).confidence is None


def test_thresholds_and_the_schedule_go_by_it_and_change_no_token():
    """Float32, on a CPU: whatever the calibration says, the text is plain decoding's."""
    for g in headless():
        prompt, settings = g.trace["prompt_ids"], Settings(48, stop_ids=NEVER)
        expected = plain_output(g.target, prompt, 48)
        whole = list(speculative(g.target, g.drafter, prompt, settings, FullBlock(), Options(confidence=True)))
        assert all(len(r.confidence) == len(r.draft_ids) for r in rounds(whole)) and output(whole) == expected
        middle = float(np.median([c for r in rounds(whole) for c in r.confidence]))
        for schedule in (ConfidenceThreshold(middle), CumulativeThreshold(middle / 2)):
            events = list(speculative(g.target, g.drafter, prompt, settings, schedule))
            assert output(events) == expected
            assert len({r.proposed for r in rounds(events)}) > 1, "the confidences decide"
        for costs in (TAXI, BUS):
            fit = ConfidenceFit(g.drafter.info.max_drafts)
            plan = HardwareAware(costs, "DSpark", (0.8,) * 7, True, False, fit)
            events = list(speculative(g.target, g.drafter, prompt, settings, plan))
            assert output(events) == expected and not any(r.looked for r in rounds(events))


def test_a_sampled_draft_leaves_its_own_confidence_alone(golden_a):
    """Slot k is decided before x_k is drawn: its confidence may know x_1..x_{k-1}, and not x_k."""
    for g in headless():
        context, prompt = g.drafter.begin(), g.trace["prompt_ids"]
        _, taps = g.target.forward(mx.array(prompt), g.target.new_cache(), g.drafter.taps)
        context.extend(mx.array(prompt), taps)

        def drawn(token):
            def pick(logits, k):
                best = mx.argmax(logits, axis=-1).astype(mx.int32)
                return mx.full(best.shape, token, dtype=mx.int32) if k == 0 else best, None

            return pick

        first = [context.propose(mx.array(prompt[-1:]), 3, drawn(t), True).confidence.tolist() for t in (3, 9)]
        assert first[0][0] == first[1][0]


@pytest.mark.parametrize("truth", [(1.0, 0.0), (0.6, 0.7), (1.5, -1.0)])
@pytest.mark.parametrize("threshold", [0.0, 0.6])
def test_the_fit_finds_how_far_confidences_are_off_though_only_sent_slots_have_labels(truth, threshold):
    """Drafts are sent where the calibration says so, which is no reason for the fit to be off where they are."""
    draw, fit, (a, b) = random.Random(1), ConfidenceFit(3), truth
    for _ in range(4000):
        z = [draw.gauss(0.5, 1.5) for _ in range(3)]
        sent = next((k for k, x in enumerate(z) if sigmoid(x) < threshold), 3)
        accepted = next((k for k, x in enumerate(z[:sent]) if draw.random() > sigmoid(a * x + b)), sent)
        fit.observe(z[: min(accepted + 1, sent)], accepted)
    for x in (0.5, 1.0, 2.0):
        found = sigmoid(np.array(fit.logits([x] * 3)))
        assert np.abs(found[:2] - sigmoid(a * x + b)).max() < 0.06, (x, found, sigmoid(a * x + b))


def test_a_fit_that_knows_nothing_changes_nothing():
    fit = ConfidenceFit(4)
    assert fit.logits([-1.0, 2.0]) == [-1.0, 2.0]
    for _ in range(500):
        fit.observe([0.3], 1)  # three slots are never reached
    assert fit.logits([0.3] * 4)[1:] == [0.3] * 3 and fit.logits([0.3])[0] > 2
    other = fit.copy()
    for _ in range(200):
        other.observe([0.3], 0)
    assert other.logits([0.3]) != fit.logits([0.3])
    for z in ([0.0], [1e4], [-1e4]):
        for _ in range(300):
            fit.observe(z, 1)
    assert all(math.isfinite(x) for x in fit.logits([0.3] * 4))


def test_a_calibration_of_the_margin_is_read_or_refused(tmp_path):
    def written(**fields):
        (tmp_path / "calibration.json").write_text(json.dumps(fields))
        return read_calibration(tmp_path, 2)

    assert written(margin_weights=[0.5, 0.25], margin_biases=[-1, 0]).margins == ((0.5, -1.0), (0.25, 0.0))
    for wrong in (
        {"margin_weights": [0.5, 0.5]},
        {"margin_weights": [0.5], "margin_biases": [0.5]},
        {"margin_weights": [-0.5, 0.5], "margin_biases": [0, 0]},
        {"margin_weights": [0.5, "x"], "margin_biases": [0, 0]},
    ):
        with pytest.raises(ModelError, match="margin_"):
            written(**wrong)
