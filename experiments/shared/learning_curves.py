"""Curves of a held-out loss in K, fitted to few points, and what so few points cannot tell.

One family holds the three candidates of the paper: loss(K) = level + drop * (K^-c - 1) / c, with its limit
level - drop * log K at c = 0 and the variance law's shape a + b / K at c = 1. Given c it is linear in the other two,
so a fit is a search in one variable (variable projection; Golub and Pereyra 1973).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrtsim.errors import InputError

EXPONENT_BOUNDS = (0.0, 4.0)
_GRID = np.linspace(*EXPONENT_BOUNDS, 401)


@dataclass(frozen=True)
class LearningCurve:
    """A fitted curve level + drop * (K^-c - 1) / c.

    `level` is the fitted loss at K = 1; `drop` is minus the slope in log K at K = 1 (positive where the loss
    falls); `exponent` is c with `low` and `high` its profile-likelihood interval, cut at `EXPONENT_BOUNDS`:
    an end that equals a bound says only that the data do not limit c on that side. `residual` is the residual
    standard deviation (divisor n - 3, or n - 2 where c was given; None with no degree of freedom left).
    """

    level: float
    drop: float
    exponent: float
    low: float
    high: float
    residual: float | None

    @property
    def floor(self) -> float | None:
        """The loss as K grows without end, level - drop / c; None where c = 0, which has no floor."""
        return self.level - self.drop / self.exponent if self.exponent > 0 else None

    def __call__(self, k: ArrayLike) -> NDArray[np.float64]:
        """The curve at K."""
        return self.level + self.drop * _shape(np.asarray(k, float), self.exponent)


def fit_learning_curve(
    k: ArrayLike, losses: ArrayLike, exponent: float | None = None, confidence: float = 0.95
) -> LearningCurve:
    """Least squares of losses (n,) on K (n,), with c free in [0, 4] or given.

    Raises InputError for fewer distinct K than parameters, K < 1, or numbers that are not finite.
    """
    k, losses = _checked(k, losses, parameters=2 if exponent is not None else 3)
    if exponent is not None:
        level, drop, squares = _project(k, losses, exponent)
        return LearningCurve(level, drop, exponent, exponent, exponent, _residual(squares, len(k) - 2))
    exponent, low, high = shared_exponent({"": (k, losses)}, confidence)
    level, drop, squares = _project(k, losses, exponent)
    return LearningCurve(level, drop, exponent, low, high, _residual(squares, len(k) - 3))


def shared_exponent(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]], confidence: float = 0.95
) -> tuple[float, float, float]:
    """One c for several curves, each with its own level and drop: estimate, low, high.

    The interval holds every c whose residual sum of squares stays within the F quantile of the least one
    (Bates and Watts 1988, section 6.1); with no degree of freedom left it is the whole range.
    """
    from scipy.optimize import minimize_scalar
    from scipy.stats import f as f_distribution

    data = [_checked(k, losses, parameters=2) for k, losses in curves.values()]

    def squares(c: float) -> float:
        return sum(_project(k, losses, c)[2] for k, losses in data)

    profile = np.array([squares(c) for c in _GRID])
    best = int(np.argmin(profile))
    step = _GRID[1] - _GRID[0]
    near = (max(EXPONENT_BOUNDS[0], _GRID[best] - step), min(EXPONENT_BOUNDS[1], _GRID[best] + step))
    refined = minimize_scalar(squares, bounds=near, method="bounded")
    estimate = float(refined.x if refined.fun < profile[best] else _GRID[best])
    freedom = sum(len(k) for k, _ in data) - 2 * len(data) - 1
    if freedom < 1:
        return (estimate, *EXPONENT_BOUNDS)
    limit = squares(estimate) * (1.0 + float(f_distribution.ppf(confidence, 1, freedom)) / freedom)
    return estimate, _edge(squares, limit, estimate, -1), _edge(squares, limit, estimate, +1)


def leave_one_out_errors(k: ArrayLike, losses: ArrayLike) -> dict[str, float]:
    """Root mean squared error of predicting each point from the others, for the three curves.

    Keys: "inverse" (a + b / K), "power" (c free), "log" (a - b log K). The first and the last point are
    extrapolations, which is what a user does with such a curve. Raises InputError below four points.
    """
    k, losses = _checked(k, losses, parameters=4)
    errors: dict[str, list[float]] = {"inverse": [], "power": [], "log": []}
    for i in range(len(k)):
        rest = np.arange(len(k)) != i
        for name, exponent in (("inverse", 1.0), ("power", None), ("log", 0.0)):
            curve = fit_learning_curve(k[rest], losses[rest], exponent)
            errors[name].append(float(curve(k[i])) - losses[i])
    return {name: float(np.sqrt(np.mean(np.square(e)))) for name, e in errors.items()}


def _shape(k: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    # expm1 keeps the limit c -> 0 exact to rounding.
    return -np.log(k) if exponent == 0 else np.expm1(-exponent * np.log(k)) / exponent


def _project(
    k: NDArray[np.float64], losses: NDArray[np.float64], exponent: float
) -> tuple[float, float, float]:
    shape = _shape(k, exponent)
    centred = shape - shape.mean()
    drop = float(centred @ losses / (centred @ centred))
    level = float(losses.mean() - drop * shape.mean())
    return level, drop, float(np.sum(np.square(losses - level - drop * shape)))


def _edge(squares, limit: float, estimate: float, direction: int) -> float:
    """Where the profile first passes the limit on one side of the estimate, or the bound."""
    from scipy.optimize import brentq

    inside = estimate
    for c in _GRID if direction > 0 else _GRID[::-1]:
        if (c - estimate) * direction <= 0:
            continue
        if squares(c) > limit:
            return float(brentq(lambda x: squares(x) - limit, inside, c))
        inside = c
    return EXPONENT_BOUNDS[1] if direction > 0 else EXPONENT_BOUNDS[0]


def _residual(squares: float, freedom: int) -> float | None:
    return float(np.sqrt(squares / freedom)) if freedom > 0 else None


def _checked(
    k: ArrayLike, losses: ArrayLike, parameters: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    k, losses = np.asarray(k, float), np.asarray(losses, float)
    if k.ndim != 1 or k.shape != losses.shape:
        raise InputError(
            f"K and losses must be two lists of equal length; got shapes {k.shape} and {losses.shape}"
        )
    if not (np.all(np.isfinite(k)) and np.all(np.isfinite(losses)) and np.all(k >= 1)):
        raise InputError("K must be at least 1 and every loss finite")
    if len(np.unique(k)) < parameters:
        raise InputError(f"{parameters} different K are needed for this curve; got {len(np.unique(k))}")
    return k, losses


__all__: Sequence[str] = [
    "EXPONENT_BOUNDS",
    "LearningCurve",
    "fit_learning_curve",
    "leave_one_out_errors",
    "shared_exponent",
]
