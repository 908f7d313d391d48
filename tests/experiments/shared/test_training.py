"""The training loop: a batch of runs is the runs alone, runs do not disturb each other, the best step is the best."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from experiments.shared.padded_loss import used_mixture_nll
from experiments.shared.training import Recipe, fit
from mrtsim.distributions.gaussian_modes import GaussianModes
from mrtsim.errors import InputError
from mrtsim.losses import mdn_nll, mixture_nll
from mrtsim.models import MDN, Mixture
from mrtsim.montecarlo import replicate

TOY = GaussianModes()
SHORT = Recipe(steps=20, validate_every=5)


def data(key, n_prompts=12, k=3, dtype=jnp.float32):
    prompt_key, response_key = jax.random.split(key)
    prompts = jax.random.normal(prompt_key, (n_prompts, 5), dtype)
    return prompts, TOY.sample_responses(response_key, prompts, k)[0]


def learner(key, dtype=jnp.float32):
    return jax.tree.map(lambda a: a.astype(dtype) if eqx.is_array(a) else a, MDN(key))


def run(key, steps, dtype, damage=0.0):
    """Losses of the trajectory, and one number that sums up the final model."""
    prompts, responses = data(key, dtype=dtype)
    trained = fit(
        learner(key, dtype),
        lambda model, _: mdn_nll(model, prompts, responses + damage).mean(),
        Recipe(steps=steps, validate_every=steps),
    )
    return trained.losses, mdn_nll(trained.last, prompts, responses).mean(), trained.diverged


@pytest.mark.parametrize(
    ("steps", "dtype", "tolerance"),
    [pytest.param(20, "float32", 1e-4, marks=pytest.mark.stress), (50, "float64", 1e-7)],
)
def test_a_batch_of_runs_follows_the_same_runs_alone(steps, dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        keys = jax.random.split(jax.random.key(0), 4)
        together = jax.jit(jax.vmap(lambda key: run(key, steps, dtype)))(keys)
        alone = jax.jit(lambda key: run(key, steps, dtype))
        each = [jax.tree.map(np.asarray, alone(key)) for key in keys]
        together = jax.tree.map(np.asarray, together)
    for got, expected in zip(together, zip(*each, strict=True), strict=True):
        np.testing.assert_allclose(got, np.stack(expected), rtol=tolerance)
    assert len(np.unique(together[1])) == 4


def test_the_steps_are_optax_steps_on_the_clipped_gradient():
    recipe = Recipe(steps=6, validate_every=3, learning_rate=0.02, clip=0.1)
    prompts, responses = data(jax.random.key(1))
    model = learner(jax.random.key(2))
    trained = fit(model, lambda m, _: mdn_nll(m, prompts, responses).mean(), recipe)
    params, static = eqx.partition(model, eqx.is_array)

    def loss(params):
        return mdn_nll(eqx.combine(params, static), prompts, responses).mean()

    adam = optax.adam(0.02)

    @jax.jit
    def step(params, state):
        value, gradient = jax.value_and_grad(loss)(params)
        norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(gradient)))
        updates, state = adam.update(jax.tree.map(lambda g: recipe.clip / norm * g, gradient), state)
        return optax.apply_updates(params, updates), state, value, norm

    state, losses = adam.init(params), []
    for _ in range(6):
        params, state, value, norm = step(params, state)
        assert norm > recipe.clip
        losses.append(value)
    np.testing.assert_allclose(trained.losses, losses, rtol=1e-5)
    for ours, theirs in zip(
        jax.tree.leaves(eqx.filter(trained.last, eqx.is_array)), jax.tree.leaves(params), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)


def test_batches_are_taken_one_a_step_and_weights_decay():
    inputs = jnp.arange(6.0)
    trained = fit(
        {"w": jnp.ones(2)}, lambda m, x: x * m["w"].sum(), Recipe(steps=6, validate_every=2), inputs
    )
    # The loss of step i is i times a sum that starts at 2 and has fallen by at most 2 lr a step.
    np.testing.assert_allclose(trained.losses[1:] / inputs[1:], 2.0, atol=0.06)
    # Without a gradient AdamW shrinks the weights by 1 - lr * decay a step; Adam leaves them.
    for decay, expected in ((0.0, 1.0), (0.5, (1 - 0.1 * 0.5) ** 6)):
        recipe = Recipe(steps=6, validate_every=2, learning_rate=0.1, weight_decay=decay)
        still = fit({"w": jnp.ones(2)}, lambda m, _: 0.0 * m["w"].sum(), recipe)
        np.testing.assert_allclose(still.last["w"], expected, rtol=1e-6)


def test_a_diverged_run_is_recorded_and_spoils_no_other():
    keys = jax.random.split(jax.random.key(3), 4)
    batch = jax.jit(jax.vmap(lambda key, damage: run(key, 20, "float32", damage)))
    sound = jax.tree.map(np.asarray, batch(keys, jnp.zeros(4)))
    hurt = jax.tree.map(np.asarray, batch(keys, jnp.array([0.0, jnp.nan, 0.0, jnp.inf])))
    np.testing.assert_array_equal(sound[2], [20, 20, 20, 20])
    np.testing.assert_array_equal(hurt[2], [20, 0, 20, 0])
    for before, after in zip(sound, hurt, strict=True):
        np.testing.assert_array_equal(before[[0, 2]], after[[0, 2]])


def test_a_run_that_diverges_on_the_way_stands_still_from_there():
    def objective(model, scale):
        return scale * model["w"] ** 2

    start, recipe = {"w": jnp.array(3.0)}, Recipe(steps=8, validate_every=1, learning_rate=0.1)
    scales = jnp.array([1.0, 1.0, 1.0, 1.0, np.inf, 1.0, 1.0, 1.0])
    trained = fit(start, objective, recipe, scales, lambda m: m["w"] ** 2)
    four = fit(start, objective, Recipe(steps=4, validate_every=1, learning_rate=0.1), scales[:4])
    assert trained.diverged == 4
    assert trained.last["w"] == four.last["w"]
    assert trained.best["w"] == four.last["w"]
    assert trained.best_step == 4
    assert np.all(np.isfinite(trained.validation_losses))


def test_an_infinite_gradient_of_a_finite_loss_is_a_divergence():
    trained = fit({"w": jnp.array(0.0)}, lambda m, _: jnp.sqrt(m["w"]), SHORT)
    assert trained.diverged == 0
    assert trained.last["w"] == 0.0
    assert np.all(np.isfinite(trained.losses))


def test_the_best_step_has_the_least_validation_loss_of_the_trajectory():
    # w runs from 1 down through 0.7; validation is best there, training goes on.
    trained = fit(
        {"w": jnp.array(1.0)},
        lambda m, _: m["w"],
        Recipe(steps=20, validate_every=2, learning_rate=0.05),
        validate=lambda m: jnp.square(m["w"] - 0.7),
        record=lambda m: m,
    )
    assert trained.validation_losses.shape == (10,)
    np.testing.assert_allclose(jnp.square(trained.records["w"] - 0.7), trained.validation_losses, atol=1e-6)
    assert trained.best_step == 2 * (1 + int(np.argmin(trained.validation_losses)))
    assert trained.best_step == 6
    np.testing.assert_allclose(trained.best["w"], 0.7, atol=1e-4)
    np.testing.assert_allclose(trained.last["w"], 0.0, atol=1e-3)


def test_without_validation_the_best_model_is_the_last():
    trained = fit({"w": jnp.array(1.0)}, lambda m, _: m["w"], SHORT)
    assert trained.best["w"] == trained.last["w"]
    assert trained.best_step == 20


def test_padding_changes_nothing():
    with jax.enable_x64(True):
        prompts, responses = data(jax.random.key(4), 12, 3, jnp.float64)
        model = learner(jax.random.key(5), jnp.float64)
        plain = fit(model, lambda m, _: mdn_nll(m, prompts, responses).mean(), SHORT)
        wide_prompts = jnp.zeros((20, 5)).at[:12].set(prompts)
        wide_responses = jnp.full((20, 8), 7.0).at[:12, :3].set(responses)
        padded = fit(
            model, lambda m, _: used_mixture_nll(m(wide_prompts), wide_responses, 12, 3, columns=2), SHORT
        )
        np.testing.assert_allclose(padded.losses, plain.losses, rtol=1e-12)
        for ours, theirs in zip(
            *(jax.tree.leaves(eqx.filter(f.last, eqx.is_array)) for f in (padded, plain)), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


SIZES = ((7, 11), (7, 1), (1, 11), (4, 3), (5, 8))


@pytest.fixture(scope="module")
def plain():
    """A mixture, responses, and three times the loss of the first n x k with its gradient, by (n, k)."""
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(8), 4)
        mixture = Mixture(
            jax.nn.log_softmax(jax.random.normal(keys[0], (7, 5), jnp.float64)),
            *(2 * jax.random.normal(key, (7, 5), jnp.float64) for key in keys[1:3]),
        )
        responses = 5 * jax.random.normal(keys[3], (7, 11), jnp.float64)

        @jax.jit
        def losses(mixture):
            return [
                jax.value_and_grad(lambda m, n=n, k=k: 3.0 * mixture_nll(m, responses)[:n, :k].mean())(
                    mixture
                )
                for n, k in SIZES
            ]

        return mixture, responses, dict(zip(SIZES, losses(mixture), strict=True))


@pytest.mark.parametrize("columns", [1, 3, 4, 8, 20])
def test_the_loss_of_what_is_used_has_the_value_and_gradient_of_the_plain_one(columns, plain):
    """Also under vmap and jit with traced sizes, and next to padding that is no number."""
    mixture, responses, expected = plain
    with jax.enable_x64(True):
        ours = jax.jit(
            jax.value_and_grad(
                lambda mixture, *given: 3.0 * used_mixture_nll(mixture, *given, columns=columns)
            )
        )
        for n, k in SIZES:
            padded = jnp.full_like(responses, jnp.nan).at[:n, :k].set(responses[:n, :k])
            for ours_, theirs in zip(
                jax.tree.leaves(ours(mixture, padded, n, k)), jax.tree.leaves(expected[n, k]), strict=True
            ):
                np.testing.assert_allclose(ours_, theirs, rtol=1e-12, atol=1e-13)
        several = jax.vmap(lambda k: used_mixture_nll(mixture, responses, 6, k, columns))(
            jnp.array([1, 5, 11])
        )
        alone = [mixture_nll(mixture, responses)[:6, :k].mean() for k in (1, 5, 11)]
        np.testing.assert_allclose(several, alone, rtol=1e-12)


def replicated(key):
    return run(key, 20, "float32")[1]


def test_same_bits_whatever_the_memory_bound_and_the_threads():
    key = jax.random.key(6)
    results = [
        replicate(replicated, key, 10, block=2, **options)
        for options in ({}, {"threads": 1}, {"memory": 2e7, "threads": 4})
    ]
    assert len(np.unique(results[0])) == 10
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


def test_a_recipe_that_cannot_be_split_into_checks_is_refused():
    with pytest.raises(InputError, match="validate_every = 7 must divide steps = 20"):
        Recipe(steps=20, validate_every=7)
    with pytest.raises(InputError, match="at least 1"):
        Recipe(steps=0)


def published_run(key):
    """A run of the published recipe that overfits, as in E2: 400 steps on 20 prompts, test NLL on 200 others."""
    prompts, responses = data(key, 220, 4)
    trained = fit(
        learner(key),
        lambda model, _: mdn_nll(model, prompts[:20], responses[:20]).mean(),
        Recipe(validate_every=400),
    )
    return mdn_nll(trained.last, prompts[20:], responses[20:]).mean()


@pytest.mark.stress
def test_after_400_steps_a_batch_of_runs_agrees_with_single_runs_in_distribution():
    """The runs themselves do not: training amplifies rounding. So means and spreads are compared, pair by pair."""
    alone, together = (replicate(published_run, jax.random.key(7), 240, block=block) for block in (1, 8))
    assert not np.array_equal(alone, together)
    gap = together - alone
    assert abs(gap.mean()) < 4 * gap.std(ddof=1) / np.sqrt(len(gap))
    assert stats.ks_2samp(alone, together).pvalue > 0.01
    assert stats.levene(alone, together).pvalue > 0.01
