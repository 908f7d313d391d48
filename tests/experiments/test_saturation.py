"""Claim 9's second experiment: exact shares by hand, the objectives that do not saturate, and one small run."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import saturation
from experiments.harness.statements import Outcome
from experiments.saturation import Config, exact_shares, moments, picks_of
from figures import saturation as picture
from mrtsim.errors import InputError
from mrtsim.selection.facility_location import quality, row_weights, similarity_matrix
from mrtsim.selection.registry import Pool
from tests.selection.random_pools import pools


def test_exact_shares_are_those_of_every_ordered_pool_and_of_dkon_by_hand():
    """DKoN's picks add something until every mode that is there is covered: 1 - E min(K, modes) / K."""
    n = 5
    modes = np.array(list(itertools.product(range(3), repeat=n)))
    with jax.enable_x64(True):
        offsets = jnp.asarray(np.array([-1.5, 0.0, 1.5])[modes])
        found = saturation._saturated(saturation._without_noise(offsets), 4, jnp.asarray([0.0, 1.0]))
    every = np.cumsum(np.asarray(found), axis=-1).mean(axis=1) / np.arange(1, 5)
    exact = exact_shares(n, 4, (0.0, 1.0))
    np.testing.assert_allclose(exact, every, atol=1e-12)
    one = 3 * (1 / 3) ** n
    two = 3 * ((2 / 3) ** n - 2 * (1 / 3) ** n)
    for k in range(1, 5):
        useful = min(k, 1) * one + min(k, 2) * two + min(k, 3) * (1 - one - two)
        assert exact[0, k - 1] == pytest.approx(1 - useful / k, abs=1e-12)


def owa(similarity, chosen, q, w, coefficients):
    """sum_i w_i sum_l c_l (the l-th largest q_j s_ij of those chosen), with c_1 >= c_2 >= ... >= 0."""
    covers = np.sort((q * similarity)[:, chosen], axis=1)[:, ::-1]
    return float(w @ (covers * coefficients[: len(chosen)]).sum(axis=1))


@pytest.mark.parametrize(
    "coefficients", [np.ones(7), np.array([1.0, 1, 0, 0, 0, 0, 0]), 1 / np.arange(1, 8.0)]
)
def test_sums_over_the_best_are_monotone_and_submodular_and_greedy_keeps_its_bound(coefficients):
    """As sums of weighted ranks of uniform matroids; with all that is kept the sum is modular."""
    data = pools(12, 7, seed=5)
    for r, e in zip(data["rewards"], data["embeddings"], strict=True):
        s, q = similarity_matrix(e), quality(r, 1.0)
        w = row_weights(q)
        value = {
            subset: owa(s, list(subset), q, w, coefficients)
            for size in range(5)
            for subset in itertools.combinations(range(7), size)
        }

        def gain(subset, j, value=value):
            return value[tuple(sorted((*subset, j)))] - value[subset]

        for large in itertools.combinations(range(7), 3):
            for small in itertools.chain.from_iterable(itertools.combinations(large, m) for m in range(3)):
                for j in set(range(7)) - set(large):
                    assert gain(small, j) >= gain(large, j) - 1e-12
                    assert gain(large, j) >= 0
                    if (coefficients == 1).all():
                        assert gain(small, j) == pytest.approx(gain(large, j))
        kept = ()
        for _ in range(4):
            kept = tuple(
                sorted((*kept, max(set(range(7)) - set(kept), key=lambda j, kept=kept: gain(kept, j))))
            )
        best = max(v for subset, v in value.items() if len(subset) == 4)
        assert value[kept] >= (1 - 0.75**4) * best
        if (coefficients == 1).all():
            assert value[kept] == pytest.approx(best)
            pool = Pool(rewards=jnp.asarray(r)[None], similarity=jnp.asarray(s)[None])
            chosen = picks_of("sum", jax.random.key(0), pool, 4, jnp.asarray(1.0)).indices[0]
            assert tuple(sorted(chosen.tolist())) == kept


def test_bias_variance_and_emse_by_hand():
    losses = np.array([[[[1.0, 5.0]]], [[[3.0, 5.0]]]])  # two trials of two prompts
    found = moments(losses, np.array([1.0, 4.0]))
    assert found["variance"] == pytest.approx(1.0)  # 2 and 0
    assert found["bias_squared"] == pytest.approx(0.5)  # 1 - 2/2 and 1
    assert found["emse"] == pytest.approx(1.5)


@pytest.fixture(scope="module")
def result(small_result):
    return small_result("saturation")


def test_errors_of_a_small_run(result):
    found = {(row["way"], row["alpha"]): row for row in result["errors"]}

    def value(way, alpha, name):
        return found[way, alpha][name]["estimate"]

    assert 0.2 < value("index", 1.0, "saturated") < 0.5
    assert value("reward", 1.0, "saturated") == value("index", 1.0, "saturated")
    assert value("covered", 1.0, "saturated") < 0.01
    assert found["index", 0.0]["emse_over_rkon"] == found["covered", 0.0]["emse_over_rkon"]
    assert value("reward", 1.0, "reward") > value("index", 1.0, "reward")
    assert value("covered", 1.0, "emse_over_index") < 1


def test_shares_of_a_small_run(result):
    rows = result["shares"]
    assert [(row["n"], row["k"]) for row in rows] == [(8, 2), (8, 4)] * 3
    for row in rows:
        assert row["covered"]["estimate"] < 0.01
        assert (row["toy"]["estimate"] == 0) == (row["alpha"] == 0)
        assert row["repeats"]["estimate"] == pytest.approx(row["exact"], abs=0.06)


def test_predictions_follow_the_numbers(result):
    """Where every number of a way is the same."""

    def cell(value):
        return {"estimate": value, "low": 0.9 * value, "high": 1.1 * value}

    errors = [
        {
            "n": 8,
            "way": way,
            "alpha": alpha,
            **dict.fromkeys(result["errors"][0].keys() - {"n", "way", "alpha"}, cell(value)),
        }
        for way, value in zip(saturation.WAYS, (1.0, 1.0, 0.8, 1.0, 0.4, 2.0), strict=True)
        for alpha in (0.0, 0.75, 1.0)
    ]
    shares = [
        {
            "n": 8,
            "k": 4,
            "alpha": alpha,
            "toy": cell(alpha),
            "covered": cell(0.0),
            "repeats": cell(0.5),
            "exact": 0.5,
        }
        for alpha in (0.0, 0.75, 1.0)
    ]
    result = {"shares": shares, "errors": errors}
    found = {p.id: p.outcome for p in saturation.predictions(result)}
    assert found["saturation.covered-over-rkon.n8-alpha-1"] is Outcome.HOLDS
    assert found["saturation.sum-over-dbkon.n8-alpha-1"] is Outcome.FAILS
    assert found["saturation.ties.diverse.n8"] is Outcome.HOLDS
    assert found["saturation.ties.random.n8"] is Outcome.OPEN
    assert found["saturation.share.n8-alpha-1"] is Outcome.FAILS
    assert found["saturation.share.alpha-0"] is Outcome.HOLDS
    assert found["saturation.repeats.n8-alpha-1"] is Outcome.OPEN  # 0.45 to 0.55 is wider than the margin
    shares[0]["toy"] = cell(0.3)
    assert {p.id: p.outcome for p in saturation.predictions(result)}[
        "saturation.share.alpha-0"
    ] is Outcome.FAILS
    assert picture.draw(result).get_axes()


def test_settings_that_cannot_be_judged_are_refused():
    with pytest.raises(InputError, match="networks and trials"):
        Config(networks=1)
    with pytest.raises(InputError, match="alphas must include"):
        Config(alphas=(0.0, 1.0))
    with pytest.raises(InputError, match="at least the 4 candidates"):
        Config(candidates=(3,))
