"""The exact laws of kept responses against enumeration, simulation, and rules of another kind."""

from __future__ import annotations

import itertools
from fractions import Fraction
from math import comb

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import betainc, betaincinv, ndtr

from mrtsim.distributions.categorical import Categorical
from mrtsim.distributions.clustered import ClusteredPrompts
from mrtsim.distributions.gaussian_modes import GaussianModes
from mrtsim.distributions.quadrature import hermite
from mrtsim.errors import InputError
from mrtsim.losses import mdn_nll
from mrtsim.models import MDN
from mrtsim.selection import exact_laws
from mrtsim.selection.exact_laws import (
    KeptLaw,
    bkon_law,
    exceedance,
    inclusion_probability,
    ranked_law,
    rkon_law,
    rkon_pool_variance,
    tied_inclusion_probability,
)

TOY = GaussianModes()
UNEVEN = GaussianModes(
    offsets=(-1.0, 0.4, 2.0),
    weights=(0.2, 0.5, 0.3),
    scales=(0.3, 0.1, 0.2),
    prompt_scale=lambda x: 1 + 0.5 * jnp.tanh(x[..., 0]),
)
PROMPTS = np.random.default_rng(7).standard_normal((3, 5))
GRID = [(2, 1), (8, 3), (32, 1), (32, 4), (32, 16), (32, 31), (32, 32), (4096, 4), (4096, 2048)]


def untrained_nll(prompts, responses):
    with jax.enable_x64(True):
        model = jax.tree.map(
            lambda a: a.astype(float) if isinstance(a, jax.Array) else a, MDN(jax.random.key(3))
        )
        return np.asarray(mdn_nll(model, jnp.asarray(prompts), jnp.asarray(responses)))


def best(rewards, k):
    return np.argpartition(-rewards, k - 1, axis=-1)[..., :k] if k < rewards.shape[-1] else None


def simulate_bkon(rng, distribution, prompts, n, k, trials, fn):
    """Means of fn over the best k of n fresh candidates, (trials, prompts), and one kept value each; plain NumPy."""
    centre = np.asarray(distribution.centre(jnp.asarray(prompts)))
    scale = np.asarray(distribution.scales) * np.ones((len(prompts), 1))
    if distribution.prompt_scale is not None:
        scale = scale * np.asarray(distribution.prompt_scale(jnp.asarray(prompts)))[:, None]
    modes = rng.choice(len(distribution.offsets), (trials, len(prompts), n), p=distribution.weights)
    z = rng.standard_normal(modes.shape)
    noise = np.take_along_axis(np.broadcast_to(scale, (trials, *scale.shape)), modes, -1)
    y = centre[:, None] + distribution.offsets[modes] + noise * z
    kept = best(-np.abs(y - centre[:, None]), k)
    values = fn(prompts, y if kept is None else np.take_along_axis(y, kept, -1))
    return values.mean(-1), values[..., 0]


def four_errors(draws, exact, axis=0):
    """Whether a sample mean lies within four standard errors of its exact value."""
    error = draws.std(axis, ddof=1) / np.sqrt(draws.shape[axis])
    return np.all(np.abs(draws.mean(axis) - exact) <= 4 * error)


@pytest.mark.parametrize(("n", "k"), [(5, 1), (5, 3), (12, 11), (12, 12)])
def test_inclusion_is_the_chance_that_fewer_than_k_others_are_better(n, k):
    for v in (Fraction(1, 1000), Fraction(1, 7), Fraction(1, 2), Fraction(19, 20)):
        exact = sum(comb(n - 1, j) * v**j * (1 - v) ** (n - 1 - j) for j in range(min(k, n)))
        np.testing.assert_allclose(inclusion_probability(float(v), n, k), float(exact), rtol=1e-13)


@pytest.mark.parametrize(("n", "k"), [(5, 1), (32, 4), (4096, 4), (4096, 2048), (7, 7)])
def test_tied_inclusion_is_the_mean_over_the_tie(n, k):
    edges = [0.0, *betaincinv(k, n - k, [1e-6, 0.1, 0.5, 0.9]), 1.0] if k < n else [0.0, 0.3, 1.0]
    for low, high in itertools.pairwise(edges):
        expected = quad(inclusion_probability, low, high, args=(n, k), limit=400, epsabs=0, epsrel=1e-12)[
            0
        ] / (high - low)
        np.testing.assert_allclose(tied_inclusion_probability(low, high, n, k), expected, rtol=1e-8)
    np.testing.assert_allclose(tied_inclusion_probability(0.0, 1.0, n, k), k / n, rtol=1e-12)
    narrow = k / n
    np.testing.assert_allclose(
        tied_inclusion_probability(narrow, narrow * (1 + 1e-13), n, k),
        inclusion_probability(narrow, n, k),
        rtol=1e-9,
    )


@pytest.mark.parametrize(("n", "k"), [(16, 3), (32, 4), (256, 16)])
def test_tied_inclusion_is_a_probability_where_rounding_is_all_that_is_left(n, k):
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 1, 20_000)
    kept = tied_inclusion_probability(low, np.minimum(low + 10 ** rng.uniform(-6, 0, low.size), 1), n, k)
    assert kept.min() >= 0
    assert kept.max() <= 1


@pytest.mark.parametrize(("n", "k"), [(0, 0), (4, 0), (4, 5)])
def test_impossible_k_is_an_input_error(n, k):
    for call in (
        lambda: inclusion_probability(0.5, n, k),
        lambda: tied_inclusion_probability(0.1, 0.5, n, k),
        lambda: bkon_law(TOY, PROMPTS, n, k),
        lambda: ranked_law([[0.0]], [[1.0]], [[0.0]], n, k),
        lambda: rkon_pool_variance(np.zeros(n), k),
    ):
        with pytest.raises(InputError, match=f"k = {k} must lie between 1 and n_candidates = {n}"):
            call()


def enumerate_best(probabilities, rewards, values, n, k):
    """E and Var of the K-mean, and the share of each outcome among the kept, over all pools and all breaks of ties."""
    first = second = 0.0
    shares = np.zeros(len(values))
    for pool in itertools.product(range(len(values)), repeat=n):
        chance = np.prod([probabilities[i] for i in pool])
        cut = sorted((rewards[i] for i in pool), reverse=True)[k - 1]
        sure = [i for i in pool if rewards[i] > cut]
        tied = [i for i in pool if rewards[i] == cut]
        breaks = list(itertools.combinations(tied, k - len(sure)))
        for extra in breaks:
            kept = [*sure, *extra]
            mean = np.mean([values[i] for i in kept])
            first += chance / len(breaks) * mean
            second += chance / len(breaks) * mean**2
            for i in kept:
                shares[i] += chance / len(breaks) / k
    return first, second - first**2, shares


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize(
    ("probabilities", "rewards"),
    [((0.2, 0.5, 0.3), (1.0, 1.0, 0.0)), ((0.6, 0.3, 0.1), (0.0, 1.0, 2.0)), ((0.25, 0.5, 0.25), (1.0,) * 3)],
)
def test_discrete_rewards_with_ties_by_enumeration(probabilities, rewards, k):
    values = np.array([2.0, -1.0, 0.5])
    mean, variance, shares = enumerate_best(probabilities, rewards, values, 5, k)
    law = ranked_law([values], [probabilities], [rewards], 5, k)
    moments = law.moments([values])
    np.testing.assert_allclose(law.kept[0], shares, atol=1e-13)
    np.testing.assert_allclose(moments.mean, mean, atol=1e-13)
    np.testing.assert_allclose(moments.variance, variance, atol=1e-13)


def importance_weights(law, cap=np.inf):
    """p / p_kept = (K/N) / inclusion probability at the nodes, at most `cap`; 0 at what is never kept."""
    with np.errstate(over="ignore"):
        ratio = np.divide(law.weights, law.kept, out=np.zeros_like(law.weights), where=law.kept > 0)
    return np.minimum(ratio, cap)


def reweighted_moments(law, values, cap=np.inf):
    """Moments of the mean of w h over the kept, w the importance weights."""
    return law.moments(importance_weights(law, cap) * np.asarray(values, np.float64))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_importance_weights_undo_the_bias_of_a_discrete_reward(k):
    probabilities, rewards, values = (0.2, 0.5, 0.3), (0.0, 1.0, 2.0), np.array([2.0, -1.0, 0.5])
    law = ranked_law([values], [probabilities], [rewards], 3, k)
    weights = importance_weights(law)
    mean, variance, _ = enumerate_best(probabilities, rewards, weights[0] * values, 3, k)
    moments = reweighted_moments(law, [values])
    np.testing.assert_allclose(moments.mean, law.moments([values]).truth, atol=1e-13)
    np.testing.assert_allclose([mean, variance], [moments.mean[0], moments.variance[0]], atol=1e-12)
    assert k == 3 or moments.variance[0] > law.moments([values]).variance[0]


def test_importance_weights_of_a_continuous_reward_cost_an_infinite_variance():
    law = bkon_law(TOY, PROMPTS, 32, 4)
    # E w^2 over the kept grows without bound: the cap is what the variance measures.
    second = [(law.kept * importance_weights(law, c) ** 2).sum(1) for c in (1e2, 1e4, 1e6)]
    assert np.all(second[1] > 10 * second[0])
    assert np.all(second[2] > 10 * second[1])
    everything = bkon_law(TOY, PROMPTS, 32, 32)
    assert np.all(np.isfinite(reweighted_moments(everything, everything.responses).variance))


def test_capped_importance_weights_match_simulation():
    n, k, cap = 8, 4, 5.0
    law = bkon_law(TOY, PROMPTS, n, k)
    exact = reweighted_moments(law, np.square(law.responses), cap)

    def weighted(prompts, y):
        shape = y.shape
        v = exceedance(TOY, prompts, np.moveaxis(y, 1, 0).reshape(len(prompts), -1))
        w = np.minimum(k / n / inclusion_probability(v, n, k), cap)
        return np.moveaxis(w.reshape(len(prompts), shape[0], shape[2]), 0, 1) * y**2

    means, _ = simulate_bkon(np.random.default_rng(0), TOY, PROMPTS, n, k, 40_000, weighted)
    assert four_errors(means, exact.mean)
    assert four_errors((means - exact.mean) ** 2, exact.variance)
    plain = law.moments(np.square(law.responses))
    assert np.all(np.abs(exact.mean - plain.truth) < np.abs(plain.bias))


@pytest.mark.parametrize("distribution", [TOY, UNEVEN], ids=["toy", "uneven"])
@pytest.mark.parametrize(("n", "k"), GRID)
def test_masses_are_one(distribution, n, k):
    law = bkon_law(distribution, PROMPTS, n, k)
    np.testing.assert_allclose(law.weights.sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(law.kept.sum(1), 1, atol=1e-10)
    if law.spread is not None:  # of the threshold, and of p above every threshold
        np.testing.assert_allclose(law.spread(np.ones((*law.kept.shape, 1))), 1, atol=1e-10)
    numeric = bkon_law(distribution, PROMPTS[:1], n, k, resolution=512)
    np.testing.assert_allclose(numeric.kept.sum(1), 1, atol=1e-9)


def test_gauss_hermite_agrees_on_a_wrong_value_where_the_selection_is_sharp():
    masses = []
    for order in (32, 45):
        law = rkon_law(TOY, PROMPTS[:1], 4, 4, rule=hermite(order))
        v = exceedance(TOY, PROMPTS[:1], law.responses)
        masses.append(float((law.weights * 1024 * inclusion_probability(v, 4096, 4)).sum()))
    assert abs(masses[0] - 1) > 0.5
    law = bkon_law(TOY, PROMPTS[:1], 4096, 4)
    assert abs(law.kept.sum() - 1) < 1e-10


def test_truth_agrees_with_gauss_hermite():
    law = bkon_law(TOY, PROMPTS, 32, 4)
    panels = law.moments(untrained_nll(PROMPTS, law.responses)).truth
    smooth = rkon_law(TOY, PROMPTS, 4, 4, rule=hermite(40))
    np.testing.assert_allclose(
        panels, smooth.moments(untrained_nll(PROMPTS, smooth.responses)).truth, rtol=1e-10
    )


@pytest.mark.parametrize("distribution", [TOY, UNEVEN], ids=["toy", "uneven"])
@pytest.mark.parametrize(("n", "k"), [(8, 3), (32, 4), (32, 31), (64, 32)])
def test_panels_agree_with_the_numeric_distribution_of_rewards(distribution, n, k):
    panels = bkon_law(distribution, PROMPTS, n, k)
    # Without the toy's symmetry the atoms of different modes interleave, which costs digits.
    numeric = bkon_law(distribution, PROMPTS, n, k, resolution=4096 if distribution is TOY else 32768)
    one, other = (law.moments(untrained_nll(PROMPTS, law.responses)) for law in (panels, numeric))
    for name in ("truth", "mean", "single_variance", "variance"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("n", "k"), [(8, 3), (32, 4), (4096, 4), (4096, 2048)])
def test_panels_agree_with_the_threshold_mixture_over_its_quantiles(n, k):
    """h = z^2 with z = y - f has conditional moments in closed form, integrated adaptively over quantiles of t."""
    o, w, s = TOY.offsets, TOY.weights, TOY.scales

    def truncated(d):
        """Mass, and integrals of z^2 and z^4, over |z| < d: moments of truncated normals by their recurrence."""
        sides = [(d - o) / s, (-d - o) / s]
        density = [np.exp(-0.5 * side**2) / np.sqrt(2 * np.pi) for side in sides]
        m = [ndtr(sides[0]) - ndtr(sides[1]), density[1] - density[0]]
        for power in range(2, 5):
            ends = sides[1] ** (power - 1) * density[1] - sides[0] ** (power - 1) * density[0]
            m.append((power - 1) * m[power - 2] + ends)
        raw = [sum(comb(p, j) * o ** (p - j) * s**j * m[j] for j in range(p + 1)) for p in (0, 2, 4)]
        return [float(w @ r) for r in raw]

    def distance(v):
        low, high = 0.0, 3.0
        for _ in range(80):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if truncated(middle)[0] < v else (low, middle)
        return 0.5 * (low + high)

    def conditional(q):
        mass, second, fourth = truncated(distance(betaincinv(k + 1, n - k, q)))
        mean = second / mass
        return mean, fourth / mass - mean**2

    nodes, weights = np.polynomial.legendre.leggauss(24)
    edges = np.concatenate([[0, 1e-6, 1e-4, 1e-2], np.linspace(0.05, 0.95, 13), [0.99, 0.9999, 1 - 1e-6, 1]])
    # The distance jumps between modes, at v = 1/3: most of the mean is there.
    jump = betainc(k + 1, n - k, 1 / 3 + np.array([-1e-3, -1e-5, -1e-7, -1e-9, 0, 1e-9, 1e-7, 1e-5, 1e-3]))
    edges = np.unique(np.concatenate([edges, jump]))
    half = np.diff(edges) / 2
    q = (edges[:-1] + half)[:, None] + half[:, None] * nodes
    table = np.array([conditional(p) for p in q.ravel()])
    weight = (half[:, None] * weights).ravel()
    mean = weight @ table[:, 0]
    variance = weight @ table[:, 1] / k + weight @ (table[:, 0] - mean) ** 2

    law = bkon_law(TOY, PROMPTS[:1], n, k)
    centre = float(np.sin(2 * PROMPTS[0, 0]) + 0.5 * PROMPTS[0, 1])
    exact = law.moments(np.square(law.responses - centre))
    scale = float(exact.truth[0])
    # The recurrence loses digits where the interval is short: it has 1e-16 / mass of them.
    np.testing.assert_allclose(exact.mean, mean, rtol=1e-6, atol=1e-9 * scale)
    np.testing.assert_allclose(exact.variance, variance, rtol=1e-6, atol=1e-9 * scale)


@pytest.mark.parametrize("distribution", [TOY, UNEVEN], ids=["toy", "uneven"])
@pytest.mark.parametrize(("n", "k"), [(2, 1), (8, 3), (16, 8), (32, 4), (32, 31)])
def test_moments_match_simulation(distribution, n, k):
    rng = np.random.default_rng([n, k])
    law = bkon_law(distribution, PROMPTS, n, k)
    exact = law.moments(np.square(law.responses - 0.7))
    means, single = simulate_bkon(rng, distribution, PROMPTS, n, k, 20_000, lambda x, y: np.square(y - 0.7))
    assert four_errors(means, exact.mean)
    assert four_errors((means - exact.mean) ** 2, exact.variance)
    if k == 1:
        assert four_errors((single - exact.mean) ** 2, exact.single_variance)
    np.testing.assert_allclose(exact.k_eff, exact.single_variance / exact.variance)


def test_known_variance_of_the_toy():
    """The check of the theory page: N = 32, K = 4, (y - f - 1)^2: 0.00295 exact (0.00289 simulated there)."""
    prompt = np.zeros((1, 5))
    law = bkon_law(TOY, prompt, 32, 4)
    exact = law.moments(np.square(law.responses - 1))
    assert float(exact.variance[0]) == pytest.approx(0.0029502, abs=5e-8)
    means, _ = simulate_bkon(np.random.default_rng(1), TOY, prompt, 32, 4, 100_000, lambda x, y: (y - 1) ** 2)
    assert four_errors((means - exact.mean) ** 2, exact.variance)


def test_features_give_traces_and_norms():
    law = bkon_law(TOY, PROMPTS, 32, 4)
    each = [law.moments(h(law.responses)) for h in (np.sin, np.square)]
    both = law.moments(np.stack([np.sin(law.responses), np.square(law.responses)], -1))
    np.testing.assert_allclose(both.variance, sum(m.variance for m in each))
    np.testing.assert_allclose(both.emse, sum(m.emse for m in each))
    np.testing.assert_allclose(both.bias, np.stack([m.bias for m in each], -1))
    dot = (both.mean * both.truth).sum(1)
    np.testing.assert_allclose(
        both.cosine, dot / np.linalg.norm(both.mean, axis=1) / np.linalg.norm(both.truth, axis=1)
    )


def test_values_must_be_given_at_the_nodes():
    law = bkon_law(TOY, PROMPTS, 32, 4)
    with pytest.raises(InputError, match="at the law's nodes"):
        law.moments(np.zeros((3, 7)))


def test_rkon_is_unbiased_and_keeping_all_is_too():
    law = rkon_law(TOY, PROMPTS, 8, 4)
    moments = law.moments(np.square(law.responses))
    np.testing.assert_array_equal(moments.bias, 0)
    np.testing.assert_allclose(moments.k_eff, 4)
    everything = bkon_law(TOY, PROMPTS, 8, 8)
    kept = everything.moments(np.square(everything.responses))
    np.testing.assert_array_equal(kept.bias, 0)
    np.testing.assert_allclose(kept.k_eff, 8)
    np.testing.assert_allclose(kept.single_variance, moments.single_variance, rtol=1e-10)


@pytest.mark.parametrize("k", [1, 3, 6])
def test_rkon_given_the_pool_by_enumeration(k):
    pool = np.random.default_rng(0).standard_exponential(6)
    means = [np.mean(subset) for subset in itertools.combinations(pool, k)]
    np.testing.assert_allclose(np.mean(means), pool.mean(), atol=1e-14)
    np.testing.assert_allclose(np.var(means), rkon_pool_variance(pool, k), atol=1e-14)


def top_quantile_law(distribution, prompts, fraction, k):
    """BKoN's limit for N -> infinity with K = fraction N: p truncated to the best `fraction` of the rewards.

    With `fraction` = 0 (K fixed) all mass is on the reward's maximiser, y = f(x).
    """
    centre = exact_laws._centre(distribution, prompts)
    if fraction == 0:
        ones = np.ones((len(centre), 1))
        return KeptLaw(centre[:, None], np.zeros_like(ones), ones, k, None)
    scales = exact_laws._prompt_scales(distribution, prompts)
    landmarks = exact_laws._landmarks(distribution, scales)
    if fraction < 1:
        landmarks = np.concatenate(
            [landmarks, exact_laws._distance(distribution, scales, np.array([fraction]))], axis=1
        )
    panels = exact_laws._Panels(distribution, scales, centre, landmarks)
    inside = panels.exceedance <= fraction
    kept = np.tile(inside / fraction, 2) * panels.weights
    return KeptLaw(panels.responses, panels.weights, kept, k, None)


@pytest.mark.parametrize("fraction", [0.1, 0.5, 1.0])
def test_limit_of_large_pools_at_a_fixed_fraction(fraction):
    limit = top_quantile_law(TOY, PROMPTS, fraction, 1)
    np.testing.assert_allclose(limit.kept.sum(1), 1, atol=1e-10)
    expected = limit.moments(np.square(limit.responses)).mean
    errors = []
    for n in (100, 1000, 10_000):
        law = bkon_law(TOY, PROMPTS, n, int(fraction * n))
        errors.append(np.abs(law.moments(np.square(law.responses)).mean - expected).max())
    if fraction < 1:
        assert errors[2] < errors[1] / 5 < errors[0] / 25
    assert errors[2] < 1e-3


def test_limit_of_large_pools_at_a_fixed_k_is_the_best_response():
    limit = top_quantile_law(TOY, PROMPTS, 0.0, 4)
    law = bkon_law(TOY, PROMPTS, 1_000_000, 4)
    np.testing.assert_allclose(
        law.moments(untrained_nll(PROMPTS, law.responses)).mean,
        limit.moments(untrained_nll(PROMPTS, limit.responses)).mean,
        atol=1e-6,
    )


def test_the_bias_does_not_depend_on_the_number_of_prompts():
    """Same loss, 10 or 10,000 fresh prompts per trial: the batch estimate has the exact law's mean both times."""
    n, k, total = 16, 4, 200_000
    with jax.enable_x64(True):
        outer = np.asarray(TOY.sample_prompts(jax.random.key(1), 20_000), np.float64)
    centre = np.asarray(TOY.centre(jnp.asarray(outer, jnp.float32)), np.float64)
    # (y - 1)^2 = (z + f - 1)^2 depends on the prompt through f: with b = f - 1 it is z^2 + 2 b z + b^2.
    law = bkon_law(TOY, np.zeros((1, 5)), n, k)
    z = law.moments(np.stack([law.responses**2, law.responses], -1))
    b = centre - 1
    rest = (2 * b * z.bias[0, 1], b**2)
    expected = z.bias[0, 0] + rest[0].mean()
    for n_prompts, seed in ((10, 2), (10_000, 3)):
        rng = np.random.default_rng(seed)
        prompts = rng.standard_normal((total, 5))
        means, _ = simulate_bkon(rng, TOY, prompts, n, k, 1, lambda x, y: (y - 1) ** 2)
        f = np.sin(2 * prompts[:, 0]) + 0.5 * prompts[:, 1]
        truth = z.truth[0, 0] + (f - 1) ** 2 + 2 * (f - 1) * z.truth[0, 1]
        assert four_errors((means[0] - truth).reshape(-1, n_prompts).mean(1), expected)


def test_any_reward_and_any_distribution():
    def likelihood(prompts, responses):
        return TOY.log_density(prompts, responses)

    law = bkon_law(TOY, PROMPTS, 8, 2, likelihood)
    finer = bkon_law(TOY, PROMPTS, 8, 2, likelihood, resolution=8192)
    one, other = (a.moments(np.square(a.responses)) for a in (law, finer))
    np.testing.assert_allclose(one.mean, other.mean, rtol=1e-6)
    np.testing.assert_allclose(one.variance, other.variance, rtol=1e-5)
    table = Categorical()
    prompts, _ = table.support()
    law = bkon_law(table, prompts, 4, 2)
    for row in range(2):
        mean, variance, _ = enumerate_best(
            table.probabilities[row], table.rewards[row], table.values[row], 4, 2
        )
        moments = law.moments(law.responses)
        np.testing.assert_allclose([moments.mean[row], moments.variance[row]], [mean, variance], atol=1e-13)


def test_a_subclass_with_a_reward_of_its_own_has_no_closed_form():
    class Outer(GaussianModes):
        def reward(self, prompts, responses):
            return -super().reward(prompts, responses)

    def square(law):
        return law.moments(np.square(law.responses)).mean

    own = square(bkon_law(Outer(), PROMPTS[:1], 8, 2))
    given = square(bkon_law(TOY, PROMPTS[:1], 8, 2, lambda x, y: -TOY.reward(x, y)))
    np.testing.assert_allclose(own, given, rtol=1e-12)
    closed = square(bkon_law(TOY, PROMPTS[:1], 8, 2))
    assert np.all(np.abs(own - closed) > 0.1)
    np.testing.assert_allclose(square(bkon_law(ClusteredPrompts(), PROMPTS[:1], 8, 2)), closed, rtol=1e-12)
