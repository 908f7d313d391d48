"""What is the variance of the MRT loss estimate? The law of total variance and its extensions (NumPy alone)."""

from __future__ import annotations

from dataclasses import dataclass


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
