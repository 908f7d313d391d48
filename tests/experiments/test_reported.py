import csv
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import reported
from experiments.harness.statements import Outcome
from experiments.harness.store import InMemory, to_json
from experiments.shared.training import Recipe

SHARED = Path(__file__).parents[2].parent / "shared" / "reported"


@pytest.fixture(scope="module")
def result():
    config = reported.Config(
        toy_prompts=12, toy_responses=(1, 2, 4), recipe=Recipe(steps=4), points=16, replicates=3
    )
    return to_json(reported.run(config, jax.random.key(0), InMemory()))


@pytest.mark.skipif(not SHARED.exists(), reason="the published files are not beside the checkout")
@pytest.mark.parametrize(
    ("ours", "published"),
    [
        ("cross_family.csv", "cross_family_metrics.csv"),
        ("selector_grid.csv", "selector_grid_metrics.csv"),
        ("publication_runs.csv", "publication_runs.csv"),
    ],
)
def test_the_restated_tables_are_the_published_ones(ours, published):
    with (SHARED / published).open(newline="") as file:
        expected = list(csv.DictReader(file))
    assert reported._read(ours) == expected


def test_the_language_model_losses_fall_but_not_as_one_over_k(result):
    by_id = {p.id: p for p in reported.predictions(result)}
    assert by_id["reported.exponent-is-one"].outcome is Outcome.FAILS
    assert result["shared_exponent"]["estimate"] == pytest.approx(0.338, abs=0.001)
    for model in result["models"].values():
        assert model["leave_one_out_rmse"]["power"] < model["leave_one_out_rmse"]["inverse"]


def test_the_gain_depends_on_what_the_suite_holds_fixed(result):
    outcomes = {p.id: p.outcome for p in reported.predictions(result)}
    assert outcomes["reported.slope.full"] is Outcome.HOLDS
    assert outcomes["reported.slope.equal-examples"] is Outcome.HOLDS
    assert outcomes["reported.slope.compute-matched"] is Outcome.OPEN


def test_two_points_have_no_interval_but_an_answer(result):
    slope = result["suites"]["ultrafeedback_full"]["rkon_slope"]
    assert slope["estimate"] == pytest.approx(1.0383450674513977 - 1.0519166921989784)
    assert slope["low"] is None


def test_coverage_falls_for_two_of_six_families_and_diversity_for_most(result):
    families = result["families"]
    assert families["coverage"]["falling"] == 2
    assert families["diversity"]["falling"] > 3
    assert families["best reward"]["falling"] > 3


def test_what_the_suites_held_fixed_is_read_from_the_published_runs(result):
    fixed = {name: result["held_fixed"][name] for name in reported.SUITES_OF_ONE_BASE}
    rows = {name: suite["rows"] for name, suite in fixed.items()}
    assert {suite["prompts"] for suite in fixed.values()} == {800}
    assert rows["gold_full"] == [800, 1600, 3200, 6400, 12800]
    assert rows["gold_compute_matched"] == [800] * 5
    assert rows["gold_compute_matched_equal_examples_v2"] == [12800] * 5


def test_the_law_of_rows_drawn_without_replacement():
    # paper.md: 1.94 n at K = 16, so that the variance is larger by 0.94 V_x / n
    assert reported.drawn_squares(800, 800, 16) == pytest.approx(1.94 * 800, rel=2e-3)
    assert reported.drawn_squares(800, 800, 1) == 800
    rng = np.random.default_rng(0)
    squares = [
        np.square(np.bincount(rng.permutation(np.repeat(np.arange(6), 4))[:9])).sum() for _ in range(20_000)
    ]
    error = np.std(squares) / np.sqrt(len(squares))
    assert np.mean(squares) == pytest.approx(reported.drawn_squares(9, 6, 4), abs=4 * error)


def test_the_law_predicts_no_gain_at_equal_compute(result):
    matched = np.array(result["held_fixed"]["gold_compute_matched"]["coefficients"])
    assert np.all(np.diff(matched[:, 0]) > 0)
    assert np.ptp(matched[:, 1]) == 0
    full = np.array(result["held_fixed"]["gold_full"]["coefficients"])
    np.testing.assert_allclose(full[:, 0], 1 / 800)
    np.testing.assert_allclose(full[:, 1], 1 / (800 * np.array([1, 2, 4, 8, 16])))


def test_b_over_a_is_that_of_the_fitted_line(result):
    toy = result["toy"]["recipes"]["last"]
    nll, k = np.array(toy["nll"]), np.array(result["toy"]["responses"])
    b, a = np.polyfit(1 / k, nll, 1)
    assert toy["inferred"]["estimate"] == pytest.approx(b / a, rel=1e-6)
    assert toy["inferred_over_exact"]["estimate"] == pytest.approx(
        toy["inferred"]["estimate"] / toy["exact"]["estimate"]
    )
