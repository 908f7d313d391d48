"""How wrong is a strategy? EMSE of loss and gradient estimates, gradient alignment, K_eff, mode coverage.

Two ways in. `measure` simulates a strategy on a `Problem` (a distribution, a loss, a model, and prompts), `compare`
several on the same pools, and `exact` gives what they should find for RKoN and BKoN. `estimator_error`, `mode_coverage`
and `similarity_k_eff` take arrays: a user's own losses, gradients and modes. `paired_difference` tells two apart.

A per-prompt gradient is J(x)^T g(y), with J the Jacobian of the model's few outputs and g the loss's gradient in them.
So norms, cosines and traces need one small Gram matrix J J^T a prompt, and no gradient is ever stored: what a trial
leaves behind are sums of g. Errors are measured against the exact expectation over p(y|x) at the given prompts.
Numbers are float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray
from scipy.special import xlogy
from scipy.stats import binom

from mrtsim import montecarlo
from mrtsim.distributions.gaussian_modes import Rule, panels
from mrtsim.errors import InputError
from mrtsim.losses import Loss
from mrtsim.models import in_float64
from mrtsim.selection.exact_laws import KeptLaw, KeptMean, bkon_law, rkon_law
from mrtsim.selection.select import Pool, Strategy, strategy

BATCHES = 50  # of trials: standard errors come from leaving one batch out


@dataclass(frozen=True)
class Measured:
    """A number and its standard error over trials, given the prompts.

    Attributes:
        value: the estimate.
        standard_error: by the jackknife over batches of trials; nan for one batch.
        left_out: the estimate without each batch, (batches,): what `paired_difference` needs.
    """

    value: float
    standard_error: float
    left_out: np.ndarray = field(repr=False, compare=False)


def paired_difference(one: Measured, other: Measured) -> Measured:
    """one - other, where both were measured on the same trials; the errors they share cancel.

    Strategies that choose from the same pools are correlated, at times negatively, and variants of one (two values of
    `alpha`) so much that this error is a small part of either's own.

    Args:
        one, other: of the same batches of trials: from one call of `compare`, from calls of `measure` that differ only
            in the strategy, its K and its options, or from calls of `estimator_error` and `mode_coverage` on arrays
            with the same trials.

    Raises:
        InputError: they have different numbers of batches, so cannot be paired.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> luck = rng.normal(size=(1000, 5))  # of the trial, common to both
        >>> first = estimator_error(luck + 0.05 * rng.normal(size=luck.shape), np.zeros(5)).variance
        >>> second = estimator_error(luck + 0.05 * rng.normal(size=luck.shape), np.zeros(5)).variance
        >>> gap = paired_difference(first, second)
        >>> print(f"{np.hypot(first.standard_error, second.standard_error):.3f} {gap.standard_error:.4f}")
        0.031 0.0023
    """
    if one.left_out.shape != other.left_out.shape:
        raise InputError(
            f"measured on {len(one.left_out)} and {len(other.left_out)} batches of trials: a paired difference needs "
            "the same trials, as from one call of compare"
        )
    return _jackknife(np.concatenate([[one.value - other.value], one.left_out - other.left_out]))


@dataclass(frozen=True)
class ErrorReport:
    """How far an estimator of a per-prompt quantity is from the truth; averages are over prompts.

    For a quantity with D features (a gradient), squares are squared norms and variances are traces.

    Attributes:
        bias_squared: corrected for the trials' own noise (variance / trials) and for that of a sampled truth, with
            ddof-1 variances; unbiased, so it may be negative.
        variance: across trials, ddof 1.
        emse: bias_squared + variance.
        raw_bias_squared: uncorrected: what one gets by squaring the distance of the mean to the truth.
        k_eff: variance of a single kept response over that of the mean of K, both averaged over prompts; None where
            single responses are not known.
        cosine_of_mean: cosine of the mean estimate with the truth, averaged over prompts; None for one feature.
        cosine_of_draws: the same of single trials.
        prompt_bias_squared, prompt_variance, prompt_cosine: per prompt, (prompts,); the cosine is that of the mean.
    """

    bias_squared: Measured
    variance: Measured
    emse: Measured
    raw_bias_squared: float
    k_eff: Measured | None
    cosine_of_mean: Measured | None
    cosine_of_draws: Measured | None
    prompt_bias_squared: np.ndarray
    prompt_variance: np.ndarray
    prompt_cosine: np.ndarray | None


@dataclass(frozen=True)
class CoverageReport:
    """Which modes a strategy keeps, averaged over prompts and trials.

    Attributes:
        share: modes among the K kept over the modes there are.
        total_variation: distance between the kept modes' frequencies in one draw of K and the truth.
        rkon_share, rkon_total_variation: what RKoN would give: not 1 and not 0, since K responses are few.
        kl: KL(kept || truth) in nats, of the frequencies over all trials. (The other way is infinite for BKoN.)
        frequencies: of the modes among the kept, (modes,).
    """

    share: Measured
    total_variation: Measured
    rkon_share: float
    rkon_total_variation: float
    kl: Measured
    frequencies: np.ndarray


@dataclass(frozen=True)
class StrategyReport:
    """Everything `measure` finds about one strategy.

    Attributes:
        loss: the per-prompt mean loss of the K kept as an estimate of E[l | x].
        gradient: the same for its gradient with respect to the parameters.
        batch_gradient: of the mean over prompts; one "prompt".
        coverage: the modes kept.
        similarity: mean similarity of two kept responses (`response_similarity`); nan for K = 1.
        similarity_k_eff: the ranking score of the paper, `similarity_k_eff`; not a calibrated K_eff.
        trials: how many were run.
    """

    strategy: str
    n_candidates: int
    k: int
    trials: int
    loss: ErrorReport
    gradient: ErrorReport
    batch_gradient: ErrorReport
    coverage: CoverageReport | None
    similarity: Measured
    similarity_k_eff: Measured


@dataclass(frozen=True)
class ExactReport:
    """What `measure` should find for RKoN or BKoN, by quadrature.

    Attributes:
        loss, gradient: exact moments, one entry a prompt; gradients in orthonormal coordinates of each prompt's span.
        batch_cosine: cosine of the strategy's expected batch gradient with the true one.
        batch_bias_squared, batch_variance: of the batch gradient.
        weights_error: largest distance of a kept density's mass from 1.
    """

    loss: KeptMean
    gradient: KeptMean
    batch_cosine: float
    batch_bias_squared: float
    batch_variance: float
    weights_error: float


def similarity_k_eff(similarity: Any, k: int) -> Any:
    """The paper's score K / (1 + (K - 1) max(similarity, 0)), from the mean similarity of two kept responses.

    It ranks strategies; it is no calibrated number of responses (i.i.d. draws with K = 8 score 1.6).
    """
    return k / (1 + (k - 1) * np.maximum(similarity, 0.0)) if k > 1 else np.ones_like(similarity)


def response_similarity(responses: Float[Array, "*batch n"]) -> Float[Array, "*batch n n"]:
    """1 - |y_i - y_j| / (largest distance in the pool), the similarity of the paper's simulations."""
    distance = jnp.abs(responses[..., :, None] - responses[..., None, :])
    largest = jnp.max(distance, axis=(-2, -1), keepdims=True)
    return 1 - distance / jnp.where(largest > 0, largest, 1)


def gradient_cosines(
    loss: Loss, model: Any, prompts: Float[Array, "prompts d"], responses: Float[Array, "prompts n"]
) -> Float[Array, "prompts n n"]:
    """Cosines of the gradients of every two responses to a prompt, without the gradients. Traceable.

    For a loss that uses the model only by calling it (`Problem.of`, `factored`).
    """
    outputs, grams = _linearised(model, prompts)
    gradients = Problem(None, model, prompts, loss, outputs=outputs).rows(responses)[..., 1:]
    products = gradients @ grams @ gradients.mT
    norms = jnp.sqrt(jnp.maximum(jnp.diagonal(products, axis1=1, axis2=2), jnp.finfo(products.dtype).tiny))
    return products / (norms[:, :, None] * norms[:, None, :])


# --- arrays in, reports out


def estimator_error(
    estimates: Any,
    truth: Any,
    *,
    singles: Any = None,
    truth_variance: Any = 0.0,
    batches: int = BATCHES,
) -> ErrorReport:
    """Bias^2, variance, EMSE, alignment and K_eff of your own estimates.

    Args:
        estimates: (trials, prompts) or (trials, prompts, features): losses, or gradients.
        truth: (prompts,) or (prompts, features), what they estimate.
        singles: as `estimates`, but from one kept response of each trial, drawn at random: gives K_eff.
        truth_variance: where the truth is itself a mean of n samples, its variance per prompt, s^2/n (a trace);
            (prompts,) or one number.
        batches: groups of trials that standard errors are computed from.

    Returns:
        The report; standard errors are over trials, by leaving out one batch at a time, for these prompts.

    Raises:
        InputError: shapes that do not go together, fewer than two trials, or numbers that are not finite.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> truth = np.array([1.0, 2.0])
        >>> losses = truth[:, None] + 0.3 + rng.normal(size=(4000, 2, 8))  # 8 kept, each 0.3 too high
        >>> report = estimator_error(losses.mean(-1), truth, singles=losses[..., 0])
        >>> print(f"{report.bias_squared.value:.2f} {report.variance.value:.2f} {report.k_eff.value:.0f}")
        0.09 0.12 8
    """
    estimates = np.asarray(estimates, np.float64)
    truth = np.asarray(truth, np.float64)
    if estimates.ndim not in (2, 3) or estimates.shape[1:] != truth.shape:
        raise InputError(
            "estimates must be (trials, prompts) or (trials, prompts, features) with a truth for each prompt: got "
            f"shapes {estimates.shape} and {truth.shape}"
        )
    if len(estimates) < 2:
        raise InputError("at least two trials are needed to tell bias from variance")
    shape = (*estimates.shape[:2], -1)
    single = None
    if singles is not None:
        single = np.asarray(singles, np.float64)
        if single.shape != estimates.shape:
            raise InputError(
                f"singles must have the shape of estimates, {estimates.shape}, not {single.shape}"
            )
    for name, array in (("estimates", estimates), ("truth", truth), ("singles", single)):
        if array is not None and not np.all(np.isfinite(array)):
            raise InputError(f"{name} must be finite numbers")
    target = truth.reshape(len(truth), -1)
    draws = estimates.reshape(shape)
    groups = np.array_split(np.arange(len(draws)), min(batches, len(draws)))
    counts = np.array([len(g) for g in groups], float)
    cosines = None
    if estimates.ndim == 3:
        each = _cosine(draws, target)
        cosines = np.stack([each[g].sum(0) for g in groups])
    sums = _batch_sums(draws - target, groups)
    spread = None
    if single is not None:
        spread = _moments(counts, _batch_sums(single.reshape(shape) - target, groups))[2]
    return _error_report(counts, sums, target, spread, cosines, np.asarray(truth_variance, np.float64))


def mode_coverage(modes: Any, weights: Any, *, batches: int = BATCHES) -> CoverageReport:
    """Coverage of your own selections.

    Args:
        modes: the mode (0, 1, ...) of each kept response, (trials, prompts, k).
        weights: the true probabilities of the modes, (modes,) or (prompts, modes).
        batches: groups of trials that standard errors are computed from.

    Raises:
        InputError: shapes that do not go together, or modes that have no probability.
    """
    modes = np.asarray(modes)
    if modes.ndim != 3 or not np.issubdtype(modes.dtype, np.integer):
        raise InputError(f"modes must be whole numbers (trials, prompts, k), not {modes.dtype} {modes.shape}")
    trials, prompts, k = modes.shape
    weights = np.asarray(weights, np.float64)
    if weights.shape[:-1] not in ((), (prompts,)):
        raise InputError(f"weights must be (modes,) or ({prompts}, modes), not {weights.shape}")
    if modes.min() < 0 or modes.max() >= weights.shape[-1]:
        raise InputError(f"modes must lie between 0 and {weights.shape[-1] - 1}: there are that many weights")
    weights = np.broadcast_to(weights, (prompts, weights.shape[-1]))
    groups = np.array_split(np.arange(trials), min(batches, trials))
    frequency, share, variation = [], [], []
    for group in groups:
        counts = (modes[group][..., None] == np.arange(weights.shape[-1])).sum(2) / k
        frequency.append(counts.sum(0))
        share.append((counts > 0).mean(-1).sum(0))
        variation.append(0.5 * np.abs(counts - weights).sum((0, 2)))
    sizes = np.array([len(g) for g in groups], float)
    return _coverage_report(sizes, np.stack(frequency), np.stack(share), np.stack(variation), weights, k)


class _Sums(NamedTuple):
    """Of errors over the trials of each batch: (batches, prompts, D) and of squared norms (batches, prompts)."""

    error: np.ndarray
    square: np.ndarray


def _batch_sums(errors: np.ndarray, groups: list[np.ndarray]) -> _Sums:
    return _Sums(
        np.stack([errors[g].sum(0) for g in groups]),
        np.stack([np.square(errors[g]).sum((0, 2)) for g in groups]),
    )


def _cosine(vectors: np.ndarray, truth: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=-1) * np.linalg.norm(truth, axis=-1)
    return np.divide((vectors * truth).sum(-1), norms, out=np.zeros_like(norms), where=norms > 0)


def _without_one(sums: np.ndarray) -> np.ndarray:
    """First the sum over all batches, then the sums that leave one out, (1 + batches, ...)."""
    total = sums.sum(0, keepdims=True)
    return np.concatenate([total, total - sums])


def _jackknife(values: np.ndarray, *, correct: bool = False) -> Measured:
    """From a statistic of all batches, followed by those that leave one out; `correct` removes the 1/n bias."""
    whole, rest = float(values[0]), values[1:]
    b = len(rest)
    error = float(np.sqrt((b - 1) / b * np.square(rest - rest.mean()).sum())) if b > 1 else float("nan")
    return Measured(b * whole - (b - 1) * float(rest.mean()) if correct and b > 1 else whole, error, rest)


def _moments(counts: np.ndarray, sums: _Sums) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean error (j, prompts, D), its squared norm and the ddof-1 variance (j, prompts), in all and leaving one out."""
    n = _without_one(counts)[:, None]
    mean = _without_one(sums.error) / n[..., None]
    raw = np.square(mean).sum(-1)
    spread = (_without_one(sums.square) / n - raw) * n
    # Leaving out one trial of two leaves no variance.
    return mean, raw, np.divide(spread, n - 1, out=np.full_like(spread, np.nan), where=n > 1)


def _error_report(
    counts: np.ndarray,
    sums: _Sums,
    truth: np.ndarray,
    spread: np.ndarray | None,
    cosines: np.ndarray | None,
    truth_variance: Any = 0.0,
) -> ErrorReport:
    """`spread` is the variance of a single kept response, as `_moments` gives variances."""
    mean, raw, variance = _moments(counts, sums)
    n = _without_one(counts)[:, None]
    bias = raw - variance / n - truth_variance
    k_eff = None
    if spread is not None:
        k_eff = _jackknife(spread.mean(1) / variance.mean(1), correct=True)
    of_mean = of_draws = prompt_cosine = None
    if cosines is not None:
        each = _cosine(mean + truth, truth)
        prompt_cosine = each[0]
        of_mean = _jackknife(each.mean(1), correct=True)
        of_draws = _jackknife((_without_one(cosines) / n).mean(1))
    return ErrorReport(
        bias_squared=_jackknife(bias.mean(1)),
        variance=_jackknife(variance.mean(1)),
        emse=_jackknife((bias + variance).mean(1)),
        raw_bias_squared=float(raw[0].mean()),
        k_eff=k_eff,
        cosine_of_mean=of_mean,
        cosine_of_draws=of_draws,
        prompt_bias_squared=bias[0],
        prompt_variance=variance[0],
        prompt_cosine=prompt_cosine,
    )


def _coverage_report(
    counts: np.ndarray,
    frequency: np.ndarray,
    share: np.ndarray,
    variation: np.ndarray,
    weights: np.ndarray,
    k: int,
) -> CoverageReport:
    n = _without_one(counts)
    kept = _without_one(frequency) / n[:, None, None]
    kl = (xlogy(kept, kept) - xlogy(kept, weights)).sum(-1).mean(1)
    draws = np.arange(k + 1)
    chance = np.asarray(binom.pmf(draws, k, weights[..., None]))
    return CoverageReport(
        share=_jackknife(_without_one(share).mean(1) / n),
        total_variation=_jackknife(_without_one(variation).mean(1) / n),
        rkon_share=float((1 - chance[..., 0]).mean()),
        rkon_total_variation=float(
            0.5 * (chance * np.abs(draws / k - weights[..., None])).sum((-1, -2)).mean()
        ),
        kl=_jackknife(kl, correct=True),
        frequencies=kept[0].mean(0),
    )


# --- simulation


class Problem(eqx.Module):
    """What is estimated: a loss of a model on prompts, with its exact expectation over p(y|x). Made by `Problem.of`.

    Attributes:
        true_loss: E[l | x], (prompts,).
        true_gradient: E[dl/do | x] in the model's outputs o (or in the parameters, if not factored), (prompts, O).
        factor: L with L L^T = J J^T, (prompts, O, O): L^T g are coordinates of J^T g in an orthonormal basis. None if
            not factored.
        true_batch: the mean over prompts of the expected gradient, raveled.
        truth_error: numerical error of the true loss and gradient, the largest over prompts.
    """

    distribution: Any
    model: Any
    prompts: Any
    loss: Loss = eqx.field(static=True)
    reward: Callable[[Any, Any], Any] | None = eqx.field(static=True, default=None)
    factored: bool = eqx.field(static=True, default=True)
    outputs: Any = None
    factor: Any = None
    true_loss: Any = None
    true_gradient: Any = None
    true_batch: Any = None
    truth_error: Any = None

    @classmethod
    def of(
        cls,
        distribution: Any,
        loss: Loss,
        model: Any,
        prompts: Any,
        *,
        reward: Callable[[Any, Any], Any] | None = None,
        factored: bool = True,
        rule: Rule | None = None,
    ) -> Problem:
        """Pose a problem: compute the truth and the per-prompt Gram matrices.

        Args:
            distribution: p(y|x), as in `mrtsim.distributions.gaussian_modes`.
            loss: loss(model, prompts (P, d), responses (P, K)) -> (P, K).
            model: any pytree; its floating-point arrays are the parameters, taken in float64.
            prompts: (P, d).
            reward: reward(prompts, responses) to select by; the distribution's own by default.
            factored: whether the loss uses the model only by calling it on the prompts, and each row of the outputs
                for the losses of that prompt alone. If not (a weight penalty, say), gradients are taken in the
                parameters: a trial then costs prompts x parameters numbers, and `exact` is not available.
            rule: quadrature for the truth where not factored; by default composite, 600 nodes a mode.

        Raises:
            InputError: a factored loss reaches into the model.
        """
        with jax.enable_x64(True):
            model = in_float64(model)
            prompts = jnp.asarray(np.asarray(prompts, np.float64))
            problem = cls(distribution, model, prompts, loss, reward, factored)
            if factored:
                # Filled up, so that problems of any size share a program.
                filled = np.pad(np.asarray(prompts), ((0, -len(prompts) % 64), (0, 0)), mode="edge")
                linearised = _linearised(model, filled)
                outputs, grams = jax.tree.map(lambda a: np.asarray(a)[: len(prompts)], linearised)
                problem = replace(problem, outputs=outputs, factor=_factors(grams))
                try:
                    values = distribution.expectation(partial(_rows_of, problem), prompts)
                except AttributeError as error:
                    raise InputError(
                        f"the loss reaches into the model ({error}): pass factored=False, or let it only call the model"
                    ) from error
                # NumPy's float is an array to JAX; Python's would be static, and every problem its own program.
                truth, error = values.value, np.max(values.error)
            else:
                responses, weights = distribution.quadrature(prompts, rule or panels(75, 8))
                truth, error = np.asarray(_weighted(problem, responses, weights)), np.float64("nan")
            problem = replace(
                problem,
                true_loss=truth[:, 0],
                true_gradient=truth[:, 1:],
                true_batch=np.asarray(_batches(problem, truth[None, :, 1:]))[0],
                truth_error=error,
            )
            # As NumPy: a float64 JAX array that leaves the 64-bit mode degrades silently.
            return jax.tree.map(lambda a: np.asarray(a) if isinstance(a, jax.Array) else a, problem)

    def rows(self, responses: Float[Array, "prompts q"]) -> Float[Array, "prompts q columns"]:
        """Loss of each response, followed by its gradient in the outputs (or in the parameters, if not factored)."""
        if not self.factored:
            params, unravel, static = _raveled(self.model)

            def of_prompt(x: Array, y: Array) -> Array:
                losses = lambda p: self.loss(eqx.combine(unravel(p), static), x[None], y[None])[0]  # noqa: E731
                return jnp.concatenate([losses(params)[:, None], jax.jacrev(losses)(params)], axis=1)

            return jax.vmap(of_prompt)(jnp.asarray(self.prompts), responses)
        q = responses.shape[1]
        outputs, prompts = jax.tree.map(lambda o: jnp.repeat(o, q, axis=0), (self.outputs, self.prompts))

        def total(outputs: Any) -> tuple[Array, Array]:
            losses = self.loss(lambda _: outputs, prompts, responses.reshape(-1, 1))[:, 0]
            return losses.sum(), losses

        gradient, losses = jax.grad(total, has_aux=True)(outputs)
        return jnp.concatenate([losses[:, None], _rows(gradient)], axis=1).reshape(*responses.shape, -1)

    def coordinates(
        self, gradient: Float[Array | np.ndarray, "prompts *k o"]
    ) -> Float[Array, "prompts *k r"]:
        """Gradients in coordinates whose Euclidean norm and inner product are those of the parameters' gradients."""
        if self.factor is None:
            return jnp.asarray(gradient)
        return jnp.einsum("p...o,por->p...r", gradient, self.factor)

    def batch(self, gradient: Float[Array, "prompts o"]) -> Float[Array, " parameters"]:
        """The gradient of the mean over prompts, raveled."""
        if not self.factored:
            return gradient.mean(0)
        params, unravel, static = _raveled(self.model)
        prompts = jnp.asarray(self.prompts)
        _, pull = jax.vjp(lambda p: _rows(eqx.combine(unravel(p), static)(prompts)), params)
        return pull(gradient / len(gradient))[0]


@eqx.filter_jit
def _rows_of(problem: Problem, responses: Array) -> Array:
    return problem.rows(responses)


@eqx.filter_jit
def _values_of(problem: Problem, responses: Any) -> tuple[Array, Array, Array]:
    """Losses, gradients in the outputs and in coordinates."""
    rows = problem.rows(responses)
    return rows[..., 0], rows[..., 1:], problem.coordinates(rows[..., 1:])


def _rows(tree: Any) -> Float[Array, "rows o"]:
    """The leaves of a pytree with a common leading axis, side by side."""
    leaves = jax.tree.leaves(tree)
    return jnp.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


@eqx.filter_jit
def _weighted(problem: Problem, responses: Array, weights: Array) -> Float[Array, "prompts columns"]:
    """Each prompt's weighted sum of `rows` in the parameters, without the rows."""
    params, unravel, static = _raveled(problem.model)

    def of_prompt(row: tuple[Array, Array, Array]) -> Array:
        x, y, w = row
        loss = lambda p: w @ problem.loss(eqx.combine(unravel(p), static), x[None], y[None])[0]  # noqa: E731
        value, gradient = jax.value_and_grad(loss)(params)
        return jnp.concatenate([value[None], gradient])

    return jax.lax.map(of_prompt, (problem.prompts, responses, weights))


def _raveled(model: Any) -> tuple[Array, Callable[[Array], Any], Any]:
    """The raveled parameters, their inverse, and the rest of the model."""
    params, static = eqx.partition(model, eqx.is_inexact_array)
    return *ravel_pytree(params), static


@eqx.filter_jit
def _linearised(
    model: Any, prompts: Float[Array | np.ndarray, "prompts d"]
) -> tuple[Any, Float[Array, "prompts o o"]]:
    """The model's outputs, and J J^T of each prompt's Jacobian J (outputs x parameters)."""
    params, unravel, static = _raveled(model)

    def gram(prompt: Float[Array, " d"]) -> Float[Array, "o o"]:
        jacobian = jax.jacrev(lambda p: _rows(eqx.combine(unravel(p), static)(prompt[None]))[0])(params)
        return jacobian @ jacobian.T

    # So few Jacobians at a time stay in the cache; chunks of one size, since `batch_size` would compile the rest again.
    filled = jnp.pad(prompts, ((0, -len(prompts) % 4), (0, 0)), mode="edge")
    grams = jax.lax.map(jax.vmap(gram), filled.reshape(-1, 4, prompts.shape[-1]))
    return model(prompts), grams.reshape(-1, *grams.shape[2:])[: len(prompts)]


def _factors(grams: Float[np.ndarray, "prompts o o"]) -> Float[np.ndarray, "prompts o o"]:
    """L with L L^T = J J^T. In NumPy: XLA's own eigensolver hangs when two threads run it at once on CPU."""
    values, vectors = np.linalg.eigh(grams)
    return vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]


@eqx.filter_jit
def _batches(
    problem: Problem, gradients: Float[Array | np.ndarray, "n prompts o"]
) -> Float[Array, "n parameters"]:
    return jax.lax.map(problem.batch, gradients)


@eqx.filter_jit
def _in_parameters(
    problem: Problem, gradients: Float[Array | np.ndarray, "batches settings prompts o"]
) -> tuple[Array, Array, Array]:
    """Coordinates of gradients in the outputs, (batches, settings, prompts, r), and of the true one, (prompts, r).

    And the gradients of the mean over prompts in the parameters, (batches, settings, parameters).
    """
    # Batches stand where kept responses do.
    vectors = jnp.moveaxis(problem.coordinates(jnp.moveaxis(gradients, 2, 0)), 0, 2)
    each = _batches(problem, gradients.reshape(-1, *gradients.shape[2:]))
    return vectors, problem.coordinates(problem.true_gradient), each.reshape(*gradients.shape[:2], -1)


class Setting(NamedTuple):
    """A way to keep responses: a registered strategy, K, and the strategy's options (`alpha`, `temperature`)."""

    strategy: str
    k: int
    options: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class _Run:
    """What the compiled trial depends on beside arrays.

    `groups` are a strategy, a K and the number of options' values that it keeps K by, side by side; each of the
    `settings` is the first response it keeps in that row, and its K.
    """

    groups: tuple[tuple[Strategy, int, int], ...]
    settings: tuple[tuple[int, int], ...]
    n_candidates: int
    trials: int
    chunk: int

    @property
    def ks(self) -> np.ndarray:
        """K of each setting."""
        return np.array([k for _, k in self.settings])

    @property
    def columns(self) -> np.ndarray:
        """The kept responses of each setting, side by side, as places among those of the groups."""
        return np.concatenate([np.arange(first, first + k) for first, k in self.settings])


def _chunk(
    key: PRNGKeyArray, problem: Problem, run: _Run, options: list[dict[str, Array]]
) -> dict[str, Array]:
    """Sums over a chunk of trials. Their pools come from one draw: a key a trial would double the compile time."""
    pool_key, strategy_key = jax.random.split(key)
    distribution = problem.distribution
    prompts = jnp.broadcast_to(problem.prompts, (run.chunk, *problem.prompts.shape))
    pool, modes = distribution.sample_responses(pool_key, prompts, run.n_candidates)
    needs = {need for chosen, *_ in run.groups for need in chosen.needs}
    geometry = needs & {"embeddings", "similarity", "distance"}
    candidates = Pool(
        rewards=(problem.reward or distribution.reward)(prompts, pool),
        embeddings=pool[..., None] if geometry else None,
        similarity=response_similarity(pool) if geometry else None,
    )
    kept = []
    for (chosen, k, count), given in zip(run.groups, options, strict=True):
        select = partial(chosen, strategy_key if chosen.random else None, candidates, k)
        # (options, trials, prompts, k), then the options side by side.
        each = jax.vmap(lambda given, select=select: select(**given), axis_size=count)(given)
        kept.append(jnp.moveaxis(each, 0, -2).reshape(*pool.shape[:-1], count * k))
    picked = jnp.concatenate(kept, axis=-1)[..., run.columns]
    each = jax.vmap(partial(_trial, problem, run.ks))(pool, modes, picked)
    return jax.tree.map(lambda a: a.sum(0), each)


def _trial(
    problem: Problem, ks: np.ndarray, pool: Float[Array, "prompts n"], modes: Array, kept: Array
) -> dict[str, Array]:
    """Errors of each setting (settings, ...) in one trial; `kept` (prompts, sum of ks) are theirs side by side."""
    share = np.repeat(np.eye(len(ks)) / ks, ks, axis=1)  # of each kept response in the mean of a setting

    def mean(kept: Array) -> Array:
        return jnp.einsum("sq,pq...->sp...", share, kept)

    responses = jnp.take_along_axis(pool, kept, axis=1)
    rows = problem.rows(responses)
    # Errors of each kept response: the loss, and the gradient in orthonormal coordinates.
    loss = rows[..., 0] - problem.true_loss[:, None]
    gradient = rows[..., 1:] - problem.true_gradient[:, None]
    vector = problem.coordinates(gradient)
    truth = problem.coordinates(problem.true_gradient)
    means = {"loss": mean(loss), "gradient": mean(gradient)}
    vectors = mean(vector)
    batch = jax.vmap(problem.batch)(means["gradient"] + problem.true_gradient)
    out = means | {
        "loss_square": jnp.square(means["loss"]),
        "loss_single": mean(jnp.square(loss)),
        "gradient_square": jnp.square(vectors).sum(-1),
        "gradient_single": mean(jnp.square(vector).sum(-1)),
        "cosine": _traced_cosine(vectors + truth, truth),
        "batch_square": jnp.square(batch - problem.true_batch).sum(-1),
        "batch_cosine": _traced_cosine(batch, problem.true_batch),
        "similarity": _kept_similarity(pool, responses, ks),
    }
    weights = _mode_weights(problem.distribution, problem.prompts)
    if weights is not None:
        kept_modes = jnp.take_along_axis(modes, kept, axis=1)
        frequency = mean((kept_modes[..., None] == jnp.arange(weights.shape[-1])).astype(loss.dtype))
        out["modes"] = frequency
        out["share"] = (frequency > 0).mean(-1, dtype=loss.dtype)
        out["variation"] = 0.5 * jnp.abs(frequency - weights).sum(-1)
    return out


def _kept_similarity(
    pool: Float[Array, "prompts n"], responses: Float[Array, "prompts q"], ks: np.ndarray
) -> Float[Array, " settings"]:
    """Mean `response_similarity` of two responses that a setting keeps; 1 where it keeps one."""
    # Settings that keep fewer are filled up with their last response, which then has no weight.
    place = np.minimum(np.arange(ks.max()), ks[:, None] - 1)
    counts = (np.arange(ks.max()) < ks[:, None]).astype(float)
    weights = counts[:, :, None] * counts[:, None, :] / np.maximum(ks * (ks - 1), 1)[:, None, None]
    kept = responses[:, place + (np.cumsum(ks) - ks)[:, None]]
    distance = jnp.abs(kept[..., :, None] - kept[..., None, :])
    largest = jnp.maximum(pool.max(1) - pool.min(1), jnp.finfo(pool.dtype).tiny)
    return 1 - (jnp.einsum("psij,sij->ps", distance, weights) / largest[:, None]).mean(0)


def _traced_cosine(vectors: Array, truth: Array) -> Array:
    norms = jnp.linalg.norm(vectors, axis=-1) * jnp.linalg.norm(truth, axis=-1)
    return jnp.where(norms > 0, (vectors * truth).sum(-1) / jnp.where(norms > 0, norms, 1), 0)


def _mode_weights(distribution: Any, prompts: Any) -> Any:
    """Probabilities of the modes, (modes,) or (prompts, modes); None for a distribution without named modes."""
    if hasattr(distribution, "weights"):
        return jnp.asarray(distribution.weights)
    if hasattr(distribution, "probabilities"):
        return distribution.quadrature(jnp.asarray(prompts))[1]
    return None


def _batch_of_trials(
    key: PRNGKeyArray, problem: Problem, run: _Run, options: list[dict[str, Array]]
) -> dict[str, Array]:
    """Sums over the trials of one batch; a chunk at a time, so that memory does not grow with the trials."""

    chunk = jax.jit(lambda key: _chunk(key, problem, run, options), inline=True)  # traced once for both uses

    def step(total: Any, key: PRNGKeyArray) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, chunk(key)), None

    shapes = jax.eval_shape(chunk, key)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.scan(step, zeros, jax.random.split(key, run.trials // run.chunk))[0]


def measure(
    problem: Problem,
    name: str,
    *,
    n_candidates: int,
    k: int,
    trials: int,
    key: PRNGKeyArray,
    options: Mapping[str, Any] | None = None,
    batches: int = BATCHES,
    replicates: Callable[..., Any] = montecarlo.replicate,
) -> StrategyReport:
    """Simulate a strategy: in each trial every prompt gets a fresh pool of N, and K are kept.

    With the same key, strategies see the same pools; `compare` simulates several at once, which is faster. Memory does
    not grow with `trials`.

    Args:
        problem: what is estimated.
        name: a registered strategy. Where it asks for similarity it gets `response_similarity`, for embeddings the
            responses themselves.
        n_candidates: N.
        k: K.
        trials: rounded up to a multiple of `batches`.
        key: JAX random key.
        options: keyword options of the strategy (`alpha`, `temperature`).
        batches: groups of trials that standard errors are computed from.
        replicates: runs the batches, as `montecarlo.replicate(fn, key, n, *args)` does; a sweep's `replicates` with
            its label bound stores them too.

    Raises:
        InputError: an unknown strategy, K not in 1..N, or fewer than two trials.
    """
    setting = Setting(name, k, options or {})
    return compare(
        problem,
        [setting],
        n_candidates=n_candidates,
        trials=trials,
        key=key,
        batches=batches,
        replicates=replicates,
    )[0]


def compare(
    problem: Problem,
    settings: Sequence[Setting],
    *,
    n_candidates: int,
    trials: int,
    key: PRNGKeyArray,
    batches: int = BATCHES,
    replicates: Callable[..., Any] = montecarlo.replicate,
) -> list[StrategyReport]:
    """`measure` several strategies, Ks and options on the same pools, in one program; one report a setting, in order.

    Arguments and errors as for `measure`. Memory grows with the sum of the Ks.

    Example:
        >>> import jax
        >>> from mrtsim.distributions.gaussian_modes import GaussianModes
        >>> from mrtsim.models import MDN
        >>> from mrtsim.losses import mdn_nll
        >>> toy = GaussianModes()
        >>> prompts = toy.sample_prompts(jax.random.key(0), 10)
        >>> problem = Problem.of(toy, mdn_nll, MDN(jax.random.key(1)), prompts)
        >>> settings = [Setting("rkon", 4), Setting("bkon", 4), Setting("dbkon", 4, {"alpha": 0.2})]
        >>> reports = compare(problem, settings, n_candidates=16, trials=400, key=jax.random.key(2))
        >>> print(*(f"{r.strategy} {r.coverage.share.value:.1f}" for r in reports))
        rkon 0.8 bkon 0.4 dbkon 1.0
    """
    if not settings:
        raise InputError("no settings to compare: give at least one strategy with its K")
    for _, k, _ in settings:
        if not 1 <= k <= n_candidates:
            raise InputError(f"k = {k} must lie between 1 and n_candidates = {n_candidates}")
    if trials < 2:
        raise InputError(f"trials = {trials} must be at least 2, to tell bias from variance")
    batches = min(batches, trials)
    per_batch = -(-trials // batches)
    chunk = next(c for c in (8, 4, 2, 1) if per_batch % c == 0)
    run, options = _groups(settings, n_candidates, per_batch, chunk)
    with jax.enable_x64(True):
        sums = replicates(_batch_of_trials, key, batches, problem, run, options)
        vectors, truth, parameters = map(np.asarray, _in_parameters(problem, sums["gradient"]))
        weights = _mode_weights(problem.distribution, problem.prompts)
        if weights is not None:
            weights = np.broadcast_to(np.asarray(weights), (len(truth), weights.shape[-1]))
    sums["vector"], sums["batch"] = vectors, parameters[:, :, None]
    counts = np.full(batches, float(per_batch))
    return [
        _report(
            setting,
            n_candidates,
            counts,
            {name: array[:, place] for name, array in sums.items()},
            problem,
            truth,
            weights,
        )
        for place, setting in enumerate(settings)
    ]


def _groups(
    settings: Sequence[Setting], n_candidates: int, trials: int, chunk: int
) -> tuple[_Run, list[dict[str, np.ndarray]]]:
    """Settings of one strategy and K share its code, with their options as a batch axis; a nested strategy picks once.

    The second part is the values of the options of each group, (options,).
    """
    members: dict[tuple[Strategy, int | None, tuple[str, ...]], list[int]] = {}
    for index, (name, k, options) in enumerate(settings):
        chosen = strategy(name)
        same = (chosen, None if chosen.nested else k, tuple(sorted(options)))
        members.setdefault(same, []).append(index)
    groups: list[tuple[Strategy, int, int]] = []
    given: list[dict[str, np.ndarray]] = []
    places: dict[int, tuple[int, int]] = {}
    start = 0
    for (chosen, _, names), indices in members.items():
        largest = max(settings[i].k for i in indices)
        values = [tuple(float(settings[i].options[name]) for name in names) for i in indices]
        rows = list(dict.fromkeys(values))
        for i, row in zip(indices, values, strict=True):
            places[i] = (start + rows.index(row) * largest, settings[i].k)
        groups.append((chosen, largest, len(rows)))
        given.append({name: np.array([row[i] for row in rows]) for i, name in enumerate(names)})
        start += largest * len(rows)
    run = _Run(tuple(groups), tuple(places[i] for i in range(len(settings))), n_candidates, trials, chunk)
    return run, given


def _report(
    setting: Setting,
    n_candidates: int,
    counts: np.ndarray,
    sums: dict[str, np.ndarray],
    problem: Problem,
    truth: np.ndarray,
    weights: np.ndarray | None,
) -> StrategyReport:
    """From the sums over each batch of trials; `truth` in coordinates, `weights` of the modes (prompts, modes)."""
    n = _without_one(counts)

    def errors(quantity: str, error: np.ndarray, target: np.ndarray) -> ErrorReport:
        pair = _Sums(error, sums[f"{quantity}_square"])
        _, raw, variance = _moments(counts, pair)
        # The second moment of one kept response, less the square of their common mean.
        spread = _without_one(sums[f"{quantity}_single"]) / n[:, None] - (raw - variance / n[:, None])
        return _error_report(counts, pair, target, spread, sums["cosine"] if quantity == "gradient" else None)

    coverage = None
    if weights is not None:
        coverage = _coverage_report(
            counts, sums["modes"], sums["share"], sums["variation"], weights, setting.k
        )
    similarity = _without_one(sums["similarity"]) / n if setting.k > 1 else np.full(3, np.nan)
    return StrategyReport(
        strategy=setting.strategy,
        n_candidates=n_candidates,
        k=setting.k,
        trials=int(counts.sum()),
        loss=errors("loss", sums["loss"][..., None], problem.true_loss[:, None]),
        gradient=errors("gradient", sums["vector"], truth),
        batch_gradient=_error_report(
            counts,
            _Sums(sums["batch"], sums["batch_square"][:, None]),
            problem.true_batch[None],
            None,
            sums["batch_cosine"][:, None],
        ),
        coverage=coverage,
        similarity=_jackknife(similarity),
        similarity_k_eff=_jackknife(similarity_k_eff(similarity, setting.k)),
    )


def exact(
    problem: Problem, name: str, *, n_candidates: int, k: int, resolution: int | None = None, chunk: int = 32
) -> ExactReport:
    """The exact counterpart of `measure` for "rkon" and "bkon", by quadrature over the kept responses' law.

    `resolution` as in `bkon_law`; `chunk` prompts are worked on at a time.

    Raises:
        InputError: another strategy, a problem that is not factored, or K not in 1..N.
    """
    if name not in ("rkon", "bkon"):
        raise InputError(f"exact results exist for rkon and bkon, not for {name!r}: measure it")
    if not problem.factored:
        raise InputError("exact results need a factored problem: see Problem.of")
    parts: list[tuple[KeptMean, KeptMean]] = []
    shifts: list[np.ndarray] = []
    mass = 0.0
    with jax.enable_x64(True):
        for start in range(0, len(problem.prompts), chunk):
            rows = slice(start, start + chunk)
            part = [jax.tree.map(lambda a, rows=rows: a[rows], a) for a in _of_prompts(problem)]
            piece = eqx.tree_at(_of_prompts, problem, part)
            law = _law(piece, name, n_candidates, k, resolution)
            mass = max(mass, float(np.abs(law.kept.sum(1) - 1).max()))
            losses, gradients, vectors = map(np.asarray, _values_of(piece, law.responses))
            parts.append((law.moments(losses), law.moments(vectors)))
            shifts.append(np.einsum("pq,pqo->po", law.kept, gradients))
        kept = np.asarray(_batches(problem, np.concatenate(shifts)[None]))[0]
    loss, gradient = (_join(moments) for moments in zip(*parts, strict=True))
    true = problem.true_batch
    return ExactReport(
        loss,
        gradient,
        float(_cosine(kept, true)),
        float(np.square(kept - true).sum()),
        float(gradient.variance.sum() / len(gradient.variance) ** 2),
        mass,
    )


def _of_prompts(problem: Problem) -> list[Any]:
    return [problem.prompts, problem.outputs, problem.factor]


def _law(problem: Problem, name: str, n_candidates: int, k: int, resolution: int | None) -> KeptLaw:
    if name == "rkon":
        return rkon_law(problem.distribution, problem.prompts, k)
    return bkon_law(
        problem.distribution, problem.prompts, n_candidates, k, problem.reward, resolution=resolution
    )


def _join(moments: tuple[KeptMean, ...]) -> KeptMean:
    fields = ("truth", "mean", "single_variance", "variance")
    return KeptMean(*(np.concatenate([getattr(m, f) for m in moments]) for f in fields))
