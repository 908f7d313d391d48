"""Data does not remove BKoN's bias; errors of differences are those of repetition."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from experiments import collapse
from experiments.harness.statements import Outcome
from mrtsim.errors import InputError


@pytest.fixture(scope="module")
def result(small_result):
    return small_result("collapse")


def test_collapse_is_not_cured_by_data(result, outcome):
    assert outcome("collapse.bkon-bias-left", result) == Outcome.HOLDS
    assert outcome("collapse.bkon-bias", result) == Outcome.HOLDS
    exact, measured = result["exact"], result["measured"]
    for name in ("rkon", "bkon"):
        for row in measured[name]:
            bias = exact[name]["bias"] if name == "bkon" else 0.0
            expected = bias**2 + exact[name]["variance"] / row["n_prompts"]
            # The exact value has an error of its own, from its Sobol points.
            error = (
                row["emse_error"]
                + 2 * abs(bias) * exact[name]["bias_error"]
                + 0.1 * expected / row["n_prompts"]
            )
            assert abs(row["emse"] - expected) < 4 * error
    everything = next(row for row in result["grid"] if row["n"] == row["k"])
    assert everything["bias"] == pytest.approx(0.0, abs=1e-12)
    assert everything["kl"] == pytest.approx(0.0, abs=1e-9)
    assert max(row["kl"] for row in result["grid"]) < 1.0987


def test_the_emse_above_rkons_has_the_error_of_repetition():
    """Skewed losses of 400 times 20 training sets, which two strategies share but for a part."""

    class Sets:
        def replicates(self, name, fn, key, n, model):
            shared, own = jax.random.exponential(jax.random.fold_in(key, 0), (2, n))
            error = shared + (0.3 * own if name.startswith("dkon") else 0.1)
            return {"loss": np.asarray(error + own), "error": np.asarray(error)}

    config = collapse.Config(n_prompts=(10, 20), replicates=40)
    measured = {
        name: [collapse._measure(Sets(), name, None, jax.random.key(i), None, config)[1] for i in range(400)]
        for name in ("dkon", "rkon")
    }
    pairs = list(zip(measured["dkon"], measured["rkon"], strict=True))
    assert pairs[0][0][0]["sets"] == 20
    gaps = np.array([one["emse"] - other["emse"] for (one, _), (other, _) in pairs])
    errors = np.array([collapse._mean_error(own - others) for (_, own), (_, others) in pairs])
    alone = np.array([one["emse_error"] for (one, _), _ in pairs])
    # 400 repetitions tell a spread to 7 % where tails are as heavy; the jackknife of 20 sets is a little wide.
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(gaps.std(ddof=1), rel=0.2)
    assert gaps.std() < 0.8 * np.sqrt(np.mean(alone**2))


def test_too_few_training_sets_are_refused():
    with pytest.raises(InputError, match="use at least 300"):
        collapse.Config(n_prompts=(10, 1000), replicates=299)
    with pytest.raises(InputError, match="contain rkon"):
        collapse.Config(strategies=("bkon",))
