"""The exact laws of the responses that RKoN and BKoN keep, and the moments that follow from them.

A candidate whose reward is exceeded with probability v (its *exceedance*, v = P(R > r | x) = 1 - u) is among the
best K of N i.i.d. candidates with probability I_u(N - K, K), so a kept response has density
p(y|x) (N/K) I_u(N - K, K). Given the exceedance of the best rejected candidate, which is Beta(K + 1, N - K), the kept
responses are i.i.d. from p restricted to smaller exceedances: the *threshold mixture*, which gives the variance of
their mean (order statistics; David and Nagaraja 2003, sections 2.1 and 2.7). No quantity here depends on the number
of prompts. Everything is NumPy, float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpy.polynomial.legendre import legvander
from scipy.optimize.elementwise import find_root
from scipy.special import (
    betainc,
    betaincc,
    betainccinv,
    betaincinv,
    betaln,
    ndtr,
    roots_legendre,
    xlog1py,
    xlogy,
)

from mrtsim.diagnostics.reports import cosine
from mrtsim.distributions.gaussian_modes import GaussianModes
from mrtsim.distributions.protocol import Distribution, WithQuadrature, require
from mrtsim.distributions.quadrature import Rule, quadrature, trapezoid
from mrtsim.errors import InputError
from mrtsim.selection.registry import register_law

_ORDER = 16  # Gauss-Legendre nodes in a panel


def _check(n_candidates: int, k: int) -> None:
    if not 1 <= k <= n_candidates:
        raise InputError(f"k = {k} must lie between 1 and n_candidates = {n_candidates}")


def inclusion_probability(exceedance: Any, n_candidates: int, k: int) -> Float[np.ndarray, "*shape"]:
    """The probability that BKoN keeps a candidate, I_u(N - K, K) with u = 1 - exceedance.

    `exceedance` (any shape) is the probability that another response to the prompt has a higher reward; taking it
    instead of u keeps the best candidates precise. The mean over uniform exceedances is K/N. K = N keeps all.
    Raises InputError unless 1 <= K <= N.

    Args:
        exceedance: P(R > r | x) of each candidate, of any shape.
        n_candidates: N.
        k: K, from 1 to N.
    """
    _check(n_candidates, k)
    v = np.asarray(exceedance, np.float64)
    return np.ones_like(v) if k == n_candidates else np.asarray(betaincc(k, n_candidates - k, v))


def _inclusion_integral(v: Any, n: int, k: int) -> Any:
    """The integral of `inclusion_probability` from 0 to v: increasing, so that differences stay precise near v = 0."""
    if k == n:
        return v
    return v * betaincc(k, n - k, v) + k / n * betainc(k + 1, n - k, v)


def tied_inclusion_probability(low: Any, high: Any, n_candidates: int, k: int) -> Float[np.ndarray, "*shape"]:
    """The probability that BKoN keeps a candidate whose reward is shared, ties broken at random.

    `low` = P(R > r | x) and `high` = P(R >= r | x): the answer is the mean of `inclusion_probability` between them.
    Raises InputError unless 1 <= K <= N.

    Args:
        low: P(R > r | x) of each candidate.
        high: P(R >= r | x) of each.
        n_candidates: N.
        k: K, from 1 to N.
    """
    _check(n_candidates, k)
    low, high = np.broadcast_arrays(np.asarray(low, np.float64), np.asarray(high, np.float64))
    width = high - low
    # A difference of integrals loses digits where the atom is narrow; there the integrand is almost linear.
    narrow = width * n_candidates < 1e-4 * np.sqrt(k)
    middle = inclusion_probability(0.5 * (low + high), n_candidates, k)
    integral = _inclusion_integral(high, n_candidates, k) - _inclusion_integral(low, n_candidates, k)
    # Rounding of the difference may leave what is 0 a little below it.
    return np.where(narrow, middle, np.clip(integral / np.where(narrow, 1.0, width), 0.0, 1.0))


@dataclass(frozen=True)
class KeptMean:
    """Exact moments of the mean over a prompt's K kept values, one entry per prompt.

    With values of D features, `truth` and `mean` are (prompts, D) and variances are traces of covariance matrices.

    Attributes:
        truth: E[h(y) | x], what the mean should estimate.
        mean: its expectation under the strategy.
        single_variance: variance of one kept value, drawn at random from the kept.
        variance: variance of the mean of the K.
    """

    truth: Float[np.ndarray, " prompts *d"]
    mean: Float[np.ndarray, " prompts *d"]
    single_variance: Float[np.ndarray, " prompts"]
    variance: Float[np.ndarray, " prompts"]

    @property
    def bias(self) -> Float[np.ndarray, " prompts *d"]:
        """mean - truth."""
        return self.mean - self.truth

    @property
    def bias_squared(self) -> Float[np.ndarray, " prompts"]:
        """Squared (Euclidean) norm of the bias."""
        return np.square(self.bias).reshape(len(self.bias), -1).sum(1)

    @property
    def emse(self) -> Float[np.ndarray, " prompts"]:
        """Bias^2 + variance."""
        return self.bias_squared + self.variance

    @property
    def k_eff(self) -> Float[np.ndarray, " prompts"]:
        """single_variance / variance: the number of i.i.d. kept values with the same variance of the mean."""
        return self.single_variance / self.variance

    @property
    def cosine(self) -> Float[np.ndarray, " prompts"]:
        """Cosine of the mean with the truth; the gradient alignment when the values are gradients."""
        mean, truth = (a.reshape(len(a), -1) for a in (self.mean, self.truth))
        return cosine(mean, truth)


@dataclass(frozen=True)
class KeptLaw:
    """The law of the K responses kept of a prompt's N, as a quadrature rule.

    Attributes:
        responses: the nodes.
        weights: sum_q weights[p, q] h(responses[p, q]) is E[h(y) | x_p].
        kept: the same for one kept response; kept / weights is its density relative to p(y|x).
        k: responses kept.
        spread: maps centred values (prompts, nodes, D) to the mean over thresholds of the squared norm of the kept
            responses' conditional mean, (prompts,). None: the kept responses are independent.
    """

    responses: Float[np.ndarray, "prompts nodes"]
    weights: Float[np.ndarray, "prompts nodes"]
    kept: Float[np.ndarray, "prompts nodes"]
    k: int
    spread: Callable[[Float[np.ndarray, "prompts nodes d"]], Float[np.ndarray, " prompts"]] | None

    def moments(self, values: Any) -> KeptMean:
        """Exact moments of the mean of K kept values.

        `values` are h(responses), (prompts, nodes) or (prompts, nodes, D); h must be evaluated in float64. The
        variance of the mean is s2/K + (1 - 1/K) c with s2 the variance of a single kept value and c the covariance
        of two, which is the variance over thresholds of the conditional mean.
        """
        values = np.asarray(values, np.float64)
        if values.shape[:2] != self.responses.shape:
            raise InputError(
                f"values must be given at the law's nodes: shape {self.responses.shape} and perhaps a feature axis, "
                f"not {values.shape}"
            )
        flat = values if values.ndim == 3 else values[..., None]
        truth = np.einsum("pq,pqd->pd", self.weights, flat)
        mean = np.einsum("pq,pqd->pd", self.kept, flat)
        centred = flat - mean[:, None]
        single = np.einsum("pq,pqd,pqd->p", self.kept, centred, centred)
        pair = self.spread(centred) if self.spread and self.k > 1 else np.zeros(len(single))
        shape = (len(single), *values.shape[2:])
        return KeptMean(
            truth.reshape(shape), mean.reshape(shape), single, single / self.k + (1 - 1 / self.k) * pair
        )


@register_law("rkon")
def rkon_law(
    distribution: Any,
    prompts: Any,
    n_candidates: int,
    k: int,
    reward: Callable[[Any, Any], Any] | None = None,
    *,
    rule: Rule | None = None,
) -> KeptLaw:
    """RKoN keeps K i.i.d. responses from p(y|x) itself, whatever N and the reward: no bias, K_eff = K.

    For the error given the pools see `rkon_pool_variance`.

    Args:
        distribution: p(y|x), with `quadrature`.
        prompts: (prompts, d).
        n_candidates: N.
        k: K, from 1 to N.
        reward: of no effect; every law takes it.
        rule: as in the distribution's `quadrature`.

    Raises:
        InputError: K outside 1..N.
    """
    _check(n_candidates, k)
    require(distribution, WithQuadrature, "an exact law")
    with jax.enable_x64(True):
        x = jnp.asarray(np.asarray(prompts, np.float64))
        responses, weights = map(np.asarray, quadrature(distribution, x, rule))
    return KeptLaw(responses, weights, weights, k, None)


def rkon_pool_variance(pool: Any, k: int) -> Float[np.ndarray, "*prompts"]:
    """Variance of the mean of K values drawn without replacement from a given pool of N: (1 - K/N) S^2 / K.

    S^2 has the divisor N - 1 (Cochran 1977, theorem 2.2). Raises InputError unless 1 <= K <= N.
    """
    pool = np.asarray(pool, np.float64)
    n = pool.shape[-1]
    _check(n, k)
    return np.zeros(pool.shape[:-1]) if k == n else np.asarray((1 - k / n) * pool.var(-1, ddof=1) / k)


def ranked_law(
    responses: Any,
    weights: Any,
    rewards: Any,
    n_candidates: int,
    k: int,
) -> KeptLaw:
    """BKoN for a discrete p(y|x), exactly: nodes are its responses, weights their probabilities, ties broken at random.

    Given the nodes of a quadrature rule it approximates a continuous law, each node standing for an atom: this is
    the numeric CDF of an arbitrary reward. Rewards count as equal within 1e-12 of their range, so that rounding does
    not rank nodes that symmetry ties. Raises InputError unless 1 <= K <= N.

    Args:
        responses: (prompts, q), the nodes.
        weights: (prompts, q), their probabilities.
        rewards: (prompts, q).
        n_candidates: N.
        k: K, from 1 to N.
    """
    _check(n_candidates, k)
    n = n_candidates
    responses, weights, rewards = (np.asarray(a, np.float64) for a in (responses, weights, rewards))
    rows = np.arange(len(rewards))[:, None]
    order = np.argsort(-rewards, axis=1, kind="stable")
    sorted_rewards, mass = rewards[rows, order], weights[rows, order]
    group = np.zeros(order.shape, np.int64)
    gaps = sorted_rewards[:, :-1] - sorted_rewards[:, 1:]
    span = sorted_rewards[:, :1] - sorted_rewards[:, -1:]
    group[:, 1:] = np.cumsum(gaps > 1e-12 * span, axis=1)
    # Flat group numbers, one range a prompt; groups of one node are the rule for continuous rewards.
    flat = (rows * order.shape[1] + group).ravel()
    group_mass = np.bincount(flat, mass.ravel(), group.size).reshape(group.shape)
    high = np.minimum(np.cumsum(group_mass, axis=1), 1.0)
    low = np.concatenate([np.zeros((len(high), 1)), high[:, :-1]], axis=1)
    kept = np.empty_like(mass)
    kept[rows, order] = mass * (n / k) * tied_inclusion_probability(low[rows, group], high[rows, group], n, k)

    def spread(values: np.ndarray) -> np.ndarray:
        # Between the ends of a group the integral of the values is linear in the exceedance v, A + B v: the square
        # of (A + B v) / v is integrated in closed form against Beta(K + 1, N - K).
        totals = np.stack(
            [
                np.bincount(flat, (mass * v[rows, order]).ravel(), group.size).reshape(group.shape)
                for v in np.moveaxis(values, -1, 0)
            ],
            axis=-1,
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            slope = np.where(group_mass[..., None] > 0, totals / group_mass[..., None], 0.0)
        start = np.cumsum(totals, axis=1) - totals - slope * low[..., None]
        start[:, 0] = 0.0
        moments = [_beta_mass(k + 1 - j, n - k, low, high) for j in range(3)]
        norm = np.cumprod([1.0, n / k, (n - 1) / (k - 1)])
        products = [(slope * slope).sum(-1), 2 * (start * slope).sum(-1), (start * start).sum(-1)]
        return np.sum([c * m * p for c, m, p in zip(norm, moments, products, strict=True)], axis=(0, 2))

    return KeptLaw(responses, weights, kept, k, None if k == n else spread)


def _beta_mass(a: int, b: int, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Probability of a Beta(a, b) between two points, from the tail that keeps its digits."""
    lower = betainc(a, b, high) - betainc(a, b, low)
    return np.where(betainc(a, b, low) < 0.5, lower, betaincc(a, b, low) - betaincc(a, b, high))


@register_law("bkon")
def bkon_law(
    distribution: Any,
    prompts: Any,
    n_candidates: int,
    k: int,
    reward: Callable[[Any, Any], Any] | None = None,
    *,
    resolution: int | None = None,
) -> KeptLaw:
    """BKoN under a continuous p(y|x).

    For the reward of `GaussianModes` itself, -(y - f)^2, the exceedance is a difference of normal CDFs, and the rule
    is Gauss-Legendre in panels of the distance |y - f| that end at the quantiles of the threshold: right to about
    1e-12 for smooth functions. For any other `reward(prompts, responses)` the exceedance is the numeric CDF over
    `resolution` even atoms per mode (`ranked_law`). Where the rewards of the modes' atoms coincide, as by the toy's
    symmetry, its error is of second order in their spacing: about 1e-6 at the default, which grows with N/K. Where
    they interleave it is of about first order: some 5e-4 at the default, 5e-6 at 16 times as many. A `resolution` that
    is given chooses the second way. Raises InputError unless 1 <= K <= N.

    Args:
        distribution: p(y|x), with `quadrature`.
        prompts: (prompts, d).
        n_candidates: N.
        k: K, from 1 to N.
        reward: reward(prompts, responses); by default the distribution's own.
        resolution: even atoms per mode of the numeric CDF.
    """
    _check(n_candidates, k)
    require(distribution, WithQuadrature, "an exact law")
    if reward is None:
        require(distribution, Distribution, "BKoN's law by its own reward")
    reward_of = distribution.reward if reward is None else reward
    if (
        resolution is None
        and isinstance(distribution, GaussianModes)
        and reward_of == distribution.reward
        and _is_inherited(distribution, GaussianModes, "reward", "quadrature")
    ):
        return _distance_law(distribution, prompts, n_candidates, k)
    rule = trapezoid(max(2048, 64 * n_candidates // k) if resolution is None else resolution)
    with jax.enable_x64(True):
        x = jnp.asarray(np.asarray(prompts, np.float64))
        responses, weights = distribution.quadrature(x, rule)
        rewards = reward_of(x, responses)
    return ranked_law(np.asarray(responses), np.asarray(weights), np.asarray(rewards), n_candidates, k)


def _is_inherited(instance: Any, base: type, *methods: str) -> bool:
    """Whether no subclass has overridden these methods of its base class."""
    return all(getattr(type(instance), name) is getattr(base, name) for name in methods)


def exceedance(distribution: GaussianModes, prompts: Any, responses: Any) -> Float[np.ndarray, "prompts q"]:
    """P(R > r(x, y) | x) for the reward -(y - f(x))^2 of `GaussianModes`, by normal CDFs.

    Args:
        distribution: the modes.
        prompts: (prompts, d).
        responses: (prompts, q).
    """
    centre = _centre(distribution, prompts)
    distance = np.abs(np.asarray(responses, np.float64) - centre[:, None])
    return _exceedance(distribution, _prompt_scales(distribution, prompts), distance)


def _centre(distribution: GaussianModes, prompts: Any) -> np.ndarray:
    """f(x) of each prompt, in float64."""
    with jax.enable_x64(True):
        return np.asarray(jax.jit(distribution.centre)(np.asarray(prompts, np.float64)))


def _prompt_scales(distribution: GaussianModes, prompts: Any) -> np.ndarray:
    """Noise of each mode at each prompt, (prompts or 1, modes)."""
    if distribution.prompt_scale is None:
        return np.asarray(distribution.scales)[None]
    with jax.enable_x64(True):
        factor = np.asarray(distribution.prompt_scale(jnp.asarray(np.asarray(prompts, np.float64))))
    return factor[:, None] * np.asarray(distribution.scales)


def _exceedance(distribution: GaussianModes, scales: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """P(|y - f| < distance), (prompts, nodes); both tails are lower ones, so that small distances keep their digits."""
    offsets = np.abs(np.asarray(distribution.offsets))
    d, s = distance[..., None], scales[:, None]
    below = ndtr((d - offsets) / s) - ndtr((-d - offsets) / s)
    return below @ np.asarray(distribution.weights)


def _distance(distribution: GaussianModes, scales: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The distance that a response exceeds with probability 1 - level, (prompts, levels)."""
    top = (np.abs(np.asarray(distribution.offsets)) + 10 * scales).max(1, keepdims=True)
    shape = (len(scales), len(levels))

    def above(d: np.ndarray, level: np.ndarray, row: np.ndarray) -> np.ndarray:
        return _exceedance(distribution, scales[row.astype(int)], d[:, None])[:, 0] - level

    level = np.broadcast_to(levels, shape).ravel()
    row = np.broadcast_to(np.arange(len(scales))[:, None], shape).ravel().astype(float)
    right = np.broadcast_to(top, shape).ravel()
    found = find_root(above, (np.zeros(level.size), right), args=(level, row))
    return np.where(found.success, found.x, np.where(level > 0.5, right, 0.0)).reshape(shape)


def _landmarks(distribution: GaussianModes, scales: np.ndarray) -> np.ndarray:
    """Distances at which panels end so that every mode is resolved, (prompts, edges)."""
    steps = np.concatenate([np.arange(-9.0, 0.0), np.arange(0.0, 10.0)])
    edges = np.abs(np.asarray(distribution.offsets))[:, None] + scales[..., None] * steps
    edges = np.maximum(edges, 0.0).reshape(len(scales), -1)
    return np.concatenate([np.zeros((len(scales), 1)), edges], axis=1)


class _Panels:
    """Gauss-Legendre in panels of d = |y - f|; nodes are all f + d, then all f - d."""

    def __init__(
        self, distribution: GaussianModes, scales: np.ndarray, centre: np.ndarray, edges: np.ndarray
    ):
        edges = np.sort(edges, axis=1)
        nodes, gauss = roots_legendre(_ORDER)
        half = 0.5 * np.diff(edges, axis=1)[..., None]
        self.distance = (0.5 * (edges[:, 1:] + edges[:, :-1])[..., None] + half * nodes).reshape(
            len(edges), -1
        )
        self.step = (half * gauss).reshape(len(edges), -1)
        self.exceedance = _exceedance(distribution, scales, self.distance)
        signed = np.concatenate([self.distance, -self.distance], axis=1)
        z = (signed[..., None] - np.asarray(distribution.offsets)) / scales[:, None]
        density = (np.exp(-0.5 * z**2) / (scales[:, None] * np.sqrt(2 * np.pi))) @ np.asarray(
            distribution.weights
        )
        shape = (len(centre), signed.shape[1])
        self.weights = np.broadcast_to(np.tile(self.step, 2) * density, shape)
        self.responses = np.broadcast_to(centre[:, None] + signed, shape)
        self.density = density[:, : self.distance.shape[1]] + density[:, self.distance.shape[1] :]

    def cumulative(self, values: np.ndarray) -> np.ndarray:
        """Integrals of p-weighted values over the distances up to each node, (prompts, nodes / 2, D)."""
        folded = values[:, : values.shape[1] // 2] + values[:, values.shape[1] // 2 :]
        panels = folded.reshape(len(folded), -1, _ORDER, folded.shape[-1])
        before = np.cumsum(panels.sum(2), axis=1)[:, :, None] - panels.sum(2)[:, :, None]
        return (before + np.einsum("ij,pkjd->pkid", _PARTIAL, panels)).reshape(folded.shape)


def _partial_integrals() -> np.ndarray:
    """Row i: weights, relative to the Gauss weights, of the integral from a panel's left end to its node i."""
    nodes, _ = roots_legendre(_ORDER)
    p = legvander(nodes, _ORDER)
    degree = np.arange(_ORDER)
    integrals = np.empty((_ORDER, _ORDER))  # of P_k from -1 to node i
    integrals[:, 0] = nodes + 1
    integrals[:, 1:] = (p[:, 2:] - p[:, :-2]) / (2 * degree[1:] + 1)
    return integrals @ ((2 * degree[:, None] + 1) / 2 * p[:, :-1].T)


_PARTIAL = _partial_integrals()


def _distance_law(distribution: GaussianModes, prompts: Any, n: int, k: int) -> KeptLaw:
    centre = _centre(distribution, prompts)
    scales = _prompt_scales(distribution, prompts)
    edges = _landmarks(distribution, scales)
    if k == n:
        rule = _Panels(distribution, scales, centre, edges)
        return KeptLaw(rule.responses, rule.weights, rule.weights, k, None)
    tails = np.array([1e-15, 1e-12, 1e-9, 1e-6, 1e-4, 1e-3, 1e-2, 0.05, 0.15, 0.3, 0.5])
    levels = np.concatenate([betaincinv(k + 1, n - k, tails), betainccinv(k + 1, n - k, tails[:-1])])
    rule = _Panels(
        distribution, scales, centre, np.concatenate([edges, _distance(distribution, scales, levels)], axis=1)
    )
    v = rule.exceedance
    kept = np.tile((n / k) * inclusion_probability(v, n, k), 2) * rule.weights
    threshold = _threshold_density(v, n, k) * rule.density * rule.step

    def spread(values: np.ndarray) -> np.ndarray:
        mass = rule.cumulative(rule.weights[: len(v), :, None])
        total = rule.cumulative(rule.weights[..., None] * values)
        conditional = np.divide(total, mass, out=np.zeros_like(total), where=mass > 0)
        return (threshold[..., None] * conditional**2).sum((1, 2))

    return KeptLaw(rule.responses, rule.weights, kept, k, spread)


def _threshold_density(v: np.ndarray, n: int, k: int) -> np.ndarray:
    """Density of Beta(K + 1, N - K), the exceedance of the best rejected candidate."""
    return np.exp(xlogy(k, v) + xlog1py(n - k - 1, -np.minimum(v, 1.0)) - betaln(k + 1, n - k))
