"""Schedules by enumeration: what they send, that they never anticipate, and what a drafter that does not pay costs."""

import itertools
import json
import math
import random

import numpy as np
import pytest

from dspark_core.decode.adaptive import (
    FIRST_LOSS,
    LOSS,
    PROBE_LOSS,
    HardwareAware,
    algorithm1,
    prefix,
)
from dspark_core.decode.rounds import Round
from dspark_core.decode.schedule import ConfidenceThreshold, CumulativeThreshold, FixedCap, FullBlock, Schedule

from ..conftest import GOLDEN
from ..scripts.schedule_adversary import play
from .curves import BUS, TAXI, curve

CASES = json.loads((GOLDEN / "sched.json").read_text())["algorithm1"]
LEVELS = (0.1, 0.45, 0.8, 0.97)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["name"])
def test_algorithm_1_of_the_golden_set(case):
    sps = {int(b): v for b, v in case["sps"].items()}
    lengths = algorithm1(case["confidence"], sps.__getitem__)
    assert lengths == case["lengths"]
    tokens = len(lengths) + sum(
        math.prod(c[:k]) for c, n in zip(case["confidence"], lengths, strict=True) for k in range(1, n + 1)
    )
    assert tokens * sps[len(lengths) + sum(lengths)] == pytest.approx(case["throughput"])


def speeds(confidence, sps):
    """Expected tokens per second by the number of drafts sent."""
    return [
        (1 + sum(math.prod(confidence[:k]) for k in range(1, n + 1))) * sps(n + 1) for n in range(len(confidence) + 1)
    ]


SPS = {
    "taxi": lambda b: 1 / (30 + 100 * b),
    "step, then flat": lambda b: 1 / (6 if b == 1 else 12 + 0.1 * b),
    "dear at the end": lambda b: 1 / (10 + b**3),
    "free": lambda b: 1.0,
}


@pytest.mark.parametrize("name", SPS)
def test_a_prefix_is_algorithm_1_for_one_request(name):
    for confidence in itertools.product(LEVELS, repeat=4):
        assert prefix(confidence, SPS[name]) == algorithm1([confidence], SPS[name])[0]


@pytest.mark.parametrize("name", ["taxi", "dear at the end", "free"])
def test_a_prefix_is_the_best_one_where_costs_have_no_steps(name):
    for confidence in itertools.product(LEVELS, repeat=4):
        by_length = speeds(confidence, SPS[name])
        assert by_length[prefix(confidence, SPS[name])] == pytest.approx(max(by_length))


def test_expectation_carries_it_over_a_step():
    sps = SPS["step, then flat"]
    sure = [0.9] * 7
    assert algorithm1([sure], sps) == [0]
    assert prefix(sure, sps, expected=sure) == 7 == int(np.argmax(speeds(sure, sps)))
    assert prefix([0.1] * 7, sps, expected=sure) == 0
    assert prefix([0.9, 0.9, 0.05, 0.9], SPS["taxi"], expected=sure) <= 2


@pytest.mark.parametrize("name", SPS)
@pytest.mark.parametrize("expected", [(), (0.9, 0.7, 0.9, 0.5)])
def test_no_slot_is_decided_by_a_later_confidence(name, expected):
    sent = {c: prefix(c, SPS[name], expected) for c in itertools.product(LEVELS, repeat=4)}
    for k in range(1, 5):
        for head, same in itertools.groupby(sorted(sent), key=lambda c: c[:k]):
            assert len({sent[c] >= k for c in same}) == 1, head


def test_blocks_and_caps_by_enumeration():
    for most, cap, position in itertools.product(range(8), range(-1, 9), (0, 500)):
        assert FullBlock().drafts(most, position) == most
        assert FixedCap(cap).drafts(most, position) == max(0, min(cap, most))
        drafted = FixedCap(cap).drafts(most, position)
        assert FixedCap(cap).proposed(drafted, None) == FullBlock().proposed(drafted, None) == drafted


@pytest.mark.parametrize("name", ["taxi", "bus"])
def test_hardware_awareness_begins_with_the_fastest_number_of_drafts(name):
    """For every acceptance that earlier decodes may have led it to expect; none where plain steps are faster."""
    costs, seen = {"taxi": TAXI, "bus": BUS}[name], set()
    for acceptance in itertools.product(LEVELS, repeat=4):
        speed = [costs.speed("DFlash", acceptance, n, 100) for n in range(5)]
        fastest = int(np.argmax(speed))
        assert HardwareAware(costs, "DFlash", acceptance).begin(4).drafts(4, 100) == fastest, acceptance
        seen.add(fastest)
    assert {"taxi": {0, 4}, "bus": {0, 2, 3, 4}}[name] <= seen


def test_thresholds_by_enumeration():
    for confidence in itertools.product(LEVELS, repeat=4):
        for t in (0.0, 0.3, 0.7, 1.0):
            alone = next((k for k in range(4) if confidence[k] < t), 4)
            product = next((k for k in range(4) if math.prod(confidence[: k + 1]) < t), 4)
            assert ConfidenceThreshold(t).proposed(4, list(confidence)) == alone
            assert CumulativeThreshold(t).proposed(4, list(confidence)) == product


# ---- the distribution of a round whose length depends on what was drafted ---------------------------------

V = 3
P = np.array([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.25, 0.25, 0.5]])  # the target's p, by position
Q = np.array([[0.2, 0.2, 0.6], [0.4, 0.3, 0.3]])  # the drafter's q
CONFIDENT = np.array([0.95, 0.05, 0.5])  # confidence of slot 2, after the first draft


def joint(sent):
    """Joint distribution of three tokens when a round sends `sent(x_1, x_2)` of two drafts and the target goes on."""
    out = np.zeros((V, V, V))
    for x in itertools.product(range(V), repeat=2):
        reached, n = Q[0, x[0]] * Q[1, x[1]], sent(*x)
        for k in range(n + 1):
            left = np.maximum(P[k] - Q[k], 0) if k < n else P[k]
            accept = min(1, P[k, x[k]] / Q[k, x[k]]) if k < n else 0
            parts = [np.eye(V)[t] for t in x[:k]] + [left / left.sum()] + list(P[k + 1 :])
            out += reached * (1 - accept) * np.einsum("i,j,k->ijk", *parts)
            reached *= accept
    return out


EXACT = np.einsum("i,j,k->ijk", *P)


@pytest.mark.parametrize("first", LEVELS)
def test_a_round_cut_by_confidence_keeps_the_targets_distribution(first):
    taxi = SPS["taxi"]
    lengths = set()
    schedules = {
        "hardware": lambda c: prefix(c, taxi),
        "hardware, with expectation": lambda c: prefix(c, SPS["step, then flat"], (0.9, 0.9)),
        "confidence": lambda c: ConfidenceThreshold(0.4).proposed(2, c),
        "cumulative": lambda c: CumulativeThreshold(0.4).proposed(2, c),
    }
    for name, cut in schedules.items():

        def sent(x1, x2, cut=cut):
            lengths.add(cut([first, CONFIDENT[x1]]))
            return cut([first, CONFIDENT[x1]])

        assert np.abs(joint(sent) - EXACT).max() < 1e-12, name
    assert len(lengths) > 1 or first < 0.4


def test_a_round_that_anticipates_does_not():
    """The best prefix in hindsight decides on x_1 by the confidence that x_1 leads to: that shifts the output."""
    step = SPS["step, then flat"]

    def hindsight(x1, x2):
        return int(np.argmax(speeds([0.8, CONFIDENT[x1]], step)))

    assert np.abs(joint(hindsight) - EXACT).max() > 0.01


# ---- a whole decode, replayed without a model -------------------------------------------------------------


def replay(schedule: Schedule, fate, steps: int, curve, method="DFlash", max_drafts=15, confidence=None):
    """Rounds and predicted seconds of a decode of `steps` tokens in which `fate(i)` drafts after token i are right."""
    s, rounds, i, ahead = schedule.begin(max_drafts), [], 0, False
    while i < steps:
        n, looked = 0 if ahead else s.drafts(max_drafts, 100 + i), False
        c = confidence(i) if confidence else None
        if n and s.looks:
            looked, n = True, s.look(c[0], n)
        sent = s.proposed(n, c[:n]) if n and s.needs_confidence else n
        kept = min(fate(i), sent)
        r = Round(len(rounds), 100 + i, 0, (0,) * n, sent, kept, 0, kept == sent, (0,) * (kept + 1), 0.0, looked=looked)
        ahead = not n and not looked and s.parked()
        s.observe(r)
        rounds.append(r)
        i += kept + 1
    return rounds, curve.seconds(method, rounds)


def draws(p: float, seed=0):
    """Accepted drafts after each token, each slot with chance p."""
    rng = random.Random(seed)
    cache = {}
    return lambda i: cache.setdefault(i, next((k for k in range(15) if rng.random() > p), 15))


@pytest.mark.parametrize(("prior", "soon"), [((), 0.06), ((0.9,) * 15, 0.09), ((0.5,) * 15, 0.015)])
def test_a_drafter_that_never_pays_costs_little(prior, soon):
    for steps, most in ((96, soon), (2000, 0.035)):
        rounds, seconds = replay(HardwareAware(TAXI, "DFlash", prior), lambda i: 0, steps, TAXI)
        assert 1 < seconds / (steps * TAXI.plain_s(100)) < 1 + most
    assert [r.index for r in rounds if r.draft_ids][-1] > 1000, "it never probes again"


@pytest.mark.parametrize("seed", range(5))
def test_the_loss_is_bounded_whatever_happens(seed):
    """Outcomes that lead it on: accepted whenever nothing rides on it, rejected when much is sent."""
    rng = random.Random(seed)
    plain = TAXI.plain_s(100)
    s, lost, elapsed = HardwareAware(TAXI, "DFlash").begin(15), 0.0, 0.0
    worst = 0.0
    for i in range(600):
        n = s.drafts(15, 100)
        kept = 0 if rng.random() < 0.8 else min(n, rng.randint(0, 2))
        r = Round(i, 100, 0, (0,) * n, n, kept, 0, kept == n, (0,) * (kept + 1), 0.0)
        s.observe(r)
        took = TAXI.recorded_s("DFlash", r)
        elapsed += took
        lost += took - plain * (kept + 1)
        worst = max(worst, lost - (LOSS + PROBE_LOSS) * elapsed)
    assert worst < FIRST_LOSS * plain + TAXI.round_s("DFlash", 4, 4, 100) - plain


@pytest.mark.parametrize("confident", [False, True])
def test_the_bound_on_losses_holds_against_an_adversary(confident):
    """Curve, prior, acceptance and confidences are all chosen against it."""
    games = [play(seed, confident) for seed in range(250)]
    over = [(seed, g) for seed, g in enumerate(games) if g.share > 1 + 1e-9]
    assert not over and max(g.share for g in games) > 0.5, f"{len(over)} of 250: {over}"


@pytest.mark.parametrize("p", [0.3, 0.75, 0.85, 0.95])
@pytest.mark.parametrize("name", ["taxi", "bus"])
def test_close_to_the_best_cap_of_one_who_knows(name, p):
    """Against the fixed cap that is best for the true acceptance, told beforehand: what learning it costs."""
    costs = {"taxi": TAXI, "bus": BUS}[name]
    known = FixedCap(costs.best_cap("DFlash", [p] * 15, 100))
    ratios, times_plain = [], []
    for seed in range(8):
        fate = draws(p, seed)
        _, best = replay(known, fate, 600, costs)
        _, seconds = replay(HardwareAware(costs, "DFlash"), fate, 600, costs)
        ratios.append(best / seconds)
        times_plain.append(600 * costs.plain_s(100) / seconds)
    assert np.mean(ratios) > 0.95
    assert min(times_plain) > {0.3: 0.98, 0.75: 0.98, 0.85: 1.05, 0.95: 1.25}[p]


def test_it_takes_up_drafting_again_when_the_text_turns_easy():
    hard, easy = draws(0.2), draws(0.97)
    rounds, _ = replay(HardwareAware(TAXI, "DFlash"), lambda i: hard(i) if i < 300 else easy(i), 900, TAXI)
    drafted = {half: [len(r.draft_ids) for r in rounds if (r.position >= 700) == half] for half in (False, True)}
    assert np.mean([n > 0 for n in drafted[False]]) < 0.35
    assert np.mean([n > 0 for n in drafted[True]]) > 0.9


def test_confidence_tells_easy_rounds_from_hard_ones():
    """Half of the rounds accept everything, half nothing, and the head knows: no fixed cap does as well."""
    rng = random.Random(0)
    easy = [rng.random() < 0.5 for _ in range(700)]

    def fate(i):
        return 7 if easy[i] else 0

    def told(i):
        return [0.97 if easy[i] else 0.03] * 7

    best = min(replay(FixedCap(cap), fate, 600, TAXI, "DSpark", 7)[1] for cap in range(8))
    rounds, seconds = replay(HardwareAware(TAXI, "DSpark", (), True), fate, 600, TAXI, "DSpark", 7, told)
    assert best / seconds > 1.05
    looked_only = [r for r in rounds if r.looked and not r.draft_ids]
    assert looked_only and all(not easy[r.position - 100] for r in looked_only)
    assert np.mean([r.proposed for r in rounds if r.draft_ids and r.position > 300]) > 6


def test_looking_first_only_where_head_rows_cost():
    for costs, looks in ((TAXI, True), (BUS, False)):
        s = HardwareAware(costs, "DSpark", (), True).begin(7)
        s.drafts(7, 100)
        assert s.looks is looks and s.needs_confidence


def test_overconfidence_is_unlearned():
    """A head that says 0.95 where 0.4 is true: its word is discounted and drafting ends."""
    fate = draws(0.4, 3)
    _, seconds = replay(HardwareAware(TAXI, "DSpark", (), True), fate, 600, TAXI, "DSpark", 7, lambda i: [0.95] * 7)
    assert seconds / (600 * TAXI.plain_s(100)) < 1.05


def test_the_same_rounds_lead_to_the_same_decisions():
    runs = [replay(HardwareAware(TAXI, "DFlash"), draws(0.7, 1), 200, TAXI)[0] for _ in range(2)]
    assert runs[0] == runs[1]


def test_schedules_that_learn_nothing_serve_every_decode():
    for schedule in (FullBlock(), FixedCap(2), ConfidenceThreshold(0.5), CumulativeThreshold(0.5)):
        assert schedule.begin(7) is schedule
    aware = HardwareAware(curve({1: 10, 8: 20}), "DSpark")
    assert aware.begin(7) is not aware.begin(7)
