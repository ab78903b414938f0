"""The paper model of several machines, held against arithmetic by hand and against published figures."""

import pytest

from dspark_core.decode.machine_links import LINKS, Link, Split
from dspark_core.models.info import DrafterInfo
from dspark_core.race.what_if import MACHINE, WhatIf
from tests.race.forecasts import TAXI_CURVE

RDMA, TCP, ETHERNET = LINKS


def test_a_sum_over_a_ring_and_over_a_mesh():
    ring = Link("", "ring", 1e-3, 1e6, False, "")
    assert ring.sum_s(3000, 3) == pytest.approx(2 * (1e-3 + 1500 / 1e6))
    assert ring.sum_s(3000, 2) == pytest.approx(1e-3 + 3000 / 1e6)
    mesh = Link("", "mesh", 1e-3, 1e6, True, "")
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


def test_several_of_this_machine_are_start_points_of_what_if():
    """As the page has them: with the fewest machines that do, and no faster than the parts that do not split."""
    assert Split.offered([], 64, 10240) == ()
    info = DrafterInfo(id="dspark", method="DSpark", title="DSpark", block=7, max_drafts=7)
    splits = Split.offered([3, 9], layers=64, row_bytes=10240)
    starts = {s.id: s for s in WhatIf.of(TAXI_CURVE, None, [info], splits=splits).starts}
    here, rdma, ethernet = (starts[name] for name in (MACHINE, "3-rdma", "3-ethernet"))
    assert rdma.title.startswith("3 of this machine over Thunderbolt 5") and "10 Gb Ethernet" in ethernet.title
    assert "not measured" in rdma.source and "50 µs" in rdma.source and "jeffgeerling.com" in rdma.source
    assert rdma.plain == pytest.approx(here.plain * 0.4 + 128 * (50e-6 + 2 * 10240 / 7.6e9))
    assert rdma.plain < ethernet.plain == ethernet.rounds[0].plain == ethernet.passes.seconds(1)
    (rounds,), (alone,) = rdma.rounds, here.rounds
    assert rounds.draft == alone.draft and len(rounds.verify) == len(alone.verify)
    assert rounds.verify[3] == pytest.approx(splits[0].seconds(4, alone.verify[3]))
    assert rdma.further < here.further, "the wait for a sum does not grow with the tokens"
    assert "3-rdma" not in {s.id for s in WhatIf.of(None, None, [info], splits=splits).starts}
