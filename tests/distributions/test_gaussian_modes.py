"""Gaussian modes: samples follow the density, and quadrature and expectations have its moments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mrtsim.distributions.gaussian_modes import GaussianModes
from mrtsim.distributions.quadrature import hermite, panels
from mrtsim.errors import InputError
from tests.distributions.shared import prompts_of, uneven


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
