"""What the diagnostics experiments share: untrained networks to diagnose, and reports averaged over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from mrtsim.diagnostics.exact import ExactReport
from mrtsim.diagnostics.problem import Problem
from mrtsim.diagnostics.reports import ErrorReport, TrialEstimate, paired_difference
from mrtsim.diagnostics.simulate import Setting, StrategyReport, compare_strategies
from mrtsim.distributions.gaussian_modes import GaussianModes
from mrtsim.estimates import Estimate
from mrtsim.losses import mdn_nll
from mrtsim.models import MDN
from mrtsim.montecarlo import subkeys
from mrtsim.selection.exact_laws import KeptMean

# The strategies side by side; the first two have exact results. "filtered-max-min" is not the GRADES objective.
STRATEGIES = ("rkon", "bkon", "filtered-max-min", "dkon", "dbkon")


def problems(
    key: jax.Array, models: int, n_prompts: int, reward: Callable[[Any, Any], Any] | None = None
) -> list[Problem]:
    """Untrained MDNs, each with its own prompts, under the toy distribution."""
    toy = GaussianModes()
    posed = []
    for index in range(models):
        prompt_key, model_key = subkeys(jax.random.fold_in(key, index))
        prompts = toy.sample_prompts(prompt_key, n_prompts)
        posed.append(Problem.of(toy, mdn_nll, MDN(model_key), prompts, reward=reward))
    return posed


def compare_all(
    sweep: Any,
    posed: Sequence[Problem],
    settings: Sequence[Setting],
    key: jax.Array,
    n_candidates: int,
    trials: int,
) -> list[dict[str, Any]]:
    """`compare_strategies` on every problem, averaged; one answer per setting."""
    reports = [
        compare_strategies(
            problem,
            settings,
            n_candidates=n_candidates,
            trials=trials,
            key=jax.random.fold_in(key, index),
            replicates=partial(sweep.replicates, f"strategies/model={index}"),
        )
        for index, problem in enumerate(posed)
    ]
    return [average(of_setting) for of_setting in zip(*reports, strict=True)]


def average(reports: Sequence[StrategyReport]) -> dict[str, Any]:
    """Means over models, as JSON: their standard errors over trials, values without each batch, those of each model."""
    result: dict[str, Any] = {
        name: _errors([getattr(r, name) for r in reports]) for name in ("loss", "gradient", "batch_gradient")
    }
    for name in ("similarity", "similarity_k_eff"):
        result[name] = _mean([getattr(r, name) for r in reports])
    coverages = [r.coverage for r in reports if r.coverage is not None]
    if coverages:
        result["coverage"] = {
            name: _mean([getattr(c, name) for c in coverages]) for name in ("share", "total_variation", "kl")
        }
        result["coverage"] |= {
            "rkon_share": coverages[0].rkon_share,
            "rkon_total_variation": coverages[0].rkon_total_variation,
            "frequencies": np.mean([c.frequencies for c in coverages], axis=0).tolist(),
        }
    return result | {"trials": reports[0].trials}


def average_exact(reports: Sequence[ExactReport]) -> dict[str, Any]:
    """The same of exact reports, under the same names; no standard errors."""
    batch = {
        "bias_squared": [r.batch_bias_squared for r in reports],
        "variance": [r.batch_variance for r in reports],
        "cosine_of_mean": [r.batch_cosine for r in reports],
    }
    return {
        "loss": _exact([r.loss for r in reports]),
        "gradient": _exact([r.gradient for r in reports], aligned=True),
        "batch_gradient": {name: _known(values) for name, values in batch.items()},
        "mass_error": max(r.weights_error for r in reports),
    }


def over_models(entry: Mapping[str, Any]) -> Estimate:
    """The 95 % interval for a freshly initialised model with fresh prompts: from the spread over models."""
    values = np.asarray(entry["models"])
    if len(values) < 2:
        return Estimate(entry["estimate"], -np.inf, np.inf)
    return Estimate.from_standard_error(entry["estimate"], float(values.std(ddof=1) / np.sqrt(len(values))))


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> Estimate:
    """one - other over trials, of settings that chose from the same pools: the interval is of paired trials."""
    return paired_difference(*(_measured(entry) for entry in (one, other)))


def _measured(entry: Mapping[str, Any]) -> TrialEstimate:
    return TrialEstimate(
        entry["estimate"], standard_error=entry["standard_error"], left_out=np.asarray(entry["left_out"])
    )


def _errors(reports: Sequence[ErrorReport]) -> dict[str, Any]:
    names = ("bias_squared", "variance", "emse", "k_eff", "cosine_of_mean", "cosine_of_draws")
    columns = {name: [getattr(r, name) for r in reports] for name in names}
    found = {name: _mean(column) for name, column in columns.items() if column[0] is not None}
    return found | {"raw_bias_squared": _known([r.raw_bias_squared for r in reports])}


def _mean(measured: Sequence[TrialEstimate | None]) -> dict[str, Any]:
    found = [m for m in measured if m is not None]
    errors = np.array([m.standard_error for m in found])
    return _known([m.value for m in found]) | {
        "standard_error": float(np.sqrt(np.square(errors).sum()) / len(errors)),
        # Trials of different models are independent: leaving the same batch out of all is as good as any other.
        "left_out": np.mean([m.left_out for m in found], axis=0).tolist(),
    }


def _known(values: Any) -> dict[str, Any]:
    return {"estimate": float(np.mean(values)), "models": np.asarray(values, np.float64).tolist()}


def _exact(moments: Sequence[KeptMean], *, aligned: bool = False) -> dict[str, Any]:
    columns = {
        "bias_squared": [m.bias_squared.mean() for m in moments],
        "variance": [m.variance.mean() for m in moments],
        "emse": [m.emse.mean() for m in moments],
        "k_eff": [m.single_variance.mean() / m.variance.mean() for m in moments],
    }
    if aligned:
        columns["cosine_of_mean"] = [m.cosine.mean() for m in moments]
    return {name: _known(values) for name, values in columns.items()}


def furthest(measured: Mapping[str, Any], exact: Mapping[str, Any]) -> float:
    """The largest distance, in standard errors, of a measured moment of loss and gradient from the exact one."""
    return max(
        abs(measured[quantity][moment]["estimate"] - exact[quantity][moment]["estimate"])
        / measured[quantity][moment]["standard_error"]
        for quantity in ("loss", "gradient")
        for moment in ("bias_squared", "variance", "emse", "k_eff")
    )
