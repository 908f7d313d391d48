"""How many prompts, judges and responses per cell a budget should buy, where every judge sees every prompt (NumPy).

N prompts x J judges x K responses per cell leave the variance V_p/N + V_j/J + V_pj/(NJ) + V_r/(NJK) and cost
N C_p + J C_j + N J (C_c + (K - 1) C_r). For a given J this is the problem of `allocate`, with components V_p + V_pj/J
and V_r/J and costs C_p + J (C_c - C_r) and J C_r, which `integer_search` solves exactly. The J are searched in the
order of a lower bound, until no J that is left can be better.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from mrtsim.display import Display, number
from mrtsim.errors import InputError
from mrtsim.plan.allocate import Cost, _at_least, _Constraints, _count, _exact, _problem
from mrtsim.plan.integer_search import Problem, best_first
from mrtsim.variance import CrossedComponents, VarianceComponents

MOST_JUDGES = 10**6


@dataclass(frozen=True)
class CrossedCost:
    """What a crossed design costs, in one unit of the caller's choice.

    Attributes:
        prompt: C_p, of one prompt.
        judge: C_j, of one judge, whatever it judges.
        cell: C_c, of one cell with one response: one prompt seen by one judge, its response included.
        response: C_r, of each further response in a cell; part of `cell`, so at most as much.

    Raises:
        InputError: a cost that is not finite or below 0, or `response` above `cell`.
    """

    prompt: float
    judge: float
    cell: float
    response: float

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            _exact(f"the cost of a {name}", value)
        if self.response > self.cell:
            raise InputError(
                f"the cost of a cell, {self.cell!r}, includes that of its first response, {self.response!r}: it "
                "cannot be less"
            )


@dataclass(frozen=True)
class CrossedPlan(Display):
    """A whole-number plan of a crossed design.

    Attributes:
        n_prompts: N.
        n_judges: J, each of whom sees every prompt.
        responses_per_cell: K, responses to one prompt by one judge.
        variance: of the mean loss, in squared units of the loss.
        cost: N C_p + J C_j + N J (C_c + (K - 1) C_r).
        gap: 0 where the plan is proven best; else no plan is better by more than this share of the variance (with a
            target: of the cost).
    """

    n_prompts: int
    n_judges: int
    responses_per_cell: int
    variance: float
    cost: float
    gap: float

    def _rows(self) -> tuple[tuple[str, ...], list[tuple[str, str, str]]]:
        rows = [
            ("prompts", number(self.n_prompts), "N"),
            ("judges", number(self.n_judges), "J, each sees every prompt"),
            ("responses per cell", number(self.responses_per_cell), "K, one prompt and one judge"),
            ("variance", number(self.variance), f"standard error {number(math.sqrt(self.variance))}"),
            ("cost", number(self.cost, 6), ""),
        ]
        if self.gap:
            rows.append(
                ("gap", number(self.gap, 1), "too large to prove: no plan is better by more than this share")
            )
        return (), rows


def allocate_judges(
    components: CrossedComponents,
    cost: CrossedCost,
    *,
    budget: float | None = None,
    target_variance: float | None = None,
    n_judges: int | None = None,
    max_judges: int | None = None,
    max_responses: int | None = None,
    max_prompts: int | None = None,
    n_prompts: int | None = None,
    fixed_judges: bool = False,
) -> CrossedPlan:
    """The best whole numbers of prompts, judges and responses per cell for a budget, or the cheapest for a target.

    With a budget no plan of the same or lower cost has a lower variance; among equals the cheapest, then the fewest
    judges, then the fewest responses are taken. With a target no cheaper plan reaches it; among equals the least
    variance decides first.

    Args:
        components: V_p, V_j, V_pj and V_r; 0 is allowed, negative estimates are not.
        cost: C_p, C_j, C_c and C_r; 0 is allowed.
        budget: the most to spend. Give this or `target_variance`.
        target_variance: the variance to reach at the least cost.
        n_judges: J, where it is fixed.
        max_judges: the largest J; 10^6 where it is not given.
        max_responses: the largest K; 1 where V_pj and V_r could not be told apart.
        max_prompts: the largest N.
        n_prompts: N, where it is fixed.
        fixed_judges: whether the target is the mean over these `n_judges` judges alone: then V_j does not count.

    Raises:
        InputError: a number out of range, a budget that does not buy one cell, a target that the caps put out of
            reach, or no finite optimum without a cap.
    """
    v_p, v_j, v_pj, v_r = (
        _exact(f"the {name} component {symbol}", getattr(components, name))
        for name, symbol in (
            ("prompt", "V_p"),
            ("judge", "V_j"),
            ("interaction", "V_pj"),
            ("response", "V_r"),
        )
    )
    c_p, c_j, c_c, c_r = (_exact(name, value) for name, value in vars(cost).items())
    constraints = _Constraints(
        budget=budget,
        target_variance=target_variance,
        max_responses=max_responses,
        max_prompts=max_prompts,
        n_prompts=n_prompts,
    )
    for name, value in (("n_judges", n_judges), ("max_judges", max_judges)):
        if value is not None:
            _count(name, value)
    if fixed_judges:
        if n_judges is None:
            raise InputError("fixed_judges needs n_judges: the mean over these judges takes all of them")
        v_j = Fraction(0)
    if c_r == 0 and v_r > 0 and max_responses is None:
        raise InputError(
            "the responses per cell have no finite optimum, because further ones cost nothing: set max_responses"
        )

    def problem(j: int, limit: Fraction) -> Problem:
        goal = {"budget": limit} if budget is not None else {"target_variance": limit}
        return _problem(
            VarianceComponents(v_p + v_pj / j, v_r / j),  # pyright: ignore[reportArgumentType]
            Cost(c_p + j * (c_c - c_r), j * c_r),  # pyright: ignore[reportArgumentType]
            _Constraints(**{**vars(constraints), **goal}),
            1.0,
        )

    n_min, n_max = constraints.prompts_between()
    k_max = constraints.responses_between()[1]
    judges = (
        np.array([n_judges]) if n_judges else np.arange(1, min(max_judges or MOST_JUDGES, MOST_JUDGES) + 1)
    )
    if budget is not None:
        limit = _exact("budget", budget)
        least = n_min * (c_p + int(judges[0]) * c_c) + int(judges[0]) * c_j
        if limit < least:
            what = f"{n_min} prompts" if n_min > 1 else "one prompt"
            who = f"{n_judges} judges" if n_judges and n_judges > 1 else "one judge"
            raise InputError(
                f"a budget of {budget!r} does not buy {what} seen by {who}: the least budget is {_at_least(least)!r}"
            )
        if n_min * c_c + c_j:
            judges = judges[: max(1, int((limit - n_min * c_p) // (n_min * c_c + c_j)))]
        elif n_judges is None and max_judges is None:
            raise InputError("the judges have no finite optimum, because they cost nothing: set max_judges")
    else:
        limit = _exact("target_variance", target_variance)

        def floor(j: int) -> Fraction:
            """The least variance with j judges, or what it comes near to without caps."""
            top = v_p + v_pj / j + (v_r / (j * int(k_max)) if k_max < math.inf else 0)
            return v_j / j + (top / int(n_max) if n_max < math.inf else 0)

        if not _meets(limit, floor(int(judges[-1])), n_max):
            raise InputError(
                f"no plan within the caps has a variance of {target_variance!r}: the least variance is "
                f"{'' if n_max < math.inf else 'above '}{float(floor(int(judges[-1])))!r}"
            )

    def solve(j: int) -> tuple[tuple[Fraction, Fraction, int, int, int], float] | None:
        """(value, what decides among equals, J, K, N) of the best plan with j judges, and its gap."""
        if budget is not None:
            left = limit - j * c_j
        else:
            left = limit - v_j / j
            if not _meets(limit, floor(j), n_max):
                return None
        search = problem(j, left)
        n, k, gap = search.solve()
        variance, price = search.variance(n, k) + v_j / j, search.cost(n, k) + j * c_j
        value = (variance, price) if budget is not None else (price, variance)
        return (*value, j, k, n), gap

    bounds = _bounds(
        judges.astype(float),
        *map(float, (v_p, v_j, v_pj, v_r, c_p, c_j, c_c - c_r, c_r)),
        limit=float(limit),
        n_max=float(n_max),
        spends=budget is not None,
    )
    best, gap = best_first(judges, bounds, solve)
    if best is None:
        raise InputError(
            "no plan reaches the target within the caps: raise max_judges, max_prompts or the target"
        )
    first, second, j, k, n = best
    variance, price = (first, second) if budget is not None else (second, first)
    return CrossedPlan(n, j, k, float(variance), float(price), gap)


def _meets(limit: Fraction, least: Fraction, n_max: int | float) -> bool:
    """Whether some number of prompts reaches a target; without a cap the least variance is only come near to."""
    return limit >= least if n_max < math.inf else limit > least


def _bounds(
    j: NDArray[np.float64],
    v_p: float,
    v_j: float,
    v_pj: float,
    v_r: float,
    c_p: float,
    c_j: float,
    c_free: float,
    c_r: float,
    *,
    limit: float,
    n_max: float,
    spends: bool,
) -> NDArray[np.float64]:
    """Per number of judges a lower bound of the variance (with a target: of the cost); infinite where there is no plan.

    (a + b/K)(p + K r) is least at K^2 = b p / (a r), or at K = 1 where that is below 1, were N and K not whole.
    """
    a, b, p, r = v_p + v_pj / j, v_r / j, c_p + j * c_free, j * c_r
    product = np.where(b * p < a * r, (a + b) * (p + r), (np.sqrt(a * p) + np.sqrt(b * r)) ** 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        if spends:
            left = limit - j * c_j
            bound = v_j / j + np.maximum(np.where(product > 0, product / left, 0.0), a / n_max)
            return np.where(left >= 0, bound, np.inf)
        left = limit - v_j / j
        bound = j * c_j + np.where(product > 0, product / left, 0.0)
        return np.where(left >= 0, bound, np.inf)
