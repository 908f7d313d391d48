"""Where do results live? Sweeps over settings, results on disk: provenance, atomic append, resume."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from mrtsim import montecarlo
from mrtsim.errors import InputError


class InMemory:
    """A sweep that keeps nothing: for tests and notebooks."""

    def __init__(self, progress: bool = False, memory: float | None = None, threads: int | None = None):
        self.progress = progress
        self.engine = {"memory": memory, "threads": threads}
        self._labels: set[str] = set()

    def replicates(
        self, label: str, fn: Callable[..., Any], key: jax.Array, n: int, *args: Any, block: int | None = None
    ) -> Any:
        """`montecarlo.replicate` under a label that is unique in the sweep, such as "rkon/k=4"."""
        if label in self._labels:
            raise InputError(f"the sweep already has replicates labelled {label!r}: labels must be unique")
        self._labels.add(label)
        progress = label if self.progress else None
        return montecarlo.replicate(fn, key, n, *args, block=block, progress=progress, **self.engine)
