"""K_i by the authors' rule: the greedy rule against the exact plan, the closed-form law, and what the rows weigh."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import adaptive
from experiments.adaptive import EXPECTED, POOL, SCORES, TOY, Config
from experiments.harness.store import InMemory, to_json
from mrtsim.distributions.exact_components import decompose
from mrtsim.errors import InputError
from mrtsim.plan.per_prompt import allocate_per_prompt

SMALL = Config(n_prompts=120, replicates=1_000)


@pytest.fixture(scope="module")
def result():
    """Without training, which the quick preset runs in `test_every_experiment.py`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adaptive, "_train", lambda *_: {"learners": {}})
        return to_json(adaptive.run(SMALL, jax.random.key(0), InMemory()))


def test_two_prompts_by_hand():
    """Standard deviations 1 and 3: the response part falls from 2.5 to 2.0, and from 2.0833 to 1.625."""
    variances = np.array([1.0, 9.0])

    def response(k):
        return float(np.mean(variances / np.asarray(k)))

    assert adaptive.greedy(jnp.asarray(variances), 2).tolist() == [1, 3]
    assert adaptive.greedy(jnp.asarray(variances), 3).tolist() == [1, 4]
    assert (response([2, 2]), response([1, 3])) == (2.5, 2.0)
    assert np.mean([response([2, 3]), response([3, 2])]) == pytest.approx(2.0833, abs=5e-5)
    assert response([1, 4]) == 1.625


@pytest.mark.parametrize("mean", [1.0, 1.5, 2.0, 2.5, 4.0])
def test_greedy_is_the_best_plan(mean):
    rng = np.random.default_rng(1)
    for n in (2, 40):
        scores = rng.lognormal(0.0, 1.0, n)
        budget = round(mean * n)
        k = np.asarray(adaptive.greedy(jnp.asarray(scores), budget - n))
        best = allocate_per_prompt(np.sqrt(scores), budget, max_responses=POOL)
        assert k.sum() == budget == best.cost
        assert np.mean(scores / k) / n == pytest.approx(best.variance, rel=1e-6)
        assert best.gap == 0


def test_equal_scores_share_alike():
    assert adaptive.greedy(jnp.ones(6), 6).tolist() == [2] * 6
    assert adaptive.greedy(jnp.ones(6), 9).tolist() == [3, 3, 3, 2, 2, 2]


def test_known_numbers_of_the_law():
    assert adaptive.components() == pytest.approx((0.83154, 1.95406), abs=5e-6)
    for mean, equal, oracle, bias, gain in (
        (2.0, 0.97703, 0.79003, 0.223, 0.103),
        (2.5, 0.81419, 0.64215, 0.184, 0.105),
    ):
        uniform, best = adaptive.law(None, mean), adaptive.law(EXPECTED["oracle"], mean)
        assert uniform.response == pytest.approx(equal, abs=5e-6)
        assert best.response == pytest.approx(oracle, abs=5e-5)
        assert best.bias == pytest.approx(bias, abs=5e-4)
        assert 1 - best.variance / uniform.variance == pytest.approx(gain, abs=5e-4)
        assert uniform.bias == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("exponent", [None, *EXPECTED.values()])
@pytest.mark.parametrize("mean", [2.0, 2.5])
def test_law_is_that_of_many_prompts(exponent, mean):
    """Quantiles of x_3 in place of random prompts: E[s/K], Cov(K, mu) and the variance of the rows' mean."""
    n = 20_000
    z = np.asarray(jax.scipy.special.ndtri((np.arange(n) + 0.5) / n))
    second, variance = adaptive.moments()
    if exponent is None:
        k = np.where(np.random.default_rng(0).random(n) < mean % 1, np.floor(mean) + 1, np.floor(mean))
    else:
        k = np.asarray(adaptive.greedy(jnp.exp(exponent * z), round((mean - 1) * n)))
    mu, s = second * np.exp(z / 2), variance * np.exp(z)
    found = adaptive.law(exponent, mean)
    close = 0.02 if exponent is None else 4e-3
    rows = np.sum(k * mu) / k.sum()
    assert found.response == pytest.approx(np.mean(s / k), rel=close)
    assert found.variance == pytest.approx(np.var(mu) + np.mean(s / k), rel=close)
    assert found.bias == pytest.approx(rows / mu.mean() - 1, abs=close)
    row_variance = np.mean((k * (mu - rows)) ** 2 + k * s) / k.mean() ** 2
    assert found.row_variance == pytest.approx(row_variance, rel=close)


def test_the_toy_is_a_distribution_with_these_components():
    exact = decompose(lambda _, x, y: -TOY.reward(x, y), None, TOY, points=2**10)
    v_prompt, v_response = adaptive.components()
    assert exact.prompt.value == pytest.approx(v_prompt, abs=5 * exact.prompt.standard_error)
    assert exact.response.value == pytest.approx(v_response, abs=5 * exact.response.standard_error)
    with jax.enable_x64(True):
        x = jnp.zeros((1, 5)).at[0, 2].set(1.7)
        y = jnp.linspace(-6.0, 6.0, 20_001)[None]
        assert float(jnp.trapezoid(jnp.exp(TOY.log_density(x, y)), y)[0]) == pytest.approx(1, abs=1e-6)


def test_means_over_prompts_are_unbiased_and_follow_the_law(result):
    for corpus in result["corpora"]:
        for name, row in corpus["scores"].items():
            bias, variance = row["bias"], row["variance"]
            assert abs(bias["estimate"]) < 2.2 * (bias["high"] - bias["low"]) / 2, name
            target = row["given_pool"]["estimate"] if row["exact"] is None else row["exact"]["variance"]
            assert abs(variance["estimate"] - target) < 2.2 * (variance["high"] - variance["low"]) / 2, name
        oracle = corpus["scores"]["oracle"]
        assert oracle["row_bias"]["low"] > 0.1
        # with another pool's spread the rule follows chance, with the same pool's what it saves
        assert corpus["scores"]["same pool's spread"]["over_uniform"]["high"] < 1


def test_rows_of_the_corpora_are_those_of_the_law(result):
    for corpus in result["corpora"]:
        for name in EXPECTED:
            row = corpus["scores"][name]
            assert row["row_bias"]["estimate"] == pytest.approx(row["exact"]["bias"], abs=0.02), name


def test_training_draws_prompts_or_rows_alike():
    """Shares of a prompt: 1/n if prompts are alike, K_i / sum K if rows are; only kept cells are drawn."""
    k = jnp.asarray([1, 4, 2, 1])
    n = 40_000
    for by_prompt, shares in ((1.0, np.full(4, 0.25)), (0.0, np.asarray(k) / 8)):
        drawn = np.asarray(adaptive.draw_rows(jax.random.key(2), k, (n,), by_prompt))
        found = np.bincount(drawn, minlength=4 * POOL).reshape(4, POOL) / n
        kept = np.arange(POOL) < np.asarray(k)[:, None]
        expected = np.where(kept, (shares / np.asarray(k))[:, None], 0)
        assert found == pytest.approx(expected, abs=4.5 * np.sqrt(0.25 / n))
        assert found[~kept].sum() == 0


def test_statements_are_many_and_named_once(result):
    found = adaptive.predictions(result)
    assert len({p.id for p in found}) == len(found)
    assert {p.claim for p in found} == set(adaptive.CLAIMS)
    assert len(SCORES) == 8


def test_trained_scores_are_compared_with_equal_k_in_pairs():
    rng = np.random.default_rng(3)
    equal = rng.gamma(4.0, 1.0, 200)
    excess = {(2.0, "uniform", "prompts"): {"last": equal}}
    for name in adaptive.TRAINED[1:]:
        for factor, weighting in ((1.2, "rows"), (0.9, "prompts")):
            excess[2.0, name, weighting] = {"last": factor * equal}
    found = adaptive._compare(excess, 2.0, "last")
    for cells in found["over_uniform"].values():
        assert [cells[w]["low"] for w in ("rows", "prompts")] == pytest.approx([1.2, 0.9])
        assert [cells[w]["high"] for w in ("rows", "prompts")] == pytest.approx([1.2, 0.9])


@pytest.mark.parametrize("means", [(0.5,), (4.5,), (2.0123,)])
def test_means_that_cannot_be_are_refused(means):
    with pytest.raises(InputError, match="mean of"):
        dataclasses.replace(SMALL, means=means)
