"""The variance of the mean loss of a multi-response training set: the law of total variance (NumPy alone).

A training set has N_p prompts with K responses each; the estimate is the mean of their losses. Everything here is
elementary sampling theory (Cochran 1977, *Sampling Techniques*, 3rd ed., sections 10.3 to 10.8); `docs/theory.md`
derives each formula. Variances are in squared units of the loss. Arguments that are arrays broadcast.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrtsim.errors import InputError


@dataclass(frozen=True)
class VarianceComponents:
    """Variance components of per-response losses, in squared units of the loss.

    `prompt` is V_x, the variance over prompts of the conditional mean loss (within groups, where there are
    groups); `response` is V_{y|x}, the mean conditional variance; `group` is V_g, between groups of redundant
    prompts. Estimates may be negative and are kept as they are.
    """

    prompt: float
    response: float
    group: float = 0.0


@dataclass(frozen=True)
class CrossedComponents:
    """Variance components where the same judges (or seeds, checkpoints) see every prompt, in squared units of the loss.

    `prompt` is V_p, between prompts; `judge` is V_j, what all responses of a judge have in common; `interaction` is
    V_pj, what the responses in a cell (one prompt, one judge) have in common beyond both; `response` is V_r, between
    the responses in a cell. Where each cell has one response the last two cannot be told apart: `response` is then
    V_e = V_pj + V_r and `interaction` 0. Estimates may be negative and are kept as they are.
    """

    prompt: float
    judge: float
    interaction: float
    response: float


@dataclass(frozen=True)
class DifferenceComponents:
    """Variance components of the difference of two models on the same prompts, in squared units of the loss.

    Attributes:
        difference: V_D, the variance over prompts of mu_A - mu_B (within groups, where there are groups).
        response_a: W_A, the mean variance of model A's responses to a prompt.
        response_b: W_B, of model B's.
        response: W, the mean variance of the difference of a pair, where responses come in pairs (shared seeds); None
            where they are independent given the prompt.
        group: V_g of the difference, between groups of redundant prompts.
    """

    difference: float
    response_a: float
    response_b: float
    response: float | None = None
    group: float = 0.0

    @property
    def samples(self) -> tuple[float, ...]:
        """The variance of each independent sample of responses: of pairs, or of both models."""
        return (self.response_a, self.response_b) if self.response is None else (self.response,)


def check_components(components: Any) -> None:
    """Refuse an estimate of a pilot, whose components carry intervals, where plain numbers are meant.

    Raises:
        InputError: `components` is a `PilotEstimate`.
    """
    if hasattr(components, "planning"):
        raise InputError(
            "the components are those of a PilotEstimate with their intervals: pass estimate.planning"
        )


def estimator_variance(
    components: VarianceComponents,
    n_prompts: ArrayLike,
    responses_per_prompt: ArrayLike,
    *,
    population: int | None = None,
    candidates: int | None = None,
    response_correlation: ArrayLike = 0.0,
    redundancy: ArrayLike = 1.0,
) -> Any:
    """Variance of the mean loss over N_p prompts with K responses each: V_x / N_p + V_{y|x} / (N_p K).

    The target is the population loss E_x E_{y|x} l unless `population` or `candidates` say otherwise.

    Args:
        components: the variance components. With `redundancy` r, `group` enters as r V_g / N_p.
        n_prompts: N_p, whole numbers of at least 1.
        responses_per_prompt: K, whole numbers of at least 1.
        population: P, for the loss of a *given* set of P prompts from which N_p are drawn without replacement.
        candidates: N, for the loss of *given* pools of N responses per prompt, from which K are drawn without
            replacement. With either, `components.prompt` is S_u^2 = S_1^2 - S_2^2 / N, which is what ANOVA
            estimates, and `components.response` is S_2^2, the mean within-pool variance with divisor N - 1
            (Cochran 10.3, 10.6): Var = (1 - N_p/P) S_1^2 / N_p + (1 - K/N) S_2^2 / (N_p K).
        response_correlation: rho, the correlation of two kept responses' losses given the prompt, 0 for i.i.d.
            draws. K is replaced by K_eff = K / (1 + (K-1) rho).
        redundancy: r, the number of near-duplicate prompts in a group: N_p = M r (Cochran 10.8).

    Returns:
        The variance, a float where every argument is a number, else an array.

    Raises:
        InputError: a number out of range, or a combination for which there is no such formula.
    """
    n, k = _counts("n_prompts", n_prompts), _counts("responses_per_prompt", responses_per_prompt)
    rho, r = np.asarray(response_correlation, float), np.asarray(redundancy, float)
    if not np.all(r >= 1) or not np.all(np.isfinite(r)):
        raise InputError(f"redundancy is the number of prompts in a group, at least 1, not {redundancy!r}")
    check_components(components)
    between = components.prompt + r * components.group
    if population is None and candidates is None:
        return _plain(between / n + components.response / (n * effective_responses(k, rho)))
    if np.any(rho != 0) or (components.group and np.any(r != 1)):
        raise InputError(
            "population and candidates describe simple random draws: they do not go with "
            "response_correlation or redundancy"
        )
    sampled_prompts = _share("n_prompts", n, "population", population)
    sampled_responses = _share("responses_per_prompt", k, "candidates", candidates)
    pool_means = between + (components.response / candidates if candidates else 0.0)
    return _plain(
        (1 - sampled_prompts) * pool_means / n + (1 - sampled_responses) * components.response / (n * k)
    )


def crossed_variance(
    components: CrossedComponents,
    n_prompts: ArrayLike,
    n_judges: ArrayLike,
    responses_per_cell: ArrayLike = 1,
    *,
    fixed_judges: bool = False,
) -> Any:
    """Variance of the mean loss of a crossed design: V_p/N + V_j/J + V_pj/(NJ) + V_r/(NJK).

    Args:
        components: the four variance components.
        n_prompts: N, whole numbers of at least 1.
        n_judges: J, whole numbers of at least 1.
        responses_per_cell: K, whole numbers of at least 1.
        fixed_judges: whether the target is the mean over these judges, not over all that could be drawn: without
            V_j/J.

    Returns:
        The variance, a float where every argument is a number, else an array.

    Raises:
        InputError: a number below 1 or not whole.
    """
    n, j = _counts("n_prompts", n_prompts), _counts("n_judges", n_judges)
    k = _counts("responses_per_cell", responses_per_cell)
    shared = 0.0 if fixed_judges else components.judge / j
    return _plain(
        components.prompt / n + shared + components.interaction / (n * j) + components.response / (n * j * k)
    )


def effective_responses(responses_per_prompt: ArrayLike, response_correlation: ArrayLike) -> Any:
    """K_eff = K / (1 + (K-1) rho), the number of independent responses that K correlated ones are worth.

    rho is the correlation of two kept responses' losses *given the prompt* (not `icc`). It lies between -1/(K-1),
    where the mean does not vary at all and K_eff is infinite, and 1, where K_eff is 1; one response counts as one.

    Raises:
        InputError: rho outside its range, or K not a whole number of at least 1.
    """
    k, rho = np.broadcast_arrays(
        _counts("responses_per_prompt", responses_per_prompt), np.asarray(response_correlation, float)
    )
    least = -1 / np.maximum(k - 1, 1)
    bad = ~((rho <= 1) & (rho >= least * (1 + 1e-12)))
    if np.any(bad):
        raise InputError(
            f"response_correlation must lie between -1/(K-1) and 1, for K = {k[bad][0]:g} between "
            f"{least[bad][0]:.6g} and 1, not {rho[bad][0]:g}"
        )
    inflation = np.where(k == 1, 1.0, np.where(rho <= least, 0.0, 1 + (k - 1) * rho))
    with np.errstate(divide="ignore"):
        return _plain(k / inflation)


def selected_components(
    means: ArrayLike,
    variances: ArrayLike,
    responses_per_prompt: int,
    *,
    response_correlations: ArrayLike = 0.0,
    weights: ArrayLike | None = None,
) -> VarianceComponents:
    """The components that a selection strategy leaves, for use in `estimator_variance`.

    Selection moves the mean and the variance of the kept losses, and makes them depend on each other. The law keeps
    its form with V_x of the *selected* mean and E_x[ s2_kept(x) (1 + (K-1) rho(x)) ] in place of V_{y|x}.

    Args:
        means: (prompts,) mean loss of a kept response, per prompt.
        variances: (prompts,) variance of a single kept response's loss, per prompt.
        responses_per_prompt: K, to which the answer belongs.
        response_correlations: (prompts,) rho(x), the correlation of two kept losses given the prompt.
        weights: (prompts,) probabilities of the prompts, equal by default. The moments are taken as exact over this
            distribution: V_x is the weighted variance without a correction for a sample of prompts.

    Raises:
        InputError: a correlation out of range, a negative variance, weights without mass.
    """
    mean, spread = np.asarray(means, float), _non_negative("variances", variances)
    weight = np.ones_like(mean) if weights is None else _non_negative("weights", weights)
    if mean.ndim != 1 or spread.shape != mean.shape or weight.shape != mean.shape or not weight.sum() > 0:
        raise InputError(
            f"means, variances and weights hold one number per prompt: shapes {mean.shape}, {spread.shape}, "
            f"{weight.shape}"
        )
    weight = weight / weight.sum()
    k = _counts("responses_per_prompt", responses_per_prompt)
    inflation = k / effective_responses(k, response_correlations)
    return VarianceComponents(
        prompt=float(weight @ np.square(mean - weight @ mean)), response=float(weight @ (spread * inflation))
    )


def unequal_estimator_variance(
    components: VarianceComponents,
    responses: ArrayLike,
    *,
    weighting: Literal["prompt", "response"] = "prompt",
    response_variances: ArrayLike | None = None,
) -> float:
    """Variance of the estimate when prompt i has K_i responses.

    Args:
        components: the variance components; `group` is taken as part of the variance between prompts.
        responses: (prompts,) the numbers K_i, at least 1.
        weighting: "prompt" for the equally weighted mean of prompt means, V_x / N_p + V_{y|x} sum 1 / (N_p^2 K_i);
            "response" for the mean over rows, which plain training takes,
            V_x sum K_i^2 / (sum K_i)^2 + V_{y|x} / sum K_i. The latter is biased where K_i depends on the prompt's
            mean loss.
        response_variances: (prompts,) s_i^2, each prompt's own conditional variance. Give it where K_i follows s_i
            (Neyman allocation): then sum s_i^2 / (N_p^2 K_i), or sum K_i s_i^2 / (sum K_i)^2 by rows, replaces the
            term in V_{y|x}, which holds only for K_i that do not depend on the prompt.

    Raises:
        InputError: shapes that differ, K_i below 1, a negative variance, an unknown weighting.
    """
    k = _counts("responses", responses)
    if k.ndim != 1 or k.size == 0:
        raise InputError(f"responses holds one number per prompt, shape (prompts,), not {k.shape}")
    if weighting not in ("prompt", "response"):
        raise InputError(f"weighting is 'prompt' or 'response', not {weighting!r}")
    spread = np.full(k.shape, components.response)
    if response_variances is not None:
        spread = _non_negative("response_variances", response_variances)
        if spread.shape != k.shape:
            raise InputError(f"response_variances has shape {spread.shape}, responses {k.shape}")
    share = np.full(k.shape, 1 / k.size) if weighting == "prompt" else k / k.sum()
    between = components.prompt + components.group
    return float(between * (share @ share) + (share**2) @ (spread / k))


def grouped_estimator_variance(
    components: VarianceComponents, group_sizes: ArrayLike, responses_per_prompt: int
) -> float:
    """Variance of the estimate when prompts come in groups of unequal numbers of near-duplicates.

    V_g sum_g w_g^2 + V_{x|g} / N_p + V_{y|x} / (N_p K) with w_g = r_g / N_p (Cochran 10.8). Groups of equal size r
    give `estimator_variance(..., redundancy=r)`.

    Args:
        components: the three variance components.
        group_sizes: (groups,) r_g, the number of prompts in each group, at least 1.
        responses_per_prompt: K.

    Raises:
        InputError: a size or K below 1.
    """
    sizes, k = _counts("group_sizes", group_sizes), _counts("responses_per_prompt", responses_per_prompt)
    if sizes.ndim != 1 or sizes.size == 0:
        raise InputError(f"group_sizes holds one number per group, shape (groups,), not {sizes.shape}")
    n, share = sizes.sum(), sizes / sizes.sum()
    return float(components.group * (share @ share) + (components.prompt + components.response / k) / n)


def mrt_gain(components: VarianceComponents, redundancy: ArrayLike = 1.0) -> Any:
    """The share of the K = 1 variance that K -> infinity removes: V_{y|x} / (r V_g + V_{x|g} + V_{y|x}).

    It falls with the redundancy r wherever V_g > 0. Where every component is 0 there is nothing to remove: NaN.
    """
    total = np.asarray(redundancy, float) * components.group + components.prompt + components.response
    with np.errstate(invalid="ignore", divide="ignore"):
        return _plain(components.response / total)


def icc(components: VarianceComponents) -> float:
    """Intraclass correlation (V_g + V_x) / (V_g + V_x + V_{y|x}): of two losses of one prompt, over all prompts.

    This is the correlation in Kish's design effect, not `response_correlation`, which is *given* the prompt.
    NaN where every component is 0.
    """
    between = components.group + components.prompt
    total = between + components.response
    return between / total if total else float("nan")


def _counts(name: str, values: ArrayLike) -> NDArray[np.float64]:
    counts = np.asarray(values, float)
    bad = ~((counts >= 1) & (counts == np.floor(counts)) & np.isfinite(counts))
    if np.any(bad):
        raise InputError(f"{name} must be whole numbers of at least 1, not {counts[bad][0]:g}")
    return counts


def _non_negative(name: str, values: ArrayLike) -> NDArray[np.float64]:
    numbers = np.asarray(values, float)
    bad = ~((numbers >= 0) & np.isfinite(numbers))
    if np.any(bad):
        raise InputError(f"{name} must be finite and 0 or above, not {numbers[bad][0]:g}")
    return numbers


def _share(name: str, drawn: NDArray[np.float64], whole_name: str, whole: int | None) -> NDArray[np.float64]:
    if whole is None:
        return np.zeros_like(drawn)
    size = _counts(whole_name, whole)
    if np.any(drawn > size):
        raise InputError(f"{name} = {drawn.max():g} is more than {whole_name} = {whole}")
    return drawn / size


def _plain(values: NDArray[np.float64] | np.float64) -> Any:
    return float(values) if np.ndim(values) == 0 else values
