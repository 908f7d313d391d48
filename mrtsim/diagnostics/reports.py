"""Reports on arrays: bias, variance, EMSE, alignment and K_eff of estimates, and the modes that a selection keeps.

A user's own losses, gradients and modes go in; NumPy alone is needed (and SciPy, for mode coverage and intervals).
`paired_difference` tells two apart.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from mrtsim.errors import InputError
from mrtsim.estimates import Estimate

BATCHES = 50  # of trials: standard errors come from leaving one batch out


@dataclass(frozen=True)
class TrialEstimate(Estimate):
    """An estimate over trials, given the prompts, with a 95 % interval by the jackknife over batches of trials.

    `left_out` are the estimates without each batch, (batches,): what `paired_difference` needs.
    """

    left_out: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False, compare=False)


def paired_difference(one: TrialEstimate, other: TrialEstimate) -> TrialEstimate:
    """one - other, where both were measured on the same trials; the errors they share cancel.

    Strategies that choose from the same pools are correlated, at times negatively, and variants of one (two values of
    `alpha`) so much that this error is a small part of either's own.

    Args:
        one: of the same batches of trials as `other`: from one call of `compare_strategies`, from calls of `measure`
            that differ only in the strategy, its K and its options, or from calls of `estimator_error` and
            `mode_coverage` on arrays with the same trials.
        other: what is subtracted.

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
            "the same trials, as from one call of compare_strategies"
        )
    return jackknife(np.concatenate([[one.value - other.value], one.left_out - other.left_out]))


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

    bias_squared: TrialEstimate
    variance: TrialEstimate
    emse: TrialEstimate
    raw_bias_squared: float
    k_eff: TrialEstimate | None
    cosine_of_mean: TrialEstimate | None
    cosine_of_draws: TrialEstimate | None
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

    share: TrialEstimate
    total_variation: TrialEstimate
    rkon_share: float
    rkon_total_variation: float
    kl: TrialEstimate
    frequencies: np.ndarray


def similarity_k_eff(similarity: Any, k: int) -> Any:
    """The paper's score K / (1 + (K - 1) max(similarity, 0)), from the mean similarity of two kept responses.

    It ranks strategies; it is no calibrated number of responses (i.i.d. draws with K = 8 score 1.6).
    """
    return k / (1 + (k - 1) * np.maximum(similarity, 0.0)) if k > 1 else np.ones_like(similarity)


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
        each = cosine(draws, target)
        cosines = np.stack([each[g].sum(0) for g in groups])
    sums = _batch_sums(draws - target, groups)
    spread = None
    if single is not None:
        spread = moments(counts, _batch_sums(single.reshape(shape) - target, groups))[2]
    return error_report(counts, sums, target, spread, cosines, np.asarray(truth_variance, np.float64))


def mode_coverage(modes: Any, weights: Any, *, batches: int = BATCHES) -> CoverageReport:
    """Mode coverage of your own selections.

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
    return coverage_report(sizes, np.stack(frequency), np.stack(share), np.stack(variation), weights, k)


class Sums(NamedTuple):
    """Sums over the trials of each batch: of errors (batches, prompts, D), of squared norms (batches, prompts)."""

    error: np.ndarray
    square: np.ndarray


def _batch_sums(errors: np.ndarray, groups: list[np.ndarray]) -> Sums:
    return Sums(
        np.stack([errors[g].sum(0) for g in groups]),
        np.stack([np.square(errors[g]).sum((0, 2)) for g in groups]),
    )


def cosine(one: Any, other: Any) -> Any:
    """Cosines of vectors along the last axis, of NumPy or JAX arrays; 0 where either vector is zero."""
    xp = one.__array_namespace__()
    norms = xp.linalg.vector_norm(one, axis=-1) * xp.linalg.vector_norm(other, axis=-1)
    return xp.where(norms > 0, (one * other).sum(-1) / xp.where(norms > 0, norms, 1), 0)


def without_one(sums: np.ndarray) -> np.ndarray:
    """First the sum over all batches, then the sums that leave one out, (1 + batches, ...)."""
    total = sums.sum(0, keepdims=True)
    return np.concatenate([total, total - sums])


def jackknife(values: np.ndarray, *, correct: bool = False) -> TrialEstimate:
    """An estimate from a statistic of all batches, followed by those that leave one out; `correct` removes 1/n bias."""
    whole, rest = float(values[0]), values[1:]
    b = len(rest)
    if b < 2:
        return TrialEstimate(whole, left_out=rest)
    error = float(np.sqrt((b - 1) / b * np.square(rest - rest.mean()).sum()))
    value = b * whole - (b - 1) * float(rest.mean()) if correct else whole
    interval = Estimate.from_standard_error(value, error, float(b - 1))
    return TrialEstimate(value, interval.low, interval.high, error, rest)


def moments(counts: np.ndarray, sums: Sums) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean error (j, prompts, D), its squared norm and the ddof-1 variance (j, prompts), in all and leaving one out."""
    n = without_one(counts)[:, None]
    mean = without_one(sums.error) / n[..., None]
    raw = np.square(mean).sum(-1)
    spread = (without_one(sums.square) / n - raw) * n
    # Leaving out one trial of two leaves no variance.
    return mean, raw, np.divide(spread, n - 1, out=np.full_like(spread, np.nan), where=n > 1)


def error_report(
    counts: np.ndarray,
    sums: Sums,
    truth: np.ndarray,
    spread: np.ndarray | None,
    cosines: np.ndarray | None,
    truth_variance: Any = 0.0,
) -> ErrorReport:
    """Bias, variance and EMSE of an estimator, from sums over each batch of trials.

    Args:
        counts: (batches,), trials per batch.
        sums: sums over each batch of trials.
        truth: (prompts, ...), the exact expectation.
        spread: variance of a single kept response, as `moments` gives variances; None where it is not known.
        cosines: (batches, prompts), sums of the cosines of draws with the truth; None for scalars.
        truth_variance: variance of a truth that was itself sampled.
    """
    mean, raw, variance = moments(counts, sums)
    n = without_one(counts)[:, None]
    bias = raw - variance / n - truth_variance
    k_eff = None
    if spread is not None:
        k_eff = jackknife(spread.mean(1) / variance.mean(1), correct=True)
    of_mean = of_draws = prompt_cosine = None
    if cosines is not None:
        each = cosine(mean + truth, truth)
        prompt_cosine = each[0]
        of_mean = jackknife(each.mean(1), correct=True)
        of_draws = jackknife((without_one(cosines) / n).mean(1))
    return ErrorReport(
        bias_squared=jackknife(bias.mean(1)),
        variance=jackknife(variance.mean(1)),
        emse=jackknife((bias + variance).mean(1)),
        raw_bias_squared=float(raw[0].mean()),
        k_eff=k_eff,
        cosine_of_mean=of_mean,
        cosine_of_draws=of_draws,
        prompt_bias_squared=bias[0],
        prompt_variance=variance[0],
        prompt_cosine=prompt_cosine,
    )


def coverage_report(
    counts: np.ndarray,
    frequency: np.ndarray,
    share: np.ndarray,
    variation: np.ndarray,
    weights: np.ndarray,
    k: int,
) -> CoverageReport:
    """Which modes are kept, from sums over each batch of trials.

    Args:
        counts: (batches,), trials per batch.
        frequency: (batches, prompts, modes), sums of the share of the kept in each mode.
        share: (batches, prompts), sums of the share of modes that are kept at all.
        variation: (batches, prompts), sums of the total variation.
        weights: (prompts, modes), the true weights.
        k: K.
    """
    from scipy.special import xlogy
    from scipy.stats import binom

    n = without_one(counts)
    kept = without_one(frequency) / n[:, None, None]
    kl = (xlogy(kept, kept) - xlogy(kept, weights)).sum(-1).mean(1)
    draws = np.arange(k + 1)
    chance = np.asarray(binom.pmf(draws, k, weights[..., None]))
    return CoverageReport(
        share=jackknife(without_one(share).mean(1) / n),
        total_variation=jackknife(without_one(variation).mean(1) / n),
        rkon_share=float((1 - chance[..., 0]).mean()),
        rkon_total_variation=float(
            0.5 * (chance * np.abs(draws / k - weights[..., None])).sum((-1, -2)).mean()
        ),
        kl=jackknife(kl, correct=True),
        frequencies=kept[0].mean(0),
    )
