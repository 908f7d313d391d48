"""Intervals of replicates: Student's for a mean, bootstrap for the rest, and which setting is best."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from experiments.harness import intervals
from experiments.harness.store import to_json
from mrtsim.errors import InputError


def test_the_mean_interval_is_students():
    cell = intervals.mean(np.array([1.0, 2.0, 3.0, 6.0]))
    # t with 3 degrees of freedom: 3.182446; standard error 2.160247 / 2
    assert (cell.value, cell.low, cell.high) == pytest.approx((3.0, 3 - 3.437435, 3 + 3.437435), rel=1e-5)


def test_ratio_of_means_and_its_jackknife():
    ratio = intervals.ratio_of_means(np.array([2.0, 4.0, 9.0]), np.array([1.0, 2.0, 3.0]))
    without = np.array([13 / 5, 11 / 4, 6 / 3])
    error = np.sqrt(2 / 3 * np.square(without - without.mean()).sum())
    assert ratio.value == 2.5
    assert ratio.high - 2.5 == pytest.approx(4.302652729911275 * error)
    same = intervals.ratio_of_means(np.array([1.0, 2.0]), np.array([2.0, 4.0]))
    assert (same.value, same.low, same.high) == (0.5, 0.5, 0.5)


def test_the_largest_distance_has_limits_that_hold_for_all():
    found = intervals.largest_distance(np.array([0.3, 0.1, 0.05]), np.array([0.1, 0.4, 0.01]))
    assert (found.value, found.low, found.high) == pytest.approx((0.3, 0.2, 0.5))
    nothing = intervals.largest_distance(np.array([0.1]), np.array([0.2]))
    assert nothing.low == 0.0  # a distance is not negative


def test_bootstrap_intervals_cover():
    rng = np.random.default_rng(1)
    cells = [to_json(intervals.describe(rng.normal(size=(60, 1)))) for _ in range(40)]
    for name, truth in (("mean", 0.0), ("std", 1.0), ("median", 0.0)):
        inside = sum(c[name][0]["low"] <= truth <= c[name][0]["high"] for c in cells)
        assert 34 <= inside <= 40, name


def test_the_best_setting_and_its_price():
    rng = np.random.default_rng(2)
    sure = np.array([3.0, 1.0, 2.0]) + 0.01 * rng.normal(size=(50, 3))
    answer = intervals.best(sure, [1, 4, 16], chosen=16)
    assert (answer["estimate"], answer["low"], answer["high"]) == (4, 4, 4)
    assert answer["probability"] == [0.0, 1.0, 0.0]
    assert answer["regret"]["estimate"] == pytest.approx(1.0, abs=0.02)
    assert answer["relative_regret"]["estimate"] == pytest.approx(0.5, abs=0.01)
    vague = np.array([3.0, 1.0, 1.0]) + rng.normal(size=(50, 1)) + 0.5 * rng.normal(size=(50, 3))
    answer = intervals.best(vague, [1, 4, 16], chosen=4)
    assert (answer["low"], answer["high"]) == (4, 16)
    assert sum(answer["probability"]) == pytest.approx(1.0)
    assert min(answer["probability"][1:]) > 0.02
    assert answer["regret"]["low"] == 0.0
    # Where nothing beats the first, all of nothing is lost: 1, or 0 where it is the chosen one.
    rising = np.array([1.0, 2.0, 3.0]) + 0.01 * rng.normal(size=(50, 3))
    assert intervals.best(rising, [1, 4, 16], chosen=16)["relative_regret"]["estimate"] == 1.0
    assert intervals.best(rising, [1, 4, 16], chosen=1)["relative_regret"]["high"] == 0.0


def test_resamples_at_once_are_resamples_one_by_one(monkeypatch):
    values = np.random.default_rng(1).normal(size=(9, 4)) ** 3
    monkeypatch.setattr(intervals, "_CHUNK", 100)  # three resamples per chunk
    median = partial(np.median, axis=-2)
    at_once = intervals.bootstrap(values, median, 50, vectorized=True)
    one_by_one = intervals.bootstrap(values, median, 50)
    for name, expected in one_by_one.items():
        np.testing.assert_array_equal(at_once[name], expected)


def test_resamples_are_rows_drawn_with_replacement():
    values = np.random.default_rng(4).normal(size=(7, 2))
    rows = np.random.default_rng(0).integers(0, 7, (30, 7))
    found = intervals.resampled(values, lambda runs: runs.mean(0) / runs.mean(), 30)
    np.testing.assert_allclose(found, [values[r].mean(0) / values[r].mean() for r in rows], rtol=1e-12)


def test_one_replicate_has_no_interval():
    alone = intervals.mean(np.array([2.0]))
    assert (alone.value, alone.low, alone.high) == (2.0, -np.inf, np.inf)
    with pytest.raises(InputError, match="at least 2 replicates"):
        intervals.bootstrap(np.array([[2.0]]), np.mean)


def test_a_held_interval_holds_its_estimate():
    found = intervals.held(
        {"estimate": np.array([1.0, 5.0, 3.0]), "low": np.array([2.0, 2.0, 2.0]), "high": 4.0}
    )
    assert found["low"].tolist() == [1.0, 2.0, 2.0]
    assert found["high"].tolist() == [4.0, 5.0, 4.0]
