"""pass@k from success counts: its estimate, its exact variance, and the best numbers of prompts and responses (NumPy).

pass@k is the chance that at least one of k responses to a prompt succeeds, 1 - E q^k with q = 1 - p. Of n >= k
responses with c successes 1 - C(n - c, k) / C(n, k) estimates it without bias (Chen et al. 2021): a U-statistic, whose
variance given the prompt is exact. Over prompts Var = (V_x + W(n)) / N with V_x = Var q^k.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrtsim.errors import InputError
from mrtsim.estimates import Estimate, t_quantile
from mrtsim.plan.allocate import Cost, integer_costs
from mrtsim.plan.integer_search import MOST_CORNERS, best_size
from mrtsim.success_counts import beta_mean_and_ratio, subset_share, success_counts

Floats = NDArray[np.float64]

MOST_K = 10**4


@dataclass(frozen=True)
class PassAtKComponents:
    """What the variance of pass@k is made of.

    Attributes:
        k: of pass@k.
        prompt: V_x = E q^2k - (E q^k)^2, between prompts; estimates may be negative.
        moments: E q^k, ..., E q^2k.
    """

    k: int
    prompt: float
    moments: tuple[float, ...]

    @classmethod
    def of_beta(cls, alpha: float, beta: float, k: int) -> PassAtKComponents:
        """The components where success rates follow Beta(alpha, beta): E q^m = B(alpha, beta + m) / B(alpha, beta).

        Args:
            alpha: above 0.
            beta: above 0.
            k: of pass@k.

        Raises:
            InputError: a parameter that is not above 0, or k out of range.
        """
        mean, ratio = beta_mean_and_ratio(alpha, beta)
        return cls._of(_k(k), 1 - mean, ratio)

    @classmethod
    def _of(cls, k: int, failure: float, ratio: float) -> PassAtKComponents:
        """By the mean of q and 1 / (alpha + beta): E q^m is a product of (failure + i ratio) / (1 + i ratio)."""
        i = np.arange(2 * k)
        factors = (
            (failure + i * ratio) / (1 + i * ratio) if math.isfinite(ratio) else np.where(i, 1.0, failure)
        )
        moments = np.cumprod(factors)[k - 1 :]
        return cls(k, float(moments[k] - moments[0] ** 2), tuple(moments.tolist()))

    @property
    def value(self) -> float:
        """pass@k."""
        return 1 - self.moments[0]

    def response(self, trials: int) -> float:
        """W(n), the mean over prompts of the variance given the prompt, with n responses each."""
        _trials(trials, self.k)
        shares = _overlaps(self.k, trials)
        gains = np.array(self.moments[:0:-1]) - self.moments[-1]  # E q^(2k-j) - E q^2k for j = 0, ..., k - 1
        gains = np.append(gains, self.moments[0] - self.moments[-1])
        return float(shares @ gains)

    def variance(self, n_prompts: int, trials: int, *, population: int | None = None) -> float:
        """Variance of the mean over N prompts with n responses each; with `population` = N, of these prompts alone.

        Args:
            n_prompts: N.
            trials: n, responses per prompt.
            population: N, where the mean over these prompts alone is meant.
        """
        if population is None:
            return (self.prompt + self.response(trials)) / n_prompts
        if population != n_prompts:
            raise InputError("a given benchmark is evaluated on all its prompts: population = n_prompts")
        return self.response(trials) / n_prompts


@dataclass(frozen=True)
class PassAtKEstimate:
    """pass@k of a pilot.

    Attributes:
        value: pass@k with its interval and standard error, from the spread of the prompts' estimates (Student's t).
        standard_error_given: the standard error for these very prompts, from their responses alone; NaN where a
            prompt has fewer than 2k responses, and its variance rests on a distribution.
        components: V_x and the moments that W(n) is made of.
        source: "counts" where all have 2k responses or more, so that the components are unbiased; else "beta", from a
            Beta distribution fitted to the success rates.
        n_prompts: prompts with k responses or more.
        n_dropped: prompts with fewer.
        confidence: level of the interval.
    """

    value: Estimate
    standard_error_given: float
    components: PassAtKComponents
    source: Literal["counts", "beta"]
    n_prompts: int
    n_dropped: int
    confidence: float


@dataclass(frozen=True)
class PassAtKPlan:
    """N prompts with n responses each for pass@k.

    Attributes:
        n_prompts: N.
        responses_per_prompt: n, at least k.
        variance: of the estimate of pass@k.
        cost: N (C_p + n C_r).
        gap: 0 where the plan is proven best; else no plan is better by more than this share.
    """

    n_prompts: int
    responses_per_prompt: int
    variance: float
    cost: float
    gap: float


def pass_at_k(successes: ArrayLike, trials: ArrayLike, k: int) -> Any:
    """Unbiased estimate 1 - C(n - c, k) / C(n, k) of each prompt's pass@k.

    Args:
        successes: c, responses with success; (prompts,) or one number.
        trials: n, responses in all, at least k; likewise.
        k: how many responses are tried.

    Returns:
        The estimates, a float for one prompt given as numbers. Their mean estimates pass@k of the population.

    Raises:
        InputError: counts out of range, or fewer than k responses.
    """
    c, n = success_counts(successes, trials)
    k = _k(k)
    if np.any(n < k):
        raise InputError(f"pass@{k} takes at least {k} responses per prompt, not {n.min():g}")
    value = 1 - subset_share(n - c, n, k)
    return float(value) if value.ndim == 0 else value


def pass_at_k_variance(success_rate: ArrayLike, trials: int, k: int) -> Any:
    """Exact variance of a prompt's estimate from n responses, given its success rate p.

    sum_{j=1}^k C(k, j) C(n - k, k - j) / C(n, k) (q^(2k-j) - q^2k), as two subsets of k that share j responses all fail
    with probability q^(2k-j) (Hoeffding 1948). The delta method, k^2 p q^(2k-1) / n, is the limit of large n: for
    n = k = 10 it is wrong by a factor of three.

    Args:
        success_rate: p, one or several.
        trials: n, responses.
        k: k of pass@k.

    Raises:
        InputError: p outside [0, 1], or fewer than k responses.
    """
    k, p = _k(k), np.asarray(success_rate, float)
    _trials(trials, k)
    if np.any(~((p >= 0) & (p <= 1))):
        raise InputError("success_rate must lie between 0 and 1")
    q = 1 - p[..., None]
    j = np.arange(k + 1)
    value = (_overlaps(k, trials) * (q ** (2 * k - j) - q ** (2 * k))).sum(axis=-1)
    return float(value) if value.ndim == 0 else value


def estimate_pass_at_k(
    successes: ArrayLike, trials: ArrayLike, k: int, *, confidence: float = 0.95
) -> PassAtKEstimate:
    """pass@k of a pilot with its standard error and its variance components.

    Args:
        successes: (prompts,) responses with success.
        trials: (prompts,) responses in all, which must not depend on the rewards.
        k: of pass@k.
        confidence: level of the interval.

    Returns:
        The estimate. Prompts with fewer than k responses are left out and counted.

    Raises:
        InputError: counts out of range, fewer than two prompts with k responses, k = 1 with one response each.
    """
    c, n = (np.atleast_1d(counts) for counts in success_counts(successes, trials))
    k = _k(k)
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}; it must lie between 0 and 1, such as 0.95")
    kept = n >= k
    if kept.sum() < 2:
        raise InputError(
            f"pass@{k} takes two prompts or more with at least {k} responses each; {int(kept.sum())} of {n.size} "
            f"have as many, and the most is {n.max():g}"
        )
    c, n = c[kept], n[kept]
    failed = subset_share(n - c, n, k)
    value, error = 1 - float(failed.mean()), float(failed.std(ddof=1)) / math.sqrt(n.size)
    reach = t_quantile(n.size - 1, confidence) * error
    given = math.nan
    if n.min() >= 2 * k:
        source: Literal["counts", "beta"] = "counts"
        components, within = _from_counts(c, n, k, failed)
        given = math.sqrt(max(0.0, float(within.mean())) / n.size)
    else:
        source, components = "beta", _from_beta(c, n, k)
    return PassAtKEstimate(
        value=Estimate(value, max(0.0, value - reach), min(1.0, value + reach), error),
        standard_error_given=given,
        components=components,
        source=source,
        n_prompts=int(n.size),
        n_dropped=int((~kept).sum()),
        confidence=confidence,
    )


def allocate_pass_at_k(
    components: PassAtKComponents,
    cost: Cost,
    *,
    budget: float | None = None,
    target_variance: float | None = None,
    max_responses: int | None = None,
    population: int | None = None,
) -> PassAtKPlan:
    """The best whole numbers of prompts and of responses n >= k for a budget, or the cheapest for a target variance.

    Args:
        components: V_x and W(n).
        cost: C_p and C_r.
        budget: the most to spend. Give this or `target_variance`.
        target_variance: of the estimate of pass@k.
        max_responses: the largest n.
        population: P, for pass@k of a given benchmark of P prompts, all of which are used: then W(n)/P alone counts.

    Raises:
        InputError: a number out of range, a budget that does not buy k responses to a prompt, or V_x <= 0 or C_r = 0
            without `max_responses` (nothing would keep n finite).
    """
    k = components.k
    if (budget is None) == (target_variance is None):
        raise InputError("give either a budget or a target variance")
    most: int | float = math.inf if max_responses is None else _trials(max_responses, k)
    if most == math.inf and (cost.response == 0 or (components.prompt <= 0 and population is None)):
        why = "a response costs nothing" if cost.response == 0 else "V_x is not above 0"
        raise InputError(f"the responses per prompt have no finite optimum, because {why}: set max_responses")
    between = 0.0 if population is not None else max(components.prompt, 0.0)
    limit_in = target_variance if budget is None else budget
    if limit_in is None or not (math.isfinite(limit_in) and limit_in > 0):
        raise InputError(f"the budget or target must be a finite number above 0, not {limit_in!r}")
    p, r, limit, unit = integer_costs(cost, limit_in if budget is not None else 1.0)
    floor = k**2 * (components.moments[-2] - components.moments[-1])  # W(n) >= k^2 zeta_1 / n

    def spread(n: int) -> float:
        return between + components.response(n)

    def bound(n: int) -> float:
        return between * (p + n * r) + floor * r

    least = population or 1
    if budget is not None:
        if limit < least * (p + k * r):
            what = "one prompt" if least == 1 else f"{least} prompts"
            raise InputError(
                f"a budget of {budget!r} does not buy {what} with {k} responses each: the least budget is "
                f"{float(least * (p + k * r) / unit)!r}"
            )
        if population is not None:
            n = int(most) if r == 0 else int(min(most, (limit // population - p) // r))
            found = population, n, 0.0
        else:
            found = best_size(spread, bound, price=(p, r), limit=limit, least=k, most=most)
    elif population is not None:
        found = population, _least_trials(spread, population * float(limit_in), k, most), 0.0
    else:
        found = _cheapest(spread, bound, float(limit_in), (p, r), k, most)
    n_prompts, n, gap = found
    return PassAtKPlan(n_prompts, n, spread(n) / n_prompts, float(n_prompts * (p + n * r) / unit), gap)


def _cheapest(
    spread: Any, bound: Any, target: float, price: tuple[int, int], least: int, most: int | float
) -> tuple[int, int, float]:
    """(N, n, gap) of the least cost N (p + n r) with spread(n) / N within the target."""
    best, value = (0, 0), math.inf
    n = least
    for n in range(least, least + MOST_CORNERS):
        if n > most or bound(n) > value * target:
            return *best, 0.0
        prompts = max(1, math.ceil(spread(n) / target * (1 - 1e-12)))
        here = prompts * (price[0] + n * price[1])
        if here < value:
            best, value = (prompts, n), here
    return *best, max(0.0, 1 - bound(n) / (value * target))


def _least_trials(spread: Any, target: float, least: int, most: int | float) -> int:
    """The smallest n with spread(n) within the target, which falls with n."""
    high = least
    while spread(high) > target:
        if high >= most or high > 2**40:
            raise InputError(
                f"no number of responses reaches the target: at n = {high} the variance is {spread(high):.3g} of "
                f"{target:.3g}"
            )
        high = int(min(2 * high, most))
    low = least
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if spread(middle) <= target else (middle + 1, high)
    return low


def _from_counts(c: Floats, n: Floats, k: int, failed: Floats) -> tuple[PassAtKComponents, Floats]:
    """Unbiased components, and each prompt's unbiased variance given the prompt."""
    moments = [subset_share(n - c, n, m) for m in range(k, 2 * k + 1)]
    within = failed**2 - moments[-1]  # E f^2 = q^2k + Var(f | q)
    prompt = float(failed.var(ddof=1) - within.mean())
    return PassAtKComponents(k, prompt, tuple(float(m.mean()) for m in moments)), within


def _from_beta(c: Floats, n: Floats, k: int) -> PassAtKComponents:
    """Components of the fitted Beta distribution; of one rate for all where V_x of the rewards is not above 0."""
    from mrtsim.plan.rollouts import fit_success_rates

    if n.max() < 2:
        raise InputError(
            "every prompt has one response, so that success rates and chance cannot be told apart: sample 2k or more"
        )
    fit = fit_success_rates(c, n)
    ratio = 0.0 if math.isnan(fit.ratio) else max(fit.ratio, 0.0)
    return PassAtKComponents._of(k, 1 - float((c / n).mean()), ratio)


def _overlaps(k: int, n: int) -> Floats:
    """C(k, j) C(n - k, k - j) / C(n, k) for j = 0, ..., k: how often two subsets of k share j responses."""
    first = max(0, 2 * k - n)
    j = np.arange(first, k, dtype=float)
    logs = np.append(0.0, np.cumsum(2 * np.log(k - j) - np.log(j + 1) - np.log(n - 2 * k + j + 1)))
    shares = np.zeros(k + 1)
    shares[first:] = np.exp(logs - logs.max())
    return shares / shares.sum()


def _k(k: Any) -> int:
    whole = int(k) if isinstance(k, int | np.integer) or float(k).is_integer() else 0
    if not 1 <= whole <= MOST_K:
        raise InputError(f"k must be a whole number from 1 to {MOST_K:,}, not {k!r}")
    return whole


def _trials(n: Any, k: int) -> int:
    whole = int(n) if float(n).is_integer() else 0
    if whole < k:
        raise InputError(f"pass@{k} takes at least {k} responses per prompt, not {n!r}")
    return whole
