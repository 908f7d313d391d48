"""Claim 9's experiment: its shares against enumeration, what its predictions say, and one small run."""

import copy
import itertools

import jax
import numpy as np
import pytest

from experiments import selection_guarantee
from experiments.harness.statements import Outcome
from experiments.selection_guarantee import KINDS, Config, Sizes, random_pool, shares_of_best
from figures import selection_guarantee as picture
from mrtsim.errors import InputError


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=KINDS)
def test_shares_are_of_the_best_subset(kind):
    with jax.enable_x64(True):
        key = jax.random.key(3)
        shares = shares_of_best(key, kind, Sizes(6, 2))
        pool = random_pool(jax.random.split(key)[0], kind, 6)
        s, r = np.asarray(pool.similarity), np.asarray(pool.rewards)
    scaled = np.clip((r - r.min()) / (r.max() - r.min()), 1e-4, 1)
    for objective, q in (("dkon", np.ones(6)), ("dbkon", scaled)):

        def value(chosen, q=q):
            return sum(q[i] * max(q[j] * s[i, j] for j in chosen) for i in range(6))

        best = max(map(value, itertools.combinations(range(6), 2)))
        ranked = np.argsort(-r)[:2]
        assert float(shares[objective]["bkon"]) == pytest.approx(value(ranked) / best, rel=1e-12)
        assert 0.75 <= float(shares[objective]["greedy"]) <= 1 + 1e-12


@pytest.fixture(scope="module")
def result(small_result):
    return small_result("selection_guarantee")


def outcomes(result):
    return {p.id: p.outcome for p in selection_guarantee.predictions(result)}


def test_a_small_run_keeps_the_guarantee_and_the_exact_rows(result):
    for row in result["guarantee"]:
        assert row["below_bound"] == 0
        assert row["bound"] <= row["worst"] <= row["shares"]["greedy"]["estimate"] <= 1 + 1e-12
        assert all(share["estimate"] <= 1 + 1e-12 for share in row["shares"].values())
    rows = {(row["strategy"], row["alpha"]): row for row in result["trade"]}
    random, best = rows["rkon", None], rows["bkon", None]
    for quantity in ("loss", "gradient"):
        assert random[quantity]["bias_squared"]["estimate"] == pytest.approx(0, abs=1e-12)
        assert random[quantity]["emse_over_rkon"]["estimate"] == 1.0
        parts = [best[quantity][part]["estimate"] for part in ("bias_squared", "variance", "emse")]
        assert parts[0] + parts[1] == pytest.approx(parts[2])
    assert rows["dbkon", 0.0]["loss"]["variance"]["estimate"] < random["loss"]["variance"]["estimate"]
    assert picture.draw(result).get_axes()


def test_predictions_follow_the_numbers(result):
    changed = copy.deepcopy(result)
    for row in changed["guarantee"]:
        row["pools"] = 10_000
    for row in changed["trade"]:
        row["loss"]["emse_over_rkon"] = {"estimate": 2.0, "low": 1.5, "high": 2.5}
    found = outcomes(changed)
    share = "selection_guarantee.below-bound"
    assert found[share] == Outcome.HOLDS
    assert {found[f"selection_guarantee.emse.{s}.loss"] for s in ("dkon", "dbkon", "filtered-max-min")} == {
        Outcome.FAILS
    }
    changed["guarantee"][0]["below_bound"] = 5_000
    assert outcomes(changed)[share] == Outcome.FAILS


def test_settings_that_cannot_be_judged_are_refused():
    with pytest.raises(InputError, match="networks must be at least 2"):
        Config(networks=1)
    with pytest.raises(InputError, match="alphas must include 0"):
        Config(alphas=(0.5,))
