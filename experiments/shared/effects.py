"""Laws of the simulated effects of prompts and responses, of mean 0 and variance 1."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def effects(law: str, rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Effects of mean 0 and variance 1."""
    if law == "two-point":
        rare = (rng.random(shape) < 0.1).astype(np.float64)
        return (rare - 0.1) / math.sqrt(0.1 * (1 - 0.1))
    if law == "exponential":
        return rng.standard_exponential(shape) - 1
    if law == "t4":
        return np.asarray(rng.standard_t(4, shape), np.float64) / math.sqrt(2)
    z = rng.standard_normal(shape)
    if law == "normal":
        return z
    sigma2 = float(law.split()[1]) ** 2
    np.exp(math.sqrt(sigma2) * z, out=z)
    return (z - math.exp(sigma2 / 2)) / math.sqrt(math.exp(sigma2) * math.expm1(sigma2))
