"""Groups of rollouts: every formula against enumeration, known answers, fits with the coverage they promise."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from mrtsim.errors import InputError
from mrtsim.pilot.estimate import estimate_components
from mrtsim.plan.allocate import Cost, allocate
from mrtsim.plan.rollouts import (
    GradientComponents,
    best_group,
    dead_share,
    fit_success_rates,
    generation_batches,
    group_variance,
    grpo_weight,
    reward_variance,
)
from mrtsim.variance import VarianceComponents

MANY = 4096


class Policy:
    """A softmax policy with a 0/1 reward per action; z is the score in the logits, a vector per action."""

    def __init__(self, logits, rewards):
        self.chance = np.exp(logits) / np.exp(logits).sum()
        self.reward = np.asarray(rewards, float)
        self.score = np.eye(len(logits)) - self.chance
        self.p = float(self.chance @ self.reward)
        self.gradient = (self.chance * self.reward) @ self.score

    def spread(self, reward):
        """Trace of the scores' covariance where the reward is this one."""
        weight = self.chance * (self.reward == reward)
        weight = weight / weight.sum()
        centred = self.score - weight @ self.score
        return float(weight @ np.square(centred).sum(axis=1))

    def groups(self, size):
        """Every group of `size` actions: chances, rewards (groups, size) and scores (groups, size, actions)."""
        actions = np.array(list(itertools.product(range(len(self.chance)), repeat=size)))
        return self.chance[actions].prod(axis=1), self.reward[actions], self.score[actions]

    def estimates(self, size):
        """Chance and leave-one-out estimate of every group."""
        chance, rewards, scores = self.groups(size)
        baseline = (rewards.sum(axis=1, keepdims=True) - rewards) / (size - 1)
        return chance, ((rewards - baseline)[..., None] * scores).mean(axis=1)


POLICIES = [
    Policy([0.2, -0.4, 0.9], [1, 0, 1]),
    Policy([0.2, -0.4, 0.9, 1.3], [1, 0, 0, 1]),
    Policy([-1.0, 0.5, 0.1, 0.7], [1, 0, 0, 0]),
]


def trace(chance, estimates):
    centred = estimates - chance @ estimates
    return float(chance @ np.square(centred).sum(axis=1))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_variance_of_a_group_by_enumeration(policy, size):
    chance, estimates = policy.estimates(size)
    assert chance.sum() == pytest.approx(1)
    assert chance @ estimates == pytest.approx(policy.gradient)  # unbiased
    t1, t0, g2 = policy.spread(1), policy.spread(0), float(policy.gradient @ policy.gradient)
    parts = {"squared_gradient": g2, "spread_success": t1, "spread_failure": t0}
    assert group_variance(policy.p, size, **parts) == pytest.approx(trace(chance, estimates), rel=1e-10)
    shrunk = trace(chance, estimates * (size - 1) / size)
    assert group_variance(policy.p, size, **parts, baseline="dr_grpo") == pytest.approx(shrunk, rel=1e-10)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_two_variances_of_hoeffding_by_enumeration(policy):
    """zeta1 and zeta2 of the kernel (r - r') (z - z') / 2."""
    chance, rewards, scores = policy.groups(2)
    kernel = (rewards[:, :1] - rewards[:, 1:]) * (scores[:, 0] - scores[:, 1]) / 2
    count = len(policy.chance)
    projected = (policy.chance[:, None] * kernel.reshape(count, count, -1)).sum(axis=1)
    zeta1, zeta2 = trace(policy.chance, projected), trace(chance, kernel)
    t1, t0, g2, p = policy.spread(1), policy.spread(0), float(policy.gradient @ policy.gradient), policy.p
    v = p * (1 - p)
    assert zeta1 == pytest.approx((v * ((1 - p) * t1 + p * t0) + g2 * (1 / v - 4)) / 4)
    assert zeta2 == pytest.approx(v * (t1 + t0) / 2 + g2 * (1 / (2 * v) - 1))
    parts = {"squared_gradient": g2, "spread_success": t1, "spread_failure": t0}
    for size in (2, 3, 8):
        law = (4 * (size - 2) * zeta1 + 2 * zeta2) / (size * (size - 1))
        assert group_variance(p, size, **parts) == pytest.approx(law)


def test_over_prompts_by_enumeration():
    weights, size = np.array([0.5, 0.3, 0.2]), 3
    policies = [POLICIES[1], POLICIES[2], Policy([0.0, 2.0, -0.3, 0.1], [0, 1, 1, 0])]
    chances, estimates = zip(*(policy.estimates(size) for policy in policies), strict=True)
    chance = np.concatenate([w * c for w, c in zip(weights, chances, strict=True)])
    parts = [(x.p, x.spread(1), x.spread(0), float(x.gradient @ x.gradient)) for x in policies]
    a = [p * (1 - p) * (p * t1 + (1 - p) * t0) + 2 * g2 for p, t1, t0, g2 in parts]
    b = [p * (1 - p) * (1 - 2 * p) * (t1 - t0) + g2 * (1 / (p * (1 - p)) - 6) for p, t1, t0, g2 in parts]
    gradients = np.array([policy.gradient for policy in policies])
    components = GradientComponents(trace(weights, gradients), float(weights @ a), float(weights @ b))
    exact = trace(chance, np.concatenate(estimates))
    assert components.variance(1, size) == pytest.approx(exact, rel=1e-10)
    assert components.variance(7, size) == pytest.approx(exact / 7, rel=1e-10)


def test_the_signal_sets_the_components():
    """R^2 and T1 = T0 = T give E|z|^2 = T + R^2 E|z|^2, which the general formula then repeats."""
    p, r2, size = 0.23, 0.3, 5
    v = p * (1 - p)
    parts = {"squared_gradient": r2 * v, "spread_success": 1 - r2, "spread_failure": 1 - r2}
    one = group_variance(p, size, signal=r2)
    assert one == pytest.approx(group_variance(p, size, **parts))
    components = GradientComponents.of(v, r2, coherence=1.0)
    assert components.variance(1, size) == pytest.approx(one)
    assert GradientComponents.of(v, r2, coherence=0.25).prompt == pytest.approx(0.75 * r2 * v)
    for policy in POLICIES:  # the definition of R^2 holds with E|z|^2 = p T1 + q T0 + |g|^2 / v
        p, g2 = policy.p, float(policy.gradient @ policy.gradient)
        within = p * policy.spread(1) + (1 - p) * policy.spread(0)
        square = float(policy.chance @ np.square(policy.score).sum(axis=1))
        assert square == pytest.approx(within + g2 / (p * (1 - p)))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("size", [2, 3, 5])
def test_the_standard_deviation_weighs_prompts_by_enumeration(policy, size):
    chance, rewards, scores = policy.groups(size)
    spread = rewards.std(axis=1, ddof=1)
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    advantage = np.divide(centred, spread[:, None], out=np.zeros_like(rewards), where=spread[:, None] > 0)
    mean = chance @ (advantage[..., None] * scores).mean(axis=1)
    weight = math.sqrt((size - 1) / size) * grpo_weight(policy.p, size)
    assert mean == pytest.approx(weight * policy.gradient)


def test_known_weights():
    assert grpo_weight([0.1, 0.4, 0.9], 2) == pytest.approx([1, 1, 1])
    assert grpo_weight([0.1, 0.4, 0.9], 3) == pytest.approx([math.sqrt(2)] * 3)
    assert grpo_weight(0.1, 8) / grpo_weight(0.5, 8) == pytest.approx(1.2544, abs=5e-5)


@pytest.mark.parametrize("policy", POLICIES)
def test_dynamic_sampling_keeps_the_direction(policy):
    """Given a mixed group the mean is g / P; rescaled by P it saves (1 - P) |g|^2 / n at equal generation."""
    size = 3
    chance, estimates = policy.estimates(size)
    _, rewards, _ = policy.groups(size)
    mixed = np.ptp(rewards, axis=1) > 0
    share = float(chance[mixed].sum())
    assert share == pytest.approx(1 - policy.p**size - (1 - policy.p) ** size)
    assert np.all(estimates[~mixed] == pytest.approx(0))
    kept = chance[mixed] / share
    assert kept @ estimates[mixed] == pytest.approx(policy.gradient / share)
    n = 10  # kept groups, n / P generated ones
    by_filter = share**2 * trace(kept, estimates[mixed]) / n
    without = trace(chance, estimates) * share / n
    assert by_filter - without == pytest.approx(-(1 - share) * float(policy.gradient @ policy.gradient) / n)


def test_dead_groups_known():
    assert dead_share(0.6, 1.8, [2, 4, 8, 16]) == pytest.approx(
        [0.735294, 0.520499, 0.359267, 0.243718], abs=5e-7
    )
    assert dead_share(1, 1, np.arange(2, 40)) == pytest.approx(2 / np.arange(3, 41))  # U(0, 1)
    # alpha and beta without bound: one success rate for all
    assert dead_share(0.1819e12, 0.8181e12, [2, 4, 8, 16]) == pytest.approx(
        [0.7024, 0.4490, 0.2007, 0.0403], abs=5e-5
    )
    assert dead_share(1e-12, 2e-12, 8) == pytest.approx(1)
    assert dead_share(1e308, 1e308, 2) == pytest.approx(0.5)
    assert dead_share(5e-324, 5e-324, 2) == 1
    assert reward_variance(0.6, 1.8) == pytest.approx(BETA)
    assert reward_variance(1e308, 1e308) == 0.25
    assert isinstance(dead_share(0.6, 1.8, 4), float)
    assert dead_share([0.6, 1.0], [1.8, 1.0], [[2], [3]]).shape == (2, 2)


@given(st.floats(0.05, 30), st.floats(0.05, 30), st.integers(2, 40))
def test_dead_share_is_the_integral_and_falls_with_the_group(alpha, beta, size):
    def integrand(p):
        return stats.beta.pdf(p, alpha, beta) * (p**size + (1 - p) ** size)

    value = dead_share(alpha, beta, size)
    assert 0 < value <= 1
    assert dead_share(alpha, beta, size + 1) < value
    assert dead_share(beta, alpha, size) == pytest.approx(value)
    if min(alpha, beta) >= 1:
        assert value == pytest.approx(integrate.quad(integrand, 0, 1)[0], rel=1e-6)


def test_batches_of_dynamic_sampling():
    assert generation_batches(1 / 3, 512, 1536) == pytest.approx(1.4904, abs=5e-5)
    assert generation_batches(1.0, 10, 4) == 3
    assert generation_batches(0.0, 10, 4) == math.inf
    assert generation_batches(0.25, 1, 1) == pytest.approx(4)  # geometric
    rng = np.random.default_rng(3)
    draws = -(-(7 + rng.negative_binomial(7, 0.4, 200_000)) // 5)
    assert generation_batches(0.4, 7, 5) == pytest.approx(draws.mean(), abs=4 * draws.std() / 447)


@pytest.mark.parametrize(("mixed", "needed", "generated"), [(0.02, 40, 9), (0.3, 4000, 8), (1e-3, 5, 100)])
def test_batches_agree_with_the_sum(mixed, needed, generated):
    m = np.arange(0, int(30 * needed / mixed / generated))
    direct = stats.binom.cdf(needed - 1, m * generated, mixed).sum()
    assert generation_batches(mixed, needed, generated) == pytest.approx(direct, rel=1e-9)


BETA = 0.6 * 1.8 / (2.4 * 3.4)


@pytest.mark.parametrize(("signal", "best"), [(0.01, 11), (0.05, 6), (0.2, 4)])
def test_best_group_known(signal, best):
    components = GradientComponents.of(BETA, signal)
    plan = best_group(components, Cost(0, 1), budget=MANY)
    assert (plan.group_size, plan.n_prompts) == (best, MANY // best)
    assert plan.variance == min(components.variance(MANY // size, size) for size in range(2, MANY + 1))
    assert plan.gap == 0


@given(
    st.floats(1e-3, 2),
    st.floats(1e-2, 2),
    st.floats(-1, 2),
    st.integers(0, 20),
    st.integers(1, 10),
    st.integers(0, 400),
    st.one_of(st.none(), st.integers(2, 12)),
)
def test_best_group_equals_brute_force(between, a, b, c_prompt, c_response, extra, most):
    components = GradientComponents(between, a, a * max(b, -1.0))
    cost, budget = Cost(c_prompt / 4, c_response / 4), (c_prompt + 2 * c_response + extra) / 4
    plan = best_group(components, cost, budget=budget, max_group_size=most)
    whole = 4 * budget
    options = []
    for size in range(2, int(whole) // c_response + 1):
        n = int(whole) // (c_prompt + size * c_response)
        if n and size <= (most or size):
            options.append((components.variance(n, size), n * (c_prompt + size * c_response) / 4, size))
    assert plan.variance == pytest.approx(min(options)[0], rel=1e-12)
    assert plan.cost <= budget
    larger = best_group(components, cost, budget=2 * budget, max_group_size=most)
    assert larger.variance <= plan.variance * (1 + 1e-12)


def test_without_the_b_term_it_is_allocate():
    components = GradientComponents(0.3, 0.9)
    for c_prompt in (0.0, 1.0, 6.0):
        plan = best_group(components, Cost(c_prompt, 1.0), budget=500.0)
        same = allocate(VarianceComponents(0.3, 0.9), Cost(c_prompt + 1.0, 1.0), budget=500.0)
        assert (plan.n_prompts, plan.group_size) == (same.n_prompts, same.responses_per_prompt + 1)
        assert plan.variance == pytest.approx(same.variance)
        assert plan.continuous_group_size == pytest.approx(1 + same.k_star)


def test_huge_budgets_are_answered():
    plan = best_group(GradientComponents.of(BETA, 0.01), Cost(1e-7, 1e-9), budget=1e6)
    assert plan.gap < 1e-6
    assert plan.group_size == pytest.approx(plan.continuous_group_size, rel=0.05)


def test_the_fit_is_the_pilot():
    rng = np.random.default_rng(5)
    trials = rng.integers(2, 9, 40)
    successes = rng.binomial(trials, rng.beta(0.6, 1.8, 40))
    fit = fit_success_rates(successes, trials)
    rewards = np.concatenate([np.arange(n) < s for s, n in zip(successes, trials, strict=True)]).astype(float)
    pilot = estimate_components(rewards, np.repeat(np.arange(40), trials))
    ratio = pilot.components.response / pilot.components.prompt
    assert fit.alpha.value + fit.beta.value == pytest.approx(ratio)
    assert 1 / fit.ratio == pytest.approx(ratio)
    assert fit.mean.value == pytest.approx((successes / trials).mean())
    assert fit.alpha.value == pytest.approx(fit.mean.value * ratio)
    assert fit.dead_share(4).value == pytest.approx(dead_share(fit.alpha.value, fit.beta.value, 4))
    a, b = fit.alpha.value, fit.beta.value
    assert fit.reward_variance == pytest.approx(a * b / ((a + b) * (a + b + 1)))


def test_swapping_success_and_failure_swaps_the_parameters():
    successes, trials = np.array([0, 3, 4, 1, 2, 5]), np.array([4, 4, 6, 5, 4, 5])
    one, other = fit_success_rates(successes, trials), fit_success_rates(trials - successes, trials)
    assert (one.alpha.low, one.alpha.high) == pytest.approx((other.beta.low, other.beta.high))
    assert one.dead_share(3).low == pytest.approx(other.dead_share(3).low)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_dead_groups_by_counts_are_unbiased_by_enumeration(size):
    n, chances = 5, np.array([0.1, 0.45, 0.8])
    counts = np.arange(n + 1)
    expected = 0.0
    for p in chances:
        pairs = stats.binom.pmf(counts, n, p)
        shares = [fit_success_rates([s, s], n).observed_dead_share(size).value for s in counts]
        expected += pairs @ shares
    assert expected == pytest.approx((chances**size + (1 - chances) ** size).sum())
    assert fit_success_rates([1, 2], n).observed_dead_share(n + 1) is None


def test_plugging_in_is_far_off():
    """Success rates Beta(.6, 1.8), pilots of 8, G = 8: neither s/n nor the mean alone gives the share of .359."""
    counts = np.arange(9)
    chance = stats.betabinom.pmf(counts, 8, 0.6, 1.8)
    rate = counts / 8
    assert chance @ (rate**8 + (1 - rate) ** 8) == pytest.approx(0.4565, abs=5e-5)
    assert pytest.approx(0.100, abs=5e-4) == 0.25**8 + 0.75**8


@pytest.mark.parametrize(
    ("alpha", "beta", "prompts", "trials"), [(0.6, 1.8, 50, 4), (2, 2, 50, 4), (0.5, 0.5, 30, 8)]
)
def test_intervals_cover(alpha, beta, prompts, trials):
    rng = np.random.default_rng(11)
    hits = np.zeros(4)
    repeats = 400
    for _ in range(repeats):
        fit = fit_success_rates(rng.binomial(trials, rng.beta(alpha, beta, prompts)), trials)
        shares = fit.dead_share(4), fit.dead_share(8)
        true = alpha, beta, dead_share(alpha, beta, 4), dead_share(alpha, beta, 8)
        estimates = fit.alpha, fit.beta, *shares
        hits += [e.low <= t <= e.high for e, t in zip(estimates, true, strict=True)]
    assert np.all(hits / repeats > 0.92)


def test_fits_without_a_spread():
    equal = fit_success_rates([2, 2, 2], 4)
    assert equal.ratio < 0
    assert (equal.alpha.value, equal.beta.value) == (math.inf, math.inf)
    assert equal.dead_share(3).value == pytest.approx(0.25)
    assert equal.reward_variance == 0.25
    apart = fit_success_rates([0, 4, 4], 4)
    assert (apart.alpha.value, apart.beta.value, apart.ratio) == (0, 0, math.inf)
    assert apart.dead_share(8).value == 1
    assert apart.reward_variance == 0
    same = fit_success_rates([4, 4, 4], 4)
    assert math.isnan(same.alpha.value)
    assert same.dead_share(2).value == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dead_share(0, 1, 2), "alpha must be a finite number above 0"),
        (lambda: dead_share(1, math.nan, 2), "beta must be a finite number above 0"),
        (lambda: dead_share(1, 1, 1), "from 2 to 10,000"),
        (lambda: dead_share(1, 1, 2.5), "from 2 to 10,000"),
        (lambda: fit_success_rates([1], [2]), "at least two prompts"),
        (lambda: fit_success_rates([1, 0], [1, 1]), "one response"),
        (lambda: fit_success_rates([0.5, 1], [2, 2]), "rewards other than 0 and 1 need a threshold"),
        (lambda: fit_success_rates([3, 1], [2, 2]), "from 0 to trials"),
        (lambda: fit_success_rates([1, 1], [2, 0]), "at least 1"),
        (lambda: fit_success_rates([1, 1], [2, 2, 2]), "one number each per prompt"),
        (lambda: fit_success_rates([], []), "no counts"),
        (lambda: fit_success_rates([1, 1], [2, 2], confidence=1), "between 0 and 1"),
        (lambda: group_variance(0.5, 2), "either the signal"),
        (
            lambda: group_variance(
                0.5, 2, signal=0.1, squared_gradient=1, spread_success=1, spread_failure=1
            ),
            "either",
        ),
        (lambda: group_variance(0.5, 1, signal=0.1), "at least 2"),
        (lambda: group_variance(1.5, 2, signal=0.1), "between 0 and 1"),
        (lambda: group_variance(0.5, 2, signal=1.1), "between 0 and 1"),
        (lambda: group_variance(0.5, 2, signal=0.1, baseline="mean"), "choose one of rloo, dr_grpo"),
        (lambda: grpo_weight(0.0, 4), "strictly between"),
        (lambda: GradientComponents.of(0.3, 0.1), "reward_variance must lie between 0 and 0.25"),
        (lambda: GradientComponents.of(0.2, 0), "there is no gradient"),
        (lambda: GradientComponents.of(0.2, 0.1, coherence=2), "coherence"),
        (lambda: GradientComponents.of(0.2, 0.1).variance(4, 1), "groups of two"),
        (
            lambda: best_group(GradientComponents.of(0.2, 0.1), Cost(1, 1), budget=2.9),
            "the least budget is 3.0",
        ),
        (lambda: best_group(GradientComponents.of(0.2, 0.1), Cost(1, 0), budget=9), "set max_group_size"),
        (lambda: best_group(GradientComponents.of(0.2, 0.1, 1), Cost(1, 1), budget=9), "set max_group_size"),
        (lambda: best_group(GradientComponents(0.1, 0), Cost(1, 1), budget=9), "A > 0"),
        (lambda: generation_batches(1.2, 1, 1), "mixed"),
        (lambda: generation_batches(0.5, 0, 1), "needed"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()
