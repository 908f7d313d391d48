"""What must hold of every registered distribution, and of the decomposition of a loss under it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrtsim.distributions.categorical import Categorical
from mrtsim.distributions.clustered import ClusteredPrompts
from mrtsim.distributions.exact_components import conditional_cumulants, decompose
from mrtsim.distributions.gaussian_modes import GaussianModes

EVERY = [GaussianModes(), ClusteredPrompts(), Categorical()]
every = pytest.mark.parametrize("dist", EVERY, ids=lambda dist: type(dist).__name__)
few = settings(max_examples=5)
keys = st.integers(0, 2**31 - 1)


def loss(model, prompts, responses):
    """Smooth, and different for every prompt: a_0 y + a_1 y^2 + a_2 x_1 y."""
    first = prompts[..., :1]
    return model[0] * responses + model[1] * jnp.square(responses) + model[2] * first * responses


coefficients = st.tuples(*[st.integers(-3, 3).map(float)] * 3).filter(any).map(np.array)


@every
@given(keys, coefficients, st.sampled_from([-2.0, 0.5]), st.integers(-4, 4))
@few
def test_parts_of_a_loss_add_up_given_any_prompt(dist, seed, model, factor, shift):
    with jax.enable_x64(True):
        prompts = dist.sample_prompts(jax.random.key(seed), 4)

        def powers(responses):
            value = loss(model, prompts, responses)
            return jnp.stack([jnp.ones_like(value), value, value**2], axis=-1)

        one, first, second = np.moveaxis(dist.expectation(powers, prompts).value, -1, 0)
        mean, variance, third, fourth = np.asarray(conditional_cumulants(loss, model, dist, prompts))
        np.testing.assert_allclose(one, 1, rtol=1e-12)
        scale = second.max() + 1e-12
        np.testing.assert_allclose(mean, first, rtol=1e-9, atol=1e-9 * scale)
        np.testing.assert_allclose(variance + mean**2, second, rtol=1e-9, atol=1e-9 * scale)
        assert variance.min() >= -1e-9 * scale
        # The fourth cumulant is above -2 s^4, and the skewness below what it allows (Pearson 1916).
        assert np.all(fourth + 2 * variance**2 >= third**2 / np.maximum(variance, 1e-12) - 1e-6 * scale**2)

        def changed(model, prompts, responses):
            return factor * loss(model, prompts, responses) + shift

        moved = np.asarray(conditional_cumulants(changed, model, dist, prompts))
        powers_of = factor ** np.arange(1, 5)[:, None]
        np.testing.assert_allclose(
            moved,
            powers_of * [mean, variance, third, fourth] + np.array([[shift], [0], [0], [0]]),
            rtol=1e-7,
            atol=1e-7 * scale**2,
        )


@every
@given(keys)
@few
def test_quadrature_is_a_probability_and_samples_are_possible(dist, seed):
    with jax.enable_x64(True):
        prompt_key, response_key = jax.random.split(jax.random.key(seed))
        prompts = dist.sample_prompts(prompt_key, 3)
        responses, weights = (np.asarray(a) for a in dist.quadrature(prompts))
        assert responses.shape == weights.shape
        np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-12)
        assert weights.min() >= 0
        sampled, labels = dist.sample_responses(response_key, prompts, 50)
        densities = [dist.log_density] if isinstance(dist, GaussianModes) else []
        for density in densities:
            assert np.isfinite(np.asarray(density(prompts, sampled))).all()
        if not densities:  # the nodes are all there is
            assert all(np.isin(*pair).all() for pair in zip(np.asarray(sampled), responses, strict=True))
        assert labels.dtype.kind == "i"
        # The same prompt has the same law wherever it stands, and whatever stands beside it.
        for fn in (dist.reward, *densities):
            alone = np.asarray(fn(prompts[1:2], sampled[1:2]))
            np.testing.assert_allclose(np.asarray(fn(prompts, sampled))[1:2], alone, rtol=1e-12)
        again = dist.sample_responses(response_key, prompts, 50)[0]
        np.testing.assert_array_equal(np.asarray(again), np.asarray(sampled))


shares = st.lists(st.integers(1, 9), min_size=4, max_size=4)


@given(
    st.lists(shares, min_size=3, max_size=3),
    st.lists(st.integers(1, 9), min_size=3, max_size=3),
    st.lists(st.permutations(range(-6, 7)), min_size=3, max_size=3),
    coefficients,
)
@settings(max_examples=30)
def test_total_variance_of_a_categorical_is_the_sum_of_its_parts(given_prompt, prompts, values, model):
    probabilities = np.array(given_prompt) / np.sum(given_prompt, axis=1, keepdims=True)
    weights = np.array(prompts) / sum(prompts)
    values = np.array(values, float)[:, :4]
    found = decompose(loss, model, Categorical(values, probabilities, weights, rewards=None))
    losses = model[0] * values + model[1] * values**2 + model[2] * np.arange(3.0)[:, None] * values
    joint = weights[:, None] * probabilities
    mean = np.sum(joint * losses)
    total = np.sum(joint * (losses - mean) ** 2)
    parts = found.components
    assert parts.prompt + parts.response + parts.group == pytest.approx(total, rel=1e-10, abs=1e-10)
    assert found.mean.value == pytest.approx(mean, rel=1e-10, abs=1e-10)
    assert min(parts.prompt, parts.response) >= -1e-10 * total
    assert parts.group == 0


@given(st.floats(0, 1), coefficients)
@settings(max_examples=8)
def test_clusters_split_the_variance_between_prompts_and_leave_the_rest(similarity, model):
    """V_g + V_{x|g} = V_x, whatever the dial; it moves variance from within groups to between them."""
    options = {"points": 2**8, "randomisations": 16}
    whole = decompose(loss, model, GaussianModes(), **options)
    split = decompose(loss, model, ClusteredPrompts(similarity=similarity), **options)
    for ours, other in (
        ((split.group, split.prompt), whole.prompt),
        ((split.response,), whole.response),
        ((split.mean,), whole.mean),
    ):
        error = sum(part.standard_error for part in (*ours, other))
        assert abs(sum(part.value for part in ours) - other.value) <= 6 * error + 1e-9 * abs(other.value)
    assert split.prompt.value >= 0
    if similarity == 1:
        assert split.prompt.value == 0
