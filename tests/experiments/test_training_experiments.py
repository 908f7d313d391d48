"""E2, E3, E4 and what they share: padded programs, judges against exact moments, intervals, verdicts."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from experiments import batch, budget, distributional, lottery, resources
from experiments.shared import mdn_training
from experiments.shared.mdn_training import (
    PAPER,
    TOY,
    Sample,
    Shape,
    draw,
    judge,
    keep,
    shifted,
    sobol_prompts,
)
from experiments.shared.training import Recipe
from mrtsim.distributions.exact_components import decompose
from mrtsim.errors import InputError
from mrtsim.losses import mdn_nll
from mrtsim.models import MDN

BRIEF = Recipe(steps=4, validate_every=2)


def test_the_budget_buys_the_papers_prompts():
    config = budget.Config()
    assert [config.prompts(k) for k in config.responses] == [80, 66, 50, 40, 33, 25, 20]
    # 0.3 / 0.1 is a hair below 3
    assert budget.Config(budget=0.3, c_prompt=0.0, c_response=0.1, responses=(1,)).prompts(1) == 3


@pytest.mark.parametrize(
    ("module", "changes", "message"),
    [
        (budget, {"responses": (2, 1)}, "increasing"),
        (budget, {"responses": (1, 33), "padded": False}, "exceeds a pool of 32"),
        (budget, {"responses": (1, 24)}, "padded=False"),
        (budget, {"budget": 10.0}, "pays no prompt with K = 16"),
        (lottery, {"responses": (1,)}, "two or more"),
        (lottery, {"draws": 0}, "at least 1"),
        (distributional, {"responses": (1, 20)}, "padded=False"),
        (resources, {"prompts": (10, 20)}, "three or more"),
        (resources, {"responses": (1, 2, 64)}, "exceeds a pool"),
        (batch, {"responses": (2, 4)}, "from 1 on"),
        (batch, {"sequences": 16}, "2 prompts with K = 16"),
    ],
)
def test_configs_that_cannot_run_are_refused(module, changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(module.Config(), **changes)


def shape(strategy, rows, width, **changes):
    return Shape((strategy,), rows, width, drawn_prompts=10, n_candidates=8, recipe=BRIEF, **changes)


@pytest.mark.parametrize("strategy", ["rkon", "bkon", "filtered-max-min"])
def test_a_padded_program_keeps_what_the_settings_own_program_keeps(strategy):
    pools, *_ = draw(jax.random.split(jax.random.key(0), 3), shape(strategy, 10, 4))
    wide = keep(jax.random.key(1), shape(strategy, 10, 4), pools)
    for n_prompts, k in ((10, 1), (6, 3), (3, 4)):
        own = keep(jax.random.key(1), shape(strategy, n_prompts, k), pools)
        np.testing.assert_array_equal(wide.responses[:n_prompts, :k], own.responses)
        np.testing.assert_array_equal(wide.prompts[:n_prompts], own.prompts)


def test_strategies_that_share_a_program_keep_what_they_keep_alone():
    names = ("rkon", "filtered-max-min", "bkon")
    together = dataclasses.replace(shape("rkon", 10, 4), strategies=names)
    pools, *_ = draw(jax.random.split(jax.random.key(0), 3), together)
    of_one = jax.jit(lambda which: keep(jax.random.key(1), together, pools, which).responses)
    kept = [np.asarray(of_one(which)) for which in range(len(names))]
    for name, found in zip(names, kept, strict=True):
        alone = keep(jax.random.key(1), shape(name, 10, 4), pools)
        np.testing.assert_array_equal(found, alone.responses)
    assert not np.array_equal(kept[0], kept[2])


def test_a_padded_run_is_the_settings_own_run():
    key, points = jax.random.key(2), jnp.asarray(sobol_prompts(32), jnp.float32)
    padded = jax.jit(mdn_training.train_once, static_argnums=5)(key, 0, 5, 2, points, shape("rkon", 10, 4))
    own = jax.jit(mdn_training.train_once, static_argnums=5)(key, 0, 5, 2, points, shape("rkon", 5, 2))
    for recipe in mdn_training.RECIPES:
        for name, value in own[recipe].items():
            assert padded[recipe][name] == pytest.approx(float(value), rel=2e-4), (recipe, name)


def steep(key):
    """A network with the steep outputs of an overfitted one."""
    model = MDN(key)
    return eqx.tree_at(lambda m: m.network.layers[-1].weight, model, replace_fn=lambda w: 6 * w)


def test_the_judge_is_exact_also_for_a_steep_network():
    model, prompts = steep(jax.random.key(3)), TOY.sample_prompts(jax.random.key(4), 60)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: a.astype(jnp.float64) if eqx.is_array(a) else a, model)
        x = jnp.asarray(np.asarray(prompts, np.float64))
        first = TOY.expectation(lambda y: mdn_nll(wide, x, y), prompts, tolerance=1e-8)
        second = TOY.expectation(lambda y: mdn_nll(wide, x, y) ** 2, prompts, tolerance=1e-8)
    ours = eqx.filter_jit(judge)(model, prompts)
    assert float(ours["nll"]) == pytest.approx(first.value.mean(), rel=1e-4)
    assert float(ours["prompt"]) == pytest.approx(first.value.var(ddof=1), rel=1e-3)
    assert float(ours["response"]) == pytest.approx((second.value - first.value**2).mean(), rel=1e-3)


def test_the_judges_components_are_the_decompositions():
    model = MDN(jax.random.key(5))
    exact = decompose(mdn_nll, model, TOY, points=2**10, randomisations=8)
    points = jnp.asarray(sobol_prompts(256))
    judged = jax.jit(jax.vmap(lambda key: judge(model, shifted(points, key))))
    values = judged(jax.random.split(jax.random.key(6), 16))
    for name, expected in (("nll", exact.mean), ("prompt", exact.prompt), ("response", exact.response)):
        column = np.asarray(values[name], np.float64)
        error = np.hypot(column.std(ddof=1) / 4, expected.standard_error)
        # The variance of 256 stratified points is biased, by less than 1 %.
        assert abs(column.mean() - expected.value) < 5 * error + 0.01 * expected.value * (name == "prompt"), (
            name
        )


def test_nothing_beats_the_truth():
    # Modes 15 standard deviations apart: choosing a mode, then a normal density.
    assert mdn_training.true_nll() == pytest.approx(
        np.log(3) + 0.5 * np.log(2 * np.pi * np.e * 0.01), abs=1e-9
    )


def test_draws_of_a_pair_share_everything_but_the_responses():
    key = jax.random.key(7)
    prompts = TOY.sample_prompts(jax.random.key(8), 30)
    test = Sample(prompts, TOY.sample_responses(jax.random.key(9), prompts, 20)[0])
    untrained = Recipe(steps=2, learning_rate=0.0, validate_every=2)
    train_pair = jax.jit(lottery.train_pair, static_argnums=4)
    for recipe, equal in ((untrained, True), (BRIEF, False)):
        made = shape("rkon", 10, 1, draws=3)
        made = dataclasses.replace(made, recipe=recipe)
        pair = train_pair(key, jnp.int32(1), test, prompts, made)
        assert pair["last"]["nll"].shape == (3,)
        assert (len(np.unique(pair["last"]["nll"])) == 1) is equal
        assert len(np.unique(pair["last"]["nll"])) in (1, 3)


def test_shares_of_the_draw_are_recovered():
    rng = np.random.default_rng(0)
    shared, own = rng.normal(size=(4_000, 1, 2)), rng.normal(size=(4_000, 2, 2))
    runs = shared * np.sqrt([0.3, 0.9]) * [5.0, 1.0] + own * np.sqrt([0.7, 0.1]) * [5.0, 1.0]
    np.testing.assert_allclose(lottery._std(runs), [5.0, 1.0], rtol=0.05)
    np.testing.assert_allclose(lottery._draw_share(runs), [0.7, 0.1], rtol=0.1)
    np.testing.assert_allclose(lottery._draw_std_ratio(runs)[1], 5 * np.sqrt(7.0), rtol=0.05)


def test_shifted_points_average_without_bias():
    points = jnp.asarray(sobol_prompts(16), jnp.float32)
    mean_square = jax.jit(jax.vmap(lambda key: jnp.mean(jnp.square(shifted(points, key)))))
    means = np.asarray(mean_square(jax.random.split(jax.random.key(1), 100)), np.float64)
    assert np.mean(means) == pytest.approx(1.0, abs=float(5 * np.std(means) / 10))


def test_the_papers_recipe():
    assert (PAPER.steps, PAPER.learning_rate, PAPER.clip) == (400, 0.005, 5.0)


def test_gradient_components_are_those_of_simulated_batches():
    points = TOY.prompts_at(jnp.asarray(sobol_prompts(64), jnp.float32))
    model = steep(jax.random.key(10))
    components = eqx.filter_jit(batch.gradient_components)(model, points)
    exact = {name: float(value) for name, value in components.items()}

    def gradient(key, n, k):
        prompt_key, response_key = jax.random.split(key)
        prompts = points[jax.random.randint(prompt_key, (n,), 0, len(points))]
        responses, _ = TOY.sample_responses(response_key, prompts, k)
        slope = eqx.filter_grad(lambda m: jnp.mean(mdn_nll(m, prompts, responses)))(model)
        return ravel_pytree(eqx.filter(slope, eqx.is_array))[0]

    for n, k in ((2, 1), (2, 6)):
        draws = jax.jit(jax.vmap(lambda key, n=n, k=k: gradient(key, n, k)))(
            jax.random.split(jax.random.key(11), 3_000)
        )
        draws = np.asarray(draws, np.float64)
        squares = np.sum((draws - draws.mean(0)) ** 2, axis=1)
        # The prompts are drawn from the 64 with replacement: their variance has divisor 64.
        expected = (exact["prompt"] * 63 / 64 + exact["response"] / k) / n
        assert squares.mean() == pytest.approx(expected, abs=5 * squares.std() / np.sqrt(3_000)), (n, k)
        # The squared norm of the mean of T draws exceeds the truth by their variance over T.
        assert np.sum(draws.mean(0) ** 2) - squares.mean() / 3_000 == pytest.approx(exact["signal"], rel=0.1)


def test_prompts_in_an_update():
    config = batch.Config()
    assert [config.prompts(4.0, k) for k in config.responses] == [32, 26, 20, 13, 8]
    assert [config.prompts(0.0, k) for k in config.responses] == [64, 32, 16, 8, 4]


def test_the_plane_recovers_a_law_it_was_made_with():
    n, k = (10, 40, 160), (1, 2, 4, 8, 16)
    for rho, power in ((8.0, 0.5), (1.0, 1.5)):
        excess = 3.0 * ((1 + rho / np.array(k)) / np.array(n, float)[:, None]) ** power
        found = resources.fit_law(n, k, excess)
        np.testing.assert_allclose(found, [rho, power, 1.0], rtol=0.03)
        config = resources.Config(prompts=n, responses=k)
        best = resources._best_k(config, excess, budget=400.0)
        # within the coarse grid's interpolation
        assert best == pytest.approx(np.sqrt(4 * rho), rel=0.35)


def test_cells_with_equal_rows_are_compared():
    config = resources.Config(prompts=(10, 20, 40), responses=(1, 2, 4))
    excess = np.ones((5, 3, 3)) * np.array([1.0, 2.0, 4.0])
    found = {(cell["prompts"], cell["responses"]): cell for cell in resources._equal_rows(config, excess)}
    assert set(found) == {(10, 2), (10, 4), (20, 2)}
    assert found[10, 4]["log_ratio"]["estimate"] == pytest.approx(np.log(4))
