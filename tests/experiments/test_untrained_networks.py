"""The diagnostics experiments: small runs against what is exact."""

from __future__ import annotations

import dataclasses
import importlib
import json

import jax
import numpy as np
import pytest
from scipy import stats
from scipy.stats import kendalltau

from experiments import bridge, collapse, misalignment
from experiments.harness.statements import Outcome
from experiments.harness.store import InMemory, to_json
from experiments.shared import untrained_network
from mrtsim.diagnostics.reports import estimator_error
from mrtsim.errors import InputError

SMALL = {
    "emse": {"replicates": 60, "models": 2, "n_prompts": 8, "pipelines": 200},
    "collapse": {
        "replicates": 4000,
        "n_prompts": (10, 1000),
        "strategies": ("rkon", "bkon", "dkon"),
        "points": 64,
        "grid_candidates": (4, 16),
        "grid_responses": (1, 4),
    },
    "misalignment": {
        "n_prompts": 8,
        "replicates": 6,
        "candidates": (8, 32),
        "responses": (4, 8),
        "agreements": (0.0, 1.0),
        "runs": 3,
        "training_prompts": 20,
        "checkpoints": (0, 5),
    },
    "temperature": {
        "replicates": 100,
        "n_prompts": 8,
        "temperatures": (0.0, 1.0, float("inf")),
        "alphas": (0.2, 1.0),
    },
    "bridge": {
        "replicates": 8,
        "trials": 100,
        "n_prompts": 8,
        "responses": (4,),
        "strategies": ("rkon", "dkon", "bkon"),
        "draws": 100,
    },
}


@pytest.fixture(scope="module")
def results():
    """Results as they are read back from disk, each run once."""
    made = {}

    def result(name):
        if name not in made:
            module = importlib.import_module(f"experiments.{name}")
            config = dataclasses.replace(module.PRESETS["quick"], **SMALL[name])
            made[name] = json.loads(
                json.dumps(to_json(module.run(config, jax.random.key(0), InMemory())), allow_nan=False)
            )
        return made[name]

    return result


def outcome(identity, result):
    module = importlib.import_module(f"experiments.{identity.partition('.')[0]}")
    (found,) = [p for p in module.predictions(result) if p.id == identity]
    return found.outcome


def test_emse_finds_what_is_exact(results):
    result = results("emse")
    for name in ("rkon", "bkon"):
        assert untrained_network.furthest(result["measured"][name], result["exact"][name]) < 4
        assert outcome(f"emse.exact.{name}", result) != Outcome.FAILS
    assert outcome("emse.bkon-over-rkon.loss", result) == Outcome.HOLDS
    assert result["truth_error"] < 1e-8
    assert result["exact"]["bkon"]["mass_error"] < 1e-10
    assert result["exact"]["rkon"]["loss"]["bias_squared"]["estimate"] < 1e-20


def test_the_published_bias_is_accounted_for_by_its_own_sampling(results):
    made = results("emse")["published_bias"]
    # 0.3212 x 30/29 is the variance of one trial: 1/30 of it in the mean of the trials, 4/100 of it in the truth.
    assert made["from_trials"] == pytest.approx(0.3212 * 30 / 29 / 30, rel=1e-3)
    assert made["from_truth"] == pytest.approx(0.3212 * 30 / 29 * 4 / 100, rel=1e-3)
    assert made["share"] == pytest.approx(0.832, abs=1e-3)
    assert made["repeated"]["mean"] == pytest.approx(made["from_trials"] + made["from_truth"], rel=0.1)


def test_bridge_finds_the_two_levels_of_similarity(results):
    pairs = results("bridge")["pairs"]
    assert pairs["same_mode"]["estimate"] > 0.9
    assert pairs["cross_mode"]["estimate"] < 0
    assert pairs["pearson"]["estimate"] == pytest.approx(0.83, abs=0.1)  # as re-run by others
    assert outcome("bridge.k-eff.dkon-over-rkon.k4", results("bridge")) == Outcome.HOLDS
    assert outcome("bridge.calibration.k4", results("bridge")) == Outcome.FAILS


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


def test_differences_over_models_have_the_error_of_repetition():
    """Two settings on the same trials of three models: the interval of their difference covers as it says."""
    rng = np.random.default_rng(0)
    gaps, errors = [], []
    for _ in range(300):
        reports = []
        for scale in (0.5, 1.0, 2.0):
            common = rng.standard_exponential((100, 2))
            reports.append(
                [
                    estimator_error(scale * (common + rng.normal(0, 0.2, (100, 2))), np.zeros(2)).variance
                    for _ in range(2)
                ]
            )
        one, other = (untrained_network._mean(column) for column in zip(*reports, strict=True))
        gap = untrained_network.difference(one, other)
        gaps.append(gap.value)
        errors.append((gap.high - gap.value) / stats.t.ppf(0.975, 49))
    assert abs(np.mean(gaps)) < 4 * np.std(gaps) / np.sqrt(300)
    # 300 repetitions tell the spread to 4 %, and each error has the noise of 50 heavy-tailed batches.
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(gaps, ddof=1), rel=0.15)
    assert np.std(gaps) < 0.5 * np.hypot(one["standard_error"], other["standard_error"])


def test_collapse_is_not_cured_by_data(results):
    result = results("collapse")
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


@pytest.mark.parametrize("table", [(0.3, 0.1, 0.2, 0.4), (0.05, 0.1, 0.3, 0.55), (0.0, 0.5, 0.1, 0.4)])
def test_paired_shares_differ_within_their_interval_by_enumeration(table):
    """Coverage over every 2 x 2 table of 30 networks, with the probabilities of both, one, the other, and neither."""
    n, truth = 30, table[1] - table[2]
    covered = total = 0.0
    for both in range(n + 1):
        for one in range(n + 1 - both):
            for other in range(n + 1 - both - one):
                counts = (both, one, other, n - both - one - other)
                chance = stats.multinomial.pmf(counts, n, table)
                if chance < 1e-9:
                    continue
                shares = (misalignment._share(both + part, n) for part in (one, other))
                found = misalignment._difference(*shares, both / n, n)
                covered += chance * (found.low <= truth <= found.high)
                total += chance
    assert total == pytest.approx(1.0, abs=1e-5)
    assert 0.93 < covered < 0.985


def test_misalignment_is_exact_where_it_is_known(results):
    result = results("misalignment")
    everything = next(row for row in result["sizes"] if row["n"] == row["k"])
    assert everything["estimate"] == pytest.approx(1.0, abs=1e-9)
    assert everything["per_prompt"] == pytest.approx(1.0, abs=1e-9)
    by_agreement = {row["agreement"]: row["estimate"] for row in result["agreements"] if row["n"] == 32}
    assert by_agreement[0.0] == pytest.approx(result["here"]["estimate"])
    assert by_agreement[1.0] == pytest.approx(result["likelihood"]["estimate"])
    assert by_agreement[1.0] > 0.99 > by_agreement[0.0]


def test_the_numeric_law_of_misalignment_agrees_with_the_closed_form():
    from experiments.misalignment import _cosines, _law
    from experiments.shared.untrained_network import problems
    from mrtsim.diagnostics.exact import exact

    (problem,) = problems(jax.random.key(1), 1, 4)
    known = exact(problem, "bkon", n_candidates=16, k=4)
    ((batch, each),) = _cosines(problem, [_law(16, 4, 0.0)])
    assert batch == pytest.approx(known.batch_cosine, abs=1e-4)
    assert each == pytest.approx(known.gradient.cosine.mean(), abs=1e-4)


def test_the_frontier_ends_at_the_exact_strategies(results):
    result = results("temperature")
    for name in ("rkon", "bkon"):
        entry, exact = result["frontier"][0 if name == "bkon" else -1], result["exact"][name]
        emse = entry["loss"]["emse"]
        assert abs(emse["estimate"] - exact["loss"]["emse"]["estimate"]) < 4 * emse["standard_error"]
        assert outcome(f"temperature.exact.{name}", result) != Outcome.FAILS
    bias = [row["loss"]["bias_squared"]["estimate"] for row in result["frontier"]]
    assert bias[0] > bias[1] > bias[2]
