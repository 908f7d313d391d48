"""The frontier of reward-weighted sampling ends at the exact strategies."""

from __future__ import annotations

import pytest

from experiments.harness.statements import Outcome


@pytest.fixture(scope="module")
def result(small_result):
    return small_result("temperature")


def test_the_frontier_ends_at_the_exact_strategies(result, outcome):
    for name in ("rkon", "bkon"):
        entry, exact = result["frontier"][0 if name == "bkon" else -1], result["exact"][name]
        emse = entry["loss"]["emse"]
        assert abs(emse["estimate"] - exact["loss"]["emse"]["estimate"]) < 4 * emse["standard_error"]
        assert outcome(f"temperature.exact.{name}", result) != Outcome.FAILS
    bias = [row["loss"]["bias_squared"]["estimate"] for row in result["frontier"]]
    assert bias[0] > bias[1] > bias[2]
