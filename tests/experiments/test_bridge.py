"""E6: the two levels of similarity, and the rank correlation with its interval."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau

from experiments import bridge
from experiments.harness.statements import Outcome


@pytest.fixture(scope="module")
def result(small_result):
    return small_result("bridge")


def test_bridge_finds_the_two_levels_of_similarity(result, outcome):
    pairs = result["pairs"]
    assert pairs["same_mode"]["estimate"] > 0.9
    assert pairs["cross_mode"]["estimate"] < 0
    assert pairs["pearson"]["estimate"] == pytest.approx(0.83, abs=0.1)  # as re-run by others
    assert outcome("bridge.k-eff.dkon-over-rkon.k4", result) == Outcome.HOLDS
    assert outcome("bridge.calibration.k4", result) == Outcome.FAILS


def test_the_rank_correlation_is_kendalls_tau_b():
    exact = {"score": [1.0, 1.2, 1.2, 1.5, 0.9], "k_eff": [2.0, 1.0, 3.0, 3.0, 1.0]}  # with ties
    table = {
        i: {
            "4": {
                name: {"estimate": values[i], "left_out": [values[i]] * 6} for name, values in exact.items()
            }
        }
        for i in range(5)
    }
    found = bridge._rank(table, "4", 3, np.random.default_rng(0))
    assert found["estimate"] == pytest.approx(kendalltau(*exact.values()).statistic, rel=1e-12)
    assert found["low"] == found["high"] == pytest.approx(found["estimate"])


@pytest.mark.parametrize(("shared", "settled"), [(True, True), (False, False)])
def test_the_rank_correlation_knows_what_strategies_share(shared, settled):
    """Errors far larger than the gaps between strategies, but common to all of them, leave the order alone."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=50)
    left_out = lambda: common if shared else rng.normal(size=50)  # noqa: E731
    table = {
        i: {
            "4": {
                name: {"estimate": 0.1 * i, "left_out": 0.1 * i + left_out()} for name in ("score", "k_eff")
            }
        }
        for i in range(5)
    }
    found = bridge._rank(table, "4", 500, np.random.default_rng(1))
    assert (found["low"] == found["high"] == 1.0) == settled
