"""Exact components: against enumeration, closed forms and simulation, with errors that tell the truth."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mrtsim.distributions.categorical import Categorical
from mrtsim.distributions.clustered import ClusteredPrompts
from mrtsim.distributions.exact_components import decompose
from mrtsim.distributions.gaussian_modes import GaussianModes
from mrtsim.distributions.quadrature import hermite
from mrtsim.errors import InputError
from mrtsim.losses import mdn_nll, squared_loss
from mrtsim.models import MDN, MLP


def test_categorical_is_enumerated():
    values = [[0.0, 1.0, 3.0], [2.0, -1.0, 0.5], [1.0, 2.0, 4.0]]
    probabilities = [[0.2, 0.3, 0.5], [0.6, 0.2, 0.2], [0.1, 0.1, 0.8]]
    weights = [0.5, 0.2, 0.3]
    dist = Categorical(values, probabilities, weights, rewards=None)
    exact = decompose(lambda model, x, y: model * y**2 + x, 1.5, dist)
    joint = [
        (weights[i] * probabilities[i][j], 1.5 * values[i][j] ** 2 + i, i)
        for i, j in itertools.product(range(3), range(3))
    ]
    mean = sum(p * loss for p, loss, _ in joint)
    mu = [sum(p * loss for p, loss, k in joint if k == i) / weights[i] for i in range(3)]
    v_prompt = sum(w * (m - mean) ** 2 for w, m in zip(weights, mu, strict=True))
    total = sum(p * (loss - mean) ** 2 for p, loss, _ in joint)
    assert exact.mean.value == pytest.approx(mean, rel=1e-13)
    assert exact.prompt.value == pytest.approx(v_prompt, rel=1e-13)
    assert exact.response.value == pytest.approx(total - v_prompt, rel=1e-13)
    assert exact.components.group == 0.0
    d = np.array(mu) - mean
    assert exact.moments["d4"] == pytest.approx(np.dot(weights, d**4), rel=1e-13)
    assert exact.response.standard_error < 1e-12


A = 0.8


def linear_centre(x):
    return A * x[..., 0]


def assert_within(exact, truth, relative):
    """The value is within 4 of its own standard errors, and these are small."""
    assert abs(exact.value - truth) <= 4 * exact.standard_error + 1e-12
    assert exact.standard_error <= relative * abs(truth)


def test_quadratic_loss_has_its_closed_form():
    # w = o + 0.1 eps has E w^2 = 1.51, E w^4 = 3.375 + 6 * 1.5 * 0.01 + 3e-4, odd moments 0; the loss is (f + w)^2
    dist = GaussianModes(centre=linear_centre, prompt_dim=2)
    exact = decompose(lambda _, x, y: jnp.square(y), None, dist)
    spread = 3.375 + 0.09 + 3e-4 - 1.51**2
    assert_within(exact.mean, A**2 + 1.51, 1e-4)
    assert_within(exact.prompt, 2 * A**4, 1e-3)
    assert_within(exact.response, 4 * A**2 * 1.51 + spread, 1e-4)
    assert exact.moments["d4"] == pytest.approx(60 * A**8, rel=1e-2)
    assert exact.moments["d2_s2"] == pytest.approx(4 * 1.51 * 10 * A**6 + 2 * A**4 * spread, rel=5e-3)


@pytest.mark.parametrize("similarity", [0.0, 0.4, 0.9, 1.0])
def test_clustered_split_has_its_closed_form(similarity):
    # For the quadratic loss mu is f^2 + const, whose covariance over members is 2 A^4 similarity^2.
    dist = ClusteredPrompts(similarity=similarity, centre=linear_centre, prompt_dim=2)
    exact = decompose(lambda _, x, y: jnp.square(y), None, dist)
    total = 2 * A**4
    assert abs(exact.group.value - total * similarity**2) <= 4 * exact.group.standard_error
    assert abs(exact.prompt.value - total * (1 - similarity**2)) <= 4 * exact.prompt.standard_error + 1e-12
    assert max(exact.group.standard_error, exact.prompt.standard_error) < 2e-3 * total
    assert exact.prompt.value + exact.group.value == pytest.approx(total, rel=3e-3)
    if similarity == 1.0:
        assert exact.prompt.value == 0.0


def test_kinked_loss_is_not_left_to_gauss_hermite():
    # |w - t| does not depend on the prompt: V_x = 0, and V_{y|x} in closed form
    t = 0.03
    dist = GaussianModes()
    exact = decompose(lambda _, x, y: jnp.abs(y - dist.centre(x)[:, None] - t), None, dist, points=2**8)
    z = (t - np.array([-1.5, 0, 1.5])) / 0.1
    mean = np.mean(0.1 * (2 * stats.norm.pdf(z) + z * (2 * stats.norm.cdf(z) - 1)))
    truth = 1.51 + t**2 - mean**2
    assert abs(exact.response.value - truth) <= 4 * exact.response.standard_error
    assert exact.response.standard_error < 2e-5
    assert abs(exact.prompt.value) <= 1e-15
    # a rule that is too coarse says so itself
    coarse = decompose(
        lambda _, x, y: jnp.abs(y - dist.centre(x)[:, None] - t), None, dist, points=2**8, rule=hermite(8)
    )
    assert coarse.response.standard_error > 1e-4
    assert abs(coarse.response.value - truth) <= 4 * coarse.response.standard_error


@pytest.mark.parametrize(("loss", "learner"), [(squared_loss, MLP), (mdn_nll, MDN)], ids=["mlp", "mdn"])
def test_agrees_with_simulation(loss, learner):
    dist, model = GaussianModes(), learner(jax.random.key(5))
    exact = decompose(loss, model, dist, points=2**12, rule=hermite(12))
    with jax.enable_x64(True):
        prompts = dist.sample_prompts(jax.random.key(1), 40_000)
        responses, _ = dist.sample_responses(jax.random.key(2), prompts, 4)
        losses = np.asarray(loss(model, prompts, responses))
    within = losses.var(1, ddof=1)
    halves = losses.reshape(-1, 2, 2).mean(-1)
    between = np.prod(halves - losses.mean(), axis=1)  # E = V_x: two independent halves share only the prompt
    for sample, truth in ((losses.mean(1), exact.mean), (within, exact.response), (between, exact.prompt)):
        error = np.hypot(sample.std() / 200, truth.standard_error)
        assert abs(sample.mean() - truth.value) < 4 * error


def test_standard_errors_tell_the_truth():
    dist, model = GaussianModes(), MLP(jax.random.key(5))
    truth = decompose(squared_loss, model, dist, points=2**15, seed=99, rule=hermite(8))
    runs = [decompose(squared_loss, model, dist, points=2**8, seed=s, rule=hermite(8)) for s in range(40)]
    for name in ("mean", "prompt", "response"):
        z = [
            (getattr(r, name).value - getattr(truth, name).value) / getattr(r, name).standard_error
            for r in runs
        ]
        # 40 t-values with 15 degrees of freedom, whose variance is 15/13
        assert 0.7 < np.sqrt(np.mean(np.square(z))) < 1.45
        assert abs(np.mean(z)) < 4 * 1.07 / np.sqrt(40)


def test_seed_repeats_bit_for_bit():
    dist, model = GaussianModes(), MLP(jax.random.key(5))
    first, again, other = (
        decompose(squared_loss, model, dist, points=64, seed=s, rule=hermite(6)) for s in (1, 1, 2)
    )
    assert first == again
    assert first.prompt != other.prompt


@pytest.mark.parametrize(
    ("arguments", "message"), [({"points": 100}, "power of two"), ({"randomisations": 1}, "2 or more")]
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        decompose(squared_loss, MLP(jax.random.key(0)), GaussianModes(), **arguments)
