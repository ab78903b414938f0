"""The hardware-aware schedule on recorded blocks; tests/scripts/schedule_sim.py has every set on every curve."""

import pytest

from ..scripts.schedule_sim import CONTEXT, curves, outcome, recorded, with_wait


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
