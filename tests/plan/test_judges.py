"""Plans over prompts, judges and responses per cell: the worked case, brute force, edges."""

from fractions import Fraction

import numpy as np
import pytest

import mrtsim as mrt
from mrtsim.plan.judges import CrossedCost, allocate_judges
from mrtsim.variance import CrossedComponents, crossed_variance

# V_p = 1, V_j = .3, V_e = 2; a prompt costs 4, a cell with its response 1 (estimation.md, section 4).
WORKED = CrossedComponents(prompt=1.0, judge=0.3, interaction=0.0, response=2.0)
COST = CrossedCost(prompt=4.0, judge=0.0, cell=1.0, response=1.0)


def test_worked_case():
    plan = allocate_judges(WORKED, COST, budget=400, max_responses=1)
    assert (plan.n_prompts, plan.n_judges, plan.responses_per_cell) == (25, 12, 1)
    assert round(plan.variance, 4) == 0.0717
    assert plan.cost == 400
    assert plan.gap == 0
    # Planned as if each prompt had judges of its own, so that V_j counts among the responses: 57 x 3 at a claimed
    # .031 is truly .129.
    nested = mrt.VarianceComponents(1.0, 2.3)
    found = mrt.allocate(nested, mrt.Cost(4.0, 1.0), budget=400)
    assert (found.n_prompts, found.responses_per_prompt) == (57, 3)
    assert round(found.variance, 3) == 0.031
    assert round(crossed_variance(WORKED, 57, 3), 3) == 0.129


def decimal(value):
    return Fraction(repr(float(value)))


def every_plan(components, cost, largest):
    v = [decimal(getattr(components, name)) for name in ("prompt", "judge", "interaction", "response")]
    c = [decimal(getattr(cost, name)) for name in ("prompt", "judge", "cell", "response")]
    for n in range(1, largest + 1):
        for j in range(1, largest + 1):
            for k in range(1, largest + 1):
                variance = v[0] / n + v[1] / j + v[2] / (n * j) + v[3] / (n * j * k)
                price = n * c[0] + j * c[1] + n * j * (c[2] + (k - 1) * c[3])
                yield variance, price, j, k, n


def random_problem(rng):
    components = CrossedComponents(
        *(round(float(rng.choice([0, 0.1, 1, 3]) * rng.random() + base), 3) for base in (0.01, 0, 0, 0.01))
    )
    further = round(float(rng.uniform(0.2, 2)), 1)
    cost = CrossedCost(
        round(float(rng.uniform(0, 5)), 1),
        round(float(rng.choice([0, 1, 4]) * rng.random()), 1),
        round(further + float(rng.choice([0, 1, 3]) * rng.random()), 1),
        further,
    )
    return components, cost


@pytest.mark.parametrize("seed", range(24))
def test_budget_equals_brute_force(seed):
    rng = np.random.default_rng([21, seed])
    components, cost = random_problem(rng)
    budget = round(cost.prompt + cost.judge + cost.cell + float(rng.uniform(0, 8 * cost.response)), 1)
    caps = {}
    if seed % 4 == 1:
        caps["max_judges"] = 2
    if seed % 4 == 2:
        caps["max_responses"] = 1
    if seed % 4 == 3:
        caps["max_prompts"] = 2
    limits = {"max_judges": 2, "max_responses": 3, "max_prompts": 4}
    plan = allocate_judges(components, cost, budget=budget, **caps)
    found = min(
        row
        for row in every_plan(components, cost, 10)
        if row[1] <= decimal(budget) and all(row[limits[name]] <= value for name, value in caps.items())
    )
    assert (plan.n_prompts, plan.n_judges, plan.responses_per_cell) == (found[4], found[2], found[3])
    assert plan.variance == pytest.approx(float(found[0]), rel=1e-14)
    assert plan.cost == pytest.approx(float(found[1]), rel=1e-14)


@pytest.mark.parametrize("seed", range(24))
def test_target_equals_brute_force(seed):
    rng = np.random.default_rng([22, seed])
    components, cost = random_problem(rng)
    target = round(float(crossed_variance(components, *rng.integers(1, 4, 3))), 5)
    plan = allocate_judges(
        components, cost, target_variance=target, max_judges=8, max_prompts=8, max_responses=8
    )
    reached = [row for row in every_plan(components, cost, 8) if row[0] <= decimal(target)]
    price, variance, j, k, n = min((row[1], row[0], *row[2:]) for row in reached)
    assert (plan.n_prompts, plan.n_judges, plan.responses_per_cell) == (n, j, k)
    assert plan.cost == pytest.approx(float(price), rel=1e-14)
    assert plan.variance == pytest.approx(float(variance), rel=1e-14)


def test_continuous_optimum():
    """C_j = 0, K = 1: J*^2 = (V_e C_p + V_j B) / (V_p C_c), which grows with the budget."""
    for budget in (1e4, 1e6, 1e8):
        plan = allocate_judges(WORKED, COST, budget=budget, max_responses=1)
        best = ((2 * 4 + 0.3 * budget) / 1) ** 0.5
        assert plan.n_judges == pytest.approx(best, rel=0.05)
        assert plan.gap == 0
        # f(J) with N not whole, at its optimum: no plan is better
        floor = 0.3 / best + (1 + 2 / best) * (4 + best) / budget
        assert floor <= plan.variance <= 1.01 * floor


def test_responses_per_cell_follow_their_optimum():
    """K*^2 = V_r (C_p + J C) / (J C_r (J V_p + V_pj)), C the cell's cost without responses, for a given J."""
    components = CrossedComponents(prompt=0.2, judge=0.1, interaction=0.3, response=40.0)
    cost = CrossedCost(prompt=8.0, judge=1.0, cell=3.0, response=1.0)
    plan = allocate_judges(components, cost, budget=1e6, n_judges=4)
    best = (40.0 * (8 + 4 * 2.0) / (4 * 1.0 * (4 * 0.2 + 0.3))) ** 0.5
    assert abs(plan.responses_per_cell - best) < 1


def test_fixed_judges_do_not_count():
    plan = allocate_judges(WORKED, COST, budget=400, n_judges=3, max_responses=1, fixed_judges=True)
    assert (plan.n_prompts, plan.n_judges) == (57, 3)
    assert plan.variance == pytest.approx(crossed_variance(WORKED, 57, 3, fixed_judges=True))


def test_edges():
    assert allocate_judges(WORKED, COST, budget=5).n_prompts == 1
    with pytest.raises(
        mrt.InputError, match=r"does not buy one prompt seen by one judge: the least budget is 5\.0"
    ):
        allocate_judges(WORKED, COST, budget=4.9)
    with pytest.raises(mrt.InputError, match=r"2 judges: the least budget is 6\.0"):
        allocate_judges(WORKED, COST, budget=5.5, n_judges=2)
    with pytest.raises(mrt.InputError, match="includes that of its first response"):
        CrossedCost(4.0, 0.0, 0.5, 1.0)
    with pytest.raises(mrt.InputError, match="set max_responses"):
        allocate_judges(WORKED, CrossedCost(4.0, 0.0, 1.0, 0.0), budget=400)
    with pytest.raises(mrt.InputError, match="set max_judges"):
        allocate_judges(WORKED, CrossedCost(4.0, 0.0, 0.0, 0.0), budget=400, max_responses=1)
    with pytest.raises(mrt.InputError, match=r"the least variance is above 0\.03"):
        allocate_judges(WORKED, COST, target_variance=0.03, max_judges=10)
    with pytest.raises(mrt.InputError, match="takes all of them"):
        allocate_judges(WORKED, COST, budget=400, fixed_judges=True)
    with pytest.raises(mrt.InputError, match="V_p"):
        allocate_judges(CrossedComponents(-0.1, 0.3, 0.0, 2.0), COST, budget=400)
    # V_p = 0 puts every judge that the budget buys on one prompt
    plan = allocate_judges(CrossedComponents(0.0, 0.3, 0.0, 2.0), COST, budget=100, max_responses=1)
    assert (plan.n_prompts, plan.n_judges) == (1, 96)


def test_variance_by_simulation():
    rng = np.random.default_rng(5)
    n, j, k, sets = 5, 3, 2, 40_000
    v = CrossedComponents(0.5, 0.4, 0.3, 0.8)
    losses = (
        rng.normal(0, v.prompt**0.5, (sets, n, 1, 1))
        + rng.normal(0, v.judge**0.5, (sets, 1, j, 1))
        + rng.normal(0, v.interaction**0.5, (sets, n, j, 1))
        + rng.normal(0, v.response**0.5, (sets, n, j, k))
    )
    measured = losses.mean((1, 2, 3)).var(ddof=1)
    assert crossed_variance(v, n, j, k) == pytest.approx(measured, rel=4 * (2 / sets) ** 0.5)
