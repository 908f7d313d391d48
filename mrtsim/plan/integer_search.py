"""Exact search for the best whole-number plan among those that a budget or a target allows (no floating point)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROUNDING = 1e-9  # what a bound in floating point may be off, as a share of it
MOST_CORNERS = 20_000  # looked at in each direction, before the search settles for a certified gap


@dataclass(frozen=True)
class Problem:
    """Integers only: variance (a + b/K)/N over `variance_unit`, less `offset`; cost N (p + K r) over `cost_unit`.

    The finite target differs from the population's by a constant: with S_1^2 = S_u^2 + S_2^2 / N its variance is
    S_u^2 / N_p + S_2^2 / (N_p K) - S_1^2 / P.

    The plans worth a look are the corners of a staircase, where N is the best for K *and* K the farthest for N. Both
    are found by division. `solve` leaves the corner at the continuous optimum in both directions, until a lower bound
    that only grows on the way passes the best corner.
    """

    a: int
    b: int
    p: int
    r: int
    limit: int  # the budget, or the target plus the offset
    n_min: int
    n_max: int | float  # math.inf where there is no cap
    k_min: int
    k_max: int | float
    variance_unit: int
    cost_unit: int
    offset: Fraction

    def variance(self, n: int, k: int) -> Fraction:
        return Fraction(self.a * k + self.b, n * k * self.variance_unit) - self.offset

    def cost(self, n: int, k: int) -> Fraction:
        return Fraction(n * (self.p + k * self.r), self.cost_unit)

    def missing_cap(self) -> str | None:
        """The cap without which there is no finite optimum."""
        if self.k_max == math.inf and (self.r == 0 or (self.a == self.p == 0 and self.n_max == math.inf)):
            return "max_responses"
        return "max_prompts" if self.n_max == math.inf and self.p == self.r == 0 else None

    def solve(self) -> tuple[int, int, float]:
        """(N, K, gap) of the best plan."""
        if self.a == self.b == 0:
            return self.n_min, self.k_min, 0.0
        if self.b == 0 or self.r == 0:  # more responses do not help, or cost nothing
            k = int(self.k_max) if self.b else self.k_min
            return int(self.n_max) if self.p == self.r == 0 else self.prompts(k), k, 0.0
        best = start = self.at_k(self.start())
        top, bottom = self.value(*best)
        unproven = []
        for step in (self.up, self.down):
            corner = step(start)
            for _ in range(MOST_CORNERS):
                if corner is None:
                    break
                over, under = self.bound(*corner)
                lead = over * bottom - top * under
                if lead > 0 or (lead == 0 and self.a == 0):
                    break
                over, under = self.value(*corner)
                lead = over * bottom - top * under
                if lead < 0 or (lead == 0 and self.tie(*corner) < self.tie(*best)):
                    best, top, bottom = corner, over, under
                corner = step(corner)
            else:
                if corner is not None:
                    unproven.append(Fraction(*self.bound(*corner)))
        value, zero = Fraction(top, bottom), self.zero()
        gap = (value - min(unproven)) / (value - zero) if unproven and value > zero else 0
        return *best, max(0.0, float(gap))

    def at_k(self, k: int) -> tuple[int, int]:
        n = self.prompts(k)
        return n, self.farthest_k(n)

    def kink(self) -> int | float:
        """The whole part of K*."""
        if self.a == 0:
            return math.inf if self.p else 0
        return math.isqrt(self.b * self.p // (self.a * self.r))

    def run(self, n: int, k: int, slack: Fraction) -> tuple[int, int]:
        """The run of whole K around a plan with an objective of at most (1 + slack) of its own.

        Rounding moves N by less than 1, so a convex quadratic in K tells where every K qualifies. Only what lies
        before and beyond is walked, one stair at a time.

        Args:
            n: N of the plan.
            k: K of the plan.
            slack: excess of the objective that is still good, as a share.
        """
        value, zero = Fraction(*self.value(n, k)), self.zero()
        most = zero + (value - zero) * (1 + slack)
        ends = []
        for direction, step, last in ((-1, self.step_down, self.k_min), (1, self.step_up, self.k_max)):
            end, before = k, None
            while end != before:
                before, end = end, step(_reach(lambda j: self.surely(j, most), end, direction, last), most)
            ends.append(end)
        return ends[0], ends[1]

    # What the two problems do not share.

    def objective(self, n: int, k: int) -> Fraction:
        raise NotImplementedError

    def zero(self) -> Fraction | int:
        """The `value` of an objective of 0."""
        raise NotImplementedError

    def value(self, n: int, k: int) -> tuple[int, int]:
        """The objective up to unit and offset, as a numerator and a denominator."""
        raise NotImplementedError

    def tie(self, n: int, k: int) -> tuple[Fraction | int, int]:
        """What decides among equals: the least."""
        raise NotImplementedError

    def least_limit(self) -> tuple[Fraction, bool]:
        """The least limit that any plan meets, and whether one does or only comes near."""
        raise NotImplementedError

    def most_k(self) -> int | float:
        """The largest K of any plan."""
        raise NotImplementedError

    def prompts(self, k: int) -> int:
        """The best N for K; 0 where there is none."""
        raise NotImplementedError

    def farthest_k(self, n: int) -> int:
        """The largest K that N prompts leave room for, or the smallest that reaches the target; 0 where none does."""
        raise NotImplementedError

    def start(self) -> int:
        """A feasible K at the least bound."""
        raise NotImplementedError

    def bound(self, n: int, k: int) -> tuple[int, int]:
        """A lower bound on `value` here and farther from the start, again as two numbers."""
        raise NotImplementedError

    def up(self, plan: tuple[int, int]) -> tuple[int, int] | None:
        """The next corner with a larger K."""
        raise NotImplementedError

    def down(self, plan: tuple[int, int]) -> tuple[int, int] | None:
        """The next corner with a smaller K."""
        raise NotImplementedError

    def surely(self, k: int, most: Fraction) -> bool:
        """Whether K qualifies for the run, wherever rounding N puts it; true on an interval of K."""
        raise NotImplementedError

    def step_up(self, k: int, most: Fraction) -> int:
        """A larger K up to which all qualify, or K itself where K + 1 does not."""
        raise NotImplementedError

    def step_down(self, k: int, most: Fraction) -> int:
        """A smaller K down to which all qualify, or K itself where K - 1 does not."""
        raise NotImplementedError


class BudgetProblem(Problem):
    """The least variance at a cost of at most `limit`."""

    def objective(self, n: int, k: int) -> Fraction:
        return self.variance(n, k)

    def zero(self) -> Fraction:
        return self.offset * self.variance_unit

    def value(self, n: int, k: int) -> tuple[int, int]:
        return self.a * k + self.b, n * k

    def tie(self, n: int, k: int) -> tuple[int, int]:
        return n * (self.p + k * self.r), k

    def least_limit(self) -> tuple[Fraction, bool]:
        return Fraction(self.n_min * (self.p + self.k_min * self.r)), True

    def most_k(self) -> int:
        return self.farthest_k(self.n_min)

    def prompts(self, k: int) -> int:
        price = self.p + k * self.r
        n = min(self.n_max, self.limit // price) if price else self.n_max
        return int(n) if n >= self.n_min and self.k_min <= k <= self.k_max else 0

    def farthest_k(self, n: int) -> int:
        room = self.limit - n * self.p
        k = min(self.k_max, room // (n * self.r)) if self.r else self.k_max if room >= 0 else 0
        return int(k) if k >= self.k_min and self.n_min <= n <= self.n_max else 0

    def start(self) -> int:
        return int(min(max(self.kink(), self.k_min), self.farthest_k(self.n_min)))

    def bound(self, n: int, k: int) -> tuple[int, int]:
        if self.a == 0:  # N K <= (budget - N p) / r, rounded down
            return self.b, (self.limit - n * self.p) // self.r
        one, price = self.a * k + self.b, self.p + k * self.r
        if self.n_max < math.inf and self.n_max * price < self.limit:
            return one, k * int(self.n_max)
        return one * price, k * self.limit

    def up(self, plan: tuple[int, int]) -> tuple[int, int] | None:
        return self.at_k(plan[1] + 1) if self.prompts(plan[1] + 1) else None

    def down(self, plan: tuple[int, int]) -> tuple[int, int] | None:
        k = self.farthest_k(plan[0] + 1)
        return (self.prompts(k), k) if k else None

    def surely(self, k: int, most: Fraction) -> bool:
        price, one = self.p + k * self.r, self.a * k + self.b
        return (
            self.n_min * price <= self.limit
            and one * price <= most * k * (self.limit - price)
            and (self.n_max == math.inf or one <= most * k * int(self.n_max))
        )

    def step_up(self, k: int, most: Fraction) -> int:
        n = self.prompts(k + 1)
        return self.farthest_k(n) if n and Fraction(*self.value(n, k + 1)) <= most else k

    def step_down(self, k: int, most: Fraction) -> int:
        n = self.prompts(k - 1)
        spare = most * n - self.a
        if not n or spare < 0 or (spare == 0 and self.b):
            return k
        lowest = math.ceil(self.b / spare) if self.b else 1
        return min(k, max(lowest, self.k_min))  # where more than N prompts are affordable it is better still


class TargetProblem(Problem):
    """The least cost at a variance (with the offset) of at most `limit`."""

    def objective(self, n: int, k: int) -> Fraction:
        return self.cost(n, k)

    def zero(self) -> int:
        return 0

    def value(self, n: int, k: int) -> tuple[int, int]:
        return n * (self.p + k * self.r), 1

    def tie(self, n: int, k: int) -> tuple[Fraction, int]:
        return Fraction(self.a * k + self.b, n * k), k

    def least_limit(self) -> tuple[Fraction, bool]:
        if self.n_max == math.inf or self.a == self.b == 0:
            return Fraction(0), self.a == self.b == 0
        if self.k_max == math.inf or self.b == 0:
            return Fraction(self.a, int(self.n_max)), self.b == 0
        return Fraction(self.a * int(self.k_max) + self.b, int(self.n_max * self.k_max)), True

    def most_k(self) -> int | float:
        return self.k_max

    def prompts(self, k: int) -> int:
        if not self.k_min <= k <= self.k_max:
            return 0
        needed = -(-(self.a * k + self.b) // (self.limit * k)) if self.a + self.b else 0
        n = max(self.n_min, needed)
        return n if n <= self.n_max else 0

    def farthest_k(self, n: int) -> int:
        spare = n * self.limit - self.a
        if not self.n_min <= n <= self.n_max or spare < 0 or (spare == 0 and self.b):
            return 0
        k = max(self.k_min, -(-self.b // spare)) if self.b else self.k_min
        return k if k <= self.k_max else 0

    def start(self) -> int:
        least = self.farthest_k(int(self.n_max)) if self.n_max < math.inf else self.k_min
        return int(max(least, min(self.kink(), self.farthest_k(self.n_min) or self.k_max, self.k_max)))

    def bound(self, n: int, k: int) -> tuple[int, int]:
        if self.a == 0:  # N K >= b / target, rounded up
            return n * self.p - (-self.b // self.limit) * self.r, 1
        one, price = self.a * k + self.b, self.p + k * self.r
        if one < self.n_min * self.limit * k:
            return self.n_min * price, 1
        return one * price, k * self.limit

    def up(self, plan: tuple[int, int]) -> tuple[int, int] | None:
        k = self.farthest_k(plan[0] - 1)
        return (self.prompts(k), k) if k else None

    def down(self, plan: tuple[int, int]) -> tuple[int, int] | None:
        return self.at_k(plan[1] - 1) if self.prompts(plan[1] - 1) else None

    def surely(self, k: int, most: Fraction) -> bool:
        price, needed = (
            self.p + k * self.r,
            self.a * k + self.b + self.limit * k,
        )  # N + 1, times the target and K
        return (
            self.n_min * price <= most
            and needed * price <= most * self.limit * k
            and (self.n_max == math.inf or needed <= self.n_max * self.limit * k)
        )

    def step_up(self, k: int, most: Fraction) -> int:
        n = self.prompts(k + 1)
        if not n:
            return k
        highest = (most - n * self.p) // (n * self.r) if self.r else self.k_max
        return max(k, int(min(highest, self.k_max)))  # where fewer than N prompts will do it is cheaper still

    def step_down(self, k: int, most: Fraction) -> int:
        n = self.prompts(k - 1)
        return self.farthest_k(n) if n and n * (self.p + (k - 1) * self.r) <= most else k


def _reach(holds: Callable[[int], bool], k: int, direction: int, end: int | float) -> int:
    """The farthest whole number from k towards `end` up to which `holds`, a test that is true on one interval."""
    if not holds(k):
        return k
    step, out = 1, None
    while k != end and step:
        beyond = k + direction * step
        if beyond > end if direction > 0 else beyond < end:
            beyond = int(end)
        if out is not None and (beyond - out) * direction >= 0:
            step //= 2
        elif holds(beyond):
            k, step = beyond, step * 2 if out is None else step
        else:
            out, step = beyond, step // 2
    return k


def best_size(
    spread: Callable[[int], float],
    bound: Callable[[int], float],
    *,
    price: tuple[int, int],
    limit: int,
    least: int,
    most: int | float,
) -> tuple[int, int, float]:
    """(N, size, gap) with the least spread(size) / N, where N prompts of that size cost N (p + size r) <= limit.

    For laws of the size that are not a + b / size (groups of rollouts, pass@k). Ties go to the cheaper plan.

    Args:
        spread: the variance of one prompt; it must not grow with the size.
        bound: a lower bound on spread(size) (p + size r) here and at all larger sizes; it must not fall.
        price: p and r, whole numbers.
        limit: the budget, a whole number that buys one prompt of the least size.
        least: the smallest size.
        most: the largest size, infinite where there is no cap.
    """
    p, r = price
    size, best, value = least, (0, 0), math.inf
    for _ in range(MOST_CORNERS):
        n = limit // (p + size * r)
        if n == 0 or size > most or bound(size) > value * limit:
            return *best, 0.0
        reached = most if r == 0 else min(most, (limit // n - p) // r)  # as many prompts allow for this size
        here = spread(int(reached)) / n
        if here < value:
            best, value = (n, int(reached)), here
        size = int(reached) + 1
    return *best, max(0.0, 1 - bound(size) / (value * limit))


def best_first(
    choices: NDArray[np.int64],
    bounds: NDArray[np.float64],
    solve: Callable[[int], tuple[tuple[Any, ...], float] | None],
) -> tuple[tuple[Any, ...] | None, float]:
    """(the least answer, gap) over choices, tried from the lowest bound up until none that is left can be better.

    Args:
        choices: what is chosen from, whole numbers.
        bounds: a lower bound of the first entry of each choice's answer, correct to 1e-9 of it.
        solve: the answer of a choice, compared entry by entry, and the gap of its first entry; None where there is
            none.
    """
    best, gap = None, 0.0
    for tried, index in enumerate(np.argsort(bounds, kind="stable")):
        lower = float(bounds[index]) * (1 - ROUNDING)
        if best is not None and (lower > float(best[0]) or tried >= MOST_CORNERS):
            return best, max(gap, 1 - lower / float(best[0]) if lower <= float(best[0]) else 0.0)
        found = solve(int(choices[index]))
        if found is not None:
            gap = max(gap, found[1])
            best = found[0] if best is None else min(best, found[0])
    return best, gap
