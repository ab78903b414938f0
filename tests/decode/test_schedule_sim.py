"""The hardware-aware schedule on recorded blocks; tests/scripts/schedule_sim.py has every set on every curve."""

import pytest

from dspark_core.decode.adaptive import HardwareAware

from ..scripts.schedule_sim import CONTEXT, METHOD, bent, curves, outcome, recorded, replay, with_wait


@pytest.mark.parametrize("name", ["h200_smollm2", "m4pro_gemma4_12b_published 20 ms"])
def test_close_to_the_best_cap_in_hindsight(name):
    """On a bus, where waiting for the confidences costs a third of a step, and on a taxi, where it costs little."""
    acceptance, sets = recorded()
    curve = dict(curves())[name]
    wait = 0.37 if name.startswith("h200") else 0.03
    for answers in sets.values():
        o = outcome(answers, acceptance, with_wait(curve, wait * curve.plain_s(CONTEXT)))
        assert o.aware > 0.97 * o.best and o.aware > 0.97
        assert not name.startswith("h200") or o.waited < 0.2, "blind on the bus"


@pytest.mark.parametrize("confident", [True, False])
@pytest.mark.parametrize(
    ("off", "why"),
    [((0.5, 1, 1), "plain steps twice too cheap"), ((1, 2, 1), "verification twice too dear"), ((1, 1, 3), "drafting")],
)
def test_a_curve_from_a_busy_moment_parks_nobody(off, why, confident):
    """What the decode's own rounds and steps take is against the curve, by which drafting never pays."""
    acceptance, sets = recorded()
    curve = dict(curves())["cpu_smollm2_first_race"]
    plan = HardwareAware(bent(curve, *off), METHOD, acceptance, confident)
    decodes = [replay(plan, places, curve) for places in sets["humaneval"][1:6]]
    assert all(any(r.draft_ids for r in rounds[:4]) for rounds in decodes), why
    tokens = sum(len(r.committed) for rounds in decodes for r in rounds)
    assert tokens * curve.plain_s(CONTEXT) / sum(curve.seconds(METHOD, rounds) for rounds in decodes) > 1.3, why
