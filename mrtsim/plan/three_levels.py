"""How many groups, prompts per group and responses per prompt a budget should buy (NumPy alone).

M groups of r prompts with K responses each leave the variance V_g/M + V_{x|g}/(M r) + V_{y|x}/(M r K) and cost
M (C_g + r C_p + r K C_r) (Cochran 1977, section 10.8). For a given r this is the problem of `allocate`, with components
V_g + V_{x|g}/r and V_{y|x}/r and costs C_g + r C_p and r C_r, which `integer_search` solves exactly. The r are searched
in the order of a lower bound, until no r that is left can be better.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrtsim.errors import InputError
from mrtsim.plan.allocate import (
    MOST_COUNT,
    Cost,
    Plan,
    _Constraints,
    _count,
    _exact,
    _problem,
    exact_components,
)
from mrtsim.plan.integer_search import ROUNDING, Problem, best_first
from mrtsim.variance import VarianceComponents

MOST_PROMPTS = 10**6  # per group


@dataclass(frozen=True)
class ThreeLevels:
    """The problem for a budget or a target, all numbers exact."""

    group: Fraction
    prompt: Fraction
    response: Fraction
    c_group: Fraction
    c_prompt: Fraction
    c_response: Fraction
    constraints: _Constraints
    max_group_size: int | None

    @classmethod
    def of(
        cls, components: VarianceComponents, cost: Cost, constraints: _Constraints, max_group_size: int | None
    ) -> ThreeLevels:
        """The problem, checked to be one that has an optimum.

        Args:
            components: V_g, V_{x|g} and V_{y|x}.
            cost: C_g, C_p and C_r.
            constraints: the goal and the caps of `allocate`.
            max_group_size: the largest r.

        Raises:
            InputError: a number out of range, V_g = 0 without `max_group_size`, or an argument of two levels only.
        """
        v = exact_components(components)
        c = [_exact(f"the cost of a {name}", getattr(cost, name)) for name in ("group", "prompt", "response")]
        if max_group_size is not None:
            _count("max_group_size", max_group_size)
        for name in ("n_prompts", "population"):
            if getattr(constraints, name) is not None:
                raise InputError(f"{name} does not go with a cost per group: the plan chooses whole groups")
        if max_group_size is None and v[0] == 0:
            raise InputError(
                "V_g = 0 would put all prompts into one group: set max_group_size, or leave the cost per group out"
            )
        if max_group_size is None and c[1] == c[2] == 0:
            raise InputError(
                "the prompts per group have no finite optimum, because prompts and responses cost nothing: set "
                "max_group_size"
            )
        return cls(v[0], v[1], v[2], c[0], c[1], c[2], constraints, max_group_size)

    def at(self, size: int) -> Problem | None:
        """The two-level problem over M and K for r prompts per group; None where no plan has as many."""
        constraints = self.constraints
        if constraints.max_prompts is not None:
            groups = constraints.max_prompts // size
            if groups == 0:
                return None
            constraints = replace(constraints, max_prompts=groups)
        try:
            return _problem(
                VarianceComponents(self.prompt / size, self.response / size, self.group),  # pyright: ignore[reportArgumentType]
                Cost(self.c_group + size * self.c_prompt, size * self.c_response),  # pyright: ignore[reportArgumentType]
                constraints,
                1.0,
            )
        except InputError:
            if size == 1 and (constraints.group_population is None or constraints.budget is not None):
                raise
            # one prompt per group needs the least budget and, with any number of groups, the least variance
            return None

    @property
    def offset(self) -> Fraction:
        """V_g / M_tot, which a given set of groups takes off the variance."""
        total = self.constraints.group_population
        return Fraction(0) if total is None else self.group / _exact("group_population", total)

    @cached_property
    def most(self) -> int | float:
        """The largest r worth a look: beyond, V_g alone costs more than a plan that is known."""
        goal, most = self.constraints, self.max_group_size or math.inf
        size, known = 1, self.at(1)
        while known is None and size < min(most, MOST_COUNT):
            size = int(min(2 * size, most, MOST_COUNT))
            known = self.at(size)
        if known is None:
            raise InputError(
                f"no plan with {goal.group_population:g} groups and the caps has a variance of "
                f"{goal.target_variance!r}: raise one of them"
            )
        each = self.c_prompt + goal.responses_between()[0] * self.c_response
        if each:
            n, k, _ = known.solve()
            limit = _exact("the goal", goal.budget if goal.budget is not None else goal.target_variance)
            if goal.budget is not None:
                most = min(most, max(1, int((limit - self.c_group) // each)))
            if self.group:
                value = known.objective(n, k)
                product = (
                    (value + self.offset) * limit
                    if goal.budget is not None
                    else value * (limit + self.offset)
                )
                worth = (product / self.group - self.c_group) / each
                most = min(most, max(1, int(worth) + 1))
        return min(most, goal.max_prompts or math.inf)

    def bounds(self, r: NDArray[np.float64]) -> NDArray[np.float64]:
        """Per r a lower bound of the variance (with a target: of the cost), were M and K not whole."""
        low, high = self.constraints.responses_between()
        a, b = float(self.group) + float(self.prompt) / r, float(self.response) / r
        p, q = float(self.c_group) + float(self.c_prompt) * r, float(self.c_response) * r
        with np.errstate(divide="ignore", invalid="ignore"):
            k = np.clip(np.nan_to_num(np.sqrt(b * p / (a * q)), nan=low, posinf=1e300), low, high)
            product = a * p + b * q + k * a * q + b * p / k
        if self.constraints.budget is not None:
            budget = float(self.constraints.budget)
            bound = product / budget
            with np.errstate(divide="ignore", invalid="ignore"):
                # the variance is convex in M: where the best M is below 1 or above the largest whole one, that is best
                free = budget / (p + k * q)
                m = np.clip(free, 1, np.floor(budget / (p + low * q) * (1 + ROUNDING)))
                more = np.minimum((budget / m - p) / q, high) * (1 + ROUNDING)
                bound = np.where((m > 0) & (m != free), (a + b / more) / m, bound)
            if self.constraints.max_prompts is not None:
                bound = np.maximum(bound, a * r / self.constraints.max_prompts)
            return bound * (1 - ROUNDING) - float(self.offset)
        target = float(self.constraints.target_variance or 0) + float(self.offset)
        return product / target if target else np.zeros_like(product)

    def solve(self) -> tuple[int, int, int, float]:
        """(M, r, K, gap) of the best plan; ties go to the lower cost (variance), then to the smaller r."""
        spends = self.constraints.budget is not None

        def best(size: int) -> tuple[tuple[Any, ...], float] | None:
            problem = self.at(size)
            if problem is None:
                return None
            n, k, gap = problem.solve()
            value = problem.variance(n, k), problem.cost(n, k)
            return ((*(value if spends else value[::-1]), size, n, k), gap)

        sizes = np.arange(1, int(min(self.most, MOST_PROMPTS)) + 1)
        found, gap = best_first(sizes, self.bounds(sizes.astype(float)), best)
        if found is None:
            self.at(1)  # says why
            raise InputError("no plan with whole groups meets the caps")
        value, _, size, n, k = found
        if self.most > MOST_PROMPTS:  # the bound has one valley, at r*
            valley = max(float(MOST_PROMPTS), min(float(self.most), self.continuous()[0]))
            beyond = float(self.bounds(np.array([min(valley, 1e100)]))[0])
            gap = max(gap, 1 - beyond / float(value) if value else 0.0)
        return n, size, k, gap

    def plan(self) -> Plan:
        """The best plan with what there is to know about it."""
        n, size, k, gap = self.solve()
        problem = self.at(size)
        assert problem is not None
        variance = problem.variance(n, k)
        efficiency = math.nan
        if self.constraints.budget is not None and variance:
            caps = replace(self.constraints, responses_per_prompt=1)
            one, one_size, _, _ = (single := replace(self, constraints=caps)).solve()
            efficiency = float(single.at(one_size).variance(one, 1) / variance)  # pyright: ignore[reportOptionalMemberAccess]
        r_star, k_star = self.continuous()
        return Plan(
            n_prompts=n * size,
            responses_per_prompt=k,
            variance=float(variance),
            cost=float(problem.cost(n, k)),
            k_star=k_star,
            efficiency=efficiency,
            k_range_5pct=problem.run(n, k, Fraction(1, 20)),
            k_range_10pct=problem.run(n, k, Fraction(1, 10)),
            bound_by=tuple(self._bound_by(problem.objective(n, k))),
            gap=gap,
            n_groups=n,
            prompts_per_group=size,
            r_star=r_star,
        )

    def _bound_by(self, value: Fraction) -> list[str]:
        """The goal, and those caps whose removal alone would give a better plan."""
        found = ["budget" if self.constraints.budget is not None else "target_variance"]
        for name in ("max_prompts", "max_responses", "candidates"):
            if getattr(self.constraints, name) is None:
                continue
            free = name != "max_prompts" and self.c_response == 0
            if (
                free
                or self._value(replace(self, constraints=replace(self.constraints, **{name: None}))) < value
            ):
                found.append(name)
        if self.constraints.group_population is not None:
            # as many groups as one likes, the target still the mean over these
            target = self.constraints.target_variance
            if target is not None:
                target = _exact("target_variance", target) + self.offset
            free_groups = replace(self.constraints, group_population=None, target_variance=target)
            relaxed = self._value(replace(self, constraints=free_groups))
            if relaxed - (0 if target is not None else self.offset) < value:
                found.append("group_population")
        if self.max_group_size is not None:
            free = self.c_prompt == self.c_response == 0
            if free or self._value(replace(self, max_group_size=None)) < value:
                found.append("max_group_size")
        return found

    @staticmethod
    def _value(problem: ThreeLevels) -> Fraction:
        n, size, k, _ = problem.solve()
        inner = problem.at(size)
        assert inner is not None
        return inner.objective(n, k)

    def continuous(self) -> tuple[float, float]:
        """(r*, K*), the best prompts per group and responses per prompt if they need not be whole; r is at least 1.

        r* = sqrt(V_{x|g} C_g / (V_g C_p)) and K* = sqrt(V_{y|x} C_p / (V_{x|g} C_r)). Where r* < 1 one prompt per group
        is best, and K* = sqrt(V_{y|x} (C_g + C_p) / ((V_g + V_{x|g}) C_r)).
        """
        r = _root(self.prompt * self.c_group, self.group * self.c_prompt)
        if r >= 1:
            return r, _root(self.response * self.c_prompt, self.prompt * self.c_response)
        above, below = self.c_group + self.c_prompt, self.group + self.prompt
        return 1.0, _root(self.response * above, below * self.c_response)


def _root(top: Fraction, bottom: Fraction) -> float:
    if bottom == 0:
        return math.nan if top == 0 else math.inf
    return math.sqrt(top / bottom)
