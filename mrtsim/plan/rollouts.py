"""Group size for group-based reinforcement learning: dead groups, gradient variance, the best G (NumPy alone).

The model is the first on-policy step: G responses per prompt from the current policy, a reward r in {0, 1},
p = P(r = 1 | x), v = p (1 - p), a score z (the gradient of the log-probability) with E z = 0, and g = E r z, the
prompt's gradient. T1 and T0 are the traces of Cov(z | r = 1) and Cov(z | r = 0), and R^2 = |g|^2 / (v E|z|^2) <= 1 is
the share of the score's variance that the reward explains. Clipping, the KL term, length normalisation and the epsilon
in the standard deviation are ignored. `docs/theory.md` derives each formula.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrtsim.errors import InputError
from mrtsim.estimates import Estimate, t_quantile
from mrtsim.plan.allocate import Cost, integer_costs
from mrtsim.plan.integer_search import best_size
from mrtsim.success_counts import beta_mean_and_ratio, subset_share, success_counts

MOST_RESPONSES = 10**4  # of a group: the products below have as many factors

Floats = NDArray[np.float64]
Baseline = Literal["rloo", "dr_grpo"]


@dataclass(frozen=True)
class GradientComponents:
    """Components of the variance of a gradient estimate, {V_x + A / (G - 1) + B / G} / N (traces).

    Attributes:
        prompt: V_x, the trace of the covariance of g(x) over prompts.
        response: A, the mean over prompts of v (p T1 + (1 - p) T0) + 2 |g|^2.
        correction: B, the mean over prompts of v (1 - 2p) (T1 - T0) + |g|^2 (1/v - 6); it may be negative.
    """

    prompt: float
    response: float
    correction: float = 0.0

    @classmethod
    def of(cls, reward_variance: float, signal: float, coherence: float = 0.0) -> GradientComponents:
        """Components in units of E|z|^2, for T1 = T0 and an R^2 that does not depend on the prompt.

        Args:
            reward_variance: E p (1 - p) over prompts, which is V_{y|x} of the 0/1 rewards.
            signal: R^2 = |g|^2 / (v E|z|^2), above 0 and at most 1.
            coherence: |E g|^2 / E|g|^2, the share of the prompts' squared gradients that they have in common.

        Raises:
            InputError: a number out of range.
        """
        v = _within("reward_variance", reward_variance, 0, 0.25)
        signal, coherence = _within("signal", signal, 0, 1), _within("coherence", coherence, 0, 1)
        if signal == 0:
            raise InputError(
                "signal = 0 says that the reward does not depend on the response: there is no gradient"
            )
        return cls(
            prompt=(1 - coherence) * signal * v, response=v * (1 + signal), correction=signal * (1 - 6 * v)
        )

    def variance(self, n_prompts: ArrayLike, group_size: ArrayLike) -> Any:
        """Variance of the mean over N groups of G responses with the leave-one-out baseline."""
        n, size = np.asarray(n_prompts, float), np.asarray(group_size, float)
        if np.any(~(size >= 2)) or np.any(~(n >= 1)):
            raise InputError(
                "a gradient estimate needs one prompt or more, and groups of two responses or more"
            )
        value = (self.prompt + self.response / (size - 1) + self.correction / size) / n
        return float(value) if value.ndim == 0 else value


@dataclass(frozen=True)
class GroupPlan:
    """The group size with the least gradient variance for a budget.

    Attributes:
        group_size: G, responses per prompt.
        n_prompts: N, prompts per update.
        variance: of the gradient estimate, in the unit of the components.
        cost: N (C_p + G C_r), in the unit of `Cost`.
        continuous_group_size: 1 + sqrt(A (C_p + C_r) / (V_x C_r)), the best G if B were 0 and nothing whole.
        gap: 0 where the plan is proven best; else no plan is better by more than this share of the variance.
    """

    group_size: int
    n_prompts: int
    variance: float
    cost: float
    continuous_group_size: float
    gap: float


@dataclass(frozen=True)
class SuccessRates:
    """Distribution Beta(alpha, beta) of the prompts' success rates, fitted to counts by moments.

    Attributes:
        alpha: first parameter; infinite where V_x is estimated at 0 or below, so that all rates are taken as equal,
            and 0 where every prompt is all right or all wrong.
        beta: second parameter, likewise.
        mean: mean of the prompts' success rates.
        ratio: V_x / V_{y|x} = 1 / (alpha + beta) of the 0/1 rewards as estimated, which may be negative.
        reward_variance: E p (1 - p) of the fitted distribution.
        n_prompts: number of prompts.
        n_responses: number of responses.
        confidence: level of the intervals.
    """

    alpha: Estimate
    beta: Estimate
    mean: Estimate
    ratio: float
    reward_variance: float
    n_prompts: int
    n_responses: int
    confidence: float
    _successes: Floats = field(repr=False)
    _trials: Floats = field(repr=False)

    def dead_share(self, group_size: int) -> Estimate:
        """Share of groups whose G rewards are all equal, from the fitted distribution.

        The interval leaves out one prompt at a time on the scale of log-odds; where the data bound nothing it runs
        from 0 to 1. The formula goes on smoothly to V_x < 0 (drawing without replacement), which the interval uses.
        """
        size = _group_size(group_size)
        mean, ratio, _ = _moments(self._successes, self._trials, left_out=False)
        value = float(_dead(mean, np.maximum(np.nan_to_num(ratio, posinf=np.inf), 0), size)[0])
        left_mean, left_ratio, _ = _moments(self._successes, self._trials, left_out=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            odds, left = (
                np.log(share / (1 - share))
                for share in (_dead(mean, ratio, size)[0], _dead(left_mean, left_ratio, size))
            )
            low, high = _jackknife(float(odds), left, self.confidence)
        if math.isnan(low):
            return Estimate(value, 0.0, 1.0)
        low, high = ((1 + math.tanh(end / 2)) / 2 for end in (low, high))
        return Estimate(value, min(low, value), max(high, value))

    def observed_dead_share(self, group_size: int) -> Estimate | None:
        """Share of dead groups without a distribution, the mean over prompts of [C(s, G) + C(n - s, G)] / C(n, G).

        Unbiased: each term is the share of dead groups among the prompt's own subsets of G responses. Prompts with
        fewer than G responses do not count; None where fewer than two are left.
        """
        size = _group_size(group_size)
        kept = self._trials >= size
        prompts = int(kept.sum())
        if prompts < 2:
            return None
        s, n = self._successes[kept], self._trials[kept]
        shares = subset_share(s, n, size) + subset_share(n - s, n, size)
        return _mean(shares, self.confidence)


def dead_share(alpha: ArrayLike, beta: ArrayLike, group_size: ArrayLike) -> Any:
    """Share of groups whose G rewards are all equal, where success rates follow Beta(alpha, beta).

    E[p^G + (1 - p)^G] = B(alpha + G, beta) / B(alpha, beta) + B(alpha, beta + G) / B(alpha, beta). A dead group has no
    gradient. Arguments that are arrays broadcast.

    Args:
        alpha: first parameter, above 0.
        beta: second parameter, above 0.
        group_size: G, whole numbers from 2 to 10,000.

    Returns:
        The share, a float where every argument is a number, else an array.

    Raises:
        InputError: a parameter that is not above 0, or G out of range.
    """
    a, b, sizes = np.broadcast_arrays(
        np.asarray(alpha, float), np.asarray(beta, float), np.asarray(group_size)
    )
    shares = []
    for first, second, size in zip(a.flat, b.flat, sizes.flat, strict=True):
        mean, ratio = beta_mean_and_ratio(first, second)
        shares.append(_dead(np.array([mean]), np.array([ratio]), _group_size(size))[0])
    return float(shares[0]) if a.ndim == 0 else np.array(shares).reshape(a.shape)


def reward_variance(alpha: float, beta: float) -> float:
    """E p (1 - p), the V_{y|x} of 0/1 rewards whose success rates p follow Beta(alpha, beta).

    Raises:
        InputError: a parameter that is not above 0.
    """
    mean, ratio = beta_mean_and_ratio(alpha, beta)
    return mean * (1 - mean) / (1 + ratio)


def fit_success_rates(successes: ArrayLike, trials: ArrayLike, *, confidence: float = 0.95) -> SuccessRates:
    """Beta(alpha, beta) fitted to success counts by moments.

    0/1 rewards have V_{y|x} / V_x = alpha + beta, so the fit is the analysis of variance of a pilot of such rewards
    (theory.md 4.1), and alpha = mean x ratio. The intervals leave out one prompt at a time: the mean is uncertain too.

    Args:
        successes: (prompts,) responses with reward 1.
        trials: (prompts,) responses in all, or one number for every prompt; it must not depend on the rewards.
        confidence: level of the intervals.

    Returns:
        The fit, with its parameters as estimates with intervals; `dead_share` of it has an interval as well.

    Raises:
        InputError: counts that are not whole or out of range, fewer than two prompts, no prompt with two responses.
    """
    s, n = (np.atleast_1d(counts) for counts in success_counts(successes, trials))
    if s.ndim != 1:
        raise InputError(f"successes is one count per prompt, shape (prompts,), not {s.shape}")
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}; it must lie between 0 and 1, such as 0.95")
    if s.size < 2:
        raise InputError("how success rates differ takes at least two prompts")
    if n.max() < 2:
        raise InputError(
            "every prompt has one response, so that success rates and chance cannot be told apart"
        )
    mean, ratio, size = (float(value[0]) for value in _moments(s, n, left_out=False))
    left_mean, left_ratio, _ = _moments(s, n, left_out=True)
    known = not math.isnan(ratio)
    return SuccessRates(
        alpha=_parameter(mean, left_mean, ratio, left_ratio, size, confidence),
        beta=_parameter(1 - mean, 1 - left_mean, ratio, left_ratio, size, confidence),
        mean=_mean(s / n, confidence),
        ratio=ratio,
        reward_variance=mean * (1 - mean) / (1 + max(ratio, 0.0)) if known else 0.0,
        n_prompts=s.size,
        n_responses=int(n.sum()),
        confidence=confidence,
        _successes=s,
        _trials=n,
    )


def group_variance(
    success_rate: ArrayLike,
    group_size: ArrayLike,
    *,
    signal: ArrayLike | None = None,
    squared_gradient: ArrayLike | None = None,
    spread_success: ArrayLike | None = None,
    spread_failure: ArrayLike | None = None,
    baseline: Baseline = "rloo",
) -> Any:
    """Variance of one prompt's gradient estimate from a group of G responses, given the prompt (a trace).

    With the leave-one-out baseline the estimate is the sample covariance of rewards and scores, a U-statistic:
    [4 (G - 2) zeta1 + 2 zeta2] / (G (G - 1)) = A / (G - 1) + B / G (Hoeffding 1948). Arguments that are arrays
    broadcast.

    Args:
        success_rate: p, from 0 to 1.
        group_size: G, at least 2.
        signal: R^2, from 0 to 1, in units of E|z|^2 and with T1 = T0. Give it, or the three that follow.
        squared_gradient: |g|^2.
        spread_success: T1, the trace of the scores' covariance where the reward is 1.
        spread_failure: T0, where it is 0.
        baseline: "rloo" for the leave-one-out baseline; "dr_grpo" for the group's mean, which shrinks the estimate
            by (G - 1) / G, and so the variance by its square.

    Returns:
        The variance, a float where every argument is a number, else an array.

    Raises:
        InputError: a number out of range, or neither the signal nor all three of the others.
    """
    p, size = np.asarray(success_rate, float), np.asarray(group_size, float)
    given = squared_gradient is not None and spread_success is not None and spread_failure is not None
    if (signal is None) != given:
        raise InputError("give either the signal, or squared_gradient, spread_success and spread_failure")
    if baseline not in get_args(Baseline):
        raise InputError(f"baseline is {baseline!r}; choose one of {', '.join(get_args(Baseline))}")
    if np.any(~((p >= 0) & (p <= 1))):
        raise InputError("success_rate must lie between 0 and 1")
    if np.any(~((size >= 2) & (size == np.floor(size)))):
        raise InputError(
            "group_size must be whole numbers of at least 2: one response has nothing to compare with"
        )
    v = p * (1 - p)
    if signal is not None:
        r2 = np.asarray(signal, float)
        if np.any(~((r2 >= 0) & (r2 <= 1))):
            raise InputError("signal must lie between 0 and 1")
        a, b = v * (1 + r2), r2 * (1 - 6 * v)
    else:
        g2, t1, t0 = (
            np.asarray(value, float) for value in (squared_gradient, spread_success, spread_failure)
        )
        for value in (g2, t1, t0):
            if np.any(~((value >= 0) & np.isfinite(value))):
                raise InputError("squared_gradient, spread_success and spread_failure must be 0 or above")
        a = v * (p * t1 + (1 - p) * t0) + 2 * g2
        with np.errstate(divide="ignore", invalid="ignore"):
            b = v * (1 - 2 * p) * (t1 - t0) + g2 / v - 6 * g2
    variance = np.where(v > 0, a / (size - 1) + b / size, 0.0)  # with one reward only there is no gradient
    if baseline == "dr_grpo":
        variance = variance * ((size - 1) / size) ** 2
    return float(variance) if variance.ndim == 0 else variance


def grpo_weight(success_rate: ArrayLike, group_size: int) -> Any:
    """The weight omega_G(p) that division by the group's standard deviation gives a prompt's gradient.

    GRPO's estimate has the mean sqrt((G - 1) / G) omega_G(p) g, with omega_G = sum_s Bin(s; G, p) sqrt(s (G - s)) /
    (G v) for the standard deviation with divisor G - 1 (TRL, verl, OpenRLHF). G = 2 and G = 3 weigh all prompts alike;
    larger groups give hard and easy prompts more weight than middling ones.

    Raises:
        InputError: a success rate that is not strictly between 0 and 1, or G out of range.
    """
    size, p = _group_size(group_size), np.asarray(success_rate, float)
    if np.any(~((p > 0) & (p < 1))):
        raise InputError("success_rate must lie strictly between 0 and 1: else every group is dead")
    s = np.arange(1, size)
    pmf = np.exp(_log_choose(size)[1:-1] + s * np.log(p)[..., None] + (size - s) * np.log1p(-p)[..., None])
    weight = (pmf * np.sqrt(s * (size - s))).sum(axis=-1) / (size * p * (1 - p))
    return float(weight) if weight.ndim == 0 else weight


def generation_batches(mixed: float, needed: int, generated: int) -> float:
    """Mean number of batches that dynamic sampling generates until it has enough groups that are not dead.

    DAPO (Yu et al. 2025) draws batches of M groups until n of them are mixed: sum over m >= 0 of
    P(Binomial(m M, mixed) < n), of which m = 0 counts 1.

    Args:
        mixed: share of groups that are not dead.
        needed: n, groups per update.
        generated: M, groups per batch of generation.

    Returns:
        The mean, infinite where every group is dead.

    Raises:
        InputError: a number out of range.
    """
    share = _within("mixed", mixed, 0, 1)
    for name, value in (("needed", needed), ("generated", generated)):
        if value != int(value) or not 1 <= value <= 10**6:
            raise InputError(f"{name} must be a whole number from 1 to 1e6, not {value!r}")
    if share == 0:
        return math.inf
    if share == 1:
        return float(-(-needed // generated))
    # T, the groups drawn until n are mixed, is negative binomial; the answer is E ceil(T / M).
    spread = math.sqrt(needed * (1 - share)) / share
    if spread > 20 * generated:  # T / M falls anywhere between whole numbers alike
        return needed / share / generated + (generated - 1) / (2 * generated)
    batches = int(max(0.0, (needed / share - 12 * spread) / generated - 1))  # below, the chance is 1
    total = float(batches)
    while True:
        drawn = batches * int(generated)
        chance = 1.0 if drawn < needed else _lower_tail(int(needed) - 1, drawn, share)
        if chance < 1e-15:
            return total
        total, batches = total + chance, batches + 1


def best_group(
    components: GradientComponents, cost: Cost, *, budget: float, max_group_size: int | None = None
) -> GroupPlan:
    """The number of prompts and the group size with the least gradient variance for N (C_p + G C_r) <= budget.

    Exact search from G = 2: no such plan of the same or lower cost has a lower variance.

    Args:
        components: V_x, A and B; see `GradientComponents.of`.
        cost: C_p per prompt and C_r per response.
        budget: the most to spend per update.
        max_group_size: the largest G.

    Raises:
        InputError: a number out of range, a budget that does not buy one group of two, V_x <= 0 (all the budget
            would go to one prompt) or C_r = 0 without `max_group_size`.
    """
    prompt, response, correction = components.prompt, components.response, components.correction
    if not (response > 0 and math.isfinite(prompt + response + correction) and response + correction >= 0):
        raise InputError("the components of a gradient's variance need A > 0 and A + B >= 0")
    most = math.inf if max_group_size is None else _group_size(max_group_size)
    if most == math.inf and (cost.response == 0 or prompt <= 0):
        why = "a response costs nothing" if cost.response == 0 else "V_x is not above 0"
        raise InputError(f"G has no finite optimum, because {why}: set max_group_size")
    p, r, limit, unit = integer_costs(cost, budget)
    if limit < p + 2 * r:
        raise InputError(
            f"a budget of {budget!r} does not buy one group of two responses: the least budget is "
            f"{float((p + 2 * r) / unit)!r}"
        )
    n, size, gap = best_size(
        lambda g: max(prompt, 0.0) + response / (g - 1) + correction / g,
        lambda g: max(prompt, 0.0) * (p + g * r) + (response + correction) * r,
        price=(p, r),
        limit=limit,
        least=2,
        most=most,
    )
    free = prompt * cost.response
    continuous = 1 + math.sqrt(response * (cost.prompt + cost.response) / free) if free > 0 else math.inf
    return GroupPlan(size, n, components.variance(n, size), float(n * (p + size * r) / unit), continuous, gap)


def _dead(mean: Floats, ratio: Floats, size: int) -> Floats:
    """E[p^G + (1 - p)^G] from the mean and 1 / (alpha + beta): a product of (alpha + j) / (alpha + beta + j).

    Divided by alpha + beta the factors are (mean + j ratio) / (1 + j ratio): also defined for a ratio of 0 (one rate
    for all), below 0 (draws without replacement, a factor being 0 once nothing is left) and infinite (p is 0 or 1).
    """
    total = np.zeros(mean.shape)
    for share in (mean, 1 - mean):
        product = share.copy()
        for j in range(1, size):
            with np.errstate(divide="ignore", invalid="ignore"):
                factor = (share + j * ratio) / (1 + j * ratio)
            factor = np.where(share + j * ratio > 0, factor, 0.0)
            product *= np.where(np.isinf(ratio), share > 0, factor)
        total += product
    return total


def _moments(s: Floats, n: Floats, *, left_out: bool) -> tuple[Floats, Floats, Floats]:
    """Mean rate, V_x / V_{y|x} of the 0/1 rewards (Henderson's method I) and k_0, (1,); or without each prompt in turn.

    The ratio is infinite where no prompt has both rewards, and NaN where all rewards are equal.
    """

    def total(values: Floats) -> Floats:
        everything = values.sum(keepdims=True)
        return everything - values if left_out else everything

    def whole(squares: Floats) -> Floats:  # a sum of squares of counts that is not 0 is not small
        return np.where(np.abs(squares) < 1e-9 * responses, 0.0, squares)

    rate = s / n
    prompts, responses = total(np.ones_like(n)), total(n)
    with np.errstate(divide="ignore", invalid="ignore"):
        within = whole(total(s - s * rate)) / (responses - prompts)
        size = (responses - total(n**2) / responses) / (prompts - 1)
        between = whole(total(s * rate) - total(s) ** 2 / responses) / (prompts - 1)
        return total(rate) / prompts, (between / within - 1) / size, size


def _parameter(
    share: float, left_share: Floats, ratio: float, left_ratio: Floats, size: float, confidence: float
) -> Estimate:
    """alpha (beta) = share / ratio with its interval.

    1 + k_0 share / alpha with the fitted share is the F ratio MSB / MSW. Its logarithm is jackknifed, as that of F in a
    pilot; where the lower limit of 1 / alpha is 0 or below, alpha has no upper limit.
    """
    value = math.nan if math.isnan(ratio) else math.inf if ratio <= 0 else share / ratio
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log1p(size * left_ratio * (share / left_share))
        low, high = _jackknife(float(np.log1p(np.float64(size * ratio))), logs, confidence)
    if math.isnan(low):
        return Estimate(value, 0.0, math.inf)
    with np.errstate(divide="ignore", over="ignore"):
        limits = [float(share * size / np.maximum(np.expm1(end), 0.0)) for end in (high, low)]
    return Estimate(value, min(limits[0], value), max(limits[1], value))


def _jackknife(value: float, left_out: Floats, confidence: float) -> tuple[float, float]:
    """Limits value -+ t x standard error by leaving out one prompt at a time; NaN where one is not finite."""
    prompts = left_out.size
    error = math.sqrt((prompts - 1) / prompts * float(np.square(left_out - left_out.mean()).sum()))
    reach = t_quantile(prompts - 1, confidence) * error
    return value - reach, value + reach


def _mean(values: Floats, confidence: float) -> Estimate:
    """The mean of shares with Student's t, cut to [0, 1]."""
    error = float(values.std(ddof=1)) / math.sqrt(values.size)
    exact = Estimate.from_standard_error(float(values.mean()), error, values.size - 1, confidence)
    return Estimate(exact.value, max(0.0, exact.low), min(1.0, exact.high), error)


def _log_choose(n: int) -> Floats:
    """Logarithms of C(n, 0), ..., C(n, n)."""
    factorials = np.array([math.lgamma(i + 1) for i in range(n + 1)])
    return factorials[-1] - factorials - factorials[::-1]


def _lower_tail(most: int, draws: int, p: float) -> float:
    """P(Binomial(draws, p) <= most), terms added from the largest down."""
    top = math.lgamma(draws + 1)
    log_p, log_q = math.log(p), math.log1p(-p)
    total = 0.0
    for s in range(most, -1, -1):
        term = math.exp(
            top - math.lgamma(s + 1) - math.lgamma(draws - s + 1) + s * log_p + (draws - s) * log_q
        )
        total += term
        if term < 1e-18 and s < draws * p:
            break
    return min(1.0, total)


def _group_size(value: Any) -> int:
    try:
        whole = int(value)
        valid = whole == value and 2 <= whole <= MOST_RESPONSES
    except (TypeError, ValueError, OverflowError):
        whole, valid = 0, False
    if not valid:
        raise InputError(
            f"a group size must be a whole number from 2 to {MOST_RESPONSES:,}, not {value!r}: one response has "
            "nothing to be compared with"
        )
    return whole


def _within(name: str, value: float, low: float, high: float) -> float:
    number = float(value)
    if not low <= number <= high:
        raise InputError(f"{name} must lie between {low:g} and {high:g}, not {value!r}")
    return number
