"""A number with its uncertainty, and the quantiles that intervals are made of (NumPy; SciPy on use)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Estimate:
    """A number with its interval and its standard error, in the number's own unit.

    `low` and `high` are the ends of a confidence interval; `high` may be infinite where the data allow any large value.
    What is not known is NaN.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    standard_error: float = math.nan

    def to_dict(self) -> dict[str, float]:
        """The JSON form: `estimate`, `low` and `high`, and `standard_error` where it is known."""
        record = {"estimate": self.value, "low": self.low, "high": self.high}
        return record if math.isnan(self.standard_error) else record | {"standard_error": self.standard_error}

    @classmethod
    def from_standard_error(
        cls, value: float, standard_error: float, freedom: float = math.inf, confidence: float = 0.95
    ) -> Estimate:
        """The interval value ± t · standard error.

        Args:
            value: the estimate.
            standard_error: its standard error, in the same unit.
            freedom: degrees of freedom of the t distribution; infinite for the normal distribution.
            confidence: probability that the interval is meant to hold, two-sided.
        """
        half = t_quantile(freedom, confidence) * standard_error
        return cls(value, value - half, value + half, standard_error)


def t_quantile(freedom: ArrayLike, confidence: float = 0.95) -> Any:
    """The two-sided quantile of Student's t: |t| stays below it with probability `confidence`.

    An array of degrees of freedom gives an array. The quantile is infinite without degrees of freedom (0 or less), and
    the normal one at infinitely many.
    """
    from scipy.special import stdtrit

    degrees = np.asarray(freedom, dtype=np.float64)
    known = np.where((degrees > 0) & np.isfinite(degrees), degrees, 1.0)
    quantile = np.where(degrees > 0, stdtrit(known, (1 + confidence) / 2), math.inf)
    quantile = np.where(np.isposinf(degrees), normal_quantile(confidence), quantile)
    return float(quantile) if quantile.ndim == 0 else quantile


def normal_quantile(confidence: float = 0.95) -> float:
    """The two-sided quantile of the standard normal: |z| stays below it with probability `confidence`."""
    from statistics import NormalDist

    return NormalDist().inv_cdf((1 + confidence) / 2)
