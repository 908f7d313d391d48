"""The registry of distributions: every one by name, for tests and sweeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mrtsim.errors import InputError

DISTRIBUTIONS: dict[str, Callable[..., Any]] = {}


def register(name: str) -> Callable[[type], type]:
    """Class decorator: make a distribution known by name. It must be constructible without arguments."""

    def add(cls: type) -> type:
        DISTRIBUTIONS[name] = cls
        return cls

    return add


def distribution(name: str, **parameters: Any) -> Any:
    """Build the registered distribution of this name; InputError when there is none."""
    if name not in DISTRIBUTIONS:
        raise InputError(f"unknown distribution {name!r}: choose one of {', '.join(sorted(DISTRIBUTIONS))}")
    return DISTRIBUTIONS[name](**parameters)


def _probabilities(name: str, given: Any, shape: tuple[int, ...]) -> np.ndarray:
    values = np.asarray(given, np.float64)
    if values.shape != shape:
        raise InputError(f"{name} must have shape {shape}, not {values.shape}")
    totals = values.sum(-1, keepdims=True)
    if not np.all(values >= 0) or not np.allclose(totals, 1.0, rtol=0, atol=1e-9):
        raise InputError(f"{name} must be non-negative and sum to 1, not {values.tolist()}")
    return values / totals
