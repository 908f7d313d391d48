"""E5 against what is exact, and the account of the published bias."""

from __future__ import annotations

import pytest

from experiments.harness.statements import Outcome
from experiments.shared import untrained_network


@pytest.fixture(scope="module")
def result(small_result):
    return small_result("emse")


def test_emse_finds_what_is_exact(result, outcome):
    for name in ("rkon", "bkon"):
        assert untrained_network.furthest(result["measured"][name], result["exact"][name]) < 4
        assert outcome(f"emse.exact.{name}", result) != Outcome.FAILS
    assert outcome("emse.bkon-over-rkon.loss", result) == Outcome.HOLDS
    assert result["truth_error"] < 1e-8
    assert result["exact"]["bkon"]["mass_error"] < 1e-10
    assert result["exact"]["rkon"]["loss"]["bias_squared"]["estimate"] < 1e-20


def test_the_published_bias_is_accounted_for_by_its_own_sampling(result):
    made = result["published_bias"]
    # 0.3212 x 30/29 is the variance of one trial: 1/30 of it in the mean of the trials, 4/100 of it in the truth.
    assert made["from_trials"] == pytest.approx(0.3212 * 30 / 29 / 30, rel=1e-3)
    assert made["from_truth"] == pytest.approx(0.3212 * 30 / 29 * 4 / 100, rel=1e-3)
    assert made["share"] == pytest.approx(0.832, abs=1e-3)
    assert made["repeated"]["mean"] == pytest.approx(made["from_trials"] + made["from_truth"], rel=0.1)
