"""Studies of many designs: each cell is measured on its own, and a page of the documentation is written from them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from tqdm import tqdm

from mrtsim.devices import usable_cores

ROOT = Path(__file__).parents[2]
Cell = TypeVar("Cell")


def measure_cells(
    name: str,
    cells: Sequence[Cell],
    measure: Callable[[Cell, list[int]], dict[str, Any]],
    key: jax.Array,
    *,
    progress: bool,
) -> list[dict[str, Any]]:
    """Measure every cell; one thread per core.

    Args:
        name: of the study, for the progress bar.
        cells: the designs.
        measure: of a cell and a seed; it adds the cell's own stream, so that the bits do not depend on threads.
        key: the seed of all.
        progress: whether to show the bar.
    """
    seed = [int(word) for word in np.ravel(jax.random.key_data(key))]
    with ThreadPoolExecutor(usable_cores()) as pool:
        measured = pool.map(lambda cell: measure(cell, seed), cells)
        return list(tqdm(measured, total=len(cells), desc=name, disable=None if progress else True))


def write_page(name: str, page: Callable[[dict[str, Any]], str]) -> None:
    """Write docs/NAME.md from the study's stored results."""
    stored = (ROOT / "results" / "precise" / name / "result.json").read_text(encoding="utf-8")
    (ROOT / "docs" / f"{name}.md").write_text(page(json.loads(stored)["result"]), encoding="utf-8")
