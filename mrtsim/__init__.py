"""Variance-budget analysis of multi-response training (arXiv:2606.00544).

Public names load on first use, so that the calculator (`allocate`, `estimate_components`) never pays for JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# module -> public names
_EXPORTS: dict[str, tuple[str, ...]] = {
    "errors": ("InputError",),
    "variance": (
        "VarianceComponents",
        "effective_responses",
        "estimator_variance",
        "grouped_estimator_variance",
        "icc",
        "mrt_gain",
        "selected_components",
        "unequal_estimator_variance",
    ),
    "plan.allocate": (
        "Cost",
        "PerPromptPlan",
        "PilotPlan",
        "Plan",
        "RegretCurve",
        "allocate",
        "allocate_per_prompt",
        "optimal_responses",
        "plan_pilot",
        "regret_curve",
    ),
    "pilot.estimate": ("Interval", "PilotEstimate", "estimate_components"),
    "tables.pilots": ("read_pilot",),
    "selection.facility_location": ("facility_location",),
    "selection.registry": ("Pool", "load_plugin", "register_strategy", "strategies"),
    "selection.select": ("select",),
    "selection.exact_laws": ("inclusion_probability",),
    "diagnostics.reports": ("estimator_error", "mode_coverage", "paired_difference"),
    "distributions.categorical": ("Categorical",),
    "distributions.clustered": ("ClusteredPrompts",),
    "distributions.gaussian_modes": ("GaussianModes",),
}
_HOME = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = [
    "Categorical",
    "ClusteredPrompts",
    "Cost",
    "GaussianModes",
    "InputError",
    "Interval",
    "PerPromptPlan",
    "PilotEstimate",
    "PilotPlan",
    "Plan",
    "Pool",
    "RegretCurve",
    "VarianceComponents",
    "allocate",
    "allocate_per_prompt",
    "effective_responses",
    "estimate_components",
    "estimator_error",
    "estimator_variance",
    "facility_location",
    "grouped_estimator_variance",
    "icc",
    "inclusion_probability",
    "load_plugin",
    "mode_coverage",
    "mrt_gain",
    "optimal_responses",
    "paired_difference",
    "plan_pilot",
    "read_pilot",
    "register_strategy",
    "regret_curve",
    "select",
    "selected_components",
    "strategies",
    "unequal_estimator_variance",
]

if TYPE_CHECKING:
    from mrtsim.diagnostics.reports import estimator_error, mode_coverage, paired_difference
    from mrtsim.distributions.categorical import Categorical
    from mrtsim.distributions.clustered import ClusteredPrompts
    from mrtsim.distributions.gaussian_modes import GaussianModes
    from mrtsim.errors import InputError
    from mrtsim.pilot.estimate import Interval, PilotEstimate, estimate_components
    from mrtsim.plan.allocate import (
        Cost,
        PerPromptPlan,
        PilotPlan,
        Plan,
        RegretCurve,
        allocate,
        allocate_per_prompt,
        optimal_responses,
        plan_pilot,
        regret_curve,
    )
    from mrtsim.selection.exact_laws import inclusion_probability
    from mrtsim.selection.facility_location import facility_location
    from mrtsim.selection.registry import Pool, load_plugin, register_strategy, strategies
    from mrtsim.selection.select import select
    from mrtsim.tables.pilots import read_pilot
    from mrtsim.variance import (
        VarianceComponents,
        effective_responses,
        estimator_variance,
        grouped_estimator_variance,
        icc,
        mrt_gain,
        selected_components,
        unequal_estimator_variance,
    )


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mrtsim' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"mrtsim.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
