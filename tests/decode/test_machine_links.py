"""The paper model of several machines, held against arithmetic by hand and against published figures."""

import pytest

from dspark_core.decode.machine_links import LINKS, Link, Split

RDMA, TCP, ETHERNET = LINKS


def test_a_sum_over_a_ring_and_over_a_mesh():
    ring = Link("ring", 1e-3, 1e6, False, "")
    assert ring.sum_s(3000, 3) == pytest.approx(2 * (1e-3 + 1500 / 1e6))
    assert ring.sum_s(3000, 2) == pytest.approx(1e-3 + 3000 / 1e6)
    mesh = Link("mesh", 1e-3, 1e6, True, "")
    assert mesh.sum_s(3000, 3) == pytest.approx(1e-3 + 6000 / 1e6)
    assert ring.sum_s(3000, 1) == 0.0


def test_when_it_pays():
    """64 layers of 5120 numbers, 30 ms a step: of TCP's latency alone there are 38 ms a step."""
    step, size = 0.030, {"layers": 64, "row_bytes": 2 * 5120}
    assert Split(2, RDMA, **size).pays(1, step)
    assert not Split(2, TCP, **size).pays(1, step) and not Split(2, ETHERNET, **size).pays(1, step)
    assert Split(2, TCP, **size).seconds(1, step) == pytest.approx(0.0165 + 0.0384, rel=0.01)
    # A verification has more rows for the same latency, so its excess over a plain step is less than in proportion.
    excess = [Split(2, ETHERNET, **size).seconds(rows, step) / step for rows in (1, 8)]
    assert excess[1] < 1.5 * excess[0]
