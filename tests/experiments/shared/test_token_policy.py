"""The toy policy's exact parts and the methods' variances by enumeration."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.shared import token_policy
from experiments.shared.token_policy import METHODS, Parts, Shape
from mrtsim.plan.rollouts import group_variance

SMALL = Shape(n_prompts=2, tokens=2, features=3, actions=3, budget=7, steps=1)


@pytest.fixture(scope="module")
def problem():
    return jax.jit(token_policy.draw_problem, static_argnums=1)(jax.random.key(3), SMALL)


@pytest.fixture(scope="module")
def parts(problem):
    """With a leading axis for the one problem, as the law takes them."""
    return token_policy.parts_in_float64(jax.tree.map(lambda array: array[None], problem))


def responses(problem, prompt):
    """Chances, rewards and scores (responses, parameters) of every response to a prompt."""
    features, start = (np.asarray(array, float) for array in (problem.features[prompt], problem.start))
    chance = np.exp(features @ start)
    chance /= chance.sum(axis=-1, keepdims=True)
    actions = np.array(list(itertools.product(range(SMALL.actions), repeat=SMALL.tokens)))
    tokens = np.arange(SMALL.tokens)
    score = np.eye(SMALL.actions)[actions] - chance
    return (
        chance[tokens, actions].prod(axis=1),
        (actions[:, 0] == int(problem.right[prompt])).astype(float),
        np.einsum("tf,rta->rfa", features, score).reshape(len(actions), -1),
    )


def trace(chance, values):
    centred = values - chance @ values
    return float(chance @ np.square(centred).sum(axis=1))


def test_exact_parts_by_enumeration(problem, parts):
    for prompt in range(SMALL.n_prompts):
        chance, reward, score = responses(problem, prompt)
        assert chance.sum() == pytest.approx(1)
        assert parts.rate[0, prompt] == pytest.approx(chance @ reward)
        gradient = (chance * reward) @ score
        assert parts.gradient[0, prompt].ravel() == pytest.approx(gradient)
        assert parts.squared_gradient[0, prompt] == pytest.approx(gradient @ gradient)
        for spread, value in ((parts.spread_success, 1), (parts.spread_failure, 0)):
            given = chance * (reward == value)
            assert spread[0, prompt] == pytest.approx(trace(given / given.sum(), score))


def advantages(method, reward):
    centred = reward - reward.mean(axis=1, keepdims=True)
    if method == "rloo":
        return centred * reward.shape[1] / (reward.shape[1] - 1)
    if method == "grpo":
        spread = reward.std(axis=1, ddof=1, keepdims=True)
        return np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0)
    return centred


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [2, 3])
def test_noise_of_every_method_by_enumeration(problem, parts, method, size):
    chances, estimates = [], []
    for prompt in range(SMALL.n_prompts):
        chance, reward, score = responses(problem, prompt)
        groups = np.array(list(itertools.product(range(len(chance)), repeat=size)))
        chances.append(chance[groups].prod(axis=1) / SMALL.n_prompts)
        pushes = advantages(method, reward[groups])
        estimates.append(np.einsum("ng,ngs->ns", pushes, score[groups]) / size)
    chance, estimate = np.concatenate(chances), np.concatenate(estimates)
    variance, signal = token_policy.exact_noise(parts, method, size)
    # The features have norm 1 up to the rounding of single precision.
    assert variance == pytest.approx(trace(chance, estimate), rel=1e-6)
    assert signal == pytest.approx(np.sum((chance @ estimate) ** 2), rel=1e-6)


def test_the_estimates_are_those_of_the_law(problem, parts):
    """A budget of 7 pays two groups of 3; the seventh response is not used."""
    size, draws = 3, 8_000

    def estimate(key):
        return jax.vmap(
            lambda method: token_policy.estimate_gradient(
                key, problem, problem.start, method, size, SMALL.budget
            )
        )(jnp.arange(len(METHODS)))

    drawn = np.asarray(jax.jit(jax.vmap(estimate))(jax.random.split(jax.random.key(5), draws)), float)
    for i, method in enumerate(METHODS):
        found = drawn[:, i].reshape(draws, -1)
        variance, signal = token_policy.exact_noise(parts, method, size)
        squares = np.sum((found - found.mean(0)) ** 2, axis=1)
        assert squares.mean() == pytest.approx(variance / 2, abs=4 * squares.std() / np.sqrt(draws))
        along = found @ found.mean(0) / np.linalg.norm(found.mean(0))
        assert along.mean() == pytest.approx(np.sqrt(signal), abs=4 * along.std() / np.sqrt(draws))


def test_half_a_squared_difference_is_the_variance(problem, parts):
    several = jax.tree.map(lambda array: jnp.stack([array, array]), problem)
    draw = jax.jit(jax.vmap(lambda key: token_policy.simulated_variance(key, several, jnp.asarray(2), SMALL)))
    found = np.asarray(draw(jax.random.split(jax.random.key(7), 4_000)), float)
    for i, method in enumerate(METHODS):
        exact = token_policy.exact_noise(parts, method, 2)[0] / 3
        assert found[:, i].mean() == pytest.approx(exact, abs=4 * found[:, i].std() / np.sqrt(len(found)))


def test_a_and_b_repeat_the_law(parts):
    a, b = token_policy.a_and_b(parts)
    law = group_variance(
        parts.rate,
        7,
        squared_gradient=parts.squared_gradient,
        spread_success=parts.spread_success,
        spread_failure=parts.spread_failure,
    )
    assert a / 6 + b / 7 == pytest.approx(law.mean(axis=-1))


def test_exact_parts_of_a_policy_that_is_always_right():
    """Rounding must not give chances above 1 or spreads below 0, which the law refuses."""
    certain = token_policy.Problem(jnp.ones((1, 1, 1)), jnp.zeros(1, int), jnp.array([[200.0, 0.0, 0.0]]))
    parts = jax.jit(token_policy.exact_parts)(certain.start, certain)
    assert all(np.isfinite(np.asarray(part)).all() for part in parts)
    assert token_policy.variance_within(Parts(*map(np.asarray, parts)), "rloo", 4) == pytest.approx(0)
