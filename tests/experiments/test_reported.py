import csv
from pathlib import Path

import pytest

from experiments import reported
from experiments.harness.statements import Outcome

SHARED = Path(__file__).parents[2].parent / "shared" / "reported"


@pytest.fixture(scope="module")
def result():
    return reported.run(reported.PRESETS["quick"], None, None)


@pytest.mark.skipif(not SHARED.exists(), reason="the published files are not beside the checkout")
@pytest.mark.parametrize(
    ("ours", "published", "columns"),
    [
        ("cross_family.csv", "cross_family_metrics.csv", ("model_key", "k", "reference_loss")),
        ("selector_grid.csv", "selector_grid_metrics.csv", ("suite", "strategy", "k", "reference_loss")),
    ],
)
def test_the_restated_tables_are_the_published_ones(ours, published, columns):
    with (SHARED / published).open(newline="") as file:
        expected = [{c: row[c] for c in columns} for row in csv.DictReader(file)]
    assert reported._read(ours) == expected


def test_the_language_model_losses_fall_but_not_as_one_over_k(result):
    by_statement = {p.statement: p for p in reported.predictions(result)}
    assert by_statement["the same exponent is the variance law's 1"].outcome is Outcome.FAILS
    assert result["shared_exponent"]["value"] == pytest.approx(0.338, abs=0.001)
    for model in result["models"].values():
        assert model["leave_one_out_rmse"]["power"] < model["leave_one_out_rmse"]["inverse"]


def test_the_gain_depends_on_what_the_suite_holds_fixed(result):
    outcomes = {
        p.statement.rsplit(" ", 1)[1]: p.outcome
        for p in reported.predictions(result)
        if "RKoN's slope" in p.statement
    }
    assert outcomes["gold_full"] is Outcome.HOLDS
    assert outcomes["gold_compute_matched_equal_examples_v2"] is Outcome.HOLDS
    assert outcomes["gold_compute_matched"] is Outcome.OPEN


def test_two_points_have_no_interval_but_an_answer(result):
    slope = result["suites"]["ultrafeedback_full"]["rkon_slope"]
    assert slope["value"] == pytest.approx(1.0383450674513977 - 1.0519166921989784)
    assert slope["low"] == -float("inf")
