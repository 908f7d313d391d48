"""Responses of each prompt: the whole numbers K_i with the least variance for a budget (NumPy alone).

min sum a_i / (K_i - h) subject to sum c_i K_i <= B and least <= K_i <= most. The Lagrangian dual gives a lower
bound L and a price of the budget; filling the budget by gain per cost gives a plan of value U. In a plan better
than U the choice of no prompt has a reduced cost (what it loses against the dual's choice at that price) of U - L
or more: few choices of few prompts are left. Dynamic programming over them, with dominance, finds the best plan or
proves that U is it. Sources: Neyman (1934) and Cochran (1977), section 5.5, for the continuous optimum; Fox (1966)
for equal costs; Pisinger (1995) for the core of a multiple-choice knapsack problem.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrtsim.errors import InputError
from mrtsim.plan.allocate import LEAST, MOST, _exact

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MOST_EXACT = 2**53
MOST_STATES = 200_000  # partial plans kept from one prompt to the next
MOST_WORK = 5 * 10**6  # partial plans made in all, before the search settles for a certified gap
BEAM = 300, 400  # partial plans and prompts of the quick search that first improves U
CLOSE = 1e-12  # as a share: what rounding may do to a sum of variances or of costs


@dataclass(frozen=True)
class PerPromptPlan:
    """Responses for each prompt.

    Attributes:
        responses: (prompts,) K_i.
        variance: of the weighted mean, given the prompts, sum (w_i s_i)^2 / (K_i - offset).
        uniform_variance: the same with the same number B / sum c_i of responses for every prompt, not rounded.
        cost: sum c_i K_i, in the unit of the costs.
        gap: 0.0 where the plan is proven best, up to rounding; else no plan is better by more than this share of the
            variance.
    """

    responses: Ints
    variance: float
    uniform_variance: float
    cost: float
    gap: float


def allocate_per_prompt(
    spreads: ArrayLike,
    budget: float,
    costs: ArrayLike | None = None,
    *,
    weights: ArrayLike | None = None,
    min_responses: int = 1,
    max_responses: int | None = None,
    offset: int = 0,
) -> PerPromptPlan:
    """Responses for each of given prompts whose spreads are known, exactly, in whole numbers.

    Minimises sum (w_i s_i)^2 / (K_i - offset) for sum c_i K_i <= budget; where K_i may be any number it is proportional
    to w_i s_i / sqrt(c_i) (Neyman). For a leave-one-out baseline (RLOO) take s_i = sqrt(p_i (1 - p_i) T_i), an offset
    of 1 and at least 2 responses: an approximation that drops the terms in the squared gradient (theory.md 8.2).

    K_i that follow the losses they are planned from bias the pooled mean, and rows must be weighted by 1 / K_i in
    training; see theory.md 3.4.

    Args:
        spreads: (prompts,) s_i, standard deviation of a response's loss given the prompt.
        budget: for all responses together, in the unit of `costs`. A number stands for the decimal that it prints as;
            where that takes more than 2^53 units, a sum above the budget by less than 1e-12 of it still fits.
        costs: (prompts,) c_i of one response, above 0, or one number; 1 by default.
        weights: (prompts,) w_i of the prompts in the mean; 1 / prompts by default.
        min_responses: the smallest K_i, above `offset`.
        max_responses: the largest K_i.
        offset: h.

    Returns:
        The plan. With up to thousands of prompts it is proven best in most cases; `gap` says how far at most it is
        from the best where the search stopped.

    Raises:
        InputError: a number out of range, or a budget that does not buy each prompt `min_responses`.
    """
    s = np.atleast_1d(_numbers("spreads", spreads))
    c = np.asarray(1.0) if costs is None else _numbers("costs", costs)
    if s.ndim != 1 or s.size == 0 or c.ndim > 1 or (c.ndim == 1 and c.shape != s.shape) or not np.all(c > 0):
        raise InputError(
            f"give one spread per prompt, and one cost above 0 for all or for each: shapes {s.shape} and {c.shape}"
        )
    c = np.broadcast_to(c, s.shape)
    w = np.full(s.shape, 1 / s.size) if weights is None else np.atleast_1d(_numbers("weights", weights))
    if w.shape != s.shape:
        raise InputError(f"give one weight per prompt: shapes {s.shape} and {w.shape}")
    h = _whole("offset", offset, 0)
    least = _whole("min_responses", min_responses, h + 1)
    most = MOST_EXACT if max_responses is None else _whole("max_responses", max_responses, least)
    units, limit, one = _in_units(c, budget)
    if limit < float(least * units.sum()):
        raise InputError(
            f"a budget of {budget!r} does not buy each prompt {least} response{'s' if least > 1 else ''}: the least is "
            f"{math.fsum(least * c)!r}"
        )
    if limit / units.min() > MOST_EXACT:
        raise InputError(
            f"a budget of {budget!r} buys more than 2^53 responses: lower it, or raise the costs"
        )
    a = np.square(w * s)
    problem = _Problem(a, units, np.full(s.shape, least), np.full(s.shape, most), h, limit)
    k, bound = problem.solve()
    variance = problem.value(k)
    same = min(max(limit / float(units.sum()), least), most) - h
    return PerPromptPlan(
        responses=k,
        variance=variance,
        uniform_variance=float(a.sum() / same),
        cost=float(units @ k) / one if one else math.fsum(c * k),
        gap=0.0 if bound >= variance * (1 - CLOSE) else 1 - bound / variance,
    )


@dataclass
class _Problem:
    """min sum a / (K - h), sum c K <= limit, least <= K <= most; costs are whole numbers where they can be."""

    a: Floats
    c: Floats
    least: Ints
    most: Ints
    h: int
    limit: float

    def __post_init__(self) -> None:
        alone = (self.limit - (self.c @ self.least - self.c * self.least)) / self.c
        most = np.minimum(self.most, np.floor(alone)).astype(np.int64)
        self.most = np.where(self.a == 0, self.least, np.maximum(most, self.least))

    def value(self, k: Ints) -> float:
        return float(np.sum(self.a / (k - self.h)))

    def at_price(self, price: float) -> Ints:
        """The least a / (K - h) + price c K of each prompt: steps are taken that gain what they cost."""
        steps = np.ceil((np.sqrt(1 + 4 * self.a / (price * self.c)) - 1) / 2)
        return np.clip(self.h + steps, self.least, self.most).astype(np.int64)

    def dual(self, price: float) -> float:
        """A lower bound of every plan's value."""
        k = self.at_price(price)
        return self.value(k) + price * float(self.c @ k - self.limit)

    def solve(self) -> tuple[Ints, float]:
        """The best plan found, and a lower bound of every plan's value."""
        if self.c @ self.most <= self.limit:
            return self.most, self.value(self.most)
        first = (self.least - self.h).astype(float)
        high = 2 * float(np.max(self.a / (self.c * first * (first + 1))))  # takes nothing
        low = high
        while self.c @ self.at_price(low) <= self.limit:
            low /= 16
        while low < (middle := low + (high - low) / 2) < high:
            low, high = (low, middle) if self.c @ self.at_price(middle) <= self.limit else (middle, high)
        best = self._filled(self.at_price(high), self.at_price(low))
        bound, price = max((self.dual(price), price) for price in (low, high))
        for quick in (True, False):
            if bound >= self.value(best) * (1 - CLOSE):
                return best, self.value(best)
            best, proven = _Core(self, price, bound, best).search(quick)
        return best, min(proven, self.value(best))

    def _filled(self, k: Ints, tied: Ints) -> Ints:
        """A plan that spends what is left: on steps that are all worth one price in order, then by gain per cost."""
        k, spent = k.copy(), float(self.c @ k)
        for i in np.flatnonzero(tied > k):
            more = int(min(tied[i] - k[i], (self.limit - spent) // self.c[i]))
            k[i] += more
            spent += more * self.c[i]
        t = k - self.h
        for i in np.argsort(-self.a / (t * (t + 1.0)) / self.c, kind="stable"):
            if k[i] < self.most[i] and spent + self.c[i] <= self.limit:
                k[i] += 1
                spent += self.c[i]
        return k


class _Core:
    """Dynamic programming over the prompts whose choice is open.

    A state is a choice for the prompts so far, the others being where the dual has them: its cost and its reduced cost.
    The prompt with the cheapest responses, the filler, has no state: it takes what the others leave. Of two states the
    one of no higher cost and no higher value makes the other superfluous.
    """

    def __init__(self, problem: _Problem, price: float, bound: float, best: Ints):
        self.problem, self.price, self.bound, self.best = problem, price, bound, best
        self.value = problem.value(best)
        self.base = problem.at_price(price)
        self.filler = int(np.argmin(np.where(problem.a > 0, problem.c, np.inf)))
        others = np.arange(problem.a.size) != self.filler
        self.base_cost = float(problem.c[others] @ self.base[others])
        self.base_value = float(np.sum(problem.a[others] / (self.base[others] - problem.h)))

    @property
    def slack(self) -> float:
        """Reduced costs of this or more cannot lead to a better plan."""
        return self.value - self.bound - CLOSE * self.value

    def windows(self) -> tuple[Ints, Ints]:
        """The ends of each prompt's K with a reduced cost within the slack: the roots of a quadratic."""
        p, each = self.problem, self.price * self.problem.c
        at = (self.base - p.h).astype(float)
        total = p.a / at + each * at + self.slack
        root = np.sqrt(np.maximum(total**2 - 4 * p.a * each, 0.0))
        low = np.ceil(p.h + 2 * p.a / (total + root) * (1 - CLOSE))
        high = np.floor(p.h + (total + root) / (2 * each) * (1 + CLOSE))
        return (
            np.clip(low, p.least, self.base).astype(np.int64),
            np.clip(high, self.base, p.most).astype(np.int64),
        )

    def choices(self, i: int, low: int, high: int) -> tuple[Ints, Floats]:
        """The K of a prompt that may belong to a better plan, and their reduced costs."""
        p, base = self.problem, self.base[i]
        k = np.arange(low, high + 1)
        reduced = p.a[i] / (k - p.h) - p.a[i] / (base - p.h) + self.price * p.c[i] * (k - base)
        kept = (reduced < self.slack) | (k == base)
        return k[kept], np.maximum(reduced[kept], 0.0)

    def open_prompts(self, low: Ints, high: Ints) -> Ints:
        """The prompts with a choice, the least decided first."""
        p, t = self.problem, (self.base - self.problem.h).astype(float)
        step = self.price * p.c
        up = np.where(high > self.base, step - p.a / (t * (t + 1)), np.inf)
        down = np.where(low < self.base, p.a / np.maximum(t * (t - 1), 1) - step, np.inf)
        core = np.flatnonzero((high > low) & (np.arange(p.a.size) != self.filler))
        return core[np.argsort(np.minimum(up, down)[core], kind="stable")]

    def search(self, quick: bool) -> tuple[Ints, float]:
        """The best plan, and a lower bound of all plans' value; a quick search keeps few states and only improves."""
        p = self.problem
        low, high = self.windows()
        core = self.open_prompts(low, high)
        width = MOST_STATES
        if quick:
            width, core = BEAM[0], core[: BEAM[1]]
        # What the prompts still to come can save, so that states that stay too dear are dropped at once.
        savings = np.append(np.cumsum((p.c * (self.base - low))[core][::-1])[::-1], 0.0)
        room = p.limit - p.c[self.filler] * p.least[self.filler]
        cost, reduced = np.array([self.base_cost]), np.zeros(1)
        history: list[tuple[int, NDArray[np.int32], Ints]] = []
        proven, work, found = self.value, 0, self._complete(cost, reduced, 0)
        for j, i in enumerate(core):
            k, more = self.choices(i, int(low[i]), int(high[i]))
            work += k.size * cost.size
            if work > MOST_WORK:
                proven = self.bound
                break
            new_cost = (cost + (p.c[i] * (k - self.base[i]))[:, None]).ravel()
            new_reduced = (reduced + more[:, None]).ravel()
            kept = np.flatnonzero((new_reduced < self.slack) & (new_cost - savings[j + 1] <= room))
            kept = kept[np.argsort(new_cost[kept], kind="stable")]
            value = new_reduced[kept] - self.price * (new_cost[kept] - self.base_cost)
            lead = np.minimum.accumulate(value)
            better = np.ones(kept.size, bool)
            better[1:] = value[1:] < lead[:-1]
            better[:-1] &= ~((new_cost[kept[1:]] == new_cost[kept[:-1]]) & (value[1:] < value[:-1]))
            kept = kept[better]
            if kept.size > width:
                order = np.argpartition(new_reduced[kept], width)
                proven = min(proven, self.bound + float(new_reduced[kept[order[width:]]].min()))
                kept = kept[np.sort(order[:width])]
            history.append((int(i), (kept % cost.size).astype(np.int32), k[kept // cost.size]))
            cost, reduced = new_cost[kept], new_reduced[kept]
            if not kept.size:
                break
            found = self._complete(cost, reduced, len(history)) or found
        if found is not None:
            step, state, filler = found
            plan = self.base.copy()
            plan[self.filler] = filler
            for i, parents, chosen in reversed(history[:step]):
                plan[i] = chosen[state]
                state = int(parents[state])
            self.best = plan
        return self.best, self.bound if quick else min(proven, self.value)

    def _complete(self, cost: Floats, reduced: Floats, step: int) -> tuple[int, int, int] | None:
        """(step, state, K of the filler) of the best plan that a state and the filler make, if it is better."""
        p, f = self.problem, self.filler
        left = p.limit - cost
        k = np.minimum(np.floor(left / p.c[f]), p.most[f])
        k = np.where(k * p.c[f] > left, k - 1, k)
        able = k >= p.least[f]
        value = self.base_value + reduced - self.price * (cost - self.base_cost)
        value = np.where(able, value + p.a[f] / np.where(able, k - p.h, 1.0), np.inf)
        state = int(np.argmin(value))
        if value[state] >= self.value * (1 - CLOSE):
            return None
        self.value = float(value[state])
        return step, state, int(k[state])


def _in_units(costs: Floats, budget: float) -> tuple[Floats, float, int]:
    """Costs and the budget as whole numbers of a common unit, and how many units make up 1; else as they are, and 0.

    The budget is cut to what sums of the costs can reach, a multiple of their greatest common divisor.
    """
    exact, limit = [_exact("a cost", c) for c in costs.tolist()], _exact("budget", budget)
    unit = 1
    for value in (limit, *exact):
        unit = math.lcm(unit, value.denominator)
        if unit > MOST_EXACT:
            break
    if unit * max(limit, Fraction(1)) > MOST_EXACT:
        return costs, float(limit) * (1 + CLOSE), 0
    whole = [int(c * unit) for c in exact]
    return np.array(whole, float), float(int(limit * unit) // (g := math.gcd(*whole)) * g), unit


def _numbers(name: str, values: ArrayLike) -> Floats:
    try:
        numbers = np.asarray(values, float)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be numbers, one per prompt") from None
    bad = ~((numbers == 0) | ((numbers >= LEAST) & (numbers <= MOST)))
    if np.any(bad):
        raise InputError(f"{name} must be 0 or between 1e-50 and 1e50, not {numbers[bad][0]:g}")
    return numbers


def _whole(name: str, value: Any, least: int) -> int:
    try:
        whole = int(value)
        valid = whole == value and least <= whole <= MOST_EXACT
    except (TypeError, ValueError, OverflowError):
        whole, valid = 0, False
    if not valid:
        raise InputError(f"{name} must be a whole number of at least {least}, not {value!r}")
    return whole
