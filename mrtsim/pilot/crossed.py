"""Variance components where the same judges (or seeds, checkpoints) see every prompt: prompts x judges.

    l_ijk = mu + a_i + b_j + c_ij + e_ijk,   Var a = V_p,  Var b = V_j,  Var c = V_pj,  E Var e = V_r.

The mean over all prompts keeps V_j / J however many prompts there are. Where each cell (one prompt, one judge) has one
response, c and e cannot be told apart: V_e = V_pj + V_r. Sources: Searle, Casella and McCulloch (1992), *Variance
Components*, sections 4.3 and 5.3; Brennan (2001), *Generalizability Theory*, chapters 2, 3 and 7.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mrtsim.display import Display, number, plain, table
from mrtsim.errors import InputError
from mrtsim.estimates import Estimate, t_quantile
from mrtsim.pilot.cells import Cells, henderson_components
from mrtsim.pilot.intervals import around, jackknife_covariance, limits_of, mover
from mrtsim.pilot.mean_squares import KURTOSIS_OF_SQUARES, MeanSquare, MeanSquares, shape, unseen_tail
from mrtsim.pilot.sums import codes, finite_losses
from mrtsim.pilot.warnings import at_risk
from mrtsim.variance import CrossedComponents

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Pair = tuple[Floats, Floats]

TRANSPOSED = 5  # judges from which on V_j gets the limits that V_p has, with judges and prompts exchanged
FEW_JUDGES = 8
FEW_PROMPTS = 20


@dataclass(frozen=True)
class CrossedEstimate(Display):
    """Variance components of a crossed pilot with their intervals.

    Where cells are missing or hold different numbers of responses only the point estimates are known: every limit and
    the standard error are NaN, and a warning says so.

    Attributes:
        components: raw estimates, which may be negative.
        prompt: V_p, in squared units of the loss.
        judge: V_j.
        interaction: V_pj; None with one response per cell, where `response` is V_e = V_pj + V_r.
        response: V_r, or V_e.
        mean: mean over prompts of the mean loss.
        standard_error: its standard error, for judges drawn at random or, with `fixed_judges`, for these judges.
        mean_interval: the mean with its confidence limits.
        responses_per_cell: K; None where cells are missing or unequal.
        fixed_judges: whether the target is the mean over these judges.
        warnings: what a reader must know before acting on the numbers.
    """

    components: CrossedComponents
    prompt: Estimate
    judge: Estimate
    interaction: Estimate | None
    response: Estimate
    mean: float
    standard_error: float
    mean_interval: Estimate
    n_prompts: int
    n_judges: int
    n_responses: int
    responses_per_cell: int | None
    fixed_judges: bool
    confidence: float
    warnings: tuple[str, ...]

    @property
    def planning(self) -> CrossedComponents:
        """The components with estimates below 0 taken as 0, but for V_p, on which no plan can rest then."""
        c = self.components
        return CrossedComponents(c.prompt, max(0.0, c.judge), max(0.0, c.interaction), max(0.0, c.response))

    @property
    def icc(self) -> float:
        """Share of the variance that responses to a prompt by different judges have in common: ICC(2, 1)."""
        v = self.planning
        prompt = max(0.0, v.prompt)
        return prompt / (prompt + v.judge + v.interaction + v.response)

    def _rows(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        single = self.interaction is None
        lines = [
            ("V_p", self.prompt, "between prompts"),
            ("V_j", self.judge, "between judges, over all prompts"),
        ]
        if self.interaction is not None:
            lines.append(("V_pj", self.interaction, "between judges, on one prompt beyond that"))
        rest = (
            ("V_e", "the rest: V_pj and V_r together") if single else ("V_r", "between responses in a cell")
        )
        lines.append((rest[0], self.response, rest[1]))
        if self.responses_per_cell is None:
            return ("ANOVA", "estimate", ""), [(name, e.value, meaning) for name, e, meaning in lines]
        header = ("ANOVA", "estimate", f"{100 * self.confidence:g} % low", "high", "")
        return header, [(name, e.value, e.low, e.high, meaning) for name, e, meaning in lines]

    def __str__(self) -> str:
        from mrtsim.pilot.text import warning_lines

        return "\n".join([self.summary(), *warning_lines(self.warnings)])

    def summary(self, loss: str = "loss") -> str:
        """How much data there is, its mean, and the estimates."""
        cells = "" if self.responses_per_cell in (None, 1) else f", {self.responses_per_cell} per cell"
        m, kind = (
            self.mean_interval,
            "these judges alone" if self.fixed_judges else "judges that are a sample",
        )
        mean = f"mean {loss} {number(self.mean)}"
        if not math.isnan(self.standard_error):
            mean += (
                f", standard error {number(m.standard_error)} for {kind}, {100 * self.confidence:g} % from "
                f"{number(m.low)} to {number(m.high)}"
            )
        header, rows = self._rows()
        counts = f"{self.n_responses} responses to {self.n_prompts} prompts by {self.n_judges} judges{cells}"
        return "\n".join([counts, mean, "", table(rows, header)])

    def to_dict(self) -> dict[str, Any]:
        """What `mrtsim pilot --judge-column --json` prints, without a plan."""
        components = {"prompt": self.prompt, "judge": self.judge, "response": self.response}
        if self.interaction is not None:
            components["interaction"] = self.interaction
        record = {"components": components, "icc": Estimate(self.icc), "planning": vars(self.planning)}
        record |= {"mean_loss": self.mean, "standard_error": self.standard_error, "mean": self.mean_interval}
        record |= {"n_prompts": self.n_prompts, "n_judges": self.n_judges, "n_responses": self.n_responses}
        record |= {"responses_per_cell": self.responses_per_cell, "confidence": self.confidence}
        record |= {"judges": "fixed" if self.fixed_judges else "random", "warnings": self.warnings}
        return plain(record)


class Squares(NamedTuple):
    """Mean squares of a complete table; `cell` is NaN with one response per cell.

    Their expectations are E + J K V_p, E + N K V_j, E = V_r + K V_pj, and V_r.
    """

    prompt: float
    judge: float
    interaction: float
    cell: float


def estimate_crossed(
    losses: ArrayLike,
    prompts: ArrayLike | None,
    judges: ArrayLike,
    *,
    fixed_judges: bool = False,
    confidence: float = 0.95,
) -> CrossedEstimate:
    """Estimate V_p, V_j and V_pj, V_r (V_e with one response per cell) from per-response losses.

    Args:
        losses: (rows,), one row per response in any order; or (prompts, judges) without `prompts`.
        prompts: (rows,), which prompt each row belongs to.
        judges: (rows,), which judge; or (judges,), one per column, without `prompts`.
        fixed_judges: whether the mean's standard error is for these judges alone. By default judges are a sample.
        confidence: level of the intervals.

    Raises:
        InputError: a loss is not finite, a label is missing, there is one prompt or one judge, no two prompts share a
            judge, or nothing is left between the responses.
    """
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}; it must lie between 0 and 1, such as 0.95")
    loss = finite_losses(losses)
    if prompts is None:
        if loss.ndim != 2:
            raise InputError("give `prompts`, one per loss, or losses of shape (prompts, judges)")
        n_rows, n_columns = loss.shape
        prompt_of = np.repeat(np.arange(n_rows), n_columns)
        judge_of = np.tile(codes(judges, n_columns, "judges", "column")[0], n_rows)
        loss = loss.ravel()
    elif loss.ndim != 1:
        raise InputError(
            "judges go with losses of one number per response: traces of crossed vectors are not estimated"
        )
    else:
        prompt_of = codes(prompts, loss.size, "prompts", "loss")[0]
        judge_of = codes(judges, loss.size, "judges", "loss")[0]
    cells = Cells.of(loss, prompt_of, judge_of)
    if cells.n_prompts < 2:
        raise InputError("the pilot has one prompt: the variance between prompts needs at least two")
    if cells.n_judges < 2:
        raise InputError("all responses have one judge, so V_j cannot be estimated: leave the judges out")
    if cells.counts.size == cells.n_judges:
        raise InputError(
            "every judge saw one prompt, so V_j cannot be told apart from the responses: leave the judges out"
        )
    if cells.per_cell is not None:
        return _complete(cells, fixed_judges, confidence)
    return _incomplete(cells, fixed_judges, confidence)


# Complete tables


def mean_squares(means: Floats, within: Floats | float, per_cell: int) -> Squares:
    """Mean squares of the cell means (prompts, judges) and of the squares inside the cells.

    Args:
        means: (prompts, judges).
        within: sum of squares inside the cells.
        per_cell: responses per cell.
    """
    n, j = means.shape
    rows, columns, grand = means.mean(1), means.mean(0), means.mean()
    residual = means - rows[:, None] - columns + grand
    inside = math.nan if per_cell == 1 else float(np.sum(within)) / (n * j * (per_cell - 1))
    return Squares(
        prompt=per_cell * j * float(((rows - grand) ** 2).sum()) / (n - 1),
        judge=per_cell * n * float(((columns - grand) ** 2).sum()) / (j - 1),
        interaction=per_cell * float((residual**2).sum()) / ((n - 1) * (j - 1)),
        cell=inside,
    )


def crossed_components(squares: Squares, n_prompts: int, n_judges: int, per_cell: int) -> CrossedComponents:
    """Components by equating mean squares to their expectations.

    Args:
        squares: mean squares of prompts, judges, their interaction, and responses.
        n_prompts: number of prompts.
        n_judges: number of judges.
        per_cell: responses per cell.
    """
    p, j, e, r = squares
    interaction = 0.0 if per_cell == 1 else (e - r) / per_cell
    return CrossedComponents(
        prompt=(p - e) / (n_judges * per_cell),
        judge=(j - e) / (n_prompts * per_cell),
        interaction=interaction,
        response=e if per_cell == 1 else r,
    )


def mean_uncertainty(
    squares: Squares, n_prompts: int, n_judges: int, per_cell: int, *, fixed_judges: bool = False
) -> tuple[float, float]:
    """Standard error of the mean loss and its degrees of freedom.

    For random judges the variance V_p/N + V_j/J + V_pj/(NJ) + V_r/(NJK) is estimated by (MS_p + MS_j - MS_pj)/(NJK), at
    least MS_p/(NJK) and MS_j/(NJK), with Satterthwaite's degrees of freedom; for fixed ones by MS_p/(NJK), N - 1.

    Args:
        squares: of a complete table.
        n_prompts: N.
        n_judges: J.
        per_cell: K.
        fixed_judges: whether the target is the mean over these judges.
    """
    p, j, e, _ = squares
    total = n_prompts * n_judges * per_cell
    if fixed_judges:
        return math.sqrt(p / total), n_prompts - 1
    both = p + j - e
    largest = max(both, p, j)
    if largest == both:
        parts = p**2 / (n_prompts - 1) + j**2 / (n_judges - 1) + e**2 / ((n_prompts - 1) * (n_judges - 1))
        freedom = both**2 / parts
    else:
        freedom = n_prompts - 1 if largest == p else n_judges - 1
    return math.sqrt(largest / total), freedom


def table_mean_squares(means: Floats) -> MeanSquares:
    """S, the variance of the row means, and M, the mean square of the residuals, as a one-way pilot has them.

    Subtracting the column means leaves the row means and the residuals, and w_i = sum_j r_ij^2 takes the place of the
    squares within a prompt, with (N - 1)(J - 1) degrees of freedom. Without row i the columns' means change too:
    M_-i = (sum w - w_i N/(N - 1)) / ((N - 2)(J - 1)).

    Args:
        means: (..., rows, columns), of complete tables; the leading axes are independent tables.
    """
    n, j = means.shape[-2:]
    centred = means - means.mean(axis=-2, keepdims=True)
    d = centred.mean(axis=-1)
    w = ((centred - d[..., None]) ** 2).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        s, m = (d**2).sum(axis=-1) / (n - 1), w.sum(axis=-1) / ((n - 1) * (j - 1))
        s_without = ((n - 1) * s[..., None] - d**2 * n / (n - 1)) / (n - 2)
        m_without = ((n - 1) * m[..., None] - w * n / ((n - 1) * (j - 1))) / (n - 2)
        z = d / np.sqrt(s)[..., None]
        spread = (w - (j - 1) * m[..., None]) / math.sqrt(j - 1)
    skewness, kurtosis = shape(z)
    equal = np.full(s.shape, float(n))
    return MeanSquares(
        between=MeanSquare(
            value=s,
            without=s_without,
            clusters=equal,
            effective=equal,
            kurtosis=shape(z**2, centre=True)[1],
            contributions=n,
            normal_kurtosis=KURTOSIS_OF_SQUARES,
            tail=unseen_tail(skewness, kurtosis, n),
        ),
        response=MeanSquare(
            value=m,
            without=m_without,
            clusters=equal,
            effective=equal,
            kurtosis=shape(spread, centre=True)[1],
            contributions=n,
            normal_kurtosis=3 + 12 / (j - 1),
        ),
        between_response=np.full(s.shape, 1 / j),
        between_response_without=np.full(s_without.shape, 1 / j),
        skewness=skewness,
    )


class CrossedLimits(NamedTuple):
    """Confidence limits of V_p, V_j, V_pj (None with one response per cell) and V_r (then V_e); not cut at 0."""

    prompt: Pair
    judge: Pair
    interaction: Pair | None
    response: Pair


@np.errstate(divide="ignore", invalid="ignore", over="ignore")
def crossed_limits(means: Floats, within: Floats, per_cell: int, confidence: float) -> CrossedLimits:
    """Confidence limits of the components of complete tables, by leaving out one prompt (judge) at a time.

    V_p and V_e have the limits of a one-way pilot (`table_mean_squares`); V_j those of the transposed table from 5
    judges on, else those of Williams (1962) and Tukey (1951), which rest on normal judges. V_pj = (M - W/K), W the mean
    square inside the cells, has its limits by MOVER.

    Args:
        means: (..., prompts, judges), means of the cells.
        within: (..., prompts), squares inside the cells of each prompt.
        per_cell: K.
        confidence: two-sided level.
    """
    n, j = means.shape[-2:]
    squares = table_mean_squares(means)
    rows = limits_of(squares, confidence, 1.0, inflate=False)
    m = squares.response
    if j >= TRANSPOSED:
        transposed = table_mean_squares(np.swapaxes(means, -1, -2))
        judge = limits_of(transposed, confidence, 1.0, inflate=False).prompt
    else:
        columns = np.var(means.mean(axis=-2), axis=-1, ddof=1)
        judge = _williams_tukey(n * columns, m.value, n, j, confidence)
    if per_cell == 1:
        return CrossedLimits(rows.prompt, judge, None, rows.response)

    quantile = t_quantile(n - 1, confidence)
    degrees = j * (per_cell - 1)
    total = within.sum(axis=-1)
    inside, inside_without = total / (n * degrees), (total[..., None] - within) / ((n - 1) * degrees)
    logs_m, logs_w = np.log(m.without), np.log(inside_without)
    error_m, error_w = jackknife_covariance(logs_m, logs_m), jackknife_covariance(logs_w, logs_w)
    response = around(inside, quantile, error_w, error_w)
    interaction = mover(
        (1.0, m.value, rows.response),
        (-1 / per_cell, inside, response),
        correlation=lambda *_: jackknife_covariance(logs_m, logs_w) / np.sqrt(error_m * error_w),
    )
    return CrossedLimits(rows.prompt, judge, interaction, response)


def _williams_tukey(judge: Floats, residual: Floats, n: int, j: int, confidence: float) -> Pair:
    """Limits of V_j from MS_j and MS_pj (per response), for normal judges (Searle et al. 1992, section 3.6d)."""
    from scipy import special

    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    f_low, f_high = special.fdtri(j - 1, (n - 1) * (j - 1), tails)
    chi_low, chi_high = special.chdtri(j - 1, tails[::-1])
    freedom = j - 1
    return freedom * (judge - f_high * residual) / (n * chi_high), freedom * (judge - f_low * residual) / (
        n * chi_low
    )


def _complete(cells: Cells, fixed_judges: bool, confidence: float) -> CrossedEstimate:
    from mrtsim.pilot.estimate import component_estimate

    n, j, k = cells.n_prompts, cells.n_judges, int(cells.counts[0])
    means = cells.means.reshape(n, j)
    within = cells.within.reshape(n, j).sum(axis=1)
    squares = mean_squares(means, within, k)
    scale = float(np.abs(means).max() + abs(cells.centre))
    rounding = n * j * k * (8 * np.finfo(float).eps * scale) ** 2
    if squares.interaction <= rounding or (k > 1 and squares.cell <= rounding):
        raise InputError(
            "the judges differ by constants alone, so V_e is estimated at 0: is one judge's loss a copy of another's?"
            if squares.interaction <= rounding
            else "the responses of every cell have the same loss, so V_r is estimated at 0: is each response repeated?"
        )
    components = crossed_components(squares, n, j, k)
    limits = crossed_limits(means, within, k, confidence)
    mean = cells.centre + float(means.mean())
    error, freedom = mean_uncertainty(squares, n, j, k, fixed_judges=fixed_judges)
    interval = Estimate.from_standard_error(mean, error, freedom, confidence)
    return CrossedEstimate(
        components=components,
        prompt=component_estimate(components.prompt, limits.prompt),
        judge=component_estimate(components.judge, limits.judge),
        interaction=None
        if limits.interaction is None
        else component_estimate(components.interaction, limits.interaction),
        response=component_estimate(components.response, limits.response),
        mean=mean,
        standard_error=error,
        mean_interval=interval,
        n_prompts=n,
        n_judges=j,
        n_responses=n * j * k,
        responses_per_cell=k,
        fixed_judges=fixed_judges,
        confidence=confidence,
        warnings=tuple(_warnings(components, table_mean_squares(means), n, j, confidence)),
    )


def _warnings(
    components: CrossedComponents, squares: MeanSquares, n: int, j: int, confidence: float
) -> Iterator[str]:
    level = f"{100 * confidence:g} %"
    yield from _no_plan(components)
    if j < FEW_JUDGES:
        yield (
            f"V_j and the standard error rest on {j} judges: the interval of V_j takes their effects as normal"
            if j < TRANSPOSED
            else f"V_j and the standard error rest on {j} judges, too few to show one that judges unlike the others"
        )
    if n < FEW_PROMPTS:
        yield f"{n} prompts are few: a pilot this small cannot show rare large losses"
    risk = at_risk(squares)
    if risk.between:
        yield (
            f"the {level} interval of V_p may be too short: the means of the prompts are skewed or far out (skewness "
            f"{float(squares.skewness):.2g})"
        )
    if risk.response:
        yield f"the {level} interval of V_e may be too short: few prompts hold most of what the judges disagree on"


def _no_plan(components: CrossedComponents) -> Iterator[str]:
    if components.prompt <= 0:
        yield (
            f"V_p is estimated at {components.prompt:.3g}, not above 0: no plan can rest on that; cap the judges, or "
            "run a larger pilot"
        )


# Tables with missing cells, or with unequal numbers of responses


def _incomplete(cells: Cells, fixed_judges: bool, confidence: float) -> CrossedEstimate:
    replicated = bool((cells.counts > 1).any())
    components = henderson_components(cells)
    sums = np.bincount(cells.prompts, weights=cells.counts * cells.means)
    mean = cells.centre + float((sums / np.bincount(cells.prompts, weights=cells.counts)).mean())
    warnings = (_what_is_missing(cells), *_no_plan(components))
    return CrossedEstimate(
        components=components,
        prompt=Estimate(components.prompt),
        judge=Estimate(components.judge),
        interaction=Estimate(components.interaction) if replicated else None,
        response=Estimate(components.response),
        mean=mean,
        standard_error=math.nan,
        mean_interval=Estimate(mean),
        n_prompts=cells.n_prompts,
        n_judges=cells.n_judges,
        n_responses=int(cells.counts.sum()),
        responses_per_cell=None,
        fixed_judges=fixed_judges,
        confidence=confidence,
        warnings=warnings,
    )


def _what_is_missing(cells: Cells) -> str:
    n, j = cells.n_prompts, cells.n_judges
    missing = n * j - cells.counts.size
    what = f"{missing} of {n * j} cells are empty"
    if not missing:
        low, high = int(cells.counts.min()), int(cells.counts.max())
        what = f"the cells hold {low} to {high} responses"
    whole = int((np.bincount(cells.prompts) == j).sum())
    advice = (
        f"; {whole} of {n} prompts were seen by every judge: these alone have them"
        if missing and whole > 1
        else ""
    )
    return (
        f"{what}, so these are point estimates: no intervals, no standard error of the mean and no check of skewness "
        f"are available{advice}"
    )
