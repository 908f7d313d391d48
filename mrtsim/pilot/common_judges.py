"""The F test for judges, seeds or checkpoints that are common to all prompts though nobody said so.

A one-way pilot takes the responses to a prompt as its own. If the same judges saw every prompt, what a judge adds to
all of them does not average out over prompts, and the standard error and the plan are wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mrtsim.pilot.cells import Cells
from mrtsim.pilot.crossed import mean_squares, mean_uncertainty
from mrtsim.pilot.sums import codes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

LEAST_FREEDOM = 8  # of the residual: below it losses of few values reject too often
LEVEL = 0.01  # of the test, for all columns of a pilot together


class JudgeTest(NamedTuple):
    """The F test of equal judges: its statistic, degrees of freedom and the probability of a larger one by chance."""

    f: float
    freedom: tuple[int, int]
    p_value: float


def judge_test(cells: Cells) -> JudgeTest | None:
    """Whether the judges differ alike in all prompts, by the F test of two-way analysis of variance.

    F = MS_j / MS_pj of the cell means in a complete table; else the reduction in the residual sum of squares of an
    additive model by its judges (Searle, Casella and McCulloch 1992, section 4.3).

    Returns:
        The test, or None where too few prompts share judges for one, or the judges of every prompt agree.
    """
    from scipy.special import fdtrc

    by_prompt = np.bincount(cells.prompts, weights=cells.means) / np.bincount(cells.prompts)
    residual = cells.means - by_prompt[cells.prompts]
    first, left = _one_mean_per_judge(cells, residual) if cells.complete else _effects(cells, residual)
    second = cells.counts.size - cells.n_prompts - first
    if first < 1 or second < LEAST_FREEDOM:
        return None
    total = float(residual @ residual)
    largest = float(np.abs(cells.means).max() + abs(cells.centre))
    if total <= residual.size * (8 * np.finfo(float).eps * largest) ** 2:
        return None  # the judges of every prompt agree
    if left <= 1e-12 * total:  # the judges differ by constants alone
        return JudgeTest(np.inf, (first, second), 0.0)
    f = ((total - left) / first) / (left / second)
    return JudgeTest(f, (first, second), float(fdtrc(first, second, f)))


def _one_mean_per_judge(cells: Cells, residual: Floats) -> tuple[int, float]:
    """Degrees of freedom of the judges of a complete table, and the squares that their means leave."""
    table = residual.reshape(cells.n_prompts, cells.n_judges)
    return cells.n_judges - 1, float(((table - table.mean(axis=0)) ** 2).sum())


def _effects(cells: Cells, residual: Floats) -> tuple[int, float]:
    """Effects of a table with empty cells, by least squares."""
    from scipy import sparse
    from scipy.sparse.csgraph import connected_components
    from scipy.sparse.linalg import lsmr

    n, n_prompts, n_judges = cells.counts.size, cells.n_prompts, cells.n_judges
    row, column = np.tile(np.arange(n), 2), np.concatenate([cells.prompts, n_prompts + cells.judges])
    design = sparse.csr_array((np.ones(2 * n), (row, column)), shape=(n, n_prompts + n_judges))
    parts, _ = connected_components(design.T @ design, directed=False)
    fitted = design @ lsmr(design, residual, atol=1e-13, btol=1e-13, conlim=0)[0]
    return n_judges - int(parts), float(((residual - fitted) ** 2).sum())


def cells_by_column(losses: Floats, prompt_of: Ints, columns: Mapping[str, Any]) -> dict[str, Cells]:
    """The cells of each column whose ids are neither all the same nor all different.

    Args:
        losses: (rows,).
        prompt_of: (rows,), prompts as integers without gaps.
        columns: labels (rows,) by the name of their column.
    """
    found = {}
    for name, labels in columns.items():
        judge_of, names = codes(labels, losses.size, name, "loss")
        if 1 < len(names) < losses.size:
            found[name] = Cells.of(losses, prompt_of, judge_of)
    return found


def common_judge_warnings(
    columns: Mapping[str, Cells], *, remedy: Callable[[str], str], standard_error: float
) -> Iterator[str]:
    """A warning per column whose ids differ alike in all prompts, though nobody said that they are common.

    Args:
        columns: the cells of prompts and ids, by the name of the ids' column.
        remedy: what to say instead, by the name of a column.
        standard_error: of the mean, as a one-way pilot has it.
    """
    tests = {
        name: (cells, test) for name, cells in columns.items() if (test := judge_test(cells)) is not None
    }
    for name, (cells, test) in tests.items():
        if test.p_value >= LEVEL / len(tests):
            continue
        crossed = ""
        if cells.per_cell is not None:
            n, j, k = cells.n_prompts, cells.n_judges, cells.per_cell
            squares = mean_squares(cells.means.reshape(n, j), cells.within, k)
            crossed = f" ({mean_uncertainty(squares, n, j, k)[0]:.3g} if they are a sample)"
        yield (
            f"responses with the same {name} differ alike in all prompts (F = {test.f:.3g} on {test.freedom[0]} and "
            f"{test.freedom[1]} degrees of freedom, p = {test.p_value:.2g}). If each {name} is common to all prompts, "
            f"the standard error {standard_error:.3g} is wrong{crossed}, and so is the plan: "
            f"{remedy(name)}"
        )
