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
    "allocation": (
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
    "components": ("Interval", "PilotEstimate", "estimate_components"),
    "io": ("read_pilot",),
    "grades": ("facility_location",),
    "selection": ("load_plugin", "register_strategy", "select", "strategies"),
    "selection_theory": ("inclusion_probability",),
    "diagnostics": ("estimator_error", "mode_coverage", "paired_difference"),
    "distributions": ("Categorical", "ClusteredPrompts", "GaussianModes"),
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
    from mrtsim.allocation import (
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
    from mrtsim.components import Interval, PilotEstimate, estimate_components
    from mrtsim.diagnostics import estimator_error, mode_coverage, paired_difference
    from mrtsim.distributions import Categorical, ClusteredPrompts, GaussianModes
    from mrtsim.errors import InputError
    from mrtsim.grades import facility_location
    from mrtsim.io import read_pilot
    from mrtsim.selection import load_plugin, register_strategy, select, strategies
    from mrtsim.selection_theory import inclusion_probability
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
