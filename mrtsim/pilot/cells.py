"""The cells of a table of prompts and judges, and components from any pattern of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mrtsim.errors import InputError
from mrtsim.variance import CrossedComponents

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Cells:
    """The cells of a table that hold responses, sorted by prompt and then by judge.

    Attributes:
        prompts: index of each cell's prompt, (cells,).
        judges: index of each cell's judge, (cells,).
        counts: responses in each cell, (cells,).
        means: mean loss of each cell less `centre`, (cells,).
        within: squared deviations from it, summed, (cells,).
        centre: mean loss of all rows.
    """

    prompts: Ints
    judges: Ints
    counts: Floats
    means: Floats
    within: Floats
    centre: float

    @classmethod
    def of(cls, losses: Floats, prompt_of: Ints, judge_of: Ints) -> Cells:
        """The cells of rows whose prompts and judges are integers without gaps.

        Args:
            losses: (rows,).
            prompt_of: (rows,), the number of each row's prompt.
            judge_of: (rows,), the number of each row's judge.
        """
        n_judges = int(judge_of.max()) + 1
        cell, row_cell = np.unique(prompt_of * n_judges + judge_of, return_inverse=True)
        counts = np.bincount(row_cell).astype(np.float64)
        centre = float(losses.mean())
        means = np.bincount(row_cell, weights=losses - centre) / counts
        within = np.bincount(row_cell, weights=(losses - centre - means[row_cell]) ** 2)
        return cls(cell // n_judges, cell % n_judges, counts, means, within.astype(np.float64), centre)

    @classmethod
    def of_table(cls, losses: Floats) -> Cells:
        """The cells of an array (prompts, judges) with one response per cell."""
        n, j = losses.shape
        centre = float(losses.mean())
        return cls(
            prompts=np.repeat(np.arange(n), j),
            judges=np.tile(np.arange(j), n),
            counts=np.ones(n * j),
            means=losses.ravel() - centre,
            within=np.zeros(n * j),
            centre=centre,
        )

    @property
    def n_prompts(self) -> int:
        """How many prompts."""
        return int(self.prompts.max()) + 1

    @property
    def n_judges(self) -> int:
        """How many judges."""
        return int(self.judges.max()) + 1

    @property
    def complete(self) -> bool:
        """Whether every judge saw every prompt."""
        return self.counts.size == self.n_prompts * self.n_judges

    @property
    def per_cell(self) -> int | None:
        """K where the table is complete with as many responses in each cell."""
        return int(self.counts[0]) if self.complete and np.ptp(self.counts) == 0 else None


def henderson_components(cells: Cells) -> CrossedComponents:
    """Henderson's method I, for any pattern of cells (Searle et al. 1992, section 5.3).

    With n_g responses in class g of a factor and y_g. their total, T = sum_g y_g.^2 / n_g has the expectation
    n mu^2 + sum_f V_f sum_g (sum_f n_gf^2) / n_g + (number of classes) V_e. The T of prompts, judges, cells and the
    grand total, and the sum of squares, give as many equations as there are unknowns.

    Raises:
        InputError: the cells do not tell the components apart.
    """
    n, total, totals = cells.counts, cells.counts.sum(), cells.counts * cells.means

    def classes(code: Ints) -> tuple[Floats, float, float]:
        """n_g, T, and sum_g (sum_f n_gf^2) / n_g over the cells f inside each class g."""
        size = np.bincount(code, weights=n).astype(np.float64)
        t = float((np.bincount(code, weights=totals) ** 2 / size).sum())
        return size, t, float((np.bincount(code, weights=n**2) / size).sum())

    n_p, t_p, inside_p = classes(cells.prompts)
    n_j, t_j, inside_j = classes(cells.judges)
    t_cell = float((n * cells.means**2).sum())
    t_all, t_one = t_cell + float(cells.within.sum()), float(totals.sum() ** 2 / total)
    single = float((n**2).sum() / total)
    # columns: mu^2, V_p, V_j, V_pj, V_r
    rows = {
        "one": [total, float((n_p**2).sum() / total), float((n_j**2).sum() / total), single, 1.0],
        "prompt": [total, total, inside_p, inside_p, float(n_p.size)],
        "judge": [total, inside_j, total, inside_j, float(n_j.size)],
        "cell": [total, total, total, total, float(n.size)],
        "all": [total, total, total, total, total],
    }
    values = {"one": t_one, "prompt": t_p, "judge": t_j, "cell": t_cell, "all": t_all}
    names = ["one", "prompt", "judge", "cell", "all"]
    columns = [0, 1, 2, 3, 4]
    if n.max() == 1:  # V_e = V_pj + V_r
        names.remove("cell")
        columns.remove(3)
    matrix = np.array([rows[name] for name in names])[:, columns]
    right = np.array([values[name] for name in names])
    if np.linalg.matrix_rank(matrix / matrix.max(axis=0)) < len(names):
        raise InputError(
            "too few prompts share judges to tell V_j from the other components: leave the judges out, or have judges "
            "see more prompts"
        )
    solved: list[Any] = np.linalg.solve(matrix, right).tolist()
    if n.max() == 1:
        solved.insert(3, 0.0)
    return CrossedComponents(*solved[1:])
