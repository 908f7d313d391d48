"""Distributions: what is sampled has the density, the moments and the expectations that are claimed exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mrtsim.distributions.categorical import Categorical
from mrtsim.distributions.clustered import ClusteredPrompts
from mrtsim.distributions.gaussian_modes import GaussianModes
from mrtsim.distributions.protocol import DISTRIBUTIONS, distribution
from mrtsim.distributions.quadrature import hermite, panels
from mrtsim.errors import InputError

UNEVEN = {"offsets": [-1.0, 0.25, 2.0, 3.0], "weights": [0.1, 0.4, 0.5, 0.0], "scales": [0.1, 0.5, 0.3, 0.2]}


def uneven() -> GaussianModes:
    return GaussianModes(
        **UNEVEN,
        prompt_dim=1,
        centre=lambda x: jnp.square(x[..., 0]),
        prompt_scale=lambda x: 1 + jnp.abs(x[..., 0]),
    )


def prompts_of(dist, n, seed=0):
    with jax.enable_x64(True):
        return np.asarray(dist.sample_prompts(jax.random.key(seed), n))


@pytest.mark.parametrize("make", [GaussianModes, uneven], ids=["paper", "uneven"])
def test_samples_follow_the_density(make):
    dist = make()
    with jax.enable_x64(True):
        prompts = jnp.asarray(prompts_of(dist, 3))
        responses, modes = dist.sample_responses(jax.random.key(1), prompts, 20_000)
        responses, modes = np.asarray(responses), np.asarray(modes)
        for prompt, row, mode in zip(prompts, responses, modes, strict=True):
            counts = np.bincount(mode, minlength=len(dist.weights))
            live = dist.weights > 0
            assert counts[~live].sum() == 0
            assert stats.chisquare(counts[live], 20_000 * dist.weights[live]).pvalue > 1e-3
            # the distribution function by quadrature of the density, at sorted sample points
            grid = np.linspace(row.min() - 1, row.max() + 1, 40_001)
            density = np.exp(np.asarray(dist.log_density(prompt[None], jnp.asarray(grid)[None]))[0])
            cdf = np.concatenate([[0], np.cumsum(0.5 * (density[1:] + density[:-1]) * np.diff(grid))])
            assert cdf[-1] == pytest.approx(1, abs=1e-4)
            assert stats.kstest(row, lambda y, g=grid, c=cdf: np.interp(y, g, c)).pvalue > 1e-3


@pytest.mark.parametrize("make", [GaussianModes, uneven], ids=["paper", "uneven"])
@pytest.mark.parametrize("rule", [None, hermite(8), panels(31, 11)], ids=["default", "hermite", "panels"])
def test_quadrature_has_the_moments_of_the_mixture(make, rule):
    dist = make()
    prompts = prompts_of(dist, 5)
    with jax.enable_x64(True):
        x = jnp.asarray(prompts)
        responses, weights = (np.asarray(a) for a in dist.quadrature(x, rule))
        centre = np.asarray(dist.centre(x))
        factor = np.ones(5) if dist.prompt_scale is None else np.asarray(dist.prompt_scale(x))
    means = centre[:, None] + dist.offsets
    first = means @ dist.weights
    second = (means**2 + (dist.scales * factor[:, None]) ** 2) @ dist.weights
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-13)
    np.testing.assert_allclose((weights * responses).sum(1), first, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose((weights * responses**2).sum(1), second, rtol=1e-12)
    # mode-major: parts of the sum are the modes' own
    by_mode = weights.reshape(5, len(dist.weights), -1).sum(-1)
    np.testing.assert_allclose(by_mode, np.broadcast_to(dist.weights, by_mode.shape), atol=1e-13)


def closed_forms(threshold):
    """E[1{y < f + t}] and E|y - f - t| of the paper's distribution."""
    z = (threshold[:, None] - np.array([-1.5, 0, 1.5])) / 0.1
    step = stats.norm.cdf(z).mean(1)
    kink = (0.1 * (2 * stats.norm.pdf(z) + z * (2 * stats.norm.cdf(z) - 1))).mean(1)
    return step, kink


def test_expectation_error_is_honest():
    dist = GaussianModes()
    prompts = prompts_of(dist, 400)
    with jax.enable_x64(True):
        centre = np.asarray(dist.centre(jnp.asarray(prompts)))[:, None]
    # thresholds within reach of a mode, where the kink costs accuracy
    rng = np.random.default_rng(0)
    t = rng.choice([-1.5, 0, 1.5], 400) + 0.1 * rng.normal(size=400)
    step, kink = closed_forms(t)
    smooth = dist.expectation(lambda y: jnp.square(y - centre), prompts)
    assert np.all(np.abs(smooth.value - 1.51) <= smooth.error)
    assert smooth.error.max() < 1e-12
    kinked = dist.expectation(lambda y: jnp.abs(y - centre - t[:, None]), prompts)
    assert np.all(np.abs(kinked.value - kink) <= kinked.error)
    assert kinked.error.max() < 2e-6
    jump = dist.expectation(lambda y: (y - centre < t[:, None]).astype(y.dtype), prompts)
    wrong = np.abs(jump.value - step)
    assert wrong.max() < 1e-3
    assert np.all(wrong <= 3 * jump.error)
    assert np.mean(wrong <= jump.error) > 0.98  # for jumps an estimate, not a bound


def test_expectation_does_not_trust_gauss_hermite_on_a_kink():
    dist = GaussianModes()
    prompts = np.zeros((1, 5))
    _, kink = closed_forms(np.array([0.03]))
    smooth = dist.expectation(lambda y: jnp.abs(y - 0.03), prompts, smooth=True)
    assert abs(smooth.value[0] - kink[0]) <= smooth.error[0] < 1e-5


def test_expectation_keeps_trailing_axes_and_bounds_memory():
    dist = GaussianModes()
    prompts = prompts_of(dist, 7)
    seen = []

    def powers(y):
        seen.append(y.size)
        return jnp.stack([y, y**2, y**3], axis=-1)

    whole = dist.expectation(powers, prompts)
    assert whole.value.shape == whole.error.shape == (7, 3)
    seen.clear()
    parts = dist.expectation(powers, prompts, max_values=100)
    assert max(seen) <= 100
    np.testing.assert_allclose(parts.value, whole.value, rtol=1e-13, atol=1e-14)


def test_one_mode_is_a_normal_distribution():
    dist = GaussianModes(offsets=[0.5], scales=2.0, prompt_dim=3)
    prompts = prompts_of(dist, 4)
    with jax.enable_x64(True):
        x = jnp.asarray(prompts)
        y = np.linspace(-3, 3, 7)
        ours = np.asarray(dist.log_density(x, jnp.broadcast_to(jnp.asarray(y), (4, 7))))
        centre = np.asarray(dist.centre(x))
    np.testing.assert_allclose(ours, stats.norm.logpdf(y, centre[:, None] + 0.5, 2.0), rtol=1e-12)


def test_prompts_from_the_unit_cube_are_standard_normal():
    with jax.enable_x64(True):
        x = np.asarray(GaussianModes().prompts_at(jnp.asarray([[0.5, 0.975, 0.025, 0.1, 0.9]])))
    np.testing.assert_allclose(x[0], stats.norm.ppf([0.5, 0.975, 0.025, 0.1, 0.9]), atol=1e-12)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"offsets": []}, "offsets must be"),
        ({"offsets": [0.0, np.nan]}, "offsets must be"),
        ({"weights": [0.5, 0.5]}, r"weights must have shape \(3,\)"),
        ({"weights": [0.5, 0.5, 0.5]}, "sum to 1"),
        ({"weights": [-0.5, 1.0, 0.5]}, "non-negative"),
        ({"scales": [0.1, 0.1]}, "3 modes"),
        ({"scales": 0.0}, "positive"),
        ({"prompt_dim": 1}, "prompt_dim = 1"),
    ],
)
def test_bad_parameters_are_named(parameters, message):
    with pytest.raises(InputError, match=message):
        GaussianModes(**parameters)


def test_registry():
    assert isinstance(distribution("gaussian-modes", scales=0.2), GaussianModes)
    with pytest.raises(InputError, match="choose one of categorical, clustered, gaussian-modes"):
        distribution("gaussian")


@pytest.mark.parametrize("name", sorted(DISTRIBUTIONS))
def test_every_distribution_agrees_with_itself(name):
    """Simulated means of response, reward and log-density against the exact expectation."""
    dist = distribution(name)
    with jax.enable_x64(True):
        prompts = dist.sample_prompts(jax.random.key(3), 6)
        assert prompts.shape[0] == 6
        responses, labels = dist.sample_responses(jax.random.key(4), prompts, 40_000)
        assert responses.shape == labels.shape == (6, 40_000)
        for fn in (
            lambda y: y,
            lambda y: dist.reward(prompts, y),
            lambda y: dist.log_density(prompts, y),
        ):
            sample = np.asarray(fn(responses))
            exact = dist.expectation(fn, np.asarray(prompts))
            assert exact.error.max() < 1e-6
            z = (sample.mean(1) - exact.value) / (sample.std(1) / 200 + 1e-12)
            assert np.abs(z).max() < 4
        mass = dist.expectation(jnp.ones_like, np.asarray(prompts))
        np.testing.assert_allclose(mass.value, 1, rtol=1e-13)


@pytest.mark.parametrize("similarity", [0.0, 0.3, 1.0])
def test_clustered_prompts_keep_the_marginal_and_have_the_correlation(similarity):
    dist = ClusteredPrompts(group_size=4, similarity=similarity)
    x = prompts_of(dist, 40_000).reshape(10_000, 4, 5)
    first, second = x[:, 0].ravel(), x[:, 1].ravel()
    assert stats.kstest(first, "norm").pvalue > 1e-3
    if similarity == 1.0:
        np.testing.assert_array_equal(first, second)
    else:
        correlation = np.mean(first * second)
        assert abs(correlation - similarity) < 4 * np.std(first * second) / np.sqrt(first.size)
    # no correlation between groups
    across = x[:-1, 0].ravel() * x[1:, 0].ravel()
    assert abs(across.mean()) < 4 * across.std() / np.sqrt(across.size)


def test_clustered_groups_label_neighbours_and_the_last_may_be_smaller():
    dist = ClusteredPrompts(group_size=3, similarity=1.0)
    np.testing.assert_array_equal(dist.groups(7), [0, 0, 0, 1, 1, 1, 2])
    x = prompts_of(dist, 7)
    assert x.shape == (7, 5)
    np.testing.assert_array_equal(x[3], x[5])
    assert not np.array_equal(x[5], x[6])


def test_categorical_density_and_rewards_come_from_the_tables():
    dist = Categorical()
    with jax.enable_x64(True):
        x = jnp.asarray([[1.0], [0.0]])
        y = jnp.asarray([[2.0, -1.0, 0.7], [0.0, 1.5, -1.5]])
        np.testing.assert_allclose(np.exp(dist.log_density(x, y)), [[0.6, 0.2, 0.0], [0.5, 0.25, 0.25]])
        np.testing.assert_allclose(dist.reward(x, y)[:, :2], [[0.0, 1.0], [1.0, 0.0]])
    prompts, weights = dist.support()
    np.testing.assert_array_equal(prompts, [[0.0], [1.0]])
    np.testing.assert_array_equal(weights, [0.5, 0.5])
    assert Categorical([[0.0, 1.0], [0.5, 2.0]]).rewards[1, 1] == 2.0


def test_categorical_prompts_follow_their_weights():
    dist = Categorical(prompt_weights=[0.2, 0.8])
    counts = np.bincount(prompts_of(dist, 10_000)[:, 0].astype(int))
    assert stats.chisquare(counts, [2_000, 8_000]).pvalue > 1e-3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClusteredPrompts(group_size=0), "group_size"),
        (lambda: ClusteredPrompts(similarity=1.5), "similarity"),
        (lambda: ClusteredPrompts(similarity=float("nan")), "similarity"),
        (lambda: Categorical(values=[1.0, 2.0]), r"\(prompts, outcomes\)"),
        (lambda: Categorical(values=[[1.0, 1.0]], probabilities=None, rewards=None), "distinct"),
        (lambda: Categorical(probabilities=[[1.0, 0.0, 0.0]]), r"shape \(2, 3\)"),
        (lambda: Categorical(prompt_weights=[0.4, 0.4]), "prompt_weights must be non-negative and sum to 1"),
        (lambda: Categorical(rewards=[[1.0]]), "rewards"),
    ],
)
def test_bad_tables_and_groups_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()
