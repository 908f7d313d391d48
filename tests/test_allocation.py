"""The planner against brute force over every (N_p, K), against theory, and against hostile input."""

import math

import numpy as np
import pytest

from mrtsim.allocation import (
    Cost,
    allocate,
)
from mrtsim.errors import InputError
from mrtsim.variance import VarianceComponents, estimator_variance

TOY = VarianceComponents(prompt=0.187, response=1.329)
TOY_COST = Cost(prompt=4.0, response=1.0)


# -- brute force -----------------------------------------------------------------------------------------------------


def random_instance(rng):
    """Small whole numbers, so that ties are common, times a unit that floats do not hold exactly."""
    a, b, g = np.round(rng.integers(1, 60, 3) * (rng.random(3) < (0.85, 0.85, 0.2)) / 100, 2)
    p, r = rng.integers(1, 8, 2) * (rng.random(2) < 0.85)
    unit = rng.choice([0.1, 1.0, 0.7])
    caps = {}
    if rng.random() < 0.4 or p == r == 0:
        caps[rng.choice(["max_prompts", "population"])] = int(rng.integers(1, 13))
    if rng.random() < 0.4 or r == 0 or (a + g == 0 and p == 0):
        caps[rng.choice(["max_responses", "candidates"])] = int(rng.integers(1, 13))
    redundancy = 1.0 if "population" in caps else float(rng.choice([1.0, 2.5]))
    fixed = rng.random()
    if fixed < 0.1:
        caps["n_prompts"] = int(
            rng.integers(1, min(caps.get("max_prompts", 6), caps.get("population", 6)) + 1)
        )
    elif fixed < 0.2:
        caps["responses_per_prompt"] = int(
            rng.integers(1, min(caps.get("max_responses", 6), caps.get("candidates", 6)) + 1)
        )
    return VarianceComponents(float(a), float(b), float(g)), (int(p), int(r)), float(unit), caps, redundancy


def grid(components, whole_cost, caps, redundancy, most):
    """Every plan of a whole-number cost of at most `most`: N, K, variance (target's constant included), cost."""
    p, r = whole_cost
    n = np.arange(1, int(min(most // (p + r) if p + r else 99, 99)) + 1)
    k = np.arange(1, int(min((most - p) // r if r else 99, 99)) + 1)
    if "n_prompts" in caps:
        n = n[n == caps["n_prompts"]]
    if "responses_per_prompt" in caps:
        k = k[k == caps["responses_per_prompt"]]
    n = n[n <= min(caps.get("max_prompts", 99), caps.get("population", 99))]
    k = k[k <= min(caps.get("max_responses", 99), caps.get("candidates", 99))]
    n, k = (axis.ravel() for axis in np.meshgrid(n, k))
    cost = n * (p + k * r)
    n, k, cost = (axis[cost <= most] for axis in (n, k, cost))
    finite = {name: caps[name] for name in ("population", "candidates") if name in caps}
    if not n.size:
        return n, k, np.zeros(0), cost
    total = VarianceComponents(components.prompt + redundancy * components.group, components.response)
    variance = estimator_variance(total, n, k, **finite)
    return n, k, np.where(variance < 1e-15, 0.0, variance), cost


def ranks(values):
    """Values that rounding alone tells apart become equal: exact ones differ by more than 1e-8 of the largest."""
    order = np.argsort(values)
    steps = np.diff(values[order]) > 1e-12 * values[order][1:]
    answer = np.empty(len(values), int)
    answer[order] = np.concatenate([[0], np.cumsum(steps)])
    return answer


def run_around(k, objective, best, slack):
    """The run of whole K around the best plan in which some plan's objective is within the slack."""
    least = {}
    for each, value in zip(k.tolist(), objective.tolist(), strict=True):
        least[each] = min(value, least.get(each, math.inf))
    limit = objective[best] * (1 + slack) * (1 + 1e-11) + 1e-15
    low = high = int(k[best])
    while least.get(low - 1, math.inf) <= limit:
        low -= 1
    while least.get(high + 1, math.inf) <= limit:
        high += 1
    return low, high


@pytest.mark.parametrize("seed", range(5))
def test_budget_equals_brute_force(seed):
    rng = np.random.default_rng(seed)
    refused = 0
    for _ in range(1000):
        components, (p, r), unit, caps, redundancy = random_instance(rng)
        most = int(rng.integers(1, 90))
        n, k, variance, cost = grid(components, (p, r), caps, redundancy, most)
        arguments = {"budget": round(most * unit, 1), "redundancy": redundancy, **caps}
        planned_cost = Cost(round(p * unit, 1), round(r * unit, 1))
        if not n.size:
            refused += 1
            with pytest.raises(InputError, match="the least budget is"):
                allocate(components, planned_cost, **arguments)
            continue
        best = np.lexsort((k, cost, ranks(variance)))[0]
        plan = allocate(components, planned_cost, **arguments)
        case = f"{components} {planned_cost} {arguments}"
        assert (plan.n_prompts, plan.responses_per_prompt) == (n[best], k[best]), case
        assert plan.variance == pytest.approx(variance[best], rel=1e-9, abs=1e-14), case
        assert plan.cost == pytest.approx(cost[best] * unit, rel=1e-12), case
        assert plan.gap == 0
        assert plan.k_range_5pct == run_around(k, variance, best, 0.05), case
        assert plan.k_range_10pct == run_around(k, variance, best, 0.10), case
        free = {name: value for name, value in caps.items() if name != "n_prompts"}
        singles = grid(components, (p, r), {**free, "responses_per_prompt": 1}, redundancy, most)[2]
        if plan.variance > 0:
            assert plan.efficiency == pytest.approx(singles.min() / plan.variance, rel=1e-9), case
        else:
            assert math.isnan(plan.efficiency)
    assert refused < 500


@pytest.mark.parametrize("seed", range(5))
def test_target_equals_brute_force(seed):
    rng = np.random.default_rng(100 + seed)
    for _ in range(1000):
        components, (p, r), unit, caps, redundancy = random_instance(rng)
        # a target that some plan of a cost of at most 60 reaches
        n, k, variance, cost = grid(components, (p, r), caps, redundancy, 60)
        if not n.size:
            continue
        target = math.ceil(variance[rng.integers(n.size)] * 1000 - 1e-9) / 1000
        n, k, variance, cost = grid(components, (p, r), caps, redundancy, 66)
        reached = np.where(variance <= target * (1 + 1e-12) + 1e-15)[0]
        n, k, variance, cost = (axis[reached] for axis in (n, k, variance, cost))
        best = np.lexsort((k, ranks(variance), cost))[0]
        planned_cost = Cost(round(p * unit, 1), round(r * unit, 1))
        arguments = {"target_variance": target, "redundancy": redundancy, **caps}
        plan = allocate(components, planned_cost, **arguments)
        case = f"{components} {planned_cost} {arguments}"
        assert (plan.n_prompts, plan.responses_per_prompt) == (n[best], k[best]), case
        assert plan.variance == pytest.approx(variance[best], rel=1e-9, abs=1e-14), case
        assert plan.cost == pytest.approx(cost[best] * unit, rel=1e-12), case
        assert plan.gap == 0
        assert math.isnan(plan.efficiency)
        assert plan.k_range_5pct == run_around(k, cost.astype(float), best, 0.05), case
        assert plan.k_range_10pct == run_around(k, cost.astype(float), best, 0.10), case
