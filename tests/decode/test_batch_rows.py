"""Passes of many tokens: read between and beyond what was measured, kept on disk, and timed."""

import json

import pytest

from dspark_core.decode.batch_rows import KIND, WIDTHS, BatchRows, load_rows, measure_rows
from dspark_core.decode.cost_curve import Learned
from dspark_core.decode.measure import made_of
from dspark_core.store import Store
from tests.playground.tiny import TinyEngine

from ..race.forecasts import TAXI_CURVE, curve, timing


def test_points_are_the_curves_and_beyond_them_it_goes_on_as_steeply_as_their_upper_half():
    rows = BatchRows.of(TAXI_CURVE, 64, {})
    assert rows.measured == 17
    for n in (1, 2, 9, 17, 40, 512):
        assert rows.seconds(n) == pytest.approx(0.08 + 0.02 * n)
    stairs = BatchRows.of(curve(lambda w: 0.1 if w == 1 else 0.2), 64, {})
    assert stairs.seconds(17) == pytest.approx(0.2) == stairs.seconds(1000), "flat goes on flat"
    falls = BatchRows({1: 1.0, 8: 3.0, 16: 2.0}, 16)
    assert falls.seconds(100) == 2.0, "nothing gets cheaper than it was measured"
    assert BatchRows({1: 0.5}, 0).seconds(100) == 0.5, "verification is free"


def test_rows_timed_apart_are_scaled_to_the_curve_and_to_the_speed_of_a_decode():
    apart = {8: timing(0.48), 16: timing(0.8), 32: timing(1.44), 64: timing(2.72)}  # twice as slow as the curve
    rows = BatchRows.of(TAXI_CURVE, 64, apart)
    assert rows.measured == 64 and rows.seconds(17) == pytest.approx(0.42)
    assert rows.seconds(32) == pytest.approx(0.72) and rows.seconds(64) == pytest.approx(1.36)
    assert rows.seconds(128) == pytest.approx(1.36 + 64 * (1.36 - 0.72) / 32)
    from dataclasses import replace

    slower = BatchRows.of(replace(TAXI_CURVE, learned={"plain": {"": Learned(1.5, 1.0)}}), 64, apart)
    assert slower.seconds(64) == pytest.approx(1.5 * 1.36) and slower.seconds(1) == pytest.approx(0.15)
    assert BatchRows.of(TAXI_CURVE, 64, {64: timing(9.0)}).measured == 17, "nothing to scale it by"


@pytest.mark.parametrize("found", ["no JSON", "{}", "[]", '{"8": 1}', '{"-1": {}}', "null", '{"8": {"median": 1}}'])
def test_what_lies_on_disk_is_rows_or_none(tmp_path, found):
    store = Store(tmp_path)
    assert load_rows({"a": "b"}, store) == {}
    file = store.file(KIND, {"a": "b"})
    file.parent.mkdir(parents=True)
    file.write_text(found)
    assert load_rows({"a": "b"}, store) == {}


def test_they_are_timed_and_found_again(tmp_path):
    models, store = TinyEngine().models, Store(tmp_path)
    shares = [*measure_rows(models.target, models.loaded, store)]
    assert shares == sorted(shares) and shares[-1] == 1
    about = made_of(models.target, models.loaded)
    rows = load_rows(about, store)
    assert [*rows] == [*WIDTHS] and all(t.n == 3 and t.low > 0 for t in rows.values())
    assert json.loads(store.file(KIND, about).read_text())["8"]["n"] == 3
    assert load_rows(about | {"precision": "other"}, store) == {}
