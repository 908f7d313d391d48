"""How a grouped corpus grows: the law, K* of each way, the error of the mean, the best group size."""

import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import mrtsim as mrt
from mrtsim.pilot.growth import best_group_size, mean_standard_error
from mrtsim.pilot.intervals import DEFAULT, interval_method

ROOT = Path(__file__).parents[2]
COST = mrt.Cost(4.0, 1.0)


def readme_pilot():
    text = (ROOT / "examples" / "pilot_smollm2.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return [r["loss"] for r in rows], [r["prompt_id"] for r in rows], [r["group"] for r in rows]


def estimate(**options):
    losses, prompts, groups = readme_pilot()
    return mrt.estimate_components(losses, prompts, groups=groups, **options)


def test_k_star_of_each_way_to_grow():
    """The README's pilot: 24 groups of 4; 3.16 with groups that cost nothing, not 3.85."""
    new, same = estimate(), estimate(growth="same")
    v, r = new.components, 4
    assert (new.mean_group_size, new.redundancy, same.redundancy) == (4, 4.0, 0.0)
    assert new.k_star(COST).value == pytest.approx(math.sqrt(4 * v.response / (r * v.group + v.prompt)))
    assert same.k_star(COST).value == pytest.approx(math.sqrt(4 * v.response / v.prompt))
    assert round(same.k_star(COST).value, 2) == 3.85
    assert best_group_size(v, COST) == 1.0
    chosen = estimate(redundancy=best_group_size(v, COST))
    assert round(chosen.k_star(COST).value, 2) == 3.16
    for pilot in (new, same, chosen):
        k = pilot.k_star(COST)
        assert 0 < k.low < k.value < k.high < math.inf


def test_a_group_that_costs_something():
    v = estimate().components
    cost = mrt.Cost(2.0, 1.0, group=4.0)
    new, same = estimate(), estimate(growth="same")
    assert new.cost_per_prompt(cost) == mrt.Cost(Fraction(3), Fraction(1))
    assert same.cost_per_prompt(cost) == mrt.Cost(Fraction(2), Fraction(1))
    assert new.k_star(cost).value == pytest.approx(math.sqrt(3 * v.response / (4 * v.group + v.prompt)))
    assert same.k_star(cost).value == pytest.approx(math.sqrt(2 * v.response / v.prompt))
    r = best_group_size(v, cost)
    assert r == pytest.approx(math.sqrt(v.prompt * 4 / (v.group * 2)))
    # K* at r* is that of the same groups: what a further prompt brings and costs is then the same
    assert estimate(redundancy=r).k_star(cost).value == pytest.approx(same.k_star(cost).value)
    assert best_group_size(v, cost, max_group_size=1) == 1.0
    assert best_group_size(mrt.VarianceComponents(1.0, 1.0, -0.1), cost) == math.inf
    assert best_group_size(mrt.VarianceComponents(1.0, 1.0, -0.1), cost, max_group_size=7) == 7
    assert best_group_size(mrt.VarianceComponents(-1.0, 1.0, 0.1), cost) == 1.0
    assert best_group_size(mrt.VarianceComponents(1.0, 1.0, 0.1), mrt.Cost(0.0, 1.0, group=1.0)) == math.inf
    assert best_group_size(mrt.VarianceComponents(1.0, 1.0, 0.1), mrt.Cost(0.0, 1.0, group=0.0)) == 1.0


def test_the_ratio_of_the_same_groups_covers():
    """V_{y|x} / V_{x|g}: nominal 95 % intervals over 1,000 pilots of 30 groups of 4 x 3."""
    rng = np.random.default_rng(51)
    losses = rng.normal(size=(1000, 30, 1, 1)) + rng.normal(size=(1000, 30, 4, 1))
    losses = (losses + 1.5 * rng.normal(size=(1000, 30, 4, 3))).reshape(1000, 120, 3)
    means = losses.mean(-1)
    within = ((losses - means[..., None]) ** 2).sum(-1)
    sums = mrt.PromptSums(np.full(120, 3.0), means, within, starts=np.arange(0, 120, 4))
    low, high = interval_method(DEFAULT)(sums, 0.95, 0.0).ratio
    assert 0.93 <= np.mean((low <= 1.5**2) & (high >= 1.5**2)) <= 0.97
    one = mrt.estimate_components(losses[0], groups=np.repeat(np.arange(30), 4), growth="same")
    assert (one.ratio.low, one.ratio.high) == pytest.approx((low[0], high[0]))


def unequal_sums(rng, sizes, v_group, v_prompt):
    """Sums of pilots with one response per prompt's mean, groups of these sizes."""
    groups = np.repeat(np.arange(sizes.size), sizes)
    effects = rng.normal(0, v_group**0.5, sizes.size)
    return effects, mrt.PromptSums(
        counts=np.full(groups.size, 2.0),
        means=effects[groups] + rng.normal(0, v_prompt**0.5, groups.size),
        within=np.ones(groups.size),
        starts=np.cumsum(sizes) - sizes,
    )


@pytest.mark.parametrize("sizes", [np.full(12, 3), np.array([1, 1, 2, 2, 3, 3, 4, 5, 6, 8])])
def test_standard_error_of_new_and_of_the_same_groups(sizes):
    """Against the spread of the mean over 4,000 pilots; unequal sizes know their error less well, and low."""
    rng = np.random.default_rng([52, sizes.size])
    n = sizes.sum()
    for v_group, rel in ((0.0, 0.06), (0.8, 0.12)):
        found = {"new": [], "same": []}
        for _ in range(4000):
            _, sums = unequal_sums(rng, sizes, v_group, 1.0)
            for growth, values in found.items():
                values.append(mean_standard_error(sums, growth=growth) ** 2)
        truth = {"new": v_group * (sizes**2).sum() / n**2 + 1 / n, "same": 1 / n}
        assert np.mean(found["same"]) == pytest.approx(truth["same"], rel=0.03)
        assert np.mean(found["new"]) == pytest.approx(truth["new"], rel=rel if np.ptp(sizes) else 0.06)
        if v_group == 0:  # unbiased, whatever the sizes
            assert np.mean(found["new"]) == pytest.approx(truth["new"], rel=0.04)


def test_standard_error_of_a_given_set_of_groups():
    _, sums = unequal_sums(np.random.default_rng(53), np.full(8, 3), 1.0, 1.0)
    new, same = mean_standard_error(sums), mean_standard_error(sums, growth="same")
    assert mean_standard_error(sums, group_population=8) == pytest.approx(same)
    half = mean_standard_error(sums, group_population=16)
    assert half**2 == pytest.approx((new**2 + same**2) / 2)
    with pytest.raises(mrt.InputError, match="more than the 7"):
        mean_standard_error(sums, group_population=7)


def test_standard_error_of_given_prompts_and_pools_by_enumeration():
    """Every sample of 2 of 3 prompts and 2 of 3 candidates: the mean of SE^2 is the variance of the mean."""
    import itertools

    pools = np.array([[1.0, 4.0, 2.5], [0.0, 3.0, 7.0], [2.0, 2.2, 9.0]])
    means, squares = [], []
    for prompts in itertools.combinations(range(3), 2):
        for picks in itertools.product(itertools.combinations(range(3), 2), repeat=2):
            losses = np.array([pools[p][list(pick)] for p, pick in zip(prompts, picks, strict=True)])
            sums = mrt.PromptSums.of(losses)
            means.append(losses.mean())
            squares.append(mean_standard_error(sums, population=3, candidates=3) ** 2)
    assert np.mean(squares) == pytest.approx(np.var(means), rel=1e-12)
    assert np.mean(means) == pytest.approx(pools.mean())


def test_standard_error_of_a_whole_benchmark_is_that_of_the_responses():
    losses = np.random.default_rng(54).normal(size=(7, 4))
    sums = mrt.PromptSums.of(losses)
    given = (losses.var(axis=1, ddof=1) / 4).sum() / 49
    assert mean_standard_error(sums, population=7) ** 2 == pytest.approx(given)
    assert mean_standard_error(sums, candidates=9) == mean_standard_error(sums)
    for options, message in (
        ({"population": 6}, "less than the 7 prompts"),
        ({"candidates": 3}, "4 responses"),
    ):
        with pytest.raises(mrt.InputError, match=message):
            mean_standard_error(sums, **options)
    grouped = mrt.PromptSums.of(losses, groups=[0, 0, 1, 1, 2, 2, 2])
    with pytest.raises(mrt.InputError, match="no groups to draw"):
        mean_standard_error(grouped, population=9)


def test_the_law_by_simulation():
    """N Var of the mean of new groups and of more prompts in the same ones."""
    rng = np.random.default_rng(55)
    sizes, k, sets = np.array([1, 2, 2, 5]), 3, 40_000
    group_of = np.repeat(np.arange(4), sizes)
    v = mrt.VarianceComponents(prompt=0.5, response=1.5, group=0.7)
    fixed = rng.normal(size=4)
    prompts = rng.normal(0, v.prompt**0.5, (sets, 10))
    noise = rng.normal(0, (v.response / k) ** 0.5, (sets, 10))
    new = (rng.normal(0, v.group**0.5, (sets, 4))[:, group_of] + prompts + noise).mean(1)
    same = (fixed[group_of] + prompts + noise).mean(1)
    felt = (sizes**2).sum() / sizes.sum()
    error = 4 * (2 / sets) ** 0.5
    assert 10 * new.var() == pytest.approx(felt * v.group + v.prompt + v.response / k, rel=error)
    assert 10 * same.var() == pytest.approx(v.prompt + v.response / k, rel=error)


def test_what_is_refused():
    losses, prompts, groups = readme_pilot()
    with pytest.raises(mrt.InputError, match="growth is 'more'"):
        mrt.estimate_components(losses, prompts, groups=groups, growth="more")
    with pytest.raises(mrt.InputError, match="needs groups"):
        mrt.estimate_components(losses, prompts, growth="same")
    with pytest.raises(mrt.InputError, match="for new groups"):
        mrt.estimate_components(losses, prompts, groups=groups, growth="same", redundancy=2.0)
