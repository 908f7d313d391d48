"""Variances of many prompts from few responses each, squeezed towards each other (empirical Bayes; SciPy)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrtsim.errors import InputError

LEAST_SHARE = 1e-5  # of the median variance: smaller ones, as of equal responses, say no more than that


@dataclass(frozen=True)
class SqueezedVariances:
    """Variances (d_0 s_0^2 + d s^2) / (d_0 + d), and the prior that they were squeezed to.

    Attributes:
        variances: one per prompt.
        prior_freedom: d_0; infinite where the variances do not differ by more than chance.
        prior_variance: s_0^2.
    """

    variances: NDArray[np.float64]
    prior_freedom: float
    prior_variance: float


def squeeze_variances(variances: ArrayLike, freedom: ArrayLike) -> SqueezedVariances:
    """Squeeze sample variances towards a common value, as far as they differ by chance (limma's moment fit).

    With s^2 ~ s_0^2 F(d, d_0), the mean and the variance of log s^2 give s_0^2 and d_0. Source: Smyth (2004),
    Statistical Applications in Genetics and Molecular Biology 3(1), section 6.2. As in limma, unequal degrees of
    freedom enter by their own mean and variance of log s^2, and with d_0 infinite s_0^2 is the mean variance.

    Args:
        variances: (prompts,) sample variances with divisor n - 1; not used where there are 0 degrees of freedom.
        freedom: (prompts,) d, responses less one.

    Raises:
        InputError: shapes that differ, a negative number, fewer than two prompts with two responses, or all variances
            0.
    """
    from scipy.special import digamma, polygamma

    s2, d = np.broadcast_arrays(np.asarray(variances, float), np.asarray(freedom, float))
    known = d > 0
    if s2.ndim != 1 or np.any(~(s2[known] >= 0)) or np.any(~(d >= 0)):
        raise InputError("give one variance and its degrees of freedom per prompt, 0 or above")
    if known.sum() < 2:
        raise InputError("how far variances differ takes two prompts or more with two responses each")
    x, half = s2[known], d[known] / 2
    pooled = float((x * half).sum() / half.sum())
    if pooled == 0:
        raise InputError("the responses of every prompt agree, so that all variances are 0")
    x = np.maximum(x, LEAST_SHARE * (float(np.median(x)) or pooled))
    e = np.log(x) - digamma(half) + np.log(half)
    excess = float(e.var(ddof=1) - polygamma(1, half).mean())
    if excess > 0:
        prior_freedom = 2 * _inverse_trigamma(excess)
        prior = math.exp(float(e.mean() + digamma(prior_freedom / 2)) - math.log(prior_freedom / 2))
        raw = np.where(known, s2, 0.0)
        squeezed = (prior_freedom * prior + d * raw) / (prior_freedom + d)
    else:
        prior_freedom, prior = math.inf, pooled
        squeezed = np.full(s2.shape, prior)
    return SqueezedVariances(squeezed, prior_freedom, prior)


def _inverse_trigamma(value: float) -> float:
    """x with trigamma(x) = value, by Newton's method on 1 / trigamma (Smyth 2004, appendix)."""
    from scipy.special import polygamma

    if value > 1e7:
        return 1 / math.sqrt(value)
    if value < 1e-6:
        return 1 / value
    x = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(polygamma(1, x))
        step = trigamma * (1 - trigamma / value) / float(polygamma(2, x))
        x += step
        if -step / x < 1e-12:
            break
    return x
