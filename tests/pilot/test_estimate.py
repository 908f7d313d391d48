"""Estimates from pilots: known answers, statsmodels, enumeration; the jackknife against its definition."""

import itertools
import math
import warnings

import numpy as np
import pytest

import mrtsim as mrt
from mrtsim.pilot.classical_intervals import leave_one_out, unweighted_mean_squares
from mrtsim.pilot.estimate import _anova, _profile
from mrtsim.pilot.sums import PromptSums

# Yield of dyestuff, grams of standard colour, 6 batches x 5 samples: Davies and Goldsmith (1972), table 6.1,
# as shipped with R's lme4 under the name Dyestuff.
DYESTUFF = np.array(
    [
        [1545, 1440, 1440, 1520, 1580],
        [1540, 1555, 1490, 1560, 1495],
        [1595, 1550, 1605, 1510, 1560],
        [1445, 1440, 1595, 1465, 1545],
        [1595, 1630, 1515, 1635, 1625],
        [1520, 1455, 1450, 1480, 1445],
    ]
)


@pytest.mark.parametrize(("method", "prompt"), [("anova", 1764.05), ("reml", 1764.05), ("ml", 1388.33)])
def test_dyestuff(method, prompt):
    pilot = mrt.estimate_components(DYESTUFF, method=method)
    assert round(pilot.components.prompt, 2) == prompt
    assert round(pilot.components.response, 2) == 2451.25
    assert pilot.mean == 1527.5
    assert pilot.icc.value == pytest.approx(prompt / (prompt + 2451.25), rel=1e-5)


def random_pilot(seed, group_size=1):
    """Unbalanced, the share of the prompt variance from none to most."""
    rng = np.random.default_rng(seed)
    n_groups = int(rng.integers(8, 30))
    group_of = np.repeat(np.arange(n_groups), rng.integers(1, 2 * group_size, n_groups))
    counts = rng.integers(1, 9, group_of.size)
    scale = rng.choice([0.0, 0.2, 1.0, 3.0])
    prompts = np.repeat(np.arange(group_of.size), counts)
    group_effect = scale * rng.standard_normal(n_groups)
    prompt_effect = (0.7 if group_size > 1 else 0.0) * rng.standard_normal(group_of.size)
    losses = 3 + (group_effect[group_of] + prompt_effect)[prompts] + rng.standard_normal(prompts.size)
    return losses, prompts, group_of[prompts]


@pytest.mark.parametrize("method", ["reml", "ml"])
def test_likelihood_agrees_with_statsmodels(method):
    from statsmodels.regression.mixed_linear_model import MixedLM

    boundary = 0
    for seed in range(50):
        losses, prompts, _ = random_pilot(seed)
        ours = mrt.estimate_components(losses, prompts, method=method).components
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # statsmodels warns at the boundary
            model = MixedLM(losses, np.ones((losses.size, 1)), groups=prompts)
            fit = model.fit(reml=method == "reml", method=["bfgs", "powell"], gtol=1e-9)
        theirs = float(np.asarray(fit.cov_re)[0, 0])
        if theirs < 1e-8 * fit.scale:
            boundary += 1
            assert ours.prompt == 0
        else:
            assert ours.prompt == pytest.approx(theirs, rel=2e-4)
        assert ours.response == pytest.approx(fit.scale, rel=2e-4)
    assert boundary >= 10


@pytest.mark.parametrize("method", ["reml", "ml"])
def test_three_levels_agree_with_statsmodels(method):
    import pandas as pd
    from statsmodels.regression.mixed_linear_model import MixedLM

    agreed = 0
    for seed in range(8):
        losses, prompts, groups = random_pilot(seed, group_size=3)
        ours = mrt.estimate_components(losses, prompts, groups=groups, method=method).components
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = MixedLM.from_formula(
                "loss ~ 1",
                pd.DataFrame({"loss": losses, "prompt": prompts, "group": groups}),
                groups="group",
                re_formula="1",
                vc_formula={"prompt": "0 + C(prompt)"},
            ).fit(reml=method == "reml", method=["bfgs"], gtol=1e-9)
        theirs = mrt.VarianceComponents(
            group=float(np.asarray(fit.cov_re)[0, 0]), prompt=float(fit.vcomp[0]), response=float(fit.scale)
        )
        deviance = _profile(PromptSums.of(losses, prompts, groups), restricted=method == "reml")
        best, reached = (deviance(c.prompt / c.response, c.group / c.response)[0] for c in (ours, theirs))
        assert best <= reached + 1e-12  # statsmodels stops early on some sets
        if reached - best < 1e-10:
            agreed += 1
            for level in ("group", "prompt", "response"):
                assert getattr(ours, level) == pytest.approx(getattr(theirs, level), rel=2e-4, abs=1e-7)
    assert agreed >= 6


def test_likelihood_of_groups_is_at_its_highest_valley():
    """A pilot of 0.1.0's local optima (it stopped at 0, 0): very unequal K_i in few groups, against a fine grid."""
    rng = np.random.default_rng(528)
    sizes = rng.integers(1, 5, int(rng.integers(4, 9)))
    counts = rng.choice([1, 1, 2, 3, 30], sizes.sum())
    group_of, prompts = np.repeat(np.arange(sizes.size), sizes), np.repeat(np.arange(counts.size), counts)
    losses = rng.choice([0, 0.3, 1, 3]) * rng.standard_normal(sizes.size)[group_of][prompts]
    losses = losses + rng.choice([0, 0.3, 1, 3]) * rng.standard_normal(counts.size)[prompts]
    losses = losses + rng.standard_normal(prompts.size)
    deviance = _profile(PromptSums.of(losses, prompts, group_of[prompts]), restricted=False)
    found = mrt.estimate_components(losses, prompts, groups=group_of[prompts], method="ml").components
    grid = np.concatenate([[0.0], np.geomspace(1e-4, 1e4, 41)])
    best = min(deviance(prompt, group)[0] for prompt in grid for group in grid)
    reached = deviance(found.prompt / found.response, found.group / found.response)[0]
    assert reached <= best
    assert reached < deviance(0.0, 0.0)[0] - 1e-3


def test_boundary_residual():
    """Where V_x is estimated at 0, the residual is the total variance: SST/(n-1) for REML, SST/n for ML."""
    losses = np.array([[1.0, 5.0], [2.0, 4.5], [0.5, 5.5], [3.0, 2.9]])
    sst = ((losses - losses.mean()) ** 2).sum()
    assert mrt.estimate_components(losses).components.prompt < 0
    for method, degrees in (("reml", losses.size - 1), ("ml", losses.size)):
        pilot = mrt.estimate_components(losses, method=method)
        assert pilot.components.prompt == 0
        assert pilot.components.response == pytest.approx(sst / degrees, rel=1e-12)
        assert pilot.ratio.value == math.inf


@pytest.mark.parametrize("grouped", [False, True])
def test_likelihood_gradient(grouped):
    losses, prompts, groups = random_pilot(3, group_size=3)
    pilot = PromptSums.of(losses, prompts, groups if grouped else None)
    for restricted in (False, True):
        deviance = _profile(pilot, restricted)
        point, step = np.array([0.4 * grouped, 0.7]), 1e-6
        for i in range(0 if grouped else 1, 2):
            shift = step * np.eye(2)[i]
            slope = (deviance(*(point + shift))[0] - deviance(*(point - shift))[0]) / (2 * step)
            assert deviance(*point)[1][i] == pytest.approx(slope, rel=1e-6)


def test_anova_is_the_direct_sums():
    losses, prompts, _ = random_pilot(2)
    labels = np.unique(prompts)
    cells = [losses[prompts == p] for p in labels]
    n, k = losses.size, np.array([c.size for c in cells])
    msw = sum(((c - c.mean()) ** 2).sum() for c in cells) / (n - k.size)
    msb = sum(c.size * (c.mean() - losses.mean()) ** 2 for c in cells) / (k.size - 1)
    k0 = (n - (k**2).sum() / n) / (k.size - 1)
    components = mrt.estimate_components(losses, prompts).components
    assert components.response == pytest.approx(msw, rel=1e-12)
    assert components.prompt == pytest.approx((msb - msw) / k0, rel=1e-12)


def enumerate_pilots(counts, starts):
    """All equally likely pilots whose group, prompt and response effects are +1 or -1."""
    n_groups, n_prompts, n_rows = starts.size, counts.size, counts.sum()
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=n_groups + n_prompts + n_rows)))
    groups, prompts, rows = np.split(signs, [n_groups, n_groups + n_prompts], axis=1)
    return groups, prompts, rows


def sufficient(counts, starts, losses):
    ends = np.concatenate([[0], np.cumsum(counts)])
    means = np.add.reduceat(losses, ends[:-1], axis=1) / counts
    within = np.add.reduceat((losses - np.repeat(means, counts, axis=1)) ** 2, ends[:-1], axis=1)
    return PromptSums(counts, means, within, starts)


def test_estimators_are_unbiased_by_enumeration():
    """Every pilot of an unbalanced nested design, each component's effect two-point: means equal the components."""
    counts, starts = np.array([2, 1, 3]), np.array([0, 2])
    groups, prompts, rows = enumerate_pilots(counts, starts)
    v_group, v_prompt, v_response = 0.7, 0.4, 1.3
    flat = np.sqrt(v_prompt) * np.repeat(prompts, counts, axis=1) + np.sqrt(v_response) * rows
    losses = flat + np.sqrt(v_group) * np.repeat(groups, np.add.reduceat(counts, starts), axis=1)
    pilots = sufficient(counts, starts, losses)
    squares = unweighted_mean_squares(pilots)
    expected = {
        "between": squares.between_group * v_group + v_prompt + squares.between_response * v_response,
        "prompts": v_prompt + squares.prompts_response * v_response,
        "response": v_response,
    }
    for name, value in expected.items():
        assert getattr(squares, name).mean() == pytest.approx(float(np.squeeze(value)), rel=1e-12)

    three = [
        _anova(PromptSums(counts, m, w, starts)) for m, w in zip(pilots.means, pilots.within, strict=True)
    ]
    assert np.mean([c.group for c in three]) == pytest.approx(v_group, rel=1e-12)
    assert np.mean([c.prompt for c in three]) == pytest.approx(v_prompt, rel=1e-12)
    assert np.mean([c.response for c in three]) == pytest.approx(v_response, rel=1e-12)

    plain = sufficient(counts, None, flat)
    two = [_anova(PromptSums(counts, m, w)) for m, w in zip(plain.means, plain.within, strict=True)]
    assert np.mean([c.prompt for c in two]) == pytest.approx(v_prompt, rel=1e-12)


@pytest.mark.parametrize("grouped", [False, True])
def test_mean_squares_without_a_cluster(grouped):
    """The closed forms for "all but one cluster" equal the mean squares of the data without it."""
    losses, prompts, groups = random_pilot(5, group_size=3)
    pilot = PromptSums.of(losses, prompts, groups if grouped else None)
    without = unweighted_mean_squares(pilot, leave_one_out)
    cluster_of = groups if grouped else prompts
    labels = list(dict.fromkeys(cluster_of)) if grouped else list(np.unique(prompts))
    for position, label in enumerate(labels):
        keep = cluster_of != label
        rest = unweighted_mean_squares(
            PromptSums.of(losses[keep], prompts[keep], groups[keep] if grouped else None)
        )
        for left, right in zip(without, rest, strict=True):
            if right is not None:
                value = np.broadcast_to(left, without.between.shape)[position]
                assert value == pytest.approx(float(right[0]), rel=1e-10)


def test_redundant_prompts_are_not_independent():
    """Exact duplicates (V_{x|g} = 0): one prompt of a group of r counts like 1/r of a prompt."""
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(40), 3 * 4)
    prompts = np.repeat(np.arange(120), 4)
    losses = rng.standard_normal(40)[groups] + 2 * rng.standard_normal(groups.size)
    pilot = mrt.estimate_components(losses, prompts, groups=groups)
    assert pilot.redundancy == 3
    assert pilot.n_groups == 40
    assert pilot.group is not None
    assert pilot.planning.prompt == pytest.approx(3 * pilot.group.value + pilot.prompt.value)
    assert pilot.ratio.low < 4 / 3 < pilot.ratio.high
    more = mrt.estimate_components(losses, prompts, groups=groups, redundancy=6)
    assert more.ratio.value < pilot.ratio.value
    assert more.ratio.low < 4 / 6 < more.ratio.high
    # One prompt a group on average leaves what plain V_x + V_y|x would see: the ratio that icc reports.
    single = mrt.estimate_components(losses, prompts, groups=groups, redundancy=1)
    assert 1 / (1 + single.ratio.value) == pytest.approx(pilot.icc.value)


def test_unequal_groups_count_by_the_prompts_in_them():
    """V_g enters the variance of the mean over prompts as V_g sum r_g^2 / n^2, which is r V_g / n for this r."""
    sizes = np.array([1, 2, 5])
    groups, prompts = np.repeat(np.repeat(np.arange(3), sizes), 2), np.repeat(np.arange(8), 2)
    losses = np.random.default_rng(0).standard_normal(16)
    pilot = mrt.estimate_components(losses, prompts, groups=groups)
    assert pilot.redundancy == pytest.approx(np.square(sizes).sum() / sizes.sum())
    shares = sizes / sizes.sum()
    assert np.square(shares).sum() == pytest.approx(pilot.redundancy / sizes.sum())


def test_k_star_is_best_at_the_estimate_and_at_each_limit():
    """Against a search over K of the variance at equal cost, (1 + ratio/K) (C_p + K C_r)."""
    losses, prompts, _ = random_pilot(2)
    pilot = mrt.estimate_components(losses, prompts)
    k = np.geomspace(0.01, 1_000, 400_001)
    for cost in (mrt.Cost(4.0, 1.0), mrt.Cost(1.0, 3.0)):
        k_star = pilot.k_star(cost)
        for end in ("low", "value", "high"):
            variance = (1 + getattr(pilot.ratio, end) / k) * (cost.prompt + k * cost.response)
            assert getattr(k_star, end) == pytest.approx(k[variance.argmin()], rel=1e-3)
    unbounded = mrt.estimate_components(DYESTUFF)
    assert unbounded.k_star(mrt.Cost(prompt=4.0, response=1.0)).high == math.inf
    assert unbounded.k_star(mrt.Cost(prompt=1.0, response=0.0)).low == math.inf
    assert math.isnan(unbounded.k_star(mrt.Cost(prompt=0.0, response=1.0)).high)
    assert unbounded.k_star(mrt.Cost(prompt=0.0, response=1.0)).low == 0


def test_largest_regret():
    """Against a search over K and ratios of the variance at equal cost."""
    losses, prompts, _ = random_pilot(2)
    pilot = mrt.estimate_components(losses, prompts)
    assert math.isfinite(pilot.ratio.high)
    for p, r, k in ((4.0, 1.0, 1), (4.0, 1.0, 3), (0.0, 1.0, 2), (30.0, 0.5, 4)):
        regrets = []
        for ratio in np.linspace(pilot.ratio.low, pilot.ratio.high, 50):
            some = np.concatenate([[k], np.linspace(1, 40, 20_000)])
            variance = (1 + ratio / some) * (p + some * r)
            regrets.append(variance[0] / variance.min() - 1)
        assert pilot.largest_regret(k, mrt.Cost(prompt=p, response=r)) == pytest.approx(
            max(regrets), abs=1e-5
        )
    unbounded = mrt.estimate_components(DYESTUFF)
    # With V_x = 0 only the responses' cost should buy anything: (C_p + K C_r) / (K C_r).
    assert unbounded.largest_regret(2, mrt.Cost(prompt=40.0, response=1.0)) == pytest.approx(20.0)
    assert unbounded.largest_regret(2, mrt.Cost(prompt=40.0, response=0.0)) == math.inf


def test_planning_at_the_limits():
    pilot = mrt.estimate_components(DYESTUFF)
    assert pilot.planning_at("estimate") == pilot.planning
    low = pilot.planning_at("low")
    assert low.response / low.prompt == pytest.approx(pilot.ratio.low)
    assert pilot.planning_at("high") == mrt.VarianceComponents(prompt=0.0, response=pilot.components.response)


def test_planning_at_a_lower_limit_of_zero_is_one_response_per_prompt():
    """Where the data allow any V_x, the plan at the lower limit of K* has K = 1; a response varies as before."""
    pilot = mrt.estimate_components([[1.0, 3, 2, 4], [4.0, 6, 3, 7]])
    assert pilot.ratio.low == 0
    low = pilot.planning_at("low")
    assert low == mrt.VarianceComponents(pilot.components.prompt + pilot.components.response, 0.0)
    plan = mrt.allocate(low, mrt.Cost(4.0, 1.0), budget=400.0)
    assert (plan.responses_per_prompt, plan.n_prompts) == (1, 80)
    total = pilot.components.prompt + pilot.components.response
    assert plan.variance == pytest.approx(total / 80)


@pytest.mark.parametrize("labels", [["a", "b", "c"], ["007", "7", "07"], [10**12, 3, -5], [2.0, 1.5, 0.0]])
@pytest.mark.parametrize("method", ["anova", "reml"])
def test_labels_and_order_do_not_matter(labels, method):
    rng = np.random.default_rng(4)
    rows = rng.permutation(np.repeat(np.arange(3), 5))
    losses = rng.standard_normal(15) + rows
    plain = mrt.estimate_components(losses, rows, method=method)
    named = mrt.estimate_components(losses, np.array(labels)[rows], method=method)
    assert named.components.prompt == pytest.approx(plain.components.prompt, rel=1e-9)
    assert named.ratio.high == pytest.approx(plain.ratio.high, rel=1e-9)


def test_units_and_location():
    losses, prompts, groups = random_pilot(7, group_size=3)
    plain = mrt.estimate_components(losses, prompts, groups=groups, method="reml")
    moved = mrt.estimate_components(1e6 + 1000 * losses, prompts, groups=groups, method="reml")
    assert moved.components.prompt == pytest.approx(1e6 * plain.components.prompt, rel=1e-5)
    assert moved.ratio.high == pytest.approx(plain.ratio.high, rel=1e-5)


GOOD = np.arange(8.0) ** 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"losses": [], "prompts": []}, "empty"),
        ({"losses": ["a", "b"], "prompts": [1, 2]}, "must be numbers"),
        ({"losses": GOOD}, r"give `prompts`"),
        ({"losses": np.ones((2, 2, 2)), "prompts": [1, 2]}, "one-dimensional"),
        ({"losses": GOOD, "prompts": [1, 2]}, "2 labels for 8 losses"),
        ({"losses": [1.0, np.nan, 2.0], "prompts": [1, 1, 2]}, r"losses\[1\] is nan"),
        ({"losses": [1.0, 2.0, -np.inf], "prompts": [1, 1, 2]}, r"losses\[2\] is -inf"),
        ({"losses": GOOD, "prompts": [1.0, np.nan] * 4}, "missing label"),
        ({"losses": GOOD, "prompts": ["a", None] * 4}, "missing label"),
        ({"losses": GOOD, "prompts": [1] * 8}, "one prompt"),
        ({"losses": GOOD, "prompts": range(8)}, "one response"),
        ({"losses": [0.1] * 8, "prompts": [1, 2] * 4}, "all losses are equal"),
        ({"losses": [0.1, 0.7] * 4, "prompts": [1, 2] * 4}, "same loss"),
        ({"losses": GOOD * 1e200, "prompts": [1, 2] * 4}, "too large"),
        ({"losses": GOOD, "prompts": [1, 2] * 4, "method": "mle"}, "anova, ml, reml"),
        ({"losses": GOOD, "prompts": [1, 2] * 4, "confidence": 95}, "between 0 and 1"),
        ({"losses": GOOD, "prompts": [1, 2] * 4, "groups": [1] * 8}, "one group"),
        ({"losses": GOOD, "prompts": [1, 2] * 4, "groups": [1, 2] * 4}, "leave the groups out"),
        ({"losses": GOOD, "prompts": [1, 2] * 4, "groups": [1, 2, 2, 2, 1, 1, 2, 2]}, "second group"),
        ({"losses": GOOD, "prompts": [1, 2] * 4, "redundancy": 2.0}, "needs groups"),
        (
            {"losses": GOOD, "prompts": [1, 2, 3, 4] * 2, "groups": [1, 1, 2, 2] * 2, "redundancy": 0.5},
            "at least 1",
        ),
    ],
)
def test_input_errors(arguments, message):
    with pytest.raises(mrt.InputError, match=message):
        mrt.estimate_components(**arguments)


@pytest.mark.parametrize("seed", range(150))
def test_degenerate_pilots(seed):
    """Tiny, tied, huge, tiny-spread and two-valued losses: a clear refusal, or limits around the estimates."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 5, rng.integers(1, 8))
    prompts = np.repeat(np.arange(counts.size), counts)
    noise = rng.standard_normal(prompts.size)
    losses = [noise, np.sign(noise), prompts, 1e8 + 1e-9 * noise, prompts + 1e-12 * noise][seed % 5]
    losses = losses * 10.0 ** rng.integers(-170, 160) if rng.random() < 0.3 else losses
    groups = prompts // 2 if rng.random() < 0.5 else None
    try:
        pilot = mrt.estimate_components(
            losses, prompts, groups=groups, method=("anova", "ml", "reml")[seed % 3]
        )
    except mrt.InputError:
        return
    for interval in (pilot.prompt, pilot.response, pilot.group, pilot.ratio, pilot.icc):
        if interval is not None:
            assert 0 <= interval.low <= max(interval.value, 0) <= interval.high
